//! The way in: concurrent requests share commits, and nobody is answered before the commit.

use crate::facts::Message;
use crate::flow::{self, Heard, Verdict};
use crate::retranslate;
use crate::store::{self, Quarantined};
use bus::{Bus, Failure, Work};
use events::Malformed;
use events::topology::INGEST_INTAKE;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::Host;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Requests that wait for their commit; more are told to come back.
const QUEUE: usize = 1_024;
/// Most messages per transaction.
const MAX_BATCH: usize = 1_000;
/// How often a transaction that lost a race against another replica is begun anew.
const RACES: usize = 5;

/// Nothing was committed: the database cannot be reached, or too much is waiting. The sender should come back.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

struct Job {
    heard: Heard,
    messages: Vec<Message>,
    answer: oneshot::Sender<Result<Vec<Verdict>, Unavailable>>,
}

/// The entrance. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    jobs: mpsc::Sender<Job>,
}

/// The worker behind it.
pub struct Worker {
    bus: Bus,
    jobs: mpsc::Receiver<Job>,
    messages: Counter<u64>,
}

impl Intake {
    /// An entrance and its worker.
    pub fn new(bus: Bus) -> (Self, Worker) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let messages = opentelemetry::global::meter("dunlin").u64_counter("dunlin.ingest.messages").build();
        (Self { jobs }, Worker { bus, jobs: queue, messages })
    }

    /// Takes messages in, which may be none: `heard` says who spoke. When this returns verdicts, they are committed.
    pub async fn accept(&self, heard: Heard, messages: Vec<Message>) -> Result<Vec<Verdict>, Unavailable> {
        let (answer, verdicts) = oneshot::channel();
        let job = Job { heard, messages, answer };
        self.jobs.try_send(job).map_err(|_| Unavailable("too many messages are waiting".to_owned()))?;
        verdicts.await.map_err(|_| Unavailable("shutting down".to_owned()))?
    }
}

