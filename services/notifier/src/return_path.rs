//! Addresses that mail comes back to: one for each delivery, with a token that cannot be made up without the key.
//!
//! `bounce+<delivery>.<token>@domain` is the envelope sender (VERP), `reply+<delivery>.<token>@domain` where answers go. A
//! report that comes to one of them, or quotes it, comes from somebody who has had the message. Everything is hex: local
//! parts may change their case on the way.

use hmac::{Hmac, KeyInit, Mac};
use kernel::Masked;
use runtime::settings::LinkSettings;
use sha2::Sha256;
use uuid::Uuid;

/// Bytes of the token: 80 bits are beyond guessing by mail, and the local part has to stay below 64 characters (RFC 5321).
const TOKEN: usize = 10;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The envelope sender: reports of mail servers.
    Bounce,
    /// The Reply-To: answers of people.
    Reply,
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Bounce, Self::Reply];

    const fn name(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Reply => "reply",
        }
    }
}

/// Makes and reads the addresses.
#[derive(Debug, Clone)]
pub struct ReturnPath {
    domain: String,
    key: Masked<String>,
}

impl ReturnPath {
    /// Addresses in a domain, signed with the key of the links.
    pub fn new(domain: &str, links: &LinkSettings) -> Self {
        Self { domain: domain.to_ascii_lowercase(), key: links.key.clone() }
    }

    /// The envelope sender of a delivery.
    pub fn bounce(&self, delivery: Uuid) -> String {
        self.address(Purpose::Bounce, delivery)
    }

    /// Where answers to a delivery go.
    pub fn reply(&self, delivery: Uuid) -> String {
        self.address(Purpose::Reply, delivery)
    }

    fn address(&self, purpose: Purpose, delivery: Uuid) -> String {
        let token = self.mac(purpose, delivery).finalize().into_bytes();
        let token: String = token.iter().take(TOKEN).map(|byte| format!("{byte:02x}")).collect();
        format!("{}+{}.{token}@{}", purpose.name(), delivery.simple(), self.domain)
    }

    /// The delivery that one of our addresses belongs to, in angle brackets or not; `None` if the key did not make it.
    pub fn verify(&self, address: &str) -> Option<(Purpose, Uuid)> {
        let address = address.trim().trim_start_matches('<').trim_end_matches('>').to_ascii_lowercase();
        let (local, domain) = address.rsplit_once('@')?;
        let (purpose, rest) = local.split_once('+')?;
        let (delivery, token) = rest.split_once('.')?;
        let purpose = Purpose::ALL.into_iter().find(|known| known.name() == purpose)?;
        let delivery = Uuid::try_parse(delivery).ok()?;
        let token = bytes(token).filter(|token| token.len() == TOKEN)?;
        // Constant time.
        self.mac(purpose, delivery).verify_truncated_left(&token).ok()?;
        (domain == self.domain).then_some((purpose, delivery))
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn mac(&self, purpose: Purpose, delivery: Uuid) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.reveal().as_bytes()).expect("any length");
        // Links are signed with the same key: their texts begin otherwise.
        mac.update(purpose.name().as_bytes());
        mac.update(b"+");
        mac.update(delivery.as_bytes());
        mac
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |n: usize| u8::from_str_radix(hex.get(n..n + 2)?, 16).ok();
    hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| (0..hex.len()).step_by(2).map(pair).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &str) -> ReturnPath {
        let links = LinkSettings { public_url: "https://pay.example.com".to_owned(), key: Masked::new(key.to_owned()) };
        ReturnPath::new("Bounces.example.com", &links)
    }

    const DELIVERY: Uuid = Uuid::from_u128(0x0197_5000_0000_7000_8000_0000_0000_0007);

    #[test]
    fn addresses_stand_for_their_delivery_in_any_case() {
        let ours = path("a key of at least thirty-two bytes");
        for (purpose, address) in [(Purpose::Bounce, ours.bounce(DELIVERY)), (Purpose::Reply, ours.reply(DELIVERY))] {
            assert!(address.rsplit_once('@').is_some_and(|(local, _)| local.len() <= 64), "{address}");
            assert_eq!(ours.verify(&address), Some((purpose, DELIVERY)));
            assert_eq!(ours.verify(&format!(" <{}>", address.to_uppercase())), Some((purpose, DELIVERY)));
        }
    }

    #[test]
    fn nothing_else_is_an_address_of_ours() {
        let ours = path("a key of at least thirty-two bytes");
        let address = ours.bounce(DELIVERY);
        assert_eq!(path("another key of at least 32 bytes").verify(&address), None);
        assert_eq!(ours.verify(&address.replace("bounce+", "reply+")), None, "each purpose has tokens of its own");
        assert_eq!(ours.verify(&address.replace("@bounces.", "@elsewhere.")), None);
        let local = address.rfind('@').unwrap();
        for position in 0..local {
            let mut changed = address.clone().into_bytes();
            changed[position] = if changed[position] == b'0' { b'1' } else { b'0' };
            assert_eq!(ours.verify(&String::from_utf8(changed).unwrap()), None, "changed at {position}");
        }
        for nonsense in ["", "@", "bounce+@", "bounce+.@bounces.example.com", "bounce+ä.ä@bounces.example.com", "a@b"]
        {
            assert_eq!(ours.verify(nonsense), None);
        }
    }
}
