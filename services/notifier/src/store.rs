//! All SQL of the notifier. Every function takes the transaction. Balances are always locked in key order.

use crate::config::Limits;
use crate::domain::{Balance, Balances};
use crate::kept::{Kept, Pattern};
use events::{Customer, Invoice, InvoiceStatus};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::{CustomerId, InvoiceId, Masked, MerchantId};
use runtime::story::StoryLine;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A customer of a merchant.
pub type CustomerKey = (MerchantId, CustomerId);
/// An invoice of a merchant.
pub type InvoiceKey = (MerchantId, InvoiceId);

/// Writes balances that are newer than what is known. Waits for a final dot that is being written about one of them, and
/// makes every later one see it.
pub async fn upsert_balances(tx: &mut PgConnection, invoices: &BTreeMap<InvoiceKey, Invoice>) -> sqlx::Result<()> {
    let invoices = || invoices.values();
    sqlx::query(
        "INSERT INTO notifier.balance AS b
             (merchant, invoice, customer, version, epoch, status, disputed, currency, open_minor, number, due_on,
              failed_attempts, pay_url, bill_to_name, bill_to_email, pending_since, total_minor, document_url)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int8[], $5::int4[], $6::text[], $7::bool[],
              $8::text[], $9::int8[], $10::text[], $11::date[], $12::int4[], $13::text[], $14::text[], $15::text[],
              $16::timestamptz[], $17::int8[], $18::text[])
         ON CONFLICT (merchant, invoice) DO UPDATE
         SET customer = EXCLUDED.customer, version = EXCLUDED.version, epoch = EXCLUDED.epoch,
             status = EXCLUDED.status, disputed = EXCLUDED.disputed, currency = EXCLUDED.currency,
             open_minor = EXCLUDED.open_minor, number = EXCLUDED.number, due_on = EXCLUDED.due_on,
             failed_attempts = EXCLUDED.failed_attempts, pay_url = EXCLUDED.pay_url,
             bill_to_name = EXCLUDED.bill_to_name, bill_to_email = EXCLUDED.bill_to_email,
             pending_since = EXCLUDED.pending_since, total_minor = EXCLUDED.total_minor,
             document_url = EXCLUDED.document_url
         WHERE b.version < EXCLUDED.version",
    )
    .bind(invoices().map(|i| i.merchant.as_str()).bind_iter())
    .bind(invoices().map(|i| i.invoice.as_str()).bind_iter())
    .bind(invoices().map(|i| i.customer.as_str()).bind_iter())
    .bind(invoices().map(|i| i.version).bind_iter())
    .bind(invoices().map(|i| i.epoch).bind_iter())
    .bind(invoices().map(|i| i.status.as_str()).bind_iter())
    .bind(invoices().map(|i| i.disputed).bind_iter())
    .bind(invoices().map(|i| i.currency.to_string()).bind_iter())
    .bind(invoices().map(|i| i.open_minor).bind_iter())
    .bind(invoices().map(|i| &i.number).bind_iter())
    .bind(invoices().map(|i| i.due_on.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices().map(|i| i.failed_attempts).bind_iter())
    .bind(invoices().map(|i| i.pay_url.reveal()).bind_iter())
    .bind(invoices().map(|i| i.bill_to_name.reveal()).bind_iter())
    .bind(invoices().map(|i| i.bill_to_email.reveal()).bind_iter())
    .bind(invoices().map(|i| i.pending_since.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices().map(|i| i.total_minor).bind_iter())
    .bind(invoices().map(|i| i.document_url.reveal()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Writes customers that are newer than what is known.
pub async fn upsert_customers(tx: &mut PgConnection, customers: &BTreeMap<CustomerKey, Customer>) -> sqlx::Result<()> {
    let customers = || customers.values();
    sqlx::query(
        "INSERT INTO notifier.customer AS c (merchant, customer, version, name, email, locale, deleted, phone, number)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::text[],
              $9::text[])
         ON CONFLICT (merchant, customer) DO UPDATE
         SET version = EXCLUDED.version, name = EXCLUDED.name, email = EXCLUDED.email, locale = EXCLUDED.locale,
             deleted = EXCLUDED.deleted, phone = EXCLUDED.phone, number = EXCLUDED.number
         WHERE c.version < EXCLUDED.version",
    )
    .bind(customers().map(|c| c.merchant.as_str()).bind_iter())
    .bind(customers().map(|c| c.customer.as_str()).bind_iter())
    .bind(customers().map(|c| c.version).bind_iter())
    .bind(customers().map(|c| c.name.reveal()).bind_iter())
    .bind(customers().map(|c| c.email.reveal()).bind_iter())
    .bind(customers().map(|c| &c.locale).bind_iter())
    .bind(customers().map(|c| c.deleted).bind_iter())
    .bind(customers().map(|c| c.phone.reveal()).bind_iter())
    .bind(customers().map(|c| kernel::phone::normalize(c.phone.reveal()).unwrap_or_default()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Somebody who must not be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// Whose reminders.
    pub merchant: MerchantId,
    /// By which way; see [`crate::channel::name`].
    pub channel: &'static str,
    /// See [`by_customer`] and [`by_address`].
    pub subject: Masked<String>,
    /// `unsubscribed` or `bad_address`.
    pub reason: &'static str,
    /// The event or delivery that led to it.
    pub source: String,
}

/// The subject of a suppression that follows the person, whatever the address.
pub fn by_customer(customer: &str) -> Masked<String> {
    Masked::new(format!("customer:{customer}"))
}

/// The subject of a suppression of an address, whoever has it.
pub fn by_address(address: &str) -> Masked<String> {
    Masked::new(format!("address:{}", address.trim().to_lowercase()))
}

/// Adds suppressions; one that is there stays as it is.
pub async fn suppress(tx: &mut PgConnection, list: &[Suppression], now: Timestamp) -> sqlx::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    sqlx::query(
        r#"INSERT INTO notifier.suppression (merchant, channel, subject, reason, source, created_at)
           SELECT merchant, channel, subject, reason, source, $6
           FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                AS s (merchant, channel, subject, reason, source)
           ORDER BY merchant COLLATE "C", channel COLLATE "C", subject COLLATE "C"
           ON CONFLICT DO NOTHING"#,
    )
    .bind(list.iter().map(|s| s.merchant.as_str()).bind_iter())
    .bind(list.iter().map(|s| s.channel).bind_iter())
    .bind(list.iter().map(|s| s.subject.reveal()).bind_iter())
    .bind(list.iter().map(|s| s.reason).bind_iter())
    .bind(list.iter().map(|s| &s.source).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// A delivery to begin.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewDelivery {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub channel: &'static str,
    pub request: Vec<u8>,
    pub invoices: Vec<String>,
    pub due_at: Timestamp,
    pub traceparent: Option<String>,
}

/// Begins deliveries. One that is there is the same reminder again: nothing happens.
pub async fn insert_deliveries(tx: &mut PgConnection, list: &[NewDelivery], now: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO notifier.delivery
             (id, merchant, customer, channel, request, invoices, next_attempt_at, traceparent, created_at)
         SELECT id, merchant, customer, channel, request, string_to_array(invoices, E'\\n'), due_at, traceparent, $9
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[], $8::text[])
              AS d (id, merchant, customer, channel, request, invoices, due_at, traceparent)
         ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|d| d.id).bind_iter())
    .bind(list.iter().map(|d| &d.merchant).bind_iter())
    .bind(list.iter().map(|d| &d.customer).bind_iter())
    .bind(list.iter().map(|d| d.channel).bind_iter())
    .bind(list.iter().map(|d| &d.request[..]).bind_iter())
    // Ids contain no line breaks; arrays of arrays would have to be rectangular.
    .bind(list.iter().map(|d| d.invoices.join("\n")).bind_iter())
    .bind(list.iter().map(|d| d.due_at.to_sqlx()).bind_iter())
    .bind(list.iter().map(|d| d.traceparent.as_ref()).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// A delivery that was claimed.
#[derive(Debug, Clone, FromRow)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Claimed {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub channel: String,
    pub attempts: i32,
    pub tries: i32,
    pub reason: String,
    pub request: Vec<u8>,
    pub traceparent: Option<String>,
}

/// The merchants with mail whose time has come: a probe of the index for each that has some waiting.
pub async fn due_merchants(db: impl PgExecutor<'_>, now: Timestamp) -> sqlx::Result<Vec<MerchantId>> {
    // Not EXISTS, which the planner may turn into a join with all that is open.
    let names: Vec<String> = sqlx::query_scalar(
        "WITH RECURSIVE active AS (
             (SELECT merchant FROM notifier.delivery WHERE open AND channel = 'email' ORDER BY merchant LIMIT 1)
             UNION ALL
             SELECT (SELECT d.merchant FROM notifier.delivery AS d
                     WHERE d.open AND d.channel = 'email' AND d.merchant > w.merchant ORDER BY d.merchant LIMIT 1)
             FROM active AS w WHERE w.merchant IS NOT NULL
         )
         SELECT merchant FROM active AS w
         WHERE (SELECT true FROM notifier.delivery AS d
                WHERE d.open AND d.state = 'waiting' AND d.channel = 'email' AND d.merchant = w.merchant
                  AND d.next_attempt_at <= $1
                LIMIT 1)",
    )
    .bind(now.to_sqlx())
    .fetch_all(db)
    .await?;
    Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
}

/// Claims mail whose time has come, at most so much of each merchant, oldest first, skipping those another process is
/// claiming. A process without a lease gets none: others could not tell that it lives.
pub async fn claim(
    tx: &mut PgConnection,
    owner: Uuid,
    shares: &[(MerchantId, i64)],
    now: Timestamp,
) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query_as(
        "WITH due AS (
             SELECT d.id FROM UNNEST($3::text[], $4::int8[]) AS s (merchant, share)
             CROSS JOIN LATERAL (
                 SELECT id FROM notifier.delivery
                 WHERE open AND state = 'waiting' AND channel = 'email' AND merchant = s.merchant
                   AND next_attempt_at <= $2
                 ORDER BY next_attempt_at, id
                 LIMIT s.share
                 FOR UPDATE SKIP LOCKED
             ) AS d
             WHERE EXISTS (SELECT FROM notifier.sender WHERE owner = $1 AND alive_until > now())
         )
         UPDATE notifier.delivery AS d SET state = 'claimed', owner = $1, attempts = d.attempts + 1, held_since = now()
         FROM due WHERE d.id = due.id
         RETURNING d.id, d.merchant, d.customer, d.channel, d.attempts, d.tries, d.reason, d.request, d.traceparent",
    )
    .bind(owner)
    .bind(now.to_sqlx())
    .bind(shares.iter().map(|(merchant, _)| merchant.as_str()).bind_iter())
    .bind(shares.iter().map(|(_, share)| *share).bind_iter())
    .fetch_all(tx)
    .await
}

