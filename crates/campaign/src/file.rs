//! The campaign file as people write it. What it becomes after checking is in [`crate::campaign`].

use crate::condition::ConditionFile;
use jiff::civil::Weekday;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a reminder speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// A courtesy: it may have slipped through.
    Friendly,
    /// Clear: it is late, please pay.
    Firm,
    /// Last call before a person takes over.
    Final,
}

impl Tone {
    /// As stored and shown; also the name of its template.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Friendly => "friendly",
            Self::Firm => "firm",
            Self::Final => "final",
        }
    }
}

/// A way to reach a payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Email.
    Email,
    /// A text message.
    Sms,
    /// The merchant's own system reaches the payer in its way: it hears `reminder.due`.
    Webhook,
    /// A person of the merchant's calls: an entry of its call list.
    Task,
}

impl Channel {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Webhook => "webhook",
            Self::Task => "task",
        }
    }
}

/// A campaign file, as written.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignFile {
    /// What people call it.
    pub name: String,
    /// Whose invoices follow it. A merchant lists its campaigns in an order; the first whose audience fits is taken.
    #[serde(default)]
    pub audience: ConditionFile,
    /// How an invoice begins that is late already when dunlin first hears of it.
    #[serde(default)]
    pub entry: EntryFile,
    /// When payers may be written to, in their own time zone.
    pub contact: ContactFile,
    /// What holds a case, and for how long.
    #[serde(default)]
    pub holds: HoldsFile,
    /// Which charges that the law allows are shown in reminders. None by default.
    #[serde(default)]
    pub charges: ChargesFile,
    /// Who stays on the schedule as written, so that what adapting it brings can be measured.
    #[serde(default)]
    pub holdout: HoldoutFile,
    /// The steps, in the order of their weight: of several that are due, the last one speaks.
    pub steps: Vec<StepFile>,
    /// What happens when the last reminder has brought nothing.
    #[serde(default)]
    pub end: EndFile,
}

/// How an invoice begins that is late already when dunlin first hears of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntryFile {
    /// Which of the missed steps count.
    pub mode: EntryMode,
    /// At most so many late invoices of a merchant begin on one day; the others wait for the days after. No limit if left
    /// out.
    pub at_most_per_day: Option<u32>,
}

/// Which of the steps that were missed before dunlin first heard of an invoice count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EntryMode {
    /// None: only steps from then on.
    FromNow,
    /// All: the sequence begins with its first late step, and keeps its distances from there.
    CatchUp,
    /// The latest one, which speaks for those before it.
    #[default]
    LatestStep,
}

/// When payers may be written to.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContactFile {
    /// Days on which dunlin may write.
    pub weekdays: Vec<Day>,
    /// Local time from which it may, such as `09:00`.
    pub from: String,
    /// Local time from which it may no more.
    pub to: String,
    /// Calendars on whose holidays it does not write: `payer` is the calendar of the payer's country, if there is one;
    /// others by name, such as `DE` or `TARGET2`, or a file of your own in `calendars/`.
    #[serde(default)]
    pub holidays: Vec<String>,
    /// At least so many days between two reminders to the same customer, whatever they are about.
    pub min_gap_days: u16,
    /// At most so many reminders to the same customer within so many days, whatever they are about.
    #[serde(default)]
    pub cap: Option<CapFile>,
    /// Several invoices of a customer in one reminder.
    #[serde(default)]
    pub consolidation: ConsolidationFile,
    /// Sends are spread over so many minutes from the opening, each customer always at the same point.
    pub spread_minutes: u16,
}

/// At most so many reminders within so many days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapFile {
    /// Reminders to the same customer.
    pub reminders: u16,
    /// Within so many days, today included.
    pub days: u16,
}

/// Several invoices of a customer in one reminder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsolidationFile {
    /// False: each invoice has reminders of its own, on different days.
    pub enabled: bool,
    /// A step that is due waits up to so many days for another invoice's, to go out with it. 0: only what is due in the
    /// same contact window goes out together.
    pub wait_days: u16,
}

impl Default for ConsolidationFile {
    fn default() -> Self {
        Self { enabled: true, wait_days: 0 }
    }
}

/// What holds a case, and for how long. Disputes hold until they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HoldsFile {
    /// So many days after a promised date the promise counts as broken.
    pub promise_grace_days: u16,
    /// Money under way (a direct debit, say) holds for at most so many days; a processor that collects by itself until so
    /// many days after the due date, unless it fails.
    pub pending_payment_days: u16,
}

impl Default for HoldsFile {
    fn default() -> Self {
        Self { promise_grace_days: 2, pending_payment_days: 14 }
    }
}

/// Which charges that the law of the payer's country allows are shown in reminders, as lines of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChargesFile {
    /// Statutory interest for late payment.
    pub interest: bool,
    /// The fixed sum for the cost of recovery.
    pub fixed_sum: bool,
    /// A fee for each reminder.
    pub reminder_fee: bool,
}

/// Who stays on the schedule as written, in percent. Plays no part where no step adapts. Nobody goes without reminders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HoldoutFile {
    /// Of invoices, drawn one by one: for the lift.
    #[schemars(range(max = 50))]
    pub invoices_percent: u16,
    /// Of customers, for good: for the long run.
    #[schemars(range(max = 50))]
    pub customers_percent: u16,
}

