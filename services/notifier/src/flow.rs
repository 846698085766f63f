//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | `balance` by version; `task` of which nothing is owed any more: closed | – |
//! | `customer-changed` | `customer` by version | – |
//! | `customer-responded` (unsubscribed) | `suppression` | – |
//! | `reminder-due` | `delivery`: waiting | – |
//! | its time has come: [`claim`] | claimed; or ended, or put back | `reminder-suppressed`, `reminder-failed` |
//! | all but the final dot is on the wire: [`announce`], then [`permit`] | imminent, `message` kept as what differs from its `pattern`; balances locked while dots are written | – |
//! | the mail server has answered, or nothing may be sent: [`settle`] | handed_off, suppressed, failed, unknown; or on by the next channel, or put back | `reminder-sent`, `-suppressed`, `-failed`, `-unknown` |
//! | the lease of a process has ended: [`take_over`] | claimed: waiting again; imminent: unknown | `reminder-unknown` |
//! | a reminder for a person: [`crate::task`] | `task`: on the call list; handed_off | `reminder-sent` |
//! | that person says how it went: [`crate::task::close`] | `task`: closed | `task-done` |
//! | `sequence-ended` (by webhook) | `webhook`: pending | – |
//! | its time has come: [`webhooks::claim`] | leased; or cancelled, or put back | – |
//! | the merchant's system has answered, or has not: [`webhooks::settle`] | delivered, failed; or put back | – |
//! | `customer-erased` ([`crate::erasure`]) | `message`, `inbound` emptied; `suppression` by hash | – |
//! | mail comes back: [`inbound::take`] | `inbound`; `suppression`; unknown: handed_off | `reminder-bounced`, `-complained`, `-sent`, `customer-replied` |
//! | a payer answers by text, or one did not arrive: [`inbound::take_text`] | `inbound`; `suppression`; unknown: handed_off or failed | `reminder-bounced`, `-sent`, `-failed`, `customer-replied` |

pub mod inbound;
pub mod webhooks;

use crate::channel;
use crate::channel::store::Move;
use crate::domain::{Attempt, Balance, Balances, Claims, Said, catch_up, claims, contact_hours, next_attempt};
use crate::freshness::{self, Freshness};
use crate::kept::Kept;
use crate::pace::{self, Pace, Place, domain_of};
use crate::smtp::Reply;
use crate::store::{self, Claimed, Contact, End, Imminent, InvoiceKey, NewDelivery, PutBack, Sending, Suppression};
use crate::task;
use bus::{Failure, Handler, Incoming, Work, trace};
use events::topology::{NOTIFIER_BALANCES, NOTIFIER_REMINDERS};
use events::v1::{self, Channel, Reminder, ReminderDue, ReminderLine};
use events::{AnyEvent, Customer, Flow, Invoice, InvoiceStatus, Malformed, snapshot, time};
use jiff::{SignedDuration, Timestamp};
use kernel::{ContactHours, CustomerId, InvoiceId, Masked, MerchantId};
use prost::Message;
use runtime::Host;
use runtime::links::address_hash;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// What is owed, and who must not be written to.
pub struct BalanceFeed(pub Host);

impl Handler for BalanceFeed {
    const FLOW: &'static Flow = &NOTIFIER_BALANCES;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let mut news = News::default();
        for incoming in batch {
            if let Err(fault) = news.add(incoming) {
                work.reject(incoming, fault);
            }
        }
        if !news.invoices.is_empty() {
            store::upsert_balances(work.tx(), &news.invoices).await?;
            let closed = news.invoices.iter().filter(|(_, i)| i.status != InvoiceStatus::Open || i.epoch > 1);
            let closed: Vec<_> = closed.map(|(key, _)| key).collect();
            task::store::close_settled(work.tx(), &closed, self.0.now()).await?;
        }
        if !news.customers.is_empty() {
            store::upsert_customers(work.tx(), &news.customers).await?;
        }
        Ok(store::suppress(work.tx(), &news.suppressions, self.0.now()).await?)
    }
}

/// The latest news of a batch.
#[derive(Default)]
struct News {
    invoices: BTreeMap<InvoiceKey, Invoice>,
    customers: BTreeMap<store::CustomerKey, Customer>,
    suppressions: Vec<Suppression>,
}

