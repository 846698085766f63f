//! The notifier dies, as by `kill -9`, at each named point on the way of one reminder, and is started again: at most one copy
//! is accepted, and the reminder ends as the phase table says: sent, if no dot can have been written; else unknown.

use anyhow::Context;
use e2e::processes::binary;
use e2e::system::config_dir;
use events::topology::{INGEST_INTAKE, SCHEDULER_TIMERS};
use events::{AnyEvent, Service, time, v1};
use kernel::{Clock, SystemClock};
use runtime::{Host, Merchants};
use serde_json::json;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use testkit::servers::Process;
use testkit::{SmtpServer, TestSystem, wait};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A lease has to end, and who takes over has to trust its own.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where it dies, how the delivery ends, how many copies are accepted.
const POINTS: [(&str, &str, RangeInclusive<usize>); 7] = [
    ("claimed", "handed_off", 1..=1),
    ("body written", "handed_off", 1..=1),
    // T1 is committed: from here on a dot may have been written, for all that anybody can know.
    ("imminent", "unknown", 0..=0),
    ("locked", "unknown", 0..=0),
    ("dot written", "unknown", 0..=1),
    ("reply read", "unknown", 1..=1),
    ("saved", "handed_off", 1..=1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_dies_loses_nothing_and_sends_nothing_twice() -> anyhow::Result<()> {
    let cases = POINTS.map(|(point, state, copies)| async move {
        die_at(point, state, copies).await.with_context(|| format!("died at {point:?}"))
    });
    futures_util::future::try_join_all(cases).await.map(drop)
}

async fn die_at(point: &str, state: &str, copies: RangeInclusive<usize>) -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let first = rig.ask("in_1").await?;
    let mut dying = rig.notifier(&[("DUNLIN_DIE_AT", point)])?;
    wait::until_true(&format!("the death at {point:?}"), PATIENCE, || {
        let ended = dying.has_ended();
        async move { ended }
    })
    .await;
    drop(dying);

    let mut alive = rig.notifier(&[])?;
    rig.wait_for(first, state).await;
    // Whatever else the new process might do about the first, it has had its chance when the second has gone out.
    let second = rig.ask("in_2").await?;
    rig.wait_for(second, "handed_off").await;
    rig.wait_for(first, state).await;
    alive.stop()?;
    let accepted = |invoice: &str| {
        let about = |mail: &testkit::smtp::Mail| mail.lines().iter().any(|line| line.invoice == invoice);
        rig.smtp.mails().iter().filter(|mail| about(mail)).count()
    };
    anyhow::ensure!(copies.contains(&accepted("in_1")), "{} copies", accepted("in_1"));
    anyhow::ensure!(accepted("in_2") == 1, "{} copies of the second", accepted("in_2"));

    let told = rig.system.emitted(Service::Notifier).await?;
    let about_first = |event: &&AnyEvent| match event {
        AnyEvent::ReminderSent(e) => e.reminder.as_ref().is_some_and(|r| r.reminder_id == first.to_string()),
        AnyEvent::ReminderUnknown(e) => e.reminder.as_ref().is_some_and(|r| r.reminder_id == first.to_string()),
        _ => true,
    };
    let told: Vec<_> = told.iter().filter(about_first).collect();
    let fits = match told[..] {
        [AnyEvent::ReminderSent(_)] => state == "handed_off",
        [AnyEvent::ReminderUnknown(_)] => state == "unknown",
        _ => false,
    };
    anyhow::ensure!(fits, "told of it: {told:?}");
    Ok(())
}

/// Servers, and what the other services would say.
struct Rig {
    system: TestSystem,
    smtp: SmtpServer,
    pool: PgPool,
    settings: PathBuf,
    ingest: Host,
    scheduler: Host,
    /// As ingest does: without it the notifier cannot know that it knows every payment.
    _watermarks: tokio_util::sync::DropGuard,
}

impl Rig {
    async fn start() -> anyhow::Result<Self> {
        let system = TestSystem::start(&Service::ALL.map(|s| (s, dunlin::system::migrations(s)))).await?;
        let smtp = SmtpServer::start("127.0.0.1:0".parse()?).await?;
        let pool = PgPool::connect(&system.database.admin_url).await?;
        let passwords: BTreeMap<_, _> =
            system.nats.passwords.iter().map(|(user, password)| (user, password.reveal())).collect();
        let any = "127.0.0.1:0";
        let settings = json!({
            "config_dir": std::path::absolute(config_dir())?,
            "admin_listen": any,
            "postgres": { "url": system.database.url, "admin_url": system.database.admin_url },
            "nats": { "url": system.nats.url(), "passwords": passwords },
            "links": { "public_url": "http://127.0.0.1:9", "key": system.common.links.key.reveal() },
            "ingest": { "http_listen": any, "grpc_listen": any },
            "notifier": { "smtp": { "host": "127.0.0.1", "port": smtp.address.port() } },
            "tracker": { "pages_listen": any, "dashboard_listen": any },
        });
        let path = system.directory().join("dunlin.yaml");
        std::fs::write(&path, settings.to_string())?;
        let merchants = Merchants::default();
        let ingest = system.host(Service::Ingest, &merchants, Arc::new(SystemClock)).await?;
        let scheduler = system.host(Service::Scheduler, &merchants, Arc::new(SystemClock)).await?;
        let stop = CancellationToken::new();
        tokio::spawn(bus::watermark::tell(ingest.bus.clone(), stop.clone()));
        let _watermarks = stop.drop_guard();
        Ok(Self { system, smtp, pool, settings: path, ingest, scheduler, _watermarks })
    }

    /// A process of its own.
    fn notifier(&self, environment: &[(&str, &str)]) -> anyhow::Result<Process> {
        let settings = self.settings.to_str().context("a path that is no text")?;
        let log = self.system.directory().join("notifier.log");
        Process::start_with(&binary()?, &["--config", settings, "run", "notifier"], environment, &log)
    }

    /// An invoice of its own customer is issued, and a reminder of it is due.
    async fn ask(&self, invoice: &str) -> anyhow::Result<Uuid> {
        let now = SystemClock.now();
        let issued = v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: invoice.into(),
            customer_id: format!("cus_{invoice}"),
            version: 1,
            epoch: 1,
            status: v1::InvoiceStatus::Open.into(),
            number: format!("R-{invoice}"),
            currency: "EUR".into(),
            total_minor: 10_000,
            open_minor: 10_000,
            issued_on: "2026-05-01".into(),
            due_on: "2026-06-01".into(),
            bill_to_name: "Ada Lovelace".into(),
            bill_to_email: format!("{invoice}@example.com"),
            ..Default::default()
        };
        let id = kernel::id::at(now);
        let line = v1::ReminderLine {
            invoice_id: invoice.into(),
            epoch: 1,
            step: "overdue-7".into(),
            invoice_version: 1,
            carries: true,
            tone: v1::Tone::Friendly.into(),
            ..Default::default()
        };
        let due = v1::ReminderDue {
            fallbacks: Vec::new(),
            reminder: Some(v1::Reminder {
                merchant_id: "acme".into(),
                reminder_id: id.to_string(),
                customer_id: issued.customer_id.clone(),
                campaign: "default".into(),
                campaign_version: "1".into(),
                step: "overdue-7".into(),
                tone: v1::Tone::Friendly.into(),
                currency: "EUR".into(),
                lines: vec![line],
                segment: v1::Segment::New.into(),
                ..Default::default()
            }),
            due_at: Some(time::to_wire(now)),
            contact_hours: Some(v1::ContactHours {
                time_zone: "UTC".into(),
                weekdays: 0b111_1111,
                opens_minute: 0,
                closes_minute: 24 * 60,
                closed_on: Vec::new(),
            }),
        };
        let mut work = self.ingest.bus.begin(&INGEST_INTAKE).await?;
        work.emit(now, &v1::InvoiceIssued { invoice: Some(issued) })?;
        work.commit().await?;
        let mut work = self.scheduler.bus.begin(&SCHEDULER_TIMERS).await?;
        work.emit(now, &due)?;
        work.commit().await?;
        Ok(id)
    }

    async fn wait_for(&self, delivery: Uuid, state: &str) {
        wait::until_true(&format!("{delivery} to be {state}"), PATIENCE, || async {
            let found = sqlx::query_scalar("SELECT state FROM notifier.delivery WHERE id = $1").bind(delivery);
            let found: Option<String> = found.fetch_optional(&self.pool).await.unwrap_or_default();
            found.as_deref() == Some(state)
        })
        .await;
    }
}
