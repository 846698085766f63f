//! Erasing a person's data: names, addresses, links and everything as it arrived. What was owed and paid stays, under the
//! processor's ids.
//!
//! Ingest is where snapshots are made. It forgets first, and tells all others by new snapshots without the person in them,
//! whose versions are higher than any that is still on its way. A tombstone keeps later messages of the processor from
//! bringing the person back.

use crate::domain::{CustomerFacts, Fact, Stage};
use crate::facts::{Content, Message};
use crate::store::{self, Key};
use bus::{Failure, Work};
use bytes::Bytes;
use events::{InvoiceStatus, time, v1};
use jiff::Timestamp;
use kernel::{CustomerId, InvoiceId, Masked};
use runtime::links::address_hash;
use runtime::settings::LinkSettings;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Whose data to erase, and who says so.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose.
    pub customer: Key<CustomerId>,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Even though something is owed: its reminders end.
    pub even_if_open: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was changed: these invoices are open.
    Open(Vec<InvoiceId>),
    /// Nothing is known of such a customer.
    Unknown,
    /// Erased: how many rows of what.
    Erased(BTreeMap<&'static str, u64>),
}

/// Erases ingest's slice and tells the others. Doing it again finds what has come since.
pub async fn erase(
    work: &mut Work,
    links: &LinkSettings,
    request: &Request,
    now: Timestamp,
) -> Result<Outcome, Failure> {
    let key = &request.customer;
    let invoices = store::invoices_of_customer(work.tx(), key).await?;
    let known = store::load_customers(work.tx(), &[key]).await?.remove(key);
    if invoices.is_empty() && known.is_none() {
        return Ok(Outcome::Unknown);
    }
    let mut open = Vec::new();
    let mut addresses = BTreeSet::new();
    for (invoice, version, facts) in &invoices {
        if let Some(folded) = facts.fold(&key.0, invoice, *version) {
            if folded.status == InvoiceStatus::Open && folded.open_minor > 0 {
                open.push(invoice.clone());
            }
            addresses.insert(folded.bill_to_email.into_inner());
        }
    }
    if !open.is_empty() && !request.even_if_open {
        return Ok(Outcome::Open(open));
    }
    addresses.extend(known.iter().flat_map(|(_, facts)| [&facts.email, &facts.phone]).map(|a| a.reveal().clone()));
    let mut counts = BTreeMap::new();
    let mut changed = Vec::new();
    for (invoice, version, facts) in invoices {
        let mut without = facts;
        without.erase_person();
        if let Some(folded) = without.fold(&key.0, &invoice, version + 1) {
            let event = v1::InvoiceChanged { invoice: Some(v1::Invoice::from(&folded)) };
            let id = kernel::id::derive("erasure", key.0.as_str(), invoice.as_str(), &(version + 1).to_string());
            work.emit_as(id, now, &event, None)?;
        }
        changed.push(((key.0.clone(), invoice), version + 1, without));
    }
    let rows: Vec<_> = changed.iter().map(|(key, version, facts)| (key, *version, facts)).collect();
    let (version, _) = known.clone().unwrap_or((0, CustomerFacts::erased(now)));
    let erased = CustomerFacts::erased(now);
    let customer = erased.snapshot(&key.0, &key.1, version + 1);
    let event = v1::CustomerChanged { customer: Some((&customer).into()) };
    let id = kernel::id::derive("erasure", key.0.as_str(), key.1.as_str(), &(version + 1).to_string());
    work.emit_as(id, now, &event, None)?;
    let saved = store::save_invoices(work.tx(), &rows).await?
        && store::save_customers(work.tx(), &[(key, version + 1, &erased)]).await?;
    if !saved {
        return Err(Failure::Retry("something new about this customer came at the same time".to_owned()));
    }
    let ids: Vec<InvoiceId> = changed.iter().map(|((_, invoice), ..)| invoice.clone()).collect();
    counts.insert("invoices", ids.len() as u64);
    counts.insert("customers", u64::from(known.is_some()));
    store::bury(work.tx(), key, &ids, now).await?;
    let about: Vec<&str> = ids.iter().map(InvoiceId::as_str).chain([key.1.as_str()]).collect();
    addresses.remove("");
    // What is shorter is no address, and stands in messages about others.
    let addresses_in_bodies = addresses.iter().map(String::as_str).filter(|address| address.len() > 5);
    let names: Vec<&str> = about.iter().copied().chain(addresses_in_bodies).collect();
    counts.insert("messages", store::erase_bodies(work.tx(), &key.0, &names).await?);
    let (events, letters) = bus::store::erase_person(work.tx(), key.0.as_str(), &about).await?;
    counts.insert("kept_events", events);
    counts.insert("dead_letters", letters);
    let event = v1::CustomerErased {
        merchant_id: key.0.to_string(),
        customer_id: key.1.to_string(),
        address_hashes: addresses.iter().map(|a| address_hash(links, key.0.as_str(), a)).collect(),
        was_open: !open.is_empty(),
        erased_at: Some(time::to_wire(now)),
    };
    work.emit_as(kernel::id::at(now), now, &event, None)?;
    store::note_erasure(work.tx(), key, &request.by, &request.reason, &counts, now).await?;
    Ok(Outcome::Erased(counts))
}

