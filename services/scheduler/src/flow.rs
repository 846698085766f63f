//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | `invoice` slice by version; case opened, closed or planned anew; timer moved | – |
//! | `customer-changed` | `customer` slice by version; the customer's open cases planned anew | – |
//! | `customer-segmented` | segment by version (looked at when a step is due) | – |
//! | `customer-responded` (unsubscribed) | opted out (looked at when a step is due) | – |
//! | a timer is due | timer gone; case planned; decisions; next timer | `invoice-overdue`, `reminder-due`, `step-decided` |
//! | `reminder-sent`, `-suppressed`, `-failed`, `-unknown` | decisions settled; the customer's reminder in flight no more, its day noted | – |
//!
//! Events only ever move timers; every reminder comes from a timer that fired. So there is one place that sends, and it
//! sees all cases of a customer at once.

use crate::config;
use crate::domain::{self, CaseState, case_id};
use crate::store::{self, CaseChange, CustomerKey, DueTimer, Ended, InvoiceKey, NewCase, NewDecision, Settled};
use bus::{Failure, Handler, Incoming, Work, trace};
use campaign::{Campaign, Outcome, Plan, Reason, Tone};
use events::topology::{SCHEDULER_CASES, SCHEDULER_OUTCOMES};
use events::{AnyEvent, Customer, Flow, Invoice, Malformed, snapshot, time, v1};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kernel::{ContactHours, MerchantId, Segment};
use runtime::{Host, Merchant};
use sqlx::{PgConnection, PgExecutor};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use uuid::Uuid;

/// Campaigns by file name and version.
type Versions = HashMap<(String, String), Arc<Campaign>>;

/// What planning needs besides a case: merchants, and every campaign version that a case may be on.
#[derive(Clone)]
pub struct Rules {
    host: Host,
    /// The version in force, by file name.
    current: Arc<BTreeMap<String, String>>,
    /// All versions met so far.
    campaigns: Arc<RwLock<Versions>>,
}

impl Rules {
    /// Rules over campaigns in force.
    pub fn new(host: Host, current: BTreeMap<String, String>) -> Self {
        Self { host, current: Arc::new(current), campaigns: Arc::default() }
    }

    /// Reads the stored campaign versions that are not known yet.
    pub async fn learn(&self, db: impl PgExecutor<'_>) -> sqlx::Result<()> {
        let stored = store::campaigns(db).await?;
        let mut known = self.campaigns.write().unwrap_or_else(PoisonError::into_inner);
        for (name, version, text) in stored {
            let key = (name, version);
            if known.contains_key(&key) {
                continue;
            }
            match config::parse_campaign(&text) {
                Ok(campaign) => _ = known.insert(key, Arc::new(campaign)),
                // Its cases wait; readiness of everything else does not depend on it.
                Err(error) => {
                    tracing::error!(campaign = ?key, %error, "a stored campaign version cannot be read any more")
                }
            }
        }
        Ok(())
    }

    /// Cases that are locked. One may be on a version that came into force after we started: another replica opened it.
    async fn load_cases(&self, tx: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<CaseState>> {
        let cases = store::load_cases(tx, ids).await?;
        if cases.iter().any(|case| self.campaign(case).is_none()) {
            self.learn(tx).await?;
        }
        Ok(cases)
    }

    fn campaign(&self, case: &CaseState) -> Option<Arc<Campaign>> {
        let known = self.campaigns.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&(case.campaign.clone(), case.campaign_version.clone())).cloned()
    }

    /// Plans a case. `None` if its merchant or campaign is not configured here: another replica may know better.
    fn plan(&self, case: &CaseState, now: Timestamp) -> Option<Planned<'_>> {
        let merchant = self.host.merchants.get(&case.merchant)?;
        let campaign = self.campaign(case)?;
        let hours = case.hours(&campaign, &merchant.zone);
        let plan = case.plan(&campaign, &hours, now);
        Some(Planned { merchant, campaign, hours, plan })
    }

    /// The campaign and version that a new case of a merchant follows.
    fn assign(&self, merchant: &MerchantId) -> Option<(&str, &str)> {
        let campaign = self.host.merchants.get(merchant)?.file.campaign.as_str();
        Some((campaign, self.current.get(campaign)?))
    }
}

