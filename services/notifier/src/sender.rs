//! The machinery that carries deliveries to the mail relay: who does what, over which channel. What it means is in
//! [`crate::flow`].
//!
//! ```text
//! claimer ──tickets──► workers, one connection each ──asks──► clerk (groups: T1, T2)
//!    ▲                    │  ▲                                  │
//!    │                    │  └────────── permit ────────────────┘
//!    └── room ────────────┘
//!                         └──verdicts──► recorder (groups)
//! ```

use crate::config::SmtpSettings;
use crate::domain::Attempt;
use crate::flow::{self, Ticket, Verdict};
use crate::render::{Input, RenderError, Templates};
use crate::smtp::{Connection, Failure, Mail, Phase, Prepared, Reply};
use crate::store;
use events::topology::NOTIFIER_SENDER;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::Host;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

/// How often waiting deliveries are looked for when there were none.
const IDLE: Duration = Duration::from_millis(20);
/// How long the clerk waits for company before it asks the database.
const GATHER: Duration = Duration::from_millis(1);
/// Most messages per permit.
const MAX_GROUP: usize = 128;
/// A permit is good for so long; the database connection must not have been given up before.
const PERMIT: Duration = Duration::from_secs(1);
/// How long a process may be silent before others take over what it holds.
const LEASE_SECONDS: f64 = 6.0;
/// How often the lease is prolonged.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long rendered messages are kept.
const MESSAGE_DAYS: i32 = 30;

/// What all parts share.
#[derive(Clone)]
pub struct Desk {
    host: Host,
    owner: Uuid,
    templates: Arc<Templates>,
    smtp: SmtpSettings,
    relay: Arc<RelayState>,
    attempts: Counter<u64>,
}

/// Whether the relay may be tried.
#[derive(Debug, Default)]
struct RelayState(StdMutex<(u32, Option<Instant>)>);

impl RelayState {
    /// The relay said no to everybody, or to us: leave it alone for a while, longer each time.
    fn pause(&self, why: &str) {
        const LONGEST: Duration = Duration::from_secs(60);
        let Ok(mut state) = self.0.lock() else { return };
        let (failures, until) = &mut *state;
        if until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        let pause = (Duration::from_millis(500) * 2_u32.pow((*failures).min(7))).min(LONGEST);
        *failures += 1;
        *until = Some(Instant::now() + pause);
        tracing::error!(why, pause_ms = pause.as_millis() as u64, "mail relay paused: nothing is sent meanwhile");
    }

    fn works(&self) {
        if let Ok(mut state) = self.0.lock() {
            *state = (0, None);
        }
    }

