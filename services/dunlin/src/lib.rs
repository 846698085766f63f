//! The one binary: `dunlin run <service>`, `dunlin dev`, and what operators need.

pub mod cli;
pub mod commands;
pub mod dev;
pub mod settings;
pub mod system;
