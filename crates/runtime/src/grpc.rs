//! gRPC edges: who may call, and how they are served.

use crate::merchant::{Merchant, Merchants};
use axum::response::IntoResponse;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

/// The merchant, if a call carries one of its keys (`authorization: Bearer <key>`).
pub fn authorize<'a>(merchants: &'a Merchants, metadata: &MetadataMap, merchant: &str) -> Result<&'a Merchant, Status> {
    let header = metadata.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let key = header.strip_prefix("Bearer ").unwrap_or_default();
    let hash = hex::encode(Sha256::digest(key.as_bytes()));
    let known = merchants.by_name(merchant);
    // Which of the two is wrong is nobody's business who has no key.
    known
        .filter(|m| m.file.api_key_sha256.iter().any(|h| h.eq_ignore_ascii_case(&hash)))
        .ok_or_else(|| Status::unauthenticated("no such merchant, or not one of its API keys"))
}

/// Serves a gRPC service with health and reflection until `stop`.
pub async fn serve<S>(listener: TcpListener, service: S, stop: CancellationToken)
where
    S: Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<S>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(events::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    let reflection = match reflection {
        Ok(reflection) => reflection,
        Err(error) => return tracing::error!(%error, "gRPC reflection cannot be built"),
    };
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(listener), stop.cancelled());
    if let Err(error) = served.await {
        tracing::error!(%error, "gRPC server ended");
    }
}
