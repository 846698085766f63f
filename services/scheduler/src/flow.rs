//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | `invoice` slice by version; case opened, closed or planned anew; timer moved | – |
//! | `customer-changed` | `customer` slice by version; the customer's open cases planned anew | – |
//! | `customer-segmented` | segment by version (looked at when a step is due) | – |
//! | `customer-responded` (unsubscribed) | opted out (looked at when a step is due) | – |
//! | a timer is due | timer gone; case planned; decisions; next timer | `invoice-overdue`, `reminder-due`, `step-decided` |
//! | `reminder-sent`, `-suppressed`, `-failed`, `-unknown` | decisions settled | – |
//!
//! Events only ever move timers; every reminder comes from a timer that fired. So there is one place that sends, and it
//! sees all cases of a customer at once.

use crate::domain::{CaseState, case_id};
use crate::store::{self, CaseChange, CustomerKey, DueTimer, InvoiceKey, NewCase, NewDecision, Settled};
use bus::{Failure, Handler, Incoming, Work, trace};
use campaign::{Campaign, Outcome, Plan, Reason, Tone};
use events::topology::{SCHEDULER_CASES, SCHEDULER_OUTCOMES};
use events::{AnyEvent, Customer, Flow, Invoice, Malformed, snapshot, time, v1};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{ContactHours, MerchantId, Segment};
use runtime::{Host, Merchant};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// What planning needs besides a case: merchants, and every campaign version that a case may be on.
#[derive(Clone)]
pub struct Rules {
    host: Host,
    /// The version in force, by file name.
    current: Arc<BTreeMap<String, String>>,
    /// All versions, by file name and version.
    campaigns: Arc<HashMap<(String, String), Campaign>>,
}

impl Rules {
    /// Rules over campaigns in force and all stored versions.
    pub fn new(host: Host, current: BTreeMap<String, String>, all: HashMap<(String, String), Campaign>) -> Self {
        Self { host, current: Arc::new(current), campaigns: Arc::new(all) }
    }

    /// Plans a case. `None` if its merchant or campaign is not configured any more: then it rests where it is.
    fn plan<'a>(&'a self, case: &CaseState, now: Timestamp) -> Option<Planned<'a>> {
        let merchant = self.host.merchants.get(&case.merchant)?;
        let campaign = self.campaigns.get(&(case.campaign.clone(), case.campaign_version.clone()))?;
        let hours = case.hours(campaign, &merchant.zone);
        let plan = case.plan(campaign, &hours, now);
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
    campaign: &'a Campaign,
    hours: ContactHours,
    plan: Plan,
}

/// Cases follow their invoices and customers.
pub struct Cases(pub Rules);

impl Handler for Cases {
    const FLOW: &'static Flow = &SCHEDULER_CASES;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let now = self.0.host.now();
        let news = News::sort(work, batch);
        if !news.customers.is_empty() {
            store::upsert_customers(work.tx(), &values(&news.customers)).await?;
        }
        if !news.segments.is_empty() {
            let segments: Vec<_> = news.segments.iter().map(|(k, (version, s))| (k.clone(), *version, *s)).collect();
            store::upsert_segments(work.tx(), &segments).await?;
        }
        if !news.opted_out.is_empty() {
            store::opt_out(work.tx(), &news.opted_out.iter().cloned().collect::<Vec<_>>()).await?;
        }
        let mut cases = Vec::new();
        if !news.invoices.is_empty() {
            // An older snapshot than the known one changes nothing from here on.
            let changed = store::upsert_invoices(work.tx(), &news.invoices.values().collect::<Vec<_>>()).await?;
            let owing = news.invoices.values().filter(|i| i.open_minor > 0 && changed.contains(&key_of(i)));
            self.open_cases(work, owing, &news.traces, now).await?;
            cases = store::lock_cases_of_invoices(work.tx(), &changed).await?;
        }
        if !news.customers.is_empty() {
            let keys: Vec<CustomerKey> = news.customers.keys().cloned().collect();
            let seen: HashSet<Uuid> = cases.iter().map(|c| c.id).collect();
            let theirs = store::lock_cases_of_customers(work.tx(), &keys, None).await?;
            cases.extend(theirs.into_iter().filter(|c| !seen.contains(&c.id)));
        }
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
        let wake_at = if closed.is_some() {
            None
        } else {
            let planned = self.0.plan(case, now)?;
            case.wake_at(&planned.plan, &planned.merchant.zone, now)
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
    opted_out: HashSet<CustomerKey>,
}

impl News {
    fn sort(work: &mut Work, batch: &[Incoming]) -> Self {
        let mut news = Self::default();
        for incoming in batch {
            if let Err(fault) = news.add(incoming) {
                work.reject(incoming, fault);
            }
        }
        news
    }

