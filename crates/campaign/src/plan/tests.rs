use super::*;
use crate::campaign::tests::{SAMPLE, parse, sample};
use crate::case::{Decided, Hold};
use crate::condition::tests::facts;
use crate::file::Ending;
use kernel::Segment;
use kernel::contact::zone;
use std::sync::Arc;

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn date(text: &str) -> Date {
    text.parse().unwrap()
}

pub(super) fn terms<'a>(campaign: &'a Campaign, zone_name: &str) -> Terms<'a> {
    let hours = Some(campaign.hours.in_zone(zone(zone_name).unwrap()));
    Terms { campaign, hours, holidays: calendar::Holidays::default(), law: None }
}

/// Due on Monday, 1 June 2026, in Berlin; known since 1 May.
pub(super) fn case<'a>(decided: &'a [Decided]) -> Case<'a> {
    Case {
        is_open: true,
        facts: crate::Facts { segment: Segment::New, failed_attempts: 0, decline_code: "", ..facts() },
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

fn run(campaign: &Campaign, case: &Case<'_>, now: &str) -> Plan {
    plan(&terms(campaign, "Europe/Berlin"), case, at(now))
}

pub(super) fn reminded(step: &str, on: &str) -> Decided {
    Decided { step: step.to_owned(), on: date(on), reminded: true }
}

pub(super) fn silent(step: &str, on: &str) -> Decided {
    Decided { step: step.to_owned(), on: date(on), reminded: false }
}

pub(super) fn sends(plan: &Plan) -> Option<(&str, Vec<&str>)> {
    plan.send.as_ref().map(|s| (s.step.as_str(), s.merged.iter().map(String::as_str).collect()))
}

pub(super) fn skips(plan: &Plan) -> Vec<(&str, Reason, &str)> {
    plan.skip.iter().map(|s| (s.step.as_str(), s.reason, s.rule.as_str())).collect()
}

fn waits(plan: &Plan) -> Option<(Reason, &str, Option<Timestamp>)> {
    plan.deferred.as_ref().map(|d| (d.reason, d.rule.as_ref(), d.until))
}

pub(super) fn late(decided: &[Decided]) -> Case<'_> {
    let case = case(decided);
    Case { facts: crate::Facts { segment: Segment::UsuallyLate, ..case.facts }, ..case }
}

#[test]
fn a_case_goes_through_its_steps() {
    let campaign = sample();
    // Three days before is Friday, 29 May. Prompt payers are left alone.
    let early = run(&campaign, &case(&[]), "2026-05-20T10:00:00Z");
    let friday = Some(at("2026-05-29T07:00:00Z"));
    assert_eq!(early, Plan { wake_at: friday, next_step_at: friday, ..Plan::default() });
    let upcoming = run(&campaign, &case(&[]), "2026-05-29T07:00:00Z");
    assert_eq!(skips(&upcoming), [("upcoming", Reason::Condition, "steps.upcoming.only_if.segment")]);
    assert_eq!(upcoming.wake_at, Some(at("2026-06-04T07:00:00Z")));
    assert_eq!(sends(&run(&campaign, &late(&[]), "2026-05-29T07:00:00Z")), Some(("upcoming", vec![])));

    // Three days after due: a Thursday. The follow-up gets its date by it: three days on is a Sunday, so Monday.
    let skipped = [silent("upcoming", "2026-05-29")];
    let third = run(&campaign, &case(&skipped), "2026-06-04T07:00:00Z");
    assert_eq!(sends(&third), Some(("overdue-3", vec![])));
    assert_eq!(third.wake_at, Some(at("2026-06-08T07:00:00Z")));

    // That Monday the seventh day is due as well: one message, the furthest speaks.
    let decided = [skipped[0].clone(), reminded("overdue-3", "2026-06-04")];
    let both = Case { contacts: &[date("2026-06-04")], ..case(&decided) };
    let monday = run(&campaign, &both, "2026-06-08T07:00:00Z");
    assert_eq!(sends(&monday), Some(("overdue-7", vec!["follow-up"])));
    assert_eq!(monday.send.unwrap().since, date("2026-06-07"));
}

#[test]
fn the_gap_keeps_two_reminders_apart() {
    // Due on a Tuesday: day 3 is Friday 5, the follow-up Monday 8, day 7 the Tuesday after it.
    let decided = [reminded("overdue-3", "2026-06-05"), reminded("follow-up", "2026-06-08")];
    let contacts = [date("2026-06-05"), date("2026-06-08")];
    let case = Case { due_on: Some(date("2026-06-02")), contacts: &contacts, ..late(&decided) };
    let until = at("2026-06-10T07:00:00Z");
    let tuesday = run(&sample(), &case, "2026-06-09T07:00:00Z");
    assert_eq!((sends(&tuesday), waits(&tuesday)), (None, Some((Reason::MinGap, "contact.min_gap_days", Some(until)))));
    assert_eq!(sends(&run(&sample(), &case, "2026-06-10T07:00:00Z")), Some(("overdue-7", vec![])));
}