struct Planned<'a> {
    merchant: &'a Merchant,
    campaign: Arc<Campaign>,
    hours: ContactHours,
    plan: Plan,
}

/// When to look again at a case that cannot be planned here. It must stay armed: nobody else would wake it.
fn look_again(now: Timestamp) -> Option<Timestamp> {
    now.checked_add(SignedDuration::from_mins(1)).ok()
}

/// Cases follow their invoices and customers.
pub struct Cases(pub Rules);

impl Handler for Cases {
    const FLOW: &'static Flow = &SCHEDULER_CASES;
    const LINGER: Duration = Duration::from_millis(20);

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let now = self.0.host.now();
        let news = News::sort(&self.0, work, batch);
        // Customers before cases, as a firing timer does.
        store::lock_customers(work.tx(), &news.people()).await?;
        if !news.customers.is_empty() {
            store::upsert_customers(work.tx(), &values(&news.customers)).await?;
        }
        if !news.segments.is_empty() {
            let segments: Vec<_> = news.segments.iter().map(|(k, (version, s))| (k.clone(), *version, *s)).collect();
            store::upsert_segments(work.tx(), &segments).await?;
        }
        if !news.opted_out.is_empty() {
            store::opt_out(work.tx(), &news.opted_out).await?;
        }
        let mut changed = HashSet::new();
        if !news.invoices.is_empty() {
            // An older snapshot than the known one changes nothing from here on.
            changed = store::upsert_invoices(work.tx(), &news.invoices.values().collect::<Vec<_>>()).await?;
            let owing = news.invoices.values().filter(|i| i.open_minor > 0 && changed.contains(&key_of(i)));
            self.open_cases(work, owing, &news.traces, now).await?;
        }
        let ids = store::lock_cases(work.tx(), &changed, &news.customers).await?;
        let cases = self.0.load_cases(work.tx(), &ids).await?;
        let traces = &news.traces;
        let change = |case: &CaseState| {
            let trace = traces.get(&(case.merchant.clone(), case.invoice.clone())).cloned();
            self.replan(case, now, trace.flatten())
        };
        let changes: Vec<CaseChange> = cases.iter().filter_map(change).collect();
        Ok(store::save_cases(work.tx(), &changes).await?)
    }
}

impl Cases {
    /// Opens a case for each invoice that owes money and has none in its epoch.
    async fn open_cases<'a>(
        &'a self,
        work: &mut Work,
        invoices: impl Iterator<Item = &'a Invoice>,
        traces: &'a Traces,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let new: Vec<NewCase<'_>> = invoices
            .filter_map(|i| {
                let (campaign, campaign_version) = self.0.assign(&i.merchant)?;
                Some(NewCase {
                    id: case_id(&i.merchant, &i.invoice, i.epoch),
                    merchant: &i.merchant,
                    invoice: &i.invoice,
                    epoch: i.epoch,
                    customer: &i.customer,
                    campaign,
                    campaign_version,
                    opened_at: now,
                    opened_traceparent: traces.get(&key_of(i)).and_then(Option::as_deref),
                })
            })
            .collect();
        if new.is_empty() { Ok(()) } else { Ok(store::open_cases(work.tx(), &new).await?) }
    }

    /// What news change about a case: whether it has ended, and when to look at it again.
    fn replan(&self, case: &CaseState, now: Timestamp, traceparent: Option<String>) -> Option<CaseChange> {
        let closed = case.end();
        let wake_at = match self.0.plan(case, now).filter(|_| closed.is_none()) {
            Some(planned) => case.wake_at(&planned.plan, &planned.merchant.zone, now),
            None if closed.is_some() => None,
            None => look_again(now),
        };
        change(case, closed.map(|reason| (now, reason)), case.overdue_told_at, wake_at, traceparent)
    }
}

