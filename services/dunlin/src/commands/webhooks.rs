//! `dunlin webhooks`: calls of merchants' own systems that wait or have failed.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::bail;
use events::Service;
use kernel::MerchantId;
use notifier::channel::store::Disabled;
use notifier::webhook::store;
use std::path::PathBuf;
use uuid::Uuid;

/// Calls of merchants' own systems that wait or have failed.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List them, newest first.
    List {
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Have one tried now, or all that failed.
    Retry {
        /// Its id; all that failed if left out.
        id: Option<Uuid>,
    },
    /// List merchants' systems that said 410: reminders are not posted there any more.
    Disabled {
        /// How to print.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Have reminders posted again to a merchant's system that said 410. Another URL in its settings does the same.
    Enable {
        /// The merchant.
        merchant: MerchantId,
    },
}

/// `dunlin webhooks`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let pool = pool(&configuration, Service::Notifier)?;
    match command {
        Command::List { options } => {
            let list = store::list(&pool, options.limit).await?;
            if options.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else if list.is_empty() {
                println!("no webhook waits or has failed");
            } else {
                print(list);
            }
        }
        Command::Retry { id } => {
            let asked = store::retry(&pool, id, configuration.settings.clock().now()).await?;
            match id {
                Some(id) if asked == 0 => bail!("{id}: no webhook that waits or has failed"),
                None if asked == 0 => println!("no webhook has failed"),
                _ => println!("{asked} will be tried within a second or so; `dunlin webhooks list` shows what is left"),
            }
        }
        Command::Disabled { output } => {
            let list = notifier::channel::store::disabled(&pool).await?;
            if output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else if list.is_empty() {
                println!("no merchant's system is disabled");
            } else {
                let row = |d: Disabled| vec![d.merchant, d.url, d.created_at.to_jiff().to_string(), d.source];
                print_table(&["MERCHANT", "URL", "SINCE", "BY"], &list.into_iter().map(row).collect::<Vec<_>>());
            }
        }
        Command::Enable { merchant } => {
            if !notifier::channel::store::enable(&pool, &merchant).await? {
                bail!("{merchant}: its system is not disabled");
            }
            println!("reminders are posted to {merchant}'s system again");
        }
    }
    Ok(())
}

fn print(list: Vec<store::CallRow>) {
    let row = |call: store::CallRow| {
        let why = [call.reason, call.last_error].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
        vec![
            call.id.to_string(),
            call.merchant,
            call.customer,
            format!("{}/{}", call.invoice, call.epoch),
            call.state,
            call.tries.to_string(),
            call.next_at.to_jiff().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            why.join(", "),
        ]
    };
    let rows: Vec<_> = list.into_iter().map(row).collect();
    print_table(&["WEBHOOK", "MERCHANT", "CUSTOMER", "INVOICE", "STATE", "TRIES", "NEXT", "REASON"], &rows);
}
