//! What came of each arm.

use super::sequence::Interval;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A decision of a step, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The key of the step.
    pub step: String,
    /// What was drawn, as the campaign writes it.
    pub arm: String,
    /// The logged probability with which it was.
    pub propensity: f64,
    /// Whether it worked: paid by the due date, or within seven days of a decision after it.
    pub is_success: bool,
}

/// What came of an arm of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArmReport {
    /// The key of the step.
    pub step: String,
    /// The arm, as the campaign writes it.
    pub arm: String,
    /// How often it was drawn.
    pub n: u32,
    /// The share of the step's decisions that drew it.
    pub share: f64,
    /// The share of successes when it was drawn. Arms are drawn more often for some payers than for others, so these do not
    /// compare arms.
    pub observed: f64,
    /// The share of successes if it were always drawn, with a 95 % interval at one look: each decision counts as many times
    /// as it was unlikely (Hajek 1971). These do compare arms.
    pub success: Interval,
}

/// What came of a step's arm so far.
#[derive(Default)]
struct Sums {
    n: u32,
    successes: u32,
    weights: f64,
    squares: f64,
    weighted_successes: f64,
}

pub(super) fn reports(trials: &[Trial]) -> Vec<ArmReport> {
    let mut steps: BTreeMap<&str, BTreeMap<&str, Sums>> = BTreeMap::new();
    // A propensity of zero cannot have been drawn.
    for trial in trials.iter().filter(|trial| trial.propensity > 0.0) {
        let sums = steps.entry(&trial.step).or_default().entry(trial.arm.as_str()).or_default();
        let weight = 1.0 / trial.propensity;
        sums.n += 1;
        sums.weights += weight;
        sums.squares += weight * weight;
        if trial.is_success {
            sums.successes += 1;
            sums.weighted_successes += weight;
        }
    }
    let of_step = |(step, arms): (&str, BTreeMap<&str, Sums>)| -> Vec<ArmReport> {
        let all: f64 = arms.values().map(|sums| f64::from(sums.n)).sum();
        arms.into_iter().map(|(arm, sums)| sums.report(step, arm, all)).collect()
    };
    steps.into_iter().flat_map(of_step).collect()
}

impl Sums {
    fn report(&self, step: &str, arm: &str, all: f64) -> ArmReport {
        let n = f64::from(self.n);
        // As many decisions of equal weight would say as much (Kish 1965).
        let effective = self.weights * self.weights / self.squares;
        let plot::Interval { estimate, low, high } = plot::share(self.weighted_successes / self.weights, effective);
        ArmReport {
            step: step.to_owned(),
            arm: arm.to_owned(),
            n: self.n,
            share: n / all,
            observed: f64::from(self.successes) / n,
            success: Interval { estimate, low, high },
        }
    }
}
