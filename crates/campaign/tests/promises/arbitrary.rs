//! Arbitrary campaigns, payers, ledgers and outages.

use campaign::calendar::{Calendar, CalendarFile, HolidayFile};
use campaign::condition::{ConditionFile, Decimal, RangeFile};
use campaign::file::{
    AfterStepFile, ArmFile, CampaignFile, CapFile, ConsolidationFile, ContactFile, Day, EndFile, EntryFile, EntryMode,
    ExperimentFile, FailedAttemptsFile, HoldsFile, StepFile, Timing, WhenFile, WindowFile, WithFile, Without,
};
use campaign::{Assign, Channel, Choice, Ending, Reason, Tone};
use jiff::ToSpan;
use jiff::civil::{Date, date};
use kernel::Segment;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet};

/// Where clocks do strange things, and a date shortly before they do.
const PLACES: [(&str, Date); 15] = [
    ("Europe/Berlin", date(2026, 3, 20)),
    ("Europe/Berlin", date(2026, 10, 20)),
    ("America/New_York", date(2026, 10, 28)),
    ("Asia/Kathmandu", date(2026, 6, 1)),
    ("Australia/Lord_Howe", date(2026, 3, 30)), // half an hour of summer time
    ("Australia/Lord_Howe", date(2026, 9, 28)),
    ("Pacific/Chatham", date(2026, 9, 20)), // 45 minutes
    ("Pacific/Kiritimati", date(2026, 1, 1)),
    ("Pacific/Kiritimati", date(1994, 12, 20)), // one day was left out
    ("Pacific/Apia", date(2011, 12, 20)),       // another
    ("Pacific/Kwajalein", date(1993, 8, 10)),   // and another
    ("America/St_Johns", date(2010, 11, 1)),    // at one past midnight back to the day before
    ("Asia/Beirut", date(2026, 10, 20)),        // at midnight
    ("America/Havana", date(2026, 10, 25)),     // at one, back to midnight
    ("Africa/Casablanca", date(2026, 2, 10)),   // winter time in Ramadan
];

/// A life of one customer.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) zone: &'static str,
    pub(crate) country: &'static str,
    pub(crate) start: Date,
    pub(crate) campaigns: Vec<CampaignFile>,
    /// Closed days of the calendars OWN and DE.
    pub(crate) closed: [BTreeSet<Date>; 2],
    pub(crate) invoices: Vec<Invoice>,
    /// Minutes from the start.
    pub(crate) events: Vec<(i64, Event)>,
    /// From a minute on, for so many.
    pub(crate) outages: Vec<(i64, i64)>,
    pub(crate) late_by_seconds: i64,
    pub(crate) spread: u64,
    /// So many minutes until a reminder arrives, and whether it then turns out lost.
    pub(crate) delivery: (i64, bool),
}

