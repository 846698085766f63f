//! What is said about an invoice, and what follows from it. Pure.
//!
//! Processors repeat themselves and deliver out of order. So an invoice's state is not changed event by event: the facts
//! are collected as a set, and the state is a function of the set. Whatever order the same facts come in, and however
//! often, the state is the same; only the changes on the way differ.

use events::{Customer, Invoice, InvoiceStatus, Malformed};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{Currency, CustomerId, InvoiceId, Masked, MerchantId, PayerKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The largest amount that is believed, in minor units: ten trillion euros. Sums of such amounts stay far from overflowing.
pub const MAX_MINOR: i64 = 1_000_000_000_000_000;
/// Longest text, in characters: with it every event fits into its stream.
const MAX_TEXT: usize = 1_000;
/// Longest address of a page.
const MAX_URL: usize = 4_000;
/// Longest code or tag, or name of a campaign.
const MAX_CODE: usize = 100;
/// Most tags of an invoice or a customer.
const MAX_TAGS: usize = 50;

/// Which way facts come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Stripe's webhooks.
    Stripe,
    /// The gRPC edge.
    Grpc,
    /// CloudEvents on the intake stream.
    Nats,
    /// A file, by `dunlin import`.
    File,
}

impl Source {
    /// As in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
            Self::Grpc => "grpc",
            Self::Nats => "nats",
            Self::File => "file",
        }
    }
}

/// A fact with the moment it tells of and the sender's id of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// When it happened, as the sender tells.
    pub at: Timestamp,
    /// The sender's id; the same id is the same fact.
    pub id: String,
    /// What happened.
    pub fact: Fact,
}

/// Something that happened to an invoice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// How the invoice looked at that moment.
    Snapshot(Box<Snapshot>),
    /// The processor says that it is paid in full.
    Paid {
        /// When, if it tells.
        paid_at: Option<Timestamp>,
        /// Said because of the payment itself, not by the way: only this closes an epoch after the first, since a
        /// processor goes on calling a charged-back invoice paid.
        certain: bool,
    },
    /// Money arrived that the snapshots do not count.
    Payment {
        /// The sender's id of the payment.
        payment: String,
        /// In minor units.
        amount_minor: i64,
        /// Must be the invoice's: a payment in another one counts nothing.
        currency: Currency,
    },
    /// Collecting failed.
    Failure {
        /// The processor's reason.
        decline_code: String,
        /// The processor's own count of attempts, if it counts.
        attempt: Option<i32>,
    },
    /// Money that had arrived is gone.
    Reversal {
        /// The sender's id of the reversal; the largest amount said under it counts.
        reversal: String,
        /// Why.
        kind: ReversalKind,
        /// In minor units.
        amount_minor: i64,
    },
    /// The merchant ended it without payment.
    Closure(Closure),
    /// The payer contests the charge, or no longer does.
    Dispute {
        /// The sender's id of the dispute.
        dispute: String,
        /// True when it begins, false when it ends.
        open: bool,
    },
    /// The processor calls it overdue.
    OverdueHint,
    /// Money is under way, or is not any more. A payment or a failure ends it too.
    Pending(bool),
}

/// How an invoice looks to its sender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in dunlin.events.v1.Invoice, unless said otherwise")]
pub struct Snapshot {
    pub customer: CustomerId,
    pub number: String,
    pub currency: Currency,
    pub total_minor: i64,
    /// What the sender counts as paid or credited.
    pub paid_minor: i64,
    pub issued_on: Date,
    pub due_on: Option<Date>,
    /// Not issued yet: other services must not hear of it.
    pub draft: bool,
    pub pay_url: Masked<String>,
    #[serde(default)]
    pub document_url: Masked<String>,
    pub bill_to_name: Masked<String>,
    pub bill_to_email: Masked<String>,
    pub source: Source,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub campaign: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub collects_itself: bool,
    /// Some of it made no sense and is left out: the same fact, corrected, replaces it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Snapshot {
    /// Takes the person out: name, address, links.
    pub fn erase_person(&mut self) {
        for text in [&mut self.pay_url, &mut self.document_url, &mut self.bill_to_name, &mut self.bill_to_email] {
            *text = Masked::default();
        }
    }

