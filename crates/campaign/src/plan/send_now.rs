//! A step that an operator asks for: it may go out before its day, and nothing else is different.

use super::{Planning, State, When, law_rule};
use crate::campaign::{Step, Trigger};
use crate::case::{Case, Plan, Reason};
use crate::terms::Terms;
use jiff::Timestamp;
use jiff::civil::Date;
use std::cmp::Reverse;
use std::fmt;

/// Why a step does not go out now though somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in the way.
    pub reason: Reason,
    /// What in the campaign, the law or the operation says so.
    pub rule: String,
    /// When it will be out of the way; `None`: with news, by a person, or never.
    pub until: Option<Timestamp>,
}

impl Refusal {
    /// One without an end.
    pub fn new(reason: Reason, rule: impl Into<String>) -> Self {
        Self { reason, rule: rule.into(), until: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason.as_str(), self.rule)?;
        self.until.map_or(Ok(()), |until| write!(f, " until {until}"))
    }
}

impl std::error::Error for Refusal {}

/// Plans as if a step were due now: the one that is named, else the one that would go out next. Its `send` is there; open
/// steps before it that have a date are merged into it, as planning does with what is due.
///
/// All that keeps planning from sending keeps this from it: holds, gaps, caps, the law, contact hours. Only its day, its
/// place in the spread, its turn in a ramp and whether advice or an experiment would leave it out are the operator's
/// business; what speaks of an overdue invoice never goes
/// out before the due date has passed.
pub fn send_now(terms: &Terms<'_>, case: &Case<'_>, step: Option<&str>, now: Timestamp) -> Result<Plan, Refusal> {
    if !case.is_open {
        return Err(Refusal::new(Reason::NotOpen, "invoice.status"));
    }
    let Some(hours) = &terms.hours else {
        return Err(Refusal::new(Reason::NoContactHours, law_rule(terms, "contact")));
    };
    let planning = Planning::new(terms, case, hours, now);
    if let Some(rule) = planning.is_over() {
        return Err(Refusal::new(Reason::SequenceEnded, rule));
    }
    let n = planning.asked_for(step)?;
    planning.refuse(n).map_or(Ok(()), Err)?;
    Ok(planning.send_asked(n))
}

/// The step that comes next, and when, as far as it is known: of those that are due the furthest, else the earliest.
pub fn next_step(terms: &Terms<'_>, case: &Case<'_>, now: Timestamp) -> Option<(String, Timestamp)> {
    let planning = Planning::new(terms, case, terms.hours.as_ref().filter(|_| case.is_open)?, now);
    if planning.is_over().is_some() {
        return None;
    }
    let (n, date) = planning.next(|n, step, date| date > planning.reached || planning.obstacle(n, step).is_none())?;
    Some((planning.key(n), if date > planning.reached { planning.opening_or_later(date) } else { now }))
}

