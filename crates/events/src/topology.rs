//! Who takes what and who emits what, as data. Streams, durables, broker permissions (`deploy/nats.conf`) and the event
//! map (`proto/README.md`) are all derived from [`FLOWS`].
//!
//! Names of flows are durable names and inbox keys: renaming one is a migration.

use crate::kind::Kind;
use Kind::{
    CaseEnrolled, CustomerChanged, CustomerErased, CustomerReplied, CustomerResponded, CustomerSegmented,
    InvoiceChanged, InvoiceClosed, InvoiceIssued, InvoiceOverdue, PaymentFailed, PaymentReceived, PaymentReversed,
    ReminderBounced, ReminderComplained, ReminderDue, ReminderFailed, ReminderSent, ReminderSuppressed,
    ReminderUnknown, SequenceEnded, SourceHeard, StepDecided, TaskDone,
};
use std::fmt;

/// The five services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Takes what processors say.
    Ingest,
    /// Decides when a reminder is due.
    Scheduler,
    /// Knows how each customer pays.
    Segmenter,
    /// Sends.
    Notifier,
    /// Shows what worked, and takes what payers answer.
    Tracker,
}

impl Service {
    /// All of them, in the order of the flow.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Segmenter, Self::Scheduler, Self::Notifier, Self::Tracker];

    /// Lower-case name: also the Postgres schema and the broker's user.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Scheduler => "scheduler",
            Self::Segmenter => "segmenter",
            Self::Notifier => "notifier",
            Self::Tracker => "tracker",
        }
    }

    /// The JetStream stream of what it emits.
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Ingest => "INGEST",
            Self::Scheduler => "SCHEDULER",
            Self::Segmenter => "SEGMENTER",
            Self::Notifier => "NOTIFIER",
            Self::Tracker => "TRACKER",
        }
    }

    /// The CloudEvents source.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Ingest => "/dunlin/ingest",
            Self::Scheduler => "/dunlin/scheduler",
            Self::Segmenter => "/dunlin/segmenter",
            Self::Notifier => "/dunlin/notifier",
            Self::Tracker => "/dunlin/tracker",
        }
    }

    /// Finds a service by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The events it emits.
    pub fn emits(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |k| k.producer() == self)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One way of events through a service. Without `takes` it begins at an edge: HTTP, a timer, a mail server's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Flow {
    /// Whose it is.
    pub service: Service,
    /// Durable name on every stream it reads, and consumer key in the inbox.
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static [Kind],
    /// What it may emit; anything else is refused.
    pub emits: &'static [Kind],
}

/// The six events that carry an invoice.
const INVOICE_EVENTS: [Kind; 6] =
    [InvoiceIssued, InvoiceChanged, InvoiceClosed, PaymentReceived, PaymentFailed, PaymentReversed];

/// Facts from webhooks, gRPC, NATS and files.
pub const INGEST_INTAKE: Flow = Flow {
    service: Service::Ingest,
    name: "ingest-intake",
    takes: &[],
    emits: &[
        InvoiceIssued,
        InvoiceChanged,
        InvoiceClosed,
        PaymentReceived,
        PaymentFailed,
        PaymentReversed,
        CustomerChanged,
        SourceHeard,
    ],
};

/// An operator has a person's data erased.
pub const INGEST_ERASURE: Flow = Flow {
    service: Service::Ingest,
    name: "ingest-erasure",
    takes: &[],
    emits: &[InvoiceChanged, CustomerChanged, CustomerErased],
};

/// How customers pay.
pub const SEGMENTER_PAYERS: Flow =
    Flow { service: Service::Segmenter, name: "segmenter-payers", takes: &INVOICE_EVENTS, emits: &[CustomerSegmented] };

/// Days and weeks pass: what is open grows late, and the portfolio changes.
pub const SEGMENTER_REVIEW: Flow =
    Flow { service: Service::Segmenter, name: "segmenter-review", takes: &[], emits: &[CustomerSegmented] };

