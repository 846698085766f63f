//! SQL about mail that comes back.

use crate::store::as_text;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::Masked;
use runtime::story::StoryLine;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// A message that came back.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewInbound<'a> {
    pub id: Uuid,
    pub class: &'static str,
    pub status: String,
    pub feedback: &'a str,
    pub sender: &'a Masked<String>,
    pub raw: &'a [u8],
}

/// Keeps messages; returns those that were not there.
pub async fn insert(tx: &mut PgConnection, list: &[NewInbound<'_>], now: Timestamp) -> sqlx::Result<HashSet<Uuid>> {
    let new: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO notifier.inbound (id, class, status, feedback, sender, raw, received_at)
         SELECT id, class, status, feedback, sender, raw, $7
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[])
              AS i (id, class, status, feedback, sender, raw)
         ORDER BY id
         ON CONFLICT DO NOTHING
         RETURNING id",
    )
    .bind(list.iter().map(|i| i.id).bind_iter())
    .bind(list.iter().map(|i| i.class).bind_iter())
    .bind(list.iter().map(|i| &i.status).bind_iter())
    .bind(list.iter().map(|i| i.feedback).bind_iter())
    .bind(list.iter().map(|i| i.sender.reveal()).bind_iter())
    .bind(list.iter().map(|i| i.raw).bind_iter())
    .bind(now.to_sqlx())
    .fetch_all(tx)
    .await?;
    Ok(new.into_iter().collect())
}

/// What a message turned out to be about, and what followed.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Match {
    pub id: Uuid,
    pub matched: &'static str,
    pub delivery: Uuid,
    pub merchant: String,
    pub customer: String,
    pub effect: &'static str,
}

/// Notes what messages are about.
pub async fn note_matches(tx: &mut PgConnection, list: &[Match]) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE notifier.inbound AS i
         SET matched = m.matched, delivery = m.delivery, merchant = m.merchant, customer = m.customer, effect = m.effect
         FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[])
              AS m (id, matched, delivery, merchant, customer, effect)
         WHERE i.id = m.id",
    )
    .bind(list.iter().map(|m| m.id).bind_iter())
    .bind(list.iter().map(|m| m.matched).bind_iter())
    .bind(list.iter().map(|m| m.delivery).bind_iter())
    .bind(list.iter().map(|m| &m.merchant).bind_iter())
    .bind(list.iter().map(|m| &m.customer).bind_iter())
    .bind(list.iter().map(|m| m.effect).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// The delivery that a message is about.
#[derive(Debug, Clone, FromRow)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct Returned {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub channel: String,
    pub state: String,
    pub request: Vec<u8>,
    pub traceparent: Option<String>,
    #[sqlx(try_from = "String")]
    pub recipient: Masked<String>,
}

/// Deliveries by their ids, with the address each was written to (empty once its message is gone).
pub async fn deliveries(tx: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<HashMap<Uuid, Returned>> {
    let rows: Vec<Returned> = sqlx::query_as(
        "SELECT d.id, d.merchant, d.customer, d.channel, d.state, d.request, d.traceparent, coalesce(m.recipient, '') AS recipient
         FROM notifier.delivery AS d LEFT JOIN notifier.message AS m ON m.delivery = d.id
         WHERE d.id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

/// The latest text message to a number of a merchant's customer, while it is kept.
pub async fn texted(tx: &mut PgConnection, merchant: &str, number: &Masked<String>) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "SELECT d.id FROM notifier.customer AS c
         JOIN notifier.delivery AS d ON d.merchant = c.merchant AND d.customer = c.customer
         JOIN notifier.message AS m ON m.delivery = d.id
         WHERE c.merchant = $1 AND c.number <> '' AND c.number = $2 AND d.channel = 'sms' AND m.recipient = $2
         ORDER BY m.rendered_at DESC, d.id DESC LIMIT 1",
    )
    .bind(merchant)
    .bind(number.reveal())
    .fetch_optional(tx)
    .await
}

/// What reports have already said about deliveries: (delivery, class).
pub async fn told(tx: &mut PgConnection, deliveries: &[Uuid]) -> sqlx::Result<HashSet<(Uuid, String)>> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT DISTINCT delivery, class FROM notifier.inbound WHERE delivery = ANY($1) AND matched = 'authentic'",
    )
    .bind(deliveries)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().collect())
}

