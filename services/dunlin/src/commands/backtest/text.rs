//! The report of a back-test as text.

use campaign::backtest::{Backtest, BusyDay, BusyHour, thousands};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What no back-test knows.
pub(super) const NO_EFFECT: &str = "\
This counts reminders. It says nothing about their effect: payments happen here as they were recorded, whatever is sent,
and whether a reminder would have brought one forward, or annoyed somebody, cannot be known from a ledger.";

/// How days are read.
pub(super) const CONVENTION: &str = "\
A payment of a day arrives at the end of that day. \"Paid anyway within a day\" means: one of the invoices in the reminder
was paid on the day of the reminder or on the day after it.";

/// The whole report.
pub(super) fn report(report: &Backtest) -> String {
    let mut out = String::new();
    let _ = headline(&mut out, report);
    let _ = steps(&mut out, report);
    let _ = per_invoice(&mut out, report);
    let _ = reasons(&mut out, report);
    let _ = peaks(&mut out, report);
    out
}

fn headline(out: &mut String, report: &Backtest) -> std::fmt::Result {
    writeln!(out, "{}, version {}", report.campaign, report.version)?;
    writeln!(out, "{}\n", span(report))?;
    let number = |out: &mut String, n: u64, what: &str| writeln!(out, "{:>12}  {what}", thousands(n));
    number(
        out,
        report.invoices,
        &format!("invoices of {} customers{}", thousands(report.customers), left_out(report)),
    )?;
    if report.switch_on.is_some() {
        number(
            out,
            report.late_entries,
            &format!("of them overdue when the campaign was switched on{}", ramp(report)),
        )?;
    }
    let mean = report.per_invoice_mean.map_or("–".to_owned(), |mean| format!("{mean:.2}"));
    number(out, report.reminders, &format!("reminders; {mean} per invoice; {}", per_customer(report)))?;
    let tones: Vec<String> = report.tones.iter().map(|(tone, n)| format!("{} {tone}", thousands(*n))).collect();
    if !tones.is_empty() {
        writeln!(out, "{:14}{}", "", tones.join(", "))?;
    }
    let share = report.paid_anyway_share().map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0));
    number(out, report.paid_anyway, &format!("reminders ({share}) to people who paid anyway within a day"))?;
    number(out, report.quiet_hours, "steps moved off their own day by closed days or hours")?;
    number(out, report.caps_hit(), "steps that waited for the cap")?;
    number(out, report.gaps_hit(), "steps that waited for the gap between reminders")?;
    for (ending, n) in &report.ended {
        number(out, *n, &format!("sequences that ended unpaid: {ending}"))?;
    }
    let done = &report.completeness;
    number(out, done.decided_once, &format!("of {} steps ended exactly once", thousands(done.steps)))?;
    for note in notes(report) {
        writeln!(out, "\n{note}")?;
    }
    Ok(())
}

/// Where the report is further from what would have been than one may think.
pub(super) fn notes(report: &Backtest) -> Vec<String> {
    let mut notes = Vec::new();
    if !report.not_recorded.is_empty() {
        let keys = report.not_recorded.join(", ");
        notes.push(format!("Note: it asks for {keys}. The ledger does not say; all were taken alike (see --segment)."));
    }
    if !report.without_calendars.is_empty() {
        let names: Vec<&str> = report.without_calendars.iter().map(String::as_str).collect();
        let names = names.join(", ");
        notes.push(format!(
            "Note: the holidays of {names} are not known for all years of this history, and were not kept."
        ));
    }
    notes
}

/// Which time the report is about.
pub(super) fn span(report: &Backtest) -> String {
    let (Some(from), Some(until)) = (report.from, report.until) else { return "over an empty ledger".to_owned() };
    let switched = report.switch_on.map(|date| format!(", switched on at the beginning of {date}")).unwrap_or_default();
    format!("over {from} to {until}{switched}; days and hours of {}", report.zone)
}

