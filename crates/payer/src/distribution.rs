//! The predictive distribution of a delay of payment, and what can be asked of it.

use crate::bins::{self, BINS, Counts, LATE, LATE_7};

/// How probable each bin is. The sum is 1; inside a bin all days are equally probable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution(pub Counts);

impl Distribution {
    /// What the counts say. Counts that add up to nothing, or that are no numbers, say [`Distribution::uniform`].
    pub fn of(counts: &Counts) -> Self {
        let sum: f32 = counts.iter().sum();
        if sum.is_normal() && sum > 0.0 { Self(counts.map(|count| count / sum)) } else { Self::uniform() }
    }

    /// All days equally probable: what is known when nothing is.
    pub fn uniform() -> Self {
        let mut share = [0.0; BINS];
        let width = |(left, right): (i32, i32)| (right - left) as f32;
        let total = width((bins::FIRST_DAY, bins::END));
        share.iter_mut().zip(bins::edges()).for_each(|(share, edges)| *share = width(edges) / total);
        Self(share)
    }

    /// The chance of a payment after the due date: q.
    pub fn late(&self) -> f32 {
        self.since(LATE)
    }

    /// The chance of a payment more than seven days after the due date: q7.
    pub fn late_7(&self) -> f32 {
        self.since(LATE_7)
    }

    fn since(&self, first: usize) -> f32 {
        // Rounding may add up to a little more than 1.
        self.0.iter().skip(first).sum::<f32>().min(1.0)
    }

    /// The day by which the payment has come with the chance `level` (0 to 1): linear inside a bin, then rounded down.
    pub fn quantile(&self, level: f32) -> i32 {
        let (mut below, mut day) = (0.0, bins::FIRST_DAY);
        for ((left, right), share) in bins::edges().zip(self.0).filter(|(_, share)| *share > 0.0) {
            let part = ((level - below) / share).clamp(0.0, 1.0);
            // The last day of a bin is the one before its right edge.
            day = ((left as f32 + part * (right - left) as f32).floor() as i32).min(right - 1);
            below += share;
            if below >= level {
                break;
            }
        }
        day
    }

    /// The chance that the payment has not come before that day: P(D >= days).
    pub fn unpaid_at(&self, days: i32) -> f32 {
        let days = days.clamp(bins::FIRST_DAY, bins::END);
        let ahead = |((left, right), share): ((i32, i32), f32)| {
            let part = (right - days.clamp(left, right)) as f32 / (right - left) as f32;
            share * part
        };
        bins::edges().zip(self.0).map(ahead).sum::<f32>().min(1.0)
    }

    /// The chance that the payment comes on that day if it has not come before: P(D = days | D >= days).
    pub fn hazard(&self, days: i32) -> f32 {
        self.self_cure(days, 1)
    }

    /// The chance that a payment which has not come before the day `days` comes within so many days, that day included,
    /// if nobody does anything: P(days <= D < days + within | D >= days).
    ///
    /// 0 where the last bin begins: it has no end, so nothing is known about when payments in it come.
    pub fn self_cure(&self, days: i32, within: i32) -> f32 {
        let unpaid = self.unpaid_at(days);
        let end = days.saturating_add(within.max(0)).min(bins::LAST_DAYS);
        if unpaid > 0.0 { ((unpaid - self.unpaid_at(end)) / unpaid).max(0.0) } else { 0.0 }
    }

