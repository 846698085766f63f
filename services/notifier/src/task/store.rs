//! SQL of the call list.

use crate::store::InvoiceKey;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use kernel::Masked;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

/// A task to begin.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewTask {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub lines: Vec<(String, i32)>,
    pub currency: String,
    pub step: String,
    pub call_from: Timestamp,
    pub call_until: Timestamp,
    pub traceparent: Option<String>,
}

/// Begins tasks. One that is there is the same reminder again: nothing happens.
pub async fn insert(tx: &mut PgConnection, list: &[NewTask], now: Timestamp) -> sqlx::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let epochs = |t: &NewTask| t.lines.iter().map(|(_, epoch)| epoch.to_string()).collect::<Vec<_>>().join("\n");
    let invoices = |t: &NewTask| t.lines.iter().map(|(invoice, _)| invoice.as_str()).collect::<Vec<_>>().join("\n");
    sqlx::query(
        "INSERT INTO notifier.task
             (id, merchant, customer, invoices, epochs, currency, step, reason, call_from, call_until, created_at, traceparent)
         SELECT t.id, t.merchant, t.customer, string_to_array(t.invoices, E'\\n'),
                string_to_array(t.epochs, E'\\n')::int4[], t.currency, t.step,
                coalesce((SELECT m.from_channel || ': ' || m.reason FROM notifier.move AS m
                          WHERE m.delivery = t.id ORDER BY m.moved_at DESC, m.from_channel LIMIT 1), 'step'),
                t.call_from, t.call_until, $11, t.traceparent
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::timestamptz[], $10::text[])
              AS t (id, merchant, customer, invoices, epochs, currency, step, call_from, call_until, traceparent)
         ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|t| t.id).bind_iter())
    .bind(list.iter().map(|t| &t.merchant).bind_iter())
    .bind(list.iter().map(|t| &t.customer).bind_iter())
    .bind(list.iter().map(invoices).bind_iter())
    .bind(list.iter().map(epochs).bind_iter())
    .bind(list.iter().map(|t| &t.currency).bind_iter())
    .bind(list.iter().map(|t| &t.step).bind_iter())
    .bind(list.iter().map(|t| t.call_from.to_sqlx()).bind_iter())
    .bind(list.iter().map(|t| t.call_until.to_sqlx()).bind_iter())
    .bind(list.iter().map(|t| t.traceparent.as_ref()).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// Closes the tasks about these invoices of which nothing is owed any more. Their balances are locked.
pub async fn close_settled(tx: &mut PgConnection, invoices: &[&InvoiceKey], now: Timestamp) -> sqlx::Result<()> {
    if invoices.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE notifier.task AS t SET outcome = 'settled', closed_at = $3
         WHERE t.closed_at IS NULL
           AND (t.merchant, t.customer) IN (
               SELECT b.merchant, b.customer
               FROM UNNEST($1::text[], $2::text[]) AS n (merchant, invoice) JOIN notifier.balance AS b USING (merchant, invoice))
           AND NOT EXISTS (
               SELECT FROM UNNEST(t.invoices, t.epochs) AS line (invoice, epoch)
               JOIN notifier.balance AS b ON b.merchant = t.merchant AND b.invoice = line.invoice AND b.epoch = line.epoch
               WHERE b.status = 'open')",
    )
    .bind(invoices.iter().map(|key| key.0.as_str()).bind_iter())
    .bind(invoices.iter().map(|key| key.1.as_str()).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// A task as people see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct TaskRow {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    /// Whom to ask for. Personal.
    pub name: String,
    /// Personal; empty if none is known.
    pub phone: String,
    /// Personal; empty if none is known.
    pub email: String,
    pub invoices: Vec<String>,
    /// Of each invoice, as printed on it.
    pub numbers: Vec<String>,
    pub currency: String,
    /// Owed now, in minor units.
    pub open_minor: i64,
    pub step: String,
    pub reason: String,
    #[serde(serialize_with = "crate::store::as_text")]
    pub call_from: jiff_sqlx::Timestamp,
    #[serde(serialize_with = "crate::store::as_text")]
    pub call_until: jiff_sqlx::Timestamp,
    pub outcome: String,
    pub closed_by: String,
    pub note: String,
}

/// Tasks, the oldest first: the open ones, or all. What is owed and whom to call is as of now.
pub async fn list(
    db: impl PgExecutor<'_>,
    merchant: Option<&str>,
    all: bool,
    limit: i64,
) -> sqlx::Result<Vec<TaskRow>> {
    sqlx::query_as(
        "SELECT t.id, t.merchant, t.customer, t.invoices, t.currency, t.step, t.reason, t.call_from, t.call_until, t.outcome,
                t.closed_by, t.note,
                coalesce(nullif(c.name, ''), owed.name, '') AS name, coalesce(c.phone, '') AS phone,
                coalesce(nullif(c.email, ''), owed.email, '') AS email,
                coalesce(owed.numbers, '{}') AS numbers, coalesce(owed.open_minor, 0) AS open_minor
         FROM notifier.task AS t
         LEFT JOIN notifier.customer AS c USING (merchant, customer)
         LEFT JOIN LATERAL (
             SELECT max(b.bill_to_name) AS name, max(b.bill_to_email) AS email, array_agg(b.number ORDER BY line.n) AS numbers,
                    coalesce(sum(b.open_minor) FILTER (WHERE b.status = 'open' AND b.epoch = line.epoch), 0)::int8
                        AS open_minor
             FROM UNNEST(t.invoices, t.epochs) WITH ORDINALITY AS line (invoice, epoch, n)
             JOIN notifier.balance AS b ON b.merchant = t.merchant AND b.invoice = line.invoice
         ) AS owed ON true
         WHERE ($1::text IS NULL OR t.merchant = $1) AND ($2 OR t.closed_at IS NULL)
         ORDER BY t.call_from, t.id LIMIT $3",
    )
    .bind(merchant)
    .bind(all)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// A task that somebody wants to close.
#[derive(Debug, FromRow)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Found {
    pub merchant: String,
    pub customer: String,
    pub invoices: Vec<String>,
    pub epochs: Vec<i32>,
    pub outcome: String,
    pub traceparent: Option<String>,
}

/// Finds a task and locks it.
pub async fn lock(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Found>> {
    sqlx::query_as(
        "SELECT merchant, customer, invoices, epochs, outcome, traceparent FROM notifier.task WHERE id = $1 FOR UPDATE",
    )
    .bind(id)
    .fetch_optional(tx)
    .await
}

/// How a task ended.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Closed<'a> {
    pub outcome: &'a str,
    pub until: Option<Date>,
    pub note: &'a Masked<String>,
    pub by: &'a str,
}

/// Closes a task that is locked.
pub async fn close(tx: &mut PgConnection, id: Uuid, closed: &Closed<'_>, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE notifier.task SET outcome = $2, until = $3, note = $4, closed_by = $5, closed_at = $6 WHERE id = $1",
    )
    .bind(id)
    .bind(closed.outcome)
    .bind(closed.until.map(ToSqlx::to_sqlx))
    .bind(closed.note.reveal())
    .bind(closed.by)
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}
