//! `dunlin hold`, `release`, `skip`, `send-now`: what operators do about running cases, on the scheduler's tables.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use crate::settings::Configuration;
use anyhow::Context;
use bus::Work;
use events::Service;
use events::topology::SCHEDULER_OPERATIONS;
use jiff::civil::Date;
use kernel::MerchantId;
use scheduler::operations::store::Which;
use scheduler::operations::{self, Denied, OpenHold, Operator, Target};
use scheduler::rules::{Rules, Sources};
use scheduler::store::InvoiceKey;
use sqlx::PgPool;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code of an operation that something stands in the way of: the same call may work later.
const REFUSED: u8 = 3;
/// The same as clap's, for what only the tables can tell.
const WRONG_USAGE: u8 = 2;

const HOLD_EXAMPLES: &str = "\
Examples:
  dunlin hold place acme/in_123 --reason \"asked for a copy\"                    until somebody releases it
  dunlin hold place acme/in_123 --until 2026-12-24 --reason \"on holiday\"       ends by itself
  dunlin hold place acme/in_123 --until 2026-12-24 --promise --reason \"phoned\" promised to pay by then
  dunlin hold place --customer acme/cus_9 --reason \"new contact person\"        all invoices, also future ones
  dunlin hold list --waiting                                                   what waits for a person";

/// Keep reminders back, and list what does.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = HOLD_EXAMPLES)]
pub enum HoldCommand {
    /// Keep the reminders of an invoice or a customer back.
    #[command(after_help = HOLD_EXAMPLES)]
    Place {
        /// What to hold.
        #[command(flatten)]
        target: TargetArguments,
        /// The last day, for the payer (YYYY-MM-DD). Without it, the hold lasts until somebody releases it.
        #[arg(long)]
        until: Option<Date>,
        /// The payer promised to pay by that day; after it, steps for broken promises apply.
        #[arg(long, requires = "until")]
        promise: bool,
        /// Who and why.
        #[command(flatten)]
        operator: OperatorArguments,
    },
    /// List what holds, and what waits for a person: holds, disputes, invoices that no reminder is left for.
    List {
        /// Only of this merchant.
        #[arg(long)]
        merchant: Option<MerchantId>,
        /// Only what ends when a person does something.
        #[arg(long)]
        waiting: bool,
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
}

/// Release holds: what is due goes out as planned, as one reminder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dunlin release 17                        one hold, as `dunlin hold list` shows it
  dunlin release acme/in_123               all holds of this invoice by itself
  dunlin release --customer acme/cus_9     all holds of this customer and its invoices")]
pub struct ReleaseArguments {
    /// A hold's number, or `<merchant>/<invoice>` for all of an invoice.
    #[arg(value_name = "HOLD|MERCHANT/INVOICE", required_unless_present = "customer", value_parser = parse_release)]
    which: Option<Which>,
    /// `<merchant>/<customer>`: all holds of the customer and its invoices.
    #[arg(long, value_name = "MERCHANT/CUSTOMER", conflicts_with = "which", value_parser = parse_customer)]
    customer: Option<Target>,
    /// Who.
    #[arg(long, env = "USER", hide_env_values = true)]
    by: String,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Decide that a step of an invoice is never sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  dunlin skip acme/in_123 overdue-7 --reason \"they pay by cheque on Friday\"")]
pub struct SkipArguments {
    /// `<merchant>/<invoice>`.
    #[arg(value_name = "MERCHANT/INVOICE", value_parser = parse_invoice_key)]
    invoice: InvoiceKey,
    /// Key of the step in the campaign, such as overdue-7.
    step: String,
    /// Who and why.
    #[command(flatten)]
    operator: OperatorArguments,
}

/// Send the next step of an invoice now, if nothing stands in the way: open, not held, within gaps, caps, the law and the
/// payer's contact hours.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dunlin send-now acme/in_123 --reason \"asked for it on the phone\"
  dunlin send-now acme/in_123 --step overdue-7 --reason \"last call before the lawyer\"

Exit codes: 0 on its way; 1 failed; 2 wrong usage; 3 refused: something stands in the way.")]
pub struct SendNowArguments {
    /// `<merchant>/<invoice>`.
    #[arg(value_name = "MERCHANT/INVOICE", value_parser = parse_invoice_key)]
    invoice: InvoiceKey,
    /// Key of a step in the campaign; steps before it are merged into it. Without it, the step that comes next.
    #[arg(long)]
    step: Option<String>,
    /// Who and why.
    #[command(flatten)]
    operator: OperatorArguments,
}

