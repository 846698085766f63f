//! SQL of erasing a person's data.

use crate::kept::Kept;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::Masked;
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The addresses that a customer was written to, and the number, as far as they are known here.
pub async fn recipients(tx: &mut PgConnection, merchant: &str, customer: &str) -> sqlx::Result<Vec<Masked<String>>> {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT m.recipient FROM notifier.message AS m JOIN notifier.delivery AS d ON d.id = m.delivery
         WHERE d.merchant = $1 AND d.customer = $2
         UNION SELECT number FROM notifier.customer WHERE merchant = $1 AND customer = $2 AND number <> ''",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(Masked::new).collect())
}

/// The addresses on a merchant's suppression list, past and present.
pub async fn listed_addresses(tx: &mut PgConnection, merchant: &str) -> sqlx::Result<Vec<Masked<String>>> {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT substr(subject, 9) FROM notifier.suppression WHERE merchant = $1 AND subject LIKE 'address:%'
         UNION SELECT substr(subject, 9) FROM notifier.suppression_change WHERE merchant = $1 AND subject LIKE 'address:%'",
    )
    .bind(merchant)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(Masked::new).collect())
}

/// Takes addresses off the list and out of its history. Returns how many entries went.
pub async fn unlist(tx: &mut PgConnection, merchant: &str, addresses: &[Masked<String>]) -> sqlx::Result<u64> {
    let subjects: Vec<String> = addresses.iter().map(|a| format!("address:{}", a.reveal())).collect();
    sqlx::query("UPDATE notifier.suppression_change SET subject = 'erased', reason = '' WHERE merchant = $1 AND subject = ANY($2)")
        .bind(merchant)
        .bind(&subjects)
        .execute(&mut *tx)
        .await?;
    let done = sqlx::query("DELETE FROM notifier.suppression WHERE merchant = $1 AND subject = ANY($2)")
        .bind(merchant)
        .bind(&subjects)
        .execute(tx)
        .await?;
    Ok(done.rows_affected())
}

/// Deletes what was written to a customer and what came back, as it was written; that it was stays.
pub async fn erase_messages(
    tx: &mut PgConnection,
    merchant: &str,
    customer: &str,
) -> sqlx::Result<BTreeMap<&'static str, u64>> {
    let messages = sqlx::query(
        "DELETE FROM notifier.message WHERE delivery IN (
             SELECT id FROM notifier.delivery WHERE merchant = $1 AND customer = $2)",
    )
    .bind(merchant)
    .bind(customer)
    .execute(&mut *tx)
    .await?;
    // A mail server's words may name the address.
    sqlx::query(
        "UPDATE notifier.delivery SET accepted_as = '' WHERE merchant = $1 AND customer = $2 AND accepted_as <> ''",
    )
    .bind(merchant)
    .bind(customer)
    .execute(&mut *tx)
    .await?;
    let documents = sqlx::query(
        "DELETE FROM notifier.document AS d USING notifier.balance AS b
         WHERE b.merchant = $1 AND b.customer = $2 AND d.merchant = b.merchant AND d.invoice = b.invoice",
    )
    .bind(merchant)
    .bind(customer)
    .execute(&mut *tx)
    .await?;
    // People write names into notes.
    let notes = sqlx::query("UPDATE notifier.task SET note = '' WHERE merchant = $1 AND customer = $2 AND note <> ''")
        .bind(merchant)
        .bind(customer)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE notifier.evidence SET reason = '' WHERE reason <> '' AND delivery IN (
             SELECT id FROM notifier.delivery WHERE merchant = $1 AND customer = $2)",
    )
    .bind(merchant)
    .bind(customer)
    .execute(&mut *tx)
    .await?;
    let inbound = sqlx::query(
        "UPDATE notifier.inbound SET raw = '', sender = '' WHERE merchant = $1 AND customer = $2 AND raw <> ''",
    )
    .bind(merchant)
    .bind(customer)
    .execute(tx)
    .await?;
    Ok(BTreeMap::from([
        ("messages", messages.rows_affected()),
        ("documents", documents.rows_affected()),
        ("call_notes", notes.rows_affected()),
        ("came_back", inbound.rows_affected()),
    ]))
}