#[derive(Debug, Clone)]
pub(crate) struct Invoice {
    pub(crate) campaign: usize,
    pub(crate) currency: &'static str,
    pub(crate) open_minor: i64,
    pub(crate) due: Option<i32>,
    pub(crate) opened_minute: i64,
    /// Its turn in the ramp, in days after it was opened.
    pub(crate) turn: Option<i32>,
    /// What was chosen for the first steps, allowed or not.
    pub(crate) choices: Vec<Choice>,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Pay(usize),
    Reopen(usize),
    Fail(usize, &'static str),
    Promise(usize, i32),
    Pending(usize),
    Hold(usize, Reason, Option<i64>),
    Release(usize),
    MoveDue(usize, i32),
    OptOut,
    Segment(Segment),
}

pub(crate) fn script() -> impl Strategy<Value = Script> {
    let closed = || (vec(-20..200_i32, 0..30), prop::option::weighted(0.1, (0..40_i32, 1..70_i32)));
    let campaigns = vec(campaign(), 1..3);
    let ledger = (vec(invoice(), 1..4), vec((0..150_i64 * 1440, event()), 0..12));
    let trouble = (vec((0..120_i64 * 1440, 1..45_i64 * 1440), 0..3), select(&[0_i64, 1, 59, 3600, 20_000][..]));
    let delivery = (select(&[0_i64, 1, 600, 3000, 40_000][..]), prop::bool::weighted(0.2));
    let payer = (select(&PLACES[..]), select(&["DE", "", "XX"][..]), any::<u64>());
    (payer, campaigns, [closed(), closed()], ledger, trouble, delivery).prop_map(
        |((place, country, spread), campaigns, closed, (invoices, events), (outages, late_by_seconds), delivery)| {
            let (zone, start) = place;
            let days = |(days, run): (Vec<i32>, Option<(i32, i32)>)| {
                let run = run.into_iter().flat_map(|(from, length)| from..from + length);
                days.into_iter().chain(run).map(|n| plus(start, n)).collect()
            };
            let closed = closed.map(days);
            let mut script = Script {
                zone,
                country,
                start,
                campaigns,
                closed,
                invoices,
                events,
                outages,
                late_by_seconds,
                spread,
                delivery,
            };
            script.events.sort_by_key(|(minute, _)| *minute);
            script
        },
    )
}

pub(crate) fn plus(date: Date, days: i32) -> Date {
    date.checked_add(days.days()).unwrap()
}

/// A calendar that knows the years around a script, closed on these days.
pub(crate) fn calendar(name: &str, start: Date, closed: &BTreeSet<Date>) -> Calendar {
    let mut years: BTreeMap<i16, BTreeSet<Date>> = BTreeMap::new();
    for year in start.year() - 3..start.year() + 8 {
        // A year without a holiday is refused.
        years.entry(year).or_default().insert(date(year, 12, 31));
    }
    closed.iter().for_each(|day| _ = years.get_mut(&day.year()).unwrap().insert(*day));
    let holiday = |on: Date| HolidayFile { on, name: "closed".to_owned() };
    let years = years.into_iter().map(|(year, days)| (year, days.into_iter().map(holiday).collect())).collect();
    let text = || name.to_owned();
    Calendar::try_new(&CalendarFile { name: text(), title: text(), source: text(), years }).unwrap()
}

fn invoice() -> impl Strategy<Value = Invoice> {
    let dates = (prop::option::weighted(0.9, -60..60_i32), 0..30_i64 * 1440);
    let turn = prop::option::weighted(0.1, 1..20_i32);
    let choices = vec(choice(), 2..7);
    (any::<bool>(), select(&["EUR", "EUR", "USD"][..]), 1..100_000_i64, dates, turn, choices).prop_map(
        |(second, currency, open_minor, (due, opened_minute), turn, choices)| Invoice {
            campaign: second.into(),
            currency,
            open_minor,
            due,
            opened_minute,
            turn,
            choices,
        },
    )
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        4 => (-6..7_i32).prop_map(Choice::Move),
        4 => Just(Choice::Skip),
        4 => (0..4_usize).prop_map(Choice::Arm),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let n = || 0..3_usize;
    let reason = select(&[Reason::Dispute, Reason::ManualHold, Reason::StaleSource][..]);
    prop_oneof![
        4 => n().prop_map(Event::Pay),
        3 => n().prop_map(Event::Reopen),
        8 => (n(), select(&["insufficient_funds", "expired_card"][..])).prop_map(|(n, code)| Event::Fail(n, code)),
        2 => (n(), 0..30_i32).prop_map(|(n, days)| Event::Promise(n, days)),
        2 => n().prop_map(Event::Pending),
        2 => (n(), reason, prop::option::of(1..40_i64 * 1440)).prop_map(|(n, r, until)| Event::Hold(n, r, until)),
        4 => n().prop_map(Event::Release),
        2 => (n(), -20..20_i32).prop_map(|(n, days)| Event::MoveDue(n, days)),
        1 => Just(Event::OptOut),
        3 => select(&[Segment::New, Segment::UsuallyLate][..]).prop_map(Event::Segment),
    ]
}

fn campaign() -> impl Strategy<Value = CampaignFile> {
    let cap = prop::option::of((1..4_u16, 1..20_u16));
    let together = (any::<bool>(), select(&[0_u16, 0, 1, 5][..]));
    let contact = (hours(), select(vec![vec![], vec!["OWN"], vec!["payer"], vec!["OWN", "payer"]]), 0..5_u16);
    let mode = select(&[EntryMode::FromNow, EntryMode::CatchUp, EntryMode::LatestStep][..]);
    let end = (0..15_u16, ending()).prop_map(|(after_days, outcome)| EndFile { after_days, outcome });
    let holds = (0..4_u16, 1..20_u16);
    (contact, cap, together, vec(step(), 1..7), mode, end, holds).prop_map(
        |((hours, holidays, min_gap_days), cap, together, steps, mode, end, holds)| CampaignFile {
            name: "arbitrary".to_owned(),
            audience: ConditionFile::default(),
            entry: EntryFile { mode, at_most_per_day: None },
            contact: ContactFile {
                weekdays: hours.0,
                from: clock(hours.1),
                to: clock(hours.2),
                holidays: holidays.into_iter().map(str::to_owned).collect(),
                min_gap_days,
                cap: cap.map(|(reminders, days)| CapFile { reminders, days }),
                consolidation: ConsolidationFile { enabled: together.0, wait_days: together.1 },
                spread_minutes: hours.3,
            },
            holds: HoldsFile { promise_grace_days: holds.0, pending_payment_days: holds.1 },
            charges: Default::default(),
            holdout: Default::default(),
            steps: (0..).zip(steps).map(|(n, step)| placed(n, step)).collect(),
            end,
        },
    )
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Weekdays, opening, closing and spread: mostly an ordinary day, else whatever there is, also at night.
fn hours() -> impl Strategy<Value = (Vec<Day>, u16, u16, u16)> {
    let span = prop_oneof![
        1 => Just((9 * 60, 18 * 60)),
        2 => (0..282_u16, 6..100_u16).prop_map(|(from, length)| (from * 5, (from * 5 + length * 5).min(1440))),
    ];
    let weekdays = prop_oneof![1 => Just(0b1_1111_u8), 1 => 1..128_u8];
    (weekdays, span, 0..1000_u16).prop_map(|(bits, (from, to), spread)| {
        let days = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
        let days = days.into_iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, day)| day).collect();
        (days, from, to, spread % (to - from))
    })
}

