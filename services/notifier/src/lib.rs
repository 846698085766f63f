//! Notifier: sends reminders, at most once, and never after the payment.
//!
//! [`flow`] shows what happens to an event and to a delivery; [`domain`] holds the rules; [`sender`] is the machinery around
//! the mail relay; [`smtp`] speaks to it and holds the final dot back; [`render`] makes the message of [`templates`]; [`webhook`] calls merchants' own systems.

pub mod catalogue;
pub mod config;
pub mod domain;
pub mod erasure;
pub mod flow;
pub mod freshness;
pub mod inbound;
pub mod locale;
pub mod message;
pub mod pace;
pub mod render;
pub mod retention;
pub mod return_path;
pub mod sample;
pub mod sender;
pub mod smtp;
pub mod stationery;
pub mod store;
pub mod suppression;
pub mod templates;
pub mod webhook;

pub use config::Config;

use anyhow::Context;
use render::Templates;
use runtime::{Host, Service};
use std::sync::Arc;
use templates::Live;
use tokio::net::TcpListener;

/// The notifier's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service.
pub async fn build(config: Config, templates: Templates, host: Host) -> anyhow::Result<Service> {
    let mut service = Service::new(&host);
    service.handle(flow::BalanceFeed(host.clone()));
    service.handle(flow::Reminders(host.clone()));
    service.handle(flow::webhooks::Webhooks(host.clone()));
    service.handle(erasure::Erasures(host.clone()));
    service.task("retention", retention::run(host.pool.clone(), service.stop()));
    service.task("webhooks", webhook::Caller::try_new(host.clone())?.run(service.stop()));
    if let Some(inbound) = config.inbound.clone()
        && let Some(listen) = inbound.listen
    {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("notifier.inbound.listen {listen}"))?;
        service.listens("inbound", listener.local_addr()?);
        let proofs = config.proofs(&host.links, host.merchants.clone());
        service.task("inbound", inbound::listener::run(host.clone(), proofs, inbound, listener, service.stop()));
    }
    let templates = Arc::new(Live::new(templates, &host.merchants));
    service.task("templates", templates.clone().follow(service.stop()));
    let freshness = freshness::Freshness::unknown();
    service.task("freshness", freshness.clone().follow(host.clone(), service.stop()));
    let desk = sender::Desk::try_new(host, templates, freshness, config)?;
    service.task("sender", desk.run(service.stop()));
    Ok(service)
}
