//! Notifier: sends reminders, at most once, and never after the payment.
//!
//! [`flow`] shows what happens to an event and to a delivery; [`domain`] holds the rules; [`sender`] is the machinery around
//! the mail relay; [`smtp`] speaks to it and holds the final dot back; [`render`] makes the message of [`templates`]; [`webhook`] calls merchants' own systems.

pub mod calendar;
pub mod catalogue;
pub mod channel;
pub mod check;
pub mod config;
pub mod dkim;
pub mod document;
pub mod domain;
pub mod erasure;
pub mod flow;
pub mod freshness;
pub mod inbound;
pub mod kept;
pub mod locale;
pub mod message;
pub mod pace;
pub mod preview;
pub mod render;
pub mod retention;
pub mod return_path;
pub mod sample;
pub mod sender;
pub mod smtp;
pub mod stationery;
pub mod store;
pub mod suppression;
pub mod task;
pub mod templates;
pub mod unknown;
pub mod webhook;

pub use config::Config;

use anyhow::Context;
use channel::sms::texts::Texts;
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
    let texts = Arc::new(Texts::load(&templates.directory().with_file_name("sms"))?);
    let templates = Arc::new(Live::new(templates, &host.merchants));
    service.task("templates", templates.clone().follow(service.stop()));
    let freshness = freshness::Freshness::unknown();
    service.task("freshness", freshness.clone().follow(host.clone(), service.stop()));
    let to_merchants = channel::webhook::Webhooks::try_new(host.clone())?;
    let to_merchants = channel::desk::Desk::new(host.clone(), freshness.clone(), to_merchants);
    service.task("webhook-reminders", to_merchants.run(service.stop()));
    let to_phones = channel::sms::Sms::try_new(host.clone(), texts.clone(), config.sms.clone())?;
    let to_phones = channel::desk::Desk::new(host.clone(), freshness.clone(), to_phones);
    service.task("text-messages", to_phones.run(service.stop()));
    service.task("unknown", unknown::watch(host.clone(), service.stop()));
    if let Some(address) = config.http_listen {
        let http = TcpListener::bind(address).await.context("notifier.http_listen")?;
        service.listens("http", http.local_addr()?);
        let edge = channel::sms::api::Edge::new(host.clone(), texts, config.sms.clone());
        service.task("http", runtime::http::serve(http, edge.http(), service.stop()));
    }
    service.task("call-list", task::run(host.clone(), freshness.clone(), service.stop()));
    let desk = sender::Desk::try_new(host, templates, freshness, config)?;
    service.task("sender", desk.run(service.stop()));
    Ok(service)
}
