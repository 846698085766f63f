//! What operators do, on a real bus with a manual clock: through gRPC, and as the command line does it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bus::Work;
use events::api::operations_client::OperationsClient;
use events::api::{self, hold_request, release_request};
use events::topology::{INGEST_ERASURE, INGEST_INTAKE, NOTIFIER_INBOUND, NOTIFIER_SENDER, SCHEDULER_OPERATIONS};
use events::{AnyEvent, Event, Flow, Service, v1};
use jiff::Timestamp;
use kernel::{Clock, ManualClock};
use runtime::{Host, Merchants};
use scheduler::config::{RuleFiles, parse_campaign};
use scheduler::operations::migrate::{self, Batch, Migration};
use scheduler::rules::{Rules, Sources};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::system::API_KEY;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const SOON: Duration = Duration::from_secs(20);
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

/// A campaign without a spread, so that moments are round. Wednesday, 3 June 2026 is day 2 of what is due on the first.
const CAMPAIGN: &str = "
name: Default
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 0 }
steps:
  - { key: upcoming, when: { days_before_due: 3 }, only_if: { segment: [usually_late] }, tone: friendly }
  - { key: overdue-3, when: { days_after_due: 3 }, tone: friendly }
  - { key: broken, when: { days_after_broken_promise: 0 }, tone: firm }
  - { key: overdue-7, when: { days_after_due: 7 }, tone: final }
end: { after_days: 7, outcome: hand_over }
";