/// What became of a sending domain's mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Sending {
    pub sent: i64,
    pub bounced: i64,
    pub complained: i64,
}

/// Counts what became of mail, by sending domain; opens the breaker of those of which too much bounced or was complained about.
pub async fn count_sending(
    tx: &mut PgConnection,
    counts: &BTreeMap<String, Sending>,
    limits: &Limits,
    now: Timestamp,
) -> sqlx::Result<()> {
    /// Fewer say nothing about a rate.
    const FEWEST: [i64; 2] = [5, 3];
    if counts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        r#"INSERT INTO notifier.sending AS s (domain, hour, sent, bounced, complained)
           SELECT domain, date_trunc('hour', $5::timestamptz, 'UTC'), sent, bounced, complained
           FROM UNNEST($1::text[], $2::int8[], $3::int8[], $4::int8[]) AS n (domain, sent, bounced, complained)
           ORDER BY domain COLLATE "C"
           ON CONFLICT (domain, hour) DO UPDATE
           SET sent = s.sent + EXCLUDED.sent, bounced = s.bounced + EXCLUDED.bounced,
               complained = s.complained + EXCLUDED.complained"#,
    )
    .bind(counts.keys().bind_iter())
    .bind(counts.values().map(|c| c.sent).bind_iter())
    .bind(counts.values().map(|c| c.bounced).bind_iter())
    .bind(counts.values().map(|c| c.complained).bind_iter())
    .bind(now.to_sqlx())
    .execute(&mut *tx)
    .await?;
    let unwelcome: Vec<&String> =
        counts.iter().filter(|(_, c)| c.bounced + c.complained > 0).map(|(domain, _)| domain).collect();
    if unwelcome.is_empty() {
        return Ok(());
    }
    let opened: Vec<(String, String)> = sqlx::query_as(
        "INSERT INTO notifier.breaker AS b (domain, reason, opened_at)
         SELECT w.domain, format('%s bounced and %s complained about of %s sent in 7 days', w.bounced, w.complained, w.sent), $2
         FROM (
             SELECT s.domain, sum(s.sent) AS sent, sum(s.bounced) AS bounced, sum(s.complained) AS complained
             FROM notifier.sending AS s LEFT JOIN notifier.breaker AS o USING (domain)
             WHERE s.domain = ANY($1) AND s.hour > greatest($2 - interval '7 days', o.closed_at)
             GROUP BY s.domain
         ) AS w
         WHERE (w.bounced >= $3 AND w.bounced * 100 >= $4 * w.sent)
            OR (w.complained >= $5 AND w.complained * 100 >= $6 * w.sent)
         ON CONFLICT (domain) DO UPDATE
         SET reason = EXCLUDED.reason, opened_at = EXCLUDED.opened_at, closed_at = NULL, closed_by = ''
         WHERE b.closed_at IS NOT NULL
         RETURNING domain, reason",
    )
    .bind(unwelcome)
    .bind(now.to_sqlx())
    .bind(FEWEST[0])
    .bind(limits.bounce_percent)
    .bind(FEWEST[1])
    .bind(limits.complaint_percent)
    .fetch_all(tx)
    .await?;
    for (domain, reason) in opened {
        tracing::error!(
            domain,
            reason,
            "circuit breaker open: nothing is sent from this domain until somebody closes it"
        );
    }
    Ok(())
}

