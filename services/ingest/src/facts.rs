//! What every source is translated into, whatever it looked like outside.

use crate::domain::{
    self, Closure, CustomerFacts, Fact, ReversalKind, Snapshot, Source, Stage, Stamped, check_amount, check_code,
    check_id,
};
use bytes::Bytes;
use events::{Malformed, api, snapshot, time};
use jiff::Timestamp;
use kernel::{Currency, CustomerId, InvoiceId, Masked, MerchantId, PayerKind};
use uuid::Uuid;

/// A message from outside, translated.
#[derive(Debug, Clone)]
pub struct Message {
    /// Derived from merchant, source and external id: the same message twice has the same id.
    pub id: Uuid,
    /// Whose.
    pub merchant: MerchantId,
    /// `stripe`, `grpc`, `file`, or the source of a CloudEvent.
    pub source: String,
    /// The sender's id of the message.
    pub external_id: String,
    /// The sender's type.
    pub kind: String,
    /// Bytes as they arrived.
    pub body: Bytes,
    /// The sender's time of the message, if it came beside the body.
    pub occurred_at: Option<Timestamp>,
    /// Business time of arrival.
    pub received_at: Timestamp,
    /// The trace it arrived in.
    pub traceparent: Option<String>,
    /// What it says, or why it makes no sense.
    pub content: Result<Content, Malformed>,
    /// Whether the sender is told what makes no sense, and sends it again under the same id: then it is not kept.
    pub sender_corrects: bool,
}

impl Message {
    /// The id of a message.
    pub fn id(merchant: &MerchantId, source: &str, external_id: &str) -> Uuid {
        kernel::id::derive(source, merchant.as_str(), external_id, "inbound")
    }

    /// The invoice it is about, if it names one.
    pub fn about(&self) -> Option<&InvoiceId> {
        match self.content.as_ref().ok()? {
            Content::Invoice { invoice, .. } => Some(invoice),
            _ => None,
        }
    }
}

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Something about an invoice.
    Invoice {
        /// Which.
        invoice: InvoiceId,
        /// What; in no particular order.
        facts: Vec<Stamped>,
        /// Charges and payment intents that pay it.
        charges: Vec<String>,
        /// Why the rest of the message makes no sense, if it does not. What is certain takes effect all the same.
        fault: Option<Malformed>,
    },
    /// Something about a charge, whose invoice is known from other messages, or not yet.
    Charge {
        /// Ids of the charge and its payment intent: any of them leads to the invoice.
        charges: Vec<String>,
        /// What; in no particular order.
        facts: Vec<Stamped>,
    },
    /// Something about a customer.
    Customer {
        /// Which.
        customer: CustomerId,
        /// What.
        facts: CustomerFacts,
        /// Why the rest of the message makes no sense, if it does not.
        fault: Option<Malformed>,
    },
    /// A kind that changes nothing here: stored only.
    Other,
}

