//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | any message, again | – | – (its id is in `inbound` already) |
//! | about an invoice | `invoice.facts` gains facts | what changed: `invoice-issued`, `invoice-changed`, `invoice-closed`, `payment-received`, `payment-failed`, `payment-reversed` |
//! | about a charge of a known invoice | the same | the same |
//! | about a charge of no known invoice | `parked` | – (later, when the invoice is known) |
//! | about a customer | `customer.facts` replaced, if later | `customer-changed` |
//! | about somebody who was erased ([`crate::erasure`]) | the same, without the person | the same |
//! | of another kind | `inbound` only | – |
//! | that makes no sense | `quarantine` | – (later, when corrected); but what it says for certain takes effect |
//! | that makes no sense, by gRPC | – | – (the caller is told, and sends it again) |
//! | any message, even again or without sense | `source`, at most once a minute | `source-heard` |

use crate::domain::{Change, CustomerFacts, Facts, ReversalKind, Source, Stamped, changes};
use crate::erasure::without_erased;
use crate::facts::{Content, Message};
use crate::store::{self, Key};
use bus::{Failure, Work};
use events::{Invoice, Malformed, time, v1};
use jiff::Timestamp;
use kernel::{CustomerId, InvoiceId, MerchantId};
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Committed, and its meaning is on the way to the other services.
    Accepted,
    /// Was there already.
    Duplicate,
    /// Committed; it takes effect when its invoice comes.
    Parked,
    /// Makes no sense. Committed, and an operator has to look at it; unless the sender is told and corrects it.
    Quarantined(Malformed),
}

impl Verdict {
    /// Label for metrics and answers.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Parked => "parked",
            Self::Quarantined(_) => "quarantined",
        }
    }
}

/// Whose sources spoke, and when: business time.
pub type Heard = BTreeMap<(MerchantId, Source), Timestamp>;

/// Tells of sources that were heard, unless that was told less than a minute ago.
pub async fn tell_heard(work: &mut Work, heard: &Heard) -> Result<(), Failure> {
    if heard.is_empty() {
        return Ok(());
    }
    for (merchant, source, heard_at) in store::note_heard(work.tx(), heard).await? {
        let id = kernel::id::derive("source", merchant.as_str(), &source, &heard_at.to_string());
        let wire_at = Some(time::to_wire(heard_at));
        let event = v1::SourceHeard { merchant_id: merchant.to_string(), source, heard_at: wire_at };
        // In no trace: it is no part of what the message leads to.
        work.emit_as(id, heard_at, &event, None)?;
    }
    Ok(())
}

/// Takes a batch of messages in, in one transaction. One verdict per message, in order.
pub async fn accept(work: &mut Work, messages: &[Message]) -> Result<Vec<Verdict>, Failure> {
    let resolved = resolve_charges(work, messages).await?;
    let cleaned = without_erased(work, messages, &resolved).await?;
    let messages = &*cleaned;
    let stored: Vec<_> =
        messages.iter().zip(&resolved).map(|(m, invoice)| (m, m.about().or(invoice.as_ref()))).collect();
    let fresh = store::insert_inbound(work.tx(), &stored).await?;

    let mut seen = HashSet::new();
    let mut batch = Batch::default();
    let mut verdicts = Vec::with_capacity(messages.len());
    for (message, invoice) in stored {
        // The same message may be in one batch twice.
        let is_fresh = fresh.contains(&message.id) && seen.insert(message.id);
        verdicts.push(if is_fresh { batch.sort(message, invoice) } else { Verdict::Duplicate });
    }
    let faults = batch.apply(work).await?;
    set_apart(work, messages, &faults).await?;
    for (message, verdict) in messages.iter().zip(&mut verdicts) {
        if let Some(fault) = faults.get(&message.id) {
            *verdict = Verdict::Quarantined(fault.clone());
        }
    }
    Ok(verdicts)
}

