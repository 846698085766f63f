//! Ingest: takes what payment processors say, once, and tells the other services what it means.
//!
//! [`flow`] is the way of a message; everything before it is translation ([`stripe`], [`facts`], [`upstream`]), and
//! [`domain`] is what makes the order of messages irrelevant. [`intake`] lets concurrent requests share commits.
//!
//! To add a processor: a module like [`stripe`] that verifies and translates to [`facts::Content`], and a route in [`api`].

pub mod api;
pub mod config;
pub mod domain;
pub mod erasure;
pub mod facts;
pub mod flow;
pub mod intake;
pub mod store;
pub mod stripe;
pub mod upstream;

pub use config::Config;

use anyhow::Context;
use domain::Source;
use events::Malformed;
use facts::Message;
use prost::Message as _;
use runtime::{Host, Service};
use tokio::net::TcpListener;

/// Ingest's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Builds the service: binds its edges and wires its tasks.
pub async fn build(config: Config, host: Host) -> anyhow::Result<Service> {
    let mut service = Service::new(&host);
    let (intake, worker) = intake::Intake::new(host.bus.clone());
    service.task("intake", worker.run(service.stop()));
    service.task("watermark", bus::watermark::tell(host.bus.clone(), service.stop()));
    service.task("sweep", intake::sweep(host.clone(), service.stop()));

    let edge = api::Edge::new(host.clone(), intake);
    let http = TcpListener::bind(config.http_listen).await.context("ingest.http_listen")?;
    service.listens("http", http.local_addr()?);
    service.task("http", runtime::http::serve(http, edge.clone().http(), service.stop()));

    let grpc = TcpListener::bind(config.grpc_listen).await.context("ingest.grpc_listen")?;
    service.listens("grpc", grpc.local_addr()?);
    service.task("grpc", runtime::grpc::serve(grpc, edge.grpc(), service.stop()));

    let (upstream, js, stop) = (upstream::Upstream::new(host.clone()), host.bus.jetstream().clone(), service.stop());
    service.task(events::topology::INTAKE_DURABLE, async move {
        bus::consume::pull(&js, events::topology::INTAKE_STREAM, &upstream, &stop).await;
    });
    Ok(service)
}

fn retranslate_fact(body: &[u8], source: Source) -> Result<facts::Content, Malformed> {
    let fact = events::api::Fact::decode(body).map_err(|e| Malformed::new("body", e))?;
    facts::translate(&fact, source)
}

/// Translates a stored message again, with today's code and configuration.
fn retranslate(host: &Host, row: &store::Quarantined) -> Result<Message, bus::Failure> {
    let occurred_at = row.occurred_at.map(|at| at.to_jiff());
    let content = match (row.source.as_str(), host.merchants.by_name(&row.merchant)) {
        (_, None) => Err(Malformed::new("merchant", format!("{:?} is not configured", row.merchant))),
        ("stripe", Some(merchant)) => stripe::translate(&row.body, &merchant.zone)
            .map_err(|e| Malformed::new("body", e))
            .and_then(|webhook| stripe::content_of_kind(webhook, &row.kind)),
        ("grpc", Some(_)) => retranslate_fact(&row.body, Source::Grpc),
        ("file", Some(_)) => retranslate_fact(&row.body, Source::File),
        (_, Some(_)) => upstream::retranslate(&row.external_id, &row.body, occurred_at),
    };
    Ok(Message {
        id: row.inbound,
        merchant: events::snapshot::id("merchant", &row.merchant)?,
        source: row.source.clone(),
        external_id: row.external_id.clone(),
        kind: row.kind.clone(),
        body: row.body.clone().into(),
        occurred_at,
        received_at: row.received_at.to_jiff(),
        traceparent: row.traceparent.clone(),
        content,
        // Nobody is there any more who could.
        sender_corrects: false,
    })
}
