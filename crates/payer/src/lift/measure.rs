//! What became of an invoice, and what of it is compared.

use super::CAP_DAYS;
use crate::Label;
use crate::experiment::Group;
use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Payers may opt out at each chase after the due date, or complain: by so many days after it most chases are over.
const RESPONSE_DAYS: i32 = 30;

/// What became of an invoice that was drawn for a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// A number for the customer, such as [`kernel::id::stable_hash`] of merchant and customer.
    pub customer: u64,
    /// What kind of payer the customer was then.
    pub label: Label,
    /// What the invoice was drawn for.
    pub group: Group,
    /// The logged probability of being treated, the customer not being held out.
    pub propensity: f64,
    /// The predicted probability of being late, as of the decision; `None` if nothing was known.
    pub late: Option<f64>,
    /// The first day on which either schedule could have acted, by a rule that does not look at the group: never the day
    /// of the first message, which is another one in each group.
    pub decided_on: Date,
    /// The due date, as of the decision.
    pub due_on: Date,
    /// When it was paid in full, if it was.
    pub paid_on: Option<Date>,
    /// Messages about it so far.
    pub messages: u32,
    /// Those of them that went out up to the due date.
    pub messages_by_due: u32,
    /// Whether the payer opted out after one of them.
    pub opted_out: bool,
    /// Whether the payer complained about one of them; `None` if complaints are not collected.
    pub complained: Option<bool>,
}

impl Outcome {
    /// Whether it was paid before anything was decided.
    pub(super) fn is_paid_before(&self) -> bool {
        self.paid_on.is_some_and(|paid_on| paid_on < self.decided_on)
    }

    /// Whether it could have been on either side. Else there is nothing to compare it with.
    pub(super) fn has_chance(&self) -> bool {
        0.0 < self.propensity && self.propensity < 1.0
    }

    /// The predicted probability of being late, to sharpen the comparison with. It is as valid with any other number.
    pub(super) fn guess(&self) -> f64 {
        self.late.unwrap_or(0.5)
    }

    pub(super) fn is_late(&self) -> bool {
        self.paid_on.is_none_or(|paid_on| paid_on > self.due_on)
    }

    /// Days from the due date to the payment, below zero if it was early.
    pub(super) fn days_late(&self) -> Option<i32> {
        self.paid_on.map(|paid_on| days_between(self.due_on, paid_on))
    }
}

/// Days from one date to another.
pub(super) fn days_between(from: Date, to: Date) -> i32 {
    const HOURS: i64 = 24;
    // Years are four digits, so days fit.
    i32::try_from(to.duration_since(from).as_hours() / HOURS).unwrap_or(i32::MAX)
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// 1 if paid by the due date, else 0.
    OnTime,
    /// Days from the due date to the payment, at most [`CAP_DAYS`]: a restricted mean, so that what is never paid counts.
    Days,
    /// 1 if the payer opted out.
    OptOuts,
    /// 1 if the payer complained.
    Complaints,
}

impl Measure {
    /// The value of an outcome with the day after which it is known, whatever it is, less [`Self::lag_days`]. `None` if the
    /// schedule could not have changed it.
    pub(super) fn value(self, outcome: &Outcome) -> Option<(Date, f64)> {
        let Outcome { decided_on, due_on, .. } = *outcome;
        if outcome.is_paid_before() {
            return None;
        }
        let yes_or_no = |yes: bool| if yes { 1.0 } else { 0.0 };
        match self {
            Self::OnTime => (decided_on <= due_on).then(|| (due_on, yes_or_no(!outcome.is_late()))),
            Self::Days => {
                let days = outcome.days_late().map_or(CAP_DAYS, |days| days.min(CAP_DAYS));
                (days_between(due_on, decided_on) < CAP_DAYS).then(|| (due_on, f64::from(days)))
            }
            Self::OptOuts => Some((due_on.max(decided_on), yes_or_no(outcome.opted_out))),
            Self::Complaints => outcome.complained.map(|complained| (due_on.max(decided_on), yes_or_no(complained))),
        }
    }

    /// The day before which what [`Self::value`] dates is known, on this day.
    pub(super) fn known_before(self, today: Date) -> Date {
        today.checked_sub(self.lag_days().days()).unwrap_or(Date::MIN)
    }

    /// So many days later is known what is dated.
    fn lag_days(self) -> i32 {
        match self {
            Self::OnTime => 0,
            Self::Days => CAP_DAYS,
            Self::OptOuts | Self::Complaints => RESPONSE_DAYS,
        }
    }

    /// What is expected of an invoice before anything is known, given its probability of being late.
    pub(super) fn expected(self, late: f64) -> f64 {
        match self {
            Self::OnTime => 1.0 - late,
            Self::Days | Self::OptOuts | Self::Complaints => 0.0,
        }
    }

    /// From the least to the greatest value, about.
    pub(super) fn range(self) -> f64 {
        match self {
            Self::Days => f64::from(CAP_DAYS),
            Self::OnTime | Self::OptOuts | Self::Complaints => 1.0,
        }
    }

    /// An interval whose half is wider than this says nothing of use: 5 points of on-time share, a day, a point of opt-outs.
    pub(super) fn limit(self) -> f64 {
        match self {
            Self::OnTime => 0.05,
            Self::Days => 1.0,
            Self::OptOuts | Self::Complaints => 0.01,
        }
    }
}
