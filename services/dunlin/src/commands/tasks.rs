//! `dunlin tasks`: the call list.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use bus::Work;
use events::Service;
use events::topology::NOTIFIER_OPERATIONS;
use events::v1::TaskOutcome;
use jiff::civil::Date;
use kernel::{Currency, Masked, MerchantId, Money};
use notifier::task::store::TaskRow;
use notifier::task::{self, Done};
use std::path::PathBuf;
use uuid::Uuid;

/// The call list: reminders that a person carries out.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  dunlin tasks list --merchant acme
  dunlin tasks done 0190a0c8-… --outcome promised --until 2026-12-24 --by anna
  dunlin tasks done 0190a0c8-… --outcome no_answer --by anna                the campaign goes on

What follows: promised holds the invoices until that day; paid for a week; disputed and wrong_person until somebody releases
them; anything else changes nothing.")]
pub enum Command {
    /// Whom to call, the longest waiting first. Personal. A task of which nothing is owed any more is closed already.
    List {
        /// Only of this merchant.
        #[arg(long)]
        merchant: Option<MerchantId>,
        /// Closed ones too.
        #[arg(long)]
        all: bool,
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Say how a call went.
    Done {
        /// The task's id.
        id: Uuid,
        /// How it went.
        #[arg(long, value_enum)]
        outcome: Outcome,
        /// The day by which the payer promised to pay (YYYY-MM-DD).
        #[arg(long)]
        until: Option<Date>,
        /// For whoever reads it later. It stays in the notifier.
        #[arg(long, default_value = "")]
        note: String,
        /// Who called.
        #[arg(long, env = "USER", hide_env_values = true)]
        by: String,
    },
}

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Outcome {
    /// Somebody was reached; nothing was agreed.
    Reached,
    /// The payer promised to pay by a day.
    Promised,
    /// The payer says that it is paid.
    Paid,
    /// The payer says that something is wrong.
    Disputed,
    /// Whoever answered is not the payer.
    WrongPerson,
    /// Nobody answered.
    NoAnswer,
    /// A machine answered.
    Voicemail,
}

impl From<Outcome> for TaskOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Reached => Self::Reached,
            Outcome::Promised => Self::Promised,
            Outcome::Paid => Self::Paid,
            Outcome::Disputed => Self::Disputed,
            Outcome::WrongPerson => Self::WrongPerson,
            Outcome::NoAnswer => Self::NoAnswer,
            Outcome::Voicemail => Self::Voicemail,
        }
    }
}

/// `dunlin tasks`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let pool = pool(&configuration, Service::Notifier)?;
    match command {
        Command::List { merchant, all, options } => {
            let merchant = merchant.as_ref().map(MerchantId::as_str);
            let list = task::store::list(&pool, merchant, all, options.limit).await?;
            if options.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else if list.is_empty() {
                println!("nobody has to be called");
            } else {
                print(list);
            }
        }
        Command::Done { id, outcome, until, note, by } => {
            let done = Done { outcome: outcome.into(), until, note: Masked::new(note), by };
            let mut work = Work::begin_without_relay(&pool, &NOTIFIER_OPERATIONS).await?;
            task::close(&mut work, id, &done, configuration.settings.clock().now()).await?;
            work.commit().await?;
            println!("{id}: {}", task::outcome_name(outcome.into()));
        }
    }
    Ok(())
}

fn print(list: Vec<TaskRow>) {
    let row = |task: TaskRow| {
        let owed = Currency::try_new(&task.currency).map(|c| Money::new(task.open_minor, c).to_string());
        let reach = [task.phone, task.email].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        let state = [task.outcome, task.closed_by].join(" ").trim().to_owned();
        vec![
            task.id.to_string(),
            format!("{}/{}", task.merchant, task.customer),
            task.name,
            reach,
            owed.unwrap_or_default(),
            task.numbers.join(","),
            task.call_from.to_jiff().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            task.call_until.to_jiff().strftime("%H:%M").to_string(),
            task.reason,
            state,
        ]
    };
    let rows: Vec<_> = list.into_iter().map(row).collect();
    print_table(
        &["TASK", "CUSTOMER", "NAME", "REACH", "OWED", "INVOICES", "FROM", "UNTIL", "REASON", "OUTCOME"],
        &rows,
    );
}
