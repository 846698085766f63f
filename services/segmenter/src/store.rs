//! All SQL of the segmenter. Every function takes the transaction. Invoices are locked before payers and payers before
//! portfolio weeks, each in key order; the columns compare byte by byte, as the keys do.

use crate::domain::{Account, PayerKey, PoolKey, Settlement, Sighting};
use crate::portfolio::KEEP_WEEKS;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use kernel::{CustomerId, MerchantId};
use payer::bins::BINS;
use payer::estimator::Open;
use payer::segment::SegmentKey;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::BTreeMap;

/// What was known of an invoice before.
#[derive(Debug)]
pub struct Before {
    /// Whose behaviour it showed.
    pub customer: CustomerId,
    /// What it said of it, if it was settled.
    pub settlement: Option<Settlement>,
    /// When it was due, if it counted as unpaid from then on.
    pub open_until: Option<Date>,
}

/// An invoice that was written, and may have changed something: its place among those that were given, and what was known.
#[derive(Debug)]
pub struct Written {
    /// The place.
    pub n: usize,
    /// What was known; `None` if nothing was.
    pub before: Option<Before>,
    /// Whether its dates turned out to be at fault.
    pub is_newly_faulty: bool,
}

#[derive(FromRow)]
struct WrittenRow {
    merchant: String,
    invoice: String,
    customer: Option<String>,
    due_on: Option<jiff_sqlx::Date>,
    paid_on: Option<jiff_sqlx::Date>,
    open: Option<bool>,
    settled: Option<bool>,
    segment: Option<i16>,
    is_newly_faulty: bool,
}