impl News {
    fn add(&mut self, incoming: &Incoming) -> Result<(), Malformed> {
        match &incoming.event {
            AnyEvent::CustomerChanged(e) => {
                let new = Customer::try_from(e.customer.as_ref().ok_or_else(|| Malformed::missing("customer"))?)?;
                let key = (new.merchant.clone(), new.customer.clone());
                if self.customers.get(&key).is_none_or(|known| new.version > known.version) {
                    self.customers.insert(key, new);
                }
            }
            AnyEvent::CustomerResponded(e) => {
                let merchant = snapshot::id("merchant_id", &e.merchant_id)?;
                if e.kind() == v1::ResponseKind::Unsubscribed {
                    self.suppressions.push(Suppression {
                        merchant,
                        channel: channel::name(Channel::Email),
                        subject: store::by_customer(&e.customer_id),
                        reason: "unsubscribed",
                        source: format!("event {}", incoming.envelope.id),
                    });
                }
            }
            event => {
                let new = Invoice::try_from(event.invoice().ok_or_else(|| Malformed::missing("invoice"))?)?;
                let key = (new.merchant.clone(), new.invoice.clone());
                if self.invoices.get(&key).is_none_or(|known| new.version > known.version) {
                    self.invoices.insert(key, new);
                }
            }
        }
        Ok(())
    }
}

/// Reminders to send.
pub struct Reminders(pub Host);

impl Handler for Reminders {
    const FLOW: &'static Flow = &NOTIFIER_REMINDERS;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let mut deliveries = Vec::with_capacity(batch.len());
        for incoming in batch {
            match new_delivery(incoming) {
                Ok(delivery) => deliveries.push(delivery),
                Err(fault) => work.reject(incoming, fault),
            }
        }
        Ok(store::insert_deliveries(work.tx(), &deliveries, self.0.now()).await?)
    }
}

fn new_delivery(incoming: &Incoming) -> Result<NewDelivery, Malformed> {
    let AnyEvent::ReminderDue(request) = &incoming.event else { return Err(Malformed::missing("reminder")) };
    let reminder = request.reminder.as_ref().ok_or_else(|| Malformed::missing("reminder"))?;
    let _: MerchantId = snapshot::id("reminder.merchant_id", &reminder.merchant_id)?;
    let _: CustomerId = snapshot::id("reminder.customer_id", &reminder.customer_id)?;
    if reminder.lines.is_empty() {
        return Err(Malformed::new("reminder.lines", "is empty"));
    }
    for line in &reminder.lines {
        let _: InvoiceId = snapshot::id("reminder.lines.invoice_id", &line.invoice_id)?;
        line.charges.iter().try_for_each(check_charge)?;
    }
    if contact_hours(request).is_none() {
        return Err(Malformed::new("contact_hours", "make no sense"));
    }
    Ok(NewDelivery {
        id: reminder.reminder_id.parse().map_err(|e| Malformed::new("reminder.reminder_id", e))?,
        merchant: reminder.merchant_id.clone(),
        customer: reminder.customer_id.clone(),
        // One that is not known fails by name when its time comes.
        channel: channel::from_wire(reminder.channel).map_or("unknown", channel::name),
        request: request.encode_to_vec(),
        invoices: reminder.lines.iter().map(|l| l.invoice_id.clone()).collect(),
        due_at: time::from_wire(request.due_at).ok_or_else(|| Malformed::missing("due_at"))?,
        traceparent: incoming.trace(),
    })
}

fn check_charge(charge: &v1::Charge) -> Result<(), Malformed> {
    if charge.kind() == v1::ChargeKind::Unspecified {
        return Err(Malformed::new("reminder.lines.charges.kind", format!("{} is not a known kind", charge.kind)));
    }
    if charge.amount_minor < 0 {
        return Err(Malformed::new("reminder.lines.charges.amount_minor", "is negative"));
    }
    time::date_from_wire(&charge.as_of).map_err(|e| Malformed::new("reminder.lines.charges.as_of", e)).map(drop)
}

