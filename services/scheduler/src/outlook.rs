//! What the running cases will lead to if no payment arrives and nothing else happens: for `dunlin plan`. Reads only.
//!
//! Each customer's cases are lived through under a virtual clock by the same planning that will fire their timers. A
//! reminder counts as having arrived at once; one that is on its way now, too.

use crate::config::parse_campaign;
use crate::domain::{CaseState, Situation};
use crate::rules::{InForce, Versions, follow};
use crate::store;
use campaign::{Calendars, Campaign, Happening, Payer, SimulatedInvoice, Terms};
use jiff::civil::Date;
use jiff::{Timestamp, Zoned};
use kernel::{ContactHours, Currency};
use runtime::{Merchant, Merchants};
use serde::Serialize;
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Of this merchant only.
    pub merchant: Option<&'a str>,
    /// Of this customer only.
    pub customer: Option<&'a str>,
    /// The present moment.
    pub now: Timestamp,
    /// The first day that is told of.
    pub from: Date,
    /// The last one.
    pub to: Date,
}

/// What will go out, and what will not.
#[derive(Debug, Default, Serialize)]
pub struct Outlook {
    /// Running cases.
    pub cases: usize,
    /// In order of time.
    pub reminders: Vec<Reminder>,
    /// What will not go out, by merchant, customer and invoice.
    pub silences: Vec<Silence>,
    /// Days on which none of the payers may be written to.
    pub closed: BTreeSet<Date>,
    /// How many late invoices begin on each day, where a campaign limits that.
    pub ramp: BTreeMap<Date, usize>,
}

/// A reminder that will go out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reminder {
    /// When, in the payer's zone.
    pub at: Zoned,
    /// Whose.
    pub merchant: String,
    /// To whom.
    pub customer: String,
    /// In which currency it asks.
    pub currency: Currency,
    /// How it goes out.
    pub channel: &'static str,
    /// How it speaks.
    pub tone: &'static str,
    /// What it is about; the first one leads.
    pub invoices: Vec<Line>,
}

/// An invoice in a reminder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The processor's id.
    pub invoice: String,
    /// The step that is due.
    pub step: String,
    /// Steps that it speaks for.
    pub merged: Vec<String>,
    /// The day on which the first of them was due.
    pub since: Date,
    /// Campaign and version.
    pub campaign: String,
    /// What chose the campaign.
    pub chosen_by: String,
}

/// Something that will not go out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Silence {
    /// Whose.
    pub merchant: String,
    /// To whom it would have gone.
    pub customer: String,
    /// About what.
    pub invoice: String,
    /// `skipped` for good, `waits`, `ended`, or `no campaign`.
    pub what: &'static str,
    /// Steps it is about; none: all.
    pub steps: Vec<String>,
    /// Why, machine-readable.
    pub reason: String,
    /// What says so.
    pub rule: String,
    /// From when on, in the payer's zone.
    pub at: Zoned,
    /// Until when it waits; `None`: until there is news, or a person ends it.
    pub until: Option<Zoned>,
}

/// All versions of campaigns that a running case may be on, and those that new cases begin on.
struct Campaigns {
    in_force: InForce,
    versions: Versions,
}

impl Campaigns {
    async fn read(pool: &PgPool, calendars: Calendars) -> anyhow::Result<Self> {
        let mut versions = HashMap::new();
        for (name, version, text) in store::campaigns(pool).await? {
            // Its cases are listed: they wait for somebody to repair it.
            if let Ok(campaign) = parse_campaign(&text) {
                versions.insert((name, version), Arc::new(campaign));
            }
        }
        let in_force = store::campaigns_in_force(pool).await?.into_iter();
        let in_force = in_force.filter_map(|(name, text)| Some((name, Arc::new(parse_campaign(&text).ok()?))));
        Ok(Self { in_force: InForce::new(in_force.collect(), calendars, &versions), versions })
    }

    fn of(&self, case: &CaseState) -> Option<Arc<Campaign>> {
        self.versions.get(&(case.campaign.clone(), case.campaign_version.clone())).cloned()
    }
}

