//! The suppression list as people see it: who is not written to, and why. CSV in and out. Pure; SQL is in [`store`].

pub mod store;

use crate::channel;
use events::v1::Channel;
use kernel::{CustomerId, Masked, MerchantId};

/// The columns of the CSV, in this order when it is written and in any when it is read.
pub const COLUMNS: [&str; 7] = ["merchant", "channel", "customer", "address", "reason", "source", "date"];

/// Reasons that an import may give. Those of others stay what they are.
pub const REASONS: [&str; 7] = ["unsubscribed", "bad_address", "bounced", "complained", "erased", "gone", "manual"];

/// Reads the name of a channel; empty is email.
pub fn read_channel(name: &str) -> Result<Channel, String> {
    match name {
        "" => Ok(Channel::Email),
        name => channel::by_name(name)
            .ok_or_else(|| format!("{name:?} is none: write email, sms, webhook or task, or leave it empty for email")),
    }
}

/// Who is not written to: a customer at whatever address, or an address whoever has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// By the processor's id.
    Customer(CustomerId),
    /// By address.
    Address(Masked<String>),
}

impl Subject {
    /// As it is stored.
    pub fn stored(&self) -> Masked<String> {
        match self {
            Self::Customer(id) => crate::store::by_customer(id.as_str()),
            Self::Address(address) => crate::store::by_address(address.reveal()),
        }
    }

    /// Reads an address of a channel. Of email: something on both sides of one `@`, no spaces.
    pub fn address(channel: Channel, text: &str) -> Result<Self, String> {
        let text = text.trim();
        match channel {
            Channel::Sms => {
                let number = kernel::phone::normalize(text).ok_or("is no number with its country code: +4930123456")?;
                return Ok(Self::Address(Masked::new(number)));
            }
            Channel::Webhook => {
                // As it stands in the merchant's file: that is what is looked for.
                url::Url::parse(text).map_err(|e| format!("is no URL: {e}"))?;
                return Ok(Self::Address(Masked::new(text.to_owned())));
            }
            Channel::Task => return Err("is not what a call list goes by: name a customer".to_owned()),
            Channel::Email | Channel::Unspecified => {}
        }
        let is_one = text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.')
        });
        let clean = text.len() <= 254 && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        (is_one && clean)
            .then(|| Self::Address(Masked::new(text.to_lowercase())))
            .ok_or_else(|| "is no e-mail address".to_owned())
    }
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose reminders.
    pub merchant: MerchantId,
    /// By which way.
    pub channel: Channel,
    /// Who.
    pub subject: Subject,
    /// Why: one of [`REASONS`].
    pub reason: String,
    /// What led to it, for people.
    pub source: String,
    /// Since when; business time. `None`: since now.
    pub since: Option<jiff::Timestamp>,
}

/// Reads one row of an import by its cells (`cell` gives that of a column, empty if it is not there); says what is wrong
/// with which column.
pub fn read_row(cell: impl Fn(&str) -> String) -> Result<Entry, (&'static str, String)> {
    let merchant = cell("merchant").parse().map_err(|e: kernel::id::IdError| ("merchant", e.to_string()))?;
    let channel = read_channel(&cell("channel")).map_err(|e| ("channel", e))?;
    let (customer, address) = (cell("customer"), cell("address"));
    let subject = match (customer.is_empty(), address.is_empty()) {
        (true, true) => return Err(("address", "is missing: give an address or a customer".to_owned())),
        (false, false) => return Err(("customer", "stands beside an address: make two rows of it".to_owned())),
        (false, true) => {
            Subject::Customer(customer.parse().map_err(|e: kernel::id::IdError| ("customer", e.to_string()))?)
        }
        (true, false) => Subject::address(channel, &address).map_err(|e| ("address", e))?,
    };
    let reason = Some(cell("reason")).filter(|r| !r.is_empty()).unwrap_or_else(|| "manual".to_owned());
    if !REASONS.contains(&reason.as_str()) {
        return Err(("reason", format!("{reason:?} is not one of {}", REASONS.join(", "))));
    }
    let source = Some(cell("source")).filter(|s| !s.is_empty()).unwrap_or_else(|| "import".to_owned());
    if source.chars().count() > 200 || source.chars().any(char::is_control) {
        return Err(("source", "is longer than 200 characters, or has a line break".to_owned()));
    }
    Ok(Entry { merchant, channel, subject, reason, source, since: read_date(&cell("date")).map_err(|e| ("date", e))? })
}

fn read_date(text: &str) -> Result<Option<jiff::Timestamp>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp());
    let moment = text.parse().ok().or_else(day);
    moment.map(Some).ok_or_else(|| {
        format!("{text:?} is neither a day such as 2026-01-31 nor a moment such as 2026-01-31T08:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[(&str, &str)]) -> Result<Entry, (&'static str, String)> {
        read_row(|name| cells.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()).unwrap_or_default())
    }

    #[test]
    fn rows_say_who_and_why() {
        let entry = row(&[("merchant", "acme"), ("address", " Ada@Example.COM")]).unwrap();
        assert_eq!(entry.subject.stored().reveal(), "address:ada@example.com");
        assert_eq!((entry.reason.as_str(), entry.source.as_str(), entry.since), ("manual", "import", None));
        let entry =
            row(&[("merchant", "acme"), ("customer", "cus_1"), ("reason", "complained"), ("date", "2026-01-31")])
                .unwrap();
        assert_eq!((entry.subject.stored().reveal().as_str(), entry.channel), ("customer:cus_1", Channel::Email));
        assert_eq!(entry.since.unwrap().to_string(), "2026-01-31T00:00:00Z");
        let entry = row(&[("merchant", "acme"), ("address", "+49 (151) 123-456"), ("channel", "sms")]).unwrap();
        assert_eq!((entry.subject.stored().reveal().as_str(), entry.channel), ("address:+49151123456", Channel::Sms));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (cells, field) in [
            (&[("address", "a@b.c")][..], "merchant"),
            (&[("merchant", "acme")], "address"),
            (&[("merchant", "acme"), ("address", "nobody")], "address"),
            (&[("merchant", "acme"), ("address", "a b@c.d")], "address"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("customer", "x")], "customer"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("channel", "fax")], "channel"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("channel", "sms")], "address"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("channel", "webhook")], "address"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("channel", "task")], "address"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("reason", "because")], "reason"),
            (&[("merchant", "acme"), ("address", "a@b.c"), ("date", "31.1.26")], "date"),
        ] {
            assert_eq!(row(cells).unwrap_err().0, field, "{cells:?}");
        }
    }
}
