//! Real servers for tests, demos and `dunlin dev`: nothing is mocked.
//!
//! - [`servers`]: PostgreSQL and nats-server as child processes that cannot outlive their parent.
//! - [`database`]: one database per test, cloned from a migrated template.
//! - [`smtp`]: a mail server that keeps what it accepts and can be told to misbehave in every phase.
//! - [`http`]: the other side of webhooks and text messages, which does as it is told.
//! - [`stripe`]: a payment processor that posts signed webhooks.
//! - [`world`], [`driver`]: payers with habits, and what happens to them, posted as webhooks.
//! - [`audit`]: what arrived compared with what was paid.
//! - [`otlp`]: a collector that keeps what it receives.
//! - [`system`]: both together with the streams, and what a service is given.
//! - [`wait`]: conditions with a deadline instead of sleeps.

pub mod audit;
pub mod database;
pub mod driver;
pub mod http;
pub mod otlp;
pub mod servers;
pub mod smtp;
pub mod stripe;
pub mod system;
pub mod tls;
pub mod wait;
#[expect(clippy::indexing_slicing, reason = "indices are the world's own")]
pub mod world;

pub use database::TestDatabase;
pub use http::HttpServer;
pub use servers::{Binaries, Nats, Postgres};
pub use smtp::SmtpServer;
pub use system::TestSystem;

/// A file or folder of `../shared`, which holds real data that is not part of the project. `None`, said loudly, if the
/// folder is not there: a test that needs it has then proven nothing.
pub fn shared(path: &str) -> Option<std::path::PathBuf> {
    let found = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("\n*** SKIPPED: {} is not there, so this test has checked nothing ***\n", found.display());
    None
}