/// A delivery in work: what it is about and to whom it goes.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The delivery, which is the reminder.
    pub id: Uuid,
    /// How often it was claimed, this time included: tells this claim from others.
    pub attempts: i32,
    /// When it was claimed.
    pub claimed: Instant,
    /// How often the relay was tried in vain before.
    pub tries: i32,
    /// It was put back to wait for its turn, which has come.
    pub has_slot: bool,
    /// How to reach the payer; `Unspecified`: by a way that this version does not know.
    pub channel: Channel,
    /// Other ways, if this one cannot, in their order.
    pub fallbacks: Vec<Channel>,
    /// What about.
    pub reminder: Reminder,
    /// Whose.
    pub merchant: MerchantId,
    /// When it may be handed over.
    pub hours: ContactHours,
    /// What was owed when it was claimed.
    pub owed: Vec<(ReminderLine, Balance)>,
    /// The versions of all its invoices by which that was seen: as long as they stay, so does what is owed.
    pub seen: BTreeMap<InvoiceKey, i64>,
    /// The name to greet.
    pub name: Masked<String>,
    /// The payer's language; empty if it is not known.
    pub locale: String,
    /// Where to: an email address, a number, the URL of the merchant's system; empty for a person, who finds out.
    pub address: Masked<String>,
    /// Under which names the payer may be on the suppression list.
    pub subjects: [Masked<String>; 3],
    /// The domain of the merchant's From address.
    pub sending_domain: String,
    /// The payer's email address; may be empty.
    pub email: Masked<String>,
    /// The payer's number, E.164; may be empty.
    pub phone: Masked<String>,
    /// The trace that asked for it.
    pub traceparent: Option<String>,
}

impl Ticket {
    /// What the message says.
    pub fn said(&self) -> Said {
        Said::of(&self.owed.iter().map(|(l, b)| (l, b)).collect::<Vec<_>>())
    }

    fn invoice_keys(&self) -> impl Iterator<Item = InvoiceKey> {
        let lines = self.reminder.lines.iter().filter_map(|l| InvoiceId::try_new(&l.invoice_id).ok());
        lines.map(|invoice| (self.merchant.clone(), invoice))
    }
}

/// How a delivery goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The mail server took it.
    Sent(Reply),
    /// Nothing to remind of, or nobody to be reminded.
    Suppressed(String),
    /// It cannot be sent.
    Failed {
        /// Machine-readable.
        reason: &'static str,
        /// Of the mail server's reply.
        status_code: String,
        /// Nobody should write to the address again.
        bad_address: bool,
    },
    /// It may have been sent.
    Unknown(&'static str),
    /// Not now.
    PutBack {
        /// From when on.
        at: Timestamp,
        /// Why.
        reason: String,
        /// Of the mail server's reply.
        status_code: String,
        /// The relay was tried in vain: too many of these, and the delivery is given up.
        tried: bool,
    },
}

impl Verdict {
    /// Not now, but from a moment on.
    pub fn put_back(at: Timestamp, reason: impl Into<String>) -> Self {
        Self::PutBack { at, reason: reason.into(), status_code: String::new(), tried: false }
    }

    /// Not now, for a reason of our own that should pass.
    pub fn wait_for_us(host: &Host, attempts: i32, reason: &str) -> Self {
        Self::put_back(host.clock.after(catch_up(attempts)), reason)
    }

    /// The template is not there, or does not work. That may change: until then the reminder waits. However fast the clock
    /// runs, whoever looks after the directory needs a moment.
    pub fn wait_for_template(host: &Host, reason: &'static str) -> Self {
        let later = host.now().saturating_add(SignedDuration::from_mins(1)).unwrap_or(Timestamp::MAX);
        Self::put_back(later.max(host.clock.after(Duration::from_secs(1))), reason)
    }

    /// The merchant is not configured here. Another replica may know it, or we after the next start.
    pub fn merchant_unknown(now: Timestamp) -> Self {
        let later = now.saturating_add(SignedDuration::from_mins(1)).unwrap_or(Timestamp::MAX);
        Self::put_back(later, "merchant_unknown")
    }

    /// What an attempt means: a step that could not be handed over for days is of no use any more.
    pub fn of_attempt(attempt: Attempt, tries: i32, now: Timestamp) -> Self {
        /// About three days of two-hourly tries.
        const MAX_TRIES: i32 = 40;
        match attempt {
            Attempt::Accepted(reply) => Self::Sent(reply),
            Attempt::Unknown => Self::Unknown("no_reply"),
            Attempt::Failed { reason, status_code, bad_address } => Self::Failed { reason, status_code, bad_address },
            Attempt::Retry { status_code, .. } if tries + 1 >= MAX_TRIES => {
                Self::Failed { reason: "expired", status_code, bad_address: false }
            }
            Attempt::Retry { reason, status_code, .. } => {
                Self::PutBack { at: next_attempt(now, tries + 1), reason, status_code, tried: true }
            }
        }
    }

    /// The same without what others have said about it.
    pub fn without_texts(&self) -> Self {
        match self.clone() {
            Self::Sent(reply) => Self::Sent(Reply { text: Masked::default(), ..reply }),
            Self::Failed { reason, bad_address, .. } => {
                Self::Failed { reason, status_code: String::new(), bad_address }
            }
            Self::PutBack { at, tried, .. } => {
                Self::PutBack { at, reason: String::new(), status_code: String::new(), tried }
            }
            other => other,
        }
    }

