//! Counts what happens in a simulation.

use super::{
    Backtest, BusyDay, BusyHour, Completeness, Entry, PEAKS, Setting, Spread, StepCount, is_late, not_recorded,
};
use crate::campaign::Campaign;
use crate::case::{Outcome, Reason};
use crate::round::Message;
use crate::simulate::{Happening, SimulatedInvoice};
use crate::terms::{Place, Terms};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use std::collections::{BTreeMap, HashMap};

pub(super) struct Tally<'a> {
    campaign: &'a Campaign,
    setting: &'a Setting<'a>,
    report: Backtest,
    /// Places of steps by their keys.
    places: HashMap<&'a str, usize>,
    hours: BTreeMap<DateTime, u64>,
    /// Reminders of each customer so far.
    customers: Vec<u32>,
    /// The customer of now.
    country: String,
    cases: Vec<Case>,
    reminders: u32,
}

/// What happened to an invoice of the customer of now.
struct Case {
    opened_on: Date,
    paid_on: Option<Date>,
    reminders: u32,
    /// Final decisions by step.
    decisions: Vec<u8>,
    waited: Vec<(usize, Reason)>,
    is_closed: bool,
}

/// How a step ended.
#[derive(Clone, Copy)]
enum End {
    Sent,
    WithAnotherInvoice,
    Merged,
    Skipped,
}

impl<'a> Tally<'a> {
    pub(super) fn new(campaign: &'a Campaign, setting: &'a Setting<'a>) -> Self {
        let step = |step: &crate::Step| StepCount {
            key: step.key.clone(),
            tone: step.tone,
            sent: 0,
            with_another_invoice: 0,
            merged: 0,
            skipped: 0,
            cancelled: 0,
            open: 0,
        };
        let report = Backtest {
            campaign: campaign.name.clone(),
            version: campaign.version.clone(),
            zone: setting.zone.iana_name().unwrap_or("UTC").to_owned(),
            switch_on: setting.switch_on,
            not_recorded: not_recorded(campaign, setting),
            steps: campaign.steps.iter().map(step).collect(),
            ..Backtest::default()
        };
        let places = campaign.steps.iter().enumerate().map(|(n, s)| (s.key.as_str(), n)).collect();
        Self {
            campaign,
            setting,
            report,
            places,
            hours: BTreeMap::new(),
            customers: Vec::new(),
            country: String::new(),
            cases: Vec::new(),
            reminders: 0,
        }
    }

    pub(super) fn spans(&mut self, from: Date, until: Date) {
        self.report.from = Some(from);
        self.report.until = Some(until);
    }

    pub(super) fn misses(&mut self, calendars: Vec<String>) {
        self.report.without_calendars.extend(calendars);
    }

    pub(super) fn leave_out(&mut self, entry: &Entry) {
        match entry {
            Entry::Follows(_) => {}
            Entry::Audience => self.report.left_out.audience += 1,
            Entry::Settled => self.report.left_out.settled += 1,
            Entry::Later => self.report.left_out.later += 1,
        }
    }

    /// A customer begins.
    pub(super) fn begin(&mut self, invoices: &[SimulatedInvoice], paid: Vec<Option<Date>>, country: &str) {
        self.country = country.to_owned();
        self.reminders = 0;
        self.report.customers += 1;
        self.report.invoices += invoices.len() as u64;
        let late = || invoices.iter().filter(|i| is_late(i));
        self.report.late_entries += late().count() as u64;
        self.report.ramp_until = self.report.ramp_until.max(late().filter_map(|i| i.not_before).max());
        let case = |(invoice, paid_on): (&SimulatedInvoice, Option<Date>)| Case {
            opened_on: invoice.opened_on,
            paid_on,
            reminders: 0,
            decisions: vec![0; self.campaign.steps.len()],
            waited: Vec::new(),
            is_closed: false,
        };
        self.cases = invoices.iter().zip(paid).map(case).collect();
    }

    /// Something happens to the customer of now, under the campaign as it is for that one.
    pub(super) fn count(&mut self, campaign: &Campaign, now: Timestamp, happening: Happening<'_>) {
        match happening {
            Happening::Reminder { message, steps, since } => {
                let place =
                    Place { zone: self.setting.zone.clone(), country: &self.country, payer: self.setting.payer };
                let today = self.setting.zone.to_datetime(now).date();
                let hours = Terms::new(campaign, &place, self.setting.calendars, today).hours;
                let is_closed = |date| hours.as_ref().is_none_or(|hours| hours.window_on(date).is_none());
                self.remind(now, message, steps, &since.iter().map(|on| (*on, is_closed(*on))).collect::<Vec<_>>());
            }
            Happening::Skip { invoice, step, reason, .. } => self.skip(invoice, step, reason),
            Happening::Wait { invoice, steps, reason, .. } => {
                for step in steps {
                    self.wait(invoice, step, reason);
                }
            }
            Happening::End { ending, .. } => *self.report.ended.entry(ending.as_str()).or_default() += 1,
            Happening::Close { invoice, .. } => self.close(invoice),
        }
    }