    /// The chance of being late of an invoice that is still unpaid at the beginning of the day `days` (today minus the due
    /// date, at most 0): q / P(D >= days). After the due date it is late already: 1.
    pub fn late_given_unpaid(&self, days: i32) -> f32 {
        let unpaid = self.unpaid_at(days);
        if unpaid > 0.0 { (self.late() / unpaid).min(1.0) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::bin;
    use proptest::prelude::*;

    /// Shares of the bins that hold these days.
    fn distribution(shares: &[(i32, f32)]) -> Distribution {
        let mut counts = [0.0; BINS];
        shares.iter().for_each(|(day, share)| counts[bin(*day)] += share);
        Distribution(counts)
    }

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }

    #[test]
    fn lateness_adds_up_the_bins_after_the_due_date() {
        let d = distribution(&[(-5, 0.2), (0, 0.3), (1, 0.1), (7, 0.1), (8, 0.1), (200, 0.2)]);
        close(d.late(), 0.5);
        close(d.late_7(), 0.3);
    }

    #[test]
    fn quantiles_are_linear_inside_a_bin_and_rounded_down() {
        // Ten days from -21 to -12 would be bins -21 and -14; the bin 31 to 45 has fifteen days.
        let d = distribution(&[(0, 0.5), (31, 0.5)]);
        assert_eq!([0.1, 0.5, 0.6, 0.75, 0.9, 1.0].map(|level| d.quantile(level)), [0, 0, 34, 38, 43, 45]);
    }

    #[test]
    fn a_day_is_a_part_of_its_bin() {
        // Days 4 and 5 share a bin.
        let d = distribution(&[(0, 0.5), (4, 0.4), (15, 0.1)]);
        close(d.unpaid_at(0), 1.0);
        close(d.unpaid_at(1), 0.5);
        close(d.unpaid_at(5), 0.3);
        close(d.hazard(0), 0.5);
        close(d.hazard(4), 0.4);
        close(d.hazard(5), 0.2 / 0.3);
        close(d.hazard(2), 0.0);
        close(d.self_cure(4, 2), 0.8);
        close(d.self_cure(-30, 31), 0.5);
        close(d.self_cure(0, 0), 0.0);
    }

    #[test]
    fn nobody_pays_by_itself_beyond_what_is_known() {
        let d = distribution(&[(0, 0.4), (61, 0.3), (91, 0.3)]);
        close(d.self_cure(61, 1_000), 0.5);
        assert_eq!([91, 120, 400].map(|day| d.self_cure(day, 5)), [0.0; 3]);
        assert_eq!(distribution(&[(0, 1.0)]).hazard(10), 0.0, "nobody is left");
    }

    #[test]
    fn what_is_still_unpaid_is_more_likely_to_be_late() {
        let d = distribution(&[(-7, 0.5), (0, 0.3), (3, 0.2)]);
        close(d.late_given_unpaid(-30), 0.2);
        close(d.late_given_unpaid(-2), 0.4);
        assert_eq!(d.late_given_unpaid(1), 1.0);
        assert_eq!(distribution(&[(-7, 1.0)]).late_given_unpaid(0), 1.0, "nothing of the kind was ever seen");
    }

    #[test]
    fn counts_that_say_nothing_are_uniform() {
        close(Distribution::of(&[0.0; BINS]).unpaid_at(30), 91.0 / 182.0);
        assert_eq!(Distribution::of(&[f32::NAN; BINS]), Distribution::uniform());
    }

    proptest! {
        #[test]
        fn probabilities_stay_within_bounds(counts in prop::array::uniform24(0.0_f32..100.0), day in -80_i32..140, within in 0_i32..60) {
            let d = Distribution::of(&counts);
            for p in [d.late(), d.late_7(), d.unpaid_at(day), d.hazard(day), d.self_cure(day, within), d.late_given_unpaid(day)] {
                prop_assert!((0.0..=1.0).contains(&p), "{}", p);
            }
            prop_assert!(d.late_7() <= d.late());
            prop_assert!(d.unpaid_at(day) >= d.unpaid_at(day + 1));
            let quantiles = [0.1, 0.25, 0.5, 0.75, 0.9].map(|level| d.quantile(level));
            prop_assert!(quantiles.is_sorted());
            // What the quantile says, the chance of being unpaid says too.
            prop_assert!(d.unpaid_at(quantiles[2]) >= 0.5 - 1e-4 && d.unpaid_at(quantiles[2] + 1) <= 0.5 + 1e-4);
        }
    }
}
