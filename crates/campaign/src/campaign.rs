//! A checked campaign.

use crate::condition::Condition;
use crate::experiment::{self, Arm, Experiment};
use crate::file::{
    CampaignFile, CapFile, Channel, ChargesFile, ConsolidationFile, ContactFile, EndFile, Ending, EntryFile,
    FailedAttemptsFile, HoldoutFile, HoldsFile, StepFile, Timing, Tone, WhenFile, WindowFile,
};
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use kernel::ContactHours;
use kernel::contact::{ContactError, Minute, Weekdays};
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::RangeInclusive;

/// Something that makes no sense in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path, such as `steps.2.when`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl Fault {
    /// A fault at a path.
    pub fn new(path: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// A checked campaign.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// What people call it.
    pub name: String,
    /// Hash of the file's text: cases keep the version they began with.
    pub version: String,
    /// Whose invoices follow it.
    pub audience: Condition,
    /// How late invoices begin.
    pub entry: EntryFile,
    /// When payers may be written to; zone and holidays are the payer's.
    pub hours: ContactHours,
    /// Calendars on whose holidays nothing is sent; [`PAYERS_CALENDAR`] is that of the payer's country.
    pub holidays: Vec<String>,
    /// At least so many days between two reminders to a customer.
    pub min_gap_days: u16,
    /// At most so many reminders to a customer within so many days.
    pub cap: Option<CapFile>,
    /// Several invoices in one reminder.
    pub consolidation: ConsolidationFile,
    /// Sends are spread over so many minutes from the opening.
    pub spread_minutes: u16,
    /// What holds a case, and for how long.
    pub holds: HoldsFile,
    /// Charges to show.
    pub charges: ChargesFile,
    /// Who stays on the schedule as written; plays no part unless [`Campaign::is_adaptive`].
    pub holdout: HoldoutFile,
    /// In the order of their weight.
    pub steps: Vec<Step>,
    /// What happens at the end.
    pub end: EndFile,
}

/// Stands for the calendar of the payer's country.
pub const PAYERS_CALENDAR: &str = "payer";

/// A checked step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique in the campaign.
    pub key: String,
    /// When it is due.
    pub trigger: Trigger,
    /// What must hold then.
    pub only_if: Condition,
    /// How far it may be moved; not at all if fixed.
    pub window: WindowFile,
    /// What is tried with it; what is known of the payer counts if nothing is.
    pub experiment: Option<Experiment>,
    /// Ways to reach the payer; at least one.
    pub channels: Vec<Channel>,
    /// How it speaks.
    pub tone: Tone,
    /// With which template.
    pub template: String,
    /// The sequence ends with it in this way.
    pub ends_with: Option<Ending>,
}

/// When a step is due. Days are days of the payer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Counted from the due date; before it if negative.
    FromDue(Offset),
    /// Calendar days after the end of the month of the due date.
    AfterMonthEnd(u16),
    /// As soon as the processor has failed to collect so often, for one of these reasons if there are any.
    FailedAttempts {
        /// So often.
        count: u32,
        /// Why the last time.
        decline_codes: Vec<String>,
    },
    /// Days after the reminder of another step, by its place.
    AfterStep {
        /// Place of the other step.
        base: usize,
        /// Days after it.
        days: u16,
    },
    /// Days after the last reminder of a step before it.
    AfterPrevious(u16),
    /// Days after a promise turned out broken.
    AfterBrokenPromise(u16),
}

/// A number of days from the due date: negative is before it. Files say before and after in words; this is the only place
/// that knows a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    /// Calendar days.
    Days(i32),
    /// Business days.
    BusinessDays(i32),
}

impl Offset {
    /// Whether it lies before the due date, or on it.
    pub const fn is_by_due(self) -> bool {
        let (Self::Days(n) | Self::BusinessDays(n)) = self;
        n <= 0
    }
}

impl Step {
    /// Whether its time is up when the due date has passed.
    pub const fn is_by_due(&self) -> bool {
        matches!(self.trigger, Trigger::FromDue(offset) if offset.is_by_due())
    }

    /// Whether its day is counted from the due date, and not from what happens later. Only such a step can be moved.
    pub const fn is_dated(&self) -> bool {
        matches!(self.trigger, Trigger::FromDue(_) | Trigger::AfterMonthEnd(_))
    }