impl Default for HoldoutFile {
    fn default() -> Self {
        Self { invoices_percent: 10, customers_percent: 5 }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl From<Day> for Weekday {
    fn from(day: Day) -> Self {
        match day {
            Day::Mon => Self::Monday,
            Day::Tue => Self::Tuesday,
            Day::Wed => Self::Wednesday,
            Day::Thu => Self::Thursday,
            Day::Fri => Self::Friday,
            Day::Sat => Self::Saturday,
            Day::Sun => Self::Sunday,
        }
    }
}

/// One step, as written.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepFile {
    /// Unique in the campaign; part of the step key, so renaming it makes it a new step.
    pub key: String,
    /// When it is due: exactly one key.
    pub when: WhenFile,
    /// What must hold when its time comes; else it is skipped.
    #[serde(default)]
    pub only_if: ConditionFile,
    /// `fixed`: on its day. `adaptive`: how the customer pays may move it, only inside `window`.
    #[serde(default)]
    pub timing: Timing,
    /// How far an adaptive step may be moved.
    pub window: Option<WindowFile>,
    /// Ways to do the step that are tried against each other. Without it, an adaptive step follows what is known of the
    /// customer.
    pub experiment: Option<ExperimentFile>,
    /// Ways to reach the payer, the first that works: the next one is tried where the payer has no address for one, has opted
    /// out of it, or the address turns out to be bad. After an opt-out or a complaint only `task` follows.
    #[serde(default = "email")]
    pub channels: Vec<Channel>,
    /// How it speaks.
    pub tone: Tone,
    /// The template; the tone's own if left out.
    pub template: Option<String>,
    /// The sequence ends with this step, in this way.
    pub ends_with: Option<Ending>,
}

fn email() -> Vec<Channel> {
    vec![Channel::Email]
}

/// When a step is due. Exactly one key; days are the payer's days. Business days are Monday to Friday without the
/// holidays of `contact.holidays`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WhenFile {
    /// So many calendar days before the due date.
    pub days_before_due: Option<u16>,
    /// So many business days before the due date.
    pub business_days_before_due: Option<u16>,
    /// `true`: on the due date.
    pub on_due_date: Option<bool>,
    /// So many calendar days after the due date.
    pub days_after_due: Option<u16>,
    /// So many business days after the due date.
    pub business_days_after_due: Option<u16>,
    /// So many calendar days after the end of the month in which the due date lies; 0 is its last day.
    pub days_after_month_end: Option<u16>,
    /// The processor has failed to collect so often: at once.
    pub failed_attempts: Option<FailedAttemptsFile>,
    /// So many days after the reminder of a certain step before this one.
    pub after_step: Option<AfterStepFile>,
    /// So many days after the last reminder before this one, whichever it was.
    pub days_after_previous: Option<u16>,
    /// So many days after the day on which a promise to pay turned out broken.
    pub days_after_broken_promise: Option<u16>,
}

/// How often the processor must have failed to collect.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FailedAttemptsFile {
    /// So often, for whatever reason.
    Count(u16),
    /// So often, the last time for one of these reasons.
    For {
        /// So often.
        count: u16,
        /// Reasons in the processor's words, such as `insufficient_funds`.
        decline_code: Vec<String>,
    },
}

/// After the reminder of a certain step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AfterStepFile {
    /// The step's key.
    pub step: String,
    /// Days after its reminder went out.
    pub days: u16,
}

/// Whether a step may be moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// It stays on its day.
    #[default]
    Fixed,
    /// How the customer pays may move it inside its window.
    Adaptive,
}

/// How far an adaptive step may be moved, in calendar days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WindowFile {
    /// At most so much earlier.
    pub earlier_days: u16,
    /// At most so much later.
    pub later_days: u16,
    /// It may be left out, such as for a customer who is about to pay anyway. Never a step that ends the sequence or
    /// speaks in the tone `final`.
    pub may_skip: bool,
}

/// Ways to do a step that are tried against each other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentFile {
    /// At least two.
    #[schemars(length(min = 2))]
    pub arms: Vec<ArmFile>,
    /// How arms are given to invoices.
    pub assign: Assign,
}

/// One way to do a step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ArmFile {
    /// Without it; only where its window says `may_skip`.
    Without(Without),
    /// On another day, or with another template.
    With(WithFile),
}

/// Without the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Without {
    /// Nothing is sent for it.
    None,
}

/// The step on another day, or with another template; what is left out stays as the step says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WithFile {
    /// Calendar days after what the step counts from; negative is before it. Inside the step's window.
    pub days: Option<i32>,
    /// The template.
    pub template: Option<String>,
}

/// How arms are given to invoices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Assign {
    /// The better an arm has done, the more often: Thompson sampling.
    Thompson,
    /// By fixed weights, one for each arm.
    Split(Vec<u32>),
}

/// How a sequence ends while money is still owed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A person takes over: listed until somebody has.
    HandOver,
    /// The merchant's own system takes over: it hears `sequence-ended`.
    Webhook,
    /// Nothing more is done.
    #[default]
    Stop,
}

impl Ending {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandOver => "hand_over",
            Self::Webhook => "webhook",
            Self::Stop => "stop",
        }
    }
}

/// What happens when the last reminder has brought nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndFile {
    /// So many days after the last step.
    pub after_days: u16,
    /// This.
    pub outcome: Ending,
}
