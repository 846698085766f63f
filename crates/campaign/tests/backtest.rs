//! A back-test over a real ledger agrees with plain arithmetic over its lines.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use campaign::backtest::{Backtest, Ledger, LedgerRow, Recorded, Setting, backtest};
use campaign::{Calendars, Campaign, CampaignFile};
use jiff::ToSpan;
use jiff::civil::{Date, Weekday};
use kernel::{Currency, PayerKind, Segment};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The lines of a ledger of `../shared/data`; none, said loudly, if it is not there.
fn lines(name: &str) -> Option<Vec<Line>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("\n*** SKIPPED: {} is not there, so this test has checked nothing ***\n", path.display());
        return None;
    };
    let line = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        Line {
            customer: cells[0].to_owned(),
            invoice: cells[1].to_owned(),
            issue: cells[2].parse().unwrap(),
            due: cells[3].parse().unwrap(),
            paid: cells[4].parse().unwrap(),
        }
    };
    Some(text.lines().skip(1).map(line).collect())
}

struct Line {
    customer: String,
    invoice: String,
    issue: Date,
    due: Date,
    paid: Date,
}

fn campaign(weekdays: &str) -> Campaign {
    let text = format!(
        "
name: simple
contact: {{ weekdays: {weekdays}, from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }}
steps:
  - {{ key: first, when: {{ days_after_due: 3 }}, tone: friendly }}
  - {{ key: second, when: {{ days_after_due: 7 }}, tone: firm }}
  - {{ key: third, when: {{ days_after_due: 14 }}, tone: final }}
"
    );
    let file: CampaignFile = serde_saphyr::from_str(&text).unwrap();
    Campaign::try_new(&file, &text).unwrap()
}

fn simulated(campaign: &Campaign, lines: &[Line]) -> Backtest {
    let row = |line: &Line| LedgerRow {
        customer: line.customer.clone(),
        invoice: line.invoice.clone(),
        issued: Recorded::On(line.issue),
        due_on: Some(line.due),
        paid: Some(Recorded::On(line.paid)),
        is_withdrawn: false,
        amount_minor: 100,
        currency: Currency::try_new("NGN").unwrap(),
        country: String::new(),
    };
    let ledger: Ledger = lines.iter().map(row).collect();
    let calendars = Calendars::default();
    let setting = Setting {
        calendars: &calendars,
        merchant: "acme",
        zone: kernel::contact::zone("Africa/Lagos").unwrap(),
        country: "NG",
        payer: PayerKind::Business,
        segment: Segment::New,
        lacks_amounts: false,
        switch_on: None,
        until: None,
    };
    backtest(campaign, &ledger, &setting)
}

/// What the same campaign comes to by plain arithmetic, for a ledger in which everything was paid.
#[derive(Default)]
struct Counted {
    /// Invoices that were reminded, by step.
    steps: [u64; 3],
    /// The days on which a customer was written to, and whether one of its invoices was paid then or the day after.
    days: BTreeMap<(String, Date), bool>,
    /// Steps that were not reminded of on their own day.
    moved: u64,
    customers: BTreeSet<String>,
}

fn count(lines: &[Line], is_open: impl Fn(Date) -> bool) -> Counted {
    let mut counted = Counted::default();
    for line in lines {
        counted.customers.insert(line.customer.clone());
        for (n, days) in [3, 7, 14].into_iter().enumerate() {
            let own = line.due.checked_add(days.days()).unwrap();
            let mut day = own;
            while !is_open(day) {
                day = day.tomorrow().unwrap();
            }
            // A payment arrives at the end of its day.
            if line.paid < day {
                continue;
            }
            counted.steps[n] += 1;
            counted.moved += u64::from(day != own);
            let is_paid_within_a_day = line.paid == day || line.paid == day.tomorrow().unwrap();
            *counted.days.entry((line.customer.clone(), day)).or_default() |= is_paid_within_a_day;
        }
    }
    counted
}

fn compare(name: &str, weekdays: &str, is_open: impl Fn(Date) -> bool) {
    let Some(lines) = lines(name) else { return };
    let report = simulated(&campaign(weekdays), &lines);
    let counted = count(&lines, is_open);
    let reminded: Vec<u64> = report.steps.iter().map(|s| s.sent + s.with_another_invoice).collect();
    assert_eq!(reminded, counted.steps, "invoices reminded, by step");
    assert_eq!(report.reminders, counted.days.len() as u64, "days on which a customer was written to");
    assert_eq!(report.paid_anyway, counted.days.values().filter(|paid| **paid).count() as u64);
    assert_eq!(report.quiet_hours, counted.moved);
    assert_eq!(report.customers, counted.customers.len() as u64);
    assert_eq!(report.invoices, lines.len() as u64);
    let mut days: BTreeMap<Date, u64> = BTreeMap::new();
    let mut months: BTreeMap<String, u64> = BTreeMap::new();
    for (_, day) in counted.days.keys() {
        *days.entry(*day).or_default() += 1;
        *months.entry(day.strftime("%Y-%m").to_string()).or_default() += 1;
    }
    assert_eq!(report.busiest_days.first().map(|d| d.reminders), days.values().max().copied());
    assert_eq!(report.months, months);
    let steps = lines.len() as u64 * 3;
    assert_eq!(report.completeness.steps, steps, "everything was paid, so everything is decided");
    assert_eq!(report.completeness.ratio, Some(1.0));
    assert!(reminded.iter().all(|n| *n > 0), "the ledger has late invoices for every step");
}

fn is_business(date: Date) -> bool {
    !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday)
}

#[test]
fn every_day_agrees_with_a_direct_pass() {
    compare("superlender.csv", "[mon, tue, wed, thu, fri, sat, sun]", |_| true);
}

#[test]
fn business_days_agree_with_a_direct_pass() {
    compare("superlender.csv", "[mon, tue, wed, thu, fri]", is_business);
}

#[test]
fn another_ledger_agrees_too() {
    compare("ibm_ar.csv", "[mon, tue, wed, thu, fri]", is_business);
}
