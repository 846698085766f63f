//! Scheduler: decides when a reminder is due, and whether.
//!
//! [`flow`] shows what happens to an event and to a timer, [`operations`] what operators do; [`domain`] joins what is known of a case with the campaign's
//! plan; the campaign language and the planning itself are in the crate `campaign`.

pub mod api;
pub mod config;
pub mod domain;
pub mod flow;
pub mod operations;
pub mod rules;
pub mod store;
pub mod timers;

pub use config::Config;

use anyhow::Context;
use campaign::Calendars;
use config::Campaigns;
use rules::Rules;
use runtime::{Host, Service};
use tokio::net::TcpListener;

/// The scheduler's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service. `campaigns` are those in force; their versions are kept for the cases that begin with them.
pub async fn build(config: Config, campaigns: Campaigns, host: Host) -> anyhow::Result<Service> {
    let load = || async {
        Rules::load(host.clone(), &campaigns, Calendars::default()).await.map_err(|error| format!("{error:#}"))
    };
    let rules = runtime::host::wait_for("the campaigns", load).await;
    let mut service = Service::new(&host);
    service.handle(flow::Cases(rules.clone()));
    service.handle(flow::Outcomes(rules.clone()));
    if let Some(address) = config.grpc_listen {
        let listener = TcpListener::bind(address).await.context("scheduler.grpc_listen")?;
        service.listens("grpc", listener.local_addr()?);
        let edge = api::Edge::new(rules.clone(), host.bus.clone());
        service.task("grpc", runtime::grpc::serve(listener, edge.grpc(), service.stop()));
    }
    service.task("timers", timers::run(config, rules, host, service.stop()));
    Ok(service)
}
