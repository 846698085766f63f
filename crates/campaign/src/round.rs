//! What the due cases of one customer become together: one reminder per currency and channel.

use crate::case::{Case, Deferral, Plan, Reason, Send};
use crate::file::{Channel, Tone};
use crate::plan::next_day;
use crate::terms::Terms;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use kernel::Currency;
use std::collections::BTreeMap;

/// A case of the customer with its plan of now.
#[derive(Debug)]
pub struct Planned<'a> {
    /// The processor's id of the invoice.
    pub invoice: &'a str,
    /// The campaign's terms for the customer.
    pub terms: Terms<'a>,
    /// The case.
    pub case: Case<'a>,
    /// Its plan.
    pub plan: Plan,
}

/// One reminder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Place of the case that speaks: its step is the furthest, of several equally far the one that was due first.
    pub speaker: usize,
    /// Places of all cases it is about, the oldest due date first.
    pub lines: Vec<usize>,
    /// How to reach the payer.
    pub channel: Channel,
}

impl Planned<'_> {
    /// How far its step is: tone first, since campaigns differ in how many steps they have.
    fn weight(&self) -> (Tone, usize) {
        let step = self.plan.send.as_ref().and_then(|send| self.terms.campaign.place(&send.step));
        let tone = step.and_then(|n| self.terms.campaign.steps.get(n)).map(|s| s.tone);
        (tone.unwrap_or(Tone::Friendly), step.unwrap_or_default())
    }

    fn channel(&self, send: &Send) -> Channel {
        let step = self.terms.campaign.step(&send.step);
        step.and_then(|s| s.channels.first().copied()).unwrap_or(Channel::Email)
    }

    /// Whether so many other reminders of the same moment have used up a cap.
    fn is_capped(&self, others: usize, now: Timestamp) -> bool {
        let Some(today) = self.terms.hours.as_ref().map(|hours| hours.date_at(now)) else { return false };
        let lawful = self.terms.law.and_then(|rules| rules.cap);
        let mut caps = self.terms.campaign.cap.into_iter().chain(lawful);
        let is_recent = |on: &&Date, days: u16| (today - **on).get_days() < days.into();
        let used = |days| others + self.case.contacts.iter().filter(|on| is_recent(on, days)).count();
        others > 0 && caps.any(|cap| used(cap.days) >= cap.reminders.into())
    }

    /// Replaces its reminder of now by a wait.
    fn wait(&mut self, reason: Reason, rule: &'static str, until: Timestamp) {
        let Some(send) = self.plan.send.take() else { return };
        let steps = send.merged.into_iter().chain([send.step]).collect();
        self.plan.deferred = Some(Deferral { steps, reason, rule: rule.into(), until: Some(until) });
        // The plan looked ahead as if the reminder had gone out: that comes later.
        self.plan.wake_at = Some(until);
    }
}

/// Brings the cases of one customer together that are due at the same moment, and gives the reminders to send. Cases that
/// have to wait for others get a deferral in place of their `send`. Cases that are not due yet may be among them: only they
/// can make others wait for them.
pub fn gather(cases: &mut [Planned<'_>], now: Timestamp) -> Vec<Message> {
    await_others(cases, now);
    let mut groups: BTreeMap<(Currency, Channel), Vec<usize>> = BTreeMap::new();
    for (n, planned) in cases.iter().enumerate() {
        if let Some(send) = &planned.plan.send {
            groups.entry((planned.case.facts.currency, planned.channel(send))).or_default().push(n);
        }
    }
    let mut messages = Vec::new();
    for ((_, channel), mut lines) in groups {
        // Each currency has a reminder of its own, and each counts.
        let is_capped = |n: &mut usize| cases.get(*n).is_some_and(|p| p.is_capped(messages.len(), now));
        for n in lines.extract_if(.., is_capped).collect::<Vec<_>>() {
            let Some(planned) = cases.get_mut(n) else { continue };
            let until = next_day(&planned.terms, &planned.case, now);
            planned.wait(Reason::Cap, "contact.cap", until);
        }
        lines.sort_by_key(|n| cases.get(*n).map(|p| (p.case.due_on, p.invoice)));
        let weight = |n: &usize| cases.get(*n).map(Planned::weight);
        let Some(speaker) = lines.iter().rev().copied().max_by_key(weight) else { continue };
        let is_alone = lines.iter().filter_map(|n| cases.get(*n)).any(|p| !p.terms.campaign.consolidation.enabled);
        if is_alone {
            for n in lines.extract_if(.., |n| *n != speaker) {
                let Some(planned) = cases.get_mut(n) else { continue };
                let until = next_day(&planned.terms, &planned.case, now);
                planned.wait(Reason::OneAtATime, "contact.consolidation.enabled", until);
            }
        }
        messages.push(Message { speaker, lines, channel });
    }
    messages
}

/// Lets due steps wait for another invoice's step that is due soon, where their campaign says so: at most until
/// `wait_days` after their own date.
fn await_others(cases: &mut [Planned<'_>], now: Timestamp) {
    let soon: Vec<(Currency, Timestamp)> = cases
        .iter()
        .filter(|p| p.plan.send.is_none() && p.plan.deferred.is_none())
        .filter_map(|p| Some((p.case.facts.currency, p.plan.next_step_at?)))
        .collect();
    let latest = |p: &Planned<'_>| {
        let (send, hours) = (p.plan.send.as_ref()?, p.terms.hours.as_ref()?);
        let days = i64::from(p.terms.campaign.consolidation.wait_days);
        let last = send.since.checked_add(days.days()).ok()?;
        let within = |(currency, at): &&(Currency, Timestamp)| {
            *currency == p.case.facts.currency && *at > now && hours.date_at(*at) <= last
        };
        soon.iter().filter(within).map(|(_, at)| *at).min().filter(|_| days > 0)
    };
    // One that cannot wait takes the others of its currency with it.
    let waits: Vec<Option<Timestamp>> = cases.iter().map(latest).collect();
    let goes_now = |currency: Currency| {
        let mut due = cases.iter().zip(&waits).filter(|(p, _)| p.plan.send.is_some());
        due.any(|(p, wait)| p.case.facts.currency == currency && wait.is_none())
    };
    let going: Vec<bool> = cases.iter().map(|p| goes_now(p.case.facts.currency)).collect();
    for ((planned, until), goes_now) in cases.iter_mut().zip(waits).zip(going) {
        if let Some(until) = until.filter(|_| !goes_now) {
            planned.wait(Reason::Consolidation, "contact.consolidation.wait_days", until);
        }
    }
}
