//! The settings that all services share. Each service adds a section of its own; `dunlin` puts them together in one file.

use crate::config::{At, Validate};
use kernel::Masked;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Postgres.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// `postgres://[user[:password]@]host[:port]/database`. Without a user each service connects as its own role,
    /// `dunlin_<service>`.
    pub url: Masked<String>,
    /// A user that may create roles and schemas; only `dunlin migrate` and `dunlin dev` use it. Defaults to `url`.
    pub admin_url: Option<Masked<String>>,
    /// Most connections per service.
    #[serde(default = "default_connections")]
    pub max_connections: u32,
}

const fn default_connections() -> u32 {
    10
}

/// NATS.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsSettings {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// Password per user: the services run here, and `migrate` and `upstream` where needed.
    #[serde(default)]
    pub passwords: BTreeMap<String, Masked<String>>,
    /// Copies of each stream: 1 on one machine, 3 in a cluster.
    #[serde(default = "default_replicas")]
    pub replicas: usize,
    /// Size limit of each stream in MiB. A full stream refuses events, which then wait in Postgres. There are six, and
    /// nats-server's `max_file_store` has to hold them all.
    #[serde(default = "default_stream_mib")]
    pub stream_max_mib: u32,
    /// How long a fetched event may take before it is delivered again.
    #[serde(default = "default_ack_wait")]
    pub ack_wait_seconds: u32,
}

const fn default_replicas() -> usize {
    1
}
const fn default_stream_mib() -> u32 {
    4096
}
const fn default_ack_wait() -> u32 {
    60
}

impl NatsSettings {
    /// Connection settings of a user.
    pub fn broker(&self, user: &str) -> bus::BrokerSettings {
        let password = self.passwords.get(user).cloned().unwrap_or_default();
        bus::BrokerSettings { url: self.url.clone(), user: user.to_owned(), password }
    }

    /// Stream settings.
    pub fn streams(&self) -> bus::topology::StreamSettings {
        bus::topology::StreamSettings {
            replicas: self.replicas,
            max_bytes: i64::from(self.stream_max_mib) << 20,
            ack_wait: std::time::Duration::from_secs(self.ack_wait_seconds.into()),
        }
    }
}

/// Logs, traces and metrics.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// OTLP over gRPC, such as `http://collector:4317`. Without it nothing is exported; `/metrics` works all the same.
    pub otlp_endpoint: Option<String>,
    /// Share of traces that are exported, 0 to 1.
    pub sample_ratio: f64,
    /// `json` for machines, `text` for people.
    pub log_format: LogFormat,
    /// What is logged, as in `info,scheduler=debug`.
    pub log_filter: String,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0, log_format: LogFormat::Json, log_filter: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Readable.
    Text,
}

/// Links in messages: the tracker serves them, the notifier makes them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Where payers reach the tracker, such as `https://pay.example.com`.
    pub public_url: String,
    /// Signs the links. At least 32 characters; changing it breaks links in messages that are already out.
    pub key: Masked<String>,
}

/// What a service needs of the shared settings.
#[derive(Debug, Clone)]
pub struct CommonSettings {
    /// Postgres.
    pub postgres: PostgresSettings,
    /// NATS.
    pub nats: NatsSettings,
    /// Links in messages.
    pub links: LinkSettings,
}

impl Validate for PostgresSettings {
    fn validate(&self, at: &mut At<'_>) {
        if !(1..=1000).contains(&self.max_connections) {
            at.fault("max_connections", "must lie between 1 and 1000");
        }
    }
}

impl Validate for NatsSettings {
    fn validate(&self, at: &mut At<'_>) {
        if !matches!(self.replicas, 1 | 3 | 5) {
            at.fault("replicas", "must be 1, 3 or 5");
        }
        if self.ack_wait_seconds == 0 {
            at.fault("ack_wait_seconds", "must be above 0");
        }
    }
}

impl Validate for LinkSettings {
    fn validate(&self, at: &mut At<'_>) {
        if self.key.reveal().len() < 32 {
            at.fault("key", "needs at least 32 characters");
        }
        let url = &self.public_url;
        let local = ["http://127.0.0.1", "http://localhost"].iter().any(|own| url.starts_with(own));
        if !url.starts_with("https://") && !local {
            at.fault("public_url", "must be an https:// address: payers follow it to pay");
        }
        if url.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '<' | '>' | '\'')) {
            at.fault("public_url", "contains a character that no address has");
        }
    }
}

impl Validate for TelemetrySettings {
    fn validate(&self, at: &mut At<'_>) {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            at.fault("sample_ratio", "must lie between 0 and 1");
        }
    }
}
