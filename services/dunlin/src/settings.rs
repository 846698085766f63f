//! The settings file: the sections that services share, and one of each service.

use kernel::{SharedClock, SystemClock, TimeLapse};
use notifier::channel::sms::texts::Texts;
use notifier::render::Templates;
use notifier::stationery::Stationery;
use runtime::Merchants;
use runtime::config::{At, Document, Fault, Faults, Validate};
use runtime::settings::{CommonSettings, LinkSettings, NatsSettings, PostgresSettings, TelemetrySettings};
use scheduler::config::RuleFiles;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// dunlin's settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory with `merchants/`, `campaigns/` and, if you have your own, `templates/`; relative to this file.
    pub config_dir: PathBuf,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[schemars(schema_with = "runtime::config::address")]
    pub admin_listen: SocketAddr,
    /// Postgres.
    pub postgres: PostgresSettings,
    /// NATS.
    pub nats: NatsSettings,
    /// Links in messages.
    pub links: LinkSettings,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: TelemetrySettings,
    /// For demos and soak tests only: business time that runs faster than the machine's.
    pub time_lapse: Option<TimeLapse>,
    /// Takes what processors say.
    pub ingest: ingest::Config,
    /// Decides when a reminder is due.
    #[serde(default)]
    pub scheduler: scheduler::Config,
    /// Knows how each customer pays.
    #[serde(default)]
    pub segmenter: segmenter::Config,
    /// Sends.
    pub notifier: notifier::Config,
    /// Shows what worked.
    pub tracker: tracker::Config,
}

impl Validate for Settings {
    fn validate(&self, at: &mut At<'_>) {
        self.postgres.validate(&mut at.below("postgres"));
        self.nats.validate(&mut at.below("nats"));
        self.links.validate(&mut at.below("links"));
        self.telemetry.validate(&mut at.below("telemetry"));
        self.ingest.validate(&mut at.below("ingest"));
        self.scheduler.validate(&mut at.below("scheduler"));
        self.segmenter.validate(&mut at.below("segmenter"));
        self.notifier.validate(&mut at.below("notifier"));
        self.tracker.validate(&mut at.below("tracker"));
    }
}

impl Settings {
    /// What services share.
    pub fn common(&self) -> CommonSettings {
        CommonSettings { postgres: self.postgres.clone(), nats: self.nats.clone(), links: self.links.clone() }
    }

    /// The clock of business time.
    pub fn clock(&self) -> SharedClock {
        match self.time_lapse {
            Some(lapse) => Arc::new(lapse),
            None => Arc::new(SystemClock),
        }
    }

    /// The user that may create roles and schemas.
    pub fn admin_url(&self) -> &str {
        self.postgres.admin_url.as_ref().unwrap_or(&self.postgres.url).reveal()
    }
}

/// Settings with everything they lead to.
pub struct Configuration {
    /// The file.
    pub settings: Settings,
    /// Merchants.
    pub merchants: Arc<Merchants>,
    /// Campaigns and calendars. Their faults keep nothing from running: what was in force before stays so.
    pub rules: RuleFiles,
}

impl Configuration {
    /// Reads the settings file and the configuration directory, and checks all of it: on faults reports all of all files at
    /// once.
    pub fn check(path: &Path) -> Result<Self, Faults> {
        let configuration = Self::load(path)?;
        let mut faults = configuration.rules.faults.clone();
        let config_dir = &configuration.settings.config_dir;
        if let Ok(templates) = configuration.templates() {
            let findings = notifier::check::check(config_dir, &templates, &configuration.merchants);
            for finding in findings.into_iter().filter(|finding| finding.fault) {
                faults.0.push(fault(config_dir, &finding.about, finding.reason));
            }
        }
        faults.into_result(Some(configuration))
    }

    /// The same for running: faults of campaigns and calendars are kept in `rules`.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let document = Document::read(path).map_err(|fault| Faults(vec![fault]))?;
        let document = document.override_from::<Settings>(std::env::vars());
        // Looked up before the check: faults of the settings must not hide those of the files that they lead to.
        let config_dir = document.text("config_dir").map(|name| path.parent().unwrap_or(Path::new(".")).join(name));
        let settings: Option<Settings> = document.check(&mut faults);
        let Some(config_dir) = config_dir else { return Err(faults) };
        let merchants = Merchants::read(&config_dir, &mut faults);
        let rules = RuleFiles::read(&config_dir);
        check_references(&config_dir, &merchants, &rules, &mut faults);
        if let Err(error) = Texts::load(&config_dir.join("sms")) {
            faults.0.push(fault(&config_dir.join("sms"), "", error));
        }
        if settings.as_ref().is_some_and(|settings| settings.notifier.sms.is_none()) {
            check_providers(&config_dir, &merchants, &mut faults);
        }
        if let Err(error) = Templates::load(&config_dir.join("templates")) {
            faults.0.push(fault(&config_dir.join("templates"), "", error));
        }
        // What messages cannot be made without. What they can go without keeps nothing from running.
        for merchant in merchants.iter() {
            for problem in Stationery::load(&config_dir, merchant).err().into_iter().flatten() {
                let file = config_dir.join("merchants").join(format!("{}.yaml", merchant.id));
                faults.0.push(fault(&file, &problem.key, problem.reason));
            }
        }
        let settings = settings.map(|settings| Settings { config_dir, ..settings });
        if !faults.0.is_empty() {
            faults.0.extend(rules.faults.0.iter().cloned());
        }
        faults.into_result(settings.map(|settings| Self { settings, merchants: Arc::new(merchants), rules }))
    }

    /// The compiled templates.
    pub fn templates(&self) -> anyhow::Result<Templates> {
        Templates::load(&self.settings.config_dir.join("templates"))
    }
}

/// Names that must lead somewhere.
fn check_references(config_dir: &Path, merchants: &Merchants, rules: &RuleFiles, faults: &mut Faults) {
    for merchant in merchants.iter() {
        let file = config_dir.join("merchants").join(format!("{}.yaml", merchant.id));
        for (n, campaign) in merchant.file.campaigns.iter().enumerate() {
            if !rules.names.contains(campaign) {
                let reason = format!("there is no campaigns/{campaign}.yaml");
                faults.0.push(fault(&file, &format!("campaigns.{n}"), reason));
            }
        }
    }
    if merchants.iter().next().is_none() && faults.0.is_empty() {
        faults.0.push(fault(&config_dir.join("merchants"), "", "there is no merchant: add a YAML file"));
    }
}

/// Where there is no account for all, each merchant that sends text messages needs its own.
fn check_providers(config_dir: &Path, merchants: &Merchants, faults: &mut Faults) {
    for merchant in merchants.iter().filter(|m| m.file.sms.as_ref().is_some_and(|sms| sms.provider.is_none())) {
        let file = config_dir.join("merchants").join(format!("{}.yaml", merchant.id));
        faults.0.push(fault(
            &file,
            "sms.provider",
            "is missing, and so is notifier.sms in the settings: add one of them",
        ));
    }
}

fn fault(file: &Path, path: &str, reason: impl std::fmt::Display) -> Fault {
    Fault { file: file.display().to_string(), line: None, path: path.to_owned(), reason: reason.to_string() }
}
