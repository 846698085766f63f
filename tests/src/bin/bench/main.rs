//! Speed and memory on one machine: Postgres with fsync, nats-server with `sync_interval: always`, all five services in one
//! process, the mail sink and the load all share it. `make bench`, or `make bench BENCH=<name>`.
//!
//! Each figure is the median of three runs, and stands beside a reference measured in the same run. The table goes to
//! stdout, and as JSON to `target/bench/report.json`.

#![expect(clippy::indexing_slicing, reason = "a bench may panic")]

mod dev;
mod ingest;
mod mta;
mod notify;
mod payer;
mod planning;
mod render;
mod report;
mod segmenter;
mod sending;
mod sink;
mod timers;

use anyhow::bail;
use report::Report;

/// Names, in the order of the table.
const NAMES: [&str; 18] = [
    "e2e",
    "notify",
    "notify_latency",
    "notify_tls",
    "render",
    "ingest_grpc",
    "ingest_webhooks",
    "time_to_suppress",
    "replan",
    "segmenter",
    "fire",
    "timers",
    "timers_10m",
    "memory",
    "plan",
    "backtest",
    "payer",
    "simulate",
];

/// How often each figure is measured; the median counts.
pub(crate) const RUNS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let wanted = std::env::args().nth(1);
    if let Some(name) = wanted.as_deref().filter(|name| !NAMES.contains(name)) {
        bail!("{name:?} is no bench; one of {}", NAMES.join(", "));
    }
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|w| w == name);
    let mut report = Report::default();
    if is_wanted("e2e") || is_wanted("memory") {
        let figures = sending::e2e_and_memory().await?;
        let bench = |figure: &report::Figure| figure.name.trim_end_matches("_under_load").trim_end_matches("_shipped");
        report.extend(figures.into_iter().filter(|figure| is_wanted(bench(figure))));
    }
    if ["notify", "notify_latency", "notify_tls"].into_iter().any(is_wanted) {
        report.extend(notify::all(wanted.as_deref().unwrap_or_default()).await?);
    }
    if is_wanted("render") {
        report.extend(render::all()?);
    }
    if is_wanted("ingest_grpc") {
        report.extend([ingest::grpc().await?]);
    }
    if is_wanted("ingest_webhooks") {
        report.extend([ingest::webhooks().await?]);
    }
    if is_wanted("time_to_suppress") {
        report.extend([sending::time_to_suppress().await?]);
    }
    if is_wanted("replan") {
        report.extend([timers::replan().await?]);
    }
    if is_wanted("segmenter") {
        report.extend(segmenter::segmenter().await?);
    }
    if is_wanted("fire") {
        report.extend([timers::fire_consolidated().await?]);
    }
    if is_wanted("timers") {
        report.extend([timers::claims().await?]);
    }
    if is_wanted("timers_10m") {
        report.extend(timers::ten_million().await?);
    }
    if is_wanted("plan") {
        report.extend([planning::one_plan()?]);
    }
    if is_wanted("backtest") {
        report.extend(planning::ledger()?);
    }
    if is_wanted("payer") {
        report.extend(payer::estimator()?);
    }
    if is_wanted("simulate") {
        report.extend([payer::simulator()]);
    }
    report.finish()
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The nearest-rank percentile; NaN of nothing.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}
