//! Campaigns that suit themselves to payers: what is drawn, what is advised, and what of it is kept and told.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use events::topology::{INGEST_INTAKE, SEGMENTER_PAYERS};
use events::{AnyEvent, Event, Flow, Service, v1};
use jiff::Timestamp;
use kernel::{Clock, ManualClock};
use payer::bins::{BINS, bin};
use runtime::{Host, Merchants};
use scheduler::config::RuleFiles;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

const HEAD: &str = "
name: Default
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
end: { after_days: 7, outcome: stop }
";
const ADVISED: &str = "
steps:
  - key: upcoming
    when: { days_before_due: 3 }
    timing: adaptive
    window: { earlier_days: 4, later_days: 2, may_skip: true }
    tone: friendly
  - { key: overdue-3, when: { days_after_due: 3 }, tone: friendly }
";
const SPLIT: &str = "
steps:
  - key: overdue-3
    when: { days_after_due: 3 }
    tone: friendly
    experiment: { arms: [{ template: friendly }, { template: firm }], assign: { split: [50, 50] } }
";
const THOMPSON: &str = "
holdout: { invoices_percent: 0, customers_percent: 0 }
steps:
  - key: upcoming
    when: { days_before_due: 3 }
    timing: adaptive
    window: { earlier_days: 4, later_days: 2, may_skip: true }
    tone: friendly
    experiment: { arms: [{ days: -7 }, { days: -1 }, none], assign: thompson }
";

