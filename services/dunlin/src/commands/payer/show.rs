//! `dunlin payer show`: what is known of one payer, in words and as a small histogram.

use crate::commands::{configuration, pool};
use anyhow::{Context, bail};
use events::Service;
use payer::bins::edges;
use segmenter::show::{Portrait, show};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What is known of a payer.
#[derive(Debug, clap::Args)]
pub struct ShowArguments {
    /// `<merchant>/<customer>`: the processor's id of the customer.
    customer: String,
    /// At most so many changes of the label, and invoices of each kind.
    #[arg(long, default_value_t = 10)]
    limit: i64,
}

pub(super) async fn run(config: Option<PathBuf>, arguments: &ShowArguments) -> anyhow::Result<ExitCode> {
    let configuration = configuration(config)?;
    let given = arguments.customer.split_once('/').context("give <merchant>/<customer>, such as acme/cus_42")?;
    let merchant = configuration.merchants.by_name(given.0);
    let merchant = merchant.with_context(|| format!("{}: there is no such merchant in the configuration", given.0))?;
    let key = (merchant.id.clone(), given.1.parse().with_context(|| given.1.to_owned())?);
    let today = merchant.zone.to_datetime(configuration.settings.clock().now()).date();
    let mut connection = pool(&configuration, Service::Segmenter)?.acquire().await?;
    let Some(portrait) = show(&mut connection, &key, today, arguments.limit).await? else {
        bail!("nothing is known of customer {}", arguments.customer);
    };
    print!("{}", words(&arguments.customer, &portrait));
    Ok(ExitCode::SUCCESS)
}

fn words(customer: &str, portrait: &Portrait) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_words(&mut out, customer, portrait);
    out
}

fn write_words(out: &mut String, customer: &str, portrait: &Portrait) -> std::fmt::Result {
    let Portrait { payer, prediction, portfolio, open, known, .. } = portrait;
    let label = portrait.label.as_str().replace('_', " ");
    writeln!(out, "{customer}: {label}, because {}\n", portrait.reason)?;
    writeln!(
        out,
        "{} invoices paid, {} of them late; older ones count less, so they are worth {:.1}.",
        payer.settled(),
        payer.late(),
        payer.effective()
    )?;
    for open in open {
        writeln!(out, "One invoice is open, {} days overdue: it makes later payments more likely.", open.overdue_days)?;
    }
    let all = &portfolio.pooled;
    let percent = |share: f32| 100.0 * share;
    writeln!(
        out,
        "The next invoice will be late with a chance of {:.0} % (all customers of the merchant: {:.0} %), and by more than a \
         week with {:.0} % ({:.0} %).",
        percent(prediction.late()),
        percent(all.late()),
        percent(prediction.late_7()),
        percent(all.late_7())
    )?;
    let [early, middle, end] = [0.1, 0.5, 0.9].map(|level| prediction.quantile(level));
    writeln!(
        out,
        "Half the time it is paid by day {middle:+} of the due date, one time in ten by day {early:+}, nine by {end:+}."
    )?;
    writeln!(out, "\n{:>12}  this payer (#), all (|)", "days")?;
    let most = prediction.0.iter().chain(&all.0).copied().fold(0.0_f32, f32::max).max(f32::MIN_POSITIVE);
    for ((first, end), (own, all)) in edges().zip(prediction.0.iter().zip(&all.0)) {
        let days = if end - first == 1 { format!("{first}") } else { format!("{first} to {}", end - 1) };
        writeln!(out, "{days:>12}  {}", bar(*own / most, *all / most))?;
    }
    if !known.changes.is_empty() {
        writeln!(out, "\nChanges of the label, latest first")?;
    }
    for (at, label, before, reason) in &known.changes {
        let words = |label: &str| label.replace('_', " ");
        writeln!(out, "  {}  {} -> {}: {reason}", at.strftime("%Y-%m-%d"), words(before), words(label))?;
    }
    if !known.invoices.is_empty() {
        writeln!(out, "\nInvoices")?;
    }
    for invoice in &known.invoices {
        let due = invoice.due_on.map_or_else(|| "no due date".to_owned(), |due| format!("due {due}"));
        let paid = match (invoice.paid_on, invoice.due_on) {
            (Some(paid), Some(due)) => format!("paid {paid} ({:+} days)", (paid - due).get_days()),
            (Some(paid), None) => format!("paid {paid}"),
            (None, _) if invoice.open => "open".to_owned(),
            (None, _) => "closed".to_owned(),
        };
        let fault = if invoice.fault.is_empty() { String::new() } else { format!(": not counted, {}", invoice.fault) };
        writeln!(out, "  {}  issued {}, {due}, {paid}{fault}", invoice.invoice, invoice.issued_on)?;
    }
    Ok(())
}

/// A bar for the payer with a mark for all. Both are shares of the longest.
fn bar(own: f32, all: f32) -> String {
    const WIDTH: f32 = 40.0;
    // Bounded by the width.
    let [own, all] = [own, all].map(|share| (share.clamp(0.0, 1.0) * WIDTH).round() as usize);
    let mut cells: Vec<char> = (0..own.max(all + 1)).map(|n| if n < own { '#' } else { ' ' }).collect();
    if let Some(cell) = cells.get_mut(all) {
        *cell = '|';
    }
    cells.into_iter().collect()
}
