//! `dunlin customer`: what is kept of a person, and the end of it.

use super::{configuration, pool};
use crate::settings::Configuration;
use anyhow::{Context, bail};
use bus::{Failure, Work};
use events::Service;
use events::topology::INGEST_ERASURE;
use ingest::erasure::{self, Outcome, Request};
use kernel::{CustomerId, InvoiceId, MerchantId};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What is kept of a person, and the end of it.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write everything that is kept of a customer, as JSON. Personal.
    Export {
        /// `<merchant>/<customer>`: the processor's id.
        #[arg(value_name = "MERCHANT/CUSTOMER", value_parser = parse_customer)]
        customer: Key,
        /// Where to [default: standard output].
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Erase a person's data: names, addresses, links, messages, and everything as it arrived. What was owed and paid stays,
    /// under the processor's ids.
    #[command(after_help = ERASE_HELP)]
    Erase {
        /// `<merchant>/<customer>`: the processor's id.
        #[arg(value_name = "MERCHANT/CUSTOMER", value_parser = parse_customer)]
        customer: Key,
        /// Why, for whoever asks later: it is kept, with who, when and how much.
        #[arg(long)]
        reason: String,
        /// Who.
        #[arg(long, env = "USER", hide_env_values = true)]
        by: String,
        /// Even though something is owed: its reminders are held for good.
        #[arg(long)]
        even_if_open: bool,
        /// Say what would go, change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

const ERASE_HELP: &str = "\
A claim that is pursued is a reason to keep the data: with open invoices nothing is erased, unless --even-if-open says so.
Afterwards nobody writes to the customer or the address any more (a keyed hash of it stays on the suppression list), and what
the processor says later is taken in without the person.

What this cannot reach: events in JetStream age out after 14 days; backups, logs of mail servers, and the payer's mailbox
are not dunlin's.

Exit codes: 0 erased; 1 failed; 3 refused: invoices are open.";

type Key = (MerchantId, CustomerId);

fn parse_customer(text: &str) -> Result<Key, String> {
    let (merchant, customer) = text.split_once('/').ok_or("give <merchant>/<customer>, such as acme/cus_9")?;
    let merchant = merchant.parse().map_err(|e| format!("the merchant {e}"))?;
    Ok((merchant, customer.parse().map_err(|e| format!("the customer {e}"))?))
}

/// `dunlin customer`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    let configuration = configuration(config)?;
    match command {
        Command::Export { customer, output } => {
            let text = serde_json::to_string_pretty(&export(&configuration, &customer).await?)?;
            match output {
                Some(path) => std::fs::write(&path, text).with_context(|| path.display().to_string())?,
                None => println!("{text}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Erase { customer, reason, by, even_if_open, dry_run } => {
            for (name, text) in [("--reason", &reason), ("--by", &by)] {
                if text.trim().is_empty() || text.chars().count() > 500 || text.chars().any(char::is_control) {
                    bail!("{name} needs some words, at most 500 characters on one line");
                }
            }
            erase(&configuration, Request { customer, by, reason, even_if_open }, dry_run).await
        }
    }
}

async fn export(configuration: &Configuration, (merchant, customer): &Key) -> anyhow::Result<serde_json::Value> {
    let (merchant, customer) = (merchant.as_str(), customer.as_str());
    let of = |service| pool(configuration, service);
    Ok(json!({
        "merchant": merchant,
        "customer": customer,
        "as_of": configuration.settings.clock().now(),
        "ingest": ingest::store::personal_data(&of(Service::Ingest)?, merchant, customer).await?,
        "segmenter": segmenter::store::personal_data(&of(Service::Segmenter)?, merchant, customer).await?,
        "scheduler": scheduler::store::personal_data(&of(Service::Scheduler)?, merchant, customer).await?,
        "notifier": notifier::erasure::store::personal_data(&of(Service::Notifier)?, merchant, customer).await?,
        "tracker": tracker::store::personal_data(&of(Service::Tracker)?, merchant, customer).await?,
    }))
}

async fn erase(configuration: &Configuration, request: Request, dry_run: bool) -> anyhow::Result<ExitCode> {
    const TRIES: u32 = 5;
    let pool = pool(configuration, Service::Ingest)?;
    let now = configuration.settings.clock().now();
    let name = format!("{}/{}", request.customer.0, request.customer.1);
    let (merchant, customer) = &request.customer;
    let notifier = super::pool(configuration, Service::Notifier)?;
    let latest = notifier::erasure::store::latest(&notifier, merchant.as_str(), customer.as_str()).await?;
    let before = latest.map_or(0, |(id, _)| id);
    let mut outcome = None;
    for attempt in 1..=TRIES {
        let done = async {
            let mut work = Work::begin_without_relay(&pool, &INGEST_ERASURE).await?;
            let outcome = erasure::erase(&mut work, &configuration.settings.links, &request, now).await?;
            if !dry_run && matches!(outcome, Outcome::Erased(_)) {
                work.commit().await?;
            }
            Ok::<_, Failure>(outcome)
        };
        match done.await {
            Ok(done) => {
                outcome = Some(done);
                break;
            }
            Err(Failure::Retry(_)) if attempt < TRIES => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(failure) => bail!("{name}: nothing was erased: {failure}"),
        }
    }
    match outcome {
        Some(Outcome::Erased(counts)) if dry_run => println!("{name}: would go, of ingest's: {}", counted(&counts)),
        Some(Outcome::Erased(counts)) => {
            println!("{name}: erased, of ingest's: {}", counted(&counts));
            follow(configuration, &request.customer, before).await?;
        }
        Some(Outcome::Open(invoices)) => {
            let names: Vec<_> = invoices.iter().map(InvoiceId::as_str).collect();
            eprintln!(
                "{name}: nothing was erased, since these are open: {}; --even-if-open erases all the same",
                names.join(", ")
            );
            return Ok(ExitCode::from(3));
        }
        Some(Outcome::Unknown) | None => bail!("{name}: nothing is known of this customer"),
    }
    Ok(ExitCode::SUCCESS)
}

fn counted(counts: &std::collections::BTreeMap<&'static str, u64>) -> String {
    counts.iter().map(|(what, count)| format!("{count} {}", what.replace('_', " "))).collect::<Vec<_>>().join(", ")
}

/// The others follow by events. Drops what could not be delivered to them, and waits a while for the notifier, which has most.
async fn follow(configuration: &Configuration, (merchant, customer): &Key, before: i64) -> anyhow::Result<()> {
    for service in [Service::Segmenter, Service::Scheduler, Service::Tracker] {
        let mut tx = pool(configuration, service)?.begin().await?;
        bus::store::drop_letters(&mut tx, merchant.as_str(), &[customer.as_str()]).await?;
        tx.commit().await?;
    }
    let notifier = pool(configuration, Service::Notifier)?;
    for _ in 0..60 {
        let latest = notifier::erasure::store::latest(&notifier, merchant.as_str(), customer.as_str()).await?;
        if let Some((id, counts)) = latest
            && id > before
        {
            println!("of the notifier's: {counts}");
            println!("events in JetStream age out after 14 days");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    println!("the other services follow as soon as they run; events in JetStream age out after 14 days");
    Ok(())
}
