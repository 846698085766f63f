//! The evaluation of a ledger for a terminal.

use payer::evaluate::{Model, Report};
use payer::score::Figures;
use std::fmt::Write;

/// The whole report.
pub(super) fn report(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let scored = report.models.first().map_or(0, |m| m.all.invoices);
    writeln!(out, "{} invoices of {} customers, {} not paid yet", report.invoices, report.customers, report.unpaid)?;
    if let Some(from) = report.from {
        writeln!(out, "{scored} scored: issued from {from} on, each forecast from payments of earlier days only")?;
    }
    for (fault, rejected) in &report.rejected {
        writeln!(out, "{} rows not used: {fault}", rejected.rows)?;
        for example in &rejected.examples {
            writeln!(out, "  line {}: {}", example.line, example.row)?;
        }
    }
    let title = "all scored invoices";
    write_models(out, title, &report.models, |m| &m.all)?;
    write_models(out, "customers with at least 5 effective payments", &report.models, |m| &m.known)?;
    writeln!(out, "\ncalibration of P(late): said / happened / invoices")?;
    for bin in &report.calibration {
        writeln!(out, "  {:.3}  {:.3}  {}", bin.said, bin.happened, bin.invoices)?;
    }
    if let Some(changes) = report.label_changes {
        writeln!(out, "\nlabels change at {:.1} % of invoices; kappa {:.1}", 100.0 * changes, report.kappa)?;
    }
    let claims = &report.claims;
    if let Some(why) = &claims.too_little {
        writeln!(out, "\nToo little to say anything: {why}. Advice for these payers is the fixed schedule.")?;
    }
    for (title, lines) in [
        ("What may be claimed", claims.may.iter().map(String::as_str).collect::<Vec<_>>()),
        ("What may not be claimed", claims.may_not.clone()),
    ] {
        if !lines.is_empty() {
            writeln!(out, "\n{title}")?;
        }
        for line in lines {
            writeln!(out, "  - {line}")?;
        }
    }
    Ok(())
}

/// Figure, decimals.
type Column = (&'static str, fn(&Figures) -> Option<f64>);

/// The figures of a table, with their titles.
pub(super) const COLUMNS: [Column; 9] = [
    ("AUC>0", |f| f.auc_late),
    ("AUC>7", |f| f.auc_late_7),
    ("Brier", |f| f.brier),
    ("ECE", |f| f.calibration_error),
    ("pinball d", |f| f.pinball),
    ("cov80", |f| f.coverage_80),
    ("MAE d", |f| f.median_error),
    ("top 30%", |f| f.late_reached),
    ("late", |f| (f.invoices > 0).then(|| f.late as f64 / f.invoices as f64)),
];

/// A figure, or a dash.
pub(super) fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn write_models(out: &mut String, title: &str, models: &[Model], of: fn(&Model) -> &Figures) -> std::fmt::Result {
    let Some(first) = models.first() else { return Ok(()) };
    writeln!(out, "\n{title} ({})", of(first).invoices)?;
    write!(out, "  {:34}", "")?;
    for (name, _) in COLUMNS {
        write!(out, "{name:>10}")?;
    }
    writeln!(out)?;
    for model in models {
        write!(out, "  {:34}", model.name)?;
        for (_, value) in COLUMNS {
            write!(out, "{:>10}", number(value(of(model))))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
