//! The scheduler on a real bus with a manual clock: what it emits, and what stands in its tables afterwards.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use events::topology::{INGEST_INTAKE, NOTIFIER_INBOUND, NOTIFIER_OPERATIONS, NOTIFIER_SENDER, SEGMENTER_PAYERS};
use events::{AnyEvent, Event, Flow, Service, v1};
use jiff::Timestamp;
use kernel::{Clock, ManualClock, SystemClock};
use runtime::{Host, Merchants};
use scheduler::config::RuleFiles;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

/// A scheduler with a manual clock, and producers that stand in for the other services.
struct Rig {
    system: TestSystem,
    clock: ManualClock,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    stop: CancellationToken,
    running: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Rig {
    async fn start(now: &str, replicas: usize) -> Self {
        Self::start_with(now, replicas, "").await
    }

    /// With more in the default campaign than there is.
    async fn start_with(now: &str, replicas: usize, more: &str) -> Self {
        Self::start_edited(now, replicas, |text| text + more).await
    }

    /// With another default campaign.
    async fn start_edited(now: &str, replicas: usize, edit: impl FnOnce(String) -> String) -> Self {
        let others = [Service::Ingest, Service::Segmenter, Service::Notifier];
        let mut services: Vec<_> = others.map(|s| (s, &*NO_MIGRATIONS)).to_vec();
        services.push((Service::Scheduler, &scheduler::MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at(now));
        let mut merchants = Merchants::default();
        merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
        let mut producers = BTreeMap::new();
        for service in others {
            producers.insert(service, system.host(service, &merchants, Arc::new(clock.clone())).await.unwrap());
        }
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
        let mut files = RuleFiles::read(&config);
        assert_eq!(files.faults.0, []);
        let (campaign, text) = files.campaigns.get_mut("default").unwrap();
        *text = edit(std::mem::take(text));
        *campaign = scheduler::config::parse_campaign(text).unwrap();
        let (stop, mut running, mut pool) = (CancellationToken::new(), Vec::new(), None);
        for _ in 0..replicas {
            let host = system.host(Service::Scheduler, &merchants, Arc::new(clock.clone())).await.unwrap();
            pool = Some(PgPool::connect(&system.database.admin_url).await.unwrap());
            let settings = scheduler::Config { tick_milliseconds: 10, ..Default::default() };
            let service = scheduler::build(settings, files.clone(), host).await.unwrap();
            running.push(tokio::spawn(service.run(stop.clone())));
        }
        Self { system, clock, producers, pool: pool.unwrap(), stop, running }
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    async fn count(&self, what: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM scheduler.{what}")))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn wait_for(&self, what: &str, expected: i64) {
        wait::until_true(&format!("{expected} of {what}"), SOON, || async { self.count(what).await == expected }).await;
    }

    /// Waits until some transaction waits for another one's lock.
    async fn wait_for_a_blocked_one(&self) {
        wait::until_true("a lock to be waited for", SOON, || async {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool).await.unwrap() > 0
        })
        .await;
    }

    /// The notifier tells that a reminder went out with these invoices.
    async fn sent(&self, due: &v1::ReminderDue, invoices: &[&str]) {
        let invoice_ids = invoices.iter().map(|i| (*i).to_owned()).collect();
        let sent = v1::ReminderSent { reminder: due.reminder.clone(), invoice_ids, ..Default::default() };
        self.emit(&NOTIFIER_SENDER, [sent]).await;
        let id = &due.reminder.as_ref().unwrap().reminder_id;
        self.wait_for(&format!("reminder WHERE reminder_id = '{id}' AND state = 'in_flight'"), 0).await;
    }

    async fn reminders(&self) -> Vec<v1::ReminderDue> {
        let events = self.system.emitted(Service::Scheduler).await.unwrap();
        events.into_iter().filter_map(|e| if let AnyEvent::ReminderDue(r) = e { Some(r) } else { None }).collect()
    }

    /// Moves the clock and waits until no timer is due any more.
    async fn advance_to(&self, now: &str) {
        self.clock.set(at(now));
        let due = format!("timer WHERE due_at <= '{now}'");
        self.wait_for(&due, 0).await;
    }

    /// Every decision: invoice, step, outcome, reason.
    async fn decisions(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', c.invoice || '/' || c.epoch, d.step, d.outcome, nullif(d.reason, ''))
             FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id ORDER BY d.decided_at, 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        for running in self.running {
            running.await.unwrap().unwrap();
        }
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn invoice(id: &str, customer: &str, version: i64, due_on: &str) -> v1::Invoice {
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: id.into(),
        customer_id: customer.into(),
        version,
        epoch: 1,
        status: v1::InvoiceStatus::Open.into(),
        currency: "EUR".into(),
        total_minor: 1_000,
        open_minor: 1_000,
        issued_on: "2026-05-01".into(),
        due_on: due_on.into(),
        ..Default::default()
    }
}

fn issued(invoice: v1::Invoice) -> v1::InvoiceIssued {
    v1::InvoiceIssued { invoice: Some(invoice) }
}

fn paid(invoice: v1::Invoice) -> v1::PaymentReceived {
    let invoice =
        v1::Invoice { status: v1::InvoiceStatus::Paid.into(), open_minor: 0, version: invoice.version + 1, ..invoice };
    v1::PaymentReceived { invoice: Some(invoice), ..Default::default() }
}

#[tokio::test]
async fn the_default_ladder_is_climbed_and_ends_with_the_payment() {
    let rig = Rig::start("2026-05-20T10:00:00Z", 1).await;
    let in_1 = invoice("in_1", "cus_1", 1, "2026-06-01");
    rig.emit(&INGEST_INTAKE, [issued(in_1.clone())]).await;
    rig.wait_for("timer", 1).await;
    rig.advance_to("2026-05-29T16:00:00Z").await;
    assert_eq!(rig.decisions().await, ["in_1/1 upcoming skipped condition"]);
    rig.advance_to("2026-06-02T05:00:00Z").await;
    let overdue: Vec<_> = rig.system.emitted(Service::Scheduler).await.unwrap();
    assert!(matches!(
        &overdue[..],
        [AnyEvent::InvoiceOverdue(_), AnyEvent::StepDecided(_)]
            | [AnyEvent::StepDecided(_), AnyEvent::InvoiceOverdue(_)]
    ));
    rig.advance_to("2026-06-04T08:00:00Z").await;
    let first = rig.reminders().await;
    assert_eq!(first.len(), 1);
    rig.sent(&first[0], &["in_1"]).await;
    rig.advance_to("2026-06-08T08:00:00Z").await;
    assert_eq!(
        rig.decisions().await,
        [
            "in_1/1 upcoming skipped condition",
            "in_1/1 overdue-3 sent",
            "in_1/1 follow-up merged later_step",
            "in_1/1 overdue-7 requested",
        ]
    );
    let last = rig.reminders().await.pop().unwrap();
    assert_eq!(
        (last.reminder.as_ref().unwrap().step.as_str(), last.reminder.as_ref().unwrap().tone()),
        ("overdue-7", v1::Tone::Final)
    );
    assert_eq!(last.contact_hours.as_ref().unwrap().time_zone, "Europe/Berlin");

    // What the notifier says settles the steps that carried; the payment ends the case and every step left.
    rig.sent(&last, &["in_1"]).await;
    rig.wait_for("decision WHERE outcome = 'sent'", 2).await;
    rig.emit(&INGEST_INTAKE, [paid(in_1)]).await;
    rig.wait_for("dunning_case WHERE closed_reason = 'paid'", 1).await;
    assert_eq!(rig.count("timer").await, 0);
    let overdue = rig.system.emitted(Service::Scheduler).await.unwrap();
    assert_eq!(overdue.iter().filter(|e| matches!(e, AnyEvent::InvoiceOverdue(_))).count(), 1, "told once");
    rig.end().await;
}

#[tokio::test]
async fn a_payment_that_overtakes_its_invoice_leaves_no_case() {
    let rig = Rig::start("2026-06-20T10:00:00Z", 1).await;
    let in_1 = invoice("in_1", "cus_1", 1, "2026-06-01");
    rig.emit(&INGEST_INTAKE, [paid(in_1.clone())]).await;
    rig.wait_for("invoice", 1).await;
    rig.emit(&INGEST_INTAKE, [issued(in_1)]).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_2", "cus_2", 1, "2026-07-01"))]).await;
    rig.wait_for("invoice", 2).await;
    assert_eq!(rig.count("dunning_case WHERE invoice = 'in_1'").await, 0, "the older snapshot lost");
    rig.end().await;
}

#[tokio::test]
async fn invoices_of_one_customer_become_one_reminder_per_currency() {
    let rig = Rig::start("2026-05-20T10:00:00Z", 1).await;
    let dollars = v1::Invoice { currency: "USD".into(), ..invoice("in_3", "cus_1", 1, "2026-06-01") };
    let all = [
        invoice("in_1", "cus_1", 1, "2026-06-01"),
        invoice("in_2", "cus_1", 1, "2026-05-28"), // day 7 is the other's day 3: Thursday 4 June
        dollars,
        invoice("in_4", "cus_2", 1, "2026-06-01"),
    ];
    rig.emit(&INGEST_INTAKE, all.map(issued)).await;
    rig.wait_for("timer", 4).await;
    // An outage over all their steps.
    rig.advance_to("2026-06-04T09:00:00Z").await;
    let mut reminders = rig.reminders().await;
    reminders.sort_by_key(|r| r.reminder.as_ref().map(|r| (r.customer_id.clone(), r.currency.clone())));
    let shape = |r: &v1::ReminderDue| {
        let r = r.reminder.as_ref().unwrap();
        let lines: Vec<_> = r.lines.iter().map(|l| (l.invoice_id.clone(), l.step.clone(), l.carries)).collect();
        (r.customer_id.clone(), r.currency.clone(), r.step.clone(), lines)
    };
    let line = |i: &str, s: &str, c: bool| (i.to_owned(), s.to_owned(), c);
    assert_eq!(
        reminders.iter().map(shape).collect::<Vec<_>>(),
        [
            (
                "cus_1".into(),
                "EUR".into(),
                "overdue-7".into(),
                vec![line("in_2", "overdue-7", true), line("in_1", "overdue-3", false)]
            ),
            ("cus_1".into(), "USD".into(), "overdue-3".into(), vec![line("in_3", "overdue-3", true)]),
            ("cus_2".into(), "EUR".into(), "overdue-3".into(), vec![line("in_4", "overdue-3", true)]),
        ]
    );
    let decisions = rig.decisions().await;
    assert!(decisions.contains(&"in_1/1 overdue-3 merged other_invoice".to_owned()), "{decisions:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_dispute_holds_and_a_new_epoch_begins_anew() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    let in_1 = invoice("in_1", "cus_1", 1, "2026-06-01");
    rig.emit(&INGEST_INTAKE, [issued(in_1.clone())]).await;
    rig.wait_for("timer", 1).await;
    let disputed = v1::Invoice { disputed: true, version: 2, ..in_1.clone() };
    rig.emit(&INGEST_INTAKE, [v1::InvoiceChanged { invoice: Some(disputed) }]).await;
    rig.wait_for("invoice WHERE disputed", 1).await;
    rig.advance_to("2026-06-09T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 0, "held");

    let reopened = v1::Invoice {
        version: 3,
        epoch: 2,
        epoch_began_at: Some(events::time::to_wire(at("2026-06-09T10:00:00Z"))),
        ..in_1
    };
    rig.emit(&INGEST_INTAKE, [v1::PaymentReversed { invoice: Some(reopened), ..Default::default() }]).await;
    rig.wait_for("dunning_case WHERE epoch = 2", 1).await;
    rig.wait_for("dunning_case WHERE closed_reason = 'next_epoch'", 1).await;
    // What is over already is decided at once, before the clock moves on.
    rig.wait_for("decision WHERE outcome = 'skipped'", 2).await;
    rig.advance_to("2026-06-12T10:00:00Z").await;
    assert_eq!(
        rig.decisions().await,
        ["in_1/1 upcoming skipped too_late", "in_1/2 upcoming skipped too_late", "in_1/2 overdue-3 requested"]
    );
    rig.end().await;
}

#[tokio::test]
async fn the_notifier_is_told_every_way_of_the_step() {
    let edit = |text: String| text.replace("tone: final", "channels: [sms, email, task]\n    tone: final");
    let rig = Rig::start_edited("2026-06-03T10:00:00Z", 1, edit).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("timer", 1).await;
    rig.advance_to("2026-06-04T09:00:00Z").await;
    rig.sent(&rig.reminders().await[0], &["in_1"]).await;
    rig.advance_to("2026-06-08T09:00:00Z").await;
    let ways = |due: &v1::ReminderDue| {
        let first = due.reminder.as_ref().unwrap().channel();
        [first].into_iter().chain(due.fallbacks()).collect::<Vec<_>>()
    };
    let reminders = rig.reminders().await;
    assert_eq!(ways(&reminders[0]), [v1::Channel::Email]);
    assert_eq!(ways(&reminders[1]), [v1::Channel::Sms, v1::Channel::Email, v1::Channel::Task]);
    rig.end().await;
}

#[tokio::test]
async fn when_every_way_is_closed_a_person_has_to_look() {
    let edit = |text: String| text.replace("tone: final", "channels: [email, sms]\n    tone: final");
    let rig = Rig::start_edited("2026-06-03T10:00:00Z", 1, edit).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("timer", 1).await;
    // Days apart: what was closed before counts.
    for (channel, (came, holds)) in [v1::Channel::Email, v1::Channel::Sms].into_iter().zip([(1, 0), (2, 1)]) {
        let reminder = v1::Reminder {
            merchant_id: "acme".into(),
            customer_id: "cus_1".into(),
            reminder_id: kernel::id::new(&SystemClock).to_string(),
            channel: channel.into(),
            segment: v1::Segment::New.into(),
            ..Default::default()
        };
        let kind = v1::BounceKind::Hard.into();
        let bounced = v1::ReminderBounced { reminder: Some(reminder), kind, ..Default::default() };
        rig.emit(&NOTIFIER_INBOUND, [bounced]).await;
        rig.wait_for("inbox WHERE consumer = 'scheduler-returns'", came).await;
        rig.wait_for("hold WHERE kind = 'bounced'", holds).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn what_payers_say_on_the_phone_holds_or_does_not() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    let of = |n: u8| invoice(&format!("in_{n}"), &format!("cus_{n}"), 1, "2026-06-01");
    rig.emit(&INGEST_INTAKE, (1..=5).map(|n| issued(of(n)))).await;
    rig.wait_for("timer", 5).await;
    let done = |n: u8, outcome: v1::TaskOutcome, until: &str| v1::TaskDone {
        merchant_id: "acme".into(),
        customer_id: format!("cus_{n}"),
        lines: vec![v1::TaskLine { invoice_id: format!("in_{n}"), epoch: 1 }],
        outcome: outcome.into(),
        until: until.into(),
        done_by: "anna".into(),
        done_at: Some(events::time::to_wire(at("2026-06-03T10:00:00Z"))),
        ..Default::default()
    };
    use v1::TaskOutcome as T;
    let calls = [
        done(1, T::Promised, "2026-06-10"),
        done(2, T::Paid, ""),
        done(3, T::Disputed, ""),
        done(4, T::WrongPerson, ""),
        done(5, T::NoAnswer, ""),
    ];
    rig.emit(&NOTIFIER_OPERATIONS, calls).await;
    rig.wait_for("hold", 4).await;
    assert_eq!(rig.count("hold WHERE kind = 'promise' AND until = '2026-06-10' AND invoice = 'in_1'").await, 1);
    assert_eq!(rig.count("hold WHERE kind = 'manual' AND until = '2026-06-10' AND invoice = 'in_2'").await, 1);
    assert_eq!(rig.count("hold WHERE until IS NULL AND invoice = 'in_3' AND placed_by = 'anna'").await, 1);
    assert_eq!(rig.count("hold WHERE until IS NULL AND invoice IS NULL AND customer = 'cus_4'").await, 1);
    rig.advance_to("2026-06-04T09:00:00Z").await;
    let reminded = async || {
        let reminders = rig.reminders().await.into_iter();
        reminders.map(|r| r.reminder.unwrap().customer_id).collect::<Vec<_>>()
    };
    assert_eq!(reminded().await, ["cus_5"], "nobody answered: the plan goes on");
    // Two days of grace after the promised one; then it is a weekend.
    rig.advance_to("2026-06-15T09:00:00Z").await;
    let mut later = reminded().await;
    later.sort();
    later.dedup();
    assert_eq!(later, ["cus_1", "cus_2", "cus_5"], "a promise and a claim end; the others wait for a person");
    rig.end().await;
}

#[tokio::test]
async fn late_payers_hear_before_and_leavers_hear_nothing() {
    let rig = Rig::start("2026-05-20T10:00:00Z", 1).await;
    let segmented = |customer: &str| v1::CustomerSegmented {
        merchant_id: "acme".into(),
        customer_id: customer.into(),
        version: 1,
        segment: v1::Segment::UsuallyLate.into(),
        ..Default::default()
    };
    rig.emit(&SEGMENTER_PAYERS, [segmented("cus_1"), segmented("cus_2")]).await;
    let deleted = v1::Customer {
        merchant_id: "acme".into(),
        customer_id: "cus_2".into(),
        version: 1,
        deleted: true,
        ..Default::default()
    };
    rig.emit(&INGEST_INTAKE, [v1::CustomerChanged { customer: Some(deleted) }]).await;
    rig.wait_for("customer WHERE segment = 'usually_late'", 2).await;
    rig.wait_for("customer WHERE deleted", 1).await;
    rig.emit(
        &INGEST_INTAKE,
        ["1", "2"].map(|n| issued(invoice(&format!("in_{n}"), &format!("cus_{n}"), 1, "2026-06-01"))),
    )
    .await;
    rig.wait_for("timer", 2).await;
    rig.advance_to("2026-05-29T10:00:00Z").await;
    assert_eq!(rig.decisions().await, ["in_1/1 upcoming requested", "in_2/1 upcoming skipped opted_out"]);
    rig.end().await;
}

#[tokio::test]
async fn replicas_share_the_timers_and_nothing_fires_twice() {
    let rig = Rig::start("2026-05-20T10:00:00Z", 2).await;
    let all = (0..600).map(|n| issued(invoice(&format!("in_{n}"), &format!("cus_{}", n / 2), 1, "2026-06-01")));
    rig.emit(&INGEST_INTAKE, all).await;
    rig.wait_for("timer", 600).await;
    rig.advance_to("2026-06-04T12:00:00Z").await;
    rig.wait_for("decision WHERE outcome = 'requested'", 300).await;
    assert_eq!(rig.reminders().await.len(), 300, "one per customer, whoever fired it");
    assert_eq!(rig.count("decision WHERE step = 'overdue-3'").await, 600);
    rig.end().await;
}

#[tokio::test]
async fn a_reminder_that_did_not_go_out_does_not_count_for_the_gap() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("timer", 1).await;
    rig.advance_to("2026-06-04T10:00:00Z").await;
    let reminder = rig.reminders().await.pop().unwrap().reminder;
    let failed = v1::ReminderFailed { reminder: reminder.clone(), reason: "refused".into(), ..Default::default() };
    rig.emit(&NOTIFIER_SENDER, [failed]).await;
    rig.wait_for("decision WHERE outcome = 'failed' AND reason = 'refused'", 1).await;
    rig.wait_for("reminder WHERE state = 'gone'", 1).await;
    // Older news that overtook nothing: it was unknown before.
    rig.emit(&NOTIFIER_SENDER, [v1::ReminderUnknown { reminder, ..Default::default() }]).await;
    rig.wait_for("inbox WHERE consumer = 'scheduler-outcomes'", 2).await;
    rig.wait_for("reminder WHERE state = 'gone'", 1).await;
    rig.end().await;
}

#[tokio::test]
async fn nothing_follows_a_reminder_that_has_not_arrived_and_the_gap_counts_from_its_arrival() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    rig.emit(
        &INGEST_INTAKE,
        [invoice("in_1", "cus_1", 1, "2026-06-01"), invoice("in_2", "cus_1", 1, "2026-06-05")].map(issued),
    )
    .await;
    rig.wait_for("timer", 2).await;
    rig.advance_to("2026-06-04T10:00:00Z").await;
    // The mail relay is out of order: Thursday's reminder is still under way on Monday, when more is due.
    rig.advance_to("2026-06-08T10:00:00Z").await;
    let reminders = rig.reminders().await;
    assert_eq!(reminders.len(), 1);
    rig.wait_for("deferral WHERE reason = 'in_flight'", 2).await;
    rig.sent(&reminders[0], &["in_1"]).await;
    rig.advance_to("2026-06-09T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 1, "it went out yesterday");
    rig.advance_to("2026-06-10T10:00:00Z").await;
    let last = rig.reminders().await.pop().unwrap().reminder.unwrap();
    assert_eq!(last.lines.len(), 2, "{last:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_case_on_a_version_that_is_not_known_here_waits_for_it() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("timer", 1).await;
    sqlx::query("UPDATE scheduler.dunning_case SET campaign_version = 'newer'").execute(&rig.pool).await.unwrap();
    rig.advance_to("2026-06-04T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 0);
    let partly_paid = v1::Invoice { open_minor: 500, ..invoice("in_1", "cus_1", 2, "2026-06-01") };
    rig.emit(&INGEST_INTAKE, [v1::InvoiceChanged { invoice: Some(partly_paid) }]).await;
    rig.wait_for("invoice WHERE version = 2", 1).await;
    rig.wait_for("timer", 1).await;
    // Another replica brings it.
    let copy = "INSERT INTO scheduler.campaign (name, version, text, steps) SELECT name, 'newer', text, steps FROM scheduler.campaign";
    sqlx::query(copy).execute(&rig.pool).await.unwrap();
    rig.advance_to("2026-06-04T10:02:00Z").await;
    assert_eq!(rig.reminders().await.len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn an_invoice_of_a_merchant_that_is_not_configured_here_can_be_tried_again() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    let other = v1::Invoice { merchant_id: "newcomer".into(), ..invoice("in_1", "cus_1", 1, "2026-06-01") };
    rig.emit(&INGEST_INTAKE, [issued(other.clone()), issued(invoice("in_2", "cus_2", 1, "2026-06-01"))]).await;
    rig.wait_for("dead_letter WHERE consumer = 'scheduler-cases'", 1).await;
    rig.wait_for("invoice", 1).await;
    // What owes nothing needs no case: it is noted, so that the letter finds out that it is outdated.
    rig.emit(&INGEST_INTAKE, [paid(other)]).await;
    rig.wait_for("invoice WHERE status = 'paid'", 1).await;
    rig.end().await;
}

#[tokio::test]
async fn firing_sees_what_has_changed_while_it_waited_for_a_case() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("timer WHERE due_at > '2026-06-04T00:00:00Z'", 1).await;
    let mut other = rig.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM scheduler.dunning_case FOR UPDATE").execute(&mut *other).await.unwrap();
    rig.clock.set(at("2026-06-04T10:00:00Z"));
    rig.wait_for_a_blocked_one().await;
    sqlx::query("UPDATE scheduler.invoice SET disputed = true").execute(&mut *other).await.unwrap();
    other.commit().await.unwrap();
    rig.advance_to("2026-06-04T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 0);
    rig.end().await;
}

#[tokio::test]
async fn a_timer_armed_anew_for_the_same_moment_is_another_timer() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("timer WHERE due_at > '2026-06-04T00:00:00Z'", 1).await;
    let mut tx = rig.pool.begin().await.unwrap();
    let timers = scheduler::store::due_timers(&mut tx, at("2026-06-04T10:00:00Z"), 0, 10).await.unwrap();
    let stale: Vec<_> = timers
        .into_iter()
        .map(|timer| scheduler::store::DueTimer { generation: timer.generation - 1, ..timer })
        .collect();
    assert_eq!(stale.len(), 1);
    scheduler::store::delete_timers(&mut tx, &stale).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.count("timer").await, 1);
    rig.end().await;
}

#[tokio::test]
async fn firing_locks_customers_before_cases() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    let customer =
        v1::Customer { merchant_id: "acme".into(), customer_id: "cus_1".into(), version: 1, ..Default::default() };
    rig.emit(&INGEST_INTAKE, [v1::CustomerChanged { customer: Some(customer) }]).await;
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_1", "cus_1", 1, "2026-06-01"))]).await;
    rig.wait_for("customer", 1).await;
    rig.wait_for("timer WHERE due_at > '2026-06-04T00:00:00Z'", 1).await;
    // As the handler of events does it: the customer first, then its cases. In another order one of both would have to die.
    let mut other = rig.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM scheduler.customer FOR UPDATE").execute(&mut *other).await.unwrap();
    rig.clock.set(at("2026-06-04T10:00:00Z"));
    rig.wait_for_a_blocked_one().await;
    sqlx::query("SELECT 1 FROM scheduler.dunning_case FOR UPDATE NOWAIT").execute(&mut *other).await.unwrap();
    other.commit().await.unwrap();
    rig.advance_to("2026-06-04T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_merged_step_shares_the_fate_of_the_message() {
    let rig = Rig::start("2026-05-20T10:00:00Z", 1).await;
    let pair = |n: usize| {
        let customer = format!("cus_{n}");
        [("a", "2026-05-28"), ("b", "2026-06-01")]
            .map(|(i, due)| issued(invoice(&format!("{i}{n}"), &customer, 1, due)))
    };
    rig.emit(&INGEST_INTAKE, (0..4).flat_map(pair)).await;
    rig.wait_for("timer", 8).await;
    rig.advance_to("2026-06-04T10:00:00Z").await;
    let mut reminders = rig.reminders().await;
    reminders.sort_by_key(|r| r.reminder.as_ref().map(|r| r.customer_id.clone()));
    let [all, failed, without_a, without_b] = &reminders[..] else { panic!("{reminders:?}") };
    let tones: Vec<_> = all.reminder.as_ref().unwrap().lines.iter().map(|l| l.tone()).collect();
    assert_eq!(tones, [v1::Tone::Final, v1::Tone::Friendly]);
    let failure =
        v1::ReminderFailed { reminder: failed.reminder.clone(), reason: "refused".into(), ..Default::default() };
    rig.emit(&NOTIFIER_SENDER, [failure]).await;
    rig.sent(without_a, &["b2"]).await;
    rig.sent(without_b, &["a3"]).await;
    rig.sent(all, &["a0", "b0"]).await;
    let decisions = rig.decisions().await;
    let mut ends: Vec<_> = decisions
        .iter()
        .filter(|d| d.contains(" overdue-7 ") && d.starts_with('a') || d.contains(" overdue-3 ") && d.starts_with('b'))
        .collect();
    ends.sort();
    assert_eq!(
        ends,
        [
            "a0/1 overdue-7 sent",
            "a1/1 overdue-7 failed refused",
            "a2/1 overdue-7 cancelled left_out",
            "a3/1 overdue-7 sent",
            "b0/1 overdue-3 merged other_invoice",
            "b1/1 overdue-3 failed refused",
            "b2/1 overdue-3 merged other_invoice",
            "b3/1 overdue-3 cancelled left_out",
        ]
    );
    rig.end().await;
}

#[tokio::test]
async fn what_is_unknown_may_become_known_in_any_order() {
    let rig = Rig::start("2026-06-03T10:00:00Z", 1).await;
    rig.emit(
        &INGEST_INTAKE,
        ["1", "2"].map(|n| issued(invoice(&format!("in_{n}"), &format!("cus_{n}"), 1, "2026-06-01"))),
    )
    .await;
    rig.wait_for("timer", 2).await;
    rig.advance_to("2026-06-04T10:00:00Z").await;
    let reminders = rig.reminders().await;
    for (due, known_first) in reminders.iter().zip([true, false]) {
        let reminder = &due.reminder;
        let invoice = reminder.as_ref().unwrap().lines[0].invoice_id.clone();
        let unknown =
            v1::ReminderUnknown { reminder: reminder.clone(), reason: "crashed".into(), ..Default::default() };
        if known_first {
            rig.sent(due, &[&invoice]).await;
        }
        rig.emit(&NOTIFIER_SENDER, [unknown]).await;
        rig.wait_for("inbox WHERE consumer = 'scheduler-outcomes'", if known_first { 2 } else { 3 }).await;
        if !known_first {
            rig.sent(due, &[&invoice]).await;
        }
    }
    rig.wait_for("decision WHERE outcome = 'sent' AND reason = ''", 2).await;
    rig.wait_for("reminder WHERE on_day = '2026-06-04' AND state IN ('sent', 'unknown')", 2).await;
    rig.end().await;
}

#[tokio::test]
async fn what_is_planned_is_what_then_happens() {
    let rig = Rig::start("2026-05-20T10:00:00Z", 1).await;
    let mut disputed = invoice("in_4", "cus_3", 1, "2026-06-01");
    disputed.disputed = true;
    let invoices = [
        invoice("in_1", "cus_1", 1, "2026-06-01"),
        invoice("in_2", "cus_1", 1, "2026-06-05"),
        invoice("in_3", "cus_2", 1, "2026-05-18"),
        disputed,
    ];
    rig.emit(&INGEST_INTAKE, invoices.map(issued)).await;
    rig.wait_for("dunning_case", 4).await;
    rig.wait_for("timer", 4).await;
    let (from, to) = ("2026-05-20".parse().unwrap(), "2026-06-30".parse().unwrap());
    let now = rig.clock.now();
    let query = scheduler::outlook::Query { merchant: Some("acme"), customer: None, now, from, to };
    let mut merchants = Merchants::default();
    merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
    let look = || scheduler::outlook::outlook(&rig.pool, &merchants, campaign::Calendars::default(), &query);
    let planned = look().await.unwrap();
    assert_eq!(planned.reminders, look().await.unwrap().reminders, "the same again");
    assert_eq!(planned.cases, 4);
    let holds: Vec<_> = planned.silences.iter().filter(|s| s.what == "waits").collect();
    assert_eq!(holds.len(), 1, "{holds:?}");
    assert_eq!((holds[0].invoice.as_str(), holds[0].reason.as_str(), &holds[0].until), ("in_4", "dispute", &None));

    // Every moment comes, and every reminder arrives.
    let mut happened = Vec::new();
    let mut told = 0;
    for _ in 0..60 {
        let next: Option<jiff_sqlx::Timestamp> =
            sqlx::query_scalar("SELECT min(due_at) FROM scheduler.timer").fetch_one(&rig.pool).await.unwrap();
        let Some(next) = next.map(|at| at.to_jiff()).filter(|at| *at < at_end()) else { break };
        rig.advance_to(&next.max(rig.clock.now()).to_string()).await;
        let reminders = rig.reminders().await;
        for due in &reminders[told..] {
            let reminder = due.reminder.as_ref().unwrap();
            let lines: Vec<&str> = reminder.lines.iter().map(|l| l.invoice_id.as_str()).collect();
            rig.sent(due, &lines).await;
            let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
            lines.sort();
            happened.push((rig.clock.now(), reminder.customer_id.clone(), lines));
        }
        told = reminders.len();
    }
    let mut expected: Vec<_> = planned
        .reminders
        .iter()
        .map(|r| {
            let mut lines: Vec<String> = r.invoices.iter().map(|line| line.invoice.clone()).collect();
            lines.sort();
            (r.at.timestamp(), r.customer.clone(), lines)
        })
        .collect();
    let past = scheduler::store::past_cases(&rig.pool, "acme").await.unwrap();
    let known: Vec<_> = past.iter().map(|c| (c.customer.as_str(), c.invoice.as_str(), c.due_on, c.closed_at)).collect();
    assert_eq!(known.len(), 4, "a back-test sees the same cases");
    assert!(known.contains(&("cus_2", "in_3", Some("2026-05-18".parse().unwrap()), None)), "{known:?}");
    expected.sort();
    happened.sort();
    assert!(expected.len() >= 5, "{expected:?}");
    assert_eq!(happened, expected);
    rig.end().await;
}

fn at_end() -> Timestamp {
    at("2026-06-30T22:00:00Z")
}

#[tokio::test]
async fn late_invoices_begin_some_a_day_on_days_that_are_open() {
    let rig = Rig::start_with("2026-06-05T10:00:00Z", 1, "\nentry: { at_most_per_day: 2 }\n").await;
    // A Friday; all have been due for long.
    let invoices = (1..6).map(|n| issued(invoice(&format!("in_{n}"), &format!("cus_{n}"), 1, "2026-05-10")));
    rig.emit(&INGEST_INTAKE, invoices).await;
    rig.wait_for("dunning_case WHERE not_before IS NOT NULL", 5).await;
    let days: Vec<String> = sqlx::query_scalar("SELECT day || ' ' || taken FROM scheduler.ramp ORDER BY day")
        .fetch_all(&rig.pool)
        .await
        .unwrap();
    assert_eq!(days, ["2026-06-05 2", "2026-06-08 2", "2026-06-09 1"], "nothing begins on a weekend");
    // One more goes on where they stopped.
    rig.emit(&INGEST_INTAKE, [issued(invoice("in_6", "cus_6", 1, "2026-05-10"))]).await;
    rig.wait_for("ramp WHERE day = '2026-06-09' AND taken = 2", 1).await;
    rig.end().await;
}
