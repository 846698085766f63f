//! SQL of deliveries of unknown fate.

use super::{Evidence, NOT_SENT};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use kernel::MerchantId;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

/// A delivery whose fate is known now.
#[derive(Debug, FromRow)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Resolved {
    pub id: Uuid,
    pub channel: String,
    pub state: String,
    pub request: Vec<u8>,
    /// When it was handed over, or may have been.
    pub unknown_at: Option<jiff_sqlx::Timestamp>,
    pub traceparent: Option<String>,
}

/// Keeps evidence, and settles the deliveries that are unknown by it. Of contradicting ones the first counts; the others find
/// nothing unknown any more.
pub async fn resolve(tx: &mut PgConnection, list: &[Evidence], now: Timestamp) -> sqlx::Result<Vec<Resolved>> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "WITH said AS (
             SELECT s.*
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $8::text[]) WITH ORDINALITY
                  AS s (delivery, says, source, said_by, reason, merchant, n)
             JOIN notifier.delivery AS d ON d.id = s.delivery AND d.merchant = coalesce(s.merchant, d.merchant)
         ), kept AS (
             INSERT INTO notifier.evidence (delivery, says, source, said_by, reason, said_at)
             SELECT s.delivery, s.says, s.source, s.said_by, s.reason, $6
             FROM said AS s ORDER BY s.n
         ), unknown AS (
             SELECT d.id, d.settled_at, (SELECT s.says FROM said AS s WHERE s.delivery = d.id ORDER BY s.n LIMIT 1) AS says
             FROM notifier.delivery AS d
             WHERE d.id IN (SELECT delivery FROM said) AND d.state = 'unknown'
             ORDER BY d.id FOR UPDATE
         )
         UPDATE notifier.delivery AS d
         SET state = CASE u.says WHEN 'sent' THEN 'handed_off' WHEN 'not_sent' THEN 'failed' ELSE 'waiting' END,
             reason = CASE u.says WHEN 'sent' THEN 'resolved' WHEN 'not_sent' THEN $7 ELSE 'sent_again' END,
             settled_at = CASE WHEN u.says = 'send_again' THEN NULL ELSE $6 END,
             owner = NULL, tries = 0, next_attempt_at = $6
         FROM unknown AS u WHERE d.id = u.id
         RETURNING d.id, d.channel, d.state, d.request, u.settled_at AS unknown_at, d.traceparent",
    )
    .bind(list.iter().map(|e| e.delivery).bind_iter())
    .bind(list.iter().map(|e| e.says.as_str()).bind_iter())
    .bind(list.iter().map(|e| e.source).bind_iter())
    .bind(list.iter().map(|e| &e.by).bind_iter())
    .bind(list.iter().map(|e| e.reason.reveal()).bind_iter())
    .bind(now.to_sqlx())
    .bind(NOT_SENT)
    .bind(list.iter().map(|e| e.merchant.as_ref().map(MerchantId::as_str)).bind_iter())
    .fetch_all(tx)
    .await
}

/// Marks deliveries that have been unknown for so long as taken for sent. Returns how many.
pub async fn assume(db: impl PgExecutor<'_>, now: Timestamp, after: SignedDuration) -> sqlx::Result<u64> {
    let before = now.saturating_sub(after).unwrap_or(Timestamp::MIN);
    let done = sqlx::query(
        "UPDATE notifier.delivery SET assumed_at = $1
         WHERE unknown AND assumed_at IS NULL AND settled_at <= $2",
    )
    .bind(now.to_sqlx())
    .bind(before.to_sqlx())
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// How many are unknown.
pub async fn count(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM notifier.delivery WHERE unknown").fetch_one(db).await
}

/// A delivery of unknown fate, as operators see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct UnknownRow {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub channel: String,
    pub invoices: Vec<String>,
    pub reason: String,
    /// Since when.
    #[serde(serialize_with = "crate::store::as_text")]
    pub settled_at: jiff_sqlx::Timestamp,
    /// Nobody has said anything for a day.
    pub assumed_sent: bool,
    /// What is known, first to last.
    pub evidence: Vec<String>,
}

/// Deliveries of unknown fate, the longest first.
pub async fn list(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<UnknownRow>> {
    sqlx::query_as(
        "SELECT d.id, d.merchant, d.customer, d.channel, d.invoices, d.reason, d.settled_at,
                d.assumed_at IS NOT NULL AS assumed_sent,
                ARRAY(SELECT concat_ws(' ', e.source, e.said_by || ':', replace(e.says, '_', ' '))
                      FROM notifier.evidence AS e WHERE e.delivery = d.id ORDER BY e.id) AS evidence
         FROM notifier.delivery AS d WHERE d.unknown ORDER BY d.settled_at, d.id LIMIT $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await
}
