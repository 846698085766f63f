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
use jiff::Timestamp;
use opentelemetry::metrics::Counter;
use sqlx::PgPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How many committed rows may wait for the fast path before the rest is left to the sweep.
const QUEUE: usize = 20_000;

/// Rows younger than this belong to the fast path; a younger sweep would only race it, and have its batches refused.
const SWEEP_AGE_SECONDS: f64 = 5.0;

/// How often the sweep looks.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// The entrance to the fast path.
#[derive(Debug, Clone)]
pub struct Relay {
    queue: mpsc::UnboundedSender<Vec<(OutboxKey, OutboxRow)>>,
    /// Rows in the queue, which bounds it.
    waiting: Arc<AtomicUsize>,
    left_to_sweep: Counter<u64>,
}

/// The tasks behind it.
pub(crate) struct RelayTasks {
    service: Service,
    js: Context,
    pool: PgPool,
    queue: mpsc::UnboundedReceiver<Vec<(OutboxKey, OutboxRow)>>,
    waiting: Arc<AtomicUsize>,
}

impl Relay {
    /// A relay for what a service emits. `pool` should not wait for the disk on commit: a pending mark that comes back
    /// after a crash only leads to a duplicate.
    pub(crate) fn new(service: Service, js: Context, pool: PgPool) -> (Self, RelayTasks) {
        let (sender, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left_to_sweep = opentelemetry::global::meter("dunlin").u64_counter("dunlin.outbox.left_to_sweep").build();
        let relay = Self { queue: sender, waiting: waiting.clone(), left_to_sweep };
        (relay, RelayTasks { service, js, pool, queue, waiting })
    }

    /// Hands committed rows over. Never waits: if the fast path is behind (a broker outage), the sweep will take them.
    pub(crate) fn offer(&self, created_at: Timestamp, rows: Vec<OutboxRow>) {
        let count = rows.len();
        if self.waiting.fetch_add(count, Ordering::Relaxed) > QUEUE {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            self.left_to_sweep.add(count as u64, &[]);
            return;
        }
        let keyed = rows.into_iter().map(|row| ((created_at, row.envelope.id), row)).collect();
        // Closed only while the process ends; the next one sweeps.
        let _ = self.queue.send(keyed);
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
        let mut published = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                rows = self.queue.recv() => rows,
                () = stop.cancelled() => self.queue.try_recv().ok(),
            };
            let Some(mut rows) = first else { break };
            self.waiting.fetch_sub(rows.len(), Ordering::Relaxed);
            loop {
                while rows.len() < MAX_BATCH
                    && let Ok(more) = self.queue.try_recv()
                {
                    self.waiting.fetch_sub(more.len(), Ordering::Relaxed);
                    rows.extend(more);
                }
                let rest = rows.split_off(rows.len().min(MAX_BATCH));
                // The marks of the previous batch go while this one is on its way.
                let forget = forget(&self.pool, std::mem::take(&mut published));
                published = tokio::join!(publish_rows(self.service, &self.js, rows), forget).0;
                rows = rest;
                if rows.is_empty() && self.queue.is_empty() {
                    break;
                }
            }
            forget(&self.pool, std::mem::take(&mut published)).await;
        }
    }
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
        if self.js.client().connection_state() != async_nats::connection::State::Connected {
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
    let hop = match rows.as_slice() {
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

fn send_span_name(service: Service, rows: &[OutboxRow]) -> String {
    match rows {
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
