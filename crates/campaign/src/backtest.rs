//! What a campaign would have done over recorded history: the same planning as in production, under a virtual clock.
//!
//! A back-test counts reminders. It cannot know whether a reminder would have brought a payment forward: payments happen as
//! they were recorded, whatever is sent.
//!
//! # What a ledger of dates means
//! - An invoice is known from the first moment of its day of issue.
//! - A payment of a day arrives at the **end** of that day (00:00 of the day after, in the payer's zone). A reminder of the
//!   same day therefore still goes out: nobody can tell from a date that the payment came before nine o'clock. This counts
//!   rather too many reminders than too few.
//! - A reminder went to somebody who **paid anyway within a day** if one of the invoices that it is about was paid on the
//!   local date of the reminder, or on the date after it. Every payment within 24 hours is among these, and so are some of
//!   up to 39: where a ledger knows dates only, that is as exact as one can be without understating it.
//!
//! What is recorded to the moment ([`Recorded::At`]) happens at that moment; "within a day" still goes by dates.

mod compare;
mod tally;

pub use compare::{differences, thousands};

use crate::campaign::{Campaign, PAYERS_CALENDAR};
use crate::condition::{Condition, Facts};
use crate::file::Tone;
use crate::ramp::Ramp;
use crate::simulate::{Payer, SimulatedInvoice, simulate};
use crate::terms::Calendars;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kernel::{Currency, PayerKind, Segment};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tally::Tally;

/// When something happened, as exactly as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// On a day of the payer.
    On(Date),
    /// At a moment.
    At(Timestamp),
}

impl Recorded {
    fn date(self, zone: &TimeZone) -> Date {
        match self {
            Self::On(date) => date,
            Self::At(at) => zone.to_datetime(at).date(),
        }
    }

    /// The first moment at which it may have happened.
    fn begins(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::On(date) => start_of(date, zone),
            Self::At(at) => Some(at),
        }
    }

    /// The moment by which it has happened.
    fn ends(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::On(date) => start_of(date.tomorrow().ok()?, zone),
            Self::At(at) => Some(at),
        }
    }
}

fn start_of(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_timestamp(date.to_datetime(jiff::civil::Time::midnight())).compatible().ok()
}

/// A row of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The customer's key.
    pub customer: String,
    /// The invoice's key.
    pub invoice: String,
    /// When the invoice was first known.
    pub issued: Recorded,
    /// When it should be paid.
    pub due_on: Option<Date>,
    /// When it was paid, if it was.
    pub paid: Option<Recorded>,
    /// It was not paid then but withdrawn: void, or written off. Nobody would have paid anyway.
    pub is_withdrawn: bool,
    /// What is owed, in minor units.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: Currency,
    /// The payer's country, ISO 3166-1 alpha-2; empty if the ledger does not say.
    pub country: String,
}

/// Recorded history, by customer.
#[derive(Debug, Default)]
pub struct Ledger {
    customers: BTreeMap<String, Vec<LedgerRow>>,
}

impl FromIterator<LedgerRow> for Ledger {
    fn from_iter<I: IntoIterator<Item = LedgerRow>>(rows: I) -> Self {
        let mut ledger = Self::default();
        ledger.extend(rows);
        ledger
    }
}

impl Extend<LedgerRow> for Ledger {
    fn extend<I: IntoIterator<Item = LedgerRow>>(&mut self, rows: I) {
        for mut row in rows {
            // The key holds it already.
            let customer = std::mem::take(&mut row.customer);
            self.customers.entry(customer).or_default().push(row);
        }
    }
}

impl Backtest {
    /// How many steps waited for one of these reasons, by [`Reason::as_str`](crate::Reason::as_str).
    pub fn waited(&self, reasons: &[crate::Reason]) -> u64 {
        let waited = |reason: &crate::Reason| self.deferrals.get(reason.as_str());
        reasons.iter().filter_map(waited).map(|w| w.steps).sum()
    }

    /// Steps that waited for the cap.
    pub fn caps_hit(&self) -> u64 {
        self.waited(&[crate::Reason::Cap])
    }

    /// Steps that waited for the gap between two reminders, the campaign's or the law's.
    pub fn gaps_hit(&self) -> u64 {
        self.waited(&[crate::Reason::MinGap, crate::Reason::LawGap])
    }

    /// The share of reminders to people who paid anyway within a day; `None` without reminders.
    pub fn paid_anyway_share(&self) -> Option<f64> {
        (self.reminders > 0).then(|| self.paid_anyway as f64 / self.reminders as f64)
    }
}

