//! Channels beside email, and how a reminder goes from one to the next: the notifier on a real bus with a real Postgres, a mail
//! server, and HTTP servers that do as they are told.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use events::topology::{INGEST_INTAKE, NOTIFIER_OPERATIONS, SCHEDULER_TIMERS};
use events::v1::Channel;
use events::{AnyEvent, Event, Flow, Service, time, v1};
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, ManualClock, Masked};
use notifier::config::SmtpSettings;
use notifier::render::Templates;
use notifier::task::{self, Done};
use runtime::merchant::{Merchant, Webhook};
use runtime::{Host, Merchants};
use sha2::Sha256;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::http::{Reaction, Request};
use testkit::smtp::{self, Phase};
use testkit::{HttpServer, SmtpServer, TestSystem, system, wait};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);
/// A Wednesday, ten o'clock in Berlin.
const NOW: &str = "2026-06-10T08:00:00Z";
const KEY: [u8; 32] = [7; 32];
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

struct Rig {
    system: TestSystem,
    clock: ManualClock,
    smtp: SmtpServer,
    /// The merchant's system.
    merchant: HttpServer,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    running: Option<(CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>)>,
    _watermarks: DropGuard,
}

impl Rig {
    async fn start() -> Self {
        let mut rig = Self::without_notifier().await;
        let acme = rig.acme();
        rig.run(acme).await;
        rig
    }

