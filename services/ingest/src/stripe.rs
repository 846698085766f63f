//! Stripe's webhooks: signature and translation.
//!
//! Signature: <https://docs.stripe.com/webhooks#verify-manually>. Shapes: invoice, payment intent, charge, dispute and
//! customer objects of API versions 2017 to 2026; what a version lacks is optional here.

use crate::domain::{
    self, Closure, CustomerFacts, Fact, ReversalKind, Snapshot, Source, Stage, Stamped, check_amount, check_code,
    check_id,
};
use crate::facts::Content;
use events::Malformed;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kernel::{Currency, CustomerId, InvoiceId, Masked, PayerKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Why a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No `t=` or no `v1=` in the header, or no header.
    #[error("the Stripe-Signature header is missing or has no t= and v1= entries")]
    Missing,
    /// No entry fits any of the endpoint's secrets.
    #[error("no v1 signature fits the endpoint's signing secrets")]
    Wrong,
    /// Signed too long ago, or in the future.
    #[error("signed {0} seconds away from now, beyond the tolerance")]
    Stale(i64),
}

/// Checks a `Stripe-Signature` header over the raw body: any `v1` entry under any secret is enough (rotation), other
/// schemes are ignored, and the signed time must lie within the tolerance, before or after `now`.
pub fn verify<'a>(
    header: &str,
    body: &[u8],
    secrets: impl IntoIterator<Item = &'a str>,
    tolerance_seconds: u32,
    now: Timestamp,
) -> Result<(), SignatureError> {
    let (mut time, mut signatures) = (None, Vec::new());
    for entry in header.split(',') {
        match entry.trim().split_once('=') {
            Some(("t", value)) => time = value.parse::<i64>().ok().map(|seconds| (seconds, value)),
            Some(("v1", value)) => signatures.extend(hex::decode(value)),
            _ => {}
        }
    }
    let Some((seconds, text)) = time else { return Err(SignatureError::Missing) };
    if signatures.is_empty() {
        return Err(SignatureError::Missing);
    }
    let fits = secrets.into_iter().any(|secret| {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
        mac.update(text.as_bytes());
        mac.update(b".");
        mac.update(body);
        // verify_slice compares in constant time.
        signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok())
    });
    if !fits {
        return Err(SignatureError::Wrong);
    }
    let away = now.as_second().saturating_sub(seconds);
    if away.unsigned_abs() > u64::from(tolerance_seconds) { Err(SignatureError::Stale(away)) } else { Ok(()) }
}

/// A webhook, translated.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// The sender's id: Stripe's event id and type. (Ids are unique at Stripe; adding the type costs nothing and keeps
    /// replayed test data apart.)
    pub external_id: String,
    /// Stripe's type.
    pub kind: String,
    /// What it says, or why it makes no sense.
    pub content: Result<Content, Malformed>,
}

/// Every part is read on its own, so that a fault of one is that part's.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The type of what names none.
const UNKNOWN: &str = "unknown";

/// Reads a part that has to be there.
fn part<'a, T: Deserialize<'a>>(field: &'static str, raw: Option<&'a RawValue>) -> Result<T, Malformed> {
    serde_json::from_str(raw.ok_or_else(|| Malformed::missing(field))?.get()).map_err(|e| Malformed::new(field, e))
}

/// Translates a webhook. `zone` is the merchant's: Stripe's times become civil dates there. Fails only if the body is no
/// JSON; JSON without an id or a type is kept under an id made from its content.
pub fn translate(body: &[u8], zone: &TimeZone) -> Result<Webhook, serde_json::Error> {
    let of_content = || format!("sha256:{}", hex::encode(Sha256::digest(body)));
    let envelope: Envelope<'_> = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        Err(error) => {
            serde_json::from_slice::<serde::de::IgnoredAny>(body)?;
            let content = Err(Malformed::new("body", error));
            return Ok(Webhook { external_id: of_content(), kind: UNKNOWN.to_owned(), content });
        }
    };
    let kind = part::<String>("type", envelope.kind);
    let id = part::<String>("id", envelope.id).and_then(|id| check_id("id", &id).map(|()| id));
    let external_id = match (&id, &kind) {
        (Ok(id), Ok(kind)) => format!("{id}/{kind}"),
        _ => of_content(),
    };
    let kind = kind.unwrap_or_else(|_| UNKNOWN.to_owned());
    let content = content(id, &kind, &envelope, zone);
    Ok(Webhook { external_id, kind, content })
}

/// What a corrected webhook says, if it is still of the type that it arrived as: one whose type is mistyped would be taken
/// for one that changes nothing here.
pub fn content_of_kind(webhook: Webhook, kind: &str) -> Result<Content, Malformed> {
    if webhook.kind == kind {
        webhook.content
    } else {
        Err(Malformed::new("type", format!("is {:?}, but the message is of type {kind:?}", webhook.kind)))
    }
}

fn content(
    id: Result<String, Malformed>,
    kind: &str,
    envelope: &Envelope<'_>,
    zone: &TimeZone,
) -> Result<Content, Malformed> {
    let translate: fn(&Event<'_>) -> Result<Content, Malformed> = match kind {
        "invoice.created"
        | "invoice.finalized"
        | "invoice.updated"
        | "invoice.paid"
        | "invoice.payment_succeeded"
        | "invoice.payment_failed"
        | "invoice.overdue"
        | "invoice.voided"
        | "invoice.marked_uncollectible" => invoice,
        "invoice_payment.paid" => invoice_payment,
        "customer.created" | "customer.updated" | "customer.deleted" => customer,
        "payment_intent.processing"
        | "payment_intent.succeeded"
        | "payment_intent.payment_failed"
        | "payment_intent.canceled"
        | "charge.pending"
        | "charge.succeeded"
        | "charge.failed" => pending,
        "charge.refunded" => refund,
        "charge.dispute.created" | "charge.dispute.closed" => dispute,
        _ => return Ok(Content::Other),
    };
    let id = id?;
    let created = part("created", envelope.created)?;
    let at = Timestamp::from_second(created).map_err(|e| Malformed::new("created", e))?;
    let Data { object } = part("data", envelope.data)?;
    translate(&Event { id: &id, kind, at, object, zone })
}

