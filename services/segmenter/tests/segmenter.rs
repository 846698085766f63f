//! The segmenter on a real bus: whatever order news come in, and however many replicas take them, the same is known of
//! customers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use events::topology::INGEST_INTAKE;
use events::{AnyEvent, Invoice, Service, time, v1};
use jiff::tz::TimeZone;
use kernel::{Clock, ManualClock};
use payer::estimator::Payer;
use runtime::{Host, Merchants};
use segmenter::Config;
use segmenter::domain::{Settlement, Sighting};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

/// Monday noon in Berlin.
const NOW: &str = "2026-06-01T10:00:00Z";
const PATIENCE: Duration = Duration::from_secs(30);

/// A system with a merchant in Berlin, and segmenters.
struct Rig {
    system: TestSystem,
    clock: ManualClock,
    merchants: Merchants,
    producer: Host,
    pool: PgPool,
    emitted: i64,
    stop: CancellationToken,
    running: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Rig {
    /// Without segmenters yet.
    async fn start() -> Self {
        let services = [(Service::Ingest, &*NO_MIGRATIONS), (Service::Segmenter, &segmenter::MIGRATIONS)];
        let system = TestSystem::start(&services).await.unwrap();
        let mut merchants = Merchants::default();
        merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
        let clock = ManualClock::new(NOW.parse().unwrap());
        let producer = system.host(Service::Ingest, &merchants, Arc::new(clock.clone())).await.unwrap();
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let (emitted, stop, running) = (0, CancellationToken::new(), Vec::new());
        Self { system, clock, merchants, producer, pool, emitted, stop, running }
    }

    /// With one segmenter.
    async fn with_segmenter() -> Self {
        let mut rig = Self::start().await;
        rig.add(Config::default()).await;
        rig
    }

    async fn add(&mut self, config: Config) {
        let clock = Arc::new(self.clock.clone());
        let host = self.system.host(Service::Segmenter, &self.merchants, clock).await.unwrap();
        let service = segmenter::build(config, host).await.unwrap();
        self.running.push(tokio::spawn(service.run(self.stop.clone())));
    }

    /// Tells of invoices, in one batch.
    async fn tell(&mut self, invoices: &[v1::Invoice]) {
        let mut work = self.producer.bus.begin(&INGEST_INTAKE).await.unwrap();
        for invoice in invoices {
            work.emit(self.clock.now(), &v1::InvoiceChanged { invoice: Some(invoice.clone()) }).unwrap();
        }
        work.commit().await.unwrap();
        self.emitted += invoices.len() as i64;
    }

    /// Waits until all that was told is dealt with.
    async fn settle(&self) {
        wait::until_true("all news to be dealt with", PATIENCE, || async {
            self.count("SELECT count(*) FROM segmenter.inbox").await == self.emitted
        })
        .await;
        assert_eq!(self.count("SELECT count(*) FROM segmenter.dead_letter").await, 0);
    }

    async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Moves the clock, and waits for the review of the day that it is then.
    async fn review_on(&self, now: &str) {
        self.clock.set(now.parse().unwrap());
        let day = TimeZone::get("Europe/Berlin").unwrap().to_datetime(self.clock.now()).date().to_string();
        wait::until_true("the review", PATIENCE, || async {
            let done = "SELECT count(*) FROM segmenter.review WHERE after IS NULL AND day = $1::date";
            sqlx::query_scalar::<_, i64>(done).bind(&day).fetch_one(&self.pool).await.unwrap() == 1
        })
        .await;
    }

    /// Everything that does not depend on the order of news, a line each. Labels (bytes 113 to 120 of the state), what was
    /// told, and how often a row was written do: they follow from what was known when.
    async fn facts(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', 'invoice', merchant, invoice, version, customer, issued_on, due_on, paid_on, open,
                              settled, segment, fault) AS line FROM segmenter.invoice
             UNION ALL
             SELECT concat_ws(' ', 'payer', merchant, customer, encode(substr(state, 1, 112) || substr(state, 121), 'hex'),
                              get_byte(told, 0))
             FROM segmenter.payer WHERE substr(state, 121) <> decode(repeat('00', 8), 'hex')
             UNION ALL
             SELECT concat_ws(' ', 'week', merchant, pool, week, counts::text) FROM segmenter.portfolio_week
             WHERE 0 <> ANY(counts)
             ORDER BY line",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// What was told of customers, latest last.
    async fn told(&self) -> BTreeMap<String, Vec<v1::CustomerSegmented>> {
        let mut told: BTreeMap<String, Vec<v1::CustomerSegmented>> = BTreeMap::new();
        for event in self.system.emitted(Service::Segmenter).await.unwrap() {
            let AnyEvent::CustomerSegmented(event) = event else { continue };
            told.entry(event.customer_id.clone()).or_default().push(event);
        }
        told.values_mut().for_each(|events| events.sort_by_key(|e| e.version));
        told
    }

    async fn end(self) {
        self.stop.cancel();
        for running in self.running {
            running.await.unwrap().unwrap();
        }
    }
}

/// An invoice due on a Monday.
fn invoice(id: &str, customer: &str, version: i64, paid_at: Option<&str>) -> v1::Invoice {
    let status = if paid_at.is_some() { v1::InvoiceStatus::Paid } else { v1::InvoiceStatus::Open };
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: id.into(),
        customer_id: customer.into(),
        version,
        epoch: 1,
        status: status.into(),
        currency: "EUR".into(),
        total_minor: 100,
        open_minor: if paid_at.is_some() { 0 } else { 100 },
        issued_on: "2026-04-10".into(),
        due_on: "2026-05-11".into(),
        closed_at: paid_at.map(|at| time::to_wire(at.parse().unwrap())),
        ..Default::default()
    }
}

