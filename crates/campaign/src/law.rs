//! What the law of the payer's country says about reminders, as dated data.
//!
//! Each file in `data/law` is a pack: a country, or several, with rules that hold from one day to another and cite their
//! source. [`rules`] finds those that hold, [`charges`] applies the part that costs money. What is not sure is not in the
//! data; what the data lacks is [reported](Missing), never guessed.
//!
//! To add a country: write a pack, add it to the list in `law/file.rs`, and a row to each table in `law/tests.rs`. Not legal
//! advice: laws change, and a contract may say otherwise.

mod charges;
mod file;
mod rates;
#[cfg(test)]
mod tests;

pub use crate::file::{CapFile as Cap, ChargesFile as Allow};
pub use charges::{Charge, ChargeKind, Charges, Claim, Missing, charges};
pub use kernel::PayerKind as Payer;
pub use rates::{HalfYear, Percent, Series};

use jiff::civil::Date;
use kernel::contact::{ContactError, Minute, Weekdays};
use kernel::{ContactHours, Money};
use serde::Deserialize;
use std::sync::{Arc, LazyLock};

/// Rules that hold in a country for a kind of payer for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The file they are from, such as `GB` or `EU`.
    pub pack: String,
    /// Unique, such as `GB/late-payment/1998`: what a message or a ledger refers to.
    pub id: String,
    /// What people call them.
    pub title: String,
    /// Whom they are about.
    pub payers: Vec<Payer>,
    /// The law, and where it can be read.
    pub source: String,
    /// First day on which they hold.
    pub from: Date,
    /// First day on which they hold no more.
    pub until: Option<Date>,
    /// So many days must pass after the due date before the first reminder of an overdue invoice.
    pub earliest_days_after_due: Option<u16>,
    /// So many days must lie between two reminders of one invoice.
    pub min_days_between: Option<u16>,
    /// At most so many reminders of one overdue invoice.
    pub max_reminders: Option<u16>,
    /// When payers may be written to.
    pub contact: Option<ContactLimit>,
    /// How often payers may be written to.
    pub cap: Option<Cap>,
    /// What may be charged for a delay and for reminders.
    pub fee: Fee,
    /// What interest may be charged.
    pub interest: Option<Interest>,
    /// What messages must say.
    pub wording: Vec<Wording>,
}

/// When payers may be written to, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContactLimit {
    /// On these weekdays.
    pub weekdays: Weekdays,
    /// Not before this minute of the payer's day.
    pub opens: Minute,
    /// Not from this minute on.
    pub closes: Minute,
}

impl ContactLimit {
    /// The part of a campaign's hours that the law leaves; it never adds any. An error if nothing is left.
    pub fn tighten(&self, hours: &ContactHours) -> Result<ContactHours, ContactError> {
        let weekdays = Weekdays::from_bits(hours.weekdays().bits() & self.weekdays.bits());
        let (opens, closes) = hours.span();
        ContactHours::try_new(hours.zone().clone(), weekdays, opens.max(self.opens), closes.min(self.closes))
    }
}

/// What may be charged beside interest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fee {
    /// Once for a claim that is late, by its size: the first that fits. None may be charged if empty.
    pub fixed_sum: Vec<FixedSum>,
    /// For each reminder.
    pub reminder: Option<ReminderFee>,
}

/// A sum for a claim of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedSum {
    /// For claims smaller than this; for all others if `None`.
    pub below: Option<Money>,
    /// The sum.
    pub amount: Money,
}

/// What a reminder may cost, and which reminders may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReminderFee {
    /// At most this for each.
    pub amount: Money,
    /// For so many reminders of an invoice.
    pub at_most: u16,
    /// Only for a reminder so many days after the one before.
    pub days_apart: u16,
    /// Only for a reminder so many days after the due date.
    pub days_after_due: u16,
    /// Not if the fixed sum is charged: that is for the same cost.
    pub not_beside_fixed_sum: bool,
}

/// A yearly rate above a reference rate: simple interest on the open amount, a year having 365 days, from the day after the
/// due date. Charges bear none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// The reference rate.
    pub series: Arc<Series>,
    /// So many percentage points above it.
    pub points: Percent,
    /// Which of its rates holds for a day.
    pub rate_of: RateOf,
}

/// Which half-year's rate holds for a day of a delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateOf {
    /// That of the half-year in which the day lies.
    EachHalfYear,
    /// That of the half-year in which interest began, for the whole delay.
    FirstDay,
}

/// A sentence that messages in a language must contain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wording {
    /// The language, such as `en`.
    pub locale: String,
    /// The sentence.
    pub text: String,
}

impl Rules {
    /// Whether they hold on a day.
    pub fn hold_on(&self, day: Date) -> bool {
        self.from <= day && self.until.is_none_or(|until| day < until)
    }
}

// A test reads every file, so nothing is dropped here.
static PACKS: LazyLock<Vec<file::Pack>> = LazyLock::new(|| file::built_in().0);

/// The rules of a country (ISO 3166, such as `GB`) that hold on a day, if there are any. Member states of the EU without a
/// pack of their own have the Directive's.
///
/// Most laws hold for claims that fell due since some day: for [`charges`] ask with the due date, for contact with today.
pub fn rules(country: &str, payer: Payer, on: Date) -> Option<&'static Rules> {
    let packs = PACKS.iter().filter(|pack| pack.holds_in(country, on));
    packs.flat_map(|pack| &pack.rules).find(|rules| rules.payers.contains(&payer) && rules.hold_on(on))
}
