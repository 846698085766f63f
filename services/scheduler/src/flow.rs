//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | `invoice` slice by version; case opened, given its campaign, drawn for a schedule, closed or planned anew; timer moved | `case-enrolled` |
//! | `customer-changed` | `customer` slice by version; the customer's open cases planned anew | `case-enrolled` |
//! | `customer-segmented` | segment and outlook by version; where they may choose the campaign or move a step, the customer's open cases planned anew | `case-enrolled` |
//! | `customer-responded` (unsubscribed) | opted out (looked at when a step is due) | – |
//! | `task-done` (promised, paid, disputed, wrong person) | hold; the customer's open cases planned anew | – |
//! | `source-heard` | when the source spoke last (looked at when a step is due) | – |
//! | an operator holds, releases, skips or sends ([`crate::operations`]) | hold; case planned; decisions; next timer | `reminder-due`, `step-decided`, `invoice-overdue` |
//! | a timer is due | timer gone; case planned; decisions; next timer | `case-enrolled`, `invoice-overdue`, `reminder-due`, `step-decided`, `sequence-ended` |
//! | `reminder-sent`, `-suppressed`, `-failed`, `-unknown` | decisions settled; the customer's reminder in flight no more, its day noted | – |
//! | `reminder-bounced`, `-complained`, `customer-replied` ([`returns`]) | `dead_end`; hold; the customer's open cases planned anew | `case-enrolled` |
//!
//! Events only ever move timers; every reminder comes from a timer that fired, unless an operator asks for it. So there is
//! one place that sends, and it sees all cases of a customer at once.

pub mod returns;

use crate::domain::{self, CaseState, Outlook, Situation, case_id};
use crate::operations::Operator;
use crate::operations::store::{CallHold, place_holds};
use crate::rules::{InForce, Rules};
use crate::store::{
    self, CaseChange, CustomerKey, DueTimer, Ended, InvoiceKey, NewCase, NewDecision, Segmented, Settled,
};
use bus::{Failure, Handler, Incoming, Work, trace};
use campaign::{Campaign, Channel, Ending, Message, Outcome, Planned, Reason, Tone, law};
use events::topology::{SCHEDULER_CASES, SCHEDULER_OUTCOMES};
use events::{AnyEvent, Customer, Flow, Invoice, Malformed, snapshot, time, v1};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use kernel::{ContactHours, MerchantId};
use runtime::Merchant;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A case that can be planned here: its merchant and its campaign are known.
pub(crate) struct Ready<'a> {
    pub(crate) case: &'a CaseState,
    merchant: &'a Merchant,
    pub(crate) campaign: Arc<Campaign>,
    situation: Situation,
}

impl<'a> Ready<'a> {
    /// `None` if its merchant or campaign is not known here (another replica may know better), or if it has no campaign.
    pub(crate) fn new(rules: &'a Rules, case: &'a CaseState, now: Timestamp) -> Option<Self> {
        let merchant = rules.merchant(&case.merchant)?;
        let campaign = rules.campaign(case)?;
        let situation = case.situation(merchant, Some(&campaign), now);
        Some(Self { case, merchant, campaign, situation })
    }

    pub(crate) fn plan(&self, in_force: &InForce, now: Timestamp) -> Planned<'_> {
        let place = self.case.place(&self.situation, self.merchant);
        let today = place.zone.to_datetime(now).date();
        let terms = campaign::Terms::new(&self.campaign, &place, &in_force.calendars, today);
        let case = self.case.case(&self.situation, self.merchant);
        let plan = campaign::plan(&terms, &case, now);
        Planned { invoice: self.case.invoice.as_str(), terms, case, plan }
    }

    pub(crate) fn today(&self, now: Timestamp) -> Date {
        self.situation.zone.to_datetime(now).date()
    }
}

/// When to look again at a case that cannot be planned here. It must stay armed: nobody else would wake it. One without a
/// campaign is looked at daily: another campaign may come into force.
fn look_again(case: &CaseState, now: Timestamp) -> Option<Timestamp> {
    let pause = if case.campaign.is_empty() { SignedDuration::from_hours(24) } else { SignedDuration::from_mins(1) };
    now.checked_add(pause).ok()
}

/// Cases follow their invoices and customers.
pub struct Cases(pub Rules);

