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
use notifier::unknown::{self, Says};
use runtime::merchant::sms::Provider;
use runtime::merchant::{Merchant, Sms, Webhook};
use runtime::{Host, Merchants};
use sha1::Sha1;
use sha2::Sha256;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::http::{Reaction, Request};
use testkit::smtp::{self, Phase};
use testkit::{HttpServer, SmtpServer, TestSystem, system, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
    /// The provider of text messages.
    provider: HttpServer,
    /// Where it calls.
    http: Option<SocketAddr>,
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
            provider: HttpServer::start().await.unwrap(),
            http: None,
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
        let mut config = notifier::Config::new(SmtpSettings::new("127.0.0.1", self.smtp.address.port()));
        // The clock stands still: nobody's turn would come.
        config.limits.domain_per_second = 0;
        config.http_listen = Some("127.0.0.1:0".parse().unwrap());
        let templates = Templates::load(Path::new("/nowhere")).unwrap();
        let service = notifier::build(config, templates, host).await.unwrap();
        self.http = service.address("http");
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

    /// As an operator's command reaches the notifier's tables.
    fn notifier_pool(&self) -> PgPool {
        let settings = &self.system.common.postgres;
        runtime::database::pool(settings, Service::Notifier, runtime::database::Durability::Disk, 1).unwrap()
    }

    /// What was told about reminders: event, channel and reason.
    async fn told(&self) -> Vec<String> {
        let channel = |r: Option<v1::Reminder>| format!("{:?}", r.unwrap().channel()).to_lowercase();
        let tell = |e| match e {
            AnyEvent::ReminderSent(e) => format!("sent {} {}", channel(e.reminder), e.invoice_ids.join(",")),
            AnyEvent::ReminderSuppressed(e) => format!("suppressed {} {}", channel(e.reminder), e.reason),
            AnyEvent::ReminderFailed(e) => format!("failed {} {}", channel(e.reminder), e.reason),
            AnyEvent::ReminderUnknown(e) => format!("unknown {} {}", channel(e.reminder), e.reason),
            AnyEvent::ReminderBounced(e) => {
                format!("{:?} bounce {} {}", e.kind(), channel(e.reminder), e.status_code)
            }
            AnyEvent::CustomerReplied(e) => format!("{} replied about {}", e.customer_id, e.invoice_ids.join(",")),
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
    let mut work = bus::Work::begin_without_relay(&rig.notifier_pool(), &NOTIFIER_OPERATIONS).await.unwrap();
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

/// The merchant sends text messages by a provider that listens.
fn with_sms(rig: &Rig, change: impl FnOnce(&mut Sms)) -> Merchant {
    let mut sms = Sms {
        from: "+4930555000".into(),
        from_by_prefix: BTreeMap::new(),
        max_segments: 3,
        provider: Some(Provider {
            url: format!("http://{}/Messages.json", rig.provider.address),
            user: "AC1".into(),
            password: Masked::new(TOKEN.into()),
            public_url: Some(PUBLIC.into()),
            fields: Default::default(),
            accepted: vec![200, 201],
            idempotency_header: None,
        }),
    };
    change(&mut sms);
    let mut acme = rig.acme();
    acme.file.sms = Some(sms);
    acme
}

/// The provider's secret, and what it calls us.
const TOKEN: &str = "token-of-the-account";
const PUBLIC: &str = "https://sms.example.com";

impl Rig {
    /// A notifier that sends text messages to a customer who owes.
    async fn texting(change: impl FnOnce(&mut Sms)) -> Self {
        let mut rig = Self::without_notifier().await;
        let acme = with_sms(&rig, change);
        rig.run(acme).await;
        rig.provider.always(Reaction::json(201, r#"{"sid": "SM1", "status": "queued"}"#));
        rig.owe(&["in_1"]).await;
        rig.emit(&INGEST_INTAKE, [customer(|c| c.phone = "+49 (0)151 1234 5678".into())]).await;
        rig.wait_for("customer", 1).await;
        rig
    }

    /// The provider calls us. Returns status and body.
    async fn provider_says(&self, target: &str, form: &[(&str, &str)], token: &str) -> (u16, String) {
        let mut sorted = form.to_vec();
        sorted.sort_unstable();
        let mut mac = Hmac::<Sha1>::new_from_slice(token.as_bytes()).unwrap();
        mac.update(format!("{PUBLIC}{target}").as_bytes());
        sorted.iter().for_each(|(name, value)| mac.update(format!("{name}{value}").as_bytes()));
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut stream = tokio::net::TcpStream::connect(self.http.unwrap()).await.unwrap();
        let request = format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-twilio-signature: {signature}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

fn id_of(request: &v1::ReminderDue) -> Uuid {
    request.reminder.as_ref().unwrap().reminder_id.parse().unwrap()
}

#[tokio::test]
async fn a_text_message_says_who_what_and_how_to_pay() {
    let mut rig = Rig::texting(|_| {}).await;
    let request = due(&["in_1"], &[Channel::Sms]);
    let id = id_of(&request);
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    rig.wait_for_told(&["sent sms in_1"]).await;
    let post = &requests(&rig.provider, 1).await[0];
    assert_eq!(post.target, "POST /Messages.json");
    assert_eq!(post.header("authorization"), format!("Basic {}", STANDARD.encode(format!("AC1:{TOKEN}"))));
    let form: BTreeMap<_, _> = post.form().into_iter().collect();
    assert_eq!((form["To"].as_str(), form["From"].as_str()), ("+4915112345678", "+4930555000"));
    assert_eq!(form["StatusCallback"], format!("{PUBLIC}/v1/sms/acme/status/{id}"));
    let body = &form["Body"];
    assert!(body.starts_with("acme Ltd: invoice R-in_1 over €1,234.50 is overdue."), "{body}");
    assert!(
        body.contains(" Pay: http://127.0.0.1:9/p/") && body.ends_with("Reply STOP to get no more texts."),
        "{body}"
    );
    let (number, raw) = notifier::store::find_message(&rig.pool, id).await.unwrap().unwrap();
    assert_eq!((number.reveal().as_str(), raw.reveal()), ("+4915112345678", &body.clone().into_bytes()));
    rig.wait_for("delivery WHERE accepted_as = 'SM1'", 1).await;
    rig.stop().await;
}

#[tokio::test]
async fn without_an_answer_a_text_is_unknown_until_the_provider_says() {
    let mut rig = Rig::texting(|_| {}).await;
    rig.provider.will([Reaction::HangUp, Reaction::HangUp]);
    let [first, second] = [(); 2].map(|()| due(&["in_1"], &[Channel::Sms, Channel::Email, Channel::Task]));
    let (first_id, second_id) = (id_of(&first), id_of(&second));
    rig.emit(&SCHEDULER_TIMERS, [first]).await;
    rig.wait_for_told(&["unknown sms no_reply"]).await;
    rig.emit(&SCHEDULER_TIMERS, [second]).await;
    rig.wait_for_told(&["unknown sms no_reply"; 2]).await;
    rig.clock.advance(SignedDuration::from_hours(1));
    let told = |id: Uuid, status: &'static str| (format!("/v1/sms/acme/status/{id}"), [("MessageStatus", status)]);
    let (target, form) = told(first_id, "delivered");
    assert_eq!(rig.provider_says(&target, &form, "another-token").await.0, 401);
    rig.wait_for("delivery WHERE state = 'unknown'", 2).await;
    assert_eq!(rig.provider_says(&target, &form, TOKEN).await.0, 204);
    rig.wait_for_told(&["unknown sms no_reply", "unknown sms no_reply", "sent sms in_1"]).await;
    let sent = rig.system.emitted(Service::Notifier).await.unwrap().pop().unwrap();
    let AnyEvent::ReminderSent(sent) = sent else { unreachable!() };
    assert_eq!(sent.sent_at, Some(time::to_wire(at(NOW))), "when it went out, not when that was found out");
    let (target, form) = told(second_id, "failed");
    assert_eq!(rig.provider_says(&target, &form, TOKEN).await.0, 204);
    rig.wait_for("delivery WHERE state = 'failed' AND reason = 'resolved_not_sent'", 1).await;
    assert_eq!((rig.smtp.count(), requests(&rig.provider, 2).await.len()), (0, 2), "no second copy by any channel");
    rig.wait_for("task", 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn where_the_provider_knows_the_key_no_answer_is_no_doubt() {
    let header = |sms: &mut Sms| sms.provider.as_mut().unwrap().idempotency_header = Some("Idempotency-Key".into());
    let mut rig = Rig::texting(header).await;
    rig.provider.will([Reaction::HangUp]);
    let request = due(&["in_1"], &[Channel::Sms]);
    let id = id_of(&request).to_string();
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    rig.wait_for("delivery WHERE state = 'waiting' AND tries = 1", 1).await;
    rig.clock.advance(SignedDuration::from_mins(5));
    rig.wait_for_told(&["sent sms in_1"]).await;
    assert!(requests(&rig.provider, 2).await.iter().all(|r| r.header("idempotency-key") == id));
    rig.stop().await;
}

#[tokio::test]
async fn a_number_that_is_none_is_left_for_the_next_way() {
    let mut rig = Rig::texting(|_| {}).await;
    rig.provider.will([Reaction::json(400, r#"{"code": 21614, "message": "not a mobile number"}"#)]);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms, Channel::Email])]).await;
    rig.wait_for_told(&["sent email in_1"]).await;
    rig.wait_for("move WHERE from_channel = 'sms' AND reason = 'bad_number' AND status_code = '400 21614'", 1).await;
    rig.wait_for("suppression WHERE channel = 'sms' AND subject = 'address:+4915112345678'", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms, Channel::Email])]).await;
    rig.wait_for_told(&["sent email in_1"; 2]).await;
    requests(&rig.provider, 1).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_name_sends_to_no_american_number() {
    let mut rig = Rig::texting(|sms| sms.from = "Acme".into()).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms])]).await;
    rig.wait_for_told(&["sent sms in_1"]).await;
    let body = requests(&rig.provider, 1).await[0].form().into_iter().find(|(name, _)| name == "Body").unwrap().1;
    assert!(!body.contains("STOP"), "nobody can answer a name: {body}");
    rig.emit(&INGEST_INTAKE, [customer(|c| (c.version, c.phone) = (2, "+1 202 555 0123".into()))]).await;
    rig.wait_for("customer WHERE version = 2", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms])]).await;
    rig.wait_for_told(&["sent sms in_1", "failed sms sender_rule"]).await;
    rig.stop().await;
}

#[tokio::test]
async fn stop_stops_start_lifts_and_help_helps() {
    let mut rig = Rig::texting(|_| {}).await;
    let says = async |body: &'static str| {
        let form = [("From", "+4915112345678"), ("Body", body), ("MessageSid", "SM9")];
        rig.provider_says("/v1/sms/acme/inbound", &form, TOKEN).await
    };
    let empty = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response></Response>";
    assert_eq!(says("Abmelden!").await, (200, empty.to_owned()));
    rig.wait_for("suppression WHERE channel = 'sms' AND reason = 'unsubscribed'", 2).await;
    rig.wait_for("suppression WHERE subject = 'customer:cus_1' AND source = 'text message SM9'", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms, Channel::Email])]).await;
    rig.wait_for_told(&["suppressed sms unsubscribed"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms, Channel::Email, Channel::Task])]).await;
    rig.wait_for_told(&["suppressed sms unsubscribed", "sent task in_1"]).await;
    assert_eq!(rig.smtp.count(), 0, "not answered by another message");
    assert!(says("help").await.1.contains("<Message>acme Ltd sends reminders of open invoices."));
    assert_eq!(says("I will pay on Friday").await, (200, empty.to_owned()));
    rig.wait_for("suppression", 2).await;
    assert_eq!(says("START").await.0, 200);
    rig.wait_for("suppression", 0).await;
    let target = "/v1/sms/nobody/inbound";
    assert_eq!(rig.provider_says(target, &[("From", "+4915112345678")], TOKEN).await.0, 404);
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_by_text_is_kept_for_a_person_and_told_once() {
    let mut rig = Rig::texting(|_| {}).await;
    let says = async |number: &'static str, body: &'static str, sid: &'static str| {
        let form = [("From", number), ("Body", body), ("MessageSid", sid)];
        rig.provider_says("/v1/sms/acme/inbound", &form, TOKEN).await.0
    };
    assert_eq!(says("+4915112345678", "Who is this?", "SM1").await, 200);
    rig.wait_for("inbound WHERE class = 'reply' AND matched = 'none' AND effect = 'none'", 1).await;
    let request = due(&["in_1"], &[Channel::Sms]);
    let id = id_of(&request);
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    rig.wait_for_told(&["sent sms in_1"]).await;
    assert_eq!(says("+4915112345678", "I will pay on Friday", "SM2").await, 200);
    assert_eq!(says("+4915112345678", "I will pay on Friday", "SM2").await, 200, "the provider asks again");
    assert_eq!(says("+4915198765432", "Nor I", "SM3").await, 200);
    rig.wait_for(&format!("inbound WHERE delivery = '{id}' AND matched = 'authentic' AND effect = 'held'"), 1).await;
    rig.wait_for("inbound WHERE matched = 'none'", 2).await;
    rig.wait_for_told(&["sent sms in_1", "cus_1 replied about in_1"]).await;
    let kept: Vec<u8> = sqlx::query_scalar("SELECT raw FROM notifier.inbound WHERE delivery IS NOT NULL")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(notifier::inbound::words(&kept).reveal(), "I will pay on Friday");
    rig.wait_for("suppression", 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_text_that_was_taken_and_did_not_arrive_has_bounced() {
    let mut rig = Rig::texting(|_| {}).await;
    let requests = [(); 2].map(|()| due(&["in_1"], &[Channel::Sms]));
    let [soft, hard] = [0, 1].map(|n| id_of(&requests[n]));
    rig.emit(&SCHEDULER_TIMERS, requests).await;
    rig.wait_for_told(&["sent sms in_1"; 2]).await;
    let says = async |id: Uuid, code: &'static str| {
        let form = [("MessageStatus", "undelivered"), ("ErrorCode", code), ("To", "+4915112345678")];
        rig.provider_says(&format!("/v1/sms/acme/status/{id}"), &form, TOKEN).await.0
    };
    assert_eq!(says(soft, "30003").await, 204);
    assert_eq!(says(soft, "30003").await, 204, "the provider says it again");
    rig.wait_for("suppression", 0).await;
    assert_eq!(says(hard, "30005").await, 204);
    rig.wait_for_told(&["sent sms in_1", "sent sms in_1", "Soft bounce sms 30003", "Hard bounce sms 30005"]).await;
    rig.wait_for("suppression WHERE channel = 'sms' AND reason = 'bad_address'", 1).await;
    assert_eq!(says(Uuid::nil(), "30005").await, 204, "nobody's");
    rig.wait_for("inbound WHERE matched = 'authentic'", 2).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_asked_too_fast_is_left_alone() {
    let mut rig = Rig::texting(|_| {}).await;
    rig.provider.will([Reaction::json(429, r#"{"code": 20429}"#), Reaction::status(503)]);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms])]).await;
    rig.wait_for("delivery WHERE state = 'waiting' AND reason = 'too_fast' AND tries = 0", 1).await;
    let next: jiff_sqlx::Timestamp =
        sqlx::query_scalar("SELECT next_attempt_at FROM notifier.delivery").fetch_one(&rig.pool).await.unwrap();
    assert_eq!(next.to_jiff(), at("2026-06-10T08:00:30Z"));
    rig.stop().await;
}

#[tokio::test]
async fn texts_wait_for_the_morning() {
    let mut rig = Rig::texting(|_| {}).await;
    rig.clock.set(at("2026-06-10T19:30:00Z"));
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms])]).await;
    rig.wait_for("delivery WHERE reason = 'contact_hours' AND next_attempt_at = '2026-06-11T06:00:00Z'", 1).await;
    rig.stop().await;
}

