//! SQL of what operators do.

use super::{OpenHold, Operator, Target};
use crate::store::{CustomerKey, InvoiceKey, customer_key, stored};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use kernel::MerchantId;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

/// The customer of an invoice.
pub async fn customer_of_invoice(tx: &mut PgConnection, invoice: &InvoiceKey) -> sqlx::Result<Option<CustomerKey>> {
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT merchant, customer FROM scheduler.invoice WHERE merchant = $1 AND invoice = $2")
            .bind(invoice.0.as_str())
            .bind(invoice.1.as_str())
            .fetch_optional(tx)
            .await?;
    row.map(|(m, c)| customer_key(m, c)).transpose()
}

/// Whether anything was ever heard of a customer.
pub async fn is_customer_known(tx: &mut PgConnection, customer: &CustomerKey) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM scheduler.customer WHERE merchant = $1 AND customer = $2)
             OR EXISTS (SELECT FROM scheduler.dunning_case WHERE merchant = $1 AND customer = $2 AND closed_at IS NULL)",
    )
    .bind(customer.0.as_str())
    .bind(customer.1.as_str())
    .fetch_one(tx)
    .await
}

/// A hold to place.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewHold<'a> {
    pub target: &'a Target,
    pub customer: &'a CustomerKey,
    pub until: Option<Date>,
    pub promise: bool,
    pub operator: &'a Operator,
    pub placed_at: Timestamp,
}

/// Keeps a hold; returns its id.
pub async fn insert_hold(tx: &mut PgConnection, hold: &NewHold<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "INSERT INTO scheduler.hold (merchant, customer, invoice, kind, until, reason, placed_by, placed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
    )
    .bind(hold.customer.0.as_str())
    .bind(hold.customer.1.as_str())
    .bind(match hold.target {
        Target::Invoice((_, invoice)) => Some(invoice.as_str()),
        Target::Customer(_) => None,
    })
    .bind(if hold.promise { "promise" } else { "manual" })
    .bind(hold.until.map(ToSqlx::to_sqlx))
    .bind(&hold.operator.reason)
    .bind(&hold.operator.by)
    .bind(hold.placed_at.to_sqlx())
    .fetch_one(tx)
    .await
}

/// A hold that follows from a call.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct CallHold {
    pub customer: CustomerKey,
    pub invoice: Option<String>,
    pub is_promise: bool,
    pub until: Option<Date>,
    pub reason: &'static str,
    pub by: String,
}

