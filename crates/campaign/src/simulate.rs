//! A customer's cases under a virtual clock: the same planning as in production, without a database.

use crate::campaign::Campaign;
use crate::case::{Case, Choice, Decided, Hold, Reason};
use crate::condition::Facts;
use crate::file::Ending;
use crate::plan::plan;
use crate::round::{Message, Planned, gather};
use crate::terms::{Calendars, Place, Terms};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{Currency, PayerKind, Segment};

/// A customer.
#[derive(Debug, Clone)]
pub struct Payer {
    /// Whose customer.
    pub merchant: String,
    /// The processor's id.
    pub customer: String,
    /// The customer's zone.
    pub zone: TimeZone,
    /// ISO 3166-1 alpha-2; empty if not known.
    pub country: String,
    /// What the law sees.
    pub kind: PayerKind,
    /// How the customer pays.
    pub segment: Segment,
    /// The merchant's labels.
    pub tags: Vec<String>,
    /// Asked not to be reminded.
    pub opted_out: bool,
    /// Days of reminders before the simulation begins, earliest first.
    pub contacts: Vec<Date>,
    /// A reminder is on its way when it begins: taken as arriving.
    pub spread: u64,
}

/// An invoice of the customer.
#[derive(Debug, Clone)]
pub struct SimulatedInvoice {
    /// The processor's id.
    pub invoice: String,
    /// ISO 4217.
    pub currency: Currency,
    /// What is owed, in minor units.
    pub open_minor: i64,
    /// When it should be paid.
    pub due_on: Option<Date>,
    /// When dunlin first hears of it.
    pub opened_at: Timestamp,
    /// The payer's date of that; earlier than the simulation for a running case.
    pub opened_on: Date,
    /// When it is paid or otherwise ends, if it does.
    pub closes_at: Option<Timestamp>,
    /// Its turn in the ramp of late entries.
    pub not_before: Option<Date>,
    /// When the debt was opened again.
    pub reopened_on: Option<Date>,
    /// The merchant's labels.
    pub tags: Vec<String>,
    /// How often the processor failed to collect.
    pub failed_attempts: u32,
    /// The last reason.
    pub decline_code: String,
    /// When it failed last.
    pub last_failed_on: Option<Date>,
    /// Until when the payer promised to pay.
    pub promised_on: Option<Date>,
    /// Since when money is under way.
    pub pending_since: Option<Date>,
    /// The processor collects by itself and has not failed.
    pub collects_itself: bool,
    /// What else holds it.
    pub holds: Vec<Hold>,
    /// What is decided when the simulation begins.
    pub decided: Vec<Decided>,
    /// What is chosen for adaptive steps, all the time.
    pub choices: Vec<(String, Choice)>,
    /// The end of its sequence was told.
    pub ended: bool,
}

/// Something that happens to a customer's cases.
#[derive(Debug)]
pub enum Happening<'a> {
    /// A reminder goes out: which places of the given invoices it is about, with the step and those merged into it of each.
    Reminder {
        /// The reminder.
        message: &'a Message,
        /// Step and merged steps, in the order of the message's lines.
        steps: &'a [(String, Vec<String>)],
        /// The date on which the first of them was due, in the same order.
        since: &'a [Date],
    },
    /// A step will never be sent.
    Skip {
        /// Place of the invoice.
        invoice: usize,
        /// Which.
        step: &'a str,
        /// Why.
        reason: Reason,
        /// What says so.
        rule: &'a str,
    },
    /// Due steps wait.
    Wait {
        /// Place of the invoice.
        invoice: usize,
        /// Which.
        steps: &'a [String],
        /// Why.
        reason: Reason,
        /// What says so.
        rule: &'a str,
        /// Until when; `None`: for news or a person.
        until: Option<Timestamp>,
    },
    /// A sequence ends.
    End {
        /// Place of the invoice.
        invoice: usize,
        /// How.
        ending: Ending,
    },
    /// An invoice closes: every step that is not decided is cancelled by it.
    Close {
        /// Place of the invoice.
        invoice: usize,
        /// Those steps.
        cancelled: usize,
    },
}

struct State {
    wake_at: Option<Timestamp>,
    is_closed: bool,
}

