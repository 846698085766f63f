//! The files: country packs and reference rates.

use super::{
    Cap, ContactLimit, Fee, FixedSum, HalfYear, Interest, Payer, Percent, RateOf, ReminderFee, Rules, Series, Wording,
};
use crate::Fault;
use jiff::civil::Date;
use jiff::fmt::strtime::BrokenDownTime;
use kernel::Money;
use kernel::contact::{Minute, Weekdays};
use kernel::money::Currency;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

const RATES: &str = include_str!("../../data/law/rates.yaml");

const PACKS: [&str; 9] = [
    include_str!("../../data/law/DE.yaml"),
    include_str!("../../data/law/DK.yaml"),
    include_str!("../../data/law/EU.yaml"),
    include_str!("../../data/law/EU-OTHER.yaml"),
    include_str!("../../data/law/FR.yaml"),
    include_str!("../../data/law/GB.yaml"),
    include_str!("../../data/law/NO.yaml"),
    include_str!("../../data/law/SE.yaml"),
    include_str!("../../data/law/US.yaml"),
];

/// Every built-in pack, and everything that makes no sense in them.
pub(super) fn built_in() -> (Vec<Pack>, Vec<Fault>) {
    let (series, mut faults) = parse_rates(RATES);
    let mut packs = Vec::new();
    for text in PACKS {
        match Pack::parse(text, &series) {
            Ok(pack) => packs.push(pack),
            Err(found) => faults.extend(found),
        }
    }
    (packs, faults)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeriesFile {
    name: String,
    title: String,
    source: String,
    rates: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackFile {
    pack: String,
    title: String,
    currency: Currency,
    countries: Vec<Country>,
    rules: Vec<RuleFile>,
}

/// A country, and the time for which the pack is about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Country {
    pub(super) code: String,
    from: Option<Date>,
    until: Option<Date>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    id: String,
    payers: Vec<Payer>,
    from: Date,
    until: Option<Date>,
    source: String,
    earliest_days_after_due: Option<u16>,
    min_days_between: Option<u16>,
    max_reminders: Option<u16>,
    contact: Option<ContactFile>,
    cap: Option<Cap>,
    #[serde(default)]
    fixed_sum: Vec<FixedSumFile>,
    reminder_fee: Option<ReminderFeeFile>,
    interest: Option<InterestFile>,
    #[serde(default)]
    wording: Vec<Wording>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContactFile {
    /// All of them if left out.
    weekdays: Option<Vec<String>>,
    from: String,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FixedSumFile {
    below: Option<String>,
    amount: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReminderFeeFile {
    amount: String,
    at_most: u16,
    #[serde(default)]
    days_apart: u16,
    #[serde(default)]
    days_after_due: u16,
    #[serde(default)]
    not_beside_fixed_sum: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InterestFile {
    series: String,
    points: String,
    rate_of: RateOf,
}

/// A checked pack.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) countries: Vec<Country>,
    pub(super) rules: Vec<Rules>,
}

impl Pack {
    /// Reads a file; reports everything that makes no sense.
    pub(super) fn parse(text: &str, series: &[Arc<Series>]) -> Result<Self, Vec<Fault>> {
        let file: PackFile = from_yaml(text).map_err(|fault| vec![fault])?;
        let mut check = Check { pack: &file, series, faults: Vec::new() };
        let rules: Vec<Rules> = file.rules.iter().enumerate().map(|(n, rule)| check.rule(n, rule)).collect();
        check.countries();
        check.overlaps(&rules);
        let faults = check.faults;
        if faults.is_empty() { Ok(Self { countries: file.countries, rules }) } else { Err(faults) }
    }

    /// Whether the pack is about the country on a day.
    pub(super) fn holds_in(&self, country: &str, day: Date) -> bool {
        self.countries.iter().any(|c| {
            c.code.eq_ignore_ascii_case(country)
                && c.from.is_none_or(|from| from <= day)
                && c.until.is_none_or(|until| day < until)
        })
    }
}

/// Turns what is written into what is meant and notes what makes no sense on the way. A part with a fault is left out; the
/// pack is then refused as a whole.
struct Check<'a> {
    pack: &'a PackFile,
    series: &'a [Arc<Series>],
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, path: String, reason: impl Into<String>) {
        self.faults.push(Fault { path: format!("{}.{path}", self.pack.pack), reason: reason.into() });
    }

    fn parsed<T: FromStr<Err: ToString>>(&mut self, path: String, text: &str) -> Option<T> {
        text.parse().map_err(|error: T::Err| self.fault(path, error.to_string())).ok()
    }

    fn money(&mut self, path: String, text: &str) -> Option<Money> {
        Money::parse(text, self.pack.currency).map_err(|error| self.fault(path, error.to_string())).ok()
    }

    fn rule(&mut self, n: usize, rule: &RuleFile) -> Rules {
        let at = |field: &str| format!("rules.{n}.{field}");
        if rule.payers.is_empty() {
            self.fault(at("payers"), "names nobody");
        }
        if !rule.source.contains("https://") {
            self.fault(at("source"), "needs an address where the law can be read");
        }
        if rule.until.is_some_and(|until| until <= rule.from) {
            self.fault(at("until"), format!("is not after {}", rule.from));
        }
        Rules {
            pack: self.pack.pack.clone(),
            id: format!("{}/{}", self.pack.pack, rule.id),
            title: self.pack.title.clone(),
            payers: rule.payers.clone(),
            source: rule.source.clone(),
            from: rule.from,
            until: rule.until,
            earliest_days_after_due: rule.earliest_days_after_due,
            min_days_between: rule.min_days_between,
            max_reminders: rule.max_reminders,
            contact: rule.contact.as_ref().and_then(|contact| self.contact(&at("contact"), contact)),
            cap: rule.cap,
            fee: Fee {
                fixed_sum: self.fixed_sum(&at("fixed_sum"), &rule.fixed_sum),
                reminder: rule.reminder_fee.as_ref().and_then(|fee| self.reminder_fee(&at("reminder_fee"), fee)),
            },
            interest: rule.interest.as_ref().and_then(|interest| self.interest(&at("interest"), interest)),
            wording: rule.wording.clone(),
        }
    }

    fn contact(&mut self, path: &str, contact: &ContactFile) -> Option<ContactLimit> {
        let weekdays = contact.weekdays.as_ref().map_or(Some(Weekdays::ALL), |days| {
            days.iter().map(|day| BrokenDownTime::parse("%a", day).ok()?.weekday()).collect()
        });
        if weekdays.is_none() {
            self.fault(format!("{path}.weekdays"), "may have mon, tue, wed, thu, fri, sat and sun");
        }
        let opens: Option<Minute> = self.parsed(format!("{path}.from"), &contact.from);
        let closes: Option<Minute> = self.parsed(format!("{path}.to"), &contact.to);
        Some(ContactLimit { weekdays: weekdays?, opens: opens?, closes: closes? })
    }

    fn fixed_sum(&mut self, path: &str, sums: &[FixedSumFile]) -> Vec<FixedSum> {
        let mut checked: Vec<FixedSum> = Vec::new();
        for (n, sum) in sums.iter().enumerate() {
            let below = sum.below.as_ref().map(|below| self.money(format!("{path}.{n}.below"), below));
            let (Some(amount), below) = (self.money(format!("{path}.{n}.amount"), &sum.amount), below.flatten()) else {
                continue;
            };
            let limit = |sum: &FixedSum| sum.below.map_or(i64::MAX, |below| below.minor);
            let sum = FixedSum { below, amount };
            if checked.last().is_some_and(|before| limit(before) >= limit(&sum)) {
                self.fault(format!("{path}.{n}.below"), "is not above the one before it");
            }
            checked.push(sum);
        }
        if checked.last().is_some_and(|sum| sum.below.is_some()) {
            self.fault(path.to_owned(), "needs a last sum without `below`, for all other claims");
        }
        checked
    }

    fn reminder_fee(&mut self, path: &str, fee: &ReminderFeeFile) -> Option<ReminderFee> {
        Some(ReminderFee {
            amount: self.money(format!("{path}.amount"), &fee.amount)?,
            at_most: fee.at_most,
            days_apart: fee.days_apart,
            days_after_due: fee.days_after_due,
            not_beside_fixed_sum: fee.not_beside_fixed_sum,
        })
    }

    fn interest(&mut self, path: &str, interest: &InterestFile) -> Option<Interest> {
        let series = self.series.iter().find(|series| series.name() == interest.series).cloned();
        if series.is_none() {
            self.fault(format!("{path}.series"), format!("{:?} is no series of rates.yaml", interest.series));
        }
        let points: Option<Percent> = self.parsed(format!("{path}.points"), &interest.points);
        Some(Interest { series: series?, points: points?, rate_of: interest.rate_of })
    }

    fn countries(&mut self) {
        for (n, country) in self.pack.countries.iter().enumerate() {
            if country.code.len() != 2 || !country.code.bytes().all(|b| b.is_ascii_uppercase()) {
                self.fault(format!("countries.{n}.code"), format!("{:?} is not a code such as GB", country.code));
            }
        }
    }

    /// Two rules that hold for the same payer on the same day would leave open which is meant.
    fn overlaps(&mut self, rules: &[Rules]) {
        for (n, rule) in rules.iter().enumerate() {
            let clash = rules.iter().take(n).find(|other| {
                let both_hold = rule.hold_on(rule.from.max(other.from)) && other.hold_on(rule.from.max(other.from));
                both_hold && rule.payers.iter().any(|payer| other.payers.contains(payer))
            });
            if let Some(other) = clash {
                self.fault(format!("rules.{n}.from"), format!("{} still holds for the same payers", other.id));
            }
        }
    }
}

/// The series of a file, and everything that makes no sense in it.
pub(super) fn parse_rates(text: &str) -> (Vec<Arc<Series>>, Vec<Fault>) {
    let files: Vec<SeriesFile> = match from_yaml(text) {
        Ok(files) => files,
        Err(fault) => return (Vec::new(), vec![fault]),
    };
    let (mut series, mut faults) = (Vec::new(), Vec::new());
    for file in files {
        let path = format!("rates.{}", file.name);
        let mut rates: Vec<(HalfYear, Percent)> = Vec::new();
        for (half, rate) in &file.rates {
            match (half.parse(), rate.parse()) {
                (Ok(half), Ok(rate)) => rates.push((half, rate)),
                (half, rate) => {
                    let reasons = [half.err(), rate.err()].into_iter().flatten();
                    faults.extend(reasons.map(|reason| Fault { path: path.clone(), reason }));
                }
            }
        }
        if !file.source.contains("https://") {
            faults
                .push(Fault { path: path.clone(), reason: "needs an address where the rates can be read".to_owned() });
        }
        match Series::try_new(file.name, file.title, file.source, &rates) {
            Ok(found) => series.push(Arc::new(found)),
            Err(reason) => faults.push(Fault { path, reason }),
        }
    }
    (series, faults)
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_saphyr::from_str(text).map_err(|error| Fault { path: String::new(), reason: error.to_string() })
}