/// Cases follow their invoices and customers.
pub const SCHEDULER_CASES: Flow = Flow {
    service: Service::Scheduler,
    name: "scheduler-cases",
    takes: &[
        InvoiceIssued,
        InvoiceChanged,
        InvoiceClosed,
        PaymentReceived,
        PaymentFailed,
        PaymentReversed,
        CustomerChanged,
        CustomerSegmented,
        CustomerResponded,
        SourceHeard,
        TaskDone,
    ],
    emits: &[CaseEnrolled],
};

/// Timers fire.
pub const SCHEDULER_TIMERS: Flow = Flow {
    service: Service::Scheduler,
    name: "scheduler-timers",
    takes: &[],
    emits: &[CaseEnrolled, InvoiceOverdue, ReminderDue, StepDecided, SequenceEnded],
};

/// Operators hold, release, skip and send.
pub const SCHEDULER_OPERATIONS: Flow = Flow {
    service: Service::Scheduler,
    name: "scheduler-operations",
    takes: &[],
    emits: &[CaseEnrolled, InvoiceOverdue, ReminderDue, StepDecided],
};

/// What became of reminders.
pub const SCHEDULER_OUTCOMES: Flow = Flow {
    service: Service::Scheduler,
    name: "scheduler-outcomes",
    takes: &[ReminderSent, ReminderSuppressed, ReminderFailed, ReminderUnknown],
    emits: &[],
};

/// What came back of reminders: customers and invoices that a person has to look at. Apart from the outcomes: it plans anew.
pub const SCHEDULER_RETURNS: Flow = Flow {
    service: Service::Scheduler,
    name: "scheduler-returns",
    takes: &[ReminderBounced, ReminderComplained, CustomerReplied, CustomerErased],
    emits: &[CaseEnrolled],
};

/// What is owed, and who must not be written to. Apart from the reminders, so that a payment never waits behind them.
pub const NOTIFIER_BALANCES: Flow = Flow {
    service: Service::Notifier,
    name: "notifier-balances",
    takes: &[
        InvoiceIssued,
        InvoiceChanged,
        InvoiceClosed,
        PaymentReceived,
        PaymentFailed,
        PaymentReversed,
        CustomerChanged,
        CustomerResponded,
    ],
    emits: &[],
};

/// Reminders to send.
pub const NOTIFIER_REMINDERS: Flow =
    Flow { service: Service::Notifier, name: "notifier-reminders", takes: &[ReminderDue], emits: &[] };

/// Ended sequences that a merchant's own system has to hear of. Apart from the balances, so that a payment never waits behind
/// them.
pub const NOTIFIER_WEBHOOKS: Flow =
    Flow { service: Service::Notifier, name: "notifier-webhooks", takes: &[SequenceEnded], emits: &[] };

/// Answers of mail servers.
pub const NOTIFIER_SENDER: Flow = Flow {
    service: Service::Notifier,
    name: "notifier-sender",
    takes: &[],
    emits: &[ReminderSent, ReminderSuppressed, ReminderFailed, ReminderUnknown],
};

/// What people say: how a call went, and what became of a delivery of which nobody knew.
pub const NOTIFIER_OPERATIONS: Flow = Flow {
    service: Service::Notifier,
    name: "notifier-operations",
    takes: &[],
    emits: &[ReminderSent, ReminderFailed, TaskDone],
};

/// Mail that comes back, answers by text message, and what their provider says.
pub const NOTIFIER_INBOUND: Flow = Flow {
    service: Service::Notifier,
    name: "notifier-inbound",
    takes: &[],
    emits: &[ReminderSent, ReminderFailed, ReminderBounced, ReminderComplained, CustomerReplied],
};

/// A person's messages go.
pub const NOTIFIER_ERASURE: Flow =
    Flow { service: Service::Notifier, name: "notifier-erasure", takes: &[CustomerErased], emits: &[] };

/// Everything that figures are made of.
pub const TRACKER_RECORDS: Flow = Flow {
    service: Service::Tracker,
    name: "tracker-records",
    takes: &[
        InvoiceIssued,
        InvoiceChanged,
        InvoiceClosed,
        PaymentReceived,
        PaymentFailed,
        PaymentReversed,
        CustomerSegmented,
        InvoiceOverdue,
        StepDecided,
        CaseEnrolled,
        SequenceEnded,
        ReminderSent,
        ReminderSuppressed,
        ReminderFailed,
        ReminderUnknown,
        ReminderBounced,
        ReminderComplained,
    ],
    emits: &[],
};

