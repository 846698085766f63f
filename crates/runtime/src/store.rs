//! SQL that belongs to no service: schemas, roles, readiness.

use sqlx::{AssertSqlSafe, PgConnection, PgExecutor};

/// Whether a database is there.
pub async fn database_exists(admin: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)").bind(name).fetch_one(admin).await
}

/// Creates a database. The name is our own, never input.
pub async fn create_database(admin: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    run(admin, format!("CREATE DATABASE {name}")).await
}

/// Creates a service's schema and role, if they are not there. Names are the service's own, never input.
pub async fn create_schema(admin: &mut PgConnection, schema: &str, role: &str) -> sqlx::Result<()> {
    // Roles are shared by all databases of a server: another one may be creating this role right now.
    run(
        admin,
        format!(
            "DO $$ BEGIN CREATE ROLE {role} LOGIN;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ),
    )
    .await?;
    // A temporary object could stand in for one of ours in functions that run with their owner's rights.
    run(
        admin,
        "DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$"
            .to_owned(),
    )
    .await?;
    run(admin, format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await
}

/// Gives the role what it needs in its schema, and nothing elsewhere.
pub async fn grant(admin: &mut PgConnection, schema: &str, role: &str) -> sqlx::Result<()> {
    for statement in [
        format!("GRANT USAGE ON SCHEMA {schema} TO {role}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"),
        format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"),
        format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}"),
    ] {
        run(admin, statement).await?;
    }
    Ok(())
}

/// Makes unqualified names mean a schema, for the rest of the session.
pub async fn set_search_path(session: &mut PgConnection, schema: &str) -> sqlx::Result<()> {
    run(session, format!("SET search_path = {schema}, pg_temp")).await
}

async fn run(session: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(session).await.map(drop)
}

/// The newest migration applied in a table of migrations (qualified), 0 if the table is empty or not there.
pub async fn newest_migration(db: impl PgExecutor<'_> + Copy, table: &str) -> sqlx::Result<i64> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(db).await?;
    if !there {
        return Ok(0);
    }
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT coalesce(max(version), 0) FROM {table} WHERE success")))
        .fetch_one(db)
        .await
}

/// Answers if Postgres does.
pub async fn ping(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query("SELECT 1").execute(db).await.map(drop)
}
