//! Every event on one screen: its Rust type, its name on the wire, and the service that emits it.

use crate::topology::Service;
use crate::v1;
use prost::Message;

/// An event that can be put on the bus.
pub trait Event: Message + Default {
    /// Which event it is.
    const KIND: Kind;
    /// Whom and what it is about.
    fn about(&self) -> About<'_>;
}

/// Whom and what an event is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct About<'a> {
    /// The merchant it belongs to: the last token of its subject.
    pub merchant: &'a str,
    /// The customer: decides the shard.
    pub customer: &'a str,
    /// The invoice, or the customer where it is about several: the `ce-subject`.
    pub key: &'a str,
}

impl<'a> About<'a> {
    const fn new(merchant: &'a str, customer: &'a str, key: &'a str) -> Self {
        Self { merchant, customer, key }
    }

    /// All texts are empty if a faulty sender left the snapshot out; such an event is refused when it is emitted.
    fn invoice(snapshot: &'a Option<v1::Invoice>) -> Self {
        snapshot.as_ref().map(|i| Self::new(&i.merchant_id, &i.customer_id, &i.invoice_id)).unwrap_or_default()
    }

    fn customer(snapshot: &'a Option<v1::Customer>) -> Self {
        snapshot.as_ref().map(|c| Self::new(&c.merchant_id, &c.customer_id, &c.customer_id)).unwrap_or_default()
    }

    fn reminder(snapshot: &'a Option<v1::Reminder>) -> Self {
        snapshot.as_ref().map(|r| Self::new(&r.merchant_id, &r.customer_id, &r.customer_id)).unwrap_or_default()
    }
}

macro_rules! events {
    ($($message:ident = $name:literal from $service:ident, |$e:ident| $about:expr;)*) => {
        /// Which event something is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "`, emitted by ", stringify!($service), ".")] $message,)*
        }

        impl Kind {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$message),*];

            /// The name on the wire: `invoice-overdue`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$message => $name),* }
            }

            /// The one service that emits it, on its own stream.
            pub const fn producer(self) -> Service {
                match self { $(Self::$message => Service::$service),* }
            }
        }

        /// A decoded event.
        #[derive(Debug, Clone, PartialEq)]
        pub enum AnyEvent {
            $(#[doc = concat!("`", $name, "`")] $message(v1::$message),)*
        }

        impl AnyEvent {
            /// Decodes the payload of an event of a known kind.
            pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, prost::DecodeError> {
                match kind { $(Kind::$message => v1::$message::decode(payload).map(Self::$message)),* }
            }

            /// Which event it is.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$message(_) => Kind::$message),* }
            }
        }

        $(impl Event for v1::$message {
            const KIND: Kind = Kind::$message;
            fn about(&self) -> About<'_> { let $e = self; $about }
        })*
    };
}

events! {
    InvoiceIssued = "invoice-issued" from Ingest, |e| About::invoice(&e.invoice);
    InvoiceChanged = "invoice-changed" from Ingest, |e| About::invoice(&e.invoice);
    InvoiceClosed = "invoice-closed" from Ingest, |e| About::invoice(&e.invoice);
    PaymentReceived = "payment-received" from Ingest, |e| About::invoice(&e.invoice);
    PaymentFailed = "payment-failed" from Ingest, |e| About::invoice(&e.invoice);
    PaymentReversed = "payment-reversed" from Ingest, |e| About::invoice(&e.invoice);
    CustomerChanged = "customer-changed" from Ingest, |e| About::customer(&e.customer);
    CustomerErased = "customer-erased" from Ingest, |e| About::new(&e.merchant_id, &e.customer_id, &e.customer_id);
    SourceHeard = "source-heard" from Ingest, |e| About::new(&e.merchant_id, &e.source, &e.source);
    CustomerSegmented = "customer-segmented" from Segmenter, |e| About::new(&e.merchant_id, &e.customer_id, &e.customer_id);
    InvoiceOverdue = "invoice-overdue" from Scheduler, |e| About::new(&e.merchant_id, &e.customer_id, &e.invoice_id);
    ReminderDue = "reminder-due" from Scheduler, |e| About::reminder(&e.reminder);
    StepDecided = "step-decided" from Scheduler, |e| About::new(&e.merchant_id, &e.customer_id, &e.invoice_id);
    CaseEnrolled = "case-enrolled" from Scheduler, |e| About::new(&e.merchant_id, &e.customer_id, &e.invoice_id);
    SequenceEnded = "sequence-ended" from Scheduler, |e| About::new(&e.merchant_id, &e.customer_id, &e.invoice_id);
    ReminderSent = "reminder-sent" from Notifier, |e| About::reminder(&e.reminder);
    ReminderSuppressed = "reminder-suppressed" from Notifier, |e| About::reminder(&e.reminder);
    ReminderFailed = "reminder-failed" from Notifier, |e| About::reminder(&e.reminder);
    ReminderUnknown = "reminder-unknown" from Notifier, |e| About::reminder(&e.reminder);
    TaskDone = "task-done" from Notifier, |e| About::new(&e.merchant_id, &e.customer_id, &e.customer_id);
    ReminderBounced = "reminder-bounced" from Notifier, |e| About::reminder(&e.reminder);
    ReminderComplained = "reminder-complained" from Notifier, |e| About::reminder(&e.reminder);
    CustomerReplied = "customer-replied" from Notifier, |e| About::new(&e.merchant_id, &e.customer_id, &e.customer_id);
    CustomerResponded = "customer-responded" from Tracker, |e| About::new(&e.merchant_id, &e.customer_id, &e.customer_id);
}

