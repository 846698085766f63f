//! `dunlin campaign`: what is done about campaigns as such.

use super::campaign_migrate;
use std::path::PathBuf;
use std::process::ExitCode;

/// Campaigns: put running cases on another version.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Put running cases on the version in force; they stay on the one they began with until then.
    Migrate(campaign_migrate::Arguments),
}

/// `dunlin campaign`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Migrate(arguments) => campaign_migrate::run(config, arguments).await,
    }
}