/// Quarantines what makes no sense. What its sender is going to correct is forgotten instead, so that the correction is
/// not taken for the same message again.
async fn set_apart(work: &mut Work, messages: &[Message], faults: &Faults) -> Result<(), Failure> {
    if faults.is_empty() {
        return Ok(());
    }
    let corrected: HashSet<Uuid> = messages.iter().filter(|m| m.sender_corrects).map(|m| m.id).collect();
    let (forget, keep): (Vec<_>, Vec<_>) = faults.iter().partition(|(id, _)| corrected.contains(*id));
    let forget: Vec<Uuid> = forget.into_iter().map(|(id, _)| *id).collect();
    store::forget_inbound(work.tx(), &forget).await?;
    let kept = store::quarantine(work.tx(), &keep).await?;
    if kept < keep.len() as u64 {
        // A payment that came more than a month before its invoice, and turned out not to be for it.
        tracing::warn!(kept, messages = keep.len(), "messages that make no sense are past retention");
    }
    Ok(())
}

/// Applies facts that were parked in the last `hours` and whose invoice is known by now. Returns how many messages that
/// were.
///
/// The same function as after the arrival of a charge, run now and then: a charge and a fact about it may have arrived in
/// two transactions that did not see each other.
pub async fn apply_parked(work: &mut Work, hours: i32) -> Result<usize, Failure> {
    /// More wait for the next time.
    const LIMIT: i64 = 500;
    let charges = store::charges_to_unpark(work.tx(), hours, LIMIT).await?;
    let charges: Vec<Key<&str>> =
        charges.iter().map(|(merchant, charge)| (merchant.clone(), charge.as_str())).collect();
    let mut batch = Batch::default();
    batch.unpark(work, &charges).await?;
    let count = batch.invoices.values().map(|news| news.facts.len()).sum();
    let faults = batch.apply(work).await?;
    set_apart(work, &[], &faults).await?;
    Ok(count)
}

/// Tries a quarantined message again; it is released if it makes sense now. Returns the verdict.
pub async fn accept_again(work: &mut Work, quarantine_id: i64, message: &Message) -> Result<Verdict, Failure> {
    let message = std::slice::from_ref(message);
    let resolved = resolve_charges(work, message).await?;
    let cleaned = without_erased(work, message, &resolved).await?;
    let Some(message) = cleaned.first() else { return Err(Failure::Reject("no message".to_owned())) };
    let invoice = message.about().or(resolved.first().and_then(Option::as_ref)).cloned();
    let mut batch = Batch::default();
    let verdict = batch.sort(message, invoice.as_ref());
    let faults = batch.apply(work).await?;
    if let Some(invoice) = &invoice {
        store::set_about(work.tx(), message.id, invoice).await?;
    }
    set_apart(work, &[], &faults).await?;
    if let Some(fault) = faults.get(&message.id) {
        return Ok(Verdict::Quarantined(fault.clone()));
    }
    store::release(work.tx(), quarantine_id).await?;
    Ok(verdict)
}

/// The invoice of each message that names only a charge, if it is known.
async fn resolve_charges(work: &mut Work, messages: &[Message]) -> Result<Vec<Option<InvoiceId>>, Failure> {
    fn charges(message: &Message) -> &[String] {
        match &message.content {
            Ok(Content::Charge { charges, .. }) => charges,
            _ => &[],
        }
    }
    let keys: Vec<Key<&str>> =
        messages.iter().flat_map(|m| charges(m).iter().map(|c| (m.merchant.clone(), c.as_str()))).collect();
    if keys.is_empty() {
        return Ok(vec![None; messages.len()]);
    }
    let known = store::invoices_of_charges(work.tx(), &keys).await?;
    let find = |m: &Message| charges(m).iter().find_map(|c| known.get(&(m.merchant.clone(), c.clone()))).cloned();
    Ok(messages.iter().map(find).collect())
}

/// Messages that make no sense, and why.
type Faults = BTreeMap<Uuid, Malformed>;

/// Fresh messages, sorted by what they are about.
#[derive(Default)]
struct Batch<'a> {
    invoices: BTreeMap<Key<InvoiceId>, News>,
    customers: BTreeMap<Key<CustomerId>, Vec<(&'a Message, &'a CustomerFacts)>>,
    charges: Vec<(MerchantId, String, InvoiceId)>,
    parked: Vec<(&'a Message, &'a str, &'a [Stamped])>,
    faults: Faults,
}

/// What a batch says about one invoice, each fact with the message that said it.
#[derive(Default)]
struct News {
    facts: Vec<(Origin, Stamped)>,
}

/// The message that something came from.
#[derive(Clone)]
struct Origin {
    message: Uuid,
    traceparent: Option<String>,
}

