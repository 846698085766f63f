//! Thompson sampling over arms: each is drawn with the probability that it is the best one, as far as is known.
//!
//! Success is a payment by the due date for a step before it, a payment within seven days of the decision for one after.
//! The share of successes of each arm has a Beta posterior. Probabilities of being the best are integrated, not sampled,
//! so that what is logged is what the draw was made with.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What counts are multiplied by at each later outcome: a memory of about 1,000 outcomes.
const DISCOUNT: f64 = 0.999;
/// The least probability of an arm, so that none is given up for good and no propensity is near zero.
const FLOOR: f64 = 0.05;
/// How many outcomes the prior is worth.
const PRIOR: f64 = 8.0;
/// With fewer outcomes than this a segment goes by what is known of all segments.
const ENOUGH: u32 = 100;
/// Into how many cells [0, 1] is divided to integrate. A posterior that remembers 1,000 outcomes has a standard deviation
/// of at least two cells.
const CELLS: u32 = 1_000;

/// A Beta distribution of a share of successes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Beta {
    /// Successes, with those of the prior.
    pub successes: f64,
    /// Failures, with those of the prior.
    pub failures: f64,
}

impl Beta {
    /// The prior of every arm alike, so that none has an effect until outcomes say so. `failure` is the expected share
    /// of failures: P(late) of the segment for a step before the due date.
    pub fn prior(failure: f64) -> Self {
        // A prior that is sure of anything could not learn.
        let failure = failure.clamp(0.01, 0.99);
        Self { successes: PRIOR * (1.0 - failure), failures: PRIOR * failure }
    }

    /// The expected share of successes.
    pub fn mean(self) -> f64 {
        self.successes / (self.successes + self.failures)
    }

    /// The probability of each cell, to a sum of 1.
    fn cells(self) -> Vec<f64> {
        let middle = |cell: u32| (f64::from(cell) + 0.5) / f64::from(CELLS);
        let log_density = |x: f64| (self.successes - 1.0) * x.ln() + (self.failures - 1.0) * (-x).ln_1p();
        let logs: Vec<f64> = (0..CELLS).map(|cell| log_density(middle(cell))).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let cells: Vec<f64> = logs.into_iter().map(|log| (log - most).exp()).collect();
        let sum: f64 = cells.iter().sum();
        cells.into_iter().map(|cell| cell / sum).collect()
    }
}

/// What came of an arm in a week. Sums of these are the same in whatever order outcomes arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally<Arm> {
    /// The Monday of the week ([`super::week_of`]) in which the outcomes were known.
    pub week: Date,
    /// What was done.
    pub arm: Arm,
    /// How often it worked.
    pub successes: u32,
    /// How often it did not.
    pub failures: u32,
}

/// What is known of the arms of a step: in a segment, or in all of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Knowledge {
    /// One for each arm, in the order of the arms.
    pub posteriors: Vec<Beta>,
    /// How many outcomes have been counted, old ones in full.
    pub outcomes: u32,
}

impl Knowledge {
    /// Folds weekly counts, in any order. `failure` is as in [`Beta::prior`].
    ///
    /// Each outcome discounts all counts before it. Within a week the order is not known, so the outcomes of a week are
    /// taken as evenly mixed: all have the same weight, the mean of what they would have one after another.
    pub fn learn<Arm: PartialEq>(arms: &[Arm], failure: f64, tallies: &[Tally<Arm>]) -> Self {
        let mut weeks: BTreeMap<Date, Vec<&Tally<Arm>>> = BTreeMap::new();
        for tally in tallies.iter().filter(|tally| arms.contains(&tally.arm)) {
            weeks.entry(tally.week).or_default().push(tally);
        }
        let mut counts = vec![(0.0, 0.0); arms.len()];
        let mut outcomes = 0_u32;
        for week in weeks.values() {
            let new = week.iter().fold(0_u32, |n, t| n.saturating_add(t.successes).saturating_add(t.failures));
            let kept = DISCOUNT.powf(f64::from(new));
            let weight = (1.0 - kept) / (f64::from(new.max(1)) * (1.0 - DISCOUNT));
            for (arm, (successes, failures)) in arms.iter().zip(&mut counts) {
                let of_arm = || week.iter().filter(|t| t.arm == *arm);
                *successes = *successes * kept + weight * of_arm().map(|t| f64::from(t.successes)).sum::<f64>();
                *failures = *failures * kept + weight * of_arm().map(|t| f64::from(t.failures)).sum::<f64>();
            }
            outcomes = outcomes.saturating_add(new);
        }
        let prior = Beta::prior(failure);
        let posterior = |(successes, failures)| Beta {
            successes: prior.successes + successes,
            failures: prior.failures + failures,
        };
        Self { posteriors: counts.into_iter().map(posterior).collect(), outcomes }
    }