/// A sending domain that is kept from sending, or was.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Breaker {
    pub domain: String,
    pub reason: String,
    #[serde(serialize_with = "as_text")]
    pub opened_at: jiff_sqlx::Timestamp,
}

/// The breakers that are open.
pub async fn open_breakers(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Breaker>> {
    sqlx::query_as("SELECT domain, reason, opened_at FROM notifier.breaker WHERE closed_at IS NULL ORDER BY domain")
        .fetch_all(db)
        .await
}

/// Closes a breaker; counting begins anew. Returns whether it was open.
pub async fn close_breaker(db: impl PgExecutor<'_>, domain: &str, by: &str, now: Timestamp) -> sqlx::Result<bool> {
    let closed = sqlx::query(
        "UPDATE notifier.breaker SET closed_at = $3, closed_by = $2 WHERE domain = lower($1) AND closed_at IS NULL",
    )
    .bind(domain)
    .bind(by)
    .bind(now.to_sqlx())
    .execute(db)
    .await?;
    Ok(closed.rows_affected() == 1)
}

/// Notes on up to `limit` deliveries of merchants why they wait although their time has come.
pub async fn note_held(
    db: impl PgExecutor<'_>,
    merchants: &[MerchantId],
    reason: &str,
    now: Timestamp,
    limit: i64,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE notifier.delivery SET reason = $2
         WHERE id IN (
             SELECT id FROM notifier.delivery
             WHERE open AND state = 'waiting' AND channel = 'email' AND next_attempt_at <= $3 AND merchant = ANY($1)
               AND reason <> $2
             LIMIT $4
             FOR UPDATE SKIP LOCKED)",
    )
    .bind(merchants.iter().map(MerchantId::as_str).bind_iter())
    .bind(reason)
    .bind(now.to_sqlx())
    .bind(limit)
    .execute(db)
    .await
    .map(drop)
}

