//! How fast the pure part is: one plan of one case, and a back-test of a ledger. Nothing else runs meanwhile.

use crate::dev::memory_of;
use crate::report::Figure;
use crate::{RUNS, median};
use anyhow::{Context, ensure};
use campaign::backtest::{Backtest, Ledger, LedgerRow, Recorded, Setting, backtest};
use campaign::{Calendars, Campaign, Case, Decided, Facts, Place, Terms, plan};
use e2e::system::at;
use jiff::ToSpan;
use jiff::civil::{Date, date};
use kernel::{Currency, PayerKind, Segment};
use std::hint::black_box;
use std::time::Instant;

/// Eight steps, and every matcher that there is.
const CAMPAIGN: &str = r#"
name: all matchers
audience:
  merchant: [acme, globex]
  currency: [EUR, USD]
  amount: { EUR: { at_least: 5 }, USD: { at_least: 5 } }
  not: { customer: [cus_internal] }
contact:
  weekdays: [mon, tue, wed, thu, fri]
  from: "09:00"
  to: "18:00"
  holidays: [DE, TARGET2]
  min_gap_days: 2
  cap: { reminders: 4, days: 30 }
  spread_minutes: 120
steps:
  - { key: upcoming, when: { business_days_before_due: 3 }, only_if: { segment: [usually_late, new], country: [DE, AT] }, tone: friendly }
  - { key: failed, when: { failed_attempts: 3 }, only_if: { failed_attempts: 3, decline_code: [expired_card] }, tone: firm }
  - { key: overdue-3, when: { days_after_due: 3 }, only_if: { payer: [business], customer_tag: [a, b] }, tone: friendly }
  - { key: follow-up, when: { after_step: { step: overdue-3, days: 3 } }, only_if: { invoice_tag: [x, z] }, tone: firm }
  - { key: overdue-10, when: { business_days_after_due: 10 }, only_if: { balance: { EUR: { at_least: 20 } } }, tone: firm }
  - { key: month-end, when: { days_after_month_end: 5 }, only_if: { any: [{ country: [FR] }, { all: [{ currency: [EUR] }] }] }, tone: firm }
  - { key: promise, when: { days_after_broken_promise: 1 }, only_if: { not: { segment: [prompt] } }, tone: firm }
  - { key: last, when: { days_after_previous: 10 }, only_if: { amount: { EUR: { at_least: 10 } } }, tone: final, ends_with: hand_over }
end: { after_days: 7, outcome: hand_over }
"#;

/// `plan`: the next step of one case, in nanoseconds.
pub(crate) fn one_plan() -> anyhow::Result<Figure> {
    const TIMES: u32 = 200_000;
    let campaign = scheduler::config::parse_campaign(CAMPAIGN)?;
    let calendars = Calendars::default();
    let place = Place { zone: kernel::contact::zone("Europe/Berlin")?, country: "DE", payer: PayerKind::Business };
    let (customer_tags, invoice_tags) = (["b".to_owned()], ["z".to_owned()]);
    let facts = Facts {
        merchant: "acme",
        customer: "cus_1",
        segment: Segment::UsuallyLate,
        customer_tags: &customer_tags,
        country: "DE",
        payer: PayerKind::Business,
        currency: Currency::try_new("EUR")?,
        open_minor: 12_000,
        balance_minor: 50_000,
        invoice_tags: &invoice_tags,
        failed_attempts: 1,
        decline_code: "insufficient_funds",
    };
    let decided = [("upcoming", date(2026, 5, 27), true), ("overdue-3", date(2026, 6, 4), true)];
    let decided = decided.map(|(step, on, reminded)| Decided { step: step.to_owned(), on, reminded });
    let contacts = [date(2026, 5, 27), date(2026, 6, 4)];
    let case = Case {
        is_open: true,
        facts,
        due_on: Some(date(2026, 6, 1)),
        opened_on: date(2026, 5, 1),
        not_before: None,
        reopened_on: None,
        last_failed_on: Some(date(2026, 5, 31)),
        promised_on: None,
        pending_since: None,
        collects_itself: false,
        holds: &[],
        opted_out: false,
        decided: &decided,
        contacts: &contacts,
        in_flight: false,
        ended: false,
        choices: &[],
        spread: 4_711,
    };
    // Noon of the day of the follow-up's date is a Sunday; on Monday it is due.
    let now = at("2026-06-08T10:00:00Z");
    let terms = Terms::new(&campaign, &place, &calendars, date(2026, 6, 8));
    let due = plan(&terms, &case, now).send.map(|send| send.step);
    ensure!(due.as_deref() == Some("follow-up"), "{due:?} is due");
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        for _ in 0..TIMES {
            black_box(plan(black_box(&terms), black_box(&case), black_box(now)));
        }
        runs.push(begun.elapsed().as_nanos() as f64 / f64::from(TIMES));
    }
    let note = "bar 5000, aim 1000: campaign of 8 steps with all matchers; one is due";
    Ok(Figure::new("plan", median(&runs), "ns", None, note))
}