/// Writes invoices (in key order, each once) that are newer than what is known. Returns those of them that may have changed
/// something about a customer: an invoice that is new, or still open, has not.
pub async fn upsert_invoices(tx: &mut PgConnection, invoices: &[Sighting]) -> sqlx::Result<Vec<Written>> {
    let rows: Vec<WrittenRow> = sqlx::query_as(
        "WITH written AS (
             INSERT INTO segmenter.invoice AS i
                 (merchant, invoice, version, customer, issued_on, due_on, paid_on, open, settled, segment, fault)
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::date[], $6::date[], $7::date[],
                                  $8::bool[], $9::bool[], $10::int2[], $11::text[])
             ON CONFLICT (merchant, invoice) DO UPDATE
             SET version = EXCLUDED.version, customer = EXCLUDED.customer, issued_on = EXCLUDED.issued_on,
                 due_on = EXCLUDED.due_on, paid_on = EXCLUDED.paid_on, open = EXCLUDED.open,
                 settled = EXCLUDED.settled, segment = EXCLUDED.segment, fault = EXCLUDED.fault
             WHERE i.version < EXCLUDED.version
             RETURNING WITH (OLD AS o, NEW AS n)
                 n.merchant, n.invoice, o.customer, o.due_on, o.paid_on, o.open, o.settled, o.segment,
                 n.settled AS settled_now, n.fault <> '' AND o.fault IS DISTINCT FROM n.fault AS is_newly_faulty
         )
         SELECT merchant, invoice, customer, due_on, paid_on, open, settled, segment, is_newly_faulty
         FROM written WHERE settled_now OR settled OR open OR is_newly_faulty",
    )
    .bind(invoices.iter().map(|i| i.merchant.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.invoice.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.version).bind_iter())
    .bind(invoices.iter().map(|i| i.customer.as_str()).bind_iter())
    .bind(invoices.iter().map(|i| i.issued_on.to_sqlx()).bind_iter())
    .bind(invoices.iter().map(|i| i.due_on.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices.iter().map(|i| i.paid_on.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(invoices.iter().map(|i| i.open).bind_iter())
    .bind(invoices.iter().map(|i| i.settled).bind_iter())
    .bind(invoices.iter().map(|i| i16::from(i.segment.0)).bind_iter())
    .bind(invoices.iter().map(|i| i.fault.map_or("", |f| f.as_str())).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|row| row.into_written(invoices)).collect()
}

impl WrittenRow {
    fn into_written(self, invoices: &[Sighting]) -> sqlx::Result<Written> {
        let key = (self.merchant.as_str(), self.invoice.as_str());
        let n = invoices
            .binary_search_by(|i| (i.merchant.as_str(), i.invoice.as_str()).cmp(&key))
            .map_err(|_| decode("an invoice that was not written"))?;
        let Some(customer) = self.customer else {
            return Ok(Written { n, before: None, is_newly_faulty: self.is_newly_faulty });
        };
        let (due_on, paid_on) = (self.due_on.map(|d| d.to_jiff()), self.paid_on.map(|d| d.to_jiff()));
        let settlement = match due_on.zip(paid_on).filter(|_| self.settled == Some(true)) {
            Some((due_on, paid_on)) => {
                Some(Settlement::new(&id(&self.invoice)?, due_on, paid_on, segment(self.segment)?))
            }
            None => None,
        };
        let before =
            Before { customer: id(&customer)?, settlement, open_until: due_on.filter(|_| self.open == Some(true)) };
        Ok(Written { n, before: Some(before), is_newly_faulty: self.is_newly_faulty })
    }
}

/// Reads accounts, with their revisions. Customers of whom nothing is known are not in the result.
pub async fn accounts(tx: &mut PgConnection, keys: &[&PayerKey]) -> sqlx::Result<BTreeMap<PayerKey, (Account, i64)>> {
    let rows: Vec<AccountRow> = sqlx::query_as(
        "SELECT merchant, customer, p.revision, p.state, p.told
         FROM segmenter.payer AS p JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
              USING (merchant, customer)",
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(AccountRow::into_account).collect()
}

/// The accounts of customers that this transaction has locked and not written, because another replica has.
pub async fn missed_accounts(
    tx: &mut PgConnection,
    keys: &[&PayerKey],
) -> sqlx::Result<BTreeMap<PayerKey, (Account, i64)>> {
    let rows: Vec<AccountRow> = sqlx::query_as(
        "SELECT merchant, customer, p.revision, p.state, p.told
         FROM segmenter.payer AS p JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
              USING (merchant, customer)
         WHERE p.xmin <> pg_current_xact_id()::xid",
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(AccountRow::into_account).collect()
}

#[derive(FromRow)]
struct AccountRow {
    merchant: String,
    customer: String,
    revision: i64,
    state: Vec<u8>,
    told: Vec<u8>,
}

impl AccountRow {
    fn into_account(self) -> sqlx::Result<(PayerKey, (Account, i64))> {
        let key = (id(&self.merchant)?, id(&self.customer)?);
        Ok((key, (Account::read(&self.state, &self.told), self.revision)))
    }
}

/// Writes accounts (in key order), each if it still has the revision before the one given. Locks all of them in any case.
/// Returns how many were written.
pub async fn save_accounts<'a>(
    tx: &mut PgConnection,
    accounts: impl Iterator<Item = (&'a PayerKey, &'a Account, i64)> + Clone + Send,
) -> sqlx::Result<u64> {
    // Not an UPDATE with a JOIN: that one locks in whatever order the plan has, and does not lock what it does not hit.
    let done = sqlx::query(
        "INSERT INTO segmenter.payer AS p (merchant, customer, revision, state, told)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::bytea[], $5::bytea[])
         ON CONFLICT (merchant, customer) DO UPDATE
         SET revision = EXCLUDED.revision, state = EXCLUDED.state, told = EXCLUDED.told
         WHERE p.revision = EXCLUDED.revision - 1",
    )
    .bind(accounts.clone().map(|(key, ..)| key.0.as_str()).bind_iter())
    .bind(accounts.clone().map(|(key, ..)| key.1.as_str()).bind_iter())
    .bind(accounts.clone().map(|(.., revision)| revision).bind_iter())
    .bind(accounts.clone().map(|(_, account, _)| account.state()).bind_iter())
    .bind(accounts.map(|(_, account, _)| account.told()).bind_iter())
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// All settlements of customers, in no order.
pub async fn settlements(
    tx: &mut PgConnection,
    keys: &[&PayerKey],
) -> sqlx::Result<BTreeMap<PayerKey, Vec<Settlement>>> {
    let rows: Vec<(String, String, String, jiff_sqlx::Date, jiff_sqlx::Date, i16)> = sqlx::query_as(
        "SELECT merchant, customer, i.invoice, i.due_on, i.paid_on, i.segment
         FROM segmenter.invoice AS i JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer)
              USING (merchant, customer)
         WHERE i.settled",
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    let mut found: BTreeMap<PayerKey, Vec<Settlement>> = BTreeMap::new();
    for (merchant, customer, invoice, due_on, paid_on, of_segment) in rows {
        let settlement =
            Settlement::new(&id(&invoice)?, due_on.to_jiff(), paid_on.to_jiff(), segment(Some(of_segment))?);
        found.entry((id(&merchant)?, id(&customer)?)).or_default().push(settlement);
    }
    Ok(found)
}

/// The open overdue invoices of customers, each on a day: the two that were issued first. By the place of the customer.
pub async fn open_overdue(
    tx: &mut PgConnection,
    keys: &[(&PayerKey, Date)],
) -> sqlx::Result<BTreeMap<usize, Vec<Open>>> {
    let rows: Vec<(i64, i32)> = sqlx::query_as(
        "SELECT wanted.n, wanted.today - oldest.due_on
         FROM UNNEST($1::text[], $2::text[], $3::date[]) WITH ORDINALITY AS wanted (merchant, customer, today, n)
         CROSS JOIN LATERAL (
             SELECT i.due_on, i.issued_on, i.invoice FROM segmenter.invoice AS i
             WHERE i.merchant = wanted.merchant AND i.customer = wanted.customer AND i.open
               AND i.due_on < wanted.today
             ORDER BY i.issued_on, i.invoice LIMIT 2
         ) AS oldest
         ORDER BY wanted.n, oldest.issued_on, oldest.invoice",
    )
    .bind(keys.iter().map(|(k, _)| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|(k, _)| k.1.as_str()).bind_iter())
    .bind(keys.iter().map(|(_, day)| day.to_sqlx()).bind_iter())
    .fetch_all(tx)
    .await?;
    let mut found: BTreeMap<usize, Vec<Open>> = BTreeMap::new();
    for (n, overdue_days) in rows {
        let place = usize::try_from(n - 1).map_err(|_| decode("a place that was not given"))?;
        found.entry(place).or_default().push(Open { overdue_days });
    }
    Ok(found)
}

/// Settlements of a pool of a merchant in a week, by bin of delay.
#[derive(Debug, Clone, PartialEq)]
pub struct Week {
    /// Its Monday.
    pub begins_on: Date,
    /// A segment, or a group of peers.
    pub pool: PoolKey,
    /// Settlements by bin of delay.
    pub counts: [u32; BINS],
}

/// What settlements of a batch change about the weeks of merchants: by merchant, pool and Monday.
pub type WeekChanges = BTreeMap<(MerchantId, PoolKey, Date), [i32; BINS]>;

/// Adds to weeks.
pub async fn add_to_weeks(tx: &mut PgConnection, changes: &WeekChanges) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO segmenter.portfolio_week AS p (merchant, pool, week, counts)
         SELECT merchant, pool, week, ($4::int4[])[(n - 1) * $5 + 1 : n * $5]
         FROM UNNEST($1::text[], $2::int2[], $3::date[]) WITH ORDINALITY AS c (merchant, pool, week, n)
         ON CONFLICT (merchant, pool, week) DO UPDATE
         SET counts = ARRAY(SELECT a + b FROM UNNEST(p.counts, EXCLUDED.counts) WITH ORDINALITY AS s (a, b, n)
                            ORDER BY n)",
    )
    .bind(changes.keys().map(|(merchant, ..)| merchant.as_str()).bind_iter())
    .bind(changes.keys().map(|(_, pool, _)| *pool).bind_iter())
    .bind(changes.keys().map(|(.., week)| week.to_sqlx()).bind_iter())
    .bind(changes.values().flatten().copied().bind_iter())
    .bind(BINS as i64)
    .execute(tx)
    .await
    .map(drop)
}

/// The weeks of merchants up to the one that begins on the day given, from [`KEEP_WEEKS`] before it on, in their order.
pub async fn weeks(
    tx: &mut PgConnection,
    up_to: &BTreeMap<MerchantId, Date>,
) -> sqlx::Result<BTreeMap<MerchantId, Vec<Week>>> {
    let rows: Vec<(String, i16, jiff_sqlx::Date, Vec<i32>)> = sqlx::query_as(
        "SELECT merchant, p.pool, p.week, p.counts
         FROM segmenter.portfolio_week AS p JOIN UNNEST($1::text[], $2::date[]) AS wanted (merchant, up_to)
              USING (merchant)
         WHERE p.week BETWEEN wanted.up_to - 7 * $3 AND wanted.up_to ORDER BY merchant, p.week, p.pool",
    )
    .bind(up_to.keys().map(MerchantId::as_str).bind_iter())
    .bind(up_to.values().map(|day| day.to_sqlx()).bind_iter())
    .bind(KEEP_WEEKS)
    .fetch_all(tx)
    .await?;
    let mut found: BTreeMap<MerchantId, Vec<Week>> = BTreeMap::new();
    for (merchant, pool, begins_on, counts) in rows {
        let counts: Vec<u32> = counts.into_iter().map(|count| u32::try_from(count).unwrap_or(0)).collect();
        let counts = counts.try_into().map_err(|_| decode("a week without its 24 counts"))?;
        let week = Week { begins_on: begins_on.to_jiff(), pool, counts };
        found.entry(id(&merchant)?).or_default().push(week);
    }
    Ok(found)
}

/// What was found out about the weight of merchants' portfolios.
pub async fn kappas<'a>(
    tx: &mut PgConnection,
    merchants: impl Iterator<Item = &'a MerchantId> + Clone + Send,
) -> sqlx::Result<BTreeMap<MerchantId, f32>> {
    let rows: Vec<(String, f32)> =
        sqlx::query_as("SELECT merchant, kappa FROM segmenter.review WHERE merchant = ANY($1) AND kappa IS NOT NULL")
            .bind(merchants.map(MerchantId::as_str).bind_iter())
            .fetch_all(tx)
            .await?;
    rows.into_iter().map(|(merchant, kappa)| Ok((id(&merchant)?, kappa))).collect()
}

/// A change of a customer's label.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct LabelChange {
    pub key: PayerKey,
    pub revision: i64,
    pub place: i16,
    pub label: &'static str,
    pub before: &'static str,
    pub reason: String,
}

