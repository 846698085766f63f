//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | `invoice` by version | – |
//! | `customer-segmented` | `customer` by version | – |
//! | `invoice-overdue` | `overdue` | – |
//! | `step-decided` | `step` | – |
//! | `case-enrolled` | `enrolment`, the latest of each case | – |
//! | `sequence-ended` | `sequence` | – |
//! | `reminder-sent`, `-suppressed`, `-failed`, `-unknown` | `reminder`, `reminder_line` | – |
//! | `reminder-bounced`, `-complained` | `returned` | – |
//! | a pay link is followed, or one-click unsubscribe: [`respond`] | `response` | `customer-responded` |

use crate::lift::Drawn;
use crate::store::{self, EnrolmentRow, InvoiceKey, Overdue, ReminderRow, Response, SequenceRow, StepRow};
use bus::{Failure, Handler, Incoming, Work, trace};
use events::topology::TRACKER_RECORDS;
use events::{AnyEvent, Flow, Invoice, Malformed, snapshot, time, v1};
use jiff::Timestamp;
use kernel::{CustomerId, MerchantId, Segment};
use payer::experiment::Group;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// Everything that figures are made of.
pub struct Records;

impl Handler for Records {
    const FLOW: &'static Flow = &TRACKER_RECORDS;
    const LINGER: Duration = Duration::from_millis(50);

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let mut news = News::default();
        for incoming in batch {
            if let Err(fault) = news.add(incoming) {
                work.reject(incoming, fault);
            }
        }
        let tx = work.tx();
        if !news.invoices.is_empty() {
            store::upsert_invoices(tx, &news.invoices).await?;
        }
        if !news.segments.is_empty() {
            store::upsert_segments(tx, &news.segments).await?;
        }
        if !news.overdue.is_empty() {
            store::insert_overdue(tx, &news.overdue).await?;
        }
        if !news.steps.is_empty() {
            store::insert_steps(tx, &news.steps).await?;
        }
        if !news.enrolments.is_empty() {
            store::upsert_enrolments(tx, &news.enrolments.into_values().collect::<Vec<_>>()).await?;
        }
        if !news.sequences.is_empty() {
            store::insert_sequences(tx, &news.sequences).await?;
        }
        if !news.reminders.is_empty() {
            store::upsert_reminders(tx, &news.reminders.into_values().collect::<Vec<_>>()).await?;
        }
        if !news.returned.is_empty() {
            store::insert_returned(tx, &news.returned).await?;
        }
        Ok(())
    }
}

