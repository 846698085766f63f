//! How much customers differ in being late: the intra-class correlation, and the weight of the prior that follows from it.

use crate::estimator::KAPPA;

/// So many customers are needed to tell.
const CUSTOMERS: u32 = 50;
/// Each with so many settlements.
const SETTLEMENTS: u32 = 3;
/// The prior never weighs less or more settlements than these.
const BOUNDS: (f64, f64) = (2.0, 15.0);

/// Sums over the customers of a tenant for a one-way analysis of variance of "late".
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// Customers with at least three settlements.
    customers: u32,
    /// Their settlements.
    settled: f64,
    /// Sum of the squares of each customer's settlements.
    squares: f64,
    /// Late ones.
    late: f64,
    /// Sum of late^2 / settled.
    between: f64,
}

impl Spread {
    /// What is to be kept if the customers are gone through in parts.
    pub fn sums(&self) -> [f64; 5] {
        [f64::from(self.customers), self.settled, self.squares, self.late, self.between]
    }

    /// Goes on from what was kept.
    pub fn from_sums([customers, settled, squares, late, between]: [f64; 5]) -> Self {
        Self { customers: customers as u32, settled, squares, late, between }
    }

    /// Counts a customer with so many settlements, so many of them late. Those with less than three say little, and are left
    /// out.
    pub fn add(&mut self, settled: u32, late: u32) {
        if settled < SETTLEMENTS {
            return;
        }
        let (n, late) = (f64::from(settled), f64::from(late));
        self.customers += 1;
        self.settled += n;
        self.squares += n * n;
        self.late += late;
        self.between += late * late / n;
    }

    /// The share of the variance of "late" that lies between customers, by analysis of variance; `None` with fewer than 50
    /// customers, and if all payments are of a kind.
    ///
    /// Source: Donner, "A review of inference procedures for the intraclass correlation coefficient in the one-way random
    /// effects model", 1986, for groups of unequal size.
    pub fn icc(&self) -> Option<f64> {
        if self.customers < CUSTOMERS {
            return None;
        }
        let (k, n) = (f64::from(self.customers), self.settled);
        let between = (self.between - self.late * self.late / n) / (k - 1.0);
        let within = (self.late - self.between) / (n - k);
        let size = (n - self.squares / n) / (k - 1.0);
        let icc = (between - within) / (between + (size - 1.0) * within);
        icc.is_finite().then_some(icc)
    }

    /// How many settlements the prior weighs: (1 - ICC) / ICC, between 2 and 15; [`KAPPA`] while it cannot be told.
    pub fn kappa(&self) -> f32 {
        let of = |icc: f64| if icc > 0.0 { ((1.0 - icc) / icc).clamp(BOUNDS.0, BOUNDS.1) } else { BOUNDS.1 };
        self.icc().map_or(KAPPA, |icc| of(icc) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many customers with each of these (settled, late).
    fn spread(customers: u32, of: &[(u32, u32)]) -> Spread {
        let mut spread = Spread::default();
        (0..customers).for_each(|_| of.iter().for_each(|(settled, late)| spread.add(*settled, *late)));
        spread
    }

    #[test]
    fn it_is_what_a_pencil_says() {
        // Half of the customers pay 1 of 4 late, the others 3 of 4: the mean square between is 200 * 4 * (1/4)^2 / 199, within
        // 200 * 4 * 3/16 / 600 = 1/4.
        let (between, within) = (50.0 / 199.0, 0.25);
        let icc = spread(100, &[(4, 1), (4, 3)]).icc().unwrap();
        assert!((icc - (between - within) / (between + 3.0 * within)).abs() < 1e-12, "{icc}");
    }

    #[test]
    fn the_prior_weighs_less_the_more_customers_differ() {
        assert_eq!(spread(100, &[(4, 0), (4, 4)]).icc(), Some(1.0));
        assert_eq!(spread(100, &[(4, 0), (4, 4)]).kappa(), 2.0);
        assert_eq!(spread(100, &[(4, 2), (4, 2)]).kappa(), 15.0, "all alike");
        let moderate = spread(100, &[(10, 0), (10, 5)]);
        let icc = moderate.icc().unwrap();
        assert!((f64::from(moderate.kappa()) - (1.0 - icc) / icc).abs() < 1e-6, "{icc}");
    }

    #[test]
    fn what_was_kept_goes_on() {
        let mut parts = Spread::from_sums(spread(150, &[(4, 1)]).sums());
        (0..150).for_each(|_| parts.add(5, 3));
        assert!(parts.icc().is_some());
        let mut at_once = spread(150, &[(4, 1)]);
        (0..150).for_each(|_| at_once.add(5, 3));
        assert_eq!(parts, at_once);
    }

    #[test]
    fn few_customers_say_nothing() {
        assert_eq!(spread(49, &[(4, 1)]).icc(), None);
        assert!(spread(50, &[(4, 1)]).icc().is_some());
        assert_eq!(spread(49, &[(3, 0)]).kappa(), KAPPA);
        assert_eq!(spread(300, &[(2, 0), (2, 2)]).kappa(), KAPPA, "two settlements are too few");
        assert_eq!(spread(300, &[(4, 0)]).kappa(), KAPPA, "nobody is ever late");
    }
}
