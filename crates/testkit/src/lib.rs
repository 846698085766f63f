//! Real servers for tests, demos and `dunlin dev`: nothing is mocked.
//!
//! - [`servers`]: PostgreSQL and nats-server as child processes that cannot outlive their parent.
//! - [`database`]: one database per test, cloned from a migrated template.
//! - [`smtp`]: a mail server that keeps what it accepts and can be told to misbehave in every phase.
//! - [`otlp`]: a collector that keeps what it receives.
//! - [`system`]: both together with the streams, and what a service is given.
//! - [`wait`]: conditions with a deadline instead of sleeps.

pub mod database;
pub mod otlp;
pub mod servers;
pub mod smtp;
pub mod system;
pub mod wait;

pub use database::TestDatabase;
pub use servers::{Binaries, Nats, Postgres};
pub use smtp::SmtpServer;
pub use system::TestSystem;
