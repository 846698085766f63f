//! Ingest over its real edges: HTTP, gRPC and NATS against a real Postgres and a real nats-server.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use events::api::ingest_client::IngestClient;
use events::api::{
    Fact, InvoiceFact, PaymentFact, PendingFact, PublishRequest, PublishStreamRequest, Verdict, VerdictKind, fact,
};
use events::{AnyEvent, Invoice, Kind, Service, time};
use ingest::domain::Source;
use ingest::facts::Message;
use ingest::flow::Heard;
use ingest::store::Quarantined;
use jiff::Timestamp;
use kernel::{Clock, ManualClock, MerchantId, PayerKind, SharedClock, SystemClock};
use prost::Message as _;
use runtime::Merchants;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use testkit::system::{API_KEY, STRIPE_SECRET, merchant};
use testkit::{TestSystem, stripe, wait};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

struct Rig {
    system: TestSystem,
    http: String,
    grpc: String,
    pool: PgPool,
    bus: bus::Bus,
    client: reqwest::Client,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    async fn start() -> Self {
        Self::with_clock(Arc::new(SystemClock)).await
    }

    async fn with_clock(clock: SharedClock) -> Self {
        let system = TestSystem::start(&[(Service::Ingest, &ingest::MIGRATIONS)]).await.unwrap();
        let mut merchants = Merchants::default();
        merchants.insert(merchant("acme", "Europe/Berlin").unwrap());
        let host = system.host(Service::Ingest, &merchants, clock).await.unwrap();
        let (pool, bus) = (host.pool.clone(), host.bus.clone());
        let any = "127.0.0.1:0".parse().unwrap();
        let service = ingest::build(ingest::Config { http_listen: any, grpc_listen: any }, host).await.unwrap();
        let http = format!("http://{}/v1/webhooks", service.address("http").unwrap());
        let grpc = format!("http://{}", service.address("grpc").unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(service.run(stop.clone()));
        Self { system, http, grpc, pool, bus, client: reqwest::Client::new(), stop, running }
    }

    async fn post(&self, body: &str) -> reqwest::Response {
        self.post_signed(body, &stripe::sign(STRIPE_SECRET, body.as_bytes())).await
    }

    async fn post_signed(&self, body: &str, signature: &str) -> reqwest::Response {
        let request = self.client.post(format!("{}/acme/stripe", self.http));
        request.header("stripe-signature", signature).body(body.to_owned()).send().await.unwrap()
    }

    /// Posts an event and gives its verdict.
    async fn verdict(&self, event: &Value) -> String {
        let response = self.post(&event.to_string()).await;
        assert_eq!(response.status(), 200);
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        answer["verdict"].as_str().unwrap().to_owned()
    }

    /// What was said about invoices and customers.
    async fn emitted(&self) -> Vec<AnyEvent> {
        let mut events = self.system.emitted(Service::Ingest).await.unwrap();
        events.retain(|e| e.kind() != Kind::SourceHeard);
        events
    }

    /// The sources that were told to be heard, in order, and when.
    async fn heard(&self) -> Vec<(String, Timestamp)> {
        let events = self.system.emitted(Service::Ingest).await.unwrap();
        let heard = events.into_iter().filter_map(|e| match e {
            AnyEvent::SourceHeard(h) => Some((h.source, time::from_wire(h.heard_at).unwrap())),
            _ => None,
        });
        heard.collect()
    }

    async fn names(&self) -> Vec<&'static str> {
        self.emitted().await.iter().map(|e| e.kind().name()).collect()
    }

    /// The invoice as the event with the highest version tells it.
    async fn invoice(&self, id: &str) -> Invoice {
        let events = self.emitted().await;
        let all = events.iter().filter_map(AnyEvent::invoice).filter(|i| i.invoice_id == id);
        Invoice::try_from(all.max_by_key(|i| i.version).unwrap()).unwrap()
    }