/// What to act on.
#[derive(Debug, clap::Args)]
pub struct TargetArguments {
    /// `<merchant>/<invoice>`.
    #[arg(value_name = "MERCHANT/INVOICE", required_unless_present = "customer", value_parser = parse_invoice)]
    invoice: Option<Target>,
    /// `<merchant>/<customer>`: all its invoices, also future ones.
    #[arg(long, value_name = "MERCHANT/CUSTOMER", conflicts_with = "invoice", value_parser = parse_customer)]
    customer: Option<Target>,
}

/// Who acts and why.
#[derive(Debug, clap::Args)]
pub struct OperatorArguments {
    /// Who.
    #[arg(long, env = "USER", hide_env_values = true)]
    by: String,
    /// Why, in words; kept, and shown by `dunlin explain`.
    #[arg(long)]
    reason: String,
}

fn parse_pair<A: std::str::FromStr, B: std::str::FromStr>(text: &str, shape: &str) -> Result<(A, B), String>
where
    A::Err: std::fmt::Display,
    B::Err: std::fmt::Display,
{
    let (merchant, id) = text.split_once('/').ok_or_else(|| format!("give {shape}"))?;
    Ok((merchant.parse().map_err(|e| format!("the merchant {e}"))?, id.parse().map_err(|e| format!("the id {e}"))?))
}

fn parse_invoice_key(text: &str) -> Result<InvoiceKey, String> {
    parse_pair(text, "<merchant>/<invoice>, such as acme/in_123")
}

fn parse_invoice(text: &str) -> Result<Target, String> {
    parse_invoice_key(text).map(Target::Invoice)
}

fn parse_customer(text: &str) -> Result<Target, String> {
    parse_pair(text, "<merchant>/<customer>, such as acme/cus_9").map(Target::Customer)
}

fn parse_release(text: &str) -> Result<Which, String> {
    if text.contains('/') {
        return parse_invoice(text).map(Which::All);
    }
    let number = text.parse().map_err(|_| "give the number of a hold, or <merchant>/<invoice>".to_owned());
    number.map(Which::One)
}

/// What an operator's command works with: the scheduler's tables, and what planning needs to know.
pub struct Desk {
    pool: PgPool,
    /// Merchants, campaigns and the clock.
    pub rules: Rules,
}

impl Desk {
    /// Campaigns are read as they are in force, not from files: a command puts nothing into force.
    pub async fn open(configuration: &Configuration) -> anyhow::Result<Self> {
        let pool = pool(configuration, Service::Scheduler)?;
        let (clock, merchants) = (configuration.settings.clock(), configuration.merchants.clone());
        let sources = Sources { pool: pool.clone(), clock, merchants };
        let rules = Rules::load(sources, &Default::default(), configuration.rules.all_calendars())
            .await
            .context("the scheduler's tables")?;
        Ok(Self { pool, rules })
    }

    /// All versions of a campaign that were ever in force.
    pub async fn versions(&self, campaign: &str) -> anyhow::Result<Vec<String>> {
        let all = scheduler::store::campaigns(&self.pool).await?;
        Ok(all.into_iter().filter(|(name, ..)| name == campaign).map(|(_, version, _)| version).collect())
    }

    /// A unit of work; its events are published by the running scheduler.
    pub async fn begin(&self) -> anyhow::Result<Work> {
        Ok(Work::begin_without_relay(&self.pool, &SCHEDULER_OPERATIONS).await?)
    }
}

/// The exit code of what was done or denied: refused is something else than failed.
fn exit_code(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let Err(error) = outcome else { return Ok(ExitCode::SUCCESS) };
    match error.downcast::<Denied>()? {
        Denied::Refused(refusal) => {
            eprintln!("dunlin: refused: {refusal}");
            Ok(ExitCode::from(REFUSED))
        }
        invalid @ Denied::Invalid { .. } => {
            eprintln!("dunlin: {invalid}");
            Ok(ExitCode::from(WRONG_USAGE))
        }
        other => Err(other.into()),
    }
}

/// `dunlin hold`.
pub async fn hold(config: Option<PathBuf>, command: HoldCommand) -> anyhow::Result<ExitCode> {
    exit_code(place_or_list(config, command).await)
}

