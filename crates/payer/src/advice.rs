//! What a customer's past says about a step: keep its day, move it inside its window, or skip it.
//!
//! Advice only uses what the campaign leaves open, and without data it is the campaign's own schedule.
//!
//! **Before the due date** a reminder is worth sending if it can turn "late" into "on time". The chance to be late is not
//! enough to tell: who is weeks late responds least. So what counts is the chance to be late by a week at most, of an invoice that
//! is still unpaid on the day of the reminder:
//!
//! ```text
//! reach(d) = (q - q7) / P(D >= d)        the customer
//! reach    =  q - q7                     the portfolio, over all invoices
//!
//! reach(d) >= 1.0 reach                  worth it
//! q        >= 1.3 q of the portfolio     usually late: at the early end of the window, and worth a second reminder
//! ```
//!
//! That it is relative makes it mean the same in a ledger where most are late as in one where hardly anybody is. The rule and its
//! factors were chosen in simulated worlds ([`crate::simulate`]), which assume how payers respond. Only a merchant's own
//! experiment can tell for its payers.
//!
//! **After the due date** what a single customer did before says too little. A chase is held back only where most of what is
//! unpaid is paid within three days anyway, over all customers.

use crate::distribution::Distribution;
use crate::label::Label;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The chance to be late by a week at most from which a reminder is worth it, relative to the portfolio's.
const WORTH_IT: f32 = 1.0;
/// The chance to be late from which a customer is usually late, relative to the portfolio's.
const USUALLY_LATE: f32 = 1.3;
/// A chase waits if so many would pay by themselves ...
const GRACE: f32 = 0.5;
/// ... within so many days.
const GRACE_DAYS: i32 = 3;

/// What is known when a step is planned, or about to be carried out.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The customer's label. Nothing is known of who is new.
    pub label: Label,
    /// How the customer's next payment is spread.
    pub prediction: &'a Distribution,
    /// How all customers of the tenant pay; `None` while too few have.
    pub portfolio: Option<&'a Distribution>,
}

/// What the campaign says about a step. Days are counted from the due date; before it they are negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The day on which it is due.
    pub offset: i32,
    /// So many days earlier will do.
    pub earlier: u16,
    /// So many days later will do, though not beyond the due date for a step before it.
    pub later: u16,
    /// Whether it may be left out.
    pub may_skip: bool,
    /// Whether another step before the due date follows: this one is then a second reminder, which is for the usually late.
    pub is_followed: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "timing", content = "days")]
pub enum Timing {
    /// What the campaign says: on its day, or now if that is past.
    Keep,
    /// So many days later than the campaign says; earlier if negative. Never 0, never in the past.
    Move(i32),
    /// Nothing.
    Skip,
}

/// Why, with the values that decided. Chances are from 0 to 1, days are counted from the due date.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Reason {
    /// The customer is new.
    NewCustomer,
    /// Too few customers have paid.
    NoPortfolio,
    /// No message is left in the budget.
    NoBudget,
    /// Worth a reminder.
    WorthIt {
        /// The chance to be late by a week at most, if still unpaid on the day of the reminder.
        reach: f32,
        /// It reaches this.
        threshold: f32,
    },
    /// Worth it, and late more often than others: the earlier, the better.
    UsuallyLate {
        /// The chance to be late.
        q: f32,
        /// It reaches this.
        threshold: f32,
    },
    /// Will probably pay on time by itself.
    PaysByItself {
        /// The chance to be late, if still unpaid on the day of the reminder.
        q: f32,
        /// That of the portfolio, over all invoices.
        portfolio: f32,
        /// The chance to be late by a week at most.
        reach: f32,
        /// It is below this.
        threshold: f32,
    },
    /// If late, then by more than a week: a reminder before the due date changes little.
    OutOfReach {
        /// The chance to be late by more than a week.
        q7: f32,
        /// The chance to be late by a week at most.
        reach: f32,
        /// It is below this.
        threshold: f32,
    },
    /// One reminder before the due date is enough, and another one follows.
    OneIsEnough {
        /// The chance to be late.
        q: f32,
        /// It is below this.
        threshold: f32,
    },
    /// Most of what is unpaid that day is paid within three days.
    GracePeriod {
        /// The share of it, over all customers.
        self_cure: f32,
        /// It reaches this.
        threshold: f32,
    },
    /// Overdue.
    Overdue {
        /// The share of what is unpaid that day and is paid within three days, over all customers.
        self_cure: f32,
        /// It is below this.
        threshold: f32,
    },
}

/// What to do, and why.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// What to do.
    #[serde(flatten)]
    pub timing: Timing,
    /// Why.
    pub because: Reason,
}

/// Advice about a step on the day `today`. `budget` is how many messages may still be sent about this invoice before its due
/// date; `None` if that is not limited.
///
/// It holds under the condition that the invoice is still unpaid on the day of the reminder. So it changes only with what is known, and
/// is to be asked for again right before sending.
pub fn advise(known: &Known<'_>, step: &Step, today: i32, budget: Option<u32>) -> Advice {
    let kept = |because| Advice { timing: Timing::Keep, because };
    if known.label == Label::New {
        return kept(Reason::NewCustomer);
    }
    let Some(portfolio) = known.portfolio else { return kept(Reason::NoPortfolio) };
    let window = Window::of(step, today);
    if window.fixed > 0 {
        after_due(portfolio, step, window)
    } else if budget == Some(0) {
        Advice { timing: window.skip_or(step, window.fixed), because: Reason::NoBudget }
    } else {
        before_due(known.prediction, portfolio, step, window)
    }
}

