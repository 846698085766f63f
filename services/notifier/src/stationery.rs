//! What a merchant's messages carry whatever they say: sender, colours, logo.

use crate::dkim::Signer;
use crate::smtp::ascii_domain;
use lettre::Address;
use lettre::message::Mailbox;
use runtime::Merchant;
use runtime::merchant::Brand;
use std::path::Path;
use std::sync::Arc;

/// A larger logo travels with no message: it would weigh more than everything else in it.
pub const MAX_LOGO: u64 = 64 * 1_024;

/// A merchant's stationery.
#[derive(Debug, Clone)]
pub struct Stationery {
    /// The From header.
    pub from: Mailbox,
    /// The Reply-To header.
    pub reply_to: Option<Mailbox>,
    /// Of the button, as CSS writes it.
    pub colour: String,
    /// White or black: what can be read on it.
    pub on_colour: &'static str,
    /// In the place of the name.
    pub logo: Option<Logo>,
    /// Each signs every message.
    pub signers: Arc<[Signer]>,
}

/// A logo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logo {
    /// Fetched by the reader's mail program.
    Link(String),
    /// Travels within the message.
    File {
        /// As `image/png`.
        kind: &'static str,
        /// The image.
        bytes: Vec<u8>,
    },
}

/// Something about a merchant's file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted.
    pub key: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl Stationery {
    /// Reads what a merchant's file leads to. Files are looked for in the configuration directory. What keeps messages from
    /// being made is an error; what they can go without is left out and told.
    pub fn load(config_dir: &Path, merchant: &Merchant) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let sender = &merchant.file.sender;
        let (mut fatal, mut problems) = (Vec::new(), Vec::new());
        let mut mailbox = |key: &str, name: Option<String>, email: &str| {
            let reason = || "is no e-mail address".to_owned();
            let found = address(email).map(|address| Mailbox::new(name, address));
            found.or_else(|| {
                fatal.push(Problem { key: format!("sender.{key}"), reason: reason() });
                None
            })
        };
        let from = mailbox("email", Some(one_line(&sender.name)), &sender.email);
        let reply_to = sender.reply_to.as_ref().and_then(|email| mailbox("reply_to", None, email));
        let mut signers = Vec::new();
        for (n, key) in sender.dkim.iter().enumerate() {
            match Signer::try_new(&key.domain, &key.selector, &key.private_key) {
                Ok(signer) => signers.push(signer),
                Err(reason) => fatal.push(Problem { key: format!("sender.dkim.{n}.private_key"), reason }),
            }
        }
        let logo = match load_logo(config_dir, &merchant.file.brand) {
            Ok(logo) => logo,
            Err(reason) => {
                problems.push(Problem { key: "brand.logo".to_owned(), reason });
                None
            }
        };
        let Some(from) = from.filter(|_| fatal.is_empty()) else { return Err(fatal) };
        let rgb = merchant.file.brand.rgb().unwrap_or_default();
        let colour = merchant.file.brand.colour.clone();
        Ok((Self { from, reply_to, colour, on_colour: readable_on(rgb), logo, signers: signers.into() }, problems))
    }

    /// The domain of Message-IDs.
    pub fn domain(&self) -> &str {
        self.from.email.domain()
    }
}

fn load_logo(config_dir: &Path, brand: &Brand) -> Result<Option<Logo>, String> {
    if let Some(link) = brand.logo_link() {
        return Ok(Some(Logo::Link(link.to_owned())));
    }
    let Some(name) = brand.logo_file() else { return Ok(None) };
    let file = config_dir.join(name);
    let unread = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let size = std::fs::metadata(&file).map_err(unread)?.len();
    if size > MAX_LOGO {
        return Err(format!("{} has {size} bytes; at most {MAX_LOGO} travel with a message", file.display()));
    }
    let bytes = std::fs::read(&file).map_err(unread)?;
    let kind = image_kind(&bytes).ok_or_else(|| format!("{} is no PNG, JPEG or GIF", file.display()))?;
    Ok(Some(Logo::File { kind, bytes }))
}

fn image_kind(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], _); 3] =
        [(b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif")];
    kinds.into_iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| kind)
}