impl From<&Message> for Origin {
    fn from(message: &Message) -> Self {
        Self { message: message.id, traceparent: message.traceparent.clone() }
    }
}

impl<'a> Batch<'a> {
    /// Sorts a fresh message in. `invoice` is what it is about, if that is known. The verdict holds if the message is not
    /// found to be at fault.
    fn sort(&mut self, message: &'a Message, invoice: Option<&InvoiceId>) -> Verdict {
        match (&message.content, invoice) {
            (Err(fault), _) => _ = self.faults.insert(message.id, fault.clone()),
            (Ok(Content::Invoice { invoice, facts, charges, fault }), _) => {
                self.faults.extend(fault.iter().map(|fault| (message.id, fault.clone())));
                self.tell(message, invoice, facts);
                let linked = charges.iter().map(|c| (message.merchant.clone(), c.clone(), invoice.clone()));
                self.charges.extend(linked);
            }
            (Ok(Content::Charge { facts, .. }), Some(invoice)) => self.tell(message, invoice, facts),
            (Ok(Content::Charge { charges, facts }), None) => {
                self.parked.extend(charges.iter().map(|c| (message, c.as_str(), facts.as_slice())));
                return Verdict::Parked;
            }
            (Ok(Content::Customer { customer, facts, fault }), _) => {
                self.faults.extend(fault.iter().map(|fault| (message.id, fault.clone())));
                self.customers.entry((message.merchant.clone(), customer.clone())).or_default().push((message, facts));
            }
            (Ok(Content::Other), _) => {}
        }
        Verdict::Accepted
    }

    fn tell(&mut self, message: &Message, invoice: &InvoiceId, facts: &[Stamped]) {
        let news = self.invoices.entry((message.merchant.clone(), invoice.clone())).or_default();
        news.facts.extend(facts.iter().map(|f| (Origin::from(message), f.clone())));
    }

    async fn unpark(&mut self, work: &mut Work, charges: &[Key<&str>]) -> Result<(), Failure> {
        for parked in store::unpark(work.tx(), charges).await? {
            let origin = Origin { message: parked.inbound, traceparent: parked.traceparent };
            let news = self.invoices.entry(parked.key).or_default();
            news.facts.extend(parked.facts.into_iter().map(|f| (origin.clone(), f)));
        }
        Ok(())
    }

    /// Writes everything and emits what it means. Returns the messages that make no sense, by themselves or for their
    /// invoice; of those, some may have come before.
    async fn apply(mut self, work: &mut Work) -> Result<Faults, Failure> {
        if !self.charges.is_empty() {
            let mut charges = std::mem::take(&mut self.charges);
            charges.sort();
            charges.dedup();
            store::insert_charges(work.tx(), &charges).await?;
            let keys: Vec<Key<&str>> = charges.iter().map(|(m, charge, _)| (m.clone(), charge.as_str())).collect();
            self.unpark(work, &keys).await?;
        }
        if !self.parked.is_empty() {
            store::park(work.tx(), &self.parked).await?;
        }
        let misfits = apply_invoices(work, self.invoices).await?;
        apply_customers(work, self.customers).await?;
        self.faults.extend(misfits);
        Ok(self.faults)
    }
}

async fn apply_invoices(work: &mut Work, news: BTreeMap<Key<InvoiceId>, News>) -> Result<Faults, Failure> {
    let mut misfits = Faults::new();
    if news.is_empty() {
        return Ok(misfits);
    }
    let keys: Vec<&Key<InvoiceId>> = news.keys().collect();
    let mut known = store::load_invoices(work.tx(), &keys).await?;
    let mut changed = Vec::with_capacity(news.len());
    for (key, news) in &news {
        let (version, before) = known.remove(key).unwrap_or_default();
        let mut after = before.clone();
        for (origin, fact) in &news.facts {
            after.add(origin.message, fact.clone());
        }
        misfits.extend(after.take_misfits());
        // The latest of the news that made sense.
        let cause = news.facts.iter().max_by_key(|(origin, fact)| (!misfits.contains_key(&origin.message), fact.at));
        if let Some((origin, fact)) = cause.filter(|_| after != before) {
            emit_changes(work, key, (&before, version), (&after, version + 1), (origin, fact.at))?;
            changed.push((key, version + 1, after));
        }
    }
    let rows: Vec<_> = changed.iter().map(|(key, version, facts)| (*key, *version, facts)).collect();
    if store::save_invoices(work.tx(), &rows).await? {
        Ok(misfits)
    } else {
        Err(Failure::Retry("another replica changed one of these invoices at the same time".to_owned()))
    }
}

