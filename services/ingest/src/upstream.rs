//! Facts that upstream systems publish as CloudEvents to the `INTAKE` stream, on `dunlin.intake.v1.<merchant>`.
//!
//! - Structured: `Content-Type: application/cloudevents+json`, the fact as proto3 JSON in `data`.
//! - Binary: attributes as `ce-*` headers, the fact as protobuf in the payload.
//!
//! The fact is a `dunlin.api.v1.Fact`; its id defaults to the event's, its moment to the event's time.

use crate::domain::Source;
use crate::facts::{self, Content, Message};
use crate::flow::Heard;
use crate::intake;
use async_nats::jetstream;
use bus::Failure;
use bus::consume::Process;
use bytes::Bytes;
use events::api::Fact;
use events::envelope::percent_decode;
use events::topology::{INTAKE_DURABLE, INTAKE_SUBJECT};
use events::{Malformed, json, time};
use jiff::Timestamp;
use kernel::MerchantId;
use prost::Message as _;
use runtime::Host;
use serde::Deserialize;

/// Takes batches from the stream in.
pub struct Upstream {
    host: Host,
}

impl Upstream {
    /// A reader for a host.
    pub const fn new(host: Host) -> Self {
        Self { host }
    }
}

impl Process for Upstream {
    fn name(&self) -> &str {
        INTAKE_DURABLE
    }

    async fn process(&self, messages: &mut [jetstream::Message]) -> Result<(), Failure> {
        let batch: Vec<Message> = messages.iter().map(|message| self.translate(message)).collect();
        // Of merchants that nobody has configured nothing is expected.
        let known = batch.iter().filter(|m| self.host.merchants.by_name(m.merchant.as_str()).is_some());
        let heard: Heard = known.map(|m| ((m.merchant.clone(), Source::Nats), m.received_at)).collect();
        intake::accept(&self.host.bus, &batch, &heard).await.map(drop)
    }
}

impl Upstream {
    fn translate(&self, message: &jetstream::Message) -> Message {
        let token = message.subject.strip_prefix(INTAKE_SUBJECT).and_then(|rest| rest.strip_prefix('.')).unwrap_or("");
        let headers: Vec<(String, String)> = message
            .headers
            .iter()
            .flat_map(|map| map.iter())
            .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
            .collect();
        // The subject takes any name. A message for nobody we know is kept as well, where an operator sees it.
        let known = self.host.merchants.by_name(token).map(|m| m.id.clone());
        let merchant = known.clone().or_else(|| token.parse().ok()).unwrap_or_else(nobody);
        let mut message = translate(&merchant, &headers, message.payload.clone(), self.host.now());
        if known.is_none() {
            message.content = Err(Malformed::new("merchant", format!("{token:?} is not configured")));
        }
        message
    }
}

/// Whose messages are that name no merchant.
#[expect(clippy::expect_used, reason = "the text is a valid id")]
fn nobody() -> MerchantId {
    MerchantId::try_new("unknown").expect("a slug")
}

/// A CloudEvent in structured mode.
#[derive(Deserialize)]
struct Structured {
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    time: Option<Timestamp>,
    data: serde_json::Value,
}

/// Translates a CloudEvent. One that cannot even be named is kept under an id made from its content.
pub fn translate(merchant: &MerchantId, headers: &[(String, String)], body: Bytes, now: Timestamp) -> Message {
    let header =
        |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| percent_decode(v));
    let structured = header("content-type").is_some_and(|t| t.starts_with("application/cloudevents"));
    let read = if structured { read_structured(&body) } else { read_binary(header, &body) };
    let (source, external_id, kind, content) = match read {
        Ok(Read { source, id, kind, fact }) => {
            (source, id, kind, fact.and_then(|f| facts::translate(&f, Source::Nats)))
        }
        Err(fault) => {
            let id = kernel::id::derive("intake", merchant.as_str(), &String::from_utf8_lossy(&body), "content");
            ("intake".to_owned(), id.to_string(), "unreadable".to_owned(), Err(fault))
        }
    };
    Message {
        id: Message::id(merchant, &source, &external_id),
        merchant: merchant.clone(),
        source,
        external_id,
        kind,
        body,
        occurred_at: ce_time(header),
        received_at: now,
        traceparent: bus::trace::current(),
        content,
        sender_corrects: false,
    }
}

/// Translates a stored body again. What headers said is in `external_id` and `occurred_at` by now.
pub fn retranslate(external_id: &str, body: &[u8], occurred_at: Option<Timestamp>) -> Result<Content, Malformed> {
    let fact = match read_structured(body) {
        Ok(read) => read.fact?,
        Err(_) => {
            let fact = Fact::decode(body).map_err(|e| Malformed::new("payload", e))?;
            complete(fact, external_id, occurred_at)
        }
    };
    facts::translate(&fact, Source::Nats)
}

fn ce_time(header: impl Fn(&str) -> Option<String>) -> Option<Timestamp> {
    header("ce-time").and_then(|time| time.parse().ok())
}

struct Read {
    source: String,
    id: String,
    kind: String,
    fact: Result<Fact, Malformed>,
}

fn read_structured(body: &[u8]) -> Result<Read, Malformed> {
    let event: Structured = serde_json::from_slice(body).map_err(|e| Malformed::new("cloudevent", e))?;
    let fact = json::encode("dunlin.api.v1.Fact", event.data)
        .map_err(|e| Malformed::new("data", e))
        .and_then(|bytes| Fact::decode(&*bytes).map_err(|e| Malformed::new("data", e)))
        .map(|fact| complete(fact, &event.id, event.time));
    Ok(Read { source: event.source, id: event.id, kind: event.kind, fact })
}

fn read_binary(header: impl Fn(&str) -> Option<String>, body: &[u8]) -> Result<Read, Malformed> {
    let required = |name: &'static str| header(name).ok_or_else(|| Malformed::missing(name));
    let (id, source, kind) = (required("ce-id")?, required("ce-source")?, required("ce-type")?);
    let at = ce_time(header);
    let fact = Fact::decode(body).map_err(|e| Malformed::new("payload", e)).map(|fact| complete(fact, &id, at));
    Ok(Read { source, id, kind, fact })
}

fn complete(mut fact: Fact, id: &str, at: Option<Timestamp>) -> Fact {
    if fact.id.is_empty() {
        fact.id = id.to_owned();
    }
    fact.occurred_at = fact.occurred_at.or(at.map(time::to_wire));
    fact
}