    async fn without_notifier() -> Self {
        let others = [Service::Ingest, Service::Scheduler];
        let mut services: Vec<_> = others.map(|s| (s, &*NO_MIGRATIONS)).to_vec();
        services.push((Service::Notifier, &notifier::MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at(NOW));
        let mut producers = BTreeMap::new();
        for service in others {
            let host = system.host(service, &Merchants::default(), Arc::new(clock.clone())).await.unwrap();
            producers.insert(service, host);
        }
        // Ingest says that all payments are told.
        let told = CancellationToken::new();
        tokio::spawn(bus::watermark::tell(producers[&Service::Ingest].bus.clone(), told.clone()));
        Self {
            _watermarks: told.drop_guard(),
            pool: PgPool::connect(&system.database.admin_url).await.unwrap(),
            smtp: SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap(),
            merchant: HttpServer::start().await.unwrap(),
            system,
            clock,
            producers,
            running: None,
        }
    }

    /// The merchant, whose system listens.
    fn acme(&self) -> Merchant {
        let mut acme = system::merchant("acme", "Europe/Berlin").unwrap();
        acme.file.webhook = Some(Webhook {
            url: format!("http://{}/hook", self.merchant.address),
            signing_secret: Masked::new(format!("whsec_{}", STANDARD.encode(KEY))),
        });
        acme
    }

    async fn run(&mut self, merchant: Merchant) {
        let mut merchants = Merchants::default();
        merchants.insert(merchant);
        let host = self.system.host(Service::Notifier, &merchants, Arc::new(self.clock.clone())).await.unwrap();
        let config = notifier::Config::new(SmtpSettings::new("127.0.0.1", self.smtp.address.port()));
        let templates = Templates::load(Path::new("/nowhere")).unwrap();
        let service = notifier::build(config, templates, host).await.unwrap();
        let stop = CancellationToken::new();
        self.running = Some((stop.clone(), tokio::spawn(service.run(stop))));
    }

    async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    /// Ends without a goodbye.
    async fn kill(&mut self) {
        let (_, running) = self.running.take().unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    /// Invoices are owed, and known to the notifier.
    async fn owe(&self, invoices: &[&str]) {
        self.emit(
            &INGEST_INTAKE,
            invoices.iter().map(|id| v1::InvoiceIssued { invoice: Some(invoice(id, 1, 123_450)) }),
        )
        .await;
        self.wait_for("balance", invoices.len() as i64).await;
    }

    async fn wait_for(&self, what: &str, expected: i64) {
        wait::until_true(&format!("{expected} of {what}"), SOON, || async {
            let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM notifier.{what}"));
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool).await.unwrap() == expected
        })
        .await;
    }

    /// What was told about reminders: event, channel and reason.
    async fn told(&self) -> Vec<String> {
        let channel = |r: Option<v1::Reminder>| format!("{:?}", r.unwrap().channel()).to_lowercase();
        let tell = |e| match e {
            AnyEvent::ReminderSent(e) => format!("sent {} {}", channel(e.reminder), e.invoice_ids.join(",")),
            AnyEvent::ReminderSuppressed(e) => format!("suppressed {} {}", channel(e.reminder), e.reason),
            AnyEvent::ReminderFailed(e) => format!("failed {} {}", channel(e.reminder), e.reason),
            AnyEvent::ReminderUnknown(e) => format!("unknown {} {}", channel(e.reminder), e.reason),
            other => format!("{other:?}"),
        };
        self.system.emitted(Service::Notifier).await.unwrap().into_iter().map(tell).collect()
    }

    async fn wait_for_told(&self, expected: &[&str]) {
        let begun = std::time::Instant::now();
        loop {
            let told = self.told().await;
            if told == expected || begun.elapsed() > SOON {
                assert_eq!(told, expected);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn posted(&self, expected: usize) -> Vec<Request> {
        requests(&self.merchant, expected).await
    }
}

async fn requests(server: &HttpServer, expected: usize) -> Vec<Request> {
    wait::until_true(&format!("{expected} requests"), SOON, || async { server.requests().len() >= expected }).await;
    let requests = server.requests();
    assert_eq!(requests.len(), expected);
    requests
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn invoice(id: &str, version: i64, open_minor: i64) -> v1::Invoice {
    let status = if open_minor > 0 { v1::InvoiceStatus::Open } else { v1::InvoiceStatus::Paid };
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: id.into(),
        customer_id: "cus_1".into(),
        version,
        epoch: 1,
        status: status.into(),
        number: format!("R-{id}"),
        currency: "EUR".into(),
        total_minor: 123_450,
        open_minor,
        issued_on: "2026-05-01".into(),
        due_on: "2026-06-01".into(),
        pay_url: format!("https://pay.example.com/{id}"),
        bill_to_name: "Ada Lovelace".into(),
        bill_to_email: "ada@example.com".into(),
        ..Default::default()
    }
}

fn paid(id: &str) -> v1::PaymentReceived {
    v1::PaymentReceived { invoice: Some(invoice(id, 2, 0)), ..Default::default() }
}

/// A reminder of invoices by these channels, in this order.
fn due(invoices: &[&str], channels: &[Channel]) -> v1::ReminderDue {
    let lines = invoices.iter().enumerate().map(|(n, id)| v1::ReminderLine {
        invoice_id: (*id).into(),
        epoch: 1,
        step: "overdue-7".into(),
        invoice_version: 1,
        carries: n == 0,
        tone: v1::Tone::Firm.into(),
        ..Default::default()
    });
    v1::ReminderDue {
        reminder: Some(v1::Reminder {
            merchant_id: "acme".into(),
            reminder_id: kernel::id::at(at(NOW)).to_string(),
            customer_id: "cus_1".into(),
            campaign: "default".into(),
            campaign_version: "1".into(),
            step: "overdue-7".into(),
            tone: v1::Tone::Firm.into(),
            currency: "EUR".into(),
            lines: lines.collect(),
            segment: v1::Segment::New.into(),
            channel: channels[0].into(),
            ..Default::default()
        }),
        due_at: Some(time::to_wire(at(NOW))),
        contact_hours: Some(v1::ContactHours {
            time_zone: "Europe/Berlin".into(),
            weekdays: 0b111_1111,
            opens_minute: 0,
            closes_minute: 24 * 60,
            closed_on: Vec::new(),
        }),
        fallbacks: channels[1..].iter().map(|c| (*c).into()).collect(),
    }
}

fn customer(change: impl FnOnce(&mut v1::Customer)) -> v1::CustomerChanged {
    let mut customer = v1::Customer {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        version: 1,
        name: "Ada".into(),
        ..Default::default()
    };
    change(&mut customer);
    v1::CustomerChanged { customer: Some(customer) }
}

#[tokio::test]
async fn the_merchants_system_gets_the_whole_reminder_signed() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1", "in_2"]).await;
    let request = due(&["in_1", "in_2"], &[Channel::Webhook]);
    let id = request.reminder.clone().unwrap().reminder_id;
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    rig.wait_for_told(&["sent webhook in_1,in_2"]).await;
    let post = &rig.posted(1).await[0];
    assert_eq!(post.target, "POST /hook");
    let body: serde_json::Value = serde_json::from_str(&post.body).unwrap();
    assert_eq!((&body["type"], &body["timestamp"]), (&"reminder.due".into(), &NOW.into()));
    let data = &body["data"];
    assert_eq!((&data["reminder"], &data["open_minor"]), (&id.clone().into(), &246_900.into()));
    assert_eq!(data["customer"]["email"], "ada@example.com");
    assert_eq!(data["invoices"][1]["number"], "R-in_2");
    assert_eq!(data["invoices"][1]["due_on"], "2026-06-01");
    assert!(data["invoices"][0]["pay_url"].as_str().unwrap().starts_with("http://127.0.0.1:9/p/"));
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    mac.update(format!("{id}.{}.{}", post.header("webhook-timestamp"), post.body).as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!((post.header("webhook-id"), post.header("webhook-signature")), (id.as_str(), signature.as_str()));
    // Kept as it was posted, for support.
    let (_, raw) = notifier::store::find_message(&rig.pool, id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(raw.reveal(), post.body.as_bytes());
    rig.stop().await;
}

#[tokio::test]
async fn what_was_not_answered_is_posted_again_under_the_same_id() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1"]).await;
    rig.merchant.will([
        Reaction::HangUp,
        Reaction::status(500),
        Reaction::Answer(503, vec!["retry-after: 3600".into()], String::new()),
    ]);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook, Channel::Email])]).await;
    rig.wait_for("delivery WHERE state = 'waiting' AND tries = 1", 1).await;
    for (tries, later) in [(2, 5), (3, 300)] {
        rig.clock.advance(SignedDuration::from_secs(later));
        rig.wait_for(&format!("delivery WHERE state = 'waiting' AND tries = {tries}"), 1).await;
    }
    rig.clock.advance(SignedDuration::from_secs(1_801));
    rig.wait_for("delivery WHERE state = 'waiting' AND tries = 3", 1).await;
    rig.clock.advance(SignedDuration::from_secs(1_800));
    rig.wait_for_told(&["sent webhook in_1"]).await;
    let posts = rig.posted(4).await;
    assert!(posts.iter().all(|p| p.header("webhook-id") == posts[0].header("webhook-id")), "one reminder");
    assert_eq!(rig.smtp.count(), 0, "it may have been accepted at any of them: no other channel");
    rig.stop().await;
}

