//! Reminders that a person of the merchant's carries out: the call list.
//!
//! An entry is made in the transaction that looks at the balances, so it needs no hand-over: there is nothing between the
//! look and the list. What the person found out is told (`task-done`); an entry of which nothing is owed any more closes by
//! itself.

pub mod store;

use crate::channel::desk::Lease;
use crate::flow::{self, Claimer, Look, Ticket, Verdict};
use crate::freshness::Freshness;
use crate::smtp::Reply;
use bus::{Failure, Work};
use events::topology::NOTIFIER_SENDER;
use events::v1::{self, TaskOutcome};
use events::{Malformed, time};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::Masked;
use runtime::Host;
use std::time::Duration;
use store::{Closed, NewTask};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Most entries per transaction.
const GROUP: i64 = 100;
/// How often waiting deliveries are looked for when there were none.
const IDLE: Duration = Duration::from_millis(250);

/// Puts reminders on the call list until `stop`. Those by a channel that this version does not know fail here too.
pub async fn run(host: Host, freshness: Freshness, stop: CancellationToken) {
    let owner = kernel::id::new(&*host.clock);
    let lease = Lease::keep(host.clone(), owner);
    while !stop.is_cancelled() {
        let listed = list(&host, &freshness, owner).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "nothing put on the call list; trying again");
            0
        });
        if listed == 0 {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
        }
    }
    lease.end().await;
}

/// Claims, looks at the balances, lists and settles, in one transaction.
async fn list(host: &Host, freshness: &Freshness, owner: Uuid) -> Result<usize, Failure> {
    let mut work = host.bus.begin(&NOTIFIER_SENDER).await?;
    let by = |channel| Claimer { owner, channel, busy: &[] };
    flow::claim_other(&mut work, host, freshness, by("unknown"), GROUP).await?;
    let tickets = flow::claim_other(&mut work, host, freshness, by("task"), GROUP).await?;
    let now = host.now();
    let looks = flow::permit(work.tx(), host, freshness, &tickets.iter().collect::<Vec<_>>()).await?;
    let (mut tasks, mut settled) = (Vec::new(), Vec::with_capacity(tickets.len()));
    for (ticket, look) in tickets.into_iter().zip(looks) {
        let verdict = match look {
            Look::Refused(verdict) => verdict,
            Look::Granted { .. } => {
                tasks.push(task_of(&ticket, now));
                // 201: made.
                Verdict::Sent(Reply { code: 201, enhanced: None, text: Masked::default() })
            }
        };
        settled.push((ticket, verdict));
    }
    store::insert(work.tx(), &tasks, now).await?;
    flow::settle_any(&mut work, owner, &settled, now).await?;
    work.commit().await?;
    Ok(settled.len())
}

fn task_of(ticket: &Ticket, now: Timestamp) -> NewTask {
    let window = ticket.hours.window_on(ticket.hours.date_at(now));
    NewTask {
        id: ticket.id,
        merchant: ticket.reminder.merchant_id.clone(),
        customer: ticket.reminder.customer_id.clone(),
        lines: ticket.owed.iter().map(|(line, _)| (line.invoice_id.clone(), line.epoch)).collect(),
        currency: ticket.reminder.currency.clone(),
        step: ticket.reminder.step.clone(),
        call_from: window.map_or(now, |w| w.opens.max(now)),
        call_until: window.map_or(now, |w| w.closes),
        traceparent: ticket.traceparent.clone(),
    }
}

/// What a person found out.
#[derive(Debug)]
pub struct Done {
    /// How it went.
    pub outcome: TaskOutcome,
    /// Until when the payer promised to pay.
    pub until: Option<Date>,
    /// In that person's words.
    pub note: Masked<String>,
    /// Who.
    pub by: String,
}

/// Why a task is not closed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// There is none.
    #[error("there is no task {0}: `dunlin tasks list` shows those that are open")]
    NotFound(Uuid),
    /// Somebody was faster, or the payer.
    #[error("task {0} is closed already: {1}")]
    Closed(Uuid, String),
    /// What is said makes no sense.
    #[error("{0}")]
    Invalid(Malformed),
    /// The database.
    #[error("{0}")]
    Failed(#[from] Failure),
}

impl From<sqlx::Error> for Denied {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The outcome's name, as stored and given.
pub const fn outcome_name(outcome: TaskOutcome) -> &'static str {
    match outcome {
        TaskOutcome::Reached => "reached",
        TaskOutcome::Promised => "promised",
        TaskOutcome::Paid => "paid",
        TaskOutcome::Disputed => "disputed",
        TaskOutcome::WrongPerson => "wrong_person",
        TaskOutcome::NoAnswer => "no_answer",
        TaskOutcome::Voicemail => "voicemail",
        TaskOutcome::Unspecified => "",
    }
}

/// Closes a task and tells what came of it.
pub async fn close(work: &mut Work, id: Uuid, done: &Done, now: Timestamp) -> Result<(), Denied> {
    let invalid = |field, problem: &str| Denied::Invalid(Malformed::new(field, problem));
    match (done.outcome, done.until) {
        (TaskOutcome::Unspecified, _) => return Err(invalid("outcome", "is missing")),
        (TaskOutcome::Promised, None) => return Err(invalid("until", "is missing: until when is the promise?")),
        (TaskOutcome::Promised, Some(_)) | (_, None) => {}
        (_, Some(_)) => return Err(invalid("until", "is for promises only")),
    }
    if done.by.trim().is_empty() {
        return Err(invalid("by", "is missing: who was it?"));
    }
    let found = store::lock(work.tx(), id).await?.ok_or(Denied::NotFound(id))?;
    if !found.outcome.is_empty() {
        return Err(Denied::Closed(id, found.outcome));
    }
    let outcome = outcome_name(done.outcome);
    let closed = Closed { outcome, until: done.until, note: &done.note, by: done.by.trim() };
    store::close(work.tx(), id, &closed, now).await?;
    let line = |(invoice_id, epoch)| v1::TaskLine { invoice_id, epoch };
    let event = v1::TaskDone {
        merchant_id: found.merchant,
        customer_id: found.customer,
        reminder_id: id.to_string(),
        lines: found.invoices.into_iter().zip(found.epochs).map(line).collect(),
        outcome: done.outcome.into(),
        until: time::date_to_wire(done.until),
        done_by: done.by.trim().to_owned(),
        done_at: Some(time::to_wire(now)),
    };
    work.emit_as(kernel::id::at(now), now, &event, found.traceparent)?;
    Ok(())
}
