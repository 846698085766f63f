use super::*;

fn day(n: i64) -> Date {
    "2026-01-05".parse::<Date>().unwrap().checked_add(n.days()).unwrap()
}

/// An invoice due so many days after the start, decided five days before, and paid so many days after it was due.
fn outcome(n: u32, due: i64, paid: Option<i64>) -> Outcome {
    Outcome {
        customer: u64::from(n / 3),
        label: Label::Mixed,
        group: if n.is_multiple_of(5) { Group::InvoiceHeldOut } else { Group::Treated },
        propensity: 0.8,
        late: Some(0.3),
        decided_on: day(due - 5),
        due_on: day(due),
        paid_on: paid.map(|paid| day(due + paid)),
        messages: n % 3,
        messages_by_due: n % 3 / 2,
        opted_out: n.is_multiple_of(50),
        complained: None,
    }
}

/// Six hundred invoices due over two hundred days; of the treated a quarter is late, of the held out half.
fn ledger() -> Vec<Outcome> {
    let paid = |n: u32| {
        let is_late = if n.is_multiple_of(5) { (n / 5).is_multiple_of(2) } else { n % 4 == 1 };
        Some(if is_late { i64::from(n % 40) + 1 } else { -2 })
    };
    (0..600).map(|n| outcome(n, 5 + i64::from(n / 3), paid(n))).collect()
}

fn setting(days: i64) -> Setting {
    Setting { started_on: day(0), as_of: day(days), treated_customers: 0.95 }
}

fn on_time(outcomes: &[Outcome], days: i64) -> Comparison {
    compare(Measure::OnTime, outcomes, setting(days))
}

#[test]
fn a_schedule_after_the_due_date_is_credited_with_exactly_nothing() {
    let after = |mut outcome: Outcome| {
        outcome.decided_on = outcome.due_on.tomorrow().unwrap();
        // A treated group that looks better on time, by whatever mistake, is not credited either.
        outcome.paid_on = Some(if outcome.group == Group::Treated { outcome.due_on } else { outcome.decided_on });
        outcome
    };
    let outcomes: Vec<Outcome> = ledger().into_iter().map(after).collect();
    let report = lift(&outcomes, &[], setting(300));
    assert_eq!(report.on_time.verdict, Verdict::ZeroByDefinition);
    assert_eq!(report.customers.verdict, Verdict::ZeroByDefinition);
    assert!(report.on_time.finding().starts_with("Exactly zero by definition"));
    assert_eq!((report.on_time.interval(), report.registered), (None, None));
    assert_eq!(report.left_out, LeftOut { decided_after_due: 600, ..LeftOut::default() });
}

#[test]
fn one_invoice_that_could_be_on_time_makes_it_a_matter_of_measurement() {
    let mut outcomes: Vec<Outcome> =
        ledger().into_iter().map(|o| Outcome { decided_on: o.due_on.tomorrow().unwrap(), ..o }).collect();
    outcomes[0].decided_on = outcomes[0].due_on;
    outcomes[0].paid_on = None;
    assert!(matches!(on_time(&outcomes, 300).verdict, Verdict::NotMeasurable { n: 1, .. }));
}

#[test]
fn after_the_due_date_days_to_pay_still_count() {
    let outcomes: Vec<Outcome> = ledger()
        .into_iter()
        .map(|o| {
            let days = if o.group == Group::Treated { 4 } else { 9 };
            let [decided_on, paid_on] = [2, days].map(|days: i64| o.due_on.checked_add(days.days()).unwrap());
            Outcome { decided_on, paid_on: Some(paid_on), ..o }
        })
        .collect();
    let days = compare(Measure::Days, &outcomes, setting(300));
    assert_eq!((days.treated.mean, days.held_out.mean), (Some(4.0), Some(9.0)));
    // Pi is .8 of the first invoices, whose baseline is not known yet, too.
    assert!((days.interval().unwrap().estimate + 5.0).abs() < 1.0, "{:?}", days.interval());
    assert!(matches!(days.verdict, Verdict::Lower { .. }), "{:?}", days.verdict);
}

#[test]
fn nothing_counts_before_it_is_known_whatever_it_is() {
    let outcomes = [outcome(1, 10, Some(-3)), outcome(2, 10, None)];
    let n = |measure, days| {
        let comparison = compare(measure, &outcomes, setting(days));
        comparison.treated.n + comparison.held_out.n
    };
    assert_eq!((n(Measure::OnTime, 10), n(Measure::OnTime, 11)), (0, 2), "early payments wait for the others");
    assert_eq!((n(Measure::Days, 70), n(Measure::Days, 71)), (0, 2));
    assert_eq!((n(Measure::OptOuts, 40), n(Measure::OptOuts, 41)), (0, 2), "chases come after the due date");
    let days = compare(Measure::Days, &outcomes, setting(71));
    assert_eq!(
        days.treated.mean,
        Some((f64::from(CAP_DAYS) - 3.0) / 2.0),
        "what is never paid counts as paid at the end"
    );
}

