//! `dunlin backtest`: what a campaign would have done over recorded history.

mod html;
mod text;

use super::import::{self, RowFault};
use super::{configuration, parse_date, pool, settings_path};
use crate::settings::Configuration;
use anyhow::{Context, bail};
use campaign::backtest::{Backtest, Ledger, LedgerRow, Recorded, Setting, backtest, differences};
use campaign::{Calendars, Campaign};
use events::api::{Fact, fact};
use events::{Service, time};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{Currency, PayerKind, Segment};
use runtime::Merchant;
use runtime::config::Faults;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run a campaign over recorded history.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// The campaign file to try.
    #[arg(long)]
    campaign: PathBuf,
    /// Another campaign file to compare it with.
    #[arg(long)]
    against: Option<PathBuf>,
    /// The history as a CSV ledger, as for `dunlin import`.
    #[arg(long, required_unless_present = "from_db", conflicts_with = "from_db")]
    ledger: Option<PathBuf>,
    /// The history as the scheduler knows it.
    #[arg(long)]
    from_db: bool,
    #[command(flatten)]
    format: import::Format,
    /// Whose history it is; needed with --from-db. Its settings hold for what the history does not say.
    #[arg(long)]
    merchant: Option<String>,
    /// Switch the campaign on on this day: invoices issued before it enter late [default: it was there from the beginning].
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    switch_on: Option<Date>,
    /// The last day of the history [default: the last one on which anything is recorded].
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    until: Option<Date>,
    /// The payers' zone, such as Europe/Berlin [default: the merchant's, else UTC].
    #[arg(long, value_name = "ZONE", value_parser = parse_zone)]
    time_zone: Option<TimeZone>,
    /// The payers' country where the history names none, such as DE [default: the merchant's].
    #[arg(long)]
    country: Option<String>,
    /// What the law sees in the payers: business or consumer [default: the merchant's, else business].
    #[arg(long, value_name = "KIND", value_parser = parse_payers)]
    payers: Option<PayerKind>,
    /// How all payers pay, for steps that ask: new, prompt, mixed, usually_late, chronically_late or at_risk.
    #[arg(long, default_value = "new", value_parser = parse_segment)]
    segment: Segment,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Write the report with charts into this file: one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Fail if a row of the ledger makes no sense.
    #[arg(long)]
    strict: bool,
}

const HELP: &str = "\
It counts reminders under a virtual clock. It claims no effect on payments: those happen as they were recorded.
A payment of a day arrives at the end of that day. \"Paid anyway within a day\" means paid on the day of the reminder or on
the day after it. Columns of the ledger are mapped as for `dunlin import`.

Examples:
  dunlin backtest --campaign new.yaml --ledger ledger.csv --currency EUR --time-zone Europe/Berlin
  dunlin backtest --campaign new.yaml --against current.yaml --ledger ledger.csv --currency EUR --html report.html
  dunlin backtest --campaign new.yaml --ledger ledger.csv --currency EUR --switch-on 2026-06-01
  dunlin backtest --campaign new.yaml --from-db --merchant acme --output json

Exit codes: 0 done, perhaps with a warning about rows; 1 failed, or such rows with --strict; 64 faults in a campaign file.";

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn parse_zone(name: &str) -> Result<TimeZone, String> {
    kernel::contact::zone(name).map_err(|error| error.to_string())
}

fn parse_payers(text: &str) -> Result<PayerKind, String> {
    PayerKind::parse(text).ok_or_else(|| format!("{text:?} is neither business nor consumer"))
}

fn parse_segment(text: &str) -> Result<Segment, String> {
    Segment::parse(text).ok_or_else(|| format!("{text:?} is none of {}", Segment::ALL.map(Segment::as_str).join(", ")))
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Document<'a> {
    note: &'static str,
    campaign: &'a Backtest,
    against: Option<&'a Backtest>,
    differences: &'a [String],
    rejected: &'a Rejected,
}

/// Rows that make no sense.
#[derive(Debug, Default, Serialize)]
struct Rejected {
    rows: u64,
    first: Vec<RejectedRow>,
}

#[derive(Debug, Serialize)]
struct RejectedRow {
    line: u64,
    column: String,
    reason: String,
}

