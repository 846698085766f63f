//! The notifier's section of the settings.

use crate::flow::inbound::Proofs;
use crate::return_path::ReturnPath;
use crate::smtp::{Login, Mechanism, Proof, Server, Start, Timeouts, Tls, roots};
use kernel::Masked;
use runtime::Merchants;
use runtime::config::{At, Validate};
use runtime::merchant::sms::Provider;
use runtime::settings::LinkSettings;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::RootCertStore;

/// The notifier's section of the settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The mail relay.
    pub smtp: SmtpSettings,
    /// How fast, and how much at the same time.
    #[serde(default)]
    pub limits: Limits,
    /// Mail that comes back: bounces, complaints, answers. Without it mail comes back to the merchant's own address.
    pub inbound: Option<InboundSettings>,
    /// The account that text messages go by, of merchants that have none of their own.
    pub sms: Option<Provider>,
    /// Where the provider of text messages tells what became of them, and what payers answer. The public reaches it, as the
    /// provider's `public_url`.
    #[serde(default)]
    #[schemars(schema_with = "optional_address")]
    pub http_listen: Option<SocketAddr>,
}

impl Config {
    /// A mail relay, and defaults for everything else.
    pub fn new(smtp: SmtpSettings) -> Self {
        Self { smtp, limits: Limits::default(), inbound: None, sms: None, http_listen: None }
    }

    /// What proves that mail which comes back is about one of our reminders.
    pub fn proofs(&self, links: &LinkSettings, merchants: Arc<Merchants>) -> Proofs {
        let return_path = self.inbound.as_ref().map(|inbound| ReturnPath::new(&inbound.domain, links));
        Proofs { return_path, links: links.clone(), merchants, limits: self.limits.clone() }
    }
}

/// How fast, and how much at the same time. Rates are for all processes together; 0 means no limit.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Mails per second to the relay.
    pub relay_per_second: u32,
    /// Mails per second of a merchant.
    pub merchant_per_second: u32,
    /// Mails per second to a recipient domain: large mailbox providers take more only from senders they know.
    pub domain_per_second: u32,
    /// How much of the connections one merchant may have, in percent: the rest is for others.
    pub merchant_connections_percent: u32,
    /// How much of the connections mail to one recipient domain may have, in percent.
    pub domain_connections_percent: u32,
    /// Nothing is sent from a domain any more when so many of its mails of the last seven days have bounced, in percent.
    pub bounce_percent: f64,
    /// The same with complaints, in percent of the mails sent.
    pub complaint_percent: f64,
}

impl Default for Limits {
    /// Complaints: mailbox providers want fewer than 0.1 %. Bounces: 5 % is the usual alarm.
    fn default() -> Self {
        Self {
            relay_per_second: 0,
            merchant_per_second: 0,
            domain_per_second: 20,
            merchant_connections_percent: 75,
            domain_connections_percent: 50,
            bounce_percent: 5.0,
            complaint_percent: 0.1,
        }
    }
}

impl Validate for Limits {
    fn validate(&self, at: &mut At<'_>) {
        for (key, percent) in [
            ("merchant_connections_percent", self.merchant_connections_percent),
            ("domain_connections_percent", self.domain_connections_percent),
        ] {
            if !(1..=100).contains(&percent) {
                at.fault(key, "must lie between 1 and 100");
            }
        }
        for (key, percent) in [("bounce_percent", self.bounce_percent), ("complaint_percent", self.complaint_percent)] {
            if !(percent > 0.0 && percent <= 100.0) {
                at.fault(key, "must lie above 0 and up to 100");
            }
        }
    }
}

/// Mail that comes back.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboundSettings {
    /// The domain whose mail comes here, such as `bounces.example.com`: reminders have a return path of their own in it.
    pub domain: String,
    /// Where a mail server of yours hands it over. Without it, only `dunlin inbound feed` takes mail in.
    #[serde(default)]
    #[schemars(schema_with = "optional_address")]
    pub listen: Option<SocketAddr>,
    /// How it hands it over.
    #[serde(default)]
    pub protocol: InboundProtocol,
    /// Larger messages are refused.
    #[serde(default = "default_max_message_kib")]
    pub max_message_kib: u32,
    /// Most connections at the same time.
    #[serde(default = "default_inbound_connections")]
    pub connections: u16,
    /// How long the other side may be silent.
    #[serde(default = "default_idle_seconds")]
    pub idle_seconds: u32,
}

/// How mail is handed over to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InboundProtocol {
    /// RFC 2033: an answer for each recipient.
    #[default]
    Lmtp,
    /// RFC 5321.
    Smtp,
}

fn optional_address(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["string", "null"], "format": "socket-address" })
}
const fn default_max_message_kib() -> u32 {
    10 * 1024
}
const fn default_inbound_connections() -> u16 {
    64
}
const fn default_idle_seconds() -> u32 {
    120
}

