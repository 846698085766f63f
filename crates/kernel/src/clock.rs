//! Time as an input. Services take a [`Clock`]; the wall clock is banned everywhere else by `clippy.toml`.
//!
//! Two kinds of time exist in dunlin. *Business time* (when is a step due, is the window open, how late was a
//! payment) always comes from the injected clock, so that a test can move it and a demo can run 90 days in two
//! minutes. *Machine time* (leases, retention, relay time-outs) comes from Postgres' `now()` or tokio's timers,
//! because those protect against real crashes and real networks.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where business time comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// How long to wait in real time until `later` has come, at most. Pollers sleep the shorter of this and
    /// their own interval.
    fn real_time_until(&self, later: Timestamp) -> Duration;

    /// What the clock will show after a real time has passed, as far as it can know.
    fn after(&self, real: Duration) -> Timestamp;
}

/// A clock that several tasks share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// In whole microseconds, as Postgres stores them: what was written compares equal to what is read.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        microseconds(Timestamp::now())
    }

    fn real_time_until(&self, later: Timestamp) -> Duration {
        to_std(later.duration_since(self.now()))
    }

    fn after(&self, real: Duration) -> Timestamp {
        self.now().saturating_add(real).unwrap_or(Timestamp::MAX)
    }
}

/// A clock that runs `rate` times as fast as the machine's, for demos and soak tests. Every process that is
/// given the same three numbers shows the same time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeLapse {
    /// The business time shown at `real_start`.
    #[schemars(with = "String")]
    pub start: Timestamp,
    /// The machine's time at which the lapse begins.
    #[schemars(with = "String")]
    pub real_start: Timestamp,
    /// Business seconds per real second.
    pub rate: f64,
    /// The business time from which on the clock runs as fast as the machine's again.
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
}

impl TimeLapse {
    /// What the clock shows so much real time after its beginning.
    fn shown_after(&self, real: SignedDuration) -> Timestamp {
        let lapse = SignedDuration::try_from_secs_f64(real.as_secs_f64() * self.rate).unwrap_or(SignedDuration::MAX);
        let shown = self.start.saturating_add(lapse).unwrap_or(Timestamp::MAX);
        match self.until {
            Some(until) if shown > until => {
                let lapsed = until.duration_since(self.start).as_secs_f64() / self.rate.max(f64::MIN_POSITIVE);
                let since = real - SignedDuration::try_from_secs_f64(lapsed).unwrap_or(SignedDuration::ZERO);
                until.saturating_add(since).unwrap_or(Timestamp::MAX)
            }
            _ => shown,
        }
    }
}

impl Clock for TimeLapse {
    fn now(&self) -> Timestamp {
        microseconds(self.shown_after(SystemClock.now().duration_since(self.real_start)))
    }

    fn real_time_until(&self, later: Timestamp) -> Duration {
        to_std(later.duration_since(self.now())).div_f64(self.rate.max(f64::MIN_POSITIVE))
    }

    fn after(&self, real: Duration) -> Timestamp {
        let since = SystemClock.now().duration_since(self.real_start);
        microseconds(self.shown_after(since.saturating_add(SignedDuration::try_from(real).unwrap_or_default())))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<watch::Sender<Timestamp>>,
}

impl ManualClock {
    /// A clock that shows `now` until it is moved.
    pub fn new(now: Timestamp) -> Self {
        Self { now: Arc::new(watch::Sender::new(now)) }
    }

    /// Moves the clock; backwards too, if a test wants to see what happens then.
    pub fn set(&self, now: Timestamp) {
        self.now.send_replace(now);
    }

    /// Moves the clock by a duration.
    pub fn advance(&self, by: SignedDuration) {
        self.now.send_modify(|now| *now = now.saturating_add(by).unwrap_or(Timestamp::MAX));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    /// Pollers look again soon: nobody but the test knows when the clock will move.
    fn real_time_until(&self, later: Timestamp) -> Duration {
        if later <= self.now() { Duration::ZERO } else { Duration::from_millis(5) }
    }

    /// It stands still, for all it knows.
    fn after(&self, _: Duration) -> Timestamp {
        self.now()
    }
}

fn microseconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(moment.as_microsecond()).unwrap_or(moment)
}

fn to_std(duration: SignedDuration) -> Duration {
    Duration::try_from(duration).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lapse_runs_at_its_rate() {
        let real_start = SystemClock.now() - SignedDuration::from_secs(10);
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let lapse = TimeLapse { start, real_start, rate: 86_400.0, until: None };
        let shown = lapse.now().duration_since(start).as_secs_f64() / 86_400.0;
        assert!((10.0..11.0).contains(&shown), "ten real seconds are about ten days, not {shown}");
        let wait = lapse.real_time_until(lapse.now() + SignedDuration::from_hours(24));
        assert!(wait <= Duration::from_secs(1), "a day passes in a second, not {wait:?}");

        let until = start + SignedDuration::from_hours(24 * 4);
        let ended = TimeLapse { until: Some(until), ..lapse };
        let since = ended.now().duration_since(until).as_secs_f64();
        assert!((6.0..7.0).contains(&since), "six of the ten seconds were real ones, not {since}");
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap());
        let shared: SharedClock = Arc::new(clock.clone());
        clock.advance(SignedDuration::from_hours(1));
        assert_eq!(shared.now().to_string(), "2026-01-01T01:00:00Z");
        assert_eq!(shared.real_time_until(shared.now()), Duration::ZERO);
    }
}