/// Paid so many days after its due date.
fn paid(id: &str, customer: &str, days: i64) -> v1::Invoice {
    let at = "2026-05-11T10:00:00Z".parse::<jiff::Timestamp>().unwrap() + jiff::SignedDuration::from_hours(24 * days);
    invoice(id, customer, 1, Some(&at.to_string()))
}

/// A number that is always the same for the same words.
fn dice(words: &[&str], sides: u64) -> u64 {
    kernel::id::stable_hash(words) % sides
}

/// Some customers over some months: paid early and late, in parts, taken back and paid again, with due dates that are moved
/// after the payment, given to another customer, and with dates that make no sense. All versions of each invoice.
fn some_months(customers: usize, each: usize) -> Vec<v1::Invoice> {
    let mut events = Vec::new();
    for (c, n) in (0..customers).flat_map(|c| (0..each).map(move |n| (c, n))) {
        let id = format!("in_{c}_{n}");
        let customer = format!("cus_{c:03}");
        let pick = |what: &str, sides: u64| dice(&[&id, what], sides) as i64;
        let issued = jiff::civil::date(2026, 1, 5) + jiff::SignedDuration::from_hours(24 * pick("issued", 90));
        let due = issued + jiff::SignedDuration::from_hours(24 * [0, 14, 30, 60][pick("terms", 4) as usize]);
        let at =
            |days: i64| format!("{}T{:02}:30:00Z", due + jiff::SignedDuration::from_hours(24 * days), pick("hour", 24));
        let mut open = invoice(&id, &customer, 1, None);
        (open.issued_on, open.due_on) = (issued.to_string(), due.to_string());
        let payment = |version: i64, days: i64| v1::Invoice {
            version,
            status: v1::InvoiceStatus::Paid.into(),
            open_minor: 0,
            closed_at: Some(time::to_wire(at(days).parse().unwrap())),
            ..open.clone()
        };
        let delay = pick("delay", 5) * pick("delay more", 8) - pick("early", 3);
        events.push(open.clone());
        events.push(v1::Invoice { version: 2, open_minor: 50, ..open.clone() });
        match pick("what", 8) {
            0 => {}
            1 => {
                events.push(payment(3, delay));
                events.push(v1::Invoice { version: 4, epoch: 2, ..open.clone() });
                if pick("again", 2) == 0 {
                    events.push(payment(5, delay + 40));
                }
            }
            2 => {
                let moved = (due + jiff::SignedDuration::from_hours(24 * 9)).to_string();
                events.push(payment(3, delay));
                events.push(v1::Invoice { due_on: moved, ..payment(4, delay) });
            }
            3 => {
                events.push(payment(3, delay));
                events
                    .push(v1::Invoice { customer_id: format!("cus_{:03}", (c + 1) % customers), ..payment(4, delay) });
            }
            4 if pick("bad", 2) == 0 => events.push(payment(3, -200)),
            _ => events.push(payment(3, delay)),
        }
    }
    events
}