    /// What cannot be true of any invoice. `prefix` is what the sender calls the place of these fields.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.total_minor < 0 {
            return Err(Malformed::new(
                "total",
                format!("{} is negative; an invoice asks for money", self.total_minor),
            ));
        }
        if self.paid_minor < 0 {
            return Err(Malformed::new("paid", format!("{} is negative", self.paid_minor)));
        }
        check_amount("total", self.total_minor)?;
        check_amount("paid", self.paid_minor)?;
        check_text("number", &self.number, MAX_TEXT)?;
        check_text("bill_to_name", self.bill_to_name.reveal(), MAX_TEXT)?;
        check_text("bill_to_email", self.bill_to_email.reveal(), MAX_TEXT)?;
        check_text("pay_url", self.pay_url.reveal(), MAX_URL)?;
        check_text("document_url", self.document_url.reveal(), MAX_URL)?;
        match self.due_on {
            Some(due) if due < self.issued_on => {
                Err(Malformed::new("due_on", format!("{due} lies before the date of issue, {}", self.issued_on)))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses amounts that nobody is billed.
pub fn check_amount(field: &'static str, minor: i64) -> Result<(), Malformed> {
    if minor <= MAX_MINOR {
        return Ok(());
    }
    Err(Malformed::new(field, format!("{minor} is too large; at most {MAX_MINOR} minor units are believed")))
}

/// Refuses codes that are longer than any there is, or cannot be stored.
pub fn check_code(field: &'static str, code: &str) -> Result<(), Malformed> {
    check_text(field, code, MAX_CODE)
}

/// Refuses ids that are longer than processors make them, or cannot be stored.
pub fn check_id(field: &'static str, id: &str) -> Result<(), Malformed> {
    check_text(field, id, 255)
}

/// Labels that a sender gave: each once, in its order.
pub fn tags<'a>(field: &'static str, given: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, Malformed> {
    let mut tags: Vec<String> = Vec::new();
    for tag in given {
        if tag.is_empty() {
            return Err(Malformed::new(field, "contains an empty tag"));
        }
        if let Some(c) = tag.chars().find(|c| c.is_control() || *c == ',') {
            return Err(Malformed::new(field, format!("contains a tag with {c:?}, which a tag cannot have")));
        }
        check_code(field, tag).map_err(|e| Malformed::new(field, format!("contains a tag that {}", e.problem)))?;
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    match tags.len() {
        count if count > MAX_TAGS => Err(Malformed::new(field, format!("has {count} tags; at most {MAX_TAGS} fit"))),
        _ => Ok(tags),
    }
}

/// The name of a campaign, or empty.
pub fn campaign(field: &'static str, name: &str) -> Result<String, Malformed> {
    check_code(field, name)?;
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
        Some(c) => {
            Err(Malformed::new(field, format!("contains {c:?}; a campaign's name has letters, digits, - and _ only")))
        }
        None => Ok(name.to_owned()),
    }
}

/// A country in ISO 3166-1 alpha-2, in capitals; or empty.
pub fn country(field: &'static str, code: &str) -> Result<String, Malformed> {
    let known = code.is_empty() || (code.len() == 2 && code.chars().all(|c| c.is_ascii_alphabetic()));
    let shown: String = code.chars().take(MAX_CODE).collect();
    let wrong = || Malformed::new(field, format!("{shown:?} is no country of two letters such as DE"));
    if known { Ok(code.to_ascii_uppercase()) } else { Err(wrong()) }
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), Malformed> {
    if text.contains('\0') {
        return Err(Malformed::new(field, "contains a zero character, which nothing can store"));
    }
    match text.chars().count() {
        length if length > max => Err(Malformed::new(field, format!("has {length} characters; at most {max} fit"))),
        _ => Ok(()),
    }
}

/// Why money is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReversalKind {
    /// The payer's bank took it back: a new epoch.
    Chargeback,
    /// A payment that had counted failed afterwards: a new epoch.
    LateFailure,
    /// The merchant gave it back: nothing is owed.
    Refund,
}

impl ReversalKind {
    const fn begins_epoch(self) -> bool {
        matches!(self, Self::Chargeback | Self::LateFailure)
    }
}

/// How an invoice ends without payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Closure {
    /// Taken back.
    Voided,
    /// Given up.
    WrittenOff,
}

/// Money that arrived: when, and how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Paid {
    at: Timestamp,
    amount_minor: i64,
    /// The message that said so.
    message: Uuid,
}

/// The set of facts about one invoice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The latest snapshot. Senders' clocks may count whole seconds: of two at the same moment a draft came first, and the
    /// one with less money paid; then the greater id is as good as any. Of the same one in part and whole, the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<(Timestamp, String, Box<Snapshot>)>,
    /// "Paid" said by the way: the earliest time is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_hint: Option<Timestamp>,
    /// "Paid" said because of a payment.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    paid: BTreeSet<Timestamp>,
    /// By payment id and currency: only those in the invoice's count, and it may not be known yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    payments: BTreeMap<String, BTreeMap<Currency, Paid>>,
    /// By fact id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failures: BTreeMap<String, (Timestamp, String, Option<i32>)>,
    /// By kind and id: a refund and a dispute may both be called by the charge's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reversals: BTreeMap<ReversalKind, BTreeMap<String, (Timestamp, i64)>>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    closures: BTreeSet<(Timestamp, Closure)>,
    /// By dispute id: whether its beginning and its end were said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    disputes: BTreeMap<String, (bool, bool)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    overdue_hint: bool,
    /// When money set out, as far as no [`Self::pending_ended`] follows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pending: BTreeSet<Timestamp>,
    /// When it was said last that none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending_ended: Option<Timestamp>,
}

impl Facts {
    /// Takes the person out of what is known.
    pub fn erase_person(&mut self) {
        if let Some((_, _, snapshot)) = &mut self.snapshot {
            snapshot.erase_person();
        }
    }

    /// Adds a fact that a message told to the set. Adding it twice is adding it once; the order of adding does not matter.
    pub fn add(&mut self, message: Uuid, Stamped { at, id, fact }: Stamped) {
        match fact {
            Fact::Snapshot(new) => {
                let newer = |(old_at, old_id, old): &(Timestamp, String, Box<Snapshot>)| {
                    (at, !new.draft, new.paid_minor, &id, !new.partial)
                        > (*old_at, !old.draft, old.paid_minor, old_id, !old.partial)
                };
                if self.snapshot.as_ref().is_none_or(newer) {
                    self.snapshot = Some((at, id, new));
                }
            }
            Fact::Paid { paid_at, certain: true } => _ = self.paid.insert(paid_at.unwrap_or(at)),
            Fact::Paid { paid_at, certain: false } => {
                let said = paid_at.unwrap_or(at);
                self.paid_hint = Some(self.paid_hint.map_or(said, |known| known.min(said)));
            }
            Fact::Payment { payment, amount_minor, currency } => {
                let said = Paid { at, amount_minor, message };
                let known = self.payments.entry(payment).or_default().entry(currency).or_insert(said);
                known.at = known.at.min(at);
                known.amount_minor = known.amount_minor.max(amount_minor);
                known.message = known.message.max(message);
            }
            Fact::Failure { decline_code, attempt } => _ = self.failures.insert(id, (at, decline_code, attempt)),
            Fact::Reversal { reversal, kind, amount_minor } => {
                // One reversal may be told in growing amounts (partial refunds of one charge). Its first moment counts.
                let known = self.reversals.entry(kind).or_default().entry(reversal).or_insert((at, amount_minor));
                *known = (known.0.min(at), known.1.max(amount_minor));
            }
            Fact::Closure(closure) => _ = self.closures.insert((at, closure)),
            Fact::Dispute { dispute, open } => {
                let known = self.disputes.entry(dispute).or_default();
                if open {
                    known.0 = true;
                } else {
                    known.1 = true;
                }
            }
            Fact::OverdueHint => self.overdue_hint = true,
            Fact::Pending(begins) => {
                if begins {
                    self.pending.insert(at);
                } else {
                    self.pending_ended = self.pending_ended.max(Some(at));
                }
                // What has ended tells nothing any more.
                let ended = self.pending_ended;
                self.pending.retain(|begun| ended.is_none_or(|ended| *begun > ended));
            }
        }
    }

