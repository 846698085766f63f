//! The defect classes that other products of this field have, each shown not to be possible in planning. Those that need a
//! database are in `services/scheduler/tests/defects.rs`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use campaign::{Calendars, Campaign, Case, Decided, Ending, Facts, Offset, Place, Plan, Reason, Terms, Trigger, plan};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::contact::zone;
use kernel::{Currency, PayerKind, Segment};

const CAMPAIGN: &str = "
name: defects
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 0 }
steps:
  - { key: before-3, when: { days_before_due: 3 }, tone: friendly }
  - { key: after-3, when: { days_after_due: 3 }, tone: friendly }
  - { key: after-10, when: { days_after_due: 10 }, only_if: { amount: { EUR: { at_least: 50 } } }, tone: firm }
end: { after_days: 7, outcome: hand_over }
";

fn parse(text: &str) -> Campaign {
    Campaign::try_new(&serde_saphyr::from_str(text).unwrap(), text).unwrap()
}

fn date(text: &str) -> Date {
    text.parse().unwrap()
}

/// Due on Monday, 1 June 2026.
fn case(decided: &[Decided]) -> Case<'_> {
    let facts = Facts {
        merchant: "acme",
        customer: "cus_1",
        segment: Segment::New,
        customer_tags: &[],
        country: "",
        payer: PayerKind::Business,
        currency: Currency::try_new("EUR").unwrap(),
        open_minor: 10_000,
        balance_minor: 10_000,
        invoice_tags: &[],
        failed_attempts: 0,
        decline_code: "",
    };
    Case {
        is_open: true,
        facts,
        due_on: Some(date("2026-06-01")),
        opened_on: date("2026-05-01"),
        not_before: None,
        reopened_on: None,
        last_failed_on: None,
        promised_on: None,
        pending_since: None,
        collects_itself: false,
        holds: &[],
        opted_out: false,
        decided,
        contacts: &[],
        in_flight: false,
        ended: false,
        choices: &[],
        spread: 0,
    }
}

fn plan_in(zone_name: &str, campaign: &Campaign, case: &Case<'_>, now: &str) -> Plan {
    let now: Timestamp = now.parse().unwrap();
    let place = Place { zone: zone(zone_name).unwrap(), country: "", payer: PayerKind::Business };
    let today = place.zone.to_datetime(now).date();
    plan(&Terms::new(campaign, &place, &Calendars::default(), today), case, now)
}

fn plan_at(case: &Case<'_>, now: &str) -> Plan {
    plan_in("Europe/Berlin", &parse(CAMPAIGN), case, now)
}

fn sent(plan: &Plan) -> Option<&str> {
    plan.send.as_ref().map(|send| send.step.as_str())
}

fn reminded(step: &str, on: &str) -> Decided {
    Decided { step: step.to_owned(), on: date(on), reminded: true }
}

fn silent(step: &str, on: &str) -> Decided {
    Decided { step: step.to_owned(), on: date(on), reminded: false }
}

/// "Send if today is exactly the day": one missed run loses the step.
#[test]
fn defect_01_exact_day_only_firing() {
    let decided = [silent("before-3", "2026-05-29")];
    for late in ["2026-06-04", "2026-06-05", "2026-06-09", "2026-06-10"] {
        assert_eq!(sent(&plan_at(&case(&decided), &format!("{late}T10:00:00Z"))), Some("after-3"), "{late}");
    }
    let year = plan_at(&case(&decided), "2027-06-04T10:00:00Z");
    let send = year.send.unwrap();
    assert_eq!((send.step.as_str(), send.merged), ("after-10", vec!["after-3".to_owned()]), "no lower bound");
}

/// No look at the ledger before the send: what is planned depends on nothing but what is known now.
#[test]
fn defect_03_no_look_at_the_ledger_before_the_send() {
    let (decided, now) = ([silent("before-3", "2026-05-29")], "2026-06-04T10:00:00Z");
    assert_eq!(sent(&plan_at(&case(&decided), now)), Some("after-3"));
    assert_eq!(plan_at(&Case { is_open: false, ..case(&decided) }, now), Plan::default(), "paid a moment ago");
}

