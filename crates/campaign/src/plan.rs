//! What to do about a case now, and when to look again.

use crate::calendar;
use crate::campaign::{Campaign, Offset, Step, Trigger};
use crate::case::{Case, Choice, Deferral, Plan, Reason, Send, Skip};
use crate::experiment::Arm;
use crate::file::EntryMode;
use crate::terms::Terms;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use kernel::ContactHours;
use kernel::contact::Weekdays;
use std::borrow::Cow;

mod send_now;

pub use send_now::{Refusal, next_step, send_now};

/// Plans a case.
///
/// Never early: a step's moment is the opening of the payer's first window from its date on, plus the customer's place in
/// the spread. Never silent: a due step is sent, merged, skipped with a reason, or deferred with a reason and, unless a
/// person or news must end it, a moment. Of several due steps only the furthest is sent, so an outage never causes more
/// than one reminder. There is no lower bound on how late a step may be looked at.
pub fn plan(terms: &Terms<'_>, case: &Case<'_>, now: Timestamp) -> Plan {
    if !case.is_open {
        return Plan::default();
    }
    match &terms.hours {
        Some(hours) => Planning::new(terms, case, hours, now).plan(),
        None => Plan {
            deferred: Some(Deferral {
                steps: undecided(terms.campaign, case),
                reason: Reason::NoContactHours,
                rule: law_rule(terms, "contact").into(),
                until: None,
            }),
            // Rules change: looked at daily, and on record.
            wake_at: Some(later(now)),
            ..Plan::default()
        },
    }
}

/// The customer's moment in the first window after today.
pub(crate) fn next_day(terms: &Terms<'_>, case: &Case<'_>, now: Timestamp) -> Timestamp {
    terms.hours.as_ref().map_or_else(|| later(now), |hours| Planning::new(terms, case, hours, now).tomorrow())
}

fn undecided(campaign: &Campaign, case: &Case<'_>) -> Vec<String> {
    let is_decided = |step: &&Step| !case.decided.iter().any(|d| d.step == step.key);
    campaign.steps.iter().filter(is_decided).map(|s| s.key.clone()).collect()
}

fn law_rule(terms: &Terms<'_>, what: &str) -> String {
    format!("{}.{what}", terms.law.map_or("law", |rules| &rules.id))
}

/// What is known of a step while planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A reminder went out for it.
    Reminded(Date),
    /// It was decided without one.
    Silent(Date),
}

/// When a step is due.
enum When {
    On(Date),
    /// Never: what it counts from did not happen.
    Lost,
    /// Nobody can say yet.
    Unknown,
    /// A calendar lacks a year.
    NoCalendar,
}

/// Why to wait, what says so, and until when; `None`: until there is news, or a person ends it.
type Wait = (Reason, Cow<'static, str>, Option<Timestamp>);

struct Planning<'a> {
    terms: &'a Terms<'a>,
    case: &'a Case<'a>,
    hours: &'a ContactHours,
    now: Timestamp,
    today: Date,
    /// By the step's place.
    states: Vec<State>,
    /// Steps of dates up to this one are due: its window has opened, and no later one.
    reached: Date,
    /// How many days the steps after due are moved so that the first one falls on the day of entry.
    catch_up: i64,
    plan: Plan,
}

impl<'a> Planning<'a> {
    fn new(terms: &'a Terms<'a>, case: &'a Case<'a>, hours: &'a ContactHours, now: Timestamp) -> Self {
        let today = hours.date_at(now);
        let mut states = vec![State::Open; terms.campaign.steps.len()];
        for decided in case.decided {
            let place = terms.campaign.steps.iter().position(|s| s.key == decided.step);
            if let Some(state) = place.and_then(|n| states.get_mut(n)) {
                *state = if decided.reminded { State::Reminded(decided.on) } else { State::Silent(decided.on) };
            }
        }
        let plan = Plan::default();
        let mut planning = Self { terms, case, hours, now, today, states, reached: today, catch_up: 0, plan };
        planning.reached = planning.latest_opened();
        planning.catch_up = planning.catch_up_days();
        planning
    }

