//! Two back-tests over the same history, in words.

use super::Backtest;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// What is different about a campaign, compared with another one over the same history. It compares counts of reminders,
/// not effects: those no back-test knows.
pub fn differences(new: &Backtest, old: &Backtest) -> Vec<String> {
    let mut words = Vec::new();
    let mut count = |what: &str, new: u64, old: u64| words.extend(difference(what, new, old));
    count("invoices in its audience", new.invoices, old.invoices);
    count("reminders", new.reminders, old.reminders);
    count("reminders to people who paid anyway within a day", new.paid_anyway, old.paid_anyway);
    for tone in keys(new.tones.keys(), old.tones.keys()) {
        let of = |report: &Backtest| report.tones.get(tone).copied().unwrap_or_default();
        count(&format!("{tone} reminders"), of(new), of(old));
    }
    let most = |report: &Backtest| u64::from(report.per_customer.max);
    count("reminders to the customer who got most", most(new), most(old));
    let hour = |report: &Backtest| report.busiest_hours.first().map_or(0, |peak| peak.reminders);
    count("reminders in the busiest hour", hour(new), hour(old));
    let day = |report: &Backtest| report.busiest_days.first().map_or(0, |peak| peak.reminders);
    count("reminders on the busiest day", day(new), day(old));
    count("steps moved by closed days or hours", new.quiet_hours, old.quiet_hours);
    count("steps that waited for the cap", new.caps_hit(), old.caps_hit());
    count("steps that waited for a gap", new.gaps_hit(), old.gaps_hit());
    for reason in keys(new.skipped.keys(), old.skipped.keys()) {
        let of = |report: &Backtest| report.skipped.get(reason).copied().unwrap_or_default();
        count(&format!("steps skipped ({reason})"), of(new), of(old));
    }
    for ending in keys(new.ended.keys(), old.ended.keys()) {
        let of = |report: &Backtest| report.ended.get(ending).copied().unwrap_or_default();
        count(&format!("sequences that end with {ending}"), of(new), of(old));
    }
    if words.is_empty() {
        words.push("none of the numbers compared here is different".to_owned());
    }
    words
}

fn keys<'a>(a: impl Iterator<Item = &'a &'static str>, b: impl Iterator<Item = &'a &'static str>) -> BTreeSet<&'a str> {
    a.chain(b).copied().collect()
}

/// Such as `512 fewer reminders: 8,592 instead of 9,104 (-5.6 %)`; nothing if they are equal.
fn difference(what: &str, new: u64, old: u64) -> Option<String> {
    let word = match new.cmp(&old) {
        Ordering::Less => "fewer",
        Ordering::Equal => return None,
        Ordering::Greater => "more",
    };
    // There is no percentage of nothing.
    let percent =
        if old == 0 { String::new() } else { format!(" ({:+.1} %)", (new as f64 - old as f64) * 100.0 / old as f64) };
    let by = thousands(new.abs_diff(old));
    Some(format!("{by} {word} {what}: {} instead of {}{percent}", thousands(new), thousands(old)))
}

/// A number as people read it: `24,089`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
