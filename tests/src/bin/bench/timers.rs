//! How fast due timers are claimed: planned, decided, and their reminders committed; with few and with many armed.

use crate::report::Figure;
use crate::{RUNS, median};
use anyhow::ensure;
use bus::Bus;
use e2e::processes::Processes;
use e2e::system::at;
use events::Service;
use events::topology::SCHEDULER_TIMERS;
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, ManualClock};
use runtime::Host;
use runtime::health::Health;
use scheduler::flow::fire;
use scheduler::rules::Rules;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Due in each run.
const DUE: i64 = 10_000;
/// Monday, eleven o'clock in Berlin.
const NOW: &str = "2026-06-01T09:00:00Z";

/// `timers`: claims per second with a million armed, beside the rate with ten thousand.
pub(crate) async fn claims() -> anyhow::Result<Figure> {
    let few = rate(DUE).await?;
    let many = rate(1_000_000).await?;
    println!("timers: {few:.0} claims/s with 10,000 armed, {many:.0} with 1,000,000: ratio {:.2}", few / many);
    let figure = Figure::new("timers", many, "claims/s", Some(few), "the same with 10,000 armed (ratio: few to many)");
    Ok(Figure { ratio: Some(few / many), ..figure })
}

/// Claims per second while `armed` timers are armed, of which [`DUE`] are due.
async fn rate(armed: i64) -> anyhow::Result<f64> {
    let directory = e2e::processes::new_directory()?;
    let servers = Processes::servers(&directory, None).await?;
    let pool = servers.pool().await?;
    let clock = ManualClock::new(at(NOW));
    let (host, rules) = scheduler(&servers, &clock).await?;
    arm_later(&pool, &rules.1, armed - DUE).await?;
    let mut rates = Vec::new();
    for run in 0..RUNS as i64 {
        let now = clock.now() + SignedDuration::from_mins(1);
        clock.set(now);
        arm_due(&pool, &rules.1, run, now).await?;
        for statement in ["VACUUM ANALYZE scheduler.timer", "VACUUM ANALYZE scheduler.dunning_case", "CHECKPOINT"] {
            sqlx::raw_sql(statement).execute(&pool).await?;
        }
        rates.push(claim_all(&host.bus, &rules.0, now).await?);
    }
    host.bus.leave().await;
    drop((host, rules, servers));
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::remove_dir_all(&directory)?;
    Ok(median(&rates))
}

async fn scheduler(servers: &Processes, clock: &ManualClock) -> anyhow::Result<(Host, (Rules, String))> {
    let configuration = &servers.configuration;
    let health = Health::new(prometheus::Registry::new());
    let host = Host::connect(
        Service::Scheduler,
        &scheduler::MIGRATIONS,
        &configuration.settings.common(),
        configuration.merchants.clone(),
        Arc::new(clock.clone()),
        &health,
    )
    .await?;
    let rules = Rules::load(host.clone(), &configuration.rules.campaigns, Default::default()).await?;
    let version = configuration.rules.campaigns["default"].0.version.clone();
    Ok((host, (rules, version)))
}

/// Fires until nothing is due.
async fn claim_all(bus: &Bus, rules: &Rules, now: Timestamp) -> anyhow::Result<f64> {
    let (mut fired, begun) = (0, Instant::now());
    for round in 0_i32.. {
        let mut work = bus.begin(&SCHEDULER_TIMERS).await?;
        let done = fire(rules, &mut work, now, round.wrapping_mul(23).rem_euclid(64), scheduler::timers::BATCH).await?;
        work.commit().await?;
        if done.timers == 0 {
            break;
        }
        fired += done.timers;
    }
    ensure!(fired as i64 == DUE, "{fired} timers fired, not {DUE}");
    Ok(fired as f64 / begun.elapsed().as_secs_f64())
}

/// Cases whose timers are due next year.
async fn arm_later(pool: &PgPool, version: &str, count: i64) -> anyhow::Result<()> {
    arm(pool, version, "later", count, "2027-06-01", at("2027-06-04T07:00:00Z")).await
}

/// Cases three days overdue, whose timers are due now.
async fn arm_due(pool: &PgPool, version: &str, run: i64, now: Timestamp) -> anyhow::Result<()> {
    arm(pool, version, &format!("due_{run}"), DUE, "2026-05-29", now).await
}

async fn arm(pool: &PgPool, version: &str, name: &str, count: i64, due_on: &str, at: Timestamp) -> anyhow::Result<()> {
    let statements = [
        "INSERT INTO scheduler.invoice (merchant, invoice, customer, version, epoch, status, currency, open_minor, due_on,
                                        disputed, overdue_hint, failed_attempts)
         SELECT 'acme', $1 || n, 'cus_' || $1 || n, 1, 1, 'open', 'EUR', 10000, $4::date, false, false, 0
         FROM generate_series(1, $2) AS n WHERE $3 <> '' AND $5::timestamptz IS NOT NULL",
        "INSERT INTO scheduler.dunning_case (id, merchant, invoice, epoch, customer, shard, campaign, campaign_version,
                                             opened_at, overdue_told_at, armed_at)
         SELECT gen_random_uuid(), 'acme', $1 || n, 1, 'cus_' || $1 || n, n % 64, 'default', $3, $5, $5, $5
         FROM generate_series(1, $2) AS n WHERE $4 <> ''",
        "INSERT INTO scheduler.timer (shard, due_at, case_id, generation)
         SELECT shard, armed_at, id, generation FROM scheduler.dunning_case
         WHERE invoice LIKE $1 || '%' AND $2 >= 0 AND $3 <> '' AND $4 <> '' AND armed_at = $5",
    ];
    for statement in statements {
        sqlx::query(statement)
            .bind(name)
            .bind(count)
            .bind(version)
            .bind(due_on)
            .bind(jiff_sqlx::ToSqlx::to_sqlx(at))
            .execute(pool)
            .await?;
    }
    Ok(())
}