    fn plan(mut self) -> Plan {
        let steps = &self.terms.campaign.steps;
        let mut due: Vec<(usize, Date)> = Vec::new();
        let mut unplannable: Vec<usize> = Vec::new();
        let mut future: Option<Date> = None;
        let is_over = self.is_over();
        for (n, step) in steps.iter().enumerate() {
            if self.state(n) != State::Open {
                continue;
            }
            if let Some(rule) = &is_over {
                self.skip(n, Reason::SequenceEnded, rule.clone());
                continue;
            }
            match self.when(n, step) {
                When::Lost => self.skip(n, Reason::BaseNotSent, format!("steps.{}.when", step.key)),
                When::Unknown => {}
                When::NoCalendar => unplannable.push(n),
                When::On(date) if date > self.reached => future = Some(future.map_or(date, |f| f.min(date))),
                When::On(date) => match self.obstacle(n, step).or_else(|| self.left_out(step)) {
                    Some((reason, rule)) => self.skip(n, reason, rule),
                    None => due.push((n, date)),
                },
            }
        }
        if let Some(date) = future {
            self.plan.next_step_at = Some(self.opening_or_later(date));
            self.plan.wake_at = self.plan.next_step_at;
        }
        if !unplannable.is_empty() {
            let year = self.case.due_on.unwrap_or(self.today);
            self.defer(&unplannable, Reason::CalendarMissing, self.missing_calendar(year), Some(self.tomorrow()));
            if due.is_empty() {
                return self.plan;
            }
        }
        let Some((&(furthest, _), others)) = due.split_last() else {
            self.end(future);
            return self.plan;
        };
        if let Some((reason, rule, until)) = self.wait() {
            let places: Vec<usize> = due.iter().map(|(n, _)| *n).collect();
            self.defer(&places, reason, rule, until);
            return self.plan;
        }
        self.send(furthest, others, due.iter().map(|(_, date)| *date).min().unwrap_or(self.today));
        self.plan
    }

    fn state(&self, n: usize) -> State {
        self.states.get(n).copied().unwrap_or(State::Open)
    }

    fn set(&mut self, n: usize, state: State) {
        if let Some(place) = self.states.get_mut(n) {
            *place = state;
        }
    }

    fn key(&self, n: usize) -> String {
        self.terms.campaign.steps.get(n).map(|s| s.key.clone()).unwrap_or_default()
    }

    fn skip(&mut self, n: usize, reason: Reason, rule: String) {
        self.set(n, State::Silent(self.today));
        self.plan.skip.push(Skip { step: self.key(n), reason, rule });
    }

    fn defer(&mut self, places: &[usize], reason: Reason, rule: Cow<'static, str>, until: Option<Timestamp>) {
        let steps = places.iter().map(|n| self.key(*n)).collect();
        self.plan.wake_at = earliest(self.plan.wake_at, until);
        self.plan.deferred = Some(Deferral { steps, reason, rule, until });
    }

    /// Why no step will be sent any more, if so: the sequence ended, or the step that ends it went out.
    fn is_over(&self) -> Option<String> {
        if self.case.ended {
            return Some("end".to_owned());
        }
        // While its reminder is on its way it may still come to nothing.
        let last = |(n, s): (usize, &Step)| s.ends_with.is_some() && matches!(self.state(n), State::Reminded(_));
        let n = self.terms.campaign.steps.iter().enumerate().position(last).filter(|_| !self.is_in_flight())?;
        Some(format!("steps.{}.ends_with", self.key(n)))
    }

    /// The date of a step, as far as it is known.
    fn when(&self, n: usize, step: &Step) -> When {
        match self.written(n, step) {
            When::On(date) if step.is_dated() => When::On(self.moved(step, date)),
            when => when,
        }
    }

    /// The date that the campaign's words give a step, before it is moved.
    fn written(&self, n: usize, step: &Step) -> When {
        let case = self.case;
        let on = |date: Option<Date>| date.map_or(When::Unknown, When::On);
        let after = |state: State, days: u16| match state {
            State::Reminded(on) => add_days(on, days.into()).map_or(When::Unknown, When::On),
            State::Silent(_) => When::Lost,
            State::Open => When::Unknown,
        };
        match &step.trigger {
            Trigger::FromDue(offset) => self.by_due_date(*offset),
            Trigger::AfterMonthEnd(days) => {
                let end = self.anchor().map(Date::last_of_month);
                let date = end.and_then(|end| add_days(end, i64::from(*days) + self.catch_up));
                on(date.map(|date| self.lawful(date)))
            }
            Trigger::FailedAttempts { count, decline_codes } => {
                let facts = &case.facts;
                let fits = decline_codes.is_empty() || decline_codes.iter().any(|c| c == facts.decline_code);
                on(case.last_failed_on.filter(|_| facts.failed_attempts >= *count && fits))
            }
            Trigger::AfterStep { base, days } => after(self.state(*base), *days),
            Trigger::AfterPrevious(days) => after(self.previous(n), *days),
            Trigger::AfterBrokenPromise(days) => {
                on(self.promise_broken_on().and_then(|broken| add_days(broken, i64::from(*days))))
            }
        }
    }

