//! Customers that look alike: how those who looked like this one paid next.
//!
//! A segment knows what is owed, not who owes it. Peers share what matters most of a customer's own history: when its last
//! payment came, how much is known of it, and whether it is overdue now. What such customers did next corrects what the counts
//! of one customer say: a late payment after four punctual ones means more than its weight.

use crate::estimator::{Open, Payer};
use serde::Serialize;

/// Where classes of the last delay begin, in days; below the first is one more.
const LAST_DELAYS: [i32; 7] = [-9, -3, 0, 1, 4, 8, 15];
/// Where classes of the effective settlements begin; below the first is one more.
const HISTORIES: [f32; 2] = [2.5, 5.0];

/// A group of customers with like histories, as stored: below [`Peers::GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Peers(pub u8);

impl Peers {
    /// How many groups there are.
    pub const GROUPS: usize = (LAST_DELAYS.len() + 1) * (HISTORIES.len() + 1) * 2;

    /// The group of a customer with these open overdue invoices; `None` while it has never paid.
    pub fn of(payer: &Payer, open: &[Open]) -> Option<Self> {
        let delay = payer.last_delay()?;
        let last = LAST_DELAYS.partition_point(|from| *from <= delay);
        let effective = payer.effective();
        let history = HISTORIES.partition_point(|from| *from <= effective);
        let group = (last * (HISTORIES.len() + 1) + history) * 2 + usize::from(!open.is_empty());
        u8::try_from(group).ok().map(Self)
    }
}

const _: () = assert!(Peers::GROUPS <= 256, "a group is stored in a byte");

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const OVERDUE: [Open; 1] = [Open { overdue_days: 1 }];

    #[test]
    fn every_group_is_its_own() {
        let mut groups = BTreeSet::new();
        for last in [-20, -5, -2, 0, 2, 6, 10, 40] {
            for settled in [1, 3, 20] {
                let payer = Payer::replay((0..settled).map(|_| last));
                groups.extend([&[], &OVERDUE[..]].map(|open| Peers::of(&payer, open).unwrap()));
            }
        }
        assert_eq!(groups.len(), Peers::GROUPS);
        assert!(groups.iter().all(|group| usize::from(group.0) < Peers::GROUPS));
    }

    #[test]
    fn the_last_payment_decides() {
        let group = |delays: [i32; 3]| Peers::of(&Payer::replay(delays), &[]);
        assert_eq!(group([0, 0, 2]), group([30, -9, 3]));
        assert_ne!(group([0, 0, 0]), group([0, 0, 1]));
    }

    #[test]
    fn who_has_never_paid_has_none() {
        assert_eq!(Peers::of(&Payer::default(), &OVERDUE), None);
    }
}