impl Ledger {
    /// The first and the last day on which anything is recorded.
    fn span(&self, zone: &TimeZone) -> Option<(Date, Date)> {
        let rows = || self.customers.values().flatten();
        let first = rows().map(|row| row.issued.date(zone)).min()?;
        let last = rows().flat_map(|row| [Some(row.issued), row.paid]).flatten().map(|r| r.date(zone)).max()?;
        Some((first, last))
    }
}

/// What a ledger does not say.
#[derive(Debug)]
pub struct Setting<'a> {
    /// Holidays.
    pub calendars: &'a Calendars,
    /// Whose ledger it is.
    pub merchant: &'a str,
    /// The zone of all payers.
    pub zone: TimeZone,
    /// The country of payers of whom the ledger names none; empty if not known.
    pub country: &'a str,
    /// What the law sees in all payers.
    pub payer: PayerKind,
    /// How all customers pay, for conditions that ask.
    pub segment: Segment,
    /// The history does not say what was owed: conditions on amounts and balances see nothing of it.
    pub lacks_amounts: bool,
    /// The campaign meets the ledger as it was on the first moment of this day. `None`: it was there from the beginning.
    pub switch_on: Option<Date>,
    /// The last day of the history. `None`: the last one on which anything is recorded.
    pub until: Option<Date>,
}

/// What a campaign would have done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Backtest {
    /// The campaign's name.
    pub campaign: String,
    /// Its version.
    pub version: String,
    /// In which all dates and hours are.
    pub zone: String,
    /// The first day of the history.
    pub from: Option<Date>,
    /// Its last day.
    pub until: Option<Date>,
    /// The day on which the campaign met the ledger, if not from the beginning.
    pub switch_on: Option<Date>,
    /// Keys of conditions that ask what the ledger does not say.
    pub not_recorded: Vec<&'static str>,
    /// Holiday calendars of the campaign that do not know all years of the history: it was run without them.
    pub without_calendars: BTreeSet<String>,
    /// Invoices that followed the campaign.
    pub invoices: u64,
    /// Those of them that were overdue when it met them.
    pub late_entries: u64,
    /// The last day on which one of those began, if the campaign has a ramp.
    pub ramp_until: Option<Date>,
    /// Invoices that did not.
    pub left_out: LeftOut,
    /// Customers of invoices that followed it.
    pub customers: u64,
    /// Reminders: messages, each about one or more invoices of a customer.
    pub reminders: u64,
    /// Reminders of those about invoices of which one was paid on the same day or the next; see the module.
    pub paid_anyway: u64,
    /// How many invoices had so many reminders.
    pub per_invoice: BTreeMap<u32, u64>,
    /// Reminders per invoice on average.
    pub per_invoice_mean: Option<f64>,
    /// Reminders per customer.
    pub per_customer: Spread,
    /// In the campaign's order.
    pub steps: Vec<StepCount>,
    /// Reminders by the tone in which they speak.
    pub tones: BTreeMap<&'static str, u64>,
    /// Steps that were reminded of on another day than their own, since their own had no contact hours.
    pub quiet_hours: u64,
    /// What steps waited for.
    pub deferrals: BTreeMap<&'static str, Waited>,
    /// Skipped steps by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Steps that another one spoke for, by reason.
    pub merged: BTreeMap<&'static str, u64>,
    /// Sequences that ended while money was owed, by what happened then.
    pub ended: BTreeMap<&'static str, u64>,
    /// Reminders by weekday (Monday first) and hour.
    pub week: [[u64; 24]; 7],
    /// Reminders by month, such as `2026-05`.
    pub months: BTreeMap<String, u64>,
    /// The hours with most reminders, the most first.
    pub busiest_hours: Vec<BusyHour>,
    /// The days with most reminders, the most first.
    pub busiest_days: Vec<BusyDay>,
    /// Whether every step ended once.
    pub completeness: Completeness,
}

/// Invoices of the ledger that did not follow the campaign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Outside its audience.
    pub audience: u64,
    /// Paid before it met them.
    pub settled: u64,
    /// Issued after the last day of the history.
    pub later: u64,
}

/// How a number is spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The mean; `None` of nothing.
    pub mean: Option<f64>,
    /// The median, by nearest rank.
    pub p50: u32,
    /// Nine of ten are not above.
    pub p90: u32,
    /// The largest.
    pub max: u32,
}

/// How a step ended, over all invoices. The numbers add up to the invoices that followed the campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepCount {
    /// Its key.
    pub key: String,
    /// How it speaks.
    pub tone: Tone,
    /// It led a reminder.
    pub sent: u64,
    /// Its invoice was named in a reminder that another invoice's step led.
    pub with_another_invoice: u64,
    /// Another step of its invoice spoke for it.
    pub merged: u64,
    /// It did not apply.
    pub skipped: u64,
    /// The invoice was paid before its time.
    pub cancelled: u64,
    /// Its time had not come on the last day of the history.
    pub open: u64,
}

