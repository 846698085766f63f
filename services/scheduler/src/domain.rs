//! What follows from what is known of a case. Pure.

use crate::enrolment::{self, Chosen, Enrolment};
use campaign::{Campaign, Case, Choice, Decided, Facts, Hold, Place, Plan, Planned, Reason};
use events::{InvoiceStatus, v1};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kernel::{ContactHours, Currency, CustomerId, InvoiceId, MerchantId, PayerKind, Segment};
use payer::estimator::Distribution;
use prost::Message;
use runtime::Merchant;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A case with what is known of its invoice and its customer.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct CaseState {
    pub id: Uuid,
    pub merchant: MerchantId,
    pub invoice: InvoiceId,
    pub epoch: i32,
    pub customer: CustomerId,
    pub shard: i16,
    pub campaign: String,
    pub campaign_version: String,
    pub chosen_by: String,
    pub not_before: Option<Date>,
    pub opened_at: Timestamp,
    pub ended: Option<(Timestamp, String)>,
    pub overdue_told_at: Option<Timestamp>,
    pub armed_at: Option<Timestamp>,
    pub generation: i32,
    pub closed: Option<(Timestamp, String)>,
    pub enrolment: Option<Enrolment>,
    pub invoice_version: i64,
    pub invoice_epoch: i32,
    pub epoch_began_at: Option<Timestamp>,
    pub status: InvoiceStatus,
    pub currency: Currency,
    pub open_minor: i64,
    pub due_on: Option<Date>,
    pub disputed: bool,
    pub overdue_hint: bool,
    pub failed_attempts: i32,
    pub last_failed_at: Option<Timestamp>,
    pub tags: Vec<String>,
    pub own_campaign: String,
    pub collects_itself: bool,
    pub pending_since: Option<Timestamp>,
    pub decline_code: String,
    pub source: String,
    /// When the invoice's source was heard of last.
    pub heard_at: Option<Timestamp>,
    /// The customer, shared by all its cases.
    pub payer: Arc<Payer>,
    pub decided: Vec<Decided>,
}

/// What is known of a customer.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct Payer {
    pub time_zone: String,
    pub segment: Option<Segment>,
    /// Asked not to be reminded, or is gone.
    pub silent: bool,
    pub country: String,
    pub tags: Vec<String>,
    pub kind: Option<PayerKind>,
    pub campaign: String,
    /// Days of its reminders that went out or may have, earliest first.
    pub contacts: Vec<Date>,
    pub in_flight: bool,
    /// What it owes in each currency. Only filled where a campaign asks for it.
    pub balances: BTreeMap<Currency, i64>,
    pub holds: Vec<PlacedHold>,
    /// What its history says; `None` if it says nothing yet.
    pub outlook: Option<Outlook>,
}

/// What a customer's history says about its next invoice; see `dunlin.events.v1.Outlook`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "as in dunlin.events.v1.Outlook")]
pub struct Outlook {
    pub delay: Distribution,
    pub pooled: Option<Distribution>,
    pub model: String,
}

impl Outlook {
    /// Reads the stored form. One that cannot be read is none: then the campaign holds as it is written.
    pub fn read_or_warn(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes).inspect_err(|error| tracing::warn!(%error, "an outlook cannot be read and is left out")).ok()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If the bytes are none, or of an estimator with other bins.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let wire = v1::Outlook::decode(bytes).map_err(|e| e.to_string())?;
        let bins = |counts: Vec<f32>| {
            let counts: payer::bins::Counts = counts
                .try_into()
                .map_err(|c: Vec<f32>| format!("{} bins of delay; {} are known", c.len(), payer::bins::BINS))?;
            Ok::<_, String>(Distribution::of(&counts))
        };
        let pooled = if wire.pooled.is_empty() { None } else { Some(bins(wire.pooled)?) };
        Ok(Self { delay: bins(wire.delay)?, pooled, model: wire.model })
    }
}

/// A hold or a promise that somebody placed, and nobody released.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct PlacedHold {
    pub id: i64,
    pub invoice: Option<String>,
    pub is_promise: bool,
    pub until: Option<Date>,
    pub reason: String,
}

/// What a case's planning needs besides the case: made once per look.
#[derive(Debug, Clone)]
pub struct Situation {
    /// The payer's zone.
    pub zone: TimeZone,
    /// Holds, apart from promises and money under way.
    pub holds: Vec<Hold>,
    /// Until when the payer promised to pay.
    pub promised_on: Option<Date>,
    /// What is chosen for adaptive steps today, and why.
    pub chosen: Vec<Chosen>,
    /// The same as planning takes it.
    pub choices: Vec<(String, Choice)>,
}

