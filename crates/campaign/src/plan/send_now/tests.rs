use super::*;
use crate::campaign::Campaign;
use crate::campaign::tests::{SAMPLE, parse, sample};
use crate::case::{Choice, Decided, Hold};
use crate::plan::tests::{at, case, date, late, reminded, sends, silent, skips, strict_law, terms};

fn ask(campaign: &Campaign, case: &Case<'_>, step: Option<&str>, now: &str) -> Result<Plan, Refusal> {
    send_now(&terms(campaign, "Europe/Berlin"), case, step, at(now))
}

fn refused(case: &Case<'_>, step: Option<&str>, now: &str) -> (Reason, String, Option<String>) {
    let refusal = ask(&sample(), case, step, now).unwrap_err();
    (refusal.reason, refusal.rule, refusal.until.map(|until| until.to_string()))
}

fn told(reason: Reason, rule: &str, until: Option<&str>) -> (Reason, String, Option<String>) {
    (reason, rule.to_owned(), until.map(str::to_owned))
}

const WEDNESDAY: &str = "2026-06-03T12:00:00Z";

#[test]
fn the_next_step_goes_before_its_day_and_the_others_follow_from_it() {
    // Without a word it would be Thursday's.
    let plan = ask(&sample(), &late(&[]), None, WEDNESDAY).unwrap();
    assert_eq!(sends(&plan), Some(("overdue-3", vec![])));
    assert_eq!(skips(&plan), [("upcoming", Reason::TooLate, "steps.upcoming.when")]);
    assert_eq!(plan.wake_at, Some(at("2026-06-08T07:00:00Z")), "three days on is a Saturday");

    // A further one speaks for those before it, and for the follow-up of the one that does not speak itself.
    let plan = ask(&sample(), &late(&[silent("upcoming", "2026-05-29")]), Some("overdue-7"), WEDNESDAY).unwrap();
    assert_eq!(sends(&plan), Some(("overdue-7", vec!["overdue-3", "follow-up"])));
    // Steps that news triggers are not spoken for while there is none.
    assert!(plan.skip.is_empty());

    // A courtesy goes early to those whom the campaign means, and so does the answer to a failure.
    assert_eq!(sends(&ask(&sample(), &late(&[]), None, "2026-05-20T12:00:00Z").unwrap()), Some(("upcoming", vec![])));
    let failed = ask(&sample(), &late(&[]), Some("failed"), "2026-05-20T12:00:00Z").unwrap();
    assert_eq!(sends(&failed), Some(("failed", vec!["upcoming"])));
    // Of several that are due it is the furthest, as planning does it.
    let both = [silent("upcoming", "2026-05-29")];
    assert_eq!(sends(&ask(&sample(), &late(&both), None, "2026-06-09T12:00:00Z").unwrap()).unwrap().0, "overdue-7");
}

#[test]
fn the_place_in_the_spread_and_the_turn_in_a_ramp_are_the_operators_business() {
    let campaign = sample();
    let known = [silent("upcoming", "2026-05-29")];
    let case = Case { spread: 800, not_before: Some(date("2026-07-01")), ..late(&known) };
    assert!(ask(&campaign, &case, None, "2026-06-03T07:00:30Z").is_ok());
}

#[test]
fn an_operator_may_ask_for_what_a_choice_leaves_out() {
    let window = "days_before_due: 3 }, timing: adaptive, window: { may_skip: true }";
    let campaign = parse(&SAMPLE.replace("days_before_due: 3 }", window));
    let choices = [("upcoming".to_owned(), Choice::Skip)];
    let advised = Case { choices: &choices, ..late(&[]) };
    let due = "2026-05-29T12:00:00Z";
    let planned = crate::plan(&terms(&campaign, "Europe/Berlin"), &advised, at(due));
    assert_eq!(skips(&planned), [("upcoming", Reason::Advised, "steps.upcoming.window.may_skip")]);
    assert_eq!(sends(&ask(&campaign, &advised, Some("upcoming"), due).unwrap()), Some(("upcoming", vec![])));
}