/// The change of a case, if there is any. A moved timer gets the next generation.
fn change(
    case: &CaseState,
    closed: Option<(Timestamp, &str)>,
    overdue_told_at: Option<Timestamp>,
    armed_at: Option<Timestamp>,
    traceparent: Option<String>,
) -> Option<CaseChange> {
    // Closed again for the same reason is the same closing, whenever we notice.
    let closed = match (&case.closed, closed) {
        (Some(before), Some(now)) if before.1 == now.1 => Some(before.clone()),
        (_, now) => now.map(|(at, reason)| (at, reason.to_owned())),
    };
    let moved = armed_at != case.armed_at;
    if !moved && closed == case.closed && overdue_told_at == case.overdue_told_at {
        return None;
    }
    Some(CaseChange {
        id: case.id,
        shard: case.shard,
        closed,
        overdue_told_at,
        armed_before: case.armed_at,
        armed_at,
        generation: case.generation + i32::from(moved),
        traceparent,
    })
}

/// The trace in which each invoice's latest news came.
type Traces = HashMap<InvoiceKey, Option<String>>;

/// The latest news of a batch, by what they are about.
#[derive(Default)]
struct News {
    invoices: BTreeMap<InvoiceKey, Invoice>,
    traces: Traces,
    customers: BTreeMap<CustomerKey, Customer>,
    segments: BTreeMap<CustomerKey, (i64, Segment)>,
    opted_out: BTreeSet<CustomerKey>,
}

impl News {
    fn sort(rules: &Rules, work: &mut Work, batch: &[Incoming]) -> Self {
        let mut news = Self::default();
        for incoming in batch {
            if let Err(fault) = news.add(rules, incoming) {
                work.reject(incoming, fault);
            }
        }
        news
    }

    /// The customers that something is said about.
    fn people(&self) -> BTreeSet<CustomerKey> {
        let keys = self.customers.keys().chain(self.segments.keys()).chain(&self.opted_out);
        keys.cloned().collect()
    }

    fn add(&mut self, rules: &Rules, incoming: &Incoming) -> Result<(), Malformed> {
        match &incoming.event {
            AnyEvent::CustomerChanged(e) => {
                let wire = e.customer.as_ref().ok_or_else(|| Malformed::missing("customer"))?;
                let new = Customer::try_from(wire)?;
                let key = (new.merchant.clone(), new.customer.clone());
                keep_latest(&mut self.customers, key, new, |c| c.version);
            }
            AnyEvent::CustomerSegmented(e) => {
                let key = customer_key(&e.merchant_id, &e.customer_id)?;
                keep_latest(&mut self.segments, key, (e.version, snapshot::segment(e.segment())?), |s| s.0);
            }
            AnyEvent::CustomerResponded(e) => {
                let key = customer_key(&e.merchant_id, &e.customer_id)?;
                if e.kind() == v1::ResponseKind::Unsubscribed {
                    self.opted_out.insert(key);
                }
            }
            // How long a source has been silent decides nothing here yet.
            AnyEvent::SourceHeard(_) => {}
            event => {
                let new = Invoice::try_from(event.invoice().ok_or_else(|| Malformed::missing("invoice"))?)?;
                if new.open_minor > 0 && rules.assign(&new.merchant).is_none() {
                    // Without a case nobody would ever look at it again; a dead letter can be tried again.
                    return Err(Malformed::new("merchant_id", "is no configured merchant with a campaign"));
                }
                let key = key_of(&new);
                if keep_latest(&mut self.invoices, key.clone(), new, |i| i.version) {
                    self.traces.insert(key, incoming.trace());
                }
            }
        }
        Ok(())
    }
}

fn key_of(invoice: &Invoice) -> InvoiceKey {
    (invoice.merchant.clone(), invoice.invoice.clone())
}

/// Keeps the later of two by version; says whether it was the new one.
fn keep_latest<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, new: V, version: impl Fn(&V) -> i64) -> bool {
    let later = map.get(&key).is_none_or(|known| version(&new) > version(known));
    if later {
        map.insert(key, new);
    }
    later
}

fn values<K, V: Clone>(map: &BTreeMap<K, V>) -> Vec<V> {
    map.values().cloned().collect()
}

fn customer_key(merchant: &str, customer: &str) -> Result<CustomerKey, Malformed> {
    Ok((snapshot::id("merchant_id", merchant)?, snapshot::id("customer_id", customer)?))
}

/// What firing did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Timers that were due.
    pub timers: usize,
    /// How late each was, in seconds of business time.
    pub lateness_seconds: Vec<i64>,
}