impl Handler for Cases {
    const FLOW: &'static Flow = &SCHEDULER_CASES;
    const LINGER: Duration = Duration::from_millis(20);

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let now = self.0.now();
        let news = News::sort(&self.0, work, batch);
        // Customers before cases, as a firing timer does.
        store::lock_customers(work.tx(), &news.people()).await?;
        if !news.customers.is_empty() {
            store::upsert_customers(work.tx(), &values(&news.customers)).await?;
        }
        if !news.segments.is_empty() {
            store::upsert_segments(work.tx(), &news.segments).await?;
        }
        if !news.opted_out.is_empty() {
            store::opt_out(work.tx(), &news.opted_out).await?;
        }
        store::note_heard(work.tx(), &news.sources).await?;
        place_holds(work.tx(), &news.holds, now).await?;
        let in_force = self.0.in_force();
        let mut changed = HashSet::new();
        if !news.invoices.is_empty() {
            // An older snapshot than the known one changes nothing from here on.
            changed = store::upsert_invoices(work.tx(), &news.invoices.values().collect::<Vec<_>>()).await?;
            let owing = news.invoices.values().filter(|i| i.open_minor > 0 && changed.contains(&key_of(i)));
            open_cases(work, owing, &news.traces, now).await?;
        }
        let ids = store::lock_cases(work.tx(), &changed, &self.people_to_plan(&news, &in_force, &changed)).await?;
        let cases = self.0.load_cases(work, &in_force, &ids, now).await?;
        let traces = &news.traces;
        let change = |(before, case): &(CaseState, CaseState)| {
            let trace = traces.get(&(case.merchant.clone(), case.invoice.clone())).cloned();
            self.replan(&in_force, before, case, now, trace.flatten())
        };
        let changes: Vec<CaseChange> = cases.iter().filter_map(change).collect();
        Ok(store::save_cases(work.tx(), &changes).await?)
    }
}

/// Opens a case for each invoice that owes money and has none in its epoch.
async fn open_cases<'a>(
    work: &mut Work,
    invoices: impl Iterator<Item = &'a Invoice>,
    traces: &'a Traces,
    now: Timestamp,
) -> Result<(), Failure> {
    let new = invoices.map(|i| NewCase {
        id: case_id(&i.merchant, &i.invoice, i.epoch),
        merchant: &i.merchant,
        invoice: &i.invoice,
        epoch: i.epoch,
        customer: &i.customer,
        opened_at: now,
        opened_traceparent: traces.get(&key_of(i)).and_then(Option::as_deref),
    });
    let new: Vec<NewCase<'_>> = new.collect();
    if new.is_empty() { Ok(()) } else { Ok(store::open_cases(work.tx(), &new).await?) }
}

impl Cases {
    /// Customers all of whose open cases have to be planned anew, apart from the invoices that changed: what is known of
    /// them changed, or something that chooses between campaigns.
    fn people_to_plan(&self, news: &News, in_force: &InForce, changed: &HashSet<InvoiceKey>) -> BTreeSet<CustomerKey> {
        let mut people: BTreeSet<CustomerKey> = news.customers.keys().cloned().collect();
        people.extend(news.holds.iter().map(|hold| hold.customer.clone()));
        let has_choice = |key: &&CustomerKey| {
            let order = self.0.merchant(&key.0).map(|m| &m.file.campaigns);
            order.is_some_and(|order| in_force.chooses(order) || in_force.advises(order))
        };
        people.extend(news.segments.keys().filter(has_choice).cloned());
        if in_force.asks_balance {
            let of_changed = news.invoices.values().filter(|i| changed.contains(&key_of(i)));
            people.extend(of_changed.map(|i| (i.merchant.clone(), i.customer.clone())));
        }
        people
    }

    /// What news change about a case: its campaign, whether it has ended, and when to look at it again.
    pub(crate) fn replan(
        &self,
        in_force: &InForce,
        before: &CaseState,
        case: &CaseState,
        now: Timestamp,
        traceparent: Option<String>,
    ) -> Option<CaseChange> {
        let closed = case.end();
        let wake_at = match Ready::new(&self.0, case, now).filter(|_| closed.is_none()) {
            Some(ready) => case.wake_at(&ready.plan(in_force, now), &ready.merchant.zone, now),
            None if closed.is_some() => None,
            None => self.0.wake_without_plan(case, now, look_again(case, now)),
        };
        let after = Change { closed: closed.map(|reason| (now, reason)), wake_at, traceparent };
        change(before, case, after)
    }
}