impl Planning<'_> {
    fn asked_for(&self, key: Option<&str>) -> Result<usize, Refusal> {
        let Some(key) = key else { return self.next_to_ask_for() };
        let rule = format!("steps.{key}");
        match self.terms.campaign.place(key) {
            None => Err(Refusal::new(Reason::UnknownStep, rule)),
            Some(n) if self.state(n) != State::Open => Err(Refusal::new(Reason::AlreadyDecided, rule)),
            Some(n) => Ok(n),
        }
    }

    /// The next step that applies; if none does, why the last one that has a date does not.
    fn next_to_ask_for(&self) -> Result<usize, Refusal> {
        if let Some((n, _)) = self.next(|n, step, _| self.obstacle(n, step).is_none()) {
            return Ok(n);
        }
        let obstacles = self.dated().filter_map(|(n, step, _)| self.obstacle(n, step));
        let last = obstacles.last().map(|(reason, rule)| Refusal::new(reason, rule));
        Err(last.unwrap_or_else(|| Refusal::new(Reason::NothingLeft, "steps")))
    }

    /// Open steps that have a date.
    fn dated(&self) -> impl Iterator<Item = (usize, &Step, Date)> {
        let open = self.terms.campaign.steps.iter().enumerate().filter(|(n, _)| self.state(*n) == State::Open);
        open.filter_map(|(n, step)| match self.when(n, step) {
            When::On(date) => Some((n, step, date)),
            _ => None,
        })
    }

    fn next(&self, fits: impl Fn(usize, &Step, Date) -> bool) -> Option<(usize, Date)> {
        let fitting = || self.dated().filter(|(n, step, date)| fits(*n, step, *date)).map(|(n, _, date)| (n, date));
        let due = fitting().filter(|(_, date)| *date <= self.reached).last();
        due.or_else(|| fitting().min_by_key(|(n, date)| (*date, Reverse(*n))))
    }

    /// What stands in the way of a step now.
    fn refuse(&self, n: usize) -> Option<Refusal> {
        let step = self.terms.campaign.steps.get(n)?;
        match self.when(n, step) {
            When::On(_) | When::Unknown => {}
            When::Lost => return Some(Refusal::new(Reason::BaseNotSent, format!("steps.{}.when", step.key))),
            When::NoCalendar => {
                let rule = self.missing_calendar(self.case.due_on.unwrap_or(self.today)).into_owned();
                return Some(Refusal { reason: Reason::CalendarMissing, rule, until: Some(self.tomorrow()) });
            }
        }
        if let Some((reason, rule)) = self.obstacle(n, step) {
            return Some(Refusal::new(reason, rule));
        }
        let wait = self.unrested().or_else(|| self.closed(true));
        let wait = wait.map(|(reason, rule, until)| Refusal { reason, rule: rule.into_owned(), until });
        self.too_early(n).or(wait)
    }

    /// What says that an invoice is overdue must be true, and lawful.
    fn too_early(&self, n: usize) -> Option<Refusal> {
        let due_on = self.case.due_on.filter(|_| self.is_about_overdue(n))?;
        let overdue_on = due_on.tomorrow().ok()?;
        let refusal = |reason, rule, from| Refusal { reason, rule, until: Some(self.opening_or_later(from)) };
        if self.today < overdue_on {
            return Some(refusal(Reason::NotDue, "invoice.due_on".to_owned(), overdue_on));
        }
        let days = self.terms.law.and_then(|rules| rules.earliest_days_after_due)?;
        let lawful = super::add_days(due_on, days.into()).filter(|lawful| self.today < *lawful)?;
        Some(refusal(Reason::LawEarliest, law_rule(self.terms, "earliest_days_after_due"), lawful))
    }

    /// Whether a step speaks of an invoice that is overdue; one that follows another speaks of what that one does.
    fn is_about_overdue(&self, n: usize) -> bool {
        match self.terms.campaign.steps.get(n).map(|step| &step.trigger) {
            Some(Trigger::FromDue(offset)) => !offset.is_by_due(),
            Some(Trigger::AfterMonthEnd(_)) => true,
            // A step follows an earlier one only.
            Some(Trigger::AfterStep { base, .. }) => *base < n && self.is_about_overdue(*base),
            Some(Trigger::AfterPrevious(_)) => n > 0 && self.is_about_overdue(n - 1),
            Some(Trigger::FailedAttempts { .. } | Trigger::AfterBrokenPromise(_)) | None => false,
        }
    }

    fn send_asked(mut self, n: usize) -> Plan {
        let (mut merged, mut since) = (Vec::new(), self.today);
        for (m, step) in self.terms.campaign.steps.iter().enumerate().take(n) {
            if self.state(m) != State::Open {
                continue;
            }
            match self.when(m, step) {
                When::Lost => self.skip(m, Reason::BaseNotSent, format!("steps.{}.when", step.key)),
                When::Unknown | When::NoCalendar => {}
                When::On(date) => match self.obstacle(m, step).filter(|_| date <= self.reached) {
                    Some((reason, rule)) => self.skip(m, reason, rule),
                    None => {
                        since = since.min(date);
                        merged.push((m, date));
                    }
                },
            }
        }
        self.send(n, &merged, since);
        self.plan
    }
}

#[cfg(test)]
mod tests;
