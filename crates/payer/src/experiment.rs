//! Experiments: who gets what, by chance that anybody can check.
//!
//! Chance is a hash ([`uniform`]): the same invoice always draws the same number, on every machine, in a replay, without
//! asking anybody. Each draw is made with known probabilities, and the probability of what was drawn (its *propensity*) is
//! kept with the decision: [`crate::lift`] divides by it.
//!
//! * [`Holdouts`]: invoices and customers that stay on the merchant's static schedule, to compare with.
//! * [`Split`]: a fixed A/B split over arms.
//! * [`Knowledge`]: Thompson sampling, which draws arms the more often the better they have done.

mod choice;
mod holdout;
mod split;
mod thompson;

pub use choice::Choice;
pub use holdout::{Group, Holdouts};
pub use split::Split;
pub use thompson::{Beta, Knowledge, Tally};

use jiff::ToSpan;
use jiff::civil::Date;
use kernel::MerchantId;
use sha2::{Digest, Sha256};

/// Why something cannot be an experiment.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExperimentError {
    /// A share of held-out invoices or customers that is none.
    #[error("a holdout of {0} is not a share: at least 0 and below 1")]
    Share(f64),
    /// Nobody could be given anything.
    #[error("a split needs at least one arm with a weight above 0")]
    Weights,
}

/// A number from 0 to below 1 for an id of a merchant: uniform over ids, and unrelated between salts.
///
/// The first 53 bits of a SHA-256 over the parts, each ended by a zero byte, which ids do not contain. FNV would do for
/// shards; it would not here, since its draws for two salts or for ids in sequence are related.
pub fn uniform(salt: &str, merchant: &MerchantId, id: &str) -> f64 {
    let mut hash = Sha256::new();
    for part in [salt, merchant.as_str(), id] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let bits = hash.finalize().iter().take(8).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The Monday of a day's ISO week: weeks are counted under it.
pub fn week_of(day: Date) -> Date {
    // The first days of all dates have no Monday; they are their own.
    day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).unwrap_or(day)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn merchant() -> MerchantId {
        MerchantId::try_new("acme").unwrap()
    }

    #[test]
    fn a_draw_never_changes() {
        // Whoever changes it moves every running invoice to another group.
        assert_eq!(uniform("holdout", &merchant(), "in_1"), 0.5961209241493175);
    }

    #[test]
    fn draws_are_uniform_even_for_ids_in_sequence() {
        const N: u32 = 20_000;
        let mut tenths = [0_u32; 10];
        for n in 0..N {
            tenths[(uniform("a", &merchant(), &format!("in_{n}")) * 10.0) as usize] += 1;
        }
        let expected = f64::from(N) / 10.0;
        let chi_square: f64 = tenths.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        // Nine degrees of freedom: above 27.9 once in a thousand, below 1.15 too.
        assert!((1.15..27.9).contains(&chi_square), "{chi_square}: {tenths:?}");
    }

    #[test]
    fn draws_under_two_salts_are_unrelated() {
        const N: u32 = 20_000;
        let product = |n: u32| {
            let draw = |salt| uniform(salt, &merchant(), &format!("in_{n}")) - 0.5;
            draw("a") * draw("b")
        };
        let correlation = (0..N).map(product).sum::<f64>() / f64::from(N) * 12.0;
        assert!(correlation.abs() < 4.0 / f64::from(N).sqrt(), "{correlation}");
    }

    #[test]
    fn parts_are_kept_apart() {
        let id = |text: &str| MerchantId::try_new(text).unwrap();
        assert_ne!(uniform("a", &id("b"), "c"), uniform("ab", &id("c"), ""));
        assert_ne!(uniform("a", &id("b"), "cd"), uniform("a", &id("bc"), "d"));
    }

    #[test]
    fn weeks_begin_on_monday() {
        let monday: Date = "2026-06-01".parse().unwrap();
        assert!((0..7).all(|n| week_of(monday.checked_add(n.days()).unwrap()) == monday));
        assert_ne!(week_of(monday.yesterday().unwrap()), monday);
    }
}