    /// Label for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sent(_) => "sent",
            Self::Suppressed(_) => "suppressed",
            Self::Failed { .. } => "failed",
            Self::Unknown(_) => "unknown",
            Self::PutBack { .. } => "put_back",
        }
    }
}

/// Claims mail whose time has come, so much of each merchant, and looks at each: what is worth a try comes back as tickets
/// with a place, the others are settled. Returns how many there were, too.
pub async fn claim(
    work: &mut Work,
    host: &Host,
    pace: &Pace,
    owner: Uuid,
    shares: &[(MerchantId, i64)],
) -> Result<(usize, Vec<(Ticket, Place)>), Failure> {
    let now = host.now();
    let claimed = store::claim(work.tx(), owner, shares, now).await?;
    let count = claimed.len();
    let (tickets, mut settled) = look_at(work, host, owner, claimed, now).await?;
    let mut ready = Vec::with_capacity(tickets.len());
    for ticket in tickets {
        match pace.admit(&ticket.merchant, ticket.address.reveal(), ticket.has_slot) {
            Ok(place) => ready.push((ticket, place)),
            Err(wait) => {
                let verdict = Verdict::put_back(host.clock.after(wait.time), wait.reason);
                settled.push((ticket, verdict));
            }
        }
    }
    settle(work, pace, owner, &settled, now).await?;
    Ok((count, ready))
}

/// Who claims: which process, by which channel, and whom it leaves alone.
#[derive(Debug, Clone, Copy)]
pub struct Claimer<'a> {
    /// The process, with a lease.
    pub owner: Uuid,
    /// Deliveries of this channel.
    pub channel: &'a str,
    /// None of these merchants: they have enough in work.
    pub busy: &'a [String],
}

/// The same for other channels than mail. Those of merchants whose payments are not known in time are held: they stay where
/// they are.
pub async fn claim_other(
    work: &mut Work,
    host: &Host,
    freshness: &Freshness,
    claimer: Claimer<'_>,
    limit: i64,
) -> Result<Vec<Ticket>, Failure> {
    let (now, Claimer { owner, channel, busy }) = (host.now(), claimer);
    let mut away = freshness.held(host).iter().map(ToString::to_string).collect::<Vec<_>>();
    away.extend_from_slice(busy);
    let claimed = channel::store::claim(work.tx(), owner, channel, &away, now, limit).await?;
    let (tickets, settled) = look_at(work, host, owner, claimed, now).await?;
    settle_any(work, owner, &settled, now).await?;
    Ok(tickets)
}

type Settled = Vec<(Ticket, Verdict)>;

/// Looks at claimed deliveries of one channel: which are worth a try, and what becomes of the others.
async fn look_at(
    work: &mut Work,
    host: &Host,
    owner: Uuid,
    claimed: Vec<Claimed>,
    now: Timestamp,
) -> Result<(Vec<Ticket>, Settled), Failure> {
    if claimed.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (mut tickets, mut unreadable, mut settled) = (Vec::new(), Vec::new(), Vec::new());
    for delivery in claimed {
        match read_ticket(&delivery) {
            Ok(ticket) => tickets.push(ticket),
            Err(fault) => {
                // Checked when it was taken: only a change of the code can make it unreadable.
                tracing::error!(delivery = %delivery.id, %fault, "stored request cannot be read any more");
                unreadable.push(delivery);
            }
        }
    }
    end_unreadable(work, owner, &unreadable, now).await?;
    let channel = tickets.first().map_or("", |t| channel::name(t.channel));
    let known = Known::load(work.tx(), channel, &tickets).await?;
    let mut worth = Vec::with_capacity(tickets.len());
    for mut ticket in tickets {
        match look(&mut ticket, &known, host, now) {
            Some(verdict) => settled.push((ticket, verdict)),
            None => worth.push(ticket),
        }
    }
    Ok((worth, settled))
}

