//! What services tell each other.
//!
//! - [`v1`]: the events, generated from `proto/dunlin/events/v1`.
//! - [`api`]: the gRPC edges of ingest and the scheduler, generated from `proto/dunlin/api/v1`.
//! - [`kind`]: every event on one screen: its name on the wire and the service that emits it.
//! - [`topology`]: who takes what and who emits what. Streams, durables, broker permissions and the event map are
//!   derived from it, so none of them can drift from the others.
//! - [`envelope`]: CloudEvents attributes as NATS headers.
//! - [`Invoice`], [`Customer`]: the two snapshots, checked once on arrival, so that handlers only meet valid ones.
//!
//! To add an event: write the message in `proto/`, add a row to [`kind`], name it in the flows that take or emit it in
//! [`topology`], and run `make generate` for the event map.

/// The events themselves.
pub mod v1 {
    tonic::include_proto!("dunlin.events.v1");
}

/// The gRPC edges of ingest and the scheduler.
#[expect(clippy::allow_attributes, reason = "generated")]
pub mod api {
    tonic::include_proto!("dunlin.api.v1");
}

pub mod envelope;
pub mod json;
pub mod kind;
mod masking;
pub mod snapshot;
pub mod time;
pub mod topology;

pub use envelope::Envelope;
pub use kind::{AnyEvent, Event, Kind, without_person};
pub use snapshot::{Customer, Invoice, InvoiceStatus, Malformed};
pub use topology::{Flow, Service};

/// The compiled descriptors of everything in `proto/`, for gRPC reflection and JSON views.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