    async fn count(&self, table: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM ingest.{table}"));
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn grpc(&self) -> IngestClient<tonic::transport::Channel> {
        IngestClient::connect(self.grpc.clone()).await.unwrap()
    }

    /// Publishes facts by gRPC.
    async fn publish(&self, facts: &[Fact]) -> Vec<Verdict> {
        let request = PublishRequest { merchant_id: "acme".into(), facts: facts.to_vec() };
        self.grpc().await.publish(authorized(request)).await.unwrap().into_inner().verdicts
    }

    /// Takes facts in as CloudEvents that came in one batch, in binary mode.
    async fn intake(&self, facts: &[Fact]) -> Result<Vec<&'static str>, bus::Failure> {
        let merchant = MerchantId::try_new("acme").unwrap();
        let message = |fact: &Fact| {
            let headers = [("ce-id", fact.id.as_str()), ("ce-source", "/erp"), ("ce-type", "erp.fact")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            ingest::upstream::translate(&merchant, &headers, fact.encode_to_vec().into(), SystemClock.now())
        };
        let messages: Vec<_> = facts.iter().map(message).collect();
        let heard = Heard::from([((merchant.clone(), Source::Nats), SystemClock.now())]);
        Ok(ingest::intake::accept(&self.bus, &messages, &heard).await?.iter().map(|v| v.name()).collect())
    }

    /// What is in quarantine, the oldest first.
    async fn quarantine(&self) -> Vec<Quarantined> {
        let mut list = ingest::store::list_quarantine(&self.pool, 100).await.unwrap();
        list.sort_by_key(|q| q.id);
        list
    }

    /// Has a quarantined message tried again. Returns it, if it had to stay.
    async fn replay(&self, id: i64, corrected: Option<&[u8]>) -> Option<Quarantined> {
        ingest::store::request_quarantine_replay(&self.pool, Some(id), corrected).await.unwrap();
        let row = || async { ingest::store::find_quarantined(&self.pool, id).await.unwrap() };
        wait::until_true("the replay", SOON, || async { row().await.is_none_or(|q| !q.replaying) }).await;
        row().await
    }

    /// Checks that no two events share an id: consumers would take the second for the first.
    async fn check_event_ids(&self) {
        let twice: Vec<String> =
            sqlx::query_scalar("SELECT msg_id::text FROM ingest.outbox GROUP BY msg_id HAVING count(*) > 1")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        assert_eq!(twice, [] as [&str; 0]);
    }

    async fn end(self) {
        self.check_event_ids().await;
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn authorized<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {API_KEY}").parse().unwrap());
    request
}

fn event(id: &str, kind: &str, second: i64, object: Value) -> Value {
    json!({"id": id, "object": "event", "type": kind, "created": 1_767_225_600 + second, "data": {"object": object}})
}

fn invoice_object(status: &str, remaining: i64) -> Value {
    json!({
        "id": "in_1", "object": "invoice", "customer": "cus_1", "currency": "eur", "number": "R-1",
        "amount_due": 1_000, "amount_remaining": remaining, "created": 1_767_225_600, "due_date": 1_769_817_600,
        "status": status, "charge": "ch_1", "hosted_invoice_url": "https://pay.example.com/1",
        "customer_name": "Ada Lovelace", "customer_email": "ada@example.com"
    })
}

#[tokio::test]
async fn an_invoice_is_issued_paid_and_charged_back() {
    let rig = Rig::start().await;
    assert_eq!(rig.verdict(&event("evt_1", "invoice.created", 0, invoice_object("draft", 1_000))).await, "accepted");
    assert_eq!(rig.names().await, [] as [&str; 0], "a draft is nobody's business");
    rig.verdict(&event("evt_2", "invoice.finalized", 1, invoice_object("open", 1_000))).await;
    rig.verdict(&event("evt_3", "invoice.updated", 2, invoice_object("open", 600))).await;
    rig.verdict(&event("evt_4", "invoice.paid", 3, invoice_object("paid", 0))).await;
    rig.verdict(&event("evt_5", "invoice.payment_succeeded", 3, invoice_object("paid", 0))).await;
    let dispute =
        |status: &str| json!({"id": "dp_1", "charge": "ch_1", "amount": 1_000, "currency": "eur", "status": status});
    rig.verdict(&event("evt_6", "charge.dispute.created", 9, dispute("needs_response"))).await;
    assert!(rig.invoice("in_1").await.disputed);
    rig.verdict(&event("evt_7", "charge.dispute.closed", 10, dispute("lost"))).await;

    let expected = ["invoice-issued", "payment-received", "payment-received", "invoice-changed", "payment-reversed"];
    assert_eq!(rig.names().await, expected);
    let events = rig.emitted().await;
    let amounts: Vec<i64> = events
        .iter()
        .filter_map(|e| match e {
            AnyEvent::PaymentReceived(p) => Some(p.amount_minor),
            _ => None,
        })
        .collect();
    assert_eq!(amounts, [400, 600], "what was paid each time, not what is paid in all");
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.epoch, invoice.open_minor, invoice.disputed), (2, 1_000, false));
    rig.end().await;
}

#[tokio::test]
async fn the_same_webhook_ten_times_is_one() {
    let rig = Rig::start().await;
    let webhook = event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000));
    let verdicts = futures_util::future::join_all((0..10).map(|_| rig.verdict(&webhook))).await;
    assert_eq!(verdicts.iter().filter(|v| *v == "accepted").count(), 1, "{verdicts:?}");
    assert_eq!(verdicts.iter().filter(|v| *v == "duplicate").count(), 9, "{verdicts:?}");
    assert_eq!(rig.names().await, ["invoice-issued"]);
    assert_eq!(rig.count("inbound").await, 1);
    rig.end().await;
}

#[tokio::test]
async fn a_dispute_before_its_invoice_waits_for_it() {
    let rig = Rig::start().await;
    let dispute = json!({"id": "dp_1", "charge": "ch_1", "amount": 1_000, "currency": "eur", "status": "lost"});
    assert_eq!(rig.verdict(&event("evt_9", "charge.dispute.closed", 9, dispute)).await, "parked");
    assert_eq!(rig.names().await, [] as [&str; 0]);
    rig.verdict(&event("evt_1", "invoice.paid", 3, invoice_object("paid", 0))).await;
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.epoch, invoice.open_minor), (2, 1_000));
    assert_eq!(rig.count("parked").await, 0);
    rig.end().await;
}

/// Since Stripe's version of 2025-03-31 an invoice names no charge: `invoice_payment.paid` links the two.
#[tokio::test]
async fn an_invoice_payment_links_a_charge_to_its_invoice() {
    let rig = Rig::start().await;
    let unlinked = |status: &str, remaining: i64| {
        let mut object = invoice_object(status, remaining);
        object.as_object_mut().unwrap().remove("charge");
        object
    };
    let dispute = json!({
        "id": "dp_1", "charge": "ch_1", "payment_intent": "pi_1", "amount": 1_000, "currency": "eur", "status": "lost"
    });
    let payment = json!({
        "id": "inpay_1", "object": "invoice_payment", "invoice": "in_1", "amount_paid": 1_000, "currency": "eur",
        "payment": {"type": "payment_intent", "payment_intent": "pi_1"}, "status": "paid"
    });
    rig.verdict(&event("evt_1", "invoice.finalized", 1, unlinked("open", 1_000))).await;
    rig.verdict(&event("evt_2", "invoice.paid", 3, unlinked("paid", 0))).await;
    assert_eq!(rig.verdict(&event("evt_3", "charge.dispute.closed", 9, dispute)).await, "parked");
    assert_eq!(rig.verdict(&event("evt_4", "invoice_payment.paid", 3, payment)).await, "accepted");
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.epoch, invoice.open_minor), (2, 1_000));
    assert_eq!(rig.count("parked").await, 0, "under neither of its keys");
    rig.end().await;
}

#[tokio::test]
async fn what_waited_under_two_keys_takes_effect_once() {
    let rig = Rig::start().await;
    let dispute = json!({
        "id": "dp_1", "charge": "ch_1", "payment_intent": "pi_1", "amount": 1_000, "currency": "eur",
        "status": "needs_response"
    });
    let linked = |charge: Option<&str>, intent: Option<&str>, status: &str, remaining: i64| {
        let mut object = invoice_object(status, remaining);
        (object["charge"], object["payment_intent"]) = (json!(charge), json!(intent));
        object
    };
    // The dispute is the latest news each time; that must not make two changes look like one.
    assert_eq!(rig.verdict(&event("evt_9", "charge.dispute.created", 9, dispute)).await, "parked");
    rig.verdict(&event("evt_1", "invoice.finalized", 1, linked(None, Some("pi_1"), "open", 1_000))).await;
    rig.verdict(&event("evt_2", "invoice.paid", 3, linked(Some("ch_1"), None, "paid", 0))).await;
    assert_eq!(rig.names().await, ["invoice-issued", "payment-received"]);
    assert_eq!(rig.count("parked").await, 0);
    rig.end().await;
}

