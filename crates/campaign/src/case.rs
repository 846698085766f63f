//! What is known of a case, and what planning says about it.

use crate::condition::Facts;
use crate::file::Ending;
use jiff::Timestamp;
use jiff::civil::Date;
use std::borrow::Cow;

/// What is known of a case. Dates are the payer's.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Whether money is still owed in the case's epoch.
    pub is_open: bool,
    /// What conditions ask about.
    pub facts: Facts<'a>,
    /// When the invoice should be paid.
    pub due_on: Option<Date>,
    /// When dunlin first heard that money is owed: what was missed before is a matter of the campaign's `entry`.
    pub opened_on: Date,
    /// No reminder before this date: the invoice's turn in the ramp of late entries.
    pub not_before: Option<Date>,
    /// When the debt was opened again; `None` in the first epoch. Days after due then count from here: the first due date
    /// has had its reminders.
    pub reopened_on: Option<Date>,
    /// When the processor failed to collect last.
    pub last_failed_on: Option<Date>,
    /// Until when the payer promised to pay.
    pub promised_on: Option<Date>,
    /// Since when money is under way.
    pub pending_since: Option<Date>,
    /// The processor collects by itself and has not failed: there is nothing to remind of, until some days after the due
    /// date it has not collected either.
    pub collects_itself: bool,
    /// What else holds the case.
    pub holds: &'a [Hold],
    /// The customer asked not to be reminded.
    pub opted_out: bool,
    /// Steps that are decided already.
    pub decided: &'a [Decided],
    /// The days of the customer's reminders, about whatever, earliest first; as far back as caps reach.
    pub contacts: &'a [Date],
    /// A reminder to the customer is on its way: nobody knows yet when it will arrive.
    pub in_flight: bool,
    /// The end of the sequence was told.
    pub ended: bool,
    /// What was chosen for adaptive steps, by key. As the campaign says where nothing was, or what it does not allow.
    pub choices: &'a [(String, Choice)],
    /// A stable hash of the customer: where in the spread its messages lie.
    pub spread: u64,
}

/// What was chosen for a step of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// By advice: to move it by so many days; negative is earlier. No further than its window goes.
    Move(i32),
    /// By advice: to leave it out. Only where its window says `may_skip`.
    Skip,
    /// By its experiment: the arm of this place.
    Arm(usize),
}

/// Something that keeps a case from sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What.
    pub reason: Reason,
    /// When it ends by itself; `None`: with news, or when a person ends it.
    pub until: Option<Timestamp>,
    /// What exactly, such as the operator's reason.
    pub rule: String,
}

/// A step that is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Which.
    pub step: String,
    /// The payer's date of the decision.
    pub on: Date,
    /// Whether a reminder went out for it.
    pub reminded: bool,
}

/// What to do now, and when to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps that will never be sent, though no reminder of now speaks for them.
    pub skip: Vec<Skip>,
    /// The reminder to send now.
    pub send: Option<Send>,
    /// Why the steps that are due are not sent now.
    pub deferred: Option<Deferral>,
    /// The sequence ends now.
    pub end: Option<Ending>,
    /// When the next step that is not due yet will be.
    pub next_step_at: Option<Timestamp>,
    /// When to plan again; `None` if only news can change anything.
    pub wake_at: Option<Timestamp>,
}

/// A step that will never be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Which.
    pub step: String,
    /// Why.
    pub reason: Reason,
    /// What in the campaign or the law caused it, such as `steps.upcoming.only_if.segment`.
    pub rule: String,
}

/// The reminder to send now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The furthest step that is due: it speaks.
    pub step: String,
    /// Earlier steps that are due too: it speaks for them.
    pub merged: Vec<String>,
    /// The date on which the first of them was due.
    pub since: Date,
    /// The template: the step's, or that of the arm that was chosen for it.
    pub template: String,
}

