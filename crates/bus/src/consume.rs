//! The loop around a handler: fetch, begin, inbox, handler, outbox, commit, ack.

use crate::broker::Bus;
use crate::store::{self, DeadLetter, NewDeadLetter};
use crate::{Failure, Work, topology, trace};
use async_nats::jetstream::consumer::pull::{self, MessagesErrorKind};
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, HeaderValue, Subject};
use bytes::Bytes;
use events::envelope::TRACEPARENT;
use events::{AnyEvent, Envelope, Flow, Kind};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

/// Most events per batch, where nothing else is said.
const MAX_BATCH: usize = 500;
/// A pull that brings nothing for this long while messages wait is taken for stalled and made anew.
const STALL: Duration = Duration::from_secs(30);
/// How long a batch may take: less than the broker waits for its acks. A database that is gone without a word must not
/// hold a loop for ever.
const BATCH_LIMIT: Duration = Duration::from_secs(45);
/// After so many failures in a row a batch is tried in two halves, so that one event that fails time and again cannot
/// hold up the others.
const HALVES_AFTER: u32 = 3;
/// When an event that this version does not know is offered again: to a newer replica, it is hoped.
const LATER: Duration = Duration::from_secs(10);
/// Pause before a lost pull is made anew.
const REBUILD_PAUSE: Duration = Duration::from_millis(500);
/// How often dead letters are looked through for ones to try again.
const REPLAY_INTERVAL: Duration = Duration::from_secs(1);
/// A message older than this does not continue its producer's trace: it links to it.
const TRACE_CONTINUES_SECONDS: i64 = 300;

/// Turns events into state and further events. See the crate's documentation for what is around it.
pub trait Handler: Send + Sync + 'static {
    /// What it takes and what it may emit.
    const FLOW: &'static Flow;

    /// How long a batch waits for company after its first message. Where nobody waits for the effect, longer: larger
    /// batches cost less per event.
    const LINGER: Duration = Duration::from_millis(5);

    /// Most events per batch. Where an event costs next to nothing, more: a batch has a fixed price.
    const MAX_BATCH: usize = MAX_BATCH;

    /// Deals with a batch of events that were never dealt with before, in any order they may come.
    fn handle(&self, work: &mut Work, batch: &[Incoming]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// An event that arrived.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Who, what and when.
    pub envelope: Envelope,
    /// The event.
    pub event: AnyEvent,
    raw: Raw,
}

impl Incoming {
    /// The trace that what follows from this event belongs to: the span it is being dealt with in, if that continues the
    /// event's own trace, else the one that created it. (A batch of several events has a trace of its own.)
    pub fn trace(&self) -> Option<String> {
        let created = self.envelope.traceparent.as_deref();
        let continues = |current: &String| trace::trace_id(current) == created.and_then(trace::trace_id);
        trace::current().filter(continues).or_else(|| created.map(str::to_owned))
    }
}

/// A message as it arrived, kept for the dead letters.
#[derive(Debug, Clone)]
struct Raw {
    id: Uuid,
    subject: Subject,
    headers: HeaderMap,
    payload: Bytes,
    /// The producer's trace may be continued: a first delivery, and fresh.
    fresh: bool,
}

impl Raw {
    /// Takes the headers out of a message; acknowledging it needs none.
    fn take(message: &mut jetstream::Message) -> Self {
        let headers = message.message.headers.take().unwrap_or_default();
        let info = message.info().ok();
        let own_id = headers.get("ce-id").and_then(|id| id.as_str().parse().ok());
        // Without a usable id the position in the stream is what makes the message itself, and the time: a stream that was
        // lost and declared anew begins again at 1.
        let at =
            |i: &jetstream::message::Info<'_>| format!("{}/{}", i.stream_sequence, i.published.unix_timestamp_nanos());
        let position = || info.as_ref().map(at).unwrap_or_default();
        let stream = info.as_ref().map_or("", |i| i.stream);
        Self {
            id: own_id.unwrap_or_else(|| kernel::id::derive("stream", stream, &position(), "dead-letter")),
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            headers,
            fresh: info.is_some_and(|i| i.delivered == 1 && age_seconds(&i) < TRACE_CONTINUES_SECONDS),
        }
    }

