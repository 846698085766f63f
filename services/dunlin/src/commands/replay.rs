//! `dunlin replay`: publish a window of a service's outbox again.

use super::{configuration, parse_service, pool};
use anyhow::bail;
use events::Service;
use jiff::Timestamp;
use std::path::PathBuf;

/// Publish a window of a service's outbox again: after the broker has lost events. Those that arrived before are dropped
/// by their receivers.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The service whose events these are.
    #[arg(value_parser = parse_service)]
    service: Service,
    /// First moment, in machine time (RFC 3339). The outbox goes 14 days back.
    #[arg(long)]
    from: Timestamp,
    /// First moment after.
    #[arg(long)]
    to: Timestamp,
}

/// `dunlin replay`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { service, from, to } = arguments;
    if from >= to {
        bail!("--from must lie before --to");
    }
    let pool = pool(&configuration(config)?, service)?;
    let count = bus::store::replay_outbox(&pool, from, to).await?;
    println!("{count} events of {service} will be published again by its relay");
    Ok(())
}
