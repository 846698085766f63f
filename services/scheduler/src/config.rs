//! The scheduler's section of the settings, and its campaign files.

use campaign::{Campaign, CampaignFile};
use runtime::config::{At, Document, Fault, Faults, Validate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// The scheduler's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often due timers are looked for, in milliseconds.
    pub tick_milliseconds: u32,
    /// Where operators' tools hold, release, skip and send by gRPC; nowhere if left out.
    #[schemars(schema_with = "runtime::config::address")]
    pub grpc_listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick_milliseconds: 100, grpc_listen: None }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        if !(1..=60_000).contains(&self.tick_milliseconds) {
            at.fault("tick_milliseconds", "must lie between 1 and 60000");
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

/// The campaigns of the configuration directory, by file name, each with its text.
pub type Campaigns = BTreeMap<String, (Campaign, String)>;

/// Reads `<config_dir>/campaigns/*.yaml`. On faults reports all of them.
pub fn read_campaigns(config_dir: &Path, faults: &mut Faults) -> Campaigns {
    let mut campaigns = Campaigns::new();
    for path in runtime::merchant::yaml_files(&config_dir.join("campaigns"), faults) {
        let Some(CampaignDocument(file)) = runtime::merchant::read(&path, faults) else { continue };
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
        match std::fs::read_to_string(&path).map(|text| (Campaign::try_new(&file, &text), text)) {
            Ok((Ok(campaign), text)) => _ = campaigns.insert(name, (campaign, text)),
            // Checked a moment ago: the file has changed in between.
            Ok((Err(_), _)) | Err(_) => faults.0.push(Fault {
                file: path.display().to_string(),
                line: None,
                path: String::new(),
                reason: "changed while it was read; try again".to_owned(),
            }),
        }
    }
    campaigns
}

/// Reads a campaign from text that was valid when it was stored.
pub fn parse_campaign(text: &str) -> anyhow::Result<Campaign> {
    let mut faults = Faults::default();
    let document = Document::parse(Path::new("stored campaign"), text).map_err(|f| Faults(vec![f]))?;
    let file: Option<CampaignDocument> = document.check(&mut faults);
    let CampaignDocument(file) = faults.into_result(file)?;
    Campaign::try_new(&file, text).map_err(|f| anyhow::anyhow!("{f:?}"))
}