/// An address that mail servers without SMTPUTF8 understand as far as that is possible: the domain in ASCII.
pub fn address(text: &str) -> Option<Address> {
    let text = ascii_domain(text.trim());
    let (local, domain) = text.rsplit_once('@')?;
    // An IP address is nobody's mailbox, and a way to reach machines that only we can see.
    let is_name = domain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && domain.parse::<std::net::IpAddr>().is_err();
    Address::new(local, domain).ok().filter(|_| is_name)
}

/// One line without control characters, for a header: it cannot start another one, not even when it is decoded. What looks
/// like an encoded word (RFC 2047) is none.
pub fn one_line(text: &str) -> String {
    let cleaned: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cleaned.split_whitespace().collect::<Vec<_>>().join(" ").replace("=?", "= ?")
}

/// The contrast of two colours, 1 to 21: WCAG 2.2, "contrast ratio".
pub fn contrast(a: [u8; 3], b: [u8; 3]) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// WCAG 2.2, "relative luminance".
fn luminance(rgb: [u8; 3]) -> f64 {
    let [red, green, blue] = rgb.map(|part| {
        let part = f64::from(part) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    0.2126f64.mul_add(red, 0.7152f64.mul_add(green, 0.0722 * blue))
}

/// White if it can be read on a colour; else black, which then can.
fn readable_on(rgb: [u8; 3]) -> &'static str {
    /// WCAG 2.2, 1.4.3 (AA).
    const ENOUGH: f64 = 4.5;
    if contrast(rgb, [255; 3]) >= ENOUGH { "#ffffff" } else { "#000000" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_on_every_colour_can_be_read() {
        for red in (0..=255).step_by(15) {
            for green in (0..=255).step_by(15) {
                for blue in (0..=255).step_by(15) {
                    let colour = [red, green, blue];
                    let text = if readable_on(colour) == "#ffffff" { [255; 3] } else { [0; 3] };
                    assert!(contrast(colour, text) >= 4.5, "{colour:?}");
                }
            }
        }
        assert_eq!(readable_on([0x12, 0x51, 0x3f]), "#ffffff");
        assert_eq!(readable_on([0xff, 0xd4, 0x00]), "#000000");
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 1e-9);
    }

    #[test]
    fn addresses_have_ascii_domains() {
        let of = |text| address(text).map(|a| a.to_string());
        assert_eq!(of("user@bücher.example").as_deref(), Some("user@xn--bcher-kva.example"));
        assert_eq!(of(" ada@example.com ").as_deref(), Some("ada@example.com"));
        assert_eq!(of("üser@example.com").as_deref(), Some("üser@example.com"), "only SMTPUTF8 can carry it");
        for bad in [
            "",
            "nobody",
            "nobody at home",
            "@example.com",
            "a@",
            "a@b@c@",
            "a b@example.com",
            "a@exa mple.com",
            "a@127.0.0.1",
            "a@[::1]",
            "a@example.com\r\nBcc: b@example.com",
            "a\r\n@example.com",
            "a@exam%0d%0aple.com",
            "<a@example.com>",
            "a@example.com,b@example.com",
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn logos_are_small_images() {
        let directory = std::env::temp_dir().join(format!("dunlin-logos-{}", kernel::id::new(&kernel::SystemClock)));
        std::fs::create_dir(&directory).unwrap();
        let load = |logo: &str| load_logo(&directory, &Brand { logo: Some(logo.to_owned()), ..Brand::default() });
        std::fs::write(directory.join("logo.png"), b"\x89PNG\r\n\x1a\nrest").unwrap();
        assert!(matches!(load("logo.png"), Ok(Some(Logo::File { kind: "image/png", .. }))));
        std::fs::write(directory.join("page.png"), b"<html>").unwrap();
        assert!(load("page.png").unwrap_err().ends_with("page.png is no PNG, JPEG or GIF"));
        let huge = std::fs::File::create(directory.join("huge.png")).unwrap();
        huge.set_len(40 * 1_024 * 1_024).unwrap();
        assert!(
            load("huge.png").unwrap_err().ends_with("huge.png has 41943040 bytes; at most 65536 travel with a message")
        );
        assert!(load("none.png").unwrap_err().contains("none.png cannot be read"));
        assert_eq!(load("https://acme.example/logo.png"), Ok(Some(Logo::Link("https://acme.example/logo.png".into()))));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
