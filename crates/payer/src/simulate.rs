//! exp
mod run;
pub use run::*;
