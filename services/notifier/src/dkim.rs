//! DKIM signatures: RFC 6376 with relaxed canonicalisation, by RSA or Ed25519 (RFC 8463).
//!
//! The relay that signs by itself needs none of this. Each key of a merchant signs the same message by itself, so that a
//! verifier that knows only one of the algorithms is content.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kernel::Masked;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use sha2::{Digest, Sha256};
use std::fmt;

/// What is signed, if it is there. Those that a reader sees are named once more than they are there: a second one that
/// somebody adds breaks the signature (RFC 6376 section 8.15).
const SIGNED: [(&str, bool); 14] = [
    ("from", true),
    ("to", true),
    ("subject", true),
    ("date", true),
    ("reply-to", true),
    ("message-id", false),
    ("in-reply-to", false),
    ("references", false),
    ("auto-submitted", false),
    ("list-unsubscribe", true),
    ("list-unsubscribe-post", true),
    ("dunlin-steps", false),
    ("mime-version", false),
    ("content-type", true),
];

/// Signs for a domain.
pub struct Signer {
    domain: String,
    selector: String,
    key: Key,
}

enum Key {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("domain", &self.domain).field("selector", &self.selector).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer with a private key in PEM: PKCS #8, or PKCS #1 for RSA. The error says what is wrong, and never quotes it.
    pub fn try_new(domain: &str, selector: &str, pem: &Masked<String>) -> Result<Self, String> {
        let (label, der) = read_pem(pem.reveal()).ok_or("is no private key in PEM")?;
        let rsa = |problem: ring::error::KeyRejected| format!("is no usable RSA key: {problem}");
        let key = match label {
            "RSA PRIVATE KEY" => Key::Rsa(RsaKeyPair::from_der(&der).map_err(rsa)?),
            "PRIVATE KEY" => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
                Ok(key) => Key::Ed25519(key),
                Err(_) => Key::Rsa(RsaKeyPair::from_pkcs8(&der).map_err(rsa)?),
            },
            other => return Err(format!("is a {other}, not a private key in PKCS #8")),
        };
        Ok(Self { domain: domain.to_owned(), selector: selector.to_owned(), key })
    }

    /// The DKIM-Signature header of a message, with its line end. `None`: it has no body, or cannot be signed.
    pub fn sign(&self, message: &[u8], now: Timestamp) -> Option<String> {
        let message = std::str::from_utf8(message).ok()?;
        let (head, body) = message.split_once("\r\n\r\n")?;
        let fields = fields(head);
        let names = signed_names(&fields);
        let algorithm = match &self.key {
            Key::Ed25519(_) => "ed25519-sha256",
            Key::Rsa(_) => "rsa-sha256",
        };
        let unsigned = format!(
            "DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed; d={};\r\n\ts={}; t={};\r\n\th={};\r\n\tbh={};\r\n\tb=",
            self.domain,
            self.selector,
            now.as_second(),
            names.chunks(5).map(|names| names.join(":")).collect::<Vec<_>>().join(":\r\n\t "),
            STANDARD.encode(Sha256::digest(relaxed_body(body))),
        );
        let signature = STANDARD.encode(self.key.sign(signed_data(&fields, &names, &unsigned).as_bytes())?);
        let lines: Vec<&str> =
            (0..signature.len()).step_by(72).filter_map(|at| signature.get(at..signature.len().min(at + 72))).collect();
        Some(format!("{unsigned}{}\r\n", lines.join("\r\n\t ")))
    }
}

