//! The envelope: CloudEvents 1.0 attributes as NATS headers, binary mode.
//!
//! `ce-traceparent` is the trace that created the event and is never rewritten; the trace of a hop is the plain
//! `traceparent` header, which the relay adds (CloudEvents' distributed tracing extension).

use crate::kind::Kind;
use jiff::Timestamp;
use kernel::MerchantId;
use std::fmt::Write;
use uuid::Uuid;

/// Header that JetStream deduplicates by; always the event's id.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Header of the hop's trace.
pub const TRACEPARENT: &str = "traceparent";
/// The media type of our payloads.
pub const PROTOBUF: &str = "application/protobuf";

/// Who, what and when of an event; the payload is separate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Unique; a second message of the same id is the same event.
    pub id: Uuid,
    /// Which event.
    pub kind: Kind,
    /// Whose.
    pub merchant: MerchantId,
    /// What it is about: an invoice or a customer.
    pub key: String,
    /// When the thing happened or was decided, in business time.
    pub time: Timestamp,
    /// The trace that created it, as W3C traceparent.
    pub traceparent: Option<String>,
}

/// Why headers are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header}: {problem}")]
pub struct EnvelopeError {
    /// The header at fault.
    pub header: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Envelope {
    /// The subject to publish on.
    pub fn subject(&self) -> String {
        self.kind.subject(self.merchant.as_str())
    }

    /// The headers, in a fixed order.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let id = self.id.to_string();
        let mut headers = vec![
            (MESSAGE_ID, id.clone()),
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", id),
            ("ce-source", self.kind.producer().source().to_owned()),
            ("ce-type", self.kind.ce_type()),
            ("ce-time", self.time.to_string()),
            ("ce-subject", percent_encode(&format!("{}/{}", self.merchant, self.key))),
            ("ce-datacontenttype", PROTOBUF.to_owned()),
        ];
        if let Some(traceparent) = &self.traceparent {
            headers.push(("ce-traceparent", traceparent.clone()));
        }
        headers
    }

    /// Reads the headers back. `get` looks one up by name.
    pub fn parse<'a>(get: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, EnvelopeError> {
        let required = |header: &'static str| {
            get(header).ok_or_else(|| EnvelopeError { header, problem: "is missing".to_owned() })
        };
        fn bad(header: &'static str, value: &str, what: &str) -> EnvelopeError {
            EnvelopeError { header, problem: format!("{value:?} is not {what}") }
        }
        let id = required("ce-id")?;
        let ce_type = required("ce-type")?;
        let time = required("ce-time")?;
        let subject = percent_decode(required("ce-subject")?);
        let (merchant, key) = subject.split_once('/').ok_or_else(|| bad("ce-subject", &subject, "merchant/key"))?;
        Ok(Self {
            id: id.parse().map_err(|_| bad("ce-id", id, "a UUID"))?,
            kind: Kind::by_ce_type(ce_type).ok_or_else(|| bad("ce-type", ce_type, "an event of dunlin.v1"))?,
            merchant: merchant.parse().map_err(|_| bad("ce-subject", merchant, "a merchant id"))?,
            key: key.to_owned(),
            time: time.parse().map_err(|_| bad("ce-time", time, "an RFC 3339 time"))?,
            traceparent: get("ce-traceparent").map(str::to_owned),
        })
    }
}

/// Percent-encodes what the CloudEvents NATS binding asks for in header values: space, quote, percent, and
/// everything outside printable ASCII.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' | b'"' | b'%' => _ = write!(out, "%{byte:02X}"),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

/// The inverse of [`percent_encode`]; a `%` that starts no escape stays as it is.
pub fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, escape) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Envelope {
        Envelope {
            id: Uuid::from_u128(7),
            kind: Kind::InvoiceOverdue,
            merchant: MerchantId::try_new("acme").unwrap(),
            key: "Rechnung 12/ä%".to_owned(),
            time: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        }
    }

    #[test]
    fn survives_headers() {
        let headers = sample().headers();
        assert!(headers.iter().all(|(_, v)| v.is_ascii()), "header values are ASCII: {headers:?}");
        let parsed = Envelope::parse(|name| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()));
        assert_eq!(parsed, Ok(sample()));
    }

    #[test]
    fn names_the_header_at_fault() {
        let mut headers = sample().headers();
        headers.retain(|(name, _)| *name != "ce-time");
        let get = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!(Envelope::parse(get).unwrap_err().to_string(), "header ce-time: is missing");
    }

    #[test]
    fn odd_percent_signs_are_text() {
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%41"), "%zzA");
    }
}