    /// The arm of a place in its experiment.
    pub fn arm(&self, n: usize) -> Option<&Arm> {
        self.experiment.as_ref()?.arms.get(n)
    }

    /// Its day as it is written: calendar days after the due date, or after the end of that date's month; negative is
    /// before it. `None` if it is not counted so.
    pub fn day(&self) -> Option<i32> {
        match self.trigger {
            Trigger::FromDue(Offset::Days(days)) => Some(days),
            Trigger::AfterMonthEnd(days) => Some(days.into()),
            _ => None,
        }
    }

    /// The days to which it may be moved, counted as [`Self::day`]: those of its window on its side of the due date.
    pub fn days(&self) -> Option<RangeInclusive<i32>> {
        let day = self.day()?;
        let (first, last) = (day - i32::from(self.window.earlier_days), day + i32::from(self.window.later_days));
        Some(match self.trigger {
            Trigger::FromDue(offset) if offset.is_by_due() => first..=last.min(0),
            Trigger::FromDue(_) => first.max(1)..=last,
            _ => first..=last,
        })
    }

    /// Whether it may be done otherwise than it is written, by advice or in an experiment.
    pub fn is_adaptive(&self) -> bool {
        self.experiment.is_some() || self.window != WindowFile::default()
    }
}

impl Campaign {
    /// Checks a file; reports everything that makes no sense. `text` is what the file said: its hash is the version.
    pub fn try_new(file: &CampaignFile, text: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        if file.name.trim().is_empty() {
            faults.push(Fault::new("name", "is empty"));
        }
        let audience = Condition::read(&file.audience, "audience", &mut faults);
        if file.entry.at_most_per_day == Some(0) {
            faults.push(Fault::new("entry.at_most_per_day", "must be above 0: nothing would ever begin"));
        }
        let hours = check_contact(&file.contact, &mut faults);
        let HoldoutFile { invoices_percent, customers_percent } = file.holdout;
        for (key, percent) in [("invoices_percent", invoices_percent), ("customers_percent", customers_percent)] {
            if percent > MAX_HOLDOUT_PERCENT {
                let reason = format!("is {percent}, and must be at most {MAX_HOLDOUT_PERCENT}");
                faults.push(Fault::new(format!("holdout.{key}"), reason));
            }
        }
        if file.steps.is_empty() {
            faults.push(Fault::new("steps", "needs at least one step"));
        }
        let steps: Vec<Option<Step>> = (0..).zip(&file.steps).map(|(n, _)| step(&file.steps, n, &mut faults)).collect();
        let steps: Option<Vec<Step>> = steps.into_iter().collect();
        match (hours, steps) {
            (Some(hours), Some(steps)) if faults.is_empty() => Ok(Self {
                name: file.name.clone(),
                version: hex::encode(Sha256::digest(text)).chars().take(12).collect(),
                audience,
                entry: file.entry.clone(),
                hours,
                holidays: file.contact.holidays.clone(),
                min_gap_days: file.contact.min_gap_days,
                cap: file.contact.cap,
                consolidation: file.contact.consolidation,
                spread_minutes: file.contact.spread_minutes,
                holds: file.holds,
                charges: file.charges,
                holdout: file.holdout,
                steps,
                end: file.end,
            }),
            _ => Err(faults),
        }
    }

    /// Finds a step by its key.
    pub fn step(&self, key: &str) -> Option<&Step> {
        self.steps.iter().find(|s| s.key == key)
    }

    /// The place of a step: the higher, the further.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.steps.iter().position(|s| s.key == key)
    }

    /// Whether any step may be done otherwise than it is written.
    pub fn is_adaptive(&self) -> bool {
        self.steps.iter().any(Step::is_adaptive)
    }

    /// Whether choosing it, or one of its steps, depends on what a customer owes altogether.
    pub fn asks_balance(&self) -> bool {
        self.audience.asks_balance() || self.steps.iter().any(|s| s.only_if.asks_balance())
    }
}

