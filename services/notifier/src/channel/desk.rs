//! The machinery around a [`Transport`]: it claims, prepares, asks for permits in groups and records what became of it, as
//! [`crate::sender`] does for email. Each channel has a desk of its own, so that one whose other side is dead holds up nobody.

use super::{HandOver, PERMIT, Transport, name};
use crate::flow::{self, Claimer, Look, Ticket, Verdict};
use crate::freshness::Freshness;
use crate::kept::Kept;
use crate::sender::ANNOUNCED;
use crate::store;
use crate::webhook::busy;
use events::topology::NOTIFIER_SENDER;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::Host;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

/// Most deliveries in work at the same time.
const AT_ONCE: usize = 32;
/// Most that are claimed in one go: a merchant that hangs takes no more than these.
const CLAIM: usize = 8;
/// How often waiting deliveries are looked for when there were none.
const IDLE: Duration = Duration::from_millis(250);
/// How long the clerk waits for company before it asks the database.
const GATHER: Duration = Duration::from_millis(1);
/// Most messages per permit.
const MAX_GROUP: usize = AT_ONCE;
/// How long a process may be silent and still claim.
const LEASE: Duration = Duration::from_secs(6);
/// How often the lease is prolonged.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Sends by one channel.
#[derive(Clone)]
pub struct Desk<T> {
    host: Host,
    freshness: Freshness,
    owner: Uuid,
    transport: T,
    attempts: Counter<u64>,
}

/// A worker's question: may this be handed over?
struct Ask {
    ticket: Arc<Ticket>,
    message: Kept,
    /// Until when it may be written; or why not.
    permit: oneshot::Sender<Result<Instant, Verdict>>,
}

impl<T: Transport> Desk<T> {
    /// A desk for a new owner.
    pub fn new(host: Host, freshness: Freshness, transport: T) -> Self {
        let attempts = opentelemetry::global::meter("dunlin").u64_counter("dunlin.delivery.attempts").build();
        Self { owner: kernel::id::new(&*host.clock), host, freshness, transport, attempts }
    }

    /// Sends until `stop`; then waits for what is being handed over and gives back the rest.
    pub async fn run(self, stop: CancellationToken) {
        let lease = Lease::keep(self.host.clone(), self.owner);
        let (asks, inbox) = mpsc::channel(AT_ONCE);
        let clerk = tokio::spawn(self.clone().grant_permits(inbox));
        self.send(asks, stop).await;
        let _ = clerk.await;
        lease.end().await;
    }