#[derive(FromRow)]
struct BalanceRow {
    merchant: String,
    invoice: String,
    version: i64,
    epoch: i32,
    status: String,
    disputed: bool,
    pending_since: Option<jiff_sqlx::Timestamp>,
    currency: String,
    total_minor: i64,
    open_minor: i64,
    number: String,
    due_on: Option<jiff_sqlx::Date>,
    failed_attempts: i32,
    pay_url: String,
    document_url: String,
    bill_to_name: String,
    bill_to_email: String,
}

/// What is owed on invoices.
pub async fn load_balances(tx: &mut PgConnection, keys: &[&InvoiceKey]) -> sqlx::Result<Balances> {
    if keys.is_empty() {
        return Ok(Balances::new());
    }
    let rows: Vec<BalanceRow> = sqlx::query_as(
        "SELECT merchant, invoice, version, epoch, status, disputed, pending_since, currency, total_minor, open_minor,
                number, due_on, failed_attempts, pay_url, document_url, bill_to_name, bill_to_email
         FROM notifier.balance WHERE (merchant, invoice) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))",
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(BalanceRow::into_balance).collect()
}

/// Locks what is owed on invoices: no payment can be recorded for them until the transaction ends. Returns those whose version
/// is another than the one with which they come, and those that are not there. Nothing but [`upsert_balances`] changes a balance,
/// and that never without raising its version.
pub async fn lock_balances<'a>(
    tx: &mut PgConnection,
    seen: &BTreeMap<&'a InvoiceKey, i64>,
) -> sqlx::Result<BTreeSet<&'a InvoiceKey>> {
    let same: Vec<(i64, bool)> = sqlx::query_as(
        // Byte order, whatever the database's collation: the order in which balances are written.
        r#"SELECT k.n, b.version = k.version
           FROM UNNEST($1::text[], $2::text[], $3::int8[]) WITH ORDINALITY AS k (merchant, invoice, version, n)
           JOIN notifier.balance AS b ON b.merchant = k.merchant AND b.invoice = k.invoice
           ORDER BY b.merchant COLLATE "C", b.invoice COLLATE "C" FOR UPDATE OF b"#,
    )
    .bind(seen.keys().map(|k| k.0.as_str()).bind_iter())
    .bind(seen.keys().map(|k| k.1.as_str()).bind_iter())
    .bind(seen.values().copied().bind_iter())
    .fetch_all(tx)
    .await?;
    let same: HashSet<i64> = same.into_iter().filter(|(_, same)| *same).map(|(n, _)| n).collect();
    Ok(seen.keys().zip(1..).filter(|(_, n)| !same.contains(n)).map(|(key, _)| *key).collect())
}

