//! Scheduler: decides when a reminder is due, and whether.
//!
//! [`flow`] shows what happens to an event and to a timer; [`domain`] joins what is known of a case with the campaign's
//! plan; the campaign language and the planning itself are in the crate `campaign`.

pub mod config;
pub mod domain;
pub mod flow;
pub mod rules;
pub mod store;
pub mod timers;

pub use config::Config;

use campaign::Calendars;
use config::Campaigns;
use rules::Rules;
use runtime::{Host, Service};

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
    service.task("timers", timers::run(config, rules, host, service.stop()));
    Ok(service)
}