/// Looks ahead. Customers are read some at a time.
pub async fn outlook(
    pool: &PgPool,
    merchants: &Merchants,
    calendars: Calendars,
    query: &Query<'_>,
) -> anyhow::Result<Outlook> {
    /// Cases per statement, at least; a customer's are never split.
    const BATCH: usize = 1_000;
    let campaigns = Campaigns::read(pool, calendars).await?;
    let ids = store::open_case_ids(pool, query.merchant, query.customer).await?;
    let mut looking = Looking { query, campaigns: &campaigns, outlook: Outlook::default(), hours: BTreeMap::new() };
    let mut connection = pool.acquire().await?;
    let mut batch: Vec<Uuid> = Vec::new();
    for (n, (merchant, customer, id)) in ids.iter().enumerate() {
        batch.push(*id);
        let is_last = ids.get(n + 1).is_none_or(|(m, c, _)| (m, c) != (merchant, customer));
        if is_last && (batch.len() >= BATCH || n + 1 == ids.len()) {
            let asks = campaigns.in_force.asks_balance || campaigns.versions.values().any(|c| c.asks_balance());
            let cases = store::load_cases(&mut connection, &batch, query.now, asks).await?;
            looking.look(merchants, cases);
            batch.clear();
        }
    }
    Ok(looking.finish())
}

struct Looking<'a> {
    query: &'a Query<'a>,
    campaigns: &'a Campaigns,
    outlook: Outlook,
    /// The contact hours of all payers, by what they depend on.
    hours: BTreeMap<String, ContactHours>,
}

