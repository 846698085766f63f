//! Tracker: shows what worked, and takes what payers answer.
//!
//! [`flow`] shows what happens to an event and to a click; [`store`] holds the read models and the figures made of them,
//! [`lift`] says what of them counts for or against a schedule that suits itself to payers;
//! [`api`] serves two edges: one for payers, which the public may reach, and one for the merchant's own people.

pub mod api;
pub mod config;
pub mod domain;
pub mod flow;
pub mod lift;
pub mod page;
pub mod reports;
pub mod store;
pub mod words;

pub use config::Config;

use anyhow::Context;
use runtime::{Host, Service};
use tokio::net::TcpListener;

/// The tracker's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service: binds its edges and wires its tasks.
pub async fn build(config: Config, host: Host) -> anyhow::Result<Service> {
    let mut service = Service::new(&host);
    service.handle(flow::Records);
    let edge = api::Edge::new(host)?;
    let pages = TcpListener::bind(config.pages_listen).await.context("tracker.pages_listen")?;
    service.listens("pages", pages.local_addr()?);
    service.task("pages", runtime::http::serve(pages, edge.clone().public(), service.stop()));
    let dashboard = TcpListener::bind(config.dashboard_listen).await.context("tracker.dashboard_listen")?;
    service.listens("dashboard", dashboard.local_addr()?);
    service.task("dashboard", runtime::http::serve(dashboard, edge.dashboard(), service.stop()));
    Ok(service)
}