#[tokio::test]
async fn of_two_messages_of_one_second_the_further_one_holds() {
    let rig = Rig::start().await;
    rig.verdict(&event("evt_9", "invoice.created", 0, invoice_object("draft", 1_000))).await;
    rig.verdict(&event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000))).await;
    let customer = |email: &str| json!({"id": "cus_1", "name": "Ada", "email": email});
    rig.verdict(&event("evt_8", "customer.updated", 0, customer("new@example.com"))).await;
    rig.verdict(&event("evt_9", "customer.created", 0, customer("old@example.com"))).await;
    assert_eq!(rig.names().await, ["invoice-issued", "customer-changed"]);
    rig.end().await;
}

#[tokio::test]
async fn what_cannot_be_stripes_is_refused_with_a_problem() {
    let rig = Rig::start().await;
    let body = event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000)).to_string();
    let hour_ago = Timestamp::from_second(SystemClock.now().as_second() - 3_600).unwrap();
    let refused = [
        (rig.post_signed(&body, &stripe::sign("whsec_of_somebody_else", body.as_bytes())).await, 401, "bad-signature"),
        (
            rig.post_signed(&body, &stripe::sign_at(STRIPE_SECRET, body.as_bytes(), hour_ago)).await,
            401,
            "bad-signature",
        ),
        (rig.post_signed(&body, "").await, 401, "bad-signature"),
        (rig.post("no json").await, 400, "not-json"),
        (rig.post(&" ".repeat((1 << 20) + 1)).await, 413, "body-too-large"),
        (
            rig.client.post(format!("{}/nobody/stripe", rig.http)).body("{}").send().await.unwrap(),
            404,
            "unknown-merchant",
        ),
    ];
    for (response, status, code) in refused {
        assert_eq!(response.status(), status, "{code}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!((problem["code"].as_str(), problem["status"].as_u64()), (Some(code), Some(u64::from(status))));
        assert_eq!(problem["type"], format!("urn:dunlin:problem:{code}"));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(rig.count("inbound").await, 0);
    rig.end().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_quarantined_named_and_replayed_after_correction() {
    let rig = Rig::start().await;
    let broken = |change: fn(&mut Value)| {
        let mut object = invoice_object("open", 1_000);
        change(&mut object);
        object
    };
    for (n, (object, field)) in [
        (broken(|o| o["amount_due"] = Value::Null), "data.object.amount_due"),
        (broken(|o| o["currency"] = json!("zzz")), "data.object.currency"),
        (broken(|o| o["due_date"] = json!(1_700_000_000)), "data.object.due_date"),
        (
            broken(|o| {
                o["amount_due"] = json!(-1);
                o["amount_remaining"] = json!(-1)
            }),
            "data.object.amount_due",
        ),
        (broken(|o| o["customer_name"] = json!("a\u{0}b")), "data.object.customer_name"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            rig.verdict(&event(&format!("evt_{n}"), "invoice.finalized", 0, object)).await,
            "quarantined",
            "{field}"
        );
        let newest = ingest::store::list_quarantine(&rig.pool, 1).await.unwrap().remove(0);
        assert_eq!(
            (newest.field.as_str(), newest.merchant.as_str(), newest.kind.as_str()),
            (field, "acme", "invoice.finalized")
        );
        assert!(!newest.reason.is_empty());
    }
    assert_eq!(rig.names().await, [] as [&str; 0]);
    assert_eq!(rig.count("inbound").await, 5, "kept");

    // Replayed as it is it stays; corrected it takes effect.
    let id = rig.quarantine().await[0].id;
    assert!(rig.replay(id, None).await.is_some());
    let corrected = event("evt_0", "invoice.finalized", 0, invoice_object("open", 1_000)).to_string();
    assert!(rig.replay(id, Some(corrected.as_bytes())).await.is_none());
    assert_eq!(rig.names().await, ["invoice-issued"]);

    // The story of the invoice tells of it, and what arrived is still there beside the correction.
    let story = ingest::store::story(&rig.pool, "acme", "in_1").await.unwrap();
    assert!(story.iter().any(|line| line.detail == "stripe evt_0/invoice.finalized"), "{story:?}");
    let arrived: i64 =
        sqlx::query_scalar("SELECT count(*) FROM ingest.inbound WHERE convert_from(body, 'UTF8') LIKE '%null%'")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(arrived, 1, "the original body is kept");
    rig.end().await;
}

#[tokio::test]
async fn a_correction_must_be_of_the_same_type() {
    let rig = Rig::start().await;
    let mut object = invoice_object("open", 1_000);
    object["amount_due"] = Value::Null;
    rig.verdict(&event("evt_1", "invoice.finalized", 0, object)).await;
    let id = rig.quarantine().await[0].id;
    for mistyped in [event("evt_1", "invoice.finalised", 0, invoice_object("open", 1_000)), json!({"id": "evt_1"})] {
        let kept = rig.replay(id, Some(mistyped.to_string().as_bytes())).await.expect("still in quarantine");
        assert_eq!(kept.field, "type");
    }
    rig.end().await;
}

#[tokio::test]
async fn an_envelope_with_a_fault_is_quarantined_too() {
    let rig = Rig::start().await;
    let good = event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000));
    for (n, (field, value)) in
        [("created", json!("today")), ("data", json!("in_1")), ("id", json!(1))].into_iter().enumerate()
    {
        let mut broken = good.clone();
        broken["id"] = json!(format!("evt_{n}"));
        broken[field] = value;
        assert_eq!(rig.verdict(&broken).await, "quarantined", "{field}");
        let newest = rig.quarantine().await.pop().unwrap();
        assert_eq!((newest.field.as_str(), newest.kind.as_str()), (field, "invoice.finalized"));
    }
    rig.end().await;
}

