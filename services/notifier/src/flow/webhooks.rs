//! Calls of merchants' own systems: from the end of a sequence to the merchant's answer.

use crate::domain::{Balances, catch_up};
use crate::store::load_balances;
use crate::webhook::domain::{Outcome, Owed, still_owed};
use crate::webhook::store::{self, Claimed, NewCall, Settled};
use bus::{Failure, Handler, Incoming, Work};
use events::topology::NOTIFIER_WEBHOOKS;
use events::v1;
use events::{AnyEvent, Flow, Malformed, snapshot, time};
use jiff::{SignedDuration, Timestamp};
use kernel::{CustomerId, InvoiceId, MerchantId};
use runtime::Host;
use runtime::merchant::Webhook;
use serde::Serialize;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// Ended sequences that a merchant's system has to hear of.
pub struct Webhooks(pub Host);

impl Handler for Webhooks {
    const FLOW: &'static Flow = &NOTIFIER_WEBHOOKS;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let mut calls = Vec::new();
        for incoming in batch {
            match new_call(&self.0, incoming) {
                Ok(call) => calls.extend(call),
                Err(fault) => work.reject(incoming, fault),
            }
        }
        Ok(store::insert(work.tx(), &calls, self.0.now()).await?)
    }
}

/// What is posted.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    merchant: &'a str,
    customer: &'a str,
    invoice: &'a str,
    epoch: i32,
    currency: &'a str,
    open_minor: i64,
    campaign: &'a str,
    campaign_version: &'a str,
    ended_at: String,
}

/// `None`: somebody else goes on, or nobody.
fn new_call(host: &Host, incoming: &Incoming) -> Result<Option<NewCall>, Malformed> {
    let AnyEvent::SequenceEnded(event) = &incoming.event else { return Err(Malformed::missing("sequence")) };
    match event.outcome() {
        v1::SequenceOutcome::Webhook => {}
        v1::SequenceOutcome::HandOver | v1::SequenceOutcome::Stop => return Ok(None),
        v1::SequenceOutcome::Unspecified => return Err(Malformed::new("outcome", "is not a known outcome")),
    }
    let merchant: MerchantId = snapshot::id("merchant_id", &event.merchant_id)?;
    let _: CustomerId = snapshot::id("customer_id", &event.customer_id)?;
    let _: InvoiceId = snapshot::id("invoice_id", &event.invoice_id)?;
    let ended_at = time::from_wire(event.ended_at).ok_or_else(|| Malformed::missing("ended_at"))?.to_string();
    let body = Body {
        r#type: "dunlin.sequence-ended",
        timestamp: ended_at.clone(),
        data: Data {
            merchant: &event.merchant_id,
            customer: &event.customer_id,
            invoice: &event.invoice_id,
            epoch: event.epoch,
            currency: &event.currency,
            open_minor: event.open_minor,
            campaign: &event.campaign,
            campaign_version: &event.campaign_version,
            ended_at,
        },
    };
    // Of the case, not of the event: a case ends once, however often that is told.
    let case = format!("{}/{}", event.epoch, event.invoice_id);
    Ok(Some(NewCall {
        id: kernel::id::derive("notifier", &event.merchant_id, &case, "webhook"),
        merchant: event.merchant_id.clone(),
        customer: event.customer_id.clone(),
        invoice: event.invoice_id.clone(),
        epoch: event.epoch,
        invoice_version: event.invoice_version,
        body: serde_json::to_string(&body).map_err(|e| Malformed::new("sequence", e))?,
        reason: if configured(host, &merchant).is_some() { "" } else { NO_WEBHOOK },
        traceparent: incoming.trace(),
    }))
}

const NO_WEBHOOK: &str = "no_webhook";

fn configured<'a>(host: &'a Host, merchant: &MerchantId) -> Option<&'a Webhook> {
    host.merchants.get(merchant)?.file.webhook.as_ref()
}

/// A call to be made now.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Call {
    pub id: Uuid,
    pub attempts: i32,
    pub tries: i32,
    pub body: String,
    pub traceparent: Option<String>,
    /// Whose.
    pub merchant: MerchantId,
    /// Where to.
    pub webhook: Webhook,
}

