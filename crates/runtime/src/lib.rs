//! What every service shares, and nothing of what makes it that service.
//!
//! - [`config`], [`settings`], [`merchant`]: files, environment, every fault at once.
//! - [`database`]: one pool per role, schemas and migrations.
//! - [`failpoint`]: where tests make a process die.
//! - [`host`]: what a service is given, and how it starts and drains.
//! - [`health`], [`http`], [`problem`]: `/livez`, `/readyz`, `/metrics`, server spans, RFC 9457 errors.
//! - [`grpc`]: API keys, health and reflection of gRPC edges.
//! - [`links`]: signed links in messages: the notifier makes them, the tracker serves them.
//! - [`telemetry`]: OTLP traces and metrics, logs with trace ids.

pub mod config;
pub mod database;
pub mod failpoint;
pub mod grpc;
pub mod health;
pub mod host;
pub mod http;
pub mod links;
pub mod merchant;
pub mod problem;
pub mod settings;
pub mod store;
pub mod story;
pub mod telemetry;

pub use host::{Host, Service};
pub use merchant::{Merchant, Merchants};
pub use problem::Problem;
