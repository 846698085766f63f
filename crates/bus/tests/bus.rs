//! The bus against a real Postgres and a real nats-server: every promise of the crate's documentation, and what happens
//! when things break.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use async_nats::jetstream::consumer::{FromConsumer, PullConsumer, pull};
use bus::{Bus, Failure, Handler, Incoming, Work};
use events::topology::{INGEST_INTAKE, SEGMENTER_PAYERS};
use events::{AnyEvent, Flow, Kind, Service, v1};
use kernel::{Clock, SharedClock, SystemClock};
use runtime::merchant::Merchants;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, wait};
use tokio_util::sync::CancellationToken;

/// The bus's own tables suffice here.
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));
const SOON: Duration = Duration::from_secs(20);

/// A producer (ingest) and a consumer (segmenter) with a handler that notes what it did.
struct Rig {
    system: TestSystem,
    producer: Bus,
    consumer: Bus,
    effects: PgPool,
}

impl Rig {
    async fn start() -> Self {
        let services = [Service::Ingest, Service::Segmenter].map(|s| (s, &*NO_MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let admin = PgPool::connect(&system.database.admin_url).await.unwrap();
        // What a test handler did: one row per time, so that doing it twice shows.
        sqlx::raw_sql(
            "CREATE TABLE segmenter.effect (invoice text NOT NULL, version bigint NOT NULL);
             GRANT ALL ON segmenter.effect TO dunlin_segmenter",
        )
        .execute(&admin)
        .await
        .unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let producer = system.host(Service::Ingest, &Merchants::default(), clock.clone()).await.unwrap();
        let consumer = system.host(Service::Segmenter, &Merchants::default(), clock).await.unwrap();
        Self { system, producer: producer.bus, consumer: consumer.bus, effects: consumer.pool }
    }

    fn consume(&self, handler: Noting) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let stop = CancellationToken::new();
        let (bus, token) = (self.consumer.clone(), stop.clone());
        (stop, tokio::spawn(async move { bus.run(handler, token).await }))
    }

    async fn emit(&self, invoices: impl IntoIterator<Item = v1::InvoiceIssued>) {
        let mut work = self.producer.begin(&INGEST_INTAKE).await.unwrap();
        for event in invoices {
            work.emit(SystemClock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    fn admin(&self) -> bus::BrokerSettings {
        self.system.common.nats.broker(bus::permissions::MIGRATE_USER)
    }

    async fn durable(&self) -> PullConsumer {
        let js = bus::broker::jetstream(bus::broker::connect("test", &self.admin()).await.unwrap());
        js.get_consumer_from_stream(SEGMENTER_PAYERS.name, Service::Ingest.stream()).await.unwrap()
    }

    /// The consumer's durable brings one more kind, as a migration to a newer version would have it.
    async fn widen_durable(&self, kind: Kind) {
        let js = bus::broker::jetstream(bus::broker::connect("test", &self.admin()).await.unwrap());
        let mut config =
            pull::Config::try_from_consumer_config(self.durable().await.cached_info().config.clone()).unwrap();
        config.filter_subjects.push(kind.subject_filter());
        js.create_consumer_on_stream(config, Service::Ingest.stream()).await.unwrap();
    }

    /// The broker comes back with an empty disk.
    async fn lose_streams(&mut self) {
        self.system.nats.kill().unwrap();
        std::fs::remove_dir_all(self.system.directory().join("store")).unwrap();
        self.system.nats.launch().await.unwrap();
        self.system.declare_streams().await.unwrap();
    }

    async fn effects(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT invoice FROM effect ORDER BY invoice").fetch_all(&self.effects).await.unwrap()
    }

    async fn wait_for_effects(&self, expected: usize) -> Vec<String> {
        wait::until(&format!("{expected} effects"), SOON, || async {
            let effects = self.effects().await;
            (effects.len() >= expected).then_some(effects)
        })
        .await
    }

    async fn dead_letters(&self) -> Vec<bus::store::DeadLetter> {
        bus::store::list_dead_letters(&self.effects, 100).await.unwrap()
    }

    async fn pending(&self) -> i64 {
        bus::store::backlog(&self.producer_pool()).await.unwrap().outbox_depth
    }

    fn producer_pool(&self) -> PgPool {
        sqlx::PgPool::connect_lazy(&format!("{}?options=-csearch_path%3Dingest", self.system.database.admin_url))
            .unwrap()
    }
}

/// Writes one row per event. Breaks as told.
#[derive(Clone, Default)]
struct Noting {
    /// Fails with Retry this many times before it works.
    outages: Arc<AtomicUsize>,
    /// Cannot deal with invoices of these names: by returning Reject, by `work.reject`, by violating a type in SQL.
    fixed: Arc<std::sync::atomic::AtomicBool>,
}

impl Handler for Noting {
    const FLOW: &'static Flow = &SEGMENTER_PAYERS;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        if self.outages.load(Ordering::SeqCst) > 0 {
            self.outages.fetch_sub(1, Ordering::SeqCst);
            return Err(Failure::Retry("the test says so".to_owned()));
        }
        let fixed = self.fixed.load(Ordering::SeqCst);
        for event in batch {
            let AnyEvent::InvoiceIssued(e) = &event.event else { continue };
            let invoice = e.invoice.as_ref().map_or("", |i| &i.invoice_id);
            match invoice {
                "poison-returned" if !fixed => return Err(Failure::Reject("cannot be".to_owned())),
                "poison-rejected" if !fixed => {
                    work.reject(event, "rejected alone");
                    continue;
                }
                "retry-for-ever" => return Err(Failure::Retry("the test says so".to_owned())),
                "poison-sql" if !fixed => {
                    sqlx::query("INSERT INTO effect VALUES ($1, NULL)").bind(invoice).execute(work.tx()).await?;
                }
                _ => {}
            }
            sqlx::query("INSERT INTO effect VALUES ($1, $2)")
                .bind(invoice)
                .bind(e.invoice.as_ref().map_or(0, |i| i.version))
                .execute(work.tx())
                .await?;
        }
        Ok(())
    }
}

fn invoice(name: &str) -> v1::InvoiceIssued {
    v1::InvoiceIssued {
        invoice: Some(v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: name.into(),
            customer_id: "cus_1".into(),
            version: 1,
            ..Default::default()
        }),
    }
}

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("in_{i:05}")).collect()
}