/// Fires up to `limit` due timers, in one transaction, and with them every other case of the same customers that is due:
/// so that what falls into one window becomes one message.
pub async fn fire(rules: &Rules, work: &mut Work, now: Timestamp, start: i32, limit: i64) -> Result<Fired, Failure> {
    let timers = store::due_timers(work.tx(), now, start, limit).await?;
    if timers.is_empty() {
        return Ok(Fired::default());
    }
    let due: Vec<Uuid> = timers.iter().map(|t| t.case_id).collect();
    let customers = store::customers_of_cases(work.tx(), &due).await?;
    // Customers, cases, timers: the order in which event handlers lock them too.
    store::lock_customers(work.tx(), &customers).await?;
    let ids = store::lock_due_cases(work.tx(), &customers, now).await?;
    let cases = rules.load_cases(work.tx(), &ids).await?;
    let live: HashSet<(Uuid, i32)> = cases.iter().map(|c| (c.id, c.generation)).collect();
    // A timer that its case has moved meanwhile is stale: it goes, and does nothing.
    let stale: Vec<DueTimer> = timers.iter().filter(|t| !live.contains(&(t.case_id, t.generation))).cloned().collect();
    store::delete_timers(work.tx(), &stale).await?;

    let traces: HashMap<Uuid, Option<String>> = timers.iter().map(|t| (t.case_id, t.traceparent.clone())).collect();
    let mut round = Round::new(now);
    let mut waiting = 0;
    let mut messages: BTreeMap<(CustomerKey, String), Vec<Line<'_>>> = BTreeMap::new();
    for case in &cases {
        let Some(planned) = rules.plan(case, now) else {
            waiting += 1;
            round.changes.extend(change(case, None, case.overdue_told_at, look_again(now), None));
            continue;
        };
        let armed_by = traces.get(&case.id).cloned().flatten();
        let (told, trace) = round.look(work, case, &planned, armed_by)?;
        let after = CaseState { overdue_told_at: told, ..case.clone() };
        let wake_at = [planned.plan.wake_at, after.overdue_at(&planned.merchant.zone, now)].into_iter().flatten().min();
        round.changes.extend(change(case, None, told, wake_at, trace.clone()));
        if planned.plan.send.is_some() {
            let key = ((case.merchant.clone(), case.customer.clone()), case.currency.clone());
            messages.entry(key).or_default().push(Line { case, planned, trace });
        }
    }
    if waiting > 0 {
        tracing::warn!(
            cases = waiting,
            "merchant or campaign is not configured here; they are looked at again in a minute"
        );
    }
    for ((customer, currency), lines) in messages {
        round.remind(work, customer, currency, lines)?;
    }
    store::save_cases(work.tx(), &round.changes).await?;
    store::insert_decisions(work.tx(), &round.decisions).await?;
    if !round.deferrals.is_empty() {
        store::insert_deferrals(work.tx(), &round.deferrals, now).await?;
    }
    store::note_reminded(work.tx(), &round.reminded).await?;
    let lateness_seconds = timers.iter().map(|t| now.duration_since(t.due_at).as_secs()).collect();
    Ok(Fired { timers: timers.len(), lateness_seconds })
}

/// A case whose step goes into a message.
struct Line<'a> {
    case: &'a CaseState,
    planned: Planned<'a>,
    trace: Option<String>,
}

impl Line<'_> {
    /// Its furthest step, and how far that is.
    fn step(&self) -> (&str, usize) {
        let step = self.planned.plan.send.as_ref().map_or("", |s| s.step.as_str());
        (step, self.planned.campaign.weight(step).unwrap_or(0))
    }

    fn tone(&self) -> v1::Tone {
        match self.planned.campaign.step(self.step().0).map(|s| s.tone) {
            Some(Tone::Firm) => v1::Tone::Firm,
            Some(Tone::Final) => v1::Tone::Final,
            Some(Tone::Friendly) | None => v1::Tone::Friendly,
        }
    }
}

/// What one transaction of firing writes.
struct Round {
    now: Timestamp,
    decisions: Vec<NewDecision>,
    deferrals: Vec<(Uuid, campaign::Deferral)>,
    changes: Vec<CaseChange>,
    /// By customer: the payer's date, and a reminder in each currency.
    reminded: BTreeMap<CustomerKey, (Date, Vec<Uuid>)>,
}