/// Claims calls whose time has come, and looks once more at what is owed: those that nobody has to hear of any more are
/// cancelled, those that cannot be made yet are put back. Returns how many were looked at, and those to be made.
pub async fn claim(
    tx: &mut PgConnection,
    host: &Host,
    busy: &[String],
    limit: i64,
    lease: Duration,
) -> Result<(usize, Vec<Call>), Failure> {
    let now = host.now();
    let claimed = store::claim(tx, busy, limit, lease, now).await?;
    let keys: Vec<_> = claimed
        .iter()
        .filter_map(|c| Some((MerchantId::try_new(&c.merchant).ok()?, InvoiceId::try_new(&c.invoice).ok()?)))
        .collect();
    let balances = load_balances(tx, &keys.iter().collect::<Vec<_>>()).await?;
    let looked = claimed.len();
    let mut calls = Vec::with_capacity(looked);
    for row in claimed {
        match look(host, &row, &balances, now) {
            Look::Call(call) => calls.push(*call),
            Look::Cancel(reason) => settle_as(tx, &row, "cancelled", reason, now, now).await?,
            Look::Wait(reason, next_at) => settle_as(tx, &row, "pending", reason, next_at, now).await?,
        }
    }
    Ok((looked, calls))
}

async fn settle_as(
    tx: &mut PgConnection,
    row: &Claimed,
    state: &'static str,
    reason: &str,
    next_at: Timestamp,
    now: Timestamp,
) -> sqlx::Result<()> {
    store::settle(tx, &Settled { id: row.id, attempts: row.attempts, state, next_at, reason, error: None }, now).await
}

enum Look {
    Call(Box<Call>),
    Cancel(&'static str),
    Wait(&'static str, Timestamp),
}

/// The last look before a call.
fn look(host: &Host, row: &Claimed, balances: &Balances, now: Timestamp) -> Look {
    let (Ok(merchant), Ok(invoice)) = (MerchantId::try_new(&row.merchant), InvoiceId::try_new(&row.invoice)) else {
        return Look::Cancel("unreadable");
    };
    let key = (merchant, invoice);
    match still_owed(balances.get(&key), row.epoch, row.invoice_version) {
        Owed::Yes => {}
        Owed::Behind => return Look::Wait("balance_unknown", host.clock.after(catch_up(row.attempts))),
        Owed::NotNow(reason) => return Look::Wait(reason, later(host, SignedDuration::from_hours(1), now)),
        Owed::No(reason) => return Look::Cancel(reason),
    }
    let (merchant, _) = key;
    let Some(webhook) = configured(host, &merchant).cloned() else {
        return Look::Wait(NO_WEBHOOK, later(host, SignedDuration::from_mins(5), now));
    };
    Look::Call(Box::new(Call {
        id: row.id,
        attempts: row.attempts,
        tries: row.tries,
        body: row.body.clone(),
        traceparent: row.traceparent.clone(),
        merchant,
        webhook,
    }))
}

/// A moment later in business time. However fast the clock runs, the other side needs a moment.
pub fn later(host: &Host, by: SignedDuration, now: Timestamp) -> Timestamp {
    now.saturating_add(by).unwrap_or(Timestamp::MAX).max(host.clock.after(Duration::from_secs(1)))
}

/// Records how a call ended.
pub async fn settle(host: &Host, call: &Call, outcome: &Outcome, error: &str) -> sqlx::Result<()> {
    let now = host.now();
    let (state, reason, next_at) = match outcome {
        Outcome::Delivered => ("delivered", "", now),
        Outcome::Failed(reason) => ("failed", *reason, now),
        // What the merchant's system asks for is meant in its own time.
        Outcome::Retry { after, asked } => {
            let asked = host.clock.after(Duration::try_from(*asked).unwrap_or_default());
            ("pending", "", later(host, *after, now).max(asked))
        }
    };
    let error = (*outcome != Outcome::Delivered).then_some(error);
    let settled = Settled { id: call.id, attempts: call.attempts, state, next_at, reason, error };
    store::settle(&host.pool, &settled, now).await
}
