//! Gauges of the bus tables: how far the outbox is behind, and what waits for an operator.

use crate::store::{self, Backlog};
use events::Service;
use opentelemetry::KeyValue;
use sqlx::PgPool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the tables are looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the gauges fresh until `stop`.
pub async fn run(service: Service, pool: PgPool, stop: CancellationToken) {
    let meter = opentelemetry::global::meter("dunlin");
    let labels = [KeyValue::new("service", service.name())];
    let depth = meter.i64_gauge("dunlin.outbox.depth").build();
    let oldest = meter.f64_gauge("dunlin.outbox.oldest_age").with_unit("s").build();
    let letters = meter.i64_gauge("dunlin.dead_letter.depth").build();
    let letter_age = meter.f64_gauge("dunlin.dead_letter.oldest_age").with_unit("s").build();
    loop {
        // An outage shows as a gauge that stands still, and on the readiness page; it needs no log line here.
        if let Ok(Backlog { outbox_depth, outbox_oldest_seconds, dead_letters, dead_letter_oldest_seconds }) =
            store::backlog(&pool).await
        {
            depth.record(outbox_depth, &labels);
            oldest.record(outbox_oldest_seconds, &labels);
            letters.record(dead_letters, &labels);
            letter_age.record(dead_letter_oldest_seconds, &labels);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
