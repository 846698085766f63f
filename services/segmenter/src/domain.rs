//! What an invoice contributes to its customer's history. Pure.

use events::{Invoice, InvoiceStatus};
use jiff::tz::TimeZone;
use kernel::{CustomerId, InvoiceId, MerchantId};
use payer::History;

/// What one invoice contributes, as of one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Contribution {
    pub merchant: MerchantId,
    pub invoice: InvoiceId,
    pub version: i64,
    pub customer: CustomerId,
    pub history: History,
}

impl Contribution {
    /// Whether it was paid late is a matter of civil dates in the merchant's zone.
    pub fn of(invoice: &Invoice, zone: &TimeZone) -> Self {
        let paid_at = invoice.closed_at.filter(|_| invoice.status == InvoiceStatus::Paid);
        let paid_on = paid_at.map(|at| zone.to_datetime(at).date());
        Self {
            merchant: invoice.merchant.clone(),
            invoice: invoice.invoice.clone(),
            version: invoice.version,
            customer: invoice.customer.clone(),
            history: History::of_invoice(invoice.due_on, paid_on),
        }
    }
}