    fn from_dead_letter(letter: &DeadLetter) -> Self {
        let headers = letter.headers.as_object().into_iter().flatten();
        Self {
            id: letter.msg_id,
            subject: letter.subject.as_str().into(),
            headers: headers.filter_map(|(k, v)| Some((k.parse().ok()?, v.as_str()?.parse().ok()?))).collect(),
            payload: letter.payload.clone().into(),
            fresh: false,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::as_str)
    }

    fn decode(self) -> Result<Incoming, NewDeadLetter> {
        let envelope = match Envelope::parse(|name| self.header(name)) {
            Ok(envelope) => envelope,
            Err(error) => return Err(self.into_dead_letter(error.to_string())),
        };
        match AnyEvent::decode(envelope.kind, &self.payload) {
            Ok(event) => Ok(Incoming { envelope, event, raw: self }),
            Err(error) => {
                Err(self.into_dead_letter(format!("payload is no {}: {error}", envelope.kind.message_name())))
            }
        }
    }

    fn into_dead_letter(self, reason: String) -> NewDeadLetter {
        let text = |values: &[HeaderValue]| values.first().map(|v| v.as_str().into()).unwrap_or_default();
        let headers = self.headers.iter().map(|(name, values)| (name.to_string(), text(values)));
        NewDeadLetter {
            msg_id: self.id,
            subject: self.subject.to_string(),
            headers: headers.collect::<serde_json::Map<String, serde_json::Value>>().into(),
            payload: self.payload,
            reason,
        }
    }
}

fn age_seconds(info: &jetstream::message::Info<'_>) -> i64 {
    let published = jiff::Timestamp::from_second(info.published.unix_timestamp()).unwrap_or(jiff::Timestamp::MIN);
    kernel::Clock::now(&kernel::SystemClock).duration_since(published).as_secs()
}

impl Bus {
    /// Runs a handler on all streams it reads until `stop`, then lets go of what was fetched but not begun.
    pub async fn run<H: Handler>(&self, handler: H, stop: CancellationToken) {
        let consumer = Consumer { bus: self.clone(), handler: Arc::new(handler) };
        let sources = H::FLOW.sources();
        let pulls = join_all(sources.iter().map(|(producer, _)| pull(&self.js, producer.stream(), &consumer, &stop)));
        tokio::join!(pulls, consumer.replay_on_request(&stop));
    }
}

struct Consumer<H> {
    bus: Bus,
    handler: Arc<H>,
}

/// Deals with messages as they arrive: what [`pull`] is about.
pub trait Process: Sync {
    /// Durable name, for the log.
    fn name(&self) -> &str;

    /// How long a batch waits for company after its first message.
    fn linger(&self) -> Duration {
        Duration::from_millis(5)
    }

