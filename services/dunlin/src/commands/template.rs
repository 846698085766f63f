//! `dunlin template`: what is wrong with messages, and how they look.

use super::campaign::config_dir;
use super::settings_path;
use anyhow::Context;
use jiff::tz::TimeZone;
use kernel::{Clock, SystemClock};
use notifier::check::Finding;
use notifier::render::Templates;
use notifier::stationery::Stationery;
use runtime::config::Faults;
use runtime::{Merchant, Merchants};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Messages.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// All faults of templates, locales and brands, tried out with sample data, and warnings about what can hardly be meant.
    ///
    /// Exit codes: 0 nothing found, or warnings only; 1 warnings, with --strict; 64 faults.
    Check {
        /// Take warnings for failures.
        #[arg(long)]
        strict: bool,
    },
    /// Write every message in every language as HTML and text, with a gallery to look at them.
    Preview {
        /// Where to.
        #[arg(long)]
        out: PathBuf,
        /// Whose; the first one by default.
        #[arg(long)]
        merchant: Option<String>,
    },
}

/// `dunlin template`.
pub fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    let config_dir = config_dir(&settings_path(config)?)?;
    let mut faults = Faults::default();
    let merchants = Merchants::read(&config_dir, &mut faults);
    let merchants = faults.into_result(Some(merchants))?;
    let templates = Templates::load(&config_dir.join("templates"));
    match command {
        Command::Check { strict } => {
            let findings = match &templates {
                Ok(templates) => check(&config_dir, templates, &merchants),
                Err(error) => error
                    .to_string()
                    .split("; ")
                    .map(|reason| Finding { about: "templates".to_owned(), fault: true, reason: reason.to_owned() })
                    .collect(),
            };
            for finding in &findings {
                let severity = if finding.fault { "fault" } else { "warning" };
                println!("{}: {severity}: {}", finding.about, finding.reason);
            }
            let faults = findings.iter().filter(|finding| finding.fault).count();
            println!("{faults} faults, {} warnings", findings.len() - faults);
            Ok(match (faults, findings.is_empty()) {
                (1.., _) => ExitCode::from(64),
                (0, false) if strict => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            })
        }
        Command::Preview { out, merchant } => {
            let merchant = match &merchant {
                Some(id) => merchants.by_name(id).with_context(|| format!("there is no merchant {id}"))?,
                None => merchants.iter().next().context("there is no merchant: add a YAML file to merchants")?,
            };
            let loaded = Stationery::load(&config_dir, merchant);
            let (stationery, problems) = loaded.map_err(|problems| anyhow::anyhow!("{}", listed(&problems)))?;
            if !problems.is_empty() {
                eprintln!("{}", listed(&problems));
            }
            let count = notifier::preview::write(&out, &templates?, merchant, &stationery)?;
            println!("{count} messages of {}: open {}", merchant.id, out.join("index.html").display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn listed(problems: &[notifier::stationery::Problem]) -> String {
    problems.iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect::<Vec<_>>().join("; ")
}

/// Everything there is to say about messages.
pub fn check(config_dir: &Path, templates: &Templates, merchants: &Merchants) -> Vec<Finding> {
    let mut findings = notifier::check::check(config_dir, templates, merchants);
    findings.extend(merchants.iter().filter_map(required_wording));
    findings.sort();
    findings
}

/// The law's texts are printed in the languages that there are.
fn required_wording(merchant: &Merchant) -> Option<Finding> {
    let today = SystemClock.now().to_zoned(TimeZone::UTC).date();
    let file = &merchant.file;
    let rules = campaign::law::rules(&file.country, file.payers, today)?;
    let locales: BTreeSet<&str> = rules.wording.iter().map(|wording| wording.locale.as_str()).collect();
    let language = |locale: &str| notifier::locale::language(locale).to_ascii_lowercase();
    if locales.is_empty() || locales.iter().any(|locale| language(locale) == language(&file.locale)) {
        return None;
    }
    let there = locales.into_iter().collect::<Vec<_>>().join(", ");
    let reason = format!("{} requires texts that there are in {there} only, not in {}", rules.id, file.locale);
    Some(Finding { about: format!("merchant {}: locale", merchant.id), fault: false, reason })
}
