//! How a payer pays: what its history says about the next invoice.
//!
//! Pure: no async, no SQL. A history is a sum of contributions, one per invoice, so that it does not matter in which
//! order invoices are settled, and taking a payment back takes its contribution back.
//!
//! Counts and four labels for now; the seam to a proper estimator is [`History::segment`].

pub mod advice;
pub mod bins;
mod distribution;
pub mod estimator;
pub mod evaluate;
pub mod experiment;
pub mod icc;
pub mod label;
pub mod ledger;
pub mod lift;
pub mod peers;
pub mod score;
pub mod segment;
pub mod simulate;
pub mod world;

pub use label::Label;

use jiff::civil::Date;
use kernel::Segment;
use std::ops::{AddAssign, Sub};

/// What a customer's settled invoices add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Invoices with a due date that were paid.
    pub settled: i32,
    /// Those of them that were paid after their due date.
    pub late: i32,
}

impl History {
    /// The contribution of one invoice: none while it is open, or if it was never due.
    pub fn of_invoice(due_on: Option<Date>, paid_on: Option<Date>) -> Self {
        match (due_on, paid_on) {
            (Some(due_on), Some(paid_on)) => Self { settled: 1, late: i32::from(paid_on > due_on) },
            _ => Self::default(),
        }
    }

    /// The label of a customer with this history.
    ///
    /// Below two settled invoices nothing is known; at most a fifth late is prompt, half or more is late.
    pub fn segment(self) -> Segment {
        if self.settled < 2 {
            Segment::New
        } else if self.late * 5 <= self.settled {
            Segment::Prompt
        } else if self.late * 2 >= self.settled {
            Segment::UsuallyLate
        } else {
            Segment::Mixed
        }
    }
}

impl AddAssign for History {
    fn add_assign(&mut self, other: Self) {
        self.settled += other.settled;
        self.late += other.late;
    }
}

impl Sub for History {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { settled: self.settled - other.settled, late: self.late - other.late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(settled: i32, late: i32) -> Segment {
        History { settled, late }.segment()
    }

    #[test]
    fn labels_follow_the_share_of_late_payments() {
        assert_eq!(segment(1, 1), Segment::New);
        assert_eq!(segment(2, 0), Segment::Prompt);
        assert_eq!(segment(5, 1), Segment::Prompt);
        assert_eq!(segment(5, 2), Segment::Mixed);
        assert_eq!(segment(4, 2), Segment::UsuallyLate);
    }

    #[test]
    fn the_due_date_itself_is_on_time() {
        let due = Some("2026-01-31".parse().unwrap());
        let paid = |on: &str| History::of_invoice(due, Some(on.parse().unwrap()));
        assert_eq!(paid("2026-01-31"), History { settled: 1, late: 0 });
        assert_eq!(paid("2026-02-01"), History { settled: 1, late: 1 });
        assert_eq!(History::of_invoice(due, None), History::default());
        assert_eq!(History::of_invoice(None, due), History::default(), "never due, never late");
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_taking_back_undoes(invoices in prop::collection::vec(any::<Option<bool>>(), 0..30)) {
            let contribution = |late: &Option<bool>| late.map_or(History::default(), |l| History { settled: 1, late: i32::from(l) });
            let (mut forward, mut backward) = (History::default(), History::default());
            invoices.iter().for_each(|i| forward += contribution(i));
            invoices.iter().rev().for_each(|i| backward += contribution(i));
            prop_assert_eq!(forward, backward);
            invoices.iter().for_each(|i| forward += History::default() - contribution(i));
            prop_assert_eq!(forward, History::default());
        }
    }
}
