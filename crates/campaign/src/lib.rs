//! Campaigns: which steps a case has, when each is due, and what stands in its way.
//!
//! Pure: no async, no SQL, no ambient clock. [`plan`] takes a campaign's [`Terms`] for a payer, what is known of a
//! [`Case`] and the present moment, and says what to do now and when to look again. The scheduler calls it whenever
//! something about a case changes and whenever its timer fires; `dunlin plan` and `dunlin backtest` call it under a
//! virtual clock. All get the same answer for the same facts, so none needs to know what happened.

pub mod backtest;
pub mod calendar;
mod campaign;
mod case;
pub mod check;
mod choose;
pub mod condition;
pub mod diff;
mod experiment;
pub mod file;
pub mod law;
mod plan;
mod ramp;
mod round;
mod simulate;
mod terms;
pub mod words;

pub use campaign::{Campaign, Fault, MAX_CAP_DAYS, Offset, PAYERS_CALENDAR, Step, Trigger};
pub use case::{Case, Choice, Decided, Deferral, Hold, Outcome, Plan, Reason, Send, Skip};
pub use choose::{Chosen, choose};
pub use condition::{Condition, Facts};
pub use experiment::{Arm, Experiment};
pub use file::{Assign, CampaignFile, Channel, Ending, Tone};
pub use plan::{Refusal, next_step, plan, send_now};
pub use ramp::Ramp;
pub use round::{Message, Planned, gather};
pub use simulate::{Happening, Payer, SimulatedInvoice, simulate};
pub use terms::{Calendars, Place, Terms};
