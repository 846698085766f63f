//! The loop that fires timers.

use crate::config::Config;
use crate::flow;
use crate::operations;
use crate::rules::Rules;
use crate::store;
use bus::Failure;
use events::topology::SCHEDULER_TIMERS;
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use runtime::Host;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Timers per transaction.
pub const BATCH: i64 = 500;

/// Fires due timers until `stop`: at once as long as there are any, then at every tick.
pub async fn run(config: Config, rules: Rules, host: Host, stop: CancellationToken) {
    let tick = Duration::from_millis(config.tick_milliseconds.into());
    let metrics = Metrics::new();
    let mut round = 0_i32;
    while !stop.is_cancelled() {
        round = round.wrapping_add(1);
        let pause = match fire(&rules, &host, round, &metrics).await {
            Ok(0) => tick,
            // The gauges matter most while there is a backlog.
            Ok(_) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "timers not fired; trying again");
                Duration::from_secs(1)
            }
        };
        metrics.look(&host, round).await;
        if pause.is_zero() {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One transaction of due timers; returns how many there were.
async fn fire(rules: &Rules, host: &Host, round: i32, metrics: &Metrics) -> Result<usize, Failure> {
    let mut work = host.bus.begin(&SCHEDULER_TIMERS).await?;
    // A stride that shares no factor with 64 visits all shards, from another one in every round.
    let start = round.wrapping_mul(23).rem_euclid(64);
    let fired = flow::fire(rules, &mut work, host.now(), start, BATCH).await?;
    if fired.timers > 0 {
        work.commit().await?;
        metrics.fired(&fired);
    }
    Ok(fired.timers)
}

struct Metrics {
    fired: Counter<u64>,
    lateness: Histogram<f64>,
    due: Gauge<i64>,
    oldest: Gauge<f64>,
    waiting_for_person: Gauge<i64>,
}

impl Metrics {
    fn new() -> Self {
        let meter = opentelemetry::global::meter("dunlin");
        Self {
            fired: meter.u64_counter("dunlin.timer.fired").build(),
            lateness: meter.f64_histogram("dunlin.timer.lateness").with_unit("s").build(),
            due: meter.i64_gauge("dunlin.timer.due").build(),
            oldest: meter.f64_gauge("dunlin.timer.oldest_due_age").with_unit("s").build(),
            waiting_for_person: meter.i64_gauge("dunlin.hold.waiting_for_person").build(),
        }
    }

    fn fired(&self, fired: &flow::Fired) {
        self.fired.add(fired.timers as u64, &[]);
        for late in &fired.lateness {
            self.lateness.record(late.as_secs_f64(), &[]);
        }
    }

    /// Looks at what is due now and then: when the loop works well, nothing is.
    async fn look(&self, host: &Host, round: i32) {
        const EVERY: i32 = 50;
        if round % EVERY != 0 {
            return;
        }
        let now = host.now();
        if let Ok((due, oldest)) = store::due_backlog(&host.pool, now).await {
            self.due.record(due, &[]);
            self.oldest.record(oldest.map_or(0.0, |at| now.duration_since(at).as_secs_f64()), &[]);
        }
        if let Ok(waiting) = operations::store::waiting_for_person(&host.pool).await {
            self.waiting_for_person.record(waiting, &[]);
        }
    }
}
