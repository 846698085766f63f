//! `dunlin quarantine`: messages from outside that make no sense.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::{Context, bail};
use events::Service;
use std::path::PathBuf;

/// Messages from outside that make no sense.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List them, newest first.
    List {
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Show one with its body, or what it was corrected to. It may contain personal data.
    Show {
        /// Its number.
        id: i64,
    },
    /// Let ingest try again: after a fix, or with a corrected body.
    Replay {
        /// Its number; all of them if left out.
        id: Option<i64>,
        /// A file with the corrected body.
        #[arg(long, requires = "id")]
        body: Option<PathBuf>,
    },
    /// Take one off the list. The message itself is kept with all others.
    Drop {
        /// Its number.
        id: i64,
    },
}

/// `dunlin quarantine`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let pool = pool(&configuration(config)?, Service::Ingest)?;
    match command {
        Command::List { options } => {
            let list = ingest::store::list_quarantine(&pool, options.limit).await?;
            if options.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else if list.is_empty() {
                println!("nothing in quarantine");
            } else {
                let rows: Vec<_> = list
                    .into_iter()
                    .map(|q| vec![q.id.to_string(), q.merchant, q.source, q.kind, q.external_id, q.field, q.reason])
                    .collect();
                print_table(&["ID", "MERCHANT", "SOURCE", "KIND", "MESSAGE", "FIELD", "PROBLEM"], &rows);
            }
        }
        Command::Show { id } => {
            let Some(row) = ingest::store::find_quarantined(&pool, id).await? else { bail!("{id}: not in quarantine") };
            println!("{}\n", serde_json::to_string_pretty(&row)?);
            println!("{}", String::from_utf8_lossy(&row.body));
        }
        Command::Replay { id, body } => {
            let body = body.map(|path| std::fs::read(&path).with_context(|| path.display().to_string())).transpose()?;
            let asked = ingest::store::request_quarantine_replay(&pool, id, body.as_deref()).await?;
            if asked == 0 {
                bail!("nothing to replay there");
            }
            println!("{asked} will be tried again within a second or so; `dunlin quarantine list` shows what is left");
        }
        Command::Drop { id } => {
            if !ingest::store::release(&pool, id).await? {
                bail!("{id}: not in quarantine");
            }
            println!("{id} taken off the list");
        }
    }
    Ok(())
}
