//! Where a number stands in a drawing, and which numbers are written beside it.

/// About how many ticks an axis has.
const TICKS: f64 = 5.0;

/// What a number may lie beyond the last tick, in steps.
const SLACK: f64 = 1e-6;

/// A range of numbers laid over a range of the drawing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis for these numbers, widened to whole ticks; `from` and `to` are where its ends are drawn.
    pub(crate) fn around(numbers: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let finite = numbers.into_iter().filter(|n| n.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), n| (low.min(n), high.max(n)));
        let (low, high) = if low < high {
            (low, high)
        } else if low.is_finite() {
            (low.min(0.0), high.max(low.min(0.0) + 1.0))
        } else {
            (0.0, 1.0)
        };
        let step = round_step((high - low) / TICKS);
        // A sum such as .9 + .1 may be a little above its tick.
        let (first, last) = ((low / step + SLACK).floor(), (high / step - SLACK).ceil());
        Self { low: first * step, high: last * step, step, from, to }
    }

    /// The same numbers drawn elsewhere.
    pub(crate) fn drawn(self, from: f64, to: f64) -> Self {
        Self { from, to, ..self }
    }

    /// Where a number is drawn; what lies outside is drawn at the end.
    pub(crate) fn at(&self, number: f64) -> f64 {
        let share = (number.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    /// Round numbers from one end to the other, with their texts.
    pub(crate) fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let (low, step) = (self.low, self.step);
        let count = ((self.high - low) / step).round() as u32;
        (0..=count).map(move |n| {
            let number = low + f64::from(n) * step;
            // A zero that is off by a rounding error would be `-0`.
            let number = if number.abs() < step / 2.0 { 0.0 } else { number };
            (number, number_text(number, step))
        })
    }
}

/// The next step of 1, 2 or 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|n| n * power).find(|step| *step >= least * 0.999).unwrap_or(10.0 * power)
}

/// A number with as many decimals as tell it from its neighbour one `step` away.
fn number_text(number: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    if number.abs() >= 10_000.0 && step >= 100.0 {
        return format!("{}k", number_text(number / 1_000.0, step / 1_000.0));
    }
    format!("{number:.decimals$}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(numbers: &[f64]) -> Vec<String> {
        Axis::around(numbers.iter().copied(), 0.0, 1.0).ticks().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_numbers() {
        assert_eq!(ticks(&[0.0, 1.0]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(&[-3.2, 11.0]), ["−5", "0", "5", "10", "15"]);
        assert_eq!(ticks(&[0.0, 0.031]), ["0.00", "0.01", "0.02", "0.03", "0.04"]);
        assert_eq!(ticks(&[0.0, 0.1 + 0.2 + 0.7]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(&[0.0, 48_000.0]), ["0", "10k", "20k", "30k", "40k", "50k"]);
    }

    #[test]
    fn no_numbers_or_only_one_still_make_an_axis() {
        for numbers in [vec![], vec![f64::NAN], vec![0.0], vec![7.0], vec![-2.0, -2.0], vec![f64::INFINITY]] {
            let axis = Axis::around(numbers.iter().copied(), 10.0, 20.0);
            assert!(axis.ticks().count() >= 2, "{numbers:?}");
            let ends: Vec<f64> = axis.ticks().map(|(number, _)| number).collect();
            let is_held = |n: &f64| (ends[0]..=ends[ends.len() - 1]).contains(n);
            assert!(numbers.iter().filter(|n| n.is_finite()).all(is_held), "{numbers:?}");
            assert!((10.0..=20.0).contains(&axis.at(1e300)) && (10.0..=20.0).contains(&axis.at(-1e300)));
        }
    }

    #[test]
    fn an_axis_may_run_upwards_in_a_drawing_that_runs_downwards() {
        let axis = Axis::around([0.0, 10.0], 200.0, 0.0);
        assert_eq!([axis.at(0.0), axis.at(5.0), axis.at(10.0)], [200.0, 100.0, 0.0]);
    }
}