#[test]
fn the_cap_holds_over_a_rolling_period() {
    let campaign = parse(&SAMPLE.replace("min_gap_days: 2", "min_gap_days: 1, cap: { reminders: 2, days: 7 }"));
    let contacts = [date("2026-05-20"), date("2026-05-29"), date("2026-06-02")];
    let case = Case { contacts: &contacts, ..late(&[]) };
    let thursday = run(&campaign, &case, "2026-06-04T07:00:00Z");
    assert_eq!(waits(&thursday), Some((Reason::Cap, "contact.cap", Some(at("2026-06-05T07:00:00Z")))));
    assert_eq!(sends(&run(&campaign, &case, "2026-06-05T07:00:00Z")), Some(("overdue-3", vec![])));
}

#[test]
fn nothing_follows_while_a_reminder_is_on_its_way() {
    let decided = [reminded("overdue-3", "2026-06-04")];
    let waiting = Case { contacts: &[date("2026-06-04")], in_flight: true, ..case(&decided) };
    let monday = run(&sample(), &waiting, "2026-06-08T07:00:00Z");
    assert_eq!(waits(&monday).map(|w| w.0), Some(Reason::InFlight));
    assert_eq!(monday.wake_at, Some(at("2026-06-09T07:00:00Z")));
    let arrived = Case { in_flight: false, ..waiting };
    let expected = Some(("overdue-7", vec!["follow-up"]));
    assert_eq!(sends(&run(&sample(), &arrived, "2026-06-09T07:00:00Z")), expected);
    assert_eq!(sends(&run(&sample(), &waiting, "2026-06-18T07:00:00Z")), expected, "every hold ends by itself");
}

#[test]
fn nobody_asks_mildly_after_the_last_call() {
    // Due on a Wednesday: day 3 is a Saturday, so Monday 8; day 7 is Wednesday 10; the follow-up Thursday 11.
    let decided = [reminded("overdue-3", "2026-06-08"), reminded("overdue-7", "2026-06-10")];
    let contacts = [date("2026-06-08"), date("2026-06-10")];
    let case = Case { due_on: Some(date("2026-06-03")), contacts: &contacts, ..late(&decided) };
    let thursday = run(&sample(), &case, "2026-06-11T07:00:00Z");
    let follow_up = ("follow-up", Reason::LaterStep, "steps.overdue-7");
    assert_eq!(skips(&thursday), [("upcoming", Reason::TooLate, "steps.upcoming.when"), follow_up]);
    assert_eq!(sends(&thursday), None);
    // One that spoke before the step it counts from does not overtake it; nor does one that did not go out.
    for other in [reminded("overdue-7", "2026-06-05"), silent("overdue-7", "2026-06-10")] {
        let decided = [decided[0].clone(), other];
        let case = Case { decided: &decided, contacts: &contacts[..1], ..case };
        assert_eq!(sends(&run(&sample(), &case, "2026-06-11T07:00:00Z")), Some(("follow-up", vec![])));
    }
}

#[test]
fn a_follow_up_of_nothing_is_skipped() {
    let failed = [silent("overdue-3", "2026-06-04")];
    let lost = ("follow-up", Reason::BaseNotSent, "steps.follow-up.when");
    assert!(skips(&run(&sample(), &case(&failed), "2026-06-05T07:00:00Z")).contains(&lost));
    let opted_out = run(&sample(), &Case { opted_out: true, ..case(&[]) }, "2026-06-04T07:00:00Z");
    assert!(skips(&opted_out).contains(&lost), "together with its base: {opted_out:?}");
}

#[test]
fn nights_weekends_and_holidays_defer() {
    let campaign = parse(&SAMPLE.replace("min_gap_days: 2", "min_gap_days: 2, holidays: [DE]"));
    let de = calendar::built_in("DE").unwrap().clone();
    let holidays: calendar::Holidays = [de].into_iter().collect();
    let closed: Arc<[Date]> = holidays.closed_between(Date::MIN, Date::MAX).into();
    let mut terms = terms(&campaign, "Europe/Berlin");
    terms.hours = terms.hours.map(|hours| hours.with_closed(closed));
    terms.holidays = holidays;
    for (due, now, until) in [
        ("2026-06-01", "2026-06-04T18:00:00Z", "2026-06-05T07:00:00Z"), // Thursday evening
        ("2026-06-01", "2026-06-06T10:00:00Z", "2026-06-08T07:00:00Z"), // Saturday
        ("2026-04-01", "2026-04-06T10:00:00Z", "2026-04-07T07:00:00Z"), // Easter Monday
    ] {
        // Fell due before the closed time began.
        let case = Case { due_on: Some(date(due)), ..case(&[]) };
        let plan = plan(&terms, &case, at(now));
        let waits = waits(&plan);
        if due == "2026-04-01" {
            assert_eq!((waits, plan.wake_at), (None, Some(at(until))), "day 3, Saturday, opens after Easter");
        } else {
            assert_eq!(waits, Some((Reason::ContactHours, "contact", Some(at(until)))));
        }
        assert_eq!(plan.wake_at, Some(at(until)));
    }
    // A year that the calendar does not know holds, and says so.
    let far = Case { due_on: Some(date("2077-06-01")), ..case(&[]) };
    let blind = plan(&terms, &far, at("2077-06-08T10:00:00Z"));
    assert_eq!(waits(&blind).map(|w| (w.0, w.1)), Some((Reason::CalendarMissing, "calendars.DE.years.2077")));
    assert!(blind.wake_at.is_some(), "looked at daily until the file is there");
}