/// Notes changes of labels.
pub async fn insert_label_changes(tx: &mut PgConnection, at: Timestamp, changes: &[LabelChange]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO segmenter.label_change (merchant, customer, revision, place, at, label, before, reason)
         SELECT merchant, customer, revision, place, $7, label, before, reason
         FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::int2[], $5::text[], $6::text[], $8::text[])
              AS n (merchant, customer, revision, place, label, before, reason)",
    )
    .bind(changes.iter().map(|c| c.key.0.as_str()).bind_iter())
    .bind(changes.iter().map(|c| c.key.1.as_str()).bind_iter())
    .bind(changes.iter().map(|c| c.revision).bind_iter())
    .bind(changes.iter().map(|c| c.place).bind_iter())
    .bind(changes.iter().map(|c| c.label).bind_iter())
    .bind(changes.iter().map(|c| c.before).bind_iter())
    .bind(at.to_sqlx())
    .bind(changes.iter().map(|c| &c.reason).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Forgets up to `limit` changes of labels before a moment. Returns how many.
pub async fn trim_label_changes(db: impl PgExecutor<'_>, before: Timestamp, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM segmenter.label_change WHERE (merchant, customer, revision, place) IN (
             SELECT merchant, customer, revision, place FROM segmenter.label_change WHERE at < $1 LIMIT $2)",
    )
    .bind(before.to_sqlx())
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets up to `limit` pools of weeks that began before a day. Returns how many.
pub async fn trim_weeks(db: impl PgExecutor<'_>, before: Date, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM segmenter.portfolio_week WHERE (merchant, pool, week) IN (
             SELECT merchant, pool, week FROM segmenter.portfolio_week WHERE week < $1 LIMIT $2)",
    )
    .bind(before.to_sqlx())
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// How far the review of a merchant's customers has come.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Progress {
    pub day: Date,
    pub week: Date,
    pub settlements: i64,
    pub after: Option<String>,
    pub everybody: bool,
    pub spread: Vec<f64>,
}

