//! What to do about a case now, and when to look again.

use crate::file::{Campaign, Step, Trigger};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use kernel::{ContactHours, Segment};

/// What is known of a case.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    /// Whether it goes on.
    pub standing: Standing,
    /// When the invoice should be paid.
    pub due_on: Option<Date>,
    /// When the debt was opened again; `None` in the first epoch. Days after due then count from here: the first due date
    /// has had its reminders.
    pub reopened_at: Option<Timestamp>,
    /// How often the processor failed to collect, and when last.
    pub failed_attempts: u32,
    /// When it failed last.
    pub last_failed_at: Option<Timestamp>,
    /// How the customer pays.
    pub segment: Segment,
    /// The customer asked not to be reminded.
    pub opted_out: bool,
    /// Steps that are decided already.
    pub decided: &'a [Decided],
    /// When the customer got a reminder last, about whatever.
    pub last_reminded_on: Option<Date>,
    /// A reminder to the customer is on its way: nobody knows yet when it will arrive.
    pub in_flight: bool,
    /// When the payer may be written to, in the payer's zone.
    pub hours: &'a ContactHours,
    /// A stable hash of the customer: where in the spread its messages lie.
    pub spread: u64,
}

/// Whether a case goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Money is owed.
    Open,
    /// Nothing is sent until this ends.
    Held,
    /// It has ended.
    Closed,
}

/// A step that is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Which.
    pub step: String,
    /// The payer's date of the decision.
    pub on: Date,
    /// Whether a reminder went out for it.
    pub reminded: bool,
}

/// What to do now, and when to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps that will never be sent, though no reminder of now speaks for them.
    pub skip: Vec<(String, Reason)>,
    /// The reminder to send now.
    pub send: Option<Send>,
    /// Why the steps that are due are not sent now.
    pub deferred: Option<Deferral>,
    /// When to plan again; `None` if only news can change anything.
    pub wake_at: Option<Timestamp>,
}

/// The reminder to send now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The furthest step that is due: it speaks.
    pub step: String,
    /// Earlier steps that are due too: it speaks for them.
    pub merged: Vec<String>,
}

/// Why due steps wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// The steps.
    pub steps: Vec<String>,
    /// Why.
    pub reason: Reason,
    /// Until when.
    pub until: Timestamp,
}

/// How a step ends; see `dunlin.events.v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A reminder is on its way for it.
    Requested,
    /// Another step or invoice speaks for it.
    Merged,
    /// Its time came and it does not apply.
    Skipped,
}

/// Why a step is not sent, or not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A step before the due date whose time came after it.
    TooLate,
    /// The customer is of another segment.
    Segment,
    /// The customer asked not to be reminded.
    OptedOut,
    /// A later step of the same invoice speaks for it.
    LaterStep,
    /// It counts from a step for which no reminder went out.
    BaseNotSent,
    /// Another invoice's step speaks for it in the same message.
    OtherInvoice,
    /// The customer got a reminder too recently.
    MinGap,
    /// An earlier reminder to the customer has not arrived yet.
    InFlight,
    /// The payer may not be written to now.
    ContactHours,
}

impl Reason {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLate => "too_late",
            Self::Segment => "segment",
            Self::OptedOut => "opted_out",
            Self::LaterStep => "later_step",
            Self::BaseNotSent => "base_not_sent",
            Self::OtherInvoice => "other_invoice",
            Self::MinGap => "min_gap",
            Self::InFlight => "in_flight",
            Self::ContactHours => "contact_hours",
        }
    }

    /// How a step ends for this reason, if it ends.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::LaterStep | Self::OtherInvoice => Outcome::Merged,
            _ => Outcome::Skipped,
        }
    }
}

