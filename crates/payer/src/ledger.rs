//! Recorded invoices and payments, and what of them is no use.
//!
//! Nothing is dropped silently: a row that cannot be used is counted by what is wrong with it, and the first of a kind are
//! kept as examples.

use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// A row as it is read. `None` is an empty cell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// The customer's key.
    pub customer: String,
    /// The invoice's key.
    pub invoice: String,
    /// When it was issued.
    pub issue: Option<Date>,
    /// When it should be paid.
    pub due: Option<Date>,
    /// When it was paid, if it was.
    pub paid: Option<Date>,
    /// What is owed, in minor units.
    pub amount_minor: Option<i64>,
    /// What kind of invoice it is, if the ledger says: customers are first taken to pay like others of their segment.
    pub segment: Option<String>,
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It could not be read at all.
    Unreadable,
    /// It names no customer.
    NoCustomer,
    /// It has no date of issue.
    NoIssueDate,
    /// It has no due date: it can be neither early nor late.
    NoDueDate,
    /// A date is from before 1970 or after 2100, or two of them are more than ten years apart.
    AbsurdDate,
    /// It was due before it was issued.
    DueBeforeIssue,
    /// It was paid before it was issued.
    PaidBeforeIssue,
    /// The customer has an invoice of that key already.
    Duplicate,
}

impl Fault {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "cannot be read",
            Self::NoCustomer => "no customer",
            Self::NoIssueDate => "no date of issue",
            Self::NoDueDate => "no due date",
            Self::AbsurdDate => "absurd date",
            Self::DueBeforeIssue => "due before it was issued",
            Self::PaidBeforeIssue => "paid before it was issued",
            Self::Duplicate => "the same invoice twice",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Dates from before this year, or from after the other one, stand for something else: unknown, or never.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=2100;
/// No two dates of an invoice are so many days apart.
const MOST_DAYS: i32 = 3_653;
/// So many rows of a kind are shown.
const EXAMPLES: usize = 3;

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Where it stands.
    pub line: u64,
    /// What it says.
    pub row: String,
}

/// Rows that cannot be used for the same reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// How many.
    pub rows: u64,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// An invoice of a ledger. Days are counted from 1970-01-01.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// The customer's place in the order in which customers were met.
    pub customer: usize,
    /// The day of issue.
    pub issue: i32,
    /// The due date.
    pub due: i32,
    /// The day of payment, if it was paid.
    pub paid: Option<i32>,
    /// What is owed, in minor units.
    pub amount_minor: Option<i64>,
    /// The segment's place in the order in which segments were met; `None` if the ledger does not say.
    pub segment: Option<usize>,
}

impl Invoice {
    /// Days from the due date to the payment, if it was paid.
    pub fn delay(&self) -> Option<i32> {
        self.paid.map(|paid| paid - self.due)
    }
}

/// Recorded history.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    invoices: Vec<Invoice>,
    customers: HashMap<String, usize>,
    segments: HashMap<String, usize>,
    keys: HashSet<(usize, String)>,
    rejected: BTreeMap<Fault, Rejected>,
}

impl Ledger {
    /// Takes a row of a line, or counts what is wrong with it.
    pub fn add(&mut self, line: u64, row: Row) {
        let fault = match checked(&row) {
            Ok([issue, due]) => {
                let customer = place(&mut self.customers, row.customer.clone());
                if self.keys.insert((customer, row.invoice.clone())) {
                    let paid = row.paid.map(day);
                    let segment = row.segment.map(|segment| place(&mut self.segments, segment));
                    self.invoices.push(Invoice {
                        customer,
                        issue: day(issue),
                        due: day(due),
                        paid,
                        amount_minor: row.amount_minor,
                        segment,
                    });
                    return;
                }
                Fault::Duplicate
            }
            Err(fault) => fault,
        };
        self.reject(line, fault, || words(&row));
    }

    /// Counts a line that cannot be used; its words are asked for only if it is shown.
    pub fn reject(&mut self, line: u64, fault: Fault, words: impl FnOnce() -> String) {
        let rejected = self.rejected.entry(fault).or_default();
        rejected.rows += 1;
        if rejected.examples.len() < EXAMPLES {
            rejected.examples.push(Example { line, row: words() });
        }
    }

    /// The invoices, in the order of their rows.
    pub fn invoices(&self) -> &[Invoice] {
        &self.invoices
    }

    /// How many customers have an invoice.
    pub fn customers(&self) -> usize {
        self.customers.len()
    }

    /// What could not be used.
    pub fn rejected(&self) -> &BTreeMap<Fault, Rejected> {
        &self.rejected
    }
}

