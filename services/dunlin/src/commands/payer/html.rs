//! The evaluation of a ledger as one page with plots.

use super::text::{COLUMNS, number};
use payer::bins::edges;
use payer::evaluate::{Model, Report};
use payer::score::Figures;
use plot::{Bars, Figure, Layout, Reliability};
use std::path::Path;

/// The page.
pub(super) fn page(ledger: &Path, report: &Report) -> String {
    let name = ledger.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let claims = &report.claims;
    let too_little = claims.too_little.iter().map(|why| {
        plot::note(&format!("Too little to say anything: {why}. Advice for these payers is the fixed schedule."))
    });
    let cards = [
        plot::wide_card("The ledger", &facts(report)),
        plot::wide_card("All scored invoices", &models(&report.models, |m| &m.all)),
        plot::wide_card("Customers with at least 5 effective payments", &models(&report.models, |m| &m.known)),
        plot::card("Are the chances right?", &reliability(report)),
        plot::card("Are the days right?", &coverage(report)),
        plot::wide_card("When payers of each label paid", &delays(report)),
        plot::card("What may be claimed", &list(claims.may.iter().map(String::as_str))),
        plot::card("What may not be claimed", &list(claims.may_not.iter().copied())),
    ];
    let body = too_little.collect::<String>() + &plot::grid(&cards.concat());
    plot::page(&format!("How well the payments of {name} could have been foreseen"), &body)
}

fn facts(report: &Report) -> String {
    let figures = report.models.first().map(|m| &m.all);
    let facts = [
        ("invoices", report.invoices),
        ("customers", report.customers),
        ("not paid yet", report.unpaid),
        ("scored", figures.map_or(0, |f| f.invoices)),
        ("of those late", figures.map_or(0, |f| f.late)),
    ];
    let rejected = report.rejected.iter().map(|(fault, rejected)| {
        let first = rejected.examples.first().map(|e| format!("line {}: {}", e.line, e.row)).unwrap_or_default();
        vec![fault.to_string(), rejected.rows.to_string(), first]
    });
    let rejected: Vec<_> = rejected.collect();
    let rejected = match rejected.is_empty() {
        true => plot::aside("All rows could be used."),
        false => plot::table(&["rows not used", "count", "the first of them"], rejected),
    };
    plot::facts(facts) + &rejected
}

fn models(models: &[Model], of: fn(&Model) -> &Figures) -> String {
    let header: Vec<&str> = ["model"].into_iter().chain(COLUMNS.iter().map(|(name, _)| *name)).collect();
    let row = |model: &Model| {
        let figures = COLUMNS.iter().map(|(_, value)| number(value(of(model))));
        [model.name.to_owned()].into_iter().chain(figures).collect()
    };
    plot::table(&header, models.iter().map(row))
}

fn reliability(report: &Report) -> String {
    let point = |bin: &payer::score::Calibration| Reliability {
        predicted: bin.said,
        observed: bin.happened,
        n: u32::try_from(bin.invoices).unwrap_or(u32::MAX),
    };
    let points: Vec<Reliability> = report.calibration.iter().map(point).collect();
    if points.is_empty() {
        return plot::aside("No invoice could be scored.");
    }
    let error = report.models.first().and_then(|m| m.all.calibration_error);
    let finding = match error {
        Some(error) => format!("What was said is off what happened by {:.1} points on average.", 100.0 * error),
        None => String::new(),
    };
    let (title, x, y) = ("Chance of paying late: said and happened", "chance that was said", "share that was late");
    Figure { title, finding: &finding, x, y }.reliability(&points)
}

fn coverage(report: &Report) -> String {
    let row = |c: &payer::score::Coverage| {
        vec![
            format!("{:.0} %", 100.0 * c.level),
            format!("{:.1} %", 100.0 * c.before),
            format!("{:.1} %", 100.0 * c.until),
        ]
    };
    let aside = "Paid before the day that was named, and paid up to it: the level should lie between the two.";
    plot::table(&["level", "paid before", "paid up to"], report.coverage.iter().map(row)) + &plot::aside(aside)
}

fn delays(report: &Report) -> String {
    let days = |(first, end): (i32, i32)| {
        let last = end - 1;
        if first == last { first.to_string() } else { format!("{first} to {last}") }
    };
    let bins: Vec<String> = edges().map(days).collect();
    let series = report.delays_by_label.iter().map(|(label, counts)| {
        let all: u32 = counts.iter().sum();
        let share = |count: &u32| if all == 0 { 0.0 } else { 100.0 * f64::from(*count) / f64::from(all) };
        Bars { name: label.as_str().replace('_', " "), values: counts.iter().map(share).collect() }
    });
    let series: Vec<Bars> = series.collect();
    if series.is_empty() {
        return plot::aside("No invoice could be scored.");
    }
    let (title, finding) =
        ("Days from due date to payment, by label", "Labels as they were when the invoice was issued.");
    let figure = Figure { title, finding, x: "days from due date", y: "% of the label's invoices" };
    figure.bars(&bins, &series, Layout::Grouped)
}

fn list<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let items: String = lines.map(|line| format!("<li>{}</li>\n", plot::escape(line))).collect();
    if items.is_empty() { plot::aside("Nothing.") } else { format!("<ul>\n{items}</ul>\n") }
}
