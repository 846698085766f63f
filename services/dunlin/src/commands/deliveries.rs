//! `dunlin deliveries`: reminders on their way, and what payers saw.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::Context;
use events::Service;
use std::io::Write;
use std::path::PathBuf;
use uuid::Uuid;

/// Reminders on their way, and what payers saw.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List them, newest first.
    List {
        /// Only in this state: waiting, claimed, imminent, handed_off, suppressed, failed or unknown.
        #[arg(long)]
        state: Option<String>,
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// List those of which nobody knows whether they arrived.
    Unknown {
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Print the message as it was sent (RFC 5322). Personal.
    Show {
        /// The reminder's id.
        id: Uuid,
    },
}

/// `dunlin deliveries`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let pool = pool(&configuration(config)?, Service::Notifier)?;
    let (state, options) = match command {
        Command::List { state, options } => (state, options),
        Command::Unknown { options } => (Some("unknown".to_owned()), options),
        Command::Show { id } => {
            let found = notifier::store::find_message(&pool, id).await?;
            let (_, raw) = found.context("no such message: not rendered yet, or more than 30 days ago")?;
            return Ok(std::io::stdout().lock().write_all(raw.reveal())?);
        }
    };
    let list = notifier::store::list_deliveries(&pool, state.as_deref(), options.limit).await?;
    if options.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    let rows: Vec<_> = list
        .into_iter()
        .map(|d| {
            let reason = format!("{} {}", d.reason, d.status_code).trim().to_owned();
            vec![
                d.id.to_string(),
                d.merchant,
                d.customer,
                d.channel,
                d.invoices.join(","),
                d.state,
                d.attempts.to_string(),
                reason,
            ]
        })
        .collect();
    print_table(&["REMINDER", "MERCHANT", "CUSTOMER", "CHANNEL", "INVOICES", "STATE", "TRIES", "REASON"], &rows);
    Ok(())
}