impl Rejected {
    /// How many of them are listed.
    const LISTED: usize = 20;

    fn add(&mut self, line: u64, RowFault { column, reason }: RowFault) {
        self.rows += 1;
        if self.first.len() < Self::LISTED {
            self.first.push(RejectedRow { line, column, reason });
        }
    }

    fn warn(&self, file: &Path) {
        let file = file.display();
        eprintln!("{file}: {} rows make no sense and are not counted:", self.rows);
        for row in &self.first {
            eprintln!("  {file}:{}: {}: {}", row.line, row.column, row.reason);
        }
        let more = self.rows - self.first.len() as u64;
        if more > 0 {
            eprintln!("  and {more} more");
        }
    }
}

/// `dunlin backtest`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = settings_path(config.clone()).ok().map(|_| configuration(config)).transpose();
    // A ledger can be looked at anywhere; a merchant that was named must exist.
    let settings = if arguments.from_db || arguments.merchant.is_some() { settings? } else { settings.ok().flatten() };
    let calendars = settings.as_ref().map(|s| s.rules.all_calendars()).unwrap_or_default();
    let (campaign, against) = campaigns(&arguments, &calendars)?;
    let merchant = merchant(&arguments, settings.as_ref())?;
    let file = merchant.map(|m| &m.file);
    let own_zone = || merchant.map_or(TimeZone::UTC, |m| m.zone.clone());
    let setting = Setting {
        calendars: &calendars,
        merchant: merchant.map_or("", |m| m.id.as_str()),
        zone: arguments.time_zone.clone().unwrap_or_else(own_zone),
        country: arguments.country.as_deref().or(file.map(|f| f.country.as_str())).unwrap_or_default(),
        payer: arguments.payers.or(file.map(|f| f.payers)).unwrap_or(PayerKind::Business),
        segment: arguments.segment,
        lacks_amounts: arguments.from_db,
        switch_on: arguments.switch_on,
        until: arguments.until,
    };
    let mut rejected = Rejected::default();
    let ledger = match (&arguments.ledger, &settings) {
        (Some(file), _) => read(file, &arguments.format, &setting.zone, &mut rejected)?,
        (None, Some(settings)) => recorded(settings, &setting).await?,
        (None, None) => bail!("--from-db needs settings: give --config"),
    };
    let report = backtest(&campaign, &ledger, &setting);
    let old = against.map(|against| backtest(&against, &ledger, &setting));
    let words = old.as_ref().map(|old| differences(&report, old)).unwrap_or_default();
    print(&arguments, &report, old.as_ref(), &words, &rejected)?;
    if let (true, Some(file)) = (rejected.rows > 0, &arguments.ledger) {
        rejected.warn(file);
    }
    Ok(if arguments.strict && rejected.rows > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Both campaigns; the faults of both at once.
fn campaigns(arguments: &Arguments, calendars: &Calendars) -> Result<(Campaign, Option<Campaign>), Faults> {
    let mut faults = Faults::default();
    let mut read = |path: &Path| scheduler::config::read_campaign(path, calendars, &mut faults).map(|read| read.0);
    let campaign = read(&arguments.campaign);
    let against = arguments.against.as_deref().map(&mut read);
    let campaign = faults.into_result(campaign)?;
    Ok((campaign, against.flatten()))
}

/// The merchant whose settings hold; the only one if none is named.
fn merchant<'a>(arguments: &Arguments, settings: Option<&'a Configuration>) -> anyhow::Result<Option<&'a Merchant>> {
    let Some(settings) = settings else { return Ok(None) };
    let mut all = settings.merchants.iter();
    match (&arguments.merchant, all.next(), all.next()) {
        (Some(name), ..) => {
            let found = settings.merchants.by_name(name);
            found
                .map(Some)
                .with_context(|| format!("--merchant {name}: there is no such merchant in the configuration"))
        }
        (None, Some(only), None) => Ok(Some(only)),
        (None, ..) if arguments.from_db => bail!("whose history? give --merchant"),
        (None, ..) => Ok(None),
    }
}

