use crate::store::{self, OutboxRow};
use crate::{Failure, relay::Relay, trace};
use bytes::Bytes;
use events::{Envelope, Event, Flow};
use jiff::Timestamp;
use kernel::{CustomerId, MerchantId, Shard};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

/// What fits into a message (`max_msg_size` of the streams is 256 KiB) with its headers: a larger event would be committed
/// and then wait in the outbox for ever.
const MAX_EVENT_BYTES: usize = 200 * 1024;

/// One unit of work: a transaction and the events it emits, which commit together or not at all.
///
/// After [`Work::commit`] the events are already on their way to the broker; if the process dies instead, the sweep
/// finds them in the outbox.
pub struct Work {
    flow: &'static Flow,
    /// Missing in a process that is no service: the sweep of one publishes.
    relay: Option<Relay>,
    tx: Transaction<'static, Postgres>,
    emitted: Vec<OutboxRow>,
    rejected: Vec<(Uuid, String)>,
    after_commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl Work {
    pub(crate) async fn begin(pool: &PgPool, flow: &'static Flow, relay: Relay) -> Result<Self, sqlx::Error> {
        Ok(Self { relay: Some(relay), ..Self::begin_without_relay(pool, flow).await? })
    }

    /// Begins a unit of work in a process that has no broker, such as an operator's command: what it emits is published
    /// by the sweep of the running service, some seconds later.
    pub async fn begin_without_relay(pool: &PgPool, flow: &'static Flow) -> Result<Self, sqlx::Error> {
        let (tx, emitted, rejected) = (pool.begin().await?, Vec::new(), Vec::new());
        Ok(Self { flow, relay: None, tx, emitted, rejected, after_commit: Vec::new() })
    }

    /// The transaction.
    pub fn tx(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Emits an event that dunlin decided, under a new id. `now` is business time.
    pub fn emit<E: Event>(&mut self, now: Timestamp, event: &E) -> Result<Uuid, Failure> {
        self.emit_as(kernel::id::at(now), now, event, trace::current())
    }

    /// Emits an event under a given id, time and creating trace.
    ///
    /// Refused: an event that the flow does not declare, one whose merchant or customer is no id, and one that is too large
    /// to be published. All would otherwise show up as lost events.
    pub fn emit_as<E: Event>(
        &mut self,
        id: Uuid,
        occurred_at: Timestamp,
        event: &E,
        traceparent: Option<String>,
    ) -> Result<Uuid, Failure> {
        if !self.flow.emits.contains(&E::KIND) {
            return Err(Failure::Reject(format!("{} may not emit {}", self.flow.name, E::KIND.name())));
        }
        let payload = Bytes::from(event.encode_to_vec());
        if payload.len() > MAX_EVENT_BYTES {
            let (kind, size) = (E::KIND.name(), payload.len());
            return Err(Failure::Reject(format!(
                "{kind} of {size} bytes is too large: {MAX_EVENT_BYTES} can be published"
            )));
        }
        let about = event.about();
        let refused =
            |what: &str, e: kernel::id::IdError| Failure::Reject(format!("cannot emit {}: {what} {e}", E::KIND.name()));
        let merchant: MerchantId = about.merchant.parse().map_err(|e| refused("merchant", e))?;
        let customer: CustomerId = about.customer.parse().map_err(|e| refused("customer", e))?;
        self.emitted.push(OutboxRow {
            shard: Shard::of(&merchant, &customer),
            envelope: Envelope {
                id,
                kind: E::KIND,
                merchant,
                key: about.key.to_owned(),
                time: occurred_at,
                traceparent,
            },
            payload,
        });
        Ok(id)
    }

    /// Gives one event of the batch up: it goes to the dead letters when this work commits. The handler must not have
    /// changed anything on its behalf.
    pub fn reject(&mut self, event: &crate::Incoming, reason: impl ToString) {
        self.rejected.push((event.envelope.id, reason.to_string()));
    }

    /// Does something in memory once this work has committed, and never if it does not: what is remembered of the database
    /// must be in it.
    pub fn after_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(action));
    }

    pub(crate) fn rejected(&mut self) -> Vec<(Uuid, String)> {
        std::mem::take(&mut self.rejected)
    }

    /// Writes the events, commits, and hands them to the relay.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        let created_at = match self.emitted.is_empty() {
            true => None,
            false => Some(store::insert_outbox(&mut self.tx, &self.emitted).await?),
        };
        self.tx.commit().await?;
        self.after_commit.into_iter().for_each(|action| action());
        if let (Some(created_at), Some(relay)) = (created_at, self.relay) {
            relay.offer(created_at, self.emitted).await;
        }
        Ok(())
    }
}
