//! `dunlin campaign migrate`: puts running cases on another version of their campaign.

use super::operations::Desk;
use super::{configuration, print_table};
use crate::cli::Output;
use anyhow::{Context, bail};
use kernel::MerchantId;
use scheduler::config::parse_campaign;
use scheduler::operations::migrate::{self, Migration, Moved, NextStep};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Put running cases on the version in force; they stay on the one they began with until then. Decisions stay, by the key
/// of the step.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dunlin campaign migrate default --dry-run                     what would change, for whom
  dunlin campaign migrate default --merchant acme               those of one merchant
  dunlin campaign migrate default --to 3f9c01ab77d2             back to an earlier version
  dunlin campaign migrate default --to draft.yaml --dry-run     what a file would change that is not in force yet")]
pub struct Arguments {
    /// The campaign: its file's name without the ending.
    campaign: String,
    /// A version (`dunlin explain` shows them), or a file [default: the version in force].
    #[arg(long, value_name = "VERSION|FILE")]
    to: Option<String>,
    /// Only cases of this merchant.
    #[arg(long)]
    merchant: Option<MerchantId>,
    /// Change nothing; print what would change.
    #[arg(long)]
    dry_run: bool,
    /// Who.
    #[arg(long, env = "USER", hide_env_values = true)]
    by: String,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Rows of the table; what is beyond is summed up.
const SHOWN: usize = 50;

/// `dunlin campaign migrate`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let configuration = configuration(config)?;
    let desk = Desk::open(&configuration).await?;
    let to = target(&desk, &arguments).await?;
    let Arguments { campaign, merchant, by, dry_run, output, .. } = arguments;
    let wanted = Migration { campaign, to, merchant, by };
    let (mut all, mut last) = (Vec::new(), None);
    loop {
        let mut work = desk.begin().await?;
        let batch = migrate::migrate(&desk.rules, &mut work, &wanted, last).await?;
        if !dry_run {
            work.commit().await?;
        }
        all.extend(batch.moved);
        last = batch.last;
        if last.is_none() {
            break;
        }
    }
    print(&wanted, &all, dry_run, output)?;
    Ok(ExitCode::SUCCESS)
}

/// The version to put cases on.
async fn target(desk: &Desk, arguments: &Arguments) -> anyhow::Result<String> {
    let (name, rules) = (arguments.campaign.as_str(), &desk.rules);
    let Some(to) = &arguments.to else {
        let in_force = rules.in_force();
        let campaign = in_force.campaigns.get(name);
        return Ok(campaign.with_context(|| format!("no campaign {name:?} was ever in force"))?.version.clone());
    };
    let stored = desk.versions(name).await?;
    let fitting: Vec<&String> = stored.iter().filter(|version| version.starts_with(to.as_str())).collect();
    match fitting.as_slice() {
        [version] => return Ok((*version).clone()),
        [] => {}
        _ => bail!("several versions of {name} begin with {to}: give more of it"),
    }
    let path = Path::new(to);
    if !path.is_file() {
        bail!("{to} is no version of {name} and no file: there are {}", stored.join(", "));
    }
    let text = std::fs::read_to_string(path).with_context(|| to.clone())?;
    let campaign = parse_campaign(&text).with_context(|| to.clone())?;
    let version = campaign.version.clone();
    if !stored.contains(&version) {
        if !arguments.dry_run {
            bail!("{to} was never in force: put it into the configuration directory first, or look with --dry-run");
        }
        rules.know(name, campaign);
    }
    Ok(version)
}

fn print(wanted: &Migration, all: &[Moved], dry_run: bool, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(all)?);
        return Ok(());
    }
    let (campaign, to) = (&wanted.campaign, &wanted.to);
    let verb = if dry_run { "would move" } else { "moved" };
    println!("{} running cases of {campaign} {verb} to version {to}", all.len());
    if all.is_empty() {
        return Ok(());
    }
    let next = |next: &Option<NextStep>| {
        let shown = |next: &NextStep| format!("{} {}", next.step, next.at.strftime("%Y-%m-%d %H:%M"));
        next.as_ref().map_or_else(|| "nothing with a date".to_owned(), shown)
    };
    let changed: Vec<&Moved> =
        all.iter().filter(|m| m.next_before != m.next_after || !m.gone.is_empty() || !m.new.is_empty()).collect();
    println!("{} of them go on as before; times are in UTC\n", all.len() - changed.len());
    let row = |m: &&Moved| {
        vec![
            format!("{}/{}", m.merchant, m.invoice),
            m.from.clone(),
            next(&m.next_before),
            next(&m.next_after),
            m.gone.join(","),
            m.new.join(","),
            m.kept.join(","),
        ]
    };
    let rows: Vec<_> = changed.iter().take(SHOWN).map(row).collect();
    if !rows.is_empty() {
        print_table(&["INVOICE", "FROM", "NEXT BEFORE", "NEXT AFTER", "GONE", "NEW", "DECIDED, KEPT"], &rows);
    }
    if changed.len() > SHOWN {
        println!("and {} more; --output json has all", changed.len() - SHOWN);
    }
    Ok(())
}
