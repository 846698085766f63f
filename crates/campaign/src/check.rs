//! All that is wrong with campaigns and with what they refer to, and what can hardly be meant.
//!
//! Faults keep a configuration from being used. Warnings do not: they are about steps and campaigns that can never do
//! anything, and about rules that work against each other. What may change while a case runs (segments, amounts, failed
//! attempts) never leads to a warning.

mod adapt;
mod reach;
#[cfg(test)]
mod tests;

use crate::campaign::{Campaign, PAYERS_CALENDAR, Trigger};
use crate::condition::ConditionFile;
use crate::file::{ArmFile, CampaignFile, Channel, Ending, StepFile};
use crate::terms::{Calendars, Place, Terms};
use crate::words::{any_of, count};
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use kernel::{PayerKind, contact};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What campaigns are checked against.
#[derive(Debug)]
pub struct Input<'a> {
    /// By name.
    pub campaigns: &'a BTreeMap<String, CampaignFile>,
    /// Those that are there but cannot be read: their faults are known already.
    pub unread: &'a BTreeSet<String>,
    /// Those that use them.
    pub merchants: &'a [Merchant],
    /// All calendars there are.
    pub calendars: &'a Calendars,
    /// The templates there are, each with the locales that it has a text of its own for; `None` if they cannot be read.
    pub templates: Option<&'a BTreeMap<String, BTreeSet<String>>>,
    /// The day on which it is checked.
    pub today: Date,
}

/// What matters of a merchant.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// Its id.
    pub id: String,
    /// Its order of campaigns.
    pub campaigns: Vec<String>,
    /// Its zone's name.
    pub zone: String,
    /// The language of messages where the payer's is not known.
    pub locale: String,
    /// Of payers whose country is not known; may be empty.
    pub country: String,
    /// What the law sees in payers of whom nobody has said it.
    pub payers: PayerKind,
    /// Whether it has a system that is called when a sequence ends with `webhook`.
    pub webhook: bool,
    /// Whether it has a sender of text messages.
    pub sms: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot be used.
    Fault,
    /// It can hardly be meant.
    Warning,
}

impl Severity {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
        }
    }
}

/// Whose file it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A campaign's.
    Campaign(String),
    /// A merchant's.
    Merchant(String),
    /// A calendar's.
    Calendar(String),
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Campaign(name) => ("campaign", name),
            Self::Merchant(name) => ("merchant", name),
            Self::Calendar(name) => ("calendar", name),
        };
        write!(f, "{kind} {name}")
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Whose file it is in.
    pub about: About,
    /// Dotted path of the key.
    pub path: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Checks everything; faults come first.
pub fn check(input: &Input<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    for (name, file) in input.campaigns {
        let mut of = Of { findings: &mut findings, about: About::Campaign(name.clone()) };
        check_campaign(input, name, file, &mut of);
    }
    for merchant in input.merchants {
        let mut of = Of { findings: &mut findings, about: About::Merchant(merchant.id.clone()) };
        check_merchant(input, merchant, &mut of);
    }
    check_calendars(input, &mut findings);
    findings.0.into_iter().collect()
}

/// Sorted, and each thing said once.
#[derive(Debug, Default)]
struct Findings(BTreeSet<Finding>);

/// Where findings about one file go.
struct Of<'a> {
    findings: &'a mut Findings,
    about: About,
}

impl Of<'_> {
    fn add(&mut self, severity: Severity, path: impl Into<String>, reason: String) {
        let about = self.about.clone();
        self.findings.0.insert(Finding { severity, about, path: path.into(), reason });
    }

    fn fault(&mut self, path: impl Into<String>, reason: String) {
        self.add(Severity::Fault, path, reason);
    }

    fn warn(&mut self, path: impl Into<String>, reason: String) {
        self.add(Severity::Warning, path, reason);
    }
}

fn users<'a>(input: &Input<'a>, campaign: &str) -> impl Iterator<Item = &'a Merchant> {
    input.merchants.iter().filter(move |m| m.campaigns.iter().any(|name| name == campaign))
}

fn check_campaign(input: &Input<'_>, name: &str, file: &CampaignFile, of: &mut Of<'_>) {
    for (n, calendar) in file.contact.holidays.iter().enumerate() {
        if calendar != PAYERS_CALENDAR && input.calendars.get(calendar).is_none() {
            let there = any_of(&input.calendars.names().into_iter().map(str::to_owned).collect::<Vec<_>>());
            let reason = format!("there is no calendar {calendar:?}: it is payer, {there}");
            of.fault(format!("contact.holidays.{n}"), reason);
        }
    }
    let campaign = match Campaign::try_new(file, "") {
        Ok(campaign) => campaign,
        Err(faults) => return faults.into_iter().for_each(|fault| of.fault(fault.path, fault.reason)),
    };
    check_templates(input, name, file, &campaign, of);
    check_hours(input, name, file, &campaign, of);
    check_gaps(&campaign, of);
    reach::check_steps(file, &campaign, of);
    adapt::check_adapt(file, &campaign, of);
}

