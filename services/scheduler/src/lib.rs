//! Scheduler: decides when a reminder is due, and whether.
//!
//! [`flow`] shows what happens to an event and to a timer, [`operations`] what operators do; [`domain`] joins what is known of a case with the campaign's
//! plan; the campaign language and the planning itself are in the crate `campaign`.

pub mod api;
pub mod config;
pub mod domain;
pub mod enrolment;
pub mod flow;
pub mod operations;
pub mod outlook;
pub mod reload;
pub mod retention;
pub mod rules;
pub mod store;
pub mod timers;
pub mod zones;

pub use config::Config;

use anyhow::Context;
use config::RuleFiles;
use rules::Rules;
use runtime::{Host, Service};
use std::time::Duration;
use tokio::net::TcpListener;

/// The scheduler's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service. The campaigns of `files` come into force; one whose file has a fault stays in the version that was
/// in force before. Errors: faults of a campaign that never was in force.
pub async fn build(config: Config, files: RuleFiles, host: Host) -> anyhow::Result<Service> {
    let load = || async {
        Rules::load(host.clone(), &files.campaigns, files.all_calendars()).await.map_err(|error| format!("{error:#}"))
    };
    let rules = runtime::host::wait_for("the campaigns", load).await;
    let in_force = rules.in_force();
    if files.names.iter().any(|name| !in_force.campaigns.contains_key(name)) {
        return Err(files.faults.into());
    }
    reload::report(&host.health, &files.faults);
    let mut service = Service::new(&host);
    let (pause, stop) = (Duration::from_secs(config.reload_seconds.into()), service.stop());
    service.task(
        "campaigns",
        reload::run(files.directory, files.fingerprint, rules.clone(), host.health.clone(), pause, stop),
    );
    service.handle(flow::Cases(rules.clone()));
    service.handle(flow::Outcomes(rules.clone()));
    service.handle(flow::returns::Returns(rules.clone()));
    if let Some(address) = config.grpc_listen {
        let listener = TcpListener::bind(address).await.context("scheduler.grpc_listen")?;
        service.listens("grpc", listener.local_addr()?);
        let edge = api::Edge::new(rules.clone(), host.bus.clone());
        service.task("grpc", runtime::grpc::serve(listener, edge.grpc(), service.stop()));
    }
    service.task("time zones", zones::run(rules.clone(), host.clone(), service.stop()));
    service.task("retention", retention::run(host.clone(), service.stop()));
    service.task("timers", timers::run(config, rules, host, service.stop()));
    Ok(service)
}