impl BalanceRow {
    fn into_balance(self) -> sqlx::Result<(InvoiceKey, Balance)> {
        let key = (stored("merchant", self.merchant.parse().ok())?, stored("invoice", self.invoice.parse().ok())?);
        let balance = Balance {
            version: self.version,
            epoch: self.epoch,
            status: stored("status", InvoiceStatus::parse(&self.status))?,
            disputed: self.disputed,
            pending_since: self.pending_since.map(|t| t.to_jiff()),
            currency: stored("currency", self.currency.parse().ok())?,
            total_minor: self.total_minor,
            open_minor: self.open_minor,
            number: self.number,
            due_on: self.due_on.map(|d| d.to_jiff()),
            failed_attempts: self.failed_attempts,
            pay_url: Masked::new(self.pay_url),
            document_url: Masked::new(self.document_url),
            bill_to_name: Masked::new(self.bill_to_name),
            bill_to_email: Masked::new(self.bill_to_email),
        };
        Ok((key, balance))
    }
}

fn stored<T>(column: &str, value: Option<T>) -> sqlx::Result<T> {
    value.ok_or_else(|| sqlx::Error::Decode(format!("notifier.balance.{column}: the stored value is not valid").into()))
}

/// Whom to write to.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Contact {
    pub name: Masked<String>,
    pub email: Masked<String>,
    pub phone: Masked<String>,
    pub locale: String,
    pub deleted: bool,
}

/// Whom to write to, as far as customers are known.
pub async fn load_contacts(
    tx: &mut PgConnection,
    keys: &[(String, String)],
) -> sqlx::Result<BTreeMap<(String, String), Contact>> {
    type Row = (String, String, String, String, String, String, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT merchant, customer, name, email, phone, locale, deleted FROM notifier.customer
         WHERE (merchant, customer) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))",
    )
    .bind(keys.iter().map(|k| &k.0).bind_iter())
    .bind(keys.iter().map(|k| &k.1).bind_iter())
    .fetch_all(tx)
    .await?;
    let contact = |(merchant, customer, name, email, phone, locale, deleted): Row| {
        let (name, email, phone) = (Masked::new(name), Masked::new(email), Masked::new(phone));
        ((merchant, customer), Contact { name, email, phone, locale, deleted })
    };
    Ok(rows.into_iter().map(contact).collect())
}

/// Which of these must not be written to by a channel: (merchant, subject) with the reason.
pub async fn suppressed(
    tx: &mut PgConnection,
    channel: &str,
    subjects: &[(&str, &Masked<String>)],
) -> sqlx::Result<BTreeMap<(String, String), String>> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT merchant, subject, reason FROM notifier.suppression
         WHERE channel = $3 AND (merchant, subject) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))",
    )
    .bind(subjects.iter().map(|s| s.0).bind_iter())
    .bind(subjects.iter().map(|s| s.1.reveal()).bind_iter())
    .bind(channel)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|(m, s, r)| ((m, s), r)).collect())
}

/// A message about to be handed over.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct Imminent<'a> {
    pub delivery: Uuid,
    pub attempts: i32,
    pub recipient: &'a str,
    pub message: &'a Kept,
}

/// Marks deliveries whose final dot may be written next, and keeps what they say. Returns those that were still ours: a
/// process without a lease has none. From then on nobody takes them over for [`MARGIN`]. Modelled in `tests/model.rs`.
pub async fn mark_imminent(
    tx: &mut PgConnection,
    owner: Uuid,
    list: &[Imminent<'_>],
    now: Timestamp,
) -> sqlx::Result<HashSet<Uuid>> {
    let marked: Vec<Uuid> = sqlx::query_scalar(
        "WITH marked AS (
             UPDATE notifier.delivery AS d SET state = 'imminent', held_since = now()
             FROM UNNEST($2::uuid[], $3::int4[]) AS n (id, attempts)
             WHERE d.id = n.id AND d.owner = $1 AND d.attempts = n.attempts AND d.state = 'claimed'
               AND EXISTS (SELECT FROM notifier.sender WHERE owner = $1 AND alive_until > now())
             RETURNING d.id
         ), kept AS (
             INSERT INTO notifier.message (delivery, recipient, raw, pattern, rendered_at)
             SELECT m.id, m.recipient, m.raw, m.pattern, $6
             FROM UNNEST($2::uuid[], $4::text[], $5::bytea[], $7::uuid[]) AS m (id, recipient, raw, pattern)
             JOIN marked USING (id)
             ON CONFLICT (delivery) DO UPDATE
             SET recipient = EXCLUDED.recipient, raw = EXCLUDED.raw, pattern = EXCLUDED.pattern,
                 rendered_at = EXCLUDED.rendered_at
         )
         SELECT id FROM marked",
    )
    .bind(owner)
    .bind(list.iter().map(|i| i.delivery).bind_iter())
    .bind(list.iter().map(|i| i.attempts).bind_iter())
    .bind(list.iter().map(|i| i.recipient).bind_iter())
    .bind(list.iter().map(|i| i.message.stored()).bind_iter())
    .bind(now.to_sqlx())
    .bind(list.iter().map(|i| i.message.pattern().map(|pattern| pattern.id())).bind_iter())
    .fetch_all(tx)
    .await?;
    Ok(marked.into_iter().collect())
}