impl Kind {
    /// Finds a kind by its name on the wire.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.name() == name)
    }

    /// `dunlin.v1.invoice-overdue.acme`.
    pub fn subject(self, merchant: &str) -> String {
        format!("{PREFIX}.{}.{merchant}", self.name())
    }

    /// `dunlin.v1.invoice-overdue.*`: this event of all merchants.
    pub fn subject_filter(self) -> String {
        self.subject("*")
    }

    /// `dunlin.v1.invoice-overdue.{merchant}`: the subject's template, for span names.
    pub fn subject_template(self) -> String {
        self.subject("{merchant}")
    }

    /// The CloudEvents type: `dunlin.v1.invoice-overdue`.
    pub fn ce_type(self) -> String {
        format!("{PREFIX}.{}", self.name())
    }

    /// Reads a CloudEvents type.
    pub fn by_ce_type(ce_type: &str) -> Option<Self> {
        Self::by_name(ce_type.strip_prefix(PREFIX)?.strip_prefix('.')?)
    }

    /// The protobuf message, for JSON views.
    pub fn message_name(self) -> String {
        format!("dunlin.events.v1.{self:?}")
    }
}

/// The payload of an event without the person in it: names, addresses, links. `None` if there is none in events of its kind,
/// or if it cannot be read.
pub fn without_person(kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
    fn invoice(snapshot: &mut Option<v1::Invoice>) {
        if let Some(i) = snapshot {
            for text in [&mut i.bill_to_name, &mut i.bill_to_email, &mut i.pay_url, &mut i.document_url] {
                text.clear();
            }
        }
    }
    macro_rules! without {
        ($($message:ident),*) => {
            match AnyEvent::decode(kind, payload).ok()? {
                $(AnyEvent::$message(mut event) => {
                    invoice(&mut event.invoice);
                    Some(event.encode_to_vec())
                })*
                AnyEvent::CustomerChanged(mut event) => {
                    if let Some(customer) = &mut event.customer {
                        let known = std::mem::take(customer);
                        let (merchant_id, customer_id, version) = (known.merchant_id, known.customer_id, known.version);
                        *customer = v1::Customer { merchant_id, customer_id, version, deleted: true, ..v1::Customer::default() };
                    }
                    Some(event.encode_to_vec())
                }
                _ => None,
            }
        };
    }
    without!(InvoiceIssued, InvoiceChanged, InvoiceClosed, PaymentReceived, PaymentFailed, PaymentReversed)
}

impl AnyEvent {
    /// The invoice snapshot, for the six events that carry one.
    pub const fn invoice(&self) -> Option<&v1::Invoice> {
        match self {
            Self::InvoiceIssued(e) => e.invoice.as_ref(),
            Self::InvoiceChanged(e) => e.invoice.as_ref(),
            Self::InvoiceClosed(e) => e.invoice.as_ref(),
            Self::PaymentReceived(e) => e.invoice.as_ref(),
            Self::PaymentFailed(e) => e.invoice.as_ref(),
            Self::PaymentReversed(e) => e.invoice.as_ref(),
            _ => None,
        }
    }
}

/// All subjects and types begin with it. A breaking change of an event gets the next version.
const PREFIX: &str = "dunlin.v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_wire() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::by_ce_type(&kind.ce_type()), Some(kind));
            assert!(AnyEvent::decode(kind, &[]).is_ok_and(|e| e.kind() == kind));
        }
        assert_eq!(Kind::InvoiceOverdue.subject("acme"), "dunlin.v1.invoice-overdue.acme");
        assert_eq!(Kind::by_ce_type("dunlin.v2.invoice-overdue"), None);
    }

    #[test]
    fn debug_output_shows_ids_but_no_person() {
        let event = v1::InvoiceIssued {
            invoice: Some(v1::Invoice {
                invoice_id: "in_1".into(),
                bill_to_name: "Ada Lovelace".into(),
                bill_to_email: "ada@example.com".into(),
                pay_url: "https://pay.example.com/secret".into(),
                ..Default::default()
            }),
        };
        let shown = format!("{:?}", AnyEvent::InvoiceIssued(event));
        assert!(shown.contains("in_1"));
        assert!(!shown.contains("Ada") && !shown.contains('@') && !shown.contains("secret"), "{shown}");
    }
}