/// The parts of an event that every translation needs.
struct Event<'a> {
    id: &'a str,
    kind: &'a str,
    at: Timestamp,
    object: &'a RawValue,
    zone: &'a TimeZone,
}

impl Event<'_> {
    /// The object of `data`, as far as `T` reads it.
    fn object<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        let mut reader = serde_json::Deserializer::from_str(self.object.get());
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let problem = format!("{}: {}", error.path(), error.inner());
            Malformed::new("data.object", problem)
        })
    }

    fn stamp(&self, fact: Fact) -> Stamped {
        Stamped { at: self.at, id: self.id.to_owned(), fact }
    }
}

/// An id, or the object that it was expanded to.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Expanded {
        id: String,
        /// Of a charge.
        failure_code: Option<String>,
        /// Of a payment intent.
        last_payment_error: Option<PaymentError>,
    },
}

#[derive(Deserialize)]
struct PaymentError {
    code: Option<String>,
    decline_code: Option<String>,
}

impl Reference {
    fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Expanded { id, .. } => id,
        }
    }

    /// Why the payment failed; only an expanded object tells.
    fn decline_code(&self) -> Option<&String> {
        let Self::Expanded { failure_code, last_payment_error, .. } = self else { return None };
        let error = last_payment_error.as_ref();
        error.and_then(|e| e.decline_code.as_ref().or(e.code.as_ref())).or(failure_code.as_ref())
    }
}

#[derive(Deserialize)]
struct InvoiceObject {
    id: Option<String>,
    customer: Option<Reference>,
    customer_name: Option<String>,
    customer_email: Option<String>,
    number: Option<String>,
    currency: Option<String>,
    amount_due: Option<i64>,
    amount_paid: Option<i64>,
    amount_remaining: Option<i64>,
    created: Option<i64>,
    effective_at: Option<i64>,
    due_date: Option<i64>,
    status: Option<String>,
    /// Versions before 2018-11-08 have this instead of a status.
    paid: Option<bool>,
    hosted_invoice_url: Option<String>,
    invoice_pdf: Option<String>,
    attempt_count: Option<i32>,
    status_transitions: Option<Transitions>,
    charge: Option<Reference>,
    payment_intent: Option<Reference>,
    payments: Option<Payments>,
    collection_method: Option<String>,
    metadata: Option<Metadata>,
}

/// What merchants tell in the metadata of their objects. Each is read on its own, so that a fault of one is that one's.
#[derive(Deserialize, Default)]
struct Metadata {
    time_zone: Option<String>,
    timezone: Option<String>,
    dunlin_tags: Option<Value>,
    dunlin_campaign: Option<Value>,
    dunlin_payer: Option<Value>,
}

impl Metadata {
    /// Separated by commas.
    fn tags(&self) -> Result<Vec<String>, Malformed> {
        const FIELD: &str = "data.object.metadata.dunlin_tags";
        let tags = text(FIELD, self.dunlin_tags.as_ref())?.split(',').map(str::trim);
        domain::tags(FIELD, tags.filter(|tag| !tag.is_empty()))
    }

    fn campaign(&self) -> Result<String, Malformed> {
        const FIELD: &str = "data.object.metadata.dunlin_campaign";
        domain::campaign(FIELD, text(FIELD, self.dunlin_campaign.as_ref())?.trim())
    }

    fn payer_kind(&self) -> Result<Option<PayerKind>, Malformed> {
        const FIELD: &str = "data.object.metadata.dunlin_payer";
        match text(FIELD, self.dunlin_payer.as_ref())?.trim() {
            "" => Ok(None),
            kind => PayerKind::parse(kind)
                .map(Some)
                .ok_or_else(|| Malformed::new(FIELD, format!("{kind:?} is neither \"business\" nor \"consumer\""))),
        }
    }
}

/// A value of the metadata; Stripe's are texts.
fn text<'a>(field: &'static str, value: Option<&'a Value>) -> Result<&'a str, Malformed> {
    value.map_or(Ok(""), |value| value.as_str().ok_or_else(|| Malformed::new(field, "is no text")))
}

/// Reads one part of an object: if it makes no sense, it is left out, and the object is told in part. The first fault is
/// kept.
fn or_fault<T: Default>(read: Result<T, Malformed>, fault: &mut Option<Malformed>) -> T {
    read.unwrap_or_else(|found| {
        fault.get_or_insert(found);
        T::default()
    })
}

#[derive(Deserialize, Default)]
struct Transitions {
    finalized_at: Option<i64>,
    paid_at: Option<i64>,
}

/// Since 2025-03-31 an invoice lists its payments instead of naming one charge.
#[derive(Deserialize)]
struct Payments {
    #[serde(default)]
    data: Vec<InvoicePayment>,
}

#[derive(Deserialize)]
struct InvoicePayment {
    payment: Option<InvoicePaymentOf>,
}

