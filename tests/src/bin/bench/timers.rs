//! The scheduler alone: how fast due timers are claimed (planned, decided, and their reminders committed) with few and with
//! many armed, how late they are, and how fast news are planned.

use crate::report::Figure;
use crate::{RUNS, median};
use anyhow::ensure;
use e2e::processes::Processes;
use e2e::system::at;
use events::topology::{INGEST_INTAKE, SCHEDULER_TIMERS, SEGMENTER_PAYERS};
use events::{Service, v1};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, ManualClock, SharedClock, SystemClock, TimeLapse};
use runtime::Host;
use runtime::health::Health;
use scheduler::flow::{Fired, fire};
use scheduler::rules::Rules;
use sqlx::PgPool;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Due in each run.
const DUE: i64 = 10_000;
/// Monday, eleven o'clock in Berlin.
const NOW: &str = "2026-06-01T09:00:00Z";

/// `timers`: claims per second with a million armed, beside the rate with ten thousand.
pub(crate) async fn claims() -> anyhow::Result<Figure> {
    let few = rate(DUE).await?;
    let many = rate(1_000_000).await?;
    println!("timers: {few:.0} claims/s with 10,000 armed, {many:.0} with 1,000,000: ratio {:.2}", few / many);
    let figure = Figure::new("timers", many, "claims/s", Some(few), "the same with 10,000 armed (ratio: few to many)");
    Ok(Figure { ratio: Some(few / many), ..figure })
}

/// `timers_10m`: the same with ten million armed; and how late timers fire when 2,000 a second are due.
pub(crate) async fn ten_million() -> anyhow::Result<Vec<Figure>> {
    let few = rate(DUE).await?;
    let rig = Rig::start(10_000_000 - DUE).await?;
    let many = rig.claim_rate(1).await?;
    let late = rig.lateness().await?;
    rig.end().await?;
    println!("timers_10m: {few:.0} claims/s with 10,000 armed, {many:.0} with 10,000,000: ratio {:.2}", few / many);
    let note = "the same with 10,000 armed (ratio: few to many; bar 1.5, aim 1.1)";
    let claims = Figure::new("timers_10m", many, "claims/s", Some(few), note);
    let late = Figure {
        p50: Some(crate::percentile(&late, 50.0)),
        p99: Some(crate::percentile(&late, 99.0)),
        ..Figure::new(
            "timers_10m_late",
            late.len() as f64,
            "timers",
            None,
            "due to committed, at 2,000 due/s (bar p99 1 s, aim 250 ms)",
        )
    };
    Ok(vec![Figure { ratio: Some(few / many), ..claims }, late])
}

/// `fire`: steps per second where each customer has five open invoices, which become one reminder.
pub(crate) async fn fire_consolidated() -> anyhow::Result<Figure> {
    const OPEN: i64 = 5;
    let rig = Rig::start(100_000 - DUE).await?;
    let steps = rig.claim_rate(OPEN).await?;
    let reminders: i64 = sqlx::query_scalar("SELECT count(*) FROM scheduler.reminder").fetch_one(&rig.pool).await?;
    ensure!(reminders == RUNS as i64 * DUE / OPEN, "{reminders} reminders: not one per customer");
    rig.end().await?;
    let alone = rate(100_000).await?;
    let note = "one open invoice per customer (bar 5,000, aim 15,000)";
    Ok(Figure::new("fire", steps, "steps/s", Some(alone), note))
}

/// Claims per second while `armed` timers are armed, of which [`DUE`] are due.
async fn rate(armed: i64) -> anyhow::Result<f64> {
    let rig = Rig::start(armed - DUE).await?;
    let rate = rig.claim_rate(1).await?;
    rig.end().await?;
    Ok(rate)
}

/// Servers with a scheduler's tables, and timers that are due next year.
struct Rig {
    directory: PathBuf,
    /// Stopped when the rig is.
    _servers: Processes,
    pool: PgPool,
    clock: ManualClock,
    host: Host,
    rules: Rules,
    version: String,
}