fn check_contact(file: &ContactFile, faults: &mut Vec<Fault>) -> Option<ContactHours> {
    let mut time = |key: &str, text: &str| -> Option<Minute> {
        text.parse().map_err(|e: String| faults.push(Fault::new(format!("contact.{key}"), e))).ok()
    };
    let (from, to) = (time("from", &file.from), time("to", &file.to));
    if file.weekdays.is_empty() {
        faults.push(Fault::new("contact.weekdays", ContactError::NoWeekday));
    }
    if file.cap.is_some_and(|cap| cap.reminders == 0 || cap.days == 0) {
        faults.push(Fault::new("contact.cap", "reminders and days must be above 0"));
    }
    if file.cap.is_some_and(|cap| cap.days > MAX_CAP_DAYS) {
        faults.push(Fault::new("contact.cap.days", format!("must be at most {MAX_CAP_DAYS}")));
    }
    let weekdays: Weekdays = file.weekdays.iter().map(|d| Weekday::from(*d)).collect();
    let hours = match ContactHours::try_new(TimeZone::UTC, weekdays, from?, to?) {
        Ok(hours) => hours,
        Err(ContactError::NoWeekday) => return None,
        Err(error) => {
            faults.push(Fault::new("contact.to", error));
            return None;
        }
    };
    let (opens, closes) = hours.span();
    if file.spread_minutes >= closes.get() - opens.get() {
        faults.push(Fault::new("contact.spread_minutes", format!("does not fit between {opens} and {closes}")));
    }
    Some(hours)
}

/// With more in the holdout, most would not get what was found to be better.
const MAX_HOLDOUT_PERCENT: u16 = 50;

/// How far back reminders to a customer are remembered for caps.
pub const MAX_CAP_DAYS: u16 = 366;

fn step(steps: &[StepFile], n: usize, faults: &mut Vec<Fault>) -> Option<Step> {
    let file = steps.get(n)?;
    let earlier = steps.get(..n).unwrap_or_default();
    let path = format!("steps.{n}");
    if file.key.is_empty() || !file.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        faults.push(Fault::new(format!("{path}.key"), format!("{:?} may have letters, digits, - and _", file.key)));
    }
    if earlier.iter().any(|s| s.key == file.key) {
        faults.push(Fault::new(format!("{path}.key"), format!("{:?} is the key of an earlier step too", file.key)));
    }
    if file.channels.is_empty() {
        faults.push(Fault::new(format!("{path}.channels"), "needs at least one channel, such as email"));
    }
    for (n, channel) in file.channels.iter().enumerate() {
        if file.channels.iter().take(n).any(|earlier| earlier == channel) {
            let reason = format!("{} is in the list already", channel.as_str());
            faults.push(Fault::new(format!("{path}.channels.{n}"), reason));
        }
    }
    let window = match (file.timing, file.window) {
        (Timing::Fixed, None) => WindowFile::default(),
        (Timing::Fixed, Some(_)) => {
            faults.push(Fault::new(format!("{path}.window"), "is only for `timing: adaptive`"));
            WindowFile::default()
        }
        (Timing::Adaptive, Some(window)) => window,
        (Timing::Adaptive, None) => {
            let reason = "is missing: an adaptive step says how far it may move, such as { earlier_days: 2 }";
            faults.push(Fault::new(format!("{path}.window"), reason));
            WindowFile::default()
        }
    };
    // No law names a reminder that must go out; a last call before the sequence ends is owed all the same.
    if window.may_skip && (file.tone == Tone::Final || file.ends_with.is_some()) {
        let reason = "is not for a last call: a step that ends the sequence, or speaks in the tone final, goes out";
        faults.push(Fault::new(format!("{path}.window.may_skip"), reason));
    }
    let template = file.template.clone().unwrap_or_else(|| file.tone.as_str().to_owned());
    check_template(&template, &format!("{path}.template"), faults);
    let only_if = Condition::read(&file.only_if, &format!("{path}.only_if"), faults);
    let mut step = Step {
        key: file.key.clone(),
        trigger: trigger(&file.when, earlier, &format!("{path}.when"), faults)?,
        only_if,
        window,
        experiment: None,
        channels: file.channels.clone(),
        tone: file.tone,
        template,
        ends_with: file.ends_with,
    };
    let experiment = file.experiment.as_ref();
    step.experiment = experiment.map(|file| experiment::read(file, &step, &format!("{path}.experiment"), faults));
    Some(step)
}

/// The name of a template is that of a file.
pub(crate) fn check_template(template: &str, path: &str, faults: &mut Vec<Fault>) {
    if template.is_empty() || !template.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        faults.push(Fault::new(path, format!("{template:?} may have letters, digits, - and _")));
    }
}