    /// Claims deliveries and has each carried out, as long as the clerk is there.
    async fn send(&self, asks: mpsc::Sender<Ask>, stop: CancellationToken) {
        let (mut workers, mut merchants, mut pauses) = (JoinSet::new(), HashMap::new(), HashMap::new());
        while !stop.is_cancelled() && !asks.is_closed() {
            pauses.retain(|_, until| *until > Instant::now());
            let room = AT_ONCE.saturating_sub(workers.len()).min(CLAIM);
            let mut away = busy(&merchants);
            away.extend(pauses.keys().cloned());
            let claimed = if room > 0 { self.claim(&away, room).await } else { Vec::new() };
            let found = claimed.len();
            for ticket in claimed {
                let merchant = ticket.merchant.to_string();
                let worker: AbortHandle = workers.spawn(self.clone().carry_out(ticket, asks.clone()));
                merchants.insert(worker.id(), merchant);
            }
            let mut done = workers.try_join_next_with_id();
            if found == 0 && done.is_none() {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(IDLE) => {}
                    next = workers.join_next_with_id(), if !workers.is_empty() => done = next,
                }
            }
            while let Some(worker) = done {
                if !note(&mut merchants, &mut pauses, worker) {
                    return;
                }
                done = workers.try_join_next_with_id();
            }
        }
        drop(asks);
        while workers.join_next().await.is_some() {}
    }

    async fn claim(&self, away: &[String], room: usize) -> Vec<Ticket> {
        let claimed = async {
            let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
            let claimer = Claimer { owner: self.owner, channel: name(T::CHANNEL), busy: away };
            let tickets = flow::claim_other(&mut work, &self.host, &self.freshness, claimer, room as i64).await?;
            work.commit().await?;
            Ok::<_, bus::Failure>(tickets)
        };
        claimed.await.unwrap_or_else(|error| {
            tracing::warn!(%error, channel = name(T::CHANNEL), "no deliveries claimed; trying again");
            Vec::new()
        })
    }

    /// One delivery and its record. Returns how long its merchant's other side wants to be left alone.
    async fn carry_out(self, ticket: Ticket, asks: mpsc::Sender<Ask>) -> Option<Duration> {
        let span = tracing::info_span!(
            parent: None,
            "send reminder",
            otel.name = format!("send reminder {}", name(T::CHANNEL)),
            otel.kind = "client",
            reminder.id = %ticket.id,
            reminder.step = ticket.reminder.step,
            outcome = tracing::field::Empty,
        );
        bus::trace::set_parent(&span, ticket.traceparent.as_deref());
        let inside = span.clone();
        async move {
            let ticket = Arc::new(ticket);
            let HandOver { verdict, pause } = self.deliver(&ticket, asks).await;
            span.record("outcome", verdict.name());
            self.attempts
                .add(1, &[KeyValue::new("channel", name(T::CHANNEL)), KeyValue::new("outcome", verdict.name())]);
            // The clerk has answered, so nobody else holds the ticket any more.
            self.record((Arc::unwrap_or_clone(ticket), verdict)).await;
            pause
        }
        .instrument(inside)
        .await
    }

    async fn deliver(&self, ticket: &Arc<Ticket>, asks: mpsc::Sender<Ask>) -> HandOver {
        let mut prepared = match self.transport.prepare(ticket).await {
            Ok(prepared) => prepared,
            Err(verdict) => return verdict.into(),
        };
        let (permit, answer) = oneshot::channel();
        let message = Kept::of(&std::mem::take(&mut prepared.raw));
        let shutting_down = || Verdict::put_back(self.host.now(), "shutting_down").into();
        if asks.send(Ask { ticket: ticket.clone(), message, permit }).await.is_err() {
            return shutting_down();
        }
        match answer.await {
            Ok(Ok(until)) if Instant::now() >= until => Verdict::put_back(self.host.now(), "permit_expired").into(),
            Ok(Ok(_)) => self.transport.hand_over(ticket, prepared).await,
            Ok(Err(verdict)) => verdict.into(),
            Err(_) => shutting_down(),
        }
    }

    /// Grants permits to groups of workers until the last of them is gone.
    async fn grant_permits(self, mut inbox: mpsc::Receiver<Ask>) {
        while let Some(first) = inbox.recv().await {
            let mut group = vec![first];
            tokio::time::sleep(GATHER).await;
            while group.len() < MAX_GROUP
                && let Ok(ask) = inbox.try_recv()
            {
                group.push(ask);
            }
            let answers = self.look(&group).await.unwrap_or_else(|error| {
                tracing::warn!(%error, messages = group.len(), "no permits; the messages are taken back");
                let wait = |ask: &Ask| Err(Verdict::wait_for_us(&self.host, ask.ticket.attempts, "database"));
                group.iter().map(wait).collect()
            });
            for (ask, answer) in group.into_iter().zip(answers) {
                let _ = ask.permit.send(answer);
            }
        }
    }

    /// T1 and T2 for a group: what is granted is marked, looked at under the locks of its balances, and committed.
    async fn look(&self, group: &[Ask]) -> Result<Vec<Result<Instant, Verdict>>, bus::Failure> {
        let messages: Vec<_> = group.iter().map(|ask| (&*ask.ticket, &ask.message)).collect();
        // Before T1, as its lease: whoever sleeps longer may be taken over.
        let announced = Instant::now();
        let mut tx = self.host.pool.begin().await?;
        let ours = flow::announce(&mut tx, self.owner, &messages, self.host.now()).await?;
        tx.commit().await?;
        let tickets: Vec<&Ticket> = group.iter().map(|ask| &*ask.ticket).collect();
        let mut tx = self.host.pool.begin().await?;
        let looks = flow::permit(&mut tx, &self.host, &self.freshness, &tickets).await?;
        // Under the locks still: from their end on a payment may be recorded that nobody here has seen.
        let deadline = (Instant::now() + PERMIT).min(announced + ANNOUNCED);
        tx.commit().await?;
        let answer = |(ticket, look): (&&Ticket, Look)| match look {
            _ if !ours.contains(&ticket.id) => Err(Verdict::put_back(self.host.now(), "taken_over")),
            Look::Refused(verdict) => Err(verdict),
            Look::Granted { until } => Ok(deadline.min(until)),
        };
        Ok(tickets.iter().zip(looks).map(answer).collect())
    }

    /// Never gives up while the database may come back: what happened has happened. What can never be stored is stored
    /// without the words about it.
    async fn record(&self, mut settled: (Ticket, Verdict)) {
        let mut bare = false;
        loop {
            match self.try_record(std::slice::from_ref(&settled)).await {
                Ok(()) => return,
                Err(bus::Failure::Retry(problem)) => {
                    tracing::warn!(problem, "verdict not recorded; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(bus::Failure::Reject(problem)) if bare => {
                    let delivery = settled.0.id;
                    return tracing::error!(%delivery, problem, "verdict cannot be stored; the delivery stays claimed");
                }
                Err(bus::Failure::Reject(problem)) => {
                    tracing::error!(delivery = %settled.0.id, problem, "verdict cannot be stored; trying without texts");
                    (settled.1, bare) = (settled.1.without_texts(), true);
                }
            }
        }
    }

    async fn try_record(&self, settled: &[(Ticket, Verdict)]) -> Result<(), bus::Failure> {
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        flow::settle_any(&mut work, self.owner, settled, self.host.now()).await?;
        Ok(work.commit().await?)
    }
}

