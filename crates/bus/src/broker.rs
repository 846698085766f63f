//! The connection to NATS, and what a service does with it.

use crate::relay::{Relay, RelayTasks};
use crate::work::Work;
use async_nats::connection::State;
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, Event};
use events::{Flow, Service};
use sqlx::PgPool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// The service's own user.
    pub user: String,
    /// Its password.
    pub password: kernel::Masked<String>,
}

/// How long a publish or a request may wait for its answer. Shorter than the age at which the sweep takes over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// A service's access to the bus.
#[derive(Debug, Clone)]
pub struct Bus {
    pub(crate) service: Service,
    pub(crate) js: jetstream::Context,
    pub(crate) pool: PgPool,
    relay: Relay,
    tasks: TaskTracker,
    stop_relay: CancellationToken,
}

/// Opens a connection that keeps reconnecting for ever; it need not succeed now.
pub async fn connect(name: &str, settings: &BrokerSettings) -> Result<Client, async_nats::ConnectError> {
    let servers: Vec<String> = settings.url.split(',').map(|s| s.trim().to_owned()).collect();
    let owner = name.to_owned();
    ConnectOptions::with_user_and_password(settings.user.clone(), settings.password.reveal().clone())
        .name(name)
        // A shared inbox prefix would show every service the others' replies.
        .custom_inbox_prefix(inbox_prefix(&settings.user))
        .retry_on_initial_connect()
        .request_timeout(Some(ANSWER_TIMEOUT))
        // Unread messages of a slow handler must not be dropped by the client.
        .subscription_capacity(64 * 1024)
        .reconnect_delay_callback(|attempts| Duration::from_millis(50 * 2_u64.pow(attempts.min(5) as u32)))
        .event_callback(move |event| {
            let owner = owner.clone();
            async move {
                match event {
                    Event::Connected => tracing::info!(client = owner, "connected to NATS"),
                    Event::SlowConsumer(id) => tracing::error!(client = owner, id, "NATS client drops messages"),
                    // We ended it.
                    Event::Draining | Event::Closed => tracing::debug!(client = owner, %event, "NATS connection"),
                    other => tracing::warn!(client = owner, event = %other, "NATS connection"),
                }
            }
        })
        .connect(servers)
        .await
}

/// JetStream on a connection, with our time-outs.
pub fn jetstream(client: Client) -> jetstream::Context {
    ContextBuilder::new().timeout(ANSWER_TIMEOUT).ack_timeout(ANSWER_TIMEOUT).build(client)
}

/// Where the broker sends replies to a user's requests.
pub(crate) fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

impl Bus {
    /// Joins the bus as a service and starts its relay.
    ///
    /// `relay_pool` is for the relay alone and should not wait for the disk on commit.
    pub async fn join(
        service: Service,
        settings: &BrokerSettings,
        pool: PgPool,
        relay_pool: PgPool,
    ) -> Result<Self, async_nats::ConnectError> {
        let client = connect(service.name(), settings).await?;
        let js = jetstream(client);
        let (relay, relay_tasks) = Relay::new(service, js.clone(), relay_pool);
        let bus = Self { service, js, pool, relay, tasks: TaskTracker::new(), stop_relay: CancellationToken::new() };
        bus.tasks.spawn(RelayTasks::run(relay_tasks, bus.stop_relay.clone()));
        Ok(bus)
    }

    /// Begins a unit of work of one of the service's flows.
    pub async fn begin(&self, flow: &'static Flow) -> Result<Work, sqlx::Error> {
        debug_assert_eq!(flow.service, self.service, "{} belongs to another service", flow.name);
        Work::begin(&self.pool, flow, self.relay.clone()).await
    }

    /// Whether the broker can be reached now.
    pub fn is_connected(&self) -> bool {
        self.js.client().connection_state() == State::Connected
    }

    /// JetStream, for what is not an event of ours: ingest reads the intake stream with it.
    pub const fn jetstream(&self) -> &jetstream::Context {
        &self.js
    }

    /// Publishes what is committed, lets queued acks out, and leaves. Call it when no handler runs any more.
    pub async fn leave(&self) {
        self.stop_relay.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if self.is_connected()
            && let Err(error) = self.js.client().drain().await
        {
            tracing::warn!(%error, "NATS connection not drained");
        }
    }
}