    /// Most messages per batch.
    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    /// Takes a batch to its end. An error means that at least one message has to come again; none is acknowledged then.
    fn process(&self, messages: &mut [jetstream::Message]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether a message is for a newer version of this consumer: during a rolling upgrade the durable brings events that
    /// this one has never heard of.
    fn is_for_later(&self, _message: &jetstream::Message) -> bool {
        false
    }
}

/// What a wait for messages brought.
enum Fetched {
    Batch(Vec<jetstream::Message>),
    /// The pull is dead or stalled: make a new one.
    Lost,
    Stopped,
}

/// Pulls from a durable until `stop`: batches go to `process`, which is followed by ack or, after a failure, a pause and
/// redelivery. A pull that is lost or stalled is made anew, for ever.
pub async fn pull(js: &jetstream::Context, stream: &str, process: &impl Process, stop: &CancellationToken) {
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        match topology::pull(js, stream, process.name(), process.max_batch()).await {
            Ok((consumer, messages)) => drain(consumer, messages, process, &mut backoff, stop).await,
            Err(error) => tracing::warn!(durable = process.name(), stream, %error, "cannot pull; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(REBUILD_PAUSE) => {}
        }
    }
}

/// Works through one pull until it is lost or `stop`.
async fn drain(
    mut consumer: jetstream::consumer::Consumer<pull::Config>,
    mut messages: pull::Stream,
    process: &impl Process,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) {
    loop {
        let batch = match fetch(&mut consumer, &mut messages, process, stop).await {
            Fetched::Batch(batch) => batch,
            Fetched::Lost => return,
            Fetched::Stopped => break,
        };
        let (later, mut batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|m| process.is_for_later(m));
        if !later.is_empty() {
            tracing::warn!(
                durable = process.name(),
                messages = later.len(),
                "events of a newer version left for later"
            );
            settle(&later, AckKind::Nak(Some(LATER))).await;
        }
        if let Some(pause) = deal_with(process, &mut batch, backoff).await {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
    // What the client holds already would otherwise only come back after ack_wait.
    let mut held = Vec::new();
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        held.push(message);
    }
    settle(&held, AckKind::Nak(None)).await;
}

/// Processes and settles a batch. Returns how long to pause, if nothing of it worked.
async fn deal_with(
    process: &impl Process,
    batch: &mut [jetstream::Message],
    backoff: &mut Backoff,
) -> Option<Duration> {
    let middle = if backoff.failures >= HALVES_AFTER { batch.len() / 2 } else { 0 };
    let (left, right) = batch.split_at_mut(middle);
    let (mut worked, mut failed) = (false, false);
    for part in [left, right].into_iter().filter(|part| !part.is_empty()) {
        let done = timeout(BATCH_LIMIT, process.process(part)).await;
        match done.unwrap_or_else(|_| Err(Failure::Retry(format!("not done within {BATCH_LIMIT:?}")))) {
            Ok(()) => {
                worked = true;
                settle(part, AckKind::Ack).await;
            }
            Err(error) => {
                failed = true;
                let pause = backoff.pause();
                let pause_ms = pause.as_millis() as u64;
                tracing::warn!(durable = process.name(), %error, messages = part.len(), pause_ms, "batch goes back");
                settle(part, AckKind::Nak(Some(pause))).await;
            }
        }
    }
    let pause = backoff.pause();
    if failed {
        backoff.failures += 1;
    } else {
        backoff.failures = 0;
    }
    (failed && !worked).then_some(pause)
}

impl<H: Handler> Process for Consumer<H> {
    fn name(&self) -> &str {
        H::FLOW.name
    }

    fn linger(&self) -> Duration {
        H::LINGER
    }

    fn max_batch(&self) -> usize {
        H::MAX_BATCH
    }

    fn is_for_later(&self, message: &jetstream::Message) -> bool {
        let kind = message.subject.rsplit_once('.').and_then(|(ce_type, _)| Kind::by_ce_type(ce_type));
        kind.is_none_or(|kind| !H::FLOW.takes.contains(&kind))
    }

    async fn process(&self, messages: &mut [jetstream::Message]) -> Result<(), Failure> {
        let (mut batch, mut broken) = (Vec::with_capacity(messages.len()), Vec::new());
        for raw in messages.iter_mut().map(Raw::take) {
            match raw.decode() {
                Ok(incoming) => batch.push(incoming),
                Err(letter) => broken.push(letter),
            }
        }
        // The same event may be in one batch twice, after a replay.
        let mut seen = std::collections::HashSet::new();
        batch.retain(|i: &Incoming| seen.insert(i.envelope.id));
        broken.retain(|letter: &NewDeadLetter| seen.insert(letter.msg_id));
        if !broken.is_empty() {
            self.bury(broken).await?;
        }
        let span = self.process_span(&batch);
        self.attempt(batch).instrument(span).await
    }
}

impl<H: Handler> Consumer<H> {
    /// One transaction for the batch. If one of several events cannot work, the halves are tried apart, down to the one.
    async fn attempt(&self, mut batch: Vec<Incoming>) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let reason = match self.attempt_once(&mut batch).await {
            Err(Failure::Reject(reason)) => reason,
            done => return done,
        };
        if let [event] = batch.as_slice() {
            return self.bury(vec![event.raw.clone().into_dead_letter(reason)]).await;
        }
        let half = batch.split_off(batch.len() / 2);
        Box::pin(self.attempt(batch)).await?;
        Box::pin(self.attempt(half)).await
    }

    /// One transaction. What others have dealt with already leaves the batch.
    async fn attempt_once(&self, batch: &mut Vec<Incoming>) -> Result<(), Failure> {
        let mut work = self.bus.begin(H::FLOW).await?;
        let ids: Vec<Uuid> = batch.iter().map(|i| i.envelope.id).collect();
        let fresh = store::claim_inbox(work.tx(), H::FLOW.name, &ids).await?;
        batch.retain(|i| fresh.contains(&i.envelope.id));
        if batch.is_empty() {
            return Ok(());
        }
        self.handler.handle(&mut work, batch).await?;
        let letters = dead_letters(batch, &work.rejected());
        if !letters.is_empty() {
            report(H::FLOW.name, &letters);
            store::insert_dead_letters(work.tx(), H::FLOW.name, &letters).await?;
        }
        Ok(work.commit().await?)
    }

    /// Gives messages up, in a transaction of their own.
    async fn bury(&self, letters: Vec<NewDeadLetter>) -> Result<(), Failure> {
        let mut work = self.bus.begin(H::FLOW).await?;
        let ids: Vec<Uuid> = letters.iter().map(|l| l.msg_id).collect();
        let fresh = store::claim_inbox(work.tx(), H::FLOW.name, &ids).await?;
        let letters: Vec<_> = letters.into_iter().filter(|l| fresh.contains(&l.msg_id)).collect();
        report(H::FLOW.name, &letters);
        store::insert_dead_letters(work.tx(), H::FLOW.name, &letters).await?;
        Ok(work.commit().await?)
    }

    /// Tries dead letters again that an operator asked for.
    async fn replay_on_request(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REPLAY_INTERVAL) => {}
            }
            loop {
                match self.replay_one().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(flow = H::FLOW.name, %error, "dead letter not replayed; trying again");
                        break;
                    }
                }
            }
        }
    }

    /// One dead letter in one transaction: gone if it works now, back with the new reason if not. Its inbox row stays
    /// from the first time. Returns whether there was one.
    async fn replay_one(&self) -> Result<bool, Failure> {
        let flow = H::FLOW.name;
        let mut work = self.bus.begin(H::FLOW).await?;
        let Some(letter) = store::lock_replays(work.tx(), flow, 1).await?.into_iter().next() else {
            return Ok(false);
        };
        let outcome = match Raw::from_dead_letter(&letter).decode() {
            Err(still_broken) => Err(still_broken.reason),
            Ok(incoming) => match self.handler.handle(&mut work, std::slice::from_ref(&incoming)).await {
                Ok(()) => work.rejected().into_iter().next().map_or(Ok(()), |(_, reason)| Err(reason)),
                Err(Failure::Reject(reason)) => Err(reason),
                Err(retry) => return Err(retry),
            },
        };
        match outcome {
            Ok(()) => {
                store::delete_dead_letter(work.tx(), letter.id).await?;
                work.commit().await?;
                tracing::info!(flow, dead_letter = letter.id, "dead letter replayed");
            }
            Err(reason) => {
                // What the handler did goes back with its transaction, and the lock with it: the letter may be gone by now.
                drop(work);
                let mut work = self.bus.begin(H::FLOW).await?;
                report(flow, &[Raw::from_dead_letter(&letter).into_dead_letter(reason.clone())]);
                store::keep_dead_letter(work.tx(), letter.id, &reason).await?;
                work.commit().await?;
            }
        }
        Ok(true)
    }

    /// One span per batch. A single event that is fresh continues its producer's trace; otherwise the batch begins its
    /// own trace and links to those of its events.
    fn process_span(&self, batch: &[Incoming]) -> tracing::Span {
        let span = tracing::info_span!(
            "process",
            otel.name = %format!("process {}", H::FLOW.name),
            otel.kind = "consumer",
            messaging.system = "nats",
            messaging.operation.name = "process",
            messaging.operation.r#type = "process",
            messaging.consumer.group.name = H::FLOW.name,
            messaging.batch.message_count = batch.len(),
            messaging.destination.template = tracing::field::Empty,
            messaging.message.id = tracing::field::Empty,
        );
        // What was told by the way, in nobody's trace, breaks none off.
        let traced: Vec<&Incoming> = batch.iter().filter(|i| i.envelope.traceparent.is_some()).collect();
        let only = match (batch, traced.as_slice()) {
            ([only], _) => Some(only),
            (_, [only]) => Some(*only),
            _ => None,
        };
        if let Some(only) = only {
            span.record("messaging.destination.template", only.envelope.kind.subject_template());
            span.record("messaging.message.id", only.envelope.id.to_string());
            if only.raw.fresh {
                trace::set_parent(&span, only.raw.header(TRACEPARENT));
                return span;
            }
        }
        trace::link(&span, batch.iter().filter_map(|i| i.envelope.traceparent.as_deref()));
        span
    }
}