/// The one trigger of a step.
fn trigger(when: &WhenFile, earlier: &[StepFile], path: &str, faults: &mut Vec<Fault>) -> Option<Trigger> {
    let from_due = |days: Option<u16>, offset: fn(i32) -> Offset, sign: i32| {
        days.map(|n| Trigger::FromDue(offset(sign * i32::from(n))))
    };
    let failed = |file: &FailedAttemptsFile| match file {
        FailedAttemptsFile::Count(n) => Trigger::FailedAttempts { count: (*n).into(), decline_codes: Vec::new() },
        FailedAttemptsFile::For { count, decline_code } => {
            Trigger::FailedAttempts { count: (*count).into(), decline_codes: decline_code.clone() }
        }
    };
    let after_step = when.after_step.as_ref().map(|after| {
        let base = earlier.iter().position(|s| s.key == after.step);
        if base.is_none() {
            let hint = if earlier.is_empty() { "there is none".to_owned() } else { keys(earlier) };
            let reason = format!("{:?} is no step before this one: {hint}", after.step);
            faults.push(Fault::new(format!("{path}.after_step.step"), reason));
        }
        Trigger::AfterStep { base: base.unwrap_or_default(), days: after.days }
    });
    let given: Vec<Trigger> = [
        from_due(when.days_before_due, Offset::Days, -1),
        from_due(when.business_days_before_due, Offset::BusinessDays, -1),
        when.on_due_date.filter(|yes| *yes).map(|_| Trigger::FromDue(Offset::Days(0))),
        from_due(when.days_after_due, Offset::Days, 1),
        from_due(when.business_days_after_due, Offset::BusinessDays, 1),
        when.days_after_month_end.map(Trigger::AfterMonthEnd),
        when.failed_attempts.as_ref().map(failed),
        after_step,
        when.days_after_previous.map(Trigger::AfterPrevious),
        when.days_after_broken_promise.map(Trigger::AfterBrokenPromise),
    ]
    .into_iter()
    .flatten()
    .collect();
    if when.days_after_due == Some(0) || when.business_days_after_due == Some(0) {
        faults.push(Fault::new(path, "0 days after the due date is the due date: write on_due_date: true"));
    }
    if when.days_before_due == Some(0) || when.business_days_before_due == Some(0) {
        faults.push(Fault::new(path, "0 days before the due date is the due date: write on_due_date: true"));
    }
    for (key, days) in [
        ("after_step.days", when.after_step.as_ref().map(|a| a.days)),
        ("days_after_previous", when.days_after_previous),
    ] {
        if days == Some(0) {
            faults.push(Fault::new(
                format!("{path}.{key}"),
                "must be above 0: one reminder follows another on a later day",
            ));
        }
    }
    match given.as_slice() {
        [Trigger::FailedAttempts { count: 0, .. }] => {
            faults.push(Fault::new(format!("{path}.failed_attempts"), "must be above 0"));
        }
        [Trigger::AfterPrevious(_)] if earlier.is_empty() => {
            faults.push(Fault::new(format!("{path}.days_after_previous"), "there is no step before this one"));
        }
        [_] => {}
        [] => faults.push(Fault::new(path, "needs one key that says when, such as days_after_due: 3")),
        _ => faults.push(Fault::new(path, "has several keys: a step has one moment; make it several steps")),
    }
    given.into_iter().next()
}

fn keys(steps: &[StepFile]) -> String {
    let keys: Vec<&str> = steps.iter().map(|s| s.key.as_str()).collect();
    format!("those are {}", keys.join(", "))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SAMPLE: &str = "
name: sample
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 15 }
steps:
  - { key: upcoming, when: { days_before_due: 3 }, only_if: { segment: [usually_late] }, tone: friendly }
  - { key: failed, when: { failed_attempts: 3 }, tone: firm }
  - { key: overdue-3, when: { days_after_due: 3 }, tone: friendly }
  - { key: follow-up, when: { after_step: { step: overdue-3, days: 3 } }, tone: firm }
  - { key: overdue-7, when: { days_after_due: 7 }, tone: final }
