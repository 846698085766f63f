//! What an adaptive schedule brings, against the merchant's own static schedule.
//!
//! Which of the two an invoice follows is drawn ([`crate::experiment::Holdouts`]), so the difference between the groups is
//! the effect of the schedule, or chance. How much is chance is said by a confidence sequence, which holds at all times at
//! once: looking every week, or stopping when it looks good, does not make false alarms more likely.
//!
//! * **What is compared.** Every invoice that was drawn, in the group that it was drawn for, whatever was then sent.
//! * **On time** is known the day after the due date, **days to pay** [`CAP_DAYS`] days after it: not on the day of the payment,
//!   or prompt payers would be counted first. **Opt-outs** are counted 30 days after it, when most chases are over.
//! * **No credit by definition.** An invoice that is first decided after its due date can no longer be paid on time. It
//!   is not in the on-time comparison; if that goes for all invoices, the lift is exactly zero ([`Verdict::ZeroByDefinition`]).
//! * **One invoice, one unit.** A reminder of a treated invoice may also make its customer pay a held-out one, which hides
//!   a part of the effect. Customers that are held out for good show it, with less certainty, in a comparison of their own.
//!
//! Formulas: the augmented inverse-propensity estimate of Robins, Rotnitzky and Zhao (1994), and the asymptotic confidence
//! sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), a normal mixture as of Robbins (1970).

mod arms;
mod compare;
mod html;
mod measure;
mod sequence;
mod words;

pub use arms::{ArmReport, Trial};
pub use compare::{Comparison, Point, Side, Unit, Verdict, compare, compare_customers};
pub use html::{cards, page};
pub use measure::{Measure, Outcome};
pub use sequence::Interval;

use crate::Label;
use crate::experiment::Group;
use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Days to pay are counted to so many days after the due date: what is still open then counts as paid then.
pub const CAP_DAYS: i32 = 60;
/// The classical interval is computed once, so many days after the start, as was said before.
pub const REGISTERED_DAY: i32 = 90;

/// What has to be known besides the outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// The first day of the experiment.
    #[schema(value_type = String, format = Date)]
    pub started_on: Date,
    /// Outcomes are known up to the day before this one.
    #[schema(value_type = String, format = Date)]
    pub as_of: Date,
    /// The probability that a customer is not held out for good.
    pub treated_customers: f64,
}

impl Setting {
    /// The days on which it is looked at what is known: each Monday, and today.
    fn looks(&self) -> Vec<Date> {
        let first = crate::experiment::week_of(self.started_on);
        let mondays = first.series(7.days()).skip(1).take_while(|monday| *monday < self.as_of);
        mondays.chain([self.as_of]).collect()
    }
}

/// What an adaptive schedule brings, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiftReport {
    /// What was known besides the outcomes.
    pub setting: Setting,
    /// Share of invoices paid on time, invoice by invoice: the headline.
    pub on_time: Comparison,
    /// The one classical interval of the headline, as of [`REGISTERED_DAY`], robust against likeness within customers. Before
    /// that day there is none. After it, no payment changes it any more; but invoices that are taken back later, and those whose
    /// payment is, leave the comparison.
    pub registered: Option<Interval>,
    /// Days to pay, invoice by invoice: below zero is sooner.
    pub days: Comparison,
    /// Share of invoices paid on time, customers held out for good against the treated invoices of others.
    pub customers: Comparison,
    /// What must not get worse.
    pub guards: Guards,
    /// Invoices that are not in the on-time comparison.
    pub left_out: LeftOut,
    /// What came of each arm.
    pub arms: Vec<ArmReport>,
    /// Predicted and observed shares of late treated invoices, from the least to the most likely. Where reminders help, fewer
    /// are late than predicted.
    pub calibration: Vec<Calibration>,
    /// The same of invoices on the static schedule.
    pub calibration_held_out: Vec<Calibration>,
    /// How late invoices are, by label.
    pub delays: Vec<Delays>,
}

/// What must not get worse while payments get better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Guards {
    /// Share of invoices whose payer opted out, of those that were due 30 days ago: each chase may be the one too many.
    pub opt_outs: Comparison,
    /// Share of invoices whose payer complained; `None` if complaints are not collected.
    pub complaints: Option<Comparison>,
    /// What was sent on the adaptive schedule.
    pub treated: Effort,
    /// What was sent to held-out invoices.
    pub held_out: Effort,
    /// What was sent to customers held out for good.
    pub customers_held_out: Effort,
}

/// What was sent, and what it came with. Most of those who paid after a message would have paid without it: compare groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Effort {
    /// Invoices past their due date.
    pub invoices: u32,
    /// Messages about them.
    pub messages: u32,
    /// Those of them that went out up to the due date.
    pub messages_by_due: u32,
    /// Those of them that were paid after a message.
    pub recovered: u32,
}

impl Effort {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        outcomes.fold(Self::default(), |effort, outcome| Self {
            invoices: effort.invoices + 1,
            messages: effort.messages.saturating_add(outcome.messages),
            messages_by_due: effort.messages_by_due.saturating_add(outcome.messages_by_due),
            recovered: effort.recovered + u32::from(outcome.messages > 0 && outcome.paid_on.is_some()),
        })
    }

    /// Messages per invoice, if there are any invoices.
    pub fn per_invoice(self) -> Option<f64> {
        (self.invoices > 0).then(|| f64::from(self.messages) / f64::from(self.invoices))
    }

    /// Messages per invoice up to its due date, if there are any invoices.
    pub fn by_due_per_invoice(self) -> Option<f64> {
        (self.invoices > 0).then(|| f64::from(self.messages_by_due) / f64::from(self.invoices))
    }

    /// Messages per invoice that was paid after one, if there are any.
    pub fn per_recovered(self) -> Option<f64> {
        (self.recovered > 0).then(|| f64::from(self.messages) / f64::from(self.recovered))
    }
}

