//! Figures, and what they mean. Pure.

use jiff::civil::Date;
use serde::Serialize;
use utoipa::ToSchema;

/// A part of a whole; the share is absent, not zero, where there is no whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Share {
    /// How many.
    pub count: i64,
    /// Of how many.
    pub of: i64,
    /// `count / of`, between 0 and 1; null if `of` is 0.
    pub share: Option<f64>,
}

impl Share {
    /// A part of a whole.
    pub fn new(count: i64, of: i64) -> Self {
        Self { count, of, share: (of > 0).then(|| count as f64 / of as f64) }
    }

    /// `1.4 %`: of shares that are small where all is well.
    pub fn per_mille(&self) -> String {
        self.share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
    }

    /// `83 %`, or `–` where there is no whole.
    pub fn percent(&self) -> String {
        self.share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0))
    }
}

/// How many reminders ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Outcomes {
    /// Accepted by the mail relay.
    pub sent: i64,
    /// Not sent, because there was nothing left to remind of or nobody to be reminded.
    pub suppressed: i64,
    /// Could not be sent.
    pub failed: i64,
    /// Handed over without an answer.
    pub unknown: i64,
    /// Of those accepted: came back, since nobody can be written to there.
    pub bounced: i64,
    /// Of those accepted: the payer complained.
    pub complained: i64,
}

impl Outcomes {
    /// Accepted reminders of those that were tried. Suppressed ones were not tried.
    pub fn delivery_rate(&self) -> Share {
        Share::new(self.sent, self.sent + self.failed + self.unknown)
    }

    /// Hard bounces of those accepted; 5 % are alarming.
    pub fn bounce_rate(&self) -> Share {
        Share::new(self.bounced, self.sent)
    }

    /// Complaints about those that arrived; more than 0.1 % hurt, 0.3 % is where large mailbox providers draw the line.
    pub fn complaint_rate(&self) -> Share {
        Share::new(self.complained, self.sent - self.bounced)
    }
}

/// Figures of a group: a merchant, a step or a segment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Group {
    /// Merchant id, step key or segment.
    pub key: String,
    /// How reminders ended.
    pub reminders: Outcomes,
    /// Accepted reminders of those tried.
    pub delivery_rate: Share,
    /// Hard bounces of those accepted.
    pub bounce_rate: Share,
    /// Complaints about those that arrived.
    pub complaint_rate: Share,
    /// Reminded invoices that were paid within seven days after the reminder, of those whose seven days are over or
    /// which were paid. Observational: many would have paid anyway.
    pub paid_within_7_days: Share,
    /// Visits of the payment page that a reminder led to.
    pub visits: i64,
}

/// All figures of a period.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Stats {
    /// First day, inclusive.
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    /// Last day, inclusive.
    #[schema(value_type = String, format = Date)]
    pub to: Date,
    /// The moment that the figures are of.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: jiff::Timestamp,
    /// Invoices known in all.
    pub invoices: i64,
    /// Invoices paid by their due date, of those that fell due in the period (void ones left out).
    pub on_time: Share,
    /// Invoices that dunlin told as overdue in the period.
    pub became_overdue: i64,
    /// Steps of the period that another message spoke for.
    pub merged_steps: i64,
    /// Steps of the period whose conditions did not hold.
    pub skipped_steps: i64,
    /// Reminders of the period that were held back because the payment came just before.
    pub suppressed_because_paid: i64,
    /// Customers who asked for no more reminders in the period.
    pub unsubscribed: i64,
    /// Invoices, as of now, whose reminders have ended while they are still open, so that a person has to take over.
    pub waiting_for_a_person: i64,
    /// Why steps of the period led to no message of their own, most often first.
    pub step_reasons: Vec<StepReason>,
    /// Figures per merchant.
    pub by_merchant: Vec<Group>,
    /// Figures per campaign step.
    pub by_step: Vec<Group>,
    /// Figures per segment that the customer was in when the reminder was decided.
    pub by_segment: Vec<Group>,
    /// How late the invoices of `on_time` were, for each of the six segments that customers are in now. Segments are made of
    /// payments such as these, so this describes them and proves nothing.
    pub delays_by_segment: Vec<SegmentDelays>,
    /// Invoices by the week that they fell due in, oldest first.
    pub weeks: Vec<Week>,
}

impl Stats {
    /// How all reminders of the period ended.
    pub fn reminders(&self) -> Outcomes {
        self.by_merchant.iter().fold(Outcomes::default(), |sum, group| Outcomes {
            sent: sum.sent + group.reminders.sent,
            suppressed: sum.suppressed + group.reminders.suppressed,
            failed: sum.failed + group.reminders.failed,
            unknown: sum.unknown + group.reminders.unknown,
            bounced: sum.bounced + group.reminders.bounced,
            complained: sum.complained + group.reminders.complained,
        })
    }

    /// Paid within seven days, over all merchants.
    pub fn paid_within_7_days(&self) -> Share {
        let sum = |part: fn(&Share) -> i64| self.by_merchant.iter().map(|g| part(&g.paid_within_7_days)).sum();
        Share::new(sum(|s| s.count), sum(|s| s.of))
    }
}

/// How late the invoices of a segment's customers were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SegmentDelays {
    /// `new`, `prompt`, `mixed`, `usually_late`, `chronically_late` or `at_risk`.
    pub segment: String,
    /// Paid by the due date.
    pub on_time: i64,
    /// Paid up to 7 days after it.
    pub a_week: i64,
    /// Paid 8 to 30 days after it.
    pub a_month: i64,
    /// Paid later.
    pub later: i64,
    /// Not paid yet.
    pub open: i64,
}

/// Why steps led to no message of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StepReason {
    /// `merged` or `skipped`.
    pub outcome: String,
    /// Machine-readable.
    pub reason: String,
    /// What in the campaign, the law or the operation caused it; empty if nothing more is known.
    pub rule: String,
    /// How many steps.
    pub count: i64,
}

/// Invoices that fell due in a week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Week {
    /// Its Monday.
    #[schema(value_type = String, format = Date)]
    pub monday: Date,
    /// Paid by the due date.
    pub on_time: i64,
    /// Paid later.
    pub late: i64,
    /// Not paid yet.
    pub open: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undefined_ratio_is_none() {
        assert_eq!(Share::new(0, 0).share, None);
        assert_eq!(Share::new(0, 0).percent(), "–");
        assert_eq!(Share::new(5, 6).percent(), "83 %");
    }

    #[test]
    fn suppressed_reminders_were_not_tried() {
        let outcomes =
            Outcomes { sent: 9, suppressed: 50, failed: 1, bounced: 1, complained: 2, ..Outcomes::default() };
        assert_eq!(outcomes.delivery_rate(), Share::new(9, 10));
        assert_eq!((outcomes.bounce_rate(), outcomes.complaint_rate()), (Share::new(1, 9), Share::new(2, 8)));
    }
}