/// Messages without what they say of people who were erased, if they name any.
pub async fn without_erased<'a>(
    work: &mut Work,
    messages: &'a [Message],
    resolved: &[Option<InvoiceId>],
) -> Result<Cow<'a, [Message]>, Failure> {
    let mut names = BTreeSet::new();
    for (message, invoice) in messages.iter().zip(resolved) {
        let merchant = message.merchant.as_str();
        names.extend(named(message).map(|name| (merchant.to_owned(), name)));
        names.extend(invoice.iter().map(|i| (merchant.to_owned(), format!("invoice:{i}"))));
    }
    let erased = store::buried(work.tx(), &names).await?;
    if erased.is_empty() {
        return Ok(Cow::Borrowed(messages));
    }
    let is_erased = |message: &Message, invoice: &Option<InvoiceId>| {
        let of_invoice = invoice.iter().map(|i| format!("invoice:{i}"));
        named(message).chain(of_invoice).any(|name| erased.contains(&(message.merchant.to_string(), name)))
    };
    let cleaned = messages.iter().zip(resolved).map(|(message, invoice)| {
        if is_erased(message, invoice) { without_person(message.clone()) } else { message.clone() }
    });
    Ok(Cow::Owned(cleaned.collect()))
}

/// The customers and invoices that a message is about.
fn named(message: &Message) -> impl Iterator<Item = String> {
    let mut names = Vec::new();
    match &message.content {
        Ok(Content::Invoice { invoice, facts, .. }) => {
            names.push(format!("invoice:{invoice}"));
            names.extend(facts.iter().filter_map(|stamped| match &stamped.fact {
                Fact::Snapshot(snapshot) => Some(format!("customer:{}", snapshot.customer)),
                _ => None,
            }));
        }
        Ok(Content::Customer { customer, .. }) => names.push(format!("customer:{customer}")),
        _ => {}
    }
    names.into_iter()
}

fn without_person(mut message: Message) -> Message {
    message.body = Bytes::new();
    match &mut message.content {
        Ok(Content::Invoice { facts, .. }) => {
            for stamped in facts {
                if let Fact::Snapshot(snapshot) = &mut stamped.fact {
                    snapshot.erase_person();
                }
            }
        }
        Ok(Content::Customer { facts, .. }) => {
            let (at, id) = (facts.at, std::mem::take(&mut facts.id));
            *facts = CustomerFacts { at, id, ..CustomerFacts::erased(at) };
        }
        _ => {}
    }
    message
}

impl CustomerFacts {
    /// What is known of somebody who was erased.
    pub fn erased(at: Timestamp) -> Self {
        Self {
            at,
            id: "erased".to_owned(),
            stage: Stage::Deleted,
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
}