impl Rig {
    async fn start(armed: i64) -> anyhow::Result<Self> {
        let directory = e2e::processes::new_directory()?;
        let servers = Processes::servers(&directory, None).await?;
        let pool = servers.pool().await?;
        let clock = ManualClock::new(at(NOW));
        let (host, rules, version) = scheduler(&servers, Arc::new(clock.clone())).await?;
        let rig = Self { directory, _servers: servers, pool, clock, host, rules, version };
        // Ids are random: to insert millions of them in order, one by one, takes longer than to sort them at the end.
        sqlx::raw_sql(
            "ALTER TABLE scheduler.dunning_case DROP CONSTRAINT dunning_case_pkey;
             ALTER TABLE scheduler.timer DROP CONSTRAINT timer_pkey",
        )
        .execute(&rig.pool)
        .await?;
        let later = Arming { name: "later", count: armed, per_customer: 1, due_on: "2027-06-01" };
        rig.arm(&later, "2027-06-04T07:00:00Z", "0").await?;
        sqlx::raw_sql(
            "SET maintenance_work_mem = '1GB';
             ALTER TABLE scheduler.dunning_case ADD PRIMARY KEY (id);
             ALTER TABLE scheduler.timer ADD PRIMARY KEY (shard, due_at, case_id);
             RESET maintenance_work_mem; CHECKPOINT",
        )
        .execute(&rig.pool)
        .await?;
        Ok(rig)
    }