struct Rig {
    system: TestSystem,
    clock: ManualClock,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    stop: CancellationToken,
    running: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Rig {
    /// A scheduler, or two, with one campaign.
    async fn start(now: &str, replicas: usize, campaign: &str) -> Self {
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
        let mut files = RuleFiles::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config"));
        assert_eq!(files.faults.0, []);
        let text = format!("{HEAD}{campaign}");
        let campaign = scheduler::config::parse_campaign(&text).unwrap();
        files.campaigns.insert("default".to_owned(), (campaign, text));
        let (stop, mut running) = (CancellationToken::new(), Vec::new());
        for _ in 0..replicas {
            let host = system.host(Service::Scheduler, &merchants, Arc::new(clock.clone())).await.unwrap();
            let settings = scheduler::Config { tick_milliseconds: 10, ..Default::default() };
            let service = scheduler::build(settings, files.clone(), host).await.unwrap();
            running.push(tokio::spawn(service.run(stop.clone())));
        }
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        Self { system, clock, producers, pool, stop, running }
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    async fn wait_for(&self, what: &str, expected: i64) {
        wait::until_true(&format!("{expected} of {what}"), SOON, || async {
            let count = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM scheduler.{what}")));
            count.fetch_one(&self.pool).await.unwrap_or(-1_i64) == expected
        })
        .await;
    }

    async fn advance_to(&self, now: &str) {
        self.clock.set(at(now));
        self.wait_for(&format!("timer WHERE due_at <= '{now}'"), 0).await;
    }

    async fn enrolled(&self) -> Vec<v1::CaseEnrolled> {
        let events = self.system.emitted(Service::Scheduler).await.unwrap();
        events.into_iter().filter_map(|e| if let AnyEvent::CaseEnrolled(e) = e { Some(e) } else { None }).collect()
    }

    /// The day on which each invoice's first step was decided, how, and what it was decided on.
    async fn decisions(&self) -> BTreeMap<String, (String, String, Value)> {
        let rows: Vec<(String, String, String, Value)> = sqlx::query_as(
            "SELECT c.invoice, d.decided_on::text, concat_ws(' ', d.step, d.outcome, nullif(d.reason, '')),
                    d.inputs::jsonb
             FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id
             ORDER BY d.decided_at DESC",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        rows.into_iter().map(|(invoice, on, what, inputs)| (invoice, (on, what, inputs))).collect()
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

fn issued(invoice: &str, customer: &str, due_on: &str) -> v1::InvoiceIssued {
    let invoice = v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: invoice.into(),
        customer_id: customer.into(),
        version: 1,
        epoch: 1,
        status: v1::InvoiceStatus::Open.into(),
        currency: "EUR".into(),
        total_minor: 10_000,
        open_minor: 10_000,
        issued_on: "2026-05-01".into(),
        due_on: due_on.into(),
        source: "stripe".into(),
        ..Default::default()
    };
    v1::InvoiceIssued { invoice: Some(invoice) }
}

/// A distribution over a few days.
fn spread(shares: &[(i32, f32)]) -> Vec<f32> {
    let mut bins = vec![0.0; BINS];
    shares.iter().for_each(|(day, share)| bins[bin(*day)] += share);
    bins
}

fn segmented(customer: &str, segment: v1::Segment, delay: &[(i32, f32)]) -> v1::CustomerSegmented {
    let pooled = spread(&[(-5, 0.3), (-1, 0.1), (0, 0.3), (2, 0.2), (12, 0.1)]);
    let outlook =
        v1::Outlook { delay: spread(delay), pooled, effective: 10.0, model: "test-1".into(), ..Default::default() };
    v1::CustomerSegmented {
        merchant_id: "acme".into(),
        customer_id: customer.into(),
        version: 1,
        segment: segment.into(),
        outlook: Some(outlook),
        ..Default::default()
    }
}

/// Invoices whose draw is as wanted: names are tried until their hash is right.
async fn enrolments(rig: &Rig, count: usize) -> BTreeMap<String, v1::CaseEnrolled> {
    rig.wait_for("dunning_case WHERE enrolment IS NOT NULL", count as i64).await;
    wait::until_true("all enrolments on the bus", SOON, || async { rig.enrolled().await.len() == count }).await;
    rig.enrolled().await.into_iter().map(|e| (e.invoice_id.clone(), e)).collect()
}

#[tokio::test]
async fn steps_suit_the_payer_and_those_held_out_keep_the_campaigns_days() {
    for is_known_before in [true, false] {
        suits_the_payer(is_known_before).await;
    }
}

/// `is_known_before`: what is known of the payers is told before their invoices; else it moves timers that are armed.
async fn suits_the_payer(is_known_before: bool) {
    let rig = Rig::start("2026-05-04T08:00:00Z", 1, ADVISED).await;
    let late = [(-1, 0.1), (2, 0.8), (12, 0.1)];
    let prompt = [(-2, 0.9), (0, 0.08), (2, 0.02)];
    let customers = |kind: &'static str| (0..30).map(move |n| format!("{kind}_{n}"));
    let told = customers("late").map(|c| segmented(&c, v1::Segment::UsuallyLate, &late));
    let told = told.chain(customers("prompt").map(|c| segmented(&c, v1::Segment::Prompt, &prompt)));
    let told: Vec<_> = told.collect();
    // Due on a Friday.
    let bills = ["late", "prompt", "new"].into_iter().flat_map(customers);
    let bills: Vec<_> = bills.map(|c| issued(&format!("in_{c}"), &c, "2026-05-29")).collect();
    if is_known_before {
        rig.emit(&SEGMENTER_PAYERS, told).await;
        rig.wait_for("customer WHERE outlook IS NOT NULL", 60).await;
        rig.emit(&INGEST_INTAKE, bills).await;
    } else {
        rig.emit(&INGEST_INTAKE, bills).await;
        rig.wait_for("timer", 90).await;
        rig.emit(&SEGMENTER_PAYERS, told).await;
        rig.wait_for("customer WHERE outlook IS NOT NULL", 60).await;
    }
    let enrolled = enrolments(&rig, 90).await;
    let held_out = enrolled.values().filter(|e| e.schedule() != v1::Schedule::Adaptive).count();
    assert!((5..30).contains(&held_out), "{held_out} of 90 held out, where 15 % are expected");
    assert!(enrolled.values().all(|e| e.reminds_before_due));

    for day in 20..=29 {
        rig.advance_to(&format!("2026-05-{day}T10:00:00Z")).await;
    }
    let decisions = rig.decisions().await;
    for (invoice, event) in &enrolled {
        let (on, what, inputs) = &decisions[invoice];
        let adaptive = event.schedule() == v1::Schedule::Adaptive;
        let expected = match (adaptive, invoice.split('_').nth(1).unwrap()) {
            (true, "late") => ("2026-05-22", "upcoming requested"),
            (true, "prompt") => ("2026-05-26", "upcoming skipped advised"),
            // What the campaign says; to those of whom nothing is known too.
            _ => ("2026-05-26", "upcoming requested"),
        };
        assert_eq!((on.as_str(), what.as_str()), expected, "{invoice}: {inputs}");
        let group = if adaptive { "treated" } else { "held_out" };
        assert!(inputs["enrolment"]["group"].as_str().unwrap().contains(group), "{inputs}");
        if adaptive && !invoice.contains("new") {
            assert_eq!(inputs["chosen"]["model"], "test-1");
            assert_eq!(inputs["enrolment"]["propensity"], 0.9);
            assert!(inputs["chosen"]["rule"].is_string(), "{invoice}: {inputs}");
            let words = inputs["chosen"]["words"].as_str().unwrap();
            assert!(
                words.starts_with(if invoice.contains("late") { "moved by -4 days: " } else { "left out: " }),
                "{words}"
            );
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn an_outlook_that_cannot_be_read_holds_up_nobody() {
    let rig = Rig::start("2026-05-04T08:00:00Z", 1, ADVISED).await;
    rig.emit(&SEGMENTER_PAYERS, [segmented("old", v1::Segment::UsuallyLate, &[(2, 1.0)])]).await;
    rig.wait_for("customer WHERE outlook IS NOT NULL", 1).await;
    // As of an estimator with other bins.
    sqlx::query(r"UPDATE scheduler.customer SET outlook = '\xff'").execute(&rig.pool).await.unwrap();
    rig.emit(&INGEST_INTAKE, ["old", "other"].map(|c| issued(&format!("in_{c}"), c, "2026-05-29"))).await;
    rig.wait_for("timer", 2).await;
    rig.advance_to("2026-05-26T10:00:00Z").await;
    let decisions = rig.decisions().await;
    let what = |invoice: &str| (decisions[invoice].0.as_str(), decisions[invoice].1.as_str());
    assert_eq!([what("in_old"), what("in_other")], [("2026-05-26", "upcoming requested"); 2], "as the campaign says");
    rig.end().await;
}

/// Schedule and arms with the bits of their propensities.
type Draw = (i32, Vec<(String, u64)>);

#[tokio::test]
async fn draws_are_the_same_whoever_draws_and_propensities_are_kept() {
    let mut draws: Vec<BTreeMap<String, Draw>> = Vec::new();
    for replicas in [1, 2] {
        let rig = Rig::start("2026-05-04T08:00:00Z", replicas, SPLIT).await;
        let bills: Vec<_> = (0..200).map(|n| issued(&format!("in_{n}"), &format!("cus_{n}"), "2026-05-29")).collect();
        for chunk in bills.chunks(50) {
            rig.emit(&INGEST_INTAKE, chunk.to_vec()).await;
        }
        let enrolled = enrolments(&rig, 200).await;
        let arms = |e: &v1::CaseEnrolled| e.arms.iter().map(|a| (a.arm.clone(), a.propensity.to_bits())).collect();
        draws.push(enrolled.iter().map(|(invoice, e)| (invoice.clone(), (e.schedule, arms(e)))).collect());
        if replicas == 1 {
            let treated: Vec<_> = enrolled.values().filter(|e| e.schedule() == v1::Schedule::Adaptive).collect();
            assert!(treated.iter().all(|e| e.arms.len() == 1 && e.arms[0].propensity == 0.5));
            assert!(enrolled.values().all(|e| e.schedule() == v1::Schedule::Adaptive || e.arms.is_empty()));
            let used: BTreeSet<&str> = treated.iter().map(|e| e.arms[0].arm.as_str()).collect();
            assert_eq!(used.len(), 2, "both arms are drawn: {used:?}");
            assert!(
                enrolled.values().all(|e| !e.reminds_before_due),
                "nothing of it can be paid on time by a reminder"
            );
            rig.advance_to("2026-06-01T10:00:00Z").await;
            let reminders = rig.system.emitted(Service::Scheduler).await.unwrap().into_iter();
            let reminders = reminders.filter_map(|e| if let AnyEvent::ReminderDue(r) = e { r.reminder } else { None });
            for reminder in reminders {
                let event = &enrolled[&reminder.lines[0].invoice_id];
                let firm = event.arms.first().is_some_and(|a| a.arm.contains("firm"));
                assert_eq!(reminder.template, if firm { "firm" } else { "friendly" }, "{event:?}");
            }
        }
        rig.end().await;
    }
    assert_eq!(draws[0], draws[1]);
}

#[tokio::test]
async fn what_worked_is_drawn_more_often_in_the_weeks_after() {
    let rig = Rig::start("2026-05-04T08:00:00Z", 2, THOMPSON).await;
    let bills = |name: &'static str, due: &'static str| {
        (0..300).map(move |n| issued(&format!("in_{name}_{n}"), &format!("cus_{name}_{n}"), due))
    };
    rig.emit(&INGEST_INTAKE, bills("a", "2026-05-22")).await;
    let first = enrolments(&rig, 300).await;
    let arms: BTreeSet<_> = first.values().map(|e| (e.arms[0].arm.clone(), e.arms[0].propensity.to_bits())).collect();
    assert_eq!(arms.len(), 3, "three arms, alike: {arms:?}");
    // Who was to hear a week before pays on the day before the due date; nobody else does.
    rig.clock.set(at("2026-05-21T10:00:00Z"));
    let paid = first.values().filter(|e| e.arms[0].arm.contains("-7")).map(|e| {
        let invoice = issued(&e.invoice_id, &e.customer_id, &e.due_on).invoice.unwrap();
        let invoice = v1::Invoice { version: 2, open_minor: 0, status: v1::InvoiceStatus::Paid.into(), ..invoice };
        v1::PaymentReceived { invoice: Some(invoice), amount_minor: 10_000, ..Default::default() }
    });
    let paid: Vec<_> = paid.collect();
    let count = paid.len() as i64;
    rig.emit(&INGEST_INTAKE, paid).await;
    rig.wait_for("dunning_case WHERE closed_reason = 'paid'", count).await;

    rig.clock.set(at("2026-06-02T08:00:00Z"));
    rig.emit(&INGEST_INTAKE, bills("b", "2026-06-26")).await;
    let all = enrolments(&rig, 600).await;
    let propensities: BTreeMap<String, f64> = all
        .values()
        .filter(|e| e.invoice_id.starts_with("in_b"))
        .map(|e| (e.arms[0].arm.clone(), e.arms[0].propensity))
        .collect();
    let worked = propensities.iter().find(|(arm, _)| arm.contains("-7")).unwrap().1;
    assert!(*worked > 0.89, "{propensities:?}");
    assert!(propensities.values().all(|p| *p >= 0.05 - 1e-9), "none is given up for good: {propensities:?}");
    rig.wait_for("policy", 2).await;
    rig.end().await;
}