impl Round {
    fn new(now: Timestamp) -> Self {
        let (decisions, deferrals, changes) = (Vec::new(), Vec::new(), Vec::new());
        Self { now, decisions, deferrals, changes, reminded: BTreeMap::new() }
    }

    /// What firing a case's timer means apart from messages: `invoice-overdue` if it is time, skipped and deferred steps.
    /// Returns when overdue was told, and the trace that led here.
    fn look(
        &mut self,
        work: &mut Work,
        case: &CaseState,
        planned: &Planned<'_>,
        armed_by: Option<String>,
    ) -> Result<(Option<Timestamp>, Option<String>), Failure> {
        self.deferrals.extend(planned.plan.deferred.clone().map(|d| (case.id, d)));
        let overdue = case.overdue_at(&planned.merchant.zone, self.now).is_some_and(|at| at <= self.now);
        if !overdue && planned.plan.skip.is_empty() {
            return Ok((case.overdue_told_at, armed_by));
        }
        let span = fire_span("fire timer", case, self.now);
        trace::link(&span, armed_by.as_deref());
        let _inside = span.enter();
        for (step, reason) in &planned.plan.skip {
            self.decide(work, case, planned, step, Decision::aside(*reason))?;
        }
        let told = if overdue { Some(self.tell_overdue(work, case)?) } else { case.overdue_told_at };
        Ok((told, trace::current().or(armed_by)))
    }

    fn tell_overdue(&self, work: &mut Work, case: &CaseState) -> Result<Timestamp, Failure> {
        let event = v1::InvoiceOverdue {
            merchant_id: case.merchant.to_string(),
            invoice_id: case.invoice.to_string(),
            customer_id: case.customer.to_string(),
            epoch: case.epoch,
            due_on: time::date_to_wire(case.due_on),
            currency: case.currency.clone(),
            open_minor: case.open_minor,
        };
        work.emit(self.now, &event)?;
        Ok(self.now)
    }

    /// One reminder for what is due of a customer in one currency. The furthest step speaks; of several equally far the
    /// one whose invoice was due first.
    fn remind(
        &mut self,
        work: &mut Work,
        customer: CustomerKey,
        currency: String,
        mut lines: Vec<Line<'_>>,
    ) -> Result<(), Failure> {
        lines.sort_by_key(|l| (l.case.due_on, l.case.invoice.clone()));
        let Some(speaker) = lines.iter().rev().max_by_key(|l| l.step().1) else { return Ok(()) };
        let speaker_case = speaker.case.id;
        let span = fire_span(&format!("fire reminder {}", speaker.step().0), speaker.case, self.now);
        trace::link(&span, lines.iter().filter_map(|l| l.trace.as_deref()));
        let _inside = span.enter();
        let reminder_id = kernel::id::at(self.now);
        let event = reminder_due(reminder_id, &customer, currency, speaker, &lines);
        let due_at = lines.iter().filter_map(|l| l.case.armed_at).max().unwrap_or(self.now);
        let hours = &speaker.planned.hours;
        let event = v1::ReminderDue {
            reminder: Some(event),
            due_at: Some(time::to_wire(due_at)),
            contact_hours: Some(contact_hours(hours)),
        };
        work.emit_as(reminder_id, self.now, &event, trace::current())?;
        let today = hours.date_at(self.now);
        self.reminded.entry(customer).or_insert((today, Vec::new())).1.push(reminder_id);
        for line in &lines {
            let Some(send) = &line.planned.plan.send else { continue };
            let carries = line.case.id == speaker_case;
            let own = if carries {
                Decision { outcome: Outcome::Requested, reason: None, reminder: Some(reminder_id), speaks: true }
            } else {
                Decision { reminder: Some(reminder_id), speaks: true, ..Decision::aside(Reason::OtherInvoice) }
            };
            self.decide(work, line.case, &line.planned, &send.step, own)?;
            for step in &send.merged {
                let aside = Decision { reminder: Some(reminder_id), ..Decision::aside(Reason::LaterStep) };
                self.decide(work, line.case, &line.planned, step, aside)?;
            }
        }
        Ok(())
    }