/// Keeps what messages that come are compressed against. One that is there stays.
pub async fn keep_patterns(db: impl PgExecutor<'_>, patterns: &BTreeMap<Uuid, Arc<Pattern>>) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO notifier.pattern (id, text) SELECT * FROM UNNEST($1::uuid[], $2::bytea[]) AS p (id, text)
         ON CONFLICT DO NOTHING",
    )
    .bind(patterns.keys().copied().bind_iter())
    .bind(patterns.values().map(|p| p.text().as_bytes()).bind_iter())
    .execute(db)
    .await
    .map(drop)
}

/// Forgets messages that were ready and then not sent: nobody has seen them, and whom they were for may be erased by now. Not
/// those of which somebody has said what became of an earlier copy.
pub async fn forget_messages(tx: &mut PgConnection, deliveries: &[Uuid]) -> sqlx::Result<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM notifier.message AS m WHERE m.delivery = ANY($1)
           AND NOT EXISTS (SELECT FROM notifier.evidence AS e WHERE e.delivery = m.delivery)",
    )
    .bind(deliveries)
    .execute(tx)
    .await
    .map(drop)
}

/// Puts deliveries back, to be claimed from a moment on. Only what this process holds, in this attempt.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct PutBack {
    pub delivery: Uuid,
    pub attempts: i32,
    pub next_attempt_at: Timestamp,
    pub reason: String,
    pub status_code: String,
    pub tried: bool,
}

/// See [`PutBack`].
pub async fn put_back(tx: &mut PgConnection, owner: Uuid, list: &[PutBack]) -> sqlx::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE notifier.delivery AS d
         SET state = 'waiting', owner = NULL, next_attempt_at = n.next_attempt_at, reason = n.reason,
             status_code = n.status_code, tries = d.tries + n.tried::int
         FROM UNNEST($2::uuid[], $3::int4[], $4::timestamptz[], $5::text[], $6::text[], $7::bool[])
              AS n (id, attempts, next_attempt_at, reason, status_code, tried)
         WHERE d.id = n.id AND d.owner = $1 AND d.attempts = n.attempts AND d.state IN ('claimed', 'imminent')",
    )
    .bind(owner)
    .bind(list.iter().map(|p| p.delivery).bind_iter())
    .bind(list.iter().map(|p| p.attempts).bind_iter())
    .bind(list.iter().map(|p| p.next_attempt_at.to_sqlx()).bind_iter())
    .bind(list.iter().map(|p| &p.reason).bind_iter())
    .bind(list.iter().map(|p| &p.status_code).bind_iter())
    .bind(list.iter().map(|p| p.tried).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// The end of a delivery.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct End {
    pub delivery: Uuid,
    pub attempts: i32,
    pub state: &'static str,
    pub reason: String,
    pub status_code: String,
    pub accepted_as: String,
}

/// Ends deliveries; returns those that really ended by it. A delivery that was given up as unknown meanwhile can still be
/// settled by the process that knows better.
pub async fn end(tx: &mut PgConnection, owner: Uuid, list: &[End], now: Timestamp) -> sqlx::Result<HashSet<Uuid>> {
    /// For more than some hundred rows the planner would rather read all of a table that is not large than look them up: 120 ms
    /// instead of 9 for 476 of 20,000.
    const MOST: usize = 128;
    let mut ended = HashSet::with_capacity(list.len());
    for part in list.chunks(MOST) {
        ended.extend(end_part(tx, owner, part, now).await?);
    }
    Ok(ended)
}

async fn end_part(tx: &mut PgConnection, owner: Uuid, list: &[End], now: Timestamp) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "UPDATE notifier.delivery AS d
         SET state = n.state, reason = n.reason, status_code = n.status_code, accepted_as = n.accepted_as, settled_at = $8
         FROM UNNEST($2::uuid[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::text[])
              AS n (id, attempts, state, reason, status_code, accepted_as)
         WHERE d.id = n.id AND d.owner = $1 AND d.attempts = n.attempts
           AND (d.state IN ('claimed', 'imminent') OR d.state = 'unknown' AND n.state <> 'unknown')
         RETURNING d.id",
    )
    .bind(owner)
    .bind(list.iter().map(|e| e.delivery).bind_iter())
    .bind(list.iter().map(|e| e.attempts).bind_iter())
    .bind(list.iter().map(|e| e.state).bind_iter())
    .bind(list.iter().map(|e| &e.reason).bind_iter())
    .bind(list.iter().map(|e| &e.status_code).bind_iter())
    .bind(list.iter().map(|e| &e.accepted_as).bind_iter())
    .bind(now.to_sqlx())
    .fetch_all(tx)
    .await
}

