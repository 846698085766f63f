//! Messages are personal, those that come back too: they go after 30 days. So do the bodies of webhooks that nobody needs any more.

use crate::{document, inbound, store, webhook};
use sqlx::PgPool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long rendered messages, documents and the bodies of webhooks are kept.
const KEEP_DAYS: i32 = 30;
/// Rows per statement.
const CHUNK: i64 = 1_000;

/// Deletes what is past retention, until `stop`: chunk by chunk while there is much, then every hour.
pub async fn run(pool: PgPool, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match trim(&pool).await {
            Ok(most) if most == CHUNK as u64 => continue,
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

/// One chunk of each. Returns the size of the larger one.
async fn trim(pool: &PgPool) -> sqlx::Result<u64> {
    let messages = store::trim_messages(pool, KEEP_DAYS, CHUNK).await?;
    let documents = document::store::trim(pool, KEEP_DAYS, CHUNK).await?;
    let inbound = inbound::store::trim(pool, KEEP_DAYS, CHUNK).await?;
    let bodies = webhook::store::trim_bodies(pool, KEEP_DAYS, CHUNK).await?;
    Ok(messages.max(documents).max(inbound).max(bodies))
}
