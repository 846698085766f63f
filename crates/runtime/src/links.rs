//! Signed links in messages: the notifier makes them, the tracker serves them.
//!
//! A token carries what it stands for, so a link works even before the tracker has heard of the reminder. It is opaque to
//! payers and cannot be changed or made up without the key.

use crate::settings::LinkSettings;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use kernel::{CustomerId, InvoiceId, MerchantId};
use sha2::Sha256;
use uuid::Uuid;

/// Bytes of the signature: 96 bits are beyond guessing over HTTP and keep the link short enough not to be folded.
const SIGNATURE: usize = 12;
/// Separates the fields; ids contain no control characters.
const SEPARATOR: char = '\n';

/// What a link stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// To the payment page of an invoice.
    Pay {
        /// Whose.
        merchant: MerchantId,
        /// Who was reminded.
        customer: CustomerId,
        /// What to pay.
        invoice: InvoiceId,
        /// By which reminder.
        reminder: Uuid,
    },
    /// To a page with the payment pages of several invoices.
    PayAll {
        /// Whose.
        merchant: MerchantId,
        /// Who was reminded.
        customer: CustomerId,
        /// What to pay.
        invoices: Vec<InvoiceId>,
        /// By which reminder.
        reminder: Uuid,
    },
    /// No more reminders by email.
    Unsubscribe {
        /// Whose reminders.
        merchant: MerchantId,
        /// To whom.
        customer: CustomerId,
        /// By which reminder.
        reminder: Uuid,
    },
}

impl Link {
    /// The address of the link.
    pub fn url(&self, settings: &LinkSettings) -> String {
        let path = match self {
            Self::Pay { .. } => "p",
            Self::PayAll { .. } => "i",
            Self::Unsubscribe { .. } => "u",
        };
        format!("{}/{path}/{}", settings.public_url.trim_end_matches('/'), self.token(settings))
    }

    /// The signed token.
    pub fn token(&self, settings: &LinkSettings) -> String {
        let text = match self {
            Self::Pay { merchant, customer, invoice, reminder } => {
                join(&["p", merchant.as_str(), customer.as_str(), invoice.as_str(), &reminder.simple().to_string()])
            }
            Self::PayAll { merchant, customer, invoices, reminder } => {
                let reminder = reminder.simple().to_string();
                let mut fields = vec!["i", merchant.as_str(), customer.as_str(), &reminder];
                fields.extend(invoices.iter().map(InvoiceId::as_str));
                join(&fields)
            }
            Self::Unsubscribe { merchant, customer, reminder } => {
                join(&["u", merchant.as_str(), customer.as_str(), &reminder.simple().to_string()])
            }
        };
        let mut bytes = text.into_bytes();
        let signature = mac(settings, &bytes).finalize().into_bytes();
        bytes.extend(signature.iter().take(SIGNATURE));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token; `None` if the key did not sign exactly this.
    pub fn parse(token: &str, settings: &LinkSettings) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (text, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        // Constant time.
        mac(settings, text).verify_truncated_left(signature).ok()?;
        let mut fields = std::str::from_utf8(text).ok()?.split(SEPARATOR);
        let kind = fields.next()?;
        let (merchant, customer) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        match kind {
            "p" => {
                let invoice = fields.next()?.parse().ok()?;
                Some(Self::Pay { merchant, customer, invoice, reminder: fields.next()?.parse().ok()? })
            }
            "i" => {
                let reminder = fields.next()?.parse().ok()?;
                let invoices = fields.map(|invoice| invoice.parse().ok()).collect::<Option<_>>()?;
                Some(Self::PayAll { merchant, customer, invoices, reminder })
            }
            "u" => Some(Self::Unsubscribe { merchant, customer, reminder: fields.next()?.parse().ok()? }),
            _ => None,
        }
    }
}

/// A keyed hash of an address: tells that it is the same again, and nothing else.
pub fn address_hash(settings: &LinkSettings, merchant: &str, address: &str) -> String {
    let text = join(&["address", merchant, &address.trim().to_lowercase()]);
    mac(settings, text.as_bytes()).finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn join(fields: &[&str]) -> String {
    fields.join(&SEPARATOR.to_string())
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn mac(settings: &LinkSettings, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(settings.key.reveal().as_bytes()).expect("any length");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::Masked;

    fn settings(key: &str) -> LinkSettings {
        LinkSettings { public_url: "https://pay.example.com/".to_owned(), key: Masked::new(key.to_owned()) }
    }

    fn link() -> Link {
        Link::Pay {
            merchant: "acme".parse().unwrap(),
            customer: "cus_1".parse().unwrap(),
            invoice: "Rechnung 7/ä".parse().unwrap(),
            reminder: Uuid::from_u128(7),
        }
    }

    #[test]
    fn links_of_several_invoices_are_links_too() {
        let settings = settings("a key of at least thirty-two bytes");
        let all = Link::PayAll {
            merchant: "acme".parse().unwrap(),
            customer: "cus_1".parse().unwrap(),
            invoices: ["in_1", "in_2"].map(|invoice| invoice.parse().unwrap()).to_vec(),
            reminder: Uuid::from_u128(7),
        };
        assert_eq!(Link::parse(&all.token(&settings), &settings), Some(all));
    }

    #[test]
    fn tokens_stand_for_what_they_were_made_of() {
        let settings = settings("a key of at least thirty-two bytes");
        assert_eq!(Link::parse(&link().token(&settings), &settings), Some(link()));
        assert!(link().url(&settings).starts_with("https://pay.example.com/p/"));
        assert!(link().token(&settings).bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    }

    #[test]
    fn nothing_else_is_a_token() {
        let ours = settings("a key of at least thirty-two bytes");
        let token = link().token(&ours);
        assert_eq!(Link::parse(&token, &settings("another key of at least 32 bytes")), None);
        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(Link::parse(&changed, &ours).is_none_or(|l| l == link()), "changed at {position}");
        }
        for nonsense in ["", "p", "AAAAAAAAAAAAAAAAAAAA", "ä"] {
            assert_eq!(Link::parse(nonsense, &ours), None);
        }
    }
}