/// Keeps a customer, and whoever has one of these addresses, from being written to.
pub async fn suppress_erased(
    tx: &mut PgConnection,
    merchant: &str,
    customer: &str,
    hashes: &[String],
    now: Timestamp,
) -> sqlx::Result<()> {
    let subjects = hashes.iter().map(|hash| format!("hash:{hash}")).chain([format!("customer:{customer}")]);
    sqlx::query(
        "INSERT INTO notifier.suppression (merchant, channel, subject, reason, source, created_at)
         SELECT $1, channel, subject, 'erased', 'erasure', $3
         FROM UNNEST($2::text[]) AS subject, UNNEST('{email,sms,webhook,task}'::text[]) AS channel
         ORDER BY channel, subject
         ON CONFLICT DO NOTHING",
    )
    .bind(merchant)
    .bind(subjects.collect::<Vec<_>>())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// Keeps what was erased here.
pub async fn note(
    tx: &mut PgConnection,
    merchant: &str,
    customer: &str,
    counts: &BTreeMap<&'static str, u64>,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO notifier.erasure (merchant, customer, counts, erased_at) VALUES ($1, $2, $3, $4)")
        .bind(merchant)
        .bind(customer)
        .bind(Json(counts))
        .bind(now.to_sqlx())
        .execute(tx)
        .await
        .map(drop)
}

/// The latest erasure of a customer here: its number, and what went.
pub async fn latest(
    db: impl PgExecutor<'_>,
    merchant: &str,
    customer: &str,
) -> sqlx::Result<Option<(i64, serde_json::Value)>> {
    sqlx::query_as(
        "SELECT id, counts FROM notifier.erasure WHERE merchant = $1 AND customer = $2 ORDER BY id DESC LIMIT 1",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_optional(db)
    .await
}

/// Everything that the notifier keeps of a customer, as JSON.
pub async fn personal_data(db: &PgPool, merchant: &str, customer: &str) -> sqlx::Result<serde_json::Value> {
    let mut data: serde_json::Value = sqlx::query_scalar(
        "WITH mine AS (SELECT * FROM notifier.delivery WHERE merchant = $1 AND customer = $2)
         SELECT jsonb_build_object(
             'customer', (SELECT jsonb_agg(to_jsonb(c)) FROM notifier.customer AS c WHERE c.merchant = $1 AND c.customer = $2),
             'balances', (SELECT jsonb_agg(to_jsonb(b)) FROM notifier.balance AS b WHERE b.merchant = $1 AND b.customer = $2),
             'reminders', (SELECT jsonb_agg(to_jsonb(d) - 'request' ORDER BY d.created_at) FROM mine AS d),
             'came_back', (SELECT jsonb_agg(to_jsonb(i) || jsonb_build_object('raw', encode(i.raw, 'base64')) ORDER BY i.received_at)
                           FROM notifier.inbound AS i WHERE i.merchant = $1 AND i.customer = $2),
             'suppressions', (SELECT jsonb_agg(to_jsonb(s)) FROM notifier.suppression AS s
                              WHERE s.merchant = $1
                                AND (s.subject = 'customer:' || $2
                                     OR s.subject IN (SELECT 'address:' || lower(m.recipient) FROM notifier.message AS m
                                                      WHERE m.delivery IN (SELECT id FROM mine)))))",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_one(db)
    .await?;
    type Row = (Uuid, String, jiff_sqlx::Timestamp, Vec<u8>, Option<Vec<u8>>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT m.delivery, m.recipient, m.rendered_at, m.raw, p.text
         FROM notifier.message AS m LEFT JOIN notifier.pattern AS p ON p.id = m.pattern
         WHERE m.delivery IN (SELECT id FROM notifier.delivery WHERE merchant = $1 AND customer = $2)
         ORDER BY m.rendered_at, m.delivery",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_all(db)
    .await?;
    let message = |(delivery, recipient, rendered_at, stored, pattern): Row| {
        let raw = Kept::open(&stored, pattern.as_deref());
        let raw = raw.map_or_else(|| STANDARD.encode(&stored), |raw| STANDARD.encode(raw.reveal()));
        json!({ "delivery": delivery, "recipient": recipient, "rendered_at": rendered_at.to_jiff(), "raw": raw })
    };
    if let Some(data) = data.as_object_mut() {
        data.insert("messages".to_owned(), rows.into_iter().map(message).collect());
    }
    Ok(data)
}