/// Translates a fact of the API that came in by `source`. Faults name the field as the caller wrote it.
pub fn translate(fact: &api::Fact, source: Source) -> Result<Content, Malformed> {
    given("id", &fact.id)?;
    let at = time::from_wire(fact.occurred_at).ok_or_else(|| Malformed::missing("occurred_at"))?;
    let stamp = |fact_: Fact| Stamped { at, id: fact.id.clone(), fact: fact_ };
    let about = |field, id: &str, fact| {
        Ok(Content::Invoice { invoice: snapshot::id(field, id)?, facts: vec![fact], charges: Vec::new(), fault: None })
    };
    match fact.fact.as_ref().ok_or_else(|| Malformed::missing("fact"))? {
        api::fact::Fact::Invoice(i) => {
            let snapshot = invoice_snapshot(i, source)?;
            about("invoice.invoice_id", &i.invoice_id, stamp(Fact::Snapshot(Box::new(snapshot))))
        }
        api::fact::Fact::Payment(p) => {
            given("payment.payment_id", &p.payment_id)?;
            positive("payment.amount_minor", p.amount_minor)?;
            let currency = currency("payment.currency", &p.currency)?;
            let payment = Fact::Payment { payment: p.payment_id.clone(), amount_minor: p.amount_minor, currency };
            about("payment.invoice_id", &p.invoice_id, stamp(payment))
        }
        api::fact::Fact::PaymentFailure(f) => {
            check_code("payment_failure.decline_code", &f.decline_code)?;
            let failure = Fact::Failure { decline_code: f.decline_code.clone(), attempt: None };
            about("payment_failure.invoice_id", &f.invoice_id, stamp(failure))
        }
        api::fact::Fact::Reversal(r) => {
            positive("reversal.amount_minor", r.amount_minor)?;
            let kind = match r.reason() {
                api::ReversalReason::Chargeback => ReversalKind::Chargeback,
                api::ReversalReason::LateFailure => ReversalKind::LateFailure,
                api::ReversalReason::Refund => ReversalKind::Refund,
                api::ReversalReason::Unspecified => return Err(unspecified("reversal.reason")),
            };
            let reversal = Fact::Reversal { reversal: fact.id.clone(), kind, amount_minor: r.amount_minor };
            about("reversal.invoice_id", &r.invoice_id, stamp(reversal))
        }
        api::fact::Fact::Closure(c) => {
            let closure = match c.reason() {
                api::ClosureReason::Voided => Closure::Voided,
                api::ClosureReason::WrittenOff => Closure::WrittenOff,
                api::ClosureReason::Unspecified => return Err(unspecified("closure.reason")),
            };
            about("closure.invoice_id", &c.invoice_id, stamp(Fact::Closure(closure)))
        }
        api::fact::Fact::Dispute(d) => {
            given("dispute.dispute_id", &d.dispute_id)?;
            let dispute = Fact::Dispute { dispute: d.dispute_id.clone(), open: d.open };
            about("dispute.invoice_id", &d.invoice_id, stamp(dispute))
        }
        api::fact::Fact::Pending(p) => about("pending.invoice_id", &p.invoice_id, stamp(Fact::Pending(p.pending))),
        api::fact::Fact::Customer(c) => {
            let facts = customer_facts(at, &fact.id, c)?;
            let customer = snapshot::id("customer.customer_id", &c.customer_id)?;
            Ok(Content::Customer { customer, facts, fault: None })
        }
    }
}

fn customer_facts(at: Timestamp, id: &str, c: &api::CustomerFact) -> Result<CustomerFacts, Malformed> {
    if !c.time_zone.is_empty() {
        kernel::contact::zone(&c.time_zone).map_err(|e| Malformed::new("customer.time_zone", e))?;
    }
    let facts = CustomerFacts {
        at,
        id: id.to_owned(),
        // A sender of whole customers does not tell whether one is new.
        stage: if c.deleted { Stage::Deleted } else { Stage::Updated },
        name: Masked::new(c.name.clone()),
        email: Masked::new(c.email.clone()),
        phone: Masked::new(c.phone.clone()),
        time_zone: c.time_zone.clone(),
        locale: c.locale.clone(),
        country: domain::country("customer.country", &c.country)?,
        tags: domain::tags("customer.tags", c.tags.iter().map(String::as_str))?,
        payer_kind: match c.payer_kind() {
            api::PayerKind::Business => Some(PayerKind::Business),
            api::PayerKind::Consumer => Some(PayerKind::Consumer),
            api::PayerKind::Unspecified => None,
        },
        campaign: domain::campaign("customer.campaign", &c.campaign)?,
        partial: false,
    };
    facts.check().map_err(|fault| {
        let field = match fault.field {
            "name" => "customer.name",
            "email" => "customer.email",
            "phone" => "customer.phone",
            _ => "customer.locale",
        };
        Malformed { field, ..fault }
    })?;
    Ok(facts)
}

