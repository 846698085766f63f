//! All SQL of the scheduler. Every function takes the transaction. Customers are locked before cases, each in key order.

use crate::domain::{CaseState, Outlook, Payer, PlacedHold};
use crate::enrolment::Enrolment;
use crate::rules::{Policy, PolicyKey};
use campaign::{Decided, Step};
use events::{Customer, Invoice, InvoiceStatus};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use kernel::{Currency, CustomerId, InvoiceId, MerchantId, PayerKind, Segment, Shard};
use payer::experiment::Tally;
use runtime::story::StoryLine;
use sqlx::postgres::PgBindIterExt;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// A customer of a merchant.
pub type CustomerKey = (MerchantId, CustomerId);
/// An invoice of a merchant.
pub type InvoiceKey = (MerchantId, InvoiceId);

/// Keeps a campaign version, and notes that new cases begin on it from now on. One that is there stays as it is.
pub async fn put_in_force(
    db: impl PgExecutor<'_>,
    name: &str,
    version: &str,
    text: &str,
    steps: &[String],
) -> sqlx::Result<()> {
    // Every replica says so when it starts: only a change of version moves the date.
    sqlx::query(
        "INSERT INTO scheduler.campaign AS c (name, version, text, steps) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name, version) DO UPDATE SET in_force_from = now()
         WHERE EXISTS (SELECT FROM scheduler.campaign AS o WHERE o.name = c.name AND o.in_force_from > c.in_force_from)",
    )
    .bind(name)
    .bind(version)
    .bind(text)
    .bind(steps)
    .execute(db)
    .await
    .map(drop)
}

/// The versions that were in force last: name, text.
pub async fn campaigns_in_force(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as("SELECT DISTINCT ON (name) name, text FROM scheduler.campaign ORDER BY name, in_force_from DESC")
        .fetch_all(db)
        .await
}

/// The text of a version that was ever in force.
pub async fn campaign_text(db: impl PgExecutor<'_>, name: &str, version: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT text FROM scheduler.campaign WHERE name = $1 AND version = $2")
        .bind(name)
        .bind(version)
        .fetch_optional(db)
        .await
}

