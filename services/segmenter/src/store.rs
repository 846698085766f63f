//! All SQL of the segmenter. Every function takes the transaction. Invoices are locked before payers, both in key order.

use crate::domain::Contribution;
use kernel::{CustomerId, InvoiceId, MerchantId, Segment};
use payer::History;
use sqlx::PgConnection;
use sqlx::postgres::PgBindIterExt;
use std::collections::BTreeMap;

/// An invoice of a merchant.
pub type InvoiceKey = (MerchantId, InvoiceId);
/// A customer of a merchant.
pub type PayerKey = (MerchantId, CustomerId);

/// Locks what invoices contribute so far.
pub async fn lock_contributions(
    tx: &mut PgConnection,
    keys: &[&InvoiceKey],
) -> sqlx::Result<BTreeMap<InvoiceKey, Contribution>> {
    let rows: Vec<(String, String, i64, String, i32, i32)> = sqlx::query_as(
        // Byte order, whatever the database's collation: the order in which rows are written.
        r#"SELECT i.merchant, i.invoice, i.version, i.customer, i.settled, i.late
           FROM segmenter.invoice AS i JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, invoice)
                ON wanted.merchant = i.merchant AND wanted.invoice = i.invoice
           ORDER BY i.merchant COLLATE "C", i.invoice COLLATE "C" FOR UPDATE OF i"#,
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|(merchant, invoice, version, customer, settled, late)| {
            let (merchant, invoice): InvoiceKey = (id(&merchant)?, id(&invoice)?);
            let contribution = Contribution {
                merchant: merchant.clone(),
                invoice: invoice.clone(),
                version,
                customer: id(&customer)?,
                history: History { settled, late },
            };
            Ok(((merchant, invoice), contribution))
        })
        .collect()
}

/// Writes contributions of invoices that are locked.
pub async fn update_contributions(tx: &mut PgConnection, rows: &[Contribution]) -> sqlx::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE segmenter.invoice AS i
         SET version = n.version, customer = n.customer, settled = n.settled, late = n.late
         FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::int4[], $6::int4[])
              AS n (merchant, invoice, version, customer, settled, late)
         WHERE i.merchant = n.merchant AND i.invoice = n.invoice",
    )
    .bind(rows.iter().map(|c| c.merchant.as_str()).bind_iter())
    .bind(rows.iter().map(|c| c.invoice.as_str()).bind_iter())
    .bind(rows.iter().map(|c| c.version).bind_iter())
    .bind(rows.iter().map(|c| c.customer.as_str()).bind_iter())
    .bind(rows.iter().map(|c| c.history.settled).bind_iter())
    .bind(rows.iter().map(|c| c.history.late).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Writes contributions of invoices that were not there. Returns whether that is still so: if not, another replica was
/// faster with one of them, and the transaction must be done again.
pub async fn insert_contributions(tx: &mut PgConnection, rows: &[Contribution]) -> sqlx::Result<bool> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(
        "INSERT INTO segmenter.invoice (merchant, invoice, version, customer, settled, late)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::int4[], $6::int4[])
         ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|c| c.merchant.as_str()).bind_iter())
    .bind(rows.iter().map(|c| c.invoice.as_str()).bind_iter())
    .bind(rows.iter().map(|c| c.version).bind_iter())
    .bind(rows.iter().map(|c| c.customer.as_str()).bind_iter())
    .bind(rows.iter().map(|c| c.history.settled).bind_iter())
    .bind(rows.iter().map(|c| c.history.late).bind_iter())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

/// A customer's history after it changed.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Payer {
    pub key: PayerKey,
    pub version: i64,
    pub history: History,
    pub told: Segment,
}

/// Adds to histories, and locks them; returns what they are then, each with the segment as told last.
pub async fn add_to_histories(
    tx: &mut PgConnection,
    changes: &BTreeMap<PayerKey, History>,
) -> sqlx::Result<Vec<Payer>> {
    let rows: Vec<(String, String, i64, i32, i32, String)> = sqlx::query_as(
        "INSERT INTO segmenter.payer AS p (merchant, customer, version, settled, late, segment)
         SELECT merchant, customer, 0, settled, late, $5
         FROM UNNEST($1::text[], $2::text[], $3::int4[], $4::int4[]) AS n (merchant, customer, settled, late)
         ON CONFLICT (merchant, customer) DO UPDATE
         SET settled = p.settled + EXCLUDED.settled, late = p.late + EXCLUDED.late
         RETURNING merchant, customer, version, settled, late, segment",
    )
    .bind(changes.keys().map(|k| k.0.as_str()).bind_iter())
    .bind(changes.keys().map(|k| k.1.as_str()).bind_iter())
    .bind(changes.values().map(|h| h.settled).bind_iter())
    .bind(changes.values().map(|h| h.late).bind_iter())
    .bind(Segment::New.as_str())
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|(merchant, customer, version, settled, late, segment)| {
            Ok(Payer {
                key: (id(&merchant)?, id(&customer)?),
                version,
                history: History { settled, late },
                told: Segment::parse(&segment)
                    .ok_or_else(|| sqlx::Error::Decode(format!("segmenter.payer.segment: {segment:?}").into()))?,
            })
        })
        .collect()
}

/// Notes the segments that are being told.
pub async fn note_segments(tx: &mut PgConnection, told: &[(PayerKey, i64, Segment)]) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE segmenter.payer AS p SET version = n.version, segment = n.segment
         FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[]) AS n (merchant, customer, version, segment)
         WHERE p.merchant = n.merchant AND p.customer = n.customer",
    )
    .bind(told.iter().map(|(k, ..)| k.0.as_str()).bind_iter())
    .bind(told.iter().map(|(k, ..)| k.1.as_str()).bind_iter())
    .bind(told.iter().map(|(_, version, _)| *version).bind_iter())
    .bind(told.iter().map(|(.., segment)| segment.as_str()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

fn id<T: std::str::FromStr<Err = kernel::id::IdError>>(text: &str) -> sqlx::Result<T> {
    text.parse().map_err(|e| sqlx::Error::Decode(format!("segmenter: stored id {text:?} {e}").into()))
}