fn invoice_snapshot(i: &api::InvoiceFact, source: Source) -> Result<Snapshot, Malformed> {
    let date = |field, text: &str| time::date_from_wire(text).map_err(|e| Malformed::new(field, e));
    let snapshot = Snapshot {
        customer: snapshot::id("invoice.customer_id", &i.customer_id)?,
        number: if i.number.is_empty() { i.invoice_id.clone() } else { i.number.clone() },
        currency: currency("invoice.currency", &i.currency)?,
        total_minor: i.total_minor,
        paid_minor: 0,
        issued_on: date("invoice.issued_on", &i.issued_on)?.ok_or_else(|| Malformed::missing("invoice.issued_on"))?,
        due_on: date("invoice.due_on", &i.due_on)?,
        draft: false,
        pay_url: Masked::new(i.pay_url.clone()),
        document_url: Masked::new(i.document_url.clone()),
        bill_to_name: Masked::new(i.bill_to_name.clone()),
        bill_to_email: Masked::new(i.bill_to_email.clone()),
        source,
        tags: domain::tags("invoice.tags", i.tags.iter().map(String::as_str))?,
        campaign: domain::campaign("invoice.campaign", &i.campaign)?,
        collects_itself: i.collects_itself,
        partial: false,
    };
    snapshot.check().map_err(|fault| {
        let field = match fault.field {
            "due_on" => "invoice.due_on",
            "number" => "invoice.number",
            "pay_url" => "invoice.pay_url",
            "document_url" => "invoice.document_url",
            "bill_to_name" => "invoice.bill_to_name",
            "bill_to_email" => "invoice.bill_to_email",
            _ => "invoice.total_minor",
        };
        Malformed { field, ..fault }
    })?;
    Ok(snapshot)
}

fn currency(field: &'static str, code: &str) -> Result<Currency, Malformed> {
    Currency::try_new(code).map_err(|e| Malformed::new(field, e))
}

fn positive(field: &'static str, amount: i64) -> Result<(), Malformed> {
    if amount > 0 {
        check_amount(field, amount)
    } else {
        Err(Malformed::new(field, format!("{amount} is not above zero")))
    }
}

fn given(field: &'static str, id: &str) -> Result<(), Malformed> {
    if id.is_empty() { Err(Malformed::new(field, "is empty")) } else { check_id(field, id) }
}

