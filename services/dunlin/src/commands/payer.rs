//! `dunlin payer`: how well payments can be foreseen, and what is known of one payer.

mod html;
mod show;
mod text;

pub use show::ShowArguments;

use anyhow::{Context, bail};
use jiff::civil::Date;
use payer::evaluate::{Split, evaluate};
use payer::ledger::{Fault, Ledger, Row};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// `dunlin payer …`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Live through a ledger in time order, and say how well its payments could have been foreseen.
    Evaluate(EvaluateArguments),
    /// Say what is known of a payer, and why it has its label.
    Show(ShowArguments),
}

/// How well a ledger's payments could have been foreseen.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct EvaluateArguments {
    /// A CSV file with a header line.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Which column holds what: `field=column`, several separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_pair)]
    map: Vec<(Field, String)>,
    /// Which invoices are scored: `test`, from the 60th percentile of the dates of issue on; or `validation`, from the 40th
    /// to the 60th, to choose among variants without looking at the test.
    #[arg(long, value_enum, default_value = "test")]
    split: Fold,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Write the report with plots into this file: one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Fail if a row of the ledger makes no sense.
    #[arg(long)]
    strict: bool,
}

const HELP: &str = "\
Each invoice is forecast when it is issued, from payments of earlier days only. Nothing is claimed about the effect of
reminders: the creditor's own are in the ledger.
Fields: customer, invoice, issue, due are needed; paid (empty: not paid yet), amount and segment may be there. Without a map, a
column of the field's own name is taken; for segment, `seg` too. Dates are YYYY-MM-DD, amounts plain decimals such as 1234.50.

Examples:
  dunlin payer evaluate --ledger ledger.csv
  dunlin payer evaluate --ledger export.csv --map invoice=No,customer=Debtor,issue=Date,due=Due,paid=Paid --html report.html

Exit codes: 0 done, perhaps with a warning about rows; 1 failed, or such rows with --strict.";

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Which invoices are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Fold {
    /// The last 40 %.
    Test,
    /// The 20 % before.
    Validation,
}

/// What a column may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Customer,
    Invoice,
    Issue,
    Due,
    Paid,
    Amount,
    Segment,
}

impl Field {
    const ALL: [Self; 7] =
        [Self::Customer, Self::Invoice, Self::Issue, Self::Due, Self::Paid, Self::Amount, Self::Segment];
    const NEEDED: [Self; 4] = [Self::Customer, Self::Invoice, Self::Issue, Self::Due];

    /// The field's own name first.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Customer => &["customer"],
            Self::Invoice => &["invoice"],
            Self::Issue => &["issue"],
            Self::Due => &["due"],
            Self::Paid => &["paid"],
            Self::Amount => &["amount"],
            Self::Segment => &["segment", "seg"],
        }
    }

    fn name(self) -> &'static str {
        self.names().first().copied().unwrap_or_default()
    }
}

fn parse_pair(text: &str) -> Result<(Field, String), String> {
    let (field, column) = text.split_once('=').ok_or_else(|| format!("{text:?}: give field=column"))?;
    let known = Field::ALL.into_iter().find(|f| f.name() == field);
    let names = || Field::ALL.map(Field::name).join(", ");
    known.map(|f| (f, column.to_owned())).ok_or_else(|| format!("{field:?} is no field; one of {}", names()))
}

/// `dunlin payer`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Evaluate(arguments) => evaluate_ledger(&arguments),
        Command::Show(arguments) => show::run(config, &arguments).await,
    }
}

fn evaluate_ledger(arguments: &EvaluateArguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.ledger;
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let ledger = read(file, &arguments.map)?;
    let split = match arguments.split {
        Fold::Test => Split::Test,
        Fold::Validation => Split::Validation,
    };
    let report = evaluate(&ledger, split);
    if let Some(path) = &arguments.html {
        super::write_file(path, &html::page(&arguments.ledger, &report))?;
    }
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => print!("{}", text::report(&report)),
    }
    if let (Output::Text, Some(path)) = (arguments.output, &arguments.html) {
        println!("\nplots: {}", path.display());
    }
    let rejected: u64 = report.rejected.values().map(|rejected| rejected.rows).sum();
    Ok(if arguments.strict && rejected > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(file: impl std::io::Read, map: &[(Field, String)]) -> anyhow::Result<Ledger> {
    // A row with too many or too few cells is that row's fault, not the file's.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let columns = columns(reader.headers()?, map)?;
    let mut ledger = Ledger::default();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(ledger),
            Ok(true) => {
                let line = record.position().map_or(0, csv::Position::line);
                match row(&record, &columns) {
                    Ok(row) => ledger.add(line, row),
                    Err(words) => ledger.reject(line, Fault::Unreadable, || words),
                }
            }
            // Text that is no UTF-8 is a fault of its row; anything else means that the file cannot be read.
            Err(error) => match error.kind() {
                csv::ErrorKind::Utf8 { pos, .. } => {
                    let line = pos.as_ref().map_or(0, csv::Position::line);
                    ledger.reject(line, Fault::Unreadable, || "is not UTF-8 text".to_owned());
                }
                _ => return Err(error.into()),
            },
        }
    }
}

