//! A collector that keeps what it receives.

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// A running collector.
#[derive(Clone)]
pub struct OtlpSink {
    /// Where it listens.
    pub address: SocketAddr,
    received: Received,
}

#[derive(Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

impl OtlpSink {
    /// Starts a collector on a free port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let sink = Self { address: listener.local_addr()?, received: Received::default() };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(sink.received.clone()))
            .add_service(MetricsServiceServer::new(sink.received.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        Ok(sink)
    }

    /// `http://127.0.0.1:<port>`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().map(|s| s.clone()).unwrap_or_default()
    }

    /// Names of all metrics so far.
    pub fn metric_names(&self) -> Vec<String> {
        let requests = self.received.metrics.lock().map(|m| m.clone()).unwrap_or_default();
        let scopes = requests.into_iter().flat_map(|r| r.resource_metrics).flat_map(|r| r.scope_metrics);
        scopes.flat_map(|s| s.metrics).map(|m| m.name).collect()
    }

    /// Everything that arrived, as text: to search it for what must not be there.
    pub fn everything(&self) -> String {
        let metrics = self.received.metrics.lock().map(|m| format!("{m:?}")).unwrap_or_default();
        format!("{:?}{metrics}", self.spans())
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Ok(mut spans) = self.spans.lock() {
            let scopes = request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans);
            spans.extend(scopes.flat_map(|s| s.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if let Ok(mut metrics) = self.metrics.lock() {
            metrics.push(request.into_inner());
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
