//! The machinery that carries deliveries to the mail relay: who does what, over which channel. What it means is in
//! [`crate::flow`].
//!
//! ```text
//! claimer ──tickets──► queue ──► workers, one connection each ──asks──► clerk (groups: T1, T2)
//!    ▲                    │  ▲                                  │
//!    │                    │  └────────── permit ────────────────┘
//!    └── room ────────────┘
//!                         └──verdicts──► recorder (groups)
//! ```
//!
//! What holds whatever the timing, with crashes, lost locks and late leases, is modelled in `tests/model.rs`.

use crate::config::{Config, SmtpSettings};
use crate::document::Documents;
use crate::domain::Attempt;
use crate::flow::{self, Look, Ticket, Verdict};
use crate::freshness::Freshness;
use crate::kept::{Kept, Pattern};
use crate::message::Attachment;
use crate::pace::{self, InUse, Pace, Place, Queue};
use crate::render::{Input, RenderError};
use crate::return_path::ReturnPath;
use crate::smtp::{Connection, Failure, GOODBYE, Mail, Phase, Prepared, Reply, Server};
use crate::templates::Live;
use crate::{stationery, store};
use events::topology::NOTIFIER_SENDER;
use kernel::Masked;
use kernel::MerchantId;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};
use runtime::Host;
use runtime::failpoint::reached;
use runtime::merchant::RepliesThrough;
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

/// How often it is looked whether merchants with something due may have more in work.
const IDLE: Duration = Duration::from_millis(5);
/// Deliveries that wait for each connection, at most: claiming them takes longer than a mail.
const AHEAD: usize = 2 * pace::IN_WORK as usize;
/// How often it is looked which merchants have something due.
const DUE: Duration = Duration::from_millis(200);
/// How long the clerk waits for company before it asks the database: until the timer's next tick, half a millisecond on average.
const GATHER: Duration = Duration::from_micros(1);
/// How long the recorder waits for company. What a crash finds unrecorded is of unknown fate, so no longer than this.
const GATHER_VERDICTS: Duration = Duration::from_millis(25);
/// Most messages per permit.
const MAX_GROUP: usize = 128;
/// Most verdicts per record.
const MAX_VERDICTS: usize = 512;
/// Groups that are granted at the same time.
const GROUPS: usize = 2;
/// A permit is good for so long; the database connection must not have been given up before.
const PERMIT: Duration = Duration::from_secs(1);
/// T1 is good for so long: whoever slept longer may have been taken over.
pub(crate) const ANNOUNCED: Duration = Duration::from_secs(3);
const _: () = assert!(ANNOUNCED.as_millis() < store::MARGIN.as_millis());
/// What has waited for a connection for so long is given back: after an hour in our hands others take it for lost.
const LONGEST_WAIT: Duration = Duration::from_mins(30);
/// For so long the next mail waits behind one that the server has not answered; then another connection may have it.
const LONG: Duration = Duration::from_secs(1);
/// How long a process may be silent and still claim.
const LEASE: Duration = Duration::from_secs(6);
/// How often the lease is prolonged.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long our own lease must have lasted without a gap before we call others dead: where the database was away, theirs
/// have lapsed as ours has, and they need a moment to say that they live.
const TRUST: Duration = Duration::from_secs(3);

/// How often it is looked through all that is open for what nobody has any more, even if no process is known to have died.
const THOROUGH: Duration = Duration::from_secs(10);

