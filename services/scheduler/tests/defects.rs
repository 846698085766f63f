//! The defect classes that other products of this field have and that show only with a database. Those of planning are in
//! `crates/campaign/tests/defects.rs`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use events::topology::INGEST_INTAKE;
use events::{AnyEvent, Event, Service, v1};
use jiff::Timestamp;
use kernel::{Clock, ManualClock};
use runtime::{Host, Merchants};
use scheduler::config::RuleFiles;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

/// A scheduler with a manual clock, on the default campaign, with in_1 of cus_1 due on Monday, 1 June 2026.
struct Rig {
    system: TestSystem,
    clock: ManualClock,
    ingest: Host,
    pool: PgPool,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    async fn start(now: &str) -> Self {
        let services = [(Service::Ingest, &*NO_MIGRATIONS), (Service::Scheduler, &scheduler::MIGRATIONS)];
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at(now));
        let mut merchants = Merchants::default();
        merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
        let ingest = system.host(Service::Ingest, &merchants, Arc::new(clock.clone())).await.unwrap();
        let host = system.host(Service::Scheduler, &merchants, Arc::new(clock.clone())).await.unwrap();
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let files = RuleFiles::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config"));
        let settings = scheduler::Config { tick_milliseconds: 10, ..Default::default() };
        let stop = CancellationToken::new();
        let running = tokio::spawn(scheduler::build(settings, files, host).await.unwrap().run(stop.clone()));
        Self { system, clock, ingest, pool, stop, running }
    }

    async fn hear<E: Event>(&self, event: E) {
        let mut work = self.ingest.bus.begin(&INGEST_INTAKE).await.unwrap();
        work.emit(self.clock.now(), &event).unwrap();
        work.commit().await.unwrap();
    }

    async fn count(&self, what: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM scheduler.{what}"));
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn wait_for(&self, what: &str, expected: i64) {
        wait::until_true(&format!("{expected} of {what}"), SOON, || async { self.count(what).await == expected }).await;
    }

    async fn advance_to(&self, now: &str) {
        self.clock.set(at(now));
        self.wait_for(&format!("timer WHERE due_at <= '{now}'"), 0).await;
    }

    async fn reminders(&self) -> usize {
        let events = self.system.emitted(Service::Scheduler).await.unwrap();
        events.iter().filter(|event| matches!(event, AnyEvent::ReminderDue(_))).count()
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn invoice(version: i64) -> v1::Invoice {
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: "in_1".into(),
        customer_id: "cus_1".into(),
        version,
        epoch: 1,
        status: v1::InvoiceStatus::Open.into(),
        currency: "EUR".into(),
        total_minor: 1_000,
        open_minor: 1_000,
        issued_on: "2026-05-01".into(),
        due_on: "2026-06-01".into(),
        ..Default::default()
    }
}

fn issued(version: i64) -> v1::InvoiceIssued {
    v1::InvoiceIssued { invoice: Some(invoice(version)) }
}

fn paid(version: i64) -> v1::PaymentReceived {
    let paid = v1::Invoice { status: v1::InvoiceStatus::Paid.into(), open_minor: 0, ..invoice(version) };
    v1::PaymentReceived { invoice: Some(paid), ..Default::default() }
}

/// A counter saved apart from the send loses or doubles reminders. Here the outbox refuses the reminder: nothing of it is
/// kept, neither decision nor contact, and once it takes it, it goes out, once.
#[tokio::test]
async fn defect_02_counter_saved_apart_from_the_send() {
    let rig = Rig::start("2026-06-03T10:00:00Z").await;
    rig.hear(issued(1)).await;
    rig.wait_for("timer", 1).await;
    rig.execute(
        "CREATE SEQUENCE scheduler.refusal;
         GRANT ALL ON SEQUENCE scheduler.refusal TO PUBLIC;
         CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.subject LIKE '%reminder-due%' THEN
                 PERFORM nextval('scheduler.refusal');
                 RAISE EXCEPTION 'no room';
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON scheduler.outbox FOR EACH ROW EXECUTE FUNCTION scheduler.refuse()",
    )
    .await;
    rig.clock.set(at("2026-06-04T08:00:00Z"));
    // A sequence counts also what is rolled back: it was tried.
    rig.wait_for("refusal WHERE is_called", 1).await;
    assert_eq!(rig.count("decision WHERE step = 'overdue-3'").await, 0);
    assert_eq!((rig.count("reminder").await, rig.reminders().await), (0, 0));
    assert_eq!(rig.count("timer WHERE due_at <= '2026-06-04T08:00:00Z'").await, 1, "still to be done");

    rig.execute("DROP TRIGGER refuse ON scheduler.outbox").await;
    rig.wait_for("decision WHERE step = 'overdue-3' AND outcome = 'requested'", 1).await;
    assert_eq!((rig.count("reminder").await, rig.reminders().await), (1, 1));
    rig.end().await;
}

/// No look at the ledger before the send, and the race of payment and due moment: whichever is heard first, at the same
/// moment, after a payment there is no reminder.
#[tokio::test]
async fn defects_03_and_17_payment_overdue_race() {
    let rig = Rig::start("2026-06-03T10:00:00Z").await;
    rig.hear(issued(1)).await;
    rig.wait_for("timer", 1).await;
    // The timer is due and taken care of only after the payment has locked the case.
    let mut payment = rig.pool.begin().await.unwrap();
    let lock = "SELECT 1 FROM scheduler.customer WHERE merchant = 'acme' AND customer = 'cus_1' FOR UPDATE";
    sqlx::query(lock).execute(&mut *payment).await.unwrap();
    rig.clock.set(at("2026-06-04T07:00:00Z"));
    rig.hear(paid(2)).await;
    payment.commit().await.unwrap();
    rig.wait_for("dunning_case WHERE closed_reason = 'paid'", 1).await;
    let sent_before = rig.reminders().await;
    rig.advance_to("2026-06-30T10:00:00Z").await;
    assert_eq!(rig.reminders().await, sent_before, "none after the payment");
    assert_eq!(rig.count("timer").await, 0);
    rig.end().await;
}

/// A cancel that misses what is not yet queued: who asked not to be reminded is not reminded of what comes later either.
#[tokio::test]
async fn defect_04_cancel_that_misses_what_is_not_yet_queued() {
    let rig = Rig::start("2026-05-20T10:00:00Z").await;
    let left = v1::Customer {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        version: 1,
        deleted: true,
        ..Default::default()
    };
    rig.hear(v1::CustomerChanged { customer: Some(left) }).await;
    rig.wait_for("customer WHERE deleted", 1).await;
    rig.hear(issued(1)).await;
    rig.wait_for("dunning_case", 1).await;
    rig.advance_to("2026-07-30T10:00:00Z").await;
    assert_eq!(rig.reminders().await, 0);
    assert!(rig.count("decision WHERE reason = 'opted_out'").await > 0, "and each step says why");
    rig.end().await;
}

/// A late old event moves the state back: the version of the source beats the arrival.
#[tokio::test]
async fn defect_18_late_event_regressing_a_state() {
    let rig = Rig::start("2026-06-03T10:00:00Z").await;
    rig.hear(issued(1)).await;
    rig.wait_for("timer", 1).await;
    rig.hear(paid(3)).await;
    rig.wait_for("dunning_case WHERE closed_reason = 'paid'", 1).await;
    rig.hear(v1::InvoiceChanged { invoice: Some(invoice(2)) }).await;
    // Another one, to see that the older was taken in.
    let second = v1::Invoice { invoice_id: "in_2".into(), customer_id: "cus_2".into(), ..invoice(1) };
    rig.hear(v1::InvoiceIssued { invoice: Some(second) }).await;
    rig.wait_for("dunning_case WHERE closed_reason IS NULL", 1).await;
    assert_eq!(rig.count("dunning_case WHERE invoice = 'in_1' AND closed_reason IS NULL").await, 0);
    rig.advance_to("2026-06-04T10:00:00Z").await;
    assert_eq!(rig.reminders().await, 1, "of the other");
    rig.end().await;
}
