//! The campaign file and its checked form.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use kernel::contact::{Minute, Weekdays};
use kernel::{ContactHours, Segment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// A campaign file, as written.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignFile {
    /// What people call it.
    pub name: String,
    /// When payers may be written to, in their own time zone.
    pub contact: Contact,
    /// The steps, in the order of their weight: of several that are due, the last one speaks.
    pub steps: Vec<StepFile>,
}

/// When payers may be written to.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// Days on which dunlin may write.
    pub weekdays: Vec<Day>,
    /// Local time from which it may, such as `09:00`.
    pub from: String,
    /// Local time from which it may no more.
    pub to: String,
    /// At least so many days between two reminders to the same customer, whatever they are about.
    pub min_gap_days: u32,
    /// Sends are spread over so many minutes from the opening, each customer always at the same point.
    pub spread_minutes: u16,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
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
    /// When it is due.
    pub when: Trigger,
    /// Only for customers of these segments; everybody if empty.
    #[serde(default)]
    pub segments: Vec<Segment>,
    /// How it speaks.
    pub tone: Tone,
}

/// When a step is due. Days are calendar days of the payer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Trigger {
    /// So many days before the due date.
    DaysBeforeDue(u16),
    /// So many days after the due date.
    DaysAfterDue(u16),
    /// So many days after the reminder of another step went out.
    AfterStep {
        /// The other step's key.
        step: String,
        /// Days after it.
        days: u16,
    },
    /// As soon as the processor has failed to collect so often.
    FailedAttempts(u16),
}

/// Something that makes no sense in a campaign file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path, such as `steps.2.when`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// A checked campaign.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// What people call it.
    pub name: String,
    /// Hash of the file's text: cases keep the version they began with.
    pub version: String,
    /// When payers may be written to; the zone is replaced by the payer's.
    pub hours: ContactHours,
    /// At least so many days between two reminders to a customer.
    pub min_gap_days: u32,
    /// Sends are spread over so many minutes from the opening.
    pub spread_minutes: u16,
    /// In the order of their weight.
    pub steps: Vec<Step>,
}

/// A checked step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique in the campaign.
    pub key: String,
    /// When it is due.
    pub trigger: Trigger,
    /// Only for these segments; everybody if empty.
    pub segments: Vec<Segment>,
    /// How it speaks.
    pub tone: Tone,
}

impl Campaign {
    /// Checks a file; reports everything that makes no sense. `text` is what the file said: its hash is the version.
    pub fn try_new(file: &CampaignFile, text: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |path: &str, reason: String| faults.push(Fault { path: path.to_owned(), reason });
        if file.name.trim().is_empty() {
            fault("name", "is empty".to_owned());
        }
        let hours = hours(&file.contact).map_err(|(path, reason)| fault(path, reason)).ok();
        if let Some(hours) = &hours {
            let (opens, closes) = hours.span();
            if file.contact.spread_minutes >= closes.get() - opens.get() {
                fault("contact.spread_minutes", format!("does not fit between {opens} and {closes}"));
            }
        }
        if file.steps.is_empty() {
            fault("steps", "needs at least one step".to_owned());
        }
        for (n, step) in file.steps.iter().enumerate() {
            if step.key.is_empty() || !step.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                fault(&format!("steps.{n}.key"), format!("{:?} may have letters, digits, - and _", step.key));
            }
            let earlier = file.steps.get(..n).unwrap_or_default();
            if earlier.iter().any(|s| s.key == step.key) {
                fault(&format!("steps.{n}.key"), format!("{:?} is the key of an earlier step too", step.key));
            }
            if let Trigger::AfterStep { step: other, .. } = &step.when
                && !earlier.iter().any(|s| s.key == *other)
            {
                fault(&format!("steps.{n}.when.after_step.step"), format!("{other:?} is no step before this one"));
            }
            if step.when == Trigger::FailedAttempts(0) {
                fault(&format!("steps.{n}.when.failed_attempts"), "must be above 0".to_owned());
            }
        }
        match hours {
            Some(hours) if faults.is_empty() => Ok(Self {
                name: file.name.clone(),
                version: hex::encode(Sha256::digest(text)).chars().take(12).collect(),
                hours,
                min_gap_days: file.contact.min_gap_days,
                spread_minutes: file.contact.spread_minutes,
                steps: file.steps.iter().map(Step::from).collect(),
            }),
            _ => Err(faults),
        }
    }

    /// Finds a step by its key.
    pub fn step(&self, key: &str) -> Option<&Step> {
        self.steps.iter().find(|s| s.key == key)
    }

    /// The place of a step: the higher, the further.
    pub fn weight(&self, key: &str) -> Option<usize> {
        self.steps.iter().position(|s| s.key == key)
    }
}