#[test]
fn an_outage_sends_one_reminder() {
    let after = run(&sample(), &case(&[]), "2026-07-15T10:00:00Z");
    assert_eq!(sends(&after), Some(("overdue-7", vec!["overdue-3", "follow-up"])));
    assert_eq!(skips(&after), [("upcoming", Reason::TooLate, "steps.upcoming.when")]);
}

#[test]
fn failures_are_answered_at_once_in_hours_and_by_their_reason() {
    let failed = |failed_attempts, decline_code: &'static str| Case {
        due_on: None,
        last_failed_on: Some(date("2026-06-02")),
        facts: crate::Facts { failed_attempts, decline_code, ..facts() },
        ..case(&[])
    };
    let now = "2026-06-02T12:00:00Z";
    assert_eq!(sends(&run(&sample(), &failed(3, ""), now)), Some(("failed", vec![])));
    assert_eq!(run(&sample(), &failed(2, ""), now), Plan::default(), "no due date, nothing to wait for");
    let by_reason = "{ failed_attempts: { count: 1, decline_code: [expired_card] } }";
    let campaign = parse(&SAMPLE.replace("{ failed_attempts: 3 }", by_reason));
    assert_eq!(sends(&run(&campaign, &failed(1, "expired_card"), now)), Some(("failed", vec![])));
    assert_eq!(sends(&run(&campaign, &failed(1, "insufficient_funds"), now)), None);
}

#[test]
fn a_new_epoch_counts_from_its_beginning() {
    let reopened = Case { reopened_on: Some(date("2026-08-03")), ..case(&[]) };
    let plan = run(&sample(), &reopened, "2026-08-03T10:00:00Z");
    assert_eq!((sends(&plan), plan.wake_at), (None, Some(at("2026-08-06T07:00:00Z"))));
}

#[test]
fn the_end_has_a_name() {
    let decided = [
        silent("upcoming", "2026-05-29"),
        reminded("overdue-3", "2026-06-04"),
        reminded("follow-up", "2026-06-08"),
        reminded("overdue-7", "2026-06-10"),
    ];
    let done = Case { contacts: &[date("2026-06-10")], ..case(&decided) };
    let waiting = run(&sample(), &done, "2026-06-11T07:00:00Z");
    assert_eq!((waiting.end, waiting.wake_at), (None, Some(at("2026-06-17T07:00:00Z"))), "a week after the last step");
    assert_eq!(run(&sample(), &done, "2026-06-17T07:00:00Z").end, Some(Ending::HandOver));
    let ended = run(&sample(), &Case { ended: true, ..done }, "2026-06-17T07:00:00Z");
    assert_eq!((ended.end, ended.wake_at), (None, None), "told once");
    assert_eq!(skips(&ended), [("failed", Reason::SequenceEnded, "end")], "what was open is decided by it");
}

#[test]
fn a_step_may_end_the_sequence() {
    let campaign = parse(
        &SAMPLE
            .replace("tone: friendly }\n  - { key: follow", "tone: friendly, ends_with: webhook }\n  - { key: follow"),
    );
    let decided = [silent("upcoming", "2026-05-29"), reminded("overdue-3", "2026-06-04")];
    let last = Case { contacts: &[date("2026-06-04")], ..case(&decided) };
    let over = run(&campaign, &last, "2026-06-05T07:00:00Z");
    let because = |step| (step, Reason::SequenceEnded, "steps.overdue-3.ends_with");
    assert_eq!(skips(&over), [because("failed"), because("follow-up"), because("overdue-7")]);
    let skipped: Vec<Decided> = over.skip.iter().map(|s| silent(&s.step, "2026-06-05")).collect();
    let all: Vec<Decided> = decided.iter().cloned().chain(skipped).collect();
    let case = Case { decided: &all, ..last };
    assert_eq!(run(&campaign, &case, "2026-06-12T07:00:00Z").end, Some(Ending::Webhook));
    let lost = Case { in_flight: true, ..last };
    assert!(run(&campaign, &lost, "2026-06-05T07:00:00Z").skip.is_empty(), "it may still come to nothing");
}

#[test]
fn holds_keep_what_is_due_and_say_until_when() {
    let now = "2026-06-04T10:00:00Z";
    let until = Some(at("2026-06-20T07:00:00Z"));
    let hold = |reason, until| [Hold { reason, until, rule: "hold 7".to_owned() }];
    let held = hold(Reason::ManualHold, until);
    let plan = run(&sample(), &Case { holds: &held, ..case(&[]) }, now);
    assert_eq!((sends(&plan), waits(&plan)), (None, Some((Reason::ManualHold, "hold 7", until))));
    assert_eq!(plan.wake_at, Some(at("2026-06-08T07:00:00Z")), "the next step's time is recorded too");
    let over = run(&sample(), &Case { holds: &held, ..case(&[]) }, "2026-06-22T07:00:00Z");
    assert_eq!(sends(&over), Some(("overdue-7", vec!["overdue-3", "follow-up"])));
    // The one that lasts longest is named; one without an end waits for news.
    let disputed = hold(Reason::Dispute, None);
    let pending = Case { holds: &disputed, pending_since: Some(date("2026-06-03")), ..case(&[]) };
    assert_eq!(waits(&run(&sample(), &pending, now)), Some((Reason::Dispute, "hold 7", None)));
    let pending = Case { holds: &[], ..pending };
    let end = Some(at("2026-06-17T07:00:00Z"));
    assert_eq!(
        waits(&run(&sample(), &pending, now)),
        Some((Reason::PendingPayment, "holds.pending_payment_days", end))
    );
    assert_eq!(run(&sample(), &Case { is_open: false, ..pending }, now), Plan::default());
}