    /// What to go by in a segment: what is known of it, or of all of the tenant, the segment included, as long as the
    /// segment has too few outcomes of its own.
    pub fn or<'a>(&'a self, tenant: &'a Self) -> &'a Self {
        if self.outcomes < ENOUGH { tenant } else { self }
    }

    /// The probability of each arm, in the order of the arms: that of being the best, with a floor. They sum to 1.
    pub fn propensities(&self) -> Vec<f64> {
        let best = best(&self.posteriors);
        let arms = best.len() as f64;
        let floor = FLOOR.min(1.0 / arms);
        best.into_iter().map(|p| floor + (1.0 - arms * floor) * p).collect()
    }
}

/// The probability of each distribution to have the highest value of all.
///
/// Over cells: the probability to be in a cell with all others below it. Who shares a cell is below as often as above.
fn best(posteriors: &[Beta]) -> Vec<f64> {
    let cells: Vec<Vec<f64>> = posteriors.iter().map(|beta| beta.cells()).collect();
    let below: Vec<Vec<f64>> = cells
        .iter()
        .map(|cells| {
            let mut sum = 0.0;
            let half = |cell: &f64| {
                sum += cell;
                sum - cell / 2.0
            };
            cells.iter().map(half).collect()
        })
        .collect();
    let wins = |(n, own): (usize, &Vec<f64>)| -> f64 {
        let mut wins = own.clone();
        for (_, other) in below.iter().enumerate().filter(|(m, _)| *m != n) {
            wins.iter_mut().zip(other).for_each(|(win, below)| *win *= below);
        }
        wins.iter().sum()
    };
    let wins: Vec<f64> = cells.iter().enumerate().map(wins).collect();
    let sum: f64 = wins.iter().sum();
    wins.into_iter().map(|win| win / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn beta(successes: f64, failures: f64) -> Beta {
        Beta { successes, failures }
    }

    fn assert_near(got: &[f64], expected: &[f64], within: f64) {
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < within), "{got:?}, not {expected:?}");
        assert_eq!(got.len(), expected.len());
    }

    fn arms(n: usize) -> Vec<i32> {
        (0..).take(n).collect()
    }

    fn monday(n: i64) -> Date {
        use jiff::ToSpan;
        "2026-01-05".parse::<Date>().unwrap().checked_add((7 * n).days()).unwrap()
    }

    #[test]
    fn the_best_arm_is_integrated_as_the_textbook_does() {
        // P(X > Y) for Y uniform is E[X].
        assert_near(&best(&[beta(2.0, 1.0), beta(1.0, 1.0)]), &[2.0 / 3.0, 1.0 / 3.0], 1e-4);
        // The integral over 2x * x * x.
        assert_near(&best(&[beta(2.0, 1.0), beta(1.0, 1.0), beta(1.0, 1.0)]), &[0.5, 0.25, 0.25], 1e-4);
        // Narrow ones are nearly normal: means .02 apart, with a standard deviation of .0315 of the difference.
        let narrow = best(&[beta(270.0, 230.0), beta(260.0, 240.0)]);
        assert_near(&narrow, &[0.737, 0.263], 0.002);
        // At the edge, where a cell is wide for the distribution.
        assert_near(&best(&[beta(1003.0, 5.0), beta(1003.0, 5.0)]), &[0.5, 0.5], 1e-9);
    }

    #[test]
    fn without_outcomes_all_arms_are_alike() {
        let knowledge = Knowledge::learn(&arms(4), 0.3, &[]);
        assert!(knowledge.posteriors.iter().all(|p| (p.mean() - 0.7).abs() < 1e-12));
        assert_near(&knowledge.propensities(), &[0.25; 4], 1e-9);
    }

    #[test]
    fn weeks_are_discounted_like_single_outcomes() {
        let arms = arms(2);
        let tally =
            |week, arm: usize, successes, failures| Tally { week: monday(week), arm: arms[arm], successes, failures };
        let tallies = [tally(0, 0, 40, 20), tally(0, 1, 30, 30), tally(1, 0, 80, 0), tally(1, 1, 20, 20)];
        let knowledge = Knowledge::learn(&arms, 0.5, &tallies);
        let total = (0..240).fold(0.0, |total, _| total * DISCOUNT + 1.0);
        let learned: f64 = knowledge.posteriors.iter().map(|p| p.successes + p.failures).sum();
        assert!((learned - 2.0 * PRIOR - total).abs() < 1e-9, "{learned} counts, {total} one after another");
        let first = knowledge.posteriors[0].successes - PRIOR / 2.0;
        let (old, new) = (DISCOUNT.powi(120), (1.0 - DISCOUNT.powi(120)) / (120.0 * 0.001));
        assert!((first - new * (40.0 * old + 80.0)).abs() < 1e-9, "{first}");
        assert_eq!(knowledge.outcomes, 240);
    }

    #[test]
    fn a_segment_with_few_outcomes_goes_by_the_tenant() {
        let arms = arms(2);
        let learn = |n| Knowledge::learn(&arms, 0.5, &[Tally { week: monday(0), arm: 0, successes: n, failures: 0 }]);
        let tenant = learn(5_000);
        assert_eq!(learn(99).or(&tenant), &tenant);
        assert_eq!(learn(100).or(&tenant), &learn(100));
    }

    #[test]
    fn an_arm_that_is_better_is_drawn_more_and_more() {
        let arms = arms(3);
        let share = |weeks: i64| {
            let tallies: Vec<Tally<i32>> = (0..weeks)
                .flat_map(|week| arms.iter().zip([10, 16, 10]).map(move |(arm, successes)| (week, arm, successes)))
                .map(|(week, arm, successes)| Tally {
                    week: monday(week),
                    arm: *arm,
                    successes,
                    failures: 20 - successes,
                })
                .collect();
            Knowledge::learn(&arms, 0.5, &tallies).propensities()[1]
        };
        let shares: Vec<f64> = [0, 1, 3, 10].into_iter().map(share).collect();
        assert!(shares.windows(2).all(|pair| pair[0] < pair[1]), "{shares:?}");
        assert!((shares[3] - 0.9).abs() < 0.001, "the rest is the floor: {shares:?}");
    }

    fn tallies() -> impl Strategy<Value = (usize, f64, Vec<Tally<i32>>)> {
        (1_usize..30, 0.0..=1.0_f64).prop_flat_map(|(n, failure)| {
            let tally =
                (0_i64..8, 0..n, 0_u32..3_000, 0_u32..3_000).prop_map(move |(week, arm, successes, failures)| Tally {
                    week: monday(week),
                    arm: arms(n)[arm],
                    successes,
                    failures,
                });
            (Just(n), Just(failure), prop::collection::vec(tally, 0..20))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn propensities_sum_to_one_and_none_is_below_the_floor((n, failure, tallies) in tallies()) {
            let propensities = Knowledge::learn(&arms(n), failure, &tallies).propensities();
            prop_assert_eq!(propensities.len(), n);
            prop_assert!((propensities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let floor = FLOOR.min(1.0 / n as f64);
            prop_assert!(propensities.iter().all(|p| *p >= floor - 1e-12), "{:?}", propensities);
        }

        #[test]
        fn the_order_of_tallies_does_not_matter((n, failure, tallies) in tallies()) {
            let backwards: Vec<Tally<i32>> = tallies.iter().rev().cloned().collect();
            let (one, other) = (Knowledge::learn(&arms(n), failure, &tallies), Knowledge::learn(&arms(n), failure, &backwards));
            prop_assert_eq!(one, other);
        }
    }
}