/// Steps that had to wait for a reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Waited {
    /// So many steps.
    pub steps: u64,
    /// So many times altogether.
    pub times: u64,
}

/// An hour and its reminders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BusyHour {
    /// When it begins.
    pub at: DateTime,
    /// How many.
    pub reminders: u64,
}

/// A day and its reminders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BusyDay {
    /// Which.
    pub on: Date,
    /// How many.
    pub reminders: u64,
}

/// Whether every step of every case ended exactly once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Completeness {
    /// Steps of all cases, without those that are still open at the end of the history.
    pub steps: u64,
    /// Those of them with exactly one final decision.
    pub decided_once: u64,
    /// The one by the other: must be 1. `None` if there is no step.
    pub ratio: Option<f64>,
}

/// How many peaks are listed.
const PEAKS: usize = 10;

/// Runs a campaign over a ledger. Customers are lived through one after the other, so memory grows with the ledger only.
pub fn backtest(campaign: &Campaign, ledger: &Ledger, setting: &Setting<'_>) -> Backtest {
    let mut tally = Tally::new(campaign, setting);
    let Some((first, last)) = ledger.span(&setting.zone) else { return tally.finish() };
    let last = setting.until.unwrap_or(last);
    tally.spans(first.max(setting.switch_on.unwrap_or(first)), last);
    let Some(end) = Recorded::On(last).ends(&setting.zone) else { return tally.finish() };
    // Payments of the last day arrive at its end.
    let until = end.checked_add(SignedDuration::from_nanos(1)).unwrap_or(end);
    let turns = turns(campaign, ledger, setting, end);
    let mut variants: BTreeMap<&str, Campaign> = BTreeMap::new();
    for (customer, rows) in &ledger.customers {
        let country = country_of(rows, setting);
        let campaign = variants.entry(country).or_insert_with(|| {
            let (campaign, missing) = with_known_holidays(campaign, country, setting.calendars, (first, last));
            tally.misses(missing);
            campaign
        });
        let campaign = &*campaign;
        let mut payer = payer(customer, country, setting);
        let mut invoices = Vec::with_capacity(rows.len());
        let mut paid = Vec::with_capacity(rows.len());
        for row in rows {
            match enter(campaign, rows, row, &payer, setting, end) {
                Entry::Follows(invoice) => {
                    let turn = turns.get(row.invoice.as_str()).copied();
                    invoices.push(SimulatedInvoice { not_before: turn, ..*invoice });
                    paid.push(row.paid.filter(|_| !row.is_withdrawn).map(|paid| paid.date(&setting.zone)));
                }
                other => tally.leave_out(&other),
            }
        }
        if invoices.is_empty() {
            continue;
        }
        let campaigns = vec![campaign; invoices.len()];
        tally.begin(&invoices, paid, country);
        simulate(&campaigns, setting.calendars, &mut payer, &mut invoices, until, |now, _, happening| {
            tally.count(campaign, now, happening);
        });
        tally.end();
    }
    tally.finish()
}

/// The country of a customer.
fn country_of<'a>(rows: &'a [LedgerRow], setting: &Setting<'a>) -> &'a str {
    rows.iter().map(|row| row.country.as_str()).find(|c| !c.is_empty()).unwrap_or(setting.country)
}

/// The campaign without the calendars that do not know all years of the history. In production it would send nothing in
/// such a year; but then its calendars know the years that it runs in, and here those are long past.
fn with_known_holidays(
    campaign: &Campaign,
    country: &str,
    calendars: &Calendars,
    (first, last): (Date, Date),
) -> (Campaign, Vec<String>) {
    // Days before the due date and open invoices reach beyond both ends.
    let years = [first, last].map(|date| date.year()).into_iter();
    let dates: Vec<Date> = years.flat_map(|year| [Date::new(year, 1, 1), Date::new(year, 12, 31)]).flatten().collect();
    let calendar = |name: &str| calendars.get(if name == PAYERS_CALENDAR { country } else { name });
    let is_missing = |name: &&String| calendar(name).is_some_and(|c| !dates.iter().all(|date| c.covers(*date)));
    let missing: Vec<String> = campaign.holidays.iter().filter(is_missing).cloned().collect();
    let mut campaign = campaign.clone();
    campaign.holidays.retain(|name| !missing.contains(name));
    let names = missing.into_iter().map(|name| if name == PAYERS_CALENDAR { country.to_owned() } else { name });
    (campaign, names.collect())
}

