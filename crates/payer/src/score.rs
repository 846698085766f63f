//! How good forecasts were, once it is known what happened.

use serde::Serialize;

/// The levels of the quantiles that are scored.
pub const LEVELS: [f32; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];
/// Delays are cut off here before distances in days are scored, so that a few ancient invoices do not decide.
const SCORED_DAYS: (i32, i32) = (-30, 60);
/// How many bins of equal count calibration is looked at in.
const CALIBRATION_BINS: usize = 10;
/// The share of invoices that a reminder is thought of for.
const RISKIEST: f64 = 0.3;

/// What was said of an invoice when it was issued, and what happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// The chance of being late.
    pub q: f32,
    /// The chance of being more than seven days late; `None` of a model that does not say.
    pub q7: Option<f32>,
    /// The days at [`LEVELS`]; `None` of a model that does not say.
    pub quantiles: Option<[i32; LEVELS.len()]>,
    /// When it was paid: days after the due date.
    pub delay: i32,
}

/// What forecasts were worth. A figure is `None` if it cannot be: of nothing, or of a model that does not say.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Invoices.
    pub invoices: usize,
    /// Those of them that were late.
    pub late: usize,
    /// How often a late invoice was given a higher q than one that was not: .5 is guessing, 1 is perfect.
    pub auc_late: Option<f64>,
    /// Its standard error.
    pub auc_late_error: Option<f64>,
    /// The AUC of being more than seven days late.
    pub auc_late_7: Option<f64>,
    /// Mean of (q - late)^2.
    pub brier: Option<f64>,
    /// Expected calibration error: by how much q is off the share of late invoices, over ten bins of equal count.
    pub calibration_error: Option<f64>,
    /// Mean pinball loss over [`LEVELS`], in days.
    pub pinball: Option<f64>,
    /// The share of payments within the 80 % interval.
    pub coverage_80: Option<f64>,
    /// Mean distance from the median, in days.
    pub median_error: Option<f64>,
    /// The share of late invoices among the 30 % with the highest q. Where many have the same q, as drawn by lot.
    pub late_reached: Option<f64>,
}

impl Figures {
    /// Of these forecasts.
    pub fn of(forecasts: &[Forecast]) -> Self {
        let late = |f: &Forecast| f.delay > 0;
        let of_days = |score: fn([i32; LEVELS.len()], i32) -> f64| {
            mean(forecasts.iter().map(|f| f.quantiles.map(|q| score(q, f.delay.clamp(SCORED_DAYS.0, SCORED_DAYS.1)))))
        };
        let lates = forecasts.iter().filter(|f| late(f)).count();
        let auc_late = auc(forecasts.iter().map(|f| (f.q, late(f))));
        Self {
            invoices: forecasts.len(),
            late: lates,
            auc_late,
            auc_late_error: auc_late.map(|auc| auc_error(auc, lates, forecasts.len() - lates)),
            auc_late_7: forecasts
                .iter()
                .map(|f| Some((f.q7?, f.delay > 7)))
                .collect::<Option<Vec<_>>>()
                .and_then(|scored| auc(scored.into_iter())),
            brier: mean(forecasts.iter().map(|f| Some((f64::from(f.q) - f64::from(u8::from(late(f)))).powi(2)))),
            calibration_error: calibration_error(&calibration(forecasts)),
            pinball: of_days(pinball),
            coverage_80: of_days(|[low, .., high], delay| f64::from(u8::from(low <= delay && delay <= high))),
            median_error: of_days(|[_, _, median, ..], delay| f64::from((median - delay).abs())),
            late_reached: reached(forecasts),
        }
    }
}

/// The mean; `None` of nothing, and if one of them is `None`.
fn mean(values: impl ExactSizeIterator<Item = Option<f64>>) -> Option<f64> {
    let n = values.len();
    let sum: f64 = values.sum::<Option<f64>>()?;
    (n > 0).then(|| sum / n as f64)
}

fn pinball(quantiles: [i32; LEVELS.len()], delay: i32) -> f64 {
    let loss = |(level, quantile): (f32, i32)| {
        let (level, above) = (f64::from(level), f64::from(delay - quantile));
        if above >= 0.0 { level * above } else { (level - 1.0) * above }
    };
    LEVELS.into_iter().zip(quantiles).map(loss).sum::<f64>() / LEVELS.len() as f64
}

