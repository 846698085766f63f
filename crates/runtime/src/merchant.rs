//! Merchants: one YAML file each, `<config_dir>/merchants/<id>.yaml`.

pub mod brand;
pub mod sms;
pub mod webhook;

pub use brand::Brand;
pub use sms::Sms;
pub use webhook::Webhook;

use crate::config::{At, Document, Fault, Faults, Validate};
use jiff::tz::TimeZone;
use kernel::{Masked, MerchantId, PayerKind, contact};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A merchant's file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MerchantFile {
    /// The name payers know.
    pub name: String,
    /// IANA time zone: when a due date has passed, and the payers' zone where theirs is not known.
    pub time_zone: String,
    /// BCP 47 language of messages where the payer's is not known.
    #[serde(default = "default_locale")]
    pub locale: String,
    /// The campaigns that invoices may follow, in this order: files in `campaigns/`, without their ending. The first whose
    /// audience fits is taken.
    #[serde(default = "default_campaigns")]
    pub campaigns: Vec<String>,
    /// ISO 3166-1 alpha-2 of payers whose country is not known: its holidays and its law count for them.
    #[serde(default)]
    pub country: String,
    /// What the law sees in payers of whom nobody has said it.
    #[serde(default = "default_payers")]
    pub payers: PayerKind,
    /// If nothing was heard of an invoice's processor for so many hours, its reminders are held: it might have been paid.
    pub stale_after_hours: Option<u32>,
    /// Nothing is sent while it is not certain that every payment is known that dunlin took in this many seconds ago: the
    /// longest that a reminder can go out after a payment, whatever is down.
    #[serde(default = "default_freshness")]
    pub freshness_seconds: u32,
    /// Who reminders come from.
    pub sender: Sender,
    /// How messages look.
    #[serde(default)]
    pub brand: Brand,
    /// Answers of payers.
    #[serde(default)]
    pub replies: Replies,
    /// Stripe's webhooks.
    pub stripe: Option<Stripe>,
    /// The merchant's own system: called when a campaign ends with `webhook`, and by steps whose channel is `webhook`.
    pub webhook: Option<Webhook>,
    /// Text messages: who they come from. Without it, nobody gets any.
    pub sms: Option<Sms>,
    /// Keys for the gRPC interface, as the hex SHA-256 of each: `printf %s "$key" | sha256sum`.
    #[serde(default)]
    pub api_key_sha256: Vec<String>,
}

fn default_locale() -> String {
    "en".to_owned()
}
fn default_campaigns() -> Vec<String> {
    vec!["default".to_owned()]
}
const fn default_payers() -> PayerKind {
    PayerKind::Business
}

const fn default_freshness() -> u32 {
    5
}

impl MerchantFile {
    /// See `freshness_seconds`.
    pub fn freshness(&self) -> Duration {
        Duration::from_secs(self.freshness_seconds.into())
    }
}

/// Who reminders come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    /// A person's name gets better answers than a company's.
    pub name: String,
    /// The From address.
    pub email: String,
    /// Where answers go, if not to the From address.
    pub reply_to: Option<String>,
    /// Keys that messages are signed with (DKIM), if the relay does not sign them. Several are several signatures.
    #[serde(default)]
    pub dkim: Vec<DkimKey>,
}

/// A key that messages are signed with.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DkimKey {
    /// The domain that signs: that of the From address, or one above it.
    pub domain: String,
    /// The public key is in the DNS at `<selector>._domainkey.<domain>`.
    pub selector: String,
    /// RSA or Ed25519, in PEM (PKCS #8): `openssl genpkey -algorithm ed25519`.
    pub private_key: Masked<String>,
}

/// Answers of payers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replies {
    /// Where answers go.
    #[serde(default)]
    pub through: RepliesThrough,
    /// The reminders of invoices that are answered are held for so many days of the payer, so that a person can read it
    /// first; 0: they go on.
    #[serde(default = "default_hold_days")]
    pub hold_days: u16,
}

impl Default for Replies {
    fn default() -> Self {
        Self { through: RepliesThrough::default(), hold_days: default_hold_days() }
    }
}