impl InboundSettings {
    /// A domain with defaults for everything else.
    pub fn new(domain: impl Into<String>) -> Self {
        Self {
            domain: domain.into(),
            listen: None,
            protocol: InboundProtocol::default(),
            max_message_kib: default_max_message_kib(),
            connections: default_inbound_connections(),
            idle_seconds: default_idle_seconds(),
        }
    }
}

impl Validate for InboundSettings {
    fn validate(&self, at: &mut At<'_>) {
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if !self.domain.contains('.') || self.domain.len() > 189 || !self.domain.chars().all(is_host) {
            at.fault("domain", "is no domain such as bounces.example.com (international ones as xn--…)");
        }
        if !(1..=100 * 1024).contains(&self.max_message_kib) {
            at.fault("max_message_kib", "must lie between 1 and 102400");
        }
        if !(1..=1_000).contains(&self.connections) {
            at.fault("connections", "must lie between 1 and 1000");
        }
        if self.idle_seconds == 0 {
            at.fault("idle_seconds", "must be above 0");
        }
    }
}

/// The mail relay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Host name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What we call ourselves in EHLO: a name that resolves to this machine.
    #[serde(default = "default_hello")]
    pub hello: String,
    /// Whether mail is encrypted on its way to the relay. With `starttls` and `implicit` always, and only for a relay whose
    /// certificate is good for `host`: anything else pauses the relay, and nothing goes out in plain text.
    #[serde(default)]
    pub security: Security,
    /// Certificates (PEM) to trust beside the public authorities, for a relay with its own.
    #[serde(default)]
    pub ca: Option<Masked<String>>,
    /// Who we are to the relay, if it asks.
    #[serde(default)]
    pub auth: Option<AuthSettings>,
    /// Most connections at the same time.
    #[serde(default = "default_connections")]
    pub connections: u16,
    /// Greeting and EHLO, each.
    #[serde(default = "default_hello_seconds")]
    pub hello_seconds: u32,
    /// MAIL and RCPT, each.
    #[serde(default = "default_envelope_seconds")]
    pub envelope_seconds: u32,
    /// DATA, and each block of the body.
    #[serde(default = "default_data_seconds")]
    pub data_seconds: u32,
    /// The reply to the final dot: a mail server may take long to accept, and giving up leaves it unknown whether it did.
    #[serde(default = "default_reply_seconds")]
    pub reply_seconds: u32,
}

/// Encryption of the way to the relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// None: for a relay on this machine or in a network that is trusted.
    #[default]
    None,
    /// Begun by STARTTLS, mostly on port 587 or 25.
    Starttls,
    /// From the first byte, mostly on port 465.
    Implicit,
}

/// Who we are to the relay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// How it is said.
    #[serde(default)]
    pub mechanism: AuthMechanism,
    /// The account.
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: Option<Masked<String>>,
    /// A file that holds an OAuth 2 access token. Read again for every connection, so that somebody else can keep it fresh.
    #[serde(default)]
    pub token_path: Option<PathBuf>,
}

/// How we say who we are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMechanism {
    /// What fits to what is given and to what the relay offers.
    #[default]
    Auto,
    /// Password.
    Plain,
    /// Password, for relays that know nothing better.
    Login,
    /// Token.
    Xoauth2,
}

impl AuthSettings {
    fn login(&self) -> Result<Login, (&'static str, &'static str)> {
        use AuthMechanism::{Auto, Plain, Xoauth2};
        let mechanisms: &[Mechanism] = match self.mechanism {
            Auto => &[Mechanism::Plain, Mechanism::Login],
            Plain => &[Mechanism::Plain],
            AuthMechanism::Login => &[Mechanism::Login],
            Xoauth2 => &[],
        };
        let proof = match (&self.password, &self.token_path) {
            (Some(_), Some(_)) => return Err(("token_path", "give either password or token_path, not both")),
            (None, None) => return Err(("password", "is missing: give password (or password_file) or token_path")),
            (Some(_), None) if self.mechanism == Xoauth2 => return Err(("token_path", "is missing: xoauth2 needs it")),
            (None, Some(_)) if !matches!(self.mechanism, Auto | Xoauth2) => {
                return Err(("password", "is missing: plain and login need it"));
            }
            (Some(password), None) => Proof::Password(password.clone(), mechanisms),
            (None, Some(path)) => Proof::TokenFile(path.clone()),
        };
        if self.user.is_empty() || self.user.chars().any(char::is_control) {
            return Err(("user", "is empty or holds control characters"));
        }
        Ok(Login { user: self.user.clone(), proof })
    }
}

fn default_hello() -> String {
    "localhost".to_owned()
}
const fn default_connections() -> u16 {
    32
}
const fn default_hello_seconds() -> u32 {
    30
}
const fn default_envelope_seconds() -> u32 {
    60
}
const fn default_data_seconds() -> u32 {
    120
}
const fn default_reply_seconds() -> u32 {
    600
}