    fn paused_for(&self) -> Duration {
        let until = self.0.lock().ok().and_then(|state| state.1);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

/// A worker's question: may this dot be written?
struct Ask {
    ticket: Arc<Ticket>,
    raw: Arc<Mail>,
    permit: oneshot::Sender<Permit>,
}

/// The clerk's answer.
enum Permit {
    /// Write it before the deadline, and say so.
    Granted { deadline: Instant, written: oneshot::Sender<()> },
    /// Drop the connection.
    Refused(Verdict),
}

impl Desk {
    /// A desk for a new owner.
    pub fn new(host: Host, templates: Templates, smtp: SmtpSettings) -> Self {
        Self {
            owner: kernel::id::new(&*host.clock),
            host,
            templates: Arc::new(templates),
            smtp,
            relay: Arc::default(),
            attempts: opentelemetry::global::meter("dunlin").u64_counter("dunlin.delivery.attempts").build(),
        }
    }

    /// Sends until `stop`; then finishes what is being handed over and gives back the rest.
    pub async fn run(self, stop: CancellationToken) {
        let connections = usize::from(self.smtp.connections);
        let (asks, clerk_inbox) = mpsc::channel(connections);
        let (verdicts, recorder_inbox) = mpsc::channel(MAX_GROUP * 2);
        let (tickets, queue) = mpsc::channel(connections * 2);
        let queue = Arc::new(Mutex::new(queue));

        // Without a lease nothing may be claimed: others could not tell that we live.
        let lease = tokio::spawn(self.clone().keep_lease(stop.clone()));
        let clerk = tokio::spawn(self.clone().grant_permits(clerk_inbox));
        let recorder = tokio::spawn(self.clone().record(recorder_inbox));
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let worker = Worker { desk: self.clone(), asks: asks.clone(), verdicts: verdicts.clone(), idle: None };
            workers.spawn(worker.run(queue.clone(), stop.clone()));
        }
        drop((asks, verdicts));
        self.clone().claim(tickets, stop).await;
        while workers.join_next().await.is_some() {}
        let _ = tokio::join!(clerk, recorder, lease);
        self.leave().await;
    }

    /// Claims as many deliveries as there is room for.
    async fn claim(self, tickets: mpsc::Sender<Ticket>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let room = tickets.capacity();
            let pause = self.relay.paused_for();
            let claimed = if room == 0 || !pause.is_zero() { Ok(Vec::new()) } else { self.claim_some(room).await };
            let found = match claimed {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::warn!(%error, "no deliveries claimed; trying again");
                    Vec::new()
                }
            };
            let none = found.is_empty();
            for ticket in found {
                // There is room for all of them: nobody else sends here.
                if tickets.send(ticket).await.is_err() {
                    return;
                }
            }
            if none {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pause.max(IDLE)) => {}
                }
            }
        }
    }

    async fn claim_some(&self, room: usize) -> Result<Vec<Ticket>, bus::Failure> {
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        let tickets = flow::claim(&mut work, &self.host, self.owner, room as i64).await?;
        work.commit().await?;
        Ok(tickets)
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
            self.grant(group).await;
        }
    }

    /// T1, T2 and the dots between lock and commit, for one group.
    async fn grant(&self, group: Vec<Ask>) {
        let ours = match self.announce(&group).await {
            Ok(ours) => ours,
            Err(error) => return self.refuse_all(group, &error),
        };
        let (group, lost): (Vec<Ask>, Vec<Ask>) = group.into_iter().partition(|ask| ours.contains(&ask.ticket.id));
        for ask in lost {
            // Somebody else has the delivery now: whatever we say about it changes nothing.
            tracing::warn!(delivery = %ask.ticket.id, "delivery was taken over; not sent from here");
            let _ = ask.permit.send(Permit::Refused(Verdict::put_back(self.host.now(), "taken_over")));
        }
        // Taken before the lock: a process that slept since then may have lost its connection, and with it the lock.
        let deadline = Instant::now() + PERMIT;
        let looked = async {
            let mut tx = self.host.pool.begin().await?;
            let tickets: Vec<&Ticket> = group.iter().map(|ask| &*ask.ticket).collect();
            let verdicts = flow::permit(&mut tx, &tickets, self.host.now()).await?;
            Ok::<_, bus::Failure>((tx, verdicts))
        };
        let (tx, verdicts) = match looked.await {
            Ok(looked) => looked,
            Err(error) => return self.refuse_all(group, &error),
        };
        let mut written = Vec::with_capacity(group.len());
        for (ask, refusal) in group.into_iter().zip(verdicts) {
            let permit = match refusal {
                Some(verdict) => Permit::Refused(verdict),
                None => {
                    let (done, dot) = oneshot::channel();
                    written.push(dot);
                    Permit::Granted { deadline, written: done }
                }
            };
            let _ = ask.permit.send(permit);
        }
        // Each answers before the deadline, if only by being dropped.
        futures_util::future::join_all(written).await;
        if let Err(error) = tx.commit().await {
            // Nothing was written in it but locks.
            tracing::warn!(%error, "permit transaction not ended in order");
        }
    }

    async fn announce(&self, group: &[Ask]) -> Result<std::collections::BTreeSet<Uuid>, bus::Failure> {
        let mut tx = self.host.pool.begin().await?;
        let messages: Vec<_> = group.iter().map(|ask| (&*ask.ticket, ask.raw.data.as_slice())).collect();
        let ours = flow::announce(&mut tx, self.owner, &messages, self.host.now()).await?;
        tx.commit().await?;
        Ok(ours)
    }

    fn refuse_all(&self, group: Vec<Ask>, error: &bus::Failure) {
        tracing::warn!(%error, messages = group.len(), "no permits; the messages are taken back");
        for ask in group {
            let _ = ask.permit.send(Permit::Refused(Verdict::put_back(self.host.now(), "database")));
        }
    }

    /// Records verdicts in groups until the last worker is gone. Never gives up: what happened on the wire has happened.
    async fn record(self, mut inbox: mpsc::Receiver<(Ticket, Verdict)>) {
        let mut group = Vec::new();
        while inbox.recv_many(&mut group, MAX_GROUP).await > 0 {
            for (_, verdict) in &group {
                self.attempts.add(1, &[KeyValue::new("channel", "email"), KeyValue::new("outcome", verdict.name())]);
            }
            while let Err(error) = self.record_group(&group).await {
                tracing::warn!(%error, verdicts = group.len(), "verdicts not recorded; trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            group.clear();
        }
    }

    async fn record_group(&self, group: &[(Ticket, Verdict)]) -> Result<(), bus::Failure> {
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        flow::settle(&mut work, self.owner, group, self.host.now()).await?;
        Ok(work.commit().await?)
    }

    /// Keeps our lease, takes over what others left, and keeps retention.
    async fn keep_lease(self, stop: CancellationToken) {
        for round in 0_u32.. {
            if let Err(error) = self.lease_once(round).await {
                tracing::warn!(%error, "lease not prolonged; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }

    async fn lease_once(&self, round: u32) -> Result<(), bus::Failure> {
        const CHUNK: i64 = 1_000;
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        store::heartbeat(work.tx(), self.owner, LEASE_SECONDS).await?;
        work.commit().await?;
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        let unknown = flow::take_over(&mut work, self.host.now()).await?;
        work.commit().await?;
        if unknown > 0 {
            tracing::error!(unknown, "a sender died at the final dot: it is unknown whether these were sent");
        }
        if round.is_multiple_of(3_600) {
            while store::trim_messages(&self.host.pool, MESSAGE_DAYS, CHUNK).await? == CHUNK as u64 {}
        }
        Ok(())
    }

    async fn leave(&self) {
        let left = async {
            let mut tx = self.host.pool.begin().await?;
            store::leave(&mut tx, self.owner).await?;
            tx.commit().await
        };
        if let Err(error) = left.await {
            tracing::warn!(%error, "claimed deliveries not given back; they are taken over when the lease ends");
        }
    }

    /// Renders a ticket.
    fn render(&self, ticket: &Ticket) -> Result<Mail, Verdict> {
        let failed = |reason| Verdict::Failed { reason, status_code: String::new(), bad_address: false };
        let merchant = self.host.merchants.get(&ticket.merchant).ok_or_else(|| failed("merchant_unknown"))?;
        let now = self.host.now();
        let owed: Vec<_> = ticket.owed.iter().map(|(l, b)| (l, b)).collect();
        let input = Input {
            merchant,
            name: &ticket.name,
            address: &ticket.address,
            reminder: &ticket.reminder,
            owed: &owed,
            today: ticket.hours.date_at(now),
            now,
            links: &self.host.links,
        };
        match self.templates.render(input) {
            Ok(data) => {
                Ok(Mail { from: merchant.file.sender.email.clone(), to: ticket.address.reveal().clone(), data })
            }
            Err(RenderError::BadAddress) => Err(failed("bad_address")),
            Err(RenderError::Template(problem)) => {
                tracing::error!(delivery = %ticket.id, problem, "message cannot be rendered");
                Err(failed("render"))
            }
        }
    }
}

/// One worker: one connection at a time.
struct Worker {
    desk: Desk,
    asks: mpsc::Sender<Ask>,
    verdicts: mpsc::Sender<(Ticket, Verdict)>,
    idle: Option<(Connection, Instant)>,
}

impl Worker {
    async fn run(mut self, queue: Arc<Mutex<mpsc::Receiver<Ticket>>>, stop: CancellationToken) {
        loop {
            let next = async { queue.lock().await.recv().await };
            let ticket = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                ticket = next => ticket,
            };
            let Some(ticket) = ticket else { break };
            let span = tracing::info_span!(
                parent: None,
                "send reminder",
                otel.name = "send reminder email",
                otel.kind = "client",
                reminder.id = %ticket.id,
                reminder.step = ticket.reminder.step,
                outcome = tracing::field::Empty,
                smtp.reply = tracing::field::Empty,
            );
            bus::trace::set_parent(&span, ticket.traceparent.as_deref());
            let (ticket, verdict) = self.deliver(ticket).instrument(span.clone()).await;
            span.record("outcome", verdict.name());
            if self.verdicts.send((ticket, verdict)).await.is_err() {
                break;
            }
        }
        if let Some((connection, _)) = self.idle.take() {
            connection.quit().await;
        }
    }

    /// Hands one message over, or finds out why not.
    async fn deliver(&mut self, ticket: Ticket) -> (Ticket, Verdict) {
        let mail = match self.desk.render(&ticket) {
            Ok(mail) => Arc::new(mail),
            Err(verdict) => return (ticket, verdict),
        };
        let attempts = ticket.attempts;
        let ticket = Arc::new(ticket);
        let outcome = match self.prepare(&mail).await {
            Ok(prepared) => self.commit(prepared, &ticket, mail).await,
            Err(failure) => Err(Attempt::of_failure(&failure)),
        };
        let verdict = match outcome {
            Ok(verdict) => verdict,
            Err(attempt) => {
                match &attempt {
                    Attempt::Retry { relay: true, reason, status_code } => {
                        self.desk.relay.pause(&format!("{reason} {status_code}"));
                    }
                    Attempt::Accepted(_) | Attempt::Failed { .. } => self.desk.relay.works(),
                    Attempt::Retry { .. } | Attempt::Unknown => {}
                }
                Verdict::of_attempt(attempt, attempts, self.desk.host.now())
            }
        };
        // The clerk has answered, so nobody else holds the ticket any more.
        (Arc::unwrap_or_clone(ticket), verdict)
    }

    /// Everything but the dot, on the open connection or a new one.
    async fn prepare(&mut self, mail: &Mail) -> Result<Prepared, Failure> {
        /// Servers close connections that say nothing for long.
        const MAX_IDLE: Duration = Duration::from_secs(30);
        if let Some((connection, since)) = self.idle.take()
            && since.elapsed() < MAX_IDLE
        {
            match connection.prepare(mail).await {
                Ok(prepared) => return Ok(prepared),
                // Closed while it was idle: nothing was said about this mail yet.
                Err((Failure::Broken { phase: Phase::Mail, .. }, _)) => {}
                Err((failure, connection)) => {
                    self.keep(connection);
                    return Err(failure);
                }
            }
        }
        let SmtpSettings { host, port, hello, .. } = &self.desk.smtp;
        let connection = Connection::open(host, *port, hello, self.desk.smtp.timeouts()).await?;
        connection.prepare(mail).await.map_err(|(failure, connection)| {
            self.keep(connection);
            failure
        })
    }

    /// Asks for the permit, writes the dot and waits for the answer. `Ok` is a verdict that needs no more thought.
    async fn commit(&mut self, prepared: Prepared, ticket: &Arc<Ticket>, mail: Arc<Mail>) -> Result<Verdict, Attempt> {
        let (permit, answer) = oneshot::channel();
        let ask = Ask { ticket: ticket.clone(), raw: mail, permit };
        if self.asks.send(ask).await.is_err() {
            return Ok(Verdict::put_back(self.desk.host.now(), "shutting_down"));
        }
        // Dropping `prepared` on any of these ways out closes the connection: the server has nothing to deliver.
        let (deadline, written) = match answer.await {
            Ok(Permit::Granted { deadline, written }) => (deadline, written),
            Ok(Permit::Refused(verdict)) => return Ok(verdict),
            Err(_) => return Ok(Verdict::put_back(self.desk.host.now(), "shutting_down")),
        };
        let committed = prepared.write_dot(deadline).await;
        drop(written);
        let committed = committed.map_err(|failure| Attempt::of_failure(&failure))?;
        match committed.verdict().await {
            Ok((reply, connection)) => {
                self.keep(Some(connection));
                Err(accepted(reply))
            }
            Err((failure, connection)) => {
                self.keep(connection);
                Err(Attempt::of_failure(&failure))
            }
        }
    }

    fn keep(&mut self, connection: Option<Connection>) {
        self.idle = connection.map(|c| (c, Instant::now()));
    }
}

fn accepted(reply: Reply) -> Attempt {
    tracing::Span::current().record("smtp.reply", reply.to_string());
    Attempt::Accepted(reply)
}