impl Key {
    fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match self {
            // RFC 8463 section 3: what is signed is the hash.
            Self::Ed25519(key) => Some(key.sign(&Sha256::digest(data)).as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

/// The label and the bytes of the first block of a PEM file.
fn read_pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (label, rest) = text.split_once("-----BEGIN ")?.1.split_once("-----")?;
    let (encoded, _) = rest.split_once("-----END ")?;
    let encoded: String = encoded.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Some((label, STANDARD.decode(encoded).ok()?))
}

/// The header fields in order: lower-case names, and values as they are.
fn fields(head: &str) -> Vec<(String, &str)> {
    let mut fields = Vec::new();
    let mut rest = head;
    while !rest.is_empty() {
        // A line that begins with white space goes on with the field before it.
        let mut end = 0;
        let length = loop {
            match rest.get(end..).and_then(|tail| tail.find("\r\n")) {
                Some(at) if rest.get(end + at + 2..).is_some_and(|next| next.starts_with([' ', '\t'])) => end += at + 2,
                Some(at) => break end + at,
                None => break rest.len(),
            }
        };
        let (field, tail) = rest.split_at(length);
        if let Some((name, value)) = field.split_once(':') {
            fields.push((name.trim_end().to_ascii_lowercase(), value));
        }
        rest = tail.strip_prefix("\r\n").unwrap_or(tail);
    }
    fields
}

fn signed_names(fields: &[(String, &str)]) -> Vec<&'static str> {
    let times = |name: &str| fields.iter().filter(|(field, _)| field == name).count();
    let named =
        |&(name, once_more): &(&'static str, bool)| std::iter::repeat_n(name, times(name) + usize::from(once_more));
    SIGNED.iter().flat_map(named).collect()
}

/// RFC 6376 section 3.7: the fields, from the last of a name to the first, then the signature's own without its value.
fn signed_data(fields: &[(String, &str)], names: &[&str], signature: &str) -> String {
    let mut data = String::with_capacity(2_048);
    let mut used = vec![false; fields.len()];
    for name in names {
        let place = (0..fields.len())
            .rev()
            .find(|&n| fields.get(n).is_some_and(|(field, _)| field == name) && used.get(n).is_some_and(|used| !used));
        if let Some(n) = place
            && let (Some(used), Some((name, value))) = (used.get_mut(n), fields.get(n))
        {
            *used = true;
            relaxed_field(&mut data, name, value);
            data.push_str("\r\n");
        }
    }
    let (_, value) = signature.split_once(':').unwrap_or_default();
    relaxed_field(&mut data, "dkim-signature", value);
    data
}

/// RFC 6376 section 3.4.2: unfolded, with single spaces.
fn relaxed_field(data: &mut String, name: &str, value: &str) {
    data.push_str(name);
    data.push(':');
    let mut words = value.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
    data.extend(words.next());
    for word in words {
        data.push(' ');
        data.push_str(word);
    }
}

/// RFC 6376 section 3.4.4: single spaces, none at the end of a line, no empty lines at the end.
fn relaxed_body(body: &str) -> String {
    let mut relaxed = String::with_capacity(body.len());
    let mut empty_lines = 0;
    for line in body.split("\r\n") {
        let line = line.trim_end_matches([' ', '\t']);
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        relaxed.extend(std::iter::repeat_n("\r\n", empty_lines));
        empty_lines = 0;
        let mut space = false;
        for c in line.chars() {
            let is_space = c == ' ' || c == '\t';
            if !is_space {
                relaxed.push(c);
            } else if !space {
                relaxed.push(' ');
            }
            space = is_space;
        }
        relaxed.push_str("\r\n");
    }
    relaxed
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    /// RFC 8463 appendix A.
    const SIGNATURE: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n";
    const MESSAGE: &str = "From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\nSubject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\nHi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    const PRIVATE: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn ed25519() -> Signer {
        // The head of a PKCS #8 document of such a key (RFC 8410).
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend(STANDARD.decode(PRIVATE).unwrap());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
        Signer::try_new("football.example.com", "brisbane", &Masked::new(pem)).unwrap()
    }

    fn tag<'a>(signature: &'a str, name: &str) -> String {
        let value = signature.split_once(':').unwrap().1;
        let tags = value.split(';').filter_map(|tag| tag.split_once('='));
        let found: Vec<&'a str> = tags.filter(|(n, _)| n.trim() == name).map(|(_, value)| value).collect();
        found[0].chars().filter(|c| !c.is_ascii_whitespace()).collect()
    }

