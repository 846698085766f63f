//! The notifier's section of the settings.

use crate::smtp::Timeouts;
use runtime::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// The notifier's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The mail relay.
    pub smtp: SmtpSettings,
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