/// All campaign versions: name, version, text.
pub async fn campaigns(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<(String, String, String)>> {
    sqlx::query_as("SELECT name, version, text FROM scheduler.campaign").fetch_all(db).await
}

/// Locks customers, creating those that are not there, and gives their time zones.
pub async fn lock_customers(
    tx: &mut PgConnection,
    customers: &BTreeSet<CustomerKey>,
) -> sqlx::Result<BTreeMap<CustomerKey, String>> {
    if customers.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Byte order, whatever the database's collation: the order of the sets that rows are written from.
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        r#"SELECT c.merchant, c.customer, c.time_zone
           FROM scheduler.customer AS c
           JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer) USING (merchant, customer)
           ORDER BY c.merchant COLLATE "C", c.customer COLLATE "C" FOR UPDATE OF c"#,
    )
    .bind(customers.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(customers.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(&mut *tx)
    .await?;
    let zone = |(m, c, zone)| Ok((customer_key(m, c)?, zone));
    let zones: BTreeMap<CustomerKey, String> = rows.into_iter().map(zone).collect::<sqlx::Result<_>>()?;
    let new = || customers.iter().filter(|key| !zones.contains_key(key));
    if new().next().is_some() {
        sqlx::query(
            "INSERT INTO scheduler.customer (merchant, customer) SELECT * FROM UNNEST($1::text[], $2::text[])
             ON CONFLICT DO NOTHING",
        )
        .bind(new().map(|k| k.0.as_str()).bind_iter())
        .bind(new().map(|k| k.1.as_str()).bind_iter())
        .execute(tx)
        .await?;
    }
    Ok(zones)
}

pub(crate) fn customer_key(merchant: String, customer: String) -> sqlx::Result<CustomerKey> {
    Ok((
        stored("customer.merchant", &merchant, merchant.parse().ok())?,
        stored("customer.customer", &customer, customer.parse().ok())?,
    ))
}

/// Writes customer snapshots that are newer than what is known.
pub async fn upsert_customers(tx: &mut PgConnection, customers: &[Customer]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.customer AS c
             (merchant, customer, version, time_zone, deleted, country, tags, payer_kind, campaign)
         SELECT merchant, customer, version, time_zone, deleted, country, string_to_array(tags, ','), payer_kind, campaign
         FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::bool[], $6::text[], $7::text[], $8::text[],
                     $9::text[])
              AS n (merchant, customer, version, time_zone, deleted, country, tags, payer_kind, campaign)
         ON CONFLICT (merchant, customer) DO UPDATE
         SET version = EXCLUDED.version, time_zone = EXCLUDED.time_zone, deleted = EXCLUDED.deleted,
             country = EXCLUDED.country, tags = EXCLUDED.tags, payer_kind = EXCLUDED.payer_kind,
             campaign = EXCLUDED.campaign
         WHERE c.version < EXCLUDED.version",
    )
    .bind(customers.iter().map(|c| c.merchant.as_str()).bind_iter())
    .bind(customers.iter().map(|c| c.customer.as_str()).bind_iter())
    .bind(customers.iter().map(|c| c.version).bind_iter())
    .bind(customers.iter().map(|c| &c.time_zone).bind_iter())
    .bind(customers.iter().map(|c| c.deleted).bind_iter())
    .bind(customers.iter().map(|c| &c.country).bind_iter())
    .bind(customers.iter().map(|c| c.tags.join(",")).bind_iter())
    .bind(customers.iter().map(|c| c.payer_kind.map_or("", PayerKind::as_str)).bind_iter())
    .bind(customers.iter().map(|c| &c.campaign).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Writes segments that are newer than what is known.
pub async fn upsert_segments(tx: &mut PgConnection, segments: &BTreeMap<CustomerKey, Segmented>) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.customer AS c (merchant, customer, segment_version, segment, outlook)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::bytea[])
         ON CONFLICT (merchant, customer) DO UPDATE
         SET segment_version = EXCLUDED.segment_version, segment = EXCLUDED.segment, outlook = EXCLUDED.outlook
         WHERE c.segment_version < EXCLUDED.segment_version",
    )
    .bind(segments.keys().map(|k| k.0.as_str()).bind_iter())
    .bind(segments.keys().map(|k| k.1.as_str()).bind_iter())
    .bind(segments.values().map(|s| s.version).bind_iter())
    .bind(segments.values().map(|s| s.segment.as_str()).bind_iter())
    .bind(segments.values().map(|s| s.outlook.as_deref()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// What is said about how a customer pays.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmented {
    /// The higher one is the later one.
    pub version: i64,
    /// In one word.
    pub segment: Segment,
    /// In figures: `dunlin.events.v1.Outlook`, encoded.
    pub outlook: Option<Vec<u8>>,
}

/// Notes that customers asked not to be reminded.
pub async fn opt_out(tx: &mut PgConnection, customers: &BTreeSet<CustomerKey>) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.customer (merchant, customer, opted_out)
         SELECT merchant, customer, true FROM UNNEST($1::text[], $2::text[]) AS gone (merchant, customer)
         ON CONFLICT (merchant, customer) DO UPDATE SET opted_out = true",
    )
    .bind(customers.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(customers.iter().map(|k| k.1.as_str()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Notes when sources were heard of.
pub async fn note_heard(
    tx: &mut PgConnection,
    sources: &BTreeMap<(MerchantId, String), Timestamp>,
) -> sqlx::Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO scheduler.source AS s (merchant, source, heard_at)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::timestamptz[])
         ON CONFLICT (merchant, source) DO UPDATE SET heard_at = greatest(s.heard_at, EXCLUDED.heard_at)",
    )
    .bind(sources.keys().map(|k| k.0.as_str()).bind_iter())
    .bind(sources.keys().map(|k| &k.1).bind_iter())
    .bind(sources.values().map(|at| at.to_sqlx()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Writes invoice snapshots that are newer than what is known; returns which were.
pub async fn upsert_invoices(tx: &mut PgConnection, invoices: &[&Invoice]) -> sqlx::Result<HashSet<InvoiceKey>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "INSERT INTO scheduler.invoice AS i
             (merchant, invoice, customer, version, epoch, epoch_began_at, status, currency, open_minor, due_on,
              disputed, overdue_hint, failed_attempts, last_failed_at, source, tags, campaign, collects_itself,
              pending_since, decline_code)
         SELECT merchant, invoice, customer, version, epoch, epoch_began_at, status, currency, open_minor, due_on,
                disputed, overdue_hint, failed_attempts, last_failed_at, source, string_to_array(tags, ','), campaign,
                collects_itself, pending_since, decline_code
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int8[], $5::int4[], $6::timestamptz[],
              $7::text[], $8::text[], $9::int8[], $10::date[], $11::bool[], $12::bool[], $13::int4[],
              $14::timestamptz[], $15::text[], $16::text[], $17::text[], $18::bool[], $19::timestamptz[], $20::text[])
              AS n (merchant, invoice, customer, version, epoch, epoch_began_at, status, currency, open_minor, due_on,
                    disputed, overdue_hint, failed_attempts, last_failed_at, source, tags, campaign, collects_itself,
                    pending_since, decline_code)
         ON CONFLICT (merchant, invoice) DO UPDATE
         SET customer = EXCLUDED.customer, version = EXCLUDED.version, epoch = EXCLUDED.epoch,
             epoch_began_at = EXCLUDED.epoch_began_at, status = EXCLUDED.status, currency = EXCLUDED.currency,
             open_minor = EXCLUDED.open_minor, due_on = EXCLUDED.due_on, disputed = EXCLUDED.disputed,
             overdue_hint = EXCLUDED.overdue_hint, failed_attempts = EXCLUDED.failed_attempts,
             last_failed_at = EXCLUDED.last_failed_at, source = EXCLUDED.source, tags = EXCLUDED.tags,
             campaign = EXCLUDED.campaign, collects_itself = EXCLUDED.collects_itself,
             pending_since = EXCLUDED.pending_since, decline_code = EXCLUDED.decline_code
         WHERE i.version < EXCLUDED.version
         RETURNING merchant, invoice",
    )
    .bind(invoices.iter().map(|i| i.merchant.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.invoice.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.customer.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.version).bind_iter())
    .bind(invoices.iter().map(|i| i.epoch).bind_iter())
    .bind(invoices.iter().map(|i| i.epoch_began_at.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices.iter().map(|i| i.status.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.currency.code().to_owned()).bind_iter())
    .bind(invoices.iter().map(|i| i.open_minor).bind_iter())
    .bind(invoices.iter().map(|i| i.due_on.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices.iter().map(|i| i.disputed).bind_iter())
    .bind(invoices.iter().map(|i| i.overdue_hint).bind_iter())
    .bind(invoices.iter().map(|i| i.failed_attempts).bind_iter())
    .bind(invoices.iter().map(|i| i.last_failed_at.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices.iter().map(|i| &i.source).bind_iter())
    .bind(invoices.iter().map(|i| i.tags.join(",")).bind_iter())
    .bind(invoices.iter().map(|i| &i.campaign).bind_iter())
    .bind(invoices.iter().map(|i| i.collects_itself).bind_iter())
    .bind(invoices.iter().map(|i| i.pending_since.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices.iter().map(|i| &i.decline_code).bind_iter())
    .fetch_all(tx)
    .await?;
    let key = |(m, i): (String, String)| {
        Ok((stored("invoice.merchant", &m, m.parse().ok())?, stored("invoice.invoice", &i, i.parse().ok())?))
    };
    rows.into_iter().map(key).collect()
}

/// A case to open.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewCase<'a> {
    pub id: Uuid,
    pub merchant: &'a MerchantId,
    pub invoice: &'a InvoiceId,
    pub epoch: i32,
    pub customer: &'a CustomerId,
    pub opened_at: Timestamp,
    pub opened_traceparent: Option<&'a str>,
}

/// Opens cases that are not there yet. Their campaign is chosen once all is read that it depends on.
pub async fn open_cases(tx: &mut PgConnection, cases: &[NewCase<'_>]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.dunning_case
             (id, merchant, invoice, epoch, customer, shard, campaign, campaign_version, opened_at, opened_traceparent)
         SELECT id, merchant, invoice, epoch, customer, shard, '', '', opened_at, traceparent
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::int4[], $5::text[], $6::int2[], $7::timestamptz[],
                     $8::text[])
              AS n (id, merchant, invoice, epoch, customer, shard, opened_at, traceparent)
         ON CONFLICT DO NOTHING",
    )
    .bind(cases.iter().map(|c| c.id).bind_iter())
    .bind(cases.iter().map(|c| c.merchant.as_str()).bind_iter())
    .bind(cases.iter().map(|c| c.invoice.as_str()).bind_iter())
    .bind(cases.iter().map(|c| c.epoch).bind_iter())
    .bind(cases.iter().map(|c| c.customer.as_str()).bind_iter())
    .bind(cases.iter().map(|c| Shard::of(c.merchant, c.customer).number()).bind_iter())
    .bind(cases.iter().map(|c| c.opened_at.to_sqlx()).bind_iter())
    .bind(cases.iter().map(|c| c.opened_traceparent).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

#[derive(FromRow)]
struct CaseRow {
    id: Uuid,
    merchant: String,
    invoice: String,
    epoch: i32,
    customer: String,
    shard: i16,
    campaign: String,
    campaign_version: String,
    chosen_by: String,
    not_before: Option<jiff_sqlx::Date>,
    opened_at: jiff_sqlx::Timestamp,
    ended_at: Option<jiff_sqlx::Timestamp>,
    ended_as: Option<String>,
    overdue_told_at: Option<jiff_sqlx::Timestamp>,
    armed_at: Option<jiff_sqlx::Timestamp>,
    generation: i32,
    closed_at: Option<jiff_sqlx::Timestamp>,
    closed_reason: Option<String>,
    enrolment: Option<Json<Enrolment>>,
    invoice_version: i64,
    invoice_epoch: i32,
    epoch_began_at: Option<jiff_sqlx::Timestamp>,
    status: String,
    currency: String,
    open_minor: i64,
    due_on: Option<jiff_sqlx::Date>,
    disputed: bool,
    overdue_hint: bool,
    failed_attempts: i32,
    last_failed_at: Option<jiff_sqlx::Timestamp>,
    tags: Vec<String>,
    own_campaign: String,
    collects_itself: bool,
    pending_since: Option<jiff_sqlx::Timestamp>,
    decline_code: String,
    source: String,
    heard_at: Option<jiff_sqlx::Timestamp>,
}

/// Locks the cases of invoices, and the open cases of customers. What is known of them is read after that, by
/// [`load_cases`]: a statement that waits for a lock still sees everything else as it was before.
pub async fn lock_cases(
    tx: &mut PgConnection,
    invoices: &HashSet<InvoiceKey>,
    customers: &BTreeSet<CustomerKey>,
) -> sqlx::Result<Vec<Uuid>> {
    if invoices.is_empty() && customers.is_empty() {
        return Ok(Vec::new());
    }
    // One statement for both, so that all are locked in one order.
    sqlx::query_scalar(
        "SELECT id FROM scheduler.dunning_case
         WHERE id = ANY (ARRAY(
             SELECT id FROM scheduler.dunning_case
             JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, invoice) USING (merchant, invoice)
             UNION
             SELECT theirs.id FROM UNNEST($3::text[], $4::text[]) AS wanted (merchant, customer)
             CROSS JOIN LATERAL (
                 SELECT c.id FROM scheduler.dunning_case AS c
                 WHERE c.merchant = wanted.merchant AND c.customer = wanted.customer AND c.closed_at IS NULL
                 OFFSET 0 -- keeps it a look-up for each customer, not a join with all that is open
             ) AS theirs
         ))
         ORDER BY id FOR UPDATE",
    )
    .bind(invoices.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(invoices.iter().map(|k| k.1.as_str()).bind_iter())
    .bind(customers.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(customers.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await
}

/// Locks the cases of customers that are due; with `all`, also those that are not: they may make others wait for them.
pub async fn lock_due_cases(
    tx: &mut PgConnection,
    customers: &BTreeSet<CustomerKey>,
    now: Timestamp,
    all: bool,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "SELECT id FROM scheduler.dunning_case
         WHERE id = ANY (ARRAY(
             SELECT theirs.id FROM UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
             CROSS JOIN LATERAL (
                 SELECT c.id FROM scheduler.dunning_case AS c
                 WHERE c.merchant = wanted.merchant AND c.customer = wanted.customer AND c.closed_at IS NULL
                 OFFSET 0 -- keeps it a look-up for each customer, not a join with all that is open
             ) AS theirs
         )) AND (armed_at <= $3 OR $4 AND armed_at IS NOT NULL)
         ORDER BY id FOR UPDATE",
    )
    .bind(customers.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(customers.iter().map(|k| k.1.as_str()).bind_iter())
    .bind(now.to_sqlx())
    .bind(all)
    .fetch_all(tx)
    .await
}

/// What is known of cases that are locked and have not ended for good: the open ones, and those of the current epoch.
/// `with_balances`: a campaign asks what customers owe altogether.
pub async fn load_cases(
    tx: &mut PgConnection,
    ids: &[Uuid],
    now: Timestamp,
    with_balances: bool,
) -> sqlx::Result<Vec<CaseState>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<CaseRow> = sqlx::query_as(
        "SELECT c.id, c.merchant, c.invoice, c.epoch, c.customer, c.shard, c.campaign, c.campaign_version, c.chosen_by,
                c.not_before, c.opened_at, c.ended_at, c.ended_as, c.overdue_told_at, c.armed_at, c.generation,
                c.closed_at, c.closed_reason, c.enrolment, i.version AS invoice_version, i.epoch AS invoice_epoch, i.epoch_began_at,
                i.status, i.currency, i.open_minor, i.due_on, i.disputed, i.overdue_hint, i.failed_attempts,
                i.last_failed_at, i.tags, i.campaign AS own_campaign, i.collects_itself, i.pending_since,
                i.decline_code, i.source, s.heard_at
         FROM scheduler.dunning_case AS c
         JOIN scheduler.invoice AS i ON i.merchant = c.merchant AND i.invoice = c.invoice
         LEFT JOIN scheduler.source AS s ON s.merchant = i.merchant AND s.source = i.source
         WHERE c.id = ANY($1) AND (c.closed_at IS NULL OR c.epoch = i.epoch)
         ORDER BY c.id",
    )
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?;
    let mut decided = load_decided(tx, &rows).await?;
    let people: BTreeSet<(&str, &str)> = rows.iter().map(|r| (r.merchant.as_str(), r.customer.as_str())).collect();
    let payers = load_payers(tx, &people, now, with_balances).await?;
    let unknown = Arc::<Payer>::default();
    let state = |row: CaseRow| {
        let decided = decided.remove(&row.id).unwrap_or_default();
        let payer = payers.get(&(row.merchant.clone(), row.customer.clone())).unwrap_or(&unknown).clone();
        row.into_state(decided, payer)
    };
    rows.into_iter().map(state).collect()
}

async fn load_decided(tx: &mut PgConnection, rows: &[CaseRow]) -> sqlx::Result<HashMap<Uuid, Vec<Decided>>> {
    let ids: Vec<Uuid> = rows.iter().map(|r| r.id).collect();
    let decisions: Vec<(Uuid, String, jiff_sqlx::Date, bool)> = sqlx::query_as(
        // A reminder that did not go out is none that a follow-up could count from.
        "SELECT case_id, step, decided_on, speaks AND outcome IN ('requested', 'sent', 'merged', 'unknown')
         FROM scheduler.decision WHERE case_id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(tx)
    .await?;
    let mut by_case: HashMap<Uuid, Vec<Decided>> = HashMap::new();
    for (case, step, on, reminded) in decisions {
        by_case.entry(case).or_default().push(Decided { step, on: on.to_jiff(), reminded });
    }
    Ok(by_case)
}

#[derive(FromRow)]
struct PayerRow {
    merchant: String,
    customer: String,
    time_zone: String,
    segment: String,
    silent: bool,
    country: String,
    tags: Vec<String>,
    payer_kind: String,
    campaign: String,
    outlook: Option<Vec<u8>>,
}

/// Customers by merchant and id.
type Payers = HashMap<(String, String), Arc<Payer>>;

/// What is known of customers: each once, however many cases it has.
async fn load_payers(
    tx: &mut PgConnection,
    people: &BTreeSet<(&str, &str)>,
    now: Timestamp,
    with_balances: bool,
) -> sqlx::Result<Payers> {
    let rows: Vec<PayerRow> = sqlx::query_as(
        "SELECT merchant, customer, time_zone, segment, deleted OR opted_out AS silent, country, tags, payer_kind, campaign,
                outlook
         FROM scheduler.customer JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
              USING (merchant, customer)",
    )
    .bind(people.iter().map(|p| p.0).bind_iter())
    .bind(people.iter().map(|p| p.1).bind_iter())
    .fetch_all(&mut *tx)
    .await?;
    let mut reminders = load_reminders(tx, people, now).await?;
    let mut holds = load_holds(tx, people).await?;
    let mut balances = if with_balances { load_balances(tx, people).await? } else { HashMap::new() };
    let payer = |row: PayerRow| {
        let key = (row.merchant, row.customer);
        let kind = (!row.payer_kind.is_empty())
            .then(|| stored("customer.payer_kind", &row.payer_kind, PayerKind::parse(&row.payer_kind)));
        let (contacts, in_flight) = reminders.remove(&key).unwrap_or_default();
        let payer = Payer {
            time_zone: row.time_zone,
            segment: Some(stored("customer.segment", &row.segment, Segment::parse(&row.segment))?),
            silent: row.silent,
            country: row.country,
            tags: row.tags,
            kind: kind.transpose()?,
            campaign: row.campaign,
            outlook: row.outlook.and_then(|bytes| Outlook::read_or_warn(&bytes)),
            contacts,
            in_flight,
            balances: balances.remove(&key).unwrap_or_default(),
            holds: holds.remove(&key).unwrap_or_default(),
        };
        Ok((key, Arc::new(payer)))
    };
    rows.into_iter().map(payer).collect()
}

/// The days of customers' reminders that went out or may have, as far back as caps reach, and whether one is on its way.
async fn load_reminders(
    tx: &mut PgConnection,
    people: &BTreeSet<(&str, &str)>,
    now: Timestamp,
) -> sqlx::Result<HashMap<(String, String), (Vec<Date>, bool)>> {
    let rows: Vec<(String, String, Vec<jiff_sqlx::Date>, bool)> = sqlx::query_as(
        "SELECT merchant, customer, array_agg(on_day ORDER BY on_day), bool_or(state = 'in_flight')
         FROM scheduler.reminder JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
              USING (merchant, customer)
         WHERE state <> 'gone' AND on_day > ($3::timestamptz - $4 * interval '1 day')::date
         GROUP BY merchant, customer",
    )
    .bind(people.iter().map(|p| p.0).bind_iter())
    .bind(people.iter().map(|p| p.1).bind_iter())
    .bind(now.to_sqlx())
    .bind(i32::from(campaign::MAX_CAP_DAYS) + 1)
    .fetch_all(tx)
    .await?;
    let days = |days: Vec<jiff_sqlx::Date>| days.into_iter().map(|d| d.to_jiff()).collect();
    Ok(rows.into_iter().map(|(merchant, customer, on, flying)| ((merchant, customer), (days(on), flying))).collect())
}

async fn load_holds(
    tx: &mut PgConnection,
    people: &BTreeSet<(&str, &str)>,
) -> sqlx::Result<HashMap<(String, String), Vec<PlacedHold>>> {
    type Row = (String, String, i64, Option<String>, String, Option<jiff_sqlx::Date>, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT merchant, customer, id, invoice, kind, until, reason FROM scheduler.hold
         JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer) USING (merchant, customer)
         WHERE released_at IS NULL ORDER BY id",
    )
    .bind(people.iter().map(|p| p.0).bind_iter())
    .bind(people.iter().map(|p| p.1).bind_iter())
    .fetch_all(tx)
    .await?;
    let mut holds: HashMap<_, Vec<PlacedHold>> = HashMap::new();
    for (merchant, customer, id, invoice, kind, until, reason) in rows {
        let hold = PlacedHold { id, invoice, is_promise: kind == "promise", until: until.map(|d| d.to_jiff()), reason };
        holds.entry((merchant, customer)).or_default().push(hold);
    }
    Ok(holds)
}

/// What customers owe in their open invoices, by currency.
async fn load_balances(
    tx: &mut PgConnection,
    people: &BTreeSet<(&str, &str)>,
) -> sqlx::Result<HashMap<(String, String), BTreeMap<Currency, i64>>> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT i.merchant, i.customer, i.currency, sum(i.open_minor)::int8
         FROM scheduler.invoice AS i
         JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
              ON wanted.merchant = i.merchant AND wanted.customer = i.customer
         WHERE i.status = 'open' GROUP BY 1, 2, 3",
    )
    .bind(people.iter().map(|p| p.0).bind_iter())
    .bind(people.iter().map(|p| p.1).bind_iter())
    .fetch_all(tx)
    .await?;
    let mut balances: HashMap<_, BTreeMap<Currency, i64>> = HashMap::new();
    for (merchant, customer, currency, open) in rows {
        let currency = stored("invoice.currency", &currency, currency.parse().ok())?;
        balances.entry((merchant, customer)).or_default().insert(currency, open);
    }
    Ok(balances)
}

impl CaseRow {
    fn into_state(self, decided: Vec<Decided>, payer: Arc<Payer>) -> sqlx::Result<CaseState> {
        Ok(CaseState {
            id: self.id,
            merchant: stored("dunning_case.merchant", &self.merchant, self.merchant.parse().ok())?,
            invoice: stored("dunning_case.invoice", &self.invoice, self.invoice.parse().ok())?,
            epoch: self.epoch,
            customer: stored("dunning_case.customer", &self.customer, self.customer.parse().ok())?,
            shard: self.shard,
            campaign: self.campaign,
            campaign_version: self.campaign_version,
            chosen_by: self.chosen_by,
            not_before: self.not_before.map(|d| d.to_jiff()),
            opened_at: self.opened_at.to_jiff(),
            ended: self.ended_at.map(|t| (t.to_jiff(), self.ended_as.unwrap_or_default())),
            overdue_told_at: self.overdue_told_at.map(|t| t.to_jiff()),
            armed_at: self.armed_at.map(|t| t.to_jiff()),
            generation: self.generation,
            closed: self.closed_at.map(|t| (t.to_jiff(), self.closed_reason.unwrap_or_default())),
            enrolment: self.enrolment.map(|e| e.0),
            invoice_version: self.invoice_version,
            invoice_epoch: self.invoice_epoch,
            epoch_began_at: self.epoch_began_at.map(|t| t.to_jiff()),
            status: stored("invoice.status", &self.status, InvoiceStatus::parse(&self.status))?,
            currency: stored("invoice.currency", &self.currency, self.currency.parse().ok())?,
            open_minor: self.open_minor,
            due_on: self.due_on.map(|d| d.to_jiff()),
            disputed: self.disputed,
            overdue_hint: self.overdue_hint,
            failed_attempts: self.failed_attempts,
            last_failed_at: self.last_failed_at.map(|t| t.to_jiff()),
            tags: self.tags,
            own_campaign: self.own_campaign,
            collects_itself: self.collects_itself,
            pending_since: self.pending_since.map(|t| t.to_jiff()),
            decline_code: self.decline_code,
            source: self.source,
            heard_at: self.heard_at.map(|t| t.to_jiff()),
            payer,
            decided,
        })
    }
}

pub(crate) fn stored<T>(column: &str, text: &str, value: Option<T>) -> sqlx::Result<T> {
    value.ok_or_else(|| sqlx::Error::Decode(format!("scheduler.{column}: {text:?} is not valid").into()))
}

/// What changes about a case after planning.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct CaseChange {
    pub id: Uuid,
    pub shard: i16,
    pub campaign: String,
    pub campaign_version: String,
    pub chosen_by: String,
    pub not_before: Option<Date>,
    pub ended: Option<(Timestamp, String)>,
    pub closed: Option<(Timestamp, String)>,
    pub enrolment: Option<Enrolment>,
    pub overdue_told_at: Option<Timestamp>,
    pub armed_before: Option<Timestamp>,
    pub armed_at: Option<Timestamp>,
    pub generation: i32,
    pub traceparent: Option<String>,
}

impl CaseChange {
    fn moves_timer(&self) -> bool {
        self.armed_before != self.armed_at
    }
}

/// Writes cases and moves their timers: the old one goes, the new one comes, in the same statement's transaction.
pub async fn save_cases(tx: &mut PgConnection, changes: &[CaseChange]) -> sqlx::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE scheduler.dunning_case AS c
         SET closed_at = n.closed_at, closed_reason = n.closed_reason, overdue_told_at = n.overdue_told_at,
             closed_traceparent = CASE WHEN c.closed_at IS DISTINCT FROM n.closed_at
                                       THEN n.traceparent ELSE c.closed_traceparent END,
             overdue_traceparent = CASE WHEN c.overdue_told_at IS DISTINCT FROM n.overdue_told_at
                                        THEN n.traceparent ELSE c.overdue_traceparent END,
             armed_at = n.armed_at, generation = n.generation, campaign = n.campaign,
             campaign_version = n.campaign_version, chosen_by = n.chosen_by, not_before = n.not_before,
             ended_at = n.ended_at, ended_as = n.ended_as, enrolment = n.enrolment
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::int4[],
                     $7::text[], $8::text[], $9::text[], $10::text[], $11::date[], $12::timestamptz[], $13::text[],
                     $14::json[])
              AS n (id, closed_at, closed_reason, overdue_told_at, armed_at, generation, traceparent, campaign,
                    campaign_version, chosen_by, not_before, ended_at, ended_as, enrolment)
         WHERE c.id = n.id",
    )
    .bind(changes.iter().map(|c| c.id).bind_iter())
    .bind(changes.iter().map(|c| c.closed.as_ref().map(|(at, _)| at.to_sqlx())).bind_iter())
    .bind(changes.iter().map(|c| c.closed.as_ref().map(|(_, reason)| reason)).bind_iter())
    .bind(changes.iter().map(|c| c.overdue_told_at.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(changes.iter().map(|c| c.armed_at.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(changes.iter().map(|c| c.generation).bind_iter())
    .bind(changes.iter().map(|c| c.traceparent.as_ref()).bind_iter())
    .bind(changes.iter().map(|c| &c.campaign).bind_iter())
    .bind(changes.iter().map(|c| &c.campaign_version).bind_iter())
    .bind(changes.iter().map(|c| &c.chosen_by).bind_iter())
    .bind(changes.iter().map(|c| c.not_before.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(changes.iter().map(|c| c.ended.as_ref().map(|(at, _)| at.to_sqlx())).bind_iter())
    .bind(changes.iter().map(|c| c.ended.as_ref().map(|(_, how)| how)).bind_iter())
    .bind(changes.iter().map(|c| c.enrolment.as_ref().map(Json)).bind_iter())
    .execute(&mut *tx)
    .await?;

    let moved = || changes.iter().filter(|c| c.moves_timer());
    let disarmed: Vec<_> = moved().filter_map(|c| Some((c.shard, c.armed_before?, c.id))).collect();
    if !disarmed.is_empty() {
        sqlx::query(
            "DELETE FROM scheduler.timer AS t
             USING UNNEST($1::int2[], $2::timestamptz[], $3::uuid[]) AS old (shard, due_at, case_id)
             WHERE t.shard = old.shard AND t.due_at = old.due_at AND t.case_id = old.case_id",
        )
        .bind(disarmed.iter().map(|d| d.0).bind_iter())
        .bind(disarmed.iter().map(|d| d.1.to_sqlx()).bind_iter())
        .bind(disarmed.iter().map(|d| d.2).bind_iter())
        .execute(&mut *tx)
        .await?;
    }
    let armed: Vec<_> = moved().filter_map(|c| Some((c, c.armed_at?))).collect();
    if !armed.is_empty() {
        sqlx::query(
            "INSERT INTO scheduler.timer (shard, due_at, case_id, generation, traceparent)
             SELECT * FROM UNNEST($1::int2[], $2::timestamptz[], $3::uuid[], $4::int4[], $5::text[])",
        )
        .bind(armed.iter().map(|(c, _)| c.shard).bind_iter())
        .bind(armed.iter().map(|(_, at)| at.to_sqlx()).bind_iter())
        .bind(armed.iter().map(|(c, _)| c.id).bind_iter())
        .bind(armed.iter().map(|(c, _)| c.generation).bind_iter())
        .bind(armed.iter().map(|(c, _)| c.traceparent.as_ref()).bind_iter())
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// The policy of a step's experiment for a week, if it was learned already.
pub async fn policy(tx: &mut PgConnection, key: &PolicyKey) -> sqlx::Result<Option<Policy>> {
    let (merchant, campaign, version, step, week) = key;
    let kept: Option<Json<Policy>> = sqlx::query_scalar(
        "SELECT propensities FROM scheduler.policy
         WHERE merchant = $1 AND campaign = $2 AND campaign_version = $3 AND step = $4 AND week = $5",
    )
    .bind(merchant.as_str())
    .bind(campaign)
    .bind(version)
    .bind(step)
    .bind(week.to_sqlx())
    .fetch_optional(tx)
    .await?;
    Ok(kept.map(|json| json.0))
}

/// Waits until no other transaction learns policies of a merchant: then it may have been kept.
pub async fn lock_policies(tx: &mut PgConnection, merchant: &MerchantId) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('scheduler.policy'), hashtext($1))")
        .bind(merchant.as_str())
        .execute(tx)
        .await
        .map(drop)
}

/// Keeps a policy, unless another replica was faster; returns the one that counts.
pub async fn keep_policy(tx: &mut PgConnection, key: &PolicyKey, policy: &Policy) -> sqlx::Result<Policy> {
    let (merchant, campaign, version, step, week) = key;
    sqlx::query("INSERT INTO scheduler.policy VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING")
        .bind(merchant.as_str())
        .bind(campaign)
        .bind(version)
        .bind(step)
        .bind(week.to_sqlx())
        .bind(Json(policy))
        .execute(&mut *tx)
        .await?;
    self::policy(tx, key).await?.ok_or(sqlx::Error::RowNotFound)
}

/// How invoices fared for which arms of a step were drawn, as far as that was known before `week`: by segment, arm and week.
///
/// All count that were unpaid when the step's window opened, whatever was sent: those who pay between an early and a late arm
/// must count for both; and that were known by then, so that the arms could differ. Paid by the due date is a success for a step
/// up to it, paid within seven days of the step's day for one after. Invoices of the last two years; days in the merchant's
/// `zone`.
pub async fn outcomes_of_arms(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    campaign: &str,
    step: &Step,
    week: Date,
    zone: &str,
) -> sqlx::Result<Vec<(Segment, Tally<String>)>> {
    let day = step.day().unwrap_or(0);
    let opens = step.days().map_or(day, |days| *days.start());
    let until = if day <= 0 { 0 } else { day + 7 };
    let rows: Vec<(String, String, jiff_sqlx::Date, i64, i64)> = sqlx::query_as(
        "SELECT segment, arm, week::date, count(*) FILTER (WHERE paid_on <= known_on),
                count(*) FILTER (WHERE paid_on IS NULL OR paid_on > known_on)
         FROM (
             SELECT c.enrolment ->> 'segment' AS segment, drawn.arm, i.due_on + $5 AS known_on,
                    date_trunc('week', i.due_on + $5) AS week,
                    CASE c.closed_reason WHEN 'paid' THEN (c.closed_at AT TIME ZONE $7)::date END AS paid_on,
                    i.due_on + $4 AS opens_on
             FROM scheduler.dunning_case AS c
             JOIN scheduler.invoice AS i ON i.merchant = c.merchant AND i.invoice = c.invoice AND c.epoch = 1
             CROSS JOIN LATERAL json_to_recordset(c.enrolment -> 'arms') AS drawn (step text, arm text)
             WHERE c.merchant = $1 AND c.campaign = $2 AND drawn.step = $3 AND c.enrolment IS NOT NULL
               AND (c.closed_at IS NULL OR c.closed_reason = 'paid')
               AND c.opened_at > $6::date - 730 AND (c.opened_at AT TIME ZONE $7)::date <= i.due_on + $4
               AND i.due_on + $5 < $6
         ) AS outcome
         WHERE paid_on IS NULL OR paid_on >= opens_on
         GROUP BY segment, arm, week",
    )
    .bind(merchant.as_str())
    .bind(campaign)
    .bind(&step.key)
    .bind(opens)
    .bind(until)
    .bind(week.to_sqlx())
    .bind(zone)
    .fetch_all(tx)
    .await?;
    let tally = |(segment, arm, week, successes, failures): (String, String, jiff_sqlx::Date, i64, i64)| {
        let segment = stored("dunning_case.enrolment", &segment, Segment::parse(&segment))?;
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let tally = Tally { week: week.to_jiff(), arm, successes: count(successes), failures: count(failures) };
        Ok((segment, tally))
    };
    rows.into_iter().map(tally).collect()
}

/// A timer that is due.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct DueTimer {
    /// Whose case it is; unset if the case is gone.
    pub customer: Option<CustomerKey>,
    pub shard: i16,
    pub due_at: Timestamp,
    pub case_id: Uuid,
    pub generation: i32,
    pub traceparent: Option<String>,
}

/// The oldest due timers of shards that no other transaction is firing: those shards are this transaction's until it
/// ends. There is no lower bound on their time.
///
/// `start` rotates which shards come first, so that replicas share them.
pub async fn due_timers(tx: &mut PgConnection, now: Timestamp, start: i32, limit: i64) -> sqlx::Result<Vec<DueTimer>> {
    /// Shards per transaction: leaves some for other replicas.
    const SHARDS: i64 = 16;
    type Row = (i16, jiff_sqlx::Timestamp, Uuid, i32, Option<String>, Option<String>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "WITH busy AS MATERIALIZED (
             SELECT ((n + $2) % 64)::int2 AS shard FROM generate_series(0, 63) AS n
             WHERE EXISTS (SELECT FROM scheduler.timer AS t WHERE t.shard = ((n + $2) % 64)::int2 AND t.due_at <= $1)
         ), mine AS MATERIALIZED (
             SELECT shard FROM busy WHERE pg_try_advisory_xact_lock(hashtext('scheduler.fire'), shard) LIMIT $3
         )
         SELECT t.shard, t.due_at, t.case_id, t.generation, t.traceparent, c.merchant, c.customer
         FROM mine CROSS JOIN LATERAL (
             SELECT * FROM scheduler.timer AS t
             WHERE t.shard = mine.shard AND t.due_at <= $1
             ORDER BY t.due_at, t.case_id
             LIMIT greatest(1, $4 / (SELECT count(*) FROM mine))
         ) AS t
         LEFT JOIN scheduler.dunning_case AS c ON c.id = t.case_id",
    )
    .bind(now.to_sqlx())
    .bind(start)
    .bind(SHARDS)
    .bind(limit)
    .fetch_all(tx)
    .await?;
    let timer = |(shard, due_at, case_id, generation, traceparent, merchant, customer): Row| {
        let customer = merchant.zip(customer).map(|(m, c)| customer_key(m, c)).transpose()?;
        Ok(DueTimer { customer, shard, due_at: due_at.to_jiff(), case_id, generation, traceparent })
    };
    rows.into_iter().map(timer).collect()
}

/// Deletes timers, unless their case was armed anew for the same moment.
pub async fn delete_timers(tx: &mut PgConnection, timers: &[DueTimer]) -> sqlx::Result<()> {
    if timers.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM scheduler.timer AS t
         USING UNNEST($1::int2[], $2::timestamptz[], $3::uuid[], $4::int4[]) AS fired (shard, due_at, case_id, generation)
         WHERE t.shard = fired.shard AND t.due_at = fired.due_at AND t.case_id = fired.case_id
           AND t.generation = fired.generation",
    )
    .bind(timers.iter().map(|t| t.shard).bind_iter())
    .bind(timers.iter().map(|t| t.due_at.to_sqlx()).bind_iter())
    .bind(timers.iter().map(|t| t.case_id).bind_iter())
    .bind(timers.iter().map(|t| t.generation).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// The customers whose cases these are.
pub async fn customers_of_cases(tx: &mut PgConnection, cases: &[Uuid]) -> sqlx::Result<BTreeSet<CustomerKey>> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT DISTINCT merchant, customer FROM scheduler.dunning_case WHERE id = ANY($1)")
            .bind(cases)
            .fetch_all(tx)
            .await?;
    rows.into_iter().map(|(m, c)| customer_key(m, c)).collect()
}

/// A decision to keep.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewDecision {
    pub case_id: Uuid,
    pub step: String,
    pub outcome: &'static str,
    pub reason: &'static str,
    pub reminder_id: Option<Uuid>,
    pub speaks: bool,
    pub segment: Segment,
    pub rule: String,
    pub inputs: String,
    pub campaign_version: String,
    pub decided_on: Date,
    pub decided_at: Timestamp,
    pub traceparent: Option<String>,
}

/// Keeps decisions. A step that is decided already is an error: the primary key is the step key.
pub async fn insert_decisions(tx: &mut PgConnection, decisions: &[NewDecision]) -> sqlx::Result<()> {
    if decisions.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO scheduler.decision
             (case_id, step, outcome, reason, reminder_id, speaks, segment, decided_on, decided_at, traceparent, rule,
              inputs, campaign_version)
         SELECT case_id, step, outcome, reason, reminder_id, speaks, segment, decided_on, decided_at, traceparent, rule,
                inputs::json, campaign_version
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::bool[], $7::text[], $8::date[],
                     $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[])
              AS d (case_id, step, outcome, reason, reminder_id, speaks, segment, decided_on, decided_at, traceparent,
                    rule, inputs, campaign_version)",
    )
    .bind(decisions.iter().map(|d| d.case_id).bind_iter())
    .bind(decisions.iter().map(|d| &d.step).bind_iter())
    .bind(decisions.iter().map(|d| d.outcome).bind_iter())
    .bind(decisions.iter().map(|d| d.reason).bind_iter())
    .bind(decisions.iter().map(|d| d.reminder_id).bind_iter())
    .bind(decisions.iter().map(|d| d.speaks).bind_iter())
    .bind(decisions.iter().map(|d| d.segment.as_str()).bind_iter())
    .bind(decisions.iter().map(|d| d.decided_on.to_sqlx()).bind_iter())
    .bind(decisions.iter().map(|d| d.decided_at.to_sqlx()).bind_iter())
    .bind(decisions.iter().map(|d| d.traceparent.as_ref()).bind_iter())
    .bind(decisions.iter().map(|d| &d.rule).bind_iter())
    .bind(decisions.iter().map(|d| &d.inputs).bind_iter())
    .bind(decisions.iter().map(|d| &d.campaign_version).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Keeps why steps had to wait; the same wait is kept once.
pub async fn insert_deferrals(
    tx: &mut PgConnection,
    deferrals: &[(Uuid, campaign::Deferral)],
    now: Timestamp,
) -> sqlx::Result<()> {
    // Arrays of arrays must be rectangular in Postgres: the steps travel as one text each.
    sqlx::query(
        "INSERT INTO scheduler.deferral (case_id, until, reason, steps, deferred_at, rule)
         SELECT case_id, until, reason, string_to_array(steps, ','), $5, rule
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $6::text[])
              AS d (case_id, until, reason, steps, rule)
         ON CONFLICT DO NOTHING",
    )
    .bind(deferrals.iter().map(|(id, _)| *id).bind_iter())
    .bind(deferrals.iter().map(|(_, d)| d.until.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(deferrals.iter().map(|(_, d)| d.reason.as_str()).bind_iter())
    .bind(deferrals.iter().map(|(_, d)| d.steps.join(",")).bind_iter())
    .bind(now.to_sqlx())
    .bind(deferrals.iter().map(|(_, d)| d.rule.as_ref()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Notes that reminders to customers are on their way: customer, reminder, the payer's day.
pub async fn note_reminded(tx: &mut PgConnection, reminded: &[(CustomerKey, Uuid, Date)]) -> sqlx::Result<()> {
    if reminded.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO scheduler.reminder (merchant, customer, reminder_id, on_day)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::date[])",
    )
    .bind(reminded.iter().map(|(k, ..)| k.0.as_str()).bind_iter())
    .bind(reminded.iter().map(|(k, ..)| k.1.as_str()).bind_iter())
    .bind(reminded.iter().map(|(_, id, _)| *id).bind_iter())
    .bind(reminded.iter().map(|(.., on)| on.to_sqlx()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// The end of a reminder, as far as it concerns its customer.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Ended {
    pub customer: CustomerKey,
    pub reminder_id: Uuid,
    pub state: &'static str,
    /// The payer's day on which it went out, if it did or may have.
    pub sent_on: Option<Date>,
}

/// Notes that reminders are on their way no more. What is known is not changed by older news.
pub async fn note_ended(tx: &mut PgConnection, ended: &[Ended]) -> sqlx::Result<()> {
    if ended.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE scheduler.reminder AS r
         SET state = n.state, on_day = coalesce(n.sent_on, r.on_day)
         FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::text[], $5::date[])
              AS n (merchant, customer, reminder_id, state, sent_on)
         WHERE r.merchant = n.merchant AND r.customer = n.customer AND r.reminder_id = n.reminder_id
           AND r.state IN ('in_flight', 'unknown')",
    )
    .bind(ended.iter().map(|e| e.customer.0.as_str()).bind_iter())
    .bind(ended.iter().map(|e| e.customer.1.as_str()).bind_iter())
    .bind(ended.iter().map(|e| e.reminder_id).bind_iter())
    .bind(ended.iter().map(|e| e.state).bind_iter())
    .bind(ended.iter().map(|e| e.sent_on.map(ToSqlx::to_sqlx)).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// How many late invoices begin on each day from `from` on, in a merchant's campaign; other transactions wait meanwhile.
pub async fn lock_ramp(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    campaign: &str,
    from: Date,
) -> sqlx::Result<BTreeMap<Date, u32>> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('scheduler.ramp'), hashtext($1 || '/' || $2))")
        .bind(merchant.as_str())
        .bind(campaign)
        .execute(&mut *tx)
        .await?;
    let rows: Vec<(jiff_sqlx::Date, i32)> =
        sqlx::query_as("SELECT day, taken FROM scheduler.ramp WHERE merchant = $1 AND campaign = $2 AND day >= $3")
            .bind(merchant.as_str())
            .bind(campaign)
            .bind(from.to_sqlx())
            .fetch_all(tx)
            .await?;
    Ok(rows.into_iter().map(|(day, taken)| (day.to_jiff(), u32::try_from(taken).unwrap_or(0))).collect())
}

/// Keeps how many late invoices begin on each day.
pub async fn save_ramp(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    campaign: &str,
    days: &BTreeMap<Date, u32>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.ramp (merchant, campaign, day, taken)
         SELECT $1, $2, day, taken FROM UNNEST($3::date[], $4::int4[]) AS d (day, taken)
         ON CONFLICT (merchant, campaign, day) DO UPDATE SET taken = EXCLUDED.taken",
    )
    .bind(merchant.as_str())
    .bind(campaign)
    .bind(days.keys().map(|d| d.to_sqlx()).bind_iter())
    .bind(days.values().map(|taken| i32::try_from(*taken).unwrap_or(i32::MAX)).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// What became of a step that a reminder was to carry, or to speak for.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Settled {
    pub case_id: Uuid,
    pub step: String,
    pub reminder_id: Uuid,
    pub outcome: &'static str,
    pub reason: String,
    pub settled_at: Timestamp,
    /// The payer's day on which its reminder went out, or may have: what follows counts from it.
    pub sent_on: Option<Date>,
}

/// Settles steps. What is settled stays so; only what is unknown may become known later.
pub async fn settle(tx: &mut PgConnection, settled: &[Settled]) -> sqlx::Result<()> {
    if settled.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE scheduler.decision AS d
         SET outcome = n.outcome, reason = n.reason, settled_at = n.settled_at,
             decided_on = coalesce(n.sent_on, d.decided_on)
         FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::date[])
              AS n (case_id, step, reminder_id, outcome, reason, settled_at, sent_on)
         WHERE d.case_id = n.case_id AND d.step = n.step AND d.reminder_id = n.reminder_id
           AND (d.outcome IN ('requested', 'merged') OR d.outcome = 'unknown' AND n.outcome <> 'unknown')",
    )
    .bind(settled.iter().map(|s| s.case_id).bind_iter())
    .bind(settled.iter().map(|s| &s.step).bind_iter())
    .bind(settled.iter().map(|s| s.reminder_id).bind_iter())
    .bind(settled.iter().map(|s| s.outcome).bind_iter())
    .bind(settled.iter().map(|s| &s.reason).bind_iter())
    .bind(settled.iter().map(|s| s.settled_at.to_sqlx()).bind_iter())
    .bind(settled.iter().map(|s| s.sent_on.map(ToSqlx::to_sqlx)).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes what nobody asks for any more: up to `limit` reminders and deferrals each that are older than `before`, and days
/// of ramps that have passed. Returns how many of a kind went.
pub async fn trim(db: impl PgExecutor<'_>, before: Timestamp, today: Date, limit: i64) -> sqlx::Result<u64> {
    // What the largest of them deleted: as long as that is a whole chunk, there is more.
    let most: i64 = sqlx::query_scalar(
        "WITH reminders AS (
             DELETE FROM scheduler.reminder WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM scheduler.reminder WHERE on_day < ($1 AT TIME ZONE 'UTC')::date LIMIT $3)) RETURNING 1
         ), ramps AS (
             DELETE FROM scheduler.ramp WHERE day < $2::date - 7 RETURNING 1
         ), deferrals AS (
             DELETE FROM scheduler.deferral WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM scheduler.deferral WHERE deferred_at < $1 LIMIT $3)) RETURNING 1
         )
         SELECT greatest((SELECT count(*) FROM reminders), (SELECT count(*) FROM deferrals))",
    )
    .bind(before.to_sqlx())
    .bind(today.to_sqlx())
    .bind(limit)
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(most).unwrap_or(0))
}