#[tokio::test]
async fn a_crash_at_the_request_is_no_doubt_where_the_other_side_knows_the_id() {
    let mut rig = Rig::without_notifier().await;
    let acme = rig.acme();
    rig.run(acme.clone()).await;
    rig.owe(&["in_1"]).await;
    rig.merchant.always(Reaction::Stall);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook])]).await;
    rig.wait_for("delivery WHERE state = 'imminent'", 1).await;
    rig.posted(1).await;
    rig.kill().await;
    rig.merchant.always(Reaction::status(204));
    rig.run(acme).await;
    rig.wait_for_told(&["sent webhook in_1"]).await;
    rig.posted(2).await;
    rig.stop().await;
}

#[tokio::test]
async fn gone_is_not_called_again_until_somebody_says_so() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1"]).await;
    rig.merchant.will([Reaction::status(410)]);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook])]).await;
    rig.wait_for_told(&["failed webhook gone"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook])]).await;
    rig.wait_for_told(&["failed webhook gone", "suppressed webhook gone"]).await;
    let disabled = notifier::channel::store::disabled(&rig.pool).await.unwrap();
    assert_eq!(disabled[0].url, format!("http://{}/hook", rig.merchant.address));
    assert!(notifier::channel::store::enable(&rig.pool, &"acme".parse().unwrap()).await.unwrap());
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook])]).await;
    rig.wait_for_told(&["failed webhook gone", "suppressed webhook gone", "sent webhook in_1"]).await;
    rig.posted(2).await;

    // Another address is another system.
    rig.merchant.will([Reaction::status(410)]);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook])]).await;
    rig.wait_for("suppression WHERE channel = 'webhook'", 1).await;
    rig.stop().await;
    let mut acme = rig.acme();
    acme.file.webhook.as_mut().unwrap().url += "/new";
    rig.run(acme).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook])]).await;
    rig.wait_for("delivery WHERE state = 'handed_off'", 2).await;
    assert_eq!(rig.posted(4).await[3].target, "POST /hook/new");
    rig.stop().await;
}