/// A scheduler with a manual clock, and producers that stand in for the other services.
struct Rig {
    system: TestSystem,
    clock: ManualClock,
    merchants: Arc<Merchants>,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    client: OperationsClient<Channel>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    async fn start(now: &str) -> Self {
        let others = [Service::Ingest, Service::Notifier];
        let mut services: Vec<_> = others.map(|s| (s, &*NO_MIGRATIONS)).to_vec();
        services.push((Service::Scheduler, &scheduler::MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at(now));
        let mut merchants = Merchants::default();
        merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
        merchants.insert(system::merchant("globex", "Europe/Berlin").unwrap());
        let mut producers = BTreeMap::new();
        for service in others {
            producers.insert(service, system.host(service, &merchants, Arc::new(clock.clone())).await.unwrap());
        }
        let config = system.directory().join("config");
        std::fs::create_dir_all(config.join("campaigns")).unwrap();
        std::fs::write(config.join("campaigns/default.yaml"), CAMPAIGN).unwrap();
        let host = system.host(Service::Scheduler, &merchants, Arc::new(clock.clone())).await.unwrap();
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let settings = scheduler::Config { tick_milliseconds: 10, grpc_listen: listen, reload_seconds: 1 };
        let service = scheduler::build(settings, RuleFiles::read(&config), host).await.unwrap();
        let address = service.address("grpc").unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(service.run(stop.clone()));
        let client = OperationsClient::connect(format!("http://{address}")).await.unwrap();
        Self { system, clock, merchants: Arc::new(merchants), producers, pool, client, stop, running }
    }

    /// With one invoice that is due on 1 June 2026, and its timer.
    async fn with_invoice(now: &str) -> Self {
        let rig = Self::start(now).await;
        rig.issue([invoice("in_1", "cus_1", "2026-06-01")]).await;
        rig
    }

    async fn issue(&self, invoices: impl IntoIterator<Item = v1::Invoice>) {
        let known = self.count("dunning_case").await;
        let events: Vec<_> = invoices.into_iter().map(|i| v1::InvoiceIssued { invoice: Some(i) }).collect();
        let expected = known + events.len() as i64;
        self.emit(&INGEST_INTAKE, events).await;
        self.wait_for("dunning_case WHERE campaign <> ''", expected).await;
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    async fn scalar<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    async fn count(&self, what: &str) -> i64 {
        self.scalar(&format!("SELECT count(*) FROM scheduler.{what}")).await
    }

    async fn wait_for(&self, what: &str, expected: i64) {
        wait::until_true(&format!("{expected} of {what}"), SOON, || async { self.count(what).await == expected }).await;
    }

    /// Moves the clock and waits until no timer is due any more.
    async fn advance_to(&self, now: &str) {
        self.clock.set(at(now));
        self.wait_for(&format!("timer WHERE due_at <= '{now}'"), 0).await;
    }

    async fn reminders(&self) -> Vec<v1::Reminder> {
        let events = self.system.emitted(Service::Scheduler).await.unwrap();
        events.into_iter().filter_map(|e| if let AnyEvent::ReminderDue(r) = e { r.reminder } else { None }).collect()
    }

    /// The notifier tells that a reminder went out.
    async fn sent(&self, reminder: &v1::Reminder) {
        let invoice_ids = reminder.lines.iter().map(|l| l.invoice_id.clone()).collect();
        let sent = v1::ReminderSent { reminder: Some(reminder.clone()), invoice_ids, ..Default::default() };
        self.emit(&NOTIFIER_SENDER, [sent]).await;
        let id = &reminder.reminder_id;
        self.wait_for(&format!("reminder WHERE reminder_id = '{id}' AND state = 'in_flight'"), 0).await;
    }

    /// Every decision: step, outcome, reason, rule.
    async fn decisions(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', d.step, d.outcome, nullif(d.reason, ''), '(' || d.rule || ')')
             FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id
             ORDER BY c.invoice, d.decided_at, 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// When the invoice's case is looked at next.
    async fn armed_at(&self, invoice: &str) -> Option<String> {
        let sql =
            format!("SELECT armed_at FROM scheduler.dunning_case WHERE invoice = '{invoice}' ORDER BY epoch DESC");
        let at: Option<jiff_sqlx::Timestamp> = self.scalar(&sql).await;
        at.map(|at| at.to_jiff().to_string())
    }

    async fn hold(
        &self,
        target: hold_request::Target,
        until: &str,
        promise: bool,
    ) -> Result<api::HoldResponse, Status> {
        let request = api::HoldRequest {
            merchant_id: "acme".into(),
            target: Some(target),
            until: until.into(),
            promise,
            reason: "asked for a copy".into(),
            by: "anna".into(),
        };
        self.client.clone().hold(authorized(request)).await.map(tonic::Response::into_inner)
    }

    async fn release(&self, target: release_request::Target) -> Result<Vec<i64>, Status> {
        let request = api::ReleaseRequest {
            merchant_id: "acme".into(),
            target: Some(target),
            reason: String::new(),
            by: "bert".into(),
        };
        self.client.clone().release(authorized(request)).await.map(|r| r.into_inner().hold_ids)
    }

    async fn skip(&self, invoice: &str, step: &str) -> Result<api::SkipResponse, Status> {
        let request = api::SkipRequest {
            merchant_id: "acme".into(),
            invoice_id: invoice.into(),
            step: step.into(),
            reason: "pays by cheque".into(),
            by: "anna".into(),
        };
        self.client.clone().skip(authorized(request)).await.map(tonic::Response::into_inner)
    }

    async fn send_now(&self, invoice: &str, step: &str) -> Result<api::SendNowResponse, Status> {
        let request = api::SendNowRequest {
            merchant_id: "acme".into(),
            invoice_id: invoice.into(),
            step: step.into(),
            reason: "asked for it".into(),
            by: "anna".into(),
        };
        self.client.clone().send_now(authorized(request)).await.map(tonic::Response::into_inner)
    }

    /// What is listed: kind, invoice or customer, until or waiting.
    async fn listed(&self, waiting_only: bool) -> Vec<String> {
        let request = api::ListHoldsRequest { merchant_id: "acme".into(), waiting_only, limit: 0 };
        let holds = self.client.clone().list_holds(authorized(request)).await.unwrap().into_inner().holds;
        let shown = |h: api::OpenHold| {
            let about = if h.invoice_id.is_empty() { h.customer_id } else { h.invoice_id };
            let until = if h.waits_for_person { "waits".to_owned() } else { h.until };
            format!("{} {about} {until}", h.kind)
        };
        holds.into_iter().map(shown).collect()
    }

    /// Another version comes into force, as a changed file does.
    async fn put_in_force(&self, text: &str) {
        std::fs::write(self.system.directory().join("config/campaigns/default.yaml"), text).unwrap();
        let version = version(text);
        self.wait_for(&format!("campaign WHERE version = '{version}'"), 1).await;
    }

    /// The rules as the command line reads them: without a service and a broker.
    async fn desk(&self) -> (PgPool, Rules) {
        let sources =
            Sources { pool: self.pool.clone(), clock: Arc::new(self.clock.clone()), merchants: self.merchants.clone() };
        let rules = Rules::load(sources, &Default::default(), Default::default()).await.unwrap();
        let options = (*self.pool.connect_options()).clone().options([("search_path", "scheduler")]);
        (PgPool::connect_with(options).await.unwrap(), rules)
    }

    /// One batch of a migration to the version of a text.
    async fn migrate(&self, to: &str, dry_run: bool) -> Batch {
        let (pool, rules) = self.desk().await;
        let wanted = Migration { campaign: "default".into(), to: version(to), merchant: None, by: "anna".into() };
        let mut work = Work::begin_without_relay(&pool, &SCHEDULER_OPERATIONS).await.unwrap();
        let batch = migrate::migrate(&rules, &mut work, &wanted, None).await.unwrap();
        if !dry_run {
            work.commit().await.unwrap();
        }
        batch
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn version(text: &str) -> String {
    parse_campaign(text).unwrap().version
}

fn authorized<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {API_KEY}").parse().unwrap());
    request
}

fn invoice(id: &str, customer: &str, due_on: &str) -> v1::Invoice {
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: id.into(),
        customer_id: customer.into(),
        version: 1,
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

fn of_invoice(id: &str) -> hold_request::Target {
    hold_request::Target::InvoiceId(id.into())
}

/// Code, reason, rule and end of a refusal.
fn refusal<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String, String, String) {
    let status = outcome.unwrap_err();
    let told = |key: &str| status.metadata().get(key).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    (status.code(), told("dunlin-reason"), told("dunlin-rule"), told("dunlin-until"))
}

fn refused(reason: &str, rule: &str, until: &str) -> (Code, String, String, String) {
    (Code::FailedPrecondition, reason.into(), rule.into(), until.into())
}

const WEDNESDAY: &str = "2026-06-03T10:00:00Z";

#[tokio::test]
async fn a_hold_keeps_reminders_back_and_its_release_brings_one() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    let placed = rig.hold(of_invoice("in_1"), "", false).await.unwrap();
    assert_eq!(placed.invoices, 1);
    assert_eq!(rig.listed(true).await, ["manual in_1 waits"]);
    // Day 3 and day 7 pass.
    rig.advance_to("2026-06-10T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 0);
    rig.wait_for(&format!("deferral WHERE reason = 'manual_hold' AND rule = 'hold {}'", placed.hold_id), 1).await;

    assert_eq!(rig.release(release_request::Target::InvoiceId("in_1".into())).await.unwrap(), [placed.hold_id]);
    rig.wait_for("timer WHERE due_at <= '2026-06-10T10:00:00Z'", 0).await;
    let reminders = rig.reminders().await;
    assert_eq!(reminders.iter().map(|r| r.step.as_str()).collect::<Vec<_>>(), ["overdue-7"]);
    assert!(rig.decisions().await.contains(&"overdue-3 merged later_step (steps.overdue-7)".to_owned()));
    assert_eq!(rig.listed(false).await, [] as [&str; 0]);

    // Who and why stay.
    let told: String = rig.scalar("SELECT concat_ws(' ', placed_by, reason, released_by) FROM scheduler.hold").await;
    assert_eq!(told, "anna asked for a copy bert");
    let story = scheduler::store::story(&rig.pool, "acme", "in_1").await.unwrap();
    let told: Vec<_> = story.iter().map(|l| format!("{} ({})", l.what, l.detail)).collect();
    assert!(told.iter().any(|l| l.starts_with("hold ") && l.ends_with("(asked for a copy, by anna)")), "{told:#?}");
    let again = rig.release(release_request::Target::HoldId(placed.hold_id)).await;
    assert_eq!(refusal(again).1, "already_decided");
    rig.end().await;
}

#[tokio::test]
async fn a_hold_with_an_end_ends_by_itself_and_one_of_a_customer_holds_all_invoices() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    rig.issue([invoice("in_2", "cus_1", "2026-06-02"), invoice("in_3", "cus_2", "2026-06-01")]).await;
    let placed = rig.hold(hold_request::Target::CustomerId("cus_1".into()), "2026-06-08", false).await.unwrap();
    assert_eq!(placed.invoices, 2);
    assert_eq!(rig.listed(false).await, ["manual cus_1 2026-06-08"]);
    assert_eq!(rig.listed(true).await, [] as [&str; 0]);
    rig.advance_to("2026-06-08T15:00:00Z").await;
    let told = |reminders: Vec<v1::Reminder>| -> Vec<String> { reminders.into_iter().map(|r| r.customer_id).collect() };
    assert_eq!(told(rig.reminders().await), ["cus_2"]);
    rig.advance_to("2026-06-09T10:00:00Z").await;
    assert_eq!(told(rig.reminders().await), ["cus_2", "cus_1"], "one reminder for both invoices");
    assert_eq!(rig.listed(false).await, [] as [&str; 0], "over");
    rig.end().await;
}

#[tokio::test]
async fn a_promise_holds_until_it_is_broken_and_then_its_step_goes() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    rig.hold(of_invoice("in_1"), "2026-06-08", true).await.unwrap();
    assert_eq!(rig.listed(false).await, ["promise in_1 2026-06-08"]);
    // Promised for Monday, two days of grace: broken on Thursday.
    rig.advance_to("2026-06-10T15:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 0);
    rig.advance_to("2026-06-11T10:00:00Z").await;
    let steps: Vec<_> = rig.reminders().await.into_iter().map(|r| r.step).collect();
    assert_eq!(steps, ["overdue-7"], "the furthest speaks");
    assert!(rig.decisions().await.contains(&"broken merged later_step (steps.overdue-7)".to_owned()));
    rig.end().await;
}

#[tokio::test]
async fn a_skipped_step_is_decided_for_good_and_the_next_one_is_armed() {
    let rig = Rig::with_invoice("2026-06-02T10:00:00Z").await;
    rig.wait_for("timer WHERE due_at = '2026-06-04T07:00:00Z'", 1).await;
    rig.skip("in_1", "overdue-3").await.unwrap();
    assert_eq!(rig.armed_at("in_1").await.as_deref(), Some("2026-06-08T07:00:00Z"));
    let decided = "overdue-3 skipped operator (operator anna: pays by cheque)".to_owned();
    assert!(rig.decisions().await.contains(&decided));
    let events = rig.system.emitted(Service::Scheduler).await.unwrap();
    let told = events.iter().any(|e| {
        matches!(e, AnyEvent::StepDecided(d) if d.step == "overdue-3" && d.reason == "operator"
            && d.outcome() == v1::StepOutcome::Skipped && d.rule == "operator anna")
    });
    assert!(told, "{events:?}");
    rig.advance_to("2026-06-05T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 0);

    let named = |step: &'static str| rig.skip("in_1", step);
    assert_eq!(refusal(named("overdue-3").await), refused("already_decided", "steps.overdue-3", ""));
    let unknown = named("overdue-33").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("there are upcoming, overdue-3, broken, overdue-7"), "{unknown}");
    assert_eq!(rig.skip("in_9", "overdue-3").await.unwrap_err().code(), Code::NotFound);
    pay(&rig, "in_1").await;
    assert_eq!(refusal(named("overdue-7").await), refused("not_open", "invoice.status", ""));
    rig.end().await;
}

async fn pay(rig: &Rig, id: &str) {
    let paid = v1::Invoice {
        version: 9,
        status: v1::InvoiceStatus::Paid.into(),
        open_minor: 0,
        ..invoice(id, "cus_1", "2026-06-01")
    };
    rig.emit(&INGEST_INTAKE, [v1::PaymentReceived { invoice: Some(paid), ..Default::default() }]).await;
    rig.wait_for(&format!("dunning_case WHERE invoice = '{id}' AND closed_reason = 'paid'"), 1).await;
}

#[tokio::test]
async fn what_an_operator_asks_for_goes_now_and_only_once() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    rig.wait_for("timer WHERE due_at = '2026-06-04T07:00:00Z'", 1).await;
    let sent = rig.send_now("in_1", "").await.unwrap();
    assert_eq!((sent.step.as_str(), sent.merged.len()), ("overdue-3", 0));
    let reminders = rig.reminders().await;
    assert_eq!(reminders.iter().map(|r| &r.reminder_id).collect::<Vec<_>>(), [&sent.reminder_id]);
    let decided = "overdue-3 requested (operator anna: asked for it)".to_owned();
    assert!(rig.decisions().await.contains(&decided), "{:?}", rig.decisions().await);
    assert_eq!(rig.armed_at("in_1").await.as_deref(), Some("2026-06-08T07:00:00Z"));

    // Again: nothing is sent before the first one has arrived, and the step itself is decided.
    assert_eq!(refusal(rig.send_now("in_1", "overdue-3").await), refused("already_decided", "steps.overdue-3", ""));
    assert_eq!(refusal(rig.send_now("in_1", "").await).1, "min_gap");
    rig.sent(&reminders[0]).await;
    rig.advance_to("2026-06-04T10:00:00Z").await;
    assert_eq!(rig.reminders().await.len(), 1, "day 3 is decided");
    // Two of them at once: the second one finds the first one's decision.
    rig.advance_to("2026-06-05T10:00:00Z").await;
    let (one, other) = tokio::join!(rig.send_now("in_1", "overdue-7"), rig.send_now("in_1", "overdue-7"));
    let won = [&one, &other].iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1, "{one:?} {other:?}");
    assert_eq!(rig.reminders().await.len(), 2);
    rig.end().await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_reminder_is_told_with_reason_rule_and_end() {
    let rig = Rig::with_invoice("2026-06-01T10:00:00Z").await;
    let ask = |step: &'static str| rig.send_now("in_1", step);
    let tuesday = "2026-06-02T07:00:00Z";
    assert_eq!(refusal(ask("overdue-3").await), refused("not_due", "invoice.due_on", tuesday));
    rig.advance_to("2026-06-03T17:00:00Z").await;
    let thursday = "2026-06-04T07:00:00Z";
    assert_eq!(refusal(ask("").await), refused("contact_hours", "contact", thursday), "it is seven in the evening");
    rig.clock.set(at("2026-06-03T06:00:00Z"));
    assert_eq!(refusal(ask("").await).3, "2026-06-03T07:00:00Z");

    rig.clock.set(at(WEDNESDAY));
    assert_eq!(refusal(ask("overdue-33").await).0, Code::NotFound);
    let hold = rig.hold(of_invoice("in_1"), "", false).await.unwrap().hold_id;
    assert_eq!(refusal(ask("").await), refused("manual_hold", &format!("hold {hold}"), ""));
    rig.release(release_request::Target::HoldId(hold)).await.unwrap();
    let promise = rig.hold(of_invoice("in_1"), "2026-06-05", true).await.unwrap().hold_id;
    let broken = "2026-06-08T07:00:00Z";
    assert_eq!(refusal(ask("").await), refused("promise", "holds.promise_grace_days", broken));
    rig.release(release_request::Target::HoldId(promise)).await.unwrap();

    let change = |version: i64, change: fn(&mut v1::Invoice)| {
        let mut changed = v1::Invoice { version, ..invoice("in_1", "cus_1", "2026-06-01") };
        change(&mut changed);
        let rig = &rig;
        async move {
            rig.emit(&INGEST_INTAKE, [v1::InvoiceChanged { invoice: Some(changed) }]).await;
            rig.wait_for(&format!("invoice WHERE version = {version}"), 1).await;
        }
    };
    change(2, |i| i.disputed = true).await;
    assert_eq!(refusal(ask("").await), refused("dispute", "invoice.disputed", ""));
    change(3, |i| i.collects_itself = true).await;
    assert_eq!(refusal(ask("").await), refused("auto_pay", "holds.pending_payment_days", "2026-06-15T07:00:00Z"));
    change(4, |i| i.pending_since = Some(events::time::to_wire(at(WEDNESDAY)))).await;
    assert_eq!(refusal(ask("").await).1, "pending_payment");
    change(5, |_| {}).await;

    // Another invoice of the customer is reminded: this one waits for that message, and then for the gap.
    rig.issue([invoice("in_2", "cus_1", "2026-06-02")]).await;
    rig.send_now("in_2", "").await.unwrap();
    assert_eq!(refusal(ask("").await), refused("min_gap", "contact.min_gap_days", "2026-06-05T07:00:00Z"));
    rig.clock.set(at("2026-06-05T10:00:00Z"));
    assert_eq!(refusal(ask("").await).1, "in_flight");

    sqlx::query("UPDATE scheduler.customer SET opted_out = true").execute(&rig.pool).await.unwrap();
    assert_eq!(refusal(ask("").await), refused("opted_out", "customer.opted_out", ""));
    pay(&rig, "in_1").await;
    assert_eq!(refusal(ask("").await), refused("not_open", "invoice.status", ""));
    assert_eq!(rig.reminders().await.len(), 1, "nothing of all that was sent");
    rig.end().await;
}

#[tokio::test]
async fn a_call_that_makes_no_sense_names_the_field() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    let mut client = rig.client.clone();
    let valid = api::HoldRequest {
        merchant_id: "acme".into(),
        target: Some(of_invoice("in_1")),
        until: String::new(),
        promise: false,
        reason: "because".into(),
        by: "anna".into(),
    };
    let stranger = client.hold(Request::new(valid.clone())).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated);
    let elsewhere = api::HoldRequest { merchant_id: "nobody".into(), ..valid.clone() };
    assert_eq!(client.hold(authorized(elsewhere)).await.unwrap_err().code(), Code::Unauthenticated);
    for (request, field) in [
        (api::HoldRequest { target: None, ..valid.clone() }, "target"),
        (api::HoldRequest { target: Some(of_invoice("")), ..valid.clone() }, "invoice_id"),
        (api::HoldRequest { until: "soon".into(), ..valid.clone() }, "until"),
        (api::HoldRequest { until: "2026-06-02".into(), ..valid.clone() }, "until"),
        (api::HoldRequest { promise: true, ..valid.clone() }, "until"),
        (api::HoldRequest { reason: " ".into(), ..valid.clone() }, "reason"),
        (api::HoldRequest { reason: "a\nb".into(), ..valid.clone() }, "reason"),
        (api::HoldRequest { by: String::new(), ..valid.clone() }, "by"),
    ] {
        let fault = client.hold(authorized(request)).await.unwrap_err();
        assert_eq!(fault.code(), Code::InvalidArgument, "{fault}");
        assert!(fault.message().starts_with(&format!("{field}: ")), "{fault}");
    }
    for unknown in [of_invoice("in_9"), hold_request::Target::CustomerId("cus_9".into())] {
        assert_eq!(rig.hold(unknown, "", false).await.unwrap_err().code(), Code::NotFound);
    }
    // What belongs to another merchant is not there.
    let hold = rig.hold(of_invoice("in_1"), "", false).await.unwrap().hold_id;
    let foreign = api::ReleaseRequest {
        merchant_id: "globex".into(),
        target: Some(release_request::Target::HoldId(hold)),
        reason: String::new(),
        by: "eve".into(),
    };
    assert_eq!(client.release(authorized(foreign)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.release(release_request::Target::CustomerId("cus_1".into())).await.unwrap(), [hold]);
    assert_eq!(
        rig.release(release_request::Target::InvoiceId("in_1".into())).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(rig.count("hold").await, 1);
    rig.end().await;
}

#[tokio::test]
async fn everything_that_waits_for_a_person_is_in_one_list() {
    let rig = Rig::start("2026-05-20T10:00:00Z").await;
    let disputed = v1::Invoice { disputed: true, ..invoice("in_2", "cus_2", "2026-06-01") };
    rig.issue([invoice("in_1", "cus_1", "2026-06-01"), disputed, invoice("in_3", "cus_3", "2026-06-01")]).await;
    let lost = v1::Invoice { campaign: "nowhere".into(), ..invoice("in_4", "cus_4", "2026-06-01") };
    rig.emit(&INGEST_INTAKE, [v1::InvoiceIssued { invoice: Some(lost) }]).await;
    rig.wait_for("dunning_case WHERE chosen_by = 'unknown_campaign'", 1).await;
    let martian = v1::Customer {
        merchant_id: "acme".into(),
        customer_id: "cus_3".into(),
        version: 1,
        time_zone: "Mars/Base".into(),
        ..Default::default()
    };
    rig.emit(&INGEST_INTAKE, [v1::CustomerChanged { customer: Some(martian) }]).await;
    rig.wait_for("customer WHERE time_zone <> ''", 1).await;
    rig.hold(of_invoice("in_4"), "", false).await.unwrap();
    rig.hold(of_invoice("in_3"), "2026-05-22", false).await.unwrap();
    let mut listed = rig.listed(false).await;
    listed.sort();
    let waiting = [
        "dispute in_2 waits",
        "manual in_3 2026-05-22",
        "manual in_4 waits",
        "unknown_campaign in_4 waits",
        "unknown_zone cus_3 waits",
    ];
    assert_eq!(listed, waiting);

    // The ladder of the first invoice ends: a person goes on.
    for (day, count) in [("2026-06-04", 1), ("2026-06-08", 2)] {
        rig.advance_to(&format!("{day}T10:00:00Z")).await;
        let reminders = rig.reminders().await;
        assert_eq!(reminders.len(), count);
        rig.sent(&reminders[count - 1]).await;
    }
    rig.skip("in_1", "broken").await.unwrap();
    rig.advance_to("2026-06-20T10:00:00Z").await;
    rig.wait_for("dunning_case WHERE ended_as = 'hand_over'", 1).await;
    assert!(rig.listed(true).await.contains(&"hand_over in_1 waits".to_owned()));
    let counted = scheduler::operations::store::waiting_for_person(&rig.pool).await.unwrap();
    assert_eq!(counted, 3, "what is counted all the time: the hold, the dispute, the one that is handed over");
    pay(&rig, "in_1").await;
    assert!(!rig.listed(true).await.contains(&"hand_over in_1 waits".to_owned()));
    rig.end().await;
}

/// Day 3 becomes day 2, day 7 goes, and day 10 is new.
fn other_version() -> String {
    let moved = CAMPAIGN.replace("days_after_due: 3", "days_after_due: 2");
    moved.replace("key: overdue-7, when: { days_after_due: 7 }", "key: overdue-10, when: { days_after_due: 10 }")
}

#[tokio::test]
async fn running_cases_stay_on_their_version_until_they_are_migrated() {
    let rig = Rig::with_invoice("2026-05-20T10:00:00Z").await;
    rig.wait_for("timer WHERE due_at = '2026-05-29T07:00:00Z'", 1).await;
    let other = other_version();
    rig.put_in_force(&other).await;
    let new_one = || async {
        rig.issue([invoice(&format!("new-{}", rig.count("invoice").await), "cus_2", "2026-06-01")]).await;
        rig.count(&format!("dunning_case WHERE campaign_version = '{}'", version(&other))).await > 0
    };
    wait::until_true("new cases to begin on the new version", SOON, new_one).await;
    let old = format!("dunning_case WHERE invoice = 'in_1' AND campaign_version = '{}'", version(CAMPAIGN));
    assert_eq!(rig.count(&old).await, 1);
    rig.advance_to("2026-05-29T10:00:00Z").await;
    assert_eq!(rig.armed_at("in_1").await.as_deref(), Some("2026-06-01T22:00:00Z"), "overdue is told first");
    rig.advance_to("2026-06-02T06:00:00Z").await;
    assert_eq!(rig.armed_at("in_1").await.as_deref(), Some("2026-06-04T07:00:00Z"), "still day 3");

    let before: Vec<String> = snapshot(&rig).await;
    let told = rig.migrate(&other, true).await.moved;
    assert_eq!(snapshot(&rig).await, before, "a dry run changes nothing");
    let of_first = told.iter().find(|m| m.invoice == "in_1").unwrap();
    assert_eq!(of_first.from, version(CAMPAIGN));
    let next = |step: &Option<migrate::NextStep>| step.as_ref().map(|n| format!("{} {}", n.step, n.at)).unwrap();
    assert_eq!(next(&of_first.next_before), "overdue-3 2026-06-04T07:00:00Z");
    assert_eq!(next(&of_first.next_after), "overdue-3 2026-06-03T07:00:00Z");
    assert_eq!(of_first.kept, ["upcoming"]);
    assert_eq!(
        (&of_first.gone[..], &of_first.new[..]),
        (&["overdue-7".to_owned()][..], &["overdue-10".to_owned()][..])
    );

    assert_eq!(rig.migrate(&other, false).await.moved, told, "what was told is what is done");
    assert_eq!(rig.armed_at("in_1").await.as_deref(), Some("2026-06-03T07:00:00Z"));
    assert_eq!(rig.count(&old).await, 0);
    assert_eq!(rig.migrate(&other, false).await.moved, [], "the second time there is nothing to do");
    let story = scheduler::store::story(&rig.pool, "acme", "in_1").await.unwrap();
    let line = story.iter().find(|l| l.what.starts_with("migrated")).unwrap();
    assert_eq!(line.what, format!("migrated to campaign version {}", version(&other)));
    assert_eq!(line.detail, format!("from {}, by anna", version(CAMPAIGN)));

    // It goes on by the new version, and what was decided stays decided.
    rig.advance_to("2026-06-03T10:00:00Z").await;
    let of_first = rig.reminders().await.into_iter().find(|r| r.customer_id == "cus_1").unwrap();
    assert_eq!((of_first.step.as_str(), of_first.campaign_version.as_str()), ("overdue-3", version(&other).as_str()));
    rig.end().await;
}

/// Cases, timers and records of migrations, whole.
async fn snapshot(rig: &Rig) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c::text FROM scheduler.dunning_case AS c UNION ALL SELECT t::text FROM scheduler.timer AS t
         UNION ALL SELECT m::text FROM scheduler.migration AS m ORDER BY 1",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap()
}

fn returned(customer: &str) -> Option<v1::Reminder> {
    let reminder_id = kernel::id::at(at(WEDNESDAY)).to_string();
    Some(v1::Reminder {
        merchant_id: "acme".into(),
        customer_id: customer.into(),
        reminder_id,
        segment: v1::Segment::New.into(),
        ..Default::default()
    })
}

#[tokio::test]
async fn what_came_back_waits_for_a_person() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    rig.issue([invoice("in_2", "cus_2", "2026-06-01"), invoice("in_3", "cus_3", "2026-06-01")]).await;
    let bounced = |customer: &str, kind: v1::BounceKind| v1::ReminderBounced {
        reminder: returned(customer),
        kind: kind.into(),
        status_code: "5.1.1".into(),
        ..Default::default()
    };
    let complained =
        v1::ReminderComplained { reminder: returned("cus_2"), feedback_type: "abuse".into(), ..Default::default() };
    rig.emit(&NOTIFIER_INBOUND, [bounced("cus_1", v1::BounceKind::Hard), bounced("cus_3", v1::BounceKind::Soft)]).await;
    rig.emit(&NOTIFIER_INBOUND, [complained]).await;
    rig.wait_for("hold", 2).await;
    // Another reminder to the same address comes back too: it is held already.
    rig.emit(&NOTIFIER_INBOUND, [bounced("cus_1", v1::BounceKind::Hard)]).await;
    rig.wait_for("inbox WHERE consumer = 'scheduler-returns'", 4).await;
    let mut listed = rig.listed(true).await;
    listed.sort();
    assert_eq!(listed, ["bounced cus_1 waits", "complained cus_2 waits"]);
    rig.advance_to("2026-06-04T10:00:00Z").await;
    let reminded: Vec<_> = rig.reminders().await.into_iter().map(|r| r.customer_id).collect();
    assert_eq!(reminded, ["cus_3"], "a soft bounce holds nothing");