    /// Takes payments out that cannot be for this invoice, since it is in another currency: each with the message that
    /// told of it. One that was also told in the invoice's currency stays: there it counts.
    pub fn take_misfits(&mut self) -> Vec<(Uuid, Malformed)> {
        let Some(owed) = self.snapshot.as_ref().map(|(_, _, details)| details.currency) else { return Vec::new() };
        let mut misfits = Vec::new();
        self.payments.retain(|_, said| {
            let fits = said.contains_key(&owed);
            if !fits {
                misfits.extend(said.iter().map(|(currency, paid)| {
                    let problem = format!("is {currency}, but the invoice is in {owed}");
                    (paid.message, Malformed::new("payment.currency", problem))
                }));
            }
            fits
        });
        misfits
    }

    /// Kind, id, moment and amount.
    fn reversals(&self) -> impl Iterator<Item = (ReversalKind, &str, Timestamp, i64)> {
        self.reversals
            .iter()
            .flat_map(|(kind, by_id)| by_id.iter().map(|(id, (at, amount))| (*kind, id.as_str(), *at, *amount)))
    }

    /// Since when money is under way. `over` are further moments up to which it does not count, such as payments.
    fn pending_since(&self, over: impl Iterator<Item = Timestamp>) -> Option<Timestamp> {
        let failed = self.failures.values().map(|(at, ..)| *at);
        let ended = over.chain(failed).chain(self.paid.iter().copied()).chain(self.pending_ended).max();
        self.pending.iter().copied().find(|begun| ended.is_none_or(|ended| *begun > ended))
    }

    /// The invoice that the facts make, or `None` while no snapshot of an issued invoice is among them.
    pub fn fold(&self, merchant: &MerchantId, invoice: &InvoiceId, version: i64) -> Option<Invoice> {
        let (snapshot_at, _, details) = self.snapshot.as_ref()?;
        if details.draft {
            return None;
        }
        let lost = || self.reversals().filter(|(kind, ..)| kind.begins_epoch());
        let epoch = 1 + i32::try_from(lost().count()).unwrap_or(i32::MAX - 1);
        let epoch_began_at = lost().map(|(_, _, at, _)| at).max();
        let in_epoch = |at: Timestamp| epoch_began_at.is_none_or(|began| at > began);

        let payments = || self.payments.values().filter_map(|said| said.get(&details.currency));
        let paid = payments().fold(details.paid_minor, |sum, paid| sum.saturating_add(paid.amount_minor));
        let reversed = lost().fold(0_i64, |sum, (.., amount)| sum.saturating_add(amount));
        let owed = details.total_minor.saturating_sub(paid).saturating_add(reversed).clamp(0, details.total_minor);

        let said_paid = self.paid.iter().copied().filter(|at| in_epoch(*at)).min();
        let said_paid = if epoch == 1 { said_paid.or(self.paid_hint) } else { said_paid };
        let closure = self.closures.iter().copied().find(|(at, _)| in_epoch(*at));
        let last_payment = payments().map(|paid| paid.at).max();
        let (status, closed_at) = match (said_paid, closure) {
            (Some(at), _) => (InvoiceStatus::Paid, Some(at)),
            (None, _) if owed == 0 => (InvoiceStatus::Paid, Some(last_payment.unwrap_or(*snapshot_at))),
            (None, Some((at, Closure::Voided))) => (InvoiceStatus::Void, Some(at)),
            (None, Some((at, Closure::WrittenOff))) => (InvoiceStatus::WrittenOff, Some(at)),
            (None, None) => (InvoiceStatus::Open, None),
        };

        let failures = || self.failures.values().filter(|(at, ..)| in_epoch(*at));
        let counted = i32::try_from(failures().count()).unwrap_or(i32::MAX);
        // The processor's own number also counts attempts that we never heard of; it does not start again in a new epoch.
        let numbered = if epoch == 1 { failures().filter_map(|(_, _, n)| *n).max().unwrap_or(0) } else { 0 };
        let last_failure =
            self.failures.iter().filter(|(_, (at, ..))| in_epoch(*at)).max_by_key(|(id, (at, ..))| (*at, *id));
        let pending_since = self.pending_since(payments().map(|paid| paid.at).chain(epoch_began_at));
        Some(Invoice {
            merchant: merchant.clone(),
            invoice: invoice.clone(),
            customer: details.customer.clone(),
            version,
            epoch,
            epoch_began_at,
            status,
            number: details.number.clone(),
            currency: details.currency,
            total_minor: details.total_minor,
            open_minor: if status == InvoiceStatus::Open { owed } else { 0 },
            issued_on: details.issued_on,
            due_on: details.due_on,
            closed_at,
            disputed: self.disputes.values().any(|(begun, ended)| *begun && !*ended),
            overdue_hint: self.overdue_hint,
            failed_attempts: counted.max(numbered),
            last_failed_at: last_failure.map(|(_, (at, ..))| *at),
            pay_url: details.pay_url.clone(),
            document_url: details.document_url.clone(),
            bill_to_name: details.bill_to_name.clone(),
            bill_to_email: details.bill_to_email.clone(),
            source: details.source.as_str().to_owned(),
            tags: details.tags.clone(),
            campaign: details.campaign.clone(),
            collects_itself: details.collects_itself,
            pending_since: pending_since.filter(|_| status == InvoiceStatus::Open),
            decline_code: last_failure.map(|(_, (_, code, _))| code.clone()).unwrap_or_default(),
        })
    }
}