fn read_ticket(delivery: &Claimed) -> Result<Ticket, Malformed> {
    let request = ReminderDue::decode(&*delivery.request).map_err(|e| Malformed::new("request", e))?;
    let hours = contact_hours(&request).ok_or_else(|| Malformed::missing("contact_hours"))?;
    let (channel, fallbacks) = channel::route(&request, &delivery.channel);
    let mut reminder = request.reminder.ok_or_else(|| Malformed::missing("reminder"))?;
    if channel != Channel::Unspecified {
        reminder.channel = channel.into();
    }
    Ok(Ticket {
        id: delivery.id,
        attempts: delivery.attempts,
        claimed: Instant::now(),
        tries: delivery.tries,
        has_slot: delivery.reason == pace::RATE,
        merchant: snapshot::id("reminder.merchant_id", &reminder.merchant_id)?,
        channel,
        fallbacks,
        reminder,
        hours,
        owed: Vec::new(),
        seen: BTreeMap::new(),
        name: Masked::default(),
        locale: String::new(),
        address: Masked::default(),
        subjects: Default::default(),
        sending_domain: String::new(),
        email: Masked::default(),
        phone: Masked::default(),
        traceparent: delivery.traceparent.clone(),
    })
}

/// What a stored delivery is about. Whatever became of the request: whose it is, the row says too.
fn reminder_of(delivery: &Claimed) -> Reminder {
    let request = ReminderDue::decode(&*delivery.request).ok();
    request.and_then(|r| r.reminder).unwrap_or_else(|| Reminder {
        merchant_id: delivery.merchant.clone(),
        reminder_id: delivery.id.to_string(),
        customer_id: delivery.customer.clone(),
        segment: v1::Segment::New.into(),
        ..Default::default()
    })
}

async fn end_unreadable(work: &mut Work, owner: Uuid, list: &[Claimed], now: Timestamp) -> Result<(), Failure> {
    const REASON: &str = "unreadable";
    if list.is_empty() {
        return Ok(());
    }
    let end = |d: &Claimed| End {
        delivery: d.id,
        attempts: d.attempts,
        state: "failed",
        reason: REASON.to_owned(),
        ..End::default()
    };
    store::end(work.tx(), owner, &list.iter().map(end).collect::<Vec<_>>(), now).await?;
    for delivery in list {
        let event = v1::ReminderFailed {
            reminder: Some(reminder_of(delivery)),
            failed_at: Some(time::to_wire(now)),
            reason: REASON.to_owned(),
            status_code: String::new(),
        };
        work.emit_as(kernel::id::at(now), now, &event, delivery.traceparent.clone())?;
    }
    Ok(())
}

/// What is known about a group of tickets.
struct Known {
    balances: Balances,
    contacts: BTreeMap<(String, String), Contact>,
    suppressed: BTreeMap<(String, String), String>,
}

impl Known {
    async fn load(tx: &mut PgConnection, channel: &str, tickets: &[Ticket]) -> Result<Self, Failure> {
        let invoices: Vec<InvoiceKey> = tickets.iter().flat_map(Ticket::invoice_keys).collect();
        let customers: Vec<_> =
            tickets.iter().map(|t| (t.reminder.merchant_id.clone(), t.reminder.customer_id.clone())).collect();
        let balances = store::load_balances(tx, &invoices.iter().collect::<Vec<_>>()).await?;
        let contacts = store::load_contacts(tx, &customers).await?;
        let by_customer: Vec<_> = customers.iter().map(|(m, c)| (m.as_str(), store::by_customer(c))).collect();
        let subjects: Vec<_> = by_customer.iter().map(|(m, s)| (*m, s)).collect();
        let suppressed = store::suppressed(tx, channel, &subjects).await?;
        Ok(Self { balances, contacts, suppressed })
    }
}