#[derive(FromRow)]
struct ProgressRow {
    day: jiff_sqlx::Date,
    week: jiff_sqlx::Date,
    settlements: i64,
    after: Option<String>,
    everybody: bool,
    spread: Vec<f64>,
}

/// Locks the progress of a merchant's review, which begins before all time. `None` if another replica holds it.
pub async fn lock_progress(tx: &mut PgConnection, merchant: &MerchantId) -> sqlx::Result<Option<Progress>> {
    sqlx::query(
        "INSERT INTO segmenter.review (merchant, day, week, settlements, everybody, spread)
         VALUES ($1, '0001-01-01', '0001-01-01', 0, false, '{}') ON CONFLICT DO NOTHING",
    )
    .bind(merchant.as_str())
    .execute(&mut *tx)
    .await?;
    let row: Option<ProgressRow> = sqlx::query_as(
        "SELECT day, week, settlements, after, everybody, spread FROM segmenter.review WHERE merchant = $1
         FOR UPDATE SKIP LOCKED",
    )
    .bind(merchant.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| Progress {
        day: row.day.to_jiff(),
        week: row.week.to_jiff(),
        settlements: row.settlements,
        after: row.after,
        everybody: row.everybody,
        spread: row.spread,
    }))
}

/// Notes how far a review has come. `kappa` is kept if none is given.
pub async fn save_progress(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    progress: &Progress,
    kappa: Option<f32>,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE segmenter.review SET day = $2, week = $3, settlements = $4, after = $5, everybody = $6, spread = $7,
                kappa = coalesce($8, kappa)
         WHERE merchant = $1",
    )
    .bind(merchant.as_str())
    .bind(progress.day.to_sqlx())
    .bind(progress.week.to_sqlx())
    .bind(progress.settlements)
    .bind(&progress.after)
    .bind(progress.everybody)
    .bind(&progress.spread)
    .bind(kappa)
    .execute(tx)
    .await
    .map(drop)
}