/// What other services have to hear about a change of the facts.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The invoice became payable.
    Issued,
    /// The debt fell by a payment.
    PaymentReceived {
        /// By how much.
        amount_minor: i64,
        /// When.
        paid_at: Timestamp,
    },
    /// Collecting failed.
    PaymentFailed {
        /// Why.
        decline_code: String,
        /// When.
        failed_at: Timestamp,
    },
    /// Money is gone.
    PaymentReversed {
        /// Why.
        kind: ReversalKind,
        /// How much.
        amount_minor: i64,
        /// When.
        reversed_at: Timestamp,
    },
    /// Voided or written off.
    Closed,
    /// Anything else.
    Changed,
}

/// Compares two states of an invoice. `at` is the moment of the latest news, for payments that tell no time.
pub fn changes(before: (&Facts, Option<&Invoice>), after: (&Facts, &Invoice), at: Timestamp) -> Vec<Change> {
    let ((old_facts, old), (new_facts, new)) = (before, after);
    let mut changes = Vec::new();
    let Some(old) = old else {
        changes.push(Change::Issued);
        if new.status == InvoiceStatus::Paid {
            let paid_at = new.closed_at.unwrap_or(at);
            changes.push(Change::PaymentReceived { amount_minor: new.total_minor, paid_at });
        }
        return changes;
    };
    for (kind, id, reversed_at, amount_minor) in new_facts.reversals() {
        let told = old_facts.reversals.get(&kind).and_then(|by_id| by_id.get(id)).map_or(0, |(_, amount)| *amount);
        if amount_minor > told {
            changes.push(Change::PaymentReversed { kind, amount_minor: amount_minor - told, reversed_at });
        }
    }
    for (id, (failed_at, decline_code, _)) in &new_facts.failures {
        if !old_facts.failures.contains_key(id) {
            changes.push(Change::PaymentFailed { decline_code: decline_code.clone(), failed_at: *failed_at });
        }
    }
    let same_epoch = old.epoch == new.epoch;
    let newly_paid = new.status == InvoiceStatus::Paid && (old.status != InvoiceStatus::Paid || !same_epoch);
    if newly_paid
        || (same_epoch && new.status == InvoiceStatus::Open && new.open_minor < old.open_minor && !repriced(old, new))
    {
        let payments = new_facts.payments.values().filter_map(|said| said.get(&new.currency));
        let last_payment = payments.map(|paid| paid.at).max();
        let paid_at = new.closed_at.or(last_payment).unwrap_or(at);
        changes.push(Change::PaymentReceived { amount_minor: old.open_minor - new.open_minor, paid_at });
    }
    let gone = |i: &Invoice| matches!(i.status, InvoiceStatus::Void | InvoiceStatus::WrittenOff);
    if gone(new) && old.status != new.status {
        changes.push(Change::Closed);
    }
    let same = Invoice { version: old.version, ..new.clone() } == *old;
    if changes.is_empty() && !same {
        changes.push(Change::Changed);
    }
    changes
}

/// The total itself changed: a smaller debt need not be a payment.
fn repriced(old: &Invoice, new: &Invoice) -> bool {
    old.total_minor != new.total_minor
}

/// What a fact about a customer says of it, in the order in which it can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// It appeared.
    Created,
    /// It looks like this now.
    Updated,
    /// Nobody is left to write to.
    Deleted,
}

