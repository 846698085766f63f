//! What kind of customer somebody is, in one word.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a customer pays. Decided by the segmenter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// Too little is known.
    #[default]
    New,
    /// Pays on time.
    Prompt,
    /// Sometimes pays late.
    Mixed,
    /// Often pays late, by some days.
    UsuallyLate,
    /// Often pays more than a week late.
    ChronicallyLate,
    /// Pays later than it used to, or owes for longer than it ever did.
    AtRisk,
}

impl Segment {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::New, Self::Prompt, Self::Mixed, Self::UsuallyLate, Self::ChronicallyLate, Self::AtRisk];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Prompt => "prompt",
            Self::Mixed => "mixed",
            Self::UsuallyLate => "usually_late",
            Self::ChronicallyLate => "chronically_late",
            Self::AtRisk => "at_risk",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
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
