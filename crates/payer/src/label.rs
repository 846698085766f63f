//! What kind of payer somebody is, in one word, with the reason.
//!
//! The first rule that fits says what a customer looks like:
//!
//! | label | rule |
//! |---|---|
//! | new | fewer than 2 effective settlements |
//! | at risk | an open invoice is overdue by more than max(3, own 90 % quantile) days, or the CUSUM of (late - q - .25) exceeds 1.5 |
//! | chronically late | q7 >= max(.30, 3 q7 of the portfolio) |
//! | usually late (a bit) | q >= max(.40, 1.6 q of the portfolio) |
//! | prompt | q < .6 q of the portfolio |
//! | mixed | all others |
//!
//! A label changes only when a customer looks so twice in a row. Thresholds are relative to the tenant's own ledger: with
//! absolute ones alone hardly anybody would be chronically late among payers who are mostly prompt. They are to be computed
//! anew once a week.

use crate::distribution::Distribution;
pub use kernel::Segment as Label;
use serde::Serialize;
use std::fmt;

/// Below so many effective settlements a customer is new.
const KNOWN: f32 = 2.0;
/// Nobody is at risk for being so many days late.
const GRACE_DAYS: i32 = 3;
/// The level of the own quantile above which being overdue is unusual.
const USUAL: f32 = 0.9;
/// So many more late payments than expected are a change for the worse.
const WORSE: f32 = 1.5;
/// What lateness may exceed its expectation by at each payment: half of the shift that is looked for, as usual with a CUSUM
/// (Page, "Continuous inspection schemes", 1954). Without it the sum is a random walk that exceeds any limit in time, and
/// everybody with a long history comes to be at risk: a third of the invoices of a ledger that we know.
const ALLOWANCE: f32 = 0.25;

/// What the probabilities of a customer are held against: those of its tenant's portfolio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Thresholds {
    /// Prompt below this q.
    pub prompt: f32,
    /// Usually late from this q on.
    pub usually_late: f32,
    /// Chronically late from this q7 on.
    pub chronically_late: f32,
}

impl Thresholds {
    /// Relative to how all customers of the tenant pay.
    pub fn of(portfolio: &Distribution) -> Self {
        let (q, q7) = (portfolio.late(), portfolio.late_7());
        Self { prompt: 0.6 * q, usually_late: (1.6 * q).max(0.40), chronically_late: (3.0 * q7).max(0.30) }
    }
}

/// The rule that fitted, with its threshold and the value that met it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Reason {
    /// Too few settlements.
    Unknown {
        /// Effective settlements.
        settlements: f32,
        /// So many are needed.
        needed: f32,
    },
    /// An open invoice is overdue for longer than this customer usually takes.
    Overdue {
        /// For so many days.
        days: i32,
        /// So many are usual.
        usual: i32,
    },
    /// More late payments than were expected.
    Worse {
        /// The CUSUM, in payments.
        excess: f32,
        /// So many are tolerated.
        tolerated: f32,
    },
    /// Often more than a week late.
    OftenVeryLate {
        /// The chance of it.
        q7: f32,
        /// Reaches this.
        threshold: f32,
    },
    /// Often late.
    OftenLate {
        /// The chance of it.
        q: f32,
        /// Reaches this.
        threshold: f32,
    },
    /// Seldom late.
    SeldomLate {
        /// The chance of it.
        q: f32,
        /// Is below this.
        threshold: f32,
    },
    /// Late as often as others.
    Between {
        /// The chance of it.
        q: f32,
        /// Reaches this.
        from: f32,
        /// Is below this.
        below: f32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f32| 100.0 * share;
        match *self {
            Self::Unknown { settlements, needed } => {
                write!(f, "the payments known weigh {settlements:.1}, and {needed:.0} are needed")
            }
            Self::Overdue { days, usual } => {
                write!(f, "an open invoice is overdue for {days} days, and up to {usual} are usual")
            }
            Self::Worse { excess, tolerated } => {
                write!(f, "{excess:.1} more late payments than expected, and {tolerated:.1} are tolerated")
            }
            Self::OftenVeryLate { q7, threshold } => write!(
                f,
                "more than 7 days late with a chance of {:.0} %, at least {:.0} %",
                percent(q7),
                percent(threshold)
            ),
            Self::OftenLate { q, threshold } => {
                write!(f, "late with a chance of {:.0} %, at least {:.0} %", percent(q), percent(threshold))
            }
            Self::SeldomLate { q, threshold } => {
                write!(f, "late with a chance of {:.0} %, below {:.0} %", percent(q), percent(threshold))
            }
            Self::Between { q, from, below } => write!(
                f,
                "late with a chance of {:.0} %, between {:.0} % and {:.0} %",
                percent(q),
                percent(from),
                percent(below)
            ),
        }
    }
}

