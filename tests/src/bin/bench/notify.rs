//! The notifier alone, as a process of its own: from a reminder whose time has come to mail that a server has accepted.

use crate::dev::memory_of;
use crate::mta::{self, Kind};
use crate::report::Figure;
use crate::sink::{CONNECTIONS, MAIL_BYTES, Mails, Sink};
use crate::{RUNS, median};
use anyhow::{Context, ensure};
use e2e::processes::{Processes, new_directory};
use e2e::system::config_dir;
use events::topology::{INGEST_INTAKE, SCHEDULER_TIMERS};
use events::{Event, Flow, Service, time, v1};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, SystemClock};
use runtime::Host;
use runtime::health::Health;
use sqlx::PgPool;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Reminders per run.
const REMINDERS: usize = 20_000;
/// Events per commit.
const BATCH: usize = 500;
/// One merchant may have three quarters of the connections; so several are needed to have all of them.
const MERCHANTS: [&str; 2] = ["acme", "globex"];

/// `notify`, `notify_latency` and `notify_tls` with mails as large as the reference's, `notify_shipped` with those of the shipped
/// templates, and `notify_memory`.
pub(crate) async fn all(wanted: &str) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let sink = Sink::start().await?;
    let connections = [("DUNLIN_NOTIFIER__SMTP__CONNECTIONS", CONNECTIONS.to_owned())];
    let source = "smtp-source to smtp-sink, 128 kept connections, 4 kB";
    let is_wanted = |name: &str| wanted.is_empty() || wanted == name;
    if is_wanted("notify") {
        let (mut rates, mut references) = (Vec::new(), Vec::new());
        let (mut shipped, mut shipped_references, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            rates.push(run(sink.port, Mails::AsTheReference, &connections).await?.rate);
            let run = run(sink.port, Mails::AsShipped, &connections).await?;
            shipped.push(run.rate);
            memory.push(run.most_memory_mb);
            references.extend(sink.reference(REMINDERS, MAIL_BYTES)?);
            shipped_references.extend(sink.reference(REMINDERS, run.bytes)?);
        }
        figures.push(Figure::new("notify", median(&rates), "mails/s", known(&references), source));
        let note = "the same with mails of the same size";
        figures.push(Figure::new("notify_shipped", median(&shipped), "mails/s", known(&shipped_references), note));
        let note = "resident at most, 20,000 reminders waiting";
        figures.push(Figure::new("notify_memory", median(&memory), "MB", None, note));
    }
    if is_wanted("notify_latency") {
        const LATENCY: Duration = Duration::from_millis(5);
        const CONNECTIONS: u32 = 64;
        let far = mta::start(Kind { latency: LATENCY, tls: false }).await?;
        let environment = [("DUNLIN_NOTIFIER__SMTP__CONNECTIONS", CONNECTIONS.to_string())];
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            rates.push(run(far.port(), Mails::AsTheReference, &environment).await?.rate);
        }
        // MAIL, RCPT and DATA together, then body and dot.
        let best = f64::from(CONNECTIONS) / (2.0 * LATENCY.as_secs_f64());
        let note = "64 connections x one mail per two round trips of 5 ms";
        figures.push(Figure::new("notify_latency", median(&rates), "mails/s", Some(best), note));
    }
    if is_wanted("notify_tls") {
        let encrypted = mta::start(Kind { latency: Duration::ZERO, tls: true }).await?;
        let environment = [
            ("DUNLIN_NOTIFIER__SMTP__HOST", "localhost".to_owned()),
            ("DUNLIN_NOTIFIER__SMTP__SECURITY", "starttls".to_owned()),
            ("DUNLIN_NOTIFIER__SMTP__CA", testkit::tls::CERTIFICATE.to_owned()),
            ("DUNLIN_NOTIFIER__SMTP__CONNECTIONS", CONNECTIONS.to_owned()),
        ];
        let (mut rates, mut references) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            rates.push(run(encrypted.port(), Mails::AsTheReference, &environment).await?.rate);
            references.extend(sink.reference(REMINDERS, MAIL_BYTES)?);
        }
        figures.push(Figure::new("notify_tls", median(&rates), "mails/s", known(&references), source));
    }
    Ok(figures)
}

fn known(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

struct Run {
    /// Of a mail.
    bytes: usize,
    rate: f64,
    most_memory_mb: f64,
}

/// The configuration, with a page of the merchant's own.
fn config_with_page(directory: &Path) -> anyhow::Result<PathBuf> {
    let config = directory.join("config");
    copy(&config_dir(), &config)?;
    Mails::AsTheReference.write_into(&config)?;
    Ok(std::path::absolute(config)?)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy(&path, &to)? } else { std::fs::copy(&path, &to).map(drop)? }
    }
    Ok(())
}

