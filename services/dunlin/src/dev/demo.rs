//! The demo: a simulated world lives 90 days in two minutes, through the front doors only: signed webhooks over HTTP in,
//! mail over SMTP out. In the end what really arrived is compared with what was really paid.

use super::world::{Deed, World, chance};
use crate::settings::Configuration;
use crate::system::Running;
use anyhow::{Context, bail};
use events::Service;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, SharedClock, SystemClock, TimeLapse};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use testkit::audit::{Audit, Payments};
use testkit::smtp::{Mail, SmtpServer};
use testkit::stripe::Webhooks;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CUSTOMERS: usize = 500;
const INVOICES: usize = 3_000;
const DAYS: f64 = 90.0;
const REAL_SECONDS: f64 = 120.0;
/// How long a webhook is tried.
const PATIENCE: Duration = Duration::from_secs(20);
/// Webhooks on their way at the same time, as a processor would have.
const CONCURRENCY: usize = 32;

/// 90 days in two minutes, from a fixed Monday on, beginning when the system has had time to start.
pub(super) fn time_lapse() -> TimeLapse {
    let start = start();
    let until = start + SignedDuration::from_secs((DAYS * 86_400.0) as i64);
    let real_start = SystemClock.now() + SignedDuration::from_secs(6);
    TimeLapse { start, real_start, rate: DAYS * 86_400.0 / REAL_SECONDS, until: Some(until) }
}

fn start() -> Timestamp {
    Timestamp::from_second(1_772_409_600).unwrap_or(Timestamp::UNIX_EPOCH) // Monday, 2 March 2026, 00:00 UTC
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
    let http = running.address(Service::Ingest, "http").context("ingest is not running")?;
    let dashboard = running.address(Service::Tracker, "dashboard").context("tracker is not running")?;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let webhooks = merchants.iter().map(|m| {
        let secret = m.file.stripe.as_ref().and_then(|s| s.signing_secrets.first()).cloned().unwrap_or_default();
        Webhooks::new(client.clone(), &format!("http://{http}"), m.id.as_str(), secret)
    });
    let webhooks = webhooks.collect();
    let mut demo = Demo {
        world: World::new(merchants, CUSTOMERS, INVOICES, start(), DAYS),
        clock: configuration.settings.clock(),
        deeds: BinaryHeap::new(),
        webhooks,
        client,
        payments: Payments::default(),
        posting: JoinSet::new(),
        slots: Arc::new(Semaphore::new(CONCURRENCY)),
    };
    let finished = demo.live(catcher.arrivals(), &stop).await?;
    if !finished {
        return Ok(ExitCode::SUCCESS);
    }
    let audit = Audit::of(&catcher.mails(), &demo.payments);
    let stats: serde_json::Value = demo.client.get(stats_url(dashboard)).send().await?.text().await?.parse()?;
    let clean = summarise(&demo, &audit, &stats);
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
    let end = start() + SignedDuration::from_secs((DAYS * 86_400.0) as i64);
    format!("http://{dashboard}/v1/stats?from={}&to={}", date(start()), date(end))
}

/// The running demo.
struct Demo {
    world: World,
    clock: SharedClock,
    deeds: BinaryHeap<Reverse<(Timestamp, Deed)>>,
    webhooks: Vec<Webhooks>,
    client: reqwest::Client,
    payments: Payments,
    posting: JoinSet<anyhow::Result<News>>,
    slots: Arc<Semaphore>,
}

/// What a webhook that was taken means for an invoice's debt.
enum News {
    /// Nothing is owed from here on.
    Closed(String, Timestamp),
    /// Money is owed again.
    Reopened(String, Timestamp),
    /// Neither.
    Other,
}