impl SmtpSettings {
    /// A relay with defaults for everything else.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            hello: default_hello(),
            security: Security::None,
            ca: None,
            auth: None,
            connections: default_connections(),
            hello_seconds: default_hello_seconds(),
            envelope_seconds: default_envelope_seconds(),
            data_seconds: default_data_seconds(),
            reply_seconds: default_reply_seconds(),
        }
    }

    /// Time-outs of the conversation.
    pub fn timeouts(&self) -> Timeouts {
        let seconds = |s: u32| Duration::from_secs(s.into());
        Timeouts {
            hello: seconds(self.hello_seconds),
            envelope: seconds(self.envelope_seconds),
            data: seconds(self.data_seconds),
            block: seconds(self.data_seconds),
            reply: seconds(self.reply_seconds),
        }
    }
}

impl SmtpSettings {
    /// How the relay is reached. Errors: what [`Validate`] would have found.
    pub fn server(&self) -> anyhow::Result<Server> {
        let start = match self.security {
            Security::None => None,
            Security::Starttls => Some(Start::Command),
            Security::Implicit => Some(Start::Implicit),
        };
        let ca = self.ca.as_ref().map(|pem| pem.reveal().as_str());
        let trusted = || roots(ca).map_err(|problem| anyhow::anyhow!("ca {problem}"));
        let login = self.auth.as_ref().map(AuthSettings::login).transpose();
        Ok(Server {
            host: self.host.clone(),
            port: self.port,
            hello: self.hello.clone(),
            timeouts: self.timeouts(),
            tls: start.map(|start| Tls::try_new(start, &self.host, trusted()?)).transpose()?,
            login: login.map_err(|(key, problem)| anyhow::anyhow!("auth.{key} {problem}"))?,
        })
    }

    fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut At<'_>) {
        self.limits.validate(&mut at.below("limits"));
        if let Some(inbound) = &self.inbound {
            inbound.validate(&mut at.below("inbound"));
        }
        if let Some(sms) = &self.sms {
            sms.validate(&mut at.below("sms"));
        }
        let mut at = at.below("smtp");
        if let Some(Err(problem)) = self.smtp.ca.as_ref().map(|pem| roots(Some(pem.reveal()))) {
            at.fault("ca", problem);
        }
        if self.smtp.security != Security::None
            && let Err(problem) = Tls::try_new(Start::Implicit, &self.smtp.host, RootCertStore::empty())
        {
            at.fault("host", format!("cannot be verified by a certificate: {problem}"));
        }
        if let Some(auth) = &self.smtp.auth {
            if self.smtp.security == Security::None && !self.smtp.is_local() {
                at.fault("security", "must be starttls or implicit: a password leaves this machine only encrypted");
            }
            if let Err((key, problem)) = auth.login() {
                at.below("auth").fault(key, problem);
            }
        }
        if self.smtp.host.is_empty() {
            at.fault("host", "is empty");
        }
        if self.smtp.hello.chars().any(|c| c.is_whitespace() || c.is_control()) {
            at.fault("hello", "is no host name");
        }
        if !(1..=1_000).contains(&self.smtp.connections) {
            at.fault("connections", "must lie between 1 and 1000");
        }
        for (key, seconds) in [
            ("hello_seconds", self.smtp.hello_seconds),
            ("envelope_seconds", self.smtp.envelope_seconds),
            ("data_seconds", self.smtp.data_seconds),
            ("reply_seconds", self.smtp.reply_seconds),
        ] {
            if seconds == 0 {
                at.fault(key, "must be above 0");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::config::{Document, Faults};
    use std::path::Path;

    fn faults(smtp: &str) -> String {
        let mut faults = Faults::default();
        let document = Document::parse(Path::new("dunlin.yaml"), &format!("smtp: {{ port: 587, {smtp} }}")).unwrap();
        document.check::<Config>(&mut faults);
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_cannot_work_is_said_at_the_start() {
        let far = "host: mail.example, security: starttls";
        assert_eq!(faults(far), "");
        assert_eq!(faults(&format!("{far}, auth: {{ user: u, password: p }}")), "");
        assert_eq!(faults(&format!("{far}, auth: {{ user: u, mechanism: xoauth2, token_path: /run/token }}")), "");
        assert_eq!(faults("host: localhost, auth: { user: u, password: p }"), "");
        for (smtp, fault) in [
            ("host: mail.example, auth: { user: u, password: p }", "smtp.security: must be starttls or implicit"),
            ("host: localhost, ca: nonsense", "smtp.ca: holds no certificate"),
            ("host: 'no host', security: implicit", "smtp.host: cannot be verified"),
            ("host: localhost, auth: { user: '', password: p }", "smtp.auth.user: is empty"),
            ("host: localhost, auth: { user: u }", "smtp.auth.password: is missing"),
            ("host: localhost, auth: { user: u, password: p, token_path: t }", "smtp.auth.token_path: give either"),
            ("host: localhost, auth: { user: u, mechanism: login, token_path: t }", "smtp.auth.password: is missing"),
            ("host: localhost, auth: { user: u, mechanism: xoauth2, password: p }", "smtp.auth.token_path: is missing"),
        ] {
            let said = faults(smtp);
            assert!(said.contains(fault), "{smtp}: {said}");
        }
    }
}