/// The fingerprint of the time zone data that timers were derived from last.
pub async fn zones(db: impl PgExecutor<'_>) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT fingerprint FROM scheduler.zones").fetch_optional(db).await
}

/// Keeps the fingerprint of the time zone data that timers are derived from now.
pub async fn save_zones(db: impl PgExecutor<'_>, fingerprint: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.zones (fingerprint) VALUES ($1)
         ON CONFLICT (only_row) DO UPDATE SET fingerprint = EXCLUDED.fingerprint",
    )
    .bind(fingerprint)
    .execute(db)
    .await
    .map(drop)
}

/// The next customers with open cases, in the database's order: the last one is where to go on.
pub async fn customers_after(
    tx: &mut PgConnection,
    after: Option<&CustomerKey>,
    limit: i64,
) -> sqlx::Result<Vec<CustomerKey>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT merchant, customer FROM scheduler.dunning_case
         WHERE closed_at IS NULL AND ($1::text IS NULL OR (merchant, customer) > ($1, $2))
         ORDER BY merchant, customer LIMIT $3",
    )
    .bind(after.map(|k| k.0.as_str()))
    .bind(after.map(|k| k.1.as_str()))
    .bind(limit)
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(m, c)| customer_key(m, c)).collect()
}

/// How many timers are due, and since when the oldest is.
pub async fn due_backlog(db: impl PgExecutor<'_>, now: Timestamp) -> sqlx::Result<(i64, Option<Timestamp>)> {
    let (due, oldest): (i64, Option<jiff_sqlx::Timestamp>) =
        sqlx::query_as("SELECT count(*), min(due_at) FROM scheduler.timer WHERE due_at <= $1")
            .bind(now.to_sqlx())
            .fetch_one(db)
            .await?;
    Ok((due, oldest.map(|t| t.to_jiff())))
}

