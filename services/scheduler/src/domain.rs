//! What follows from what is known of a case. Pure.

use campaign::{Campaign, Case, Decided, Plan, Standing};
use events::InvoiceStatus;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{ContactHours, CustomerId, InvoiceId, MerchantId, Segment};
use uuid::Uuid;

/// A case with what is known of its invoice and its customer.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct CaseState {
    pub id: Uuid,
    pub merchant: MerchantId,
    pub invoice: InvoiceId,
    pub epoch: i32,
    pub customer: CustomerId,
    pub shard: i16,
    pub campaign: String,
    pub campaign_version: String,
    pub overdue_told_at: Option<Timestamp>,
    pub armed_at: Option<Timestamp>,
    pub generation: i32,
    pub closed: Option<(Timestamp, String)>,
    pub invoice_version: i64,
    pub invoice_epoch: i32,
    pub epoch_began_at: Option<Timestamp>,
    pub status: InvoiceStatus,
    pub currency: String,
    pub open_minor: i64,
    pub due_on: Option<Date>,
    pub disputed: bool,
    pub overdue_hint: bool,
    pub failed_attempts: i32,
    pub last_failed_at: Option<Timestamp>,
    pub customer_zone: String,
    pub segment: Segment,
    pub silent: bool,
    pub reminded_on: Option<Date>,
    pub in_flight: bool,
    pub decided: Vec<Decided>,
}

/// The id of a case.
pub fn case_id(merchant: &MerchantId, invoice: &InvoiceId, epoch: i32) -> Uuid {
    kernel::id::derive("case", merchant.as_str(), invoice.as_str(), &epoch.to_string())
}

/// The customer's own zone, if it is known, else the merchant's.
pub fn payer_zone(own: &str, merchant_zone: &TimeZone) -> TimeZone {
    let own = (!own.is_empty()).then(|| kernel::contact::zone(own).ok()).flatten();
    own.unwrap_or_else(|| merchant_zone.clone())
}

impl CaseState {
    /// Why the case has ended, if it has.
    pub fn end(&self) -> Option<&'static str> {
        if self.epoch < self.invoice_epoch {
            return Some("next_epoch");
        }
        (self.status != InvoiceStatus::Open).then(|| self.status.as_str())
    }

    /// When the payer may be written to: the campaign's hours in the customer's zone, else in the merchant's.
    pub fn hours(&self, campaign: &Campaign, merchant_zone: &TimeZone) -> ContactHours {
        campaign.hours.in_zone(payer_zone(&self.customer_zone, merchant_zone))
    }

    /// The campaign's plan for the case.
    pub fn plan(&self, campaign: &Campaign, hours: &ContactHours, now: Timestamp) -> Plan {
        let standing = match (self.end(), self.disputed) {
            (Some(_), _) => Standing::Closed,
            (None, true) => Standing::Held,
            (None, false) => Standing::Open,
        };
        let case = Case {
            standing,
            due_on: self.due_on,
            reopened_at: self.epoch_began_at,
            failed_attempts: u32::try_from(self.failed_attempts).unwrap_or(0),
            last_failed_at: self.last_failed_at,
            segment: self.segment,
            opted_out: self.silent,
            decided: &self.decided,
            last_reminded_on: self.reminded_on,
            in_flight: self.in_flight,
            hours,
            spread: kernel::id::stable_hash(&["spread", self.merchant.as_str(), self.customer.as_str()]),
        };
        campaign::plan(campaign, &case, now)
    }

    /// When `invoice-overdue` has to be told: with the end of the due date in the merchant's zone, once per case. An
    /// invoice without a due date is overdue when its processor says so.
    pub fn overdue_at(&self, merchant_zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        if self.overdue_told_at.is_some() || self.end().is_some() {
            return None;
        }
        match self.due_on {
            Some(due_on) => due_on.tomorrow().ok()?.to_zoned(merchant_zone.clone()).ok().map(|z| z.timestamp()),
            None => self.overdue_hint.then_some(now),
        }
    }

    /// When to look at the case again, as far as anything can be known now.
    pub fn wake_at(&self, plan: &Plan, merchant_zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let something_to_do = plan.send.is_some() || !plan.skip.is_empty();
        let planned = if something_to_do { Some(now) } else { plan.wake_at };
        [planned, self.overdue_at(merchant_zone, now)].into_iter().flatten().min()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn state() -> CaseState {
        CaseState {
            id: Uuid::nil(),
            merchant: "acme".parse().unwrap(),
            invoice: "in_1".parse().unwrap(),
            epoch: 1,
            customer: "cus_1".parse().unwrap(),
            shard: 0,
            campaign: "default".to_owned(),
            campaign_version: "1".to_owned(),
            overdue_told_at: None,
            armed_at: None,
            generation: 0,
            closed: None,
            invoice_version: 1,
            invoice_epoch: 1,
            epoch_began_at: None,
            status: InvoiceStatus::Open,
            currency: "EUR".to_owned(),
            open_minor: 100,
            due_on: Some("2026-06-01".parse().unwrap()),
            disputed: false,
            overdue_hint: false,
            failed_attempts: 0,
            last_failed_at: None,
            customer_zone: String::new(),
            segment: Segment::New,
            silent: false,
            reminded_on: None,
            in_flight: false,
            decided: Vec::new(),
        }
    }

    fn zone(name: &str) -> TimeZone {
        kernel::contact::zone(name).unwrap()
    }

    #[test]
    fn overdue_begins_after_the_due_date_in_the_merchants_zone() {
        let now = "2026-05-01T00:00:00Z".parse().unwrap();
        let at = state().overdue_at(&zone("America/New_York"), now).unwrap();
        assert_eq!(at.to_string(), "2026-06-02T04:00:00Z");
        let told = CaseState { overdue_told_at: Some(now), ..state() };
        assert_eq!(told.overdue_at(&TimeZone::UTC, now), None, "once");
        let paid = CaseState { status: InvoiceStatus::Paid, ..state() };
        assert_eq!(paid.overdue_at(&TimeZone::UTC, now), None);
    }

    #[test]
    fn a_processors_hint_counts_where_there_is_no_due_date() {
        let now = "2026-05-01T00:00:00Z".parse().unwrap();
        let hinted = CaseState { overdue_hint: true, ..state() };
        assert_eq!(hinted.overdue_at(&TimeZone::UTC, now).unwrap().to_string(), "2026-06-02T00:00:00Z", "never early");
        let dateless = CaseState { due_on: None, overdue_hint: true, ..state() };
        assert_eq!(dateless.overdue_at(&TimeZone::UTC, now), Some(now));
        assert_eq!(CaseState { due_on: None, ..state() }.overdue_at(&TimeZone::UTC, now), None);
    }

    #[test]
    fn a_case_ends_with_its_invoice_or_its_epoch() {
        assert_eq!(state().end(), None);
        let void = CaseState { status: InvoiceStatus::Void, ..state() };
        assert_eq!(void.end(), Some("void"));
        let past = CaseState { invoice_epoch: 2, ..state() };
        assert_eq!(past.end(), Some("next_epoch"));
    }

    #[test]
    fn case_ids_tell_epochs_apart() {
        let id = |epoch| case_id(&state().merchant, &state().invoice, epoch);
        assert_ne!(id(1), id(2));
        assert_eq!(id(1), id(1));
    }
}