/// A change of a label.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// The label before.
    pub from: Label,
    /// The label from now on.
    pub to: Label,
    /// Why.
    pub because: Reason,
}

/// What is known of a customer when its label is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Looks<'a> {
    /// |C|, the effective settlements.
    pub effective: f32,
    /// How its next payment is spread.
    pub prediction: &'a Distribution,
    /// The same without regard to what is open: how late is usual. What is overdue says itself that later is to be expected, and
    /// would never be later than that.
    pub usual: &'a Distribution,
    /// For how many days its longest overdue invoice is; `None` if none is.
    pub overdue_days: Option<i32>,
}

impl Looks<'_> {
    /// The first rule that fits, with its reason.
    pub fn label(&self, cusum: f32, thresholds: &Thresholds) -> (Label, Reason) {
        let (q, q7) = (self.prediction.late(), self.prediction.late_7());
        let usual = self.usual.quantile(USUAL).max(GRACE_DAYS);
        let Thresholds { prompt, usually_late, chronically_late } = *thresholds;
        if self.effective < KNOWN {
            (Label::New, Reason::Unknown { settlements: self.effective, needed: KNOWN })
        } else if let Some(days) = self.overdue_days.filter(|days| *days > usual) {
            (Label::AtRisk, Reason::Overdue { days, usual })
        } else if cusum > WORSE {
            (Label::AtRisk, Reason::Worse { excess: cusum, tolerated: WORSE })
        } else if q7 >= chronically_late {
            (Label::ChronicallyLate, Reason::OftenVeryLate { q7, threshold: chronically_late })
        } else if q >= usually_late {
            (Label::UsuallyLate, Reason::OftenLate { q, threshold: usually_late })
        } else if q < prompt {
            (Label::Prompt, Reason::SeldomLate { q, threshold: prompt })
        } else {
            (Label::Mixed, Reason::Between { q, from: prompt, below: usually_late })
        }
    }
}

/// The label of a customer, and what it takes to change it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    label: Label,
    /// What it looked like last time.
    candidate: Label,
    /// How many more of its payments were late than expected, since it was last at 0.
    cusum: f32,
}

impl Standing {
    /// The label.
    pub fn label(&self) -> Label {
        self.label
    }

    /// One-sided CUSUM of (late - q - .25): how many more of its recent payments were late than expected.
    pub fn cusum(&self) -> f32 {
        self.cusum
    }

    /// Counts a settlement that was expected to be late with the chance `q` when its invoice was issued.
    pub fn settle(&mut self, delay_days: i32, q: f32) {
        let late = f32::from(u8::from(delay_days > 0));
        self.cusum = (self.cusum + late - q - ALLOWANCE).max(0.0);
    }

    /// The CUSUM of these settlements, each with the q of its invoice, in this order. The label stays: it was given, with its
    /// reason, for what was known then.
    pub fn replay(self, settlements: impl IntoIterator<Item = (i32, f32)>) -> Self {
        let mut standing = Self { cusum: 0.0, ..self };
        settlements.into_iter().for_each(|(delay, q)| standing.settle(delay, q));
        standing
    }