/// The days on which late invoices begin, by invoice: those that are longest overdue first.
fn turns<'a>(campaign: &Campaign, ledger: &'a Ledger, setting: &Setting<'_>, end: Timestamp) -> HashMap<&'a str, Date> {
    let Some(mut ramp) = Ramp::new(campaign) else { return HashMap::new() };
    let mut late = Vec::new();
    for (customer, rows) in &ledger.customers {
        let payer = payer(customer, country_of(rows, setting), setting);
        for row in rows {
            if let Entry::Follows(invoice) = enter(campaign, rows, row, &payer, setting, end)
                && is_late(&invoice)
            {
                late.push((invoice.opened_at, invoice.opened_on, invoice.due_on, row.invoice.as_str()));
            }
        }
    }
    late.sort_unstable();
    late.into_iter().map(|(_, opened_on, _, invoice)| (invoice, ramp.take(opened_on))).collect()
}

/// Whether it was overdue when the campaign met it.
fn is_late(invoice: &SimulatedInvoice) -> bool {
    invoice.due_on.is_some_and(|due| due < invoice.opened_on)
}

enum Entry {
    Follows(Box<SimulatedInvoice>),
    Audience,
    Settled,
    Later,
}

fn enter(
    campaign: &Campaign,
    rows: &[LedgerRow],
    row: &LedgerRow,
    payer: &Payer,
    setting: &Setting<'_>,
    end: Timestamp,
) -> Entry {
    let zone = &setting.zone;
    let switched_on = setting.switch_on.and_then(|date| start_of(date, zone));
    let Some(opened_at) = row.issued.begins(zone).max(switched_on).filter(|at| *at < end) else { return Entry::Later };
    let closes_at = row.paid.and_then(|paid| paid.ends(zone));
    if closes_at.is_some_and(|at| at <= opened_at) {
        return Entry::Settled;
    }
    // What else the customer owed at that moment.
    let is_open = |other: &&LedgerRow| {
        other.currency == row.currency
            && other.issued.begins(zone) <= Some(opened_at)
            && other.paid.is_none_or(|paid| paid.ends(zone) > Some(opened_at))
    };
    let balance = if campaign.audience.asks_balance() {
        rows.iter().filter(is_open).map(|other| other.amount_minor).sum()
    } else {
        0
    };
    let facts = Facts {
        merchant: &payer.merchant,
        customer: &payer.customer,
        segment: payer.segment,
        customer_tags: &[],
        country: &payer.country,
        payer: payer.kind,
        currency: row.currency,
        open_minor: row.amount_minor,
        balance_minor: balance,
        invoice_tags: &[],
        failed_attempts: 0,
        decline_code: "",
    };
    if !campaign.audience.holds(&facts) {
        return Entry::Audience;
    }
    Entry::Follows(Box::new(SimulatedInvoice {
        invoice: row.invoice.clone(),
        currency: row.currency,
        open_minor: row.amount_minor,
        due_on: row.due_on,
        opened_at,
        opened_on: zone.to_datetime(opened_at).date(),
        closes_at,
        not_before: None,
        reopened_on: None,
        tags: Vec::new(),
        failed_attempts: 0,
        decline_code: String::new(),
        last_failed_on: None,
        promised_on: None,
        pending_since: None,
        collects_itself: false,
        holds: Vec::new(),
        decided: Vec::new(),
        choices: Vec::new(),
        ended: false,
    }))
}

fn payer(customer: &str, country: &str, setting: &Setting<'_>) -> Payer {
    Payer {
        merchant: setting.merchant.to_owned(),
        customer: customer.to_owned(),
        zone: setting.zone.clone(),
        country: country.to_owned(),
        kind: setting.payer,
        segment: setting.segment,
        tags: Vec::new(),
        opted_out: false,
        contacts: Vec::new(),
        // As the scheduler does: the same customers come at the same minutes.
        spread: kernel::id::stable_hash(&["spread", setting.merchant, customer]),
    }
}

/// The keys of what a campaign asks and no ledger says.
fn not_recorded(campaign: &Campaign, setting: &Setting<'_>) -> Vec<&'static str> {
    const KEYS: [&str; 5] = ["segment", "customer_tag", "invoice_tag", "failed_attempts", "decline_code"];
    let conditions: Vec<&Condition> =
        [&campaign.audience].into_iter().chain(campaign.steps.iter().map(|s| &s.only_if)).collect();
    let amounts = ["amount", "balance"].into_iter().filter(|_| setting.lacks_amounts);
    KEYS.into_iter().chain(amounts).filter(|key| conditions.iter().any(|c| c.asks(key))).collect()
}

#[cfg(test)]
mod tests;
