//! `dunlin simulate`: what policies of reminding bring in simulated worlds, compared at an equal number of messages.

use super::write_file;
use payer::simulate::{Setup, SimulationReport, simulate};
use payer::world::{Population, Response};
use std::path::PathBuf;

/// Compare policies among simulated payers.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Who is invoiced.
    #[arg(long, value_enum, default_value = "consumers")]
    world: Who,
    /// How strongly payers respond to a reminder: this is assumed.
    #[arg(long, value_enum, default_value = "medium")]
    response: How,
    /// How many payers each world has.
    #[arg(long, default_value_t = 2_500, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    customers: u32,
    /// How many worlds: figures are means over all.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    worlds: u8,
    /// Of the first world; the others have the next ones.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Write the report with plots into this file: one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

const HELP: &str = "\
The payers are simulated, and how they respond to reminders is assumed; the report lists the assumptions. It says which policy
does better if payers are like that, never what reminders bring to you: that is what the lift report is for.

Examples:
  dunlin simulate
  dunlin simulate --world businesses --response weak
  dunlin simulate --customers 500 --worlds 1 --html report.html

Exit codes: 0 done; 1 failed.";

/// Who is invoiced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    /// World A: three in four pay on time.
    Consumers,
    /// World B: not quite half pay on time.
    Businesses,
}

/// How strongly they respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// As a meta-analysis of nudges says.
    Weak,
    /// As trials with text messages say.
    Medium,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `dunlin simulate`.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let report: SimulationReport = simulate(&Setup {
        population: match arguments.world {
            Who::Consumers => Population::Consumers,
            Who::Businesses => Population::Businesses,
        },
        response: match arguments.response {
            How::Weak => Response::Weak,
            How::Medium => Response::Medium,
        },
        customers: usize::try_from(arguments.customers)?,
        seeds: u64::from(arguments.seed)..u64::from(arguments.seed) + u64::from(arguments.worlds),
    });
    if let Some(path) = &arguments.html {
        write_file(path, &report.page())?;
    }
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => println!("{report}"),
    }
    if let (Output::Text, Some(path)) = (arguments.output, &arguments.html) {
        println!("\nplots: {}", path.display());
    }
    Ok(())
}
