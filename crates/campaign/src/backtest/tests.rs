use super::*;
use crate::campaign::tests::parse;
use crate::file::Ending;

const PLAIN: &str = "
name: plain
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
steps:
  - { key: first, when: { days_after_due: 3 }, tone: friendly }
  - { key: last, when: { days_after_due: 7 }, tone: final }
end: { after_days: 2, outcome: hand_over }
";

fn date(text: &str) -> Date {
    text.parse().unwrap()
}

/// An invoice of 100 EUR, issued on 1 May 2026.
fn row(customer: &str, invoice: &str, due: &str, paid: Option<&str>) -> LedgerRow {
    LedgerRow {
        customer: customer.to_owned(),
        invoice: invoice.to_owned(),
        issued: Recorded::On(date("2026-05-01")),
        due_on: Some(date(due)),
        paid: paid.map(|paid| Recorded::On(date(paid))),
        is_withdrawn: false,
        amount_minor: 10_000,
        currency: Currency::try_new("EUR").unwrap(),
        country: String::new(),
    }
}

fn run(yaml: &str, rows: Vec<LedgerRow>, change: impl FnOnce(&mut Setting<'_>)) -> Backtest {
    let calendars = Calendars::default();
    let mut setting = Setting {
        calendars: &calendars,
        merchant: "acme",
        zone: kernel::contact::zone("Europe/Berlin").unwrap(),
        country: "",
        payer: PayerKind::Business,
        segment: Segment::New,
        lacks_amounts: false,
        switch_on: None,
        until: Some(date("2026-07-31")),
    };
    change(&mut setting);
    let report = backtest(&parse(yaml), &rows.into_iter().collect(), &setting);
    check(&report);
    report
}

/// What holds for every report.
fn check(report: &Backtest) {
    assert_eq!(report.completeness.ratio.unwrap_or(1.0), 1.0, "{:?}", report.completeness);
    for step in &report.steps {
        let StepCount { sent, with_another_invoice, merged, skipped, cancelled, open, .. } = step;
        assert_eq!(sent + with_another_invoice + merged + skipped + cancelled + open, report.invoices, "{step:?}");
    }
    assert_eq!(report.steps.iter().map(|s| s.sent).sum::<u64>(), report.reminders);
    assert_eq!(report.tones.values().sum::<u64>(), report.reminders);
    assert_eq!(report.months.values().sum::<u64>(), report.reminders);
    assert_eq!(report.week.iter().flatten().sum::<u64>(), report.reminders);
    assert_eq!(report.per_invoice.values().sum::<u64>(), report.invoices);
}

fn sent(report: &Backtest) -> Vec<u64> {
    report.steps.iter().map(|s| s.sent).collect()
}

#[test]
fn a_payment_arrives_at_the_end_of_its_day() {
    // Due on Monday, 1 June: the steps are on Thursday the 4th and on Monday the 8th.
    let paid = |on| run(PLAIN, vec![row("a", "1", "2026-06-01", Some(on))], |_| {});
    for (on, reminders, anyway) in [
        ("2026-06-03", [0, 0], 0),
        ("2026-06-04", [1, 0], 1),
        ("2026-06-05", [1, 0], 1),
        ("2026-06-06", [1, 0], 0),
        ("2026-06-08", [1, 1], 1),
        ("2026-06-10", [1, 1], 0),
    ] {
        let report = paid(on);
        assert_eq!((sent(&report), report.paid_anyway), (reminders.to_vec(), anyway), "paid on {on}");
    }
    let to_the_moment = |at: &str| {
        let row = LedgerRow { paid: Some(Recorded::At(at.parse().unwrap())), ..row("a", "1", "2026-06-01", None) };
        sent(&run(PLAIN, vec![row], |_| {}))
    };
    assert_eq!(to_the_moment("2026-06-04T06:59:59Z"), [0, 0], "a moment before nine in Berlin");
    assert_eq!(to_the_moment("2026-06-04T07:00:01Z"), [1, 0]);
}

#[test]
fn steps_end_in_one_way_each_and_sequences_with_a_name() {
    let rows = vec![
        row("a", "paid", "2026-06-01", Some("2026-06-05")),
        row("b", "unpaid", "2026-06-01", None),
        row("c", "not due yet", "2026-07-30", None),
    ];
    let report = run(PLAIN, rows, |_| {});
    let ends: Vec<_> = report.steps.iter().map(|s| (s.sent, s.cancelled, s.open)).collect();
    assert_eq!(ends, [(2, 0, 1), (1, 1, 1)]);
    assert_eq!(report.ended, BTreeMap::from([(Ending::HandOver.as_str(), 1)]));
    assert_eq!(report.completeness.steps, 4, "those that are open are not due");
    assert_eq!(report.per_invoice, BTreeMap::from([(0, 1), (1, 1), (2, 1)]));
    let Spread { mean, p50, p90, max } = report.per_customer;
    assert_eq!((mean, p50, p90, max), (Some(1.0), 1, 2, 2));
}

#[test]
fn several_invoices_of_a_customer_are_one_reminder() {
    let rows = vec![
        row("a", "1", "2026-06-01", None),
        row("a", "2", "2026-06-01", Some("2026-06-05")),
        row("a", "3", "2026-05-28", None),
    ];
    let report = run(PLAIN, rows, |_| {});
    // On the 4th: the last step of the third invoice leads, the first of the others goes along. On the 1st its first,
    // moved from a Sunday. On the 8th the last of the first.
    let counts: Vec<_> = report.steps.iter().map(|s| (s.sent, s.with_another_invoice, s.cancelled)).collect();
    assert_eq!(counts, [(1, 2, 0), (2, 0, 1)]);
    assert_eq!((report.reminders, report.paid_anyway, report.quiet_hours), (3, 1, 1));
    assert_eq!(report.merged, BTreeMap::from([("other_invoice", 2)]));
    assert_eq!(report.busiest_days.first().map(|d| d.reminders), Some(1));
    assert_eq!(report.week[0][9], 2, "Mondays at nine");
}

#[test]
fn gaps_and_caps_are_counted_by_step() {
    let capped = PLAIN.replace("min_gap_days: 1", "min_gap_days: 3, cap: { reminders: 2, days: 30 }");
    let rows = vec![
        row("a", "1", "2026-06-01", None), // 4 and 8 June
        row("a", "2", "2026-06-02", None), // 5 June, with the 8th, and 9 June
    ];
    let report = run(&capped, rows, |_| {});
    assert_eq!((report.gaps_hit(), report.caps_hit()), (2, 1), "{:?}", report.deferrals);
}

#[test]
fn an_old_ledger_is_met_as_it_was_on_that_day_and_does_not_flood() {
    let ramp = format!("entry: {{ mode: latest-step, at_most_per_day: 2 }}{PLAIN}");
    let mut rows: Vec<LedgerRow> =
        (10..17).map(|n| row(&format!("c{n}"), &n.to_string(), "2026-05-20", None)).collect();
    rows.push(row("d", "before", "2026-05-20", Some("2026-06-03")));
    rows.push(row("e", "not late", "2026-06-10", None));
    rows.push(LedgerRow { issued: Recorded::On(date("2026-08-01")), ..row("f", "later", "2026-08-10", None) });
    // A Thursday.
    let report = run(&ramp, rows, |setting| setting.switch_on = Some(date("2026-06-04")));
    assert_eq!((report.invoices, report.late_entries), (8, 7));
    assert_eq!(report.left_out, LeftOut { audience: 0, settled: 1, later: 1 });
    assert_eq!(report.ramp_until, Some(date("2026-06-09")));
    let days: BTreeMap<Date, u64> = report.busiest_days.iter().map(|d| (d.on, d.reminders)).collect();
    let until_the_tenth: Vec<u64> = days.range(..date("2026-06-11")).map(|(_, n)| *n).collect();
    assert_eq!(until_the_tenth, [2, 2, 2, 1], "two on Thursday, Friday, Monday, one on Tuesday");
    assert_eq!(report.merged.get("later_step"), Some(&7), "the last step speaks for the one that was missed");
    assert_eq!(report.quiet_hours, 1, "of the invoice that was not late: 13 June is a Saturday");
    assert_eq!(report.waited(&[crate::Reason::Ramp]), 10, "two steps each of the five that had to wait");
}

#[test]
fn audiences_and_what_a_ledger_does_not_say() {
    let large =
        format!("audience: {{ amount: {{ EUR: {{ at_least: 150 }} }}, not: {{ segment: [usually_late] }} }}{PLAIN}");
    let report = run(&large, vec![row("a", "1", "2026-06-01", None)], |_| {});
    assert_eq!((report.invoices, report.left_out.audience), (0, 1));
    assert_eq!(report.not_recorded, ["segment"]);
    assert_eq!((report.per_invoice_mean, report.per_customer.mean), (None, None), "nothing has no mean");
    let balance = format!("audience: {{ balance: {{ EUR: {{ at_least: 150 }} }} }}{PLAIN}");
    let two = vec![row("a", "1", "2026-06-01", None), row("a", "2", "2026-06-01", None)];
    assert_eq!(run(&balance, two, |_| {}).invoices, 2, "together they owe enough");
}

#[test]
fn holidays_are_kept_where_they_are_known() {
    let holidays = PLAIN.replace("min_gap_days: 1", "min_gap_days: 1, holidays: [payer, TARGET2]");
    // Three days later is Whit Monday in Germany, which banks do not keep.
    let whit = || vec![row("a", "1", "2026-05-22", Some("2026-05-26"))];
    let german = run(&holidays, whit(), |setting| setting.country = "DE");
    assert_eq!((german.busiest_days[0].on, german.quiet_hours), (date("2026-05-26"), 1));
    assert!(german.without_calendars.is_empty());
    let elsewhere = run(&holidays, whit(), |setting| setting.country = "NG");
    assert_eq!(elsewhere.busiest_days[0].on, date("2026-05-25"), "no calendar is known there");
    let old = LedgerRow {
        issued: Recorded::On(date("1998-05-01")),
        due_on: Some(date("1998-05-29")),
        paid: Some(Recorded::On(date("1998-06-03"))),
        ..whit().remove(0)
    };
    let old = run(&holidays, vec![old], |setting| (setting.country, setting.until) = ("DE", Some(date("1998-07-01"))));
    assert_eq!(old.busiest_days[0].on, date("1998-06-01"), "Whit Monday of a year that no calendar knows");
    assert_eq!(old.without_calendars.into_iter().collect::<Vec<_>>(), ["DE", "TARGET2"]);
}

#[test]
fn nothing_is_a_report_too() {
    assert_eq!(run(PLAIN, Vec::new(), |_| {}).reminders, 0);
}

#[test]
fn differences_are_said_in_words() {
    let rows = || vec![row("a", "1", "2026-06-01", None), row("b", "2", "2026-06-01", None)];
    let old = run(PLAIN, rows(), |_| {});
    let new = run(&PLAIN.replace("days_after_due: 7", "days_after_due: 170"), rows(), |_| {});
    let words = differences(&new, &old);
    assert_eq!(words[0], "2 fewer reminders: 2 instead of 4 (-50.0 %)");
    assert!(
        words.contains(&"2 fewer sequences that end with hand_over: 0 instead of 2 (-100.0 %)".to_owned()),
        "{words:?}"
    );
    assert_eq!(differences(&old, &old), ["none of the numbers compared here is different"]);
    assert_eq!(thousands(24_089_000), "24,089,000");
    assert_eq!(thousands(89), "89");
}