fn ending() -> impl Strategy<Value = Ending> {
    select(&[Ending::HandOver, Ending::Webhook, Ending::Stop][..])
}

#[derive(Debug, Clone)]
struct Seed {
    when: When,
    only_if: ConditionFile,
    window: Option<WindowFile>,
    /// Days by which arms move the step, and templates; neither is the arm without it.
    arms: Option<Vec<(Option<i32>, Option<&'static str>)>>,
    tone: Tone,
    ends_with: Option<Ending>,
}

#[derive(Debug, Clone)]
enum When {
    Given(WhenFile),
    /// After a step before it, or on the due date if it is the first.
    AfterStep(usize, u16),
    AfterPrevious(u16),
}

fn step() -> impl Strategy<Value = Seed> {
    let window = prop::option::weighted(0.5, (0..6_u16, 0..6_u16, prop::bool::weighted(0.7))).prop_map(|window| {
        window.map(|(earlier_days, later_days, may_skip)| WindowFile { earlier_days, later_days, may_skip })
    });
    let arm = (prop::option::of(-6..7_i32), prop::option::of(select(&["kind", "plain"][..])));
    let arms = prop::option::weighted(0.4, vec(arm, 2..5));
    let tone = select(&[Tone::Friendly, Tone::Firm, Tone::Final][..]);
    (when(), only_if(), (window, arms), tone, prop::option::weighted(0.1, ending())).prop_map(
        |(when, only_if, (window, arms), tone, ends_with)| Seed { when, only_if, window, arms, tone, ends_with },
    )
}

fn when() -> impl Strategy<Value = When> {
    let blank = WhenFile::default;
    let days = || 1..25_u16;
    let failed = (1..4_u16, prop::option::of(Just("expired_card".to_owned()))).prop_map(|(count, code)| match code {
        None => FailedAttemptsFile::Count(count),
        Some(code) => FailedAttemptsFile::For { count, decline_code: vec![code] },
    });
    let given = prop_oneof![
        2 => days().prop_map(move |n| WhenFile { days_before_due: Some(n), ..blank() }),
        1 => days().prop_map(move |n| WhenFile { business_days_before_due: Some(n), ..blank() }),
        1 => Just(WhenFile { on_due_date: Some(true), ..blank() }),
        5 => days().prop_map(move |n| WhenFile { days_after_due: Some(n), ..blank() }),
        2 => days().prop_map(move |n| WhenFile { business_days_after_due: Some(n), ..blank() }),
        1 => (0..20_u16).prop_map(move |n| WhenFile { days_after_month_end: Some(n), ..blank() }),
        2 => failed.prop_map(move |f| WhenFile { failed_attempts: Some(f), ..blank() }),
        1 => (0..5_u16).prop_map(move |n| WhenFile { days_after_broken_promise: Some(n), ..blank() }),
    ];
    prop_oneof![
        4 => given.prop_map(When::Given),
        1 => (0..6_usize, 1..10_u16).prop_map(|(base, days)| When::AfterStep(base, days)),
        1 => (1..10_u16).prop_map(When::AfterPrevious),
    ]
}

fn only_if() -> impl Strategy<Value = ConditionFile> {
    let blank = ConditionFile::default;
    let late = ConditionFile { segment: vec![Segment::UsuallyLate], ..blank() };
    let range = RangeFile { at_least: Some(Decimal::Whole(300)), below: None };
    let large = ConditionFile { amount: [("EUR".to_owned(), range)].into(), ..blank() };
    let failed = ConditionFile { failed_attempts: Some(1), ..blank() };
    let not_late = ConditionFile { not: Some(Box::new(late.clone())), ..blank() };
    let any = ConditionFile { any: vec![large.clone(), failed.clone()], ..blank() };
    prop_oneof![6 => Just(blank()), 3 => select(vec![late, large, failed, not_late, any])]
}

fn placed(n: usize, seed: Seed) -> StepFile {
    let when = match seed.when {
        When::Given(when) => when,
        _ if n == 0 => WhenFile { on_due_date: Some(true), ..WhenFile::default() },
        When::AfterStep(base, days) => {
            let after_step = Some(AfterStepFile { step: format!("s{}", base % n), days });
            WhenFile { after_step, ..WhenFile::default() }
        }
        When::AfterPrevious(days) => WhenFile { days_after_previous: Some(days), ..WhenFile::default() },
    };
    let is_last_call = seed.tone == Tone::Final || seed.ends_with.is_some();
    let window = seed.window.map(|w| WindowFile { may_skip: w.may_skip && !is_last_call, ..w });
    let arm = |(shift, template): (Option<i32>, Option<&str>)| {
        let days = shift.and_then(|shift| arm_day(&when, window.unwrap_or_default(), shift));
        match template.map(str::to_owned) {
            None if days.is_none() && window.is_some_and(|w| w.may_skip) => ArmFile::Without(Without::None),
            None if days.is_none() => ArmFile::With(WithFile { days, template: Some("kind".to_owned()) }),
            template => ArmFile::With(WithFile { days, template }),
        }
    };
    let experiment = seed.arms.map(|arms| ExperimentFile {
        assign: Assign::Split(vec![1; arms.len()]),
        arms: arms.into_iter().map(arm).collect(),
    });
    StepFile {
        key: format!("s{n}"),
        when,
        only_if: seed.only_if,
        timing: if window.is_some() { Timing::Adaptive } else { Timing::Fixed },
        window,
        experiment,
        channels: vec![Channel::Email],
        tone: seed.tone,
        template: None,
        ends_with: seed.ends_with,
    }
}

/// The day of a step as it is written, counted in calendar days from the due date or the end of its month.
pub(crate) fn written_day(when: &WhenFile) -> Option<i32> {
    let before = when.days_before_due.map(|n| -i32::from(n));
    let after = when.days_after_due.or(when.days_after_month_end).map(i32::from);
    before.or(after).or(when.on_due_date.map(|_| 0))
}

/// A day inside the window, on its side of the due date.
fn arm_day(when: &WhenFile, window: WindowFile, shift: i32) -> Option<i32> {
    let day = written_day(when)? + shift.clamp(-i32::from(window.earlier_days), window.later_days.into());
    Some(match when {
        WhenFile { days_after_due: Some(_), .. } => day.max(1),
        WhenFile { days_after_month_end: Some(_), .. } => day,
        _ => day.min(0),
    })
}