    fn by_due_date(&self, offset: Offset) -> When {
        let Some(date) = self.counted(offset) else {
            return if self.base(offset).is_none() { When::Unknown } else { When::NoCalendar };
        };
        let shift = if offset.is_by_due() { 0 } else { self.catch_up };
        add_days(date, shift).map_or(When::Unknown, When::On)
    }

    /// The date at an offset from the due date; the law may put it off.
    fn counted(&self, offset: Offset) -> Option<Date> {
        let anchor = self.base(offset)?;
        let date = match offset {
            Offset::Days(n) => add_days(anchor, n.into())?,
            Offset::BusinessDays(n) => {
                calendar::add_business_days(anchor, n, Weekdays::BUSINESS, &self.terms.holidays)?
            }
        };
        Some(if offset.is_by_due() { date } else { self.lawful(date) })
    }

    /// What an offset counts from.
    fn base(&self, offset: Offset) -> Option<Date> {
        if offset.is_by_due() { self.case.due_on } else { self.anchor() }
    }

    /// The date, unless the law puts a reminder of what is overdue off.
    fn lawful(&self, date: Date) -> Date {
        let days = self.terms.law.and_then(|rules| rules.earliest_days_after_due);
        let earliest = days.and_then(|days| add_days(self.case.due_on?, days.into()));
        earliest.map_or(date, |earliest| date.max(earliest))
    }

    /// What days after the due date count from. A debt that was opened again has had the reminders of its first due date,
    /// if it ever had one.
    fn anchor(&self) -> Option<Date> {
        match (self.case.due_on, self.case.reopened_on) {
            (Some(due_on), Some(reopened_on)) => Some(due_on.max(reopened_on)),
            (due_on, reopened_on) => due_on.or(reopened_on),
        }
    }

    /// When the case entered the campaign: a late invoice on its turn in the ramp.
    fn entered_on(&self) -> Date {
        self.case.not_before.map_or(self.case.opened_on, |turn| turn.max(self.case.opened_on))
    }

    /// Where a choice moves a step: inside its window, on its side of the day it counts from, and no earlier than the law
    /// wants. Before the due date not so late that nothing opens in time any more: it would be lost.
    fn moved(&self, step: &Step, date: Date) -> Date {
        let days = match (self.arm(step), self.choice(step)) {
            (Some(Arm::With { days, .. }), _) => *days,
            (None, Some(Choice::Move(days))) => days,
            _ => 0,
        };
        let days = days.clamp(-i32::from(step.window.earlier_days), step.window.later_days.into());
        let (Some(anchor), Some(mut moved)) = (self.anchor(), add_days(date, days.into())) else { return date };
        if !step.is_by_due() {
            return moved.max(self.lawful(anchor.tomorrow().unwrap_or(anchor)).min(date));
        }
        let due_on = self.case.due_on.unwrap_or(date);
        moved = moved.min(due_on);
        let is_in_time = |day| self.opening(day).is_some_and(|at| self.hours.date_at(at) <= due_on);
        while moved > date && !is_in_time(moved) {
            moved = moved.yesterday().unwrap_or(date);
        }
        moved
    }

    /// What was chosen for a step, by whom its campaign lets choose: its experiment if it has one, else advice.
    fn choice(&self, step: &Step) -> Option<Choice> {
        let chosen = self.case.choices.iter().find(|(key, _)| *key == step.key).map(|(_, choice)| *choice);
        chosen.filter(|choice| matches!(choice, Choice::Arm(_)) == step.experiment.is_some())
    }