/// The area under the ROC curve by ranks; equal scores share theirs. `None` if all are of a kind.
fn auc(scored: impl Iterator<Item = (f32, bool)>) -> Option<f64> {
    let mut scored: Vec<(f32, bool)> = scored.collect();
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins, mut positives) = (0_usize, 0.0, 0_usize);
    for equals in scored.chunk_by(|a, b| a.0 == b.0) {
        let here = equals.iter().filter(|(_, positive)| *positive).count();
        let others = equals.len() - here;
        wins += here as f64 * (below as f64 + others as f64 / 2.0);
        below += others;
        positives += here;
    }
    (positives > 0 && below > 0).then(|| wins / (positives as f64 * below as f64))
}

/// The standard error of an AUC (Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic
/// curve", 1982).
fn auc_error(auc: f64, positives: usize, negatives: usize) -> f64 {
    let (p, n) = (positives as f64, negatives as f64);
    let (q1, q2) = (auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc));
    let square = auc * auc;
    ((auc * (1.0 - auc) + (p - 1.0) * (q1 - square) + (n - 1.0) * (q2 - square)) / (p * n)).sqrt()
}

/// What was said, and what happened, of a part of the forecasts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Calibration {
    /// Invoices.
    pub invoices: usize,
    /// Their mean q.
    pub said: f64,
    /// The share of late ones.
    pub happened: f64,
}

/// The reliability diagram: ten bins of equal count, by rising q.
pub fn calibration(forecasts: &[Forecast]) -> Vec<Calibration> {
    let mut sorted: Vec<&Forecast> = forecasts.iter().collect();
    sorted.sort_by(|a, b| a.q.total_cmp(&b.q));
    let edge = |bin: usize| bin * sorted.len() / CALIBRATION_BINS;
    (0..CALIBRATION_BINS)
        .filter_map(|bin| sorted.get(edge(bin)..edge(bin + 1)).filter(|part| !part.is_empty()))
        .map(|part| Calibration {
            invoices: part.len(),
            said: part.iter().map(|f| f64::from(f.q)).sum::<f64>() / part.len() as f64,
            happened: part.iter().filter(|f| f.delay > 0).count() as f64 / part.len() as f64,
        })
        .collect()
}

fn calibration_error(bins: &[Calibration]) -> Option<f64> {
    let invoices: usize = bins.iter().map(|bin| bin.invoices).sum();
    let off: f64 = bins.iter().map(|bin| bin.invoices as f64 * (bin.said - bin.happened).abs()).sum();
    (invoices > 0).then(|| off / invoices as f64)
}

fn reached(forecasts: &[Forecast]) -> Option<f64> {
    let mut sorted: Vec<&Forecast> = forecasts.iter().collect();
    sorted.sort_by(|a, b| b.q.total_cmp(&a.q));
    let mut left = (RISKIEST * sorted.len() as f64).round();
    let (mut reached, mut late) = (0.0, 0.0);
    for equals in sorted.chunk_by(|a, b| a.q == b.q) {
        let here = equals.iter().filter(|f| f.delay > 0).count() as f64;
        let n = equals.len() as f64;
        let taken = left.min(n);
        reached += here * taken / n;
        left -= taken;
        late += here;
    }
    (late > 0.0).then(|| reached / late)
}

/// How often a payment came by the day of a quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Coverage {
    /// The level of the quantile.
    pub level: f32,
    /// The share of payments before that day. Days are whole, so the level should lie between this share ...
    pub before: f64,
    /// ... and the share of payments up to and with that day.
    pub until: f64,
}