/// The id of a case.
pub fn case_id(merchant: &MerchantId, invoice: &InvoiceId, epoch: i32) -> Uuid {
    kernel::id::derive("case", merchant.as_str(), invoice.as_str(), &epoch.to_string())
}

/// The customer's own zone, if it is known and exists, else the merchant's.
pub fn payer_zone(own: &str, merchant_zone: &TimeZone) -> TimeZone {
    let own = (!own.is_empty()).then(|| kernel::contact::zone(own).ok()).flatten();
    own.unwrap_or_else(|| merchant_zone.clone())
}

impl CaseState {
    /// Why the case has ended, if it has.
    pub fn end(&self) -> Option<&'static str> {
        if self.epoch < self.invoice_epoch {
            return Some("next_epoch");
        }
        (self.status != InvoiceStatus::Open).then(|| self.status.as_str())
    }

    /// Whether its campaign may still change: nothing was decided by it.
    pub const fn is_unpinned(&self) -> bool {
        self.decided.is_empty() && self.ended.is_none()
    }

    /// What was drawn for it in the campaign that it follows.
    pub fn enrolled(&self) -> Option<&Enrolment> {
        self.enrolment.as_ref().filter(|e| e.campaign == self.campaign)
    }

    /// Where the payer is, what holds the case, and what is chosen for its steps.
    pub fn situation(&self, merchant: &Merchant, campaign: Option<&Campaign>, now: Timestamp) -> Situation {
        let zone = payer_zone(&self.payer.time_zone, &merchant.zone);
        let mut holds = Vec::new();
        let mut hold = |reason, until, rule: String| holds.push(Hold { reason, until, rule });
        if self.disputed {
            hold(Reason::Dispute, None, "invoice.disputed".to_owned());
        }
        if !self.payer.time_zone.is_empty() && kernel::contact::zone(&self.payer.time_zone).is_err() {
            hold(Reason::UnknownZone, None, "customer.time_zone".to_owned());
        }
        if self.is_stale(merchant, now) {
            hold(Reason::StaleSource, None, format!("merchant.stale_after_hours.{}", self.source));
        }
        let mine = |h: &&PlacedHold| h.invoice.as_deref().is_none_or(|invoice| invoice == self.invoice.as_str());
        let placed = || self.payer.holds.iter().filter(mine);
        for placed in placed().filter(|h| !h.is_promise) {
            let until = placed.until.and_then(|last| last.tomorrow().ok()?.to_zoned(zone.clone()).ok());
            hold(Reason::ManualHold, until.map(|z| z.timestamp()), format!("hold {}", placed.id));
        }
        // A promise whose day was over before this debt began was about another one.
        let opened_on = zone.to_datetime(self.opened_at).date();
        let promises = placed().filter(|h| h.is_promise).filter_map(|h| h.until);
        let promised_on = promises.filter(|until| *until >= opened_on).max();
        let today = zone.to_datetime(now).date();
        let chosen =
            campaign.map_or_else(Vec::new, |campaign| enrolment::choices(self, campaign, &self.facts(merchant), today));
        let choices = chosen.iter().map(|c| (c.step.clone(), c.choice)).collect();
        Situation { zone, holds, promised_on, chosen, choices }
    }

    /// Whether the processor is about to collect. What it took and lost again it does not collect a second time.
    pub const fn waits_for_collection(&self) -> bool {
        self.collects_itself && self.failed_attempts == 0 && self.epoch_began_at.is_none()
    }

    /// Whether its processor is silent for longer than the merchant allows: it might have been paid.
    fn is_stale(&self, merchant: &Merchant, now: Timestamp) -> bool {
        // A file speaks when somebody imports it, and is not expected to.
        let hours = merchant.file.stale_after_hours.filter(|_| self.source != "file");
        let Some((hours, heard_at)) = hours.zip(self.heard_at) else { return false };
        now.duration_since(heard_at) > SignedDuration::from_hours(hours.into())
    }

    /// Where the payer is, for the campaign's terms.
    pub fn place<'a>(&'a self, situation: &Situation, merchant: &'a Merchant) -> Place<'a> {
        Place {
            zone: situation.zone.clone(),
            country: self.country(merchant),
            payer: self.payer.kind.unwrap_or(merchant.file.payers),
        }
    }

    fn country<'a>(&'a self, merchant: &'a Merchant) -> &'a str {
        if self.payer.country.is_empty() { &merchant.file.country } else { &self.payer.country }
    }

    /// What conditions ask about.
    pub fn facts<'a>(&'a self, merchant: &'a Merchant) -> Facts<'a> {
        Facts {
            merchant: self.merchant.as_str(),
            customer: self.customer.as_str(),
            segment: self.segment(),
            customer_tags: &self.payer.tags,
            country: self.country(merchant),
            payer: self.payer.kind.unwrap_or(merchant.file.payers),
            currency: self.currency,
            open_minor: self.open_minor,
            balance_minor: self.payer.balances.get(&self.currency).copied().unwrap_or(self.open_minor),
            invoice_tags: &self.tags,
            failed_attempts: u32::try_from(self.failed_attempts).unwrap_or(0),
            decline_code: &self.decline_code,
        }
    }

    /// The customer's segment.
    pub fn segment(&self) -> Segment {
        self.payer.segment.unwrap_or(Segment::New)
    }

    /// What planning is asked with.
    pub fn case<'a>(&'a self, situation: &'a Situation, merchant: &'a Merchant) -> Case<'a> {
        let date = |at: Timestamp| situation.zone.to_datetime(at).date();
        Case {
            is_open: self.end().is_none(),
            facts: self.facts(merchant),
            due_on: self.due_on,
            opened_on: date(self.opened_at),
            not_before: self.not_before,
            reopened_on: self.epoch_began_at.map(date),
            last_failed_on: self.last_failed_at.map(date),
            promised_on: situation.promised_on,
            pending_since: self.pending_since.map(date),
            collects_itself: self.waits_for_collection(),
            holds: &situation.holds,
            opted_out: self.payer.silent,
            decided: &self.decided,
            contacts: &self.payer.contacts,
            in_flight: self.payer.in_flight,
            ended: self.ended.is_some(),
            choices: &situation.choices,
            spread: kernel::id::stable_hash(&["spread", self.merchant.as_str(), self.customer.as_str()]),
        }
    }

    /// Whether it needs a turn in its campaign's ramp: late already when the campaign took it. A debt that was opened again is
    /// no late entry.
    pub fn needs_turn(&self, campaign: &Campaign, today: Date) -> bool {
        campaign.entry.at_most_per_day.is_some()
            && self.not_before.is_none()
            && self.is_unpinned()
            && self.epoch_began_at.is_none()
            && self.due_on.is_some_and(|due| due < today)
    }

    /// When `invoice-overdue` has to be told: with the end of the due date in the merchant's zone, once per case. An
    /// invoice without a due date is overdue when its processor says so.
    pub fn overdue_at(&self, merchant_zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        if self.overdue_told_at.is_some() || self.end().is_some() {
            return None;
        }
        match self.due_on {
            Some(due_on) => due_on.tomorrow().ok()?.to_zoned(merchant_zone.clone()).ok().map(|z| z.timestamp()),
            None => self.overdue_hint.then_some(now),
        }
    }

    /// When to look at the case again, as far as anything can be known now.
    pub fn wake_at(&self, planned: &Planned<'_>, merchant_zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let plan = &planned.plan;
        let something_to_do = plan.send.is_some() || plan.end.is_some() || !plan.skip.is_empty();
        let planned = if something_to_do { Some(now) } else { look_at(plan, planned.terms.hours.as_ref(), now) };
        [planned, self.overdue_at(merchant_zone, now)].into_iter().flatten().min()
    }

    /// What was known when something was decided, as far as it counts, as JSON.
    pub fn inputs(&self, merchant: &Merchant, chosen: Option<&Chosen>) -> String {
        let facts = self.facts(merchant);
        let last = self.payer.contacts.len().saturating_sub(INPUT_CONTACTS);
        let inputs = Inputs {
            due_on: self.due_on,
            open_minor: self.open_minor,
            currency: self.currency,
            invoice_version: self.invoice_version,
            country: facts.country,
            payer: facts.payer,
            failed_attempts: self.failed_attempts,
            decline_code: &self.decline_code,
            balance_minor: self.payer.balances.get(&self.currency).copied(),
            contacts: self.payer.contacts.get(last..).unwrap_or_default(),
            enrolment: self.enrolled().map(|e| Enrolled {
                group: e.group,
                propensity: e.propensity,
                model: &e.model,
                late: e.late,
            }),
            chosen,
        };
        serde_json::to_string(&inputs).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// How many days of earlier reminders a decision remembers.
const INPUT_CONTACTS: usize = 5;

/// What a decision was made on, apart from what its row says itself.
#[derive(Serialize)]
struct Inputs<'a> {
    due_on: Option<Date>,
    open_minor: i64,
    currency: Currency,
    invoice_version: i64,
    country: &'a str,
    payer: PayerKind,
    failed_attempts: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    decline_code: &'a str,
    /// Where a campaign asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance_minor: Option<i64>,
    contacts: &'a [Date],
    /// Where the campaign suits itself to payers.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment: Option<Enrolled<'a>>,
    /// Where something was chosen for the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<&'a Chosen>,
}