#[tokio::test]
async fn a_correction_that_cannot_be_stored_does_not_hold_up_the_next() {
    let rig = Rig::start().await;
    // Whatever it is that the database refuses.
    let admin = PgPool::connect(&rig.system.database.admin_url).await.unwrap();
    sqlx::query("ALTER TABLE ingest.invoice ADD CHECK (invoice <> 'in_bad')").execute(&admin).await.unwrap();
    let object = |invoice: &str, amount_due: Value| {
        let mut object = invoice_object("open", 1_000);
        (object["id"], object["amount_due"]) = (json!(invoice), amount_due);
        object
    };
    for id in ["in_bad", "in_good"] {
        rig.verdict(&event(&format!("evt_{id}"), "invoice.finalized", 0, object(id, Value::Null))).await;
    }
    let [bad, good] = &rig.quarantine().await[..] else { panic!("two messages") };
    for (row, id) in [(bad, "in_bad"), (good, "in_good")] {
        let body = event(&format!("evt_{id}"), "invoice.finalized", 0, object(id, json!(1_000))).to_string();
        ingest::store::request_quarantine_replay(&rig.pool, Some(row.id), Some(body.as_bytes())).await.unwrap();
    }
    wait::until_true("the second one's release", SOON, || async { rig.quarantine().await.len() == 1 }).await;
    let kept = &rig.quarantine().await[0];
    assert_eq!((kept.id, kept.field.as_str(), kept.replaying), (bad.id, "body", false));
    assert_eq!(rig.names().await, ["invoice-issued"]);
    rig.end().await;
}

#[tokio::test]
async fn news_of_a_payment_stop_reminders_even_if_the_rest_makes_no_sense() {
    let rig = Rig::start().await;
    rig.verdict(&event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000))).await;
    let mut object = invoice_object("paid", 0);
    object["amount_due"] = json!("ten");
    assert_eq!(rig.verdict(&event("evt_2", "invoice.paid", 5, object)).await, "quarantined");
    assert_eq!(rig.names().await, ["invoice-issued", "payment-received"]);
    assert_eq!(rig.invoice("in_1").await.open_minor, 0);
    let kept = rig.quarantine().await;
    assert_eq!(kept[0].field, "data.object");
    let corrected = event("evt_2", "invoice.paid", 5, invoice_object("paid", 0)).to_string();
    assert!(rig.replay(kept[0].id, Some(corrected.as_bytes())).await.is_none());
    assert_eq!(rig.invoice("in_1").await.open_minor, 0);
    rig.end().await;
}

#[tokio::test]
async fn a_corrected_misfit_is_a_change_of_its_own() {
    let rig = Rig::start().await;
    // One batch: the payment is the latest news, but it is the invoice that was issued.
    let verdicts = rig.intake(&[invoice_fact(1), payment_fact("p", "in_1", "USD")]).await.unwrap();
    assert_eq!(verdicts, ["accepted", "quarantined"]);
    let id = rig.quarantine().await[0].id;
    let corrected = payment_fact("p", "in_1", "EUR").encode_to_vec();
    assert!(rig.replay(id, Some(&corrected)).await.is_none());
    assert_eq!(rig.names().await, ["invoice-issued", "payment-received"]);
    rig.end().await;
}

#[tokio::test]
async fn a_replayed_cloudevent_keeps_its_time() {
    let rig = Rig::start().await;
    let settings = rig.system.common.nats.broker(bus::permissions::UPSTREAM_USER);
    let js = bus::broker::jetstream(bus::broker::connect("erp", &settings).await.unwrap());
    let fact = |total_minor: i64| {
        let mut fact = Fact { id: String::new(), occurred_at: None, ..invoice_fact(1) };
        if let Some(fact::Fact::Invoice(invoice)) = &mut fact.fact {
            invoice.total_minor = total_minor;
        }
        fact.encode_to_vec()
    };
    for (id, time, payload) in [("e-1", "2026-01-05T10:00:00Z", fact(-1)), ("e-2", "2026-01-06T10:00:00Z", fact(2_000))]
    {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [("ce-id", id), ("ce-source", "/erp"), ("ce-type", "erp.invoice"), ("ce-time", time)] {
            headers.insert(name, value);
        }
        js.publish_with_headers("dunlin.intake.v1.acme", headers, payload.into()).await.unwrap().await.unwrap();
    }
    wait::until_true("both to be taken in", SOON, || async { rig.count("inbound").await == 2 }).await;
    let id = rig.quarantine().await[0].id;
    assert!(rig.replay(id, Some(&fact(1_000))).await.is_none());
    assert_eq!(rig.invoice("in_1").await.total_minor, 2_000, "the older one came last, but is older all the same");
    rig.end().await;
}

#[tokio::test]
async fn a_cloudevent_that_cannot_be_stored_holds_nothing_up() {
    let rig = Rig::start().await;
    let settings = rig.system.common.nats.broker(bus::permissions::UPSTREAM_USER);
    let js = bus::broker::jetstream(bus::broker::connect("erp", &settings).await.unwrap());
    for (n, source) in ["/erp", "%00erp", "/erp"].into_iter().enumerate() {
        let mut headers = async_nats::HeaderMap::new();
        let id = n.to_string();
        for (name, value) in [("ce-id", id.as_str()), ("ce-source", source), ("ce-type", "erp.invoice")] {
            headers.insert(name, value);
        }
        let payload = invoice_fact(n).encode_to_vec();
        js.publish_with_headers("dunlin.intake.v1.acme", headers, payload.into()).await.unwrap().await.unwrap();
    }
    wait::until_true("all three to be taken in", SOON, || async { rig.count("inbound").await == 3 }).await;
    assert_eq!(rig.names().await, ["invoice-issued", "invoice-issued"]);
    let kept = rig.quarantine().await;
    assert_eq!(kept.iter().map(|q| (q.source.as_str(), q.field.as_str())).collect::<Vec<_>>(), [("erp", "body")]);
    rig.end().await;
}

#[tokio::test]
async fn customers_keep_what_was_said_last() {
    let rig = Rig::start().await;
    let customer = |email: &str| json!({"id": "cus_1", "name": "Ada", "email": email, "preferred_locales": ["de"]});
    rig.verdict(&event("evt_2", "customer.updated", 5, customer("new@example.com"))).await;
    rig.verdict(&event("evt_1", "customer.created", 1, customer("old@example.com"))).await;
    let [AnyEvent::CustomerChanged(changed)] = &rig.emitted().await[..] else { panic!("one change only") };
    assert_eq!(changed.customer.as_ref().unwrap().email, "new@example.com");
    rig.verdict(&event("evt_3", "customer.deleted", 9, customer("new@example.com"))).await;
    let Some(AnyEvent::CustomerChanged(last)) = rig.emitted().await.pop() else { panic!("no change") };
    assert!(last.customer.unwrap().deleted);
    rig.end().await;
}

