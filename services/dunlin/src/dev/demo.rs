//! The demo: a simulated world lives 90 days in two minutes, through the front doors only: signed webhooks over HTTP in,
//! mail over SMTP out. In the end what really arrived is compared with what was really paid.

use crate::settings::Configuration;
use crate::system::Running;
use anyhow::{Context, bail};
use events::Service;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, SystemClock, TimeLapse};
use payer::lift::LiftReport;
use payer::simulate::{Setup, simulate};
use payer::world::{Population, Response};
use std::process::ExitCode;
use std::time::Duration;
use testkit::audit::Audit;
use testkit::driver::{Driver, Scope};
use testkit::smtp::SmtpServer;
use testkit::world::World;
use tokio_util::sync::CancellationToken;

const CUSTOMERS: usize = 500;
const INVOICES: usize = 3_000;
const DAYS: f64 = 90.0;
const REAL_SECONDS: f64 = 120.0;
/// How long a webhook is tried.
const PATIENCE: Duration = Duration::from_secs(20);

/// 90 days from a fixed Monday on.
fn scope() -> Scope {
    let start = Timestamp::from_second(1_772_409_600).unwrap_or(Timestamp::UNIX_EPOCH); // Monday, 2 March 2026, 00:00 UTC
    Scope { customers: CUSTOMERS, invoices: INVOICES, start, days: DAYS }
}

/// 90 days in two minutes, beginning when the system has had time to start.
pub(super) fn time_lapse() -> TimeLapse {
    let scope = scope();
    let real_start = SystemClock.now() + SignedDuration::from_secs(6);
    TimeLapse { start: scope.start, real_start, rate: DAYS * 86_400.0 / REAL_SECONDS, until: Some(scope.end()) }
}