/// Brings reminders to a notifier that are due at the same moment; measures from then on.
async fn run(port: u16, mails: Mails, environment: &[(&'static str, String)]) -> anyhow::Result<Run> {
    let directory = new_directory()?;
    let mut system = Processes::servers(&directory, None).await?;
    system.environment = environment.to_vec();
    if mails == Mails::AsTheReference {
        let config = config_with_page(&directory)?.display().to_string();
        system.environment.push(("DUNLIN_CONFIG_DIR", config));
    }
    system.environment.push(("DUNLIN_NOTIFIER__SMTP__PORT", port.to_string()));
    let ingest = producer(&system, Service::Ingest).await?;
    let scheduler = producer(&system, Service::Scheduler).await?;
    let stop = CancellationToken::new();
    let watermarks = tokio::spawn(bus::watermark::tell(ingest.bus.clone(), stop.clone()));
    system.start_service(Service::Notifier)?;
    let pool = system.pool().await?;

    let invoices = (0..REMINDERS).map(|n| v1::InvoiceIssued { invoice: Some(invoice(n)) });
    emit(&ingest, &INGEST_INTAKE, invoices.collect()).await?;
    wait_for(&pool, "SELECT count(*) = 20000 FROM notifier.balance").await?;
    // Everything is in its place by then, or the bench fails.
    let due = SystemClock.now() + SignedDuration::from_secs(12);
    emit(&scheduler, &SCHEDULER_TIMERS, (0..REMINDERS).map(|n| reminder(n, due)).collect()).await?;
    wait_for(&pool, "SELECT count(*) = 20000 FROM notifier.delivery").await?;
    let left = Duration::try_from(due.duration_since(SystemClock.now())).ok().filter(|left| !left.is_zero());
    let begins = Instant::now() + left.context("loading took too long: the machine is too busy")?;
    tokio::time::sleep_until(begins).await;
    // A look at the indexes only: counting would cost more than what is counted.
    wait_for(&pool, "SELECT NOT EXISTS (SELECT FROM notifier.delivery WHERE open AND channel = 'email')").await?;
    let took = begins.elapsed();
    let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM notifier.delivery WHERE state = 'handed_off'")
        .fetch_one(&pool)
        .await?;
    ensure!(sent == REMINDERS as i64, "only {sent} of {REMINDERS} were handed over");
    let bytes: f64 =
        sqlx::query_scalar("SELECT avg(get_byte(raw, 0) + 256 * get_byte(raw, 1))::float8 FROM notifier.message")
            .fetch_one(&pool)
            .await?;
    mails.are_of(bytes)?;
    println!("notify: {REMINDERS} mails of {bytes:.0} bytes in {:.2} s", took.as_secs_f64());
    let (_, most_memory_mb) = memory_of(system.id(Service::Notifier)?)?;
    stop.cancel();
    watermarks.await?;
    ingest.bus.leave().await;
    scheduler.bus.leave().await;
    system.stop()?;
    std::fs::remove_dir_all(&directory)?;
    Ok(Run { bytes: bytes as usize, rate: REMINDERS as f64 / took.as_secs_f64(), most_memory_mb })
}

/// What stands in for a service that is not there: it emits.
async fn producer(system: &Processes, service: Service) -> anyhow::Result<Host> {
    let settings = &system.configuration.settings;
    let health = Health::new(prometheus::Registry::new());
    let migrations = dunlin::system::migrations(service);
    let merchants = system.configuration.merchants.clone();
    Host::connect(service, migrations, &settings.common(), merchants, Arc::new(SystemClock), &health).await
}

async fn emit<E: Event>(host: &Host, flow: &'static Flow, events: Vec<E>) -> anyhow::Result<()> {
    for batch in events.chunks(BATCH) {
        let mut work = host.bus.begin(flow).await?;
        for event in batch {
            work.emit(host.now(), event).map_err(|e| anyhow::anyhow!("{e}"))?;
        }
        work.commit().await?;
    }
    Ok(())
}

async fn wait_for(pool: &PgPool, statement: &'static str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !sqlx::query_scalar::<_, bool>(statement).fetch_one(pool).await? {
        ensure!(Instant::now() < deadline, "not within two minutes: {statement}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn merchant(n: usize) -> String {
    MERCHANTS[n % MERCHANTS.len()].to_owned()
}

fn invoice(n: usize) -> v1::Invoice {
    v1::Invoice {
        merchant_id: merchant(n),
        invoice_id: format!("in_{n:06}"),
        customer_id: format!("cus_{n:06}"),
        version: 1,
        epoch: 1,
        status: v1::InvoiceStatus::Open.into(),
        number: format!("IN-{n:06}"),
        currency: "EUR".to_owned(),
        total_minor: 123_456,
        open_minor: 123_456,
        issued_on: "2026-05-01".to_owned(),
        due_on: "2026-06-01".to_owned(),
        pay_url: format!("https://pay.example.com/in_{n:06}"),
        bill_to_name: "Greta Lindqvist".to_owned(),
        bill_to_email: format!("ap@{}.example", n % 1_000),
        ..Default::default()
    }
}

fn reminder(n: usize, due: Timestamp) -> v1::ReminderDue {
    let line = v1::ReminderLine {
        invoice_id: format!("in_{n:06}"),
        epoch: 1,
        step: "overdue-7".to_owned(),
        invoice_version: 1,
        carries: true,
        tone: v1::Tone::Firm.into(),
        ..Default::default()
    };
    v1::ReminderDue {
        reminder: Some(v1::Reminder {
            merchant_id: merchant(n),
            reminder_id: kernel::id::at(due).to_string(),
            customer_id: format!("cus_{n:06}"),
            campaign: "default".to_owned(),
            campaign_version: "1".to_owned(),
            step: "overdue-7".to_owned(),
            tone: v1::Tone::Firm.into(),
            currency: "EUR".to_owned(),
            lines: vec![line],
            segment: v1::Segment::New.into(),
            ..Default::default()
        }),
        due_at: Some(time::to_wire(due)),
        contact_hours: Some(v1::ContactHours {
            time_zone: "UTC".to_owned(),
            weekdays: 0b111_1111,
            opens_minute: 0,
            closes_minute: 1_440,
            closed_on: Vec::new(),
        }),
        ..Default::default()
    }
}
