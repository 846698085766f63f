//! The segmenter on a real bus: whatever order payments come in, the same segments are told.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use events::topology::INGEST_INTAKE;
use events::{AnyEvent, Service, time, v1};
use kernel::{Clock, SharedClock, SystemClock};
use runtime::Merchants;
use sqlx::migrate::Migrator;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;

static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

fn invoice(id: &str, customer: &str, version: i64, paid_at: Option<&str>) -> v1::InvoiceChanged {
    let status = if paid_at.is_some() { v1::InvoiceStatus::Paid } else { v1::InvoiceStatus::Open };
    v1::InvoiceChanged {
        invoice: Some(v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: id.into(),
            customer_id: customer.into(),
            version,
            epoch: 1,
            status: status.into(),
            currency: "EUR".into(),
            total_minor: 100,
            open_minor: if paid_at.is_some() { 0 } else { 100 },
            issued_on: "2026-05-01".into(),
            due_on: "2026-06-01".into(),
            closed_at: paid_at.map(|at| time::to_wire(at.parse().unwrap())),
            ..Default::default()
        }),
    }
}

/// Runs events through a segmenter; gives the last segment told of each customer.
async fn segments_after(
    batches: Vec<Vec<v1::InvoiceChanged>>,
    expected_events: usize,
) -> Vec<(String, v1::Segment, i32)> {
    let services = [(Service::Ingest, &*NO_MIGRATIONS), (Service::Segmenter, &segmenter::MIGRATIONS)];
    let system = TestSystem::start(&services).await.unwrap();
    let mut merchants = Merchants::default();
    merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
    let clock: SharedClock = Arc::new(SystemClock);
    let producer = system.host(Service::Ingest, &merchants, clock.clone()).await.unwrap();
    let host = system.host(Service::Segmenter, &merchants, clock).await.unwrap();
    let pool = host.pool.clone();
    let stop = CancellationToken::new();
    let service = segmenter::build(segmenter::Config::default(), host).await.unwrap();
    let running = tokio::spawn(service.run(stop.clone()));
    let mut total = 0;
    for batch in batches {
        total += batch.len() as i64;
        let mut work = producer.bus.begin(&INGEST_INTAKE).await.unwrap();
        for event in &batch {
            work.emit(SystemClock.now(), event).unwrap();
        }
        work.commit().await.unwrap();
        wait::until_true("the batch to be dealt with", Duration::from_secs(20), || async {
            let done: i64 = sqlx::query_scalar("SELECT count(*) FROM segmenter.inbox").fetch_one(&pool).await.unwrap();
            done == total
        })
        .await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    let events = system.emitted(Service::Segmenter).await.unwrap();
    assert_eq!(events.len(), expected_events, "only changes are told: {events:?}");
    let mut last = std::collections::BTreeMap::new();
    for event in events {
        let AnyEvent::CustomerSegmented(e) = event else { continue };
        let known = last.entry(e.customer_id.clone()).or_insert((0, v1::Segment::Unspecified, 0));
        if e.version > known.0 {
            *known = (e.version, e.segment(), e.settled_late);
        }
    }
    last.into_iter().map(|(customer, (_, segment, late))| (customer, segment, late)).collect()
}

#[tokio::test]
async fn payments_make_segments_in_any_order() {
    let on_time = Some("2026-05-20T10:00:00Z");
    // Half past ten in the evening of the due date, UTC: in Berlin it is the next day.
    let late = Some("2026-06-01T22:30:00Z");
    let events = vec![
        invoice("a1", "ada", 1, None),
        invoice("a1", "ada", 2, late),
        invoice("a2", "ada", 1, late),
        invoice("b1", "bob", 1, on_time),
        invoice("b2", "bob", 1, None),
        invoice("b2", "bob", 3, on_time),
        invoice("c1", "cyd", 1, on_time),
    ];
    let expected = vec![("ada".to_owned(), v1::Segment::UsuallyLate, 2), ("bob".to_owned(), v1::Segment::Prompt, 0)];
    assert_eq!(segments_after(vec![events.clone()], 2).await, expected);
    let mut shuffled = events.clone();
    shuffled.reverse();
    shuffled.extend(events);
    assert_eq!(segments_after(shuffled.into_iter().map(|e| vec![e]).collect(), 2).await, expected);
}

#[tokio::test]
async fn a_payment_taken_back_is_taken_out_of_the_history() {
    let on_time = Some("2026-05-20T10:00:00Z");
    let events = vec![
        vec![invoice("a1", "ada", 1, on_time), invoice("a2", "ada", 1, on_time)],
        vec![invoice("a2", "ada", 2, None)],
    ];
    assert_eq!(segments_after(events, 2).await, [("ada".to_owned(), v1::Segment::New, 0)]);
}