/// The templates of a step and of its arms, each with the key that names it.
fn templates<'a>(n: usize, file: &'a StepFile, own: &'a str) -> Vec<(String, &'a str)> {
    let key = if file.template.is_some() { "template" } else { "tone" };
    let arms = file.experiment.iter().flat_map(|experiment| &experiment.arms).enumerate();
    let arms = arms.filter_map(|(m, arm)| match arm {
        ArmFile::With(with) => Some((format!("steps.{n}.experiment.arms.{m}.template"), with.template.as_deref()?)),
        ArmFile::Without(_) => None,
    });
    std::iter::once((format!("steps.{n}.{key}"), own)).chain(arms).collect()
}

/// Each step's templates must be there, and ought to speak the merchants' languages.
fn check_templates(input: &Input<'_>, name: &str, file: &CampaignFile, campaign: &Campaign, of: &mut Of<'_>) {
    let Some(templates) = input.templates else { return };
    let steps = campaign.steps.iter().zip(&file.steps).enumerate();
    for (path, template) in steps.flat_map(|(n, (step, said))| self::templates(n, said, &step.template)) {
        let Some(locales) = templates.get(template) else {
            let there: Vec<String> = templates.keys().cloned().collect();
            of.fault(path, format!("there is no template {template:?}: it is {}", any_of(&there)));
            continue;
        };
        for merchant in users(input, name).filter(|m| !speaks(locales, &m.locale)) {
            let locale = &merchant.locale;
            let reason = format!(
                "the template {template} has no text in {locale}, which merchant {} speaks: add {template}.{locale}.subject \
                 and {template}.{locale}.opening",
                merchant.id
            );
            of.warn(&path, reason);
        }
    }
}

/// The text without a locale is English.
fn speaks(locales: &BTreeSet<String>, wanted: &str) -> bool {
    let language = |locale: &str| locale.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    let wanted = language(wanted);
    wanted.is_empty() || wanted == "en" || locales.iter().any(|l| language(l) == wanted)
}

/// The countries that a campaign is known to write to: those of its audience, else its merchants'.
fn countries(input: &Input<'_>, name: &str, file: &CampaignFile) -> BTreeSet<String> {
    if !file.audience.country.is_empty() {
        return file.audience.country.iter().cloned().collect();
    }
    users(input, name).map(|m| m.country.clone()).filter(|c| !c.is_empty()).collect()
}

/// Something must be left of the hours by the law of each country.
fn check_hours(input: &Input<'_>, name: &str, file: &CampaignFile, campaign: &Campaign, of: &mut Of<'_>) {
    let merchants: Vec<PayerKind> = users(input, name).map(|m| m.payers).collect();
    let payers = if file.audience.payer.is_empty() { merchants } else { file.audience.payer.clone() };
    for country in countries(input, name, file) {
        for payer in &payers {
            let place = Place { zone: TimeZone::UTC, country: &country, payer: *payer };
            let terms = Terms::new(campaign, &place, input.calendars, input.today);
            if terms.hours.is_none() {
                let law = terms.law.map_or("", |rules| &rules.id);
                let reason =
                    format!("{law} leaves no time at which payers in {country} may be written to: all would wait");
                of.warn("contact", reason);
            }
        }
    }
}

/// Gap and cap together, and steps that the gap pushes aside.
fn check_gaps(campaign: &Campaign, of: &mut Of<'_>) {
    let gap = campaign.min_gap_days;
    if gap == 0 {
        return;
    }
    if let Some(cap) = campaign.cap {
        let most = (cap.days - 1) / gap + 1;
        if most < cap.reminders {
            let reason = format!(
                "can never be reached: {} apart, at most {} go out within {}; a lower cap or a smaller gap would have an effect",
                count(gap, "day"),
                most,
                count(cap.days, "day")
            );
            of.warn("contact.cap", reason);
        }
    }
    for (n, step) in campaign.steps.iter().enumerate() {
        let apart = match step.trigger {
            Trigger::AfterStep { base, days } => Some((base, i64::from(days))),
            Trigger::AfterPrevious(days) => n.checked_sub(1).map(|base| (base, i64::from(days))),
            _ => reach::right_before(campaign, n),
        };
        if let Some((base, days)) = apart.filter(|(_, days)| *days < i64::from(gap)) {
            let other = campaign.steps.get(base).map_or("", |s| &s.key);
            let days = count(days.unsigned_abs(), "day");
            let reason = format!("comes {days} after {other}, within the gap of {}: it waits", count(gap, "day"));
            of.warn(format!("steps.{n}.when"), reason);
        }
    }
}

