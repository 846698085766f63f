//! Calls of a merchant's own system: the notifier on a real bus with a real Postgres, and an HTTP server that answers as it is
//! told to.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use events::topology::{INGEST_INTAKE, SCHEDULER_TIMERS};
use events::{Event, Flow, Service, time, v1};
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, ManualClock, Masked, SystemClock};
use notifier::config::SmtpSettings;
use notifier::render::Templates;
use notifier::webhook::store;
use runtime::merchant::Webhook;
use runtime::{Host, Merchants};
use sha2::Sha256;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
const NOW: &str = "2026-06-10T08:00:00Z";
const KEY: [u8; 32] = [7; 32];
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

/// The merchant's system.
#[derive(Clone, Default)]
struct Merchant {
    calls: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    /// What to answer, first to last; 204 when nothing is left.
    answers: Arc<Mutex<VecDeque<(u16, &'static str)>>>,
}

impl Merchant {
    async fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().fallback(take).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        port
    }

    fn will_answer(&self, answers: impl IntoIterator<Item = (u16, &'static str)>) {
        self.answers.lock().unwrap().extend(answers);
    }

    async fn calls(&self, expected: usize) -> Vec<(HeaderMap, String)> {
        wait::until_true(&format!("{expected} calls"), SOON, || async { self.count() >= expected }).await;
        let calls = self.calls.lock().unwrap().clone();
        assert_eq!(calls.len(), expected);
        calls
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

async fn take(State(merchant): State<Merchant>, headers: HeaderMap, body: Bytes) -> Response {
    merchant.calls.lock().unwrap().push((headers, String::from_utf8(body.to_vec()).unwrap()));
    let (code, retry_after) = merchant.answers.lock().unwrap().pop_front().unwrap_or((204, ""));
    let location = ("location", "/elsewhere");
    (StatusCode::from_u16(code).unwrap(), [location, ("retry-after", retry_after)]).into_response()
}

struct Rig {
    system: TestSystem,
    clock: ManualClock,
    merchant: Merchant,
    port: u16,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    replicas: Vec<Replica>,
}

type Replica = (CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>);

impl Rig {
    /// The merchant listens, and is configured so.
    async fn start() -> Self {
        let mut rig = Self::without_replicas().await;
        rig.run(Some(&format!("http://127.0.0.1:{}/hook?tenant=1", rig.port))).await;
        rig
    }

    async fn without_replicas() -> Self {
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
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let merchant = Merchant::default();
        let port = merchant.start().await;
        Self { system, clock, merchant, port, producers, pool, replicas: Vec::new() }
    }

    /// Starts a replica whose merchant acme listens at a URL, or nowhere.
    async fn run(&mut self, url: Option<&str>) {
        let mut acme = system::merchant("acme", "Europe/Berlin").unwrap();
        acme.file.webhook = url.map(|url| Webhook {
            url: url.to_owned(),
            signing_secret: Masked::new(format!("whsec_{}", STANDARD.encode(KEY))),
        });
        let mut merchants = Merchants::default();
        merchants.insert(acme);
        let host = self.system.host(Service::Notifier, &merchants, Arc::new(self.clock.clone())).await.unwrap();
        let config = notifier::Config::new(SmtpSettings::new("127.0.0.1", 9));
        let templates = Templates::load(Path::new("/nowhere")).unwrap();
        let service = notifier::build(config, templates, host).await.unwrap();
        let stop = CancellationToken::new();
        self.replicas.push((stop.clone(), tokio::spawn(service.run(stop))));
    }

    async fn stop(&mut self) {
        for (stop, running) in self.replicas.drain(..) {
            stop.cancel();
            running.await.unwrap().unwrap();
        }
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    /// Waits until the one webhook there is satisfies a condition.
    async fn wait_for(&self, condition: &str) {
        wait::until_true(condition, SOON, || async { self.count(condition).await == 1 }).await;
    }

    async fn count(&self, condition: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM notifier.webhook WHERE {condition}"));
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// The invoice is owed, its sequence has ended.
    async fn end_sequence(&self, invoice: &str) {
        self.emit(&INGEST_INTAKE, [issued(invoice)]).await;
        self.emit(&SCHEDULER_TIMERS, [ended(invoice)]).await;
    }

    fn advance(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }
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
        currency: "EUR".into(),
        total_minor: 123_450,
        open_minor,
        issued_on: "2026-05-01".into(),
        due_on: "2026-06-01".into(),
        ..Default::default()
    }
}

fn issued(id: &str) -> v1::InvoiceIssued {
    v1::InvoiceIssued { invoice: Some(invoice(id, 1, 123_450)) }
}

fn paid(id: &str) -> v1::PaymentReceived {
    v1::PaymentReceived { invoice: Some(invoice(id, 2, 0)), ..Default::default() }
}

fn ended(id: &str) -> v1::SequenceEnded {
    v1::SequenceEnded {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        invoice_id: id.into(),
        epoch: 1,
        outcome: v1::SequenceOutcome::Webhook.into(),
        campaign: "default".into(),
        campaign_version: "abc".into(),
        currency: "EUR".into(),
        open_minor: 123_450,
        ended_at: Some(time::to_wire(at(NOW))),
        invoice_version: 1,
    }
}

/// As a receiver does it.
fn verify(headers: &HeaderMap, body: &str) {
    let header = |name| headers[name].to_str().unwrap();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let age = SystemClock.now().as_second() - timestamp.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "signed in the machine's time, {age} s ago");
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    mac.verify_slice(&signature).unwrap();
}

#[tokio::test]
async fn a_merchant_hears_once_that_a_sequence_has_ended() {
    let mut rig = Rig::start().await;
    let not_ours = [v1::SequenceOutcome::HandOver, v1::SequenceOutcome::Stop]
        .map(|outcome| v1::SequenceEnded { outcome: outcome.into(), ..ended("in_2") });
    rig.emit(&SCHEDULER_TIMERS, not_ours).await;
    rig.end_sequence("in_1").await;
    let (headers, body) = rig.merchant.calls(1).await.remove(0);
    verify(&headers, &body);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["host"], format!("127.0.0.1:{}", rig.port));
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({
        "type": "dunlin.sequence-ended",
        "timestamp": NOW,
        "data": {
            "merchant": "acme", "customer": "cus_1", "invoice": "in_1", "epoch": 1, "currency": "EUR",
            "open_minor": 123_450, "campaign": "default", "campaign_version": "abc", "ended_at": NOW,
        },
    });
    assert_eq!(body, expected);
    rig.wait_for("state = 'delivered' AND settled_at IS NOT NULL AND tries = 0").await;

    // Told again, alone and with itself.
    rig.emit(&SCHEDULER_TIMERS, [ended("in_1")]).await;
    rig.emit(&SCHEDULER_TIMERS, [ended("in_1"), ended("in_1"), ended("in_3")]).await;
    rig.emit(&INGEST_INTAKE, [issued("in_3")]).await;
    rig.wait_for("state = 'delivered' AND invoice = 'in_3'").await;
    assert_eq!((rig.count("true").await, rig.merchant.count()), (2, 2), "the case has been told");
    rig.stop().await;
}

#[tokio::test]
async fn two_replicas_make_each_call_once() {
    let mut rig = Rig::start().await;
    rig.run(Some(&format!("http://127.0.0.1:{}/", rig.port))).await;
    let invoices: Vec<String> = (0..40).map(|n| format!("in_{n}")).collect();
    rig.emit(&INGEST_INTAKE, invoices.iter().map(|i| issued(i))).await;
    rig.emit(&SCHEDULER_TIMERS, invoices.iter().map(|i| ended(i))).await;
    wait::until_true("40 delivered", SOON, || async { rig.count("state = 'delivered'").await == 40 }).await;
    let mut ids: Vec<_> = rig.merchant.calls(40).await.iter().map(|(h, _)| h["webhook-id"].clone()).collect();
    ids.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    ids.dedup();
    assert_eq!(ids.len(), 40);
    rig.stop().await;
}

#[tokio::test]
async fn a_call_in_vain_is_made_again_under_the_same_id() {
    let mut rig = Rig::start().await;
    rig.merchant.will_answer([(500, ""), (302, "")]);
    rig.end_sequence("in_1").await;
    rig.wait_for("tries = 1 AND last_error = 'status 500' AND next_at = '2026-06-10T08:00:05Z'").await;
    rig.advance(4);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(rig.merchant.count(), 1, "not before its time");
    rig.advance(1);
    // A redirect is an answer like another, and not followed.
    rig.wait_for("tries = 2 AND last_error = 'status 302' AND next_at = '2026-06-10T08:05:05Z'").await;
    rig.advance(300);
    let calls = rig.merchant.calls(3).await;
    rig.wait_for("state = 'delivered' AND tries = 2").await;
    for (headers, body) in &calls {
        verify(headers, body);
        assert_eq!((&headers["webhook-id"], body), (&calls[0].0["webhook-id"], &calls[0].1));
    }
    let story = notifier::store::story(&rig.pool, "acme", "in_1").await.unwrap();
    let told: Vec<_> = story.iter().map(|l| (l.what.as_str(), l.detail.as_str())).collect();
    assert_eq!(told, [("took webhook", "epoch 1"), ("webhook ended: delivered", "3 attempt(s)")]);
    rig.stop().await;
}

#[tokio::test]
async fn a_system_that_is_gone_is_not_called_again_until_an_operator_says_so() {
    let mut rig = Rig::start().await;
    rig.merchant.will_answer([(410, "")]);
    rig.end_sequence("in_1").await;
    rig.wait_for("state = 'failed' AND reason = 'gone' AND last_error = 'status 410'").await;
    rig.advance(40 * 86_400);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(rig.merchant.count(), 1);

    let listed = store::list(&rig.pool, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].state.as_str(), listed[0].reason.as_str()), (1, "failed", "gone"));
    assert_eq!(store::retry(&rig.pool, None, rig.clock.now()).await.unwrap(), 1);
    rig.wait_for("state = 'delivered'").await;
    assert_eq!(store::retry(&rig.pool, Some(listed[0].id), rig.clock.now()).await.unwrap(), 0, "it has ended well");
    assert!(store::list(&rig.pool, 10).await.unwrap().is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn after_three_days_in_vain_a_call_is_given_up() {
    let mut rig = Rig::start().await;
    rig.merchant.will_answer([(503, ""); 10]);
    rig.end_sequence("in_1").await;
    for tries in 1..10 {
        rig.wait_for(&format!("state = 'pending' AND tries = {tries}")).await;
        rig.advance(86_400);
    }
    rig.wait_for("state = 'failed' AND reason = 'expired' AND tries = 10 AND last_error = 'status 503'").await;
    rig.stop().await;
}

#[tokio::test]
async fn who_asks_to_be_left_alone_is_left_alone() {
    let mut rig = Rig::start().await;
    rig.merchant.will_answer([(429, "3600"), (503, "9999999")]);
    rig.end_sequence("in_1").await;
    rig.wait_for("tries = 1 AND next_at = '2026-06-10T09:00:00Z'").await;
    rig.advance(3_600);
    rig.wait_for("tries = 2 AND next_at = '2026-06-11T09:00:00Z'").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_payment_in_between_cancels() {
    let mut rig = Rig::start().await;
    rig.merchant.will_answer([(500, "")]);
    rig.end_sequence("in_1").await;
    rig.wait_for("tries = 1").await;
    rig.emit(&INGEST_INTAKE, [paid("in_1")]).await;
    wait::until_true("the payment", SOON, || async {
        let sql = "SELECT count(*) FROM notifier.balance WHERE version = 2";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&rig.pool).await.unwrap() == 1
    })
    .await;
    rig.advance(5);
    rig.wait_for("state = 'cancelled' AND reason = 'paid'").await;
    assert_eq!(rig.merchant.count(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_call_waits_for_our_own_balances_and_for_disputes() {
    let mut rig = Rig::start().await;
    rig.emit(&SCHEDULER_TIMERS, [v1::SequenceEnded { invoice_version: 2, ..ended("in_1") }]).await;
    rig.wait_for("state = 'pending' AND reason = 'balance_unknown'").await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    rig.wait_for("state = 'pending' AND reason = 'balance_unknown'").await;
    let changed = |version, disputed| v1::InvoiceChanged {
        invoice: Some(v1::Invoice { disputed, ..invoice("in_1", version, 123_450) }),
    };
    rig.emit(&INGEST_INTAKE, [changed(2, true)]).await;
    rig.wait_for("state = 'pending' AND reason = 'disputed' AND tries = 0").await;
    assert_eq!(rig.merchant.count(), 0);
    rig.emit(&INGEST_INTAKE, [changed(3, false)]).await;
    wait::until_true("called", SOON, || async {
        rig.advance(3_600);
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.merchant.count() == 1
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn without_a_configured_webhook_a_call_waits_for_one() {
    let mut rig = Rig::without_replicas().await;
    rig.run(None).await;
    rig.end_sequence("in_1").await;
    rig.wait_for("state = 'pending' AND reason = 'no_webhook' AND next_at > created_at").await;
    assert_eq!(store::list(&rig.pool, 10).await.unwrap()[0].reason, "no_webhook");
    rig.stop().await;
    rig.run(Some(&format!("http://127.0.0.1:{}/", rig.port))).await;
    let (headers, body) = rig.merchant.calls(1).await.remove(0);
    verify(&headers, &body);
    rig.wait_for("state = 'delivered' AND tries = 0").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_called() {
    let mut rig = Rig::without_replicas().await;
    // What the check of the merchant's file would not have let through.
    rig.run(Some(&format!("https://127.0.0.2:{}/", rig.port))).await;
    rig.end_sequence("in_1").await;
    rig.wait_for(
        "state = 'pending' AND tries = 1 AND last_error LIKE 'the URL leads to an address that is not public%'",
    )
    .await;
    assert_eq!(rig.merchant.count(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn what_a_process_left_behind_goes_out_when_its_lease_ends() {
    let mut rig = Rig::without_replicas().await;
    rig.run(None).await;
    rig.end_sequence("in_1").await;
    rig.wait_for("reason = 'no_webhook' AND next_at > created_at").await;
    rig.stop().await;
    let sql = "UPDATE notifier.webhook SET leased_until = now() + interval '2 seconds', attempts = attempts + 1";
    sqlx::query(sql).execute(&rig.pool).await.unwrap();
    rig.run(Some(&format!("http://127.0.0.1:{}/", rig.port))).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(rig.merchant.count(), 0, "somebody else may be calling");
    rig.merchant.calls(1).await;
    rig.wait_for("state = 'delivered'").await;
    rig.stop().await;
}

#[tokio::test]
async fn bodies_go_when_nobody_needs_them_any_more() {
    let mut rig = Rig::start().await;
    rig.merchant.will_answer([(410, "")]);
    rig.end_sequence("in_1").await;
    rig.wait_for("state = 'failed'").await;
    rig.end_sequence("in_2").await;
    rig.wait_for("state = 'delivered'").await;
    assert_eq!(store::trim_bodies(&rig.pool, 30, 10).await.unwrap(), 0);
    sqlx::query("UPDATE notifier.webhook SET stored_at = now() - interval '31 days'").execute(&rig.pool).await.unwrap();
    assert_eq!(store::trim_bodies(&rig.pool, 30, 10).await.unwrap(), 1, "what has failed may still be tried again");
    assert_eq!(store::trim_bodies(&rig.pool, 30, 10).await.unwrap(), 0, "once");
    rig.wait_for("state = 'delivered' AND body = ''").await;
    rig.stop().await;
}