    /// Arms timers: the first at `from`, each `apart` (an interval) after the one before.
    async fn arm(&self, arming: &Arming<'_>, from: &str, apart: &str) -> anyhow::Result<()> {
        let statements = [
            // A customer is heard of before its first step is due.
            "INSERT INTO scheduler.customer (merchant, customer, version, country)
             SELECT 'acme', 'cus_' || $1 || lpad(n::text, 8, '0'), 1, 'DE' FROM generate_series(0, ($2 - 1) / $3) AS n
             WHERE $4 <> '' AND $5 <> '' AND $6 <> '' AND $7 <> ''",
            "INSERT INTO scheduler.invoice (merchant, invoice, customer, version, epoch, status, currency, open_minor,
                                            due_on, disputed, overdue_hint, failed_attempts, source, tags, campaign,
                                            collects_itself, decline_code)
             SELECT 'acme', $1 || lpad(n::text, 8, '0'), 'cus_' || $1 || lpad((n / $3)::text, 8, '0'), 1, 1, 'open', 'EUR', 10000, $4::date, false, false, 0,
                    'stripe', '{}', '', false, ''
             FROM generate_series(0, $2 - 1) AS n WHERE $5 <> '' AND $6 <> '' AND $7 <> ''",
            "INSERT INTO scheduler.dunning_case (id, merchant, invoice, epoch, customer, shard, campaign,
                                                 campaign_version, chosen_by, opened_at, overdue_told_at, armed_at)
             SELECT gen_random_uuid(), 'acme', $1 || lpad(n::text, 8, '0'), 1,
                    'cus_' || $1 || lpad((n / $3)::text, 8, '0'), n / $3 % 64, 'default', $5, 'campaigns.0', '2026-05-01T00:00:00Z', $6::timestamptz, $6::timestamptz + n * $7::interval
             FROM generate_series(0, $2 - 1) AS n WHERE $4 <> ''",
            "INSERT INTO scheduler.timer (shard, due_at, case_id, generation)
             SELECT shard, armed_at, id, generation FROM scheduler.dunning_case
             WHERE invoice LIKE $1 || '%' AND armed_at >= $6::timestamptz AND generation = 0
               AND $2 + $3 > 0 AND $4 <> '' AND $5 <> '' AND $7 <> ''",
        ];
        for statement in statements {
            sqlx::query(statement)
                .bind(arming.name)
                .bind(arming.count)
                .bind(arming.per_customer)
                .bind(arming.due_on)
                .bind(&self.version)
                .bind(from)
                .bind(apart)
                .execute(&self.pool)
                .await?;
        }
        for table in ["timer", "dunning_case", "invoice", "customer"] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM ANALYZE scheduler.{table}"))).execute(&self.pool).await?;
        }
        sqlx::raw_sql("CHECKPOINT").execute(&self.pool).await?;
        Ok(())
    }

    /// Claims per second of [`DUE`] timers that are due at once, of customers with so many open invoices each.
    async fn claim_rate(&self, per_customer: i64) -> anyhow::Result<f64> {
        let mut rates = Vec::new();
        for run in 0..RUNS {
            let now = self.clock.now() + SignedDuration::from_mins(1);
            self.clock.set(now);
            let name = format!("due_{run}_");
            let due = Arming { name: &name, count: DUE, per_customer, due_on: "2026-05-29" };
            self.arm(&due, &now.to_string(), "0").await?;
            let begun = Instant::now();
            self.fire_all(now, |_, _| ()).await?;
            let took = begun.elapsed();
            // A timer takes those of its customer's other invoices with it: what is decided counts.
            let decided = "SELECT count(*) FROM scheduler.decision WHERE decided_at = $1 AND outcome <> 'skipped'";
            let decided = sqlx::query_scalar(decided).bind(jiff_sqlx::ToSqlx::to_sqlx(now));
            let decided: i64 = decided.fetch_one(&self.pool).await?;
            ensure!(decided == DUE, "{decided} steps decided, not {DUE}");
            rates.push(DUE as f64 / took.as_secs_f64());
        }
        Ok(median(&rates))
    }

    /// Fires until nothing is due.
    async fn fire_all(&self, now: Timestamp, mut on: impl FnMut(&Fired, Duration)) -> anyhow::Result<usize> {
        let mut timers = 0;
        for round in 0_i32.. {
            let begun = Instant::now();
            let start = round.wrapping_mul(23).rem_euclid(64);
            let mut work = self.host.bus.begin(&SCHEDULER_TIMERS).await?;
            let fired = fire(&self.rules, &mut work, now, start, scheduler::timers::BATCH).await?;
            work.commit().await?;
            if fired.timers == 0 {
                break;
            }
            timers += fired.timers;
            on(&fired, begun.elapsed());
        }
        Ok(timers)
    }

    /// How late each timer is committed, in ms, when 2,000 a second are due for ten seconds; the clock runs.
    async fn lateness(&self) -> anyhow::Result<Vec<f64>> {
        const PER_SECOND: i64 = 2_000;
        const SECONDS: i64 = 10;
        let start = self.clock.now() + SignedDuration::from_mins(1);
        let arming = Arming { name: "steady_", count: PER_SECOND * SECONDS, per_customer: 1, due_on: "2026-05-29" };
        let apart = format!("{} microseconds", 1_000_000 / PER_SECOND);
        self.arm(&arming, &start.to_string(), &apart).await?;
        let lapse = TimeLapse { start, real_start: SystemClock.now(), rate: 1.0, until: None };
        let mut late = Vec::new();
        while late.len() < (PER_SECOND * SECONDS) as usize {
            let begun = lapse.now();
            let fired = self
                .fire_all(begun, |fired, took| {
                    // The moment that planning was asked with is not that of the commit.
                    late.extend(
                        fired.lateness.iter().map(|l| l.as_secs_f64() * 1_000.0 + took.as_secs_f64() * 1_000.0),
                    );
                })
                .await?;
            if fired == 0 {
                ensure!(lapse.now() < start + SignedDuration::from_secs(60), "{} of all fired", late.len());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(late)
    }

    async fn end(self) -> anyhow::Result<()> {
        self.host.bus.leave().await;
        let directory = self.directory.clone();
        drop(self);
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(std::fs::remove_dir_all(&directory)?)
    }
}

/// Cases to arm.
struct Arming<'a> {
    /// The beginning of their invoices' ids.
    name: &'a str,
    count: i64,
    /// Invoices of each customer.
    per_customer: i64,
    due_on: &'a str,
}

/// `replan`: how fast the scheduler takes a mixed stream of invoices, payments and segments and plans anew.
pub(crate) async fn replan() -> anyhow::Result<Figure> {
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        rates.push(replan_once().await?);
    }
    let note = "events of invoices, payments and segments (bar 8,000, aim 20,000)";
    Ok(Figure::new("replan", median(&rates), "events/s", None, note))
}