#[test]
fn a_promise_holds_until_it_is_broken() {
    let campaign = parse(
        &format!("{SAMPLE}holds: {{ promise_grace_days: 1 }}\n")
            .replace("end:", "  - { key: broken, when: { days_after_broken_promise: 0 }, tone: firm }\nend:"),
    );
    // Promised for Wednesday, 10 June; with a day of grace it is broken on Friday.
    let promised = Case { promised_on: Some(date("2026-06-10")), ..case(&[]) };
    let end = Some(at("2026-06-12T07:00:00Z"));
    let held = run(&campaign, &promised, "2026-06-08T07:00:00Z");
    assert_eq!(waits(&held), Some((Reason::Promise, "holds.promise_grace_days", end)));
    let broken = run(&campaign, &promised, "2026-06-12T07:00:00Z");
    assert_eq!(sends(&broken), Some(("broken", vec!["overdue-3", "follow-up", "overdue-7"])));
    assert_eq!(run(&campaign, &case(&[]), "2026-06-02T07:00:00Z").skip.len(), 1, "without one its time never comes");
}

#[test]
fn a_late_invoice_begins_as_its_campaign_says() {
    // Ninety days late when dunlin first hears of it, on a Monday.
    let entered = Case { opened_on: date("2026-08-31"), ..case(&[]) };
    let now = "2026-08-31T07:00:00Z";
    let with = |mode: &str| parse(&format!("{SAMPLE}entry: {{ mode: {mode} }}\n"));
    let latest = run(&with("latest-step"), &entered, now);
    assert_eq!(sends(&latest), Some(("overdue-7", vec!["overdue-3", "follow-up"])));
    let from_now = run(&with("from-now"), &entered, now);
    assert_eq!(sends(&from_now), None);
    assert!(skips(&from_now).contains(&("overdue-3", Reason::BeforeEntry, "entry.mode")));
    // The first step at once, the last one four days after it, as between day 3 and day 7.
    let campaign = with("catch-up");
    let catch_up = run(&campaign, &entered, now);
    assert_eq!(sends(&catch_up), Some(("overdue-3", vec![])));
    assert_eq!(catch_up.next_step_at, Some(at("2026-09-03T07:00:00Z")));
    let decided = [reminded("overdue-3", "2026-08-31"), reminded("follow-up", "2026-09-03")];
    let contacts = [date("2026-08-31")];
    let later = Case { decided: &decided, contacts: &contacts, ..entered };
    assert_eq!(sends(&run(&campaign, &later, "2026-09-04T07:00:00Z")), Some(("overdue-7", vec![])));
    // Its turn in the ramp.
    let turn = Case { not_before: Some(date("2026-09-10")), ..entered };
    let waiting = run(&with("latest-step"), &turn, now);
    let until = Some(at("2026-09-10T07:00:00Z"));
    assert_eq!(waits(&waiting), Some((Reason::Ramp, "entry.at_most_per_day", until)));
}

#[test]
fn business_days_months_and_previous_reminders_count() {
    let campaign = parse(
        "
name: t
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
steps:
  - { key: before, when: { business_days_before_due: 2 }, tone: friendly }
  - { key: due, when: { on_due_date: true }, tone: friendly }
  - { key: after, when: { business_days_after_due: 2 }, tone: firm }
  - { key: gap, when: { days_after_previous: 4 }, tone: firm }
  - { key: month, when: { days_after_month_end: 3 }, tone: final }
",
    );
    // Due on Monday, 1 June: two business days before is Thursday, 28 May; after it Wednesday, 3 June.
    let next = |decided: &[Decided], now: &str| run(&campaign, &case(decided), now).next_step_at.unwrap().to_string();
    assert_eq!(next(&[], "2026-05-01T07:00:00Z"), "2026-05-28T07:00:00Z");
    let mut decided = vec![reminded("before", "2026-05-28")];
    assert_eq!(next(&decided, "2026-05-28T08:00:00Z"), "2026-06-01T07:00:00Z");
    decided.push(reminded("due", "2026-06-01"));
    assert_eq!(next(&decided, "2026-06-01T08:00:00Z"), "2026-06-03T07:00:00Z");
    decided.push(silent("after", "2026-06-03"));
    assert_eq!(next(&decided, "2026-06-03T08:00:00Z"), "2026-06-05T07:00:00Z", "four days after the one before it");
    decided.push(reminded("gap", "2026-06-05"));
    assert_eq!(next(&decided, "2026-06-05T08:00:00Z"), "2026-07-03T07:00:00Z", "three days after 30 June");
}

