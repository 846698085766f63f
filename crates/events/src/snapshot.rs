//! The two snapshots that events carry, checked: a consumer that holds an [`Invoice`] need not doubt it.

use crate::{time, v1};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{Currency, CustomerId, InvoiceId, Masked, MerchantId, PayerKind, Segment};

/// Why a message from the wire is not what it claims to be. No redelivery will change that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// The field at fault, dotted.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Malformed {
    /// A fault of a field.
    pub fn new(field: &'static str, problem: impl ToString) -> Self {
        Self { field, problem: problem.to_string() }
    }

    /// A field that has to be there and is not.
    pub fn missing(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvoiceStatus {
    /// Money is owed.
    Open,
    /// Paid in full.
    Paid,
    /// Taken back by the merchant.
    Void,
    /// Given up by the merchant.
    WrittenOff,
}

impl InvoiceStatus {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Void => "void",
            Self::WrittenOff => "written_off",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Paid, Self::Void, Self::WrittenOff].into_iter().find(|s| s.as_str() == text)
    }
}

/// An invoice, whole; the highest version is the latest. Field by field as `dunlin.events.v1.Invoice`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "documented field by field in proto/dunlin/events/v1/invoice.proto")]
pub struct Invoice {
    pub merchant: MerchantId,
    pub invoice: InvoiceId,
    pub customer: CustomerId,
    pub version: i64,
    pub epoch: i32,
    pub epoch_began_at: Option<Timestamp>,
    pub status: InvoiceStatus,
    pub number: String,
    pub currency: Currency,
    pub total_minor: i64,
    pub open_minor: i64,
    pub issued_on: Date,
    pub due_on: Option<Date>,
    pub closed_at: Option<Timestamp>,
    pub disputed: bool,
    pub overdue_hint: bool,
    pub failed_attempts: i32,
    pub last_failed_at: Option<Timestamp>,
    pub pay_url: Masked<String>,
    pub bill_to_name: Masked<String>,
    pub bill_to_email: Masked<String>,
    pub source: String,
    pub tags: Vec<String>,
    pub campaign: String,
    pub collects_itself: bool,
    pub pending_since: Option<Timestamp>,
    pub decline_code: String,
    pub document_url: Masked<String>,
}

impl TryFrom<&v1::Invoice> for Invoice {
    type Error = Malformed;

    fn try_from(wire: &v1::Invoice) -> Result<Self, Malformed> {
        let status = match wire.status() {
            v1::InvoiceStatus::Open => InvoiceStatus::Open,
            v1::InvoiceStatus::Paid => InvoiceStatus::Paid,
            v1::InvoiceStatus::Void => InvoiceStatus::Void,
            v1::InvoiceStatus::WrittenOff => InvoiceStatus::WrittenOff,
            v1::InvoiceStatus::Unspecified => {
                return Err(Malformed::new("invoice.status", format!("{} is not a known status", wire.status)));
            }
        };
        if wire.version < 1 || wire.epoch < 1 {
            return Err(Malformed::new("invoice.version", "version and epoch count from 1"));
        }
        let due_on = time::date_from_wire(&wire.due_on);
        let issued_on = time::date_from_wire(&wire.issued_on);
        Ok(Self {
            merchant: id("invoice.merchant_id", &wire.merchant_id)?,
            invoice: id("invoice.invoice_id", &wire.invoice_id)?,
            customer: id("invoice.customer_id", &wire.customer_id)?,
            version: wire.version,
            epoch: wire.epoch,
            epoch_began_at: time::from_wire(wire.epoch_began_at),
            status,
            number: wire.number.clone(),
            currency: wire.currency.parse().map_err(|e| Malformed::new("invoice.currency", e))?,
            total_minor: wire.total_minor,
            open_minor: wire.open_minor,
            issued_on: issued_on
                .map_err(|e| Malformed::new("invoice.issued_on", e))?
                .ok_or_else(|| Malformed::missing("invoice.issued_on"))?,
            due_on: due_on.map_err(|e| Malformed::new("invoice.due_on", e))?,
            closed_at: time::from_wire(wire.closed_at),
            disputed: wire.disputed,
            overdue_hint: wire.overdue_hint,
            failed_attempts: wire.failed_attempts,
            last_failed_at: time::from_wire(wire.last_failed_at),
            pay_url: Masked::new(wire.pay_url.clone()),
            bill_to_name: Masked::new(wire.bill_to_name.clone()),
            bill_to_email: Masked::new(wire.bill_to_email.clone()),
            source: wire.source.clone(),
            tags: wire.tags.clone(),
            campaign: wire.campaign.clone(),
            collects_itself: wire.collects_itself,
            pending_since: time::from_wire(wire.pending_since),
            decline_code: wire.decline_code.clone(),
            document_url: Masked::new(wire.document_url.clone()),
        })
    }
}