/// What all parts share.
#[derive(Clone)]
pub struct Desk {
    host: Host,
    owner: Uuid,
    templates: Arc<Live>,
    documents: Documents,
    freshness: Freshness,
    pace: Pace,
    smtp: SmtpSettings,
    return_path: Option<ReturnPath>,
    server: Arc<Server>,
    relay: Arc<RelayState>,
    /// The patterns that are stored.
    patterns: Arc<StdMutex<HashSet<Uuid>>>,
    attempts: Counter<u64>,
    breakers_open: Gauge<u64>,
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

/// Which merchants have something due.
#[derive(Default)]
struct Due {
    merchants: Vec<MerchantId>,
    /// When it was looked last, unless it has to be looked again.
    looked: Option<Instant>,
    /// Whose turn it is.
    turn: usize,
}

/// A worker's question: may this dot be written?
struct Ask {
    ticket: Arc<Ticket>,
    message: Kept,
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
    /// A desk for a new owner. Errors: the relay cannot be reached in the way that the settings say.
    pub fn try_new(host: Host, templates: Arc<Live>, freshness: Freshness, config: Config) -> anyhow::Result<Self> {
        Ok(Self {
            owner: kernel::id::new(&*host.clock),
            return_path: config.inbound.map(|inbound| ReturnPath::new(&inbound.domain, &host.links)),
            documents: Documents::try_new(host.clone())?,
            host,
            templates,
            freshness,
            pace: Pace::new(config.limits, config.smtp.connections),
            server: Arc::new(config.smtp.server()?),
            smtp: config.smtp,
            relay: Arc::default(),
            patterns: Arc::default(),
            attempts: opentelemetry::global::meter("dunlin").u64_counter("dunlin.delivery.attempts").build(),
            breakers_open: opentelemetry::global::meter("dunlin").u64_gauge("dunlin.notifier.breakers_open").build(),
        })
    }

    /// Sends until `stop`; then finishes what is being handed over and gives back the rest.
    pub async fn run(self, stop: CancellationToken) {
        let connections = usize::from(self.smtp.connections);
        let (asks, clerk_inbox) = mpsc::channel(connections);
        let (verdicts, recorder_inbox) = mpsc::channel(MAX_VERDICTS);
        let queue = Arc::new(Queue::new(self.pace.clone()));

        // The lease lasts as long as anything is held, even if `run` is dropped on the way.
        let held = CancellationToken::new();
        let guard = held.clone().drop_guard();
        // Whatever ends or panics before its time ends everything, and the service with it: half a sender would for ever
        // hold what it can never send.
        let closing = stop.child_token();
        let lease = tokio::spawn(end_with(closing.clone(), self.clone().keep_lease(held)));
        let mut parts = JoinSet::new();
        parts.spawn(end_with(closing.clone(), self.clone().grant_permits(clerk_inbox)));
        parts.spawn(end_with(closing.clone(), self.clone().record(recorder_inbox)));
        for _ in 0..connections {
            let worker = Worker {
                desk: self.clone(),
                queue: queue.clone(),
                stop: closing.clone(),
                asks: asks.clone(),
                verdicts: verdicts.clone(),
                idle: None,
                in_use: None,
                next: None,
            };
            parts.spawn(end_with(closing.clone(), worker.run()));
        }
        drop((asks, verdicts));
        parts.spawn(end_with(closing.clone(), self.clone().claim(queue, closing)));
        while parts.join_next().await.is_some() {}
        drop(guard);
        let _ = lease.await;
        self.leave().await;
    }

