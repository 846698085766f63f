//! The report of a back-test as one page: no scripts, nothing loaded from elsewhere, light and dark, wide and narrow.

use super::text;
use campaign::backtest::{Backtest, thousands};
use plot::escape;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Width of all charts, in their own units.
const WIDTH: f64 = 360.0;

/// The page: of one campaign, or of one against another.
pub(super) fn page(new: &Backtest, old: Option<&Backtest>, differences: &[String], rejected: u64) -> String {
    let reports: Vec<&Backtest> = [new].into_iter().chain(old).collect();
    let mut body = String::new();
    // Writing to a string cannot fail.
    let _ = write_body(&mut body, &reports, differences, rejected);
    plot::page(&format!("Back-test of {}", new.campaign), &body)
}

fn write_body(out: &mut String, reports: &[&Backtest], differences: &[String], rejected: u64) -> std::fmt::Result {
    let Some(new) = reports.first() else { return Ok(()) };
    writeln!(out, "<p class=\"soft\">{}</p>", escape(text::span(new)))?;
    write!(out, "<p class=\"legend\">")?;
    for (report, class) in reports.iter().zip(CLASSES) {
        let (name, version) = (escape(&report.campaign), escape(&report.version));
        let sign = if reports.len() > 1 { format!("<i class=\"key {class}\"></i>") } else { String::new() };
        write!(out, "<span>{sign}{name}, version {version}</span>")?;
    }
    writeln!(out, "</p>\n<p class=\"note\">{}</p>", escape(text::NO_EFFECT))?;
    if rejected > 0 {
        let rows = thousands(rejected);
        writeln!(out, "<p class=\"note\">{rows} rows of the ledger make no sense and are not counted here.</p>")?;
    }
    for report in reports {
        for note in text::notes(report) {
            writeln!(out, "<p class=\"note\">{}{}</p>", whose(reports, report), escape(&note))?;
        }
    }
    writeln!(out, "<div class=\"grid\">")?;
    card(out, true, "In numbers", |out| facts(out, reports))?;
    if !differences.is_empty() {
        card(out, true, "What is different", |out| {
            let items: Vec<String> = differences.iter().map(|words| format!("<li>{}</li>", escape(words))).collect();
            writeln!(out, "<ul>{}</ul>", items.join("\n"))
        })?;
    }
    for (report, class) in reports.iter().zip(CLASSES) {
        let whose = whose(reports, report);
        card(out, false, &format!("{whose}Reminders by weekday and hour"), |out| heat_map(out, report, class))?;
    }
    card(out, false, "Reminders per month", |out| months(out, reports))?;
    card(out, false, "Invoices by number of reminders", |out| histogram(out, reports))?;
    card(out, false, "What steps waited for", |out| deferrals(out, reports))?;
    for report in reports {
        let whose = whose(reports, report);
        card(out, false, &format!("{whose}What became of steps that were not sent"), |out| outcomes(out, report))?;
    }
    for report in reports {
        let whose = whose(reports, report);
        card(out, true, &format!("{whose}How steps ended"), |out| steps(out, report))?;
        card(out, true, &format!("{whose}Busiest hours and days"), |out| peaks(out, report))?;
    }
    writeln!(out, "</div>\n<p class=\"soft\">{}</p>", escape(text::CONVENTION))
}

/// The colours of the campaigns, the new one first.
const CLASSES: [&str; 2] = ["a", "b"];

/// The campaign's name, where there are two.
fn whose(reports: &[&Backtest], report: &Backtest) -> String {
    if reports.len() > 1 { format!("{}: ", escape(&report.campaign)) } else { String::new() }
}

fn card(
    out: &mut String,
    is_wide: bool,
    title: &str,
    content: impl FnOnce(&mut String) -> std::fmt::Result,
) -> std::fmt::Result {
    let class = if is_wide { "card wide" } else { "card" };
    writeln!(out, "<section class=\"{class}\">\n<h2>{title}</h2>")?;
    content(out)?;
    writeln!(out, "</section>")
}