/// Lives through a customer's cases up to `until`. Reminders arrive at once. `campaigns` gives the campaign of each invoice.
/// Nothing is random: the same input gives the same happenings.
pub fn simulate(
    campaigns: &[&Campaign],
    calendars: &Calendars,
    payer: &mut Payer,
    invoices: &mut [SimulatedInvoice],
    until: Timestamp,
    mut on: impl FnMut(Timestamp, &[SimulatedInvoice], Happening<'_>),
) {
    let mut states: Vec<State> =
        invoices.iter().map(|i| State { wake_at: Some(i.opened_at), is_closed: false }).collect();
    loop {
        let closing = |(n, s): (usize, &State)| invoices.get(n)?.closes_at.filter(|_| !s.is_closed);
        let closing = states.iter().enumerate().filter_map(closing).min();
        let waking = states.iter().filter(|s| !s.is_closed).filter_map(|s| s.wake_at).min();
        let Some(now) = [closing, waking].into_iter().flatten().min().filter(|now| *now < until) else { return };
        // A payment stops what is due at the same moment.
        for n in 0..invoices.len() {
            let (Some(state), Some(invoice)) = (states.get_mut(n), invoices.get(n)) else { continue };
            if !state.is_closed && invoice.closes_at.is_some_and(|at| at <= now) {
                state.is_closed = true;
                let steps = campaigns.get(n).map_or(0, |c| c.steps.len());
                let cancelled = steps.saturating_sub(invoice.decided.len());
                on(now, invoices, Happening::Close { invoice: n, cancelled });
            }
        }
        fire(campaigns, calendars, payer, invoices, &mut states, now, &mut on);
    }
}

fn fire(
    campaigns: &[&Campaign],
    calendars: &Calendars,
    payer: &mut Payer,
    invoices: &mut [SimulatedInvoice],
    states: &mut [State],
    now: Timestamp,
    on: &mut impl FnMut(Timestamp, &[SimulatedInvoice], Happening<'_>),
) {
    let today = payer.zone.to_datetime(now).date();
    let place = Place { zone: payer.zone.clone(), country: &payer.country, payer: payer.kind };
    // Those whose time has come, and those that others may wait for.
    let is_due = |s: &State| !s.is_closed && s.wake_at.is_some_and(|at| at <= now);
    let waits = campaigns.iter().any(|c| c.consolidation.wait_days > 0);
    let looked_at =
        |n: &usize| states.get(*n).is_some_and(|s| is_due(s) || waits && !s.is_closed && s.wake_at.is_some());
    let places: Vec<usize> = (0..invoices.len()).filter(looked_at).collect();
    if places.is_empty() {
        return;
    }
    let balance = |currency: Currency| -> i64 {
        let open = invoices
            .iter()
            .zip(states.iter())
            .filter(|(i, s)| !s.is_closed && i.opened_at <= now && i.currency == currency);
        open.map(|(i, _)| i.open_minor).sum()
    };
    let mut planned: Vec<Planned<'_>> = Vec::with_capacity(places.len());
    for n in &places {
        let (Some(invoice), Some(campaign)) = (invoices.get(*n), campaigns.get(*n)) else { continue };
        let terms = Terms::new(campaign, &place, calendars, today);
        let facts = Facts {
            merchant: &payer.merchant,
            customer: &payer.customer,
            segment: payer.segment,
            customer_tags: &payer.tags,
            country: &payer.country,
            payer: payer.kind,
            currency: invoice.currency,
            open_minor: invoice.open_minor,
            balance_minor: if campaign.asks_balance() { balance(invoice.currency) } else { 0 },
            invoice_tags: &invoice.tags,
            failed_attempts: invoice.failed_attempts,
            decline_code: &invoice.decline_code,
        };
        let case = Case {
            is_open: true,
            facts,
            due_on: invoice.due_on,
            opened_on: invoice.opened_on,
            not_before: invoice.not_before,
            reopened_on: invoice.reopened_on,
            last_failed_on: invoice.last_failed_on,
            promised_on: invoice.promised_on,
            pending_since: invoice.pending_since,
            collects_itself: invoice.collects_itself,
            holds: &invoice.holds,
            opted_out: payer.opted_out,
            decided: &invoice.decided,
            contacts: &payer.contacts,
            in_flight: false,
            ended: invoice.ended,
            choices: &invoice.choices,
            spread: payer.spread,
        };
        let mut plan = plan(&terms, &case, now);
        if !states.get(*n).is_some_and(&is_due) {
            // Only looked at for the sake of the others.
            plan.send = None;
        }
        planned.push(Planned { invoice: &invoice.invoice, terms, case, plan });
    }
    let messages = gather(&mut planned, now);
    let plans: Vec<crate::Plan> = planned.into_iter().map(|p| p.plan).collect();
    let due: Vec<bool> = places.iter().map(|n| states.get(*n).is_some_and(&is_due)).collect();
    for ((n, plan), is_due) in places.iter().zip(&plans).zip(due) {
        if !is_due {
            continue;
        }
        for skip in &plan.skip {
            on(now, invoices, Happening::Skip { invoice: *n, step: &skip.step, reason: skip.reason, rule: &skip.rule });
        }
        if let Some(wait) = &plan.deferred {
            let (reason, rule, until) = (wait.reason, wait.rule.as_ref(), wait.until);
            on(now, invoices, Happening::Wait { invoice: *n, steps: &wait.steps, reason, rule, until });
        }
        if let Some(ending) = plan.end {
            on(now, invoices, Happening::End { invoice: *n, ending });
        }
        if let Some(state) = states.get_mut(*n) {
            state.wake_at = plan.wake_at;
        }
        let Some(invoice) = invoices.get_mut(*n) else { continue };
        invoice.ended |= plan.end.is_some();
        let decided = |step: &String, reminded| Decided { step: step.clone(), on: today, reminded };
        invoice.decided.extend(plan.skip.iter().map(|s| decided(&s.step, false)));
        if let Some(send) = &plan.send {
            invoice.decided.extend(send.merged.iter().map(|s| decided(s, false)));
            invoice.decided.push(decided(&send.step, true));
        }
        // Steps that the end decides are looked at once more.
        if plan.end.is_some()
            && let Some(state) = states.get_mut(*n)
        {
            state.wake_at = Some(now);
        }
    }
    payer.contacts.extend(messages.iter().map(|_| today));
    for message in &messages {
        let sends = || message.lines.iter().filter_map(|line| plans.get(*line)?.send.as_ref());
        let steps: Vec<(String, Vec<String>)> = sends().map(|s| (s.step.clone(), s.merged.clone())).collect();
        let since: Vec<Date> = sends().map(|s| s.since).collect();
        let lines = message.lines.iter().filter_map(|line| places.get(*line).copied()).collect();
        let speaker = places.get(message.speaker).copied().unwrap_or_default();
        let message = Message { speaker, lines, channel: message.channel };
        on(now, invoices, Happening::Reminder { message: &message, steps: &steps, since: &since });
    }
}