#[test]
fn advice_moves_a_step_only_inside_its_window() {
    let text = SAMPLE.replace(
        "days_after_due: 7 }, tone",
        "days_after_due: 7 }, timing: adaptive, window: { earlier_days: 2, later_days: 1 }, tone",
    );
    let campaign = parse(&text);
    let decided =
        [silent("upcoming", "2026-05-29"), silent("overdue-3", "2026-06-04"), silent("follow-up", "2026-06-04")];
    let next = |shift: i32| {
        let choices = [("overdue-7".to_owned(), Choice::Move(shift))];
        run(&campaign, &Case { choices: &choices, ..case(&decided) }, "2026-06-04T10:00:00Z").next_step_at.unwrap()
    };
    assert_eq!(next(-2), at("2026-06-08T07:00:00Z"), "6 June is a Saturday");
    assert_eq!(next(1), at("2026-06-09T07:00:00Z"));
    assert_eq!(next(30), next(1), "never beyond the window");
    let fixed = [("overdue-3".to_owned(), Choice::Move(-3))];
    let plan = run(&campaign, &Case { choices: &fixed, ..case(&decided[..1]) }, "2026-06-01T10:00:00Z");
    assert_eq!(plan.next_step_at, Some(at("2026-06-04T07:00:00Z")), "a fixed step stays on its day");
}

const ADAPTIVE: &str = "
name: adaptive
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
steps:
  - key: before-5
    when: { days_before_due: 5 }
    timing: adaptive
    window: { earlier_days: 3, later_days: 5, may_skip: true }
    tone: friendly
  - key: after-4
    when: { days_after_due: 4 }
    timing: adaptive
    window: { earlier_days: 3, later_days: 10, may_skip: true }
    experiment: { arms: [{ days: 1 }, { days: 14, template: kind }, none], assign: thompson }
    tone: friendly
  - { key: after-10, when: { days_after_due: 10 }, tone: firm }
end: { after_days: 7, outcome: hand_over }
";

fn choose(step: &str, choice: Choice) -> [(String, Choice); 1] {
    [(step.to_owned(), choice)]
}

#[test]
fn arms_move_a_step_word_it_or_leave_it_out() {
    let campaign = parse(ADAPTIVE);
    let decided = [silent("before-5", "2026-05-27")];
    let with = |choice, now: &str| {
        run(&campaign, &Case { choices: &choose("after-4", choice), ..case(&decided) }, &format!("{now}T07:00:00Z"))
    };
    let early = with(Choice::Arm(0), "2026-06-02");
    assert_eq!(early.send.map(|s| (s.step, s.template)), Some(("after-4".to_owned(), "friendly".to_owned())));
    let late = with(Choice::Arm(1), "2026-06-05");
    assert_eq!(sends(&late), None);
    // On the tenth day the further step has spoken; what comes later is spoken for by it.
    assert_eq!(sends(&with(Choice::Arm(1), "2026-06-11")), Some(("after-10", vec![])));
    let kind = parse(&ADAPTIVE.replace("days: 14", "days: 5"));
    let worded =
        run(&kind, &Case { choices: &choose("after-4", Choice::Arm(1)), ..case(&decided) }, "2026-06-08T07:00:00Z");
    assert_eq!(worded.send.map(|s| s.template).as_deref(), Some("kind"));
    let none = with(Choice::Arm(2), "2026-06-05");
    assert_eq!(skips(&none), [("after-4", Reason::ArmNone, "steps.after-4.experiment")]);
    assert_eq!((sends(&none), none.next_step_at), (None, Some(at("2026-06-11T07:00:00Z"))));
    // What does not fit the campaign changes nothing.
    for choice in [Choice::Arm(3), Choice::Skip, Choice::Move(-3)] {
        assert_eq!(with(choice, "2026-06-04"), run(&campaign, &case(&decided), "2026-06-04T07:00:00Z"), "{choice:?}");
        assert_eq!(with(choice, "2026-06-05"), run(&campaign, &case(&decided), "2026-06-05T07:00:00Z"), "{choice:?}");
    }
}

#[test]
fn advice_leaves_a_step_out_only_where_it_may() {
    let skip = choose("before-5", Choice::Skip);
    let advised = Case { choices: &skip, ..case(&[]) };
    let plan = run(&parse(ADAPTIVE), &advised, "2026-05-27T07:00:00Z");
    assert_eq!(skips(&plan), [("before-5", Reason::Advised, "steps.before-5.window.may_skip")]);
    let must = parse(&ADAPTIVE.replacen(", may_skip: true", "", 1));
    assert_eq!(sends(&run(&must, &advised, "2026-05-27T07:00:00Z")), Some(("before-5", vec![])));
    // What keeps it from being sent anyway is said first.
    let opted_out = run(&parse(ADAPTIVE), &Case { opted_out: true, ..advised }, "2026-05-27T07:00:00Z");
    assert_eq!(skips(&opted_out), [("before-5", Reason::OptedOut, "customer.opted_out")]);
}