/// A direct debit: the processor takes the money, and the bank confirms it days later or does not.
#[tokio::test]
async fn money_under_way_is_told_until_it_arrives_or_fails() {
    let rig = Rig::start().await;
    let object = |status: &str, remaining: i64| {
        let mut object = invoice_object(status, remaining);
        (object["payment_intent"], object["collection_method"]) = (json!("pi_1"), json!("charge_automatically"));
        object
    };
    let intent = json!({"id": "pi_1", "object": "payment_intent", "latest_charge": "ch_1", "amount": 1_000});
    // Before the invoice: it waits for it.
    assert_eq!(rig.verdict(&event("evt_2", "payment_intent.processing", 2, intent.clone())).await, "parked");
    rig.verdict(&event("evt_1", "invoice.finalized", 1, object("open", 1_000))).await;
    let second = |n: i64| Timestamp::from_second(1_767_225_600 + n).unwrap();
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.pending_since, invoice.open_minor, invoice.collects_itself), (Some(second(2)), 1_000, true));
    assert_eq!(invoice.source, "stripe");

    let mut failed = intent.clone();
    failed["last_payment_error"] = json!({"code": "x", "decline_code": "insufficient_funds"});
    rig.verdict(&event("evt_3", "payment_intent.payment_failed", 5, failed.clone())).await;
    assert_eq!(rig.invoice("in_1").await.pending_since, None);
    let mut failing = object("open", 1_000);
    failing["payment_intent"] = failed;
    rig.verdict(&event("evt_4", "invoice.payment_failed", 5, failing)).await;
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.failed_attempts, invoice.decline_code.as_str()), (1, "insufficient_funds"), "counted once");

    let charge = json!({"id": "ch_1", "object": "charge", "payment_intent": "pi_1", "amount": 1_000});
    rig.verdict(&event("evt_5", "charge.pending", 8, charge.clone())).await;
    assert_eq!(rig.invoice("in_1").await.pending_since, Some(second(8)));
    // The money has arrived at the processor: nothing may be sent until the invoice says so too.
    rig.verdict(&event("evt_6", "charge.succeeded", 9, charge)).await;
    rig.verdict(&event("evt_7", "payment_intent.succeeded", 9, intent)).await;
    assert_eq!(rig.invoice("in_1").await.pending_since, Some(second(8)));
    rig.verdict(&event("evt_8", "invoice.paid", 9, object("paid", 0))).await;
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.pending_since, invoice.open_minor), (None, 0));
    let expected = ["invoice-issued", "invoice-changed", "payment-failed", "invoice-changed", "payment-received"];
    assert_eq!(rig.names().await, expected);
    rig.end().await;
}

#[tokio::test]
async fn metadata_that_makes_no_sense_costs_nothing_else_and_can_be_corrected() {
    let rig = Rig::start().await;
    let object = |tags: &str| {
        let mut object = invoice_object("open", 1_000);
        object["metadata"] = json!({"dunlin_tags": tags, "dunlin_campaign": "gentle"});
        object
    };
    let bad = "x".repeat(101);
    assert_eq!(rig.verdict(&event("evt_1", "invoice.finalized", 0, object(&bad))).await, "quarantined");
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.open_minor, invoice.campaign.as_str(), invoice.tags.len()), (1_000, "gentle", 0));
    let customer = |payer: &str| {
        let metadata = json!({"dunlin_payer": payer});
        json!({"id": "cus_1", "name": "Ada", "email": "ada@example.com", "address": {"country": "DE"}, "metadata": metadata})
    };
    assert_eq!(rig.verdict(&event("evt_2", "customer.updated", 0, customer("robot"))).await, "quarantined");
    let told = || async {
        let Some(AnyEvent::CustomerChanged(told)) = rig.emitted().await.pop() else { panic!("no change") };
        events::Customer::try_from(told.customer.as_ref().unwrap()).unwrap()
    };
    assert_eq!((told().await.email.reveal().as_str(), told().await.payer_kind), ("ada@example.com", None));

    let [bad_invoice, bad_customer] = &rig.quarantine().await[..] else { panic!("two messages") };
    assert_eq!(bad_invoice.field, "data.object.metadata.dunlin_tags");
    assert_eq!(bad_customer.field, "data.object.metadata.dunlin_payer");
    let corrected = event("evt_1", "invoice.finalized", 0, object("vip")).to_string();
    assert!(rig.replay(bad_invoice.id, Some(corrected.as_bytes())).await.is_none());
    assert_eq!(rig.invoice("in_1").await.tags, ["vip"]);
    let corrected = event("evt_2", "customer.updated", 0, customer("consumer")).to_string();
    assert!(rig.replay(bad_customer.id, Some(corrected.as_bytes())).await.is_none());
    let customer = told().await;
    assert_eq!((customer.payer_kind, customer.country.as_str()), (Some(PayerKind::Consumer), "DE"));
    rig.end().await;
}

#[tokio::test]
async fn facts_by_grpc_tell_what_campaigns_choose_by() {
    use VerdictKind::{Accepted, Rejected};
    let rig = Rig::start().await;
    let pending = |id: &str, minute: i64, pending: bool| Fact {
        id: id.into(),
        occurred_at: Some(time::to_wire(at_minute(minute))),
        fact: Some(fact::Fact::Pending(PendingFact { invoice_id: "in_1".into(), pending })),
    };
    let mut rich = invoice_fact(1);
    if let Some(fact::Fact::Invoice(i)) = &mut rich.fact {
        (i.tags, i.campaign, i.collects_itself) = (vec!["vip".into(), "eu".into()], "gentle".into(), true);
    }
    let mut wrong = invoice_fact(2);
    if let Some(fact::Fact::Invoice(i)) = &mut wrong.fact {
        i.campaign = "not a name".into();
    }
    let verdicts = rig.publish(&[pending("p1", 1, true), rich, wrong]).await;
    assert_eq!(
        (kinds(&verdicts), verdicts[2].field.as_str()),
        (vec![Accepted, Accepted, Rejected], "invoice.campaign")
    );
    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.source.as_str(), invoice.campaign.as_str()), ("grpc", "gentle"));
    assert_eq!((invoice.tags.as_slice(), invoice.collects_itself), (&["vip".to_owned(), "eu".to_owned()][..], true));
    assert_eq!(invoice.pending_since, Some(at_minute(1)));
    rig.publish(&[pending("p2", 2, false)]).await;
    assert_eq!(rig.invoice("in_1").await.pending_since, None);

    let mut request = authorized(PublishRequest { merchant_id: "acme".into(), facts: vec![invoice_fact(3)] });
    request.metadata_mut().insert("dunlin-source", "file".parse().unwrap());
    rig.grpc().await.publish(request).await.unwrap();
    assert_eq!(rig.invoice("in_3").await.source, "file");
    let mut request = authorized(PublishRequest { merchant_id: "acme".into(), facts: vec![] });
    request.metadata_mut().insert("dunlin-source", "stripe".parse().unwrap());
    assert_eq!(rig.grpc().await.publish(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    rig.intake(&[invoice_fact(4)]).await.unwrap();
    assert_eq!(rig.invoice("in_4").await.source, "nats");
    rig.end().await;
}

fn at_minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_607_200 + 60 * minute).unwrap()
}