/// The accounts of a merchant's customers after one of them, in their order.
pub async fn page_of_everybody(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    after: &str,
    limit: i64,
) -> sqlx::Result<BTreeMap<PayerKey, (Account, i64)>> {
    let rows: Vec<AccountRow> = sqlx::query_as(
        "SELECT merchant, customer, revision, state, told FROM segmenter.payer
         WHERE merchant = $1 AND customer > $2 ORDER BY customer LIMIT $3",
    )
    .bind(merchant.as_str())
    .bind(after)
    .bind(limit)
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(AccountRow::into_account).collect()
}

/// The same of those with an open invoice that was due before a day. (Of whom nothing is known otherwise stays new.)
pub async fn page_of_overdue(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    after: &str,
    limit: i64,
    today: Date,
) -> sqlx::Result<BTreeMap<PayerKey, (Account, i64)>> {
    let rows: Vec<AccountRow> = sqlx::query_as(
        "SELECT p.merchant, p.customer, p.revision, p.state, p.told
         FROM (SELECT DISTINCT customer FROM segmenter.invoice
               WHERE merchant = $1 AND customer > $2 AND open AND due_on < $4) AS overdue
         JOIN segmenter.payer AS p ON p.merchant = $1 AND p.customer = overdue.customer AND p.customer > $2
         ORDER BY p.customer LIMIT $3",
    )
    .bind(merchant.as_str())
    .bind(after)
    .bind(limit)
    .bind(today.to_sqlx())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(AccountRow::into_account).collect()
}

/// A customer for an operator.
#[derive(Debug)]
pub struct Shown {
    /// What is kept of it.
    pub account: Account,
    /// Of its row.
    pub revision: i64,
    /// Changes of its label, latest first: when, label, label before, reason.
    pub changes: Vec<(Timestamp, String, String, String)>,
    /// Its invoices, latest paid first and then those that are not paid.
    pub invoices: Vec<ShownInvoice>,
}

/// One of its invoices.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct ShownInvoice {
    pub invoice: String,
    pub issued_on: Date,
    pub due_on: Option<Date>,
    pub paid_on: Option<Date>,
    pub open: bool,
    pub settled: bool,
    pub fault: String,
}