/// Looks at a ticket before anything is rendered; fills in whom it goes to and what about. `None`: worth a try.
fn look(ticket: &mut Ticket, known: &Known, host: &Host, now: Timestamp) -> Option<Verdict> {
    let failed = |reason| Some(Verdict::Failed { reason, status_code: String::new(), bad_address: false });
    let owed = match claims(&ticket.merchant, &ticket.reminder, &known.balances) {
        Claims::Behind => return Some(Verdict::wait_for_us(host, ticket.attempts, "balance_unknown")),
        Claims::Nothing(reason) => return Some(Verdict::Suppressed(reason.to_owned())),
        Claims::Owed(owed) => owed.into_iter().map(|(l, b)| (l.clone(), b.clone())).collect(),
    };
    ticket.owed = owed;
    let seen = ticket.invoice_keys().filter_map(|key| Some((known.balances.get(&key)?.version, key)));
    ticket.seen = seen.map(|(version, key)| (key, version)).collect();
    let merchant = ticket.reminder.merchant_id.clone();
    let customer = ticket.reminder.customer_id.clone();
    if let Some(reason) = known.suppressed.get(&(merchant.clone(), store::by_customer(&customer).into_inner())) {
        return Some(Verdict::Suppressed(reason.clone()));
    }
    if ticket.channel == Channel::Unspecified {
        return failed("channel");
    }
    match channel::hours(ticket.channel, &ticket.hours) {
        Some(hours) => ticket.hours = hours,
        None => return failed("never_open"),
    }
    let contact = known.contacts.get(&(merchant, customer));
    if contact.is_some_and(|c| c.deleted) {
        return Some(Verdict::Suppressed("customer_deleted".to_owned()));
    }
    // The customer's own entry counts; what is printed on the invoice helps out while there is none.
    let billed = |field: fn(&Balance) -> &Masked<String>| {
        ticket.owed.iter().map(|(_, b)| field(b)).find(|v| !v.reveal().is_empty()).cloned().unwrap_or_default()
    };
    let own = |field: fn(&Contact) -> &Masked<String>| contact.map(field).filter(|v| !v.reveal().is_empty()).cloned();
    ticket.email = own(|c| &c.email).unwrap_or_else(|| billed(|b| &b.bill_to_email));
    ticket.phone = own(|c| &c.phone).unwrap_or_default();
    ticket.name = own(|c| &c.name).unwrap_or_else(|| billed(|b| &b.bill_to_name));
    ticket.locale = contact.map(|c| c.locale.clone()).unwrap_or_default();
    let Some(merchant) = host.merchants.get(&ticket.merchant) else { return Some(Verdict::merchant_unknown(now)) };
    ticket.sending_domain = domain_of(&merchant.file.sender.email);
    match channel::address(ticket, merchant) {
        Ok(address) => ticket.address = address,
        Err(reason) => return failed(reason),
    }
    ticket.subjects = subjects(ticket, host);
    closed_now(&ticket.hours, now)
}

/// Put back until the payer may be written to again, if not now.
fn closed_now(hours: &ContactHours, now: Timestamp) -> Option<Verdict> {
    (!hours.is_open(now)).then(|| match hours.next_open(now) {
        Some(open) => Verdict::put_back(open, "contact_hours"),
        None => Verdict::Failed { reason: "never_open", status_code: String::new(), bad_address: false },
    })
}

/// T1: notes that the final dots of these messages may be written next, and keeps what they say. Must be committed before
/// any dot. Returns the deliveries that are still ours; the connections of the others are to be dropped. Modelled in
/// `tests/model.rs`.
pub async fn announce(
    tx: &mut PgConnection,
    owner: Uuid,
    messages: &[(&Ticket, &Kept)],
    now: Timestamp,
) -> Result<BTreeSet<Uuid>, Failure> {
    let imminent: Vec<Imminent<'_>> = messages
        .iter()
        .map(|(t, message)| Imminent { delivery: t.id, attempts: t.attempts, recipient: t.address.reveal(), message })
        .collect();
    Ok(store::mark_imminent(tx, owner, &imminent, now).await?.into_iter().collect())
}

/// What the last look at a message says.
#[derive(Debug)]
pub enum Look {
    /// Its dot may be written, before a moment from which on what we know of payments would be too old.
    Granted {
        /// That moment.
        until: Instant,
    },
    /// It may not.
    Refused(Verdict),
}

/// T2: the last look. Locks the balances of all messages and says for each whether its dot may be written. The dots must be
/// written before the transaction ends; a payment waits for it, or has been seen here, or is younger than the merchant's bound.
/// Modelled in `tests/model.rs`.
pub async fn permit(
    tx: &mut PgConnection,
    host: &Host,
    freshness: &Freshness,
    tickets: &[&Ticket],
) -> Result<Vec<Look>, Failure> {
    let now = host.now();
    let (changed, news) = lock(tx, tickets).await?;
    let people =
        tickets.iter().flat_map(|t| t.subjects.iter().map(|subject| (t.reminder.merchant_id.as_str(), subject)));
    // Each sender has tickets of one channel only.
    let channel = tickets.first().map_or("", |t| channel::name(t.channel));
    let suppressed = store::suppressed(tx, channel, &people.collect::<Vec<_>>()).await?;
    let look = |(ticket, changed): (&&Ticket, bool)| {
        let fresh = host.merchants.get(&ticket.merchant).and_then(|merchant| freshness.permits_until(merchant));
        match (last_look(ticket, changed.then_some(&news), &suppressed, now), fresh) {
            (Some(refusal), _) => Look::Refused(refusal),
            (None, Some(until)) => Look::Granted { until },
            (None, None) => Look::Refused(Verdict::put_back(now, freshness::STALE)),
        }
    };
    Ok(tickets.iter().zip(changed).map(look).collect())
}