/// Dates of issue and due date of a row that can be used.
fn checked(row: &Row) -> Result<[Date; 2], Fault> {
    if row.customer.is_empty() {
        return Err(Fault::NoCustomer);
    }
    let issue = row.issue.ok_or(Fault::NoIssueDate)?;
    let due = row.due.ok_or(Fault::NoDueDate)?;
    let dates = || [Some(issue), Some(due), row.paid].into_iter().flatten();
    let days = || dates().map(day);
    let spans = days().max().zip(days().min()).map_or(0, |(last, first)| last - first);
    if spans > MOST_DAYS || !dates().all(|date| YEARS.contains(&date.year())) {
        Err(Fault::AbsurdDate)
    } else if due < issue {
        Err(Fault::DueBeforeIssue)
    } else if row.paid.is_some_and(|paid| paid < issue) {
        Err(Fault::PaidBeforeIssue)
    } else {
        Ok([issue, due])
    }
}

/// Days since 1970-01-01.
fn day(date: Date) -> i32 {
    (date - jiff::civil::date(1970, 1, 1)).get_days()
}

/// The date of so many days since 1970-01-01; `None` far outside of all calendars.
pub(crate) fn date(day: i32) -> Option<Date> {
    jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().try_days(day).ok()?).ok()
}

fn place(places: &mut HashMap<String, usize>, key: String) -> usize {
    let next = places.len();
    *places.entry(key).or_insert(next)
}

/// A row as it is shown.
fn words(row: &Row) -> String {
    let date = |date: Option<Date>| date.map_or_else(|| "-".to_owned(), |date| date.to_string());
    let customer = if row.customer.is_empty() { "-" } else { &row.customer };
    let [issue, due, paid] = [row.issue, row.due, row.paid].map(date);
    format!("invoice {} of {customer}, issued {issue}, due {due}, paid {paid}", row.invoice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(customer: &str, invoice: &str, [issue, due, paid]: [&str; 3]) -> Row {
        let date = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Row {
            customer: customer.to_owned(),
            invoice: invoice.to_owned(),
            issue: date(issue),
            due: date(due),
            paid: date(paid),
            ..Row::default()
        }
    }

    const GOOD: [&str; 3] = ["2026-01-01", "2026-01-31", "2026-02-03"];

    fn fault(customer: &str, dates: [&str; 3]) -> Option<Fault> {
        let mut ledger = Ledger::default();
        ledger.add(2, row(customer, "1", dates));
        assert_eq!(ledger.invoices().len() + ledger.rejected().len(), 1, "taken or counted, never both or neither");
        ledger.rejected().keys().next().copied()
    }

    #[test]
    fn bad_rows_are_counted_by_kind() {
        for (customer, dates, expected) in [
            ("a", GOOD, None),
            ("a", ["2026-01-01", "2026-01-01", "2026-01-01"], None),
            ("a", ["2026-01-01", "2026-01-31", ""], None),
            ("", GOOD, Some(Fault::NoCustomer)),
            ("a", ["", "2026-01-31", "2026-01-31"], Some(Fault::NoIssueDate)),
            ("a", ["2026-01-01", "", "2026-01-31"], Some(Fault::NoDueDate)),
            ("a", ["2026-01-01", "2025-12-31", "2026-01-31"], Some(Fault::DueBeforeIssue)),
            ("a", ["2026-01-01", "2026-01-31", "2025-12-31"], Some(Fault::PaidBeforeIssue)),
            ("a", ["2026-01-01", "2026-01-31", "9999-12-31"], Some(Fault::AbsurdDate)),
            ("a", ["2026-01-01", "2037-01-31", ""], Some(Fault::AbsurdDate)),
            ("a", ["1900-01-01", "1900-01-31", "1900-01-31"], Some(Fault::AbsurdDate)),
        ] {
            assert_eq!(fault(customer, dates), expected, "{customer} {dates:?}");
        }
    }

    #[test]
    fn the_first_of_a_kind_are_shown() {
        let mut ledger = Ledger::default();
        (2..=6).for_each(|line| ledger.add(line, row("a", "7", GOOD)));
        ledger.add(7, row("b", "7", GOOD));
        assert_eq!((ledger.invoices().len(), ledger.customers()), (2, 2), "keys are the customer's own");
        let twice = &ledger.rejected()[&Fault::Duplicate];
        assert_eq!((twice.rows, twice.examples.len()), (4, 3));
        let first =
            Example { line: 3, row: "invoice 7 of a, issued 2026-01-01, due 2026-01-31, paid 2026-02-03".to_owned() };
        assert_eq!(twice.examples[0], first);
    }

    #[test]
    fn delays_are_counted_from_the_due_date() {
        let mut ledger = Ledger::default();
        ledger.add(2, row("a", "1", GOOD));
        ledger.add(3, row("a", "2", ["2026-01-01", "2026-01-31", ""]));
        assert_eq!(ledger.invoices().iter().map(Invoice::delay).collect::<Vec<_>>(), [Some(3), None]);
        assert_eq!(date(ledger.invoices()[0].due), Some("2026-01-31".parse().unwrap()));
    }
}