impl Step {
    /// The step it counts from, and the days, if it counts from one.
    pub fn follows(&self) -> Option<(&str, i64)> {
        match &self.trigger {
            Trigger::AfterStep { step, days } => Some((step, i64::from(*days))),
            _ => None,
        }
    }
}

impl From<&StepFile> for Step {
    fn from(file: &StepFile) -> Self {
        Self { key: file.key.clone(), trigger: file.when.clone(), segments: file.segments.clone(), tone: file.tone }
    }
}

fn hours(contact: &Contact) -> Result<ContactHours, (&'static str, String)> {
    let from: Minute = contact.from.parse().map_err(|e| ("contact.from", e))?;
    let to: Minute = contact.to.parse().map_err(|e| ("contact.to", e))?;
    let weekdays: Weekdays = contact.weekdays.iter().map(|d| Weekday::from(*d)).collect();
    ContactHours::try_new(TimeZone::UTC, weekdays, from, to).map_err(|e| match e {
        kernel::contact::ContactError::NoWeekday => ("contact.weekdays", e.to_string()),
        _ => ("contact.to", e.to_string()),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SAMPLE: &str = "
name: sample
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 15 }
steps:
  - { key: upcoming, when: { days_before_due: 3 }, segments: [late], tone: friendly }
  - { key: failed, when: { failed_attempts: 3 }, tone: firm }
  - { key: overdue-3, when: { days_after_due: 3 }, tone: friendly }
  - { key: follow-up, when: { after_step: { step: overdue-3, days: 3 } }, tone: firm }
  - { key: overdue-7, when: { days_after_due: 7 }, tone: final }
";

    pub(crate) fn sample() -> Campaign {
        Campaign::try_new(&serde_saphyr::from_str(SAMPLE).unwrap(), SAMPLE).unwrap()
    }

    fn faults(from: &str, to: &str) -> Vec<(String, String)> {
        let text = SAMPLE.replace(from, to);
        assert_ne!(text, SAMPLE, "{from:?} is not in the sample");
        let file: CampaignFile = serde_saphyr::from_str(&text).unwrap();
        Campaign::try_new(&file, &text).unwrap_err().into_iter().map(|f| (f.path, f.reason)).collect()
    }

    #[test]
    fn versions_follow_the_text() {
        let other = SAMPLE.replace("tone: final", "tone: firm");
        let changed = Campaign::try_new(&serde_saphyr::from_str(&other).unwrap(), &other).unwrap();
        assert_ne!(sample().version, changed.version);
        assert_eq!(sample().version.len(), 12);
    }

    #[test]
    fn nonsense_is_named_by_path() {
        assert_eq!(faults("to: '18:00'", "to: '08:00'")[0].0, "contact.to");
        assert_eq!(
            faults("from: '09:00'", "from: 9am")[0],
            ("contact.from".into(), r#""9am" is not a time of day such as 09:00"#.into())
        );
        assert_eq!(faults("[mon, tue, wed, thu, fri]", "[]")[0].0, "contact.weekdays");
        assert_eq!(faults("spread_minutes: 15", "spread_minutes: 540")[0].0, "contact.spread_minutes");
        assert_eq!(faults("key: overdue-7", "key: overdue-3")[0].0, "steps.4.key");
        assert_eq!(faults("step: overdue-3", "step: nothing")[0].0, "steps.3.when.after_step.step");
        assert_eq!(faults("failed_attempts: 3", "failed_attempts: 0")[0].0, "steps.1.when.failed_attempts");
        assert!(serde_saphyr::from_str::<CampaignFile>(&SAMPLE.replace("tone: final", "tone: rude")).is_err());
    }
}