async fn say(rig: &Rig, id: Uuid, says: Says, by: &str) -> Result<(), unknown::Denied> {
    let mut work = bus::Work::begin_without_relay(&rig.notifier_pool(), &NOTIFIER_OPERATIONS).await.unwrap();
    unknown::say(&mut work, id, says, by, "asked them", rig.clock.now()).await?;
    work.commit().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn an_operator_says_what_became_of_it() {
    let mut rig = Rig::texting(|_| {}).await;
    rig.provider.will([Reaction::HangUp, Reaction::HangUp, Reaction::HangUp]);
    let all = [(); 3].map(|()| due(&["in_1"], &[Channel::Sms]));
    let ids = [0, 1, 2].map(|n| id_of(&all[n]));
    rig.emit(&SCHEDULER_TIMERS, all).await;
    rig.wait_for("delivery WHERE state = 'unknown'", 3).await;
    let listed = unknown::store::list(&rig.pool, 9).await.unwrap();
    assert_eq!((listed.len(), listed[0].channel.as_str(), listed[0].assumed_sent), (3, "sms", false));
    assert_eq!(say(&rig, ids[0], Says::Sent, " ").await.unwrap_err().to_string(), "by: is missing");
    say(&rig, ids[0], Says::Sent, "anna").await.unwrap();
    say(&rig, ids[1], Says::NotSent, "anna").await.unwrap();
    let again = say(&rig, ids[0], Says::SendAgain, "anna").await.unwrap_err().to_string();
    assert!(again.contains("no delivery of unknown fate"), "what is known is not sent twice: {again}");
    rig.wait_for("delivery WHERE state = 'handed_off' AND reason = 'resolved'", 1).await;
    rig.wait_for("delivery WHERE state = 'failed' AND reason = 'resolved_not_sent'", 1).await;
    requests(&rig.provider, 3).await;
    say(&rig, ids[2], Says::SendAgain, "anna").await.unwrap();
    rig.wait_for("delivery WHERE state = 'handed_off'", 2).await;
    requests(&rig.provider, 4).await;
    rig.wait_for("evidence WHERE says = 'send_again' AND said_by = 'anna' AND reason = 'asked them'", 1).await;
    let mut told = rig.told().await;
    told.sort();
    let unknown = "unknown sms no_reply";
    assert_eq!(told, ["failed sms resolved_not_sent", "sent sms in_1", "sent sms in_1", unknown, unknown, unknown]);
    rig.stop().await;
}

#[tokio::test]
async fn after_a_day_it_is_taken_for_sent_and_stays_on_the_list() {
    let mut rig = Rig::texting(|_| {}).await;
    rig.provider.will([Reaction::HangUp]);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"], &[Channel::Sms])]).await;
    rig.wait_for("delivery WHERE state = 'unknown'", 1).await;
    let assume = async |now: &str| {
        let day = SignedDuration::from_hours(24);
        unknown::store::assume(&rig.pool, at(now), day).await.unwrap()
    };
    assert_eq!(assume("2026-06-11T07:59:59Z").await, 0);
    assert_eq!(assume("2026-06-11T08:00:00Z").await, 1);
    assert_eq!(assume("2026-06-12T08:00:00Z").await, 0, "once");
    let listed = unknown::store::list(&rig.pool, 9).await.unwrap();
    assert!(listed[0].assumed_sent);
    assert_eq!(requests(&rig.provider, 1).await.len(), 1);
    rig.stop().await;
}
