//! SQL of channels beside email, and of deliveries that go from one to the next.

use crate::channel;
use crate::flow::{Ticket, Verdict};
use crate::store::Claimed;
use events::v1::Channel;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::MerchantId;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::HashSet;
use uuid::Uuid;

/// A delivery that goes on by another channel.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Move {
    pub delivery: Uuid,
    pub attempts: i32,
    pub to: &'static str,
    pub reason: String,
    pub status_code: String,
}

impl Move {
    /// From where it is now, to `next`, instead of ending so.
    pub fn new(ticket: &Ticket, verdict: &Verdict, next: Channel) -> Self {
        let (reason, status_code) = match verdict {
            Verdict::Failed { reason, status_code, .. } => ((*reason).to_owned(), status_code.clone()),
            Verdict::Suppressed(reason) => (reason.clone(), String::new()),
            other => (other.name().to_owned(), String::new()),
        };
        Self { delivery: ticket.id, attempts: ticket.attempts, to: channel::name(next), reason, status_code }
    }
}

/// Claims up to `limit` deliveries of a channel other than email whose time has come, oldest first, skipping those another
/// process is claiming. A process without a lease gets none: others could not tell that it lives. None of the merchants in
/// `away`.
pub async fn claim(
    tx: &mut PgConnection,
    owner: Uuid,
    channel: &str,
    away: &[String],
    now: Timestamp,
    limit: i64,
) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query_as(
        "WITH due AS (
             SELECT id FROM notifier.delivery
             WHERE open AND state = 'waiting' AND channel <> 'email' AND channel = $4 AND next_attempt_at <= $2
               AND merchant <> ALL($5)
               AND EXISTS (SELECT FROM notifier.sender WHERE owner = $1 AND alive_until > now())
             ORDER BY next_attempt_at, id
             LIMIT $3
             FOR UPDATE SKIP LOCKED
         )
         UPDATE notifier.delivery AS d SET state = 'claimed', owner = $1, attempts = d.attempts + 1, held_since = now()
         FROM due WHERE d.id = due.id
         RETURNING d.id, d.merchant, d.customer, d.channel, d.attempts, d.tries, d.reason, d.request, d.traceparent",
    )
    .bind(owner)
    .bind(now.to_sqlx())
    .bind(limit)
    .bind(channel)
    .bind(away)
    .fetch_all(tx)
    .await
}

/// Has deliveries go on by another channel, from now on. Only what this process holds, in this attempt; returns these.
pub async fn move_on(tx: &mut PgConnection, owner: Uuid, list: &[Move], now: Timestamp) -> sqlx::Result<HashSet<Uuid>> {
    if list.is_empty() {
        return Ok(HashSet::new());
    }
    let moved: Vec<Uuid> = sqlx::query_scalar(
        "WITH wanted AS (
             SELECT n.*, d.channel AS from_channel
             FROM UNNEST($2::uuid[], $3::int4[], $4::text[], $5::text[], $6::text[])
                  AS n (id, attempts, to_channel, reason, status_code)
             JOIN notifier.delivery AS d USING (id)
             WHERE d.owner = $1 AND d.attempts = n.attempts AND d.state IN ('claimed', 'imminent')
             FOR UPDATE OF d
         ), moved AS (
             UPDATE notifier.delivery AS d
             SET channel = w.to_channel, state = 'waiting', owner = NULL, next_attempt_at = $7, tries = 0, reason = '',
                 status_code = ''
             FROM wanted AS w WHERE d.id = w.id
         )
         INSERT INTO notifier.move (delivery, from_channel, to_channel, reason, status_code, moved_at)
         SELECT id, from_channel, to_channel, reason, status_code, $7 FROM wanted
         RETURNING delivery",
    )
    .bind(owner)
    .bind(list.iter().map(|m| m.delivery).bind_iter())
    .bind(list.iter().map(|m| m.attempts).bind_iter())
    .bind(list.iter().map(|m| m.to).bind_iter())
    .bind(list.iter().map(|m| &m.reason).bind_iter())
    .bind(list.iter().map(|m| &m.status_code).bind_iter())
    .bind(now.to_sqlx())
    .fetch_all(tx)
    .await?;
    Ok(moved.into_iter().collect())
}

/// A merchant's system that said that nobody listens there any more.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Disabled {
    pub merchant: String,
    /// Where it listened.
    pub url: String,
    /// What led to it.
    pub source: String,
    #[serde(serialize_with = "crate::store::as_text")]
    pub created_at: jiff_sqlx::Timestamp,
}

/// Merchants' systems that are not called any more.
pub async fn disabled(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Disabled>> {
    sqlx::query_as(
        "SELECT merchant, substr(subject, length('address:') + 1) AS url, source, created_at
         FROM notifier.suppression WHERE channel = 'webhook' AND reason = 'gone' ORDER BY created_at, merchant",
    )
    .fetch_all(db)
    .await
}

/// Has a merchant's system called again. Returns whether it was not.
pub async fn enable(db: impl PgExecutor<'_>, merchant: &MerchantId) -> sqlx::Result<bool> {
    let done =
        sqlx::query("DELETE FROM notifier.suppression WHERE merchant = $1 AND channel = 'webhook' AND reason = 'gone'")
            .bind(merchant.as_str())
            .execute(db)
            .await?;
    Ok(done.rows_affected() > 0)
}