/// What is known about a customer: the latest fact holds; of two at the same moment the one of the later stage, then the
/// greater id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomerFacts {
    /// When it was said.
    pub at: Timestamp,
    /// The sender's id of the fact.
    pub id: String,
    /// What it says.
    pub stage: Stage,
    /// The name to greet.
    pub name: Masked<String>,
    /// The address to write to.
    pub email: Masked<String>,
    /// The number to call, as it was given.
    #[serde(default)]
    pub phone: Masked<String>,
    /// IANA zone, or empty.
    pub time_zone: String,
    /// BCP 47 language, or empty.
    pub locale: String,
    /// ISO 3166-1 alpha-2, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// The sender's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Business or consumer, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer_kind: Option<PayerKind>,
    /// The campaign chosen for this customer, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub campaign: String,
    /// Some of it made no sense and is left out: the same fact, corrected, replaces it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl CustomerFacts {
    /// Whether this is said later than another, or is the same in whole while the other is in part.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.at, self.stage, &self.id, !self.partial) > (other.at, other.stage, &other.id, !other.partial)
    }

    /// What fits into no event.
    pub fn check(&self) -> Result<(), Malformed> {
        check_text("name", self.name.reveal(), MAX_TEXT)?;
        check_text("email", self.email.reveal(), MAX_TEXT)?;
        check_text("phone", self.phone.reveal(), MAX_TEXT)?;
        check_code("locale", &self.locale)
    }

    /// The snapshot for events.
    pub fn snapshot(&self, merchant: &MerchantId, customer: &CustomerId, version: i64) -> Customer {
        Customer {
            merchant: merchant.clone(),
            customer: customer.clone(),
            version,
            name: self.name.clone(),
            email: self.email.clone(),
            time_zone: self.time_zone.clone(),
            locale: self.locale.clone(),
            deleted: self.stage == Stage::Deleted,
            country: self.country.clone(),
            tags: self.tags.clone(),
            payer_kind: self.payer_kind,
            campaign: self.campaign.clone(),
            phone: self.phone.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn eur() -> Currency {
        Currency::try_new("EUR").unwrap()
    }

    fn snapshot(paid_minor: i64) -> Box<Snapshot> {
        Box::new(Snapshot {
            customer: CustomerId::try_new("cus_1").unwrap(),
            number: "R-1".to_owned(),
            currency: eur(),
            total_minor: 1_000,
            paid_minor,
            issued_on: "2026-01-01".parse().unwrap(),
            due_on: Some("2026-01-31".parse().unwrap()),
            draft: false,
            pay_url: Masked::default(),
            document_url: Masked::default(),
            bill_to_name: Masked::default(),
            bill_to_email: Masked::default(),
            source: Source::Stripe,
            tags: Vec::new(),
            campaign: String::new(),
            collects_itself: false,
            partial: false,
        })
    }

    fn customer(second: i64, id: &str, stage: Stage) -> CustomerFacts {
        CustomerFacts {
            at: at(second),
            id: id.to_owned(),
            stage,
            name: Masked::default(),
            email: Masked::default(),
            phone: Masked::default(),
            time_zone: String::new(),
            locale: String::new(),
            country: String::new(),
            tags: Vec::new(),
            payer_kind: None,
            campaign: String::new(),
            partial: false,
        }
    }

    fn stamped(second: i64, fact: Fact) -> Stamped {
        Stamped { at: at(second), id: format!("evt_{second}"), fact }
    }

    fn fold(facts: &Facts) -> Option<Invoice> {
        facts.fold(&MerchantId::try_new("acme").unwrap(), &InvoiceId::try_new("in_1").unwrap(), 1)
    }

    fn facts(list: &[Stamped]) -> Facts {
        let mut facts = Facts::default();
        list.iter().cloned().for_each(|f| facts.add(Uuid::nil(), f));
        facts
    }

    #[test]
    fn a_payment_before_its_invoice_counts_when_the_invoice_comes() {
        let payment = stamped(1, Fact::Payment { payment: "p1".into(), amount_minor: 400, currency: eur() });
        let early = facts(std::slice::from_ref(&payment));
        assert_eq!(fold(&early), None, "nothing to tell about an unknown invoice");
        let both = facts(&[payment, stamped(2, Fact::Snapshot(snapshot(0)))]);
        assert_eq!(fold(&both).unwrap().open_minor, 600);
    }

    #[test]
    fn money_of_another_currency_pays_nothing() {
        let payment = |n, currency: &str| {
            let currency = currency.parse().unwrap();
            stamped(n, Fact::Payment { payment: "p".into(), amount_minor: 1_000, currency })
        };
        let mut known = facts(&[payment(1, "USD")]);
        assert_eq!(known.take_misfits(), [], "the invoice's currency is not known yet");
        known.add(Uuid::nil(), stamped(2, Fact::Snapshot(snapshot(0))));
        assert_eq!(fold(&known).unwrap().open_minor, 1_000);

        let mut corrected = known.clone();
        corrected.add(Uuid::nil(), payment(3, "EUR"));
        assert_eq!(corrected.take_misfits(), [], "told again in the right currency");
        assert_eq!(fold(&corrected).unwrap().open_minor, 0);

        let misfit = Malformed::new("payment.currency", "is USD, but the invoice is in EUR");
        assert_eq!(known.take_misfits(), [(Uuid::nil(), misfit)]);
        assert_eq!(known.take_misfits(), [], "taken out");
    }

    #[test]
    fn of_two_snapshots_of_one_second_the_draft_came_first() {
        let mut draft = snapshot(0);
        draft.draft = true;
        let draft = Stamped { id: "evt_9".into(), ..stamped(1, Fact::Snapshot(draft)) };
        let issued = Stamped { id: "evt_1".into(), ..stamped(1, Fact::Snapshot(snapshot(0))) };
        assert!(fold(&facts(&[draft.clone(), issued.clone()])).is_some());
        assert!(fold(&facts(&[issued, draft])).is_some());
    }

    #[test]
    fn of_two_facts_of_one_second_about_a_customer_the_later_stage_holds() {
        let said = |id: &str, stage| customer(1, id, stage);
        assert!(said("evt_1", Stage::Updated).is_later_than(&said("evt_2", Stage::Created)));
        assert!(said("evt_1", Stage::Deleted).is_later_than(&said("evt_2", Stage::Updated)));
        assert!(said("evt_2", Stage::Updated).is_later_than(&said("evt_1", Stage::Updated)));
    }

    #[test]
    fn a_refund_and_a_chargeback_of_one_name_are_two() {
        let reversal =
            |second, kind| stamped(second, Fact::Reversal { reversal: "ch_1".into(), kind, amount_minor: 1_000 });
        let mut list = [
            stamped(1, Fact::Snapshot(snapshot(1_000))),
            reversal(2, ReversalKind::Refund),
            reversal(3, ReversalKind::Chargeback),
        ];
        let one_way = fold(&facts(&list)).unwrap();
        list.reverse();
        assert_eq!(fold(&facts(&list)).unwrap(), one_way);
        assert_eq!((one_way.epoch, one_way.open_minor), (2, 1_000));
    }

    #[test]
    fn absurd_amounts_do_not_overflow() {
        let payment =
            |n: i64| stamped(n, Fact::Payment { payment: format!("p{n}"), amount_minor: i64::MAX, currency: eur() });
        let list = [stamped(1, Fact::Snapshot(snapshot(1))), payment(2), payment(3)];
        assert_eq!(fold(&facts(&list)).unwrap().open_minor, 0);
        let mut absurd = snapshot(0);
        absurd.total_minor = MAX_MINOR + 1;
        assert_eq!(absurd.check().unwrap_err().field, "total");
        absurd.total_minor = MAX_MINOR;
        assert_eq!(absurd.check(), Ok(()));
    }

    #[test]
    fn what_fits_into_no_event_is_refused() {
        let fault = |change: fn(&mut Snapshot)| {
            let mut long = snapshot(0);
            change(&mut long);
            long.check().unwrap_err().to_string()
        };
        assert_eq!(fault(|s| s.number = "9".repeat(1_001)), "number: has 1001 characters; at most 1000 fit");
        assert_eq!(
            fault(|s| s.pay_url = Masked::new("u".repeat(4_001))),
            "pay_url: has 4001 characters; at most 4000 fit"
        );
        assert!(fault(|s| s.bill_to_name = Masked::new("n".repeat(1_001))).starts_with("bill_to_name: "));
        assert!(fault(|s| s.bill_to_email = Masked::new("e".repeat(1_001))).starts_with("bill_to_email: "));
        assert!(check_code("locale", &"x".repeat(101)).is_err());
        assert_eq!(check_id("id", &"ä".repeat(255)), Ok(()), "characters, not bytes");
    }

    #[test]
    fn labels_have_limits() {
        let fault = |given: &[&str]| tags("t", given.iter().copied()).unwrap_err().to_string();
        assert_eq!(tags("t", ["vip", "eu west", "vip"]).unwrap(), ["vip", "eu west"], "each once");
        assert_eq!(tags("t", ["ä".repeat(100).as_str()]).unwrap().len(), 1, "characters, not bytes");
        assert_eq!(fault(&[""]), "t: contains an empty tag");
        assert_eq!(fault(&["a,b"]), "t: contains a tag with ',', which a tag cannot have");
        assert_eq!(fault(&["a\nb"]), "t: contains a tag with '\\n', which a tag cannot have");
        assert_eq!(fault(&["x".repeat(101).as_str()]), "t: contains a tag that has 101 characters; at most 100 fit");
        let many: Vec<String> = (0..51).map(|n| n.to_string()).collect();
        assert_eq!(tags("t", many.iter().take(50).map(String::as_str)).unwrap().len(), 50);
        assert_eq!(
            tags("t", many.iter().map(String::as_str)).unwrap_err().to_string(),
            "t: has 51 tags; at most 50 fit"
        );
    }

    #[test]
    fn campaigns_and_countries_are_names() {
        assert_eq!(campaign("c", "B2B_late-2").unwrap(), "B2B_late-2");
        assert_eq!(campaign("c", "").unwrap(), "");
        assert_eq!(
            campaign("c", "a b").unwrap_err().to_string(),
            "c: contains ' '; a campaign's name has letters, digits, - and _ only"
        );
        assert!(campaign("c", &"x".repeat(101)).is_err());
        assert_eq!(country("c", "de").unwrap(), "DE");
        assert_eq!(country("c", "").unwrap(), "");
        for wrong in ["D", "DEU", "D1", "ä", "Germany"] {
            let problem = format!("c: {wrong:?} is no country of two letters such as DE");
            assert_eq!(country("c", wrong).unwrap_err().to_string(), problem);
        }
    }

    #[test]
    fn what_the_latest_snapshot_says_beside_money_holds() {
        let said = |source, tag: &str, campaign: &str, collects_itself| {
            let snapshot = snapshot(0);
            let campaign = campaign.to_owned();
            Fact::Snapshot(Box::new(Snapshot {
                source,
                tags: vec![tag.into()],
                campaign,
                collects_itself,
                ..*snapshot
            }))
        };
        let new = stamped(9, said(Source::Grpc, "vip", "gentle", true));
        let old = stamped(2, said(Source::File, "old", "", false));
        let invoice = fold(&facts(&[new, old])).unwrap();
        assert_eq!((invoice.source.as_str(), invoice.tags.as_slice()), ("grpc", &["vip".to_owned()][..]));
        assert_eq!((invoice.campaign.as_str(), invoice.collects_itself), ("gentle", true));
    }

    #[test]
    fn a_corrected_fact_replaces_what_was_understood_in_part() {
        let whole = Snapshot { tags: vec!["vip".into()], ..*snapshot(0) };
        let part = Snapshot { partial: true, tags: Vec::new(), ..whole.clone() };
        let [whole, part] = [whole, part].map(|s| stamped(1, Fact::Snapshot(Box::new(s))));
        for order in [[part.clone(), whole.clone()], [whole, part]] {
            assert_eq!(fold(&facts(&order)).unwrap().tags, ["vip"]);
        }
        let whole = customer(1, "evt_1", Stage::Updated);
        let part = CustomerFacts { partial: true, ..whole.clone() };
        assert!(whole.is_later_than(&part) && !part.is_later_than(&whole));
    }

    #[test]
    fn the_last_failure_of_the_epoch_says_why() {
        let failure = |second, code: &str| stamped(second, Fact::Failure { decline_code: code.into(), attempt: None });
        let mut list =
            vec![failure(5, "expired_card"), failure(3, "do_not_honor"), stamped(1, Fact::Snapshot(snapshot(0)))];
        let invoice = fold(&facts(&list)).unwrap();
        assert_eq!((invoice.decline_code.as_str(), invoice.last_failed_at), ("expired_card", Some(at(5))));
        let kind = ReversalKind::LateFailure;
        list.push(stamped(8, Fact::Reversal { reversal: "r".into(), kind, amount_minor: 1_000 }));
        let invoice = fold(&facts(&list)).unwrap();
        assert_eq!((invoice.decline_code.as_str(), invoice.last_failed_at), ("", None), "of an epoch that is over");
    }

    #[test]
    fn money_is_under_way_until_something_ends_it() {
        let pending = |second, begins| stamped(second, Fact::Pending(begins));
        let payment =
            |second| stamped(second, Fact::Payment { payment: "p".into(), amount_minor: 400, currency: eur() });
        let since = |more: &[Stamped]| {
            let mut list = vec![stamped(1, Fact::Snapshot(snapshot(0)))];
            list.extend_from_slice(more);
            let one_way = fold(&facts(&list)).unwrap().pending_since;
            list.reverse();
            assert_eq!(fold(&facts(&list)).unwrap().pending_since, one_way, "in any order");
            one_way
        };
        assert_eq!(since(&[pending(5, true), pending(6, true)]), Some(at(5)));
        assert_eq!(since(&[pending(5, true), pending(4, false)]), Some(at(5)), "what ended before does not matter");
        assert_eq!(since(&[pending(5, true), pending(5, false)]), None, "of one second, the end");
        assert_eq!(since(&[pending(5, true), pending(6, false), pending(7, true)]), Some(at(7)), "another attempt");
        assert_eq!(since(&[pending(5, true), payment(5)]), None);
        assert_eq!(since(&[pending(5, true), payment(4)]), Some(at(5)), "the rest is under way");
        let failure = |second| stamped(second, Fact::Failure { decline_code: "x".into(), attempt: None });
        assert_eq!(since(&[pending(5, true), failure(6)]), None);
        assert_eq!(since(&[pending(5, true), failure(4)]), Some(at(5)));
        assert_eq!(
            since(&[pending(5, true), stamped(4, Fact::Paid { paid_at: None, certain: false })]),
            None,
            "closed"
        );
        let late = |second| {
            let kind = ReversalKind::LateFailure;
            stamped(second, Fact::Reversal { reversal: "r".into(), kind, amount_minor: 1_000 })
        };
        assert_eq!(since(&[pending(5, true), late(6)]), None, "of an epoch that is over");
        assert_eq!(since(&[pending(5, true), late(6), pending(7, true)]), Some(at(7)));
    }

    #[test]
    fn a_late_old_snapshot_does_not_win() {
        let new = stamped(9, Fact::Snapshot(snapshot(700)));
        let old = stamped(2, Fact::Snapshot(snapshot(0)));
        assert_eq!(fold(&facts(&[new, old])).unwrap().open_minor, 300);
    }

    #[test]
    fn paid_absorbs_until_a_chargeback_opens_the_next_epoch() {
        let mut list = vec![
            stamped(1, Fact::Snapshot(snapshot(0))),
            stamped(2, Fact::Paid { paid_at: None, certain: true }),
            stamped(3, Fact::Failure { decline_code: "late news".into(), attempt: Some(1) }),
        ];
        let paid = fold(&facts(&list)).unwrap();
        assert_eq!((paid.status, paid.epoch, paid.open_minor), (InvoiceStatus::Paid, 1, 0));

        list.push(stamped(5, Fact::Snapshot(snapshot(1_000))));
        list.push(stamped(
            6,
            Fact::Reversal { reversal: "dp_1".into(), kind: ReversalKind::Chargeback, amount_minor: 1_000 },
        ));
        // The processor still calls it paid, by the way.
        list.push(stamped(7, Fact::Paid { paid_at: Some(at(2)), certain: false }));
        let reopened = fold(&facts(&list)).unwrap();
        assert_eq!((reopened.status, reopened.epoch, reopened.open_minor), (InvoiceStatus::Open, 2, 1_000));
        assert_eq!(reopened.failed_attempts, 0, "failures of the first epoch are over");

        list.push(stamped(8, Fact::Payment { payment: "p2".into(), amount_minor: 1_000, currency: eur() }));
        let settled = fold(&facts(&list)).unwrap();
        assert_eq!((settled.status, settled.epoch, settled.closed_at), (InvoiceStatus::Paid, 2, Some(at(8))));
    }

    #[test]
    fn a_refund_owes_nothing() {
        let list = [
            stamped(1, Fact::Snapshot(snapshot(1_000))),
            stamped(2, Fact::Reversal { reversal: "ch_1".into(), kind: ReversalKind::Refund, amount_minor: 1_000 }),
        ];
        let invoice = fold(&facts(&list)).unwrap();
        assert_eq!((invoice.status, invoice.epoch), (InvoiceStatus::Paid, 1));
    }

    #[test]
    fn disputes_hold_while_they_last_and_their_end_may_come_first() {
        let begun = stamped(2, Fact::Dispute { dispute: "dp".into(), open: true });
        let ended = stamped(3, Fact::Dispute { dispute: "dp".into(), open: false });
        let base = stamped(1, Fact::Snapshot(snapshot(0)));
        assert!(fold(&facts(&[base.clone(), begun.clone()])).unwrap().disputed);
        assert!(!fold(&facts(&[base, ended, begun])).unwrap().disputed);
    }

    #[test]
    fn drafts_are_nobodys_business() {
        let mut draft = snapshot(0);
        draft.draft = true;
        assert_eq!(fold(&facts(&[stamped(1, Fact::Snapshot(draft))])), None);
    }

    #[test]
    fn changes_say_what_happened() {
        let before = facts(&[stamped(1, Fact::Snapshot(snapshot(0)))]);
        let step = |fact: Fact| {
            let mut after = before.clone();
            after.add(Uuid::nil(), stamped(5, fact));
            let new = fold(&after).unwrap();
            changes((&before, fold(&before).as_ref()), (&after, &new), at(5))
        };
        assert_eq!(changes((&Facts::default(), None), (&before, &fold(&before).unwrap()), at(1)), [Change::Issued]);
        assert_eq!(
            step(Fact::Snapshot(snapshot(400))),
            [Change::PaymentReceived { amount_minor: 400, paid_at: at(5) }],
            "a partial payment shows in the next snapshot"
        );
        assert_eq!(
            step(Fact::Paid { paid_at: Some(at(4)), certain: true }),
            [Change::PaymentReceived { amount_minor: 1_000, paid_at: at(4) }]
        );
        assert_eq!(step(Fact::Closure(Closure::Voided)), [Change::Closed]);
        assert_eq!(
            step(Fact::Failure { decline_code: "no_money".into(), attempt: Some(2) }),
            [Change::PaymentFailed { decline_code: "no_money".into(), failed_at: at(5) }]
        );
        assert_eq!(step(Fact::Dispute { dispute: "d".into(), open: true }), [Change::Changed]);
        assert_eq!(step(Fact::Snapshot(snapshot(0))), [], "the same again is no news");
        let mut cheaper = snapshot(0);
        cheaper.total_minor = 500;
        assert_eq!(step(Fact::Snapshot(cheaper)), [Change::Changed], "a lower price is no payment");
    }

    fn any_fact() -> impl Strategy<Value = Stamped> {
        let fact = prop_oneof![
            (0..=1_000_i64, any::<bool>(), 0..3_u8, any::<bool>()).prop_map(|(paid, draft, n, flag)| {
                let source = if flag { Source::Stripe } else { Source::File };
                let (tags, campaign) = (vec![format!("t{n}")], format!("c{n}"));
                let details = Snapshot { draft, source, tags, campaign, collects_itself: flag, ..*snapshot(paid) };
                Fact::Snapshot(Box::new(details))
            }),
            (prop::option::of(0..50_i64), any::<bool>())
                .prop_map(|(paid_at, certain)| Fact::Paid { paid_at: paid_at.map(at), certain }),
            (0..3_u8, 1..600_i64, any::<bool>()).prop_map(|(p, amount_minor, foreign)| Fact::Payment {
                payment: format!("p{p}"),
                amount_minor,
                currency: if foreign { Currency::try_new("USD").unwrap() } else { eur() },
            }),
            (0..3_i32).prop_map(|n| Fact::Failure { decline_code: format!("x{n}"), attempt: Some(n) }),
            (0..2_u8, 1..600_i64, any::<bool>()).prop_map(|(r, amount_minor, refund)| Fact::Reversal {
                reversal: format!("r{r}"),
                kind: if refund { ReversalKind::Refund } else { ReversalKind::Chargeback },
                amount_minor
            }),
            any::<bool>().prop_map(|v| Fact::Closure(if v { Closure::Voided } else { Closure::WrittenOff })),
            (0..2_u8, any::<bool>()).prop_map(|(d, open)| Fact::Dispute { dispute: format!("d{d}"), open }),
            Just(Fact::OverdueHint),
            any::<bool>().prop_map(Fact::Pending),
            any::<bool>().prop_map(Fact::Pending),
        ];
        (0..50_i64, 0..1_000_u32, fact).prop_map(|(second, n, fact)| Stamped {
            at: at(second),
            id: format!("evt_{n}"),
            fact,
        })
    }

    fn any_customer() -> impl Strategy<Value = CustomerFacts> {
        let stage = prop_oneof![Just(Stage::Created), Just(Stage::Updated), Just(Stage::Deleted)];
        (0..5_i64, 0..1_000_u32, stage, any::<bool>(), 0..3_u8).prop_map(|(second, n, stage, business, label)| {
            CustomerFacts {
                country: if business { "DE".into() } else { String::new() },
                tags: vec![format!("t{label}")],
                payer_kind: business.then_some(PayerKind::Business),
                campaign: format!("c{label}"),
                ..customer(second, &format!("evt_{n}"), stage)
            }
        })
    }

    proptest! {
        #[test]
        fn the_latest_of_a_customer_is_the_same_in_any_order(
            list in prop::collection::vec(any_customer(), 1..8),
            picked in any::<prop::sample::Index>(),
        ) {
            // An id names one fact.
            let mut seen = BTreeSet::new();
            let mut list: Vec<_> = list.into_iter().filter(|f| seen.insert(f.id.clone())).collect();
            // One of them was understood only in part at first.
            let whole = picked.get(&list).clone();
            list.push(CustomerFacts { partial: true, tags: Vec::new(), ..whole });
            let latest = |list: &[CustomerFacts]| list.iter().cloned().reduce(|a, b| if b.is_later_than(&a) { b } else { a });
            let one_way = latest(&list);
            prop_assert!(one_way.as_ref().is_some_and(|f| !f.partial));
            list.reverse();
            prop_assert_eq!(latest(&list), one_way.clone());
            let by = picked.index(list.len());
            list.rotate_left(by);
            prop_assert_eq!(latest(&list), one_way.clone());
            let stored = serde_json::to_string(&one_way).unwrap();
            prop_assert_eq!(serde_json::from_str::<Option<CustomerFacts>>(&stored).unwrap(), one_way, "storing loses nothing");
        }

        #[test]
        fn money_is_under_way_only_while_nothing_ended_it(list in prop::collection::vec(any_fact(), 1..14)) {
            if let Some(invoice) = fold(&facts(&list)) {
                let ends = |f: &Stamped| match &f.fact {
                    Fact::Pending(false) | Fact::Failure { .. } => true,
                    Fact::Payment { currency, .. } => *currency == eur(),
                    _ => false,
                };
                let begins = |f: &Stamped| f.fact == Fact::Pending(true);
                if let Some(since) = invoice.pending_since {
                    prop_assert_eq!(invoice.status, InvoiceStatus::Open);
                    prop_assert!(list.iter().any(|f| begins(f) && f.at == since));
                    prop_assert!(invoice.epoch_began_at.is_none_or(|began| since > began));
                    let ended = list.iter().any(|f| matches!(f.fact, Fact::Pending(false)) && f.at >= since);
                    prop_assert!(!ended);
                    prop_assert!(invoice.last_failed_at.is_none_or(|failed| failed < since));
                } else if invoice.status == InvoiceStatus::Open && invoice.epoch == 1 {
                    let last = list.iter().filter(|f| begins(f)).map(|f| f.at).max();
                    prop_assert!(last.is_none_or(|last| list.iter().any(|f| ends(f) && f.at >= last)));
                }
            }
        }

        #[test]
        fn order_and_repetition_do_not_matter(
            list in prop::collection::vec(any_fact(), 1..14),
            shuffle in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            // An id names one fact.
            let mut seen = BTreeSet::new();
            let list: Vec<_> = list.into_iter().filter(|f| seen.insert(f.id.clone())).collect();
            let ordered = facts(&list);
            let mut shuffled = Facts::default();
            for index in &shuffle {
                shuffled.add(Uuid::nil(), index.get(&list).clone());
            }
            list.iter().rev().cloned().for_each(|f| shuffled.add(Uuid::nil(), f));
            prop_assert_eq!(fold(&shuffled), fold(&ordered));
            let stored: Facts = serde_json::from_str(&serde_json::to_string(&shuffled).unwrap()).unwrap();
            prop_assert_eq!(fold(&stored), fold(&ordered), "storing loses nothing");
        }

        #[test]
        fn what_is_open_is_never_more_than_billed_nor_negative(list in prop::collection::vec(any_fact(), 1..14)) {
            if let Some(invoice) = fold(&facts(&list)) {
                prop_assert!((0..=invoice.total_minor).contains(&invoice.open_minor));
                prop_assert_eq!(invoice.open_minor > 0, invoice.status == InvoiceStatus::Open);
                prop_assert_eq!(invoice.closed_at.is_some(), invoice.status != InvoiceStatus::Open);
            }
        }
    }
}