#[test]
fn what_comes_later_does_not_change_what_was_said() {
    let outcomes = ledger();
    let mut changed = outcomes.clone();
    changed.iter_mut().filter(|o| o.due_on >= day(100)).for_each(|o| {
        o.paid_on = None;
        o.late = Some(0.9);
    });
    let until =
        |outcomes: &[Outcome]| on_time(outcomes, 250).weeks.into_iter().take_while(|w| w.before <= day(100)).collect();
    let (before, after): (Vec<Point>, Vec<Point>) = (until(&outcomes), until(&changed));
    assert_eq!(before, after);
    assert!(before.last().unwrap().interval.is_some());
    let registered = |outcomes: &[Outcome], days| lift(outcomes, &[], setting(days)).registered;
    assert_eq!(registered(&outcomes, 89), None);
    assert!(registered(&outcomes, 90).is_some());
    assert_eq!(registered(&outcomes, 90), registered(&changed, 250), "once, for good");
}

#[test]
fn what_is_expected_of_an_outcome_comes_from_earlier_days() {
    // Were outcomes of the same day used, these would depend on the order within the day.
    let outcomes: Vec<Outcome> =
        (0..400).map(|n| outcome(n, 10 + i64::from(n / 200), Some(i64::from(n % 7) - 4))).collect();
    let backwards: Vec<Outcome> = outcomes.iter().rev().cloned().collect();
    let estimate = |outcomes: &[Outcome]| on_time(outcomes, 30).interval().unwrap().estimate;
    assert!((estimate(&outcomes) - estimate(&backwards)).abs() < 1e-12);
}

#[test]
fn the_estimate_is_near_the_plain_difference_when_groups_are_alike() {
    let now = on_time(&ledger(), 300);
    let plain = now.treated.mean.unwrap() - now.held_out.mean.unwrap();
    assert!((now.interval().unwrap().estimate - plain).abs() < 0.02, "{now:?}");
    assert_eq!((now.treated.n, now.held_out.n), (480, 120));
}

#[test]
fn predictions_make_the_interval_narrower() {
    let blind = ledger();
    let knowing: Vec<Outcome> =
        blind.iter().map(|o| Outcome { late: Some(if o.is_late() { 0.6 } else { 0.1 }), ..o.clone() }).collect();
    // Days have to be learned from the probability of being late.
    for (measure, most) in [(Measure::OnTime, 0.7), (Measure::Days, 0.9)] {
        let width = |outcomes: &[Outcome]| compare(measure, outcomes, setting(300)).interval().unwrap().half_width();
        let (blind, knowing) = (width(&blind), width(&knowing));
        assert!(knowing < most * blind, "{measure:?}: {knowing} and {blind}");
    }
}

#[test]
fn each_invoice_is_left_out_for_the_first_reason_that_applies() {
    let base = outcome(1, 10, Some(-2));
    let outcomes = [
        base.clone(),
        Outcome { decided_on: day(11), ..base.clone() },
        Outcome { paid_on: Some(day(2)), ..base.clone() },
        Outcome { propensity: 1.0, ..base.clone() },
        // Its invoices have no chance of their own, and that is not why.
        Outcome { group: Group::CustomerHeldOut, propensity: 0.0, ..base.clone() },
        outcome(1, 40, None),
    ];
    let report = lift(&outcomes, &[], setting(30));
    let one_each =
        LeftOut { decided_after_due: 1, paid_before: 1, without_chance: 1, customer_held_out: 1, not_yet_due: 1 };
    assert_eq!(report.left_out, one_each);
    assert_eq!(report.on_time.treated.n + report.on_time.held_out.n, 1);
}

#[test]
fn customers_held_out_for_good_are_compared_with_treated_invoices_only() {
    let outcomes: Vec<Outcome> = (0..2_000)
        .map(|n| {
            let group = match n % 20 {
                0 => Group::CustomerHeldOut,
                1 => Group::InvoiceHeldOut,
                _ => Group::Treated,
            };
            // Two invoices of each customer; a customer is whole in its holdout.
            let paid = if group == Group::Treated || n % 40 == 0 { -1 } else { 3 };
            Outcome { customer: u64::from(n % 1_000), group, ..outcome(n, 5 + i64::from(n / 20), Some(paid)) }
        })
        .collect();
    let customers = compare_customers(Measure::OnTime, &outcomes, setting(200));
    let now = customers.weeks.last().unwrap();
    assert_eq!((now.treated, now.held_out), (900, 50), "customers");
    assert_eq!((customers.treated.mean, customers.held_out.mean), (Some(1.0), Some(0.5)));
    assert_eq!((customers.treated.n, customers.held_out.n), (1_800, 100), "their invoices");
    assert!(matches!(customers.verdict, Verdict::Higher { .. }), "{:?}", customers.verdict);
}