/// Locks the balances of all invoices that tickets are about. Returns for which tickets they are not those that were looked at
/// before, and what they are now, for these.
async fn lock(tx: &mut PgConnection, tickets: &[&Ticket]) -> Result<(Vec<bool>, Balances), Failure> {
    let seen: BTreeMap<&InvoiceKey, i64> = tickets.iter().flat_map(|t| &t.seen).map(|(k, v)| (k, *v)).collect();
    let others = store::lock_balances(tx, &seen).await?;
    // Of two tickets about one invoice the other may have seen another version of it.
    let is_new =
        |(invoice, version): (&InvoiceKey, &i64)| others.contains(invoice) || seen.get(invoice) != Some(version);
    let changed: Vec<bool> = tickets.iter().map(|t| t.seen.iter().any(is_new)).collect();
    let of_changed = tickets.iter().zip(&changed).filter(|(_, changed)| **changed);
    let anew: BTreeSet<&InvoiceKey> = of_changed.flat_map(|(t, _)| t.seen.keys()).collect();
    let news = store::load_balances(tx, &anew.into_iter().collect::<Vec<_>>()).await?;
    Ok((changed, news))
}

/// Under which names somebody may be on the suppression list.
fn subjects(ticket: &Ticket, host: &Host) -> [Masked<String>; 3] {
    let address = ticket.address.reveal();
    let hash = address_hash(&host.links, &ticket.reminder.merchant_id, address);
    [store::by_customer(&ticket.reminder.customer_id), store::by_address(address), Masked::new(format!("hash:{hash}"))]
}

fn last_look(
    ticket: &Ticket,
    news: Option<&Balances>,
    suppressed: &BTreeMap<(String, String), String>,
    now: Timestamp,
) -> Option<Verdict> {
    match news.map(|balances| claims(&ticket.merchant, &ticket.reminder, balances)) {
        Some(Claims::Nothing(reason)) => return Some(Verdict::Suppressed(reason.to_owned())),
        Some(Claims::Behind) => return Some(Verdict::put_back(now, "balance_unknown")),
        // Something was paid since the message was rendered: it has to be rendered anew.
        Some(Claims::Owed(owed)) if Said::of(&owed) != ticket.said() => {
            return Some(Verdict::put_back(now, "changed"));
        }
        Some(Claims::Owed(_)) | None => {}
    }
    // What a person wants goes before what became of an address: it is not to be got round by another channel.
    let merchant = &ticket.reminder.merchant_id;
    let on_list = |subject: &Masked<String>| suppressed.get(&(merchant.clone(), subject.reveal().clone()));
    let reason = if suppressed.is_empty() { None } else { ticket.subjects.iter().find_map(on_list) };
    match reason {
        Some(reason) => Some(Verdict::Suppressed(reason.clone())),
        None => closed_now(&ticket.hours, now),
    }
}

/// Settles mail, and counts what became of it, by sending domain.
pub async fn settle(
    work: &mut Work,
    pace: &Pace,
    owner: Uuid,
    settled: &[(Ticket, Verdict)],
    now: Timestamp,
) -> Result<(), Failure> {
    let done = settle_any(work, owner, settled, now).await?;
    let mut sending: BTreeMap<String, Sending> = BTreeMap::new();
    for (ticket, verdict) in settled.iter().filter(|(t, _)| done.contains(&t.id)) {
        let bounced = matches!(verdict, Verdict::Failed { bad_address: true, .. });
        if bounced || matches!(verdict, Verdict::Sent(_)) {
            let counts = sending.entry(ticket.sending_domain.clone()).or_default();
            counts.sent += 1;
            counts.bounced += i64::from(bounced);
        }
    }
    Ok(store::count_sending(work.tx(), &sending, pace.limits(), now).await?)
}