impl From<&Invoice> for v1::Invoice {
    fn from(invoice: &Invoice) -> Self {
        Self {
            merchant_id: invoice.merchant.to_string(),
            invoice_id: invoice.invoice.to_string(),
            customer_id: invoice.customer.to_string(),
            version: invoice.version,
            epoch: invoice.epoch,
            epoch_began_at: invoice.epoch_began_at.map(time::to_wire),
            status: match invoice.status {
                InvoiceStatus::Open => v1::InvoiceStatus::Open,
                InvoiceStatus::Paid => v1::InvoiceStatus::Paid,
                InvoiceStatus::Void => v1::InvoiceStatus::Void,
                InvoiceStatus::WrittenOff => v1::InvoiceStatus::WrittenOff,
            }
            .into(),
            number: invoice.number.clone(),
            currency: invoice.currency.to_string(),
            total_minor: invoice.total_minor,
            open_minor: invoice.open_minor,
            issued_on: invoice.issued_on.to_string(),
            due_on: time::date_to_wire(invoice.due_on),
            closed_at: invoice.closed_at.map(time::to_wire),
            disputed: invoice.disputed,
            overdue_hint: invoice.overdue_hint,
            failed_attempts: invoice.failed_attempts,
            last_failed_at: invoice.last_failed_at.map(time::to_wire),
            pay_url: invoice.pay_url.reveal().clone(),
            bill_to_name: invoice.bill_to_name.reveal().clone(),
            bill_to_email: invoice.bill_to_email.reveal().clone(),
            source: invoice.source.clone(),
            tags: invoice.tags.clone(),
            campaign: invoice.campaign.clone(),
            collects_itself: invoice.collects_itself,
            pending_since: invoice.pending_since.map(time::to_wire),
            decline_code: invoice.decline_code.clone(),
            document_url: invoice.document_url.reveal().clone(),
        }
    }
}

/// A customer, whole; the highest version is the latest. Field by field as `dunlin.events.v1.Customer`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "documented field by field in proto/dunlin/events/v1/customer.proto")]
pub struct Customer {
    pub merchant: MerchantId,
    pub customer: CustomerId,
    pub version: i64,
    pub name: Masked<String>,
    pub email: Masked<String>,
    pub time_zone: String,
    pub locale: String,
    pub deleted: bool,
    pub country: String,
    pub tags: Vec<String>,
    pub payer_kind: Option<PayerKind>,
    pub campaign: String,
    pub phone: Masked<String>,
}

impl TryFrom<&v1::Customer> for Customer {
    type Error = Malformed;

    fn try_from(wire: &v1::Customer) -> Result<Self, Malformed> {
        Ok(Self {
            merchant: id("customer.merchant_id", &wire.merchant_id)?,
            customer: id("customer.customer_id", &wire.customer_id)?,
            version: wire.version,
            name: Masked::new(wire.name.clone()),
            email: Masked::new(wire.email.clone()),
            time_zone: wire.time_zone.clone(),
            locale: wire.locale.clone(),
            deleted: wire.deleted,
            country: wire.country.clone(),
            tags: wire.tags.clone(),
            payer_kind: match wire.payer_kind() {
                v1::PayerKind::Business => Some(PayerKind::Business),
                v1::PayerKind::Consumer => Some(PayerKind::Consumer),
                v1::PayerKind::Unspecified => None,
            },
            campaign: wire.campaign.clone(),
            phone: Masked::new(wire.phone.clone()),
        })
    }
}