impl Worker {
    /// Works until `stop` and until the queue is empty.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                job = self.jobs.recv() => job,
                () = stop.cancelled() => self.jobs.try_recv().ok(),
            };
            let Some(first) = first else { return };
            // Whatever came while the last transaction ran goes into the next one.
            let mut jobs = vec![first];
            let mut count = jobs.iter().map(|j| j.messages.len()).sum::<usize>();
            while count < MAX_BATCH
                && let Ok(job) = self.jobs.try_recv()
            {
                count += job.messages.len();
                jobs.push(job);
            }
            self.commit(jobs).await;
        }
    }

    /// One transaction for all jobs.
    async fn commit(&self, jobs: Vec<Job>) {
        let (mut heard, mut messages, mut answers) = (Heard::new(), Vec::new(), Vec::new());
        for job in jobs {
            heard.extend(job.heard);
            answers.push((job.answer, job.messages.len()));
            messages.extend(job.messages);
        }
        match accept(&self.bus, &messages, &heard).await {
            Ok(verdicts) => {
                self.count(&messages, &verdicts);
                let mut verdicts = verdicts.into_iter();
                for (answer, size) in answers {
                    let _ = answer.send(Ok(verdicts.by_ref().take(size).collect()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, messages = messages.len(), "messages not taken in; their senders will come back");
                for (answer, _) in answers {
                    let _ = answer.send(Err(Unavailable(error.to_string())));
                }
            }
        }
    }

    fn count(&self, messages: &[Message], verdicts: &[Verdict]) {
        for (message, verdict) in messages.iter().zip(verdicts) {
            let labels = [KeyValue::new("source", message.source.clone()), KeyValue::new("verdict", verdict.name())];
            self.messages.add(1, &labels);
        }
    }
}

/// Takes messages in, in a transaction of their own. If the data of one of them breaks it (text that Postgres cannot
/// store, say), the halves are tried apart, down to the one, which is quarantined. `heard` says who spoke by them.
pub async fn accept(bus: &Bus, messages: &[Message], heard: &Heard) -> Result<Vec<Verdict>, Failure> {
    let reason = match accept_once(bus, messages, heard).await {
        Err(Failure::Reject(reason)) => reason,
        done => return done,
    };
    if messages.is_empty() {
        return Err(Failure::Reject(reason));
    }
    if let [message] = messages {
        let printable = |text: &str| text.chars().filter(|c| !c.is_control()).collect();
        let broken = Message {
            source: printable(&message.source),
            external_id: printable(&message.external_id),
            kind: printable(&message.kind),
            content: Err(Malformed::new("body", reason)),
            ..message.clone()
        };
        return accept_once(bus, &[broken], heard).await;
    }
    // Both are tried, whatever becomes of one: what is in need not wait for what is not.
    let (left, right) = messages.split_at(messages.len() / 2);
    let (left, right) = (Box::pin(accept(bus, left, heard)).await, Box::pin(accept(bus, right, heard)).await);
    let mut verdicts = left?;
    verdicts.extend(right?);
    Ok(verdicts)
}

/// One transaction; begun anew if another replica was faster.
async fn accept_once(bus: &Bus, messages: &[Message], heard: &Heard) -> Result<Vec<Verdict>, Failure> {
    let mut race = 0;
    loop {
        let mut work = bus.begin(&INGEST_INTAKE).await?;
        match flow::accept(&mut work, messages).await {
            Ok(verdicts) => {
                // Last, so that the row is not locked for long.
                flow::tell_heard(&mut work, heard).await?;
                work.commit().await?;
                return Ok(verdicts);
            }
            Err(Failure::Retry(_)) if race < RACES => race += 1,
            Err(failure) => return Err(failure),
        }
    }
}

/// Until `stop`: applies parked facts that a race left behind, tries quarantined messages again that an operator asked
/// for, and keeps retention.
pub async fn sweep(host: Host, stop: CancellationToken) {
    const INTERVAL: Duration = Duration::from_secs(1);
    const ROUNDS_PER_RETENTION: u32 = 3_600;
    for round in 0_u32.. {
        let retention = round.is_multiple_of(ROUNDS_PER_RETENTION);
        if let Err(error) = sweep_once(&host, retention).await {
            tracing::warn!(%error, "sweep of ingest failed; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn sweep_once(host: &Host, retention: bool) -> Result<(), Failure> {
    /// As long as processors retry (three days at Stripe, thirty at Adyen).
    const INBOUND_DAYS: i32 = 35;
    const CHUNK: i64 = 2_000;
    // Payments that are for no invoice stay parked: to look at all of them each second would be too much.
    apply_parked(host, if retention { 24 * INBOUND_DAYS } else { 1 }).await?;
    while replay_quarantined(host).await? {}
    let mut more = retention;
    while more {
        let mut work = host.bus.begin(&INGEST_INTAKE).await?;
        more = store::trim_inbound(work.tx(), INBOUND_DAYS, CHUNK).await? == CHUNK as u64;
        work.commit().await?;
    }
    Ok(())
}

async fn apply_parked(host: &Host, hours: i32) -> Result<(), Failure> {
    let mut work = host.bus.begin(&INGEST_INTAKE).await?;
    flow::apply_parked(&mut work, hours).await?;
    Ok(work.commit().await?)
}

/// Tries one quarantined message again. Returns whether there was one.
async fn replay_quarantined(host: &Host) -> Result<bool, Failure> {
    let mut work = host.bus.begin(&INGEST_INTAKE).await?;
    let Some(row) = store::lock_quarantine_replays(work.tx(), 1).await?.into_iter().next() else { return Ok(false) };
    let verdict = match try_again(host, work, &row).await {
        Err(Failure::Reject(reason)) => refuse(host, &row, reason).await?,
        done => done?,
    };
    tracing::info!(quarantine = row.id, verdict = verdict.name(), "quarantined message tried again");
    Ok(true)
}

async fn try_again(host: &Host, mut work: Work, row: &Quarantined) -> Result<Verdict, Failure> {
    let message = retranslate(host, row)?;
    let verdict = flow::accept_again(&mut work, row.id, &message).await?;
    work.commit().await?;
    Ok(verdict)
}

/// Leaves a message in quarantine whose data broke the transaction; the next one's turn comes.
async fn refuse(host: &Host, row: &Quarantined, reason: String) -> Result<Verdict, Failure> {
    let fault = Malformed::new("body", reason);
    let mut work = host.bus.begin(&INGEST_INTAKE).await?;
    store::quarantine(work.tx(), &[(&row.inbound, &fault)]).await?;
    work.commit().await?;
    Ok(Verdict::Quarantined(fault))
}
