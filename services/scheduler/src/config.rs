//! The scheduler's section of the settings, and the files that its rules come from: campaigns and calendars.

use campaign::calendar::{Calendar, CalendarFile};
use campaign::{Calendars, Campaign, CampaignFile, PAYERS_CALENDAR};
use runtime::config::{At, Document, Fault, Faults, Validate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The scheduler's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often due timers are looked for, in milliseconds.
    pub tick_milliseconds: u32,
    /// How often the files of campaigns and calendars are looked at, in seconds: what changed comes into force.
    pub reload_seconds: u32,
    /// Where operators' tools hold, release, skip and send by gRPC; nowhere if left out.
    #[schemars(schema_with = "runtime::config::address")]
    pub grpc_listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick_milliseconds: 100, reload_seconds: 5, grpc_listen: None }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        if !(1..=60_000).contains(&self.tick_milliseconds) {
            at.fault("tick_milliseconds", "must lie between 1 and 60000");
        }
        if !(1..=3_600).contains(&self.reload_seconds) {
            at.fault("reload_seconds", "must lie between 1 and 3600");
        }
    }
}

/// A campaign file as a document of the configuration.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CampaignDocument(pub CampaignFile);

impl Validate for CampaignDocument {
    fn validate(&self, at: &mut At<'_>) {
        // The text only makes the version, which plays no part in what is wrong.
        for fault in Campaign::try_new(&self.0, "").err().into_iter().flatten() {
            at.fault(&fault.path, fault.reason);
        }
    }
}

/// A calendar file as a document of the configuration.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CalendarDocument(pub CalendarFile);

impl Validate for CalendarDocument {
    fn validate(&self, at: &mut At<'_>) {
        for fault in Calendar::try_new(&self.0).err().into_iter().flatten() {
            at.fault(&fault.path, fault.reason);
        }
    }
}

/// Campaigns by file name, each with its text.
pub type Campaigns = BTreeMap<String, (Campaign, String)>;

/// The files that rules come from: `<config_dir>/campaigns/*.yaml` and, if there are any, `<config_dir>/calendars/*.yaml`.
#[derive(Debug, Clone, Default)]
pub struct RuleFiles {
    /// The configuration directory.
    pub directory: PathBuf,
    /// The campaigns without a fault.
    pub campaigns: Campaigns,
    /// The names of all campaign files, those with faults too.
    pub names: BTreeSet<String>,
    /// The merchants' own calendars; one with a fault knows no year.
    pub calendars: BTreeMap<String, Arc<Calendar>>,
    /// All that is wrong with any of them.
    pub faults: Faults,
    /// How they looked just before they were read.
    pub fingerprint: Fingerprint,
}

/// Names, sizes and times of files: when they change, the files are read again.
pub type Fingerprint = Vec<(PathBuf, u64, Option<SystemTime>)>;

impl RuleFiles {
    /// Reads them. What has a fault is left out; its faults are all there.
    pub fn read(config_dir: &Path) -> Self {
        // Taken first: what changes while they are read is read again.
        let fingerprint = fingerprint(config_dir);
        let mut files = Self { directory: config_dir.to_owned(), fingerprint, ..Self::default() };
        let calendars = config_dir.join("calendars");
        if calendars.is_dir() {
            for path in runtime::merchant::yaml_files(&calendars, &mut files.faults) {
                files.read_calendar(&path);
            }
        }
        for path in runtime::merchant::yaml_files(&config_dir.join("campaigns"), &mut files.faults) {
            files.read_campaign(&path);
        }
        files
    }

    /// The calendars for planning: the merchants' own before those that are shipped.
    pub fn all_calendars(&self) -> Calendars {
        Calendars::new(self.calendars.clone())
    }

    fn read_calendar(&mut self, path: &Path) {
        let name = stem(path);
        // Until it is right, campaigns that keep it hold: nobody knows its holidays.
        self.calendars.insert(name.clone(), Arc::new(Calendar::without_years(&name)));
        let Some(CalendarDocument(file)) = runtime::merchant::read(path, &mut self.faults) else { return };
        match Calendar::try_new(&file) {
            Ok(calendar) if calendar.name() != name => {
                let reason = format!("is {:?}, but campaigns know the calendar by its file's name", calendar.name());
                self.fault(path, "name", reason);
            }
            Ok(calendar) => _ = self.calendars.insert(name, Arc::new(calendar)),
            Err(_) => self.fault(path, "", CHANGED),
        }
    }

    fn read_campaign(&mut self, path: &Path) {
        self.names.insert(stem(path));
        let read = read_campaign(path, &self.all_calendars(), &mut self.faults);
        self.campaigns.extend(read.map(|campaign| (stem(path), campaign)));
    }

    fn fault(&mut self, path: &Path, key: &str, reason: impl Into<String>) {
        let file = path.display().to_string();
        self.faults.0.push(Fault { file, line: None, path: key.to_owned(), reason: reason.into() });
    }
}

/// Reads one campaign file, with its text. On faults reports all of them.
pub fn read_campaign(path: &Path, calendars: &Calendars, faults: &mut Faults) -> Option<(Campaign, String)> {
    let CampaignDocument(file) = runtime::merchant::read(path, faults)?;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut fault = |key: String, reason: String| {
        faults.0.push(Fault { file: path.display().to_string(), line: None, path: key, reason });
    };
    let Ok(campaign) = Campaign::try_new(&file, &text) else {
        fault(String::new(), CHANGED.to_owned());
        return None;
    };
    let is_missing = |name: &str| name != PAYERS_CALENDAR && calendars.get(name).is_none();
    let missing: Vec<usize> =
        (0..).zip(&campaign.holidays).filter(|(_, name)| is_missing(name)).map(|(n, _)| n).collect();
    for n in &missing {
        let known = calendars.names().join(", ");
        fault(format!("contact.holidays.{n}"), format!("is no calendar; there are payer, {known}"));
    }
    missing.is_empty().then_some((campaign, text))
}

/// It was fine when it was checked a moment ago.
const CHANGED: &str = "changed while it was read; try again";

fn stem(path: &Path) -> String {
    path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned()
}

/// The fingerprint of the files that rules come from.
pub fn fingerprint(config_dir: &Path) -> Fingerprint {
    let files = ["campaigns", "calendars"].into_iter().filter_map(|d| std::fs::read_dir(config_dir.join(d)).ok());
    let of = |entry: std::fs::DirEntry| {
        // A ConfigMap's files are links: the time is that of what they lead to.
        let metadata = std::fs::metadata(entry.path()).ok()?;
        Some((entry.path(), metadata.len(), metadata.modified().ok()))
    };
    let mut all: Vec<_> = files.flatten().flatten().filter_map(of).collect();
    all.sort();
    all
}

/// Reads a campaign from text that was valid when it was stored.
pub fn parse_campaign(text: &str) -> anyhow::Result<Campaign> {
    let mut faults = Faults::default();
    let document = Document::parse(Path::new("stored campaign"), text).map_err(|f| Faults(vec![f]))?;
    let file: Option<CampaignDocument> = document.check(&mut faults);
    let CampaignDocument(file) = faults.into_result(file)?;
    Campaign::try_new(&file, text).map_err(|f| anyhow::anyhow!("{f:?}"))
}