#[derive(Deserialize)]
struct InvoicePaymentOf {
    charge: Option<Reference>,
    payment_intent: Option<Reference>,
}

/// The parts of an object that tell which invoice it is.
#[derive(Deserialize)]
struct InvoiceHead {
    id: Option<String>,
}

fn invoice(event: &Event<'_>) -> Result<Content, Malformed> {
    let head: InvoiceHead = event.object()?;
    let invoice = InvoiceId::try_new(head.id.unwrap_or_default()).map_err(|e| Malformed::new("data.object.id", e))?;
    match invoice_facts(event) {
        Ok(InvoiceFacts { facts, charges, fault }) => Ok(Content::Invoice { invoice, facts, charges, fault }),
        // That it is paid or given up is certain, and reminders must stop, however little sense the rest makes.
        Err(fault) => {
            let facts = ending(event.kind, None).into_iter().map(|fact| event.stamp(fact)).collect();
            Ok(Content::Invoice { invoice, facts, charges: Vec::new(), fault: Some(fault) })
        }
    }
}

/// The end of an invoice that a type of event tells of by itself.
fn ending(kind: &str, paid_at: Option<Timestamp>) -> Option<Fact> {
    match kind {
        "invoice.paid" | "invoice.payment_succeeded" => Some(Fact::Paid { paid_at, certain: true }),
        "invoice.voided" => Some(Fact::Closure(Closure::Voided)),
        "invoice.marked_uncollectible" => Some(Fact::Closure(Closure::WrittenOff)),
        _ => None,
    }
}

/// What an invoice's event says, the charges it links to, and what of it makes no sense and is left out.
struct InvoiceFacts {
    facts: Vec<Stamped>,
    charges: Vec<String>,
    fault: Option<Malformed>,
}

fn invoice_facts(event: &Event<'_>) -> Result<InvoiceFacts, Malformed> {
    let object: InvoiceObject = event.object()?;
    let transitions = object.status_transitions.as_ref();
    let paid_at = moment("data.object.status_transitions.paid_at", transitions.and_then(|t| t.paid_at))?;
    let status = object.status.as_deref().unwrap_or(if object.paid == Some(true) { "paid" } else { "open" });

    let (snapshot, fault) = snapshot(event, &object, status)?;
    let mut facts = vec![Fact::Snapshot(Box::new(snapshot))];
    let by_the_way = match status {
        "paid" => Some(Fact::Paid { paid_at, certain: false }),
        "void" => Some(Fact::Closure(Closure::Voided)),
        "uncollectible" => Some(Fact::Closure(Closure::WrittenOff)),
        _ => None,
    };
    facts.extend(ending(event.kind, paid_at).or(by_the_way));
    match event.kind {
        "invoice.overdue" => facts.push(Fact::OverdueHint),
        "invoice.payment_failed" => {
            let told = [&object.payment_intent, &object.charge].into_iter().flatten().find_map(Reference::decline_code);
            let decline_code = told.cloned().unwrap_or_default();
            check_code("data.object.payment_intent.last_payment_error.decline_code", &decline_code)?;
            facts.push(Fact::Failure { decline_code, attempt: object.attempt_count });
        }
        _ => {}
    }
    let listed = object.payments.into_iter().flat_map(|p| p.data).filter_map(|p| p.payment);
    let listed = listed.flat_map(|p| [p.charge, p.payment_intent]);
    let charges = charge_ids([object.charge, object.payment_intent].into_iter().chain(listed))?;
    Ok(InvoiceFacts { facts: facts.into_iter().map(|fact| event.stamp(fact)).collect(), charges, fault })
}

/// The ids of charges and payment intents.
fn charge_ids(references: impl IntoIterator<Item = Option<Reference>>) -> Result<Vec<String>, Malformed> {
    let checked = |reference: Reference| {
        check_id("data.object.charge", reference.id())?;
        Ok(reference.id().to_owned())
    };
    references.into_iter().flatten().map(checked).collect()
}

/// Since 2025-03-31: says which invoice a payment is for. That the invoice is paid is said by the invoice's own events;
/// here it is only certain that this money is not under way any more.
#[derive(Deserialize)]
struct InvoicePaymentObject {
    invoice: Option<Reference>,
    payment: Option<InvoicePaymentOf>,
}

fn invoice_payment(event: &Event<'_>) -> Result<Content, Malformed> {
    let object: InvoicePaymentObject = event.object()?;
    let invoice = object.invoice.ok_or_else(|| Malformed::missing("data.object.invoice"))?;
    let invoice = InvoiceId::try_new(invoice.id()).map_err(|e| Malformed::new("data.object.invoice", e))?;
    let charges = charge_ids(object.payment.into_iter().flat_map(|p| [p.charge, p.payment_intent]))?;
    Ok(Content::Invoice { invoice, facts: vec![event.stamp(Fact::Pending(false))], charges, fault: None })
}

