//! Lives through a script as production would: timers, news, outages, reminders under way. Judges each round by the words of
//! the campaign file and a wall clock, without asking the planner.

use crate::arbitrary::{Event, Script, calendar, plus, written_day};
use campaign::file::{ArmFile, EntryMode, StepFile, Without};
use campaign::{
    Calendars, Campaign, CampaignFile, Case, Choice, Decided, Ending, Facts, Hold, Message, Place, Plan, Planned,
    Reason, Terms,
};
use campaign::{gather, plan};
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kernel::{Currency, PayerKind, Segment};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rounds after which a customer's cases ought to have come to rest.
const PATIENCE: usize = 1500;

pub(crate) struct World<'a> {
    script: &'a Script,
    zone: TimeZone,
    campaigns: Vec<Campaign>,
    calendars: Calendars,
    now: Timestamp,
    segment: Segment,
    opted_out: bool,
    cases: Vec<Live>,
    contacts: Vec<Date>,
    /// When the reminder under way arrives, and the steps it is about.
    in_flight: Option<(Timestamp, Vec<(usize, String)>)>,
    events: usize,
    /// The local date and the moment of each reminder that went out, and its currency.
    pub(crate) sent: Vec<(Date, Timestamp, Currency)>,
    /// How many of their lines spoke for several steps of a case.
    pub(crate) merged: usize,
    /// How many steps were left out by choice.
    pub(crate) left_out: usize,
    /// How many reminders were about a step that a choice had moved or worded otherwise.
    pub(crate) chosen: usize,
}

struct Live {
    id: String,
    campaign: usize,
    currency: Currency,
    open_minor: i64,
    is_open: bool,
    is_known: bool,
    due_on: Option<Date>,
    opened_at: Timestamp,
    opened_on: Date,
    not_before: Option<Date>,
    reopened_on: Option<Date>,
    failed_attempts: u32,
    decline_code: &'static str,
    last_failed_on: Option<Date>,
    promised_on: Option<Date>,
    pending_since: Option<Date>,
    holds: Vec<Hold>,
    decided: Vec<Decided>,
    ended: Option<Ending>,
    choices: Vec<(String, Choice)>,
    wake_at: Option<Timestamp>,
}

impl<'a> World<'a> {
    pub(crate) fn new(script: &'a Script) -> Self {
        let zone = TimeZone::get(script.zone).unwrap();
        let start = script.start.to_zoned(zone.clone()).unwrap().timestamp();
        let campaigns: Vec<Campaign> =
            script.campaigns.iter().map(|file| Campaign::try_new(file, "arbitrary").unwrap()).collect();
        let own =
            |(name, closed): (&str, &BTreeSet<Date>)| (name.to_owned(), Arc::new(calendar(name, script.start, closed)));
        let calendars = Calendars::new(["OWN", "DE"].into_iter().zip(&script.closed).map(own).collect());
        let live = |(n, invoice): (usize, &crate::arbitrary::Invoice)| {
            let opened_at = start + SignedDuration::from_mins(invoice.opened_minute);
            let opened_on = zone.to_datetime(opened_at).date();
            Live {
                id: format!("in_{n}"),
                campaign: invoice.campaign % campaigns.len(),
                currency: Currency::try_new(invoice.currency).unwrap(),
                open_minor: invoice.open_minor,
                is_open: true,
                is_known: false,
                due_on: invoice.due.map(|days| plus(script.start, days)),
                opened_at,
                opened_on,
                not_before: invoice.turn.map(|days| plus(opened_on, days)),
                reopened_on: None,
                failed_attempts: 0,
                decline_code: "",
                last_failed_on: None,
                promised_on: None,
                pending_since: None,
                holds: Vec::new(),
                decided: Vec::new(),
                ended: None,
                choices: invoice.choices.iter().enumerate().map(|(n, choice)| (format!("s{n}"), *choice)).collect(),
                wake_at: Some(opened_at),
            }
        };
        let cases = script.invoices.iter().enumerate().map(live).collect();
        Self {
            script,
            zone,
            campaigns,
            calendars,
            now: start,
            segment: Segment::New,
            opted_out: false,
            cases,
            contacts: Vec::new(),
            in_flight: None,
            events: 0,
            sent: Vec::new(),
            merged: 0,
            left_out: 0,
            chosen: 0,
        }
    }