#[derive(Serialize)]
struct Enrolled<'a> {
    group: payer::experiment::Group,
    propensity: f64,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<f32>,
}

/// When to look again at a plan. Whether a silent source has spoken is looked at every hour while the payer may be written
/// to.
pub fn look_at(plan: &Plan, hours: Option<&ContactHours>, now: Timestamp) -> Option<Timestamp> {
    let is_stale = plan.deferred.as_ref().is_some_and(|d| d.reason == Reason::StaleSource);
    let soon = now.checked_add(SignedDuration::from_hours(1)).ok().filter(|_| is_stale);
    let soon = soon.and_then(|soon| hours.map_or(Some(soon), |hours| hours.next_open(soon)));
    [plan.wake_at, soon].into_iter().flatten().min()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn state() -> CaseState {
        CaseState {
            id: Uuid::nil(),
            merchant: "acme".parse().unwrap(),
            invoice: "in_1".parse().unwrap(),
            epoch: 1,
            customer: "cus_1".parse().unwrap(),
            shard: 0,
            campaign: "default".to_owned(),
            campaign_version: "1".to_owned(),
            chosen_by: "campaigns.0".to_owned(),
            not_before: None,
            opened_at: "2026-05-01T00:00:00Z".parse().unwrap(),
            ended: None,
            overdue_told_at: None,
            armed_at: None,
            generation: 0,
            closed: None,
            enrolment: None,
            invoice_version: 1,
            invoice_epoch: 1,
            epoch_began_at: None,
            status: InvoiceStatus::Open,
            currency: Currency::try_new("EUR").unwrap(),
            open_minor: 100,
            due_on: Some("2026-06-01".parse().unwrap()),
            disputed: false,
            overdue_hint: false,
            failed_attempts: 0,
            last_failed_at: None,
            tags: Vec::new(),
            own_campaign: String::new(),
            collects_itself: false,
            pending_since: None,
            decline_code: String::new(),
            source: "stripe".to_owned(),
            heard_at: None,
            payer: Arc::default(),
            decided: Vec::new(),
        }
    }

    fn zone(name: &str) -> TimeZone {
        kernel::contact::zone(name).unwrap()
    }

    #[test]
    fn overdue_begins_after_the_due_date_in_the_merchants_zone() {
        let now = "2026-05-01T00:00:00Z".parse().unwrap();
        let at = state().overdue_at(&zone("America/New_York"), now).unwrap();
        assert_eq!(at.to_string(), "2026-06-02T04:00:00Z");
        let told = CaseState { overdue_told_at: Some(now), ..state() };
        assert_eq!(told.overdue_at(&TimeZone::UTC, now), None, "once");
        let paid = CaseState { status: InvoiceStatus::Paid, ..state() };
        assert_eq!(paid.overdue_at(&TimeZone::UTC, now), None);
    }

    #[test]
    fn a_processors_hint_counts_where_there_is_no_due_date() {
        let now = "2026-05-01T00:00:00Z".parse().unwrap();
        let hinted = CaseState { overdue_hint: true, ..state() };
        assert_eq!(hinted.overdue_at(&TimeZone::UTC, now).unwrap().to_string(), "2026-06-02T00:00:00Z", "never early");
        let dateless = CaseState { due_on: None, overdue_hint: true, ..state() };
        assert_eq!(dateless.overdue_at(&TimeZone::UTC, now), Some(now));
        assert_eq!(CaseState { due_on: None, ..state() }.overdue_at(&TimeZone::UTC, now), None);
    }

    #[test]
    fn a_case_ends_with_its_invoice_or_its_epoch() {
        assert_eq!(state().end(), None);
        let void = CaseState { status: InvoiceStatus::Void, ..state() };
        assert_eq!(void.end(), Some("void"));
        let past = CaseState { invoice_epoch: 2, ..state() };
        assert_eq!(past.end(), Some("next_epoch"));
    }

    #[test]
    fn case_ids_tell_epochs_apart() {
        let id = |epoch| case_id(&state().merchant, &state().invoice, epoch);
        assert_ne!(id(1), id(2));
        assert_eq!(id(1), id(1));
    }

    fn merchant() -> Merchant {
        let file =
            "name: Acme\ntime_zone: Europe/Berlin\nstale_after_hours: 24\nsender: { name: A, email: a@b.example }";
        let file = serde_saphyr::from_str(file).unwrap();
        Merchant { id: "acme".parse().unwrap(), zone: zone("Europe/Berlin"), file }
    }

    fn holds(state: &CaseState, now: &str) -> Vec<(Reason, String, Option<String>)> {
        let holds = state.situation(&merchant(), None, now.parse().unwrap()).holds;
        holds.into_iter().map(|h| (h.reason, h.rule, h.until.map(|u| u.to_string()))).collect()
    }

    #[test]
    fn what_is_known_holds_a_case() {
        let now = "2026-06-02T10:00:00Z";
        assert_eq!(holds(&state(), now), []);
        let disputed = CaseState { disputed: true, ..state() };
        assert_eq!(holds(&disputed, now)[0].0, Reason::Dispute);
        let auto = CaseState { collects_itself: true, ..state() };
        assert!(auto.waits_for_collection());
        assert!(!CaseState { failed_attempts: 1, ..auto.clone() }.waits_for_collection(), "the payer must act");
        let again = CaseState { epoch_began_at: Some(now.parse().unwrap()), ..auto };
        assert!(!again.waits_for_collection(), "it does not collect a second time");
        let lost = Payer { time_zone: "Mars/Base".to_owned(), ..Payer::default() };
        assert_eq!(holds(&CaseState { payer: Arc::new(lost), ..state() }, now)[0].0, Reason::UnknownZone);
    }

    #[test]
    fn a_silent_source_holds_only_what_it_could_change() {
        let heard = |at: &str| CaseState { heard_at: Some(at.parse().unwrap()), ..state() };
        let now = "2026-06-02T10:00:00Z";
        assert_eq!(holds(&heard("2026-06-01T10:00:00Z"), now), [], "exactly a day");
        let stale = holds(&heard("2026-06-01T09:59:59Z"), now);
        assert_eq!(stale, [(Reason::StaleSource, "merchant.stale_after_hours.stripe".to_owned(), None)]);
        let file = CaseState { source: "file".to_owned(), ..heard("2026-01-01T00:00:00Z") };
        assert_eq!(holds(&file, now), [], "nobody expects a file to speak again");
    }

    #[test]
    fn placed_holds_end_with_their_last_day_in_the_payers_zone() {
        let hold = |id, invoice: Option<&str>, until: Option<&str>| PlacedHold {
            id,
            invoice: invoice.map(str::to_owned),
            is_promise: false,
            until: until.map(|d| d.parse().unwrap()),
            reason: "asked for a copy".to_owned(),
        };
        let all = vec![
            hold(1, Some("in_1"), Some("2026-06-10")),
            hold(2, Some("in_2"), None),
            hold(3, None, None),
            PlacedHold { is_promise: true, ..hold(4, Some("in_1"), Some("2026-06-20")) },
        ];
        let held = CaseState { payer: Arc::new(Payer { holds: all, ..Payer::default() }), ..state() };
        let found = holds(&held, "2026-06-02T10:00:00Z");
        let end = Some("2026-06-10T22:00:00Z".to_owned());
        let manual = |rule: &str, until| (Reason::ManualHold, rule.to_owned(), until);
        assert_eq!(found, [manual("hold 1", end), manual("hold 3", None)]);
        let situation = held.situation(&merchant(), None, "2026-06-02T10:00:00Z".parse().unwrap());
        assert_eq!(situation.promised_on, Some("2026-06-20".parse().unwrap()));
        // What was promised for a day before this debt began was about another one.
        let later = CaseState { opened_at: "2026-07-01T00:00:00Z".parse().unwrap(), ..held };
        assert_eq!(later.situation(&merchant(), None, "2026-07-02T10:00:00Z".parse().unwrap()).promised_on, None);
    }

    #[test]
    fn only_what_was_late_already_needs_a_turn() {
        let text = "
name: t
entry: { at_most_per_day: 10 }
contact: { weekdays: [mon], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
steps: [{ key: a, when: { days_after_due: 3 }, tone: firm }]
";
        let campaign = Campaign::try_new(&serde_saphyr::from_str(text).unwrap(), text).unwrap();
        let on = |today: &str, state: &CaseState| state.needs_turn(&campaign, today.parse().unwrap());
        assert!(on("2026-06-02", &state()));
        assert!(!on("2026-06-01", &state()), "not late yet");
        let reopened = CaseState { epoch_began_at: Some("2026-06-02T00:00:00Z".parse().unwrap()), ..state() };
        assert!(!on("2026-06-10", &reopened));
        let unlimited = Campaign { entry: Default::default(), ..campaign.clone() };
        assert!(!state().needs_turn(&unlimited, "2026-08-01".parse().unwrap()));
    }
}
