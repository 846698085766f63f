//! Messages are personal: they go after 30 days.

use crate::store;
use sqlx::PgPool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long rendered messages are kept.
const KEEP_DAYS: i32 = 30;
/// Messages per statement.
const CHUNK: i64 = 1_000;

/// Deletes messages past retention, until `stop`: chunk by chunk while there are many, then every hour.
pub async fn run(pool: PgPool, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match store::trim_messages(&pool, KEEP_DAYS, CHUNK).await {
            Ok(deleted) if deleted == CHUNK as u64 => continue,
            Ok(_) => Duration::from_secs(3_600),
            Err(error) => {
                tracing::warn!(%error, "old messages not deleted; trying again");
                Duration::from_secs(60)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
