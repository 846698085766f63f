//! `dunlin healthcheck`: for containers without a shell.

use anyhow::{Context, bail};
use std::time::Duration;

/// Ask a running service for its health.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Such as `http://127.0.0.1:9090/readyz`.
    url: String,
}

/// `dunlin healthcheck`.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let response = client.get(&arguments.url).send().await.context(arguments.url)?;
    let status = response.status();
    let body = response.text().await?;
    if !status.is_success() {
        bail!("{status}: {}", body.trim());
    }
    println!("{}", body.trim());
    Ok(())
}
