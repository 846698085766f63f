//! `dunlin suppression`: who is not written to.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use crate::settings::Configuration;
use anyhow::{Context, bail};
use events::Service;
use events::v1::Channel;
use kernel::{CustomerId, MerchantId};
use notifier::suppression::{COLUMNS, Entry, REASONS, Subject, read_channel, read_row, store};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Who is not written to.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List, newest first. Personal.
    List {
        /// Only of this merchant.
        #[arg(long)]
        merchant: Option<String>,
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Add a customer or an address.
    Add {
        /// Whom.
        #[command(flatten)]
        target: Target,
        /// Why: unsubscribed, bad_address, bounced, complained, erased, gone or manual.
        #[arg(long, default_value = "manual")]
        reason: String,
        /// Who says so.
        #[arg(long, env = "USER")]
        by: String,
    },
    /// Take somebody off the list. That it was done, by whom and why, is kept.
    Remove {
        /// Whom.
        #[command(flatten)]
        target: Target,
        /// Why, for whoever asks later.
        #[arg(long)]
        reason: String,
        /// Who says so.
        #[arg(long, env = "USER")]
        by: String,
    },
    /// Write the list as CSV to standard output, or to a file. Personal.
    Export {
        /// Only of this merchant.
        #[arg(long)]
        merchant: Option<String>,
        /// Where to.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Add all rows of a CSV file, or none if one makes no sense.
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// A CSV file with a header line.
        file: PathBuf,
        /// Check everything, change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Who says so.
        #[arg(long, env = "USER")]
        by: String,
    },
}

const IMPORT_HELP: &str = "\
Columns: merchant, and either address or customer; channel (email, sms, webhook or task; empty: email), reason (unsubscribed, bad_address, bounced,
complained, erased, gone, manual; empty: manual), source (for people) and date (2026-01-31 or a moment) may be there. Exports have
the same columns. Entries that are there already stay as they are.";

/// Whom a change is about.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Whose reminders.
    #[arg(long)]
    merchant: String,
    /// By which way: email, sms, webhook or task.
    #[arg(long, default_value = "email")]
    channel: String,
    /// An address, a number or a URL, whoever has it.
    #[arg(long, required_unless_present = "customer", conflicts_with = "customer")]
    address: Option<String>,
    /// A customer, whatever the address.
    #[arg(long)]
    customer: Option<String>,
}

impl Target {
    fn read(&self, configuration: &Configuration) -> anyhow::Result<(MerchantId, Channel, Subject)> {
        let merchant = known(configuration, &self.merchant)?;
        let channel = read_channel(&self.channel).map_err(|e| anyhow::anyhow!("--channel {e}"))?;
        let subject = match (&self.address, &self.customer) {
            (_, Some(customer)) => Subject::Customer(CustomerId::try_new(customer).context("--customer")?),
            (Some(address), None) => {
                Subject::address(channel, address).map_err(|e| anyhow::anyhow!("--address {e}"))?
            }
            (None, None) => bail!("give --address or --customer"),
        };
        Ok((merchant, channel, subject))
    }
}

fn known(configuration: &Configuration, merchant: &str) -> anyhow::Result<MerchantId> {
    let found = configuration.merchants.by_name(merchant);
    Ok(found
        .with_context(|| format!("--merchant {merchant}: there is no such merchant in the configuration"))?
        .id
        .clone())
}