fn snapshot(
    event: &Event<'_>,
    object: &InvoiceObject,
    status: &str,
) -> Result<(Snapshot, Option<Malformed>), Malformed> {
    let currency = currency(object.currency.as_deref())?;
    let amount = |field: &'static str, value: Option<i64>| {
        value.map(|amount| minor_units(amount, currency)).ok_or_else(|| Malformed::missing(field))
    };
    let total_minor = amount("data.object.amount_due", object.amount_due)?;
    // amount_remaining also knows credit notes; older versions lack it.
    let paid_minor = match (object.amount_remaining, object.amount_paid) {
        (Some(remaining), _) => total_minor.saturating_sub(minor_units(remaining, currency)),
        (None, Some(paid)) => minor_units(paid, currency),
        (None, None) if status == "paid" => total_minor,
        (None, None) => 0,
    };
    let finalized = object.status_transitions.as_ref().and_then(|t| t.finalized_at);
    let issued = moment("data.object.created", object.effective_at.or(finalized).or(object.created))?;
    let due = moment("data.object.due_date", object.due_date)?;
    let date = |at: Timestamp| event.zone.to_datetime(at).date();
    let id = object.id.clone().unwrap_or_default();
    let mut fault = None;
    let metadata = object.metadata.as_ref();
    let snapshot = Snapshot {
        customer: CustomerId::try_new(object.customer.as_ref().map(Reference::id).unwrap_or_default())
            .map_err(|e| Malformed::new("data.object.customer", e))?,
        number: object.number.clone().unwrap_or(id),
        currency,
        total_minor,
        paid_minor,
        issued_on: date(issued.unwrap_or(event.at)),
        due_on: due.map(date),
        draft: status == "draft",
        pay_url: Masked::new(object.hosted_invoice_url.clone().unwrap_or_default()),
        document_url: Masked::new(object.invoice_pdf.clone().unwrap_or_default()),
        bill_to_name: Masked::new(object.customer_name.clone().unwrap_or_default()),
        bill_to_email: Masked::new(object.customer_email.clone().unwrap_or_default()),
        source: Source::Stripe,
        tags: metadata.map(|m| or_fault(m.tags(), &mut fault)).unwrap_or_default(),
        campaign: metadata.map(|m| or_fault(m.campaign(), &mut fault)).unwrap_or_default(),
        collects_itself: object.collection_method.as_deref() == Some("charge_automatically"),
        partial: fault.is_some(),
    };
    snapshot.check().map_err(|fault| {
        let field = match fault.field {
            "total" => "data.object.amount_due",
            "paid" => "data.object.amount_paid",
            "number" => "data.object.number",
            "pay_url" => "data.object.hosted_invoice_url",
            "document_url" => "data.object.invoice_pdf",
            "bill_to_name" => "data.object.customer_name",
            "bill_to_email" => "data.object.customer_email",
            _ => "data.object.due_date",
        };
        Malformed { field, ..fault }
    })?;
    Ok((snapshot, fault))
}