/// Runs the demo; then stays up until `stop`, or ends with the verdict if `DEMO_EXIT=1`.
pub(super) async fn run(
    configuration: &Configuration,
    running: &Running,
    catcher: SmtpServer,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let merchants: Vec<_> = configuration.merchants.iter().take(2).cloned().collect();
    if merchants.len() < 2 || merchants.iter().any(|m| m.file.stripe.is_none()) {
        bail!("the demo needs two merchants with Stripe's webhooks in the configuration");
    }
    println!("90 days in about two minutes: 2 merchants, {CUSTOMERS} simulated customers, {INVOICES} invoices.\n");
    let ingest = running.address(Service::Ingest, "http").context("ingest is not running")?;
    let dashboard = running.address(Service::Tracker, "dashboard").context("tracker is not running")?;
    let clock = configuration.settings.clock();
    let mut driver = Driver::new(merchants, scope(), clock.clone(), &format!("http://{ingest}"), PATIENCE)?;
    let progress = Progress::new();
    driver.live(catcher.arrivals(), &stop, |now, driver| progress.show(now, driver)).await?;
    progress.end();
    if stop.is_cancelled() {
        return Ok(ExitCode::SUCCESS);
    }
    // What is on its way arrives.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let audit = Audit::of(&catcher.mails(), &driver.payments);
    let stats: serde_json::Value = driver.client.get(stats_url(dashboard)).send().await?.text().await?.parse()?;
    let clean = summarise(&driver.world, clock.now(), &audit, &stats);
    let lift = driver.client.get(format!("http://{dashboard}/v1/merchants/{ADAPTIVE}/lift")).send().await?;
    tell_lift(&serde_json::from_str(&lift.error_for_status()?.text().await?)?);
    tokio::task::spawn_blocking(tell_simulated).await?;
    if std::env::var("DEMO_EXIT").is_ok_and(|v| v == "1") {
        stop.cancel();
        return Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    println!("\nStill running, for looking around: the dashboard and the caught mail are above. Ctrl-C ends it.");
    stop.cancelled().await;
    Ok(ExitCode::SUCCESS)
}

fn stats_url(dashboard: std::net::SocketAddr) -> String {
    let date = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    format!("http://{dashboard}/v1/stats?from={}&to={}", date(scope().start), date(scope().end()))
}

/// The merchant whose campaign suits itself to payers, with one invoice in ten on the schedule as it is written.
const ADAPTIVE: &str = "globex";

/// Adaptive against static in this very run.
fn tell_lift(report: &LiftReport) {
    println!("\nAdaptive against the written schedule, among the simulated payers of {ADAPTIVE}, in this run:\n");
    for comparison in [&report.on_time, &report.days] {
        println!("  {}", comparison.finding());
    }
    println!("  The report: /merchants/{ADAPTIVE}/lift of the dashboard.");
}

/// Larger worlds, where more can be told. How payers respond is assumed.
fn tell_simulated() {
    println!("\nIn larger simulated worlds (`dunlin simulate` shows all of it, with what is assumed):\n");
    for population in [Population::Consumers, Population::Businesses] {
        let setup = Setup { population, response: Response::Medium, customers: 1_000, seeds: 1..2 };
        println!("  {}", simulate(&setup).finding());
    }
}

/// Prints the summary; returns whether nothing went wrong.
fn summarise(world: &World, today: Timestamp, audit: &Audit, stats: &serde_json::Value) -> bool {
    let due =
        world.bills.iter().filter(|b| b.invoice.status != "void" && b.invoice.status != "draft").filter_map(|bill| {
            let payer = world.payers.get(bill.payer)?;
            let zone = &world.merchants.get(payer.merchant)?.zone;
            let due_on = bill.due_on.filter(|due| *due < zone.to_datetime(today).date())?;
            Some(bill.invoice.paid_at.is_some_and(|at| zone.to_datetime(at).date() <= due_on))
        });
    let due: Vec<bool> = due.collect();
    let on_time = due.iter().filter(|on_time| **on_time).count();
    let sum = |outcome: &str| -> i64 {
        let groups = stats.get("by_merchant").and_then(serde_json::Value::as_array).into_iter().flatten();
        groups.filter_map(|g| g.pointer(&format!("/reminders/{outcome}"))?.as_i64()).sum()
    };
    let count = |name| stats.get(name).map_or_else(String::new, serde_json::Value::to_string);
    let rows = [
        ("invoices", world.bills.iter().filter(|b| b.invoice.status != "draft").count().to_string()),
        (
            "on time",
            format!(
                "{on_time} of {} that fell due ({:.1} %)",
                due.len(),
                100.0 * on_time as f64 / due.len().max(1) as f64
            ),
        ),
        ("reminders sent", format!("{} mails about {} invoices", audit.mails, audit.lines)),
        ("suppressed because paid", count("suppressed_because_paid")),
        ("merged into another", count("merged_steps")),
        ("failed", sum("failed").to_string()),
        ("unknown", sum("unknown").to_string()),
    ];
    println!("\nAfter 90 days (the payers are simulated):\n");
    for (what, figure) in rows {
        println!("  {what:26}{figure}");
    }
    println!("\nFrom the caught mail and the payments alone:\n");
    println!("  reminders after payment: {}, duplicates: {}", audit.after_payment.len(), audit.duplicates.len());
    println!("  (within one second after the payment's 2xx: {})", audit.within_grace);
    for fault in audit.after_payment.iter().chain(&audit.duplicates).take(10) {
        println!("  !! {fault}");
    }
    audit.is_clean() && audit.mails > 0
}

/// A bar on a terminal, a line every ten days elsewhere.
struct Progress {
    bar: ProgressBar,
    shown: std::cell::Cell<i64>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(DAYS as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} day {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        Self { bar, shown: std::cell::Cell::new(-1) }
    }

    fn show(&self, now: Timestamp, driver: &Driver) {
        let day = now.duration_since(scope().start).as_hours() / 24;
        if day == self.shown.get() || now < scope().start {
            return;
        }
        self.shown.set(day);
        let (world, mails) = (&driver.world, driver.read);
        let issued = world.bills.iter().filter(|b| b.invoice.status != "draft").count();
        let paid = world.bills.iter().filter(|b| b.invoice.status == "paid").count();
        let text = format!("{} · {issued} invoices · {paid} paid · {mails} reminders", now.strftime("%-d %B %Y"));
        if self.bar.is_hidden() {
            if day % 10 == 0 {
                println!("day {day:2}  {text}");
            }
        } else {
            self.bar.set_position(day as u64);
            self.bar.set_message(text);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