    fn add(&mut self, incoming: &Incoming) -> Result<(), Malformed> {
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
            event => {
                let new = Invoice::try_from(event.invoice().ok_or_else(|| Malformed::missing("invoice"))?)?;
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
    // Cases before timers: the order in which event handlers lock them too.
    let cases = store::lock_cases_of_customers(work.tx(), &customers, Some(now)).await?;
    let live: HashSet<(Uuid, i32)> = cases.iter().map(|c| (c.id, c.generation)).collect();
    // A timer that its case has moved meanwhile is stale: it goes, and does nothing.
    let stale: Vec<DueTimer> = timers.iter().filter(|t| !live.contains(&(t.case_id, t.generation))).cloned().collect();
    store::delete_timers(work.tx(), &stale).await?;

    let traces: HashMap<Uuid, Option<String>> = timers.iter().map(|t| (t.case_id, t.traceparent.clone())).collect();
    let mut round =
        Round { now, decisions: Vec::new(), deferrals: Vec::new(), changes: Vec::new(), reminded: BTreeMap::new() };
    let mut messages: BTreeMap<(CustomerKey, String), Vec<Line<'_>>> = BTreeMap::new();
    for case in &cases {
        let Some(planned) = rules.plan(case, now) else {
            // Without its merchant or campaign nothing can be decided. The case rests until news wake it.
            tracing::warn!(case = %case.id, "merchant or campaign is not configured any more; the case rests");
            round.changes.extend(change(case, None, case.overdue_told_at, None, None));
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
}

/// What one transaction of firing writes.
struct Round {
    now: Timestamp,
    decisions: Vec<NewDecision>,
    deferrals: Vec<(Uuid, campaign::Deferral)>,
    changes: Vec<CaseChange>,
    /// One per customer, even if two currencies make two messages.
    reminded: BTreeMap<CustomerKey, (Date, Uuid)>,
}

impl Round {
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
            self.decide(work, case, planned, step, Decision::aside(Outcome::Skipped, *reason))?;
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
        self.reminded.insert(customer, (hours.date_at(self.now), reminder_id));
        for line in &lines {
            let Some(send) = &line.planned.plan.send else { continue };
            let carries = line.case.id == speaker_case;
            let own = if carries {
                Decision { outcome: Outcome::Requested, reason: None, reminder: Some(reminder_id), speaks: true }
            } else {
                let aside = Decision::aside(Outcome::Merged, Reason::OtherInvoice);
                Decision { reminder: Some(reminder_id), speaks: true, ..aside }
            };
            self.decide(work, line.case, &line.planned, &send.step, own)?;
            for step in &send.merged {
                let aside = Decision::aside(Outcome::Merged, Reason::LaterStep);
                self.decide(work, line.case, &line.planned, step, Decision { reminder: Some(reminder_id), ..aside })?;
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
    const fn aside(outcome: Outcome, reason: Reason) -> Self {
        Self { outcome, reason: Some(reason), reminder: None, speaks: false }
    }
}

fn reminder_due(
    reminder_id: Uuid,
    (merchant, customer): &CustomerKey,
    currency: String,
    speaker: &Line<'_>,
    lines: &[Line<'_>],
) -> v1::Reminder {
    let (step, _) = speaker.step();
    let tone = match speaker.planned.campaign.step(step).map(|s| s.tone) {
        Some(Tone::Firm) => v1::Tone::Firm,
        Some(Tone::Final) => v1::Tone::Final,
        Some(Tone::Friendly) | None => v1::Tone::Friendly,
    };
    let wire = |line: &Line<'_>| v1::ReminderLine {
        invoice_id: line.case.invoice.to_string(),
        epoch: line.case.epoch,
        step: line.step().0.to_owned(),
        invoice_version: line.case.invoice_version,
        carries: line.case.id == speaker.case.id,
    };
    v1::Reminder {
        merchant_id: merchant.to_string(),
        reminder_id: reminder_id.to_string(),
        customer_id: customer.to_string(),
        campaign: speaker.case.campaign.clone(),
        campaign_version: speaker.case.campaign_version.clone(),
        step: step.to_owned(),
        tone: tone.into(),
        currency,
        lines: lines.iter().map(wire).collect(),
        segment: snapshot::segment_to_wire(speaker.case.segment).into(),
    }
}

fn contact_hours(hours: &ContactHours) -> v1::ContactHours {
    let (opens, closes) = hours.span();
    v1::ContactHours {
        time_zone: hours.zone().iana_name().unwrap_or("UTC").to_owned(),
        weekdays: hours.weekdays().bits().into(),
        opens_minute: opens.get().into(),
        closes_minute: closes.get().into(),
    }
}

/// What became of reminders.
pub struct Outcomes;

impl Handler for Outcomes {
    const FLOW: &'static Flow = &SCHEDULER_OUTCOMES;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let (mut settled, mut unsent) = (Vec::new(), Vec::new());
        for incoming in batch {
            if let Err(fault) = outcome(incoming, &mut settled, &mut unsent) {
                work.reject(incoming, fault);
            }
        }
        store::settle(work.tx(), &settled).await?;
        if !unsent.is_empty() {
            store::note_not_reminded(work.tx(), &unsent).await?;
        }
        Ok(())
    }
}

/// Settles the step that carried a reminder. (Merged ones are final already.)
fn outcome(
    incoming: &Incoming,
    settled: &mut Vec<Settled>,
    unsent: &mut Vec<(CustomerKey, Uuid)>,
) -> Result<(), Malformed> {
    let (reminder, outcome, reason) = match &incoming.event {
        AnyEvent::ReminderSent(e) => (&e.reminder, "sent", ""),
        AnyEvent::ReminderSuppressed(e) => (&e.reminder, "cancelled", e.reason.as_str()),
        AnyEvent::ReminderFailed(e) => (&e.reminder, "failed", e.reason.as_str()),
        AnyEvent::ReminderUnknown(e) => (&e.reminder, "unknown", e.reason.as_str()),
        _ => return Ok(()),
    };
    // A message whose speaker was paid in the last moment still goes out for its other invoices.
    let left_out = |line: &v1::ReminderLine| match &incoming.event {
        AnyEvent::ReminderSent(e) => !e.invoice_ids.contains(&line.invoice_id),
        _ => false,
    };
    let reminder = reminder.as_ref().ok_or_else(|| Malformed::missing("reminder"))?;
    let reminder_id: Uuid = reminder.reminder_id.parse().map_err(|e| Malformed::new("reminder.reminder_id", e))?;
    let (merchant, customer) = customer_key(&reminder.merchant_id, &reminder.customer_id)?;
    for line in reminder.lines.iter().filter(|l| l.carries) {
        let (outcome, reason) = if left_out(line) { ("cancelled", "left_out") } else { (outcome, reason) };
        settled.push(Settled {
            case_id: case_id(&merchant, &snapshot::id("reminder.lines.invoice_id", &line.invoice_id)?, line.epoch),
            step: line.step.clone(),
            reminder_id,
            outcome,
            reason: reason.to_owned(),
            settled_at: incoming.envelope.time,
        });
    }
    if matches!(outcome, "cancelled" | "failed") {
        unsent.push(((merchant, customer), reminder_id));
    }
    Ok(())
}