/// How many soft bounces of mail customers had since a moment, each reminder counted once.
pub async fn soft_bounces(
    tx: &mut PgConnection,
    customers: &[(String, String)],
    since: Timestamp,
) -> sqlx::Result<BTreeMap<(String, String), i64>> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT i.merchant, i.customer, count(DISTINCT i.delivery)
         FROM notifier.inbound AS i JOIN notifier.delivery AS d ON d.id = i.delivery AND d.channel = 'email'
         WHERE i.matched = 'authentic' AND i.class = 'soft_bounce' AND i.received_at >= $3
           AND (i.merchant, i.customer) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))
         GROUP BY i.merchant, i.customer",
    )
    .bind(customers.iter().map(|c| &c.0).bind_iter())
    .bind(customers.iter().map(|c| &c.1).bind_iter())
    .bind(since.to_sqlx())
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|(merchant, customer, count)| ((merchant, customer), count)).collect())
}

/// Forgets up to `limit` messages past retention; that they came stays. Returns how many.
pub async fn trim(db: impl PgExecutor<'_>, keep_days: i32, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "UPDATE notifier.inbound SET raw = '', sender = '' WHERE id IN (
             SELECT id FROM notifier.inbound
             WHERE raw <> '' AND stored_at < now() - make_interval(days => $1) LIMIT $2)",
    )
    .bind(keep_days)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// A message that came back, as operators see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct InboundRow {
    pub id: Uuid,
    #[serde(serialize_with = "as_text")]
    pub received_at: jiff_sqlx::Timestamp,
    pub class: String,
    pub status: String,
    pub feedback: String,
    pub matched: String,
    pub effect: String,
    pub merchant: Option<String>,
    pub customer: Option<String>,
    pub delivery: Option<Uuid>,
}

/// What came back, newest first; only what had no effect for want of proof, if asked for; only of one class, if one is given.
pub async fn list(
    db: impl PgExecutor<'_>,
    unmatched: bool,
    class: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<InboundRow>> {
    sqlx::query_as(
        "SELECT id, received_at, class, status, feedback, matched, effect, merchant, customer, delivery
         FROM notifier.inbound
         WHERE (NOT $1 OR matched <> 'authentic') AND ($2::text IS NULL OR class = $2)
         ORDER BY received_at DESC, id DESC LIMIT $3",
    )
    .bind(unmatched)
    .bind(class)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// A message that came back, whole: empty once it is past retention.
pub async fn find(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Masked<Vec<u8>>>> {
    let raw: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT raw FROM notifier.inbound WHERE id = $1").bind(id).fetch_optional(db).await?;
    Ok(raw.map(Masked::new))
}

/// How a story tells of a payer's answer; the line's id is that of the message.
pub const ANSWERED: &str = "payer answered";

/// What came back of the reminders about an invoice, and the ids of what people wrote.
pub async fn story(db: impl PgExecutor<'_>, merchant: &str, invoice: &str) -> sqlx::Result<Vec<StoryLine>> {
    let rows: Vec<(jiff_sqlx::Timestamp, String, String, String, String, Uuid)> = sqlx::query_as(
        "SELECT i.received_at, i.class, i.matched, i.effect, concat_ws(' ', nullif(i.status, ''), nullif(i.feedback, '')), i.id
         FROM notifier.inbound AS i JOIN notifier.delivery AS d ON d.id = i.delivery
         WHERE d.merchant = $1 AND d.invoices @> ARRAY[$2]
         ORDER BY i.received_at",
    )
    .bind(merchant)
    .bind(invoice)
    .fetch_all(db)
    .await?;
    let line =
        |(at, class, matched, effect, code, id): (jiff_sqlx::Timestamp, String, String, String, String, Uuid)| {
            let what = match class.as_str() {
                "reply" => ANSWERED.to_owned(),
                "auto_reply" => "a machine answered".to_owned(),
                class => format!("came back: {}", class.replace('_', " ")),
            };
            let proof = if matched == "authentic" { "" } else { "unproven, without effect" };
            let effect = if effect == "none" { "" } else { &effect };
            let detail = [code.as_str(), effect, proof].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
            StoryLine {
                at: at.to_jiff(),
                by: "notifier",
                what,
                detail: detail.join(", "),
                id: Some(id.to_string()),
                trace_id: None,
            }
        };
    Ok(rows.into_iter().map(line).collect())
}
