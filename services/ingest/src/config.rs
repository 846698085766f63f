//! Ingest's section of the settings.

use runtime::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;

/// Ingest's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where processors post webhooks.
    #[schemars(schema_with = "runtime::config::address")]
    pub http_listen: SocketAddr,
    /// Where other systems publish facts by gRPC.
    #[schemars(schema_with = "runtime::config::address")]
    pub grpc_listen: SocketAddr,
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        if self.http_listen == self.grpc_listen && self.http_listen.port() != 0 {
            at.fault("grpc_listen", "is the same address as http_listen");
        }
    }
}
