//! `dunlin campaign`: what is wrong with campaigns, what differs between two, and running cases on another version.

use super::{campaign_migrate, configuration, pool, settings_path};
use crate::cli::Output;
use crate::settings::Settings;
use anyhow::{Context, bail};
use campaign::CampaignFile;
use campaign::check::{About, Finding, Input, Merchant, Severity};
use events::Service;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{Clock, SystemClock};
use notifier::render::Templates;
use runtime::Merchants;
use runtime::config::{Document, Fault, Faults};
use scheduler::config::{CampaignDocument, RuleFiles};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Campaigns.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// All faults of campaigns, calendars, merchants and templates, and warnings about what can hardly be meant.
    ///
    /// Exit codes: 0 nothing found, or warnings only; 1 warnings, with --strict; 64 faults.
    Check {
        /// Take warnings for failures.
        #[arg(long)]
        strict: bool,
        /// How to print.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// What differs between two campaigns, in words.
    ///
    /// Each is a file, or <name>@<version> of one that was in force.
    Diff {
        /// Before.
        a: String,
        /// After.
        b: String,
    },
    /// Put running cases on the version in force; they stay on the one they began with until then.
    Migrate(campaign_migrate::Arguments),
}

/// `dunlin campaign`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check { strict, output } => {
            let today = SystemClock.now().to_zoned(TimeZone::UTC).date();
            let found = check(&config_dir(&settings_path(config)?)?, today);
            print(&found, output)?;
            Ok(exit_code(&found, strict))
        }
        Command::Diff { a, b } => {
            let (before, after) = (read(&config, &a).await?, read(&config, &b).await?);
            let changes = campaign::diff::diff(&before, &after);
            say(if changes.is_empty() { "They say the same.".to_owned() } else { changes.join("\n") });
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate(arguments) => campaign_migrate::run(config, arguments).await,
    }
}

/// One line of the report.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    file: String,
    line: Option<usize>,
    path: String,
    severity: &'static str,
    reason: String,
}

impl Line {
    fn of(fault: Fault) -> Self {
        let Fault { file, line, path, reason } = fault;
        Self { file, line, path, severity: Severity::Fault.as_str(), reason }
    }
}

/// The configuration directory that a settings file names.
pub fn config_dir(settings: &Path) -> anyhow::Result<PathBuf> {
    let document = Document::read(settings).map_err(|fault| Faults(vec![fault]))?;
    let document = document.override_from::<Settings>(std::env::vars());
    let name = document.text("config_dir").with_context(|| format!("{} has no config_dir", settings.display()))?;
    Ok(settings.parent().unwrap_or(Path::new(".")).join(name))
}

/// Checks a configuration directory as of a day.
pub fn check(config_dir: &Path, today: Date) -> Vec<Line> {
    let mut faults = Faults::default();
    let merchants = Merchants::read(config_dir, &mut faults);
    let rules = RuleFiles::read(config_dir);
    faults.0.extend(rules.faults.0.iter().cloned());
    let templates = Templates::load(&config_dir.join("templates"));
    if let Err(error) = &templates {
        let file = config_dir.join("templates").display().to_string();
        faults.0.push(Fault { file, line: None, path: String::new(), reason: error.to_string() });
    }
    let templates = templates.ok().map(|templates| {
        let set = templates.of("");
        let locales = |name: &str| set.locales(name).map(str::to_owned).collect();
        set.names().map(|name| (name.to_owned(), locales(name))).collect::<BTreeMap<_, BTreeSet<String>>>()
    });
    let files = Files { directory: config_dir, documents: documents(config_dir) };
    let campaigns: BTreeMap<String, CampaignFile> =
        rules.campaigns.iter().filter_map(|(name, (_, text))| Some((name.clone(), parse(name, text).ok()?))).collect();
    let merchants: Vec<Merchant> = merchants.iter().map(of_merchant).collect();
    let input = Input {
        campaigns: &campaigns,
        unread: &rules.names.iter().filter(|name| !campaigns.contains_key(*name)).cloned().collect(),
        merchants: &merchants,
        calendars: &rules.all_calendars(),
        templates: templates.as_ref(),
        today,
    };
    let findings = campaign::check::check(&input).into_iter().map(|finding| files.locate(finding));
    let lines: BTreeSet<Line> = faults.0.into_iter().map(Line::of).chain(findings).collect();
    lines.into_iter().collect()
}