/// The same events several times, in an order that depends on the seed.
fn shuffled(events: &[v1::Invoice], seed: &str, times: usize) -> Vec<v1::Invoice> {
    let copy = |n: usize| events.iter().map(move |e| (n.to_string(), e.clone()));
    let mut all: Vec<_> = (0..times).flat_map(copy).collect();
    all.sort_by_key(|(n, e)| dice(&[seed, n, &e.invoice_id, &e.version.to_string()], u64::MAX));
    all.into_iter().map(|(_, e)| e).collect()
}

/// The counts of each customer, made from the last version of each invoice by what the crate `payer` says of a history.
fn expected(events: &[v1::Invoice]) -> BTreeMap<String, (u32, u32, Vec<f32>)> {
    let mut last: BTreeMap<&str, &v1::Invoice> = BTreeMap::new();
    for event in events {
        let known = last.entry(&event.invoice_id).or_insert(event);
        if event.version > known.version {
            *known = event;
        }
    }
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let mut settlements: BTreeMap<String, Vec<Settlement>> = BTreeMap::new();
    for wire in last.values() {
        let sighting = Sighting::of(Invoice::try_from(*wire).unwrap(), &zone);
        settlements.entry(wire.customer_id.clone()).or_default().extend(sighting.settlement());
    }
    let fold = |mut of: Vec<Settlement>| {
        of.sort();
        let payer = Payer::replay(of.iter().map(|s| s.delay_days));
        (payer.settled(), payer.late(), payer.counts().to_vec())
    };
    settlements.into_iter().filter(|(_, of)| !of.is_empty()).map(|(customer, of)| (customer, fold(of))).collect()
}