fn check_merchant(input: &Input<'_>, merchant: &Merchant, of: &mut Of<'_>) {
    if let Err(error) = contact::zone(&merchant.zone) {
        of.fault("time_zone", error.to_string());
    }
    for (n, name) in merchant.campaigns.iter().enumerate() {
        let path = format!("campaigns.{n}");
        let Some(file) = input.campaigns.get(name) else {
            if !input.unread.contains(name) {
                of.fault(path, format!("there is no campaigns/{name}.yaml"));
            }
            continue;
        };
        if !file.audience.merchant.is_empty() && !file.audience.merchant.contains(&merchant.id) {
            of.warn(path, format!("is never followed: the audience of {name} leaves this merchant out"));
            continue;
        }
        if let Some(key) = ends_with_webhook(file).filter(|_| !merchant.webhook) {
            let reason = format!(
                "{name} may end with webhook ({key}), and this merchant has none: add webhook, or end otherwise"
            );
            of.fault(&path, reason);
        }
        check_channels(merchant, name, file, &path, of);
        let earlier = merchant.campaigns.iter().take(n).filter_map(|other| Some((other, input.campaigns.get(other)?)));
        let own = |file: &CampaignFile| {
            // Of this merchant's invoices: asking for the merchant asks nothing.
            let mut audience = file.audience.clone();
            if audience.merchant.contains(&merchant.id) {
                audience.merchant.clear();
            }
            audience
        };
        let mut taken = earlier.filter(|(_, other)| reach::covers(&own(other), &own(file)));
        if let Some((other, wider)) = taken.next() {
            let takes = if wider.audience == ConditionFile::default() {
                "takes all invoices"
            } else {
                "takes all of its invoices"
            };
            of.warn(path, format!("is never reached: {other} before it {takes}"));
        }
    }
}

/// Channels of steps that this merchant has nothing to send by: a step that has no other is never sent.
fn check_channels(merchant: &Merchant, name: &str, file: &CampaignFile, path: &str, of: &mut Of<'_>) {
    let lacks = |channel: &Channel| match channel {
        Channel::Sms => !merchant.sms,
        Channel::Webhook => !merchant.webhook,
        Channel::Email | Channel::Task => false,
    };
    for (n, step) in file.steps.iter().enumerate() {
        for channel in step.channels.iter().filter(|channel| lacks(channel)) {
            let channel = channel.as_str();
            let reason = format!(
                "{name} reaches payers by {channel} (steps.{n}.channels), and this merchant has none: add {channel}, or \
                 leave it out"
            );
            if step.channels.iter().all(lacks) { of.fault(path, reason) } else { of.warn(path, reason) }
        }
    }
}

/// The key by which a campaign may end with a call of the merchant's system.
fn ends_with_webhook(file: &CampaignFile) -> Option<String> {
    let by_step = file.steps.iter().position(|s| s.ends_with == Some(Ending::Webhook));
    by_step
        .map(|n| format!("steps.{n}.ends_with"))
        .or_else(|| (file.end.outcome == Ending::Webhook).then(|| "end.outcome".to_owned()))
}

/// Calendars that a campaign keeps must know this year, and from October on the next.
fn check_calendars(input: &Input<'_>, findings: &mut Findings) {
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for (name, file) in input.campaigns {
        for calendar in &file.contact.holidays {
            if calendar == PAYERS_CALENDAR {
                kept.extend(countries(input, name, file));
            } else {
                kept.insert(calendar.clone());
            }
        }
    }
    let year = input.today.year();
    for name in kept {
        let Some(calendar) = input.calendars.get(&name) else { continue };
        let knows = |year: i16| calendar.covers(date(year, 1, 1));
        let mut of = Of { findings, about: About::Calendar(name) };
        if !knows(year) {
            of.fault("years", format!("lacks {year}: reminders that depend on it are held"));
        } else if input.today.month() >= 10 && !knows(year + 1) {
            of.warn("years", format!("lacks {}: from January on, reminders that depend on it will be held", year + 1));
        }
    }
}