    /// Lives until nothing is left to wait for.
    pub(crate) fn run(&mut self) {
        for _ in 0..PATIENCE {
            let news = self.script.events.get(self.events).map(|(minute, _)| self.at_minute(*minute));
            let wakes = self.cases.iter().filter(|c| c.is_open).filter_map(|c| c.wake_at).min();
            // Who is late for ever may miss every window; two months are enough.
            let lateness = if self.now < self.at_minute(60 * 1440) { self.script.late_by_seconds } else { 0 };
            let late = |at: Timestamp| at + SignedDuration::from_secs(lateness);
            let arrival = self.in_flight.as_ref().map(|(at, _)| *at);
            let next = [news, wakes.map(late), arrival].into_iter().flatten().min();
            let Some(next) = next else { return self.rests() };
            self.now = self.after_outage(next.max(self.now));
            self.hear();
            self.round();
        }
        panic!("does not come to rest: {:?}", self.cases.iter().map(|c| c.wake_at).collect::<Vec<_>>());
    }

    fn at_minute(&self, minute: i64) -> Timestamp {
        let start = self.script.start.to_zoned(self.zone.clone()).unwrap().timestamp();
        start + SignedDuration::from_mins(minute)
    }

    fn after_outage(&self, at: Timestamp) -> Timestamp {
        let outages =
            self.script.outages.iter().map(|(from, length)| (self.at_minute(*from), self.at_minute(from + length)));
        outages.fold(at, |at, (from, to)| if from <= at && at < to { to } else { at })
    }

    fn today(&self) -> Date {
        self.zone.to_datetime(self.now).date()
    }

    /// Takes in what has happened up to now.
    fn hear(&mut self) {
        let (now, today) = (self.now, self.today());
        for case in &mut self.cases {
            case.is_known |= case.opened_at <= now;
        }
        while let Some((minute, event)) = self.script.events.get(self.events) {
            if self.at_minute(*minute) > now {
                break;
            }
            self.events += 1;
            match event {
                Event::OptOut => self.opted_out = true,
                Event::Segment(segment) => self.segment = *segment,
                Event::Pay(n) => self.change(*n, |case| case.is_open = false),
                Event::Reopen(n) => self.change(*n, |case| {
                    if !case.is_open {
                        (case.is_open, case.reopened_on) = (true, Some(today));
                        (case.ended, case.promised_on, case.pending_since) = (None, None, None);
                        case.decided.clear();
                    }
                }),
                Event::Fail(n, code) => self.change(*n, |case| {
                    case.failed_attempts += 1;
                    (case.decline_code, case.last_failed_on) = (code, Some(today));
                }),
                Event::Promise(n, days) => self.change(*n, |case| case.promised_on = Some(plus(today, *days))),
                Event::Pending(n) => self.change(*n, |case| case.pending_since = Some(today)),
                Event::Hold(n, reason, minutes) => self.change(*n, |case| {
                    let until = minutes.map(|m| now + SignedDuration::from_mins(m));
                    case.holds.push(Hold { reason: *reason, until, rule: "hold".to_owned() });
                }),
                Event::Release(n) => self.change(*n, |case| case.holds.clear()),
                Event::MoveDue(n, days) => self.change(*n, |case| case.due_on = case.due_on.map(|d| plus(d, *days))),
            }
            if matches!(event, Event::OptOut | Event::Segment(_)) {
                self.cases.iter_mut().filter(|c| c.is_known).for_each(|c| c.wake_at = Some(now));
            }
        }
        if let Some((_, steps)) = self.in_flight.take_if(|(at, _)| *at <= now) {
            for (n, key) in steps.into_iter().filter(|_| self.script.delivery.1) {
                let decided = self.cases[n].decided.iter_mut().find(|d| d.step == key);
                // Those of an earlier epoch are gone.
                decided.into_iter().for_each(|d| d.reminded = false);
                self.cases[n].wake_at = Some(now);
            }
        }
    }

    fn change(&mut self, n: usize, change: impl FnOnce(&mut Live)) {
        let now = self.now;
        if let Some(case) = self.cases.get_mut(n).filter(|case| case.is_known) {
            change(case);
            case.wake_at = Some(now);
        }
    }

