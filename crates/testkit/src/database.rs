//! One database per test, cloned from a migrated template.

use crate::servers::{Binaries, Disk, Postgres, free_port};
use anyhow::Context;
use events::Service;
use kernel::{Clock, Masked, SystemClock};
use runtime::settings::PostgresSettings;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::path::{Path, PathBuf};
use tokio::sync::OnceCell;

/// A database of its own, with the schemas of some services.
#[derive(Debug, Clone)]
pub struct TestDatabase {
    /// Superuser.
    pub admin_url: String,
    /// Without a user.
    pub url: String,
}

/// How many rows of a table the open transaction has read, by whatever way.
pub async fn rows_read(tx: &mut PgConnection, table: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
         WHERE relid = $1::regclass",
    )
    .bind(table)
    .fetch_one(tx)
    .await
}

/// The server that all tests of a run share, given by `with-servers`.
const SHARED: &str = "DUNLIN_TEST_POSTGRES";

impl TestDatabase {
    /// A fresh database with the services' schemas in it.
    pub async fn create(services: &[(Service, &Migrator)]) -> anyhow::Result<Self> {
        let server = server().await?;
        let mut admin = PgConnection::connect(&format!("{server}/postgres")).await?;
        drop_left_over(&mut admin).await?;
        let template = template(&server, &mut admin, services).await?;
        let name = format!("t_{}_{}", std::process::id(), kernel::id::at(SystemClock.now()).simple());
        run(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        admin.close().await?;
        Ok(Self { admin_url: format!("{server}/{name}"), url: format!("{}/{name}", server.replace("postgres@", "")) })
    }

    /// The shared settings' section for this database.
    pub fn settings(&self) -> PostgresSettings {
        PostgresSettings {
            url: Masked::new(self.url.clone()),
            admin_url: Some(Masked::new(self.admin_url.clone())),
            max_connections: 8,
        }
    }
}

/// `postgres://postgres@host:port` of the run's server, or of one that lives as long as this process.
async fn server() -> anyhow::Result<String> {
    static OWN: OnceCell<Postgres> = OnceCell::const_new();
    if let Ok(shared) = std::env::var(SHARED) {
        return Ok(shared);
    }
    let own = OWN
        .get_or_try_init(|| async {
            Postgres::start(&Binaries::find()?, &own_directory(), free_port()?, Disk::Fast).await
        })
        .await?;
    Ok(own.url("").trim_end_matches('/').to_owned())
}

/// Drops the databases of processes that are gone: hundreds of tests would fill several gigabytes.
async fn drop_left_over(admin: &mut PgConnection) -> anyhow::Result<()> {
    // One of the tests that start at the same time does it.
    if !sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('left over'))").fetch_one(&mut *admin).await? {
        return Ok(());
    }
    let names: Vec<String> = sqlx::query_scalar(r"SELECT datname::text FROM pg_database WHERE datname LIKE 't\_%'")
        .fetch_all(&mut *admin)
        .await?;
    for name in names {
        let alive = name.split('_').nth(1).is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            run(admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        }
    }
    sqlx::query("SELECT pg_advisory_unlock(hashtext('left over'))").execute(&mut *admin).await?;
    Ok(())
}

/// A directory of this process. Those of processes that are gone are removed on the way.
fn own_directory() -> PathBuf {
    let all = std::env::temp_dir().join("dunlin-tests");
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let alive = entry.file_name().to_str().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    all.join(std::process::id().to_string()).join("postgres")
}

/// Makes the template for a set of migrations, once per server.
async fn template(server: &str, admin: &mut PgConnection, services: &[(Service, &Migrator)]) -> anyhow::Result<String> {
    let mut parts: Vec<String> = bus::MIGRATIONS.iter().map(|m| format!("{:?}", m.checksum)).collect();
    for (service, migrations) in services {
        parts.push(service.to_string());
        parts.extend(migrations.iter().map(|m| format!("{:?}", m.checksum)));
    }
    let name =
        format!("template_{:016x}", kernel::id::stable_hash(&parts.iter().map(String::as_str).collect::<Vec<_>>()));
    // Test processes start at the same time; one of them makes the template.
    sqlx::query("SELECT pg_advisory_lock(hashtext($1))").bind(&name).execute(&mut *admin).await?;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut *admin)
        .await?;
    if !there {
        let building = format!("{name}_building");
        run(admin, &format!("DROP DATABASE IF EXISTS {building}")).await?;
        run(admin, &format!("CREATE DATABASE {building}")).await?;
        for (service, migrations) in services {
            runtime::database::migrate(&format!("{server}/{building}"), *service, migrations)
                .await
                .with_context(|| format!("migrations of {service}"))?;
        }
        run(admin, &format!("ALTER DATABASE {building} RENAME TO {name}")).await?;
    }
    sqlx::query("SELECT pg_advisory_unlock(hashtext($1))").bind(&name).execute(&mut *admin).await?;
    Ok(name)
}

async fn run(admin: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(admin).await.map(drop)
}