/// Reads a ledger as `dunlin import` does.
fn read(path: &Path, format: &import::Format, zone: &TimeZone, rejected: &mut Rejected) -> anyhow::Result<Ledger> {
    let mut file = import::Ledger::open(path, format, zone.clone())?;
    let mut ledger = Ledger::default();
    while let Some(row) = file.next()? {
        match row.facts.and_then(|facts| ledger_row(&facts, zone)) {
            Ok(row) => ledger.extend([row]),
            Err(fault) => rejected.add(row.number, fault),
        }
    }
    Ok(ledger)
}

/// What the facts of a row say.
fn ledger_row(facts: &[Fact], zone: &TimeZone) -> Result<LedgerRow, RowFault> {
    let fault = |column: &str, reason: &str| RowFault { column: column.to_owned(), reason: reason.to_owned() };
    let invoice = facts.iter().find_map(|f| match &f.fact {
        Some(fact::Fact::Invoice(invoice)) => Some(invoice),
        _ => None,
    });
    let invoice = invoice.ok_or_else(|| fault("invoice", "is missing"))?;
    let country = facts.iter().find_map(|f| match &f.fact {
        Some(fact::Fact::Customer(customer)) => Some(customer.country.clone()),
        _ => None,
    });
    let payment = facts.iter().find(|f| matches!(f.fact, Some(fact::Fact::Payment(_))));
    let paid = payment.and_then(|f| time::from_wire(f.occurred_at)).map(|at| zone.to_datetime(at).date());
    let date = |column: &str, text: &str| time::date_from_wire(text).map_err(|error| fault(column, &error.to_string()));
    let issued = date("issue", &invoice.issued_on)?.ok_or_else(|| fault("issue", "is missing"))?;
    // Where nothing is owed nobody is reminded.
    let settled = (invoice.total_minor == 0).then(|| zone.to_timestamp(issued.into()).ok()).flatten().map(Recorded::At);
    Ok(LedgerRow {
        customer: invoice.customer_id.clone(),
        invoice: invoice.invoice_id.clone(),
        issued: Recorded::On(issued),
        due_on: date("due", &invoice.due_on)?,
        paid: paid.map(Recorded::On).or(settled),
        is_withdrawn: false,
        amount_minor: invoice.total_minor,
        currency: Currency::try_new(&invoice.currency).map_err(|error| fault("currency", &error.to_string()))?,
        country: country.unwrap_or_default(),
    })
}

/// The history that the scheduler knows: when a case opened stands for the issue of its invoice.
async fn recorded(settings: &Configuration, setting: &Setting<'_>) -> anyhow::Result<Ledger> {
    let past = scheduler::store::past_cases(&pool(settings, Service::Scheduler)?, setting.merchant).await?;
    let row = |case: scheduler::store::PastCase| {
        let opened_on = setting.zone.to_datetime(case.opened_at).date();
        LedgerRow {
            customer: case.customer,
            // A debt that was opened again is another case, and counts from then.
            invoice: if case.epoch > 1 { format!("{}#{}", case.invoice, case.epoch) } else { case.invoice },
            due_on: case.due_on.map(|due| if case.epoch > 1 { due.max(opened_on) } else { due }),
            issued: Recorded::At(case.opened_at),
            paid: case.closed_at.map(Recorded::At),
            is_withdrawn: case.closed_reason != "paid",
            amount_minor: case.open_minor,
            currency: case.currency,
            country: case.country,
        }
    };
    Ok(past.into_iter().map(row).collect())
}

fn print(
    arguments: &Arguments,
    report: &Backtest,
    old: Option<&Backtest>,
    words: &[String],
    rejected: &Rejected,
) -> anyhow::Result<()> {
    if let Some(path) = &arguments.html {
        super::write_file(path, &html::page(report, old, words, rejected.rows))?;
    }
    if arguments.output == Output::Json {
        let document = Document { note: text::NO_EFFECT, campaign: report, against: old, differences: words, rejected };
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    print!("{}", text::report(report));
    if let Some(old) = old {
        println!("\nThe same history under the other campaign\n\n{}", text::report(old).trim_end());
        println!("\nWhat is different about {}, compared with {}\n", report.campaign, old.campaign);
        for word in words {
            println!("  {word}");
        }
    }
    println!("\n{}\n{}", text::NO_EFFECT, text::CONVENTION);
    if let Some(path) = &arguments.html {
        println!("\ncharts: {}", path.display());
    }
    Ok(())
}