/// Plans a case.
///
/// Never early: a step's moment is the opening of the payer's first window from its date on, plus the customer's place in
/// the spread. Never silent: a due step is sent, merged, skipped with a reason, or deferred with a reason and a moment.
/// Of several due steps only the furthest is sent, so an outage never causes more than one reminder.
pub fn plan(campaign: &Campaign, case: &Case<'_>, now: Timestamp) -> Plan {
    if case.standing != Standing::Open {
        return Plan::default();
    }
    let today = case.hours.date_at(now);
    let mut plan = Plan::default();
    let mut due: Vec<&Step> = Vec::new();
    let mut wake: Option<Timestamp> = None;
    for step in undecided(campaign, case) {
        if has_lost_its_base(step, case, &plan.skip) {
            plan.skip.push((step.key.clone(), Reason::BaseNotSent));
            continue;
        }
        let Some(moment) = trigger_date(step, case).and_then(|date| opening(campaign, case, date)) else { continue };
        if moment > now {
            wake = earliest(wake, Some(moment));
        } else if let Some(reason) = obstacle(campaign, step, case, today) {
            plan.skip.push((step.key.clone(), reason));
        } else {
            due.push(step);
        }
    }
    let Some((furthest, others)) = due.split_last() else {
        plan.wake_at = wake;
        return plan;
    };
    if let Some((reason, until)) = wait(campaign, case, now, today) {
        plan.deferred = Some(Deferral { steps: due.iter().map(|s| s.key.clone()).collect(), reason, until });
        plan.wake_at = earliest(wake, Some(until));
        return plan;
    }
    // The follow-ups of steps that do not speak themselves: spoken for as well, up to the one that speaks.
    let mut merged: Vec<&Step> = others.to_vec();
    let mut further = false;
    for step in undecided(campaign, case) {
        further |= step.key == furthest.key;
        let settled = has(&merged, &step.key) || skips(&plan.skip, &step.key);
        let Some((base, _)) = step.follows().filter(|_| !settled) else { continue };
        if has(&merged, base) && !further {
            merged.push(step);
        } else if has(&merged, base) || skips(&plan.skip, base) {
            plan.skip.push((step.key.clone(), Reason::BaseNotSent));
        }
    }
    // The follow-up of the one that does gets its date by it.
    let follow_ups = undecided(campaign, case).filter_map(|step| match step.follows() {
        Some((base, days)) if base == furthest.key => opening(campaign, case, add_days(today, days)?),
        _ => None,
    });
    plan.wake_at = earliest(wake, follow_ups.min());
    plan.send = Some(Send { step: furthest.key.clone(), merged: merged.iter().map(|s| s.key.clone()).collect() });
    plan
}

fn undecided<'a>(campaign: &'a Campaign, case: &'a Case<'_>) -> impl Iterator<Item = &'a Step> {
    campaign.steps.iter().filter(|s| !case.decided.iter().any(|d| d.step == s.key))
}

fn has(steps: &[&Step], key: &str) -> bool {
    steps.iter().any(|s| s.key == key)
}

fn skips(skipped: &[(String, Reason)], key: &str) -> bool {
    skipped.iter().any(|(step, _)| step == key)
}

/// Whether a step counts from one for which no reminder went out: its time will never come.
fn has_lost_its_base(step: &Step, case: &Case<'_>, skipped: &[(String, Reason)]) -> bool {
    step.follows()
        .is_some_and(|(base, _)| skips(skipped, base) || case.decided.iter().any(|d| d.step == base && !d.reminded))
}

/// The date of a step, as far as it is known.
fn trigger_date(step: &Step, case: &Case<'_>) -> Option<Date> {
    match &step.trigger {
        Trigger::DaysBeforeDue(_) if case.reopened_at.is_some() => None,
        Trigger::DaysBeforeDue(days) => add_days(case.due_on?, -i64::from(*days)),
        Trigger::DaysAfterDue(days) => {
            let due_on = case.due_on?;
            let anchor = case.reopened_at.map_or(due_on, |at| due_on.max(case.hours.date_at(at)));
            add_days(anchor, i64::from(*days))
        }
        Trigger::AfterStep { step: base, days } => {
            let base = case.decided.iter().find(|d| d.step == *base && d.reminded)?;
            add_days(base.on, i64::from(*days))
        }
        Trigger::FailedAttempts(n) if case.failed_attempts >= u32::from(*n) => {
            case.last_failed_at.map(|at| case.hours.date_at(at))
        }
        Trigger::FailedAttempts(_) => None,
    }
}