end: { after_days: 7, outcome: hand_over }
";

    pub(crate) fn parse(text: &str) -> Campaign {
        Campaign::try_new(&serde_saphyr::from_str(text).unwrap(), text).unwrap()
    }

    pub(crate) fn sample() -> Campaign {
        parse(SAMPLE)
    }

    fn faults(from: &str, to: &str) -> Vec<(String, String)> {
        let text = SAMPLE.replace(from, to);
        assert_ne!(text, SAMPLE, "{from:?} is not in the sample");
        let file: CampaignFile = serde_saphyr::from_str(&text).unwrap();
        Campaign::try_new(&file, &text).unwrap_err().into_iter().map(|f| (f.path, f.reason)).collect()
    }

    #[test]
    fn versions_follow_the_text() {
        let changed = parse(&SAMPLE.replace("tone: final", "tone: firm"));
        assert_ne!(sample().version, changed.version);
        assert_eq!(sample().version.len(), 12);
    }

    #[test]
    fn nonsense_is_named_by_path() {
        let long_path = "steps.3.when.after_step.step";
        for (from, to, path) in [
            ("name: sample", "name: ' '", "name"),
            ("to: '18:00'", "to: '08:00'", "contact.to"),
            ("[mon, tue, wed, thu, fri]", "[]", "contact.weekdays"),
            ("spread_minutes: 15", "spread_minutes: 540", "contact.spread_minutes"),
            ("min_gap_days: 2", "min_gap_days: 2, cap: { reminders: 0, days: 7 }", "contact.cap"),
            ("min_gap_days: 2", "min_gap_days: 2, cap: { reminders: 1, days: 400 }", "contact.cap.days"),
            ("name: sample", "name: sample\nentry: { at_most_per_day: 0 }", "entry.at_most_per_day"),
            ("name: sample", "name: sample\nholdout: { invoices_percent: 51 }", "holdout.invoices_percent"),
            ("name: sample", "name: sample\nholdout: { customers_percent: 51 }", "holdout.customers_percent"),
            ("key: overdue-7", "key: overdue-3", "steps.4.key"),
            ("key: overdue-7", "key: 'over due'", "steps.4.key"),
            ("step: overdue-3", "step: nothing", long_path),
            ("failed_attempts: 3", "failed_attempts: 0", "steps.1.when.failed_attempts"),
            ("overdue-3, days: 3", "overdue-3, days: 0", "steps.3.when.after_step.days"),
            ("after_step: { step: overdue-3, days: 3 }", "days_after_previous: 0", "steps.3.when.days_after_previous"),
            ("{ days_after_due: 7 }", "{}", "steps.4.when"),
            ("{ days_after_due: 7 }", "{ days_after_due: 7, on_due_date: true }", "steps.4.when"),
            ("{ days_after_due: 7 }", "{ days_after_due: 0 }", "steps.4.when"),
            ("{ days_before_due: 3 }", "{ days_after_previous: 3 }", "steps.0.when.days_after_previous"),
            ("tone: final", "tone: final, timing: adaptive", "steps.4.window"),
            ("tone: final", "tone: final, window: { earlier_days: 1 }", "steps.4.window"),
            ("tone: final", "tone: final, channels: []", "steps.4.channels"),
            ("tone: final", "tone: final, channels: [sms, task, sms]", "steps.4.channels.2"),
            ("tone: final", "tone: final, template: '../x'", "steps.4.template"),
            ("segment: [usually_late]", "country: [uk]", "steps.0.only_if.country.0"),
        ] {
            let found = faults(from, to);
            assert_eq!(found.first().map(|f| f.0.as_str()), Some(path), "{to}: {found:?}");
        }
        assert_eq!(
            faults("from: '09:00'", "from: 9am")[0],
            ("contact.from".into(), r#""9am" is not a time of day such as 09:00"#.into())
        );
        assert!(serde_saphyr::from_str::<CampaignFile>(&SAMPLE.replace("tone: final", "tone: rude")).is_err());
        let unknown = SAMPLE.replace("tone: final", "tone: final, channels: [pigeon]");
        assert!(serde_saphyr::from_str::<CampaignFile>(&unknown).is_err());
    }

    #[test]
    fn all_faults_come_at_once() {
        let text = SAMPLE.replace("step: overdue-3", "step: nothing").replace("name: sample", "name: ''");
        let file: CampaignFile = serde_saphyr::from_str(&text.replace("'09:00'", "noon")).unwrap();
        let paths: Vec<_> = Campaign::try_new(&file, "").unwrap_err().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["name", "contact.from", "steps.3.when.after_step.step"]);
    }
}
