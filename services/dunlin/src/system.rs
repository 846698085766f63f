//! Starting services: one for `dunlin run`, all five for `dunlin dev`.

use crate::settings::Configuration;
use anyhow::Context;
use events::Service as Role;
use runtime::health::Health;
use runtime::{Host, Service};
use sqlx::migrate::Migrator;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The schemas of all services.
pub const fn migrations(role: Role) -> &'static Migrator {
    match role {
        Role::Ingest => &ingest::MIGRATIONS,
        Role::Scheduler => &scheduler::MIGRATIONS,
        Role::Segmenter => &segmenter::MIGRATIONS,
        Role::Notifier => &notifier::MIGRATIONS,
        Role::Tracker => &tracker::MIGRATIONS,
    }
}

/// Brings schemas, roles, streams and durables to what the code declares. Idempotent.
pub async fn migrate(configuration: &Configuration) -> anyhow::Result<()> {
    let settings = &configuration.settings;
    for role in Role::ALL {
        runtime::database::migrate(settings.admin_url(), role, migrations(role))
            .await
            .with_context(|| format!("migrations of {role}"))?;
    }
    let broker = settings.nats.broker(bus::permissions::MIGRATE_USER);
    let js = bus::broker::jetstream(bus::broker::connect("migrate", &broker).await?);
    bus::topology::apply(&js, &settings.nats.streams()).await.map_err(|e| anyhow::anyhow!("streams: {e}"))
}

/// Services that are running.
pub struct Running {
    services: JoinSet<anyhow::Result<()>>,
    /// What they listen on: service, edge, address.
    pub addresses: Vec<(Role, &'static str, SocketAddr)>,
    /// `/livez`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
    health: Health,
    stop: CancellationToken,
}

impl Running {
    /// Starts services. The admin edge answers first, and says meanwhile what is waited for.
    pub async fn start(
        configuration: &Configuration,
        roles: &[Role],
        registry: prometheus::Registry,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let health = Health::new(registry);
        let admin = TcpListener::bind(configuration.settings.admin_listen).await.context("admin_listen")?;
        let mut running = Self {
            services: JoinSet::new(),
            addresses: Vec::new(),
            admin: admin.local_addr()?,
            health: health.clone(),
            stop,
        };
        // Served until the process ends: while draining, readiness has to say so.
        tokio::spawn(runtime::http::serve(admin, health.clone().routes(), CancellationToken::new()));
        tokio::spawn(async move { health.tick(CancellationToken::new()).await });
        for &role in roles {
            let service = tokio::select! {
                service = build(configuration, role, &running.health) => service?,
                () = running.stop.cancelled() => return Ok(running),
            };
            for what in ["http", "grpc", "pages", "dashboard"] {
                running.addresses.extend(service.address(what).map(|address| (role, what, address)));
            }
            running.services.spawn(service.run(running.stop.clone()));
        }
        Ok(running)
    }

    /// The address of an edge.
    pub fn address(&self, role: Role, what: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(r, w, _)| *r == role && *w == what).map(|(.., address)| *address)
    }

    /// Waits until stopped, or until a service has failed: then stops the others too. The error is the first failure.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let health = self.health.clone();
        let stopped = self.stop.clone();
        tokio::spawn(async move {
            stopped.cancelled().await;
            health.drain();
        });
        let mut outcome = Ok(());
        while let Some(ended) = self.services.join_next().await {
            let ended = ended.context("a service panicked").and_then(|inner| inner);
            if ended.is_err() {
                self.stop.cancel();
            }
            outcome = outcome.and(ended);
        }
        outcome
    }
}

async fn build(configuration: &Configuration, role: Role, health: &Health) -> anyhow::Result<Service> {
    let settings = &configuration.settings;
    let merchants = configuration.merchants.clone();
    let host = Host::connect(role, migrations(role), &settings.common(), merchants, settings.clock(), health).await?;
    match role {
        Role::Ingest => ingest::build(settings.ingest.clone(), host).await,
        Role::Scheduler => scheduler::build(settings.scheduler.clone(), configuration.rules.clone(), host).await,
        Role::Segmenter => segmenter::build(settings.segmenter.clone(), host).await,
        Role::Notifier => notifier::build(settings.notifier.clone(), configuration.templates()?, host).await,
        Role::Tracker => tracker::build(settings.tracker.clone(), host).await,
    }
}

/// Cancelled by SIGTERM or Ctrl-C; a second one ends the process at once.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        for patience in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if patience {
                token.cancel();
            } else {
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}