/// The latest news of a batch, by table.
#[derive(Default)]
struct News {
    invoices: BTreeMap<InvoiceKey, Invoice>,
    segments: BTreeMap<(MerchantId, CustomerId), (i64, Segment)>,
    overdue: Vec<Overdue>,
    steps: Vec<StepRow>,
    enrolments: BTreeMap<(String, String, i32), EnrolmentRow>,
    sequences: Vec<SequenceRow>,
    reminders: BTreeMap<Uuid, ReminderRow>,
    returned: Vec<(Uuid, &'static str, Timestamp)>,
}

impl News {
    fn add(&mut self, incoming: &Incoming) -> Result<(), Malformed> {
        let at = incoming.envelope.time;
        match &incoming.event {
            AnyEvent::CustomerSegmented(e) => {
                let key = (snapshot::id("merchant_id", &e.merchant_id)?, snapshot::id("customer_id", &e.customer_id)?);
                let segment = snapshot::segment(e.segment())?;
                if self.segments.get(&key).is_none_or(|known| e.version > known.0) {
                    self.segments.insert(key, (e.version, segment));
                }
            }
            AnyEvent::InvoiceOverdue(e) => {
                self.overdue.push((e.merchant_id.clone(), e.invoice_id.clone(), e.epoch, at));
            }
            AnyEvent::StepDecided(e) => self.steps.push(step(e)?),
            AnyEvent::CaseEnrolled(e) => {
                let key = (e.merchant_id.clone(), e.invoice_id.clone(), e.epoch);
                let new = enrolment(e)?;
                if self.enrolments.get(&key).is_none_or(|known| known.order() < new.order()) {
                    self.enrolments.insert(key, new);
                }
            }
            AnyEvent::SequenceEnded(e) => self.sequences.push(sequence(e, incoming)?),
            AnyEvent::ReminderSent(e) => self.reminder(&e.reminder, "sent", "", at, &e.invoice_ids)?,
            AnyEvent::ReminderSuppressed(e) => self.reminder(&e.reminder, "suppressed", &e.reason, at, &[])?,
            AnyEvent::ReminderFailed(e) => self.reminder(&e.reminder, "failed", &e.reason, at, &[])?,
            AnyEvent::ReminderUnknown(e) => self.reminder(&e.reminder, "unknown", &e.reason, at, &[])?,
            AnyEvent::ReminderBounced(e) => {
                let what = match e.kind() {
                    v1::BounceKind::Hard => "hard",
                    v1::BounceKind::Soft => "soft",
                    v1::BounceKind::Blocked => "blocked",
                    v1::BounceKind::Unspecified => return Err(Malformed::new("kind", "is not a known kind")),
                };
                self.returned.push((reminder_id(&e.reminder)?, what, at));
            }
            AnyEvent::ReminderComplained(e) => self.returned.push((reminder_id(&e.reminder)?, "complained", at)),
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

    fn reminder(
        &mut self,
        reminder: &Option<v1::Reminder>,
        outcome: &'static str,
        reason: &str,
        at: Timestamp,
        sent: &[String],
    ) -> Result<(), Malformed> {
        let reminder = reminder.as_ref().ok_or_else(|| Malformed::missing("reminder"))?;
        let id = reminder.reminder_id.parse().map_err(|e| Malformed::new("reminder.reminder_id", e))?;
        let lines = reminder.lines.iter().filter(|l| sent.contains(&l.invoice_id));
        let row = ReminderRow {
            id,
            merchant: reminder.merchant_id.clone(),
            customer: reminder.customer_id.clone(),
            campaign: reminder.campaign.clone(),
            step: reminder.step.clone(),
            segment: snapshot::segment(reminder.segment())?,
            outcome,
            reason: reason.to_owned(),
            settled_at: at,
            lines: lines.map(|l| (l.invoice_id.clone(), l.epoch, l.step.clone())).collect(),
        };
        // In one batch too, only "unknown" can be replaced.
        if self.reminders.get(&id).is_none_or(|known| known.outcome == "unknown") {
            self.reminders.insert(id, row);
        }
        Ok(())
    }
}

fn reminder_id(reminder: &Option<v1::Reminder>) -> Result<Uuid, Malformed> {
    let reminder = reminder.as_ref().ok_or_else(|| Malformed::missing("reminder"))?;
    reminder.reminder_id.parse().map_err(|e| Malformed::new("reminder.reminder_id", e))
}

fn step(event: &v1::StepDecided) -> Result<StepRow, Malformed> {
    Ok(StepRow {
        merchant: event.merchant_id.clone(),
        invoice: event.invoice_id.clone(),
        epoch: event.epoch,
        step: event.step.clone(),
        outcome: match event.outcome() {
            v1::StepOutcome::Merged => "merged",
            v1::StepOutcome::Skipped => "skipped",
            v1::StepOutcome::Unspecified => return Err(Malformed::new("outcome", "is not a known outcome")),
        },
        reason: event.reason.clone(),
        rule: event.rule.clone(),
        decided_at: time::from_wire(event.decided_at).ok_or_else(|| Malformed::missing("decided_at"))?,
    })
}

fn enrolment(event: &v1::CaseEnrolled) -> Result<EnrolmentRow, Malformed> {
    Ok(EnrolmentRow {
        merchant: event.merchant_id.clone(),
        invoice: event.invoice_id.clone(),
        epoch: event.epoch,
        customer: event.customer_id.clone(),
        campaign: event.campaign.clone(),
        campaign_version: event.campaign_version.clone(),
        schedule: match event.schedule() {
            v1::Schedule::Adaptive => Group::Treated,
            v1::Schedule::HeldOutInvoice => Group::InvoiceHeldOut,
            v1::Schedule::HeldOutCustomer => Group::CustomerHeldOut,
            v1::Schedule::Unspecified => return Err(Malformed::new("schedule", "is not a known schedule")),
        },
        propensity: probability("propensity", event.propensity)?,
        segment: snapshot::segment(event.segment())?,
        late: event.late.map(|late| probability("late", late.into()).map(|_| late)).transpose()?,
        due_on: time::date_from_wire(&event.due_on).map_err(|e| Malformed::new("due_on", e))?,
        reminds_before_due: event.reminds_before_due,
        arms: event.arms.iter().map(drawn).collect::<Result<_, _>>()?,
        model: event.model.clone(),
        enrolled_at: time::from_wire(event.enrolled_at).ok_or_else(|| Malformed::missing("enrolled_at"))?,
    })
}

fn drawn(arm: &v1::Arm) -> Result<Drawn, Malformed> {
    let propensity = probability("arms.propensity", arm.propensity)?;
    if propensity == 0.0 {
        return Err(Malformed::new("arms.propensity", "is 0: what was drawn was possible"));
    }
    let (step, arm, days_before_due) = (arm.step.clone(), arm.arm.clone(), arm.days_before_due);
    Ok(Drawn { step, arm, propensity, days_before_due })
}

/// A probability: one that is none would spoil every figure that it is in.
fn probability(field: &'static str, value: f64) -> Result<f64, Malformed> {
    let is_one = (0.0..=1.0).contains(&value);
    is_one.then_some(value).ok_or_else(|| Malformed::new(field, format!("{value} is no probability")))
}

fn sequence(event: &v1::SequenceEnded, incoming: &Incoming) -> Result<SequenceRow, Malformed> {
    Ok(SequenceRow {
        merchant: event.merchant_id.clone(),
        invoice: event.invoice_id.clone(),
        epoch: event.epoch,
        outcome: match event.outcome() {
            v1::SequenceOutcome::HandOver => "hand_over",
            v1::SequenceOutcome::Webhook => "webhook",
            v1::SequenceOutcome::Stop => "stop",
            v1::SequenceOutcome::Unspecified => return Err(Malformed::new("outcome", "is not a known outcome")),
        },
        campaign: event.campaign.clone(),
        ended_at: time::from_wire(event.ended_at).ok_or_else(|| Malformed::missing("ended_at"))?,
        event: incoming.envelope.id,
        traceparent: incoming.trace(),
    })
}

/// A payer did something with a reminder. The same response again changes and tells nothing.
pub async fn respond(work: &mut Work, response: Response<'_>) -> Result<(), Failure> {
    if !store::insert_response(work.tx(), &response).await? {
        return Ok(());
    }
    let event = v1::CustomerResponded {
        merchant_id: response.merchant.to_string(),
        customer_id: response.customer.to_string(),
        invoice_id: response.invoice.map(ToString::to_string).unwrap_or_default(),
        reminder_id: response.reminder.to_string(),
        kind: response.kind.into(),
        responded_at: Some(time::to_wire(response.responded_at)),
    };
    work.emit_as(response.id, response.responded_at, &event, trace::current()).map(drop)
}