fn before_due(customer: &Distribution, portfolio: &Distribution, step: &Step, window: Window) -> Advice {
    let threshold = WORTH_IT * within_a_week(portfolio);
    let reach = |day| within_a_week(customer) / customer.unpaid_at(day).max(f32::MIN_POSITIVE);
    let often = USUALLY_LATE * portfolio.late();
    let q = customer.late();
    let is_usually_late = q >= often;
    if is_usually_late && reach(window.first) >= threshold {
        return Advice { timing: window.at(window.first), because: Reason::UsuallyLate { q, threshold: often } };
    }
    let reach = reach(window.fixed);
    let advice = |timing, because| Advice { timing, because };
    if reach < threshold {
        let (q, portfolio) = (customer.late_given_unpaid(window.fixed), portfolio.late());
        if q < portfolio {
            // The later, the more of them have paid.
            let because = Reason::PaysByItself { q, portfolio, reach, threshold };
            return advice(window.skip_or(step, window.last), because);
        }
        let because = Reason::OutOfReach { q7: customer.late_7(), reach, threshold };
        return advice(window.skip_or(step, window.fixed), because);
    }
    if step.is_followed && !is_usually_late {
        let because = Reason::OneIsEnough { q, threshold: often };
        return advice(window.skip_or(step, window.fixed), because);
    }
    advice(Timing::Keep, Reason::WorthIt { reach, threshold })
}

fn after_due(portfolio: &Distribution, step: &Step, window: Window) -> Advice {
    let self_cure = |day| portfolio.self_cure(day, GRACE_DAYS);
    let now = self_cure(window.fixed);
    if now < GRACE {
        return Advice { timing: Timing::Keep, because: Reason::Overdue { self_cure: now, threshold: GRACE } };
    }
    let calm = (window.fixed..=window.last).find(|day| self_cure(*day) < GRACE).unwrap_or(window.last);
    let because = Reason::GracePeriod { self_cure: now, threshold: GRACE };
    Advice { timing: window.skip_or(step, calm), because }
}

/// The chance to be late, but by no more than a week: q - q7.
fn within_a_week(distribution: &Distribution) -> f32 {
    (distribution.late() - distribution.late_7()).max(0.0)
}

/// The days on which a step may be carried out, from today on.
#[derive(Debug, Clone, Copy)]
struct Window {
    offset: i32,
    first: i32,
    /// The day that the campaign says, or today if that is past.
    fixed: i32,
    last: i32,
}

impl Window {
    /// No step crosses the due date: one before it stays before it, one on it or after it stays there.
    fn of(step: &Step, today: i32) -> Self {
        let (least, most) = match step.offset {
            ..0 => (i32::MIN, -1),
            0 => (0, 0),
            1.. => (1, i32::MAX),
        };
        let fixed = step.offset.max(today);
        let first = step.offset.saturating_sub(i32::from(step.earlier)).max(least).max(today);
        let last = step.offset.saturating_add(i32::from(step.later)).min(most).max(fixed);
        Self { offset: step.offset, first, fixed, last }
    }

    fn at(self, day: i32) -> Timing {
        if day == self.fixed { Timing::Keep } else { Timing::Move(day.saturating_sub(self.offset)) }
    }

    /// Skips if the campaign lets it, and goes to a day of the window if not.
    fn skip_or(self, step: &Step, day: i32) -> Timing {
        if step.may_skip { Timing::Skip } else { self.at(day) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f32| 100.0 * share;
        match *self {
            Self::NewCustomer => f.write_str("the customer is new"),
            Self::NoPortfolio => f.write_str("too few customers have paid"),
            Self::NoBudget => f.write_str("no message before the due date is left"),
            Self::WorthIt { reach, threshold } => write!(
                f,
                "late by a week at most with a chance of {:.0} %, at least {:.0} %",
                percent(reach),
                percent(threshold)
            ),
            Self::UsuallyLate { q, threshold } => {
                write!(f, "late with a chance of {:.0} %, at least {:.0} %", percent(q), percent(threshold))
            }
            Self::PaysByItself { q, portfolio, .. } => write!(
                f,
                "late with a chance of {:.0} % if still unpaid then, less than the {:.0} % of all",
                percent(q),
                percent(portfolio)
            ),
            Self::OutOfReach { q7, reach, threshold } => write!(
                f,
                "late by a week at most with a chance of {:.0} %, below {:.0} %, and by more with {:.0} %",
                percent(reach),
                percent(threshold),
                percent(q7)
            ),
            Self::OneIsEnough { q, threshold } => write!(
                f,
                "another reminder follows, and late with a chance of {:.0} %, below {:.0} %",
                percent(q),
                percent(threshold)
            ),
            Self::GracePeriod { self_cure, threshold } => write!(
                f,
                "{:.0} % of all unpaid invoices are paid within {GRACE_DAYS} days, at least {:.0} %",
                percent(self_cure),
                percent(threshold)
            ),
            Self::Overdue { self_cure, threshold } => write!(
                f,
                "overdue, and {:.0} % of all unpaid invoices are paid within {GRACE_DAYS} days, below {:.0} %",
                percent(self_cure),
                percent(threshold)
            ),
        }
    }
}

#[cfg(test)]
mod tests;