    fn terms(&self, n: usize, at: Timestamp) -> Terms<'_> {
        let place = Place { zone: self.zone.clone(), country: self.script.country, payer: PayerKind::Business };
        Terms::new(&self.campaigns[self.cases[n].campaign], &place, &self.calendars, self.zone.to_datetime(at).date())
    }

    fn case(&self, n: usize) -> Case<'_> {
        let case = &self.cases[n];
        let owed = self.cases.iter().filter(|c| c.is_open && c.is_known && c.currency == case.currency);
        Case {
            is_open: case.is_open,
            facts: Facts {
                merchant: "acme",
                customer: "cus_1",
                segment: self.segment,
                customer_tags: &[],
                country: self.script.country,
                payer: PayerKind::Business,
                currency: case.currency,
                open_minor: case.open_minor,
                balance_minor: owed.map(|c| c.open_minor).sum(),
                invoice_tags: &[],
                failed_attempts: case.failed_attempts,
                decline_code: case.decline_code,
            },
            due_on: case.due_on,
            opened_on: case.opened_on,
            not_before: case.not_before,
            reopened_on: case.reopened_on,
            last_failed_on: case.last_failed_on,
            promised_on: case.promised_on,
            pending_since: case.pending_since,
            collects_itself: false,
            holds: &case.holds,
            opted_out: self.opted_out,
            decided: &case.decided,
            contacts: &self.contacts,
            in_flight: self.in_flight.is_some(),
            ended: case.ended.is_some(),
            choices: &case.choices,
            spread: self.script.spread,
        }
    }

    fn plan_at(&self, n: usize, at: Timestamp) -> Plan {
        plan(&self.terms(n, at), &self.case(n), at)
    }

    fn round(&mut self) {
        let now = self.now;
        let is_due = |c: &Live| c.is_known && c.wake_at.is_some_and(|at| at <= now);
        let known: Vec<usize> = (0..self.cases.len()).filter(|n| self.cases[*n].is_known).collect();
        let due: Vec<usize> = known.iter().copied().filter(|n| is_due(&self.cases[*n])).collect();
        let mut planned = Vec::new();
        for n in known.iter().copied() {
            let mut plan = self.plan_at(n, now);
            assert_eq!(plan, self.plan_at(n, now), "the same twice");
            if !self.cases[n].is_open {
                assert_eq!(plan, Plan::default(), "what is paid has nothing planned");
            }
            if !due.contains(&n) {
                plan.send = None;
            }
            planned.push(Planned { invoice: &self.cases[n].id, terms: self.terms(n, now), case: self.case(n), plan });
        }
        let alone: Vec<Plan> = planned.iter().map(|p| p.plan.clone()).collect();
        let messages = gather(&mut planned, now);
        let plans: Vec<Plan> = planned.into_iter().map(|p| p.plan).collect();
        self.judge(&known, &plans, &messages);
        for (n, plan) in known.iter().zip(&plans).filter(|(n, _)| due.contains(n)) {
            self.judge_silence(*n, plan);
        }
        self.apply(&known, &due, &plans, &messages);
        for (place, n) in known.into_iter().enumerate().filter(|(_, n)| due.contains(n)) {
            let was_changed = alone[place].send.is_some() && plans[place].send.is_none();
            if self.cases[n].is_open && !was_changed && plans[place].end.is_none() {
                self.nothing_after_its_day(n, &plans[place]);
                self.nothing_before(n, &plans[place]);
            }
        }
    }

    fn apply(&mut self, known: &[usize], due: &[usize], plans: &[Plan], messages: &[Message]) {
        let (now, today) = (self.now, self.today());
        for (n, plan) in known.iter().zip(plans).filter(|(n, _)| due.contains(n)) {
            let case = &mut self.cases[*n];
            let mut decide = |step: &String, reminded| {
                assert!(!case.decided.iter().any(|d| d.step == *step), "{step} is decided twice");
                case.decided.push(Decided { step: step.clone(), on: today, reminded });
            };
            plan.skip.iter().for_each(|skip| decide(&skip.step, false));
            if let Some(send) = &plan.send {
                send.merged.iter().for_each(|step| decide(step, false));
                decide(&send.step, true);
            }
            for step in plan.deferred.iter().flat_map(|d| &d.steps) {
                assert!(!case.decided.iter().any(|d| d.step == *step), "{step} waits, though it is decided");
            }
            if let Some(end) = plan.end {
                assert!(case.is_open && case.ended.is_none(), "the end is told once");
                case.ended = Some(end);
            }
            assert!(plan.wake_at.is_none_or(|at| at > now), "woken for nothing: {plan:?} at {now}");
            assert!(plan.deferred.as_ref().and_then(|d| d.until).is_none_or(|at| at > now), "{plan:?}");
            // Steps that the end decides are looked at once more.
            case.wake_at = if plan.end.is_some() { Some(now) } else { plan.wake_at };
        }
        if !messages.is_empty() {
            self.contacts.extend(messages.iter().map(|_| today));
            let lines = messages.iter().flat_map(|m| &m.lines);
            let steps = lines.map(|place| (known[*place], plans[*place].send.as_ref().unwrap().step.clone())).collect();
            if self.script.delivery.0 > 0 {
                self.in_flight = Some((now + SignedDuration::from_mins(self.script.delivery.0), steps));
            }
        }
        let by_choice = |reason| matches!(reason, Reason::Advised | Reason::ArmNone);
        let skips = known.iter().zip(plans).filter(|(n, _)| due.contains(n)).flat_map(|(_, p)| &p.skip);
        self.left_out += skips.filter(|skip| by_choice(skip.reason)).count();
        let is_chosen = |n: usize, key: &str| {
            let step = self.step(n, key);
            self.shift(n, step) != 0 || self.arm(n, step).is_some()
        };
        let sends = known.iter().zip(plans).filter_map(|(n, p)| Some((*n, p.send.as_ref()?)));
        self.chosen += sends.filter(|(n, send)| is_chosen(*n, &send.step)).count();
        self.merged += plans.iter().filter_map(|p| p.send.as_ref()).filter(|s| !s.merged.is_empty()).count();
        let currency = |message: &Message| self.cases[known[message.speaker]].currency;
        self.sent.extend(messages.iter().map(|message| (today, now, currency(message))));
    }

    /// A plan that says when to look again has nothing to send or to end before that.
    fn nothing_before(&self, n: usize, Plan { wake_at, send, .. }: &Plan) {
        let last = wake_at.unwrap_or(self.now + SignedDuration::from_hours(24 * 120));
        let span = last.duration_since(self.now).as_secs();
        for part in 1..8 {
            let at = self.now + SignedDuration::from_secs(span * part / 8);
            let plan = self.plan_at(n, at);
            // The end that waits for the last reminder's arrival may be told at any time, and is by the next morning; so may
            // one that comes because a step by the due date has waited beyond it.
            let is_loose = send.is_some() || self.in_flight.is_some() || !plan.skip.is_empty();
            let is_quiet = plan.send.is_none() && (plan.end.is_none() || is_loose);
            assert!(is_quiet, "{} wakes at {wake_at:?}, but at {at} has {plan:?}", self.cases[n].id);
        }
    }

    /// All is said that can be said without news.
    fn rests(&self) {
        for (n, case) in self.cases.iter().enumerate().filter(|(_, c)| c.is_open && c.ended.is_some()) {
            let open: Vec<&str> = self.campaigns[case.campaign]
                .steps
                .iter()
                .map(|s| s.key.as_str())
                .filter(|key| !case.decided.iter().any(|d| d.step == *key))
                .collect();
            assert!(open.is_empty(), "in_{n} has ended, and nothing was decided for {open:?}");
        }
    }
}