/// How many invoices are not in the on-time comparison, by the first reason that applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// First decided after the due date: no schedule could make them be paid on time.
    pub decided_after_due: u32,
    /// Paid before anything was decided: no schedule played a part.
    pub paid_before: u32,
    /// Of customers that are held out for good: in a comparison of their own.
    pub customer_held_out: u32,
    /// Could only be on one side.
    pub without_chance: u32,
    /// Not past the due date yet.
    pub not_yet_due: u32,
}

impl LeftOut {
    fn of(outcomes: &[Outcome], as_of: Date) -> Self {
        let mut left_out = Self::default();
        for outcome in outcomes {
            if outcome.decided_on > outcome.due_on {
                left_out.decided_after_due += 1;
            } else if outcome.is_paid_before() {
                left_out.paid_before += 1;
            } else if outcome.group == Group::CustomerHeldOut {
                left_out.customer_held_out += 1;
            } else if !outcome.has_chance() {
                left_out.without_chance += 1;
            } else if outcome.due_on >= as_of {
                left_out.not_yet_due += 1;
            }
        }
        left_out
    }
}

/// Invoices for which about the same was predicted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Calibration {
    /// The mean predicted probability of being late.
    pub predicted: f64,
    /// The share that was late.
    pub observed: f64,
    /// How many invoices there are.
    pub n: u32,
}

/// How late the invoices of payers with a label were. Known [`Delays::LATE`] days after the due date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delays {
    /// The label when the invoice was decided.
    #[schema(value_type = String)]
    pub label: Label,
    /// Paid by the due date.
    pub on_time: u32,
    /// Paid up to [`Delays::A_BIT_LATE`] days after it.
    pub a_bit_late: u32,
    /// Paid up to [`Delays::LATE`] days after it.
    pub late: u32,
    /// Paid later, or not at all.
    pub very_late: u32,
}

impl Delays {
    /// Days after the due date that are a bit late.
    pub const A_BIT_LATE: i32 = 7;
    /// Days after the due date that are late.
    pub const LATE: i32 = 30;
}

/// Compares outcomes. Neither the order of outcomes nor that of trials matters, but for the last bits of sums.
pub fn lift(outcomes: &[Outcome], trials: &[Trial], setting: Setting) -> LiftReport {
    let is_due = |outcome: &&Outcome| outcome.due_on.max(outcome.decided_on) < setting.as_of;
    let effort = |group| Effort::of(outcomes.iter().filter(|o| o.group == group).filter(is_due));
    LiftReport {
        setting,
        on_time: compare(Measure::OnTime, outcomes, setting),
        registered: compare::registered(outcomes, setting),
        days: compare(Measure::Days, outcomes, setting),
        customers: compare_customers(Measure::OnTime, outcomes, setting),
        guards: Guards {
            opt_outs: compare(Measure::OptOuts, outcomes, setting),
            complaints: outcomes
                .iter()
                .any(|outcome| outcome.complained.is_some())
                .then(|| compare(Measure::Complaints, outcomes, setting)),
            treated: effort(Group::Treated),
            held_out: effort(Group::InvoiceHeldOut),
            customers_held_out: effort(Group::CustomerHeldOut),
        },
        left_out: LeftOut::of(outcomes, setting.as_of),
        arms: arms::reports(trials),
        calibration: calibration(outcomes, setting.as_of, |group| group == Group::Treated),
        calibration_held_out: calibration(outcomes, setting.as_of, |group| group != Group::Treated),
        delays: delays(outcomes, setting.as_of),
    }
}

/// Equally many invoices in each bin. Those of which nothing was known have no prediction.
fn calibration(outcomes: &[Outcome], as_of: Date, is_in: fn(Group) -> bool) -> Vec<Calibration> {
    const BINS: usize = 10;
    const LEAST: usize = 20;
    let known = outcomes.iter().filter(|o| o.due_on < as_of && o.decided_on <= o.due_on && !o.is_paid_before());
    let predicted = known.filter(|o| is_in(o.group)).filter_map(|o| Some((o.late?, o.is_late())));
    let mut cases: Vec<(f64, bool)> = predicted.collect();
    cases.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bin = |bin: &[(f64, bool)]| {
        let n = bin.len() as f64;
        Calibration {
            predicted: bin.iter().map(|(late, _)| late).sum::<f64>() / n,
            observed: bin.iter().filter(|(_, is_late)| *is_late).count() as f64 / n,
            n: u32::try_from(bin.len()).unwrap_or(u32::MAX),
        }
    };
    cases.chunks(cases.len().div_ceil(BINS).max(LEAST)).map(bin).collect()
}

fn delays(outcomes: &[Outcome], as_of: Date) -> Vec<Delays> {
    let mut labels: BTreeMap<Label, Delays> = BTreeMap::new();
    let known = as_of.checked_sub(Delays::LATE.days()).unwrap_or(as_of);
    for outcome in outcomes.iter().filter(|o| o.due_on < known) {
        let none = Delays { label: outcome.label, on_time: 0, a_bit_late: 0, late: 0, very_late: 0 };
        let of_label = labels.entry(outcome.label).or_insert(none);
        let count = match outcome.days_late() {
            Some(..=0) => &mut of_label.on_time,
            Some(..=Delays::A_BIT_LATE) => &mut of_label.a_bit_late,
            Some(..=Delays::LATE) => &mut of_label.late,
            _ => &mut of_label.very_late,
        };
        *count += 1;
    }
    labels.into_values().collect()
}

#[cfg(test)]
mod tests;