/// What counts is that a source speaks, whatever it says.
#[tokio::test]
async fn a_source_that_speaks_is_heard_at_most_once_a_minute() {
    let clock = Arc::new(ManualClock::new(at_minute(0)));
    let rig = Rig::with_clock(clock.clone()).await;
    let nothing_new = |id: &str| event(id, "plan.created", 0, json!({}));
    for id in ["evt_1", "evt_2"] {
        rig.verdict(&nothing_new(id)).await;
    }
    assert_eq!(rig.heard().await, [("stripe".to_owned(), at_minute(0))]);
    clock.set(at_minute(1) - jiff::SignedDuration::from_millis(1));
    rig.verdict(&nothing_new("evt_3")).await;
    assert_eq!(rig.heard().await.len(), 1, "too soon");
    clock.set(at_minute(1));
    assert_eq!(rig.verdict(&event("evt_4", "invoice.finalized", 0, json!({"id": "in_1"}))).await, "quarantined");
    assert_eq!(rig.heard().await.pop(), Some(("stripe".to_owned(), at_minute(1))), "even if it makes no sense");
    clock.set(at_minute(2));
    assert_eq!(rig.verdict(&nothing_new("evt_1")).await, "duplicate");
    assert_eq!(rig.heard().await.pop(), Some(("stripe".to_owned(), at_minute(2))), "even if it is known");
    assert_eq!(rig.post_signed(&nothing_new("evt_9").to_string(), "").await.status(), 401);

    let mut wrong = invoice_fact(1);
    wrong.occurred_at = None;
    assert_eq!(kinds(&rig.publish(&[wrong]).await), [VerdictKind::Rejected]);
    assert_eq!(rig.heard().await.len(), 4, "each source by itself");
    let settings = rig.system.common.nats.broker(bus::permissions::UPSTREAM_USER);
    let js = bus::broker::jetstream(bus::broker::connect("erp", &settings).await.unwrap());
    for merchant in ["nobody-we-know", "acme"] {
        js.publish(format!("dunlin.intake.v1.{merchant}"), "nonsense".into()).await.unwrap().await.unwrap();
    }
    wait::until_true("both to be kept", SOON, || async { rig.count("quarantine").await == 3 }).await;
    let mut sources: Vec<_> = rig.heard().await.into_iter().map(|(source, _)| source).collect();
    sources.sort();
    assert_eq!(sources, ["grpc", "nats", "stripe", "stripe", "stripe"]);
    assert_eq!(rig.count("source").await, 3);
    rig.end().await;
}

/// Several replicas share the minute.
#[tokio::test]
async fn replicas_do_not_tell_twice_of_one_source() {
    let rig = Rig::start().await;
    let merchant = MerchantId::try_new("acme").unwrap();
    let heard = Heard::from([((merchant, Source::Stripe), at_minute(0))]);
    let tell = || async { ingest::intake::accept(&rig.bus, &[], &heard).await.unwrap() };
    futures_util::future::join_all((0..8).map(|_| tell())).await;
    assert_eq!(rig.heard().await.len(), 1);
    rig.end().await;
}

fn invoice_fact(n: usize) -> Fact {
    Fact {
        id: format!("fact-{n}"),
        occurred_at: Some(time::to_wire("2026-01-05T10:00:00Z".parse().unwrap())),
        fact: Some(fact::Fact::Invoice(InvoiceFact {
            invoice_id: format!("in_{n}"),
            customer_id: "cus_1".into(),
            currency: "EUR".into(),
            total_minor: 1_000,
            issued_on: "2026-01-01".into(),
            due_on: "2026-01-31".into(),
            ..Default::default()
        })),
    }
}

fn payment_fact(id: &str, invoice: &str, currency: &str) -> Fact {
    Fact {
        id: id.into(),
        occurred_at: Some(time::to_wire("2026-01-06T10:00:00Z".parse().unwrap())),
        fact: Some(fact::Fact::Payment(PaymentFact {
            payment_id: id.into(),
            invoice_id: invoice.into(),
            amount_minor: 400,
            currency: currency.into(),
        })),
    }
}

fn kinds(verdicts: &[Verdict]) -> Vec<VerdictKind> {
    verdicts.iter().map(Verdict::kind).collect()
}

