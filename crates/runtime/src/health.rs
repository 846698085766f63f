//! Liveness, readiness and metrics, on a port of their own.
//!
//! Liveness says only that the process still turns over: an outage of Postgres must not restart every pod. Readiness says
//! that Postgres and NATS answer, the schema is new enough and nothing is draining.

use crate::problem::Problem;
use crate::{database, store};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bus::Bus;
use events::Service;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A main loop that has not turned for this long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A dependency that takes longer does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What is known about a process's health. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    started: Instant,
    last_tick_seconds: Arc<AtomicU64>,
    draining: Arc<AtomicBool>,
    dependencies: Arc<Mutex<Vec<Dependencies>>>,
    warnings: Arc<Mutex<BTreeMap<&'static str, String>>>,
    registry: prometheus::Registry,
}

/// What one service needs in order to be ready.
#[derive(Clone)]
struct Dependencies {
    service: Service,
    pool: PgPool,
    bus: Bus,
    migrations: &'static Migrator,
}

impl Health {
    /// Nothing is required yet: not ready until a service says what it needs.
    pub fn new(registry: prometheus::Registry) -> Self {
        Self {
            started: Instant::now(),
            last_tick_seconds: Arc::default(),
            draining: Arc::default(),
            dependencies: Arc::default(),
            warnings: Arc::default(),
            registry,
        }
    }

    /// Adds what a service needs.
    pub fn require(&self, service: Service, pool: PgPool, bus: Bus, migrations: &'static Migrator) {
        if let Ok(mut dependencies) = self.dependencies.lock() {
            dependencies.push(Dependencies { service, pool, bus, migrations });
        }
    }

    /// Says on the readiness page that something is wrong which does not keep this process from working; `None` when it is
    /// right again.
    pub fn warn(&self, what: &'static str, problem: Option<String>) {
        if let Ok(mut warnings) = self.warnings.lock() {
            match problem {
                Some(problem) => _ = warnings.insert(what, problem),
                None => _ = warnings.remove(what),
            }
        }
    }

    /// What is wrong, though the work goes on.
    pub fn warnings(&self) -> BTreeMap<&'static str, String> {
        self.warnings.lock().map(|w| w.clone()).unwrap_or_default()
    }

    /// Not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Turns the main loop's clock until `stop`.
    pub async fn tick(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.last_tick_seconds.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn is_live(&self) -> bool {
        let last = Duration::from_secs(self.last_tick_seconds.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last) < DEAD_AFTER
    }

    /// Every condition of readiness with its state: `None` is fine, a text says what is missing.
    pub async fn readiness(&self) -> Vec<(String, Option<String>)> {
        let dependencies = self.dependencies.lock().map(|d| d.clone()).unwrap_or_default();
        let mut report = Vec::new();
        if dependencies.is_empty() {
            report.push(("started".to_owned(), Some("no service is running yet".to_owned())));
        }
        if self.draining.load(Ordering::Relaxed) {
            report.push(("draining".to_owned(), Some("shutting down".to_owned())));
        }
        for needs in dependencies {
            let Dependencies { service, pool, bus, migrations } = needs;
            let postgres = match timeout(ANSWER_WITHIN, store::ping(&pool)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            if postgres.is_none() {
                let schema = match database::is_migrated(&pool, service, migrations).await {
                    Ok(true) => None,
                    Ok(false) => Some("older than the code: run `dunlin migrate`".to_owned()),
                    Err(error) => Some(error.to_string()),
                };
                report.push((format!("{service} schema"), schema));
            }
            report.push((format!("{service} postgres"), postgres));
            report.push((format!("{service} nats"), (!bus.is_connected()).then(|| "not connected".to_owned())));
        }
        report
    }

    /// Routes: `/livez`, `/readyz` (`?verbose` lists each condition), `/metrics`.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn livez(State(health): State<Health>) -> Response {
    if health.is_live() {
        "ok\n".into_response()
    } else {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stuck", "Main loop does not turn", "restart this process")
            .into_response()
    }
}

async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    let report = health.readiness().await;
    let ready = report.iter().all(|(_, missing)| missing.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|q| q.contains("verbose"));
    let mut body = String::new();
    for (name, missing) in report.iter().filter(|(_, missing)| verbose || missing.is_some()) {
        let _ = writeln!(body, "{name}: {}", missing.as_deref().unwrap_or("ok"));
    }
    for (what, problem) in health.warnings() {
        let _ = writeln!(body, "warning: {what}: {problem}");
    }
    body.push_str(if ready { "ready\n" } else { "not ready\n" });
    (status, body).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    let families = health.registry.gather();
    match prometheus::TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Problem::internal(error).into_response(),
    }
}