    /// Keeps a decision; one without a message of its own is told.
    fn decide(
        &mut self,
        work: &mut Work,
        case: &CaseState,
        planned: &Planned<'_>,
        step: &str,
        decision: Decision,
    ) -> Result<(), Failure> {
        let reason = decision.reason.map_or("", Reason::as_str);
        let outcome = match decision.outcome {
            Outcome::Requested => "requested",
            Outcome::Merged => "merged",
            Outcome::Skipped => "skipped",
        };
        let told = match decision.outcome {
            Outcome::Requested => None,
            Outcome::Merged => Some(v1::StepOutcome::Merged),
            Outcome::Skipped => Some(v1::StepOutcome::Skipped),
        };
        if let Some(told) = told {
            let event = v1::StepDecided {
                merchant_id: case.merchant.to_string(),
                customer_id: case.customer.to_string(),
                invoice_id: case.invoice.to_string(),
                epoch: case.epoch,
                step: step.to_owned(),
                outcome: told.into(),
                reason: reason.to_owned(),
                campaign: case.campaign.clone(),
                segment: snapshot::segment_to_wire(case.segment).into(),
                decided_at: Some(time::to_wire(self.now)),
                rule: String::new(),
                campaign_version: case.campaign_version.clone(),
            };
            work.emit(self.now, &event)?;
        }
        self.decisions.push(NewDecision {
            case_id: case.id,
            step: step.to_owned(),
            outcome,
            reason,
            reminder_id: decision.reminder,
            speaks: decision.speaks,
            segment: case.segment,
            decided_on: planned.hours.date_at(self.now),
            decided_at: self.now,
            traceparent: trace::current(),
        });
        Ok(())
    }
}

/// A timer that fires starts a trace of its own; links lead back to what armed it.
fn fire_span(name: &str, case: &CaseState, now: Timestamp) -> tracing::Span {
    tracing::info_span!(
        parent: None,
        "fire",
        otel.name = name,
        otel.kind = "internal",
        reminder.scheduled_for = case.armed_at.map(tracing::field::display),
        reminder.lateness_ms = case.armed_at.map(|at| now.duration_since(at).as_millis() as i64),
        invoice.id = %case.invoice,
    )
}

/// What is decided about a step.
struct Decision {
    outcome: Outcome,
    reason: Option<Reason>,
    reminder: Option<Uuid>,
    speaks: bool,
}

impl Decision {
    /// A decision without a message of its own.
    const fn aside(reason: Reason) -> Self {
        Self { outcome: reason.outcome(), reason: Some(reason), reminder: None, speaks: false }
    }
}

fn reminder_due(
    reminder_id: Uuid,
    (merchant, customer): &CustomerKey,
    currency: String,
    speaker: &Line<'_>,
    lines: &[Line<'_>],
) -> v1::Reminder {
    let wire = |line: &Line<'_>| v1::ReminderLine {
        invoice_id: line.case.invoice.to_string(),
        epoch: line.case.epoch,
        step: line.step().0.to_owned(),
        invoice_version: line.case.invoice_version,
        carries: line.case.id == speaker.case.id,
        tone: line.tone().into(),
        template: String::new(),
        charges: Vec::new(),
    };
    v1::Reminder {
        merchant_id: merchant.to_string(),
        reminder_id: reminder_id.to_string(),
        customer_id: customer.to_string(),
        campaign: speaker.case.campaign.clone(),
        campaign_version: speaker.case.campaign_version.clone(),
        step: speaker.step().0.to_owned(),
        tone: speaker.tone().into(),
        currency,
        lines: lines.iter().map(wire).collect(),
        segment: snapshot::segment_to_wire(speaker.case.segment).into(),
        template: String::new(),
        channel: v1::Channel::Email.into(),
        wording: Vec::new(),
    }
}

fn contact_hours(hours: &ContactHours) -> v1::ContactHours {
    let (opens, closes) = hours.span();
    v1::ContactHours {
        time_zone: hours.zone().iana_name().unwrap_or("UTC").to_owned(),
        weekdays: hours.weekdays().bits().into(),
        opens_minute: opens.get().into(),
        closes_minute: closes.get().into(),
        closed_on: Vec::new(),
    }
}

