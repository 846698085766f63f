//! Intervals around a mean: one that holds at all times at once, and a classical one.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How often an interval may miss the truth: at all in a sequence, at its one time for a classical one.
const ALPHA: f64 = 0.05;
/// The number of units at which the sequence is narrowest for its kind.
const BEST_AT: f64 = 3_000.0;
/// The 97.5 % quantile of the normal distribution.
const NORMAL: f64 = 1.959_964;

/// A difference, treated less held out, with the range in which the truth lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// The best guess.
    pub estimate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    fn around(estimate: f64, half: f64) -> Self {
        Self { estimate, low: estimate - half, high: estimate + half }
    }

    /// Half its width.
    pub fn half_width(self) -> f64 {
        (self.high - self.low) / 2.0
    }

    pub(super) fn for_plot(self) -> plot::Interval {
        plot::Interval { estimate: self.estimate, low: self.low, high: self.high }
    }
}

/// Half the width of the confidence sequence after `n` units, in standard deviations of one unit.
///
/// With T = n rho^2: sqrt(2 (T + 1) / (n T) ln(sqrt(T + 1) / alpha)), where
/// rho^2 = (-2 ln alpha + ln(-2 ln alpha) + 1) / [`BEST_AT`].
fn radius(n: f64) -> f64 {
    let log = -2.0 * ALPHA.ln();
    let t = n * (log + log.ln() + 1.0) / BEST_AT;
    (2.0 * (t + 1.0) / (n * t) * ((t + 1.0).sqrt() / ALPHA).ln()).sqrt()
}

/// What a unit says of the difference, and how sure it can be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said {
    /// An unbiased guess of the difference.
    pub(super) difference: f64,
    /// The standard deviation that it would have if all units, in both groups, missed what is expected by as much as this one.
    pub(super) miss: f64,
}

/// Sums of what units say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    n: f64,
    sum: f64,
    squares: f64,
    misses: f64,
}

impl Moments {
    pub(super) fn add(&mut self, said: Said) {
        self.n += 1.0;
        self.sum += said.difference;
        self.squares += said.difference * said.difference;
        self.misses += said.miss * said.miss;
    }

    /// The standard deviation of a unit: the observed one, or that of both groups together if it is greater. Where late payments
    /// are rare, the first held-out units are often all on time, and the observed one then is far too small.
    ///
    /// `doubt` is the variance of one more unit that knows nothing: a few units that happen to be alike do not make the rest
    /// so.
    pub(super) fn deviation(self, doubt: f64) -> f64 {
        let n = self.n.max(1.0);
        let observed = self.squares - self.sum * self.sum / n;
        ((observed.max(self.misses) + doubt) / n).sqrt()
    }

    /// The confidence sequence now.
    pub(super) fn sequence(self, doubt: f64) -> Interval {
        Interval::around(self.sum / self.n, self.deviation(doubt) * radius(self.n))
    }
}

/// About how many units are needed until half the width of the sequence is at most `limit`.
pub(super) fn needed(deviation: f64, limit: f64) -> u64 {
    let is_enough = |n: u64| deviation * radius(n as f64) <= limit;
    let mut enough = 1_u64;
    while !is_enough(enough) && enough < 1 << 40 {
        enough *= 2;
    }
    let mut too_few = enough / 2;
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        if is_enough(middle) { enough = middle } else { too_few = middle }
    }
    enough
}

/// The classical 95 % interval of a mean whose units are alike within clusters (Liang and Zeger 1986). `None` with fewer
/// than two clusters.
pub(super) fn cluster_robust(units: &[(u64, f64)]) -> Option<Interval> {
    let n = units.len() as f64;
    let mean = units.iter().map(|(_, value)| value).sum::<f64>() / n;
    let mut clusters: BTreeMap<u64, f64> = BTreeMap::new();
    for (cluster, value) in units {
        *clusters.entry(*cluster).or_default() += value - mean;
    }
    let count = clusters.len() as f64;
    let variance = clusters.values().map(|sum| sum * sum).sum::<f64>() / (n * n) * count / (count - 1.0);
    (clusters.len() > 1).then(|| Interval::around(mean, NORMAL * variance.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_as_wide_as_the_formula_says() {
        // By hand for n = 3,000: T = 8.782, so sqrt(2 * 9.782 / (3000 * 8.782) * ln(3.1276 / .05)).
        assert!((radius(3_000.0) - 0.055_42).abs() < 1e-5, "{}", radius(3_000.0));
        let classical = NORMAL / 3_000_f64.sqrt();
        assert!((1.5..1.6).contains(&(radius(3_000.0) / classical)), "about 1.6 times a classical interval");
    }

    #[test]
    fn what_is_needed_is_just_enough() {
        // Base .5, a tenth held out, without any prediction.
        let deviation = (0.25 / 0.09_f64).sqrt();
        let n = needed(deviation, 0.05);
        assert!(deviation * radius(n as f64) <= 0.05 && deviation * radius(n as f64 - 1.0) > 0.05, "{n}");
        assert!((9_000..12_000).contains(&n), "{n}");
        assert_eq!(needed(0.0, 0.05), 1);
    }

    #[test]
    fn likeness_within_clusters_widens_the_classical_interval() {
        let values = (0..200_u64).map(|n| if n % 4 == 0 { 1.0 } else { 0.0 });
        let apart: Vec<(u64, f64)> = (0..200).zip(values.clone()).collect();
        // Each value five times over, in one cluster.
        let alike: Vec<(u64, f64)> = apart.iter().flat_map(|unit| [*unit; 5]).collect();
        let (apart, alike) = (cluster_robust(&apart).unwrap(), cluster_robust(&alike).unwrap());
        assert!((apart.half_width() - alike.half_width()).abs() < 1e-12, "copies add nothing");
        let expected = NORMAL * (0.25 * 0.75 / 199.0_f64).sqrt();
        assert!((apart.half_width() - expected).abs() < 1e-12, "{apart:?}");
        assert_eq!(cluster_robust(&[(1, 0.0), (1, 1.0)]), None);
    }
}