    /// Claims as many deliveries as there is room for, once half of it is free: one by one they would cost as much as many.
    async fn claim(self, queue: Arc<Queue<Ticket>>, stop: CancellationToken) {
        let most = usize::from(self.smtp.connections) * AHEAD;
        let mut due = Due::default();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = queue.is_down_to(most / 2) => {}
            }
            let room = most.saturating_sub(queue.len());
            let pause = self.relay.paused_for();
            let claimed = if pause.is_zero() { self.claim_some(&mut due, room).await } else { Ok(Vec::new()) };
            let found = match claimed {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::warn!(%error, "no deliveries claimed; trying again");
                    Vec::new()
                }
            };
            let none = found.is_empty();
            for (ticket, place) in found {
                queue.push(ticket, place);
            }
            if none {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(if due.merchants.is_empty() { DUE } else { IDLE }.max(pause)) => {}
                }
            }
        }
    }

    async fn claim_some(&self, due: &mut Due, room: usize) -> Result<Vec<(Ticket, Place)>, bus::Failure> {
        if due.looked.is_none_or(|looked| looked.elapsed() > DUE) {
            let looked = Instant::now();
            let held = self.freshness.held(&self.host);
            due.merchants = store::due_merchants(&self.host.pool, self.host.now()).await?;
            let broken =
                |merchant: &MerchantId| self.host.merchants.get(merchant).is_some_and(|m| self.pace.is_broken(m));
            due.merchants.retain(|merchant| !held.contains(merchant) && !broken(merchant));
            due.looked = Some(looked);
        }
        due.turn = due.turn.wrapping_add(1);
        let shares = self.pace.shares(&due.merchants, room, due.turn);
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        let (claimed, tickets) = flow::claim(&mut work, &self.host, &self.pace, self.owner, &shares).await?;
        work.commit().await?;
        // Some have no more, unless others claim them.
        if claimed > 0 && claimed < shares.iter().map(|(_, share)| *share as usize).sum() {
            due.looked = None;
        }
        tickets.iter().for_each(|(ticket, _)| reached("claimed", ticket.id));
        Ok(tickets)
    }

    /// Grants permits to groups of workers until the last of them is gone. While one group waits for the disk, the next is on
    /// its way: whoever asks just after a group has left need not wait for its end. Who asks meanwhile makes up the one after.
    async fn grant_permits(self, mut inbox: mpsc::Receiver<Ask>) {
        let mut groups = JoinSet::new();
        while let Some(first) = inbox.recv().await {
            let mut group = vec![first];
            tokio::time::sleep(GATHER).await;
            while groups.len() >= GROUPS {
                groups.join_next().await.into_iter().for_each(ended);
            }
            while group.len() < MAX_GROUP
                && let Ok(ask) = inbox.try_recv()
            {
                group.push(ask);
            }
            let desk = self.clone();
            groups.spawn(async move { desk.grant(group).await });
        }
        while let Some(group) = groups.join_next().await {
            ended(group);
        }
    }

    /// T1, T2 and the dots while its locks last, for one group.
    async fn grant(&self, group: Vec<Ask>) {
        let announced = Instant::now();
        let ours = match self.announce(&group).await {
            Ok(ours) => ours,
            Err(error) => return self.refuse_all(group, &error),
        };
        let (group, lost): (Vec<Ask>, Vec<Ask>) = group.into_iter().partition(|ask| ours.contains(&ask.ticket.id));
        for ask in lost {
            // Somebody else has the delivery now, and whatever we say about it changes nothing; or our lease has lapsed.
            tracing::warn!(delivery = %ask.ticket.id, "delivery is not ours any more; not sent from here");
            let _ = ask.permit.send(Permit::Refused(Verdict::put_back(self.host.now(), "taken_over")));
        }
        let looked = async {
            let mut tx = self.host.pool.begin().await?;
            // Before the lock: a process that slept since then may have lost its connection, and with it the lock.
            let deadline = (Instant::now() + PERMIT).min(announced + ANNOUNCED);
            let tickets: Vec<&Ticket> = group.iter().map(|ask| &*ask.ticket).collect();
            let looks = flow::permit(&mut tx, &self.host, &self.freshness, &tickets).await?;
            tickets.iter().for_each(|ticket| reached("locked", ticket.id));
            Ok::<_, bus::Failure>((tx, deadline, looks))
        };
        let (tx, deadline, looks) = match looked.await {
            Ok(looked) => looked,
            Err(error) => return self.refuse_all(group, &error),
        };
        let mut written = Vec::with_capacity(group.len());
        for (ask, look) in group.into_iter().zip(looks) {
            let permit = match look {
                Look::Refused(verdict) => Permit::Refused(verdict),
                Look::Granted { until } => {
                    let (done, dot) = oneshot::channel();
                    written.push(dot);
                    Permit::Granted { deadline: deadline.min(until), written: done }
                }
            };
            let _ = ask.permit.send(permit);
        }
        // Each answers before the deadline, if only by being dropped.
        futures_util::future::join_all(written).await;
        // Nothing was written in it but locks: there is nothing to commit, and no disk to wait for.
        if let Err(error) = tx.rollback().await {
            tracing::warn!(%error, "permit transaction not ended in order");
        }
    }

    async fn announce(&self, group: &[Ask]) -> Result<std::collections::BTreeSet<Uuid>, bus::Failure> {
        let messages: Vec<_> = group.iter().map(|ask| (&*ask.ticket, &ask.message)).collect();
        self.keep_patterns(messages.iter().filter_map(|(_, message)| message.pattern())).await?;
        // One statement is a transaction of its own.
        let mut connection = self.host.pool.acquire().await?;
        let ours = flow::announce(&mut connection, self.owner, &messages, self.host.now()).await?;
        ours.iter().for_each(|id| reached("imminent", *id));
        Ok(ours)
    }

    /// What messages are compressed against is there before they are.
    async fn keep_patterns(&self, patterns: impl Iterator<Item = &Arc<Pattern>>) -> sqlx::Result<()> {
        let new: BTreeMap<_, _> = {
            let kept = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
            let new = patterns.filter(|pattern| !kept.contains(&pattern.id()));
            new.map(|pattern| (pattern.id(), pattern.clone())).collect()
        };
        if !new.is_empty() {
            store::keep_patterns(&self.host.pool, &new).await?;
            self.patterns.lock().unwrap_or_else(PoisonError::into_inner).extend(new.into_keys());
        }
        Ok(())
    }

    fn refuse_all(&self, group: Vec<Ask>, error: &bus::Failure) {
        tracing::warn!(%error, messages = group.len(), "no permits; the messages are taken back");
        for ask in group {
            let _ = ask.permit.send(Permit::Refused(Verdict::wait_for_us(&self.host, ask.ticket.attempts, "database")));
        }
    }

    /// Records verdicts in groups until the last worker is gone. Never gives up: what happened on the wire has happened.
    async fn record(self, mut inbox: mpsc::Receiver<(Ticket, Verdict)>) {
        let mut group = Vec::new();
        while inbox.recv_many(&mut group, MAX_VERDICTS).await > 0 {
            // What follows closely is recorded with it. Nobody waits for that.
            tokio::time::sleep(GATHER_VERDICTS).await;
            while group.len() < MAX_VERDICTS
                && let Ok(verdict) = inbox.try_recv()
            {
                group.push(verdict);
            }
            for (_, verdict) in &group {
                self.attempts.add(1, &[KeyValue::new("channel", "email"), KeyValue::new("outcome", verdict.name())]);
            }
            if self.record_until_done(&group).await.is_err() {
                self.record_singly(&group).await;
            }
            group.clear();
        }
    }

    /// Tries as long as it takes. An error means that something in the group can never be stored.
    async fn record_until_done(&self, group: &[(Ticket, Verdict)]) -> Result<(), String> {
        loop {
            match self.record_group(group).await {
                Ok(()) => return Ok(()),
                Err(bus::Failure::Reject(problem)) => return Err(problem),
                Err(bus::Failure::Retry(problem)) => {
                    tracing::warn!(problem, verdicts = group.len(), "verdicts not recorded; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// One bad verdict must not hold up the others. What happened counts for more than the words about it.
    async fn record_singly(&self, group: &[(Ticket, Verdict)]) {
        for (ticket, verdict) in group {
            let one = [(ticket.clone(), verdict.clone())];
            let Err(problem) = self.record_until_done(&one).await else { continue };
            tracing::error!(delivery = %ticket.id, problem, "verdict cannot be stored; trying without its texts");
            let bare = [(ticket.clone(), verdict.without_texts())];
            if let Err(problem) = self.record_until_done(&bare).await {
                tracing::error!(delivery = %ticket.id, problem, "verdict cannot be stored at all; the delivery stays claimed");
            }
        }
    }

    async fn record_group(&self, group: &[(Ticket, Verdict)]) -> Result<(), bus::Failure> {
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        flow::settle(&mut work, &self.pace, self.owner, group, self.host.now()).await?;
        work.commit().await?;
        group.iter().for_each(|(ticket, _)| reached("saved", ticket.id));
        Ok(())
    }

    /// Keeps our lease, and takes over what others left.
    async fn keep_lease(self, held: CancellationToken) {
        let (mut unbroken_since, mut last) = (Instant::now(), Instant::now());
        let mut thorough: Option<Instant> = None;
        while !held.is_cancelled() {
            match self.heartbeat().await {
                Ok(()) => {
                    if last.elapsed() > LEASE {
                        unbroken_since = Instant::now();
                    }
                    last = Instant::now();
                    if unbroken_since.elapsed() >= TRUST
                        && let Err(error) = self.take_over(&mut thorough).await
                    {
                        tracing::warn!(%error, "nothing taken over; trying again");
                    }
                }
                Err(error) => tracing::warn!(%error, "lease not prolonged; trying again"),
            }
            tokio::select! {
                () = held.cancelled() => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }

    /// Breakers are known before the lease is, without which nothing is claimed.
    async fn heartbeat(&self) -> sqlx::Result<()> {
        self.heed_breakers().await?;
        let mut tx = self.host.pool.begin().await?;
        let processes = store::heartbeat(&mut tx, self.owner, LEASE.as_secs_f64()).await?;
        tx.commit().await?;
        self.pace.share_with(processes);
        Ok(())
    }

    /// What is due from a sending domain whose circuit breaker is open stays where it is and says so.
    async fn heed_breakers(&self) -> sqlx::Result<()> {
        const NOTES: i64 = 2_000;
        let open = store::open_breakers(&self.host.pool).await?;
        self.breakers_open.record(open.len() as u64, &[]);
        self.pace.breakers(open.into_iter().map(|breaker| breaker.domain));
        let broken = self.host.merchants.iter().filter(|m| self.pace.is_broken(m));
        let broken: Vec<MerchantId> = broken.map(|m| m.id.clone()).collect();
        if broken.is_empty() {
            return Ok(());
        }
        store::note_held(&self.host.pool, &broken, pace::BREAKER, self.host.now(), NOTES).await
    }

    async fn take_over(&self, thorough: &mut Option<Instant>) -> Result<(), bus::Failure> {
        let is_time = thorough.is_none_or(|last| last.elapsed() >= THOROUGH);
        if !is_time && !store::is_anybody_gone(&self.host.pool).await? {
            return Ok(());
        }
        let mut work = self.host.bus.begin(&NOTIFIER_SENDER).await?;
        let unknown = flow::take_over(&mut work, self.host.now()).await?;
        work.commit().await?;
        *thorough = Some(Instant::now());
        if unknown > 0 {
            tracing::error!(unknown, "a sender died at the final dot: it is unknown whether these were sent");
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

    /// Whether something has to be fetched for a delivery before it can be rendered.
    fn wants_documents(&self, ticket: &Ticket) -> bool {
        self.host.merchants.get(&ticket.merchant).is_some_and(|m| Documents::are_wanted(m, &ticket.owed))
    }

    async fn attachments(&self, ticket: &Ticket) -> Vec<Attachment> {
        let Some(merchant) = self.host.merchants.get(&ticket.merchant).filter(|_| self.wants_documents(ticket)) else {
            return Vec::new();
        };
        let span = tracing::info_span!(parent: None, "fetch documents", otel.kind = "client", reminder.id = %ticket.id);
        bus::trace::set_parent(&span, ticket.traceparent.as_deref());
        self.documents.of(merchant, &ticket.owed).instrument(span).await
    }

    /// Renders a delivery that is to have a connection.
    fn job(&self, ticket: Ticket, place: Place, attachments: &[Attachment]) -> Result<Job, Done> {
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
        let rendered = span.in_scope(|| {
            if ticket.claimed.elapsed() > LONGEST_WAIT {
                return Err(Verdict::put_back(self.host.now(), "relay_slow"));
            }
            self.render(&ticket, attachments)
        });
        match rendered {
            Ok((mail, pattern)) => Ok(Job { ticket: Arc::new(ticket), mail, pattern, place, span }),
            Err(verdict) => Err((span, ticket, verdict)),
        }
    }

    fn render(&self, ticket: &Ticket, attachments: &[Attachment]) -> Result<(Mail, Arc<Pattern>), Verdict> {
        let failed = |reason| Verdict::Failed { reason, status_code: String::new(), bad_address: false };
        let now = self.host.now();
        let merchant = self.host.merchants.get(&ticket.merchant).ok_or_else(|| Verdict::merchant_unknown(now))?;
        let stationery = self.templates.stationery(&ticket.merchant).ok_or_else(|| Verdict::merchant_unknown(now))?;
        let owed: Vec<_> = ticket.owed.iter().map(|(l, b)| (l, b)).collect();
        let address = stationery::address(ticket.address.reveal()).ok_or_else(|| failed("bad_address"))?;
        let address = Masked::new(address.to_string());
        let answers = self.return_path.as_ref().filter(|_| merchant.file.replies.through == RepliesThrough::Dunlin);
        let answers = answers.map(|path| path.reply(ticket.id));
        let input = Input {
            merchant,
            stationery,
            name: &ticket.name,
            locale: &ticket.locale,
            address: &address,
            reminder: &ticket.reminder,
            owed: &owed,
            today: ticket.hours.date_at(now),
            now,
            links: &self.host.links,
            attachments,
            answers: answers.as_deref(),
        };
        match self.templates.current().render(input) {
            Ok((data, pattern)) => {
                let own = self.return_path.as_ref().map(|path| path.bounce(ticket.id));
                let from = own.unwrap_or_else(|| stationery.from.email.to_string());
                Ok((Mail { from, to: address.into_inner(), envid: ticket.id.to_string(), data }, pattern))
            }
            Err(RenderError::BadAddress) => Err(failed("bad_address")),
            Err(RenderError::NoTemplate(name)) => {
                self.templates.missing(&name);
                Err(Verdict::wait_for_template(&self.host, "template_missing"))
            }
            Err(RenderError::Template(problem)) => {
                self.templates.broken(&problem);
                Err(Verdict::wait_for_template(&self.host, "template_broken"))
            }
        }
    }
}

/// A group that panicked ends the clerk, and with it the desk.
fn ended(group: Result<(), tokio::task::JoinError>) {
    if let Err(error) = group
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Runs one part of the desk; when it is over, however that came, the others have to end too.
async fn end_with(closing: CancellationToken, part: impl Future<Output = ()>) {
    let _guard = closing.drop_guard();
    part.await;
}

/// A rendered mail in a worker's hands.
struct Job {
    ticket: Arc<Ticket>,
    mail: Mail,
    pattern: Arc<Pattern>,
    /// Free again when it is done with.
    place: Place,
    span: Span,
}

/// What became of a delivery, and its trace.
type Done = (Span, Ticket, Verdict);

/// One worker: one connection at a time.
struct Worker {
    desk: Desk,
    queue: Arc<Queue<Ticket>>,
    stop: CancellationToken,
    asks: mpsc::Sender<Ask>,
    verdicts: mpsc::Sender<(Ticket, Verdict)>,
    idle: Option<(Connection, Instant)>,
    /// What the connection counts for: the mail in hand, or the next.
    in_use: Option<InUse>,
    /// What follows the mail in hand: its beginning is sent behind the end of that one.
    next: Option<Result<Job, Done>>,
}

impl Worker {
    async fn run(mut self) {
        while let Some(job) = self.job().await {
            let (span, ticket, verdict) = match job {
                Ok(job) => {
                    let span = job.span.clone();
                    let (ticket, verdict) = self.deliver(job).instrument(span.clone()).await;
                    (span, ticket, verdict)
                }
                Err(done) => done,
            };
            span.record("outcome", verdict.name());
            if self.verdicts.send((ticket, verdict)).await.is_err() {
                break;
            }
        }
        if let Some((connection, _)) = self.idle.take() {
            connection.quit().await;
        }
    }

    /// The next mail once the relay may be tried, or why there is none. `None` after the stop: what waits is given back.
    async fn job(&mut self) -> Option<Result<Job, Done>> {
        let stop = self.stop.clone();
        let job = async {
            loop {
                match self.desk.relay.paused_for() {
                    Duration::ZERO => break,
                    pause => tokio::time::sleep(pause).await,
                }
            }
            if let Some(next) = self.next.take() {
                return next;
            }
            self.in_use = None;
            let (ticket, place, in_use) = self.queue.pop().await;
            self.in_use = Some(in_use);
            let attachments = self.desk.attachments(&ticket).await;
            self.desk.job(ticket, place, &attachments)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            job = job => Some(job),
        }
    }

    /// Takes the delivery that is to follow and renders it, if one waits and nothing has to be fetched for it.
    fn look_ahead(&mut self) {
        if self.stop.is_cancelled() || !self.desk.relay.paused_for().is_zero() {
            return;
        }
        let Some(in_use) = self.in_use.take() else { return };
        match self.queue.follow(in_use, |ticket| !self.desk.wants_documents(ticket)) {
            Ok((ticket, place, in_use)) => {
                self.in_use = Some(in_use);
                self.next = Some(self.desk.job(ticket, place, &[]));
            }
            Err(in_use) => self.in_use = Some(in_use),
        }
    }

    /// The mail in hand takes its time: others may have the one that was to follow it.
    fn give_back_next(&mut self, place: &Place) {
        if let Some(Ok(next)) = self.next.take_if(|next| next.is_ok()) {
            self.queue.give_back(Arc::unwrap_or_clone(next.ticket), next.place);
            self.in_use = Some(place.occupy());
        }
    }

    /// Hands one message over, or finds out why not.
    async fn deliver(&mut self, job: Job) -> (Ticket, Verdict) {
        let Job { ticket, mail, pattern, place, span: _ } = job;
        let tries = ticket.tries;
        let outcome = match self.prepare(&mail).await {
            Ok(prepared) => {
                let message = Kept::with(&mail.data, pattern);
                self.commit(prepared, &ticket, message, &place).await
            }
            Err(failure) => Err(Attempt::of_failure(&failure)),
        };
        let verdict = match outcome {
            Ok(verdict) => verdict,
            Err(attempt) => {
                match &attempt {
                    Attempt::Retry { relay: true, reason, status_code } => {
                        self.desk.relay.pause(&format!("{reason} {status_code}"));
                    }
                    Attempt::Retry { status_code, .. } if !status_code.is_empty() => {
                        let goodbye = status_code.starts_with(&GOODBYE.to_string());
                        self.desk.pace.back_off(ticket.address.reveal(), goodbye);
                    }
                    Attempt::Accepted(_) | Attempt::Failed { .. } => {
                        self.desk.relay.works();
                        self.desk.pace.works(ticket.address.reveal());
                    }
                    Attempt::Retry { .. } | Attempt::Unknown => {}
                }
                Verdict::of_attempt(attempt, tries, self.desk.host.now())
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
                // Closed while it was idle, with or without a goodbye: nothing was said about this mail yet.
                Err((Failure::Broken { phase: Phase::Mail, .. }, _)) => {}
                Err((Failure::Refused { phase: Phase::Mail, reply }, _)) if reply.code == GOODBYE => {}
                // What the server said it can carry when it was connected to: it may say something else now.
                Err((Failure::Unfit { .. }, _)) => {}
                Err((failure, connection)) => {
                    self.keep(connection);
                    return Err(failure);
                }
            }
        }
        let connection = Connection::open(&self.desk.server).await?;
        connection.prepare(mail).await.map_err(|(failure, connection)| {
            self.keep(connection);
            failure
        })
    }

    /// Asks for the permit, writes the dot and waits for the answer. `Ok` is a verdict that needs no more thought.
    async fn commit(
        &mut self,
        mut prepared: Prepared,
        ticket: &Arc<Ticket>,
        message: Kept,
        place: &Place,
    ) -> Result<Verdict, Attempt> {
        reached("body written", ticket.id);
        let (permit, answer) = oneshot::channel();
        let ask = Ask { ticket: ticket.clone(), message, permit };
        if self.asks.send(ask).await.is_err() {
            return Ok(Verdict::put_back(self.desk.host.now(), "shutting_down"));
        }
        // While the clerk is busy.
        self.look_ahead();
        if let Some(Ok(next)) = &self.next {
            prepared.and_begin(&next.mail);
        }
        // Dropping `prepared` on any of these ways out closes the connection, if it is not taken back in order: the server has nothing to deliver.
        let (deadline, written) = match answer.await {
            Ok(Permit::Granted { deadline, written }) => (deadline, written),
            Ok(Permit::Refused(verdict)) => {
                self.keep(prepared.take_back().await);
                return Ok(verdict);
            }
            Err(_) => return Ok(Verdict::put_back(self.desk.host.now(), "shutting_down")),
        };
        if Instant::now() >= deadline {
            // The lock was long in coming: neither the mail's fault nor the relay's.
            return Ok(Verdict::put_back(self.desk.host.now(), "permit_expired"));
        }
        let committed = prepared.write_dot(deadline).await;
        reached("dot written", ticket.id);
        drop(written);
        let committed = committed.map_err(|failure| Attempt::of_failure(&failure))?;
        let mut verdict = std::pin::pin!(committed.verdict());
        let verdict = match timeout(LONG, &mut verdict).await {
            Ok(verdict) => verdict,
            Err(_) => {
                self.give_back_next(place);
                verdict.await
            }
        };
        reached("reply read", ticket.id);
        match verdict {
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
        // One on which a mail has begun is good for that mail only.
        let is_good = |c: &Connection| !c.has_begun() || matches!(self.next, Some(Ok(_)));
        self.idle = connection.filter(is_good).map(|c| (c, Instant::now()));
    }
}

fn accepted(reply: Reply) -> Attempt {
    tracing::Span::current().record("smtp.reply", reply.to_string());
    Attempt::Accepted(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_others() {
        let closing = CancellationToken::new();
        let failed = tokio::spawn(end_with(closing.clone(), async { panic!("a part") }));
        assert!(failed.await.is_err());
        assert!(closing.is_cancelled());
    }
}
