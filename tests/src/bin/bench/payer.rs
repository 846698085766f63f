//! How payers pay: the estimator, the evaluation of a ledger, and the simulator.

use crate::report::Figure;
use crate::{RUNS, median, percentile};
use anyhow::{Context, ensure};
use payer::bins::bin;
use payer::estimator::{Open, Payer, Portfolio, predict};
use payer::evaluate::{Split, evaluate};
use payer::ledger::Ledger;
use payer::simulate::{Setup, simulate};
use payer::world::{Population, Response, World};
use std::hint::black_box;
use std::time::Instant;

/// As many as the larger one of the real ledgers that the tests read.
const INVOICES: usize = 24_089;

/// `payer`: a prediction and an update, each timed alone; and the evaluation of a ledger.
pub(crate) fn estimator() -> anyhow::Result<Vec<Figure>> {
    let mut portfolio: Portfolio<u8> = Portfolio::default();
    let mut payers = vec![Payer::default(); 100_000];
    let delay = |n: usize| i32::try_from(n.wrapping_mul(2_654_435_761) >> 7 & 63).unwrap_or(0) - 20;
    (0..50_000).for_each(|n| portfolio.settle(0, delay(n)));
    let prior = portfolio.prior(&0);
    let overdue = [Open { overdue_days: 4 }, Open { overdue_days: 11 }];
    let mut times = Vec::with_capacity(1_000_000);
    for n in 0..1_000_000_usize {
        // All over the place: a cache of a million customers is larger than the processor's.
        let place = n.wrapping_mul(7_919) % payers.len();
        let payer = &mut payers[place];
        let open = &overdue[..n % 3];
        let begun = Instant::now();
        black_box(predict(black_box(payer), black_box(&prior), open, 6.0));
        payer.settle(black_box(delay(n)));
        times.push(begun.elapsed().as_nanos() as f64);
    }
    ensure!(payers.iter().all(|payer| payer.settled() == 10), "each customer had ten");
    ensure!(prior.0[bin(0)] > 0.0, "the portfolio has learned");
    let (p50, p99) = (percentile(&times, 50.0), percentile(&times, 99.0));
    let note = "predict + update, with two readings of the clock; bars p50 1000, p99 5000";
    let state = Figure::new("payer_state", size_of::<Payer>() as f64, "bytes", None, "of a customer; bar 128");
    Ok(vec![
        Figure::new("payer", p50, "ns p50", None, note),
        Figure::new("payer_p99", p99, "ns p99", None, note),
        state,
        evaluation()?,
    ])
}

fn evaluation() -> anyhow::Result<Figure> {
    let world = World::new(Population::Consumers, Response::Medium, 1, 2_500);
    let mut rows = world.ledger();
    let mut ledger = Ledger::default();
    for line in 0..INVOICES {
        ledger.add(line as u64, rows.next().context("the world has too few invoices")?);
    }
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        black_box(evaluate(&ledger, Split::Test));
        runs.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Figure::new("payer_evaluate", median(&runs), "ms", None, "24,089 invoices; bar 1000"))
}

/// `simulate`: invoice-days per second of all policies over one world, where an invoice's days go from its issue to its
/// payment, at most 60 after it was due.
pub(crate) fn simulator() -> Figure {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let setup =
            Setup { population: Population::Consumers, response: Response::Medium, customers: 2_500, seeds: 1..2 };
        let report = black_box(simulate(&setup));
        runs.push(report.invoice_days as f64 / begun.elapsed().as_secs_f64() / 1e6);
    }
    Figure::new("simulate", median(&runs), "M days/s", None, "invoice-days per second, one core; bar 1")
}
