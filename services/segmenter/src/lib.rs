//! Segmenter: knows how each customer pays, and tells when that has changed.
//!
//! [`flow`] shows what happens to an event; what a history says is in the crate `payer`.

pub mod config;
pub mod domain;
pub mod flow;
pub mod store;

pub use config::Config;

use runtime::{Host, Service};

/// The segmenter's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service.
pub async fn build(_config: Config, host: Host) -> anyhow::Result<Service> {
    let mut service = Service::new(&host);
    service.handle(flow::Payers(host));
    Ok(service)
}
