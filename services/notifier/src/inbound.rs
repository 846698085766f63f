//! What comes back: bounces, complaints, automatic answers, and people's.
//!
//! [`parse`] takes a message apart, [`classify`] says what it is ([`status`] knows the codes, [`phrases`] what servers say
//! without them); both are pure and take any bytes. What follows from it is in [`crate::flow::inbound`].

pub mod classify;
pub mod listener;
pub mod parse;
pub mod phrases;
pub mod status;
pub mod store;

pub use classify::{Class, Reading, read};
pub use parse::words;
