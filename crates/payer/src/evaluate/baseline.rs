//! The naive forecasts that ours has to beat.

use crate::score::{Forecast, LEVELS};

/// All invoices alike: the delays of all payments known before the first scored invoice was issued.
pub(super) struct Global(Raw);

impl Global {
    /// Of these delays.
    pub(super) fn of(delays: impl IntoIterator<Item = i32>) -> Self {
        let mut all: Vec<i32> = delays.into_iter().collect();
        all.sort_unstable();
        Self(Raw(all))
    }

    pub(super) fn forecast(&self, delay: i32) -> Forecast {
        self.0.forecast(self, delay)
    }
}

/// The plain history of a customer: its delays, sorted, each weighing the same.
#[derive(Clone, Default)]
pub(super) struct Raw(Vec<i32>);

impl Raw {
    pub(super) fn settle(&mut self, delay: i32) {
        self.0.insert(self.0.partition_point(|other| *other < delay), delay);
    }

    fn later_than(&self, days: i32) -> f32 {
        (self.0.len() - self.0.partition_point(|delay| *delay <= days)) as f32
    }

    /// By its own shares and quantiles (nearest rank); a customer without history is like all others.
    pub(super) fn forecast(&self, global: &Global, delay: i32) -> Forecast {
        let history = if self.0.is_empty() { &global.0 } else { self };
        let n = history.0.len();
        let share = |days| if n == 0 { 0.5 } else { history.later_than(days) / n as f32 };
        let rank = |level: f32| (level * n as f32).ceil() as usize;
        let quantile = |level| history.0.get(rank(level).max(1) - 1).copied().unwrap_or(0);
        Forecast { q: share(0), q7: Some(share(7)), quantiles: Some(LEVELS.map(quantile)), delay }
    }

    /// Beta-Binomial: the share of late payments, shrunk to that of all payments by `kappa` of them.
    pub(super) fn shrunk(&self, global: &Global, kappa: f32, delay: i32) -> Forecast {
        let all = global.forecast(delay);
        let of = |days, share| (kappa * share + self.later_than(days)) / (kappa + self.0.len() as f32);
        Forecast { q: of(0, all.q), q7: all.q7.map(|share| of(7, share)), quantiles: None, delay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(delays: &[i32]) -> Raw {
        let mut raw = Raw::default();
        delays.iter().for_each(|delay| raw.settle(*delay));
        raw
    }

    #[test]
    fn a_plain_history_is_its_shares_and_ranks() {
        let all = Global::of([0, 0, 0, 9]);
        let said = history(&[8, 0, -4, 1, 7]).forecast(&all, 3);
        assert_eq!((said.q, said.q7, said.delay), (0.6, Some(0.2), 3));
        assert_eq!(said.quantiles, Some([-4, 0, 1, 7, 8]));
    }

    #[test]
    fn who_has_no_history_is_like_all_others() {
        let all = Global::of([9, 0, 0, 0]);
        let said = all.forecast(3);
        assert_eq!((said.q, said.q7, said.quantiles), (0.25, Some(0.25), Some([0, 0, 0, 0, 9])));
        assert_eq!(history(&[]).forecast(&all, 3), said);
        assert_eq!(history(&[]).forecast(&Global::of([]), 3).q, 0.5, "nobody has paid yet");
    }

    #[test]
    fn shrinking_weighs_all_others_by_kappa() {
        let said = history(&[5, 12]).shrunk(&Global::of([0, 0, 0, 9]), 6.0, 3);
        assert_eq!((said.q, said.q7, said.quantiles), (3.5 / 8.0, Some(2.5 / 8.0), None));
    }
}