    fn arm<'b>(&self, step: &'b Step) -> Option<&'b Arm> {
        match self.choice(step)? {
            Choice::Arm(n) => step.arm(n),
            Choice::Move(_) | Choice::Skip => None,
        }
    }

    /// Why a step is left out by choice.
    fn left_out(&self, step: &Step) -> Option<(Reason, String)> {
        if self.arm(step) == Some(&Arm::None) {
            return Some((Reason::ArmNone, format!("steps.{}.experiment", step.key)));
        }
        let is_skipped = step.window.may_skip && self.choice(step) == Some(Choice::Skip);
        is_skipped.then(|| (Reason::Advised, format!("steps.{}.window.may_skip", step.key)))
    }

    /// The template of a step, or of the arm that was chosen for it.
    fn template<'b>(&self, step: &'b Step) -> &'b str {
        match self.arm(step) {
            Some(Arm::With { template, .. }) => template,
            Some(Arm::None) | None => &step.template,
        }
    }

    /// The last reminder of the steps before a step. It is known once the step right before it is decided; those that wait
    /// for news, which may never come, are not waited for.
    fn previous(&self, n: usize) -> State {
        match self.right_before(n).map(|n| self.state(n)) {
            Some(State::Open) | None => State::Open,
            Some(silent) => {
                let reminded = self.states.iter().take(n).filter_map(|state| match state {
                    State::Reminded(on) => Some(*on),
                    _ => None,
                });
                // By its date: steps are in the order of their weight, and those that news triggers come when they come.
                reminded.max().map_or(silent, State::Reminded)
            }
        }
    }

    /// The place of the step right before a step, without those that wait for news.
    fn right_before(&self, n: usize) -> Option<usize> {
        let earlier = self.terms.campaign.steps.iter().enumerate().take(n);
        earlier.rev().find(|(m, step)| self.state(*m) != State::Open || !self.waits_for_news(*m, step)).map(|(m, _)| m)
    }

    fn waits_for_news(&self, n: usize, step: &Step) -> bool {
        let by_news = matches!(step.trigger, Trigger::FailedAttempts { .. } | Trigger::AfterBrokenPromise(_));
        by_news && !matches!(self.when(n, step), When::On(_))
    }

    /// The distance from the first step after due to the day of entry, if that has passed by then.
    fn catch_up_days(&self) -> i64 {
        if self.terms.campaign.entry.mode != EntryMode::CatchUp {
            return 0;
        }
        let date = |step: &Step| match step.trigger {
            Trigger::FromDue(offset) if !offset.is_by_due() => self.counted(offset),
            Trigger::AfterMonthEnd(days) => add_days(self.anchor()?.last_of_month(), days.into()),
            _ => None,
        };
        let first = self.terms.campaign.steps.iter().filter_map(date).min();
        first.map_or(0, |first| (self.entered_on() - first).get_days().max(0).into())
    }

    fn promise_broken_on(&self) -> Option<Date> {
        let grace = i64::from(self.terms.campaign.holds.promise_grace_days);
        add_days(self.case.promised_on?, grace + 1)
    }

    /// Why a step whose time has come will never be sent. Its written date counts, wherever it was moved: what a step is
    /// compared by is the same for all arms.
    fn obstacle(&self, n: usize, step: &Step) -> Option<(Reason, String)> {
        let case = self.case;
        let date = match self.written(n, step) {
            When::On(date) => date,
            _ => self.today,
        };
        if case.opted_out {
            return Some((Reason::OptedOut, "customer.opted_out".to_owned()));
        }
        if step.is_by_due() && case.due_on.is_some_and(|due| self.today > due) {
            return Some((Reason::TooLate, format!("steps.{}.when", step.key)));
        }
        if self.terms.campaign.entry.mode == EntryMode::FromNow && step.is_dated() && date < self.entered_on() {
            return Some((Reason::BeforeEntry, "entry.mode".to_owned()));
        }
        if let Some(key) = step.only_if.failing(&case.facts) {
            return Some((Reason::Condition, format!("steps.{}.only_if.{key}", step.key)));
        }
        if let Some(further) = self.overtaken_by(n, step, date) {
            return Some((Reason::LaterStep, format!("steps.{}", self.key(further))));
        }
        let maximum = self.terms.law.and_then(|rules| rules.max_reminders).filter(|_| !step.is_by_due());
        maximum
            .filter(|most| self.overdue_reminders().count() >= usize::from(*most))
            .map(|_| (Reason::LawMaximum, law_rule(self.terms, "max_reminders")))
    }

    /// The dates of the invoice's reminders after due. Of steps that this version of the campaign does not have nobody
    /// knows any more what they said: they count.
    fn overdue_reminders(&self) -> impl Iterator<Item = Date> {
        let steps = &self.terms.campaign.steps;
        let known = self.states.iter().zip(steps).filter_map(|(state, step)| match state {
            State::Reminded(on) if !step.is_by_due() => Some(*on),
            _ => None,
        });
        let foreign = self.case.decided.iter().filter(|d| d.reminded && !steps.iter().any(|s| s.key == d.step));
        known.chain(foreign.map(|d| d.on))
    }

    /// The further step that has spoken since a step's date, or since the step that a follow-up counts from: after the
    /// last call nobody asks mildly.
    fn overtaken_by(&self, n: usize, step: &Step, date: Date) -> Option<usize> {
        let since = match step.trigger {
            Trigger::AfterStep { base, .. } => match self.state(base) {
                State::Reminded(base) => base,
                _ => return None,
            },
            // Only one that came into the campaign, or got another date, after the further one had spoken.
            Trigger::FromDue(_) | Trigger::AfterMonthEnd(_) => date,
            _ => return None,
        };
        let further = self.states.iter().enumerate().skip(n + 1);
        further.filter_map(|(m, s)| matches!(s, State::Reminded(on) if *on >= since).then_some(m)).next_back()
    }

    /// Why nothing may be sent now, what says so, and until when.
    fn wait(&self) -> Option<Wait> {
        let turn = self.case.not_before.filter(|turn| self.today < *turn);
        let turn = turn.map(|turn| (Reason::Ramp, "entry.at_most_per_day".into(), Some(self.opening_or_later(turn))));
        // The customer's place in the spread holds for what waited until today as well: whatever is looked at in between
        // would go out by itself, and not together with what is due at that place.
        self.unrested().or(turn).or_else(|| self.closed(self.reached == self.today))
    }

    /// Why nothing may be sent to the customer, or about the invoice, whatever the time of day.
    fn unrested(&self) -> Option<Wait> {
        let (campaign, today) = (self.terms.campaign, self.today);
        let until = |reason, rule, date: Date| Some((reason, rule, Some(self.opening_or_later(date))));
        if let Some(hold) = self.hold() {
            return Some(hold);
        }
        let last = self.case.contacts.last();
        let rested = last.and_then(|last| add_days(*last, campaign.min_gap_days.into()));
        if let Some(rested) = rested.filter(|rested| today < *rested) {
            return until(Reason::MinGap, "contact.min_gap_days".into(), rested);
        }
        let law = self.terms.law;
        let own = campaign.cap.map(|cap| (cap, Cow::Borrowed("contact.cap")));
        let lawful = law.and_then(|rules| rules.cap).map(|cap| (cap, Cow::Owned(law_rule(self.terms, "cap"))));
        for (cap, rule) in own.into_iter().chain(lawful) {
            let nth = usize::from(cap.reminders);
            let oldest = self.case.contacts.len().checked_sub(nth).and_then(|n| self.case.contacts.get(n));
            let free = oldest.and_then(|oldest| add_days(*oldest, cap.days.into()));
            if let Some(free) = free.filter(|free| today < *free) {
                return until(Reason::Cap, rule, free);
            }
        }
        let between = law.and_then(|rules| rules.min_days_between);
        let allowed = between.and_then(|days| add_days(self.overdue_reminders().max()?, days.into()));
        if let Some(allowed) = allowed.filter(|allowed| today < *allowed) {
            return until(Reason::LawGap, law_rule(self.terms, "min_days_between").into(), allowed);
        }
        if self.is_in_flight() {
            return Some((Reason::InFlight, "customer.in_flight".into(), Some(self.tomorrow())));
        }
        None
    }

    /// Why the payer may not be written to at this time of day. `in_place`: its place in the spread has come.
    fn closed(&self, in_place: bool) -> Option<Wait> {
        if self.terms.holidays.missing_year(self.today).is_some() {
            return Some((Reason::CalendarMissing, self.missing_calendar(self.today), Some(self.tomorrow())));
        }
        let is_open = self.hours.is_open(self.now);
        if is_open && in_place {
            return None;
        }
        let rule = if is_open { "contact.spread_minutes" } else { "contact" };
        // Closed: the next window, at the customer's place in it.
        let next = self.hours.next_open(self.now).map(|open| self.hours.date_at(open));
        let until = next.map_or_else(|| later(self.now), |next| self.opening_or_later(next));
        Some((Reason::ContactHours, rule.into(), Some(until)))
    }

    /// The hold that lasts longest.
    fn hold(&self) -> Option<Wait> {
        let (case, holds) = (self.case, &self.terms.campaign.holds);
        let pending_days = |since: Date| add_days(since, holds.pending_payment_days.into());
        // Always the same moment, whenever it is asked for: else a closure of more than forty days would never end a hold.
        let until =
            |date: Option<Date>| date.map(|date| self.opening(date).or(self.after_closure(date)).unwrap_or(self.now));
        let promise = self
            .promise_broken_on()
            .map(|broken| (Reason::Promise, Cow::from("holds.promise_grace_days"), until(Some(broken))));
        let pending = case
            .pending_since
            .map(|since| (Reason::PendingPayment, "holds.pending_payment_days".into(), until(pending_days(since))));
        let auto_pay = case
            .collects_itself
            .then(|| (Reason::AutoPay, "holds.pending_payment_days".into(), until(case.due_on.and_then(pending_days))));
        let others = case.holds.iter().map(|hold| (hold.reason, hold.rule.clone().into(), hold.until));
        let all = others.chain(promise).chain(pending).chain(auto_pay);
        let lasting = all.filter(|(.., until): &Wait| until.is_none_or(|until| self.now < until));
        // No end lasts longest.
        lasting.max_by_key(|(.., until)| until.unwrap_or(Timestamp::MAX))
    }

    /// Whether to wait for an earlier reminder. One that nobody has told the end of for two weeks is for people to look
    /// at; it does not hold up the others.
    fn is_in_flight(&self) -> bool {
        const PATIENCE_DAYS: i64 = 14;
        let given_up = self.case.contacts.last().and_then(|on| add_days(*on, PATIENCE_DAYS));
        self.case.in_flight && given_up.is_some_and(|given_up| self.today < given_up)
    }

    fn send(&mut self, furthest: usize, others: &[(usize, Date)], since: Date) {
        let mut merged: Vec<usize> = others.iter().map(|(n, _)| *n).collect();
        // The follow-ups of steps that do not speak themselves: spoken for as well, up to the one that speaks.
        let campaign = self.terms.campaign;
        for (n, step) in campaign.steps.iter().enumerate() {
            if n == furthest || merged.contains(&n) || self.state(n) != State::Open {
                continue;
            }
            let base = match step.trigger {
                Trigger::AfterStep { base, .. } => Some(base),
                Trigger::AfterPrevious(_) if n < furthest => self.right_before(n),
                _ => continue,
            };
            let is_merged = base.is_some_and(|base| merged.contains(&base));
            if is_merged && n < furthest {
                merged.push(n);
            } else if is_merged {
                self.skip(n, Reason::BaseNotSent, format!("steps.{}.when", step.key));
            }
        }
        for n in &merged {
            self.set(*n, State::Silent(self.today));
        }
        // The follow-up of the one that speaks gets its date by it.
        self.set(furthest, State::Reminded(self.today));
        let follow_ups = campaign.steps.iter().enumerate().filter_map(|(n, step)| match self.when(n, step) {
            When::On(date) if self.state(n) == State::Open => Some(date),
            _ => None,
        });
        let next = follow_ups.min().map(|date| self.opening_or_later(date.max(self.today.tomorrow().unwrap_or(date))));
        self.plan.next_step_at = next;
        // What ends with this step is decided once it has arrived.
        let ends = campaign.steps.get(furthest).is_some_and(|step| step.ends_with.is_some());
        let soon = Some(self.tomorrow()).filter(|_| !self.case.ended && (ends || next.is_none()));
        self.plan.wake_at =
            [self.plan.wake_at.filter(|_| self.plan.deferred.is_some()), next, soon].into_iter().flatten().min();
        let step = self.key(furthest);
        let template = campaign.steps.get(furthest).map(|step| self.template(step).to_owned()).unwrap_or_default();
        let mut merged: Vec<usize> = merged;
        merged.sort_unstable();
        let merged = merged.into_iter().map(|n| self.key(n)).collect();
        self.plan.send = Some(Send { step, merged, since, template });
    }

    /// The end of the sequence, if there is nothing left to wait for.
    fn end(&mut self, future: Option<Date>) {
        let campaign = self.terms.campaign;
        if self.case.ended || future.is_some() {
            return;
        }
        let last = self.states.iter().filter_map(|state| match state {
            State::Reminded(on) | State::Silent(on) => Some(*on),
            State::Open => None,
        });
        let Some(last) = last.max() else { return };
        let ends = campaign.steps.iter().enumerate();
        let ends = ends.filter(|(n, _)| matches!(self.state(*n), State::Reminded(_))).find_map(|(_, s)| s.ends_with);
        let Some(date) = add_days(last, campaign.end.after_days.into()) else { return };
        if self.is_in_flight() {
            self.plan.wake_at = Some(self.tomorrow().max(self.opening_or_later(date)));
        } else if let Some((reason, rule, until)) = self.hold().filter(|_| date <= self.reached) {
            // Nobody takes over what is being paid, or argued about.
            self.defer(&[], reason, rule, until);
        } else if date <= self.reached {
            self.plan.end = Some(ends.unwrap_or(campaign.end.outcome));
        } else {
            self.plan.wake_at = Some(self.opening_or_later(date));
        }
    }

    /// The last date whose window has opened, at the customer's place in the spread.
    fn latest_opened(&self) -> Date {
        let opened = |date: Date| self.moment_on(date).is_some_and(|moment| moment <= self.now);
        if opened(self.today) {
            return self.today;
        }
        // Days on which nothing opens belong to the window after them.
        let mut date = self.today;
        for _ in 0..LONGEST_CLOSURE_DAYS {
            let Ok(before) = date.yesterday() else { break };
            date = before;
            if opened(date) {
                return date;
            }
        }
        date
    }

    /// The customer's moment in the window of a date, if it has one.
    fn moment_on(&self, date: Date) -> Option<Timestamp> {
        let window = self.hours.window_on(date)?;
        let spread = u64::from(self.terms.campaign.spread_minutes) * 60;
        let offset = self.case.spread.checked_rem(spread).unwrap_or(0);
        let moment = window.opens.checked_add(SignedDuration::from_secs(i64::try_from(offset).unwrap_or(0))).ok()?;
        // A window that daylight saving has shortened may close before the spread ends.
        Some(if moment < window.closes { moment } else { window.opens })
    }

    /// The customer's moment in the first window from a date on. Depends on customer and date only: all steps of a
    /// customer that fall into the same window have the same moment, and so become one message.
    fn opening(&self, date: Date) -> Option<Timestamp> {
        let mut day = date;
        for _ in 0..LONGEST_CLOSURE_DAYS {
            if let Some(moment) = self.moment_on(day) {
                return Some(moment);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// A moment to look again in any case, even if nothing opens for longer than is looked ahead.
    fn opening_or_later(&self, date: Date) -> Timestamp {
        let after = || self.after_closure(date).filter(|moment| *moment > self.now).unwrap_or_else(|| later(self.now));
        self.opening(date).unwrap_or_else(after)
    }

    /// The end of all days from a date on that are looked at for an opening.
    fn after_closure(&self, date: Date) -> Option<Timestamp> {
        let day = add_days(date, LONGEST_CLOSURE_DAYS as i64)?;
        day.to_zoned(self.hours.zone().clone()).ok().map(|day| day.timestamp())
    }

    fn tomorrow(&self) -> Timestamp {
        self.today.tomorrow().map_or_else(|_| later(self.now), |date| self.opening_or_later(date))
    }

    /// Which year of which calendar is missing on a date, or on the way to a date some business days after it.
    fn missing_calendar(&self, date: Date) -> Cow<'static, str> {
        let next_year = add_days(date.last_of_year(), 1).unwrap_or(date);
        let dates = [date, next_year];
        let missing = dates.iter().find_map(|date| Some((self.terms.holidays.missing_year(*date)?, date.year())));
        let (name, year) = missing.unwrap_or(("holidays", date.year()));
        format!("calendars.{name}.years.{year}").into()
    }
}

/// No calendar is closed longer at a stretch; if one is, cases are looked at daily.
const LONGEST_CLOSURE_DAYS: usize = 40;

fn later(now: Timestamp) -> Timestamp {
    now.checked_add(SignedDuration::from_hours(24)).unwrap_or(now)
}

fn add_days(date: Date, days: i64) -> Option<Date> {
    date.checked_add(days.days()).ok()
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