#[derive(FromRow)]
struct ShownInvoiceRow {
    invoice: String,
    issued_on: jiff_sqlx::Date,
    due_on: Option<jiff_sqlx::Date>,
    paid_on: Option<jiff_sqlx::Date>,
    open: bool,
    settled: bool,
    fault: String,
}

/// What is known of a customer; `None` if nothing is. `limit`: so many changes, settled and open invoices of each kind.
pub async fn show(tx: &mut PgConnection, key: &PayerKey, limit: i64) -> sqlx::Result<Option<Shown>> {
    let invoices: Vec<ShownInvoiceRow> = sqlx::query_as(
        "(SELECT invoice, issued_on, due_on, paid_on, open, settled, fault FROM segmenter.invoice
          WHERE merchant = $1 AND customer = $2 AND settled ORDER BY paid_on DESC, invoice LIMIT $3)
         UNION ALL
         (SELECT invoice, issued_on, due_on, paid_on, open, settled, fault FROM segmenter.invoice
          WHERE merchant = $1 AND customer = $2 AND open ORDER BY issued_on, invoice LIMIT $3)
         UNION ALL
         (SELECT invoice, issued_on, due_on, paid_on, open, settled, fault FROM segmenter.invoice
          WHERE merchant = $1 AND customer = $2 AND fault <> '' ORDER BY issued_on, invoice LIMIT $3)",
    )
    .bind(key.0.as_str())
    .bind(key.1.as_str())
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?;
    let mut accounts = accounts(&mut *tx, &[key]).await?;
    let known = accounts.remove(key);
    if known.is_none() && invoices.is_empty() {
        return Ok(None);
    }
    let changes: Vec<(jiff_sqlx::Timestamp, String, String, String)> = sqlx::query_as(
        "SELECT at, label, before, reason FROM segmenter.label_change WHERE merchant = $1 AND customer = $2
         ORDER BY revision DESC, place DESC LIMIT $3",
    )
    .bind(key.0.as_str())
    .bind(key.1.as_str())
    .bind(limit)
    .fetch_all(tx)
    .await?;
    let invoice = |row: ShownInvoiceRow| ShownInvoice {
        invoice: row.invoice,
        issued_on: row.issued_on.to_jiff(),
        due_on: row.due_on.map(|d| d.to_jiff()),
        paid_on: row.paid_on.map(|d| d.to_jiff()),
        open: row.open,
        settled: row.settled,
        fault: row.fault,
    };
    let (account, revision) = known.unwrap_or_default();
    let changes = changes.into_iter().map(|(at, label, before, why)| (at.to_jiff(), label, before, why)).collect();
    Ok(Some(Shown { account, revision, changes, invoices: invoices.into_iter().map(invoice).collect() }))
}

fn segment(stored: Option<i16>) -> sqlx::Result<SegmentKey> {
    let key = stored.and_then(|key| u8::try_from(key).ok());
    key.map(SegmentKey).ok_or_else(|| decode("no segment"))
}

fn id<T: std::str::FromStr<Err = kernel::id::IdError>>(text: &str) -> sqlx::Result<T> {
    text.parse().map_err(|e| decode(&format!("stored id {text:?} {e}")))
}

fn decode(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("segmenter: {what}").into())
}

/// Everything that the segmenter keeps of a customer, as JSON.
pub async fn personal_data(db: impl PgExecutor<'_>, merchant: &str, customer: &str) -> sqlx::Result<serde_json::Value> {
    sqlx::query_scalar(
        "SELECT jsonb_build_object(
             'payer', (SELECT jsonb_agg(jsonb_build_object('revision', p.revision, 'state', encode(p.state, 'base64')))
                       FROM segmenter.payer AS p WHERE p.merchant = $1 AND p.customer = $2),
             'invoices', (SELECT jsonb_agg(to_jsonb(i)) FROM segmenter.invoice AS i WHERE i.merchant = $1 AND i.customer = $2),
             'labels', (SELECT jsonb_agg(to_jsonb(l) ORDER BY l.at) FROM segmenter.label_change AS l
                        WHERE l.merchant = $1 AND l.customer = $2))",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_one(db)
    .await
}
