//! The edges: webhooks by HTTP, facts by gRPC.

use crate::domain::Source;
use crate::facts::{self, Message};
use crate::flow::{Heard, Verdict};
use crate::intake::{Intake, Unavailable};
use crate::stripe;
use axum::Router;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use events::api::ingest_server::{Ingest, IngestServer};
use events::api::{
    Fact, PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, Verdict as WireVerdict,
    VerdictKind,
};
use futures_util::StreamExt;
use kernel::{Clock, SystemClock};
use prost::Message as _;
use runtime::{Host, Merchant, Problem};
use serde_json::json;
use std::pin::Pin;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

/// Largest webhook that is read.
const MAX_BODY: usize = 1 << 20;
/// Most facts per gRPC request.
const MAX_FACTS: usize = 1_000;

/// Metadata of a gRPC call whose facts come from elsewhere: `file`.
pub const SOURCE_METADATA: &str = "dunlin-source";

/// What the edges need.
#[derive(Clone)]
pub struct Edge {
    host: Host,
    intake: Intake,
}

impl Edge {
    /// Edges in front of an intake.
    pub const fn new(host: Host, intake: Intake) -> Self {
        Self { host, intake }
    }

    /// The webhook routes.
    pub fn http(self) -> Router {
        let routes = Router::new()
            .route("/v1/webhooks/{merchant}/stripe", post(stripe_webhook))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self);
        runtime::http::observed(routes)
    }

    /// The gRPC service.
    pub fn grpc(self) -> IngestServer<Self> {
        IngestServer::new(self)
    }
}

/// Takes a webhook: 2xx once it is committed, whatever it says; 4xx if it cannot be Stripe's.
async fn stripe_webhook(
    State(edge): State<Edge>,
    Path(merchant): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let merchant = edge.host.merchants.by_name(&merchant);
    let Some((merchant, settings)) = merchant.and_then(|m| Some((m, m.file.stripe.as_ref()?))) else {
        let detail = "there is no merchant of this name that takes Stripe's webhooks";
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown-merchant", "Unknown merchant", detail));
    };
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "Body too large",
            format!("a webhook may have {MAX_BODY} bytes"),
        ),
        status => Problem::new(status, "unreadable-body", "Body cannot be read", rejection.body_text()),
    })?;
    let signature = headers.get("stripe-signature").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let secrets = settings.signing_secrets.iter().map(|s| s.reveal().as_str());
    // The signature's age protects against replays on the real network: machine time.
    stripe::verify(signature, &body, secrets, settings.tolerance_seconds, SystemClock.now())
        .map_err(|e| Problem::new(StatusCode::UNAUTHORIZED, "bad-signature", "Signature refused", e))?;
    let webhook = stripe::translate(&body, &merchant.zone)
        .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "not-json", "Body is no JSON", e))?;
    let received_at = edge.host.now();
    let heard = Heard::from([((merchant.id.clone(), Source::Stripe), received_at)]);
    let message = Message {
        id: Message::id(&merchant.id, "stripe", &webhook.external_id),
        merchant: merchant.id.clone(),
        source: "stripe".to_owned(),
        external_id: webhook.external_id,
        kind: webhook.kind,
        body,
        occurred_at: None,
        received_at,
        traceparent: bus::trace::current(),
        content: webhook.content,
        sender_corrects: false,
    };
    let verdicts = edge.intake.accept(heard, vec![message]).await.map_err(Problem::unavailable)?;
    let verdict = verdicts.first().map_or("accepted", Verdict::name);
    Ok(axum::Json(json!({ "received": true, "verdict": verdict })).into_response())
}

impl Edge {
    /// The merchant, if the request carries one of its keys.
    fn authorize<T>(&self, request: &Request<T>, merchant: &str) -> Result<&Merchant, Status> {
        runtime::grpc::authorize(&self.host.merchants, request.metadata(), merchant)
    }