    // Somebody has found another address.
    rig.release(release_request::Target::CustomerId("cus_1".into())).await.unwrap();
    wait::until_true("the reminder", SOON, || async { rig.reminders().await.len() == 2 }).await;
    // Mail arrives again, so a number that does not work holds nothing.
    let number = returned("cus_1").map(|r| v1::Reminder { channel: v1::Channel::Sms.into(), ..r });
    rig.emit(&NOTIFIER_INBOUND, [v1::ReminderBounced { reminder: number, ..bounced("", v1::BounceKind::Hard) }]).await;
    rig.wait_for("inbox WHERE consumer = 'scheduler-returns'", 5).await;
    assert_eq!(rig.listed(true).await, ["complained cus_2 waits"]);
    rig.end().await;
}

#[tokio::test]
async fn a_number_that_does_not_work_holds_nothing_while_there_is_mail() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    let bounced = v1::ReminderBounced {
        reminder: returned("cus_1").map(|r| v1::Reminder { channel: v1::Channel::Sms.into(), ..r }),
        kind: v1::BounceKind::Hard.into(),
        status_code: "30005".into(),
        ..Default::default()
    };
    rig.emit(&NOTIFIER_INBOUND, [bounced]).await;
    rig.wait_for("inbox WHERE consumer = 'scheduler-returns'", 1).await;
    assert_eq!(rig.listed(true).await, [] as [&str; 0]);
    rig.end().await;
}

