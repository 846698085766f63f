//! How a payer pays: what its history says about the next invoice.
//!
//! Pure: no async, no SQL. A customer's state ([`estimator::Payer`]) is the fold of its settlements in their order; whoever takes
//! a payment back folds those that are left anew.

pub mod advice;
pub mod bins;
mod distribution;
pub mod due;
pub mod estimator;
pub mod evaluate;
pub mod experiment;
pub mod icc;
pub mod label;
pub mod ledger;
pub mod lift;
pub mod peers;
pub mod score;
pub mod segment;
pub mod simulate;
pub mod world;

pub use label::Label;
