//! What a customer's past says about a step: keep its day, move it inside its window, or skip it.
//!
//! Advice only uses what the campaign leaves open, and without data it is the campaign's own schedule.
//!
//! **Before the due date** a reminder is worth sending if it can turn "late" into "on time". It cannot where the payment comes on time
//! anyway, and changes little where it comes weeks late: who is chronically late responds least. q and q7 are the chances
//! to be late at all, and by more than a week:
//!
//! ```text
//! q / P(D >= d)  <  .8 q of the portfolio               pays by itself, if still unpaid on the day d of the reminder
//! q7             >= max(.30, 2 q7 of the portfolio)     out of reach
//! q              >= 1.3 q of the portfolio              usually late: at the early end of the window, and worth two reminders
//! ```
//!
//! Relative to the portfolio they mean the same in a ledger where most are late as in one where hardly anybody is. The
//! rules and their factors were chosen in simulated worlds ([`crate::simulate`]), which assume how payers respond. Only a
//! merchant's own experiment can tell for its payers.
//!
//! **After the due date** what a single customer did before says too little. A chase is held back only where most of what is
//! unpaid is paid within three days anyway, over all customers.

use crate::distribution::Distribution;
use crate::label::Label;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whoever is late more seldom than that, relative to the portfolio, pays by itself.
const WORTH_IT: f32 = 0.8;
/// Whoever is more than a week late that often, relative to the portfolio, is out of reach ...
const OUT_OF_REACH: f32 = 2.0;
/// ... but nobody who is so more seldom than this.
const SOMETIMES: f32 = 0.30;
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
        /// The chance to be late, if still unpaid on the day of the reminder.
        q: f32,
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
        /// It is below this.
        threshold: f32,
    },
    /// If late, then by more than a week: a reminder before the due date changes little.
    OutOfReach {
        /// The chance to be late by more than a week.
        q7: f32,
        /// It reaches this.
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

/// Advice about a step on the day `today`. `budget` is how many messages may still be sent about this invoice before its
/// due date; `None` if that is not limited.
///
/// It holds if the invoice is still unpaid on the campaign's day. So until then it changes only with what is known; it is
/// to be asked for again right before sending.
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
    let advice = |timing, because| Advice { timing, because };
    let (q7, threshold) = (customer.late_7(), (OUT_OF_REACH * portfolio.late_7()).max(SOMETIMES));
    if q7 >= threshold {
        return advice(window.skip_or(step, window.fixed), Reason::OutOfReach { q7, threshold });
    }
    let (q, often) = (customer.late(), USUALLY_LATE * portfolio.late());
    if q >= often {
        return advice(window.at(window.first), Reason::UsuallyLate { q, threshold: often });
    }
    let (q_unpaid, threshold) = (customer.late_given_unpaid(window.fixed), WORTH_IT * portfolio.late());
    if q_unpaid < threshold {
        // The later, the more of them have paid.
        let timing = window.skip_or(step, window.last);
        return advice(timing, Reason::PaysByItself { q: q_unpaid, threshold });
    }
    if step.is_followed {
        return advice(window.skip_or(step, window.fixed), Reason::OneIsEnough { q, threshold: often });
    }
    advice(Timing::Keep, Reason::WorthIt { q: q_unpaid, threshold })
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
            Self::WorthIt { q, threshold } => write!(
                f,
                "late with a chance of {:.0} % if still unpaid then, at least {:.0} %",
                percent(q),
                percent(threshold)
            ),
            Self::UsuallyLate { q, threshold } => {
                write!(f, "late with a chance of {:.0} %, at least {:.0} %", percent(q), percent(threshold))
            }
            Self::PaysByItself { q, threshold } => write!(
                f,
                "late with a chance of {:.0} % if still unpaid then, below {:.0} %",
                percent(q),
                percent(threshold)
            ),
            Self::OutOfReach { q7, threshold } => write!(
                f,
                "more than a week late with a chance of {:.0} %, at least {:.0} %",
                percent(q7),
                percent(threshold)
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
