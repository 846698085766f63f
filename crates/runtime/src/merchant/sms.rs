//! Text messages of a merchant: who they come from, and the provider that takes them.

use crate::config::{At, Validate};
use kernel::Masked;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use url::Url;

/// Text messages: who they come from, and by which provider.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sms {
    /// The sender: a number such as +4930123456, a name of up to 11 letters and digits, or a service of the provider's that
    /// chooses (`MG…`). A name cannot be answered, and is not allowed for numbers that begin with +1.
    pub from: String,
    /// Other senders by the beginning of the payer's number, such as `+1`; the longest counts.
    #[serde(default)]
    pub from_by_prefix: BTreeMap<String, String>,
    /// Most segments of a message: each is charged.
    #[serde(default = "default_max_segments")]
    pub max_segments: u8,
    /// The merchant's own account with a provider; without it, that of `notifier.sms`.
    pub provider: Option<Provider>,
}

const fn default_max_segments() -> u8 {
    3
}

/// An account with a provider of text messages that takes them as Twilio does: a form, posted with basic authentication.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Where messages are posted: `https://…`. Plain `http` is for `localhost` only.
    pub url: String,
    /// The account's name or key.
    pub user: String,
    /// The account's password or token; what the provider tells us is signed with it.
    pub password: Masked<String>,
    /// Where the provider reaches `notifier.http_listen` from outside, such as `https://sms.example.com`: there it tells what
    /// became of messages, and what payers answer. Without it, neither is heard.
    pub public_url: Option<String>,
    /// What the fields of the form are called.
    #[serde(default)]
    pub fields: Fields,
    /// Statuses that mean that a message was accepted.
    #[serde(default = "default_accepted")]
    pub accepted: Vec<u16>,
    /// The header that carries our id of a message, if the provider sends a message only once for each. Without it, a message
    /// whose request was not answered is never sent again by itself.
    pub idempotency_header: Option<String>,
}

fn default_accepted() -> Vec<u16> {
    vec![200, 201, 202]
}

/// Names of the fields of the form, and of those of the answer, which is JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fields {
    /// The payer's number.
    pub to: String,
    /// The sender, if it is a number or a name.
    pub from: String,
    /// The sender, if it is a service that chooses.
    pub service: String,
    /// The text.
    pub body: String,
    /// Where to tell what became of it.
    pub status_callback: String,
    /// Of the answer: the provider's id of the message.
    pub id: String,
    /// Of the answer: why it was not accepted.
    pub code: String,
}

impl Default for Fields {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            to: text("To"),
            from: text("From"),
            service: text("MessagingServiceSid"),
            body: text("Body"),
            status_callback: text("StatusCallback"),
            id: text("sid"),
            code: text("code"),
        }
    }
}

/// What kind of sender it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderKind {
    /// A number in E.164.
    Number,
    /// A name, which cannot be answered.
    Name,
    /// A service of the provider's.
    Service,
}

impl SenderKind {
    /// Reads a sender. Errors: why it is none.
    pub fn of(sender: &str) -> Result<Self, &'static str> {
        let is_service = sender.len() == 34 && sender.starts_with("MG");
        if sender.starts_with('+') {
            return kernel::phone::is_e164(sender).then_some(Self::Number).ok_or("is no number such as +4930123456");
        }
        if is_service && sender.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Ok(Self::Service);
        }
        let is_name = (1..=11).contains(&sender.len())
            && sender.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ')
            && sender.bytes().any(|b| b.is_ascii_alphabetic());
        is_name.then_some(Self::Name).ok_or(
            "is no sender: a number such as +4930123456, a name of up to 11 letters and digits, or a service (MG…)",
        )
    }
}