#[test]
fn no_choice_changes_which_steps_apply() {
    let campaign = parse(&format!("{ADAPTIVE}entry: {{ mode: from-now }}\n"));
    // Known since the day before the step, and moved to before that: as it is written, the step is still to come.
    let known = Case { opened_on: date("2026-05-26"), ..case(&[]) };
    let early = choose("before-5", Choice::Move(-3));
    let plan = run(&campaign, &Case { choices: &early, ..known }, "2026-05-26T07:00:00Z");
    assert_eq!(sends(&plan), Some(("before-5", vec![])));
    // Missed as it is written, wherever it is moved.
    let missed = Case { opened_on: date("2026-05-28"), ..known };
    let late = choose("before-5", Choice::Move(2));
    let plan = run(&campaign, &Case { choices: &late, ..missed }, "2026-05-29T07:00:00Z");
    assert_eq!(skips(&plan), [("before-5", Reason::BeforeEntry, "entry.mode")]);
    // Nobody asks mildly after the further step, which has overtaken the one that was moved.
    let decided = [silent("before-5", "2026-05-27"), reminded("after-10", "2026-06-11")];
    let moved = choose("after-4", Choice::Arm(1));
    let overtaken = Case { choices: &moved, contacts: &[date("2026-06-11")], ..case(&decided) };
    let plan = run(&parse(ADAPTIVE), &overtaken, "2026-06-15T07:00:00Z");
    assert_eq!(skips(&plan), [("after-4", Reason::LaterStep, "steps.after-10")]);
}

#[test]
fn a_step_is_not_moved_to_where_it_would_be_lost_or_unlawful() {
    let campaign = parse(ADAPTIVE);
    // Due on Sunday, 31 May: the last morning in time is Friday's.
    let late = choose("before-5", Choice::Move(5));
    let sunday = Case { due_on: Some(date("2026-05-31")), choices: &late, ..case(&[]) };
    assert_eq!(run(&campaign, &sunday, "2026-05-20T10:00:00Z").next_step_at, Some(at("2026-05-29T07:00:00Z")));
    // A debt that was opened again counts from that day, whether it had a due date or not: after it, not on it.
    let decided = [silent("before-5", "2026-05-27")];
    let early = choose("after-4", Choice::Arm(0));
    let wide =
        parse(&ADAPTIVE.replace("earlier_days: 3, later_days: 10", "earlier_days: 9").replace("experiment:", "#"));
    let advised = choose("after-4", Choice::Move(-9));
    for due_on in [None, Some(date("2026-06-01"))] {
        let reopened = Case { due_on, reopened_on: Some(date("2026-08-03")), choices: &early, ..case(&decided) };
        let day_after = Some(at("2026-08-04T07:00:00Z"));
        assert_eq!(run(&campaign, &reopened, "2026-08-03T10:00:00Z").next_step_at, day_after);
        let advised = Case { choices: &advised, ..reopened };
        assert_eq!(run(&wide, &advised, "2026-08-03T10:00:00Z").next_step_at, day_after);
    }
    // The law wants two weeks.
    let terms = Terms { law: Some(strict_law()), ..terms(&campaign, "Europe/Berlin") };
    let lawful = plan(&terms, &Case { choices: &early, ..case(&decided) }, at("2026-06-02T07:00:00Z"));
    assert_eq!((sends(&lawful), lawful.next_step_at), (None, Some(at("2026-06-15T07:00:00Z"))));
}

#[test]
fn the_spread_moves_a_customer_always_alike() {
    let spread = Case { spread: 12 * 60 + 5, ..case(&[]) };
    let wake = run(&sample(), &spread, "2026-05-01T10:00:00Z").wake_at;
    assert_eq!(wake, Some(at("2026-05-29T07:12:05Z")));
    let beyond = Case { spread: 15 * 60 + 3, ..spread };
    assert_eq!(run(&sample(), &beyond, "2026-05-01T10:00:00Z").wake_at, Some(at("2026-05-29T07:00:03Z")));
}

#[test]
fn what_waited_goes_at_the_customers_place_in_the_spread_too() {
    // Due on Thursday; the evening went by. On Friday its place is 09:12, and news comes at 09:05.
    let case = Case { spread: 12 * 60, ..case(&[]) };
    let news = run(&sample(), &case, "2026-06-05T07:05:00Z");
    let place = Some(at("2026-06-05T07:12:00Z"));
    assert_eq!((sends(&news), waits(&news)), (None, Some((Reason::ContactHours, "contact.spread_minutes", place))));
    assert_eq!(sends(&run(&sample(), &case, "2026-06-05T07:12:00Z")), Some(("overdue-3", vec![])));
}

#[test]
fn nothing_is_forgotten_over_a_long_closure() {
    // Closed from the third day after due for seven weeks.
    let campaign = parse(&SAMPLE.replace("end: { after_days: 7", "end: { after_days: 0"));
    let mut terms = terms(&campaign, "Europe/Berlin");
    let closed: Vec<Date> = (0..49).map(|n| add_days(date("2026-06-04"), n).unwrap()).collect();
    terms.hours = terms.hours.map(|hours| hours.with_closed(closed));
    let open = [silent("upcoming", "2026-05-29")];
    let all = [&open[..], &[reminded("overdue-3", "2026-06-03"), silent("follow-up", "2026-06-03")]].concat();
    let all = [&all[..], &[silent("overdue-7", "2026-06-05"), silent("failed", "2026-06-05")]].concat();
    for (case, now) in [
        (case(&open), "2026-06-02T10:00:00Z"), // its date is to come
        (case(&open), "2026-06-08T10:00:00Z"), // it has come
        (case(&all), "2026-06-08T10:00:00Z"),  // only the end is to come
    ] {
        let mut now = at(now);
        for _ in 0..60 {
            let plan = plan(&terms, &case, now);
            if plan.send.is_some() || plan.end.is_some() {
                break;
            }
            now = plan.wake_at.expect("looks again");
        }
        // The end is no message: after forty days it does not wait any more.
        assert!(now >= at("2026-07-14T22:00:00Z"), "{now}");
        assert!(now <= at("2026-07-23T07:00:00Z"), "{now}");
    }
}