#[tokio::test]
async fn grpc_gives_a_verdict_per_fact() {
    use VerdictKind::{Accepted, Duplicate, Rejected};
    let rig = Rig::start().await;
    let mut client = rig.grpc().await;
    let mut nonsense = invoice_fact(2);
    if let Some(fact::Fact::Invoice(i)) = &mut nonsense.fact {
        i.due_on = "2025-01-31".into();
    }
    let facts = vec![
        payment_fact("early", "in_1", "EUR"),
        invoice_fact(1),
        invoice_fact(1),
        nonsense,
        payment_fact("foreign", "in_1", "USD"),
    ];
    let request = PublishRequest { merchant_id: "acme".into(), facts };
    let verdicts = client.publish(authorized(request.clone())).await.unwrap().into_inner().verdicts;
    assert_eq!(kinds(&verdicts), [Accepted, Accepted, Duplicate, Rejected, Rejected]);
    assert_eq!(verdicts[3].field, "invoice.due_on");
    assert_eq!(verdicts[4].reason, "is USD, but the invoice is in EUR");
    assert_eq!(rig.invoice("in_1").await.open_minor, 600, "the payment that came before its invoice counts");

    let again = client.publish(authorized(request)).await.unwrap().into_inner().verdicts;
    assert_eq!(kinds(&again), [Duplicate, Duplicate, Duplicate, Rejected, Rejected]);
    assert_eq!(rig.names().await, ["invoice-issued"], "invoice and part payment arrived in one transaction");
    assert_eq!((rig.count("inbound").await, rig.count("quarantine").await), (2, 0), "what was rejected is not stored");

    let corrected = rig.publish(&[payment_fact("foreign", "in_1", "EUR"), invoice_fact(2)]).await;
    assert_eq!(kinds(&corrected), [Accepted, Accepted], "corrected, under the same ids");
    assert_eq!(rig.invoice("in_1").await.open_minor, 200);
    let mut unstorable = invoice_fact(3);
    if let Some(fact::Fact::Invoice(i)) = &mut unstorable.fact {
        i.bill_to_name = "a\u{0}b".into();
    }
    assert_eq!(kinds(&rig.publish(&[unstorable]).await), [Rejected]);
    assert_eq!(kinds(&rig.publish(&[invoice_fact(3)]).await), [Accepted]);

    let stranger =
        client.publish(tonic::Request::new(PublishRequest { merchant_id: "acme".into(), facts: vec![] })).await;
    assert_eq!(stranger.unwrap_err().code(), tonic::Code::Unauthenticated);
    let facts = (0..1_001).map(invoice_fact).collect();
    let flood = client.publish(authorized(PublishRequest { merchant_id: "acme".into(), facts })).await;
    assert_eq!(flood.unwrap_err().code(), tonic::Code::InvalidArgument);
    rig.end().await;
}

#[tokio::test]
async fn a_payment_that_turns_out_to_be_in_another_currency_is_quarantined() {
    use VerdictKind::Accepted;
    let rig = Rig::start().await;
    assert_eq!(kinds(&rig.publish(&[payment_fact("p", "in_1", "USD")]).await), [Accepted]);
    assert_eq!(kinds(&rig.publish(&[invoice_fact(1)]).await), [Accepted]);
    assert_eq!(rig.invoice("in_1").await.open_minor, 1_000);
    let kept = rig.quarantine().await;
    assert_eq!(kept.iter().map(|q| q.external_id.as_str()).collect::<Vec<_>>(), ["p"]);
    assert_eq!(
        (kept[0].field.as_str(), kept[0].reason.as_str()),
        ("payment.currency", "is USD, but the invoice is in EUR")
    );
    let corrected = payment_fact("p", "in_1", "EUR").encode_to_vec();
    assert!(rig.replay(kept[0].id, Some(&corrected)).await.is_none());
    assert_eq!(rig.invoice("in_1").await.open_minor, 600);

    // The invoice is taken in even if the payment's message is past retention.
    assert_eq!(kinds(&rig.publish(&[payment_fact("old", "in_2", "USD")]).await), [Accepted]);
    sqlx::query("DELETE FROM ingest.inbound WHERE external_id = 'old'").execute(&rig.pool).await.unwrap();
    assert_eq!(kinds(&rig.publish(&[invoice_fact(2)]).await), [Accepted]);
    assert_eq!(rig.invoice("in_2").await.open_minor, 1_000);
    rig.end().await;
}

#[tokio::test]
async fn grpc_streams_answer_batch_by_batch() {
    let rig = Rig::start().await;
    let batches = (0..5).map(|b| PublishStreamRequest {
        merchant_id: "acme".into(),
        facts: (b * 200..(b + 1) * 200).map(invoice_fact).collect(),
    });
    let request = authorized(tokio_stream::iter(batches.collect::<Vec<_>>()));
    let mut answers = rig.grpc().await.publish_stream(request).await.unwrap().into_inner();
    let mut accepted = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        accepted += answer.verdicts.iter().filter(|v| v.kind() == VerdictKind::Accepted).count();
    }
    assert_eq!(accepted, 1_000);
    assert_eq!(rig.emitted().await.len(), 1_000);
    rig.end().await;
}

#[tokio::test]
async fn cloudevents_come_in_by_nats_in_both_modes() {
    let rig = Rig::start().await;
    let settings = rig.system.common.nats.broker(bus::permissions::UPSTREAM_USER);
    let js = bus::broker::jetstream(bus::broker::connect("erp", &settings).await.unwrap());
    let structured = json!({
        "specversion": "1.0", "id": "e-1", "source": "/erp", "type": "erp.invoice", "time": "2026-01-05T10:00:00Z",
        "datacontenttype": "application/json",
        "data": {"invoice": {"invoiceId": "in_1", "customerId": "cus_1", "currency": "EUR", "totalMinor": "1000",
                             "issuedOn": "2026-01-01", "dueOn": "2026-01-31"}}
    });
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", "application/cloudevents+json");
    let publish = |headers, payload: Vec<u8>, merchant: &'static str| {
        let js = js.clone();
        async move {
            let subject = format!("dunlin.intake.v1.{merchant}");
            js.publish_with_headers(subject, headers, payload.into()).await.unwrap().await.unwrap();
        }
    };
    publish(headers.clone(), structured.to_string().into_bytes(), "acme").await;
    let mut binary = async_nats::HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "e-2"),
        ("ce-source", "/erp"),
        ("ce-type", "erp.payment"),
        ("ce-time", "2026-01-06T10:00:00Z"),
    ] {
        binary.insert(name, value);
    }
    let payment = Fact { id: String::new(), occurred_at: None, ..payment_fact("p", "in_1", "EUR") };
    publish(binary.clone(), payment.encode_to_vec(), "acme").await;
    publish(binary, payment.encode_to_vec(), "acme").await;
    publish(headers.clone(), b"{}".to_vec(), "acme").await;
    publish(headers, structured.to_string().into_bytes(), "nobody-we-know").await;

    wait::until_true("all five to be taken in", SOON, || async { rig.count("inbound").await == 4 }).await;
    let invoice = rig.invoice("in_1").await;
    assert_eq!(invoice.open_minor, 600);
    let quarantined = ingest::store::list_quarantine(&rig.pool, 9).await.unwrap();
    let mut fields: Vec<_> = quarantined.iter().map(|q| (q.field.as_str(), q.merchant.as_str())).collect();
    fields.sort_unstable();
    assert_eq!(fields, [("cloudevent", "acme"), ("merchant", "nobody-we-know")], "nothing is dropped");
    rig.end().await;
}