/// Where answers go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RepliesThrough {
    /// To the merchant's own address: dunlin hears of those that it is fed.
    #[default]
    Own,
    /// To dunlin, at an address of their own (needs `notifier.inbound`); people read them with `dunlin inbound`.
    Dunlin,
}

/// How long answers hold where nothing else is said.
pub const fn default_hold_days() -> u16 {
    7
}

/// Stripe's webhooks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stripe {
    /// `whsec_…` of the endpoint. Two during a rotation; any of them is accepted.
    pub signing_secrets: Vec<Masked<String>>,
    /// How far a webhook's signed time may be from now.
    #[serde(default = "default_tolerance")]
    pub tolerance_seconds: u32,
}

const fn default_tolerance() -> u32 {
    300
}

impl Validate for MerchantFile {
    fn validate(&self, at: &mut At<'_>) {
        at.check("time_zone", contact::zone(&self.time_zone));
        if self.name.trim().is_empty() {
            at.fault("name", "is empty");
        }
        if self.campaigns.is_empty() {
            at.fault("campaigns", "needs at least one campaign, such as default");
        }
        let is_code = self.country.len() == 2 && self.country.bytes().all(|b| b.is_ascii_uppercase());
        if !self.country.is_empty() && !is_code {
            at.fault("country", "is no country code of two capital letters such as DE");
        }
        if self.replies.hold_days > 365 {
            at.fault("replies.hold_days", "must be at most 365");
        }
        if self.stale_after_hours == Some(0) {
            at.fault("stale_after_hours", "must be above 0: every source would be stale");
        }
        if !(2..=3_600).contains(&self.freshness_seconds) {
            at.fault(
                "freshness_seconds",
                "must lie between 2 and 3600: watermarks come twice a second and take their time",
            );
        }
        let mut sender = at.below("sender");
        for (key, address) in [("email", Some(&self.sender.email)), ("reply_to", self.sender.reply_to.as_ref())] {
            if address.is_some_and(|a| !looks_like_address(a)) {
                sender.fault(key, "is no e-mail address");
            }
        }
        for (n, key) in self.sender.dkim.iter().enumerate() {
            let is_name =
                |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !is_name(&key.selector) {
                sender.fault(&format!("dkim.{n}.selector"), "is no DNS name");
            }
            let domain = self.sender.email.rsplit_once('@').map_or("", |(_, domain)| domain);
            if !is_name(&key.domain) || !format!(".{domain}").ends_with(&format!(".{}", key.domain)) {
                sender.fault(&format!("dkim.{n}.domain"), "is neither the domain of the From address nor one above it");
            }
        }
        if self.sender.name.chars().any(char::is_control) {
            sender.fault("name", "contains a line break or another control character");
        }
        self.brand.validate(&mut at.below("brand"));
        if let Some(stripe) = &self.stripe {
            let mut stripe_at = at.below("stripe");
            if stripe.signing_secrets.is_empty() {
                stripe_at.fault("signing_secrets", "needs at least one secret");
            }
            for (n, secret) in stripe.signing_secrets.iter().enumerate() {
                if secret.reveal().len() < 8 {
                    stripe_at.fault(&format!("signing_secrets.{n}"), "is shorter than 8 characters");
                }
            }
        }
        if let Some(webhook) = &self.webhook {
            webhook.validate(&mut at.below("webhook"));
        }
        if let Some(sms) = &self.sms {
            sms.validate(&mut at.below("sms"));
        }
        for (n, hash) in self.api_key_sha256.iter().enumerate() {
            if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                at.fault(&format!("api_key_sha256.{n}"), "is no hex SHA-256 (64 hex digits)");
            }
        }
    }
}

fn looks_like_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && domain.contains('.') && !text.chars().any(|c| c.is_whitespace() || c.is_control())
    })
}

/// A merchant: its file, checked, under its id.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// The file's name without its ending.
    pub id: MerchantId,
    /// The file.
    pub file: MerchantFile,
    /// The merchant's zone.
    pub zone: TimeZone,
}

/// All merchants.
#[derive(Debug, Clone, Default)]
pub struct Merchants(BTreeMap<MerchantId, Merchant>);

