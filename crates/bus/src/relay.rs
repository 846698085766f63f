//! The relay: takes what was committed to the broker.
//!
//! The fast path publishes rows right after their commit, as many at once as have gathered meanwhile. The sweep publishes
//! what the fast path left: rows of a process that died after its commit, rows from a time without a broker, windows that
//! an operator replays. Two relays on one row are harmless: the broker confirms the second as a duplicate, or the inbox
//! drops it.

use crate::publish::{MAX_BATCH, publish};
use crate::store::{self, OutboxKey, OutboxRow};
use crate::trace;
use async_nats::jetstream::Context;
use events::Service;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use opentelemetry::metrics::Counter;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How many committed rows may wait for the fast path.
const QUEUE: usize = 10_000;
/// How long a commit waits for room in it while the broker is there: whoever emits faster than the broker takes slows down,
/// instead of leaving rows to the sweep, which comes seconds later.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(1);
/// Batches on their way at the same time: while one waits for the disk the next is written.
const IN_FLIGHT: usize = 3;

/// From one batch to the next: each costs the broker a directory and a file of its own, whatever is in it, so what nobody waits
/// for goes together. The first after a pause goes at once, and so does what fills a batch. News of payments never wait.
const fn pace(service: Service) -> Duration {
    match service {
        Service::Ingest => Duration::ZERO,
        Service::Scheduler | Service::Segmenter | Service::Notifier | Service::Tracker => Duration::from_millis(100),
    }
}

/// Rows younger than this belong to the fast path; a younger sweep would only race it, and have its batches refused.
const SWEEP_AGE_SECONDS: f64 = 5.0;

/// How often the sweep looks.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Committed rows on their way, with the room they take in the queue.
type Queued = (Vec<(OutboxKey, OutboxRow)>, OwnedSemaphorePermit);

/// The entrance to the fast path.
#[derive(Debug, Clone)]
pub struct Relay {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    js: Context,
    left_to_sweep: Counter<u64>,
}

/// The tasks behind it.
pub(crate) struct RelayTasks {
    service: Service,
    js: Context,
    pool: PgPool,
    queue: mpsc::UnboundedReceiver<Queued>,
    /// Rows taken from the queue and not yet on their way.
    taken: Vec<(OutboxKey, OutboxRow)>,
    /// When the next batch may go that is not full.
    next: Instant,
}

impl Relay {
    /// A relay for what a service emits. `pool` should not wait for the disk on commit: a pending mark that comes back
    /// after a crash only leads to a duplicate.
    pub(crate) fn new(service: Service, js: Context, pool: PgPool) -> (Self, RelayTasks) {
        let (sender, queue) = mpsc::unbounded_channel();
        let left_to_sweep = opentelemetry::global::meter("dunlin").u64_counter("dunlin.outbox.left_to_sweep").build();
        let relay = Self { queue: sender, room: Arc::new(Semaphore::new(QUEUE)), js: js.clone(), left_to_sweep };
        (relay, RelayTasks { service, js, pool, queue, taken: Vec::new(), next: Instant::now() })
    }

    /// Hands committed rows over. Waits a moment for room; without it, or without a broker, the sweep will take them.
    pub(crate) async fn offer(&self, created_at: Timestamp, rows: Vec<OutboxRow>) {
        let count = rows.len();
        let needed = u32::try_from(count.min(QUEUE)).unwrap_or(u32::MAX);
        let wait = if is_connected(&self.js) { WAIT_FOR_ROOM } else { Duration::ZERO };
        match tokio::time::timeout(wait, self.room.clone().acquire_many_owned(needed)).await {
            Ok(Ok(room)) => {
                let keyed = rows.into_iter().map(|row| ((created_at, row.envelope.id), row)).collect();
                // Closed only while the process ends; the next one sweeps.
                let _ = self.queue.send((keyed, room));
            }
            Ok(Err(_)) | Err(_) => self.left_to_sweep.add(count as u64, &[]),
        }
    }
}