/// The coverage of each level; nothing of models that do not say.
pub fn coverage(forecasts: &[Forecast]) -> Vec<Coverage> {
    let Some(said) = forecasts.iter().map(|f| Some((f.quantiles?, f.delay))).collect::<Option<Vec<_>>>() else {
        return Vec::new();
    };
    let share = |place: usize, holds: fn(i32, i32) -> bool| {
        let n = said.iter().filter(|(days, delay)| days.get(place).is_some_and(|day| holds(*delay, *day))).count();
        n as f64 / said.len().max(1) as f64
    };
    let of_level = |(place, level)| Coverage {
        level,
        before: share(place, |delay, day| delay < day),
        until: share(place, |delay, day| delay <= day),
    };
    LEVELS.into_iter().enumerate().map(of_level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forecast(q: f32, delay: i32) -> Forecast {
        Forecast { q, q7: Some(q / 2.0), quantiles: Some([-2, -1, 0, 1, 10]), delay }
    }

    fn close(a: Option<f64>, b: f64) {
        assert!(a.is_some_and(|a| (a - b).abs() < 1e-6), "{a:?} is not {b}");
    }

    #[test]
    fn figures_are_what_a_pencil_says() {
        let figures = Figures::of(&[forecast(0.1, -3), forecast(0.2, 5), forecast(0.4, 0), forecast(0.4, 100)]);
        assert_eq!((figures.invoices, figures.late), (4, 2));
        // Of four pairs: .2 above .1, .4 above .1, .4 equal to .4, and .2 below .4.
        close(figures.auc_late, 2.5 / 4.0);
        close(figures.auc_late_7, 2.5 / 3.0);
        close(figures.brier, (0.01 + 0.64 + 0.16 + 0.36) / 4.0);
        close(figures.coverage_80, 0.5);
        close(figures.median_error, (3.0 + 5.0 + 0.0 + 60.0) / 4.0);
        // One of four; either of the two at .4, one of which is one of two late ones.
        close(figures.late_reached, 0.25);
        // Bins of one invoice each, and the two equal ones in their order.
        close(figures.calibration_error, (0.1 + 0.8 + 0.4 + 0.6) / 4.0);
    }

    #[test]
    fn borders_belong_to_the_right_side() {
        // Both ends of the interval are in it.
        let covered = |delay| Figures::of(&[forecast(0.1, delay)]).coverage_80;
        assert_eq!([-3, -2, 10, 11].map(covered), [0.0, 1.0, 1.0, 0.0].map(Some));
        // Seven days are not more than seven: only the first of three is.
        let week = Figures::of(&[forecast(0.3, 8), forecast(0.2, 7), forecast(0.1, 0)]);
        assert_eq!((week.late, week.auc_late_7), (2, Some(1.0)));
        let other = Figures::of(&[forecast(0.1, 8), forecast(0.2, 7), forecast(0.3, 0)]);
        assert_eq!(other.auc_late_7, Some(0.0));
        let none = Figures::of(&[forecast(0.1, 7), forecast(0.2, 0)]);
        assert_eq!(none.auc_late_7, None);
    }

    #[test]
    fn pinball_weighs_what_lies_above_by_the_level() {
        let at = |delay| pinball([0; 5], delay);
        close(Some(at(10)), 10.0 * (0.1 + 0.25 + 0.5 + 0.75 + 0.9) / 5.0);
        close(Some(at(-10)), 10.0 * 0.5);
        close(Some(pinball([-1, 0, 0, 0, 0], 10)), (11.0 * 0.1 + 10.0 * 2.4) / 5.0);
    }

    #[test]
    fn an_auc_is_off_by_what_the_source_says() {
        // Guessing: the variance is (p + n + 1) / (12 p n).
        close(Some(auc_error(0.5, 30, 50)), (81.0_f64 / 18_000.0).sqrt());
        close(Some(auc_error(1.0, 30, 50)), 0.0);
        // A single pair is a coin.
        close(Some(auc_error(0.8, 1, 1)), 0.4);
    }

    #[test]
    fn nothing_has_no_figures() {
        assert_eq!(Figures::of(&[]), Figures::default());
        let figures = Figures::of(&[forecast(0.1, 3)]);
        assert_eq!(figures.auc_late, None, "all are late");
        let silent = Figures::of(&[Forecast { q7: None, quantiles: None, ..forecast(0.1, 3) }]);
        assert_eq!((silent.auc_late_7, silent.pinball, silent.coverage_80), (None, None, None));
    }

    #[test]
    fn levels_are_covered_from_both_sides() {
        let of = |delays: &[i32]| coverage(&delays.iter().map(|d| forecast(0.1, *d)).collect::<Vec<_>>());
        let median = of(&[-5, 0, 0, 3])[2];
        assert_eq!((median.level, median.before, median.until), (0.5, 0.25, 0.75));
    }

    proptest! {
        #[test]
        fn a_ranking_turned_around_loses_what_it_won(rows in prop::collection::vec((0.0_f32..1.0, -5_i32..15), 2..60)) {
            let forecasts = |scale: fn(f32) -> f32| rows.iter().map(|(q, d)| forecast(scale(*q), *d)).collect::<Vec<_>>();
            let (a, b) = (Figures::of(&forecasts(|q| q)), Figures::of(&forecasts(|q| -q)));
            prop_assert_eq!(a.auc_late.is_some(), b.auc_late.is_some());
            if let (Some(a), Some(b)) = (a.auc_late, b.auc_late) {
                prop_assert!((a + b - 1.0).abs() < 1e-9, "turned around, wins are losses");
            }
        }
    }
}
