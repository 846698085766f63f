//! Retention: what the bus's tables keep, and for how long.

use crate::store;
use sqlx::PgPool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long events can be replayed: as long as the broker keeps them.
pub const OUTBOX_DAYS: i32 = 14;
/// How long an event is remembered as dealt with: stream age + replay horizon = 28 days, and a margin.
pub const INBOX_DAYS: i32 = 30;

/// How often retention runs. Any replica may: the work is idempotent.
const INTERVAL: Duration = Duration::from_secs(3600);
/// When it is tried again after a failure. Making and dropping partitions waits only briefly for its lock, since every
/// commit of the service would queue behind it.
const AGAIN: Duration = Duration::from_secs(60);

/// Keeps retention until `stop`. A failure is logged and tried again; partitions are made days ahead.
pub async fn run(pool: PgPool, stop: CancellationToken) {
    loop {
        let pause = match once(&pool).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "retention of the bus tables failed; trying again in a minute");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One run of retention.
pub async fn once(pool: &PgPool) -> sqlx::Result<()> {
    /// Small deletes: no long transaction, no long lock.
    const CHUNK: i64 = 5_000;
    store::maintain_outbox(pool, OUTBOX_DAYS).await?;
    while store::trim_inbox(pool, INBOX_DAYS, CHUNK).await? == CHUNK as u64 {}
    Ok(())
}
