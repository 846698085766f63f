//! Deliveries of which nobody knows whether they arrived. They are never sent again by themselves; evidence or a person says
//! what became of them.
//!
//! After a day without either, one is marked as taken for sent: for gaps and caps it has counted so from the beginning.

pub mod store;

use bus::{Failure, Work};
use events::v1::{self, ReminderDue};
use events::{Malformed, time};
use jiff::{SignedDuration, Timestamp};
use kernel::{Masked, MerchantId};
use prost::Message;
use runtime::Host;
use std::time::Duration;
use store::Resolved;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What somebody says about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It was accepted.
    Sent,
    /// It was not, and is not sent any more.
    NotSent,
    /// It is to be handed over once more, whatever became of the first. Only a person may say so: the payer may get two.
    SendAgain,
}

impl Says {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::NotSent => "not_sent",
            Self::SendAgain => "send_again",
        }
    }
}

/// Evidence about a delivery.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The delivery.
    pub delivery: Uuid,
    /// Whose it has to be, where somebody else's must not be spoken of.
    pub merchant: Option<MerchantId>,
    /// What it says.
    pub says: Says,
    /// Where from: `operator`, `provider`, `mail`.
    pub source: &'static str,
    /// Who: a name, or the provider's id of the message.
    pub by: String,
    /// Why, in their words.
    pub reason: Masked<String>,
}

/// Keeps evidence, and resolves the deliveries that are unknown by it. Returns these; for others it is kept and changes
/// nothing.
pub async fn resolve(work: &mut Work, evidence: &[Evidence], now: Timestamp) -> Result<Vec<Uuid>, Failure> {
    let resolved = store::resolve(work.tx(), evidence, now).await?;
    for one in &resolved {
        tell(work, one, now)?;
    }
    Ok(resolved.iter().map(|one| one.id).collect())
}

fn tell(work: &mut Work, resolved: &Resolved, now: Timestamp) -> Result<(), Failure> {
    let Some(mut reminder) = ReminderDue::decode(&*resolved.request).ok().and_then(|request| request.reminder) else {
        tracing::error!(delivery = %resolved.id, "stored request cannot be read any more; what became of it is not told");
        return Ok(());
    };
    if let Some(channel) = crate::channel::by_name(&resolved.channel) {
        reminder.channel = channel.into();
    }
    let (id, trace) = (kernel::id::at(now), resolved.traceparent.clone());
    match resolved.state.as_str() {
        "handed_off" => {
            // When it went out, not when that was found out: gaps count from there.
            let at = resolved.unknown_at.map_or(now, |at| at.to_jiff());
            let invoice_ids = reminder.lines.iter().map(|line| line.invoice_id.clone()).collect();
            let (sent_at, message_id) = (Some(time::to_wire(at)), resolved.id.to_string());
            let event = v1::ReminderSent { reminder: Some(reminder), sent_at, invoice_ids, message_id };
            work.emit_as(id, at, &event, trace)?;
        }
        "failed" => {
            let event = v1::ReminderFailed {
                reminder: Some(reminder),
                failed_at: Some(time::to_wire(now)),
                reason: NOT_SENT.to_owned(),
                status_code: String::new(),
            };
            work.emit_as(id, now, &event, trace)?;
        }
        // On its way again: its end will be told.
        _ => {}
    }
    Ok(())
}

/// The reason of what turned out not to have been sent.
pub const NOT_SENT: &str = "resolved_not_sent";

/// Why an operator's word changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// There is no such delivery, or it is known what became of it.
    #[error("{0}: no delivery of unknown fate; `dunlin deliveries unknown` lists them")]
    NotUnknown(Uuid),
    /// What is said makes no sense.
    #[error("{0}")]
    Invalid(Malformed),
    /// The database.
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// An operator says what became of a delivery.
pub async fn say(
    work: &mut Work,
    delivery: Uuid,
    says: Says,
    by: &str,
    reason: &str,
    now: Timestamp,
) -> Result<(), Denied> {
    let given = |field, text: &str| match text.trim() {
        "" => Err(Denied::Invalid(Malformed::missing(field))),
        text => Ok(text.to_owned()),
    };
    let (by, reason) = (given("by", by)?, Masked::new(given("reason", reason)?));
    let evidence = Evidence { delivery, merchant: None, says, source: "operator", by, reason };
    match resolve(work, &[evidence], now).await?.as_slice() {
        [] => Err(Denied::NotUnknown(delivery)),
        _ => Ok(()),
    }
}

/// How long evidence is waited for before a delivery is marked as taken for sent.
const ASSUME_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(10);

/// Marks what nobody knew anything about for a day, and keeps the gauges fresh, until `stop`.
pub async fn watch(host: Host, stop: CancellationToken) {
    let meter = opentelemetry::global::meter("dunlin");
    let gauge = meter.i64_gauge("dunlin.delivery.unknown").build();
    while !stop.is_cancelled() {
        match store::assume(&host.pool, host.now(), ASSUME_AFTER).await {
            Ok(0) => {}
            Ok(taken) => {
                tracing::warn!(taken, "nobody knows whether these arrived; after a day they are taken for sent")
            }
            Err(error) => tracing::warn!(%error, "deliveries of unknown fate not looked at; trying again"),
        }
        // An outage shows as a gauge that stands still.
        if let Ok(unknown) = store::count(&host.pool).await {
            gauge.record(unknown, &[]);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
