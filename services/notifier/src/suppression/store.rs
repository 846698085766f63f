//! SQL of what people do to the suppression list.

use super::Entry;
use crate::channel;
use crate::store::as_text;
use events::v1::Channel;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::{Masked, MerchantId};
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};

/// An entry as it is listed.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Listed {
    pub merchant: String,
    pub channel: String,
    pub subject: String,
    pub reason: String,
    pub source: String,
    #[serde(serialize_with = "as_text")]
    pub created_at: jiff_sqlx::Timestamp,
}

/// The list, newest first; only of one merchant, if one is given.
pub async fn list(db: impl PgExecutor<'_>, merchant: Option<&str>, limit: Option<i64>) -> sqlx::Result<Vec<Listed>> {
    sqlx::query_as(
        "SELECT merchant, channel, subject, reason, source, created_at FROM notifier.suppression
         WHERE $1::text IS NULL OR merchant = $1
         ORDER BY created_at DESC, merchant, channel, subject LIMIT $2",
    )
    .bind(merchant)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Adds entries, and notes who did it. What is there stays as it is. Returns how many are new.
pub async fn add(tx: &mut PgConnection, list: &[Entry], by: &str, now: Timestamp) -> sqlx::Result<u64> {
    let subjects: Vec<Masked<String>> = list.iter().map(|e| e.subject.stored()).collect();
    let done = sqlx::query(
        r#"WITH added AS (
               INSERT INTO notifier.suppression (merchant, channel, subject, reason, source, created_at)
               SELECT DISTINCT ON (merchant COLLATE "C", channel COLLATE "C", subject COLLATE "C")
                      merchant, channel, subject, reason, source, since
               FROM UNNEST($1::text[], $8::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
                    AS s (merchant, channel, subject, reason, source, since)
               ORDER BY merchant COLLATE "C", channel COLLATE "C", subject COLLATE "C"
               ON CONFLICT DO NOTHING
               RETURNING merchant, channel, subject, reason
           )
           INSERT INTO notifier.suppression_change (merchant, channel, subject, what, reason, changed_by, changed_at)
           SELECT merchant, channel, subject, 'added', reason, $6, $7 FROM added"#,
    )
    .bind(list.iter().map(|e| e.merchant.as_str()).bind_iter())
    .bind(subjects.iter().map(Masked::reveal).bind_iter())
    .bind(list.iter().map(|e| &e.reason).bind_iter())
    .bind(list.iter().map(|e| &e.source).bind_iter())
    .bind(list.iter().map(|e| e.since.unwrap_or(now).to_sqlx()).bind_iter())
    .bind(by)
    .bind(now.to_sqlx())
    .bind(list.iter().map(|e| channel::name(e.channel)).bind_iter())
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Removes an entry and notes who did it and why. Returns whether there was one.
pub async fn remove(
    tx: &mut PgConnection,
    (merchant, channel): (&MerchantId, Channel),
    subject: &Masked<String>,
    by: &str,
    reason: &str,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "WITH removed AS (
             DELETE FROM notifier.suppression WHERE merchant = $1 AND channel = $6 AND subject = $2
             RETURNING merchant, channel, subject
         )
         INSERT INTO notifier.suppression_change (merchant, channel, subject, what, reason, changed_by, changed_at)
         SELECT merchant, channel, subject, 'removed', $3, $4, $5 FROM removed",
    )
    .bind(merchant.as_str())
    .bind(subject.reveal())
    .bind(reason)
    .bind(by)
    .bind(now.to_sqlx())
    .bind(channel::name(channel))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() > 0)
}
