//! A merchant's own system, which is called when a campaign ends with `webhook`.

use crate::config::{At, Validate};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kernel::Masked;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// The merchant's system: it is told, as Standard Webhooks describes it, when a campaign ends with `webhook`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it listens: `https://…`. Plain `http` is for `localhost` only.
    pub url: String,
    /// `whsec_…`: what calls are signed with, 24 to 64 bytes as base64.
    pub signing_secret: Masked<String>,
}

impl Webhook {
    /// Where it listens. Errors: why nothing may be posted there.
    pub fn target(&self) -> Result<Url, &'static str> {
        target(&self.url)
    }

    /// The key of signatures. Errors: why the secret gives none.
    pub fn key(&self) -> Result<Masked<Vec<u8>>, &'static str> {
        let secret = self.signing_secret.reveal();
        let encoded = secret.strip_prefix("whsec_").ok_or("must begin with whsec_")?;
        let key = STANDARD.decode(encoded).map_err(|_| "is no base64 after whsec_")?;
        if !(24..=64).contains(&key.len()) {
            return Err("must be 24 to 64 bytes as base64: printf whsec_; head -c 32 /dev/urandom | base64");
        }
        Ok(Masked::new(key))
    }
}

impl Validate for Webhook {
    fn validate(&self, at: &mut At<'_>) {
        at.check("url", self.target());
        at.check("signing_secret", self.key());
    }
}

/// Reads a URL that requests may be sent to. Errors: why none may.
pub fn target(url: &str) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "is no URL such as https://example.com/dunlin")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user or a password: calls are signed instead");
    }
    let is_development = is_development(&url);
    match url.scheme() {
        "https" => {}
        "http" if is_development => {}
        "http" => return Err("must begin with https:// (http is for localhost only)"),
        _ => return Err("must begin with https://"),
    }
    let address = match url.host() {
        None => return Err("has no host"),
        Some(Host::Domain(_)) => None,
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
    };
    if !is_development && address.is_some_and(|a| !is_public(a)) {
        return Err("leads to an address that is not public (for development, use localhost)");
    }
    Ok(url)
}

/// Whether a URL leads to this machine by name, as in development.
pub fn is_development(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address == Ipv4Addr::LOCALHOST,
        Some(Host::Ipv6(_)) | None => false,
    }
}

/// Whether an address belongs to the public internet, so that nobody can reach our own network by a URL.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0, ..] => true,                       // this network
        [100, b, ..] => b & 0b1100_0000 == 64, // shared, behind a carrier's NAT
        [192, 0, 0, _] => true,                // protocol assignments
        [198, 18 | 19, ..] => true,            // benchmarks
        [a, ..] => a >= 240,                   // reserved, broadcast
    };
    let known = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast();
    !special && !known
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    match address.segments() {
        // NAT64: what counts is whom it leads to.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo and other protocol assignments, documentation, 6to4: they may lead anywhere.
        [0x2001, b, ..] => b >= 0x200 && b != 0xdb8,
        [0x2002, ..] => false,
        [a, ..] => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str, secret: &str) -> Webhook {
        Webhook { url: url.to_owned(), signing_secret: Masked::new(secret.to_owned()) }
    }

    #[test]
    fn only_public_https_is_called() {
        for url in [
            "https://example.com/hook?tenant=1",
            "https://example.com:8443",
            "https://93.184.216.34/",
            "https://[2606:4700::1111]/",
            "https://localhost/",
            "http://localhost:3000/hook",
            "http://127.0.0.1:3000/hook",
        ] {
            assert!(webhook(url, "").target().is_ok(), "{url}: {:?}", webhook(url, "").target());
        }
        let private = "leads to an address that is not public (for development, use localhost)";
        for (url, expected) in [
            ("", "is no URL such as https://example.com/dunlin"),
            ("example.com/hook", "is no URL such as https://example.com/dunlin"),
            ("ftp://example.com/", "must begin with https://"),
            ("file:///etc/passwd", "must begin with https://"),
            ("http://example.com/", "must begin with https:// (http is for localhost only)"),
            ("http://localhost.example.com/", "must begin with https:// (http is for localhost only)"),
            ("http://10.0.0.1/", "must begin with https:// (http is for localhost only)"),
            ("https://anna:secret@example.com/", "contains a user or a password: calls are signed instead"),
            ("https://10.1.2.3/", private),
            ("https://172.16.0.1/", private),
            ("https://192.168.1.1/", private),
            ("https://169.254.169.254/latest", private),
            ("https://127.0.0.2/", private),
            ("https://0.0.0.0/", private),
            ("https://100.64.0.1/", private),
            // Other spellings of the same.
            ("https://0x7f.2/", private),
            ("https://2130706434/", private),
            ("https://[::1]/", private),
            ("https://[::]/", private),
            ("https://[fe80::1]/", private),
            ("https://[fd00::1]/", private),
            ("https://[::ffff:10.0.0.1]/", private),
            ("https://[64:ff9b::a00:1]/", private),
            ("https://[2002:a00:1::]/", private),
        ] {
            assert_eq!(webhook(url, "").target(), Err(expected), "{url}");
        }
    }

    #[test]
    fn public_addresses_are_told_from_others() {
        for address in ["1.1.1.1", "100.128.0.1", "198.20.0.1", "192.0.1.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["198.18.0.1", "192.0.0.8", "224.0.0.1", "255.255.255.255", "2001:db8::1", "2001::1", "ff02::1"]
        {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn secrets_are_of_the_standard() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7_u8; bytes]));
        for good in [24, 32, 64] {
            assert_eq!(webhook("", &of(good)).key().unwrap().reveal().len(), good);
        }
        for (secret, expected) in [
            (of(23), "must be 24 to 64 bytes"),
            (of(65), "must be 24 to 64 bytes"),
            ("whsec_".to_owned(), "must be 24 to 64 bytes"),
            (STANDARD.encode([7_u8; 32]), "must begin with whsec_"),
            ("whsec_not base64".to_owned(), "is no base64"),
            (of(32).replace('=', ""), "is no base64"),
        ] {
            let error = webhook("", &secret).key().unwrap_err();
            assert!(error.starts_with(expected), "{secret}: {error}");
        }
    }
}