#[test]
fn the_last_step_ends_the_sequence_even_if_nobody_tells_of_its_arrival() {
    let campaign = parse(&SAMPLE.replace("key: overdue-3, ", "key: overdue-3, ends_with: stop, "));
    let decided = [silent("upcoming", "2026-05-29"), reminded("overdue-3", "2026-06-04")];
    let lost = Case { contacts: &[date("2026-06-04")], in_flight: true, ..case(&decided) };
    let given_up = run(&campaign, &lost, "2026-06-18T07:00:00Z");
    assert_eq!((sends(&given_up), given_up.skip.len()), (None, 3), "{given_up:?}");
}

#[test]
fn the_previous_reminder_is_the_latest_and_news_is_not_waited_for() {
    let text = SAMPLE.replace("{ days_after_due: 7 }", "{ days_after_previous: 10 }");
    // The failure came after the follow-up.
    let decided =
        [reminded("failed", "2026-06-10"), reminded("overdue-3", "2026-06-04"), silent("follow-up", "2026-06-04")];
    let next = |campaign: &Campaign, decided: &[Decided]| {
        run(campaign, &case(decided), "2026-06-11T07:00:00Z").next_step_at.map(|at| at.to_string())
    };
    assert_eq!(next(&parse(&text), &decided).as_deref(), Some("2026-06-22T07:00:00Z"), "the 20th is a Saturday");
    // The step right before it waits for a failure that may never come.
    let text = SAMPLE.replace("{ after_step: { step: overdue-3, days: 3 } }", "{ failed_attempts: 5 }");
    let text = text.replace("{ days_after_due: 7 }", "{ days_after_previous: 10 }");
    assert_eq!(next(&parse(&text), &decided[1..2]).as_deref(), Some("2026-06-15T07:00:00Z"), "the 14th is a Sunday");
}

#[test]
fn a_follow_up_of_what_is_spoken_for_is_too_whatever_news_might_come_between() {
    let text = SAMPLE.replace(
        "  - { key: overdue-7",
        "  - { key: failed-5, when: { failed_attempts: 5 }, tone: firm }\n  \
         - { key: next, when: { days_after_previous: 1 }, tone: firm }\n  - { key: overdue-7",
    );
    let decided = [silent("upcoming", "2026-05-29"), reminded("overdue-3", "2026-06-04")];
    let case = Case { contacts: &[date("2026-06-04")], ..case(&decided) };
    // It would follow the follow-up, for which the seventh day speaks; not the third day, once that has spoken.
    let monday = run(&parse(&text), &case, "2026-06-08T07:00:00Z");
    assert_eq!(sends(&monday), Some(("overdue-7", vec!["follow-up", "next"])));
}

#[test]
fn a_step_that_came_into_the_campaign_late_is_spoken_for_by_the_further_one() {
    let campaign =
        parse(&SAMPLE.replace("days_after_due: 3 }, tone", "days_after_due: 2 }, tone").replace("overdue-3", "new"));
    let decided = [silent("upcoming", "2026-05-29"), reminded("overdue-7", "2026-06-08")];
    let case = Case { contacts: &[date("2026-06-08")], ..late(&decided) };
    let plan = run(&campaign, &case, "2026-06-10T12:00:00Z");
    assert_eq!(sends(&plan), None);
    assert_eq!(skips(&plan)[0], ("new", Reason::LaterStep, "steps.overdue-7"));
}

/// A law that is stricter than any that is shipped.
pub(super) fn strict_law() -> &'static crate::law::Rules {
    let norway = crate::law::rules("NO", kernel::PayerKind::Consumer, date("2026-06-01")).unwrap();
    let strict = crate::law::Rules { max_reminders: Some(2), earliest_days_after_due: Some(14), ..norway.clone() };
    Box::leak(Box::new(strict))
}

#[test]
fn reminders_of_steps_that_the_campaign_has_no_more_count_for_the_law() {
    let campaign = sample();
    let terms = Terms { law: Some(strict_law()), ..terms(&campaign, "Europe/Berlin") };
    let gone = [reminded("first", "2026-06-16"), reminded("second", "2026-06-20")];
    let plan = plan(&terms, &late(&gone), at("2026-06-30T12:00:00Z"));
    assert_eq!(sends(&plan), None);
    assert!(
        skips(&plan).contains(&("overdue-7", Reason::LawMaximum, "NO/inkassoforskriften/2020.max_reminders")),
        "{plan:?}"
    );
}

#[test]
fn a_turn_in_the_ramp_is_the_day_of_entry() {
    // Heard of on 31 August, ninety days late; its turn comes on 1 October. Catching up begins there, at the first step.
    let campaign = parse(&format!("{SAMPLE}entry: {{ mode: catch-up }}\n"));
    let turn = Some(date("2026-10-01"));
    let entered = Case { opened_on: date("2026-08-31"), not_before: turn, ..case(&[]) };
    let began = run(&campaign, &entered, "2026-10-01T07:00:00Z");
    assert_eq!(sends(&began), Some(("overdue-3", vec![])), "not the last step, though weeks have passed");
}