/// Prolongs this process's lease. Returns how many processes have one.
pub async fn heartbeat(tx: &mut PgConnection, owner: Uuid, lease_seconds: f64) -> sqlx::Result<u32> {
    let others: i64 = sqlx::query_scalar(
        "WITH own AS (
             INSERT INTO notifier.sender (owner, alive_until) VALUES ($1, now() + make_interval(secs => $2))
             ON CONFLICT (owner) DO UPDATE SET alive_until = EXCLUDED.alive_until
         )
         SELECT count(*) FROM notifier.sender WHERE owner <> $1 AND alive_until > now()",
    )
    .bind(owner)
    .bind(lease_seconds)
    .fetch_one(tx)
    .await?;
    Ok(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1))
}

/// Ends this process's lease and gives back what it has claimed but not begun to hand over.
pub async fn leave(tx: &mut PgConnection, owner: Uuid) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE notifier.delivery SET state = 'waiting', owner = NULL WHERE open AND owner = $1 AND state = 'claimed'",
    )
    .bind(owner)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE notifier.sender SET alive_until = now() WHERE owner = $1")
        .bind(owner)
        .execute(tx)
        .await
        .map(drop)
}

/// How long after the end of a lease others wait before they take over: what was marked under that lease must not be handed
/// over any more.
pub const MARGIN: Duration = Duration::from_secs(4);

/// Whether there is a process whose lease ended so long ago that others may take over what it held.
pub async fn is_anybody_gone(db: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM notifier.sender WHERE alive_until <= now() - make_interval(secs => $1))",
    )
    .bind(MARGIN.as_secs_f64())
    .fetch_one(db)
    .await
}

/// Takes over what is held by processes without a lease, or for longer than anything is in work (see `LONGEST_WAIT` of the
/// sender): a claim whose commit was never confirmed is in nobody's hands. What was only claimed goes back, and so does what
/// the merchant's system knows by its id however often it comes; what else may have been handed over is unknown, and is
/// returned. Looks through all that is open. Modelled in `tests/model.rs`.
pub async fn take_over(tx: &mut PgConnection, now: Timestamp) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query(
        "UPDATE notifier.delivery AS h SET state = 'waiting', owner = NULL, reason = 'crashed',
                tries = h.tries + (h.state = 'imminent')::int
         WHERE h.id IN (
             SELECT d.id FROM notifier.delivery AS d
             WHERE d.open AND (d.state = 'claimed' OR d.state = 'imminent' AND d.channel = 'webhook')
               AND (d.held_since < now() - interval '1 hour' OR NOT EXISTS (
                 SELECT FROM notifier.sender AS s
                 WHERE s.owner = d.owner AND s.alive_until > now() - make_interval(secs => $1)))
             FOR UPDATE OF d SKIP LOCKED)",
    )
    .bind(MARGIN.as_secs_f64())
    .execute(&mut *tx)
    .await?;
    let unknown = sqlx::query_as(
        // The owner stays: its last words may still come.
        "UPDATE notifier.delivery SET state = 'unknown', reason = 'crashed', settled_at = $2
         WHERE id IN (
             SELECT d.id FROM notifier.delivery AS d
             WHERE d.open AND d.state = 'imminent' AND d.channel <> 'webhook'
               AND (d.held_since < now() - interval '1 hour' OR NOT EXISTS (
                 SELECT FROM notifier.sender AS s
                 WHERE s.owner = d.owner AND s.alive_until > now() - make_interval(secs => $1)))
             FOR UPDATE OF d SKIP LOCKED)
         RETURNING id, merchant, customer, channel, attempts, tries, reason, request, traceparent",
    )
    .bind(MARGIN.as_secs_f64())
    .bind(now.to_sqlx())
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM notifier.sender WHERE alive_until <= now() - make_interval(secs => $1)")
        .bind(MARGIN.as_secs_f64())
        .execute(tx)
        .await?;
    Ok(unknown)
}

/// Deletes up to `limit` kept messages past retention. Returns how many.
pub async fn trim_messages(db: impl PgExecutor<'_>, keep_days: i32, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM notifier.message WHERE delivery IN (
             SELECT delivery FROM notifier.message WHERE stored_at < now() - make_interval(days => $1) LIMIT $2)",
    )
    .bind(keep_days)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// A delivery as operators see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct DeliveryRow {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub channel: String,
    pub invoices: Vec<String>,
    pub state: String,
    pub attempts: i32,
    pub reason: String,
    pub status_code: String,
    #[serde(serialize_with = "as_text")]
    pub next_attempt_at: jiff_sqlx::Timestamp,
}

