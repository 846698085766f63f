//! The bus: how a change of state in one service becomes a change of state in another, once.
//!
//! ```text
//!  producer                                    broker                     consumer
//!  begin ─ state ─ outbox, outbox_pending ─ commit ─► atomic batch ─► pull ─ begin ─ inbox ─ handler ─ outbox ─ commit ─ ack
//!                         ▲                     │ PubAck (fsynced)
//!                         └── pending deleted ──┘
//! ```
//!
//! - [`Work`] is one unit of work: a transaction and the events it emits. They commit together.
//! - [`Handler`] turns a batch of events into state and further events; [`Bus::run`] is the loop around it: it alone
//!   fetches, deduplicates, commits, acknowledges and gives up.
//! - A failure is a decision: [`Failure::Retry`] redelivers, [`Failure::Reject`] and [`Work::reject`] move the one event that
//!   can never work to `dead_letter`; the others go on.
//! - [`relay`] publishes what was committed: at once, and by a sweep what a crash left behind.
//! - [`watermark`] tells a consumer how fresh its knowledge is.
//! - [`topology`] declares streams and durables; [`permissions`] writes the broker's users.
//!
//! At-least-once from the broker and a primary key in the inbox make exactly-once effects. Handlers must be order-free.

pub mod broker;
pub mod consume;
mod failure;
pub mod gauges;
pub mod maintain;
pub mod permissions;
mod publish;
pub mod relay;
pub mod store;
pub mod topology;
pub mod trace;
pub mod watermark;
mod work;

pub use broker::{BrokerSettings, Bus};
pub use consume::{Handler, Incoming};
pub use failure::Failure;
pub use work::Work;

/// Creates and changes the bus's tables. Run once per service, with `search_path` set to the service's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();
