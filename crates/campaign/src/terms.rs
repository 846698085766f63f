//! A campaign as it applies to one payer: in the payer's zone, without the holidays there, tightened by the law there.

use crate::calendar::{self, Calendar, Holidays};
use crate::campaign::{Campaign, PAYERS_CALENDAR};
use crate::case::{Case, Decided};
use crate::file::ChargesFile;
use crate::law::{self, Charges, Claim, Rules};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{ContactHours, Money, PayerKind};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// Where a payer is.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The payer's zone.
    pub zone: TimeZone,
    /// ISO 3166-1 alpha-2; empty if not known.
    pub country: &'a str,
    /// What the law sees.
    pub payer: PayerKind,
}

/// A campaign as it applies to one payer.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// The campaign.
    pub campaign: &'a Campaign,
    /// When the payer may be written to; `None` if the law leaves nothing of the campaign's hours.
    pub hours: Option<ContactHours>,
    /// Holidays there.
    pub holidays: Holidays,
    /// The law there.
    pub law: Option<&'static Rules>,
}

impl<'a> Terms<'a> {
    /// The terms for a payer, by the law of a day.
    pub fn new(campaign: &'a Campaign, place: &Place<'_>, calendars: &Calendars, on: Date) -> Self {
        let law = law::rules(place.country, place.payer, on);
        let (holidays, closed) = calendars.holidays(campaign, place.country);
        let own = campaign.hours.in_zone(place.zone.clone());
        let hours = match law.and_then(|rules| rules.contact.as_ref()) {
            Some(limit) => limit.tighten(&own).ok(),
            None => Some(own),
        };
        Self { campaign, hours: hours.map(|hours| hours.with_closed(closed)), holidays, law }
    }

    /// The charges that a reminder of a case may show on a day, as its campaign wants and the law of the due date allows.
    pub fn charges(&self, case: &Case<'_>, as_of: Date) -> Charges {
        let Some(due_on) = case.due_on.filter(|_| self.campaign.charges != ChargesFile::default()) else {
            return Charges::default();
        };
        let Some(rules) = law::rules(case.facts.country, case.facts.payer, due_on) else { return Charges::default() };
        let is_overdue = |d: &&Decided| // Steps that the campaign does not have any more count too.
            d.reminded && self.campaign.step(&d.step).is_none_or(|step| !step.is_by_due());
        let overdue = || case.decided.iter().filter(is_overdue);
        let claim = Claim {
            open: Money::new(case.facts.open_minor, case.facts.currency),
            due_on,
            reminders_sent: u16::try_from(overdue().count()).unwrap_or(u16::MAX),
            last_reminded_on: overdue().map(|d| d.on).max(),
        };
        law::charges(rules, self.campaign.charges, &claim, as_of)
    }
}

/// All calendars there are: those that are shipped, and the merchants' own files, which come first.
#[derive(Debug, Default)]
pub struct Calendars {
    own: BTreeMap<String, Arc<Calendar>>,
    /// By their names: a handful of combinations, asked for with every case.
    combined: RwLock<HashMap<Vec<String>, Combined>>,
}

type Combined = (Holidays, Arc<[Date]>);

impl Calendars {
    /// With calendars of one's own, by name.
    pub fn new(own: BTreeMap<String, Arc<Calendar>>) -> Self {
        Self { own, combined: RwLock::default() }
    }

    /// Finds a calendar by its name.
    pub fn get(&self, name: &str) -> Option<&Arc<Calendar>> {
        self.own.get(name).or_else(|| calendar::built_in(name))
    }

    /// The names of all, one's own first.
    pub fn names(&self) -> Vec<&str> {
        self.own.keys().map(String::as_str).chain(calendar::built_in_names().map(|name| -> &str { name })).collect()
    }

    /// A calendar by the name that a campaign gives it. One that is not there any more knows no year: that holds, rather than
    /// writes on a holiday. Not every country has a calendar.
    fn find(&self, name: &str, country: &str) -> Option<Arc<Calendar>> {
        match name {
            PAYERS_CALENDAR => self.get(country).cloned(),
            _ => Some(self.get(name).cloned().unwrap_or_else(|| Arc::new(Calendar::without_years(name)))),
        }
    }

    /// The holidays that a campaign keeps for payers of a country, also as a list of dates.
    pub fn holidays(&self, campaign: &Campaign, country: &str) -> Combined {
        if campaign.holidays.is_empty() {
            return Combined::default();
        }
        let name = |name: &String| if name == PAYERS_CALENDAR { country.to_owned() } else { name.clone() };
        let names: Vec<String> = campaign.holidays.iter().map(name).collect();
        let known = self.combined.read().unwrap_or_else(PoisonError::into_inner).get(&names).cloned();
        known.unwrap_or_else(|| {
            let holidays = campaign.holidays.iter().filter_map(|name| self.find(name, country)).collect::<Holidays>();
            let closed: Arc<[Date]> = holidays.closed_between(Date::MIN, Date::MAX).into();
            let combined = (holidays, closed);
            let mut all = self.combined.write().unwrap_or_else(PoisonError::into_inner);
            all.insert(names, combined.clone());
            combined
        })
    }
}