/// The judge: what the words of the file and a wall clock say.
impl World<'_> {
    fn judge(&self, known: &[usize], plans: &[Plan], messages: &[Message]) {
        let today = self.today();
        let mut kinds = BTreeSet::new();
        for message in messages {
            let currency = self.cases[known[message.speaker]].currency;
            assert!(kinds.insert((currency, message.channel)), "two reminders at once for {currency}");
            assert!(message.lines.contains(&message.speaker));
            // Those of other currencies at the same moment count as well.
            let others = messages.iter().position(|m| m == message).unwrap_or_default();
            for place in &message.lines {
                let (n, send) = (known[*place], plans[*place].send.as_ref().expect("a line has something to say"));
                assert_eq!(self.cases[n].currency, currency, "currencies are never mixed");
                self.judge_contact(n, others);
                self.judge_line(n, &send.step, today);
                self.judge_choice(n, send);
                for merged in send.merged.iter().filter(|key| self.is_dated(n, key)) {
                    let earliest = self.earliest(n, merged).expect("merged before its date is known");
                    assert!(today >= earliest, "{merged} of in_{n} merged on {today}, due on {earliest}");
                    assert!(!self.is_left_out(n, merged), "{merged} of in_{n} is left out, and merged");
                }
            }
            let alone = message.lines.iter().any(|p| !self.file(known[*p]).contact.consolidation.enabled);
            assert!(!alone || message.lines.len() == 1, "each invoice wants its own reminder");
        }
        let lines: Vec<usize> = messages.iter().flat_map(|m| m.lines.clone()).collect();
        let sends = plans.iter().enumerate().filter(|(_, p)| p.send.is_some());
        assert!(sends.map(|(place, _)| place).all(|place| lines.iter().filter(|l| **l == place).count() == 1));
    }

    fn file(&self, n: usize) -> &CampaignFile {
        &self.script.campaigns[self.cases[n].campaign]
    }

    /// Hours, gap and cap of the campaign.
    fn judge_contact(&self, n: usize, others: usize) {
        let (contact, local) = (&self.file(n).contact, self.zone.to_datetime(self.now));
        let today = local.date();
        let clock = format!("{:02}:{:02}", local.hour(), local.minute());
        let is_open = contact.from <= clock && clock < contact.to;
        assert!(is_open, "{clock} on {today} is outside {} to {}", contact.from, contact.to);
        let weekday = |day: &campaign::file::Day| Weekday::from(*day) == today.weekday();
        assert!(contact.weekdays.iter().any(weekday), "{today} is a {:?}", today.weekday());
        assert!(!self.is_holiday(n, today), "{today} is closed");
        let apart = self.contacts.last().map(|last| (today - *last).get_days());
        assert!(apart.is_none_or(|days| days >= contact.min_gap_days.into()), "only {apart:?} days after the last");
        if let Some(cap) = contact.cap {
            let recent = self.contacts.iter().filter(|on| (today - **on).get_days() < cap.days.into()).count();
            let recent = recent + others;
            assert!(recent < cap.reminders.into(), "{recent} reminders in the last {} days already", cap.days);
        }
    }

    fn is_holiday(&self, n: usize, date: Date) -> bool {
        let names = self.file(n).contact.holidays.iter().map(|name| match name.as_str() {
            "payer" => self.script.country,
            other => other,
        });
        let last_day = date.month() == 12 && date.day() == 31;
        names.map(|name| ["OWN", "DE"].iter().position(|n| *n == name)).any(|calendar| match calendar {
            Some(n) => last_day || self.script.closed[n].contains(&date),
            None => false,
        })
    }

    /// Nothing speaks against the step, and its time has come.
    fn judge_line(&self, n: usize, key: &str, today: Date) {
        let (case, file, what) = (&self.cases[n], self.file(n), format!("{key} of in_{n} on {today}"));
        let step = self.campaigns[case.campaign].step(key).unwrap();
        assert!(case.is_open && case.is_known && case.ended.is_none() && !self.opted_out, "{what}");
        assert!(case.holds.iter().all(|h| h.until.is_some_and(|until| until <= self.now)), "{what}: {:?}", case.holds);
        let grace = i32::from(file.holds.promise_grace_days);
        assert!(case.promised_on.is_none_or(|on| today > plus(on, grace)), "{what}: a promise holds it");
        let pending = i32::from(file.holds.pending_payment_days);
        assert!(case.pending_since.is_none_or(|since| today >= plus(since, pending)), "{what}: money is under way");
        assert!(case.not_before.is_none_or(|turn| today >= turn), "{what}: before its turn");
        assert!(step.only_if.holds(&self.case(n).facts), "{what}: its condition does not hold");
        let by_due = &file.steps.iter().find(|s| s.key == key).unwrap().when;
        let by_due =
            by_due.days_before_due.or(by_due.business_days_before_due).is_some() || by_due.on_due_date.is_some();
        assert!(!by_due || case.due_on.is_some_and(|due| today <= due), "{what}: meant for before the due date");
        let ended =
            |d: &&Decided| d.reminded && self.campaigns[case.campaign].step(&d.step).unwrap().ends_with.is_some();
        let over = case.decided.iter().find(ended);
        assert!(over.is_none(), "{what}: {over:?} ended the sequence");
        let earliest = self.earliest(n, key).unwrap_or_else(|| panic!("{what}: its date is not known"));
        assert!(today >= earliest, "{what}: early, due on {earliest}");
    }

    fn is_dated(&self, n: usize, key: &str) -> bool {
        let when = &self.file(n).steps.iter().find(|s| s.key == key).unwrap().when;
        when.after_step.is_none() && when.days_after_previous.is_none()
    }

    /// The first day on which a step may speak, counted by hand.
    fn earliest(&self, n: usize, key: &str) -> Option<Date> {
        let (case, file) = (&self.cases[n], self.file(n));
        let place = file.steps.iter().position(|s| s.key == key).unwrap();
        let step = &file.steps[place];
        let when = &step.when;
        let reminded = |key: &str| case.decided.iter().find(|d| d.step == key && d.reminded).map(|d| d.on);
        if let Some(failed) = &when.failed_attempts {
            use campaign::file::FailedAttemptsFile as F;
            let fits = match failed {
                F::Count(count) => case.failed_attempts >= u32::from(*count),
                F::For { count, decline_code } => {
                    case.failed_attempts >= u32::from(*count) && decline_code.iter().any(|c| c == case.decline_code)
                }
            };
            return case.last_failed_on.filter(|_| fits);
        }
        if let Some(days) = when.days_after_broken_promise {
            let broken = i32::from(file.holds.promise_grace_days) + 1 + i32::from(days);
            return case.promised_on.map(|on| plus(on, broken));
        }
        if let Some(after) = &when.after_step {
            return reminded(&after.step).map(|on| plus(on, after.days.into()));
        }
        if let Some(days) = when.days_after_previous {
            let before = file.steps[..place].iter().filter_map(|s| reminded(&s.key)).max();
            return before.map(|on| plus(on, days.into()));
        }
        // A debt that never had a due date counts from the day on which it was opened again.
        let by_due =
            when.days_before_due.is_some() || when.business_days_before_due.is_some() || when.on_due_date == Some(true);
        let due = case.due_on.or(case.reopened_on.filter(|_| !by_due))?;
        let counted = self.counted(n, place, due);
        // Late ones are moved as a whole, never earlier. A choice moves a step inside its window, to the day after the one
        // that it counts from at the earliest; before the due date, to the last day on which it still goes out in time.
        let moved = plus(counted, self.shift(n, step));
        if !by_due {
            let from = case.reopened_on.map_or(due, |reopened| reopened.max(due));
            return Some(moved.max(counted.min(plus(from, 1))));
        }
        let hours = self.terms(n, self.now).hours.unwrap();
        let opens_in_time = |day: Date| (0..=(due - day).get_days()).any(|k| hours.window_on(plus(day, k)).is_some());
        let days = (0..).map(|back| plus(moved, -back)).take_while(|day| *day > counted);
        Some(days.into_iter().find(|day| opens_in_time(*day)).unwrap_or(moved.min(counted)))
    }

    fn step(&self, n: usize, key: &str) -> &StepFile {
        self.file(n).steps.iter().find(|s| s.key == key).unwrap()
    }

    /// The arm that was chosen for a step with an experiment.
    fn arm<'b>(&self, n: usize, step: &'b StepFile) -> Option<&'b ArmFile> {
        match self.chosen(n, step)? {
            Choice::Arm(arm) => step.experiment.as_ref()?.arms.get(arm),
            _ => None,
        }
    }

    fn chosen(&self, n: usize, step: &StepFile) -> Option<Choice> {
        self.cases[n].choices.iter().find(|(key, _)| *key == step.key).map(|(_, choice)| *choice)
    }

    /// By how many days a choice moves a step.
    fn shift(&self, n: usize, step: &StepFile) -> i32 {
        match (self.arm(n, step), self.chosen(n, step), step.window, &step.experiment) {
            (Some(ArmFile::With(arm)), ..) => arm.days.map_or(0, |days| days - written_day(&step.when).unwrap()),
            (None, Some(Choice::Move(days)), Some(window), None) => {
                days.max(-i32::from(window.earlier_days)).min(window.later_days.into())
            }
            _ => 0,
        }
    }

    /// Whether a choice leaves a step out, and the file lets it.
    fn is_left_out(&self, n: usize, key: &str) -> bool {
        let step = self.step(n, key);
        let by_advice = step.experiment.is_none() && self.chosen(n, step) == Some(Choice::Skip);
        let by_arm = self.arm(n, step) == Some(&ArmFile::Without(Without::None));
        (by_advice || by_arm) && step.window.is_some_and(|w| w.may_skip)
    }

    /// A step that goes out was not left out, and speaks as its arm says.
    fn judge_choice(&self, n: usize, send: &campaign::Send) {
        assert!(!self.is_left_out(n, &send.step), "{} of in_{n} is left out, and sent", send.step);
        let step = self.step(n, &send.step);
        let own = match self.arm(n, step) {
            Some(ArmFile::With(arm)) => arm.template.as_deref(),
            _ => None,
        };
        assert_eq!(send.template, own.unwrap_or(step.tone.as_str()), "{} of in_{n}", send.step);
    }

    /// What is left out by choice may be.
    fn judge_silence(&self, n: usize, plan: &Plan) {
        for skip in &plan.skip {
            let has_experiment = self.step(n, &skip.step).experiment.is_some();
            let rule = match skip.reason {
                Reason::Advised if !has_experiment => format!("steps.{}.window.may_skip", skip.step),
                Reason::ArmNone if has_experiment => format!("steps.{}.experiment", skip.step),
                Reason::Advised | Reason::ArmNone => panic!("{skip:?} of in_{n}"),
                _ => continue,
            };
            assert!(self.is_left_out(n, &skip.step), "{skip:?} of in_{n}, which it must not be");
            assert_eq!(skip.rule, rule);
        }
    }

    /// No choice keeps a step back beyond its day without a word: when a window of that day, or of one after it, is over,
    /// the step is decided or waits.
    fn nothing_after_its_day(&self, n: usize, plan: &Plan) {
        if self.file(n).entry.mode == EntryMode::CatchUp {
            return; // Moved as a whole.
        }
        let hours = self.terms(n, self.now).hours.unwrap();
        let waits: Vec<&String> = plan.deferred.iter().flat_map(|d| &d.steps).collect();
        let decided = |key: &str| self.cases[n].decided.iter().any(|d| d.step == key);
        for step in self.file(n).steps.iter().filter(|s| self.is_dated(n, &s.key)) {
            let Some(day) = self.earliest(n, &step.key) else { continue };
            let is_over = |day: Date| hours.window_on(day).is_some_and(|window| window.closes <= self.now);
            if (0..8).any(|k| is_over(plus(day, k))) {
                let key = &step.key;
                assert!(
                    decided(key) || waits.contains(&key),
                    "{key} of in_{n}, due on {day}, is forgotten at {}",
                    self.now
                );
            }
        }
    }

    fn counted(&self, n: usize, place: usize, due: Date) -> Date {
        let when = &self.file(n).steps[place].when;
        let from = self.cases[n].reopened_on.map_or(due, |reopened| reopened.max(due));
        let is_business =
            |date: Date| !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) && !self.is_holiday(n, date);
        let business = |days: u16, step: i32| {
            let (mut date, mut left) = (from, days);
            while left > 0 {
                date = plus(date, step);
                left -= u16::from(is_business(date));
            }
            date
        };
        if let Some(days) = when.days_before_due {
            plus(from, -i32::from(days))
        } else if let Some(days) = when.business_days_before_due {
            business(days, -1)
        } else if let Some(days) = when.days_after_due {
            plus(from, days.into())
        } else if let Some(days) = when.business_days_after_due {
            business(days, 1)
        } else if let Some(days) = when.days_after_month_end {
            plus(from.last_of_month(), days.into())
        } else {
            assert_eq!(when.on_due_date, Some(true));
            from
        }
    }
}
