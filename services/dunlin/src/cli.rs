//! The command line.

use crate::{commands, dev};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Payment reminders that arrive at the right time and stop when the payment arrives.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Settings file [default: $DUNLIN_CONFIG, ./dunlin.yaml, or the running `dunlin dev`].
    #[arg(long, short, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  dunlin dev                             an empty system on this machine, ready for use
  dunlin dev --demo                      the same with 90 days in two minutes
  dunlin explain acme/in_123             why an invoice was reminded, or was not
  dunlin import ledger.csv --merchant acme --currency EUR --dry-run
  dunlin plan --output calendar           what will go out in the next 30 days
  dunlin backtest --campaign new.yaml --ledger ledger.csv --currency EUR --html report.html
  dunlin payer evaluate --ledger ledger.csv  how well its payments could have been foreseen
  dunlin simulate                        policies of reminding among simulated payers
  dunlin campaign check --strict         all faults and warnings of campaigns, for CI
  dunlin template preview --out look      every message in every language, to look at
  dunlin hold list --waiting             what waits for a person
  dunlin dead-letters list               what needs an operator

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused, since something stands in the way; 64 faults in the configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one service, as in production.
    Run(commands::run::Arguments),
    /// Run everything on this machine: servers, services, a mail catcher. Not for production.
    Dev(dev::Arguments),
    /// Create or update schemas, roles, streams and durables.
    Migrate,
    /// Check the settings and all files of the configuration directory.
    Check,
    /// Check campaigns with everything they refer to, say what differs between two, put running cases on another version.
    #[command(subcommand)]
    Campaign(commands::campaign::Command),
    /// Check messages in every language, and write previews of them.
    #[command(subcommand)]
    Template(commands::template::Command),
    /// Say what this machine is missing, and how to get it.
    Doctor,
    /// Bring invoices (and payments already known) in from CSV.
    Import(commands::import::Arguments),
    /// Run a campaign over recorded history: what it would have sent, and to whom in vain.
    Backtest(commands::backtest::Arguments),
    /// Say how well payments can be foreseen, and what is known of one payer.
    #[command(subcommand)]
    Payer(commands::payer::Command),
    /// Compare policies of reminding among simulated payers, at an equal number of messages.
    Simulate(commands::simulate::Arguments),
    /// Say what will go out in the next 30 days, to whom, when and why; and what will not, and why not.
    Plan(commands::plan::Arguments),
    /// Tell the story of an invoice: events, decisions with reasons, reminders, outcomes.
    Explain(commands::explain::Arguments),
    /// Keep reminders back, and list what does.
    #[command(subcommand)]
    Hold(commands::operations::HoldCommand),
    /// Release holds.
    Release(commands::operations::ReleaseArguments),
    /// Decide that a step of an invoice is never sent.
    Skip(commands::operations::SkipArguments),
    /// Send the next step of an invoice now, if nothing stands in the way.
    SendNow(commands::operations::SendNowArguments),
    /// Events that a service gave up.
    #[command(subcommand)]
    DeadLetters(commands::dead_letters::Command),
    /// Messages from outside that make no sense.
    #[command(subcommand)]
    Quarantine(commands::quarantine::Command),
    /// Reminders on their way, and what payers saw.
    #[command(subcommand)]
    Deliveries(commands::deliveries::Command),
    /// Sending domains that are kept from sending, since too much of their mail bounced or was complained about.
    #[command(subcommand)]
    Breaker(commands::breaker::Command),
    /// The call list: reminders that a person carries out.
    #[command(subcommand)]
    Tasks(commands::tasks::Command),
    /// What is kept of a person, and the end of it.
    #[command(subcommand)]
    Customer(commands::customer::Command),
    /// Mail that comes back: bounces, complaints, answers.
    #[command(subcommand)]
    Inbound(commands::inbound::Command),
    /// Who is not written to.
    #[command(subcommand)]
    Suppression(commands::suppression::Command),
    /// Calls of merchants' own systems that wait or have failed.
    #[command(subcommand)]
    Webhooks(commands::webhooks::Command),
    /// Publish a window of a service's outbox again.
    Replay(commands::replay::Arguments),
    /// Ask a running service for its health; for containers without a shell.
    Healthcheck(commands::healthcheck::Arguments),
    /// Print the OpenAPI document of the tracker.
    Openapi,
    /// Write what is generated from the code: event map, nats.conf, JSON Schemas.
    #[command(hide = true)]
    Generate(commands::generate::Arguments),
}

/// Output of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Options of all lists.
#[derive(Debug, Clone, Args)]
pub struct ListOptions {
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    pub output: Output,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub limit: i64,
}

impl Cli {
    /// Does what was asked.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.config;
        match self.command {
            Command::Run(arguments) => commands::run::run(config, arguments).await?,
            Command::Dev(arguments) => return dev::run(config, arguments).await,
            Command::Migrate => commands::run::migrate(config).await?,
            Command::Check => commands::run::check(config)?,
            Command::Campaign(command) => return commands::campaign::run(config, command).await,
            Command::Template(command) => return commands::template::run(config, command),
            Command::Doctor => return Ok(commands::doctor::run()),
            Command::Import(arguments) => return commands::import::run(config, arguments).await,
            Command::Backtest(arguments) => return commands::backtest::run(config, arguments).await,
            Command::Payer(command) => return commands::payer::run(config, command).await,
            Command::Simulate(arguments) => commands::simulate::run(&arguments)?,
            Command::Plan(arguments) => commands::plan::run(config, arguments).await?,
            Command::Explain(arguments) => commands::explain::run(config, arguments).await?,
            Command::Hold(command) => return commands::operations::hold(config, command).await,
            Command::Release(arguments) => return commands::operations::release(config, arguments).await,
            Command::Skip(arguments) => return commands::operations::skip(config, arguments).await,
            Command::SendNow(arguments) => return commands::operations::send_now(config, arguments).await,
            Command::DeadLetters(command) => commands::dead_letters::run(config, command).await?,
            Command::Quarantine(command) => commands::quarantine::run(config, command).await?,
            Command::Deliveries(command) => commands::deliveries::run(config, command).await?,
            Command::Breaker(command) => commands::breaker::run(config, command).await?,
            Command::Tasks(command) => commands::tasks::run(config, command).await?,
            Command::Customer(command) => return commands::customer::run(config, command).await,
            Command::Inbound(command) => commands::inbound::run(config, command).await?,
            Command::Suppression(command) => return commands::suppression::run(config, command).await,
            Command::Webhooks(command) => commands::webhooks::run(config, command).await?,
            Command::Replay(arguments) => commands::replay::run(config, arguments).await?,
            Command::Healthcheck(arguments) => commands::healthcheck::run(arguments).await?,
            Command::Openapi => println!("{}", serde_json::to_string_pretty(&tracker::api::openapi())?),
            Command::Generate(arguments) => return commands::generate::run(arguments),
        }
        Ok(ExitCode::SUCCESS)
    }
}
