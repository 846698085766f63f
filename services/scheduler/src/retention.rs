//! What planning does not ask for any more goes: caps look back a year, ramps only forward. Cases and decisions stay.

use crate::store;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use runtime::Host;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longer than any cap looks back.
const KEEP_DAYS: i64 = 400;
/// Rows of a kind per statement.
const CHUNK: i64 = 10_000;

/// Deletes what is past retention, until `stop`: chunk by chunk while there is much, then every hour.
pub async fn run(host: Host, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let now = host.now();
        let before = now.checked_sub(SignedDuration::from_hours(24 * KEEP_DAYS)).unwrap_or(Timestamp::MIN);
        let pause = match store::trim(&host.pool, before, now.to_zoned(TimeZone::UTC).date(), CHUNK).await {
            Ok(deleted) if deleted >= CHUNK as u64 => Duration::from_millis(100),
            Ok(_) => Duration::from_secs(3_600),
            Err(error) => {
                tracing::warn!(%error, "old reminders and deferrals not deleted; trying again");
                Duration::from_secs(60)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
