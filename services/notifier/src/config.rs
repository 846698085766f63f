//! The notifier's section of the settings.

use crate::smtp::Timeouts;
use runtime::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;

/// The notifier's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The mail relay.
    pub smtp: SmtpSettings,
    /// Mail that comes back: bounces, complaints, answers. Without it mail comes back to the merchant's own address.
    pub inbound: Option<InboundSettings>,
}

impl Config {
    /// A mail relay, and defaults for everything else.
    pub const fn new(smtp: SmtpSettings) -> Self {
        Self { smtp, inbound: None }
    }
}

/// Mail that comes back.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboundSettings {
    /// The domain whose mail comes here, such as `bounces.example.com`: reminders have a return path of their own in it.
    pub domain: String,
    /// Where a mail server of yours hands it over. Without it, only `dunlin inbound feed` takes mail in.
    #[serde(default)]
    #[schemars(schema_with = "optional_address")]
    pub listen: Option<SocketAddr>,
    /// How it hands it over.
    #[serde(default)]
    pub protocol: InboundProtocol,
    /// Larger messages are refused.
    #[serde(default = "default_max_message_kib")]
    pub max_message_kib: u32,
    /// Most connections at the same time.
    #[serde(default = "default_inbound_connections")]
    pub connections: u16,
    /// How long the other side may be silent.
    #[serde(default = "default_idle_seconds")]
    pub idle_seconds: u32,
}

/// How mail is handed over to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InboundProtocol {
    /// RFC 2033: an answer for each recipient.
    #[default]
    Lmtp,
    /// RFC 5321.
    Smtp,
}

fn optional_address(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["string", "null"], "format": "socket-address" })
}
const fn default_max_message_kib() -> u32 {
    10 * 1024
}
const fn default_inbound_connections() -> u16 {
    64
}
const fn default_idle_seconds() -> u32 {
    120
}

impl InboundSettings {
    /// A domain with defaults for everything else.
    pub fn new(domain: impl Into<String>) -> Self {
        Self {
            domain: domain.into(),
            listen: None,
            protocol: InboundProtocol::default(),
            max_message_kib: default_max_message_kib(),
            connections: default_inbound_connections(),
            idle_seconds: default_idle_seconds(),
        }
    }
}

impl Validate for InboundSettings {
    fn validate(&self, at: &mut At<'_>) {
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if !self.domain.contains('.') || self.domain.len() > 189 || !self.domain.chars().all(is_host) {
            at.fault("domain", "is no domain such as bounces.example.com (international ones as xn--…)");
        }
        if !(1..=100 * 1024).contains(&self.max_message_kib) {
            at.fault("max_message_kib", "must lie between 1 and 102400");
        }
        if !(1..=1_000).contains(&self.connections) {
            at.fault("connections", "must lie between 1 and 1000");
        }
        if self.idle_seconds == 0 {
            at.fault("idle_seconds", "must be above 0");
        }
    }
}

/// The mail relay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Host name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What we call ourselves in EHLO: a name that resolves to this machine.
    #[serde(default = "default_hello")]
    pub hello: String,
    /// Most connections at the same time.
    #[serde(default = "default_connections")]
    pub connections: u16,
    /// Greeting and EHLO, each.
    #[serde(default = "default_hello_seconds")]
    pub hello_seconds: u32,
    /// MAIL and RCPT, each.
    #[serde(default = "default_envelope_seconds")]
    pub envelope_seconds: u32,
    /// DATA, and each block of the body.
    #[serde(default = "default_data_seconds")]
    pub data_seconds: u32,
    /// The reply to the final dot: a mail server may take long to accept, and giving up leaves it unknown whether it did.
    #[serde(default = "default_reply_seconds")]
    pub reply_seconds: u32,
}

fn default_hello() -> String {
    "localhost".to_owned()
}
const fn default_connections() -> u16 {
    32
}
const fn default_hello_seconds() -> u32 {
    30
}
const fn default_envelope_seconds() -> u32 {
    60
}
const fn default_data_seconds() -> u32 {
    120
}
const fn default_reply_seconds() -> u32 {
    600
}

impl SmtpSettings {
    /// A relay with defaults for everything else.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            hello: default_hello(),
            connections: default_connections(),
            hello_seconds: default_hello_seconds(),
            envelope_seconds: default_envelope_seconds(),
            data_seconds: default_data_seconds(),
            reply_seconds: default_reply_seconds(),
        }
    }

    /// Time-outs of the conversation.
    pub fn timeouts(&self) -> Timeouts {
        let seconds = |s: u32| Duration::from_secs(s.into());
        Timeouts {
            hello: seconds(self.hello_seconds),
            envelope: seconds(self.envelope_seconds),
            data: seconds(self.data_seconds),
            block: seconds(self.data_seconds),
            reply: seconds(self.reply_seconds),
        }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        if let Some(inbound) = &self.inbound {
            inbound.validate(&mut at.below("inbound"));
        }
        let mut at = at.below("smtp");
        if self.smtp.host.is_empty() {
            at.fault("host", "is empty");
        }
        if self.smtp.hello.chars().any(|c| c.is_whitespace() || c.is_control()) {
            at.fault("hello", "is no host name");
        }
        if !(1..=1_000).contains(&self.smtp.connections) {
            at.fault("connections", "must lie between 1 and 1000");
        }
        for (key, seconds) in [
            ("hello_seconds", self.smtp.hello_seconds),
            ("envelope_seconds", self.smtp.envelope_seconds),
            ("data_seconds", self.smtp.data_seconds),
            ("reply_seconds", self.smtp.reply_seconds),
        ] {
            if seconds == 0 {
                at.fault(key, "must be above 0");
            }
        }
    }
}
