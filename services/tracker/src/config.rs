//! The tracker's section of the settings.

use runtime::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;

/// The tracker's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where payers arrive by pay link and unsubscribe: what `links.public_url` leads to. The public may reach it.
    #[schemars(schema_with = "runtime::config::address")]
    pub pages_listen: SocketAddr,
    /// Where figures are shown. For the merchant's own people only: it has no login of its own.
    #[schemars(schema_with = "runtime::config::address")]
    pub dashboard_listen: SocketAddr,
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        if self.pages_listen == self.dashboard_listen && self.pages_listen.port() != 0 {
            at.fault("dashboard_listen", "must differ from pages_listen: the public reaches that one");
        }
    }
}