/// A batch looks for what waited for its own charges only; whatever else waits is the sweep's, which does not run here.
#[tokio::test]
async fn a_batch_leaves_what_waits_for_other_charges_alone() {
    let system = TestSystem::start(&[(Service::Ingest, &ingest::MIGRATIONS)]).await.unwrap();
    let host = system.host(Service::Ingest, &Merchants::default(), Arc::new(SystemClock)).await.unwrap();
    let merchant = MerchantId::try_new("acme").unwrap();
    let take = |event: Value| {
        let body = event.to_string();
        let webhook = ingest::stripe::translate(body.as_bytes(), &jiff::tz::TimeZone::UTC).unwrap();
        let message = Message {
            id: Message::id(&merchant, "stripe", &webhook.external_id),
            merchant: merchant.clone(),
            source: "stripe".to_owned(),
            external_id: webhook.external_id,
            kind: webhook.kind,
            body: body.into(),
            occurred_at: None,
            received_at: SystemClock.now(),
            traceparent: None,
            content: webhook.content,
            sender_corrects: false,
        };
        let bus = host.bus.clone();
        async move { ingest::intake::accept(&bus, &[message], &Heard::new()).await.unwrap() }
    };
    for n in 1..=2 {
        let dispute = json!({"id": format!("dp_{n}"), "charge": format!("ch_{n}"), "status": "needs_response"});
        take(event(&format!("evt_d{n}"), "charge.dispute.created", 9, dispute)).await;
    }
    // As if the invoice of the second charge had arrived in a transaction that did not see its dispute.
    sqlx::query("INSERT INTO ingest.charge VALUES ('acme', 'ch_2', 'in_2')").execute(&host.pool).await.unwrap();
    take(event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000))).await;
    let parked: Vec<String> =
        sqlx::query_scalar("SELECT charge FROM ingest.parked").fetch_all(&host.pool).await.unwrap();
    assert_eq!(parked, ["ch_2"]);
    let mut work = host.bus.begin(&events::topology::INGEST_INTAKE).await.unwrap();
    sqlx::query("UPDATE ingest.parked SET parked_at = now() - interval '2 hours'").execute(&host.pool).await.unwrap();
    assert_eq!(ingest::flow::apply_parked(&mut work, 1).await.unwrap(), 0, "too long ago");
    assert_eq!(ingest::flow::apply_parked(&mut work, 3).await.unwrap(), 1, "the sweep finds it");
}

#[tokio::test]
async fn what_cannot_be_taken_in_now_does_not_keep_the_rest_out() {
    let rig = Rig::start().await;
    let admin = PgPool::connect(&rig.system.database.admin_url).await.unwrap();
    let trigger = "
        CREATE FUNCTION ingest.moody() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.external_id = 'fact-1' THEN RAISE EXCEPTION 'bad data' USING ERRCODE = '22000'; END IF;
            IF NEW.external_id = 'fact-2' THEN RAISE EXCEPTION 'not now' USING ERRCODE = '53100'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER moody BEFORE INSERT ON ingest.inbound FOR EACH ROW EXECUTE FUNCTION ingest.moody()";
    sqlx::raw_sql(trigger).execute(&admin).await.unwrap();
    let facts: Vec<Fact> = (1..=4).map(invoice_fact).collect();
    assert!(rig.intake(&facts).await.is_err(), "the batch has to come again");
    assert_eq!(rig.names().await, ["invoice-issued", "invoice-issued"], "but the good half of it is in");
    sqlx::raw_sql("DROP TRIGGER moody ON ingest.inbound").execute(&admin).await.unwrap();
    assert_eq!(rig.intake(&facts).await.unwrap(), ["accepted", "accepted", "duplicate", "duplicate"]);
    rig.end().await;
}

#[tokio::test]
async fn webhooks_are_answered_only_after_their_commit() {
    let rig = Rig::start().await;
    // While the table is locked nothing can be committed: no answer may come.
    let mut lock = rig.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE ingest.inbound IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let webhook = event("evt_1", "invoice.finalized", 0, invoice_object("open", 1_000)).to_string();
    let mut posting = Box::pin(rig.post(&webhook));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut posting).await;
    assert!(early.is_err(), "answered before the commit");
    lock.rollback().await.unwrap();
    assert_eq!(posting.await.status(), 200);
    assert_eq!(rig.count("inbound").await, 1);
    rig.end().await;
}

#[tokio::test]
async fn all_stripe_fixtures_are_taken_in() {
    let Some(folder) = testkit::shared("fixtures/stripe") else { return };
    let rig = Rig::start().await;
    let mut posted = 0;
    for group in std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
        for file in std::fs::read_dir(group.path()).unwrap().flatten() {
            let mut body = std::fs::read_to_string(file.path()).unwrap();
            for placeholder in ["type", "status", "id", "reason", "amount"] {
                body = body.replace(&format!("{{{{{placeholder}}}}}"), &format!("{placeholder}_x"));
            }
            if serde_json::from_str::<Value>(&body).is_err() {
                continue; // A template with a placeholder that stands for JSON.
            }
            let status = rig.post(&body).await.status();
            assert_eq!(status, 200, "{}", file.path().display());
            posted += 1;
        }
    }
    assert!(posted > 50, "only {posted} fixtures");
    assert_eq!(rig.count("inbound").await, posted, "every one is kept");
    let quarantined = ingest::store::list_quarantine(&rig.pool, 100).await.unwrap();
    let told: Vec<_> = quarantined.iter().map(|q| format!("{} {} {}", q.kind, q.field, q.reason)).collect();
    assert!(told.is_empty(), "{told:?}");
    rig.end().await;
}

#[tokio::test]
async fn stripe_signature_vectors_hold() {
    let Some(file) = testkit::shared("fixtures/signature-vectors/vectors.json") else { return };
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let vectors = file.as_array().or(file["vectors"].as_array()).unwrap();
    let mut checked = 0;
    for vector in vectors.iter().filter(|v| v["provider"] == "stripe") {
        let text = |key: &str| vector[key].as_str().unwrap();
        let header = vector["headers"]["Stripe-Signature"].as_str().unwrap();
        let result =
            ingest::stripe::verify(header, text("body").as_bytes(), [text("secret")], u32::MAX, Timestamp::UNIX_EPOCH);
        assert_eq!(result.is_ok(), text("expect") == "valid", "{}: {result:?}", text("id"));
        checked += 1;
    }
    assert!(checked >= 3);
}
