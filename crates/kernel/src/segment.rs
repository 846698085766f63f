//! What kind of customer somebody is, in one word.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a customer pays. Decided by the segmenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// Too little is known.
    New,
    /// Pays on time.
    Prompt,
    /// Sometimes pays late.
    Mixed,
    /// Mostly pays late.
    Late,
}

impl Segment {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Prompt => "prompt",
            Self::Mixed => "mixed",
            Self::Late => "late",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::New, Self::Prompt, Self::Mixed, Self::Late].into_iter().find(|s| s.as_str() == text)
    }
}

/// Whether the law sees a business or a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayerKind {
    /// Owes in the course of a business.
    Business,
    /// Owes as a private person.
    Consumer,
}

impl PayerKind {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Business => "business",
            Self::Consumer => "consumer",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Business, Self::Consumer].into_iter().find(|k| k.as_str() == text)
    }
}