/// Keeps holds that follow from calls.
pub async fn place_holds(tx: &mut PgConnection, holds: &[CallHold], now: Timestamp) -> sqlx::Result<()> {
    if holds.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO scheduler.hold (merchant, customer, invoice, kind, until, reason, placed_by, placed_at)
         SELECT *, $8 FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::date[], $6::text[], $7::text[])",
    )
    .bind(holds.iter().map(|h| h.customer.0.as_str()).bind_iter())
    .bind(holds.iter().map(|h| h.customer.1.as_str()).bind_iter())
    .bind(holds.iter().map(|h| h.invoice.as_ref()).bind_iter())
    .bind(holds.iter().map(|h| if h.is_promise { "promise" } else { "manual" }).bind_iter())
    .bind(holds.iter().map(|h| h.until.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(holds.iter().map(|h| h.reason).bind_iter())
    .bind(holds.iter().map(|h| &h.by).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// A hold that somebody placed.
#[derive(Debug)]
pub struct FoundHold {
    /// Whom it is about.
    pub customer: CustomerKey,
    invoice: Option<InvoiceKey>,
    /// Who ended it, if somebody did.
    pub released_by: Option<String>,
}

impl FoundHold {
    /// What it holds.
    pub fn target(&self) -> Target {
        self.invoice.clone().map_or_else(|| Target::Customer(self.customer.clone()), Target::Invoice)
    }
}

/// Finds a hold by its id.
pub async fn find_hold(tx: &mut PgConnection, id: i64) -> sqlx::Result<Option<FoundHold>> {
    type Row = (String, String, Option<String>, Option<String>);
    let row: Option<Row> =
        sqlx::query_as("SELECT merchant, customer, invoice, released_by FROM scheduler.hold WHERE id = $1")
            .bind(id)
            .fetch_optional(tx)
            .await?;
    let found = |(merchant, customer, invoice, released_by): Row| {
        let customer = customer_key(merchant, customer)?;
        let invoice = invoice.map(|i| stored("hold.invoice", &i, i.parse().ok())).transpose()?;
        let invoice = invoice.map(|invoice| (customer.0.clone(), invoice));
        Ok(FoundHold { customer, invoice, released_by })
    };
    row.map(found).transpose()
}

/// Which holds to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its id.
    One(i64),
    /// All of a customer and its invoices, or all of one invoice by itself.
    All(Target),
}

/// Ends holds that nobody has ended yet; returns which.
pub async fn release_holds(
    tx: &mut PgConnection,
    which: &Which,
    operator: &Operator,
    now: Timestamp,
) -> sqlx::Result<Vec<i64>> {
    let (id, customer, invoice) = match which {
        Which::One(id) => (Some(*id), None, None),
        Which::All(Target::Customer(key)) => (None, Some(key), None),
        Which::All(Target::Invoice(key)) => (None, None, Some(key)),
    };
    let merchant = customer.map(|key| &key.0).or(invoice.map(|key| &key.0));
    sqlx::query_scalar(
        "WITH released AS (
             UPDATE scheduler.hold SET released_by = $1, released_at = $2, release_reason = $3
             WHERE released_at IS NULL
               AND (id = $4 OR merchant = $5 AND customer = $6 OR merchant = $5 AND invoice = $7)
             RETURNING id, merchant, customer, kind
         ), reopened AS (
             DELETE FROM scheduler.dead_end AS e USING released AS r
             WHERE r.kind = 'bounced' AND e.merchant = r.merchant AND e.customer = r.customer
         )
         SELECT id FROM released ORDER BY id",
    )
    .bind(&operator.by)
    .bind(now.to_sqlx())
    .bind(&operator.reason)
    .bind(id)
    .bind(merchant.map(MerchantId::as_str))
    .bind(customer.map(|key| key.1.as_str()))
    .bind(invoice.map(|key| key.1.as_str()))
    .fetch_all(tx)
    .await
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $name:literal;)*) => {
        /// What kind of thing holds, or waits for a person.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[doc = $doc])* $kind,)*
        }

        impl Kind {
            /// As listed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

kinds! {
    /// An operator's hold.
    Manual = "manual";
    /// A promise to pay.
    Promise = "promise";
    /// The address does not work.
    Bounced = "bounced";
    /// The payer complained about a reminder.
    Complained = "complained";
    /// The payer answered a reminder.
    Replied = "replied";
    /// The person was erased though something is owed.
    Erased = "erased";
    /// The payer contests the invoice.
    Dispute = "dispute";
    /// The sequence has ended, and a person goes on.
    HandOver = "hand_over";
    /// No campaign's audience fits.
    NoCampaign = "no_campaign";
    /// The invoice or its customer names a campaign that does not exist.
    UnknownCampaign = "unknown_campaign";
    /// The customer's time zone does not exist.
    UnknownZone = "unknown_zone";
}

#[derive(FromRow)]
struct ListedRow {
    kind: String,
    id: Option<i64>,
    merchant: String,
    customer: String,
    invoice: Option<String>,
    until: Option<jiff_sqlx::Date>,
    reason: String,
    by: String,
    since: Option<jiff_sqlx::Timestamp>,
    time_zone: String,
}

/// Something on the list.
#[derive(Debug)]
pub struct Listed {
    hold: OpenHold,
    /// The payer's own.
    pub time_zone: String,
}

impl std::ops::Deref for Listed {
    type Target = OpenHold;

    fn deref(&self) -> &OpenHold {
        &self.hold
    }
}

impl Listed {
    /// As it is shown.
    pub fn into_open_hold(self) -> OpenHold {
        self.hold
    }
}

/// The time zones that customers are in, as far as they have one of their own.
pub async fn time_zones(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT DISTINCT time_zone FROM scheduler.customer WHERE time_zone <> ''").fetch_all(db).await
}

/// What holds and what waits for a person, oldest first. Holds may be among it whose last day has passed for the payer.
pub async fn list(
    db: impl PgExecutor<'_>,
    merchant: Option<&MerchantId>,
    waiting_only: bool,
    unknown_zones: &[String],
    limit: i64,
    now: Timestamp,
) -> sqlx::Result<Vec<Listed>> {
    let rows: Vec<ListedRow> = sqlx::query_as(
        "WITH open AS (
             SELECT c.merchant, c.customer, c.invoice, c.campaign, c.chosen_by, c.opened_at, c.ended_at, c.ended_as
             FROM scheduler.dunning_case AS c
             WHERE c.closed_at IS NULL AND ($1::text IS NULL OR c.merchant = $1)
         ), listed AS (
             SELECT h.kind, h.id, h.merchant, h.customer, h.invoice, h.until, h.reason, h.placed_by AS by,
                    h.placed_at AS since
             FROM scheduler.hold AS h
             WHERE h.released_at IS NULL AND ($1::text IS NULL OR h.merchant = $1)
               -- Where the day ends last, it does so twelve hours after it has ended in UTC.
               AND (h.until IS NULL OR NOT $2 AND h.until >= (($5 AT TIME ZONE 'UTC') - interval '12 hours')::date)
               AND (h.invoice IS NULL OR EXISTS (
                   SELECT FROM scheduler.dunning_case AS c
                   WHERE c.merchant = h.merchant AND c.invoice = h.invoice AND c.closed_at IS NULL))
             UNION ALL
             SELECT 'dispute', NULL, i.merchant, i.customer, i.invoice, NULL, 'the payer contests it', '', NULL
             FROM scheduler.invoice AS i
             WHERE i.status = 'open' AND i.disputed AND ($1::text IS NULL OR i.merchant = $1)
             UNION ALL
             SELECT 'hand_over', NULL, merchant, customer, invoice, NULL, 'no reminder is left', '', ended_at
             FROM open WHERE ended_as = 'hand_over'
             UNION ALL
             SELECT chosen_by, NULL, merchant, customer, invoice, NULL, 'it follows no campaign', '', opened_at
             FROM open WHERE campaign = '' AND chosen_by IN ('no_campaign', 'unknown_campaign')
             UNION ALL
             SELECT 'unknown_zone', NULL, u.merchant, u.customer, NULL, NULL, 'there is no time zone ' || u.time_zone, '',
                    NULL
             FROM scheduler.customer AS u
             WHERE u.time_zone = ANY($3)
               AND ($1::text IS NULL OR u.merchant = $1)
               AND EXISTS (
                   SELECT FROM scheduler.dunning_case AS c
                   WHERE c.merchant = u.merchant AND c.customer = u.customer AND c.closed_at IS NULL)
         )
         SELECT l.*, coalesce(u.time_zone, '') AS time_zone
         FROM listed AS l
         LEFT JOIN scheduler.customer AS u ON u.merchant = l.merchant AND u.customer = l.customer
         ORDER BY l.since NULLS FIRST, l.merchant, l.customer, l.invoice, l.id
         LIMIT $4",
    )
    .bind(merchant.map(MerchantId::as_str))
    .bind(waiting_only)
    .bind(unknown_zones)
    .bind(limit)
    .bind(now.to_sqlx())
    .fetch_all(db)
    .await?;
    let listed = |row: ListedRow| {
        let until = row.until.map(|d| d.to_jiff());
        let hold = OpenHold {
            kind: stored("hold.kind", &row.kind, Kind::parse(&row.kind))?,
            id: row.id,
            merchant: row.merchant,
            customer: row.customer,
            invoice: row.invoice,
            until,
            waits_for_person: until.is_none(),
            reason: row.reason,
            by: row.by,
            since: row.since.map(|t| t.to_jiff()),
        };
        Ok(Listed { hold, time_zone: row.time_zone })
    };
    rows.into_iter().map(listed).collect()
}