    async fn publish_facts(
        &self,
        merchant: &Merchant,
        source: Source,
        facts: Vec<Fact>,
    ) -> Result<Vec<WireVerdict>, Status> {
        if facts.len() > MAX_FACTS {
            let told = format!("{} facts in one request; at most {MAX_FACTS} are allowed", facts.len());
            return Err(Status::invalid_argument(told));
        }
        let traceparent = bus::trace::current();
        let received_at = self.host.now();
        let heard = Heard::from([((merchant.id.clone(), source), received_at)]);
        let translated: Vec<_> = facts.iter().map(|f| (f.id.clone(), facts::translate(f, source))).collect();
        let messages = facts.iter().zip(&translated).filter_map(|(fact, (id, content))| {
            // What makes no sense goes back to the caller, who is there to correct it.
            let content = content.as_ref().ok()?.clone();
            Some(Message {
                id: Message::id(&merchant.id, source.as_str(), id),
                merchant: merchant.id.clone(),
                source: source.as_str().to_owned(),
                external_id: id.clone(),
                kind: "fact".to_owned(),
                body: fact.encode_to_vec().into(),
                occurred_at: None,
                received_at,
                traceparent: traceparent.clone(),
                content: Ok(content),
                sender_corrects: true,
            })
        });
        let accepted = self.intake.accept(heard, messages.collect()).await;
        let mut accepted =
            accepted.map_err(|Unavailable(_)| Status::unavailable("nothing was taken in; send it again"))?.into_iter();
        let verdict = |(id, content): (String, Result<_, events::Malformed>)| {
            let fault = match content {
                Err(fault) => Some(fault),
                Ok(_) => match accepted.next() {
                    Some(Verdict::Quarantined(fault)) => Some(fault),
                    Some(Verdict::Duplicate) => return wire_verdict(id, VerdictKind::Duplicate, None),
                    _ => None,
                },
            };
            let kind = if fault.is_some() { VerdictKind::Rejected } else { VerdictKind::Accepted };
            wire_verdict(id, kind, fault)
        };
        Ok(translated.into_iter().map(verdict).collect())
    }
}

/// What a caller says about where its facts are from.
fn source(metadata: &MetadataMap) -> Result<Source, Status> {
    match metadata.get(SOURCE_METADATA).map(|value| value.as_bytes()) {
        None => Ok(Source::Grpc),
        Some(b"file") => Ok(Source::File),
        Some(_) => Err(Status::invalid_argument(format!("{SOURCE_METADATA} can only be `file`"))),
    }
}

fn wire_verdict(id: String, kind: VerdictKind, fault: Option<events::Malformed>) -> WireVerdict {
    let (field, reason) = fault.map(|f| (f.field.to_owned(), f.problem)).unwrap_or_default();
    WireVerdict { id, kind: kind.into(), field, reason }
}

#[tonic::async_trait]
impl Ingest for Edge {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<tonic::Response<PublishResponse>, Status> {
        let merchant = self.authorize(&request, &request.get_ref().merchant_id)?;
        let source = source(request.metadata())?;
        let verdicts = self.publish_facts(merchant, source, request.into_inner().facts).await?;
        Ok(tonic::Response::new(PublishResponse { verdicts }))
    }

    type PublishStreamStream = Pin<Box<dyn futures_util::Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<tonic::Response<Self::PublishStreamStream>, Status> {
        let metadata = request.metadata().clone();
        let source = source(&metadata)?;
        let edge = self.clone();
        // One batch after the other: an answer means that its batch is committed, and order is the caller's.
        let answers = request.into_inner().then(move |batch| {
            let (edge, metadata) = (edge.clone(), metadata.clone());
            async move {
                let batch = batch?;
                let merchant = batch.merchant_id.clone();
                let merchant = edge.authorize(&Request::from_parts(metadata, Default::default(), ()), &merchant)?;
                let verdicts = edge.publish_facts(merchant, source, batch.facts).await?;
                Ok(PublishStreamResponse { verdicts })
            }
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}
