//! The machinery that calls merchants' own systems, as [Standard Webhooks](https://www.standardwebhooks.com) describes it.
//! What happens to a call is in [`crate::flow::webhooks`].
//!
//! At least once: a process that dies between a call and its record leaves a lease that ends, and the call goes again under
//! the same `webhook-id`.

pub mod client;
pub mod domain;
pub mod store;

use crate::flow::webhooks::{self, Call};
use client::{Client, Message};
use domain::Outcome;
use jiff::SignedDuration;
use kernel::{Clock, SystemClock};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::Host;
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

/// Most calls at the same time.
const AT_ONCE: usize = 32;
/// From so many calls of one merchant on, no more of it are claimed: a system that hangs must not hold up the others.
const PER_MERCHANT: usize = 4;
/// Most that are claimed in one go.
const CLAIM: usize = 4;
/// How often waiting calls are looked for when there were none.
const IDLE: Duration = Duration::from_millis(250);
/// How often calls that wait for a configuration are looked at, and the gauges.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a claim lasts: a call, and the record of how it ended.
const LEASE: Duration = Duration::from_secs(60);

/// Calls merchants' systems.
pub struct Caller {
    host: Host,
    client: Client,
    attempts: Counter<u64>,
}

impl Caller {
    /// A caller. Errors: TLS cannot be set up.
    pub fn try_new(host: Host) -> anyhow::Result<Self> {
        let attempts = opentelemetry::global::meter("dunlin").u64_counter("dunlin.webhook.attempts").build();
        Ok(Self { host, client: Client::try_new()?, attempts })
    }

    /// Calls until `stop`; then waits for the calls that are out.
    pub async fn run(self, stop: CancellationToken) {
        let (mut calls, mut merchants) = (JoinSet::new(), HashMap::new());
        let mut looked_at: Option<Instant> = None;
        while !stop.is_cancelled() {
            if looked_at.is_none_or(|at| at.elapsed() >= INTERVAL) {
                self.look_after().await;
                looked_at = Some(Instant::now());
            }
            let room = AT_ONCE.saturating_sub(calls.len()).min(CLAIM);
            let mut looked = 0;
            if room > 0 {
                match self.claim(&busy(&merchants), room).await {
                    Ok((n, claimed)) => {
                        looked = n;
                        for call in claimed {
                            let merchant = call.merchant.to_string();
                            merchants.insert(calls.spawn(self.call(call)).id(), merchant);
                        }
                    }
                    Err(error) => tracing::warn!(%error, "no webhooks claimed; trying again"),
                }
            }
            while let Some(done) = calls.try_join_next_with_id() {
                forget(&mut merchants, done);
            }
            if looked < CLAIM {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(IDLE) => {}
                    Some(done) = calls.join_next_with_id() => forget(&mut merchants, done),
                }
            }
        }
        while calls.join_next().await.is_some() {}
    }

    /// Claims up to so many. Returns how many were looked at, and those to be called now.
    async fn claim(&self, busy: &[String], room: usize) -> Result<(usize, Vec<Call>), bus::Failure> {
        let mut tx = self.host.pool.begin().await?;
        let claimed = webhooks::claim(&mut tx, &self.host, busy, room as i64, LEASE).await?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// One call and its record, on its own.
    fn call(&self, call: Call) -> impl Future<Output = ()> + Send + 'static {
        let (host, client, attempts) = (self.host.clone(), self.client.clone(), self.attempts.clone());
        let span = tracing::info_span!(
            parent: None,
            "call webhook",
            otel.name = "call webhook sequence-ended",
            otel.kind = "client",
            webhook.id = %call.id,
            merchant.id = %call.merchant,
            outcome = tracing::field::Empty,
        );
        bus::trace::set_parent(&span, call.traceparent.as_deref());
        let inside = span.clone();
        async move {
            let claimed_at = Instant::now();
            let id = call.id.to_string();
            // The receiver compares it with its own clock: the machine's, whatever ours shows.
            let message = Message { id: &id, sent_at: SystemClock.now(), body: &call.body };
            let answer = client.post(&call.webhook, &message).await;
            let outcome = domain::outcome(&answer, call.tries);
            span.record("outcome", outcome.name());
            attempts.add(1, &[KeyValue::new("outcome", outcome.name())]);
            record(&host, &call, &outcome, &answer.to_string(), claimed_at).await;
        }
        .instrument(inside)
    }

    /// Lets calls go out whose merchants are configured by now, and keeps the gauges fresh.
    async fn look_after(&self) {
        let configured: Vec<&str> =
            self.host.merchants.iter().filter(|m| m.file.webhook.is_some()).map(|m| m.id.as_str()).collect();
        let now = self.host.now();
        if let Err(error) = store::release(&self.host.pool, &configured, now).await {
            tracing::warn!(%error, "webhooks that wait for a configuration not looked at; trying again");
        }
        // An outage shows as a gauge that stands still.
        let Ok((pending, oldest)) = store::backlog(&self.host.pool).await else { return };
        let meter = opentelemetry::global::meter("dunlin");
        meter.i64_gauge("dunlin.webhook.pending").build().record(pending, &[]);
        let age = oldest.map_or(SignedDuration::ZERO, |oldest| now.duration_since(oldest));
        meter.f64_gauge("dunlin.webhook.oldest_age").with_unit("s").build().record(age.as_secs_f64(), &[]);
    }
}

/// Merchants that have enough calls out.
pub fn busy(merchants: &HashMap<Id, String>) -> Vec<String> {
    let mut calls: HashMap<&String, usize> = HashMap::new();
    for merchant in merchants.values() {
        *calls.entry(merchant).or_default() += 1;
    }
    calls.into_iter().filter(|(_, n)| *n >= PER_MERCHANT).map(|(merchant, _)| merchant.clone()).collect()
}

fn forget(merchants: &mut HashMap<Id, String>, done: Result<(Id, ()), JoinError>) {
    let id = match done {
        Ok((id, ())) => id,
        Err(error) => {
            tracing::error!(%error, "a webhook's call broke off; it goes again when its lease ends");
            error.id()
        }
    };
    merchants.remove(&id);
}

/// Tries for as long as nobody else can claim the call: after that, whatever we say changes nothing.
async fn record(host: &Host, call: &Call, outcome: &Outcome, error: &str, claimed_at: Instant) {
    loop {
        match webhooks::settle(host, call, outcome, error).await {
            Ok(()) => return report(call.id, outcome, error),
            Err(problem) if claimed_at.elapsed() >= LEASE => {
                return tracing::error!(webhook = %call.id, %problem, "outcome not recorded; it is called again");
            }
            Err(problem) => tracing::warn!(webhook = %call.id, %problem, "outcome not recorded; trying again"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn report(id: Uuid, outcome: &Outcome, error: &str) {
    if let Outcome::Failed(reason) = outcome {
        tracing::error!(webhook = %id, reason, error, "webhook given up; `dunlin webhooks retry` has it tried again");
    }
}
