//! What a service is given, and how it starts and drains.

use crate::database::{self, Durability};
use crate::health::Health;
use crate::merchant::Merchants;
use crate::settings::{CommonSettings, LinkSettings};
use crate::store;
use anyhow::{Context as _, bail};
use bus::Bus;
use jiff::Timestamp;
use kernel::SharedClock;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections of the relay: the fast path's batches and the sweep.
const RELAY_CONNECTIONS: u32 = 4;
/// How long tasks may take to finish what is in flight once they are told to stop.
const GRACE: Duration = Duration::from_secs(25);

/// What a service is given. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// Which service this is.
    pub service: events::Service,
    /// Business time.
    pub clock: SharedClock,
    /// The service's own schema.
    pub pool: PgPool,
    /// The bus.
    pub bus: Bus,
    /// All merchants.
    pub merchants: Arc<Merchants>,
    /// Links in messages.
    pub links: LinkSettings,
    /// What the readiness page says.
    pub health: Health,
}

impl Host {
    /// Connects a service to Postgres and NATS. Waits for both and for the schema, and says for what; the health page
    /// shows the same meanwhile.
    pub async fn connect(
        service: events::Service,
        migrations: &'static Migrator,
        common: &CommonSettings,
        merchants: Arc<Merchants>,
        clock: SharedClock,
        health: &Health,
    ) -> anyhow::Result<Self> {
        let pool = database::pool(&common.postgres, service, Durability::Disk, common.postgres.max_connections)
            .context("postgres.url")?;
        let relay = database::pool(&common.postgres, service, Durability::Memory, RELAY_CONNECTIONS)?;
        let bus = Bus::join(service, &common.nats.broker(service.name()), pool.clone(), relay).await.context("nats")?;
        health.require(service, pool.clone(), bus.clone(), migrations);
        wait_for("Postgres", || async { store::ping(&pool).await.map_err(|e| e.to_string()) }).await;
        wait_for("the database schema (run `dunlin migrate`)", || async {
            match database::is_migrated(&pool, service, migrations).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("schema {service} is older than the code")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        wait_for("NATS", || async { if bus.is_connected() { Ok(()) } else { Err("not connected".to_owned()) } }).await;
        Ok(Self { service, clock, pool, bus, merchants, links: common.links.clone(), health: health.clone() })
    }

    /// Business time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Waits until `check` gives a value, and says for what: after a moment, and then every ten seconds. For whatever a service
/// needs to start and an outage can keep from it: a service that gave up would only be started again.
pub async fn wait_for<T, F: Future<Output = Result<T, String>>>(what: &str, check: impl Fn() -> F) -> T {
    const REPEAT: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    let mut report_at = Duration::from_millis(500);
    let mut pause = Duration::from_millis(10);
    loop {
        match check().await {
            Ok(value) => {
                if report_at > REPEAT {
                    tracing::info!("{what}: there now");
                }
                return value;
            }
            Err(problem) if begun.elapsed() >= report_at => {
                tracing::warn!(problem, "waiting for {what}");
                report_at = begun.elapsed() + REPEAT;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A built service: its tasks, not yet running, and the addresses it listens on.
pub struct Service {
    host: Host,
    tasks: Vec<(&'static str, Task)>,
    addresses: Vec<(&'static str, SocketAddr)>,
    stop: CancellationToken,
}

impl Service {
    /// A service with nothing but the retention and the gauges of its bus tables.
    pub fn new(host: &Host) -> Self {
        let stop = CancellationToken::new();
        let mut service = Self { host: host.clone(), tasks: Vec::new(), addresses: Vec::new(), stop: stop.clone() };
        service.task("bus retention", bus::maintain::run(host.pool.clone(), stop.clone()));
        service.task("bus gauges", bus::gauges::run(host.bus.clone(), stop));
        service
    }

    /// Cancelled when the service has to stop: every task gets it.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Adds a task. It must end soon after [`Service::stop`] is cancelled, and not before.
    pub fn task(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push((name, Box::pin(task)));
    }

    /// Adds the loop of a bus handler.
    pub fn handle<H: bus::Handler>(&mut self, handler: H) {
        let (bus, stop) = (self.host.bus.clone(), self.stop.clone());
        self.task(H::FLOW.name, async move { bus.run(handler, stop).await });
    }

    /// Notes an address that the service listens on.
    pub fn listens(&mut self, what: &'static str, address: SocketAddr) {
        self.addresses.push((what, address));
    }

    /// The address of one of the service's edges, if it has that edge.
    pub fn address(&self, what: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(name, _)| *name == what).map(|(_, address)| *address)
    }

    /// Runs until `stop`; then stops fetching, finishes what is in flight, empties the relay and closes the pool.
    ///
    /// Errors: a task that panicked or ended by itself. The process should then end: half a service is none.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut running = JoinSet::new();
        for (name, task) in self.tasks {
            running.spawn(async move {
                task.await;
                name
            });
        }
        let early = tokio::select! {
            () = stop.cancelled() => None,
            ended = running.join_next() => ended,
        };
        self.stop.cancel();
        let drained = tokio::time::timeout(GRACE, async { while running.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(service = %self.host.service, "tasks did not finish in time; what they held will be done again");
            running.shutdown().await;
        }
        self.host.bus.leave().await;
        self.host.pool.close().await;
        match early {
            None => Ok(()),
            Some(Ok(name)) => bail!("{}: task {name} ended by itself", self.host.service),
            Some(Err(error)) => bail!("{}: {error}", self.host.service),
        }
    }
}