    /// Verifies as a receiver does, from the header that is there.
    fn verify(message: &str, public: &UnparsedPublicKey<Vec<u8>>, hashed: bool) -> bool {
        let (head, body) = message.split_once("\r\n\r\n").unwrap();
        let all = fields(head);
        let (_, value) = all.iter().find(|(name, _)| name == "dkim-signature").unwrap();
        let signature = format!("DKIM-Signature:{value}");
        let rest: Vec<_> = all.iter().filter(|(name, _)| name != "dkim-signature").cloned().collect();
        let list = tag(&signature, "h").to_ascii_lowercase();
        let names: Vec<&str> = list.split(':').collect();
        let without = &signature[..signature.rfind("b=").unwrap() + 2];
        let data = signed_data(&rest, &names, without);
        let data = if hashed { Sha256::digest(data).to_vec() } else { data.into_bytes() };
        tag(&signature, "bh") == STANDARD.encode(Sha256::digest(relaxed_body(body)))
            && public.verify(&data, &STANDARD.decode(tag(&signature, "b")).unwrap()).is_ok()
    }

    fn public() -> UnparsedPublicKey<Vec<u8>> {
        UnparsedPublicKey::new(&ED25519, STANDARD.decode(PUBLIC).unwrap())
    }

    #[test]
    fn the_example_of_the_rfc_verifies() {
        assert!(verify(&format!("{SIGNATURE}{MESSAGE}"), &public(), true));
        let changed = MESSAGE.replace("dinner", "lunch");
        assert!(!verify(&format!("{SIGNATURE}{changed}"), &public(), true));
    }

    #[test]
    fn what_is_changed_or_added_breaks_the_signature() {
        let message = MESSAGE.replace("Subject", "List-Unsubscribe: <https://x.example/u>\r\nSubject");
        let signature = ed25519().sign(message.as_bytes(), "2026-06-10T08:00:00Z".parse().unwrap()).unwrap();
        let verifies = |message: &str| verify(&format!("{signature}{message}"), &public(), true);
        assert!(verifies(&message));
        assert!(
            verifies(&message.replace("To: Suzie", "To:\r\n\tSuzie").replace("game.  Are", "game. Are  ")),
            "relaxed"
        );
        for (from, to) in [
            ("hungry", "angry"),
            ("dinner", "lunch"),
            ("x.example", "y.example"),
            ("From: Joe", "From: Eve <eve@evil.example>\r\nFrom: Joe"),
            ("Date:", "Subject: Pay at once\r\nDate:"),
            ("Joe.\r\n", "Joe.\r\nPS: pay\r\n"),
        ] {
            assert!(!verifies(&message.replace(from, to)), "{from} -> {to}");
        }
        assert!(signature.lines().all(|line| line.len() <= 100), "{signature}");
    }

    #[test]
    fn rsa_signs_too() {
        let pem = include_str!("../tests/dkim/rsa.pem").to_owned();
        let signer = Signer::try_new("football.example.com", "test", &Masked::new(pem)).unwrap();
        let Key::Rsa(key) = &signer.key else { panic!("no RSA key") };
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public().as_ref().to_vec());
        let signature = signer.sign(MESSAGE.as_bytes(), "2026-06-10T08:00:00Z".parse().unwrap()).unwrap();
        assert!(verify(&format!("{signature}{MESSAGE}"), &public, false));
        assert!(!verify(&format!("{signature}{}", MESSAGE.replace("Hi", "Hello")), &public, false));
    }

    #[test]
    fn keys_that_are_none_are_named() {
        let fault = |pem: &str| Signer::try_new("a.example", "s", &Masked::new(pem.to_owned())).unwrap_err();
        assert_eq!(fault("secret"), "is no private key in PEM");
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----";
        assert_eq!(fault(public), "is a PUBLIC KEY, not a private key in PKCS #8");
        assert!(fault(&public.replace("PUBLIC", "PRIVATE")).starts_with("is no usable RSA key"));
    }

    #[test]
    fn bodies_and_fields_are_relaxed() {
        assert_eq!(relaxed_body(" C \r\nD \t E\r\n\r\n\r\n"), " C\r\nD E\r\n", "the example of RFC 6376");
        assert_eq!((relaxed_body(""), relaxed_body("\r\n\r\n")), (String::new(), String::new()));
        assert_eq!(relaxed_body("a\r\n\r\nb"), "a\r\n\r\nb\r\n");
        let mut field = String::new();
        relaxed_field(&mut field, "subject", " a\r\n\t b  c ");
        assert_eq!(field, "subject:a b c");
    }
}