#[test]
fn messages_are_counted_for_each_side() {
    let guards = lift(&ledger(), &[], setting(300)).guards;
    // Treated invoices have 0, 1 or 2 messages; all are paid.
    assert_eq!((guards.treated.invoices, guards.held_out.invoices), (480, 120));
    assert_eq!(guards.treated, Effort { invoices: 480, messages: 480, messages_by_due: 160, recovered: 320 });
    assert_eq!(guards.treated.per_recovered(), Some(1.5));
    assert_eq!(Effort::default().per_recovered(), None);
    assert_eq!(guards.opt_outs.held_out.mean, Some(0.1), "12 of 120");
    assert_eq!(guards.opt_outs.treated.mean, Some(0.0));
    assert_eq!(guards.complaints, None, "not collected is not none");
    let collected: Vec<Outcome> = ledger().into_iter().map(|o| Outcome { complained: Some(false), ..o }).collect();
    let complaints = lift(&collected, &[], setting(300)).guards.complaints.unwrap();
    assert_eq!(complaints.treated, Side { n: 480, mean: Some(0.0) });
}

#[test]
fn calibration_and_delays_count_every_invoice_once() {
    let report = lift(&ledger(), &[], setting(300));
    let (treated, held_out) = (&report.calibration, &report.calibration_held_out);
    let of = |bins: &[Calibration]| {
        let late = bins.iter().map(|bin| bin.observed * f64::from(bin.n)).sum::<f64>();
        (bins.len(), bins.iter().map(|bin| bin.n).sum::<u32>(), late.round())
    };
    // A quarter of 480 is late, half of 120; a bin has 20 at least.
    assert_eq!((of(treated), of(held_out)), ((10, 480, 120.0), (6, 120, 60.0)));
    let unknown: Vec<Outcome> = ledger().into_iter().map(|o| Outcome { late: None, ..o }).collect();
    assert_eq!(lift(&unknown, &[], setting(300)).calibration, [], "what was not predicted cannot be wrong");
    let [delays] = report.delays[..] else { panic!("{:?}", report.delays) };
    assert_eq!(delays.on_time, 420);
    assert_eq!(delays.on_time + delays.a_bit_late + delays.late + delays.very_late, 600);
    let late = |days: std::ops::RangeInclusive<i64>| {
        ledger().iter().filter(|o| o.days_late().is_some_and(|d| days.contains(&i64::from(d)))).count() as u32
    };
    assert_eq!([delays.a_bit_late, delays.late, delays.very_late], [late(1..=7), late(8..=30), late(31..=99)]);
}

#[test]
fn arms_are_compared_as_if_each_were_always_drawn() {
    let trial =
        |arm: &str, propensity, is_success| Trial { step: "before".into(), arm: arm.into(), propensity, is_success };
    // Easy payers (all succeed) got -5 nine times of ten; hard ones (none succeeds) once of ten.
    let mut trials = vec![trial("day -5", 0.9, true); 900];
    trials.extend(vec![trial("none", 0.1, true); 100]);
    trials.extend(vec![trial("day -5", 0.1, false); 100]);
    trials.extend(vec![trial("none", 0.9, false); 900]);
    let reports = lift(&[], &trials, setting(30)).arms;
    let [early, none] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((none.observed, early.observed), (0.1, 0.9), "as drawn, one looks far better");
    assert!([none, early].iter().all(|arm| (arm.success.estimate - 0.5).abs() < 1e-9), "{reports:?}");
    assert!([none, early].iter().all(|arm| arm.share == 0.5 && arm.n == 1_000));
    assert!(none.success.half_width() > 0.04, "few decisions carry most of the weight: {none:?}");
}

#[test]
fn a_report_is_stored_and_read_again() {
    let trial = Trial { step: "before".into(), arm: "day -5".into(), propensity: 0.5, is_success: true };
    let report = lift(&ledger(), &[trial], setting(300));
    let text = serde_json::to_string(&report).unwrap();
    let read: LiftReport = serde_json::from_str(&text).unwrap();
    // Numbers are read to all but their last bit.
    assert_eq!((read.on_time.verdict, read.left_out), (report.on_time.verdict, report.left_out));
    assert_eq!((&read.arms[0].arm, read.delays, read.setting), (&report.arms[0].arm, report.delays, report.setting));
    assert!((read.registered.unwrap().low - report.registered.unwrap().low).abs() < 1e-12);
    assert!(text.contains(r#""verdict":{"verdict":"higher","needed":"#));
}

#[test]
fn a_page_says_what_may_be_claimed_and_what_may_not() {
    let page = |outcomes: &[Outcome]| page("Lift of <acme>", &lift(outcomes, &[], setting(300)));
    for page in [page(&[]), page(&ledger())] {
        assert!(page.contains("Lift of &lt;acme&gt;") && !page.contains("<script"));
        assert!(page.contains("your own lift, or that it cannot be measured yet"));
        assert!(page.contains("timing, rather than the existence, of a reminder"));
    }
    assert!(page(&[]).contains("Not measurable yet: 0 of about"));
    assert_eq!(page(&ledger()).matches("<figure>").count(), 3 + 2, "on time, calibration of both, delays, days to pay");
}