/// Why a step whose time has come will never be sent.
fn obstacle(campaign: &Campaign, step: &Step, case: &Case<'_>, today: Date) -> Option<Reason> {
    let before_due = matches!(step.trigger, Trigger::DaysBeforeDue(_));
    if case.opted_out {
        Some(Reason::OptedOut)
    } else if before_due && case.due_on.is_some_and(|due| today > due) {
        Some(Reason::TooLate)
    } else if !step.segments.is_empty() && !step.segments.contains(&case.segment) {
        Some(Reason::Segment)
    } else if is_overtaken(campaign, step, case) {
        Some(Reason::LaterStep)
    } else {
        None
    }
}

/// Whether a further step has spoken since the one that a follow-up counts from: after the last call nobody asks mildly.
fn is_overtaken(campaign: &Campaign, step: &Step, case: &Case<'_>) -> bool {
    let spoken = |key: &str| case.decided.iter().find(|d| d.step == key && d.reminded);
    let Some(base) = step.follows().and_then(|(base, _)| spoken(base)) else { return false };
    let further = campaign.steps.iter().skip_while(|s| s.key != step.key).skip(1);
    further.filter_map(|s| spoken(&s.key)).any(|d| d.on >= base.on)
}

/// Why nothing may be sent now, and until when.
fn wait(campaign: &Campaign, case: &Case<'_>, now: Timestamp, today: Date) -> Option<(Reason, Timestamp)> {
    let rested = case.last_reminded_on.and_then(|last| add_days(last, i64::from(campaign.min_gap_days)));
    if let Some(rested) = rested.filter(|rested| today < *rested) {
        return opening(campaign, case, rested).map(|until| (Reason::MinGap, until));
    }
    if is_in_flight(case, today) {
        return opening(campaign, case, add_days(today, 1)?).map(|until| (Reason::InFlight, until));
    }
    if case.hours.is_open(now) {
        return None;
    }
    // Closed: the next window, at the customer's place in it.
    let next = case.hours.next_open(now).map(|open| case.hours.date_at(open))?;
    opening(campaign, case, next).map(|until| (Reason::ContactHours, until))
}

/// Whether to wait for an earlier reminder. One that nobody has told the end of for two weeks is for people to look at; it
/// does not hold up the others.
fn is_in_flight(case: &Case<'_>, today: Date) -> bool {
    const PATIENCE_DAYS: i64 = 14;
    let given_up = case.last_reminded_on.and_then(|on| add_days(on, PATIENCE_DAYS));
    case.in_flight && given_up.is_some_and(|given_up| today < given_up)
}

/// The customer's moment in the first window from a date on. Depends on customer and date only: all steps of a customer
/// that fall into the same window have the same moment, and so become one message.
fn opening(campaign: &Campaign, case: &Case<'_>, date: Date) -> Option<Timestamp> {
    let window = case.hours.window_from(date)?;
    let spread = u64::from(campaign.spread_minutes) * 60;
    let offset = case.spread.checked_rem(spread).unwrap_or(0);
    let moment = window.opens.checked_add(SignedDuration::from_secs(i64::try_from(offset).unwrap_or(0))).ok()?;
    // A window that daylight saving has shortened may close before the spread ends.
    Some(if moment < window.closes { moment } else { window.opens })
}