/// A stop cancels only what exists: here nothing exists that a stop could miss, and reopening starts from its own day.
#[test]
fn defect_04_cancel_that_misses_what_is_not_yet_queued() {
    for now in ["2026-05-29T10:00:00Z", "2026-06-04T10:00:00Z", "2026-07-01T10:00:00Z", "2027-01-04T10:00:00Z"] {
        assert_eq!(plan_at(&Case { is_open: false, ..case(&[]) }, now), Plan::default());
        let stopped = plan_at(&Case { opted_out: true, ..case(&[]) }, now);
        assert_eq!(sent(&stopped), None, "asked at every step, not once");
    }
}

/// A re-check relative to the last check skips a state: dates come from the invoice, however often one looks.
#[test]
fn defect_05_relative_to_the_last_check() {
    let decided = [silent("before-3", "2026-05-29")];
    let mut now: Timestamp = "2026-05-29T10:00:00Z".parse().unwrap();
    let end: Timestamp = "2026-06-04T07:00:00Z".parse().unwrap();
    while now < end {
        let plan = plan_at(&case(&decided), &now.to_string());
        assert_eq!((sent(&plan), plan.next_step_at), (None, Some(end)), "looked at {now}");
        now += jiff::SignedDuration::from_mins(97);
    }
}

/// A silent skip: whatever is not sent has a reason and what says so.
#[test]
fn defect_08_silent_skip() {
    let poor = case(&[]);
    let poor = Case { facts: Facts { open_minor: 1, ..poor.facts }, ..poor };
    let plan = plan_at(&poor, "2026-06-11T10:00:00Z");
    let skips: Vec<_> = plan.skip.iter().map(|s| (s.step.as_str(), s.reason, s.rule.as_str())).collect();
    assert_eq!(
        skips,
        [
            ("before-3", Reason::TooLate, "steps.before-3.when"),
            ("after-10", Reason::Condition, "steps.after-10.only_if.amount")
        ]
    );
}

/// A settings change rewrites running cases: a version is the hash of its text, and planning asks for one campaign, not for
/// the current one. What was decided under it stays, whatever another version calls its steps.
#[test]
fn defect_09_settings_change_rewrites_running_cases() {
    let changed = CAMPAIGN.replace("days_after_due: 10", "days_after_due: 5").replace("key: after-3", "key: third");
    assert_ne!(parse(&changed).version, parse(CAMPAIGN).version);
    let decided = [silent("before-3", "2026-05-29"), reminded("after-3", "2026-06-04")];
    let contacts = [date("2026-06-04")];
    let running = Case { contacts: &contacts, ..case(&decided) };
    let pinned = plan_at(&running, "2026-06-08T10:00:00Z");
    assert_eq!(pinned.next_step_at, Some("2026-06-11T07:00:00Z".parse().unwrap()), "the tenth day, as it began");
    let rewritten = plan_in("Europe/Berlin", &parse(&changed), &running, "2026-06-08T10:00:00Z");
    assert_eq!(
        sent(&rewritten),
        Some("after-10"),
        "what it would be if the new version applied: a second first reminder"
    );
}

/// Gross instead of open amount: thresholds ask what is still owed.
#[test]
fn defect_10_gross_instead_of_open_amount() {
    let decided = [silent("before-3", "2026-05-29"), reminded("after-3", "2026-06-04")];
    let owes = |open_minor| {
        let case = case(&decided);
        Case { facts: Facts { open_minor, ..case.facts }, ..case }
    };
    assert_eq!(sent(&plan_at(&owes(5_000), "2026-06-11T10:00:00Z")), Some("after-10"));
    let part_paid = plan_at(&owes(4_999), "2026-06-11T10:00:00Z");
    assert_eq!((sent(&part_paid), part_paid.skip.len()), (None, 1));
}

