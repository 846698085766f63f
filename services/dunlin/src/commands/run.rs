//! `dunlin run`, `dunlin migrate`, `dunlin check`.

use super::{configuration, parse_service, settings_path};
use crate::settings::Configuration;
use crate::system::{self, Running};
use anyhow::Context;
use events::Service;
use std::path::PathBuf;

/// Run one service, as in production.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// ingest, scheduler, segmenter, notifier or tracker.
    #[arg(value_parser = parse_service)]
    service: Service,
}

/// `dunlin run`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let telemetry = runtime::telemetry::init(&configuration.settings.telemetry, arguments.service.name())?;
    let outcome = serve(&configuration, arguments.service, telemetry.registry.clone()).await;
    telemetry.shutdown().await;
    outcome
}

async fn serve(configuration: &Configuration, role: Service, registry: prometheus::Registry) -> anyhow::Result<()> {
    let stop = system::stop_on_signal()?;
    let running = Running::start(configuration, &[role], registry, stop).await?;
    for (service, what, address) in &running.addresses {
        tracing::info!(%service, what, %address, "listening");
    }
    tracing::info!(service = %role, admin = %running.admin, "running");
    running.wait().await
}

/// `dunlin migrate`.
pub async fn migrate(config: Option<PathBuf>) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    system::migrate(&configuration).await?;
    println!("schemas, roles, streams and durables are up to date");
    Ok(())
}

/// `dunlin check`.
pub fn check(config: Option<PathBuf>) -> anyhow::Result<()> {
    let path = settings_path(config)?;
    let configuration = Configuration::check(&path).context("dunlin check")?;
    let merchants: Vec<_> = configuration.merchants.iter().map(|m| m.id.as_str()).collect();
    let campaigns: Vec<_> = configuration.rules.campaigns.keys().map(String::as_str).collect();
    println!("{} is fine: merchants {}; campaigns {}", path.display(), merchants.join(", "), campaigns.join(", "));
    Ok(())
}