    /// Looks at a customer. Looking twice at the same facts is two agreements, so only when there is something new to see: the
    /// segmenter looks with each settlement, when what is overdue changes, every day while something is overdue, and every
    /// week. [`crate::evaluate`], for which the issue of an invoice is what matters, looks at that.
    pub fn look(&mut self, looks: &Looks<'_>, thresholds: &Thresholds) -> Option<Change> {
        let (seen, because) = looks.label(self.cusum, thresholds);
        let agrees = seen == self.candidate;
        self.candidate = seen;
        if seen == self.label || !agrees {
            return None;
        }
        let from = std::mem::replace(&mut self.label, seen);
        Some(Change { from, to: seen, because })
    }

    /// As stored: label and candidate, then the CUSUM.
    pub(crate) fn to_words(self) -> [u32; 2] {
        let place = |label| Label::ALL.iter().zip(0..).find(|(l, _)| **l == label).map_or(0, |(_, place)| place);
        [place(self.label) | place(self.candidate) << 8, self.cusum.to_bits()]
    }

    /// Reads the stored form; `None` if it is none.
    pub(crate) fn from_words([labels, cusum]: [u32; 2]) -> Option<Self> {
        let label = |place: u32| Label::ALL.get(usize::try_from(place).ok()?).copied();
        let cusum = f32::from_bits(cusum);
        let standing = Self { label: label(labels & 0xff)?, candidate: label(labels >> 8)?, cusum };
        (cusum.is_finite() && cusum >= 0.0).then_some(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::{BINS, bin};
    use proptest::prelude::*;

    /// A tenth of the portfolio is late, and a twentieth more than a week.
    fn thresholds() -> Thresholds {
        Thresholds::of(&prediction(0.10, 0.05))
    }

    fn prediction(q: f32, q7: f32) -> Distribution {
        let mut shares = [0.0; BINS];
        (shares[bin(0)], shares[bin(3)], shares[bin(11)]) = (1.0 - q, q - q7, q7);
        Distribution(shares)
    }

    fn seen(effective: f32, (q, q7): (f32, f32), overdue_days: Option<i32>, cusum: f32) -> (Label, Reason) {
        let prediction = prediction(q, q7);
        Looks { effective, prediction: &prediction, usual: &prediction, overdue_days }.label(cusum, &thresholds())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let label = |effective, q, overdue, cusum| seen(effective, q, overdue, cusum).0;
        assert_eq!(label(1.95, (0.9, 0.9), Some(90), 9.0), Label::New);
        assert_eq!(label(2.0, (0.9, 0.9), Some(90), 0.0), Label::AtRisk);
        assert_eq!(label(9.0, (0.01, 0.0), None, 1.51), Label::AtRisk);
        assert_eq!(label(9.0, (0.01, 0.0), None, 1.5), Label::Prompt);
        assert_eq!(label(9.0, (0.5, 0.30), None, 0.0), Label::ChronicallyLate);
        assert_eq!(label(9.0, (0.5, 0.29), None, 0.0), Label::UsuallyLate);
        assert_eq!(label(9.0, (0.40, 0.1), None, 0.0), Label::UsuallyLate);
        assert_eq!(label(9.0, (0.39, 0.1), None, 0.0), Label::Mixed);
        assert_eq!(label(9.0, (0.059, 0.01), None, 0.0), Label::Prompt);
        assert_eq!(label(9.0, (0.061, 0.01), None, 0.0), Label::Mixed);
    }

    #[test]
    fn thresholds_follow_the_portfolio() {
        let t = Thresholds::of(&prediction(0.5, 0.2));
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        close(t.prompt, 0.3);
        close(t.usually_late, 0.8);
        close(t.chronically_late, 0.6);
        close(thresholds().usually_late, 0.40);
        close(thresholds().chronically_late, 0.30);
    }

    #[test]
    fn overdue_means_longer_than_three_days_and_than_usual() {
        let label = |q, days| seen(9.0, q, Some(days), 0.0).0;
        assert_eq!((label((0.01, 0.0), 3), label((0.01, 0.0), 4)), (Label::Prompt, Label::AtRisk));
        // The 90 % quantile is the 12th day.
        let slow = (0.5, 0.3);
        assert_eq!(prediction(slow.0, slow.1).quantile(0.9), 13);
        assert_eq!((label(slow, 13), label(slow, 14)), (Label::ChronicallyLate, Label::AtRisk));
    }

    #[test]
    fn a_label_changes_when_it_is_seen_twice_in_a_row() {
        let mut standing = Standing::default();
        let mut look = |q| {
            let prediction = prediction(q, 0.0);
            let looks = Looks { effective: 5.0, prediction: &prediction, usual: &prediction, overdue_days: None };
            standing.look(&looks, &thresholds())
        };
        assert_eq!(look(0.01), None);
        let change = look(0.01).unwrap();
        assert_eq!((change.from, change.to), (Label::New, Label::Prompt));
        assert_eq!(change.because.to_string(), "late with a chance of 1 %, below 6 %");
        assert_eq!(look(0.01), None, "no change");
        // To and fro, never twice in a row.
        assert_eq!([0.5, 0.2, 0.5, 0.01, 0.5].map(&mut look), [None; 5]);
        let change = look(0.5).unwrap();
        assert_eq!((change.from, change.to), (Label::Prompt, Label::UsuallyLate));
    }

    #[test]
    fn the_cusum_counts_lateness_that_was_not_expected() {
        let mut standing = Standing::default();
        let payments = [(-3, 0.2), (5, 0.2), (1, 0.1), (0, 0.1), (9, 0.05), (2, 0.2)];
        payments.into_iter().for_each(|(delay, q)| standing.settle(delay, q));
        assert!((standing.cusum() - 2.1).abs() < 1e-6, "{}", standing.cusum());
        let (label, because) = seen(9.0, (0.01, 0.0), None, standing.cusum());
        assert_eq!(label, Label::AtRisk);
        assert_eq!(because.to_string(), "2.1 more late payments than expected, and 1.5 are tolerated");
        standing.label = Label::Mixed;
        let replayed = standing.replay([(-3, 0.2), (1, 0.25)]);
        assert_eq!((replayed.label(), replayed.cusum()), (Label::Mixed, 0.5));
    }

    #[test]
    fn who_pays_as_late_as_ever_is_not_at_risk() {
        let mut standing = Standing::default();
        // Seven of ten are late, as expected.
        for payment in 0..1_000 {
            standing.settle([5, 0, 5, 5, 0, 5, 5, 0, 5, 5][payment % 10], 0.7);
            assert!(standing.cusum() <= WORSE, "{}", standing.cusum());
        }
    }

    #[test]
    fn every_label_is_read_as_it_is_written() {
        for label in Label::ALL {
            assert_eq!(Label::parse(label.as_str()), Some(label));
            assert_eq!(serde_json::to_value(label).unwrap(), label.as_str());
        }
        assert_eq!(Label::parse("late"), None);
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read(label in 0_usize..6, candidate in 0_usize..6, cusum in 0.0_f32..50.0) {
            let standing = Standing { label: Label::ALL[label], candidate: Label::ALL[candidate], cusum };
            prop_assert_eq!(Standing::from_words(standing.to_words()), Some(standing));
        }

        #[test]
        fn other_words_are_refused(labels in 0x0600_u32.., cusum in -50.0_f32..-0.1) {
            prop_assert_eq!(Standing::from_words([labels, 0]), None);
            prop_assert_eq!(Standing::from_words([0, cusum.to_bits()]), None);
        }
    }
}