async fn place_or_list(config: Option<PathBuf>, command: HoldCommand) -> anyhow::Result<()> {
    let desk = Desk::open(&configuration(config)?).await?;
    let mut work = desk.begin().await?;
    match command {
        HoldCommand::Place { target, until, promise, operator } => {
            let target = target.invoice.or(target.customer).context("give an invoice or a customer")?;
            let operator = Operator::try_new(&operator.by, &operator.reason)?;
            let placed = operations::hold(&desk.rules, &mut work, &target, until, promise, &operator).await?;
            work.commit().await?;
            let end = until.map_or("until somebody releases it".to_owned(), |until| format!("until {until}"));
            println!("hold {} {end}; open invoices that it holds now: {}", placed.id, placed.invoices);
        }
        HoldCommand::List { merchant, waiting, options } => {
            let list = operations::list(&desk.rules, work.tx(), merchant.as_ref(), waiting, options.limit).await?;
            print_holds(&list, options.output)?;
        }
    }
    Ok(())
}

fn print_holds(list: &[OpenHold], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(list)?);
        return Ok(());
    }
    if list.is_empty() {
        println!("nothing is held");
        return Ok(());
    }
    let row = |hold: &OpenHold| {
        let held = hold.invoice.as_ref().map_or_else(|| format!("{} (all)", hold.customer), Clone::clone);
        vec![
            hold.id.map(|id| id.to_string()).unwrap_or_default(),
            hold.kind.as_str().to_owned(),
            format!("{}/{held}", hold.merchant),
            hold.since.map(|at| at.strftime("%Y-%m-%d %H:%M").to_string()).unwrap_or_default(),
            hold.until.map_or_else(|| "waits for a person".to_owned(), |until| until.to_string()),
            hold.by.clone(),
            hold.reason.clone(),
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    print_table(&["HOLD", "KIND", "INVOICE", "SINCE (UTC)", "UNTIL", "BY", "REASON"], &rows);
    Ok(())
}

/// `dunlin release`.
pub async fn release(config: Option<PathBuf>, arguments: ReleaseArguments) -> anyhow::Result<ExitCode> {
    exit_code(released(config, arguments).await)
}

async fn released(config: Option<PathBuf>, arguments: ReleaseArguments) -> anyhow::Result<()> {
    let which =
        arguments.which.or(arguments.customer.map(Which::All)).context("give a hold, an invoice or a customer")?;
    let operator = Operator::try_without_reason(&arguments.by, &arguments.reason)?;
    let desk = Desk::open(&configuration(config)?).await?;
    let mut work = desk.begin().await?;
    let released = operations::release(&desk.rules, &mut work, None, &which, &operator).await?;
    work.commit().await?;
    let numbers: Vec<String> = released.iter().map(i64::to_string).collect();
    println!("released: {}", numbers.join(", "));
    Ok(())
}

/// `dunlin skip`.
pub async fn skip(config: Option<PathBuf>, arguments: SkipArguments) -> anyhow::Result<ExitCode> {
    exit_code(skipped(config, arguments).await)
}

async fn skipped(config: Option<PathBuf>, arguments: SkipArguments) -> anyhow::Result<()> {
    let SkipArguments { invoice, step, operator } = arguments;
    let operator = Operator::try_new(&operator.by, &operator.reason)?;
    let desk = Desk::open(&configuration(config)?).await?;
    let mut work = desk.begin().await?;
    operations::skip(&desk.rules, &mut work, &invoice, &step, &operator).await?;
    work.commit().await?;
    println!("step {step} of {}/{} is skipped", invoice.0, invoice.1);
    Ok(())
}

/// `dunlin send-now`.
pub async fn send_now(config: Option<PathBuf>, arguments: SendNowArguments) -> anyhow::Result<ExitCode> {
    exit_code(sent(config, arguments).await)
}

async fn sent(config: Option<PathBuf>, arguments: SendNowArguments) -> anyhow::Result<()> {
    let SendNowArguments { invoice, step, operator } = arguments;
    let operator = Operator::try_new(&operator.by, &operator.reason)?;
    let desk = Desk::open(&configuration(config)?).await?;
    let mut work = desk.begin().await?;
    let sent = operations::send_now(&desk.rules, &mut work, &invoice, step.as_deref(), &operator).await?;
    work.commit().await?;
    let merged = if sent.merged.is_empty() { String::new() } else { format!(", with {}", sent.merged.join(", ")) };
    println!("step {}{merged} goes out within seconds as reminder {}", sent.step, sent.reminder);
    Ok(())
}
