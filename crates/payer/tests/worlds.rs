//! The estimator in simulated worlds, which are there wherever the tests are: the checks of `ledgers.rs` without a ledger.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use payer::evaluate::{Split, evaluate};
use payer::label::Label;
use payer::ledger::Ledger;
use payer::world::{Population, Response, World};

/// Seeds for which everything is checked; what is asked holds for each of them.
const SEEDS: [u64; 3] = [1, 2, 3];

fn check(population: Population, best_brier: f64) {
    for seed in SEEDS {
        let mut ledger = Ledger::default();
        let world = World::new(population, Response::Medium, seed, 600);
        (2..).zip(world.ledger()).for_each(|(line, row)| ledger.add(line, row));
        let report = evaluate(&ledger, Split::Test);
        assert!(report.rejected.is_empty(), "{:?}", report.rejected);
        assert_eq!(report.claims.too_little, None);
        let [ours, _, raw, ..] = &report.models[..] else { unreachable!() };
        let say = format!("seed {seed}: {ours:#?} {raw:#?}");
        let (ours, raw) = (&ours.all, &raw.all);
        assert!(ours.brier < raw.brier && ours.brier.unwrap() < best_brier, "{say}");
        assert!(ours.calibration_error < raw.calibration_error && ours.calibration_error.unwrap() < 0.05, "{say}");
        assert!(ours.pinball < raw.pinball, "{say}");
        assert!((0.78..=0.93).contains(&ours.coverage_80.unwrap()), "{say}");
        for (ours, raw) in [(ours.auc_late, raw.auc_late), (ours.auc_late_7, raw.auc_late_7)] {
            assert!(ours.unwrap() >= 0.99 * raw.unwrap(), "{say}");
        }
        // A label is worth its name: those who are usually late are late more than twice as often as the prompt.
        let late_share = |label| {
            let counts: &[u32; payer::bins::BINS] = &report.delays_by_label[&label];
            let late: u32 = counts.iter().skip(payer::bins::LATE).sum();
            f64::from(late) / f64::from(counts.iter().sum::<u32>())
        };
        assert!(late_share(Label::UsuallyLate) > 2.0 * late_share(Label::Prompt), "{:?}", report.delays_by_label);
    }
}

#[test]
fn consumers_are_foreseen_better_than_by_plain_histories() {
    check(Population::Consumers, 0.16);
}

#[test]
fn businesses_are_foreseen_better_than_by_plain_histories() {
    check(Population::Businesses, 0.21);
}