/// The counts that are stored.
async fn stored(pool: &PgPool) -> BTreeMap<String, (u32, u32, Vec<f32>)> {
    let rows: Vec<(String, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT customer, state, told FROM segmenter.payer").fetch_all(pool).await.unwrap();
    let read = |(customer, state, told): (String, Vec<u8>, Vec<u8>)| {
        let payer = segmenter::domain::Account::read(&state, &told).payer;
        (customer, (payer.settled(), payer.late(), payer.counts().to_vec()))
    };
    rows.into_iter().map(read).filter(|(_, counts)| counts.0 > 0).collect()
}

#[tokio::test]
async fn the_order_of_news_does_not_matter() {
    let events = some_months(20, 12);
    let mut facts = Vec::new();
    for (seed, times, batch) in [("", 1, 1_000), ("one", 3, 50), ("two", 3, 400)] {
        let mut rig = Rig::with_segmenter().await;
        let order = if seed.is_empty() { events.clone() } else { shuffled(&events, seed, times) };
        for part in order.chunks(batch) {
            rig.tell(part).await;
            rig.settle().await;
        }
        assert_eq!(stored(&rig.pool).await, expected(&events), "order {seed:?}");
        facts.push(rig.facts().await);
        rig.end().await;
    }
    assert!(facts[0].len() > 280, "{} facts", facts[0].len());
    for other in &facts[1..] {
        let new: Vec<_> = other.iter().filter(|line| !facts[0].contains(line)).collect();
        let lost: Vec<_> = facts[0].iter().filter(|line| !other.contains(line)).collect();
        assert!(new.is_empty() && lost.is_empty(), "new {new:#?}, lost {lost:#?}");
    }
}

#[tokio::test]
async fn two_replicas_count_as_one() {
    let events = some_months(5, 60);
    let mut rig = Rig::start().await;
    // Both are there before the first news, which the broker shares out between them: they meet at the same few customers.
    for cache_customers in [1_000, 1_000] {
        rig.add(Config { cache_customers }).await;
    }
    for part in shuffled(&events, "replicas", 2).chunks(20) {
        rig.tell(part).await;
    }
    rig.settle().await;
    assert_eq!(stored(&rig.pool).await, expected(&events));
    let facts = rig.facts().await;
    assert!(
        facts.iter().any(|line| line.starts_with("week acme ")),
        "the portfolio's weeks are among what is compared"
    );
    rig.end().await;
    let mut alone = Rig::with_segmenter().await;
    alone.tell(&events).await;
    alone.settle().await;
    assert_eq!(facts, alone.facts().await);
    alone.end().await;
}

#[tokio::test]
async fn a_small_cache_holds_no_other_truth() {
    let events = some_months(100, 4);
    let mut facts = Vec::new();
    for cache_customers in [10, 1_000_000] {
        let mut rig = Rig::start().await;
        rig.add(Config { cache_customers }).await;
        for part in shuffled(&events, "cache", 1).chunks(60) {
            rig.tell(part).await;
            rig.settle().await;
        }
        facts.push(rig.facts().await);
        rig.end().await;
    }
    assert_eq!(facts[0], facts[1]);
}

#[test]
fn a_cache_is_bounded() {
    let cache = segmenter::cache::Accounts::new(10);
    let key = |n: i32| ("acme".parse().unwrap(), format!("cus_{n}").parse().unwrap());
    for n in 0..100 {
        cache.put(&key(n), segmenter::domain::Account::default(), i64::from(n));
    }
    assert!(cache.len() <= 10, "{}", cache.len());
    let kept: Vec<i64> = (0..100).filter_map(|n| Some(cache.get(&key(n))?.1)).collect();
    assert_eq!(kept.len(), cache.len());
}

#[tokio::test]
async fn payments_make_labels_and_what_has_not_moved_is_not_told() {
    let mut rig = Rig::with_segmenter().await;
    // What others do: a third is late, by two days.
    let others: Vec<_> =
        (0..210).map(|n| paid(&format!("o{n}"), &format!("other_{n}"), if n % 3 == 0 { 2 } else { -1 })).collect();
    rig.tell(&others).await;
    rig.settle().await;
    assert_eq!(rig.told().await, BTreeMap::new(), "of one payment each nothing is known");
    for n in 0..12 {
        rig.tell(&[paid(&format!("p{n}"), "prompt", -1), paid(&format!("l{n}"), "late", 3)]).await;
        rig.settle().await;
    }
    let told = rig.told().await;
    let last = |customer: &str| told[customer].last().unwrap().clone();
    assert_eq!(last("prompt").segment(), v1::Segment::Prompt);
    // Later than expected, as long as the portfolio is what is expected; then as late as ever.
    assert!([v1::Segment::UsuallyLate, v1::Segment::AtRisk].contains(&last("late").segment()), "{:?}", last("late"));
    let (settled, late) = (last("late").settled, last("late").settled_late);
    assert!(settled >= 8 && settled == late, "{settled}, {late}: the last ones need not be news");
    let outlook = last("late").outlook.unwrap();
    assert!(outlook.late > 0.6 && outlook.late > outlook.late_pooled, "{outlook:?}");
    assert!((outlook.delay.iter().sum::<f32>() - 1.0).abs() < 1e-4 && outlook.pooled.len() == 24);
    assert!((-1..=3).contains(&outlook.p50_days) && outlook.p10_days <= outlook.p90_days, "{outlook:?}");
    assert!(last("prompt").reason.starts_with("late with a chance of "), "{}", last("prompt").reason);
    // The third payment is the first of which more than nothing is known; from then on not every one is news.
    assert_eq!(told["prompt"][0].settled, 3);
    assert!(told["prompt"].len() < 8, "{}", told["prompt"].len());
    let reasons: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT before, label, reason FROM segmenter.label_change WHERE customer = 'prompt' ORDER BY revision",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    // One becomes the other, and the last one is what was told.
    assert!(reasons.windows(2).all(|pair| pair[0].1 == pair[1].0), "{reasons:?}");
    let (first, last) = (reasons.first().unwrap(), reasons.last().unwrap());
    assert_eq!((first.0.as_str(), last.1.as_str()), ("new", "prompt"));
    assert!(last.2.contains(", below "), "{reasons:?}");
    rig.end().await;
}

#[tokio::test]
async fn the_day_is_that_of_the_merchant() {
    let mut rig = Rig::with_segmenter().await;
    // Half past ten in the evening of the due date, UTC: in Berlin it is the next day. On Saturday nobody can pay: Monday is
    // soon enough.
    let mut saturday = invoice("b", "bob", 1, Some("2026-05-18T10:00:00Z"));
    saturday.due_on = "2026-05-16".into();
    rig.tell(&[invoice("a", "ada", 1, Some("2026-05-11T22:30:00Z")), saturday]).await;
    rig.settle().await;
    let late: Vec<(String, u32)> = stored(&rig.pool).await.into_iter().map(|(c, (_, late, _))| (c, late)).collect();
    assert_eq!(late, [("ada".to_owned(), 1), ("bob".to_owned(), 0)]);
    rig.end().await;
}

#[tokio::test]
async fn a_payment_taken_back_leaves_no_trace() {
    let mut rig = Rig::with_segmenter().await;
    rig.tell(&[paid("a1", "ada", 0), paid("a2", "ada", 5)]).await;
    rig.settle().await;
    let before = rig.facts().await;
    rig.tell(&[paid("a3", "ada", 2), invoice("a4", "ada", 1, None)]).await;
    rig.settle().await;
    rig.tell(&[v1::Invoice { version: 2, ..invoice("a3", "ada", 2, None) }]).await;
    rig.settle().await;
    let lines = |facts: Vec<String>| facts.into_iter().filter(|f| !f.starts_with("invoice ")).collect::<Vec<_>>();
    assert_eq!(lines(rig.facts().await), lines(before));
    rig.end().await;
}

#[tokio::test]
async fn dates_that_make_no_sense_are_kept_and_do_not_count() {
    let mut rig = Rig::with_segmenter().await;
    let before_issue = invoice("a1", "ada", 1, Some("2026-04-09T10:00:00Z"));
    let absurd = v1::Invoice { due_on: "2062-05-11".into(), ..invoice("a2", "ada", 1, Some("2026-05-11T10:00:00Z")) };
    let long_ago = v1::Invoice { issued_on: "1970-01-01".into(), ..invoice("a3", "ada", 1, None) };
    rig.tell(&[before_issue, absurd, long_ago, paid("a4", "ada", 0)]).await;
    rig.settle().await;
    assert_eq!(stored(&rig.pool).await["ada"].0, 1);
    assert_eq!(rig.count("SELECT count(*) FROM segmenter.invoice WHERE fault = 'absurd_date'").await, 2);
    assert_eq!(rig.count("SELECT count(*) FROM segmenter.invoice WHERE fault = 'paid_before_issue'").await, 1);
    // Corrected, it counts.
    rig.tell(&[invoice("a1", "ada", 2, Some("2026-05-12T10:00:00Z"))]).await;
    rig.settle().await;
    assert_eq!(stored(&rig.pool).await["ada"].0, 2);
    rig.end().await;
}

/// The label that was told before the last one.
fn last_label_before(told: &[v1::CustomerSegmented]) -> &'static str {
    let last = told.last().unwrap().segment();
    let before = told.iter().rev().map(v1::CustomerSegmented::segment).find(|segment| *segment != last);
    events::snapshot::segment(before.unwrap()).unwrap().as_str()
}

