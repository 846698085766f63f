//! What an adaptive schedule brings: from what is known of enrolled invoices to a report. Pure.
//!
//! An invoice counts in the group that it was drawn for, whatever was then sent, and against the due date that it had then,
//! rolled over a weekend as in predictions ([`payer::due::roll`]): whatever comes later may have come because of a reminder. For
//! that reason too
//!
//! * what is **written off** stays in: it was never paid;
//! * what is **disputed** stays in, as paid or not as it is: a reminder may have led to the dispute. How many there are is shown.
//!
//! What says nothing about either schedule is left out, counted and shown: [`Excluded`].

use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{MerchantId, Segment};
use payer::due::roll;
use payer::experiment::Group;
use payer::lift::{LiftReport, Outcome, Setting, Trial};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use utoipa::ToSchema;

/// What lift is measured against.
pub const COMPARATOR: &str = "against invoices of the same customers on the campaign's static schedule";
/// Days after a chase within which a payment counts as its success.
const CHASE_DAYS: i32 = 7;

/// What an adaptive schedule brings to a merchant.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Lift {
    /// The merchant.
    pub merchant: String,
    /// The only campaign that is reported on; null: all that suit themselves to payers.
    pub campaign: Option<String>,
    /// All campaigns that suited themselves to payers so far.
    pub campaigns: Vec<String>,
    /// The moment that the figures are of.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Timestamp,
    /// What is compared with: invoices of the same customers on the campaign's static schedule.
    pub comparator: &'static str,
    /// What may be said of the share paid on time, in a sentence.
    pub finding: String,
    /// The report.
    #[serde(flatten)]
    pub report: LiftReport,
    /// Enrolled invoices that are in no comparison.
    pub excluded: Excluded,
    /// Invoices in the comparisons that are disputed now.
    pub disputed: ByGroup,
    /// Invoices in the comparisons that were written off: never paid.
    pub written_off: ByGroup,
}

/// How many invoices, by what they were drawn for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ByGroup {
    /// For the adaptive schedule.
    pub treated: u32,
    /// For the static schedule.
    pub held_out: u32,
    /// For the static schedule, with their customers.
    pub customers_held_out: u32,
}

impl ByGroup {
    fn count(&mut self, group: Group) {
        *match group {
            Group::Treated => &mut self.treated,
            Group::InvoiceHeldOut => &mut self.held_out,
            Group::CustomerHeldOut => &mut self.customers_held_out,
        } += 1;
    }
}

/// Enrolled invoices that say nothing about either schedule, by the first reason that applies. Were one group much fuller
/// than its share, that would be an effect of the schedule itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Excluded {
    /// Nothing else has been heard of them yet.
    pub unheard_of: ByGroup,
    /// Taken back by the merchant: nothing was owed.
    pub void: ByGroup,
    /// Paid, and the money taken back: what is owed since then was due long before.
    pub begun_anew: ByGroup,
    /// Without a due date, so never on time and never late.
    pub without_due_date: ByGroup,
}

/// An arm that was drawn for a step of an invoice, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The key of the step.
    pub step: String,
    /// As the campaign writes it.
    pub arm: String,
    /// The probability with which it was drawn, above 0 and at most 1.
    pub propensity: f64,
    /// How many days before the due date the step goes out as written; below 0: after it.
    pub days_before_due: i32,
}

/// An invoice that was enrolled in its first epoch, and what is known of it by now.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the columns of tracker.enrolment")]
pub struct Enrolled {
    pub invoice: String,
    pub customer: String,
    pub group: Group,
    pub propensity: f64,
    pub segment: Segment,
    pub late: Option<f32>,
    /// In the merchant's zone.
    pub enrolled_on: Date,
    pub due_on: Option<Date>,
    pub reminds_before_due: bool,
    pub arms: Vec<Drawn>,
    /// `None` if nothing else has been heard of the invoice.
    pub known: Option<Known>,
}

/// A message that went out.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// In the merchant's zone.
    pub sent_on: Date,
    /// Whether the payer unsubscribed from it.
    pub opted_out: bool,
}

/// The messages about each invoice.
pub type Messages = HashMap<String, Vec<Message>>;

/// What is known of an invoice by now.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the columns of tracker.invoice")]
pub struct Known {
    pub epoch: i32,
    pub status: String,
    pub disputed: bool,
    /// In the merchant's zone.
    pub paid_on: Option<Date>,
}

/// Outcomes, as they are read.
#[derive(Debug)]
pub struct Ledger {
    merchant: MerchantId,
    as_of: Date,
    started_on: Date,
    messages: Messages,
    outcomes: Vec<Outcome>,
    trials: Vec<Trial>,
    excluded: Excluded,
    disputed: ByGroup,
    written_off: ByGroup,
}