fn left_out(report: &Backtest) -> String {
    let left = report.left_out;
    let parts = [
        (left.audience, "outside the audience"),
        (left.settled, "paid before the campaign met them"),
        (left.later, "issued later"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", thousands(*n))).collect();
    if parts.is_empty() { String::new() } else { format!(" (left out: {})", parts.join(", ")) }
}

fn ramp(report: &Backtest) -> String {
    report.ramp_until.map(|until| format!("; the ramp lets the last of them begin on {until}")).unwrap_or_default()
}

/// How reminders are spread over customers.
pub(super) fn per_customer(report: &Backtest) -> String {
    let spread = report.per_customer;
    let mean = spread.mean.map_or("–".to_owned(), |mean| format!("{mean:.2}"));
    format!(
        "per customer {mean} on average, {} in the middle, {} at p90, {} at most",
        spread.p50, spread.p90, spread.max
    )
}

fn steps(out: &mut String, report: &Backtest) -> std::fmt::Result {
    let header = ["step", "tone", "sent", "with another", "merged", "skipped", "cancelled", "open"];
    let row = |step: &campaign::backtest::StepCount| {
        let numbers =
            [step.sent, step.with_another_invoice, step.merged, step.skipped, step.cancelled, step.open].map(thousands);
        [step.key.clone(), step.tone.as_str().to_owned()].into_iter().chain(numbers).collect()
    };
    writeln!(out, "\nHow steps ended")?;
    table(out, &header, &report.steps.iter().map(row).collect::<Vec<_>>(), 2)
}

fn per_invoice(out: &mut String, report: &Backtest) -> std::fmt::Result {
    writeln!(out, "\nReminders per invoice")?;
    let most = report.per_invoice.values().copied().max().unwrap_or_default();
    for (reminders, invoices) in &report.per_invoice {
        writeln!(out, "{reminders:>4}  {:>10}  {}", thousands(*invoices), bar(*invoices, most))?;
    }
    writeln!(out, "\nReminders per month")?;
    let most = report.months.values().copied().max().unwrap_or_default();
    for (month, reminders) in &report.months {
        writeln!(out, "{month}  {:>7}  {}", thousands(*reminders), bar(*reminders, most))?;
    }
    Ok(())
}

fn bar(n: u64, most: u64) -> String {
    const WIDTH: u64 = 40;
    "#".repeat(usize::try_from((n * WIDTH).div_ceil(most.max(1))).unwrap_or_default())
}

fn reasons(out: &mut String, report: &Backtest) -> std::fmt::Result {
    if !report.deferrals.is_empty() {
        writeln!(out, "\nWhat steps waited for")?;
        let rows = report.deferrals.iter();
        let rows = rows.map(|(reason, w)| vec![(*reason).to_owned(), thousands(w.steps), thousands(w.times)]);
        table(out, &["reason", "steps", "times"], &rows.collect::<Vec<_>>(), 1)?;
    }
    let counted = |out: &mut String, title: &str, counts: &BTreeMap<&'static str, u64>| {
        if counts.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{title}")?;
        let rows = counts.iter().map(|(reason, n)| vec![(*reason).to_owned(), thousands(*n)]);
        table(out, &["reason", "steps"], &rows.collect::<Vec<_>>(), 1)
    };
    counted(out, "Why steps were skipped", &report.skipped)?;
    counted(out, "What spoke for merged steps", &report.merged)
}

fn peaks(out: &mut String, report: &Backtest) -> std::fmt::Result {
    if report.busiest_hours.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nBusiest hours and days")?;
    let hours = report.busiest_hours.iter().map(|peak| [hour(peak), thousands(peak.reminders)]);
    let mut days = report.busiest_days.iter().map(|peak| [day(peak), thousands(peak.reminders)]);
    let rows = hours.map(|hour| hour.into_iter().chain(days.next().unwrap_or_default()).collect());
    table(out, &["hour", "reminders", "day", "reminders"], &rows.collect::<Vec<_>>(), 1)
}

/// Such as `Mon 2026-06-01 09:00`.
pub(super) fn hour(peak: &BusyHour) -> String {
    peak.at.strftime("%a %Y-%m-%d %H:00").to_string()
}

/// Such as `Mon 2026-06-01`.
pub(super) fn day(peak: &BusyDay) -> String {
    peak.on.strftime("%a %Y-%m-%d").to_string()
}

/// A table with its first columns to the left and numbers to the right.
fn table(out: &mut String, header: &[&str], rows: &[Vec<String>], left: usize) -> std::fmt::Result {
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let all = || [&header].into_iter().chain(rows);
    let width = |n: usize| all().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in all() {
        let cells = row.iter().zip(&widths).enumerate().map(|(n, (cell, width))| {
            let is_text = n < left || cell.parse::<u64>().is_err() && cell.contains([' ', '-']);
            if is_text { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