#[tokio::test]
async fn who_does_not_pay_becomes_at_risk_as_days_pass() {
    let mut rig = Rig::with_segmenter().await;
    let mut history: Vec<_> = (0..8).map(|n| paid(&format!("a{n}"), "ada", -2)).collect();
    history.extend((0..8).map(|n| paid(&format!("b{n}"), "bob", -2)));
    rig.tell(&history).await;
    rig.settle().await;
    // Due on the 1st of June, which is today.
    rig.tell(&[v1::Invoice { due_on: "2026-06-01".into(), ..invoice("a_open", "ada", 1, None) }]).await;
    rig.settle().await;
    for day in 2..=5 {
        rig.review_on(&format!("2026-06-{day:02}T10:00:00Z")).await;
    }
    assert!(rig.told().await.get("ada").is_none_or(|told| told.iter().all(|e| e.segment() != v1::Segment::AtRisk)));
    // Four days are one look, five the second that agrees.
    rig.review_on("2026-06-06T10:00:00Z").await;
    let told = rig.told().await;
    let last = told["ada"].last().unwrap();
    assert_eq!(last.segment(), v1::Segment::AtRisk);
    assert_eq!(last.reason, "an open invoice is overdue for 5 days, and up to 3 are usual");
    assert!(told.get("bob").is_none_or(|told| told.iter().all(|e| e.segment() != v1::Segment::AtRisk)));
    let mut tx = rig.pool.acquire().await.unwrap();
    let key = ("acme".parse().unwrap(), "ada".parse().unwrap());
    let ada = segmenter::show::show(&mut tx, &key, jiff::civil::date(2026, 6, 6), 5).await.unwrap().unwrap();
    assert_eq!((ada.label.as_str(), &ada.reason), ("at_risk", &last.reason));
    assert_eq!(ada.open.iter().map(|open| open.overdue_days).collect::<Vec<_>>(), [5]);
    assert_eq!(
        (ada.known.invoices.len(), ada.known.invoices[5].invoice.as_str()),
        (6, "a_open"),
        "five settled, one open"
    );
    let (_, label, before, reason) = &ada.known.changes[0];
    assert_eq!((label.as_str(), before.as_str()), ("at_risk", last_label_before(&told["ada"])));
    assert_eq!(reason, &last.reason);
    let nobody = ("acme".parse().unwrap(), "nobody".parse().unwrap());
    assert!(segmenter::show::show(&mut tx, &nobody, jiff::civil::date(2026, 6, 6), 5).await.unwrap().is_none());
    drop(tx);
    rig.end().await;
}