fn facts(out: &mut String, reports: &[&Backtest]) -> std::fmt::Result {
    let mean = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
    let percent = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.1}\u{a0}%", share * 100.0));
    let of = |r: &Backtest| {
        let spread = r.per_customer;
        [
            ("invoices", thousands(r.invoices)),
            ("customers", thousands(r.customers)),
            ("reminders", thousands(r.reminders)),
            ("per invoice", mean(r.per_invoice_mean)),
            ("per customer", mean(spread.mean)),
            ("per customer at p90, and at most", format!("{}, {}", spread.p90, spread.max)),
            (
                "to people who paid anyway within a day",
                format!("{} ({})", thousands(r.paid_anyway), percent(r.paid_anyway_share())),
            ),
            ("steps moved by closed days or hours", thousands(r.quiet_hours)),
            ("steps that waited for the cap", thousands(r.caps_hit())),
            ("steps that waited for a gap", thousands(r.gaps_hit())),
            ("in the busiest hour", thousands(r.busiest_hours.first().map_or(0, |peak| peak.reminders))),
            ("sequences ended unpaid", thousands(r.ended.values().sum())),
            ("steps that ended exactly once", percent(r.completeness.ratio)),
        ]
    };
    let mut all = reports.iter().map(|r| of(r));
    let Some(new) = all.next() else { return Ok(()) };
    let mut old = all.next().into_iter().flatten();
    writeln!(out, "<dl class=\"facts\">")?;
    for (what, value) in new {
        let old = old.next().map(|(_, old)| format!("<small>{old}</small>")).unwrap_or_default();
        writeln!(out, "<div><dt>{what}</dt><dd>{value}{old}</dd></div>")?;
    }
    writeln!(out, "</dl>")
}

fn heat_map(out: &mut String, report: &Backtest, class: &str) -> std::fmt::Result {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const LEFT: f64 = 26.0;
    let cell = (WIDTH - LEFT) / 24.0;
    let most = report.week.iter().flatten().copied().max().unwrap_or_default();
    svg(out, cell * 7.0 + 16.0, "Reminders by weekday and hour")?;
    for ((row, day), hours) in (0_u8..).zip(DAYS).zip(&report.week) {
        let y = f64::from(row) * cell;
        writeln!(out, "<text x=\"0\" y=\"{:.1}\">{day}</text>", y + cell * 0.72)?;
        for (hour, n) in (0_u8..).zip(hours) {
            let x = LEFT + f64::from(hour) * cell;
            // The faintest that is anything at all is still seen.
            let (class, opacity) =
                if *n == 0 { ("none", 1.0) } else { (class, 0.2 + 0.8 * *n as f64 / most.max(1) as f64) };
            let (x, y, size) = (x + 0.5, y + 0.5, cell - 1.0);
            write!(out, "<rect class=\"{class}\" fill-opacity=\"{opacity:.2}\" x=\"{x:.1}\" y=\"{y:.1}\" ")?;
            write!(out, "width=\"{size:.1}\" height=\"{size:.1}\" rx=\"1.5\">")?;
            writeln!(out, "<title>{day} {hour:02}:00: {}</title></rect>", thousands(*n))?;
        }
    }
    for hour in (0_u8..24).step_by(3) {
        let x = LEFT + f64::from(hour) * cell;
        writeln!(out, "<text x=\"{x:.1}\" y=\"{:.1}\">{hour}</text>", cell * 7.0 + 12.0)?;
    }
    writeln!(out, "</svg>\n<p class=\"soft\">The strongest colour: {} reminders altogether.</p>", thousands(most))
}

