//! Holidays and business days.
//!
//! A [`Calendar`] is a checked YAML file that lists the days of some years on which nobody works, with the source that says
//! so. Ten are [built in](built_in); a merchant can add its own. [`Holidays`] is the union of those that a campaign uses.
//!
//! Dates are listed, not computed: a file can be read and compared with its source, and a government that moves a holiday
//! changes a line of data. The tests compute the rules and compare.

use crate::Fault;
use jiff::civil::Date;
use kernel::contact::Weekdays;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// A calendar file, as written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalendarFile {
    /// What campaigns call it, such as `DE`.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The law or the page that says so.
    pub source: String,
    /// The holidays of each year, without gaps between the years.
    pub years: BTreeMap<i16, Vec<HolidayFile>>,
}

/// A holiday, as written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HolidayFile {
    /// The day nobody works, such as `2026-12-25`: the day observed if that is another one than the feast.
    pub on: Date,
    /// What people call it.
    pub name: String,
}

/// A checked calendar.
#[derive(Debug, PartialEq, Eq)]
pub struct Calendar {
    name: String,
    title: String,
    source: String,
    first_year: i16,
    /// One bit for each day of a year: planning asks this for every day it steps over.
    closed: Vec<[u64; 6]>,
    days: BTreeMap<Date, String>,
}

impl Calendar {
    /// One that knows no year, in place of one that is not there.
    pub fn without_years(name: &str) -> Self {
        let (title, source) = (String::new(), String::new());
        Self { name: name.to_owned(), title, source, first_year: 0, closed: Vec::new(), days: BTreeMap::new() }
    }

    /// Reads a file; reports everything that makes no sense. What is not YAML of the right shape is one fault without a
    /// path.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let file = serde_saphyr::from_str(text)
            .map_err(|error| vec![Fault { path: String::new(), reason: error.to_string() }])?;
        Self::try_new(&file)
    }

    /// Checks a file; reports everything that makes no sense.
    pub fn try_new(file: &CalendarFile) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |path: String, reason: String| faults.push(Fault { path, reason });
        for (field, value) in [("name", &file.name), ("title", &file.title), ("source", &file.source)] {
            if value.trim().is_empty() {
                fault(field.to_owned(), "is empty".to_owned());
            }
        }
        if file.years.is_empty() {
            fault("years".to_owned(), "needs at least one year".to_owned());
        }
        for (&before, &year) in file.years.keys().zip(file.years.keys().skip(1)) {
            if i32::from(year) != i32::from(before) + 1 {
                fault(format!("years.{year}"), format!("follows {before}: the years between them are missing"));
            }
        }
        let mut days = BTreeMap::new();
        for (year, listed) in &file.years {
            if listed.is_empty() {
                fault(format!("years.{year}"), "has no days".to_owned());
            }
            for (n, day) in listed.iter().enumerate() {
                if day.on.year() != *year {
                    fault(format!("years.{year}.{n}.on"), format!("{} is not in {year}", day.on));
                }
                if day.name.trim().is_empty() {
                    fault(format!("years.{year}.{n}.name"), "is empty".to_owned());
                }
                if let Some(other) = days.insert(day.on, day.name.clone()) {
                    fault(format!("years.{year}.{n}.on"), format!("{} is {other:?} already", day.on));
                }
            }
        }
        match file.years.keys().next() {
            Some(&first_year) if faults.is_empty() => Ok(Self {
                name: file.name.clone(),
                title: file.title.clone(),
                source: file.source.clone(),
                first_year,
                closed: file.years.values().map(|days| bits(days)).collect(),
                days,
            }),
            _ => Err(faults),
        }
    }

    /// What campaigns call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What people call it.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The law or the page that says so.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the date's year is in the file.
    pub fn covers(&self, date: Date) -> bool {
        self.year_of(date).is_some()
    }

    /// Whether the date is a holiday; never in a year that is not [covered](Self::covers).
    pub fn is_holiday(&self, date: Date) -> bool {
        let day = place(date);
        self.year_of(date).and_then(|year| year.get(day / 64)).is_some_and(|word| word >> (day % 64) & 1 == 1)
    }

    /// The name of the holiday, if it is one.
    pub fn holiday(&self, date: Date) -> Option<&str> {
        self.days.get(&date).map(String::as_str)
    }

    fn year_of(&self, date: Date) -> Option<&[u64; 6]> {
        let index = i32::from(date.year()) - i32::from(self.first_year);
        self.closed.get(usize::try_from(index).ok()?)
    }
}