impl Sms {
    /// The sender for a payer's number. Errors: no sender is allowed there.
    pub fn sender_for(&self, number: &str) -> Result<(&str, SenderKind), &'static str> {
        let fitting = self.from_by_prefix.iter().filter(|(prefix, _)| number.starts_with(prefix.as_str()));
        let sender = fitting.max_by_key(|(prefix, _)| prefix.len()).map_or(&self.from, |(_, sender)| sender);
        match SenderKind::of(sender)? {
            // The North American operators take numbers only.
            SenderKind::Name if number.starts_with("+1") => Err("a name is no sender for numbers that begin with +1"),
            kind => Ok((sender, kind)),
        }
    }
}

impl Validate for Sms {
    fn validate(&self, at: &mut At<'_>) {
        at.check("from", SenderKind::of(&self.from));
        for (prefix, sender) in &self.from_by_prefix {
            let key = format!("from_by_prefix.{prefix}");
            let digits = prefix.strip_prefix('+').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                at.fault(&key, "is no beginning of a number such as +44");
            }
            match SenderKind::of(sender) {
                Err(problem) => at.fault(&key, problem),
                Ok(SenderKind::Name) if prefix.starts_with("+1") => {
                    at.fault(&key, "is a name: for numbers that begin with +1 it must be a number or a service");
                }
                Ok(_) => {}
            }
        }
        if !(1..=10).contains(&self.max_segments) {
            at.fault("max_segments", "must lie between 1 and 10");
        }
        if let Some(provider) = &self.provider {
            provider.validate(&mut at.below("provider"));
        }
    }
}

impl Provider {
    /// Where messages are posted. Errors: why nothing may be posted there.
    pub fn target(&self) -> Result<Url, &'static str> {
        super::webhook::target(&self.url)
    }
}

impl Validate for Provider {
    fn validate(&self, at: &mut At<'_>) {
        at.check("url", self.target());
        if self.user.is_empty() {
            at.fault("user", "is empty");
        }
        if self.password.reveal().len() < 8 {
            at.fault("password", "is shorter than 8 characters");
        }
        if let Some(url) = &self.public_url {
            at.check("public_url", super::webhook::target(url));
            if url.ends_with('/') {
                at.fault("public_url", "ends with a slash: leave it out");
            }
        }
        if self.accepted.is_empty() || !self.accepted.iter().all(|status| (200..300).contains(status)) {
            at.fault("accepted", "needs at least one status, each between 200 and 299");
        }
        let is_token = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !name.is_empty();
        if !self.idempotency_header.iter().all(is_token) {
            at.fault("idempotency_header", "is no name of a header such as Idempotency-Key");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_told_apart() {
        assert_eq!(SenderKind::of("+4930123456"), Ok(SenderKind::Number));
        assert_eq!(SenderKind::of("Acme Ltd"), Ok(SenderKind::Name));
        assert_eq!(SenderKind::of("MG0123456789abcdef0123456789abcdef"), Ok(SenderKind::Service));
        for none in ["", "12345", "Acme Limited!", "Acme Limited", "+49 30 123", "+12", "MG0123456789abcdef"] {
            assert!(SenderKind::of(none).is_err(), "{none:?}");
        }
    }

    #[test]
    fn the_longest_prefix_chooses_and_north_america_takes_no_names() {
        let sms = |from: &str, others: &[(&str, &str)]| Sms {
            from: from.to_owned(),
            from_by_prefix: others.iter().map(|(p, s)| ((*p).to_owned(), (*s).to_owned())).collect(),
            max_segments: 3,
            provider: None,
        };
        let plain = sms("Acme", &[]);
        assert_eq!(plain.sender_for("+4915112345678"), Ok(("Acme", SenderKind::Name)));
        assert!(plain.sender_for("+12025550123").is_err());
        let others = sms("Acme", &[("+1", "+12025550100"), ("+1242", "+12425550100")]);
        assert_eq!(others.sender_for("+12025550123").unwrap().0, "+12025550100");
        assert_eq!(others.sender_for("+12425550123").unwrap().0, "+12425550100");
    }
}