impl From<&Customer> for v1::Customer {
    fn from(customer: &Customer) -> Self {
        Self {
            merchant_id: customer.merchant.to_string(),
            customer_id: customer.customer.to_string(),
            version: customer.version,
            name: customer.name.reveal().clone(),
            email: customer.email.reveal().clone(),
            time_zone: customer.time_zone.clone(),
            locale: customer.locale.clone(),
            deleted: customer.deleted,
            country: customer.country.clone(),
            tags: customer.tags.clone(),
            payer_kind: match customer.payer_kind {
                Some(PayerKind::Business) => v1::PayerKind::Business,
                Some(PayerKind::Consumer) => v1::PayerKind::Consumer,
                None => v1::PayerKind::Unspecified,
            }
            .into(),
            campaign: customer.campaign.clone(),
            phone: customer.phone.reveal().clone(),
        }
    }
}

/// Reads an id from the wire.
pub fn id<T: std::str::FromStr<Err = kernel::id::IdError>>(field: &'static str, text: &str) -> Result<T, Malformed> {
    text.parse().map_err(|e| Malformed::new(field, e))
}

/// Reads a segment from the wire.
pub fn segment(wire: v1::Segment) -> Result<Segment, Malformed> {
    match wire {
        v1::Segment::New => Ok(Segment::New),
        v1::Segment::Prompt => Ok(Segment::Prompt),
        v1::Segment::Mixed => Ok(Segment::Mixed),
        v1::Segment::UsuallyLate => Ok(Segment::UsuallyLate),
        v1::Segment::ChronicallyLate => Ok(Segment::ChronicallyLate),
        v1::Segment::AtRisk => Ok(Segment::AtRisk),
        v1::Segment::Unspecified => Err(Malformed::new("segment", "is not a known segment")),
    }
}

/// A segment for the wire.
pub const fn segment_to_wire(segment: Segment) -> v1::Segment {
    match segment {
        Segment::New => v1::Segment::New,
        Segment::Prompt => v1::Segment::Prompt,
        Segment::Mixed => v1::Segment::Mixed,
        Segment::UsuallyLate => v1::Segment::UsuallyLate,
        Segment::ChronicallyLate => v1::Segment::ChronicallyLate,
        Segment::AtRisk => v1::Segment::AtRisk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Invoice {
        v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: "in_1".into(),
            customer_id: "cus_1".into(),
            version: 3,
            epoch: 1,
            status: v1::InvoiceStatus::Open.into(),
            number: "R-1".into(),
            currency: "EUR".into(),
            total_minor: 1_000,
            open_minor: 400,
            issued_on: "2026-01-01".into(),
            due_on: "2026-01-31".into(),
            bill_to_email: "ada@example.com".into(),
            ..Default::default()
        }
    }

    #[test]
    fn snapshots_survive_the_wire() {
        let typed = Invoice::try_from(&wire()).unwrap();
        assert_eq!(v1::Invoice::from(&typed), wire());
    }

    #[test]
    fn names_the_field_at_fault() {
        let fault = |change: fn(&mut v1::Invoice)| {
            let mut invoice = wire();
            change(&mut invoice);
            Invoice::try_from(&invoice).unwrap_err().field
        };
        assert_eq!(fault(|i| i.currency = "EURO".into()), "invoice.currency");
        assert_eq!(fault(|i| i.status = 99), "invoice.status");
        assert_eq!(fault(|i| i.merchant_id = "A.B".into()), "invoice.merchant_id");
        assert_eq!(fault(|i| i.due_on = "31.1.2026".into()), "invoice.due_on");
        assert_eq!(fault(|i| i.issued_on = String::new()), "invoice.issued_on");
        assert_eq!(fault(|i| i.epoch = 0), "invoice.version");
    }
}
