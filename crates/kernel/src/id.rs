//! Identifiers: what a merchant, a customer, an invoice and an event are called, and which shard they live on.

use crate::Clock;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::{NoContext, Uuid};

/// Why a text cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than the limit given.
    #[error("is longer than {0} characters")]
    TooLong(usize),
    /// A character that the id may not contain.
    #[error("contains {0:?}; allowed: {1}")]
    Character(char, &'static str),
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, max $max:literal, $allowed:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text and wraps it.
            pub fn try_new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if text.is_empty() {
                    return Err(IdError::Empty);
                }
                if text.chars().count() > $max {
                    return Err(IdError::TooLong($max));
                }
                match text.chars().find(|c| !($ok)(*c)) {
                    Some(c) => Err(IdError::Character(c, $allowed)),
                    None => Ok(Self(text)),
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::try_new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// A merchant, as its file in the configuration directory names it. It is a token of every event subject,
    /// so it is a slug: lower-case letters, digits, `-` and `_`.
    MerchantId, max 64, "a-z 0-9 - _",
    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
}
text_id! {
    /// A customer, as the payment processor calls it. Unique within a merchant.
    CustomerId, max 255, "anything printable",
    |c: char| !c.is_control()
}
text_id! {
    /// An invoice, as the payment processor calls it. Unique within a merchant.
    InvoiceId, max 255, "anything printable",
    |c: char| !c.is_control()
}

/// One of 64 logical shards. A customer's cases, timers and events share a shard, so that one worker sees
/// everything that could end up in the same message, and any number of workers can share the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard(u8);

impl Shard {
    /// How many shards there are. Fixed for ever: rows carry the number.
    pub const COUNT: u8 = 64;

    /// The shard of a customer.
    pub fn of(merchant: &MerchantId, customer: &CustomerId) -> Self {
        Self((stable_hash(&[merchant.as_str(), customer.as_str()]) % u64::from(Self::COUNT)) as u8)
    }

    /// Reads a stored number.
    pub const fn from_number(number: i16) -> Option<Self> {
        if number >= 0 && number < Self::COUNT as i16 { Some(Self(number as u8)) } else { None }
    }

    /// The number as Postgres stores it (`smallint`).
    pub const fn number(self) -> i16 {
        self.0 as i16
    }
}

/// FNV-1a over the parts, each ended by a zero byte. The same on every machine and in every version:
/// shards, spreads and experiment arms depend on it.
pub fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV's low bits are weak for short inputs that differ in the last byte only; fold the high half in.
    hash ^ (hash >> 32)
}

/// A new id for something dunlin decided: UUIDv7, ordered by the clock's time.
pub fn new(clock: &dyn Clock) -> Uuid {
    at(clock.now())
}

/// A new UUIDv7 with a given time.
pub fn at(now: Timestamp) -> Uuid {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, nanos))
}

/// The time in a UUIDv7, to the millisecond.
pub fn time_of(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

/// The id of something that came from outside: UUIDv5 of (source, account, external id, what it became), so
/// that the same input twice is the same event.
pub fn derive(source: &str, account: &str, external_id: &str, becomes: &str) -> Uuid {
    /// dunlin's namespace for derived ids.
    const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_2c8e_52aa_4b0b_9a37_d0f1_1b1e_d041);
    Uuid::new_v5(&NAMESPACE, [source, account, external_id, becomes].join("\0").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merchant_ids_are_subject_tokens() {
        assert!(MerchantId::try_new("acme-1_x").is_ok());
        for bad in ["", "Acme", "a.b", "a*", "a>", "a b", "ä"] {
            assert!(MerchantId::try_new(bad).is_err(), "{bad:?} must not be a merchant id");
        }
        assert_eq!(MerchantId::try_new("x".repeat(65)), Err(IdError::TooLong(64)));
    }

    #[test]
    fn invoice_ids_refuse_control_characters_and_say_which() {
        let error = InvoiceId::try_new("in_1\n2").unwrap_err();
        assert_eq!(error.to_string(), "contains '\\n'; allowed: anything printable");
    }

    #[test]
    fn shards_are_stable_and_spread() {
        let merchant = MerchantId::try_new("acme").unwrap();
        let mut seen = [0u32; Shard::COUNT as usize];
        for n in 0..6_400 {
            let customer = CustomerId::try_new(format!("cus_{n}")).unwrap();
            seen[Shard::of(&merchant, &customer).number() as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (50..=160).contains(&n)), "uneven shards: {seen:?}");
        // A changed hash would strand every stored row on the wrong shard.
        assert_eq!(Shard::of(&merchant, &CustomerId::try_new("cus_1").unwrap()).number(), 17);
    }

    #[test]
    fn derived_ids_separate_their_parts() {
        assert_eq!(derive("stripe", "acme", "evt_1", "x"), derive("stripe", "acme", "evt_1", "x"));
        assert_ne!(derive("stripe", "acme", "evt_1", "x"), derive("stripe", "acmee", "vt_1", "x"));
    }

    #[test]
    fn new_ids_order_by_the_clock() {
        let early = at("2026-01-01T00:00:00Z".parse().unwrap());
        let late = at("2026-01-01T00:00:01Z".parse().unwrap());
        assert!(early < late);
    }
}