/// How many holds without an end, disputes and handed over invoices there are: what indexes can tell at a glance.
pub async fn waiting_for_person(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM scheduler.hold WHERE released_at IS NULL AND until IS NULL)
              + (SELECT count(*) FROM scheduler.invoice WHERE status = 'open' AND disputed)
              + (SELECT count(*) FROM scheduler.dunning_case WHERE closed_at IS NULL AND ended_as = 'hand_over')",
    )
    .fetch_one(db)
    .await
}

/// Running cases of a campaign on another version, in the order of their ids.
pub async fn running_on_others(
    tx: &mut PgConnection,
    campaign: &str,
    version: &str,
    merchant: Option<&MerchantId>,
    after: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "SELECT id FROM scheduler.dunning_case
         WHERE closed_at IS NULL AND ended_at IS NULL AND campaign = $1 AND campaign_version <> $2
           AND ($3::text IS NULL OR merchant = $3) AND ($4::uuid IS NULL OR id > $4)
         ORDER BY id LIMIT $5",
    )
    .bind(campaign)
    .bind(version)
    .bind(merchant.map(MerchantId::as_str))
    .bind(after)
    .bind(limit)
    .fetch_all(tx)
    .await
}

/// Locks cases that are known by their ids.
pub async fn lock_cases_by_id(tx: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar("SELECT id FROM scheduler.dunning_case WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(ids)
        .fetch_all(tx)
        .await
}

/// Keeps that cases were put on another version: case and the version that it was on.
pub async fn insert_migrations(
    tx: &mut PgConnection,
    cases: &[(Uuid, String)],
    to_version: &str,
    by: &str,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.migration (case_id, from_version, to_version, migrated_by, migrated_at)
         SELECT id, version, $3, $4, $5 FROM UNNEST($1::uuid[], $2::text[]) AS c (id, version)",
    )
    .bind(cases.iter().map(|(id, _)| *id).bind_iter())
    .bind(cases.iter().map(|(_, from)| from).bind_iter())
    .bind(to_version)
    .bind(by)
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// A hold that follows from what came back of a reminder.
#[derive(Debug)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct NewReturnHold<'a> {
    pub customer: &'a CustomerKey,
    pub invoice: Option<&'a kernel::InvoiceId>,
    pub kind: &'static str,
    pub reason: &'a str,
    pub until: Option<Date>,
}