/// Pay links and one-click unsubscribes.
pub const TRACKER_PAGES: Flow =
    Flow { service: Service::Tracker, name: "tracker-pages", takes: &[], emits: &[CustomerResponded] };

/// All flows.
pub const FLOWS: [&Flow; 18] = [
    &INGEST_INTAKE,
    &INGEST_ERASURE,
    &SEGMENTER_PAYERS,
    &SEGMENTER_REVIEW,
    &SCHEDULER_CASES,
    &SCHEDULER_TIMERS,
    &SCHEDULER_OPERATIONS,
    &SCHEDULER_OUTCOMES,
    &SCHEDULER_RETURNS,
    &NOTIFIER_BALANCES,
    &NOTIFIER_REMINDERS,
    &NOTIFIER_WEBHOOKS,
    &NOTIFIER_SENDER,
    &NOTIFIER_OPERATIONS,
    &NOTIFIER_INBOUND,
    &NOTIFIER_ERASURE,
    &TRACKER_RECORDS,
    &TRACKER_PAGES,
];

/// The service whose stream carries watermarks: how far what it has committed is published.
pub const WATERMARKED: Service = Service::Ingest;
/// The flow that must know how fresh its knowledge is: no reminder on stale balances.
pub const WATERMARK_READER: &Flow = &NOTIFIER_BALANCES;

/// The subject of a service's watermarks.
pub fn watermark_subject(service: Service) -> String {
    format!("dunlin.watermark.{service}")
}

/// The stream that upstream systems publish CloudEvents to; only ingest reads it.
pub const INTAKE_STREAM: &str = "INTAKE";
/// Its subjects: one token for the merchant, so that a publisher can be confined to one.
pub const INTAKE_SUBJECT: &str = "dunlin.intake.v1";
/// Ingest's durable on it.
pub const INTAKE_DURABLE: &str = "ingest-upstream";

impl Flow {
    /// The streams it reads, each with the events it takes from there.
    pub fn sources(&self) -> Vec<(Service, Vec<Kind>)> {
        let from = |service: Service| {
            let kinds: Vec<Kind> = self.takes.iter().copied().filter(|k| k.producer() == service).collect();
            (!kinds.is_empty()).then_some((service, kinds))
        };
        Service::ALL.into_iter().filter_map(from).collect()
    }
}

/// The event map: a Markdown table of who emits and who takes each event.
pub fn event_map() -> String {
    let list = |flows: Vec<&str>| if flows.is_empty() { "–".to_owned() } else { flows.join(", ") };
    let mut table = String::from("| event | emitted by | taken by |\n|---|---|---|\n");
    for &kind in Kind::ALL {
        let emitters = FLOWS.iter().filter(|f| f.emits.contains(&kind)).map(|f| f.name).collect();
        let takers = FLOWS.iter().filter(|f| f.takes.contains(&kind)).map(|f| f.name).collect();
        table += &format!("| `{}` | {} | {} |\n", kind.name(), list(emitters), list(takers));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_emitted_by_its_producer_and_taken_by_somebody() {
        for &kind in Kind::ALL {
            let emitters: Vec<_> = FLOWS.iter().filter(|f| f.emits.contains(&kind)).collect();
            assert!(!emitters.is_empty(), "nobody emits {kind:?}");
            assert!(emitters.iter().all(|f| f.service == kind.producer()), "{kind:?} has one producing service");
            assert!(FLOWS.iter().any(|f| f.takes.contains(&kind)), "nobody takes {kind:?}");
        }
    }

    #[test]
    fn flow_names_are_unique_and_begin_with_their_service() {
        for (i, flow) in FLOWS.iter().enumerate() {
            assert!(flow.name.starts_with(flow.service.name()));
            assert!(FLOWS[i + 1..].iter().all(|other| other.name != flow.name));
        }
    }

    #[test]
    fn sources_group_by_stream() {
        let sources = SCHEDULER_CASES.sources();
        assert_eq!(sources.len(), 4);
        assert_eq!(sources[1], (Service::Segmenter, vec![CustomerSegmented]));
    }
}