fn columns(header: &csv::StringRecord, map: &[(Field, String)]) -> anyhow::Result<BTreeMap<Field, usize>> {
    let mut columns = BTreeMap::new();
    for field in Field::ALL {
        let mapped = map.iter().find(|(of, _)| *of == field).map(|(_, column)| column.as_str());
        let place = |name: &str| header.iter().position(|column| column.trim() == name);
        match mapped {
            Some(name) => {
                let place =
                    place(name).with_context(|| format!("--map {}={name}: there is no such column", field.name()))?;
                columns.insert(field, place);
            }
            None => columns.extend(field.names().iter().find_map(|name| place(name)).map(|place| (field, place))),
        }
    }
    let missing: Vec<&str> = Field::NEEDED.into_iter().filter(|f| !columns.contains_key(f)).map(Field::name).collect();
    if !missing.is_empty() {
        let has: Vec<&str> = header.iter().collect();
        bail!(
            "no column holds {}: map one with --map field=column; there are {}",
            missing.join(" or "),
            has.join(", ")
        );
    }
    Ok(columns)
}

/// A row, or what of it cannot be read.
fn row(record: &csv::StringRecord, columns: &BTreeMap<Field, usize>) -> Result<Row, String> {
    let cell = |field| columns.get(&field).and_then(|place| record.get(*place)).unwrap_or_default().trim();
    let date = |field: Field| -> Result<Option<Date>, String> {
        let text = cell(field);
        // A moment of a day is that day.
        let day = text.get(..10).filter(|_| text.len() > 10 && !text.is_empty()).unwrap_or(text);
        if day.is_empty() {
            return Ok(None);
        }
        day.parse().map(Some).map_err(|_| format!("{} {text:?} is no date such as 2026-01-31", field.name()))
    };
    let amount = |text: &str| match text {
        "" => Ok(None),
        _ => minor(text).map(Some).ok_or_else(|| format!("amount {text:?} is no plain decimal such as 1234.50")),
    };
    let segment = cell(Field::Segment);
    Ok(Row {
        customer: cell(Field::Customer).to_owned(),
        invoice: cell(Field::Invoice).to_owned(),
        issue: date(Field::Issue)?,
        due: date(Field::Due)?,
        paid: date(Field::Paid)?,
        amount_minor: amount(cell(Field::Amount))?,
        segment: (!segment.is_empty()).then(|| segment.to_owned()),
    })
}

/// Hundredths of a plain decimal; more places are cut off: amounts are only compared with each other.
fn minor(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let hundredths: String = fraction.chars().chain("00".chars()).take(2).collect();
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(sign * hundredths.parse::<i64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(text: &str, map: &[(Field, String)]) -> anyhow::Result<Ledger> {
        read(text.as_bytes(), map)
    }

    const HEADER: &str = "customer,invoice,issue,due,paid,amount,seg\n";

    #[test]
    fn rows_that_make_no_sense_are_counted_by_kind() {
        let rows = "a,1,2026-01-01,2026-01-31,2026-02-02,10.50,x\n\
                    a,2,2026-01-01,2026-01-31,,10,x\n\
                    a,3,2026-01-01,soon,,10,x\n\
                    a,4,2026-01-01,2026-01-31,2025-01-01,10,x\n\
                    ,5,2026-01-01,2026-01-31,,10,x\n\
                    a,6,2026-01-01,2026-01-31,,ten,x\n";
        let ledger = ledger(&format!("{HEADER}{rows}"), &[]).unwrap();
        assert_eq!(ledger.invoices().len(), 2);
        let count = |fault| ledger.rejected().get(&fault).map_or(0, |rejected| rejected.rows);
        let counts = [Fault::Unreadable, Fault::PaidBeforeIssue, Fault::NoCustomer].map(count);
        assert_eq!(counts, [2, 1, 1]);
        let shown = &ledger.rejected()[&Fault::Unreadable].examples[0];
        assert_eq!((shown.line, shown.row.as_str()), (4, "due \"soon\" is no date such as 2026-01-31"));
    }

    #[test]
    fn columns_are_found_by_name_or_map() {
        let map = [(Field::Customer, "Debtor".to_owned())];
        let mapped = ledger("Debtor,invoice,issue,due\na,1,2026-01-01,2026-01-31\n", &map).unwrap();
        assert_eq!(mapped.customers(), 1);
        let error = ledger("Debtor,invoice,issue\n", &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "no column holds customer or due: map one with --map field=column; there are Debtor, invoice, issue"
        );
    }

    #[test]
    fn amounts_are_read_as_hundredths() {
        let amounts = ["12", "12.5", "12.345", "-1.50", "1,5", "1.x"].map(minor);
        assert_eq!(amounts, [Some(1_200), Some(1_250), Some(1_234), Some(-150), None, None]);
    }
}