impl Demo {
    /// Lives through all days. Returns whether it came to the end.
    async fn live(
        &mut self,
        mut arrivals: broadcast::Receiver<Arc<Mail>>,
        stop: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let end = start() + SignedDuration::from_secs((DAYS * 86_400.0) as i64);
        let progress = Progress::new();
        let mut mails = 0_u64;
        self.deeds.extend(self.world.course(start()).into_iter().map(Reverse));
        while self.clock.now() < end && !stop.is_cancelled() {
            let now = self.clock.now();
            while let Some(Reverse((at, deed))) = self.deeds.peek().cloned()
                && at <= now
            {
                self.deeds.pop();
                self.perform(&deed, at);
            }
            while let Ok(mail) = arrivals.try_recv() {
                mails += 1;
                self.read(&mail);
            }
            while let Some(done) = self.posting.try_join_next() {
                self.note(done?)?;
            }
            progress.show(now, &self.world, mails);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Some(done) = self.posting.join_next().await {
            self.note(done?)?;
        }
        progress.end();
        // What is on its way arrives.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(!stop.is_cancelled())
    }

    fn note(&mut self, done: anyhow::Result<News>) -> anyhow::Result<()> {
        match done? {
            News::Closed(invoice, at) => self.payments.closed(&invoice, at),
            News::Reopened(invoice, at) => self.payments.reopened(&invoice, at),
            News::Other => {}
        }
        Ok(())
    }

    /// Carries a deed out and posts what the processor says about it.
    fn perform(&mut self, deed: &Deed, at: Timestamp) {
        let (events, follow) = self.world.perform(deed, at);
        self.deeds.extend(follow.into_iter().map(Reverse));
        let Some(webhooks) = self.webhooks.get(self.world.merchant_of(deed)) else { return };
        for event in events {
            let (webhooks, slots) = (webhooks.clone(), self.slots.clone());
            self.posting.spawn(async move {
                let _slot = slots.acquire().await?;
                let begun = SystemClock.now();
                let taken = webhooks.post(&event, PATIENCE).await?;
                let field = |path| event.pointer(path).and_then(serde_json::Value::as_str);
                let object = ["/data/object/status", "/data/object/id", "/data/object/charge"].map(field);
                Ok(match object {
                    [Some("paid" | "void"), Some(id), _] => News::Closed(id.to_owned(), taken),
                    // From the moment on at which ingest may know: a mail right after it is in order.
                    [_, _, Some(charge)] if field("/type") == Some("charge.dispute.closed") => {
                        News::Reopened(charge.trim_start_matches("ch_").to_owned(), begun)
                    }
                    _ => News::Other,
                })
            });
        }
    }

    /// A payer reads a mail: follows the link, unsubscribes, or decides to pay.
    fn read(&mut self, mail: &Mail) {
        let reminder = mail.headers("Message-ID").join("");
        let now = self.clock.now();
        let links = mail.pay_links();
        for line in mail.lines() {
            let Some(bill) = self.world.bills.iter().position(|b| b.invoice.id == line.invoice) else { continue };
            let answer = self.world.answer(bill, &reminder, now);
            if let (false, Some(link)) = (answer.is_empty(), links.first().cloned()) {
                let client = self.client.clone();
                // A click that fails is no reason to end the demo.
                tokio::spawn(async move { client.get(link).send().await.map(drop) });
            }
            self.deeds.extend(answer.into_iter().map(Reverse));
        }
        let unsubscribe = mail.headers("List-Unsubscribe").join("");
        if chance(&mail.to.join(""), "unsubscribes") < 0.02 {
            let url = unsubscribe.trim_matches(['<', '>']).to_owned();
            let post = self.client.post(url).body("List-Unsubscribe=One-Click");
            tokio::spawn(async move { post.send().await.map(drop) });
        }
    }
}

/// Prints the summary; returns whether nothing went wrong.
fn summarise(demo: &Demo, audit: &Audit, stats: &serde_json::Value) -> bool {
    let today = demo.clock.now();
    let due = demo.world.bills.iter().filter(|b| b.invoice.status != "void" && b.invoice.status != "draft").filter_map(
        |bill| {
            let payer = demo.world.payers.get(bill.payer)?;
            let zone = &demo.world.merchants.get(payer.merchant)?.zone;
            let due_on = bill.due_on.filter(|due| *due < zone.to_datetime(today).date())?;
            Some(bill.invoice.paid_at.is_some_and(|at| zone.to_datetime(at).date() <= due_on))
        },
    );
    let due: Vec<bool> = due.collect();
    let on_time = due.iter().filter(|on_time| **on_time).count();
    let sum = |outcome: &str| -> i64 {
        let groups = stats.get("by_merchant").and_then(serde_json::Value::as_array).into_iter().flatten();
        groups.filter_map(|g| g.pointer(&format!("/reminders/{outcome}"))?.as_i64()).sum()
    };
    let count = |name| stats.get(name).map_or_else(String::new, serde_json::Value::to_string);
    let rows = [
        ("invoices", demo.world.bills.iter().filter(|b| b.invoice.status != "draft").count().to_string()),
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

    fn show(&self, now: Timestamp, world: &World, mails: u64) {
        let day = now.duration_since(start()).as_hours() / 24;
        if day == self.shown.get() || now < start() {
            return;
        }
        self.shown.set(day);
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