/// Keeps holds. One that is held for the same reason, and as long, gets no second one.
pub async fn insert_return_holds(
    tx: &mut PgConnection,
    list: &[NewReturnHold<'_>],
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO scheduler.hold (merchant, customer, invoice, kind, until, reason, placed_by, placed_at)
         SELECT DISTINCT ON (n.merchant, n.customer, n.invoice, n.kind)
                n.merchant, n.customer, n.invoice, n.kind, n.until, n.reason, 'dunlin', $7
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::date[], $6::text[])
              AS n (merchant, customer, invoice, kind, until, reason)
         WHERE NOT EXISTS (
             SELECT FROM scheduler.hold AS h
             WHERE h.merchant = n.merchant AND h.customer = n.customer AND h.invoice IS NOT DISTINCT FROM n.invoice
               AND h.kind = n.kind AND h.released_at IS NULL AND (h.until IS NULL OR h.until >= n.until))
         ORDER BY n.merchant, n.customer, n.invoice, n.kind, n.until DESC",
    )
    .bind(list.iter().map(|h| h.customer.0.as_str()).bind_iter())
    .bind(list.iter().map(|h| h.customer.1.as_str()).bind_iter())
    .bind(list.iter().map(|h| h.invoice.map(|i| i.as_str())).bind_iter())
    .bind(list.iter().map(|h| h.kind).bind_iter())
    .bind(list.iter().map(|h| h.until.map(ToSqlx::to_sqlx)).bind_iter())
    .bind(list.iter().map(|h| h.reason).bind_iter())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// Forgets what operators said about customers, in holds and decisions: people write names into it. That they acted, and who
/// did, stays. Rare: it looks into all holds and cases.
pub async fn forget_words(
    tx: &mut PgConnection,
    customers: &std::collections::BTreeSet<CustomerKey>,
) -> sqlx::Result<()> {
    if customers.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE scheduler.hold AS h
         SET release_reason = '', reason = CASE WHEN h.placed_by = 'dunlin' THEN h.reason ELSE '' END
         FROM UNNEST($1::text[], $2::text[]) AS c (merchant, customer)
         WHERE h.merchant = c.merchant AND h.customer = c.customer",
    )
    .bind(customers.iter().map(|c| c.0.as_str()).bind_iter())
    .bind(customers.iter().map(|c| c.1.as_str()).bind_iter())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        r"UPDATE scheduler.decision AS d SET rule = regexp_replace(d.rule, '^(operator .*?): .*$', '\1')
          FROM UNNEST($1::text[], $2::text[]) AS c (merchant, customer)
          JOIN scheduler.dunning_case AS k ON k.merchant = c.merchant AND k.customer = c.customer
          WHERE d.case_id = k.id AND d.rule LIKE 'operator %'",
    )
    .bind(customers.iter().map(|c| c.0.as_str()).bind_iter())
    .bind(customers.iter().map(|c| c.1.as_str()).bind_iter())
    .execute(tx)
    .await
    .map(drop)
}

/// Notes ways that are closed; returns all that are closed for these customers.
pub async fn note_dead_ends(
    tx: &mut PgConnection,
    list: &std::collections::BTreeSet<(&CustomerKey, &'static str)>,
) -> sqlx::Result<std::collections::BTreeSet<(CustomerKey, String)>> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "WITH new AS (
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[]) AS n (merchant, customer, channel)
         ), noted AS (
             INSERT INTO scheduler.dead_end SELECT * FROM new ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING
         )
         SELECT * FROM new UNION
         SELECT * FROM scheduler.dead_end WHERE (merchant, customer) IN (SELECT merchant, customer FROM new)",
    )
    .bind(list.iter().map(|(c, _)| c.0.as_str()).bind_iter())
    .bind(list.iter().map(|(c, _)| c.1.as_str()).bind_iter())
    .bind(list.iter().map(|(_, channel)| *channel).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(merchant, customer, channel)| Ok((customer_key(merchant, customer)?, channel))).collect()
}

/// The campaigns that customers' open cases follow.
pub async fn campaigns_followed(
    tx: &mut PgConnection,
    customers: &[&CustomerKey],
) -> sqlx::Result<std::collections::BTreeMap<CustomerKey, Vec<String>>> {
    let rows: Vec<(String, String, Vec<String>)> = sqlx::query_as(
        "SELECT merchant, customer, array_agg(DISTINCT campaign) FROM scheduler.dunning_case
         WHERE closed_at IS NULL AND (merchant, customer) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))
         GROUP BY merchant, customer",
    )
    .bind(customers.iter().map(|c| c.0.as_str()).bind_iter())
    .bind(customers.iter().map(|c| c.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(merchant, customer, names)| Ok((customer_key(merchant, customer)?, names))).collect()
}
