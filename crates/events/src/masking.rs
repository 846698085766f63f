//! `Debug` for the messages that carry names and addresses: ids and figures, no person.

use crate::{api, v1};
use std::fmt;

impl fmt::Debug for v1::Invoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invoice")
            .field("merchant_id", &self.merchant_id)
            .field("invoice_id", &self.invoice_id)
            .field("customer_id", &self.customer_id)
            .field("version", &self.version)
            .field("epoch", &self.epoch)
            .field("status", &self.status)
            .field("due_on", &self.due_on)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Customer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Customer")
            .field("merchant_id", &self.merchant_id)
            .field("customer_id", &self.customer_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for api::InvoiceFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvoiceFact")
            .field("invoice_id", &self.invoice_id)
            .field("customer_id", &self.customer_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for api::CustomerFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerFact").field("customer_id", &self.customer_id).finish_non_exhaustive()
    }
}
