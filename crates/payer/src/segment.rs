//! The segment of an invoice: its terms of payment and the size of its amount. Known before anybody has paid.

use serde::Serialize;

/// Where classes of the terms begin, in days from issue to due date; below the first is one more. Between the usual terms of
/// one, two, four, six, and nine weeks, so that a due date rolled over a weekend stays in its class.
const TERMS: [i32; 5] = [8, 17, 36, 51, 76];

/// The amounts that part a tenant's invoices in one currency into quarters, in minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quartiles(pub [i64; 3]);

impl Quartiles {
    /// Of these amounts, which are left in another order; zeros of none.
    pub fn of(amounts: &mut [i64]) -> Self {
        Self([1, 2, 3].map(|quarter| {
            let place = amounts.len() * quarter / 4;
            if place < amounts.len() { *amounts.select_nth_unstable(place).1 } else { 0 }
        }))
    }
}

/// The segment of an invoice, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SegmentKey(pub u8);

/// The segment of an invoice that is due so many days after its issue; `None` for an amount that is not known.
pub fn segment_key(terms_days: i32, amount_minor: Option<i64>, quartiles: &Quartiles) -> SegmentKey {
    let terms = TERMS.partition_point(|from| *from <= terms_days);
    let amount = amount_minor.map_or(0, |amount| 1 + quartiles.0.partition_point(|from| *from <= amount));
    SegmentKey(u8::try_from(terms * (quartiles.0.len() + 2) + amount).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn quartiles_part_amounts_into_quarters() {
        let mut amounts: Vec<i64> = (0..100).rev().collect();
        assert_eq!(Quartiles::of(&mut amounts), Quartiles([25, 50, 75]));
        assert_eq!(Quartiles::of(&mut [7]), Quartiles([7, 7, 7]));
        assert_eq!(Quartiles::of(&mut []), Quartiles([0; 3]));
    }

    #[test]
    fn terms_and_amounts_make_segments() {
        let quartiles = Quartiles([10, 20, 30]);
        let key = |terms, amount| segment_key(terms, amount, &quartiles);
        let amounts = [None, Some(9), Some(10), Some(29), Some(30)];
        let all: BTreeSet<_> =
            [7, 14, 30, 45, 60, 90].into_iter().flat_map(|terms| amounts.map(|amount| key(terms, amount))).collect();
        assert_eq!(all.len(), 6 * 5);
        assert_eq!(key(30, Some(10)), key(33, Some(19)), "rolled over a weekend");
    }
}