#[tokio::test]
async fn whoever_is_erased_while_owing_is_not_reminded() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    rig.issue([invoice("in_2", "cus_2", "2026-06-01")]).await;
    let erased = |customer: &str, was_open| v1::CustomerErased {
        merchant_id: "acme".into(),
        customer_id: customer.into(),
        was_open,
        ..Default::default()
    };
    rig.emit(&INGEST_ERASURE, [erased("cus_1", true), erased("cus_2", false)]).await;
    rig.wait_for("inbox WHERE consumer = 'scheduler-returns'", 2).await;
    assert_eq!(rig.listed(true).await, ["erased cus_1 waits"]);
    rig.advance_to("2026-06-04T10:00:00Z").await;
    let reminded: Vec<_> = rig.reminders().await.into_iter().map(|r| r.customer_id).collect();
    assert_eq!(reminded, ["cus_2"]);
    rig.end().await;
}

#[tokio::test]
async fn an_answer_holds_its_invoices_for_a_week_and_no_longer() {
    let rig = Rig::with_invoice(WEDNESDAY).await;
    rig.issue([invoice("in_2", "cus_1", "2026-06-01")]).await;
    let replied = v1::CustomerReplied {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        reminder_id: kernel::id::at(at(WEDNESDAY)).to_string(),
        invoice_ids: vec!["in_1".into()],
        ..Default::default()
    };
    rig.emit(&NOTIFIER_INBOUND, [replied.clone()]).await;
    rig.emit(&NOTIFIER_INBOUND, [replied]).await;
    rig.wait_for("inbox WHERE consumer = 'scheduler-returns'", 2).await;
    assert_eq!(rig.listed(false).await, ["replied in_1 2026-06-10"]);
    rig.advance_to("2026-06-10T10:00:00Z").await;
    let lines = |reminders: Vec<v1::Reminder>| -> Vec<String> {
        reminders.into_iter().flat_map(|r| r.lines).map(|line| line.invoice_id).collect()
    };
    assert!(!lines(rig.reminders().await).contains(&"in_1".to_owned()), "somebody has to read it first");
    for reminder in rig.reminders().await {
        rig.sent(&reminder).await;
    }
    // Nobody did anything: on the day after it goes on by itself.
    rig.advance_to("2026-06-15T10:00:00Z").await;
    wait::until_true("its reminder", SOON, || async { lines(rig.reminders().await).contains(&"in_1".to_owned()) })
        .await;
    assert_eq!(rig.listed(false).await, [] as [&str; 0]);
    rig.end().await;
}