/// `dunlin suppression`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    let configuration = configuration(config)?;
    let pool = pool(&configuration, Service::Notifier)?;
    let now = configuration.settings.clock().now();
    match command {
        Command::List { merchant, options } => {
            let list = store::list(&pool, merchant.as_deref(), Some(options.limit)).await?;
            if options.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else {
                let row = |l: store::Listed| {
                    let since = l.created_at.to_jiff().strftime("%Y-%m-%d").to_string();
                    vec![l.merchant, l.channel, l.subject, l.reason, since, l.source]
                };
                let header = ["MERCHANT", "CHANNEL", "WHO", "REASON", "SINCE", "SOURCE"];
                print_table(&header, &list.into_iter().map(row).collect::<Vec<_>>());
            }
        }
        Command::Add { target, reason, by } => {
            if !REASONS.contains(&reason.as_str()) {
                bail!("--reason {reason:?} is not one of {}", REASONS.join(", "));
            }
            let (merchant, channel, subject) = target.read(&configuration)?;
            let entry = Entry { merchant, channel, subject, reason, source: format!("operator {by}"), since: None };
            let mut tx = pool.begin().await?;
            let added = store::add(&mut tx, &[entry], &by, now).await?;
            tx.commit().await?;
            println!("{}", if added == 0 { "was on the list already" } else { "added" });
        }
        Command::Remove { target, reason, by } => {
            let (merchant, channel, subject) = target.read(&configuration)?;
            let mut tx = pool.begin().await?;
            let removed = store::remove(&mut tx, (&merchant, channel), &subject.stored(), &by, &reason, now).await?;
            tx.commit().await?;
            if !removed {
                bail!("is not on the list");
            }
            println!("removed");
        }
        Command::Export { merchant, file } => export(&pool, merchant.as_deref(), file.as_deref()).await?,
        Command::Import { file, dry_run, by } => {
            let (entries, faults) = read_file(&configuration, &file)?;
            if !faults.is_empty() {
                faults.iter().for_each(|fault| eprintln!("{fault}"));
                eprintln!("{}: {} fault(s); nothing was changed", file.display(), faults.len());
                return Ok(ExitCode::FAILURE);
            }
            let mut tx = pool.begin().await?;
            let added = store::add(&mut tx, &entries, &by, now).await?;
            let known = entries.len() as u64 - added;
            if dry_run {
                println!("{}: {added} would be added, {known} known already; nothing was changed", file.display());
            } else {
                tx.commit().await?;
                println!("{}: {added} added, {known} known already", file.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(pool: &sqlx::PgPool, merchant: Option<&str>, file: Option<&Path>) -> anyhow::Result<()> {
    let list = store::list(pool, merchant, None).await?;
    let to: Box<dyn std::io::Write> = match file {
        Some(path) => Box::new(std::fs::File::create(path).with_context(|| path.display().to_string())?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(COLUMNS)?;
    for entry in list {
        let customer = entry.subject.strip_prefix("customer:").unwrap_or_default();
        let address = entry.subject.strip_prefix("address:").unwrap_or_default();
        // Of somebody erased, nothing is left that another system could use.
        if !(customer.is_empty() && address.is_empty()) {
            let date = entry.created_at.to_jiff().to_string();
            writer.write_record([
                &entry.merchant,
                &entry.channel,
                customer,
                address,
                &entry.reason,
                &entry.source,
                &date,
            ])?;
        }
    }
    Ok(writer.flush()?)
}

/// All rows of a file, and what is wrong with which line and column.
fn read_file(configuration: &Configuration, file: &Path) -> anyhow::Result<(Vec<Entry>, Vec<String>)> {
    let reader = csv::ReaderBuilder::new().flexible(true).from_path(file);
    let mut reader = reader.with_context(|| file.display().to_string())?;
    let header: Vec<String> = reader.headers()?.iter().map(|h| h.trim().to_ascii_lowercase()).collect();
    if let Some(unknown) = header.iter().find(|name| !COLUMNS.contains(&name.as_str())) {
        bail!("{}: column {unknown:?} is not one of {}", file.display(), COLUMNS.join(", "));
    }
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let column = |name: &str| header.iter().position(|known| known == name);
        let cell = |name: &str| column(name).and_then(|n| record.get(n)).unwrap_or_default().trim().to_owned();
        let mut fault =
            |field: &str, problem: &str| faults.push(format!("{}:{line}: {field}: {problem}", file.display()));
        match read_row(cell) {
            Ok(entry) if configuration.merchants.get(&entry.merchant).is_none() => {
                fault("merchant", "there is no such merchant in the configuration");
            }
            Ok(entry) => entries.push(entry),
            Err((field, problem)) => fault(field, &problem),
        }
    }
    Ok((entries, faults))
}