impl Looking<'_> {
    fn look(&mut self, merchants: &Merchants, cases: Vec<CaseState>) {
        let mut people: BTreeMap<(String, String), Vec<CaseState>> = BTreeMap::new();
        for case in cases.into_iter().filter(|case| case.end().is_none()) {
            let key = (case.merchant.to_string(), case.customer.to_string());
            people.entry(key).or_default().push(case);
        }
        for ((merchant, _), cases) in people {
            self.outlook.cases += cases.len();
            match merchants.by_name(&merchant) {
                Some(merchant) => self.live(merchant, &cases),
                None => cases.iter().for_each(|case| self.unplannable(case, None, "unknown_merchant")),
            }
        }
    }

    /// Lives through the cases of one customer.
    fn live(&mut self, merchant: &Merchant, cases: &[CaseState]) {
        let now = self.query.now;
        let mut running: Vec<(CaseState, Arc<Campaign>)> = Vec::new();
        for case in cases {
            let case = follow(case, merchant, &self.campaigns.in_force, now);
            match self.campaigns.of(&case) {
                Some(campaign) => running.push((case, campaign)),
                None if case.campaign.is_empty() => {
                    let reason = case.chosen_by.clone();
                    self.unplannable(&case, Some(merchant), &reason);
                }
                None => self.unplannable(&case, Some(merchant), "unknown_campaign"),
            }
        }
        let Some((first, _)) = running.first() else { return };
        let mut payer = payer(first, merchant, now);
        let mut invoices: Vec<SimulatedInvoice> = Vec::new();
        for (case, campaign) in &running {
            let situation = case.situation(merchant, Some(campaign), now);
            self.know_hours(case, &situation, merchant, campaign);
            if let Some(turn) = case.not_before.filter(|turn| self.is_told(*turn)) {
                *self.outlook.ramp.entry(turn).or_default() += 1;
            }
            if let Some((at, how)) = &case.ended {
                let silence =
                    Silence { reason: how.clone(), at: at.to_zoned(payer.zone.clone()), ..silence(case, "ended") };
                self.outlook.silences.push(silence);
            }
            invoices.push(simulated(case, situation, now));
        }
        let campaigns: Vec<&Campaign> = running.iter().map(|(_, campaign)| &**campaign).collect();
        // A little after the last day in all zones; what is beyond it in the payer's own is not told.
        let Some(until) = self.query.to.tomorrow().ok().and_then(|end| end.to_zoned(payer.zone.clone()).ok()) else {
            return;
        };
        let zone = payer.zone.clone();
        let mut log = Log { running: &running, zone: &zone, reminders: Vec::new(), silences: BTreeMap::new() };
        let calendars = &self.campaigns.in_force.calendars;
        campaign::simulate(&campaigns, calendars, &mut payer, &mut invoices, until.timestamp(), |at, _, happening| {
            log.note(at.to_zoned(zone.clone()), &happening);
        });
        let (from, to) = (self.query.from, self.query.to);
        self.outlook.reminders.extend(log.reminders.into_iter().filter(|r| (from..=to).contains(&r.at.date())));
        // What ended before the first day is nothing that one would wait for.
        let lasts = |s: &Silence| s.what == "waits" && s.until.as_ref().is_none_or(|until| until.date() >= from);
        let silences = log.silences.into_values().filter(|s| lasts(s) || s.at.date() >= from);
        self.outlook.silences.extend(silences);
    }

    fn is_told(&self, day: Date) -> bool {
        (self.query.from..=self.query.to).contains(&day)
    }

    fn unplannable(&mut self, case: &CaseState, merchant: Option<&Merchant>, reason: &str) {
        let zone = merchant.map_or(jiff::tz::TimeZone::UTC, |m| case.situation(m, None, self.query.now).zone);
        let at = self.query.now.to_zoned(zone);
        self.outlook.silences.push(Silence { reason: reason.to_owned(), at, ..silence(case, "no campaign") });
    }

    fn know_hours(&mut self, case: &CaseState, situation: &Situation, merchant: &Merchant, campaign: &Campaign) {
        let place = case.place(situation, merchant);
        let zone = place.zone.iana_name().unwrap_or_default();
        let key = format!("{}|{zone}|{}|{}", campaign.version, place.country, place.payer.as_str());
        if !self.hours.contains_key(&key) {
            let terms = Terms::new(campaign, &place, &self.campaigns.in_force.calendars, self.query.from);
            self.hours.extend(terms.hours.map(|hours| (key, hours)));
        }
    }

    fn finish(mut self) -> Outlook {
        let mut day = self.query.from;
        while day <= self.query.to {
            if !self.hours.is_empty() && self.hours.values().all(|hours| hours.window_on(day).is_none()) {
                self.outlook.closed.insert(day);
            }
            let Ok(next) = day.tomorrow() else { break };
            day = next;
        }
        let outlook = &mut self.outlook;
        let key = |r: &Reminder| (r.at.timestamp(), r.merchant.clone(), r.customer.clone(), r.currency);
        outlook.reminders.sort_by_cached_key(key);
        outlook.silences.sort_by_cached_key(|s| {
            (s.merchant.clone(), s.customer.clone(), s.invoice.clone(), s.at.timestamp(), s.steps.clone())
        });
        self.outlook
    }
}

/// What happens to one customer.
struct Log<'a> {
    running: &'a [(CaseState, Arc<Campaign>)],
    zone: &'a jiff::tz::TimeZone,
    reminders: Vec<Reminder>,
    /// By place, what, and steps or reason: the last word of each counts.
    silences: BTreeMap<(usize, &'static str, String), Silence>,
}