#[tokio::test]
async fn a_new_week_measures_everybody_anew() {
    let mut rig = Rig::with_segmenter().await;
    let by = |customer: &str, n: usize, days: i64| {
        (0..n).map(|k| paid(&format!("{customer}_{k}"), customer, days)).collect::<Vec<_>>()
    };
    // Nearly all are prompt: who was ever late is not.
    rig.tell(&(0..30).flat_map(|c| by(&format!("prompt_{c:02}"), 10, -2)).collect::<Vec<_>>()).await;
    rig.settle().await;
    let mixed: Vec<_> = (0..12).map(|k| paid(&format!("m_{k}"), "mixed", if k == 3 { 2 } else { -2 })).collect();
    rig.tell(&mixed).await;
    rig.settle().await;
    for week in ["2026-06-08T10:00:00Z", "2026-06-15T10:00:00Z"] {
        rig.review_on(week).await;
    }
    let label = |told: &BTreeMap<String, Vec<v1::CustomerSegmented>>| told["mixed"].last().unwrap().segment();
    assert_eq!(label(&rig.told().await), v1::Segment::Mixed);
    // A week in which everybody else pays late; it counts from the next week on.
    let late: Vec<_> = (0..3_000)
        .map(|c| v1::Invoice {
            closed_at: Some(time::to_wire("2026-06-16T10:00:00Z".parse().unwrap())),
            due_on: "2026-06-10".into(),
            ..paid(&format!("late_{c}"), &format!("late_{c}"), 0)
        })
        .collect();
    for part in late.chunks(500) {
        rig.tell(part).await;
    }
    rig.settle().await;
    assert_eq!(label(&rig.told().await), v1::Segment::Mixed, "not before Monday");
    for week in ["2026-06-22T10:00:00Z", "2026-06-29T10:00:00Z"] {
        rig.review_on(week).await;
    }
    let told = rig.told().await;
    assert_eq!(label(&told), v1::Segment::Prompt);
    let last = told["mixed"].last().unwrap();
    assert!(last.reason.contains("below"), "{}", last.reason);
    // Who has not paid since, and is the same by the same measure, is told with the new portfolio all the same: advice rests on it.
    let pooled = |told: &v1::CustomerSegmented| told.outlook.as_ref().unwrap().late_pooled;
    let prompt = &told["prompt_07"];
    assert!(pooled(&prompt[0]) < 0.05 && pooled(prompt.last().unwrap()) > 0.5, "{prompt:?}");
    assert!(prompt.len() < 6, "{}", prompt.len());
    rig.end().await;
}

