//! What a late claim may cost its payer.

use super::rates::last_day;
use super::{Allow, HalfYear, Interest, Percent, RateOf, Rules};
use jiff::civil::Date;
use kernel::Money;
use kernel::money::Currency;

/// A claim that may be late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// What is still to be paid, without any charges: charges bear no interest.
    pub open: Money,
    /// When it should have been paid.
    pub due_on: Date,
    /// How many reminders of it went out since it is overdue. Those that cost nothing count too: it is not known here which.
    pub reminders_sent: u16,
    /// When the last of them went out.
    pub last_reminded_on: Option<Date>,
}

/// What a charge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChargeKind {
    /// For the time of the delay.
    Interest,
    /// Once for the claim.
    FixedSum,
    /// For one reminder.
    ReminderFee,
}

impl ChargeKind {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interest => "interest",
            Self::FixedSum => "fixed_sum",
            Self::ReminderFee => "reminder_fee",
        }
    }
}

/// Something the payer owes beside the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// What it is for.
    pub kind: ChargeKind,
    /// How much. Interest and the fixed sum are totals up to `as_of`; a reminder fee is for the reminder of that day alone.
    pub amount: Money,
    /// The rule, and how it led to the amount, for people to read.
    pub rule: String,
    /// The day for which it was computed; interest includes it.
    pub as_of: Date,
}

/// Why a charge that the law may grant is not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The reference rate of a half-year is not on file.
    #[error("no interest: the {series} of {half} is not on file")]
    Rate {
        /// The title of the reference rate.
        series: String,
        /// The half-year.
        half: HalfYear,
    },
    /// The law names a sum in another currency than the claim's, and nothing is converted.
    #[error("no {}: the law names it in {law}, the claim is in {claim}", kind.as_str())]
    Currency {
        /// The charge.
        kind: ChargeKind,
        /// The law's currency.
        law: Currency,
        /// The claim's currency.
        claim: Currency,
    },
    /// The amount does not fit into 64 bits of minor units.
    #[error("no {}: the amount is too large", kind.as_str())]
    TooLarge {
        /// The charge.
        kind: ChargeKind,
    },
}

/// The charges of a claim, and those that could not be computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Charges {
    /// What the payer owes beside the claim.
    pub charges: Vec<Charge>,
    /// What may be owed too, but is not known.
    pub missing: Vec<Missing>,
}

/// The charges for a claim on a day: those that the law grants and the merchant wants. None on the due date or before it,
/// none for a claim that is paid.
///
/// Interest is the sum over days of open amount x yearly rate / 365, in whole numbers, rounded once at the end, half a
/// minor unit upwards. The open amount is taken as it is now for the whole delay, so after a part payment the interest on
/// the paid part is left out: to have it, charge before the payment is booked.
pub fn charges(rules: &Rules, allow: Allow, claim: &Claim, as_of: Date) -> Charges {
    let mut found = Charges::default();
    if claim.open.minor <= 0 || as_of <= claim.due_on {
        return found;
    }
    let asked = [
        allow.interest.then(|| rules.interest.as_ref().map(|i| interest(i, &rules.title, claim, as_of))).flatten(),
        allow.fixed_sum.then(|| fixed_sum(rules, claim, as_of)),
        (allow.reminder_fee && may_charge_reminder(rules, allow, claim, as_of))
            .then(|| reminder_fee(rules, claim, as_of)),
    ];
    for answer in asked.into_iter().flatten() {
        match answer {
            Ok(charge) => found.charges.extend(charge),
            Err(missing) => found.missing.push(missing),
        }
    }
    found
}

