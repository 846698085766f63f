//! All SQL about calls of merchants' systems.

use crate::store::as_text;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::time::Duration;
use uuid::Uuid;

/// A call to begin.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewCall {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub invoice: String,
    pub epoch: i32,
    pub invoice_version: i64,
    pub body: String,
    pub reason: &'static str,
    pub traceparent: Option<String>,
}

/// Begins calls. One that is there is the same case again: nothing happens.
pub async fn insert(tx: &mut PgConnection, list: &[NewCall], now: Timestamp) -> sqlx::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO notifier.webhook
             (id, merchant, customer, invoice, epoch, invoice_version, body, reason, traceparent, next_at, created_at)
         SELECT *, $10, $10
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int4[], $6::int8[], $7::text[], $8::text[],
                     $9::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|c| c.id).bind_iter())
    .bind(list.iter().map(|c| &c.merchant).bind_iter())
    .bind(list.iter().map(|c| &c.customer).bind_iter())
    .bind(list.iter().map(|c| &c.invoice).bind_iter())
    .bind(list.iter().map(|c| c.epoch).bind_iter())
    .bind(list.iter().map(|c| c.invoice_version).bind_iter())
    .bind(list.iter().map(|c| &c.body).bind_iter())
    .bind(list.iter().map(|c| c.reason).bind_iter())
    .bind(list.iter().map(|c| c.traceparent.as_ref()).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// A call that was claimed.
#[derive(Debug, Clone, FromRow)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Claimed {
    pub id: Uuid,
    pub merchant: String,
    pub invoice: String,
    pub epoch: i32,
    pub invoice_version: i64,
    pub body: String,
    pub attempts: i32,
    pub tries: i32,
    pub traceparent: Option<String>,
}

/// Claims up to `limit` calls whose time has come, oldest first: none of busy merchants, and none that another process is
/// claiming or holds.
pub async fn claim(
    tx: &mut PgConnection,
    busy: &[String],
    limit: i64,
    lease: Duration,
    now: Timestamp,
) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query_as(
        "WITH due AS (
             SELECT id FROM notifier.webhook
             WHERE state = 'pending' AND next_at <= $2 AND merchant <> ALL($1)
               AND (leased_until IS NULL OR leased_until < now())
             ORDER BY next_at, id
             LIMIT $3
             FOR UPDATE SKIP LOCKED
         )
         UPDATE notifier.webhook AS w
         SET leased_until = now() + make_interval(secs => $4), attempts = w.attempts + 1
         FROM due WHERE w.id = due.id
         RETURNING w.id, w.merchant, w.invoice, w.epoch, w.invoice_version, w.body, w.attempts, w.tries, w.traceparent",
    )
    .bind(busy)
    .bind(now.to_sqlx())
    .bind(limit)
    .bind(lease.as_secs_f64())
    .fetch_all(tx)
    .await
}

/// How a claimed call goes on.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Settled<'a> {
    pub id: Uuid,
    pub attempts: i32,
    pub state: &'static str,
    /// If it is pending.
    pub next_at: Timestamp,
    pub reason: &'a str,
    /// If it was called in vain.
    pub error: Option<&'a str>,
}

/// Ends a call, or puts it back. Only in the attempt that was claimed; what somebody else has claimed since stays.
pub async fn settle(db: impl PgExecutor<'_>, settled: &Settled<'_>, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE notifier.webhook
         SET state = $3, next_at = $4, reason = $5, leased_until = NULL,
             tries = tries + ($6::text IS NOT NULL)::int, last_error = coalesce($6, last_error),
             settled_at = CASE WHEN $3 = 'pending' THEN NULL ELSE $7 END
         WHERE id = $1 AND attempts = $2 AND state = 'pending'",
    )
    .bind(settled.id)
    .bind(settled.attempts)
    .bind(settled.state)
    .bind(settled.next_at.to_sqlx())
    .bind(settled.reason)
    .bind(settled.error)
    .bind(now.to_sqlx())
    .execute(db)
    .await
    .map(drop)
}

/// Lets calls go out at once that waited for a configuration of these merchants.
pub async fn release(db: impl PgExecutor<'_>, merchants: &[&str], now: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE notifier.webhook SET next_at = $2
         WHERE state = 'pending' AND reason = 'no_webhook' AND merchant = ANY($1) AND next_at > $2",
    )
    .bind(merchants)
    .bind(now.to_sqlx())
    .execute(db)
    .await
    .map(drop)
}

/// How many calls are pending, and since when the oldest is.
pub async fn backlog(db: impl PgExecutor<'_>) -> sqlx::Result<(i64, Option<Timestamp>)> {
    let (pending, oldest): (i64, Option<jiff_sqlx::Timestamp>) =
        sqlx::query_as("SELECT count(*), min(created_at) FROM notifier.webhook WHERE state = 'pending'")
            .fetch_one(db)
            .await?;
    Ok((pending, oldest.map(|at| at.to_jiff())))
}

/// Empties up to `limit` bodies past retention that nobody needs any more. Returns how many.
pub async fn trim_bodies(db: impl PgExecutor<'_>, keep_days: i32, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "UPDATE notifier.webhook SET body = '' WHERE id IN (
             SELECT id FROM notifier.webhook
             WHERE state IN ('delivered', 'cancelled') AND body <> '' AND stored_at < now() - make_interval(days => $1)
             LIMIT $2)",
    )
    .bind(keep_days)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// A call as operators see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct CallRow {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub invoice: String,
    pub epoch: i32,
    pub state: String,
    pub tries: i32,
    pub reason: String,
    pub last_error: String,
    #[serde(serialize_with = "as_text")]
    pub next_at: jiff_sqlx::Timestamp,
}

/// Failed and waiting calls, newest first.
pub async fn list(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<CallRow>> {
    sqlx::query_as(
        "SELECT id, merchant, customer, invoice, epoch, state, tries, reason, last_error, next_at
         FROM notifier.webhook WHERE state IN ('pending', 'failed') ORDER BY created_at DESC, id DESC LIMIT $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Has a call tried now, or all that failed; one that had failed begins its schedule anew. Returns how many.
pub async fn retry(db: impl PgExecutor<'_>, id: Option<Uuid>, now: Timestamp) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "UPDATE notifier.webhook
         SET next_at = $2, settled_at = NULL, state = 'pending',
             tries = CASE WHEN state = 'failed' THEN 0 ELSE tries END,
             reason = CASE WHEN state = 'failed' THEN '' ELSE reason END
         WHERE state = 'failed' AND ($1::uuid IS NULL OR id = $1) OR state = 'pending' AND id = $1",
    )
    .bind(id)
    .bind(now.to_sqlx())
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