impl Log<'_> {
    fn note(&mut self, at: Zoned, happening: &Happening<'_>) {
        match happening {
            Happening::Reminder { message, steps, since } => {
                let lines = message.lines.iter().zip(*steps).zip(*since);
                let mut lines: Vec<(bool, Line)> =
                    Vec::from_iter(lines.filter_map(|((place, (step, merged)), since)| {
                        let line = self.line(*place, step, merged, *since)?;
                        Some((*place != message.speaker, line))
                    }));
                // The one that leads comes first; the others stay in the order of their due dates.
                lines.sort_by_key(|(follows, _)| *follows);
                for place in &message.lines {
                    self.silences.remove(&(*place, "waits", String::new()));
                }
                let Some((case, campaign)) = self.running.get(message.speaker) else { return };
                let tone =
                    lines.first().and_then(|(_, line)| campaign.step(&line.step)).map_or("", |s| s.tone.as_str());
                self.reminders.push(Reminder {
                    at,
                    merchant: case.merchant.to_string(),
                    customer: case.customer.to_string(),
                    currency: case.currency,
                    channel: message.channel.as_str(),
                    tone,
                    invoices: lines.into_iter().map(|(_, line)| line).collect(),
                });
            }
            Happening::Skip { invoice, step, reason, rule } => {
                let Some((case, _)) = self.running.get(*invoice) else { return };
                // It waits no more.
                let waits = (*invoice, "waits", String::new());
                if let Some(wait) = self.silences.get_mut(&waits) {
                    wait.steps.retain(|waiting| waiting != step);
                    if wait.steps.is_empty() {
                        self.silences.remove(&waits);
                    }
                }
                let key = (*invoice, "skipped", (*step).to_owned());
                let (steps, reason, rule) = (vec![(*step).to_owned()], reason.as_str().to_owned(), (*rule).to_owned());
                self.silences.insert(key, Silence { steps, reason, rule, at, ..silence(case, "skipped") });
            }
            Happening::Wait { invoice, steps, reason, rule, until } => {
                let Some((case, _)) = self.running.get(*invoice) else { return };
                let until = until.map(|until| until.to_zoned(self.zone.clone()));
                let (steps, reason, rule) = (steps.to_vec(), reason.as_str().to_owned(), (*rule).to_owned());
                let wait = Silence { steps, reason, rule, at, until, ..silence(case, "waits") };
                self.silences.insert((*invoice, "waits", String::new()), wait);
            }
            Happening::End { invoice, ending } => {
                let Some((case, _)) = self.running.get(*invoice) else { return };
                let key = (*invoice, "ended", String::new());
                self.silences.insert(key, Silence { reason: ending.as_str().to_owned(), at, ..silence(case, "ended") });
            }
            Happening::Close { .. } => {}
        }
    }

    fn line(&self, place: usize, step: &str, merged: &[String], since: Date) -> Option<Line> {
        let (case, _) = self.running.get(place)?;
        Some(Line {
            invoice: case.invoice.to_string(),
            step: step.to_owned(),
            merged: merged.to_vec(),
            since,
            campaign: format!("{} {}", case.campaign, case.campaign_version),
            chosen_by: case.chosen_by.clone(),
        })
    }
}

fn silence(case: &CaseState, what: &'static str) -> Silence {
    Silence {
        merchant: case.merchant.to_string(),
        customer: case.customer.to_string(),
        invoice: case.invoice.to_string(),
        what,
        steps: Vec::new(),
        reason: String::new(),
        rule: String::new(),
        at: Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC),
        until: None,
    }
}

fn payer(case: &CaseState, merchant: &Merchant, now: Timestamp) -> Payer {
    let situation = case.situation(merchant, None, now);
    let (known, place) = (case.case(&situation, merchant), case.place(&situation, merchant));
    Payer {
        merchant: case.merchant.to_string(),
        customer: case.customer.to_string(),
        zone: place.zone,
        country: place.country.to_owned(),
        kind: place.payer,
        segment: case.segment(),
        tags: case.payer.tags.clone(),
        opted_out: known.opted_out,
        contacts: case.payer.contacts.clone(),
        spread: known.spread,
    }
}

fn simulated(case: &CaseState, situation: Situation, now: Timestamp) -> SimulatedInvoice {
    let date = |at: Timestamp| situation.zone.to_datetime(at).date();
    SimulatedInvoice {
        invoice: case.invoice.to_string(),
        currency: case.currency,
        open_minor: case.open_minor,
        due_on: case.due_on,
        opened_at: now,
        opened_on: date(case.opened_at),
        closes_at: None,
        not_before: case.not_before,
        reopened_on: case.epoch_began_at.map(date),
        tags: case.tags.clone(),
        failed_attempts: u32::try_from(case.failed_attempts).unwrap_or(0),
        decline_code: case.decline_code.clone(),
        last_failed_on: case.last_failed_at.map(date),
        promised_on: situation.promised_on,
        pending_since: case.pending_since.map(date),
        collects_itself: case.waits_for_collection(),
        holds: situation.holds,
        decided: case.decided.clone(),
        choices: situation.choices,
        ended: case.ended.is_some(),
    }
}