/// What became of reminders.
pub struct Outcomes(pub Rules);

impl Handler for Outcomes {
    const FLOW: &'static Flow = &SCHEDULER_OUTCOMES;
    const LINGER: Duration = Duration::from_millis(50);

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let mut ends: BTreeMap<Uuid, End> = BTreeMap::new();
        for incoming in batch {
            match read_end(incoming) {
                // In one batch too, only "unknown" can be replaced.
                Ok(end) if ends.get(&end.reminder).is_none_or(|known| known.outcome == "unknown") => {
                    ends.insert(end.reminder, end);
                }
                Ok(_) => {}
                Err(fault) => work.reject(incoming, fault),
            }
        }
        let customers = ends.values().map(|end| end.customer.clone()).collect();
        let zones = store::lock_customers(work.tx(), &customers).await?;
        let arrivals: Vec<Ended> = ends.values().map(|end| self.arrival(end, &zones)).collect();
        store::settle(work.tx(), &ends.into_values().flat_map(|end| end.settled).collect::<Vec<_>>()).await?;
        Ok(store::note_ended(work.tx(), &arrivals).await?)
    }
}

impl Outcomes {
    /// What the end of a reminder means for its customer. The minimum gap counts from the day on which it went out: that
    /// may be long after it was asked for.
    fn arrival(&self, end: &End, zones: &BTreeMap<CustomerKey, String>) -> Ended {
        let merchant_zone = self.0.host.merchants.get(&end.customer.0).map_or(TimeZone::UTC, |m| m.zone.clone());
        let zone = domain::payer_zone(zones.get(&end.customer).map_or("", String::as_str), &merchant_zone);
        let went_out = matches!(end.outcome, "sent" | "unknown");
        Ended {
            customer: end.customer.clone(),
            reminder_id: end.reminder,
            is_known: end.outcome != "unknown",
            sent_on: went_out.then(|| end.at.to_zoned(zone).date()),
        }
    }
}

/// How a reminder ended.
struct End {
    reminder: Uuid,
    customer: CustomerKey,
    outcome: &'static str,
    at: Timestamp,
    settled: Vec<Settled>,
}

fn read_end(incoming: &Incoming) -> Result<End, Malformed> {
    let (reminder, outcome, reason) = match &incoming.event {
        AnyEvent::ReminderSent(e) => (&e.reminder, "sent", ""),
        AnyEvent::ReminderSuppressed(e) => (&e.reminder, "cancelled", e.reason.as_str()),
        AnyEvent::ReminderFailed(e) => (&e.reminder, "failed", e.reason.as_str()),
        AnyEvent::ReminderUnknown(e) => (&e.reminder, "unknown", e.reason.as_str()),
        _ => return Err(Malformed::missing("reminder")),
    };
    let reminder = reminder.as_ref().ok_or_else(|| Malformed::missing("reminder"))?;
    let mut end = End {
        reminder: reminder.reminder_id.parse().map_err(|e| Malformed::new("reminder.reminder_id", e))?,
        customer: customer_key(&reminder.merchant_id, &reminder.customer_id)?,
        outcome,
        at: incoming.envelope.time,
        settled: Vec::new(),
    };
    for line in &reminder.lines {
        // What was paid or disputed in the last moment was left out, whoever was to carry it.
        let is_left_out =
            matches!(&incoming.event, AnyEvent::ReminderSent(e) if !e.invoice_ids.contains(&line.invoice_id));
        let (outcome, reason) = if is_left_out { ("cancelled", "left_out") } else { (outcome, reason) };
        // Another invoice's reminder spoke for it, or may have: it stays merged.
        if !line.carries && matches!(outcome, "sent" | "unknown") {
            continue;
        }
        let invoice = snapshot::id("reminder.lines.invoice_id", &line.invoice_id)?;
        end.settled.push(Settled {
            case_id: case_id(&end.customer.0, &invoice, line.epoch),
            step: line.step.clone(),
            reminder_id: end.reminder,
            outcome,
            reason: reason.to_owned(),
            settled_at: end.at,
        });
    }
    Ok(end)
}