/// What the scheduler knows of an invoice: its cases, their steps, and what comes next.
pub async fn story(db: impl PgExecutor<'_>, merchant: &str, invoice: &str) -> sqlx::Result<Vec<StoryLine>> {
    type Row = (jiff_sqlx::Timestamp, String, String, Option<Uuid>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "WITH mine AS (SELECT * FROM scheduler.dunning_case WHERE merchant = $1 AND invoice = $2)
         SELECT opened_at, 'opened case of epoch ' || epoch,
                CASE WHEN campaign = '' THEN 'no campaign: ' || chosen_by
                     ELSE 'campaign ' || campaign || '@' || campaign_version || ', chosen by ' || chosen_by END
                || coalesce(', begins on ' || not_before, '')
                || coalesce(', drawn as ' || replace(enrolment ->> 'group', '_', ' '), ''),
                id, opened_traceparent FROM mine
         UNION ALL
         SELECT overdue_told_at, 'told that the invoice is overdue', '', id, overdue_traceparent
         FROM mine WHERE overdue_told_at IS NOT NULL
         UNION ALL
         SELECT d.decided_at,
                'decided step ' || d.step || ': ' || CASE WHEN d.settled_at IS NULL THEN d.outcome ELSE 'requested' END,
                concat_ws(', ', CASE WHEN d.settled_at IS NULL THEN nullif(d.reason, '') END, nullif(d.rule, ''),
                          'segment ' || d.segment, d.inputs #>> '{chosen,words}'),
                d.reminder_id, d.traceparent
         FROM scheduler.decision AS d JOIN mine ON mine.id = d.case_id
         UNION ALL
         SELECT d.settled_at, 'step ' || d.step || ' ended: ' || d.outcome, d.reason, d.reminder_id, d.traceparent
         FROM scheduler.decision AS d JOIN mine ON mine.id = d.case_id WHERE d.settled_at IS NOT NULL
         UNION ALL
         SELECT f.deferred_at, 'deferred ' || array_to_string(f.steps, ', '),
                f.reason || ' (' || f.rule || ') '
                || coalesce('until ' || to_char(f.until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC'),
                            'until there is news, or a person ends it'),
                f.case_id, NULL
         FROM scheduler.deferral AS f JOIN mine ON mine.id = f.case_id
         UNION ALL
         SELECT h.placed_at, CASE h.kind WHEN 'promise' THEN 'promise to pay' WHEN 'manual' THEN 'hold' ELSE 'hold (' || h.kind || ')' END || ' ' || h.id
                             || coalesce(' until ' || h.until, ''), h.reason || ', by ' || h.placed_by, NULL, NULL
         FROM scheduler.hold AS h
         WHERE EXISTS (SELECT FROM mine WHERE mine.merchant = h.merchant AND mine.customer = h.customer
                       AND (h.invoice IS NULL OR h.invoice = mine.invoice))
         UNION ALL
         SELECT h.released_at, 'released hold ' || h.id,
                concat_ws(', ', nullif(h.release_reason, ''), 'by ' || h.released_by), NULL, NULL
         FROM scheduler.hold AS h
         WHERE h.released_at IS NOT NULL
           AND EXISTS (SELECT FROM mine WHERE mine.merchant = h.merchant AND mine.customer = h.customer
                       AND (h.invoice IS NULL OR h.invoice = mine.invoice))
         UNION ALL
         SELECT m.migrated_at, 'migrated to campaign version ' || m.to_version,
                'from ' || m.from_version || ', by ' || m.migrated_by, m.case_id, NULL
         FROM scheduler.migration AS m JOIN mine ON mine.id = m.case_id
         UNION ALL
         SELECT ended_at, 'sequence of epoch ' || epoch || ' ended', ended_as, id, NULL FROM mine
         WHERE ended_at IS NOT NULL
         UNION ALL
         SELECT closed_at, 'closed case of epoch ' || epoch, closed_reason, id,
                closed_traceparent FROM mine WHERE closed_at IS NOT NULL
         UNION ALL
         SELECT s.at, 'decided step ' || s.step || ': ' || s.outcome, s.reason || ', ' || s.rule, NULL, NULL
         FROM scheduler.step_decision AS s
         WHERE s.merchant = $1 AND s.invoice = $2 AND s.outcome = 'cancelled' AND s.rule = 'invoice.status'
         UNION ALL
         SELECT armed_at, 'will look at the case again', '', id, NULL FROM mine WHERE armed_at IS NOT NULL
         ORDER BY 1",
    )
    .bind(merchant)
    .bind(invoice)
    .fetch_all(db)
    .await?;
    let line = |(at, what, detail, id, traceparent): Row| StoryLine {
        at: at.to_jiff(),
        by: "scheduler",
        what,
        detail,
        id: id.map(|id| id.to_string()),
        trace_id: traceparent.as_deref().and_then(bus::trace::trace_id).map(str::to_owned),
    };
    Ok(rows.into_iter().map(line).collect())
}

/// A case as history: what a campaign would have done about it can be computed again.
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct PastCase {
    pub customer: String,
    pub invoice: String,
    pub epoch: i32,
    pub opened_at: Timestamp,
    pub closed_at: Option<Timestamp>,
    /// Empty while it is open.
    pub closed_reason: String,
    pub due_on: Option<Date>,
    pub currency: Currency,
    /// What is owed now: nothing, once it is paid.
    pub open_minor: i64,
    pub country: String,
}

/// All cases of a merchant, closed ones too, in the order in which they were opened.
pub async fn past_cases(db: impl PgExecutor<'_>, merchant: &str) -> sqlx::Result<Vec<PastCase>> {
    type Row = (
        String,
        String,
        i32,
        jiff_sqlx::Timestamp,
        Option<jiff_sqlx::Timestamp>,
        String,
        Option<jiff_sqlx::Date>,
        String,
        i64,
        String,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.customer, c.invoice, c.epoch, c.opened_at, c.closed_at, coalesce(c.closed_reason, ''), i.due_on,
                i.currency, i.open_minor, coalesce(u.country, '')
         FROM scheduler.dunning_case AS c
         JOIN scheduler.invoice AS i ON i.merchant = c.merchant AND i.invoice = c.invoice
         LEFT JOIN scheduler.customer AS u ON u.merchant = c.merchant AND u.customer = c.customer
         WHERE c.merchant = $1
         ORDER BY c.opened_at, c.id",
    )
    .bind(merchant)
    .fetch_all(db)
    .await?;
    let case = |row: Row| {
        let (customer, invoice, epoch, opened_at, closed_at, closed_reason, due_on, currency, open_minor, country) =
            row;
        Ok(PastCase {
            customer,
            invoice,
            epoch,
            opened_at: opened_at.to_jiff(),
            closed_at: closed_at.map(|at| at.to_jiff()),
            closed_reason,
            due_on: due_on.map(|on| on.to_jiff()),
            currency: stored("invoice.currency", &currency, Currency::try_new(&currency).ok())?,
            open_minor,
            country,
        })
    };
    rows.into_iter().map(case).collect()
}

/// The open cases of a merchant or of all, of a customer or of all, those of one customer after the other.
pub async fn open_case_ids(
    db: impl PgExecutor<'_>,
    merchant: Option<&str>,
    customer: Option<&str>,
) -> sqlx::Result<Vec<(String, String, Uuid)>> {
    sqlx::query_as(
        "SELECT merchant, customer, id FROM scheduler.dunning_case
         WHERE closed_at IS NULL AND ($1::text IS NULL OR merchant = $1) AND ($2::text IS NULL OR customer = $2)
         ORDER BY merchant, customer, id",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_all(db)
    .await
}

/// Everything that the scheduler keeps of a customer, as JSON.
pub async fn personal_data(db: impl PgExecutor<'_>, merchant: &str, customer: &str) -> sqlx::Result<serde_json::Value> {
    sqlx::query_scalar(
        "WITH mine AS (SELECT * FROM scheduler.dunning_case WHERE merchant = $1 AND customer = $2)
         SELECT jsonb_build_object(
             'customer', (SELECT jsonb_agg(to_jsonb(c) - 'outlook') FROM scheduler.customer AS c
                          WHERE c.merchant = $1 AND c.customer = $2),
             'invoices', (SELECT jsonb_agg(to_jsonb(i)) FROM scheduler.invoice AS i WHERE i.merchant = $1 AND i.customer = $2),
             'cases', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.opened_at) FROM mine AS c),
             'decisions', (SELECT jsonb_agg(to_jsonb(d) ORDER BY d.decided_at) FROM scheduler.decision AS d
                           WHERE d.case_id IN (SELECT id FROM mine)),
             'reminders', (SELECT jsonb_agg(to_jsonb(r)) FROM scheduler.reminder AS r
                           WHERE r.merchant = $1 AND r.customer = $2),
             'dead_ends', (SELECT jsonb_agg(e.channel ORDER BY e.channel) FROM scheduler.dead_end AS e
                           WHERE e.merchant = $1 AND e.customer = $2),
             'holds', (SELECT jsonb_agg(to_jsonb(h) ORDER BY h.placed_at) FROM scheduler.hold AS h
                       WHERE h.merchant = $1 AND h.customer = $2))",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_one(db)
    .await
}