impl Merchants {
    /// Reads `<config_dir>/merchants/*.yaml`. On faults reports all of them.
    pub fn read(config_dir: &Path, faults: &mut Faults) -> Self {
        let directory = config_dir.join("merchants");
        let mut merchants = Self::default();
        for path in yaml_files(&directory, faults) {
            let Some(file) = read::<MerchantFile>(&path, faults) else { continue };
            let id = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            match (MerchantId::try_new(id), contact::zone(&file.time_zone)) {
                (Ok(id), Ok(_)) if merchants.get(&id).is_some() => faults.0.push(Fault {
                    file: path.display().to_string(),
                    line: None,
                    path: String::new(),
                    reason: "there is a second file of this merchant, with the other ending: remove one".to_owned(),
                }),
                (Ok(id), Ok(zone)) => merchants.insert(Merchant { id, file, zone }),
                (Err(error), _) => faults.0.push(Fault {
                    file: path.display().to_string(),
                    line: None,
                    path: String::new(),
                    reason: format!("the file's name is the merchant's id, which {error}"),
                }),
                (_, Err(_)) => {}
            }
        }
        merchants
    }

    /// Adds a merchant, or replaces the one of the same id.
    pub fn insert(&mut self, merchant: Merchant) {
        self.0.insert(merchant.id.clone(), merchant);
    }

    /// Finds a merchant.
    pub fn get(&self, id: &MerchantId) -> Option<&Merchant> {
        self.0.get(id)
    }

    /// Finds a merchant by the text of its id.
    pub fn by_name(&self, id: &str) -> Option<&Merchant> {
        self.0.get(&MerchantId::try_new(id).ok()?)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Merchant> {
        self.0.values()
    }
}

/// The YAML files of a directory, by name. A directory that cannot be read is a fault.
pub fn yaml_files(directory: &Path, faults: &mut Faults) -> Vec<std::path::PathBuf> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            faults.0.push(Fault {
                file: directory.display().to_string(),
                line: None,
                path: String::new(),
                reason: format!("cannot be read: {error}"),
            });
            return Vec::new();
        }
    };
    let is_yaml = |p: &std::path::PathBuf| p.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).filter(is_yaml).collect();
    files.sort();
    files
}

/// Reads and checks one file.
pub fn read<T>(path: &Path, faults: &mut Faults) -> Option<T>
where
    T: JsonSchema + serde::de::DeserializeOwned + Validate,
{
    match Document::read(path) {
        Ok(document) => document.check(faults),
        Err(fault) => {
            faults.0.push(fault);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_all_faults_of_all_files() {
        let directory = std::env::temp_dir().join(format!("dunlin-merchants-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("merchants")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.join("merchants").join(name), text).unwrap();
        write("acme.yaml", "name: Acme\ntime_zone: Europe/Berlin\nsender: { name: Anna, email: anna@acme.example }\n");
        write("Bad.yaml", "name: B\ntime_zone: UTC\nsender: { name: B, email: b@b.example }\n");
        write(
            "broken.yaml",
            "name: ''\ntime_zone: Mars/Base\nsender:\n  name: X\n  email: nobody\nstripe: { signing_secrets: [abc] }\n\
             webhook: { url: 'http://x.example', signing_secret: whsec_abc }\n",
        );
        let mut faults = Faults::default();
        let merchants = Merchants::read(&directory, &mut faults);
        assert_eq!(merchants.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["acme"]);
        let text = faults.to_string();
        for expected in [
            "Bad.yaml: the file's name is the merchant's id, which contains 'B'",
            "broken.yaml:1: name: is empty",
            "broken.yaml:2: time_zone: \"Mars/Base\" is not a time zone",
            "broken.yaml:5: sender.email: is no e-mail address",
            "broken.yaml:6: stripe.signing_secrets.0: is shorter than 8 characters",
            "broken.yaml:7: webhook.url: must begin with https:// (http is for localhost only)",
            "broken.yaml:7: webhook.signing_secret: is no base64 after whsec_",
        ] {
            assert!(text.contains(expected), "{expected:?} missing in\n{text}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