#[tokio::test]
async fn a_payment_keeps_the_request_back() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1", "in_2"]).await;
    rig.emit(&INGEST_INTAKE, [paid("in_1")]).await;
    rig.wait_for("balance WHERE version = 2", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Webhook, Channel::Email])]).await;
    rig.wait_for_told(&["suppressed webhook paid"]).await;
    assert_eq!((rig.merchant.requests().len(), rig.smtp.count()), (0, 0));
    rig.stop().await;
}

#[tokio::test]
async fn who_cannot_be_reached_one_way_is_reached_by_the_next() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1"]).await;
    // The mail server knows no such mailbox: nothing was accepted.
    rig.smtp.script(|phase, _| match phase {
        Phase::Recipient => smtp::Reaction::Reply("550 5.1.1 no such user"),
        _ => smtp::Reaction::Proceed,
    });
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Email, Channel::Webhook])]).await;
    rig.wait_for_told(&["sent webhook in_1"]).await;
    rig.wait_for("move WHERE from_channel = 'email' AND to_channel = 'webhook' AND reason = 'refused'", 1).await;
    // From now on it is known, whatever the mail server says.
    rig.smtp.script(|_, _| smtp::Reaction::Proceed);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Email, Channel::Webhook])]).await;
    rig.wait_for_told(&["sent webhook in_1", "sent webhook in_1"]).await;
    rig.wait_for("move WHERE reason = 'bad_address'", 1).await;
    assert_eq!(rig.smtp.count(), 0);
    let story = notifier::store::story(&rig.pool, "acme", "in_1").await.unwrap();
    let moves: Vec<_> = story.iter().filter(|l| l.what == "reminder goes on by webhook").map(|l| &l.detail).collect();
    assert_eq!(moves, ["email: refused", "email: bad_address"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_dead_system_holds_up_no_mail() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1"]).await;
    rig.merchant.always(Reaction::Stall);
    rig.emit(&SCHEDULER_TIMERS, (0..40).map(|_| due(&["in_1"], &[Channel::Webhook]))).await;
    rig.wait_for("delivery WHERE state = 'imminent' AND channel = 'webhook'", 8).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Email])]).await;
    rig.wait_for_told(&["sent email in_1"]).await;
    rig.kill().await;
}