#[tokio::test]
async fn a_committed_event_has_its_effect_once() {
    let rig = Rig::start().await;
    let (stop, running) = rig.consume(Noting::default());
    let expected = names(1_234);
    rig.emit(expected.iter().map(|n| invoice(n))).await;
    assert_eq!(rig.wait_for_effects(expected.len()).await, expected);
    wait::until_true("an empty outbox", SOON, || async { rig.pending().await == 0 }).await;

    // The same rows again, as after a crash between PubAck and the deletion of the marks, and past the broker's
    // deduplication as after a restore: the inbox refuses them.
    let (from, to) = ("2000-01-01T00:00:00Z".parse().unwrap(), "2100-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(bus::store::replay_outbox(&rig.producer_pool(), from, to).await.unwrap(), 1_234);
    wait::until_true("an empty outbox", SOON, || async { rig.pending().await == 0 }).await;
    rig.emit([invoice("last")]).await;
    let effects = rig.wait_for_effects(1_235).await;
    assert_eq!(effects.len(), 1_235, "nothing was done twice");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn nothing_leaves_without_a_commit() {
    let rig = Rig::start().await;
    let mut work = rig.producer.begin(&INGEST_INTAKE).await.unwrap();
    work.emit(SystemClock.now(), &invoice("rolled-back")).unwrap();
    drop(work);
    let (stop, running) = rig.consume(Noting::default());
    rig.emit([invoice("committed")]).await;
    assert_eq!(rig.wait_for_effects(1).await, ["committed"]);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_and_the_rest_goes_on() {
    let rig = Rig::start().await;
    let handler = Noting::default();
    let mut expected = names(40);
    let poison = ["poison-returned", "poison-rejected", "poison-sql"];
    let mut all: Vec<_> = expected.iter().map(|n| invoice(n)).collect();
    all.insert(3, invoice(poison[0]));
    all.insert(17, invoice(poison[1]));
    all.insert(30, invoice(poison[2]));
    rig.emit(all).await;
    let (stop, running) = rig.consume(handler.clone());
    assert_eq!(rig.wait_for_effects(expected.len()).await, expected);
    let letters = wait::until("three dead letters", SOON, || async {
        let letters = rig.dead_letters().await;
        (letters.len() == 3).then_some(letters)
    })
    .await;
    let reasons: Vec<&str> = letters.iter().map(|l| l.reason.as_str()).collect();
    assert!(reasons.contains(&"cannot be") && reasons.contains(&"rejected alone"), "{reasons:?}");
    assert!(reasons.iter().any(|r| r.contains("null value in column")), "{reasons:?}");
    assert!(letters.iter().all(|l| l.subject == "dunlin.v1.invoice-issued.acme" && !l.payload.is_empty()));

    // Replayed without a fix they come back with one more attempt; after the fix they have their effect and are gone.
    bus::store::request_replay(&rig.effects, None).await.unwrap();
    wait::until_true("second attempts", SOON, || async { rig.dead_letters().await.iter().all(|l| l.attempts == 2) })
        .await;
    handler.fixed.store(true, Ordering::SeqCst);
    bus::store::request_replay(&rig.effects, None).await.unwrap();
    wait::until_true("no dead letters", SOON, || async { rig.dead_letters().await.is_empty() }).await;
    expected.extend(poison.map(str::to_owned));
    expected.sort();
    let effects: std::collections::BTreeSet<_> = rig.effects().await.into_iter().collect();
    assert_eq!(effects.into_iter().collect::<Vec<_>>(), expected);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_no_event_is_kept_whole() {
    let rig = Rig::start().await;
    let js = rig.producer.jetstream();
    js.publish(Kind::InvoiceIssued.subject("acme"), "no protobuf".into()).await.unwrap().await.unwrap();
    let (stop, running) = rig.consume(Noting::default());
    let letters = wait::until("a dead letter", SOON, || async {
        let letters = rig.dead_letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(letters[0].reason, "header ce-id: is missing");
    assert_eq!(letters[0].payload, b"no protobuf");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn an_outage_of_the_handler_only_delays() {
    let rig = Rig::start().await;
    let handler = Noting::default();
    handler.outages.store(2, Ordering::SeqCst);
    let (stop, running) = rig.consume(handler);
    let expected = names(20);
    rig.emit(expected.iter().map(|n| invoice(n))).await;
    assert_eq!(rig.wait_for_effects(20).await, expected);
    assert!(rig.dead_letters().await.is_empty(), "an outage never gives an event up");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn events_wait_out_a_broker_outage_in_the_outbox() {
    let mut rig = Rig::start().await;
    let (stop, running) = rig.consume(Noting::default());
    rig.system.nats.kill().unwrap();
    let expected = names(1_100);
    rig.emit(expected.iter().map(|n| invoice(n))).await;
    assert_eq!(rig.pending().await, 1_100, "committed, though the broker is gone");
    rig.system.nats.launch().await.unwrap();
    assert_eq!(rig.wait_for_effects(expected.len()).await, expected);
    wait::until_true("an empty outbox", SOON, || async { rig.pending().await == 0 }).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_lost_stream_is_refilled_from_the_outbox() {
    let mut rig = Rig::start().await;
    let before = names(10);
    rig.emit(before.iter().map(|n| invoice(n))).await;
    wait::until_true("an empty outbox", SOON, || async { rig.pending().await == 0 }).await;

    // The broker loses everything, events that nobody has read yet among it.
    rig.lose_streams().await;
    let (stop, running) = rig.consume(Noting::default());
    let (from, to) = ("2000-01-01T00:00:00Z".parse().unwrap(), "2100-01-01T00:00:00Z".parse().unwrap());
    bus::store::replay_outbox(&rig.producer_pool(), from, to).await.unwrap();
    assert_eq!(rig.wait_for_effects(10).await, before);

    // A consumer that vanishes under a running pull is bound to again.
    rig.lose_streams().await;
    rig.emit([invoice("later")]).await;
    bus::store::replay_outbox(&rig.producer_pool(), from, to).await.unwrap();
    let effects = rig.wait_for_effects(11).await;
    assert_eq!(effects.len(), 11, "what was done before the consumer vanished is not done again");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_service_may_only_publish_its_own_events_and_read_its_own_durables() {
    let rig = Rig::start().await;
    let js = rig.consumer.jetstream();
    let foreign = js.publish(Kind::InvoiceIssued.subject("acme"), "x".into()).await.unwrap().await;
    assert!(foreign.is_err(), "segmenter published an event of ingest: {foreign:?}");
    let foreign = bus::topology::pull(js, Service::Ingest.stream(), "notifier-balances", 1).await;
    assert!(foreign.is_err(), "segmenter bound to a durable of the notifier");
    let created =
        js.create_stream(async_nats::jetstream::stream::Config { name: "MINE".into(), ..Default::default() }).await;
    assert!(created.is_err(), "segmenter created a stream");
}

#[tokio::test]
async fn streams_that_find_no_room_say_which_settings_to_change() {
    let system = TestSystem::start(&[]).await.unwrap();
    let migrate = system.common.nats.broker(bus::permissions::MIGRATE_USER);
    let js = bus::broker::jetstream(bus::broker::connect("migrate", &migrate).await.unwrap());
    let streams =
        |stream_max_mib| runtime::settings::NatsSettings { stream_max_mib, ..system.common.nats.clone() }.streams();
    let refused = bus::topology::apply(&js, &streams(1_000_000)).await.unwrap_err().to_string();
    assert!(refused.contains("6 streams of nats.stream_max_mib = 1000000 MiB, 6000000 MiB in all"), "{refused}");
    assert!(refused.contains("DUNLIN_NATS_MAX_STORE"), "{refused}");
    // What the broker may keep is set, not what happens to be free when it starts.
    bus::topology::apply(&js, &streams(4096)).await.unwrap();
}

#[tokio::test]
async fn events_of_a_newer_version_are_left_for_it() {
    let rig = Rig::start().await;
    let (stop, running) = rig.consume(Noting::default());
    let js = rig.producer.jetstream();
    // The segmenter does not take customer-changed; its durable is widened, as a migration to a newer version would.
    rig.widen_durable(Kind::CustomerChanged).await;
    js.publish(Kind::CustomerChanged.subject("acme"), "of the future".into()).await.unwrap().await.unwrap();
    rig.emit([invoice("in_1")]).await;
    assert_eq!(rig.wait_for_effects(1).await, ["in_1"]);
    let offered_again = || async { rig.durable().await.cached_info().num_redelivered > 0 };
    wait::until_true("a second offer", SOON, offered_again).await;
    assert!(rig.dead_letters().await.is_empty(), "a newer replica may know it");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn one_event_that_always_fails_does_not_hold_up_the_others() {
    let rig = Rig::start().await;
    let expected = names(20);
    let mut all: Vec<_> = expected.iter().map(|n| invoice(n)).collect();
    all.insert(7, invoice("retry-for-ever"));
    rig.emit(all).await;
    let (stop, running) = rig.consume(Noting::default());
    let effects = wait::until("the others' effects", Duration::from_secs(60), || async {
        let effects = rig.effects().await;
        (effects.len() >= expected.len()).then_some(effects)
    })
    .await;
    assert_eq!(effects, expected);
    assert!(rig.dead_letters().await.is_empty());
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn events_too_large_to_be_published_are_refused_before_the_commit() {
    let rig = Rig::start().await;
    let mut work = rig.producer.begin(&INGEST_INTAKE).await.unwrap();
    let mut large = invoice("in_1");
    large.invoice.as_mut().unwrap().bill_to_name = "x".repeat(300_000);
    let error = work.emit(SystemClock.now(), &large).unwrap_err();
    assert!(matches!(&error, Failure::Reject(reason) if reason.contains("too large")), "{error}");
}

#[tokio::test]
async fn undeclared_events_are_refused_where_they_are_emitted() {
    let rig = Rig::start().await;
    let mut work = rig.producer.begin(&INGEST_INTAKE).await.unwrap();
    let error = work.emit(SystemClock.now(), &v1::ReminderDue::default()).unwrap_err();
    assert_eq!(error.to_string(), "ingest-intake may not emit reminder-due");
    let error = work.emit(SystemClock.now(), &v1::InvoiceIssued::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot emit invoice-issued: merchant is empty");
}

#[tokio::test]
async fn retention_drops_what_is_confirmed_and_old_and_nothing_else() {
    let rig = Rig::start().await;
    let pool = sqlx::PgPool::connect(&rig.system.database.admin_url).await.unwrap();
    for (day, msg, pending) in [("20 days", 1_i128, false), ("20 days", 2, true), ("2 days", 3, false)] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "INSERT INTO ingest.outbox (created_at, msg_id, shard, subject, key, occurred_at, payload)
             VALUES (now() - interval '{day}', '{id}', 0, 's', 'k', now(), '');
             {pending}",
            id = uuid::Uuid::from_u128(msg as u128),
            pending = if pending {
                format!("INSERT INTO ingest.outbox_pending SELECT created_at, msg_id FROM ingest.outbox WHERE msg_id = '{}'", uuid::Uuid::from_u128(msg as u128))
            } else {
                String::new()
            },
        )))
        .execute(&pool)
        .await
        .unwrap();
    }
    bus::maintain::once(&rig.producer_pool()).await.unwrap();
    let left: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT msg_id FROM ingest.outbox ORDER BY msg_id").fetch_all(&pool).await.unwrap();
    assert_eq!(left, [2, 3].map(uuid::Uuid::from_u128), "never confirmed: kept; young: kept");

    sqlx::query(
        "INSERT INTO ingest.inbox VALUES ('c', $1, now() - interval '31 days'), ('c', $2, now() - interval '29 days')",
    )
    .bind(uuid::Uuid::from_u128(1))
    .bind(uuid::Uuid::from_u128(2))
    .execute(&pool)
    .await
    .unwrap();
    bus::maintain::once(&rig.producer_pool()).await.unwrap();
    let left: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT msg_id FROM ingest.inbox").fetch_all(&pool).await.unwrap();
    assert_eq!(left, [uuid::Uuid::from_u128(2)]);
}
