//! What a service knows about one invoice, for `dunlin explain`.

use jiff::Timestamp;
use serde::Serialize;

/// One line of an invoice's story.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StoryLine {
    /// Business time.
    pub at: Timestamp,
    /// Who tells it: a service.
    pub by: &'static str,
    /// What happened, in a few words.
    pub what: String,
    /// Why, or with what: reason, amounts, ids. No personal data.
    pub detail: String,
    /// The event or the reminder it belongs to.
    pub id: Option<String>,
    /// The trace it happened in, as hex.
    pub trace_id: Option<String>,
}