/// Why due steps wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// The steps.
    pub steps: Vec<String>,
    /// Why.
    pub reason: Reason,
    /// What in the campaign, the law or the operation caused it.
    pub rule: Cow<'static, str>,
    /// Until when; `None`: until there is news, or a person ends it.
    pub until: Option<Timestamp>,
}

/// How a step ends; see `dunlin.events.v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A reminder is on its way for it.
    Requested,
    /// Another step or invoice speaks for it.
    Merged,
    /// Its time came and it does not apply.
    Skipped,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $reason:ident = $name:literal;)*) => {
        /// Why a step is not sent, or not now. Machine-readable by [`Reason::as_str`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])* $reason,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// As stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$reason => $name),* }
            }
        }
    };
}

reasons! {
    /// A step by the due date whose time came after it.
    TooLate = "too_late";
    /// Its time was before dunlin first heard of the invoice, and the campaign begins from then.
    BeforeEntry = "before_entry";
    /// Its conditions do not hold.
    Condition = "condition";
    /// The customer asked not to be reminded.
    OptedOut = "opted_out";
    /// A step before it ended the sequence, or the end was reached.
    SequenceEnded = "sequence_ended";
    /// It counts from a step for which no reminder went out.
    BaseNotSent = "base_not_sent";
    /// What is known of the payer says that it is not worth it: about to pay anyway, or out of reach.
    Advised = "advised";
    /// The arm of an experiment leaves it out.
    ArmNone = "arm_none";
    /// The law allows no further reminder of this invoice.
    LawMaximum = "law_maximum";
    /// An operator skipped it.
    Operator = "operator";
    /// A later step of the same invoice speaks for it.
    LaterStep = "later_step";
    /// Another invoice's step speaks for it in the same message.
    OtherInvoice = "other_invoice";
    /// The customer got a reminder too recently.
    MinGap = "min_gap";
    /// The customer got as many reminders as are allowed.
    Cap = "cap";
    /// The law wants more days between reminders of an invoice.
    LawGap = "law_gap";
    /// An earlier reminder to the customer has not arrived yet.
    InFlight = "in_flight";
    /// Another invoice of the customer is reminded first, by itself.
    OneAtATime = "one_at_a_time";
    /// It goes out together with another invoice's step that is due soon.
    Consolidation = "consolidation";
    /// Late invoices begin so many a day; its day has not come.
    Ramp = "ramp";
    /// The payer may not be written to now.
    ContactHours = "contact_hours";
    /// Campaign and law together leave no time at which the payer may be written to.
    NoContactHours = "no_contact_hours";
    /// A holiday calendar does not know this year.
    CalendarMissing = "calendar_missing";
    /// The payer contests the invoice.
    Dispute = "dispute";
    /// The payer promised to pay.
    Promise = "promise";
    /// Money is under way.
    PendingPayment = "pending_payment";
    /// The processor collects by itself and has not failed.
    AutoPay = "auto_pay";
    /// An operator holds the case.
    ManualHold = "manual_hold";
    /// Nothing was heard of the processor for longer than the merchant allows.
    StaleSource = "stale_source";
    /// The customer's time zone does not exist.
    UnknownZone = "unknown_zone";
    /// The invoice or its customer names a campaign that does not exist.
    UnknownCampaign = "unknown_campaign";
    /// No campaign's audience fits.
    NoCampaign = "no_campaign";
    /// Nothing is owed any more, so there is nothing to ask for.
    NotOpen = "not_open";
    /// The campaign has no such step.
    UnknownStep = "unknown_step";
    /// The step has its decision, and gets no other.
    AlreadyDecided = "already_decided";
    /// No undecided step of the campaign has a date.
    NothingLeft = "nothing_left";
    /// The due date has not passed, and the step says that it has.
    NotDue = "not_due";
    /// The law wants more days between the due date and the first reminder.
    LawEarliest = "law_earliest";
}

impl Reason {
    /// How a step ends for this reason, if it ends.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::LaterStep | Self::OtherInvoice => Outcome::Merged,
            _ => Outcome::Skipped,
        }
    }
}
