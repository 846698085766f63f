use super::*;
use crate::ledger::Row;
use jiff::ToSpan;

/// An invoice of a customer, issued on a day, due ten days later, and paid so many days after that.
fn row(customer: &str, invoice: usize, issued: i32, delay: Option<i32>) -> Row {
    let date = |day: i32| Some(jiff::civil::date(2026, 1, 1) + day.days());
    Row {
        customer: customer.to_owned(),
        invoice: invoice.to_string(),
        issue: date(issued),
        due: date(issued + 10),
        paid: delay.and_then(|delay| date(issued + 10 + delay)),
        ..Row::default()
    }
}

fn ledger(rows: impl IntoIterator<Item = Row>) -> Ledger {
    let mut ledger = Ledger::default();
    (2..).zip(rows).for_each(|(line, row)| ledger.add(line, row));
    ledger
}

/// q of the last invoice in which the replay ends.
fn last_q(rows: &[(&str, i32, Option<i32>)]) -> f32 {
    let rows = rows.iter().enumerate().map(|(n, (customer, issued, delay))| row(customer, n, *issued, *delay));
    let ledger = ledger(rows);
    let mut replay = Replay::new(&ledger, (i32::MIN, i32::MAX));
    replay.run();
    replay.scored.last().unwrap().ours.q
}

#[test]
fn a_payment_is_known_from_the_next_day_on() {
    // The first invoice is due on day 10; paid on day 12 or 13, it is late but not known to be paid on day 12.
    let q = |delay, issued| last_q(&[("a", 0, Some(delay)), ("a", issued, Some(0))]);
    assert_eq!(q(2, 12), q(3, 12), "whatever is not over yet is the same");
    assert_ne!(q(2, 13), q(3, 13));
}

#[test]
fn what_happens_later_changes_nothing() {
    let rows = [("a", 0, Some(5)), ("b", 3, Some(-5)), ("a", 30, Some(0))];
    let before = last_q(&rows);
    let ledger = ledger(
        rows.iter()
            .chain(&[("a", 31, Some(40)), ("b", 31, Some(40))])
            .enumerate()
            .map(|(n, (customer, issued, delay))| row(customer, n, *issued, *delay)),
    );
    let mut replay = Replay::new(&ledger, (i32::MIN, i32::MAX));
    replay.run();
    assert_eq!(replay.scored[2].ours.q, before);
}

#[test]
fn an_unpaid_invoice_is_evidence_and_is_not_scored() {
    let history = ("a", 0, Some(0));
    let last = ("a", 60, Some(0));
    let unpaid = last_q(&[history, ("a", 20, None), last]);
    let paid = last_q(&[history, ("a", 20, Some(0)), last]);
    let not_yet_due = last_q(&[history, ("a", 55, None), last]);
    let other = last_q(&[history, ("b", 20, None), last]);
    let alone = last_q(&[history, last]);
    assert!(unpaid > alone && alone > paid, "{unpaid} {alone} {paid}");
    assert_eq!((not_yet_due, other), (alone, alone));

    let report = evaluate(&ledger([row("a", 1, 0, None), row("a", 2, 1, None), row("a", 3, 2, Some(1))]), Split::Test);
    assert_eq!((report.invoices, report.unpaid, report.models[0].all.invoices), (3, 2, 1));
}

#[test]
fn like_customers_are_forecast_alike_and_others_are_not() {
    let late = last_q(&[("a", 0, Some(9)), ("a", 30, Some(9)), ("a", 60, Some(0))]);
    let prompt = last_q(&[("a", 0, Some(0)), ("a", 30, Some(0)), ("a", 60, Some(0))]);
    assert!(late > prompt + 0.2, "{late} {prompt}");
}

#[test]
fn all_that_is_learnt_is_kept() {
    let delays = [0, 4];
    let rows = (0..3).flat_map(|n| {
        (0..60).map(move |customer| Row {
            amount_minor: Some(i64::from(customer)),
            ..row(&customer.to_string(), n, 40 * i32::try_from(n).unwrap(), Some(delays[customer as usize % 2]))
        })
    });
    let last = (0..60).map(|customer| row(&customer.to_string(), 3, 200, Some(0)));
    let ledger = ledger(rows.chain(last));
    let mut replay = Replay::new(&ledger, (80, i32::MAX));
    replay.run();
    assert_eq!(replay.portfolio.kappa, 2.0, "customers differ as much as they can");
    assert_eq!(replay.quartiles, Quartiles([15, 30, 45]));
    // Whoever has paid before has peers: the prompt, and the late.
    assert_eq!(replay.portfolio.peers.len(), 2);
    let settled: f32 = replay.portfolio.peers.values().map(crate::estimator::Pool::effective).sum();
    assert!((110.0..=120.0).contains(&settled), "{settled}");
    let cusum = |customer: usize| replay.customers[customer].payer.standing.cusum();
    assert!(cusum(0) == 0.0 && cusum(1) > 0.0, "{} {}", cusum(0), cusum(1));
}

#[test]
fn the_global_baseline_knows_what_was_known_at_the_split() {
    let ledger = ledger([row("a", 0, 0, Some(0)), row("a", 1, 1, Some(5)), row("a", 2, 12, Some(5))]);
    let split = ledger.invoices()[2].issue;
    assert_eq!(Replay::new(&ledger, (split, i32::MAX)).global.forecast(0).q, 0.0);
    assert_eq!(Replay::new(&ledger, (split + 5, i32::MAX)).global.forecast(0).q, 0.5);
}

#[test]
fn folds_are_parts_of_the_dates_of_issue() {
    let rows = (0..10).map(|n| row("a", n, i32::try_from(n).unwrap(), Some(1)));
    let ledger = ledger(rows);
    let scored = |split| {
        let report = evaluate(&ledger, split);
        (report.from.unwrap().to_string(), report.models[0].all.invoices)
    };
    assert_eq!(scored(Split::Test), ("2026-01-07".to_owned(), 4));
    assert_eq!(scored(Split::Validation), ("2026-01-05".to_owned(), 2));
}

#[test]
fn nothing_gives_an_empty_report() {
    let report = evaluate(&Ledger::default(), Split::Test);
    assert_eq!((report.from, report.invoices, report.label_changes), (None, 0, None));
    assert!(report.models.iter().all(|model| model.all == Figures::default()));
    assert!(report.claims.too_little.is_some());
}

#[test]
fn labels_follow_the_delays() {
    // Six who are prompt and one who is not.
    let rows = (0..20).flat_map(|n| {
        (0..7).map(move |customer| {
            let delay = if customer == 0 { 9 } else { 0 };
            row(&customer.to_string(), n, 30 * i32::try_from(n).unwrap(), Some(delay))
        })
    });
    let report = evaluate(&ledger(rows), Split::Test);
    let of = |label| report.delays_by_label[&label];
    assert_eq!((of(Label::Prompt)[bin(0)], of(Label::ChronicallyLate)[bin(9)]), (48, 8));
    assert_eq!(report.label_changes, Some(7.0 / 140.0), "each of them once");
}

#[test]
fn a_report_can_be_written() {
    let mut ledger = ledger((0..10).map(|n| row("a", n, i32::try_from(n).unwrap(), Some(1))));
    ledger.add(99, Row::default());
    let json = serde_json::to_value(evaluate(&ledger, Split::Test)).unwrap();
    assert_eq!(json["rejected"]["no_customer"]["rows"], 1);
    assert_eq!(json["models"][0]["name"], "dunlin");
    assert_eq!(json["delays_by_label"]["new"][bin(1)], 4);
    assert_eq!(json["from"], "2026-01-07");
}
