//! Gauges of the bus: how far the outbox and the consumers are behind, and what waits for an operator.

use crate::Bus;
use crate::store::{self, Backlog};
use async_nats::jetstream::consumer::pull;
use events::topology::FLOWS;
use opentelemetry::KeyValue;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the tables are looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the gauges fresh until `stop`.
pub async fn run(bus: Bus, stop: CancellationToken) {
    let meter = opentelemetry::global::meter("dunlin");
    let labels = [KeyValue::new("service", bus.service.name())];
    let depth = meter.i64_gauge("dunlin.outbox.depth").build();
    let oldest = meter.f64_gauge("dunlin.outbox.oldest_age").with_unit("s").build();
    let letters = meter.i64_gauge("dunlin.dead_letter.depth").build();
    let letter_age = meter.f64_gauge("dunlin.dead_letter.oldest_age").with_unit("s").build();
    let pending = meter.u64_gauge("dunlin.consumer.pending").build();
    let ack_pending = meter.u64_gauge("dunlin.consumer.ack_pending").build();
    let sources = || {
        FLOWS
            .iter()
            .filter(|f| f.service == bus.service)
            .flat_map(|f| f.sources().into_iter().map(move |s| (f.name, s.0)))
    };
    loop {
        // An outage shows as a gauge that stands still, and on the readiness page; it needs no log line here.
        if let Ok(Backlog { outbox_depth, outbox_oldest_seconds, dead_letters, dead_letter_oldest_seconds }) =
            store::backlog(&bus.pool).await
        {
            depth.record(outbox_depth, &labels);
            oldest.record(outbox_oldest_seconds, &labels);
            letters.record(dead_letters, &labels);
            letter_age.record(dead_letter_oldest_seconds, &labels);
        }
        for (durable, producer) in sources().filter(|_| bus.is_connected()) {
            if let Ok(mut consumer) =
                bus.js.get_consumer_from_stream::<pull::Config, _, _>(durable, producer.stream()).await
                && let Ok(info) = consumer.info().await
            {
                let labels = [KeyValue::new("consumer", durable), KeyValue::new("stream", producer.stream())];
                pending.record(info.num_pending, &labels);
                ack_pending.record(info.num_ack_pending as u64, &labels);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
