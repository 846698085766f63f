//! From due reminders to accepted mail, what that takes in memory, and how soon a payment stops it meanwhile.

use crate::dev::{Dev, invoice_fact};
use crate::report::Figure;
use crate::sink::{CONNECTIONS, MAIL_BYTES, Mails, Sink};
use crate::{RUNS, median, percentile};
use anyhow::{Context, ensure};
use e2e::system::at;
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, Masked, SystemClock, TimeLapse};
use std::collections::HashMap;
use std::time::Duration;
use testkit::stripe::{self, Invoice, Webhooks};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Reminders per run.
const REMINDERS: usize = 20_000;
/// Monday morning in Berlin; contact hours begin at nine.
const MORNING: &str = "2026-06-01T06:30:00Z";
const NINE: &str = "2026-06-01T07:00:00Z";
/// Half an hour passes in forty seconds, then there are twelve minutes until the office closes.
const RATE: f64 = 45.0;
/// A Friday: three days later is that Monday.
const DUE_ON: &str = "2026-05-29";
/// Payments per second under load.
const PAYMENTS_PER_SECOND: u64 = 100;

/// A system in which [`REMINDERS`] reminders will become due at nine.
struct Morning {
    dev: Dev,
    clock: TimeLapse,
    idle_mb: f64,
    nats_mb: Option<f64>,
}

impl Morning {
    async fn dawn(sink: &Sink, mails: Mails) -> anyhow::Result<Self> {
        let real_start = SystemClock.now() + SignedDuration::from_secs(8);
        let clock = TimeLapse { start: at(MORNING), real_start, rate: RATE, until: None };
        let (port, begins, rate) = (sink.port.to_string(), real_start.to_string(), RATE.to_string());
        let environment = [
            ("DUNLIN_NOTIFIER__SMTP__PORT", port.as_str()),
            ("DUNLIN_NOTIFIER__SMTP__CONNECTIONS", CONNECTIONS),
            ("DUNLIN_TIME_LAPSE__START", MORNING),
            ("DUNLIN_TIME_LAPSE__REAL_START", &begins),
            ("DUNLIN_TIME_LAPSE__RATE", &rate),
        ];
        let dev = Dev::start_with(&environment, mails).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (idle_mb, _) = dev.memory()?;
        let nats_mb = dev.memory_of_nats();
        dev.publish((0..REMINDERS).map(|n| invoice_fact(&format!("in_{n:06}"), at(MORNING), DUE_ON)).collect()).await?;
        Ok(Self { dev, clock, idle_mb, nats_mb })
    }

    /// Waits for nine o'clock; everything has to be in its place by then.
    async fn nine(&self) -> anyhow::Result<Instant> {
        self.dev.wait_until_published().await?;
        let armed = "SELECT count(*) = 20000 FROM scheduler.timer WHERE due_at = '2026-06-01T07:00:00Z'";
        debug_assert_eq!((REMINDERS, at(NINE)), (20_000, at("2026-06-01T07:00:00Z")));
        self.dev.wait_until(armed).await?;
        let balances = "SELECT count(*) >= 20000 FROM notifier.balance";
        self.dev.wait_until(balances).await?;
        let left = self.clock.real_time_until(at(NINE));
        ensure!(left > Duration::from_secs(1), "loading took until after nine: the machine is too busy");
        let nine = Instant::now() + left;
        tokio::time::sleep_until(nine).await;
        Ok(nine)
    }

