//! All SQL of the tracker. Every function takes the transaction.

use crate::domain::{Group, Outcomes, SegmentDelays, Share, Stats, StepReason, Week};
use crate::lift::{Drawn, Enrolled, Known, Message, Messages};
use events::Invoice;
use events::v1::ResponseKind;
use futures_util::TryStreamExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use jiff_sqlx::ToSqlx;
use kernel::{CustomerId, InvoiceId, Masked, MerchantId, Segment};
use payer::experiment::Group as Schedule;
use runtime::story::StoryLine;
use sqlx::postgres::PgBindIterExt;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool, Postgres, Transaction};
use std::collections::BTreeMap;
use uuid::Uuid;

/// An invoice of a merchant.
pub type InvoiceKey = (MerchantId, InvoiceId);

/// Writes invoices that are newer than what is known.
pub async fn upsert_invoices(tx: &mut PgConnection, invoices: &BTreeMap<InvoiceKey, Invoice>) -> sqlx::Result<()> {
    let invoices = || invoices.values();
    sqlx::query(
        "INSERT INTO tracker.invoice AS i
             (merchant, invoice, version, customer, epoch, status, number, currency, total_minor, due_on, closed_at,
              disputed, pay_url)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::int4[], $6::text[], $7::text[],
                              $8::text[], $9::int8[], $10::date[], $11::timestamptz[], $12::bool[], $13::text[])
         ON CONFLICT (merchant, invoice) DO UPDATE
         SET version = EXCLUDED.version, customer = EXCLUDED.customer, epoch = EXCLUDED.epoch, status = EXCLUDED.status,
             number = EXCLUDED.number, currency = EXCLUDED.currency, total_minor = EXCLUDED.total_minor,
             due_on = EXCLUDED.due_on, closed_at = EXCLUDED.closed_at, disputed = EXCLUDED.disputed,
             pay_url = EXCLUDED.pay_url
         WHERE i.version < EXCLUDED.version",
    )
    .bind(invoices().map(|i| i.merchant.as_str()).bind_iter())
    .bind(invoices().map(|i| i.invoice.as_str()).bind_iter())
    .bind(invoices().map(|i| i.version).bind_iter())
    .bind(invoices().map(|i| i.customer.as_str()).bind_iter())
    .bind(invoices().map(|i| i.epoch).bind_iter())
    .bind(invoices().map(|i| i.status.as_str()).bind_iter())
    .bind(invoices().map(|i| &i.number).bind_iter())
    .bind(invoices().map(|i| i.currency.to_string()).bind_iter())
    .bind(invoices().map(|i| i.total_minor).bind_iter())
    .bind(invoices().map(|i| i.due_on.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices().map(|i| i.closed_at.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices().map(|i| i.disputed).bind_iter())
    .bind(invoices().map(|i| i.pay_url.reveal()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Writes segments that are newer than what is known.
pub async fn upsert_segments(
    tx: &mut PgConnection,
    segments: &BTreeMap<(MerchantId, CustomerId), (i64, Segment)>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.customer AS c (merchant, customer, version, segment)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[])
         ON CONFLICT (merchant, customer) DO UPDATE SET version = EXCLUDED.version, segment = EXCLUDED.segment
         WHERE c.version < EXCLUDED.version",
    )
    .bind(segments.keys().map(|k| k.0.as_str()).bind_iter())
    .bind(segments.keys().map(|k| k.1.as_str()).bind_iter())
    .bind(segments.values().map(|s| s.0).bind_iter())
    .bind(segments.values().map(|s| s.1.as_str()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// An invoice that became overdue.
pub type Overdue = (String, String, i32, Timestamp);

/// Notes invoices that became overdue.
pub async fn insert_overdue(tx: &mut PgConnection, list: &[Overdue]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.overdue SELECT * FROM UNNEST($1::text[], $2::text[], $3::int4[], $4::timestamptz[])
         ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|o| &o.0).bind_iter())
    .bind(list.iter().map(|o| &o.1).bind_iter())
    .bind(list.iter().map(|o| o.2).bind_iter())
    .bind(list.iter().map(|o| o.3.to_sqlx()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// A step decided without a message of its own.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct StepRow {
    pub merchant: String,
    pub invoice: String,
    pub epoch: i32,
    pub step: String,
    pub outcome: &'static str,
    pub reason: String,
    pub rule: String,
    pub decided_at: Timestamp,
}

/// Notes steps.
pub async fn insert_steps(tx: &mut PgConnection, list: &[StepRow]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.step (merchant, invoice, epoch, step, outcome, reason, rule, decided_at)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::text[],
                              $8::timestamptz[])
         ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|s| &s.merchant).bind_iter())
    .bind(list.iter().map(|s| &s.invoice).bind_iter())
    .bind(list.iter().map(|s| s.epoch).bind_iter())
    .bind(list.iter().map(|s| &s.step).bind_iter())
    .bind(list.iter().map(|s| s.outcome).bind_iter())
    .bind(list.iter().map(|s| &s.reason).bind_iter())
    .bind(list.iter().map(|s| &s.rule).bind_iter())
    .bind(list.iter().map(|s| s.decided_at.to_sqlx()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// A sequence of reminders that ended while money was still owed.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct SequenceRow {
    pub merchant: String,
    pub invoice: String,
    pub epoch: i32,
    pub outcome: &'static str,
    pub campaign: String,
    pub ended_at: Timestamp,
    pub event: Uuid,
    pub traceparent: Option<String>,
}

/// Notes sequences that ended.
pub async fn insert_sequences(tx: &mut PgConnection, list: &[SequenceRow]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.sequence (merchant, invoice, epoch, outcome, campaign, ended_at, event, traceparent)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::timestamptz[], $7::uuid[],
                              $8::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|s| &s.merchant).bind_iter())
    .bind(list.iter().map(|s| &s.invoice).bind_iter())
    .bind(list.iter().map(|s| s.epoch).bind_iter())
    .bind(list.iter().map(|s| s.outcome).bind_iter())
    .bind(list.iter().map(|s| &s.campaign).bind_iter())
    .bind(list.iter().map(|s| s.ended_at.to_sqlx()).bind_iter())
    .bind(list.iter().map(|s| s.event).bind_iter())
    .bind(list.iter().map(|s| s.traceparent.as_ref()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Which schedule an invoice was drawn for.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct EnrolmentRow {
    pub merchant: String,
    pub invoice: String,
    pub epoch: i32,
    pub customer: String,
    pub campaign: String,
    pub campaign_version: String,
    pub schedule: Schedule,
    pub propensity: f64,
    pub segment: Segment,
    pub late: Option<f32>,
    pub due_on: Option<Date>,
    pub reminds_before_due: bool,
    pub arms: Vec<Drawn>,
    pub model: String,
    pub enrolled_at: Timestamp,
}

impl EnrolmentRow {
    /// The greatest of an invoice's epoch wins: the latest, and of two at the same moment always the same one.
    pub fn order(&self) -> (Timestamp, &str, &str) {
        (self.enrolled_at, &self.campaign, &self.campaign_version)
    }
}

const fn schedule_as_str(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Treated => "adaptive",
        Schedule::InvoiceHeldOut => "held_out_invoice",
        Schedule::CustomerHeldOut => "held_out_customer",
    }
}

/// Writes enrolments that are later than what is known.
pub async fn upsert_enrolments(tx: &mut PgConnection, list: &[EnrolmentRow]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.enrolment AS e
             (merchant, invoice, epoch, customer, campaign, campaign_version, schedule, propensity, segment, late, due_on,
              reminds_before_due, arms, model, enrolled_at)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::text[],
                              $8::float8[], $9::text[], $10::float4[], $11::date[], $12::bool[], $13::jsonb[],
                              $14::text[], $15::timestamptz[])
         ON CONFLICT (merchant, invoice, epoch) DO UPDATE
         SET customer = EXCLUDED.customer, campaign = EXCLUDED.campaign, campaign_version = EXCLUDED.campaign_version,
             schedule = EXCLUDED.schedule, propensity = EXCLUDED.propensity, segment = EXCLUDED.segment,
             late = EXCLUDED.late, due_on = EXCLUDED.due_on, reminds_before_due = EXCLUDED.reminds_before_due,
             arms = EXCLUDED.arms, model = EXCLUDED.model, enrolled_at = EXCLUDED.enrolled_at
         WHERE (e.enrolled_at, e.campaign COLLATE \"C\", e.campaign_version COLLATE \"C\")
             < (EXCLUDED.enrolled_at, EXCLUDED.campaign, EXCLUDED.campaign_version)",
    )
    .bind(list.iter().map(|e| &e.merchant).bind_iter())
    .bind(list.iter().map(|e| &e.invoice).bind_iter())
    .bind(list.iter().map(|e| e.epoch).bind_iter())
    .bind(list.iter().map(|e| &e.customer).bind_iter())
    .bind(list.iter().map(|e| &e.campaign).bind_iter())
    .bind(list.iter().map(|e| &e.campaign_version).bind_iter())
    .bind(list.iter().map(|e| schedule_as_str(e.schedule)).bind_iter())
    .bind(list.iter().map(|e| e.propensity).bind_iter())
    .bind(list.iter().map(|e| e.segment.as_str()).bind_iter())
    .bind(list.iter().map(|e| e.late).bind_iter())
    .bind(list.iter().map(|e| e.due_on.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(list.iter().map(|e| e.reminds_before_due).bind_iter())
    .bind(list.iter().map(|e| Json(&e.arms)).bind_iter())
    .bind(list.iter().map(|e| &e.model).bind_iter())
    .bind(list.iter().map(|e| e.enrolled_at.to_sqlx()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// How a reminder ended.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct ReminderRow {
    pub id: Uuid,
    pub merchant: String,
    pub customer: String,
    pub campaign: String,
    pub step: String,
    pub segment: Segment,
    pub outcome: &'static str,
    pub reason: String,
    pub settled_at: Timestamp,
    /// Invoice, epoch and step of each line that went out.
    pub lines: Vec<(String, i32, String)>,
}

/// Notes how reminders ended. Only "sent" can still replace "unknown": it is the evidence.
pub async fn upsert_reminders(tx: &mut PgConnection, list: &[ReminderRow]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.reminder AS r (id, merchant, customer, campaign, step, segment, outcome, reason, settled_at)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                              $8::text[], $9::timestamptz[])
         ON CONFLICT (id) DO UPDATE
         SET outcome = EXCLUDED.outcome, reason = EXCLUDED.reason, settled_at = EXCLUDED.settled_at
         WHERE r.outcome = 'unknown' AND EXCLUDED.outcome <> 'unknown'",
    )
    .bind(list.iter().map(|r| r.id).bind_iter())
    .bind(list.iter().map(|r| &r.merchant).bind_iter())
    .bind(list.iter().map(|r| &r.customer).bind_iter())
    .bind(list.iter().map(|r| &r.campaign).bind_iter())
    .bind(list.iter().map(|r| &r.step).bind_iter())
    .bind(list.iter().map(|r| r.segment.as_str()).bind_iter())
    .bind(list.iter().map(|r| r.outcome).bind_iter())
    .bind(list.iter().map(|r| &r.reason).bind_iter())
    .bind(list.iter().map(|r| r.settled_at.to_sqlx()).bind_iter())
    .execute(&mut *tx)
    .await?;
    let lines: Vec<_> = list.iter().flat_map(|r| r.lines.iter().map(move |l| (r, l))).collect();
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO tracker.reminder_line (reminder, merchant, invoice, epoch, step)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::int4[], $5::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(lines.iter().map(|(r, _)| r.id).bind_iter())
    .bind(lines.iter().map(|(r, _)| &r.merchant).bind_iter())
    .bind(lines.iter().map(|(_, l)| &l.0).bind_iter())
    .bind(lines.iter().map(|(_, l)| l.1).bind_iter())
    .bind(lines.iter().map(|(_, l)| &l.2).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Notes what came back of reminders: (reminder, what, when). The first of a kind counts.
pub async fn insert_returned(tx: &mut PgConnection, list: &[(Uuid, &'static str, Timestamp)]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tracker.returned (reminder, what, at)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) ON CONFLICT DO NOTHING",
    )
    .bind(list.iter().map(|r| r.0).bind_iter())
    .bind(list.iter().map(|r| r.1).bind_iter())
    .bind(list.iter().map(|r| r.2.to_sqlx()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Where an invoice can be paid, and whether it still has to be.
#[derive(Debug, Clone)]
pub struct PayTarget {
    /// `open`, or how it ended.
    pub status: String,
    /// The processor's page; may be empty.
    pub pay_url: Masked<String>,
    /// For the page.
    pub number: String,
}

/// Where invoices can be paid: those of them that are known, by number.
pub async fn pay_targets(
    db: impl PgExecutor<'_>,
    merchant: &str,
    invoices: &[&str],
) -> sqlx::Result<Vec<(InvoiceId, PayTarget)>> {
    let rows: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT invoice, status, pay_url, number FROM tracker.invoice
         WHERE merchant = $1 AND invoice = ANY($2) ORDER BY number, invoice",
    )
    .bind(merchant)
    .bind(invoices)
    .fetch_all(db)
    .await?;
    let target = |(invoice, status, pay_url, number): (String, String, String, String)| {
        Some((invoice.parse().ok()?, PayTarget { status, pay_url: Masked::new(pay_url), number }))
    };
    Ok(rows.into_iter().filter_map(target).collect())
}

/// What a payer did.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Response<'a> {
    pub id: Uuid,
    pub merchant: &'a MerchantId,
    pub customer: &'a CustomerId,
    pub invoice: Option<&'a InvoiceId>,
    pub reminder: Uuid,
    pub kind: ResponseKind,
    pub responded_at: Timestamp,
}

/// Notes what a payer did; returns whether that is new.
pub async fn insert_response(tx: &mut PgConnection, response: &Response<'_>) -> sqlx::Result<bool> {
    let kind = match response.kind {
        ResponseKind::Unsubscribed => "unsubscribed",
        ResponseKind::VisitedPayPage | ResponseKind::Unspecified => "visited_pay_page",
    };
    let done = sqlx::query(
        "INSERT INTO tracker.response (id, merchant, customer, invoice, reminder, kind, responded_at, traceparent)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    )
    .bind(response.id)
    .bind(response.merchant.as_str())
    .bind(response.customer.as_str())
    .bind(response.invoice.map_or("", InvoiceId::as_str))
    .bind(response.reminder)
    .bind(kind)
    .bind(response.responded_at.to_sqlx())
    .bind(bus::trace::current())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What the figures are about.
#[derive(Debug, Clone)]
pub struct Query {
    /// The merchants, each with its zone's name: dates are civil there.
    pub merchants: Vec<(String, String)>,
    /// First day, inclusive.
    pub from: Date,
    /// Last day, inclusive.
    pub to: Date,
    /// Now.
    pub as_of: Timestamp,
}

impl Query {
    fn names(&self) -> impl Iterator<Item = &String> {
        self.merchants.iter().map(|(name, _)| name)
    }

    fn zones(&self) -> impl Iterator<Item = &String> {
        self.merchants.iter().map(|(_, zone)| zone)
    }
}

/// A transaction that sees one moment of the database: figures read in it fit together.
pub async fn snapshot(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await
}

/// All figures.
pub async fn stats(tx: &mut PgConnection, query: &Query) -> sqlx::Result<Stats> {
    let weeks = weeks(&mut *tx, query).await?;
    let on_time: i64 = weeks.iter().map(|w| w.on_time).sum();
    let fell_due: i64 = weeks.iter().map(|w| w.on_time + w.late + w.open).sum();
    let counts = counts(&mut *tx, query).await?;
    Ok(Stats {
        from: query.from,
        to: query.to,
        as_of: query.as_of,
        invoices: counts.0,
        on_time: Share::new(on_time, fell_due),
        became_overdue: counts.1,
        merged_steps: counts.2,
        skipped_steps: counts.3,
        suppressed_because_paid: counts.4,
        unsubscribed: counts.5,
        waiting_for_a_person: counts.6,
        step_reasons: step_reasons(&mut *tx, query).await?,
        by_merchant: groups(&mut *tx, query, "r.merchant", "r.merchant").await?,
        by_step: groups(&mut *tx, query, "r.step", "l.step").await?,
        by_segment: in_order(groups(&mut *tx, query, "r.segment", "r.segment").await?),
        delays_by_segment: delays_by_segment(&mut *tx, query).await?,
        weeks,
    })
}

/// Invoices that fell due, by week. A due date has passed when its day is over in the merchant's zone.
async fn weeks(tx: &mut PgConnection, query: &Query) -> sqlx::Result<Vec<Week>> {
    let rows: Vec<(jiff_sqlx::Date, i64, i64, i64)> = sqlx::query_as(
        "SELECT date_trunc('week', i.due_on)::date AS monday,
                count(*) FILTER (WHERE i.status = 'paid' AND (i.closed_at AT TIME ZONE m.zone)::date <= i.due_on),
                count(*) FILTER (WHERE i.status = 'paid' AND (i.closed_at AT TIME ZONE m.zone)::date > i.due_on),
                count(*) FILTER (WHERE i.status <> 'paid')
         FROM tracker.invoice AS i JOIN UNNEST($1::text[], $2::text[]) AS m (merchant, zone) USING (merchant)
         WHERE i.due_on BETWEEN $3 AND $4 AND i.due_on < ($5 AT TIME ZONE m.zone)::date AND i.status <> 'void'
         GROUP BY 1 ORDER BY 1",
    )
    .bind(query.names().bind_iter())
    .bind(query.zones().bind_iter())
    .bind(query.from.to_sqlx())
    .bind(query.to.to_sqlx())
    .bind(query.as_of.to_sqlx())
    .fetch_all(tx)
    .await?;
    let week = |(monday, on_time, late, open): (jiff_sqlx::Date, i64, i64, i64)| Week {
        monday: monday.to_jiff(),
        on_time,
        late,
        open,
    };
    Ok(rows.into_iter().map(week).collect())
}

/// Groups by segment, from those of whom nothing is known to those at risk.
fn in_order(mut segments: Vec<Group>) -> Vec<Group> {
    segments.sort_by_key(|group| Segment::parse(&group.key));
    segments
}

/// How late the invoices of [`weeks`] were, for each segment that customers are in now.
async fn delays_by_segment(tx: &mut PgConnection, query: &Query) -> sqlx::Result<Vec<SegmentDelays>> {
    let rows: Vec<(String, i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT segment, count(*) FILTER (WHERE days <= 0), count(*) FILTER (WHERE days BETWEEN 1 AND 7),
                count(*) FILTER (WHERE days BETWEEN 8 AND 30), count(*) FILTER (WHERE days > 30),
                count(*) FILTER (WHERE days IS NULL)
         FROM (
             SELECT coalesce(c.segment, 'new') AS segment,
                    CASE WHEN i.status = 'paid' THEN (i.closed_at AT TIME ZONE m.zone)::date - i.due_on END AS days
             FROM tracker.invoice AS i
             JOIN UNNEST($1::text[], $2::text[]) AS m (merchant, zone) USING (merchant)
             LEFT JOIN tracker.customer AS c USING (merchant, customer)
             WHERE i.due_on BETWEEN $3 AND $4 AND i.due_on < ($5 AT TIME ZONE m.zone)::date AND i.status <> 'void'
         ) AS due
         GROUP BY segment",
    )
    .bind(query.names().bind_iter())
    .bind(query.zones().bind_iter())
    .bind(query.from.to_sqlx())
    .bind(query.to.to_sqlx())
    .bind(query.as_of.to_sqlx())
    .fetch_all(tx)
    .await?;
    let of = |segment: Segment| {
        let row = rows.iter().find(|row| row.0 == segment.as_str());
        let (on_time, a_week, a_month, later, open) = row.map_or((0, 0, 0, 0, 0), |r| (r.1, r.2, r.3, r.4, r.5));
        SegmentDelays { segment: segment.as_str().to_owned(), on_time, a_week, a_month, later, open }
    };
    Ok(Segment::ALL.into_iter().map(of).collect())
}

/// Invoices in all; overdue, merged, skipped, suppressed because paid and unsubscribed in the period; waiting for a person
/// now.
async fn counts(tx: &mut PgConnection, query: &Query) -> sqlx::Result<(i64, i64, i64, i64, i64, i64, i64)> {
    let (begin, end) = period(query);
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM tracker.invoice WHERE merchant = ANY($1)),
                (SELECT count(*) FROM tracker.overdue WHERE merchant = ANY($1) AND told_at >= $2 AND told_at < $3),
                (SELECT count(*) FROM tracker.step
                 WHERE merchant = ANY($1) AND outcome = 'merged' AND decided_at >= $2 AND decided_at < $3),
                (SELECT count(*) FROM tracker.step
                 WHERE merchant = ANY($1) AND outcome = 'skipped' AND decided_at >= $2 AND decided_at < $3),
                (SELECT count(*) FROM tracker.reminder
                 WHERE merchant = ANY($1) AND outcome = 'suppressed' AND reason = 'paid'
                   AND settled_at >= $2 AND settled_at < $3),
                (SELECT count(*) FROM tracker.response
                 WHERE merchant = ANY($1) AND kind = 'unsubscribed' AND responded_at >= $2 AND responded_at < $3),
                (SELECT count(*) FROM tracker.sequence AS s JOIN tracker.invoice AS i USING (merchant, invoice, epoch)
                 WHERE s.merchant = ANY($1) AND s.outcome = 'hand_over' AND i.status = 'open')",
    )
    .bind(query.names().bind_iter())
    .bind(begin.to_sqlx())
    .bind(end.to_sqlx())
    .fetch_one(tx)
    .await
}

/// Why steps led to no message of their own, most often first.
async fn step_reasons(tx: &mut PgConnection, query: &Query) -> sqlx::Result<Vec<StepReason>> {
    let (begin, end) = period(query);
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT outcome, reason, rule, count(*) FROM tracker.step
         WHERE merchant = ANY($1) AND decided_at >= $2 AND decided_at < $3
         GROUP BY outcome, reason, rule ORDER BY count(*) DESC, outcome, reason, rule",
    )
    .bind(query.names().bind_iter())
    .bind(begin.to_sqlx())
    .bind(end.to_sqlx())
    .fetch_all(tx)
    .await?;
    let reason = |(outcome, reason, rule, count)| StepReason { outcome, reason, rule, count };
    Ok(rows.into_iter().map(reason).collect())
}

/// Figures by an attribute of reminders; of several invoices in one message each counts for its own step.
///
/// `by` and `line_by` are column names of ours, never input.
async fn groups(tx: &mut PgConnection, query: &Query, by: &str, line_by: &str) -> sqlx::Result<Vec<Group>> {
    type Row = (String, i64, i64, i64, i64, i64, i64, i64, i64, i64);
    let (begin, end) = period(query);
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "WITH mine AS (
             SELECT * FROM tracker.reminder
             WHERE merchant = ANY($1) AND settled_at >= $2 AND settled_at < $3
         ), outcomes AS (
             SELECT {by} AS key,
                    count(*) FILTER (WHERE r.outcome = 'sent')       AS sent,
                    count(*) FILTER (WHERE r.outcome = 'suppressed') AS suppressed,
                    count(*) FILTER (WHERE r.outcome = 'failed')     AS failed,
                    count(*) FILTER (WHERE r.outcome = 'unknown')    AS unknown
             FROM mine AS r GROUP BY 1
         ), paid AS (
             SELECT {line_by} AS key,
                    count(*) FILTER (WHERE i.status = 'paid' AND i.epoch = l.epoch
                                       AND i.closed_at > r.settled_at AND i.closed_at <= r.settled_at + interval '7 days') AS soon,
                    count(*) FILTER (WHERE r.settled_at + interval '7 days' <= $4
                                        OR i.status = 'paid' AND i.epoch = l.epoch AND i.closed_at > r.settled_at) AS judged
             FROM mine AS r
             JOIN tracker.reminder_line AS l ON l.reminder = r.id
             JOIN tracker.invoice AS i ON i.merchant = l.merchant AND i.invoice = l.invoice
             WHERE r.outcome = 'sent'
             GROUP BY 1
         ), visits AS (
             SELECT {by} AS key, count(*) AS visits
             FROM mine AS r JOIN tracker.response AS v ON v.reminder = r.id AND v.kind = 'visited_pay_page'
             GROUP BY 1
         ), returned AS (
             SELECT {by} AS key, count(*) FILTER (WHERE b.what = 'hard') AS bounced,
                    count(*) FILTER (WHERE b.what = 'complained') AS complained
             FROM mine AS r JOIN tracker.returned AS b ON b.reminder = r.id
             WHERE r.outcome = 'sent'
             GROUP BY 1
         )
         SELECT key, coalesce(sent, 0), coalesce(suppressed, 0), coalesce(failed, 0), coalesce(unknown, 0),
                coalesce(bounced, 0), coalesce(complained, 0), coalesce(soon, 0), coalesce(judged, 0), coalesce(visits, 0)
         FROM outcomes FULL JOIN paid USING (key) FULL JOIN visits USING (key) FULL JOIN returned USING (key)
         ORDER BY key"
    )))
    .bind(query.names().bind_iter())
    .bind(begin.to_sqlx())
    .bind(end.to_sqlx())
    .bind(query.as_of.to_sqlx())
    .fetch_all(tx)
    .await?;
    let group = |(key, sent, suppressed, failed, unknown, bounced, complained, soon, judged, visits): Row| {
        let reminders = Outcomes { sent, suppressed, failed, unknown, bounced, complained };
        Group {
            key,
            reminders,
            delivery_rate: reminders.delivery_rate(),
            bounce_rate: reminders.bounce_rate(),
            complaint_rate: reminders.complaint_rate(),
            paid_within_7_days: Share::new(soon, judged),
            visits,
        }
    };
    Ok(rows.into_iter().map(group).collect())
}

/// The period in UTC days: events of one day are not torn apart by the zones of several merchants.
fn period(query: &Query) -> (Timestamp, Timestamp) {
    let midnight = |date: Date| date.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp());
    let after = query.to.checked_add(1.day()).unwrap_or(query.to);
    (midnight(query.from).unwrap_or(Timestamp::MIN), midnight(after).unwrap_or(Timestamp::MAX))
}

/// Whose lift, in which campaign.
#[derive(Debug, Clone)]
pub struct LiftQuery {
    /// The merchant.
    pub merchant: MerchantId,
    /// Its zone: dates are civil there.
    pub zone: TimeZone,
    /// The zone's name.
    pub zone_name: String,
    /// Only this campaign.
    pub campaign: Option<String>,
}

/// The campaigns in which invoices were ever enrolled. Here as in the following: in their first epoch. What is owed again after
/// its money was taken back was due long before, and the invoice is one, not two.
pub async fn enrolled_campaigns(tx: &mut PgConnection, merchant: &MerchantId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT DISTINCT campaign FROM tracker.enrolment WHERE merchant = $1 AND epoch = 1 ORDER BY campaign",
    )
    .bind(merchant.as_str())
    .fetch_all(tx)
    .await
}

/// The messages about a merchant's enrolled invoices, by invoice. Apart from [`enrolled`]: joined there, they would have to be sorted on disk,
/// or, as long as the planner knows nothing of young tables, looked for one by one.
pub async fn messages(tx: &mut PgConnection, query: &LiftQuery) -> sqlx::Result<Messages> {
    let mut rows = sqlx::query_as::<_, (String, jiff_sqlx::Date, bool)>(
        "SELECT l.invoice, (r.settled_at AT TIME ZONE $2)::date, v.id IS NOT NULL
         FROM tracker.reminder_line AS l
         JOIN tracker.reminder AS r ON r.id = l.reminder
         -- A customer unsubscribes once.
         LEFT JOIN tracker.response AS v ON v.merchant = $1 AND v.reminder = l.reminder AND v.kind = 'unsubscribed'
         WHERE l.merchant = $1 AND l.epoch = 1
           AND l.invoice IN (SELECT e.invoice FROM tracker.enrolment AS e
                             WHERE e.merchant = $1 AND e.epoch = 1 AND ($3::text IS NULL OR e.campaign = $3))",
    )
    .bind(query.merchant.as_str())
    .bind(&query.zone_name)
    .bind(&query.campaign)
    .fetch(tx);
    let mut messages = Messages::new();
    while let Some((invoice, sent_on, opted_out)) = rows.try_next().await? {
        messages.entry(invoice).or_default().push(Message { sent_on: sent_on.to_jiff(), opted_out });
    }
    Ok(messages)
}

#[derive(FromRow)]
struct EnrolledRow {
    invoice: String,
    customer: String,
    schedule: String,
    propensity: f64,
    segment: String,
    late: Option<f32>,
    enrolled_on: jiff_sqlx::Date,
    due_on: Option<jiff_sqlx::Date>,
    reminds_before_due: bool,
    arms: Json<Vec<Drawn>>,
    known_epoch: Option<i32>,
    status: Option<String>,
    disputed: Option<bool>,
    paid_on: Option<jiff_sqlx::Date>,
}

/// Hands out enrolled invoices with what is known of them, always in the same order; never all at once.
pub async fn enrolled(tx: &mut PgConnection, query: &LiftQuery, mut each: impl FnMut(Enrolled)) -> sqlx::Result<()> {
    let mut rows = sqlx::query_as::<_, EnrolledRow>(
        "SELECT e.invoice, e.customer, e.schedule, e.propensity, e.segment, e.late,
                (e.enrolled_at AT TIME ZONE $2)::date AS enrolled_on, e.due_on, e.reminds_before_due, e.arms,
                i.epoch AS known_epoch, i.status, i.disputed,
                CASE WHEN i.status = 'paid' THEN (i.closed_at AT TIME ZONE $2)::date END AS paid_on
         FROM tracker.enrolment AS e LEFT JOIN tracker.invoice AS i USING (merchant, invoice)
         WHERE e.merchant = $1 AND e.epoch = 1 AND ($3::text IS NULL OR e.campaign = $3)
         ORDER BY e.merchant, e.invoice",
    )
    .bind(query.merchant.as_str())
    .bind(&query.zone_name)
    .bind(&query.campaign)
    .fetch(tx);
    while let Some(row) = rows.try_next().await? {
        each(row.read()?);
    }
    Ok(())
}

impl EnrolledRow {
    fn read(self) -> sqlx::Result<Enrolled> {
        const SCHEDULES: [Schedule; 3] = [Schedule::Treated, Schedule::InvoiceHeldOut, Schedule::CustomerHeldOut];
        let schedule = SCHEDULES.into_iter().find(|schedule| schedule_as_str(*schedule) == self.schedule);
        let known = self.known_epoch.zip(self.status).zip(self.disputed);
        Ok(Enrolled {
            group: stored("enrolment.schedule", &self.schedule, schedule)?,
            segment: stored("enrolment.segment", &self.segment, Segment::parse(&self.segment))?,
            invoice: self.invoice,
            customer: self.customer,
            propensity: self.propensity,
            late: self.late,
            enrolled_on: self.enrolled_on.to_jiff(),
            due_on: self.due_on.map(jiff_sqlx::Date::to_jiff),
            reminds_before_due: self.reminds_before_due,
            arms: self.arms.0,
            known: known.map(|((epoch, status), disputed)| Known {
                epoch,
                status,
                disputed,
                paid_on: self.paid_on.map(jiff_sqlx::Date::to_jiff),
            }),
        })
    }
}

fn stored<T>(column: &str, text: &str, value: Option<T>) -> sqlx::Result<T> {
    value.ok_or_else(|| sqlx::Error::Decode(format!("tracker.{column}: {text:?} is not valid").into()))
}

/// The latest things that happened: when, what, about which invoice or customer of which merchant.
pub async fn latest(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<(Timestamp, String, String, String)>> {
    let rows: Vec<(jiff_sqlx::Timestamp, String, String, String)> = sqlx::query_as(
        "(SELECT settled_at, 'reminder ' || outcome || ' (' || step || ')', merchant, customer
          FROM tracker.reminder ORDER BY settled_at DESC LIMIT $1)
         UNION ALL
         (SELECT closed_at, 'invoice paid', merchant, invoice
          FROM tracker.invoice WHERE status = 'paid' ORDER BY closed_at DESC LIMIT $1)
         UNION ALL
         (SELECT responded_at, replace(kind, '_', ' '), merchant, customer
          FROM tracker.response ORDER BY responded_at DESC LIMIT $1)
         UNION ALL
         (SELECT ended_at, 'sequence ended: ' || replace(outcome, '_', ' '), merchant, invoice
          FROM tracker.sequence ORDER BY ended_at DESC LIMIT $1)
         ORDER BY 1 DESC LIMIT $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|(at, what, merchant, about)| (at.to_jiff(), what, merchant, about)).collect())
}

/// What the tracker knows of an invoice: what its payer did, and who goes on after the last reminder.
pub async fn story(db: impl PgExecutor<'_>, merchant: &str, invoice: &str) -> sqlx::Result<Vec<StoryLine>> {
    type Row = (jiff_sqlx::Timestamp, String, String, Uuid, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT responded_at, 'payer ' || replace(kind, '_', ' '), '', reminder, traceparent
         FROM tracker.response WHERE merchant = $1 AND invoice = $2
         UNION ALL
         SELECT ended_at, 'sequence of epoch ' || epoch || ' ended: ' || outcome, 'campaign ' || campaign, event, traceparent
         FROM tracker.sequence WHERE merchant = $1 AND invoice = $2
         ORDER BY 1",
    )
    .bind(merchant)
    .bind(invoice)
    .fetch_all(db)
    .await?;
    let line = |(at, what, detail, id, traceparent): Row| StoryLine {
        at: at.to_jiff(),
        by: "tracker",
        what,
        detail,
        id: Some(id.to_string()),
        trace_id: traceparent.as_deref().and_then(bus::trace::trace_id).map(str::to_owned),
    };
    Ok(rows.into_iter().map(line).collect())
}

/// Everything that the tracker keeps of a customer, as JSON.
pub async fn personal_data(db: impl PgExecutor<'_>, merchant: &str, customer: &str) -> sqlx::Result<serde_json::Value> {
    sqlx::query_scalar(
        "SELECT jsonb_build_object(
             'invoices', (SELECT jsonb_agg(to_jsonb(i)) FROM tracker.invoice AS i WHERE i.merchant = $1 AND i.customer = $2),
             'reminders', (SELECT jsonb_agg(to_jsonb(r) ORDER BY r.settled_at) FROM tracker.reminder AS r
                           WHERE r.merchant = $1 AND r.customer = $2),
             'responses', (SELECT jsonb_agg(to_jsonb(v) ORDER BY v.responded_at) FROM tracker.response AS v
                           WHERE v.merchant = $1 AND v.customer = $2))",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_one(db)
    .await
}