/// Settles deliveries: ends them and tells, has them go on by the next channel, or puts them back. Returns those that really
/// ended or went on.
pub async fn settle_any(
    work: &mut Work,
    owner: Uuid,
    settled: &[(Ticket, Verdict)],
    now: Timestamp,
) -> Result<HashSet<Uuid>, Failure> {
    let (mut ends, mut put_back, mut suppressions) = (Vec::new(), Vec::new(), Vec::new());
    let mut moves = Vec::new();
    for (ticket, verdict) in settled {
        match verdict {
            verdict
                if !channel::may_have_arrived(ticket.channel, ticket.tries)
                    && let Some(next) = channel::next(verdict, &ticket.fallbacks) =>
            {
                moves.push(Move::new(ticket, verdict, next));
            }
            Verdict::PutBack { at, reason, status_code, tried } => put_back.push(PutBack {
                delivery: ticket.id,
                attempts: ticket.attempts,
                next_attempt_at: *at,
                reason: reason.clone(),
                status_code: status_code.clone(),
                tried: *tried,
            }),
            verdict => ends.push(end_of(ticket, verdict)),
        }
        if let Verdict::Failed { bad_address: true, reason, .. } = verdict {
            suppressions.push(Suppression {
                merchant: ticket.merchant.clone(),
                channel: channel::name(ticket.channel),
                subject: store::by_address(ticket.address.reveal()),
                reason: channel::suppression_reason(reason),
                source: format!("delivery {}", ticket.id),
            });
        }
    }
    store::put_back(work.tx(), owner, &put_back).await?;
    let moved = channel::store::move_on(work.tx(), owner, &moves, now).await?;
    store::suppress(work.tx(), &suppressions, now).await?;
    if ends.is_empty() {
        return Ok(moved);
    }
    let ended = store::end(work.tx(), owner, &ends, now).await?;
    let unseen = settled.iter().filter(|(ticket, verdict)| {
        let may_be_seen = channel::may_have_arrived(ticket.channel, ticket.tries);
        ended.contains(&ticket.id) && !may_be_seen && matches!(verdict, Verdict::Suppressed(_))
    });
    store::forget_messages(work.tx(), &unseen.map(|(ticket, _)| ticket.id).collect::<Vec<_>>()).await?;
    for (ticket, verdict) in settled.iter().filter(|(t, _)| ended.contains(&t.id)) {
        tell(work, ticket, verdict, now)?;
    }
    Ok(ended.into_iter().chain(moved).collect())
}

fn end_of(ticket: &Ticket, verdict: &Verdict) -> End {
    let mut end = End { delivery: ticket.id, attempts: ticket.attempts, state: "handed_off", ..End::default() };
    match verdict {
        Verdict::Sent(reply) => {
            end.status_code = reply.to_string();
            end.accepted_as = printable(reply.text.reveal());
        }
        Verdict::Suppressed(reason) => (end.state, end.reason) = ("suppressed", reason.clone()),
        Verdict::Failed { reason, status_code, .. } => {
            (end.state, end.reason, end.status_code) = ("failed", (*reason).to_owned(), status_code.clone());
        }
        Verdict::Unknown(reason) => (end.state, end.reason) = ("unknown", (*reason).to_owned()),
        Verdict::PutBack { .. } => {}
    }
    end
}

/// The beginning of a mail server's words, as they can be stored and shown.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn tell(work: &mut Work, ticket: &Ticket, verdict: &Verdict, now: Timestamp) -> Result<(), Failure> {
    let (reminder, at) = (Some(ticket.reminder.clone()), Some(time::to_wire(now)));
    let (id, trace) = (kernel::id::at(now), ticket.traceparent.clone());
    match verdict {
        Verdict::Sent(_) => {
            let invoice_ids = ticket.owed.iter().map(|(l, _)| l.invoice_id.clone()).collect();
            let event = v1::ReminderSent { reminder, sent_at: at, invoice_ids, message_id: ticket.id.to_string() };
            work.emit_as(id, now, &event, trace)?;
        }
        Verdict::Suppressed(reason) => {
            let event = v1::ReminderSuppressed { reminder, suppressed_at: at, reason: reason.clone() };
            work.emit_as(id, now, &event, trace)?;
        }
        Verdict::Failed { reason, status_code, .. } => {
            let (reason, status_code) = ((*reason).to_owned(), status_code.clone());
            work.emit_as(id, now, &v1::ReminderFailed { reminder, failed_at: at, reason, status_code }, trace)?;
        }
        Verdict::Unknown(reason) => {
            let event = v1::ReminderUnknown { reminder, unknown_at: at, reason: (*reason).to_owned() };
            work.emit_as(id, now, &event, trace)?;
        }
        Verdict::PutBack { .. } => {}
    }
    Ok(())
}

/// Takes over what processes held whose lease has ended. Returns how many of these may have been sent.
pub async fn take_over(work: &mut Work, now: Timestamp) -> Result<usize, Failure> {
    let unknown = store::take_over(work.tx(), now).await?;
    for delivery in &unknown {
        let (reminder, unknown_at) = (Some(reminder_of(delivery)), Some(time::to_wire(now)));
        let event = v1::ReminderUnknown { reminder, unknown_at, reason: "crashed".to_owned() };
        work.emit_as(kernel::id::at(now), now, &event, delivery.traceparent.clone().or_else(trace::current))?;
    }
    Ok(unknown.len())
}