async fn replan_once() -> anyhow::Result<f64> {
    /// Invoices; each customer has two, three in four are paid, each customer's segment changes once and a half.
    const INVOICES: usize = 40_000;
    const EVENTS: i64 = 100_000;
    let directory = e2e::processes::new_directory()?;
    let servers = Processes::servers(&directory, None).await?;
    let pool = servers.pool().await?;
    let clock = ManualClock::new(at(NOW));
    let mut producers = Vec::new();
    for service in [Service::Ingest, Service::Segmenter] {
        producers.push(host(&servers, service, Arc::new(clock.clone())).await?);
    }
    let invoice = |n: usize, version: i64, open_minor: i64| v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: format!("in_{n}"),
        customer_id: format!("cus_{}", n / 2),
        version,
        epoch: 1,
        status: if open_minor > 0 { v1::InvoiceStatus::Open } else { v1::InvoiceStatus::Paid }.into(),
        currency: "EUR".into(),
        total_minor: 10_000,
        open_minor,
        issued_on: "2026-05-15".into(),
        due_on: "2026-06-15".into(),
        source: "stripe".into(),
        ..Default::default()
    };
    let now = clock.now();
    let mut segments = 0..INVOICES * 3 / 4;
    for from in (0..INVOICES).step_by(400) {
        let mut work = producers[0].bus.begin(&INGEST_INTAKE).await?;
        for n in from..from + 400 {
            work.emit(now, &v1::InvoiceIssued { invoice: Some(invoice(n, 1, 10_000)) })?;
        }
        for n in (from..from + 400).filter(|n| n % 4 > 0) {
            work.emit(
                now,
                &v1::PaymentReceived { invoice: Some(invoice(n, 2, 0)), amount_minor: 10_000, ..Default::default() },
            )?;
        }
        work.commit().await?;
        let mut work = producers[1].bus.begin(&SEGMENTER_PAYERS).await?;
        for n in segments.by_ref().take(300) {
            let version = if n < INVOICES / 2 { 1 } else { 2 };
            let customer_id = format!("cus_{}", n % (INVOICES / 2));
            let segment = v1::Segment::Prompt.into();
            work.emit(
                now,
                &v1::CustomerSegmented {
                    merchant_id: "acme".into(),
                    customer_id,
                    version,
                    segment,
                    ..Default::default()
                },
            )?;
        }
        work.commit().await?;
    }
    let host = host(&servers, Service::Scheduler, Arc::new(clock.clone())).await?;
    let service = scheduler::build(scheduler::Config::default(), servers.configuration.rules.clone(), host).await?;
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let running = tokio::spawn(service.run(stop.clone()));
    let taken = "SELECT count(*) FROM scheduler.inbox WHERE consumer = 'scheduler-cases'";
    while sqlx::query_scalar::<_, i64>(taken).fetch_one(&pool).await? < EVENTS {
        ensure!(begun.elapsed() < Duration::from_secs(120), "the stream was not taken within two minutes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = EVENTS as f64 / begun.elapsed().as_secs_f64();
    stop.cancel();
    running.await??;
    for producer in &producers {
        producer.bus.leave().await;
    }
    drop((producers, servers));
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::remove_dir_all(&directory)?;
    Ok(rate)
}

async fn host(servers: &Processes, service: Service, clock: SharedClock) -> anyhow::Result<Host> {
    let (configuration, health) = (&servers.configuration, Health::new(prometheus::Registry::new()));
    let (common, merchants) = (configuration.settings.common(), configuration.merchants.clone());
    Host::connect(service, dunlin::system::migrations(service), &common, merchants, clock, &health).await
}

/// A scheduler's host, its rules, and the version of the default campaign.
async fn scheduler(servers: &Processes, clock: SharedClock) -> anyhow::Result<(Host, Rules, String)> {
    let host = host(servers, Service::Scheduler, clock).await?;
    let files = &servers.configuration.rules;
    let rules = Rules::load(host.clone(), &files.campaigns, files.all_calendars()).await?;
    Ok((host, rules, files.campaigns["default"].0.version.clone()))
}