impl Ledger {
    /// Nothing yet. Outcomes are known up to the day before `as_of`, a day in the merchant's zone.
    pub fn new(merchant: MerchantId, as_of: Date, messages: Messages) -> Self {
        Self {
            merchant,
            as_of,
            started_on: as_of,
            messages,
            outcomes: Vec::new(),
            trials: Vec::new(),
            excluded: Excluded::default(),
            disputed: ByGroup::default(),
            written_off: ByGroup::default(),
        }
    }

    /// Adds an invoice.
    pub fn add(&mut self, enrolled: Enrolled) {
        let group = enrolled.group;
        self.started_on = self.started_on.min(enrolled.enrolled_on);
        let excluded = &mut self.excluded;
        let Some(known) = &enrolled.known else { return excluded.unheard_of.count(group) };
        if known.status == "void" {
            return excluded.void.count(group);
        }
        if known.epoch > 1 {
            return excluded.begun_anew.count(group);
        }
        let Some(due_on) = enrolled.due_on.map(roll) else { return excluded.without_due_date.count(group) };
        if known.disputed {
            self.disputed.count(group);
        }
        if known.status == "written_off" {
            self.written_off.count(group);
        }
        let paid_on = known.paid_on;
        let trials = enrolled.arms.into_iter().filter_map(|drawn| trial(drawn, due_on, paid_on, self.as_of));
        self.trials.extend(trials);
        let messages = self.messages.remove(&enrolled.invoice).unwrap_or_default();
        let count = |is_in: fn(&Message, Date) -> bool| {
            u32::try_from(messages.iter().filter(|message| is_in(message, due_on)).count()).unwrap_or(u32::MAX)
        };
        self.outcomes.push(Outcome {
            customer: kernel::id::stable_hash(&[self.merchant.as_str(), &enrolled.customer]),
            label: enrolled.segment,
            group,
            propensity: enrolled.propensity,
            late: enrolled.late.map(f64::from),
            decided_on: if enrolled.reminds_before_due {
                enrolled.enrolled_on
            } else {
                // The day from which on the schedules can differ.
                enrolled.enrolled_on.max(due_on.tomorrow().unwrap_or(due_on))
            },
            due_on,
            paid_on,
            messages: count(|_, _| true),
            messages_by_due: count(|message, due_on| message.sent_on <= due_on),
            opted_out: messages.iter().any(|message| message.opted_out),
            complained: None,
        });
    }

    /// The report.
    pub fn report(self, campaign: Option<String>, campaigns: Vec<String>, as_of: Timestamp) -> Lift {
        let setting = Setting {
            started_on: self.started_on,
            as_of: self.as_of,
            treated_customers: treated_customers(&self.outcomes),
        };
        let report = payer::lift::lift(&self.outcomes, &self.trials, setting);
        Lift {
            merchant: self.merchant.to_string(),
            campaign,
            campaigns,
            as_of,
            comparator: COMPARATOR,
            finding: report.on_time.finding(),
            report,
            excluded: self.excluded,
            disputed: self.disputed,
            written_off: self.written_off,
        }
    }
}

/// What came of an arm, once it is known: paid by the due date for a step up to it, within seven days of its day for a later
/// one. What was paid by the due date no later step played a part in.
fn trial(drawn: Drawn, due_on: Date, paid_on: Option<Date>, as_of: Date) -> Option<Trial> {
    let after_due = -drawn.days_before_due;
    let is_chase = after_due > 0;
    let days = if is_chase { after_due + CHASE_DAYS } else { 0 };
    let until = due_on.checked_add(jiff::Span::new().try_days(days).ok()?).ok()?;
    if until >= as_of || is_chase && paid_on.is_some_and(|paid_on| paid_on <= due_on) {
        return None;
    }
    let is_success = paid_on.is_some_and(|paid_on| paid_on <= until);
    Some(Trial { step: drawn.step, arm: drawn.arm, propensity: drawn.propensity, is_success })
}