fn dead_letters(batch: &[Incoming], rejected: &[(Uuid, String)]) -> Vec<NewDeadLetter> {
    let find = |id: Uuid| batch.iter().find(|i| i.envelope.id == id);
    let letter = |(id, reason): &(Uuid, String)| Some(find(*id)?.raw.clone().into_dead_letter(reason.clone()));
    rejected.iter().filter_map(letter).collect()
}

fn report(flow: &str, letters: &[NewDeadLetter]) {
    for letter in letters {
        tracing::error!(flow, message_id = %letter.msg_id, subject = letter.subject, reason = letter.reason, "dead letter: an operator has to look at it");
    }
}

/// Waits for a message and collects what follows it closely.
async fn fetch(
    consumer: &mut jetstream::consumer::Consumer<pull::Config>,
    messages: &mut pull::Stream,
    process: &impl Process,
    stop: &CancellationToken,
) -> Fetched {
    let mut stalled_at = Instant::now() + STALL;
    let first = loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return Fetched::Stopped,
            next = timeout_at(stalled_at, messages.next()) => next,
        };
        match next {
            Ok(Some(Ok(message))) => break message,
            Ok(Some(Err(error))) if error.kind() == MessagesErrorKind::MissingHeartbeat => {
                tracing::debug!("missed a heartbeat; the client pulls again by itself");
            }
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "pull lost; making a new one");
                return Fetched::Lost;
            }
            Ok(None) => {
                tracing::warn!("pull ended; making a new one");
                return Fetched::Lost;
            }
            Err(_silence) => match consumer.info().await {
                Ok(info) if info.num_pending == 0 => stalled_at = Instant::now() + STALL,
                Ok(info) => {
                    tracing::warn!(pending = info.num_pending, "pull stalled; making a new one");
                    return Fetched::Lost;
                }
                Err(error) => {
                    tracing::warn!(%error, "consumer does not answer; making a new pull");
                    return Fetched::Lost;
                }
            },
        }
    };
    let mut batch = vec![first];
    let deadline = Instant::now() + process.linger();
    while batch.len() < process.max_batch() {
        match timeout_at(deadline, messages.next()).await {
            Ok(Some(Ok(message))) => batch.push(message),
            // Errors show again on the next wait.
            Ok(_) | Err(_) => break,
        }
    }
    Fetched::Batch(batch)
}

/// Settles a batch. Not confirmed: what gets lost comes again and the inbox drops it.
async fn settle(messages: &[jetstream::Message], kind: AckKind) {
    for message in messages {
        if let Err(error) = message.ack_with(kind).await {
            tracing::debug!(%error, "not settled; the inbox will drop the redelivery");
            return;
        }
    }
}

/// Doubling pauses after failures in a row.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    const MAX: Duration = Duration::from_secs(30);

    fn pause(&self) -> Duration {
        (Duration::from_millis(500) * 2_u32.pow(self.failures.min(6))).min(Self::MAX)
    }
}
