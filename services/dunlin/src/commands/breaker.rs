//! `dunlin breaker`: sending domains that are kept from sending.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::ensure;
use events::Service;
use std::path::PathBuf;

/// Sending domains whose mail bounced or was complained about too often: nothing is sent from them.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List those that are kept from sending.
    List {
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Let a domain send again; counting begins anew.
    Close {
        /// The domain of the merchant's From address.
        domain: String,
        /// Who says so.
        #[arg(long)]
        by: String,
    },
}

/// `dunlin breaker`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let pool = pool(&configuration, Service::Notifier)?;
    match command {
        Command::List { options } => {
            let mut list = notifier::store::open_breakers(&pool).await?;
            list.truncate(usize::try_from(options.limit).unwrap_or(usize::MAX));
            if options.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
                return Ok(());
            }
            let row = |b: notifier::store::Breaker| vec![b.domain, b.opened_at.to_jiff().to_string(), b.reason];
            let rows: Vec<_> = list.into_iter().map(row).collect();
            print_table(&["DOMAIN", "OPEN SINCE", "WHY"], &rows);
        }
        Command::Close { domain, by } => {
            let now = configuration.settings.clock().now();
            let was_open = notifier::store::close_breaker(&pool, &domain, &by, now).await?;
            ensure!(was_open, "the breaker of {domain} is not open: see `dunlin breaker list`");
            println!("{domain} sends again within a second or two");
        }
    }
    Ok(())
}