/// The share of customers that are not held out for good. Observed: events tell the probability of invoices only, and the
/// observed share serves as well.
fn treated_customers(outcomes: &[Outcome]) -> f64 {
    let customers = |is_in: fn(Group) -> bool| -> HashSet<u64> {
        outcomes.iter().filter(|o| is_in(o.group)).map(|o| o.customer).collect()
    };
    let (held_out, all) = (customers(|group| group == Group::CustomerHeldOut).len(), customers(|_| true).len());
    1.0 - held_out as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn enrolled(change: impl FnOnce(&mut Enrolled)) -> Enrolled {
        let mut enrolled = Enrolled {
            invoice: "in_1".into(),
            customer: "cus_1".into(),
            group: Group::Treated,
            propensity: 0.9,
            segment: Segment::Mixed,
            late: Some(0.5),
            enrolled_on: date("2026-01-01"),
            due_on: Some(date("2026-01-31")),
            reminds_before_due: true,
            arms: Vec::new(),
            known: Some(Known { epoch: 1, status: "open".into(), disputed: false, paid_on: None }),
        };
        change(&mut enrolled);
        enrolled
    }

    fn ledger(rows: impl IntoIterator<Item = Enrolled>) -> Ledger {
        let mut ledger = Ledger::new("acme".parse().unwrap(), date("2026-06-01"), Messages::new());
        rows.into_iter().for_each(|row| ledger.add(row));
        ledger
    }

    #[test]
    fn what_says_nothing_is_left_out_and_counted() {
        fn known(e: &mut Enrolled) -> &mut Known {
            e.known.as_mut().unwrap()
        }
        let rows = [
            enrolled(|e| e.known = None),
            enrolled(|e| known(e).status = "void".into()),
            enrolled(|e| known(e).epoch = 2),
            enrolled(|e| e.due_on = None),
            enrolled(|e| known(e).status = "written_off".into()),
            enrolled(|e| (known(e).disputed, e.group) = (true, Group::InvoiceHeldOut)),
        ];
        let ledger = ledger(rows);
        let treated = |treated| ByGroup { treated, ..ByGroup::default() };
        let excluded =
            Excluded { unheard_of: treated(1), void: treated(1), begun_anew: treated(1), without_due_date: treated(1) };
        assert_eq!(ledger.excluded, excluded);
        assert_eq!((ledger.written_off, ledger.disputed), (treated(1), ByGroup { held_out: 1, ..ByGroup::default() }));
        assert_eq!(ledger.outcomes.len(), 2, "what is written off or disputed counts");
    }

    #[test]
    fn what_is_only_chased_is_decided_after_the_due_date() {
        let ledger = ledger([enrolled(|e| e.reminds_before_due = false), enrolled(|_| {})]);
        let decided: Vec<Date> = ledger.outcomes.iter().map(|o| o.decided_on).collect();
        assert_eq!(decided, [date("2026-02-03"), date("2026-01-01")]);
    }

    #[test]
    fn what_is_due_on_a_weekend_is_on_time_on_monday() {
        // The 31st is a Saturday.
        let paid = |on: &str| {
            let arm = Drawn { step: "s".into(), arm: "none".into(), propensity: 0.5, days_before_due: 5 };
            let known = Known { epoch: 1, status: "paid".into(), disputed: false, paid_on: Some(date(on)) };
            let ledger = ledger([enrolled(|e| (e.known, e.arms) = (Some(known), vec![arm]))]);
            (ledger.outcomes[0].due_on, ledger.trials[0].is_success)
        };
        assert_eq!(paid("2026-02-02"), (date("2026-02-02"), true));
        assert_eq!(paid("2026-02-03"), (date("2026-02-02"), false));
    }

    #[test]
    fn an_arm_worked_if_paid_in_its_time() {
        let worked = |days_before_due, paid_on: Option<&str>, as_of: &str| {
            let drawn = Drawn { step: "s".into(), arm: "none".into(), propensity: 0.5, days_before_due };
            trial(drawn, date("2026-01-31"), paid_on.map(date), date(as_of)).map(|t| t.is_success)
        };
        assert_eq!(worked(5, Some("2026-01-31"), "2026-02-01"), Some(true));
        assert_eq!(worked(5, Some("2026-02-01"), "2026-02-02"), Some(false));
        assert_eq!(worked(5, None, "2026-01-31"), None, "the due date is not over");
        assert_eq!(
            worked(0, Some("2026-02-01"), "2026-02-02"),
            Some(false),
            "a step on the due date is for being on time"
        );
        assert_eq!(worked(-3, Some("2026-02-10"), "2026-02-11"), Some(true));
        assert_eq!(worked(-3, Some("2026-02-11"), "2026-02-12"), Some(false));
        assert_eq!(worked(-3, Some("2026-02-05"), "2026-02-10"), None, "not before the others of its day are known");
        assert_eq!(worked(-3, Some("2026-01-30"), "2026-03-01"), None, "was not chased");
    }

    #[test]
    fn customers_held_out_are_a_share_of_customers() {
        let of = |customer: &str, group| {
            enrolled(|e| {
                e.customer = customer.into();
                e.group = group;
            })
        };
        let rows = [of("a", Group::Treated), of("a", Group::Treated), of("b", Group::CustomerHeldOut)];
        assert_eq!(treated_customers(&ledger(rows).outcomes), 0.5);
        assert_eq!(treated_customers(&[]), 1.0);
    }
}