fn unspecified(field: &'static str) -> Malformed {
    Malformed::new(field, "is not set")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(inner: api::fact::Fact) -> api::Fact {
        let occurred_at = Some(time::to_wire("2026-01-05T10:00:00Z".parse().unwrap()));
        api::Fact { id: "f1".into(), occurred_at, fact: Some(inner) }
    }

    fn invoice() -> api::InvoiceFact {
        api::InvoiceFact {
            invoice_id: "in_1".into(),
            customer_id: "cus_1".into(),
            currency: "eur".into(),
            total_minor: 1_000,
            issued_on: "2026-01-01".into(),
            due_on: "2026-01-31".into(),
            ..Default::default()
        }
    }

    #[test]
    fn faults_name_the_field() {
        let fault = |f: api::Fact| translate(&f, Source::Grpc).unwrap_err().to_string();
        let with = |change: fn(&mut api::InvoiceFact)| {
            let mut i = invoice();
            change(&mut i);
            fault(fact(api::fact::Fact::Invoice(i)))
        };
        assert_eq!(fault(api::Fact::default()), "id: is empty");
        let long = api::Fact { id: "x".repeat(256), ..Default::default() };
        assert_eq!(fault(long), "id: has 256 characters; at most 255 fit");
        assert_eq!(fault(api::Fact { id: "x".into(), ..Default::default() }), "occurred_at: is missing");
        assert_eq!(with(|i| i.invoice_id = String::new()), "invoice.invoice_id: is empty");
        assert_eq!(with(|i| i.total_minor = -1), "invoice.total_minor: -1 is negative; an invoice asks for money");
        assert_eq!(
            with(|i| i.due_on = "2025-12-31".into()),
            "invoice.due_on: 2025-12-31 lies before the date of issue, 2026-01-01"
        );
        assert!(with(|i| i.issued_on = "1.1.2026".into()).starts_with("invoice.issued_on: "));
        assert!(
            with(|i| i.total_minor = i64::MAX).starts_with("invoice.total_minor: 9223372036854775807 is too large")
        );
        assert!(with(|i| i.number = "9".repeat(1_001)).starts_with("invoice.number: "));
        assert!(with(|i| i.pay_url = "u".repeat(4_001)).starts_with("invoice.pay_url: "));
        assert!(with(|i| i.bill_to_name = "n".repeat(1_001)).starts_with("invoice.bill_to_name: "));
        assert!(with(|i| i.bill_to_email = "e".repeat(1_001)).starts_with("invoice.bill_to_email: "));
        let failure = api::PaymentFailureFact { invoice_id: "i".into(), decline_code: "c".repeat(101) };
        let failure = fault(fact(api::fact::Fact::PaymentFailure(failure)));
        assert!(failure.starts_with("payment_failure.decline_code: "), "{failure}");
        let customer = api::CustomerFact { customer_id: "c".into(), locale: "l".repeat(101), ..Default::default() };
        assert!(fault(fact(api::fact::Fact::Customer(customer))).starts_with("customer.locale: "));
        let payment = api::PaymentFact {
            payment_id: "p".into(),
            invoice_id: "i".into(),
            amount_minor: 0,
            currency: "EUR".into(),
        };
        assert_eq!(fault(fact(api::fact::Fact::Payment(payment))), "payment.amount_minor: 0 is not above zero");
    }

    #[test]
    fn faults_of_what_campaigns_choose_by_name_the_field() {
        let fault = |inner| translate(&fact(inner), Source::Grpc).unwrap_err().field;
        let with = |change: fn(&mut api::InvoiceFact)| {
            let mut i = invoice();
            change(&mut i);
            fault(api::fact::Fact::Invoice(i))
        };
        assert_eq!(with(|i| i.tags = vec![String::new()]), "invoice.tags");
        assert_eq!(with(|i| i.campaign = "a b".into()), "invoice.campaign");
        let with = |change: fn(&mut api::CustomerFact)| {
            let mut c = api::CustomerFact { customer_id: "c".into(), ..Default::default() };
            change(&mut c);
            fault(api::fact::Fact::Customer(c))
        };
        assert_eq!(with(|c| c.tags = vec!["a,b".into()]), "customer.tags");
        assert_eq!(with(|c| c.campaign = "a/b".into()), "customer.campaign");
        assert_eq!(with(|c| c.country = "Germany".into()), "customer.country");
        assert_eq!(fault(api::fact::Fact::Pending(api::PendingFact::default())), "pending.invoice_id");
    }

    #[test]
    fn what_campaigns_choose_by_is_translated() {
        let inner = api::fact::Fact::Invoice(api::InvoiceFact {
            tags: vec!["vip".into()],
            campaign: "gentle".into(),
            collects_itself: true,
            ..invoice()
        });
        let Ok(Content::Invoice { facts, .. }) = translate(&fact(inner), Source::Nats) else { panic!() };
        let Fact::Snapshot(snapshot) = &facts[0].fact else { panic!() };
        assert_eq!((snapshot.source, snapshot.collects_itself), (Source::Nats, true));
        assert_eq!((snapshot.tags.as_slice(), snapshot.campaign.as_str()), (&["vip".to_owned()][..], "gentle"));

        let customer = api::CustomerFact {
            customer_id: "c".into(),
            country: "at".into(),
            tags: vec!["vip".into()],
            payer_kind: api::PayerKind::Business.into(),
            campaign: "gentle".into(),
            ..Default::default()
        };
        let told = translate(&fact(api::fact::Fact::Customer(customer)), Source::Grpc);
        let Ok(Content::Customer { facts, fault: None, .. }) = told else { panic!("{told:?}") };
        assert_eq!((facts.country.as_str(), facts.payer_kind), ("AT", Some(PayerKind::Business)));
        assert_eq!((facts.tags.as_slice(), facts.campaign.as_str()), (&["vip".to_owned()][..], "gentle"));

        let pending = api::PendingFact { invoice_id: "in_1".into(), pending: true };
        let told = translate(&fact(api::fact::Fact::Pending(pending)), Source::Grpc);
        let Ok(Content::Invoice { invoice, facts, .. }) = told else { panic!("{told:?}") };
        assert_eq!((invoice.as_str(), &facts[0].fact), ("in_1", &Fact::Pending(true)));
    }

    #[test]
    fn an_invoice_without_a_number_is_called_by_its_id() {
        let Ok(Content::Invoice { facts, .. }) = translate(&fact(api::fact::Fact::Invoice(invoice())), Source::Grpc)
        else {
            panic!()
        };
        let Fact::Snapshot(snapshot) = &facts[0].fact else { panic!() };
        assert_eq!(snapshot.number, "in_1");
    }
}