fn interest(interest: &Interest, title: &str, claim: &Claim, as_of: Date) -> Result<Option<Charge>, Missing> {
    let Ok(first) = claim.due_on.tomorrow() else { return Ok(None) };
    let mut spans: Vec<(Date, Percent)> = Vec::new();
    let mut hundredths_times_days = 0_i128;
    let mut day = first;
    loop {
        let (half, last) = match interest.rate_of {
            RateOf::EachHalfYear => (HalfYear::of(day), last_day(day).min(as_of)),
            RateOf::FirstDay => (HalfYear::of(first), as_of),
        };
        let missing = || Missing::Rate { series: interest.series.title().to_owned(), half };
        let rate = interest.series.rate(half).ok_or_else(missing)?;
        let total = i128::from(rate.hundredths()) + i128::from(interest.points.hundredths());
        hundredths_times_days += total * i128::from(days_between(day, last) + 1);
        if spans.last().is_none_or(|(_, before)| *before != rate) {
            spans.push((day, rate));
        }
        match last.tomorrow() {
            Ok(next) if next <= as_of => day = next,
            _ => break,
        }
    }
    let minor = half_up(i128::from(claim.open.minor) * hundredths_times_days, 10_000 * 365);
    // A reference rate so far below zero that nothing is left.
    if minor <= 0 {
        return Ok(None);
    }
    let minor = i64::try_from(minor).map_err(|_| Missing::TooLarge { kind: ChargeKind::Interest })?;
    let rule = format!("{title}: {}", describe(interest, &spans));
    Ok(Some(Charge { kind: ChargeKind::Interest, amount: Money::new(minor, claim.open.currency), rule, as_of }))
}

/// Such as `8 points over Bank of England base rate (5.25 % from 2024-01-01)`.
fn describe(interest: &Interest, spans: &[(Date, Percent)]) -> String {
    let rates: Vec<String> = spans.iter().map(|(from, rate)| format!("{rate} % from {from}")).collect();
    let points = match interest.points.hundredths() {
        0 => String::new(),
        _ => format!("{} points over ", interest.points),
    };
    format!("{points}{} ({})", interest.series.title(), rates.join(", "))
}

fn fixed_sum(rules: &Rules, claim: &Claim, as_of: Date) -> Result<Option<Charge>, Missing> {
    let kind = ChargeKind::FixedSum;
    let Some(first) = rules.fee.fixed_sum.first() else { return Ok(None) };
    same_currency(kind, first.amount, claim)?;
    let fits = |below: Option<Money>| below.is_none_or(|below| claim.open.minor < below.minor);
    let sum = rules.fee.fixed_sum.iter().find(|sum| fits(sum.below));
    Ok(sum.map(|sum| {
        let size = sum.below.map(|below| format!(" for a claim below {below}")).unwrap_or_default();
        Charge { kind, amount: sum.amount, rule: format!("{}: {}{size}", rules.title, sum.amount), as_of }
    }))
}

/// Whether the reminder of this day may cost something. If the last reminder's day is not known, it may not.
fn may_charge_reminder(rules: &Rules, allow: Allow, claim: &Claim, as_of: Date) -> bool {
    rules.fee.reminder.is_some_and(|fee| {
        let since_last = claim.last_reminded_on.map_or(0, |last| days_between(last, as_of));
        claim.reminders_sent < fee.at_most
            && days_between(claim.due_on, as_of) >= i64::from(fee.days_after_due)
            && (claim.reminders_sent == 0 || since_last >= i64::from(fee.days_apart))
            && !(fee.not_beside_fixed_sum && allow.fixed_sum && !rules.fee.fixed_sum.is_empty())
    })
}

fn reminder_fee(rules: &Rules, claim: &Claim, as_of: Date) -> Result<Option<Charge>, Missing> {
    let kind = ChargeKind::ReminderFee;
    let Some(fee) = rules.fee.reminder else { return Ok(None) };
    same_currency(kind, fee.amount, claim)?;
    let number = u32::from(claim.reminders_sent) + 1;
    let rule = format!("{}: {} for reminder {number} of at most {}", rules.title, fee.amount, fee.at_most);
    Ok(Some(Charge { kind, amount: fee.amount, rule, as_of }))
}

fn same_currency(kind: ChargeKind, law: Money, claim: &Claim) -> Result<(), Missing> {
    let (law, claim) = (law.currency, claim.open.currency);
    if law == claim { Ok(()) } else { Err(Missing::Currency { kind, law, claim }) }
}

fn days_between(from: Date, to: Date) -> i64 {
    to.duration_since(from).as_secs() / (24 * 60 * 60)
}

/// Divides and rounds to the nearest whole number, a half upwards.
const fn half_up(numerator: i128, denominator: i128) -> i128 {
    (2 * numerator + denominator).div_euclid(2 * denominator)
}