/// `backtest`: a ledger of 24,089 invoices over 18 months, in milliseconds, and the memory at most.
pub(crate) fn ledger() -> anyhow::Result<[Figure; 2]> {
    let campaign = scheduler::config::parse_campaign(CAMPAIGN)?;
    // What the process has had in memory before does not count.
    std::fs::write("/proc/self/clear_refs", "5").context("the peak of memory cannot be reset")?;
    let ledger: Ledger = rows().collect();
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let report = run(&campaign, &ledger)?;
        runs.push(begun.elapsed().as_secs_f64() * 1e3);
        ensure!(report.invoices == INVOICES && report.completeness.ratio == Some(1.0), "{:?}", report.completeness);
    }
    let (_, peak) = memory_of(std::process::id())?;
    let time = Figure::new("backtest", median(&runs), "ms", None, "bar 5000, aim 1000: 24,089 invoices over 18 months");
    Ok([time, Figure::new("backtest_memory", peak, "MB at most", None, "bar 200: the whole process")])
}

/// As many as the larger one of the real ledgers that the tests read.
const INVOICES: u64 = 24_089;

fn run(campaign: &Campaign, ledger: &Ledger) -> anyhow::Result<Backtest> {
    let calendars = Calendars::default();
    let setting = Setting {
        calendars: &calendars,
        merchant: "acme",
        zone: kernel::contact::zone("Europe/Berlin")?,
        country: "DE",
        payer: PayerKind::Business,
        segment: Segment::UsuallyLate,
        lacks_amounts: false,
        switch_on: None,
        until: None,
    };
    Ok(backtest(campaign, ledger, &setting))
}

/// Invoices of 5,801 customers, some of whom have many: due after two to four weeks, most paid about then, some late or
/// never. The same in every run.
fn rows() -> impl Iterator<Item = LedgerRow> {
    const CUSTOMERS: u64 = 5_801;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let day = |date: Date, days: u64| date.checked_add(i64::try_from(days).unwrap_or(0).days()).unwrap_or(date);
    (0..INVOICES).map(move |n| {
        // The product of two is skewed to the lower ones.
        let customer = random(CUSTOMERS) * random(CUSTOMERS) / CUSTOMERS;
        let issued = day(date(2025, 1, 1), n * 545 / INVOICES);
        let due = day(issued, 14 + random(15));
        let paid = match random(10) {
            0..6 => Some(day(issued, 1 + random(28))),
            6..9 => Some(day(due, 1 + random(45))),
            _ => None,
        };
        LedgerRow {
            customer: format!("cus_{customer}"),
            invoice: format!("in_{n}"),
            issued: Recorded::On(issued),
            due_on: Some(due),
            paid: paid.map(Recorded::On),
            is_withdrawn: false,
            amount_minor: i64::try_from(1_000 + random(500_000)).unwrap_or(0),
            currency: Currency::try_new("EUR").unwrap_or_else(|error| unreachable!("{error}")),
            country: String::new(),
        }
    })
}