/// What planning has changed about a case, apart from its campaign.
struct Change<'a> {
    closed: Option<(Timestamp, &'a str)>,
    wake_at: Option<Timestamp>,
    traceparent: Option<String>,
}

/// The change of a case from `before` to what it is now, if there is any. A moved timer gets the next generation.
fn change(before: &CaseState, case: &CaseState, after: Change<'_>) -> Option<CaseChange> {
    // Closed again for the same reason is the same closing, whenever we notice.
    let closed = match (&case.closed, after.closed) {
        (Some(known), Some(now)) if known.1 == now.1 => Some(known.clone()),
        (_, now) => now.map(|(at, reason)| (at, reason.to_owned())),
    };
    let moved = after.wake_at != case.armed_at;
    let same = closed == case.closed
        && before.overdue_told_at == case.overdue_told_at
        && before.ended == case.ended
        && before.not_before == case.not_before
        && before.enrolment == case.enrolment
        && (&before.campaign, &before.campaign_version, &before.chosen_by)
            == (&case.campaign, &case.campaign_version, &case.chosen_by);
    if !moved && same {
        return None;
    }
    Some(CaseChange {
        id: case.id,
        shard: case.shard,
        campaign: case.campaign.clone(),
        campaign_version: case.campaign_version.clone(),
        chosen_by: case.chosen_by.clone(),
        not_before: case.not_before,
        ended: case.ended.clone(),
        closed,
        enrolment: case.enrolment.clone(),
        overdue_told_at: case.overdue_told_at,
        armed_before: case.armed_at,
        armed_at: after.wake_at,
        generation: case.generation + i32::from(moved),
        traceparent: after.traceparent,
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
    segments: BTreeMap<CustomerKey, Segmented>,
    opted_out: BTreeSet<CustomerKey>,
    sources: BTreeMap<(MerchantId, String), Timestamp>,
    holds: Vec<CallHold>,
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
        keys.chain(self.holds.iter().map(|hold| &hold.customer)).cloned().collect()
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
                let outlook = e.outlook.as_ref().map(prost::Message::encode_to_vec);
                let outlook = outlook.filter(|bytes| Outlook::read_or_warn(bytes).is_some());
                let new = Segmented { version: e.version, segment: snapshot::segment(e.segment())?, outlook };
                keep_latest(&mut self.segments, key, new, |s| s.version);
            }
            AnyEvent::CustomerResponded(e) => {
                let key = customer_key(&e.merchant_id, &e.customer_id)?;
                if e.kind() == v1::ResponseKind::Unsubscribed {
                    self.opted_out.insert(key);
                }
            }
            AnyEvent::TaskDone(e) => self.holds.extend(holds_of(e)?),
            AnyEvent::SourceHeard(e) => {
                let key = (snapshot::id("merchant_id", &e.merchant_id)?, e.source.clone());
                let at = time::from_wire(e.heard_at).ok_or_else(|| Malformed::missing("heard_at"))?;
                let latest = self.sources.entry(key).or_insert(at);
                *latest = at.max(*latest);
            }
            event => {
                let new = Invoice::try_from(event.invoice().ok_or_else(|| Malformed::missing("invoice"))?)?;
                if new.open_minor > 0 && rules.merchant(&new.merchant).is_none() {
                    // Nobody would know when it is overdue, or where its payers are; a dead letter can be tried again.
                    return Err(Malformed::new("merchant_id", "is no configured merchant"));
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

/// What a call leads to. One that reached nobody, or settled nothing, changes nothing: the plan goes on.
fn holds_of(done: &v1::TaskDone) -> Result<Vec<CallHold>, Malformed> {
    /// What the payer says is paid should be there by then.
    const SAID_TO_BE_PAID_DAYS: i64 = 7;
    let customer = customer_key(&done.merchant_id, &done.customer_id)?;
    let at = time::from_wire(done.done_at).ok_or_else(|| Malformed::missing("done_at"))?;
    let promised = time::date_from_wire(&done.until).map_err(|e| Malformed::new("until", e))?;
    let week = at.to_zoned(TimeZone::UTC).date().checked_add(SAID_TO_BE_PAID_DAYS.days()).ok();
    let (is_promise, until, reason) = match done.outcome() {
        v1::TaskOutcome::Promised => {
            (true, Some(promised.ok_or_else(|| Malformed::missing("until"))?), "promised to pay on the phone")
        }
        v1::TaskOutcome::Paid => (false, week, "says on the phone that it is paid"),
        v1::TaskOutcome::Disputed => (false, None, "says on the phone that something is wrong"),
        v1::TaskOutcome::WrongPerson => (false, None, "somebody else answered the phone"),
        v1::TaskOutcome::Reached | v1::TaskOutcome::NoAnswer | v1::TaskOutcome::Voicemail => return Ok(Vec::new()),
        v1::TaskOutcome::Unspecified => return Err(Malformed::new("outcome", "is not a known outcome")),
    };
    let hold = |invoice: Option<String>| CallHold {
        customer: customer.clone(),
        invoice,
        is_promise,
        until,
        reason,
        by: done.done_by.clone(),
    };
    // Who does not belong to that number does not for any invoice.
    if done.outcome() == v1::TaskOutcome::WrongPerson {
        return Ok(vec![hold(None)]);
    }
    Ok(done.lines.iter().map(|line| hold(Some(line.invoice_id.clone()))).collect())
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
    /// How late each was, in business time.
    pub lateness: Vec<SignedDuration>,
}

/// Fires up to `limit` due timers, in one transaction, and with them every other case of the same customers that is due:
/// so that what falls into one window becomes one message.
pub async fn fire(rules: &Rules, work: &mut Work, now: Timestamp, start: i32, limit: i64) -> Result<Fired, Failure> {
    let timers = store::due_timers(work.tx(), now, start, limit).await?;
    if timers.is_empty() {
        return Ok(Fired::default());
    }
    let customers: BTreeSet<CustomerKey> = timers.iter().filter_map(|t| t.customer.clone()).collect();
    // Customers, cases, timers: the order in which event handlers lock them too.
    store::lock_customers(work.tx(), &customers).await?;
    let in_force = rules.in_force();
    let ids = store::lock_due_cases(work.tx(), &customers, now, in_force.waits).await?;
    let cases = rules.load_cases(work, &in_force, &ids, now).await?;
    let live: HashSet<(Uuid, i32)> = cases.iter().map(|(_, c)| (c.id, c.generation)).collect();
    // A timer that its case has moved meanwhile is stale: it goes, and does nothing.
    let stale: Vec<DueTimer> = timers.iter().filter(|t| !live.contains(&(t.case_id, t.generation))).cloned().collect();
    store::delete_timers(work.tx(), &stale).await?;

    let traces: HashMap<Uuid, Option<String>> = timers.iter().map(|t| (t.case_id, t.traceparent.clone())).collect();
    let mut round = Round::new(now);
    let mut people: BTreeMap<(&MerchantId, &kernel::CustomerId), Vec<(&CaseState, Ready<'_>)>> = BTreeMap::new();
    let mut waiting = 0;
    for (before, case) in &cases {
        match Ready::new(rules, case, now) {
            Some(ready) => people.entry((&case.merchant, &case.customer)).or_default().push((before, ready)),
            None => {
                waiting += usize::from(!case.campaign.is_empty());
                round.look_without_plan(work, rules, before, case)?;
            }
        }
    }
    if waiting > 0 {
        tracing::warn!(
            cases = waiting,
            "merchant or campaign is not configured here; they are looked at again in a minute"
        );
    }
    for cases in people.values() {
        round.look_at_customer(work, &in_force, cases, &traces)?;
    }
    round.save(work).await?;
    let lateness = timers.iter().map(|t| now.duration_since(t.due_at)).collect();
    Ok(Fired { timers: timers.len(), lateness })
}

/// A case whose step goes into a message.
#[derive(Clone, Copy)]
struct Line<'a> {
    ready: &'a Ready<'a>,
    planned: &'a Planned<'a>,
    trace: Option<&'a str>,
}

impl<'a> Line<'a> {
    const fn case(self) -> &'a CaseState {
        self.ready.case
    }

    fn step(self) -> &'a str {
        self.planned.plan.send.as_ref().map_or("", |s| s.step.as_str())
    }

    fn tone(self) -> Tone {
        self.ready.campaign.step(self.step()).map_or(Tone::Friendly, |s| s.tone)
    }

    /// The ways to reach the payer after the first, as the step lists them.
    fn fallbacks(self) -> Vec<i32> {
        let channels = self.ready.campaign.step(self.step()).map_or(&[][..], |s| &s.channels);
        channels.iter().skip(1).map(|channel| wire_channel(*channel).into()).collect()
    }

    fn template(self) -> String {
        self.planned.plan.send.as_ref().map(|s| s.template.clone()).unwrap_or_default()
    }
}

const fn wire_tone(tone: Tone) -> v1::Tone {
    match tone {
        Tone::Friendly => v1::Tone::Friendly,
        Tone::Firm => v1::Tone::Firm,
        Tone::Final => v1::Tone::Final,
    }
}

/// What one transaction of firing, or of an operator, writes.
pub(crate) struct Round {
    now: Timestamp,
    decisions: Vec<NewDecision>,
    deferrals: Vec<(Uuid, campaign::Deferral)>,
    pub(crate) changes: Vec<CaseChange>,
    /// Customer, reminder and the payer's day.
    pub(crate) reminded: Vec<(CustomerKey, Uuid, Date)>,
    /// Who asked for the reminder and why, if it is not the campaign that did.
    asked: Option<Operator>,
}

impl Round {
    pub(crate) fn new(now: Timestamp) -> Self {
        let (decisions, deferrals, changes) = (Vec::new(), Vec::new(), Vec::new());
        Self { now, decisions, deferrals, changes, reminded: Vec::new(), asked: None }
    }

    pub(crate) async fn save(&self, work: &mut Work) -> Result<(), Failure> {
        store::save_cases(work.tx(), &self.changes).await?;
        store::insert_decisions(work.tx(), &self.decisions).await?;
        if !self.deferrals.is_empty() {
            store::insert_deferrals(work.tx(), &self.deferrals, self.now).await?;
        }
        Ok(store::note_reminded(work.tx(), &self.reminded).await?)
    }

    /// Sends what an operator asked for, in the same way as what is due.
    pub(crate) fn send_asked(
        &mut self,
        work: &mut Work,
        before: &CaseState,
        ready: &Ready<'_>,
        planned: Planned<'_>,
        operator: &Operator,
    ) -> Result<(), Failure> {
        self.asked = Some(operator.clone());
        let mut planned = [planned];
        let messages = campaign::gather(&mut planned, self.now);
        let [planned] = &planned;
        let trace = self.look(work, before, ready, planned, trace::current())?;
        let line = Line { ready, planned, trace: trace.as_deref() };
        messages.iter().try_for_each(|message| self.remind(work, message, line, &[line]))
    }

    /// Decides that a step is never sent, because an operator says so.
    pub(crate) fn skip_asked(
        &mut self,
        work: &mut Work,
        ready: &Ready<'_>,
        step: &str,
        operator: &Operator,
    ) -> Result<(), Failure> {
        let aside = Decision::aside(Reason::Operator, operator.rule());
        self.decide(work, ready, step, Decision { words: Some(operator.words().to_owned()), ..aside })
    }

    /// A case that cannot be planned here: that the invoice is overdue is told all the same.
    fn look_without_plan(
        &mut self,
        work: &mut Work,
        rules: &Rules,
        before: &CaseState,
        case: &CaseState,
    ) -> Result<(), Failure> {
        let zone = rules.merchant(&case.merchant).map(|m| &m.zone);
        let overdue = zone.and_then(|zone| case.overdue_at(zone, self.now)).is_some_and(|at| at <= self.now);
        let told = if overdue { Some(self.tell_overdue(work, case)?) } else { case.overdue_told_at };
        let after = CaseState { overdue_told_at: told, ..case.clone() };
        let wake_at = rules.wake_without_plan(&after, self.now, look_again(case, self.now));
        self.changes.extend(change(before, &after, Change { closed: None, wake_at, traceparent: trace::current() }));
        Ok(())
    }

    /// Plans all cases of a customer that are due, together.
    fn look_at_customer(
        &mut self,
        work: &mut Work,
        in_force: &InForce,
        cases: &[(&CaseState, Ready<'_>)],
        traces: &HashMap<Uuid, Option<String>>,
    ) -> Result<(), Failure> {
        let mut planned: Vec<Planned<'_>> = cases.iter().map(|(_, ready)| ready.plan(in_force, self.now)).collect();
        let now = self.now;
        let is_due = |case: &CaseState| case.armed_at.is_some_and(|at| at <= now);
        for ((_, ready), planned) in cases.iter().zip(&mut planned) {
            if !is_due(ready.case) {
                // Only here because others may wait for it.
                planned.plan.send = None;
            }
        }
        let messages = campaign::gather(&mut planned, self.now);
        let mut led_here: Vec<Option<String>> = Vec::with_capacity(cases.len());
        for ((before, ready), planned) in cases.iter().zip(&planned) {
            let armed_by = traces.get(&ready.case.id).cloned().flatten();
            if is_due(ready.case) {
                led_here.push(self.look(work, before, ready, planned, armed_by)?);
                continue;
            }
            // Its campaign, or its turn in the ramp, may have been given to it just now: kept, and looked at if it is another.
            let is_other = before.campaign != ready.case.campaign;
            let wake_at = if is_other { Some(self.now) } else { ready.case.armed_at };
            self.changes.extend(change(before, ready.case, Change { closed: None, wake_at, traceparent: None }));
            led_here.push(armed_by);
        }
        for message in &messages {
            let line = |n: &usize| {
                let ((_, ready), planned) = (cases.get(*n)?, planned.get(*n)?);
                Some(Line { ready, planned, trace: led_here.get(*n).and_then(Option::as_deref) })
            };
            let lines: Vec<Line<'_>> = message.lines.iter().filter_map(line).collect();
            if let Some(speaker) = line(&message.speaker) {
                self.remind(work, message, speaker, &lines)?;
            }
        }
        Ok(())
    }

    /// What firing a case's timer means apart from messages: `invoice-overdue` if it is time, skipped and deferred steps,
    /// the end of the sequence, the next timer. Returns the trace that led here.
    fn look(
        &mut self,
        work: &mut Work,
        before: &CaseState,
        ready: &Ready<'_>,
        planned: &Planned<'_>,
        armed_by: Option<String>,
    ) -> Result<Option<String>, Failure> {
        let (case, plan, zone) = (ready.case, &planned.plan, &ready.merchant.zone);
        self.deferrals.extend(plan.deferred.clone().map(|d| (case.id, d)));
        let overdue = case.overdue_at(zone, self.now).is_some_and(|at| at <= self.now);
        let mut after = case.clone();
        let mut led_here = armed_by.clone();
        if overdue || plan.end.is_some() || !plan.skip.is_empty() {
            let span = fire_span("fire timer", case, self.now);
            trace::link(&span, armed_by.as_deref());
            let _inside = span.enter();
            for skip in &plan.skip {
                self.decide(work, ready, &skip.step, Decision::aside(skip.reason, skip.rule.clone()))?;
            }
            if overdue {
                after.overdue_told_at = Some(self.tell_overdue(work, case)?);
            }
            if let Some(ending) = plan.end {
                after.ended = Some((self.now, ending.as_str().to_owned()));
                self.tell_end(work, case, ending)?;
            }
            led_here = trace::current().or(armed_by);
        }
        // What the end leaves undecided is decided by it at once.
        let next = if plan.end.is_some() {
            Some(self.now)
        } else {
            domain::look_at(plan, planned.terms.hours.as_ref(), self.now)
        };
        let wake_at = [next, after.overdue_at(zone, self.now)].into_iter().flatten().min();
        self.changes.extend(change(before, &after, Change { closed: None, wake_at, traceparent: led_here.clone() }));
        Ok(led_here)
    }

    fn tell_overdue(&self, work: &mut Work, case: &CaseState) -> Result<Timestamp, Failure> {
        let event = v1::InvoiceOverdue {
            merchant_id: case.merchant.to_string(),
            invoice_id: case.invoice.to_string(),
            customer_id: case.customer.to_string(),
            epoch: case.epoch,
            due_on: time::date_to_wire(case.due_on),
            currency: case.currency.to_string(),
            open_minor: case.open_minor,
        };
        work.emit(self.now, &event)?;
        Ok(self.now)
    }

    fn tell_end(&self, work: &mut Work, case: &CaseState, ending: Ending) -> Result<(), Failure> {
        let outcome = match ending {
            Ending::HandOver => v1::SequenceOutcome::HandOver,
            Ending::Webhook => v1::SequenceOutcome::Webhook,
            Ending::Stop => v1::SequenceOutcome::Stop,
        };
        let event = v1::SequenceEnded {
            merchant_id: case.merchant.to_string(),
            customer_id: case.customer.to_string(),
            invoice_id: case.invoice.to_string(),
            epoch: case.epoch,
            outcome: outcome.into(),
            campaign: case.campaign.clone(),
            campaign_version: case.campaign_version.clone(),
            currency: case.currency.to_string(),
            open_minor: case.open_minor,
            ended_at: Some(time::to_wire(self.now)),
            invoice_version: case.invoice_version,
        };
        work.emit(self.now, &event)?;
        Ok(())
    }

    /// One reminder for what is due of a customer in one currency.
    fn remind(
        &mut self,
        work: &mut Work,
        message: &Message,
        speaker: Line<'_>,
        lines: &[Line<'_>],
    ) -> Result<(), Failure> {
        let Some(hours) = &speaker.planned.terms.hours else { return Ok(()) };
        let case = speaker.case();
        let span = fire_span(&format!("fire reminder {}", speaker.step()), case, self.now);
        trace::link(&span, lines.iter().filter_map(|l| l.trace));
        let _inside = span.enter();
        let reminder_id = kernel::id::at(self.now);
        let today = hours.date_at(self.now);
        // What an operator asks for is due now.
        let due_at = lines.iter().filter_map(|l| l.case().armed_at).max().unwrap_or(self.now).min(self.now);
        let event = v1::ReminderDue {
            reminder: Some(reminder_due(reminder_id, message, speaker, lines, today)),
            due_at: Some(time::to_wire(due_at)),
            contact_hours: Some(contact_hours(hours, today)),
            fallbacks: speaker.fallbacks(),
        };
        work.emit_as(reminder_id, self.now, &event, trace::current())?;
        self.reminded.push(((case.merchant.clone(), case.customer.clone()), reminder_id, today));
        for line in lines {
            let Some(send) = &line.planned.plan.send else { continue };
            let own = if line.case().id == case.id {
                Decision {
                    outcome: Outcome::Requested,
                    reason: None,
                    rule: self.asked.as_ref().map_or_else(|| format!("steps.{}", send.step), Operator::rule),
                    words: self.asked.as_ref().map(|operator| operator.words().to_owned()),
                    reminder: Some(reminder_id),
                    speaks: true,
                }
            } else {
                let rule = format!("invoices.{}.steps.{}", case.invoice, speaker.step());
                let aside = Decision::aside(Reason::OtherInvoice, rule);
                Decision { reminder: Some(reminder_id), speaks: true, ..aside }
            };
            self.decide(work, line.ready, &send.step, own)?;
            for step in &send.merged {
                let aside = Decision::aside(Reason::LaterStep, format!("steps.{}", send.step));
                self.decide(work, line.ready, step, Decision { reminder: Some(reminder_id), ..aside })?;
            }
        }
        Ok(())
    }

    /// Keeps a decision; one without a message of its own is told.
    fn decide(&mut self, work: &mut Work, ready: &Ready<'_>, step: &str, decision: Decision) -> Result<(), Failure> {
        let case = ready.case;
        let reason = decision.reason.map_or("", Reason::as_str);
        let (outcome, told) = match decision.outcome {
            Outcome::Requested => ("requested", None),
            Outcome::Merged => ("merged", Some(v1::StepOutcome::Merged)),
            Outcome::Skipped => ("skipped", Some(v1::StepOutcome::Skipped)),
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
                segment: snapshot::segment_to_wire(case.segment()).into(),
                decided_at: Some(time::to_wire(self.now)),
                rule: decision.rule.clone(),
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
            segment: case.segment(),
            rule: [Some(decision.rule), decision.words].into_iter().flatten().collect::<Vec<_>>().join(": "),
            inputs: case.inputs(ready.merchant, ready.situation.chosen.iter().find(|c| c.step == step)),
            campaign_version: case.campaign_version.clone(),
            decided_on: ready.today(self.now),
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
    rule: String,
    /// The operator's: people write names into them, so they are kept here and told to nobody.
    words: Option<String>,
    reminder: Option<Uuid>,
    speaks: bool,
}

impl Decision {
    /// A decision without a message of its own.
    const fn aside(reason: Reason, rule: String) -> Self {
        Self { outcome: reason.outcome(), reason: Some(reason), rule, words: None, reminder: None, speaks: false }
    }
}

fn reminder_due(
    reminder_id: Uuid,
    message: &Message,
    speaker: Line<'_>,
    lines: &[Line<'_>],
    today: Date,
) -> v1::Reminder {
    let case = speaker.case();
    let wire = |line: &Line<'_>| v1::ReminderLine {
        invoice_id: line.case().invoice.to_string(),
        epoch: line.case().epoch,
        step: line.step().to_owned(),
        invoice_version: line.case().invoice_version,
        carries: line.case().id == case.id,
        tone: wire_tone(line.tone()).into(),
        template: line.template(),
        charges: charges(line.planned, today),
    };
    v1::Reminder {
        merchant_id: case.merchant.to_string(),
        reminder_id: reminder_id.to_string(),
        customer_id: case.customer.to_string(),
        campaign: case.campaign.clone(),
        campaign_version: case.campaign_version.clone(),
        step: speaker.step().to_owned(),
        tone: wire_tone(speaker.tone()).into(),
        currency: case.currency.to_string(),
        lines: lines.iter().map(wire).collect(),
        segment: snapshot::segment_to_wire(case.segment()).into(),
        template: speaker.template(),
        channel: wire_channel(message.channel).into(),
        wording: speaker.planned.terms.law.iter().flat_map(|rules| &rules.wording).map(wording).collect(),
    }
}

const fn wire_channel(channel: Channel) -> v1::Channel {
    match channel {
        Channel::Email => v1::Channel::Email,
        Channel::Sms => v1::Channel::Sms,
        Channel::Webhook => v1::Channel::Webhook,
        Channel::Task => v1::Channel::Task,
    }
}

fn wording(wording: &law::Wording) -> v1::Wording {
    v1::Wording { locale: wording.locale.clone(), text: wording.text.clone() }
}

/// The charges of an invoice as of today. What cannot be computed is left out and told: a wrong figure would be worse.
fn charges(planned: &Planned<'_>, today: Date) -> Vec<v1::Charge> {
    let found = planned.terms.charges(&planned.case, today);
    for missing in &found.missing {
        tracing::warn!(invoice.id = planned.invoice, %missing, "a charge is left out of a reminder");
    }
    let wire = |charge: law::Charge| v1::Charge {
        kind: match charge.kind {
            law::ChargeKind::Interest => v1::ChargeKind::Interest,
            law::ChargeKind::FixedSum => v1::ChargeKind::FixedSum,
            law::ChargeKind::ReminderFee => v1::ChargeKind::ReminderFee,
        }
        .into(),
        amount_minor: charge.amount.minor,
        rule: charge.rule,
        as_of: charge.as_of.to_string(),
    };
    found.charges.into_iter().map(wire).collect()
}

/// The contact hours with the closed days of the next weeks: a delivery is over long before.
fn contact_hours(hours: &ContactHours, today: Date) -> v1::ContactHours {
    const AHEAD_DAYS: i64 = 60;
    let (opens, closes) = hours.span();
    let last = today.checked_add(AHEAD_DAYS.days()).unwrap_or(today);
    let ahead = hours.closed().iter().filter(|day| (today..=last).contains(day));
    v1::ContactHours {
        time_zone: hours.zone().iana_name().unwrap_or("UTC").to_owned(),
        weekdays: hours.weekdays().bits().into(),
        opens_minute: opens.get().into(),
        closes_minute: closes.get().into(),
        closed_on: ahead.map(Date::to_string).collect(),
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
        let mut arrivals = Vec::with_capacity(ends.len());
        for end in ends.values_mut() {
            let arrival = self.arrival(end, &zones);
            for settled in end.settled.iter_mut().filter(|s| matches!(s.outcome, "sent" | "unknown")) {
                settled.sent_on = arrival.sent_on;
            }
            arrivals.push(arrival);
        }
        store::settle(work.tx(), &ends.into_values().flat_map(|end| end.settled).collect::<Vec<_>>()).await?;
        Ok(store::note_ended(work.tx(), &arrivals).await?)
    }
}

impl Outcomes {
    /// What the end of a reminder means for its customer. The minimum gap counts from the day on which it went out: that
    /// may be long after it was asked for.
    fn arrival(&self, end: &End, zones: &BTreeMap<CustomerKey, String>) -> Ended {
        let merchant_zone = self.0.merchant(&end.customer.0).map_or(TimeZone::UTC, |m| m.zone.clone());
        let zone = domain::payer_zone(zones.get(&end.customer).map_or("", String::as_str), &merchant_zone);
        let went_out = matches!(end.outcome, "sent" | "unknown");
        Ended {
            customer: end.customer.clone(),
            reminder_id: end.reminder,
            state: match end.outcome {
                "sent" => "sent",
                "unknown" => "unknown",
                _ => "gone",
            },
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
            sent_on: None,
        });
    }
    Ok(end)
}