fn of_merchant(merchant: &runtime::merchant::Merchant) -> Merchant {
    let file = &merchant.file;
    Merchant {
        id: merchant.id.as_str().to_owned(),
        campaigns: file.campaigns.clone(),
        zone: file.time_zone.clone(),
        locale: file.locale.clone(),
        country: file.country.clone(),
        payers: file.payers,
        webhook: file.webhook.is_some(),
        sms: file.sms.is_some(),
    }
}

/// The files, for the lines of what is found.
struct Files<'a> {
    directory: &'a Path,
    /// By directory and name.
    documents: BTreeMap<(&'static str, String), (PathBuf, Document)>,
}

fn documents(config_dir: &Path) -> BTreeMap<(&'static str, String), (PathBuf, Document)> {
    let mut documents = BTreeMap::new();
    for kind in ["campaigns", "merchants", "calendars"] {
        // What cannot be read has been reported already.
        for path in runtime::merchant::yaml_files(&config_dir.join(kind), &mut Faults::default()) {
            let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
            if let Ok(document) = Document::read(&path) {
                documents.insert((kind, name), (path, document));
            }
        }
    }
    documents
}

impl Files<'_> {
    fn locate(&self, finding: Finding) -> Line {
        let Finding { severity, about, path, reason } = finding;
        let (kind, name) = match &about {
            About::Campaign(name) => ("campaigns", name),
            About::Merchant(name) => ("merchants", name),
            About::Calendar(name) => ("calendars", name),
        };
        let known = self.documents.get(&(kind, name.clone()));
        let file = match known {
            Some((file, _)) => file.display().to_string(),
            None if kind == "calendars" => format!("the built-in calendar {name}"),
            None => self.directory.join(kind).join(format!("{name}.yaml")).display().to_string(),
        };
        let line = known.and_then(|(_, document)| document.line(&path));
        Line { file, line, path, severity: severity.as_str(), reason }
    }
}

fn print(found: &[Line], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        say(serde_json::to_string_pretty(found)?);
        return Ok(());
    }
    for Line { file, line, path, severity, reason } in found {
        let line = line.map(|n| format!(":{n}")).unwrap_or_default();
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        say(format!("{file}{line}: {severity}: {path}{reason}"));
    }
    let of = |severity: Severity| {
        let n = found.iter().filter(|line| line.severity == severity.as_str()).count();
        campaign::words::count(n as u64, severity.as_str())
    };
    say(format!("{}, {}", of(Severity::Fault), of(Severity::Warning)));
    Ok(())
}

/// Whoever reads may stop reading: the exit code still tells.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn exit_code(found: &[Line], strict: bool) -> ExitCode {
    if found.iter().any(|line| line.severity == Severity::Fault.as_str()) {
        ExitCode::from(64)
    } else if strict && !found.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Reads a campaign: a file, or a stored version.
async fn read(config: &Option<PathBuf>, name: &str) -> anyhow::Result<CampaignFile> {
    if Path::new(name).is_file() {
        return parse(name, &std::fs::read_to_string(name).with_context(|| name.to_owned())?);
    }
    let Some((campaign, version)) = name.split_once('@') else {
        bail!("{name} is no file; a stored campaign is <name>@<version>");
    };
    let pool = pool(&configuration(config.clone())?, Service::Scheduler)?;
    let text = scheduler::store::campaign_text(&pool, campaign, version).await?;
    parse(name, &text.with_context(|| format!("campaign {campaign} never had a version {version} in force"))?)
}

fn parse(name: &str, text: &str) -> anyhow::Result<CampaignFile> {
    let mut faults = Faults::default();
    let document = Document::parse(Path::new(name), text).map_err(|fault| Faults(vec![fault]))?;
    let file: Option<CampaignDocument> = document.check(&mut faults);
    Ok(faults.into_result(file)?.0)
}
