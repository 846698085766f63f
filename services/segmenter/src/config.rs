//! The segmenter's section of the settings.

use runtime::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;

/// The segmenter's section of the settings: nothing to set yet.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl Validate for Config {
    fn validate(&self, _: &mut At<'_>) {}
}
