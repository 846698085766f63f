//! The segmenter alone: how fast it takes a mixed stream of invoices and payments, and what a million customers take in memory.

use crate::report::Figure;
use crate::{RUNS, median};
use anyhow::{Context, ensure};
use e2e::processes::Processes;
use e2e::system::at;
use events::topology::INGEST_INTAKE;
use events::{Service, time, v1};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, ManualClock};
use runtime::Host;
use runtime::health::Health;
use segmenter::cache::Accounts;
use segmenter::domain::Account;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Monday, eleven o'clock in Berlin.
const NOW: &str = "2026-06-01T09:00:00Z";
/// Customers, each of whom pays this many invoices, one a fortnight. Each of them is issued and paid: two events.
const CUSTOMERS: usize = 20_000;
const EACH: usize = 3;
/// Of them, one in six is not paid yet: 100,000 events in all. Beforehand, each customer has paid so many others.
const EVENTS: usize = CUSTOMERS * (2 * EACH - 1);
const HISTORY: usize = 4;

/// `segmenter`: events a second, end to end; and the memory of a million customers.
pub(crate) async fn segmenter() -> anyhow::Result<Vec<Figure>> {
    let memory = memory_of_a_million()?;
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        rates.push(events_per_second().await?);
    }
    let note = "events of invoices and payments, through NATS and Postgres (bar 20,000, aim 40,000)";
    let rate = Figure::new("segmenter", median(&rates), "events/s", None, note);
    let memory =
        Figure::new("segmenter_memory", memory, "MB", None, "resident for a million customers in the cache (bar 200)");
    Ok(vec![rate, memory])
}

/// What a cache of a million customers takes, full, in MB of resident memory.
fn memory_of_a_million() -> anyhow::Result<f64> {
    const CUSTOMERS: u32 = 1_000_000;
    let before = resident_bytes()?;
    let cache = Accounts::new(CUSTOMERS);
    let merchant: kernel::MerchantId = "acme".parse()?;
    for n in 0..CUSTOMERS {
        cache.put(&(merchant.clone(), format!("cus_{n}").parse()?), Account::default(), 1);
    }
    ensure!(cache.len() > 900_000, "only {} are kept", cache.len());
    Ok((resident_bytes()? - before) / 1e6)
}

fn resident_bytes() -> anyhow::Result<f64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = pages.split(' ').nth(1).context("statm has no second number")?.parse()?;
    Ok(pages * 4_096.0)
}

async fn events_per_second() -> anyhow::Result<f64> {
    let directory = e2e::processes::new_directory()?;
    let servers = Processes::servers(&directory, None).await?;
    let pool = servers.pool().await?;
    let clock = ManualClock::new(at(NOW));
    let producer = host(&servers, Service::Ingest, &clock).await?;
    let total = CUSTOMERS * (HISTORY + EACH);
    // First what was settled before: customers are known, as they mostly are.
    let mut history = Vec::new();
    for n in 0..CUSTOMERS * HISTORY {
        history.push(invoice(n, true));
    }
    publish(&producer, clock.now(), &history).await?;
    run(&servers, &clock, &pool, history.len()).await?;
    // Then the stream that is measured: by fortnight, each issue a while before its payment.
    let mut stream = Vec::new();
    let lag = CUSTOMERS / 2;
    for n in CUSTOMERS * HISTORY..total + lag {
        if n < total {
            stream.push(invoice(n, false));
        }
        if n >= CUSTOMERS * HISTORY + lag && (n - lag) < total - CUSTOMERS {
            stream.push(invoice(n - lag, true));
        }
    }
    ensure!(stream.len() == EVENTS, "{} events", stream.len());
    publish(&producer, clock.now(), &stream).await?;
    let seconds = run(&servers, &clock, &pool, history.len() + stream.len()).await?;
    let emitted: i64 = sqlx::query_scalar("SELECT count(*) FROM segmenter.outbox").fetch_one(&pool).await?;
    println!("segmenter: {EVENTS} events in {seconds:.2} s; {emitted} told in all");
    producer.bus.leave().await;
    drop((producer, servers));
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::remove_dir_all(&directory)?;
    Ok(EVENTS as f64 / seconds)
}

/// The n-th invoice: customers take turns, one round a fortnight. Each has a habit of its own.
fn invoice(n: usize, is_paid: bool) -> v1::Invoice {
    let (customer, round) = (n % CUSTOMERS, n / CUSTOMERS);
    let id = format!("in_{n:07}");
    let dice = kernel::id::stable_hash(&[&id]) as usize;
    let habit = kernel::id::stable_hash(&["habit", &customer.to_string()]) as usize % 10;
    let late = dice % 10 < habit / 2;
    let delay = if late { 1 + dice / 10 % 12 } else { 0 };
    let issued = at("2026-01-05T10:00:00Z") + SignedDuration::from_hours(24 * 14 * round as i64);
    let due = issued + SignedDuration::from_hours(24 * 14);
    let paid_at = due + SignedDuration::from_hours(24 * delay as i64);
    let date = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: id,
        customer_id: format!("cus_{customer:06}"),
        version: if is_paid { 2 } else { 1 },
        epoch: 1,
        status: if is_paid { v1::InvoiceStatus::Paid } else { v1::InvoiceStatus::Open }.into(),
        currency: "EUR".into(),
        total_minor: 10_000,
        open_minor: if is_paid { 0 } else { 10_000 },
        issued_on: date(issued),
        due_on: date(due),
        closed_at: is_paid.then(|| time::to_wire(paid_at)),
        source: "stripe".into(),
        ..Default::default()
    }
}

async fn publish(producer: &Host, now: Timestamp, invoices: &[v1::Invoice]) -> anyhow::Result<()> {
    for part in invoices.chunks(1_000) {
        let mut work = producer.bus.begin(&INGEST_INTAKE).await?;
        for invoice in part {
            let snapshot = Some(invoice.clone());
            match invoice.version {
                1 => work.emit(now, &v1::InvoiceIssued { invoice: snapshot })?,
                _ => work.emit(
                    now,
                    &v1::PaymentReceived { invoice: snapshot, amount_minor: 10_000, ..Default::default() },
                )?,
            };
        }
        work.commit().await?;
    }
    Ok(())
}

/// Runs a segmenter until it has dealt with so many events in all; how many seconds that took.
async fn run(servers: &Processes, clock: &ManualClock, pool: &sqlx::PgPool, events: usize) -> anyhow::Result<f64> {
    // What is measured is not the disk's work on what was written before.
    sqlx::raw_sql("CHECKPOINT").execute(pool).await?;
    for table in ["invoice", "payer", "inbox"] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM ANALYZE segmenter.{table}"))).execute(pool).await?;
    }
    let host = host(servers, Service::Segmenter, clock).await?;
    let service = segmenter::build(segmenter::Config::default(), host).await?;
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let running = tokio::spawn(service.run(stop.clone()));
    let taken = "SELECT count(*) FROM segmenter.inbox";
    while sqlx::query_scalar::<_, i64>(taken).fetch_one(pool).await? < events as i64 {
        ensure!(begun.elapsed() < Duration::from_secs(120), "the stream was not taken within two minutes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.cancel();
    running.await??;
    Ok(seconds)
}

async fn host(servers: &Processes, service: Service, clock: &ManualClock) -> anyhow::Result<Host> {
    let (configuration, health) = (&servers.configuration, Health::new(prometheus::Registry::new()));
    let (common, merchants) = (configuration.settings.common(), configuration.merchants.clone());
    let migrations = dunlin::system::migrations(service);
    Host::connect(service, migrations, &common, merchants, Arc::new(clock.clone()), &health).await
}
