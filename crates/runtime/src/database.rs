//! Postgres: one schema, one role and one pool per service, so that no service can read another's tables.

use crate::settings::PostgresSettings;
use crate::store;
use events::Service;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use std::str::FromStr;
use std::time::Duration;

/// The role of a service.
pub fn role(service: Service) -> String {
    format!("dunlin_{service}")
}

/// How a service's connections commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A commit is on disk when it returns.
    Disk,
    /// A commit may be lost with the machine. Only for what is harmless to do again.
    Memory,
}

/// Nothing a service does takes long. A peer that is gone without a word must not hold locks for hours: other replicas
/// would wait for them.
const TIME_LIMITS: [(&str, &str); 6] = [
    ("statement_timeout", "30s"),
    ("lock_timeout", "20s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// A service's statements take a batch as arrays and find each row by its key, and that is how they are to be planned. The
/// planner knows neither how long an array is nor how large a table gets that was empty a minute ago: left to itself it has
/// read whole tables for a batch (5.4 million rows for 20,000 reminders), and has planned the same anew for each batch.
const PLANS: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// A pool that connects as a service's role, with the service's schema as `search_path`. Connects lazily.
pub fn pool(
    settings: &PostgresSettings,
    service: Service,
    durability: Durability,
    connections: u32,
) -> sqlx::Result<PgPool> {
    let mut options = PgConnectOptions::from_str(settings.url.reveal())?
        .application_name(&format!("dunlin {service}"))
        .options([("search_path", service.name())])
        .options(TIME_LIMITS);
    if !names_user(settings.url.reveal()) {
        options = options.username(&role(service));
    }
    // The tracker also reports on whole tables.
    if service != Service::Tracker {
        options = options.options(PLANS);
    }
    if durability == Durability::Memory {
        options = options.options([("synchronous_commit", "off")]);
    }
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(300))
        // A round trip per acquire would be paid by every batch; a stale connection costs one retry instead.
        .test_before_acquire(false)
        .connect_lazy_with(options))
}

/// Whether the URL says who connects: `postgres://user@host/database`.
fn names_user(url: &str) -> bool {
    url.split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|authority| authority.contains('@')))
}

/// Creates a database, if it is not there.
pub async fn create(admin_url: &str, name: &str) -> anyhow::Result<()> {
    let mut admin = PgConnection::connect(admin_url).await?;
    if !store::database_exists(&mut admin, name).await? {
        store::create_database(&mut admin, name).await?;
    }
    Ok(admin.close().await?)
}

/// Creates schema and role of a service, applies the bus's migrations and the service's own. Idempotent; needs a user
/// that may create roles and schemas.
pub async fn migrate(admin_url: &str, service: Service, own: &Migrator) -> anyhow::Result<()> {
    let mut admin = PgConnection::connect(admin_url).await?;
    let (schema, role) = (service.name(), role(service));
    store::create_schema(&mut admin, schema, &role).await?;
    store::set_search_path(&mut admin, schema).await?;
    bus::MIGRATIONS.run(&mut admin).await?;
    own.run(&mut admin).await?;
    store::grant(&mut admin, schema, &role).await?;
    admin.close().await?;
    Ok(())
}

/// Whether the database is as new as the code. Readiness refuses an older one.
pub async fn is_migrated(pool: &PgPool, service: Service, own: &Migrator) -> sqlx::Result<bool> {
    let newest = |migrator: &Migrator| migrator.iter().map(|m| m.version).max().unwrap_or(0);
    let bus = store::newest_migration(pool, &format!("{service}._bus_migrations")).await?;
    let service = store::newest_migration(pool, &format!("{service}._sqlx_migrations")).await?;
    Ok(bus >= newest(&bus::MIGRATIONS) && service >= newest(own))
}