    /// Waits until all are sent; returns how long after nine that was.
    async fn all_sent(&self, nine: Instant) -> anyhow::Result<Duration> {
        loop {
            let sent = self.dev.counter("dunlin_delivery_attempts_total", "outcome=\"sent\"").await? as usize;
            let took = nine.elapsed();
            if sent >= REMINDERS {
                return Ok(took);
            }
            ensure!(took < Duration::from_secs(180), "{sent} of {REMINDERS} reminders were sent in three minutes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `e2e` with mails as large as the reference's, `e2e_shipped` with those of the shipped templates, `memory` (idle) and
/// `memory_under_load`.
pub(crate) async fn e2e_and_memory() -> anyhow::Result<Vec<Figure>> {
    let sink = Sink::start().await?;
    let (mut rates, mut references, mut shipped, mut shipped_references) = (vec![], vec![], vec![], vec![]);
    let (mut idle, mut loaded, mut nats) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        for mails in [Mails::AsTheReference, Mails::AsShipped] {
            let morning = Morning::dawn(&sink, mails).await?;
            let nine = morning.nine().await?;
            let took = morning.all_sent(nine).await?;
            idle.push(morning.idle_mb);
            loaded.push(morning.dev.memory()?.1);
            nats.extend(morning.nats_mb);
            let bytes: f64 = sqlx::query_scalar(
                "SELECT avg(get_byte(raw, 0) + 256 * get_byte(raw, 1))::float8 FROM notifier.message",
            )
            .fetch_one(&morning.dev.pool)
            .await?;
            mails.are_of(bytes)?;
            println!("e2e: {REMINDERS} mails of {bytes:.0} bytes in {:.2} s", took.as_secs_f64());
            morning.dev.end().await?;
            let rate = REMINDERS as f64 / took.as_secs_f64();
            if mails == Mails::AsTheReference {
                rates.push(rate);
                references.extend(sink.reference(REMINDERS, MAIL_BYTES)?);
            } else {
                shipped.push(rate);
                shipped_references.extend(sink.reference(REMINDERS, bytes as usize)?);
            }
        }
    }
    let reference = |values: &[f64]| (!values.is_empty()).then(|| median(values));
    let source = "smtp-source to smtp-sink, 128 kept connections, 4 kB";
    let same = "the same with mails of the same size";
    let nats_idle = "its nats-server, idle";
    Ok(vec![
        Figure::new("e2e", median(&rates), "reminders/s", reference(&references), source),
        Figure::new("e2e_shipped", median(&shipped), "reminders/s", reference(&shipped_references), same),
        Figure::new("memory", median(&idle), "MB idle", reference(&nats), nats_idle),
        Figure::new("memory_under_load", median(&loaded), "MB at most", reference(&nats), nats_idle),
    ])
}

/// From ingest's 2xx of a payment until the notifier has recorded it, while all reminders of a morning go out.
pub(crate) async fn time_to_suppress() -> anyhow::Result<Figure> {
    let sink = Sink::start().await?;
    let (mut times, mut commits) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let morning = Morning::dawn(&sink, Mails::AsShipped).await?;
        commits.extend(two_commits(&morning.dev).await?);
        let paid = format!("paid_{run}");
        let facts = (0..2_000).map(|n| invoice_fact(&format!("{paid}_{n:04}"), at(MORNING), "2026-09-01"));
        morning.dev.publish(facts.collect()).await?;
        let nine = morning.nine().await?;
        let (seen, took) = tokio::join!(pay_meanwhile(&morning, &paid), morning.all_sent(nine));
        let seen = seen?;
        println!("time_to_suppress: {} payments within {:.1} s of sending", seen.len(), took?.as_secs_f64());
        times.extend(seen);
        morning.dev.end().await?;
    }
    let (p50, p99) = (percentile(&times, 50.0), percentile(&times, 99.0));
    let note = "p99 of two commits in a row, idle";
    let figure = Figure::new("time_to_suppress", p99, "ms (p99)", Some(percentile(&commits, 99.0)), note);
    Ok(Figure { p50: Some(p50), p99: Some(p99), ..figure })
}

/// Pays for as long as reminders go out; returns for each payment how long after its 2xx the notifier knew, in ms.
async fn pay_meanwhile(morning: &Morning, paid: &str) -> anyhow::Result<Vec<f64>> {
    let dev = &morning.dev;
    let secret = Masked::new("whsec_development_only_acme".to_owned());
    let webhooks = Webhooks::new(dev.http.clone(), &dev.url("ingest", "http_listen"), "acme", secret);
    let (told, mut news) = mpsc::unbounded_channel::<(String, Instant)>();
    let payments = async {
        let mut tick = tokio::time::interval(Duration::from_millis(1_000 / PAYMENTS_PER_SECOND));
        let mut posting = tokio::task::JoinSet::new();
        for n in 0..2_000 {
            tick.tick().await;
            let sent = dev.counter("dunlin_delivery_attempts_total", "outcome=\"sent\"").await? as usize;
            if sent >= REMINDERS * 95 / 100 {
                break;
            }
            let (webhooks, told, id) = (webhooks.clone(), told.clone(), format!("{paid}_{n:04}"));
            posting.spawn(async move {
                let event = payment(&id, at(MORNING));
                let response = webhooks.post_once(event.to_string()).await?;
                ensure!(response.status().is_success(), "{}", response.status());
                let _ = told.send((id, Instant::now()));
                Ok(())
            });
        }
        drop(told);
        while let Some(done) = posting.join_next().await {
            done??;
        }
        Ok::<_, anyhow::Error>(())
    };
    let watch = async {
        let (mut waiting, mut times, mut open) = (HashMap::new(), Vec::new(), true);
        while open || !waiting.is_empty() {
            loop {
                match news.try_recv() {
                    Ok((id, taken)) => _ = waiting.insert(id, taken),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            let ids: Vec<&String> = waiting.keys().collect();
            let known: Vec<String> = sqlx::query_scalar(
                "SELECT invoice FROM notifier.balance WHERE merchant = 'acme' AND invoice = ANY($1) AND status = 'paid'",
            )
            .bind(ids)
            .fetch_all(&dev.pool)
            .await?;
            for id in known {
                times.extend(waiting.remove(&id).map(|taken| taken.elapsed().as_secs_f64() * 1_000.0));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok::<_, anyhow::Error>(times)
    };
    let (paid, times) = tokio::join!(payments, watch);
    paid?;
    times
}

fn payment(id: &str, at: Timestamp) -> serde_json::Value {
    let mut invoice = Invoice::draft(id, &format!("cus_{id}"), at, None);
    invoice.total_minor = 123_456;
    invoice.pay(123_456, at);
    let paid_at = at.saturating_add(SignedDuration::from_secs(60)).unwrap_or(at);
    stripe::event(&format!("evt_{id}"), "invoice.paid", paid_at, invoice.object())
}

/// Two commits in a row, in ms, on the idle system: what recording a payment at both ends takes at the least.
async fn two_commits(dev: &Dev) -> anyhow::Result<Vec<f64>> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS bench_commit (id bigint)").execute(&dev.pool).await?;
    let mut times = Vec::new();
    for n in 0..200_i64 {
        let begun = Instant::now();
        for _ in 0..2 {
            sqlx::query("INSERT INTO bench_commit VALUES ($1)").bind(n).execute(&dev.pool).await.context("commit")?;
        }
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(times)
}