/// Emits what changed about one invoice. Ids are made of the version: each is committed once, so no two changes share an
/// id. `origin` and `at` are the latest news'.
fn emit_changes(
    work: &mut Work,
    (merchant, invoice): &Key<InvoiceId>,
    (before, old_version): (&Facts, i64),
    (after, new_version): (&Facts, i64),
    (origin, at): (&Origin, Timestamp),
) -> Result<(), Failure> {
    let Some(new) = after.fold(merchant, invoice, new_version) else { return Ok(()) };
    let old = before.fold(merchant, invoice, old_version);
    for (n, change) in changes((before, old.as_ref()), (after, &new), at).into_iter().enumerate() {
        let becomes = format!("{new_version}/{n}");
        let id = kernel::id::derive("invoice", merchant.as_str(), invoice.as_str(), &becomes);
        emit(work, id, at, change, &new, origin.traceparent.clone())?;
    }
    Ok(())
}

fn emit(
    work: &mut Work,
    id: Uuid,
    at: Timestamp,
    change: Change,
    invoice: &Invoice,
    trace: Option<String>,
) -> Result<Uuid, Failure> {
    let invoice = Some(v1::Invoice::from(invoice));
    match change {
        Change::Issued => work.emit_as(id, at, &v1::InvoiceIssued { invoice }, trace),
        Change::Changed => work.emit_as(id, at, &v1::InvoiceChanged { invoice }, trace),
        Change::Closed => work.emit_as(id, at, &v1::InvoiceClosed { invoice }, trace),
        Change::PaymentReceived { amount_minor, paid_at } => {
            let paid_at = Some(time::to_wire(paid_at));
            work.emit_as(id, at, &v1::PaymentReceived { invoice, amount_minor, paid_at }, trace)
        }
        Change::PaymentFailed { decline_code, failed_at } => {
            let failed_at = Some(time::to_wire(failed_at));
            work.emit_as(id, at, &v1::PaymentFailed { invoice, decline_code, failed_at }, trace)
        }
        Change::PaymentReversed { kind, amount_minor, reversed_at } => {
            let kind = match kind {
                ReversalKind::Chargeback => v1::ReversalKind::Chargeback,
                ReversalKind::LateFailure => v1::ReversalKind::LateFailure,
                ReversalKind::Refund => v1::ReversalKind::Refund,
            };
            let reversed_at = Some(time::to_wire(reversed_at));
            work.emit_as(id, at, &v1::PaymentReversed { invoice, kind: kind.into(), amount_minor, reversed_at }, trace)
        }
    }
}

async fn apply_customers(
    work: &mut Work,
    news: BTreeMap<Key<CustomerId>, Vec<(&Message, &CustomerFacts)>>,
) -> Result<(), Failure> {
    if news.is_empty() {
        return Ok(());
    }
    let keys: Vec<&Key<CustomerId>> = news.keys().collect();
    let known = store::load_customers(work.tx(), &keys).await?;
    let mut changed = Vec::new();
    for (key, news) in &news {
        let later = |(a, b): (&(&Message, &CustomerFacts), &(&Message, &CustomerFacts))| a.1.is_later_than(b.1);
        let latest = news.iter().reduce(|a, b| if later((b, a)) { b } else { a });
        let Some((message, facts)) = latest else { continue };
        let (version, before) = known.get(key).map_or((0, None), |(version, facts)| (*version, Some(facts)));
        if before.is_some_and(|b| !facts.is_later_than(b)) {
            continue;
        }
        let customer = facts.snapshot(&key.0, &key.1, version + 1);
        let event = v1::CustomerChanged { customer: Some((&customer).into()) };
        let id = kernel::id::derive("customer", key.0.as_str(), key.1.as_str(), &(version + 1).to_string());
        work.emit_as(id, facts.at, &event, message.traceparent.clone())?;
        changed.push((key, version + 1, *facts));
    }
    if store::save_customers(work.tx(), &changed).await? {
        Ok(())
    } else {
        Err(Failure::Retry("another replica changed one of these customers at the same time".to_owned()))
    }
}