#[tokio::test]
async fn a_review_goes_on_where_it_was() {
    let mut rig = Rig::start().await;
    rig.add(Config::default()).await;
    let history: Vec<_> =
        (0..20).flat_map(|c| (0..4).map(move |n| paid(&format!("{c}_{n}"), &format!("cus_{c:02}"), -2))).collect();
    rig.tell(&history).await;
    rig.settle().await;
    rig.review_on("2026-06-02T10:00:00Z").await;
    // As another replica left it when it died: it has come to the tenth customer, whose accounts were not yet looked at again.
    let read = "SELECT customer, revision FROM segmenter.payer ORDER BY customer";
    let before: Vec<(String, i64)> = sqlx::query_as(read).fetch_all(&rig.pool).await.unwrap();
    let left =
        "UPDATE segmenter.review SET everybody = true, after = 'cus_09', day = '2026-06-08', week = '2026-06-08'";
    let spoil = "UPDATE segmenter.payer SET told = substr(told, 1, 1), revision = revision + 1";
    for statement in [spoil, left] {
        sqlx::raw_sql(statement).execute(&rig.pool).await.unwrap();
    }
    rig.review_on("2026-06-09T10:00:00Z").await;
    let after: Vec<(String, i64)> = sqlx::query_as(read).fetch_all(&rig.pool).await.unwrap();
    // Told anew: one more revision than the spoilt one.
    let told_anew: Vec<&str> =
        before.iter().zip(&after).filter(|(b, a)| a.1 > b.1 + 1).map(|(b, _)| b.0.as_str()).collect();
    assert_eq!(told_anew, (10..20).map(|c| format!("cus_{c}")).collect::<Vec<_>>());
    rig.end().await;
}

#[tokio::test]
async fn weeks_older_than_two_years_are_not_read_and_deleted() {
    let mut rig = Rig::start().await;
    let old = "INSERT INTO segmenter.portfolio_week
               SELECT 'acme', 5, day::date, array_fill(100, ARRAY[24])
               FROM generate_series(date '2024-05-06', date '2024-06-10', interval '7 days') AS day";
    sqlx::raw_sql(old).execute(&rig.pool).await.unwrap();
    // In the week of the 1st of June 2026, the 3rd of June 2024 is the first that counts.
    let mut tx = rig.pool.acquire().await.unwrap();
    let on = |day: &str| BTreeMap::from([("acme".parse().unwrap(), day.parse().unwrap())]);
    let weeks = segmenter::store::weeks(&mut tx, &on("2026-06-01")).await.unwrap();
    let begin: Vec<String> = weeks.values().flatten().map(|week| week.begins_on.to_string()).collect();
    assert_eq!(begin, ["2024-06-03", "2024-06-10"]);
    rig.add(Config::default()).await;
    let left = "SELECT count(*) FROM segmenter.portfolio_week";
    wait::until_true("old weeks to be deleted", PATIENCE, || async { rig.count(left).await < 6 }).await;
    // Another zone may be a week behind: two weeks more are kept.
    assert_eq!(rig.count("SELECT count(*) FROM segmenter.portfolio_week WHERE week >= '2024-05-20'").await, 4);
    assert_eq!(rig.count(left).await, 4);
    rig.end().await;
}