fn add_days(date: Date, days: i64) -> Option<Date> {
    date.checked_add(days.days()).ok()
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::sample;
    use kernel::contact::zone;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn berlin() -> ContactHours {
        sample().hours.in_zone(zone("Europe/Berlin").unwrap())
    }

    fn case<'a>(hours: &'a ContactHours, decided: &'a [Decided]) -> Case<'a> {
        Case {
            standing: Standing::Open,
            due_on: Some(date("2026-06-01")), // a Monday
            reopened_at: None,
            failed_attempts: 0,
            last_failed_at: None,
            segment: Segment::Prompt,
            opted_out: false,
            decided,
            last_reminded_on: None,
            in_flight: false,
            hours,
            spread: 0,
        }
    }

    fn reminded(step: &str, on: &str) -> Decided {
        Decided { step: step.to_owned(), on: date(on), reminded: true }
    }

    fn send(step: &str, merged: &[&str]) -> Option<Send> {
        Some(Send { step: step.to_owned(), merged: merged.iter().map(|s| s.to_string()).collect() })
    }

    #[test]
    fn the_ladder_is_climbed_step_by_step() {
        let hours = berlin();
        // Three days before due: a Friday. Prompt payers are left alone.
        let early = plan(&sample(), &case(&hours, &[]), at("2026-05-20T10:00:00Z"));
        assert_eq!(early, Plan { wake_at: Some(at("2026-05-29T07:00:00Z")), ..Plan::default() });
        let upcoming = plan(&sample(), &case(&hours, &[]), at("2026-05-29T07:00:00Z"));
        assert_eq!(upcoming.skip, [("upcoming".to_owned(), Reason::Segment)]);
        assert_eq!(upcoming.wake_at, Some(at("2026-06-04T07:00:00Z")));
        let late = Case { segment: Segment::Late, ..case(&hours, &[]) };
        assert_eq!(plan(&sample(), &late, at("2026-05-29T07:00:00Z")).send, send("upcoming", &[]));

        // Three days after due: a Thursday. The follow-up gets its date by it: three days on is a Sunday, so Monday.
        let skipped = [Decided { step: "upcoming".into(), on: date("2026-05-29"), reminded: false }];
        let third = plan(&sample(), &case(&hours, &skipped), at("2026-06-04T07:00:00Z"));
        assert_eq!(third.send, send("overdue-3", &[]));
        assert_eq!(third.wake_at, Some(at("2026-06-08T07:00:00Z")));

        // That Monday the seventh day is due as well: one message, the furthest speaks.
        let mut decided = skipped.to_vec();
        decided.push(reminded("overdue-3", "2026-06-04"));
        let both = Case { last_reminded_on: Some(date("2026-06-04")), ..case(&hours, &decided) };
        assert_eq!(plan(&sample(), &both, at("2026-06-08T07:00:00Z")).send, send("overdue-7", &["follow-up"]));
    }

    #[test]
    fn the_gap_keeps_two_reminders_apart() {
        let hours = berlin();
        // Due on a Tuesday: day 3 is Friday 5, the follow-up Monday 8, day 7 the Tuesday after it.
        let decided = [reminded("overdue-3", "2026-06-05"), reminded("follow-up", "2026-06-08")];
        let case = Case {
            due_on: Some(date("2026-06-02")),
            last_reminded_on: Some(date("2026-06-08")),
            segment: Segment::Late,
            ..case(&hours, &decided)
        };
        let tuesday = plan(&sample(), &case, at("2026-06-09T07:00:00Z"));
        let until = at("2026-06-10T07:00:00Z");
        assert_eq!(tuesday.send, None);
        assert_eq!(tuesday.deferred, Some(Deferral { steps: vec!["overdue-7".into()], reason: Reason::MinGap, until }));
        assert_eq!(plan(&sample(), &case, until).send, send("overdue-7", &[]));
    }

    #[test]
    fn nothing_follows_while_a_reminder_is_on_its_way() {
        let hours = berlin();
        let decided = [reminded("overdue-3", "2026-06-04")];
        let waiting = Case { last_reminded_on: Some(date("2026-06-04")), in_flight: true, ..case(&hours, &decided) };
        let monday = plan(&sample(), &waiting, at("2026-06-08T07:00:00Z"));
        assert_eq!((monday.send, monday.deferred.map(|d| d.reason)), (None, Some(Reason::InFlight)));
        assert_eq!(monday.wake_at, Some(at("2026-06-09T07:00:00Z")));
        let arrived = Case { in_flight: false, ..waiting.clone() };
        assert_eq!(plan(&sample(), &arrived, at("2026-06-09T07:00:00Z")).send, send("overdue-7", &["follow-up"]));
        let lost = plan(&sample(), &waiting, at("2026-06-18T07:00:00Z"));
        assert_eq!(lost.send, send("overdue-7", &["follow-up"]), "every hold ends by itself");
    }

    #[test]
    fn nobody_asks_mildly_after_the_last_call() {
        let hours = berlin();
        // Due on a Wednesday: day 3 is a Saturday, so Monday 8; day 7 is Wednesday 10; the follow-up Thursday 11.
        let decided = [reminded("overdue-3", "2026-06-08"), reminded("overdue-7", "2026-06-10")];
        let case = Case {
            due_on: Some(date("2026-06-03")),
            last_reminded_on: Some(date("2026-06-10")),
            segment: Segment::Late,
            ..case(&hours, &decided)
        };
        let thursday = plan(&sample(), &case, at("2026-06-11T07:00:00Z"));
        let overtaken = [("upcoming".to_owned(), Reason::TooLate), ("follow-up".to_owned(), Reason::LaterStep)];
        assert_eq!((&thursday.skip[..], thursday.send), (&overtaken[..], None));
        // One that spoke before the step it counts from does not overtake it; nor does one that did not go out.
        for other in [reminded("overdue-7", "2026-06-05"), Decided { reminded: false, ..decided[1].clone() }] {
            let decided = [decided[0].clone(), other];
            let case = Case { decided: &decided, last_reminded_on: Some(date("2026-06-08")), ..case.clone() };
            assert_eq!(plan(&sample(), &case, at("2026-06-11T07:00:00Z")).send, send("follow-up", &[]));
        }
    }

    #[test]
    fn a_follow_up_of_nothing_is_skipped() {
        let hours = berlin();
        let failed = [Decided { step: "overdue-3".into(), on: date("2026-06-04"), reminded: false }];
        let next = plan(&sample(), &case(&hours, &failed), at("2026-06-05T07:00:00Z"));
        assert!(next.skip.contains(&("follow-up".to_owned(), Reason::BaseNotSent)), "{next:?}");
        let opted_out = Case { opted_out: true, ..case(&hours, &[]) };
        let skip = plan(&sample(), &opted_out, at("2026-06-04T07:00:00Z")).skip;
        assert!(skip.contains(&("follow-up".to_owned(), Reason::BaseNotSent)), "together with its base: {skip:?}");
    }

    #[test]
    fn nights_and_weekends_defer() {
        let hours = berlin();
        let case = case(&hours, &[]);
        for (now, until) in [
            ("2026-06-04T18:00:00Z", "2026-06-05T07:00:00Z"), // Thursday evening
            ("2026-06-06T10:00:00Z", "2026-06-08T07:00:00Z"), // Saturday
        ] {
            let plan = plan(&sample(), &case, at(now));
            assert_eq!(plan.deferred.as_ref().map(|d| (d.reason, d.until)), Some((Reason::ContactHours, at(until))));
            assert_eq!(plan.wake_at, Some(at(until)));
        }
    }

    #[test]
    fn an_outage_sends_one_reminder() {
        let hours = berlin();
        let after = plan(&sample(), &case(&hours, &[]), at("2026-07-15T10:00:00Z"));
        assert_eq!(after.send, send("overdue-7", &["overdue-3", "follow-up"]));
        assert_eq!(after.wake_at, None, "nothing is left to do");
        assert_eq!(after.skip, [("upcoming".to_owned(), Reason::TooLate)]);
    }

    #[test]
    fn three_failures_are_answered_at_once_in_hours() {
        let hours = berlin();
        let failed = Case {
            due_on: None,
            failed_attempts: 3,
            last_failed_at: Some(at("2026-06-02T12:00:00Z")),
            ..case(&hours, &[])
        };
        assert_eq!(plan(&sample(), &failed, at("2026-06-02T12:00:00Z")).send, send("failed", &[]));
        let two = Case { failed_attempts: 2, ..failed };
        assert_eq!(
            plan(&sample(), &two, at("2026-06-02T12:00:00Z")),
            Plan::default(),
            "no due date, nothing to wait for"
        );
    }

    #[test]
    fn a_new_epoch_counts_from_its_beginning() {
        let hours = berlin();
        let reopened = Case { reopened_at: Some(at("2026-08-03T09:00:00Z")), ..case(&hours, &[]) };
        let plan = plan(&sample(), &reopened, at("2026-08-03T10:00:00Z"));
        assert_eq!((plan.send, plan.wake_at), (None, Some(at("2026-08-06T07:00:00Z"))));
    }

    #[test]
    fn holds_ends_and_opt_outs_are_silent() {
        let hours = berlin();
        let now = at("2026-06-15T10:00:00Z");
        for standing in [Standing::Held, Standing::Closed] {
            assert_eq!(plan(&sample(), &Case { standing, ..case(&hours, &[]) }, now), Plan::default());
        }
        let opted_out = plan(&sample(), &Case { opted_out: true, ..case(&hours, &[]) }, now);
        assert_eq!(opted_out.send, None);
        let because = |(_, reason): &(String, Reason)| matches!(reason, Reason::OptedOut | Reason::BaseNotSent);
        assert!(opted_out.skip.iter().all(because), "{opted_out:?}");
    }

    #[test]
    fn the_spread_moves_a_customer_always_alike() {
        let hours = berlin();
        let spread = Case { spread: 12 * 60 + 5, ..case(&hours, &[]) };
        let wake = plan(&sample(), &spread, at("2026-05-01T10:00:00Z")).wake_at;
        assert_eq!(wake, Some(at("2026-05-29T07:12:05Z")));
        let beyond = Case { spread: 15 * 60 + 3, ..spread };
        assert_eq!(plan(&sample(), &beyond, at("2026-05-01T10:00:00Z")).wake_at, Some(at("2026-05-29T07:00:03Z")));
    }

    /// The sample with further follow-ups behind its last call: of a follow-up, and of a step that others overtake.
    fn with_tail() -> Campaign {
        let follow = |key: &str, step: &str, days| Step {
            key: key.to_owned(),
            trigger: Trigger::AfterStep { step: step.to_owned(), days },
            segments: Vec::new(),
            tone: crate::Tone::Final,
        };
        let mut campaign = sample();
        campaign.steps.push(follow("nag", "follow-up", 2));
        campaign.steps.push(follow("nag-again", "nag", 2));
        campaign.steps.push(follow("last", "overdue-3", 10));
        campaign
    }

    proptest! {
        #[test]
        fn any_case_comes_to_rest_within_its_rules(
            zone_index in 0..5_usize,
            due in 0..365_i64,
            start_hours in -2_000..4_000_i64,
            spread in any::<u64>(),
            segment in 0..4_usize,
            failed in 0..5_u32,
            lost in any::<u8>(),
            has_tail in any::<bool>(),
        ) {
            let name = ["Europe/London", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Kiritimati"][zone_index];
            let campaign = if has_tail { with_tail() } else { sample() };
            let hours = campaign.hours.in_zone(zone(name).unwrap());
            let due_on = date("2026-01-01").checked_add(due.days()).unwrap();
            let start = at("2026-01-01T00:00:00Z").checked_add(SignedDuration::from_hours(due * 24 + start_hours)).unwrap();
            let segment = [Segment::New, Segment::Prompt, Segment::Mixed, Segment::Late][segment];
            let mut moment = start;
            let (mut decided, mut last): (Vec<Decided>, Option<Date>) = (Vec::new(), None);
            let mut sent = 0;
            // Lives through the case from wake to wake, as the scheduler does.
            loop {
                let case = Case {
                    due_on: Some(due_on),
                    failed_attempts: failed,
                    last_failed_at: Some(start),
                    segment,
                    last_reminded_on: last,
                    spread,
                    ..case(&hours, &decided)
                };
                let plan = plan(&campaign, &case, moment);
                prop_assert_eq!(&plan, &super::plan(&campaign, &case, moment), "planning twice gives the same");
                let today = hours.date_at(moment);
                decided.extend(plan.skip.into_iter().map(|(step, _)| Decided { step, on: today, reminded: false }));
                if let Some(send) = plan.send {
                    prop_assert!(hours.is_open(moment), "sent at {} in {}", moment, name);
                    if let Some(last) = last {
                        prop_assert!(today >= last.checked_add(2.days()).unwrap(), "gap");
                    }
                    for step in send.merged.iter().chain([&send.step]) {
                        prop_assert!(!decided.iter().any(|d| d.step == *step), "{} twice", step);
                        let arrived = (lost >> (sent % 8)) & 1 == 0;
                        decided.push(Decided { step: step.clone(), on: today, reminded: arrived && *step == send.step });
                    }
                    sent += 1;
                    for (step, days) in [("overdue-3", 3), ("overdue-7", 7)] {
                        if send.step == step {
                            prop_assert!(today >= due_on.checked_add(days.days()).unwrap(), "early");
                        }
                    }
                    last = Some(today);
                }
                let Some(wake) = plan.wake_at else { break };
                prop_assert!(wake > moment, "woken for nothing");
                moment = wake;
            }
            for step in campaign.steps.iter().filter(|s| failed >= 3 || s.key != "failed") {
                prop_assert!(decided.iter().any(|d| d.step == step.key), "{} is left undecided", step.key);
            }
        }
    }
}