    /// `since` also says whether that day had no contact hours.
    fn remind(&mut self, now: Timestamp, message: &Message, steps: &[(String, Vec<String>)], since: &[(Date, bool)]) {
        let local = self.setting.zone.to_datetime(now);
        let today = local.date();
        self.reminders += 1;
        self.report.reminders += 1;
        *self.hours.entry(today.at(local.hour(), 0, 0, 0)).or_default() += 1;
        let mut is_paid_anyway = false;
        for ((line, (step, merged)), (since, had_no_hours)) in message.lines.iter().zip(steps).zip(since) {
            let is_speaker = *line == message.speaker;
            self.decide(*line, step, if is_speaker { End::Sent } else { End::WithAnotherInvoice });
            if is_speaker {
                let tone = self.places.get(step.as_str()).and_then(|n| self.campaign.steps.get(*n)).map(|s| s.tone);
                *self.report.tones.entry(tone.map_or("", |tone| tone.as_str())).or_default() += 1;
            } else {
                *self.report.merged.entry(Reason::OtherInvoice.as_str()).or_default() += 1;
            }
            for step in merged {
                self.decide(*line, step, End::Merged);
                *self.report.merged.entry(Reason::LaterStep.as_str()).or_default() += 1;
            }
            let Some(case) = self.cases.get_mut(*line) else { continue };
            case.reminders += 1;
            is_paid_anyway |=
                case.paid_on.is_some_and(|paid| paid == today || today.tomorrow().is_ok_and(|next| paid == next));
            // What was missed before the campaign met the invoice did not wait for hours.
            self.report.quiet_hours += u64::from(*since >= case.opened_on && *had_no_hours);
        }
        self.report.paid_anyway += u64::from(is_paid_anyway);
    }

    fn skip(&mut self, invoice: usize, step: &str, reason: Reason) {
        let (end, by_reason) = match reason.outcome() {
            Outcome::Merged => (End::Merged, &mut self.report.merged),
            Outcome::Requested | Outcome::Skipped => (End::Skipped, &mut self.report.skipped),
        };
        *by_reason.entry(reason.as_str()).or_default() += 1;
        self.decide(invoice, step, end);
    }

    fn wait(&mut self, invoice: usize, step: &str, reason: Reason) {
        let (Some(case), Some(place)) = (self.cases.get_mut(invoice), self.places.get(step)) else { return };
        let waited = self.report.deferrals.entry(reason.as_str()).or_default();
        waited.times += 1;
        if !case.waited.contains(&(*place, reason)) {
            case.waited.push((*place, reason));
            waited.steps += 1;
        }
    }

    fn close(&mut self, invoice: usize) {
        let Some(case) = self.cases.get_mut(invoice) else { return };
        case.is_closed = true;
        for (decisions, count) in case.decisions.iter_mut().zip(&mut self.report.steps) {
            if *decisions == 0 {
                *decisions = 1;
                count.cancelled += 1;
            }
        }
    }

    fn decide(&mut self, invoice: usize, step: &str, end: End) {
        let Some(place) = self.places.get(step) else { return };
        if let Some(n) = self.cases.get_mut(invoice).and_then(|case| case.decisions.get_mut(*place)) {
            *n = n.saturating_add(1);
        }
        let Some(count) = self.report.steps.get_mut(*place) else { return };
        let number = match end {
            End::Sent => &mut count.sent,
            End::WithAnotherInvoice => &mut count.with_another_invoice,
            End::Merged => &mut count.merged,
            End::Skipped => &mut count.skipped,
        };
        *number += 1;
    }

    /// The customer of now is done.
    pub(super) fn end(&mut self) {
        self.customers.push(self.reminders);
        for case in self.cases.drain(..) {
            *self.report.per_invoice.entry(case.reminders).or_default() += 1;
            for (decisions, count) in case.decisions.iter().zip(&mut self.report.steps) {
                if *decisions == 0 && !case.is_closed {
                    count.open += 1;
                    continue;
                }
                self.report.completeness.steps += 1;
                self.report.completeness.decided_once += u64::from(*decisions == 1);
            }
        }
    }

    pub(super) fn finish(mut self) -> Backtest {
        let mut days: BTreeMap<Date, u64> = BTreeMap::new();
        for (at, reminders) in &self.hours {
            *days.entry(at.date()).or_default() += reminders;
            *self.report.months.entry(at.strftime("%Y-%m").to_string()).or_default() += reminders;
            let weekday = usize::try_from(at.weekday().to_monday_zero_offset()).unwrap_or_default();
            let hour = usize::try_from(at.hour()).unwrap_or_default();
            if let Some(cell) = self.report.week.get_mut(weekday).and_then(|day| day.get_mut(hour)) {
                *cell += reminders;
            }
        }
        let mut report = self.report;
        report.busiest_hours = busiest(&self.hours).map(|(at, reminders)| BusyHour { at, reminders }).collect();
        report.busiest_days = busiest(&days).map(|(on, reminders)| BusyDay { on, reminders }).collect();
        let named: u64 = report.per_invoice.iter().map(|(n, invoices)| u64::from(*n) * invoices).sum();
        report.per_invoice_mean = ratio(named, report.invoices);
        self.customers.sort_unstable();
        let rank = |percent: usize| {
            let rank = (self.customers.len() * percent).div_ceil(100).max(1) - 1;
            self.customers.get(rank).copied().unwrap_or_default()
        };
        let total: u64 = self.customers.iter().map(|n| u64::from(*n)).sum();
        report.per_customer =
            Spread { mean: ratio(total, report.customers), p50: rank(50), p90: rank(90), max: rank(100) };
        let Completeness { steps, decided_once, .. } = report.completeness;
        report.completeness.ratio = ratio(decided_once, steps);
        report
    }
}

/// The largest, the most first, and the earlier first of equal ones.
fn busiest<T: Copy>(counts: &BTreeMap<T, u64>) -> impl Iterator<Item = (T, u64)> {
    let mut all: Vec<(T, u64)> = counts.iter().map(|(at, n)| (*at, *n)).collect();
    all.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    all.into_iter().take(PEAKS)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
