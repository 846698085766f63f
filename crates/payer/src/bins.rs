//! The bins in which delays of payment are counted.
//!
//! A delay is the day of payment minus the due date, in days: negative is early, 0 is on the due date. Bins are a day wide
//! around the due date, where most payments fall and a day matters, and wider away from it.

/// How many bins there are.
pub const BINS: usize = 24;

/// A weight for each bin.
pub type Counts = [f32; BINS];

/// The left edges of the bins in days, and the right edge of the last one. A bin holds the days from its edge to the day
/// before the next.
pub const EDGES: [i32; BINS + 1] =
    [-61, -30, -21, -14, -10, -7, -5, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 11, 15, 22, 31, 46, 61, 91, 121];

/// The earliest day that is told from others.
pub const FIRST_DAY: i32 = EDGES[0];

/// Where the last bin begins. It has no end: how its payments are spread is not known.
pub const LAST_DAYS: i32 = EDGES[BINS - 1];

/// The day after the last one that is told from others.
pub const END: i32 = EDGES[BINS];

/// The first bin of payments after the due date.
pub const LATE: usize = bin(1);

/// The first bin of payments more than seven days after the due date.
pub const LATE_7: usize = bin(8);

/// The bin of a delay. Whatever lies outside of all bins goes into the first or the last one: 300 days is "91 or more".
pub const fn bin(days: i32) -> usize {
    let mut bin = 0;
    // The loop ends before the array does.
    #[expect(clippy::indexing_slicing, reason = "bin + 1 is at most BINS - 1")]
    while bin + 1 < BINS && days >= EDGES[bin + 1] {
        bin += 1;
    }
    bin
}

/// The bins with their left and right edges in days.
pub fn edges() -> impl DoubleEndedIterator<Item = (i32, i32)> + ExactSizeIterator {
    EDGES.into_iter().zip(EDGES.into_iter().skip(1)).take(BINS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_is_in_the_bin_whose_edges_enclose_it() {
        for day in EDGES[0]..EDGES[BINS] {
            let bin = bin(day);
            assert!(EDGES[bin] <= day && day < EDGES[bin + 1], "{day} is in bin {bin}");
        }
        assert_eq!((bin(-61), bin(-31), bin(-30), bin(0), bin(120)), (0, 0, 1, 10, 23));
    }

    #[test]
    fn what_lies_outside_goes_to_the_ends() {
        assert_eq!([bin(i32::MIN), bin(-62), bin(121), bin(i32::MAX)], [0, 0, BINS - 1, BINS - 1]);
    }

    #[test]
    fn late_begins_on_the_day_after_the_due_date() {
        assert_eq!((EDGES[LATE], EDGES[LATE - 1], EDGES[LATE_7]), (1, 0, 8));
    }

    #[test]
    fn edges_are_the_bins() {
        let widths: Vec<i32> = edges().map(|(left, right)| right - left).collect();
        assert_eq!(widths.len(), BINS);
        assert_eq!((widths[0], widths[BINS - 1], widths.iter().sum::<i32>()), (31, 30, 182));
    }
}