/// The place of a date in its year, from 0.
fn place(date: Date) -> usize {
    usize::from(date.day_of_year().unsigned_abs()) - 1
}

fn bits(days: &[HolidayFile]) -> [u64; 6] {
    let mut year = [0; 6];
    for day in days.iter().map(|d| place(d.on)) {
        if let Some(word) = year.get_mut(day / 64) {
            *word |= 1 << (day % 64);
        }
    }
    year
}

/// The files that are built in. To add one, put it into `data/calendars` and here; the tests ask for its rules.
const FILES: [&str; 10] = [
    include_str!("../data/calendars/DE.yaml"),
    include_str!("../data/calendars/DK.yaml"),
    include_str!("../data/calendars/FR.yaml"),
    include_str!("../data/calendars/GB.yaml"),
    include_str!("../data/calendars/GB-NIR.yaml"),
    include_str!("../data/calendars/GB-SCT.yaml"),
    include_str!("../data/calendars/NL.yaml"),
    include_str!("../data/calendars/NO.yaml"),
    include_str!("../data/calendars/TARGET2.yaml"),
    include_str!("../data/calendars/US.yaml"),
];

// A test parses every file, so none is dropped here.
static BUILT_IN: LazyLock<Vec<Arc<Calendar>>> =
    LazyLock::new(|| FILES.iter().filter_map(|text| Calendar::parse(text).ok()).map(Arc::new).collect());

/// The built-in calendar of this name, such as `GB-SCT`.
pub fn built_in(name: &str) -> Option<&'static Arc<Calendar>> {
    BUILT_IN.iter().find(|calendar| calendar.name == name)
}

/// The names of all built-in calendars, in alphabetical order.
pub fn built_in_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|calendar| calendar.name.as_str())
}

/// The holidays of several calendars together. A clone shares them; the default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holidays(Arc<[Arc<Calendar>]>);

impl FromIterator<Arc<Calendar>> for Holidays {
    fn from_iter<I: IntoIterator<Item = Arc<Calendar>>>(calendars: I) -> Self {
        Self(calendars.into_iter().collect())
    }
}

impl Holidays {
    /// Whether the date is a holiday of any of them.
    pub fn is_closed(&self, date: Date) -> bool {
        self.0.iter().any(|calendar| calendar.is_holiday(date))
    }

    /// Whether all of them know the date's year; true if there are none.
    pub fn covers(&self, date: Date) -> bool {
        self.0.iter().all(|calendar| calendar.covers(date))
    }

    /// What the holiday is called, by the first calendar that has it.
    pub fn name_of(&self, date: Date) -> Option<&str> {
        self.0.iter().find_map(|calendar| calendar.holiday(date))
    }

    /// The first calendar that does not know the date's year.
    pub fn missing_year(&self, date: Date) -> Option<&str> {
        self.0.iter().find(|calendar| !calendar.covers(date)).map(|calendar| calendar.name())
    }

    /// The holidays from one date to another, both included, in order.
    pub fn closed_between(&self, from: Date, to: Date) -> Vec<Date> {
        if from > to {
            return Vec::new();
        }
        let mut days: Vec<Date> = self.0.iter().flat_map(|c| c.days.range(from..=to).map(|(day, _)| *day)).collect();
        days.sort_unstable();
        days.dedup();
        days
    }
}

/// Whether people work on the date: its weekday is open and it is no holiday.
pub fn is_business_day(date: Date, weekdays: Weekdays, holidays: &Holidays) -> bool {
    weekdays.contains(date.weekday()) && !holidays.is_closed(date)
}

/// Counts business days: the n-th strictly after the date, or strictly before it if `n` is negative. Zero is the date
/// itself, whether people work on it or not.
///
/// `None` if the way there leads into a year that a calendar does not know (see [`Holidays::missing_year`]) or beyond the
/// last date there is: a wrong date would be worse than none. It is `None` too if no weekday is open at all.
pub fn add_business_days(date: Date, n: i32, weekdays: Weekdays, holidays: &Holidays) -> Option<Date> {
    let mut left = n.unsigned_abs();
    // The loop would come to the same end, eight thousand years on.
    if left > 0 && weekdays.bits() == 0 {
        return None;
    }
    let mut day = date;
    while left > 0 {
        day = if n > 0 { day.tomorrow() } else { day.yesterday() }.ok()?;
        if !holidays.covers(day) {
            return None;
        }
        left -= u32::from(is_business_day(day, weekdays, holidays));
    }
    Some(day)
}

#[cfg(test)]
mod tests;
