//! Everything dies under load: services, broker, database. Afterwards an auditor that reads the driver's log, the database
//! and the caught mail finds nothing lost, nothing doubled, nothing sent after a recorded payment.
//!
//! The short form runs with all tests; `make soak` runs the long one. `FAULT_SEED` repeats a run's faults (the machine's
//! timing it cannot repeat).

use anyhow::Context;
use e2e::book;
use e2e::processes::Processes;
use events::Service;
use jiff::{SignedDuration, Timestamp, ToSpan};
use kernel::{Clock, SystemClock, TimeLapse};
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::SmtpServer;
use testkit::audit::Audit;
use testkit::driver::{Driver, Scope};
use testkit::smtp::{Phase, Reaction};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How much happens.
#[derive(Debug)]
struct Plan {
    seed: String,
    /// Of load.
    real_seconds: f64,
    /// Of business time.
    days: f64,
    customers: usize,
    invoices: usize,
    kills_per_service: usize,
    server_kills: usize,
    outage: Duration,
}

impl Plan {
    fn from_environment() -> anyhow::Result<Self> {
        let now = SystemClock.now().as_millisecond().to_string();
        let seed = std::env::var("FAULT_SEED").unwrap_or(now);
        let Ok(soak) = std::env::var("SOAK_SECONDS") else {
            return Ok(Self {
                seed,
                real_seconds: 80.0,
                days: 45.0,
                customers: 120,
                invoices: 600,
                kills_per_service: 20,
                server_kills: 2,
                outage: Duration::from_secs(5),
            });
        };
        let real_seconds: f64 = soak.parse().context("SOAK_SECONDS")?;
        anyhow::ensure!(real_seconds >= 120.0, "SOAK_SECONDS must be at least 120");
        Ok(Self {
            seed,
            real_seconds,
            days: real_seconds / 2.0,
            customers: 400,
            invoices: (real_seconds * 20.0) as usize,
            kills_per_service: (real_seconds / 6.0) as usize,
            server_kills: (real_seconds / 60.0) as usize,
            outage: Duration::from_secs(60),
        })
    }