#[tokio::test]
async fn a_customer_without_an_address_is_reached_through_the_merchant() {
    let mut rig = Rig::start().await;
    let nobody = v1::Invoice { bill_to_email: String::new(), ..invoice("in_1", 1, 100) };
    rig.emit(&INGEST_INTAKE, [v1::InvoiceIssued { invoice: Some(nobody) }]).await;
    rig.emit(&INGEST_INTAKE, [customer(|_| {})]).await;
    rig.wait_for("balance", 1).await;
    rig.wait_for("customer", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Email, Channel::Webhook])]).await;
    rig.wait_for_told(&["sent webhook in_1"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Email])]).await;
    rig.wait_for_told(&["sent webhook in_1", "failed email no_address"]).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_person_is_told_whom_to_call_and_why() {
    let mut rig = Rig::start().await;
    let nobody = |id: &str| v1::Invoice { bill_to_email: String::new(), ..invoice(id, 1, 123_450) };
    rig.emit(&INGEST_INTAKE, ["in_1", "in_2"].map(|id| v1::InvoiceIssued { invoice: Some(nobody(id)) })).await;
    rig.emit(&INGEST_INTAKE, [customer(|c| c.phone = "+49 30 1234567".into())]).await;
    rig.wait_for("balance", 2).await;
    rig.wait_for("customer", 1).await;
    let request = due(&["in_1", "in_2"], &[Channel::Email, Channel::Task]);
    let id = request.reminder.clone().unwrap().reminder_id.parse().unwrap();
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    rig.wait_for_told(&["sent task in_1,in_2"]).await;
    let list = async || task::store::list(&rig.pool, Some("acme"), false, 9).await.unwrap();
    let open = &list().await[0];
    assert_eq!((open.id, open.name.as_str(), open.phone.as_str()), (id, "Ada", "+49 30 1234567"));
    assert_eq!((open.open_minor, open.reason.as_str()), (246_900, "email: no_address"));
    assert_eq!(open.numbers, ["R-in_1", "R-in_2"]);
    assert_eq!((open.call_from.to_jiff(), open.call_until.to_jiff()), (at(NOW), at("2026-06-10T22:00:00Z")));

    // What is paid meanwhile is not asked for; when nothing is left, nobody has to call.
    rig.emit(&INGEST_INTAKE, [paid("in_1")]).await;
    wait::until_true("one is left", SOON, || async { list().await[0].open_minor == 123_450 }).await;
    rig.emit(&INGEST_INTAKE, [paid("in_2")]).await;
    rig.wait_for("task WHERE outcome = 'settled' AND closed_by = ''", 1).await;
    assert_eq!(list().await.len(), 0);
    let late = close(&rig, id, v1::TaskOutcome::NoAnswer, None).await.unwrap_err().to_string();
    assert_eq!(late, format!("task {id} is closed already: settled"));
    rig.stop().await;
}

async fn close(rig: &Rig, id: Uuid, outcome: v1::TaskOutcome, until: Option<&str>) -> Result<(), task::Denied> {
    let settings = &rig.system.common.postgres;
    let pool = runtime::database::pool(settings, Service::Notifier, runtime::database::Durability::Disk, 1).unwrap();
    let mut work = bus::Work::begin_without_relay(&pool, &NOTIFIER_OPERATIONS).await.unwrap();
    let until = until.map(|date| date.parse().unwrap());
    let done = Done { outcome, until, note: Masked::new("rang twice".into()), by: "anna".into() };
    task::close(&mut work, id, &done, rig.clock.now()).await?;
    work.commit().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn what_a_call_brought_is_told_once() {
    let mut rig = Rig::start().await;
    rig.owe(&["in_1"]).await;
    let request = due(&["in_1"], &[Channel::Task]);
    let id = request.reminder.clone().unwrap().reminder_id.parse().unwrap();
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    rig.wait_for("task", 1).await;
    let fault = async |outcome, until| close(&rig, id, outcome, until).await.unwrap_err().to_string();
    assert_eq!(fault(v1::TaskOutcome::Promised, None).await, "until: is missing: until when is the promise?");
    assert_eq!(fault(v1::TaskOutcome::Reached, Some("2026-06-20")).await, "until: is for promises only");
    close(&rig, id, v1::TaskOutcome::Promised, Some("2026-06-20")).await.unwrap();
    assert_eq!(fault(v1::TaskOutcome::Reached, None).await, format!("task {id} is closed already: promised"));
    let told = rig.system.emitted(Service::Notifier).await.unwrap();
    let done: Vec<_> = told.iter().filter_map(|e| if let AnyEvent::TaskDone(e) = e { Some(e) } else { None }).collect();
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].outcome(), done[0].until.as_str()), (v1::TaskOutcome::Promised, "2026-06-20"));
    assert_eq!((done[0].lines[0].invoice_id.as_str(), done[0].lines[0].epoch), ("in_1", 1));
    rig.stop().await;
}
