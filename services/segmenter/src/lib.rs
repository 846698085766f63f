//! Segmenter: knows how each customer pays, and tells when that has changed.
//!
//! [`flow`] shows what happens to an event, [`review`] what happens when none comes; [`domain`] holds what is kept of a
//! customer. What a history says is in the crate `payer`.

pub mod cache;
pub mod config;
pub mod domain;
pub mod flow;
pub mod portfolio;
pub mod review;
pub mod show;
pub mod store;

pub use config::Config;

use runtime::{Host, Service};

/// The segmenter's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service.
pub async fn build(config: Config, host: Host) -> anyhow::Result<Service> {
    let mut service = Service::new(&host);
    let payers = flow::Payers::new(host, config.cache_customers);
    service.task("review", review::run(payers.clone(), service.stop()));
    service.task("retention", review::retention(payers.clone(), service.stop()));
    service.handle(payers);
    Ok(service)
}