impl RelayTasks {
    /// Runs both paths until `stop`; then publishes what is still queued and ends. The queue itself closes when the last
    /// [`Relay`] is gone.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let sweep = Sweep { service: self.service, js: self.js.clone(), pool: self.pool.clone() };
        tokio::join!(self.fast_path(stop.clone()), sweep.run(stop));
    }

    async fn fast_path(&mut self, stop: CancellationToken) {
        let mut on_their_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = on_their_way.next() => {}
                rows = self.next_batch(&stop), if on_their_way.len() < IN_FLIGHT => match rows {
                    Some(rows) => on_their_way.push(publish_and_forget(self.service, self.js.clone(), self.pool.clone(), rows)),
                    None => break,
                },
            }
        }
        while on_their_way.next().await.is_some() {}
    }

    /// Up to one batch of what is queued; waits for it, and for company. `None` when nothing more will come, or after `stop`.
    /// What was taken stays taken if this is dropped.
    async fn next_batch(&mut self, stop: &CancellationToken) -> Option<Vec<(OutboxKey, OutboxRow)>> {
        if self.taken.is_empty() {
            let (rows, _room) = tokio::select! {
                biased;
                queued = self.queue.recv() => queued,
                () = stop.cancelled() => self.queue.try_recv().ok(),
            }?;
            self.taken = rows;
        }
        while self.taken.len() < MAX_BATCH {
            let more = tokio::select! {
                biased;
                Some(more) = self.queue.recv() => more,
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(self.next) => break,
            };
            self.taken.extend(more.0);
        }
        self.next = Instant::now() + pace(self.service);
        let rest = self.taken.split_off(self.taken.len().min(MAX_BATCH));
        Some(std::mem::replace(&mut self.taken, rest))
    }
}

fn is_connected(js: &Context) -> bool {
    js.client().connection_state() == async_nats::connection::State::Connected
}

async fn publish_and_forget(service: Service, js: Context, pool: PgPool, rows: Vec<(OutboxKey, OutboxRow)>) {
    let published = publish_rows(service, &js, rows).await;
    forget(&pool, published).await;
}

struct Sweep {
    service: Service,
    js: Context,
    pool: PgPool,
}

impl Sweep {
    async fn run(&self, stop: CancellationToken) {
        loop {
            let again = match self.sweep().await {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(service = %self.service, %error, "outbox sweep failed; trying again");
                    false
                }
            };
            if !again {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(SWEEP_INTERVAL) => {}
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Publishes up to one batch of pending rows. They stay locked meanwhile, so that replicas share the work; if the
    /// broker does not answer, the locks go with the time-out and nothing has changed. Returns whether to go on at once.
    async fn sweep(&self) -> sqlx::Result<bool> {
        if !is_connected(&self.js) {
            return Ok(false);
        }
        let mut tx = self.pool.begin().await?;
        let rows = store::lock_pending(&mut tx, SWEEP_AGE_SECONDS, MAX_BATCH as i64).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let was_full = rows.len() == MAX_BATCH;
        let confirmed = publish_rows(self.service, &self.js, rows).await;
        store::delete_pending(&mut *tx, &confirmed).await?;
        tx.commit().await?;
        Ok(was_full && !confirmed.is_empty())
    }
}

/// Publishes rows and returns the keys of those that the broker confirmed.
async fn publish_rows(service: Service, js: &Context, rows: Vec<(OutboxKey, OutboxRow)>) -> Vec<OutboxKey> {
    if rows.is_empty() {
        return Vec::new();
    }
    let (keys, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let span = tracing::info_span!(
        "send",
        otel.name = %send_span_name(service, &rows),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "send",
        messaging.operation.r#type = "send",
        messaging.destination.name = service.stream(),
        messaging.batch.message_count = rows.len(),
    );
    // A single row's trace simply goes on; for several, the sending span belongs to none of them and links to all.
    let hop = match traced(&rows).as_slice() {
        [row] => {
            trace::set_parent(&span, row.envelope.traceparent.as_deref());
            trace::of(&span)
        }
        _ => {
            trace::link(&span, rows.iter().filter_map(|r| r.envelope.traceparent.as_deref()));
            None
        }
    };
    let results = publish(js, &rows, hop.as_deref()).instrument(span).await;
    let failed = results.iter().filter(|r| r.is_err()).count();
    if let Some(Err(error)) = results.iter().find(|r| r.is_err()) {
        tracing::warn!(%service, failed, rows = rows.len(), %error, "events not confirmed; the sweep will publish them again");
    }
    keys.into_iter().zip(results).filter_map(|(key, result)| result.is_ok().then_some(key)).collect()
}

/// The rows that belong to a trace, or all if none does: what is told by the way, in nobody's trace, breaks none off.
fn traced(rows: &[OutboxRow]) -> Vec<&OutboxRow> {
    let traced: Vec<_> = rows.iter().filter(|row| row.envelope.traceparent.is_some()).collect();
    if traced.is_empty() { rows.iter().collect() } else { traced }
}

fn send_span_name(service: Service, rows: &[OutboxRow]) -> String {
    match traced(rows).as_slice() {
        [row] => format!("send {}", row.envelope.kind.subject_template()),
        _ => format!("send {}", service.stream()),
    }
}

async fn forget(pool: &PgPool, keys: Vec<OutboxKey>) {
    if keys.is_empty() {
        return;
    }
    if let Err(error) = store::delete_pending(pool, &keys).await {
        tracing::warn!(%error, rows = keys.len(), "confirmed events keep their pending mark; the sweep will confirm them again");
    }
}