#[test]
fn nobody_takes_over_what_is_being_paid() {
    let decided = [
        silent("upcoming", "2026-05-29"),
        reminded("overdue-3", "2026-06-04"),
        silent("follow-up", "2026-06-08"),
        reminded("overdue-7", "2026-06-10"),
    ];
    let contacts = [date("2026-06-10")];
    let done = Case { contacts: &contacts, pending_since: Some(date("2026-06-16")), ..case(&decided) };
    let held = run(&sample(), &done, "2026-06-17T07:00:00Z");
    assert_eq!((held.end, held.deferred.map(|d| d.reason)), (None, Some(Reason::PendingPayment)));
    assert_eq!(held.wake_at, Some(at("2026-06-30T07:00:00Z")), "two weeks after it set out");
    assert_eq!(run(&sample(), &done, "2026-06-30T07:00:00Z").end, Some(Ending::HandOver));
}

#[test]
fn a_reopened_debt_does_not_wait_for_what_is_over() {
    let text = "
name: t
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
steps:
  - { key: due, when: { on_due_date: true }, tone: friendly }
  - { key: gap, when: { days_after_previous: 7 }, tone: firm }
end: { after_days: 3, outcome: hand_over }
";
    let campaign = parse(text);
    let reopened = Case { reopened_on: Some(date("2026-08-03")), ..case(&[]) };
    let plan = run(&campaign, &reopened, "2026-08-03T10:00:00Z");
    let expected = [("due", Reason::TooLate, "steps.due.when"), ("gap", Reason::BaseNotSent, "steps.gap.when")];
    assert_eq!(skips(&plan), expected, "decided, so that the end comes");
    // One that never had a due date counts from the day on which it was opened again.
    let dateless = Case { due_on: None, ..reopened };
    assert_eq!(run(&sample(), &dateless, "2026-08-03T10:00:00Z").next_step_at, Some(at("2026-08-06T07:00:00Z")));
}

#[test]
fn the_last_step_ends_the_sequence_as_soon_as_it_has_arrived() {
    let ending = "tone: friendly, ends_with: webhook }\n  - { key: follow";
    let campaign = parse(&SAMPLE.replace("tone: friendly }\n  - { key: follow", ending));
    let decided = [silent("upcoming", "2026-05-29")];
    let sent = run(&campaign, &case(&decided), "2026-06-04T07:00:00Z");
    assert_eq!(sends(&sent), Some(("overdue-3", vec![])));
    assert_eq!(sent.wake_at, Some(at("2026-06-05T07:00:00Z")), "not at the next step, which will never be sent");
}

#[test]
fn a_processor_that_collects_by_itself_is_waited_for() {
    let auto = Case { collects_itself: true, ..case(&[]) };
    let waiting = run(&sample(), &auto, "2026-06-04T07:00:00Z");
    let end = at("2026-06-15T07:00:00Z");
    assert_eq!(waits(&waiting), Some((Reason::AutoPay, "holds.pending_payment_days", Some(end))));
    assert_eq!(
        sends(&run(&sample(), &auto, "2026-06-15T07:00:00Z")),
        Some(("overdue-7", vec!["overdue-3", "follow-up"]))
    );
}

#[test]
fn a_calendar_that_is_gone_holds() {
    let campaign = parse(&SAMPLE.replace("min_gap_days: 2", "min_gap_days: 2, holidays: [payer, ours]"));
    let place =
        crate::Place { zone: zone("Europe/Berlin").unwrap(), country: "ZZ", payer: kernel::PayerKind::Business };
    let today = date("2026-06-04");
    let terms = Terms::new(&campaign, &place, &crate::Calendars::default(), today);
    let held = plan(&terms, &case(&[]), at("2026-06-04T07:00:00Z"));
    assert_eq!(waits(&held).map(|w| (w.0, w.1)), Some((Reason::CalendarMissing, "calendars.ours.years.2026")));
    let ours = std::collections::BTreeMap::from([("ours".to_owned(), calendar::built_in("DE").unwrap().clone())]);
    let terms = Terms::new(&campaign, &place, &crate::Calendars::new(ours), today);
    let sent = plan(&terms, &case(&[]), at("2026-06-05T07:00:00Z"));
    assert_eq!(sends(&sent), Some(("overdue-3", vec![])), "a country without a calendar holds nothing");
}

#[test]
fn a_hold_ends_in_a_closure_of_any_length() {
    let campaign = sample();
    let closed: Vec<Date> = (0..200).map(|n| add_days(date("2026-06-01"), n).unwrap()).collect();
    let mut terms = terms(&campaign, "Europe/Berlin");
    terms.hours = terms.hours.map(|hours| hours.with_closed(closed));
    let decided = [
        silent("upcoming", "2026-05-29"),
        silent("overdue-3", "2026-05-29"),
        silent("follow-up", "2026-05-29"),
        silent("overdue-7", "2026-05-29"),
    ];
    let pending = Case { pending_since: Some(date("2026-06-01")), ..case(&decided) };
    let held = plan(&terms, &pending, at("2026-07-20T10:00:00Z"));
    assert_eq!((held.end, held.deferred.map(|d| d.reason)), (None, Some(Reason::PendingPayment)));
    assert_eq!(plan(&terms, &pending, held.wake_at.unwrap()).end, Some(Ending::HandOver));
}
