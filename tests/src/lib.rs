//! What the tests across services share.
//!
//! - [`system`]: all five services in this process, with a clock that stands still until a test moves it.
//! - [`processes`]: all five services as processes of their own, which can be killed.
//! - [`book`]: what the database says about what was lost, and when all work is done.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

pub mod book;
pub mod processes;
pub mod system;
