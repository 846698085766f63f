//! Campaigns: which steps a case has, when each is due, and what stands in its way.
//!
//! Pure: no async, no SQL, no ambient clock. [`plan`] takes a [`Campaign`], what is known of a [`Case`] and the present
//! moment, and says what to do now and when to look again. The scheduler calls it whenever something about a case changes
//! and whenever its timer fires; both get the same answer for the same facts, so neither needs to know what happened.

pub mod calendar;
mod file;
pub mod law;
mod plan;

pub use file::{Campaign, CampaignFile, Fault, Step, Tone};
pub use plan::{Case, Decided, Deferral, Outcome, Plan, Reason, Send, Standing, plan};