pub(crate) fn as_text<S: serde::Serializer>(at: &jiff_sqlx::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.to_jiff())
}

/// Deliveries, newest first; only those in one state, if one is given.
pub async fn list_deliveries(
    db: impl PgExecutor<'_>,
    state: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<DeliveryRow>> {
    sqlx::query_as(
        "SELECT id, merchant, customer, channel, invoices, state, attempts, reason, status_code, next_attempt_at
         FROM notifier.delivery WHERE $1::text IS NULL OR state = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
    )
    .bind(state)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// The message of a delivery: recipient and RFC 5322 text, if it was rendered in the last 30 days.
pub async fn find_message(
    db: impl PgExecutor<'_>,
    delivery: Uuid,
) -> sqlx::Result<Option<(Masked<String>, Masked<Vec<u8>>)>> {
    let row: Option<(String, Vec<u8>, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT m.recipient, m.raw, p.text FROM notifier.message AS m LEFT JOIN notifier.pattern AS p ON p.id = m.pattern
         WHERE m.delivery = $1",
    )
    .bind(delivery)
    .fetch_optional(db)
    .await?;
    let Some((recipient, stored, pattern)) = row else { return Ok(None) };
    let raw = Kept::open(&stored, pattern.as_deref())
        .ok_or_else(|| sqlx::Error::Decode("notifier.message.raw: the stored value is not valid".into()))?;
    Ok(Some((Masked::new(recipient), raw)))
}

/// What the notifier knows of an invoice: every reminder about it and every call of the merchant's system, and how they ended.
pub async fn story(db: impl PgExecutor<'_>, merchant: &str, invoice: &str) -> sqlx::Result<Vec<StoryLine>> {
    type Row = (jiff_sqlx::Timestamp, String, String, Option<Uuid>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "WITH mine AS (
             SELECT * FROM notifier.delivery
             WHERE merchant = $1 AND invoices @> ARRAY[$2]
               AND customer = (SELECT customer FROM notifier.balance WHERE merchant = $1 AND invoice = $2)
         ), called AS (
             SELECT * FROM notifier.webhook WHERE merchant = $1 AND invoice = $2
         ), document AS (
             SELECT * FROM notifier.document WHERE merchant = $1 AND invoice = $2
         )
         SELECT created_at, 'took reminder on', array_length(invoices, 1) || ' invoice(s)', id, traceparent FROM mine
         UNION ALL
         SELECT m.moved_at, 'reminder goes on by ' || m.to_channel, m.from_channel || ': ' || m.reason, m.delivery, traceparent
         FROM notifier.move AS m JOIN mine ON mine.id = m.delivery
         UNION ALL
         SELECT settled_at, 'reminder ended: ' || state,
                concat_ws(', ', 'by ' || channel, attempts || ' attempt(s)', nullif(reason, ''), nullif(status_code, ''), nullif(accepted_as, '')),
                id, traceparent FROM mine WHERE settled_at IS NOT NULL
         UNION ALL
         SELECT next_attempt_at, 'will try the reminder', concat_ws(', ', attempts || ' attempt(s) so far', nullif(reason, '')),
                id, traceparent FROM mine WHERE state = 'waiting'
         UNION ALL
         SELECT created_at, 'took webhook', 'epoch ' || epoch, id, traceparent FROM called
         UNION ALL
         SELECT settled_at, 'webhook ended: ' || state,
                concat_ws(', ', attempts || ' attempt(s)', nullif(reason, ''),
                          CASE WHEN state = 'failed' THEN last_error END), id, traceparent
         FROM called WHERE settled_at IS NOT NULL
         UNION ALL
         SELECT next_at, 'will call the webhook',
                concat_ws(', ', tries || ' call(s) in vain so far', nullif(reason, ''), nullif(last_error, '')), id, traceparent
         FROM called WHERE state = 'pending'
         UNION ALL
         SELECT fetched_at, CASE WHEN reason = '' THEN 'attached the invoice' ELSE 'went without the invoice as PDF' END, reason,
                NULL, NULL FROM document
         ORDER BY 1",
    )
    .bind(merchant)
    .bind(invoice)
    .fetch_all(db)
    .await?;
    let line = |(at, what, detail, id, traceparent): Row| StoryLine {
        at: at.to_jiff(),
        by: "notifier",
        what,
        detail,
        id: id.map(|id| id.to_string()),
        trace_id: traceparent.as_deref().and_then(bus::trace::trace_id).map(str::to_owned),
    };
    Ok(rows.into_iter().map(line).collect())
}