/// A fixed UTC offset: nine in the morning stays nine on the payer's clock.
#[test]
fn defect_13_fixed_utc_offset() {
    for (zone, due, opens) in [
        ("Europe/Berlin", "2026-03-24", "2026-03-27T08:00:00Z"),
        ("Europe/Berlin", "2026-03-27", "2026-03-30T07:00:00Z"), // summer time since Sunday
        ("Europe/Berlin", "2026-10-23", "2026-10-26T08:00:00Z"), // and winter time
        ("Asia/Kathmandu", "2026-06-01", "2026-06-04T03:15:00Z"),
        ("Pacific/Kiritimati", "2026-06-01", "2026-06-03T19:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-02", "2026-10-04T22:00:00Z"), // half an hour of summer time
    ] {
        let decided = [silent("before-3", "2026-01-01")];
        let case = Case { due_on: Some(date(due)), opened_on: date("2026-01-01"), ..case(&decided) };
        let early = format!("{due}T00:00:00Z");
        let plan = plan_in(zone, &parse(CAMPAIGN), &case, &early);
        assert_eq!(plan.next_step_at, Some(opens.parse().unwrap()), "{zone}");
    }
}

/// A sign slip: sixty days late means sixty days early. Files have no signs, and what is after due is never before it.
#[test]
fn defect_14_sign_slip() {
    let text = CAMPAIGN.replace("days_after_due: 3 ", "days_after_due: 60 ");
    let campaign = parse(&text);
    assert_eq!(campaign.steps[0].trigger, Trigger::FromDue(Offset::Days(-3)));
    assert_eq!(campaign.steps[1].trigger, Trigger::FromDue(Offset::Days(60)));
    let negative = CAMPAIGN.replace("days_after_due: 3 ", "days_after_due: -60 ");
    assert!(serde_saphyr::from_str::<campaign::CampaignFile>(&negative).is_err());
    let decided = [silent("before-3", "2026-05-29"), silent("after-10", "2026-05-29")];
    let plan = plan_in("Europe/Berlin", &campaign, &case(&decided), "2026-06-02T10:00:00Z");
    assert_eq!(plan.next_step_at, Some("2026-07-31T07:00:00Z".parse().unwrap()));
}

/// Endless reminders: each sequence ends, once, with a name.
#[test]
fn defect_15_endless_reminders() {
    let decided =
        [silent("before-3", "2026-05-29"), reminded("after-3", "2026-06-04"), reminded("after-10", "2026-06-11")];
    let contacts = [date("2026-06-04"), date("2026-06-11")];
    let done = Case { contacts: &contacts, ..case(&decided) };
    assert_eq!(plan_at(&done, "2026-06-18T07:00:00Z").end, Some(Ending::HandOver));
    let ended = Case { ended: true, ..done };
    for now in ["2026-06-18T07:00:00Z", "2026-09-01T07:00:00Z", "2036-09-01T07:00:00Z"] {
        assert_eq!(plan_at(&ended, now), Plan::default(), "told once, and nothing ever after");
    }
}

/// The payment and the due moment race: at the same moment the payment wins, in whatever order they are heard.
#[test]
fn defect_17_payment_overdue_race() {
    let moment = "2026-06-04T07:00:00Z";
    let decided = [silent("before-3", "2026-05-29")];
    assert_eq!(sent(&plan_at(&case(&decided), moment)), Some("after-3"));
    assert_eq!(plan_at(&Case { is_open: false, ..case(&decided) }, moment), Plan::default());
    // Heard after the reminder was planned, but before anything was decided: nothing is left of the plan.
    let again = plan_at(&Case { is_open: false, ..case(&decided) }, "2026-06-04T07:00:01Z");
    assert_eq!(again, Plan::default());
}

/// A late old event regresses a state: a due date that moves back changes nothing of what is decided.
#[test]
fn defect_18_late_event_regressing_a_state() {
    let decided = [silent("before-3", "2026-05-29"), reminded("after-3", "2026-06-04")];
    let contacts = [date("2026-06-04")];
    let moved = Case { due_on: Some(date("2026-06-08")), contacts: &contacts, ..case(&decided) };
    let plan = plan_at(&moved, "2026-06-11T10:00:00Z");
    assert_eq!(sent(&plan), None, "the third day after the new due date, but that step has spoken");
    assert!(plan.skip.is_empty() && plan.next_step_at == Some("2026-06-18T07:00:00Z".parse().unwrap()), "{plan:?}");
}