#[test]
fn what_keeps_planning_from_sending_keeps_an_operator_from_it() {
    let known = [silent("upcoming", "2026-05-29")];
    let open = late(&known);
    let monday = Some("2026-06-08T07:00:00Z");
    let hold =
        |until: Option<&str>| [Hold { reason: Reason::ManualHold, until: until.map(at), rule: "hold 7".to_owned() }];
    let (dispute, held) = (hold(None), hold(monday));
    let tuesday = [date("2026-06-02")];
    for (case, expected) in [
        (Case { is_open: false, ..open }, told(Reason::NotOpen, "invoice.status", None)),
        (Case { ended: true, ..open }, told(Reason::SequenceEnded, "end", None)),
        (Case { opted_out: true, ..open }, told(Reason::OptedOut, "customer.opted_out", None)),
        (Case { holds: &dispute, ..open }, told(Reason::ManualHold, "hold 7", None)),
        (Case { holds: &held, ..open }, told(Reason::ManualHold, "hold 7", monday)),
        (
            Case { promised_on: Some(date("2026-06-06")), ..open },
            told(Reason::Promise, "holds.promise_grace_days", Some("2026-06-09T07:00:00Z")),
        ),
        (
            Case { pending_since: Some(date("2026-06-01")), ..open },
            told(Reason::PendingPayment, "holds.pending_payment_days", Some("2026-06-15T07:00:00Z")),
        ),
        (
            Case { contacts: &tuesday, ..open },
            told(Reason::MinGap, "contact.min_gap_days", Some("2026-06-04T07:00:00Z")),
        ),
        (
            Case { contacts: &[date("2026-05-29")], in_flight: true, ..open },
            told(Reason::InFlight, "customer.in_flight", Some("2026-06-04T07:00:00Z")),
        ),
    ] {
        assert_eq!(refused(&case, None, WEDNESDAY), expected);
    }
    let closed = told(Reason::ContactHours, "contact", Some("2026-06-04T07:00:00Z"));
    assert_eq!(refused(&open, None, "2026-06-03T16:00:00Z"), closed, "18:00 is too late");
    let capped = parse(&SAMPLE.replace("min_gap_days: 2", "min_gap_days: 1, cap: { reminders: 1, days: 7 }"));
    let refusal = ask(&capped, &Case { contacts: &tuesday, ..open }, None, WEDNESDAY).unwrap_err();
    assert_eq!((refusal.reason, refusal.until), (Reason::Cap, Some(at("2026-06-09T07:00:00Z"))));
}

#[test]
fn a_step_that_is_decided_unknown_or_does_not_apply_is_refused() {
    let known = [silent("upcoming", "2026-05-29")];
    let named = |step: &str| refused(&late(&known), Some(step), WEDNESDAY);
    assert_eq!(named("upcoming"), told(Reason::AlreadyDecided, "steps.upcoming", None));
    assert_eq!(named("overdue-33"), told(Reason::UnknownStep, "steps.overdue-33", None));
    let prompt = refused(&case(&[]), Some("upcoming"), "2026-05-20T12:00:00Z");
    assert_eq!(prompt, told(Reason::Condition, "steps.upcoming.only_if.segment", None));
    let too_late = refused(&late(&[]), Some("upcoming"), WEDNESDAY);
    assert_eq!(too_late, told(Reason::TooLate, "steps.upcoming.when", None));
    let lost = [reminded("overdue-3", "2026-05-20"), reminded("overdue-7", "2026-05-25")];
    assert_eq!(refused(&late(&lost), Some("follow-up"), WEDNESDAY).0, Reason::LaterStep, "nobody asks mildly again");
    let dateless = Case { due_on: None, ..late(&[]) };
    assert_eq!(refused(&dateless, None, WEDNESDAY), told(Reason::NothingLeft, "steps", None));
    let silent_one = Case { opted_out: true, ..late(&[]) };
    assert_eq!(refused(&silent_one, None, WEDNESDAY).0, Reason::OptedOut, "it says why there is no next one");
}

#[test]
fn what_speaks_of_an_overdue_invoice_waits_for_the_due_date_and_the_law() {
    let on_the_due_date = |step: &str| refused(&late(&[]), Some(step), "2026-06-01T12:00:00Z");
    for step in ["overdue-3", "follow-up", "overdue-7"] {
        assert_eq!(on_the_due_date(step), told(Reason::NotDue, "invoice.due_on", Some("2026-06-02T07:00:00Z")));
    }
    let campaign = sample();
    let lawful = Terms { law: Some(strict_law()), ..terms(&campaign, "Europe/Berlin") };
    let refusal = send_now(&lawful, &late(&[]), Some("overdue-7"), at(WEDNESDAY)).unwrap_err();
    let rule = "NO/inkassoforskriften/2020.earliest_days_after_due".to_owned();
    let until = Some(at("2026-06-15T07:00:00Z"));
    assert_eq!(refusal, Refusal { reason: Reason::LawEarliest, rule, until });
}

#[test]
fn the_next_step_is_the_one_that_planning_would_send() {
    let campaign = sample();
    let next = |decided: &[Decided], now: &str| next_step(&terms(&campaign, "Europe/Berlin"), &late(decided), at(now));
    let step = |key: &str, when: &str| Some((key.to_owned(), at(when)));
    assert_eq!(next(&[], "2026-05-20T12:00:00Z"), step("upcoming", "2026-05-29T07:00:00Z"));
    assert_eq!(next(&[], WEDNESDAY), step("overdue-3", "2026-06-04T07:00:00Z"));
    assert_eq!(next(&[], "2026-06-09T12:00:00Z"), step("overdue-7", "2026-06-09T12:00:00Z"));
    let ended = Case { ended: true, ..late(&[]) };
    assert_eq!(next_step(&terms(&campaign, "Europe/Berlin"), &ended, at(WEDNESDAY)), None);
}