fn months(out: &mut String, reports: &[&Backtest]) -> std::fmt::Result {
    let labels: BTreeSet<&String> = reports.iter().flat_map(|r| r.months.keys()).collect();
    let series: Vec<Vec<u64>> = reports
        .iter()
        .map(|r| labels.iter().map(|month| r.months.get(*month).copied().unwrap_or_default()).collect())
        .collect();
    bars(out, "Reminders per month", &labels.into_iter().cloned().collect::<Vec<_>>(), &series)
}

fn histogram(out: &mut String, reports: &[&Backtest]) -> std::fmt::Result {
    let most = reports.iter().filter_map(|r| r.per_invoice.keys().max()).max().copied().unwrap_or_default();
    let of = |r: &&Backtest| (0..=most).map(|n| r.per_invoice.get(&n).copied().unwrap_or_default()).collect();
    let labels: Vec<String> = (0..=most).map(|n| n.to_string()).collect();
    bars(out, "Invoices by number of reminders", &labels, &reports.iter().map(of).collect::<Vec<Vec<u64>>>())
}

/// Upright bars; several series stand side by side.
fn bars(out: &mut String, what: &str, labels: &[String], series: &[Vec<u64>]) -> std::fmt::Result {
    const TOP: f64 = 16.0;
    const HEIGHT: f64 = 120.0;
    if labels.is_empty() {
        return writeln!(out, "<p class=\"soft\">Nothing.</p>");
    }
    let most = series.iter().flatten().copied().max().unwrap_or_default().max(1);
    let slot = WIDTH / labels.len() as f64;
    // Narrow enough not to touch, and no wider than is nice to look at.
    let width = (slot * 0.8).min(44.0) / series.len().max(1) as f64;
    // Numbers only where there is room for them.
    let shows_values = slot / series.len().max(1) as f64 > 24.0;
    let every =
        ((labels.iter().map(String::len).max().unwrap_or(1) as f64 * 6.4 + 6.0) / slot).ceil().max(1.0) as usize;
    svg(out, TOP + HEIGHT + 16.0, what)?;
    for (n, label) in labels.iter().enumerate() {
        let middle = (n as f64 + 0.5) * slot;
        let left = middle - width * series.len() as f64 / 2.0;
        for ((m, values), class) in series.iter().enumerate().zip(CLASSES) {
            let value = values.get(n).copied().unwrap_or_default();
            let height = value as f64 / most as f64 * HEIGHT;
            let (x, y) = (left + m as f64 * width, TOP + HEIGHT - height);
            write!(out, "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" ", (width - 0.6).max(0.6))?;
            writeln!(out, "height=\"{height:.1}\"><title>{}: {}</title></rect>", escape(label), thousands(value))?;
            if shows_values {
                let x = x + width / 2.0;
                write!(out, "<text class=\"value\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">", y - 4.0)?;
                writeln!(out, "{}</text>", short(value))?;
            }
        }
        if n % every == 0 {
            // Labels at the edges would be cut off.
            let (anchor, x) = if every > 1 && n == 0 { ("start", 0.0) } else { ("middle", middle) };
            let y = TOP + HEIGHT + 12.0;
            let is_cut_off = every > 1 && middle > WIDTH - 18.0;
            if !is_cut_off {
                writeln!(out, "<text text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(label))?;
            }
        }
    }
    let base = TOP + HEIGHT;
    writeln!(out, "<line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{base}\" y2=\"{base}\"/>")?;
    if !shows_values {
        writeln!(out, "<text x=\"0\" y=\"9\">most: {}</text>", thousands(most))?;
    }
    writeln!(out, "</svg>")
}

/// Such as `21.4k`.
fn short(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}k", n as f64 / 1e3),
        _ => format!("{:.1}M", n as f64 / 1e6),
    }
}

fn deferrals(out: &mut String, reports: &[&Backtest]) -> std::fmt::Result {
    const ROW: f64 = 13.0;
    let reasons: BTreeSet<&str> = reports.iter().flat_map(|r| r.deferrals.keys().copied()).collect();
    if reasons.is_empty() {
        return writeln!(out, "<p class=\"soft\">No step had to wait.</p>");
    }
    let of = |r: &Backtest, reason: &str| r.deferrals.get(reason).map_or(0, |w| w.steps);
    let most = reports.iter().flat_map(|r| r.deferrals.values().map(|w| w.steps)).max().unwrap_or(1).max(1);
    let slot = 14.0 + ROW * reports.len() as f64 + 6.0;
    svg(out, slot * reasons.len() as f64, "Steps that waited, by reason")?;
    for (n, reason) in reasons.iter().enumerate() {
        let top = n as f64 * slot;
        writeln!(out, "<text x=\"0\" y=\"{:.1}\">{}</text>", top + 10.0, reason.replace('_', " "))?;
        for ((m, report), class) in reports.iter().enumerate().zip(CLASSES) {
            let value = of(report, reason);
            let width = value as f64 / most as f64 * (WIDTH - 48.0);
            let y = top + 14.0 + m as f64 * ROW;
            write!(
                out,
                "<rect class=\"{class}\" x=\"0\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"1.5\"/>",
                ROW - 2.0
            )?;
            let (x, y) = (width + 4.0, y + 9.0);
            writeln!(out, "<text class=\"value\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", thousands(value))?;
        }
    }
    writeln!(out, "</svg>\n<p class=\"soft\">Steps that waited at least once for this reason.</p>")
}

fn steps(out: &mut String, report: &Backtest) -> std::fmt::Result {
    let header = ["step", "tone", "sent", "with another invoice", "merged", "skipped", "cancelled", "open"];
    let rows = report.steps.iter().map(|step| {
        let numbers =
            [step.sent, step.with_another_invoice, step.merged, step.skipped, step.cancelled, step.open].map(thousands);
        [escape(&step.key), step.tone.as_str().to_owned()].into_iter().chain(numbers).collect()
    });
    table(out, &header, rows)
}

fn peaks(out: &mut String, report: &Backtest) -> std::fmt::Result {
    let hours = report.busiest_hours.iter().map(|peak| vec![text::hour(peak), thousands(peak.reminders)]);
    let days = report.busiest_days.iter().map(|peak| vec![text::day(peak), thousands(peak.reminders)]);
    writeln!(out, "<div class=\"two\">")?;
    table(out, &["hour", "reminders"], hours)?;
    table(out, &["day", "reminders"], days)?;
    writeln!(out, "</div>")
}

fn outcomes(out: &mut String, report: &Backtest) -> std::fmt::Result {
    let row =
        |how: &str, (reason, n): (&&str, &u64)| vec![format!("{how}: {}", reason.replace('_', " ")), thousands(*n)];
    let of = |how: &'static str, counts: &BTreeMap<&'static str, u64>| -> Vec<Vec<String>> {
        counts.iter().map(|count| row(how, count)).collect()
    };
    let cancelled: u64 = report.steps.iter().map(|s| s.cancelled).sum();
    let mut rows = vec![vec!["cancelled: paid before".to_owned(), thousands(cancelled)]];
    rows.extend(of("skipped", &report.skipped));
    rows.extend(of("merged", &report.merged));
    rows.extend(of("sequence ended unpaid", &report.ended));
    table(out, &["what", "how many"], rows.into_iter())
}

fn table(out: &mut String, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> std::fmt::Result {
    let cells =
        |tag: &str, cells: &[String]| -> String { cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>")).collect() };
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    writeln!(out, "<div class=\"scroll\"><table>\n<tr>{}</tr>", cells("th", &header))?;
    for row in rows {
        writeln!(out, "<tr>{}</tr>", cells("td", &row))?;
    }
    writeln!(out, "</table></div>")
}

fn svg(out: &mut String, height: f64, what: &str) -> std::fmt::Result {
    writeln!(out, "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">", escape(what))
}