    fn chance(&self, what: &str) -> f64 {
        (kernel::id::stable_hash(&["fault", &self.seed, what]) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// What dies when, in order. Service kills over the whole time; servers in turn, the last time of the broker long.
    fn faults(&self) -> Vec<(Duration, Fault)> {
        let at = |from: f64, to: f64, what: &str| {
            Duration::from_secs_f64(self.real_seconds * (from + (to - from) * self.chance(what)))
        };
        let mut faults = Vec::new();
        for service in Service::ALL {
            let kill = |n| (at(0.03, 0.95, &format!("{service} {n}")), Fault::Kill(service));
            faults.extend((0..self.kills_per_service).map(kill));
        }
        for n in 0..self.server_kills {
            let down = |what| Duration::from_secs_f64(0.1 + self.chance(&format!("{what} down {n}")));
            faults.push((at(0.05, 0.9, &format!("nats {n}")), Fault::Nats(down("nats"))));
            faults.push((at(0.05, 0.9, &format!("postgres {n}")), Fault::Postgres(down("postgres"))));
        }
        faults.push((at(0.3, 0.5, "outage"), Fault::Nats(self.outage)));
        faults.sort_by_key(|(at, _)| *at);
        faults
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill(Service),
    /// Killed, and down for so long.
    Nats(Duration),
    Postgres(Duration),
}

async fn cause(faults: Vec<(Duration, Fault)>, system: &mut Processes) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut ended = 0;
    for (at, fault) in faults {
        tokio::time::sleep_until(begun + at).await;
        ended += system.restart_ended()?;
        match fault {
            Fault::Kill(service) => system.restart(service)?,
            Fault::Nats(down) => {
                system.nats.kill()?;
                tokio::time::sleep(down).await;
                system.nats.launch().await?;
            }
            Fault::Postgres(down) => {
                system.postgres.kill()?;
                tokio::time::sleep(down).await;
                system.postgres.launch().await?;
            }
        }
    }
    ended += system.restart_ended()?;
    println!("{ended} services ended by themselves and were started again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_dies_nothing_is_lost_doubled_or_sent_after_the_payment() -> anyhow::Result<()> {
    let plan = Plan::from_environment()?;
    println!("{plan:?}");
    // It stays if the test fails.
    let directory = e2e::processes::new_directory()?;
    let start: Timestamp = "2026-03-02T00:00:00Z".parse()?;
    let scope = Scope { customers: plan.customers, invoices: plan.invoices, start, days: plan.days };
    let lapse = TimeLapse {
        start,
        real_start: SystemClock.now() + SignedDuration::from_secs(6),
        rate: plan.days * 86_400.0 / plan.real_seconds,
        until: Some(scope.end()),
    };
    let mut system = Processes::start(&directory, lapse).await?;
    let catcher = system.catcher.clone();
    be_slow_now_and_then(&catcher);
    let merchants: Vec<_> = system.configuration.merchants.iter().cloned().collect();
    let ingest = format!("http://{}", system.configuration.settings.ingest.http_listen);
    let mut driver = Driver::new(merchants, scope, Arc::new(lapse), &ingest, Duration::from_secs(180))?;
    let never = CancellationToken::new();
    let (lived, caused) =
        tokio::join!(driver.live(catcher.arrivals(), &never, |_, _| {}), cause(plan.faults(), &mut system));
    lived?;
    caused?;

    let pool = system.pool().await?;
    wait_for_the_end(&pool, &lapse).await?;
    let mut findings = lost(&pool, &driver, scope).await?;
    let recorded = Audit::of(&catcher.mails(), &book::recorded_payments(&pool).await?);
    findings.extend(recorded.after_payment.iter().map(|f| format!("after a recorded payment: {f}")));
    findings.extend(recorded.duplicates.iter().map(|f| format!("doubled: {f}")));
    findings.extend(unaccounted(&pool, &catcher.mails()).await?);
    let confirmed = Audit::of(&catcher.mails(), &driver.payments);
    println!(
        "{} events confirmed, {} mails about {} invoices; {} more than a second after the 2xx of a payment that the \
         notifier had not recorded yet",
        driver.confirmed.len(),
        confirmed.mails,
        confirmed.lines,
        confirmed.after_payment.len()
    );
    assert!(confirmed.mails > plan.invoices / 6, "too little happened to prove anything");
    assert!(findings.is_empty(), "logs are in {}:\n{findings:#?}", directory.display());
    system.stop()?;
    drop(system);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// Every fifth mail waits long between its rendering and its final dot: payments fall into the gap, and only the last look
/// can see them.
fn be_slow_now_and_then(catcher: &SmtpServer) {
    let mails = AtomicU64::new(0);
    catcher.script(move |phase, _| match phase {
        Phase::Data if mails.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) => {
            Reaction::Delay(Duration::from_millis(2_500))
        }
        _ => Reaction::Proceed,
    });
}

/// The backlog has to reach nothing once the faults have stopped.
async fn wait_for_the_end(pool: &PgPool, clock: &dyn Clock) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let open = book::open_work(pool, clock.now()).await?;
        if open.is_empty() {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "still to do: {open:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What was confirmed or planned, and is not where it should be.
async fn lost(pool: &PgPool, driver: &Driver, scope: Scope) -> anyhow::Result<Vec<String>> {
    let mut findings = book::leftovers(pool).await?;
    let taken = book::taken_in(pool).await?;
    let unique: BTreeSet<&String> = taken.iter().collect();
    if unique.len() != taken.len() {
        findings.push(format!("{} messages were taken in twice", taken.len() - unique.len()));
    }
    let confirmed = driver.confirmed.iter().filter(|id| !unique.contains(id));
    findings.extend(confirmed.map(|id| format!("confirmed and lost: {id}")));
    findings.extend(book::unanswered_steps(pool).await?.into_iter().map(|s| format!("never answered: {s}")));
    let long_due = scope.end().to_zoned(jiff::tz::TimeZone::UTC).date() - 14.days();
    findings.extend(book::forgotten_cases(pool, long_due).await?.into_iter().map(|c| format!("forgotten: {c}")));

    let disputed = |id: &str| testkit::world::chance(id, "dispute") < testkit::world::DISPUTES;
    let expected: BTreeMap<&str, &str> = driver
        .world
        .bills
        .iter()
        .map(|bill| (bill.invoice.id.as_str(), bill.invoice.status))
        .filter(|(id, status)| *status != "draft" && !disputed(id))
        .collect();
    let mut seen = 0;
    for (invoice, service, status) in book::statuses(pool).await? {
        let Some(should) = expected.get(invoice.as_str()) else { continue };
        seen += 1;
        if status != *should {
            findings.push(format!("{invoice} is {status} in {service}, and should be {should}"));
        }
    }
    if seen != 3 * expected.len() {
        findings.push(format!("{} invoices are known {seen} times, not by three services each", expected.len()));
    }
    Ok(findings)
}

/// Steps whose end does not fit the caught mail: sent without a mail, or a mail without a step that was sent.
async fn unaccounted(pool: &PgPool, mails: &[Arc<testkit::smtp::Mail>]) -> anyhow::Result<Vec<String>> {
    let arrived: BTreeSet<String> =
        mails.iter().flat_map(|m| m.lines()).map(|l| format!("{}/{}/{}", l.invoice, l.epoch, l.step)).collect();
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    let mut unknown = 0;
    for (step, outcome, delivery) in book::decided_steps(pool).await? {
        let has_mail = arrived.contains(&step);
        match (outcome.as_str(), delivery.as_deref()) {
            ("unknown", _) | (_, Some("unknown")) => unknown += 1,
            ("sent", _) if !has_mail => findings.push(format!("sent, but no mail arrived: {step}")),
            ("cancelled" | "failed" | "skipped", _) if has_mail => {
                findings.push(format!("{outcome}, but a mail arrived: {step}"));
            }
            _ => {}
        }
        known.insert(step);
    }
    findings.extend(arrived.difference(&known).map(|step| format!("a mail without a decision: {step}")));
    println!("{unknown} steps are unknown: their sender died at the final dot");
    Ok(findings)
}