type Done = Result<(Id, Option<Duration>), tokio::task::JoinError>;

/// A worker is done: its merchant has room again, unless its other side wants to be left alone. `false`: it broke off, and
/// what it held stays held until our lease ends.
fn note(merchants: &mut HashMap<Id, String>, pauses: &mut HashMap<String, Instant>, done: Done) -> bool {
    let (id, pause) = match done {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "a hand-over broke off: the service ends, and others take over");
            return false;
        }
    };
    if let (Some(merchant), Some(pause)) = (merchants.remove(&id), pause) {
        pauses.insert(merchant, Instant::now() + pause);
    }
    true
}

/// A desk's lease: others can tell that it lives, and take over what it held when it does not.
pub struct Lease {
    host: Host,
    owner: Uuid,
    held: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl Lease {
    /// Prolongs it until it is ended or dropped.
    pub fn keep(host: Host, owner: Uuid) -> Self {
        let held = CancellationToken::new();
        let keeper = tokio::spawn(prolong(host.clone(), owner, held.clone()));
        Self { host, owner, held, keeper }
    }

    /// Gives back what is claimed but not begun.
    pub async fn end(mut self) {
        self.held.cancel();
        let _ = (&mut self.keeper).await;
        let left = async {
            let mut tx = self.host.pool.begin().await?;
            store::leave(&mut tx, self.owner).await?;
            tx.commit().await
        };
        if let Err(error) = left.await {
            tracing::warn!(%error, "claimed deliveries not given back; they are taken over when the lease ends");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.held.cancel();
    }
}

async fn prolong(host: Host, owner: Uuid, held: CancellationToken) {
    while !held.is_cancelled() {
        let beat = async {
            let mut tx = host.pool.begin().await?;
            store::heartbeat(&mut tx, owner, LEASE.as_secs_f64()).await?;
            tx.commit().await
        };
        if let Err(error) = beat.await {
            tracing::warn!(%error, "lease not prolonged; trying again");
        }
        tokio::select! {
            () = held.cancelled() => {}
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
    }
}