#[derive(Deserialize)]
struct CustomerObject {
    id: Option<String>,
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    preferred_locales: Option<Vec<String>>,
    address: Option<Address>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Address {
    country: Option<String>,
}

fn customer(event: &Event<'_>) -> Result<Content, Malformed> {
    let object: CustomerObject = event.object()?;
    let customer =
        CustomerId::try_new(object.id.unwrap_or_default()).map_err(|e| Malformed::new("data.object.id", e))?;
    // Stripe knows no time zone of a customer; merchants who do put it into the metadata.
    let metadata = object.metadata.unwrap_or_default();
    let time_zone = metadata.time_zone.as_ref().or(metadata.timezone.as_ref()).cloned().unwrap_or_default();
    if !time_zone.is_empty() {
        kernel::contact::zone(&time_zone).map_err(|e| Malformed::new("data.object.metadata.time_zone", e))?;
    }
    let mut fault = None;
    let country = object.address.and_then(|a| a.country).unwrap_or_default();
    let facts = CustomerFacts {
        at: event.at,
        id: event.id.to_owned(),
        stage: match event.kind {
            "customer.created" => Stage::Created,
            "customer.deleted" => Stage::Deleted,
            _ => Stage::Updated,
        },
        name: Masked::new(object.name.unwrap_or_default()),
        email: Masked::new(object.email.unwrap_or_default()),
        phone: Masked::new(object.phone.unwrap_or_default()),
        time_zone,
        locale: object.preferred_locales.and_then(|l| l.into_iter().next()).unwrap_or_default(),
        country: or_fault(domain::country("data.object.address.country", &country), &mut fault),
        tags: or_fault(metadata.tags(), &mut fault),
        payer_kind: or_fault(metadata.payer_kind(), &mut fault),
        campaign: or_fault(metadata.campaign(), &mut fault),
        partial: fault.is_some(),
    };
    facts.check().map_err(|fault| {
        let field = match fault.field {
            "name" => "data.object.name",
            "email" => "data.object.email",
            "phone" => "data.object.phone",
            _ => "data.object.preferred_locales",
        };
        Malformed { field, ..fault }
    })?;
    Ok(Content::Customer { customer, facts, fault })
}

/// The parts of a charge or a payment intent that tell what it pays.
#[derive(Deserialize)]
struct MoneyObject {
    id: Option<String>,
    /// Until 2025-03-31.
    invoice: Option<Reference>,
    /// Of a charge.
    payment_intent: Option<Reference>,
    /// Of a payment intent.
    latest_charge: Option<Reference>,
}

/// Money sets out, or is not under way any more. How it ended is said by the invoice's own events: a payment or a failure
/// that was counted here too would count twice.
fn pending(event: &Event<'_>) -> Result<Content, Malformed> {
    let object: MoneyObject = event.object()?;
    let id = object.id.ok_or_else(|| Malformed::missing("data.object.id"))?;
    let came_to_nothing =
        matches!(event.kind, "payment_intent.payment_failed" | "payment_intent.canceled" | "charge.failed");
    // What has succeeded is under way too: to the invoice, whose own event follows a moment later and ends this.
    let fact = event.stamp(Fact::Pending(!came_to_nothing));
    let charges = charge_ids([Some(Reference::Id(id)), object.payment_intent, object.latest_charge])?;
    of_charge(object.invoice, charges, fact)
}

/// What is said about a charge: about its invoice, if it names one.
fn of_charge(invoice: Option<Reference>, charges: Vec<String>, fact: Stamped) -> Result<Content, Malformed> {
    let facts = vec![fact];
    match invoice {
        Some(invoice) => {
            let invoice = InvoiceId::try_new(invoice.id()).map_err(|e| Malformed::new("data.object.invoice", e))?;
            Ok(Content::Invoice { invoice, facts, charges, fault: None })
        }
        None => Ok(Content::Charge { charges, facts }),
    }
}

#[derive(Deserialize)]
struct ChargeObject {
    id: Option<String>,
    invoice: Option<Reference>,
    payment_intent: Option<Reference>,
    amount_refunded: Option<i64>,
    currency: Option<String>,
}

fn refund(event: &Event<'_>) -> Result<Content, Malformed> {
    let object: ChargeObject = event.object()?;
    let charge = object.id.ok_or_else(|| Malformed::missing("data.object.id"))?;
    let amount = object.amount_refunded.ok_or_else(|| Malformed::missing("data.object.amount_refunded"))?;
    let amount_minor = minor_units(amount, currency(object.currency.as_deref())?);
    if amount_minor < 0 {
        return Err(Malformed::new("data.object.amount_refunded", format!("{amount} is negative")));
    }
    check_amount("data.object.amount_refunded", amount_minor)?;
    let fact = event.stamp(Fact::Reversal { reversal: charge.clone(), kind: ReversalKind::Refund, amount_minor });
    let charges = charge_ids([Some(Reference::Id(charge)), object.payment_intent])?;
    of_charge(object.invoice, charges, fact)
}

#[derive(Deserialize)]
struct DisputeObject {
    id: Option<String>,
    charge: Option<Reference>,
    payment_intent: Option<Reference>,
    amount: Option<i64>,
    currency: Option<String>,
    status: Option<String>,
}

/// A dispute holds the invoice while it lasts. Lost, the money is gone and the debt is open again; won, or closed as an
/// inquiry only, nothing has changed.
fn dispute(event: &Event<'_>) -> Result<Content, Malformed> {
    let object: DisputeObject = event.object()?;
    let charge = object.charge.ok_or_else(|| Malformed::missing("data.object.charge"))?;
    let dispute = object.id.unwrap_or_else(|| charge.id().to_owned());
    check_id("data.object.id", &dispute)?;
    let open = event.kind == "charge.dispute.created";
    let mut facts = vec![event.stamp(Fact::Dispute { dispute: dispute.clone(), open })];
    if !open && object.status.as_deref() == Some("lost") {
        let amount = object.amount.ok_or_else(|| Malformed::missing("data.object.amount"))?;
        let amount_minor = minor_units(amount, currency(object.currency.as_deref())?);
        check_amount("data.object.amount", amount_minor)?;
        facts.push(event.stamp(Fact::Reversal { reversal: dispute, kind: ReversalKind::Chargeback, amount_minor }));
    }
    let charges = charge_ids([Some(charge), object.payment_intent])?;
    Ok(Content::Charge { charges, facts })
}

fn currency(code: Option<&str>) -> Result<Currency, Malformed> {
    let code = code.ok_or_else(|| Malformed::missing("data.object.currency"))?;
    Currency::try_new(code).map_err(|e| Malformed::new("data.object.currency", e))
}

fn moment(field: &'static str, seconds: Option<i64>) -> Result<Option<Timestamp>, Malformed> {
    seconds.map(Timestamp::from_second).transpose().map_err(|e| Malformed::new(field, e))
}

/// Stripe's amounts are minor units, but for three currencies its idea of them differs from ISO 4217
/// (<https://docs.stripe.com/currencies#special-cases>): ISK and UGX have none but are written with two decimals, MGA has
/// two but is written without.
fn minor_units(amount: i64, currency: Currency) -> i64 {
    match currency.code() {
        "ISK" | "UGX" => amount / 100,
        "MGA" => amount.saturating_mul(100),
        _ => amount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const UTC: TimeZone = TimeZone::UTC;

    fn now() -> Timestamp {
        Timestamp::from_second(12_345).unwrap()
    }

    fn sign(secret: &str, time: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{time}.{body}").as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    #[test]
    fn signatures_are_checked_over_the_raw_body() {
        let body = r#"{"a":1}"#;
        let good = sign("whsec_one", 12_345, body);
        let check = |header: &str, body: &str| verify(header, body.as_bytes(), ["whsec_old", "whsec_one"], 300, now());
        assert_eq!(check(&format!("t=12345,v1={good}"), body), Ok(()));
        assert_eq!(check(&format!("t=12345,v1={},v1={good},v0=00", "0".repeat(64)), body), Ok(()), "rotation");
        assert_eq!(check(&format!("t=12345,v1={good}"), r#"{"a":2}"#), Err(SignatureError::Wrong));
        assert_eq!(check(&format!("t=12346,v1={good}"), body), Err(SignatureError::Wrong), "the time is signed too");
        assert_eq!(check(&format!("t=12345,v0={good}"), body), Err(SignatureError::Missing), "v0 proves nothing");
        assert_eq!(check("", body), Err(SignatureError::Missing));
        assert_eq!(check("t=,v1=zz", body), Err(SignatureError::Missing));
    }

    #[test]
    fn the_tolerance_holds_both_ways() {
        let body = "{}";
        for (time, good) in [(12_345 - 300, true), (12_345 - 301, false), (12_345 + 300, true), (12_345 + 301, false)] {
            let header = format!("t={time},v1={}", sign("s", time, body));
            assert_eq!(verify(&header, body.as_bytes(), ["s"], 300, now()).is_ok(), good, "signed at {time}");
        }
    }

    fn event(kind: &str, object: Value) -> Webhook {
        let body = json!({"id": "evt_1", "type": kind, "created": 1_767_225_600, "data": {"object": object}});
        translate(body.to_string().as_bytes(), &UTC).unwrap()
    }

    fn invoice_object() -> Value {
        json!({
            "id": "in_1", "customer": "cus_1", "currency": "eur", "amount_due": 1_000, "amount_remaining": 400,
            "created": 1_767_225_600, "due_date": 1_769_817_600, "status": "open", "number": "R-7",
            "hosted_invoice_url": "https://pay.example.com/1", "charge": "ch_1", "payment_intent": {"id": "pi_1"}
        })
    }

    fn fault(change: impl Fn(&mut Value)) -> String {
        let mut object = invoice_object();
        change(&mut object);
        let Ok(Content::Invoice { facts, fault: Some(fault), .. }) = event("invoice.finalized", object).content else {
            panic!("no fault")
        };
        assert_eq!(facts, []);
        fault.to_string()
    }

    #[test]
    fn an_invoice_is_read_with_what_it_links_to() {
        let Ok(Content::Invoice { invoice, facts, charges, fault: None }) =
            event("invoice.finalized", invoice_object()).content
        else {
            panic!("no invoice")
        };
        assert_eq!(invoice.as_str(), "in_1");
        assert_eq!(charges, ["ch_1", "pi_1"]);
        let [Stamped { fact: Fact::Snapshot(snapshot), .. }] = facts.as_slice() else { panic!("{facts:?}") };
        assert_eq!((snapshot.total_minor, snapshot.paid_minor), (1_000, 600));
        assert_eq!(snapshot.due_on, Some("2026-01-31".parse().unwrap()));
        assert_eq!(snapshot.issued_on.to_string(), "2026-01-01");
    }

    #[test]
    fn civil_dates_are_the_merchants() {
        let body = json!({"id": "e", "type": "invoice.updated", "created": 1, "data": {"object": invoice_object()}});
        let honolulu = kernel::contact::zone("Pacific/Honolulu").unwrap();
        let Ok(Content::Invoice { facts, .. }) = translate(body.to_string().as_bytes(), &honolulu).unwrap().content
        else {
            panic!("no invoice")
        };
        let Fact::Snapshot(snapshot) = &facts[0].fact else { panic!("{facts:?}") };
        assert_eq!(snapshot.issued_on.to_string(), "2025-12-31", "midnight UTC is the day before in Honolulu");
    }

    #[test]
    fn nonsense_is_named_by_field() {
        assert_eq!(fault(|o| o["amount_due"] = Value::Null), "data.object.amount_due: is missing");
        assert_eq!(
            fault(|o| o["currency"] = json!("euros")),
            r#"data.object.currency: "euros" is not an ISO 4217 currency code such as EUR"#
        );
        assert_eq!(
            fault(|o| o["due_date"] = json!(1_767_000_000)),
            "data.object.due_date: 2025-12-29 lies before the date of issue, 2026-01-01"
        );
        assert_eq!(
            fault(|o| {
                o["amount_due"] = json!(-5);
                o["amount_remaining"] = json!(-5);
            }),
            "data.object.amount_due: -5 is negative; an invoice asks for money"
        );
        assert_eq!(fault(|o| o["customer"] = Value::Null), "data.object.customer: is empty");
        assert!(fault(|o| o["amount_due"] = json!("ten")).starts_with("data.object: amount_due: invalid type: string"));
        assert_eq!(event("invoice.paid", json!({})).content.unwrap_err().to_string(), "data.object.id: is empty");
    }

    #[test]
    fn what_fits_into_no_event_is_named_by_field() {
        let long = |length: usize| json!("x".repeat(length));
        assert!(fault(|o| o["number"] = long(1_001)).starts_with("data.object.number: "));
        assert!(fault(|o| o["customer_name"] = long(1_001)).starts_with("data.object.customer_name: "));
        assert!(fault(|o| o["customer_email"] = long(1_001)).starts_with("data.object.customer_email: "));
        assert!(fault(|o| o["hosted_invoice_url"] = long(4_001)).starts_with("data.object.hosted_invoice_url: "));
        assert!(fault(|o| o["invoice_pdf"] = long(4_001)).starts_with("data.object.invoice_pdf: "));
        assert_eq!(
            fault(|o| o["customer_name"] = json!("a\0b")),
            "data.object.customer_name: contains a zero character, which nothing can store"
        );
        assert!(fault(|o| o["charge"] = long(256)).starts_with("data.object.charge: "));
        assert!(fault(|o| o["amount_due"] = json!(i64::MAX)).starts_with("data.object.amount_due: "));
        assert!(fault(|o| o["amount_remaining"] = json!(i64::MIN)).starts_with("data.object.amount_paid: "));
        let customer = json!({"id": "cus_1", "preferred_locales": ["x".repeat(101)]});
        let fault = event("customer.updated", customer).content.unwrap_err();
        assert_eq!(fault.field, "data.object.preferred_locales");
    }

    #[test]
    fn an_end_is_certain_even_if_the_rest_makes_no_sense() {
        let certain = |kind: &str| {
            let mut object = invoice_object();
            object["amount_due"] = Value::Null;
            match event(kind, object).content {
                Ok(Content::Invoice { facts, fault: Some(_), .. }) => {
                    facts.into_iter().map(|f| f.fact).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(certain("invoice.paid"), [Fact::Paid { paid_at: None, certain: true }]);
        assert_eq!(certain("invoice.voided"), [Fact::Closure(Closure::Voided)]);
        assert_eq!(certain("invoice.marked_uncollectible"), [Fact::Closure(Closure::WrittenOff)]);
        assert_eq!(certain("invoice.updated"), []);
    }

    #[test]
    fn an_invoice_payment_says_what_pays_which_invoice() {
        let object = json!({"id": "inpay_1", "invoice": "in_1", "payment": {"type": "payment_intent", "payment_intent": "pi_1"}});
        let Ok(Content::Invoice { invoice, facts, charges, fault: None }) =
            event("invoice_payment.paid", object).content
        else {
            panic!("no invoice")
        };
        assert_eq!((invoice.as_str(), charges), ("in_1", vec!["pi_1".to_owned()]));
        assert_eq!(facts.into_iter().map(|f| f.fact).collect::<Vec<_>>(), [Fact::Pending(false)], "it counts no money");
    }

    #[test]
    fn kinds_become_facts() {
        let facts = |kind: &str, change: fn(&mut Value)| {
            let mut object = invoice_object();
            change(&mut object);
            let Ok(Content::Invoice { facts, .. }) = event(kind, object).content else { panic!("no invoice") };
            facts.into_iter().skip(1).map(|f| f.fact).collect::<Vec<_>>()
        };
        assert_eq!(
            facts("invoice.paid", |o| o["status"] = json!("paid")),
            [Fact::Paid { paid_at: None, certain: true }]
        );
        assert_eq!(
            facts("invoice.updated", |o| o["status"] = json!("paid")),
            [Fact::Paid { paid_at: None, certain: false }]
        );
        assert_eq!(facts("invoice.voided", |o| o["status"] = json!("void")), [Fact::Closure(Closure::Voided)]);
        assert_eq!(facts("invoice.marked_uncollectible", |_| ()), [Fact::Closure(Closure::WrittenOff)]);
        assert_eq!(facts("invoice.overdue", |_| ()), [Fact::OverdueHint]);
        assert_eq!(
            facts("invoice.payment_failed", |o| {
                o["attempt_count"] = json!(2);
                o["payment_intent"]["last_payment_error"] =
                    json!({"code": "card_declined", "decline_code": "expired_card"});
            }),
            [Fact::Failure { decline_code: "expired_card".into(), attempt: Some(2) }]
        );
        assert_eq!(facts("invoice.created", |o| o["status"] = json!("draft")), []);
    }

    #[test]
    fn a_lost_dispute_is_a_chargeback_and_a_won_one_is_over() {
        let object =
            |status: &str| json!({"id": "dp_1", "charge": "ch_1", "amount": 900, "currency": "eur", "status": status});
        let facts = |kind: &str, status: &str| match event(kind, object(status)).content {
            Ok(Content::Charge { charges, facts }) if charges == ["ch_1"] => {
                facts.into_iter().map(|f| f.fact).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let dispute = |open| Fact::Dispute { dispute: "dp_1".into(), open };
        assert_eq!(facts("charge.dispute.created", "needs_response"), [dispute(true)]);
        assert_eq!(facts("charge.dispute.closed", "won"), [dispute(false)]);
        let chargeback = Fact::Reversal { reversal: "dp_1".into(), kind: ReversalKind::Chargeback, amount_minor: 900 };
        assert_eq!(facts("charge.dispute.closed", "lost"), [dispute(false), chargeback]);
    }

    fn told(content: Result<Content, Malformed>) -> (Snapshot, Option<String>) {
        let Ok(Content::Invoice { facts, fault, .. }) = content else { panic!("no invoice") };
        let Some(Fact::Snapshot(snapshot)) = facts.into_iter().map(|f| f.fact).next() else { panic!("no snapshot") };
        (*snapshot, fault.map(|f| f.to_string()))
    }

    #[test]
    fn an_invoice_tells_what_campaigns_choose_by() {
        let with = |change: fn(&mut Value)| {
            let mut object = invoice_object();
            change(&mut object);
            told(event("invoice.finalized", object).content)
        };
        let (plain, fault) = with(|o| o["metadata"] = json!({}));
        assert_eq!((plain.source, plain.collects_itself, plain.partial, fault), (Source::Stripe, false, false, None));
        assert_eq!((plain.tags, plain.campaign.as_str()), (vec![], ""));
        assert!(!with(|o| o["collection_method"] = json!("send_invoice")).0.collects_itself);
        let (rich, fault) = with(|o| {
            o["collection_method"] = json!("charge_automatically");
            o["metadata"] =
                json!({"dunlin_tags": "vip, eu west ,,vip", "dunlin_campaign": " gentle ", "order": "7", "note": null});
        });
        assert_eq!((rich.tags, rich.campaign.as_str()), (vec!["vip".to_owned(), "eu west".to_owned()], "gentle"));
        assert_eq!((rich.collects_itself, rich.partial, fault), (true, false, None));
    }

    #[test]
    fn a_fault_of_the_metadata_is_that_parts_only() {
        let with = |metadata: Value| {
            let mut object = invoice_object();
            object["metadata"] = metadata;
            told(event("invoice.finalized", object).content)
        };
        let (snapshot, fault) = with(json!({"dunlin_tags": "x".repeat(101), "dunlin_campaign": "gentle"}));
        let too_long = "data.object.metadata.dunlin_tags: contains a tag that has 101 characters; at most 100 fit";
        assert_eq!((snapshot.total_minor, snapshot.partial, fault.as_deref()), (1_000, true, Some(too_long)));
        assert_eq!((snapshot.tags, snapshot.campaign.as_str()), (vec![], "gentle"));
        let (snapshot, fault) = with(json!({"dunlin_tags": "vip", "dunlin_campaign": "a b"}));
        assert_eq!((snapshot.tags, snapshot.campaign.as_str()), (vec!["vip".to_owned()], ""));
        assert!(fault.unwrap().starts_with("data.object.metadata.dunlin_campaign: "));
        assert_eq!(with(json!({"dunlin_tags": 5})).1.unwrap(), "data.object.metadata.dunlin_tags: is no text");
        let mut object = invoice_object();
        object["metadata"] = json!({"dunlin_tags": 5});
        let Ok(Content::Invoice { facts, charges, .. }) = event("invoice.paid", object).content else { panic!() };
        assert!(facts.iter().any(|f| f.fact == Fact::Paid { paid_at: None, certain: true }));
        assert_eq!(charges, ["ch_1", "pi_1"], "what it links to is certain too");
    }

    #[test]
    fn a_customer_tells_what_campaigns_choose_by() {
        let with = |country: &str, payer: &str| {
            let object = json!({
                "id": "cus_1", "name": "Ada", "email": "ada@example.com", "address": {"city": null, "country": country},
                "metadata": {"dunlin_tags": "vip", "dunlin_campaign": "gentle", "dunlin_payer": payer, "timezone": "UTC"}
            });
            let Ok(Content::Customer { facts, fault, .. }) = event("customer.updated", object).content else {
                panic!()
            };
            (facts, fault.map(|f| f.to_string()))
        };
        let (facts, fault) = with("de", "consumer");
        assert_eq!((facts.country.as_str(), facts.payer_kind), ("DE", Some(PayerKind::Consumer)));
        assert_eq!((facts.tags, facts.campaign.as_str()), (vec!["vip".to_owned()], "gentle"));
        assert_eq!((facts.time_zone.as_str(), facts.partial, fault), ("UTC", false, None));
        assert_eq!(with("", "business").0.payer_kind, Some(PayerKind::Business));
        let (facts, fault) = with("Germany", "robot");
        assert_eq!(
            (facts.email.reveal().as_str(), facts.country.as_str(), facts.payer_kind),
            ("ada@example.com", "", None)
        );
        assert!(facts.partial);
        assert!(fault.unwrap().starts_with("data.object.address.country: "), "the first fault");
        assert!(with("DE", "robot").1.unwrap().starts_with("data.object.metadata.dunlin_payer: "));
        let bare = event("customer.created", json!({"id": "cus_1", "address": null, "metadata": null})).content;
        let Ok(Content::Customer { facts, fault: None, .. }) = bare else { panic!("{bare:?}") };
        assert_eq!((facts.country.as_str(), facts.payer_kind), ("", None), "nothing is inferred");
    }

    #[test]
    fn money_under_way_is_about_its_charge_or_invoice_and_counts_nothing() {
        let told = |kind: &str, object: Value| match event(kind, object).content {
            Ok(Content::Charge { charges, facts }) => (None, charges, facts.into_iter().map(|f| f.fact).collect()),
            Ok(Content::Invoice { invoice, charges, facts, fault: None }) => {
                (Some(invoice.to_string()), charges, facts.into_iter().map(|f| f.fact).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        };
        let both = vec!["pi_1".to_owned(), "ch_1".to_owned()];
        let intent = json!({"id": "pi_1", "latest_charge": "ch_1", "amount": 1_000, "amount_received": 1_000});
        for (kind, begins) in
            [("processing", true), ("succeeded", true), ("payment_failed", false), ("canceled", false)]
        {
            let kind = format!("payment_intent.{kind}");
            assert_eq!(told(&kind, intent.clone()), (None, both.clone(), vec![Fact::Pending(begins)]), "{kind}");
        }
        let charge = json!({"id": "ch_1", "payment_intent": {"id": "pi_1"}, "invoice": "in_1", "amount": 1_000});
        let both = vec!["ch_1".to_owned(), "pi_1".to_owned()];
        for (kind, begins) in [("pending", true), ("succeeded", true), ("failed", false)] {
            let kind = format!("charge.{kind}");
            let expected = (Some("in_1".to_owned()), both.clone(), vec![Fact::Pending(begins)]);
            assert_eq!(told(&kind, charge.clone()), expected, "{kind}");
        }
        assert_eq!(event("payment_intent.created", intent).content, Ok(Content::Other));
    }

    #[test]
    fn anything_else_is_kept_and_no_json_is_refused() {
        assert_eq!(event("plan.created", json!({})).content, Ok(Content::Other));
        let bare = translate(br#"{"object": "charge"}"#, &UTC).unwrap();
        assert_eq!((bare.kind.as_str(), &bare.content), ("unknown", &Ok(Content::Other)));
        assert!(translate(b"nonsense", &UTC).is_err());
        assert!(translate(b"", &UTC).is_err());
        assert_eq!(translate(b"5", &UTC).unwrap().content.unwrap_err().field, "body");
    }

    #[test]
    fn three_currencies_differ_from_iso() {
        let minor = |amount, code| minor_units(amount, Currency::try_new(code).unwrap());
        assert_eq!(
            [minor(50_000, "ISK"), minor(500, "MGA"), minor(500, "JPY"), minor(500, "EUR")],
            [500, 50_000, 500, 500]
        );
    }
}
