//! The segmenter's section of the settings.

use runtime::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;

/// The segmenter's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many customers are kept in memory, at about 180 bytes each. Others are read when they pay.
    pub cache_customers: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { cache_customers: 1_000_000 }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        if self.cache_customers == 0 {
            at.fault("cache_customers", "must be above 0");
        }
    }
}
