//! `dunlin deliveries`: reminders on their way, and what payers saw.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::{Context, bail};
use bus::Work;
use events::Service;
use events::topology::NOTIFIER_OPERATIONS;
use jiff::Timestamp;
use notifier::unknown::Says;
use sqlx::PgPool;
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
    /// Say what became of one of those.
    ///
    /// After a day without evidence they are taken for sent, and stay on the list.
    Resolve {
        /// The reminder's id.
        id: Uuid,
        /// What became of it.
        #[arg(long = "as", value_enum)]
        fate: Fate,
        /// Hand it over once more. If the first one did arrive, the payer gets two.
        #[arg(long)]
        send_again: bool,
        /// Who says so.
        #[arg(long, env = "USER", hide_env_values = true)]
        by: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Print the message as it was sent (RFC 5322). Personal.
    Show {
        /// The reminder's id.
        id: Uuid,
    },
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fate {
    /// It was accepted.
    Sent,
    /// It was not.
    NotSent,
}

/// `dunlin deliveries`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let pool = pool(&configuration, Service::Notifier)?;
    let now = configuration.settings.clock().now();
    let (state, options) = match command {
        Command::List { state, options } => (state, options),
        Command::Unknown { options } => return unknown(&pool, &options, now).await,
        Command::Resolve { id, fate, send_again, by, reason } => {
            let says = match (fate, send_again) {
                (Fate::Sent, false) => Says::Sent,
                (Fate::NotSent, false) => Says::NotSent,
                (Fate::NotSent, true) => Says::SendAgain,
                (Fate::Sent, true) => bail!("--send-again is for what was not sent: --as not-sent"),
            };
            let mut work = Work::begin_without_relay(&pool, &NOTIFIER_OPERATIONS).await?;
            notifier::unknown::say(&mut work, id, says, &by, &reason, now).await?;
            work.commit().await?;
            println!("{id}: {}", says.as_str().replace('_', " "));
            return Ok(());
        }
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

async fn unknown(pool: &PgPool, options: &ListOptions, now: Timestamp) -> anyhow::Result<()> {
    let list = notifier::unknown::store::list(pool, options.limit).await?;
    if options.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    if list.is_empty() {
        println!("of all deliveries it is known what became of them");
        return Ok(());
    }
    let row = |d: notifier::unknown::store::UnknownRow| {
        let age = now.duration_since(d.settled_at.to_jiff());
        let assumed = d.assumed_sent.then(|| "taken for sent".to_owned());
        let evidence: Vec<String> = assumed.into_iter().chain(d.evidence).collect();
        vec![
            d.id.to_string(),
            format!("{}h{:02}", age.as_hours(), age.as_mins() % 60),
            format!("{}/{}", d.merchant, d.customer),
            d.channel,
            d.invoices.join(","),
            d.reason,
            evidence.join("; "),
        ]
    };
    let rows: Vec<_> = list.into_iter().map(row).collect();
    print_table(&["REMINDER", "AGE", "CUSTOMER", "CHANNEL", "INVOICES", "REASON", "EVIDENCE"], &rows);
    Ok(())
}
