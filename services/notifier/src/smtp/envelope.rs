//! MAIL and RCPT, with what the server offers; and mails that it cannot carry.

use super::features::Features;
use super::{Failure, Mail};
use std::borrow::Cow;
use std::fmt::Write;

/// The lines of an envelope, each with its line end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) mail: String,
    pub(super) recipient: String,
}

impl Envelope {
    /// Errors: the server cannot carry the mail, whatever is tried.
    pub(super) fn of(mail: &Mail, features: &Features) -> Result<Self, Failure> {
        let (from, to) = (ascii_domain(&mail.from), ascii_domain(&mail.to));
        if to.is_empty() || [&from, &to].iter().any(|a| a.chars().any(char::is_control)) {
            return Err(Failure::Unfit { reason: "bad_address" });
        }
        let mut line = format!("MAIL FROM:<{from}>");
        if let Some(limit) = features.size {
            if limit.is_some_and(|limit| mail.data.len() > limit) {
                return Err(Failure::Unfit { reason: "too_large" });
            }
            let _ = write!(line, " SIZE={}", mail.data.len());
        }
        if !mail.data.is_ascii() {
            if !features.eight_bit {
                return Err(Failure::Unfit { reason: "8bitmime" });
            }
            line.push_str(" BODY=8BITMIME");
        }
        if !from.is_ascii() || !to.is_ascii() || !headers(&mail.data).is_ascii() {
            if !features.smtp_utf8 {
                return Err(Failure::Unfit { reason: "smtputf8" });
            }
            line.push_str(" SMTPUTF8");
        }
        let mut recipient = format!("RCPT TO:<{to}>");
        if features.dsn {
            let _ = write!(line, " RET=HDRS ENVID={}", xtext(&mail.envid));
            recipient.push_str(" NOTIFY=FAILURE,DELAY");
            // Others would need the form of RFC 6533, which not every server with DSN knows.
            if to.is_ascii() {
                let _ = write!(recipient, " ORCPT=rfc822;{}", xtext(&to));
            }
        }
        Ok(Self { mail: line + "\r\n", recipient: recipient + "\r\n" })
    }
}

fn headers(data: &[u8]) -> &[u8] {
    let end = data.windows(4).position(|four| four == b"\r\n\r\n");
    end.and_then(|end| data.get(..end)).unwrap_or(data)
}

/// An address whose domain is in the form that every server understands (RFC 5890: A-labels). One that has no such form
/// stays as it is.
pub fn ascii_domain(address: &str) -> Cow<'_, str> {
    if address.is_ascii() {
        return address.into();
    }
    let Some((local, domain)) = address.rsplit_once('@') else { return address.into() };
    match idna::domain_to_ascii_strict(domain) {
        Ok(domain) => format!("{local}@{domain}").into(),
        Err(_) => address.into(),
    }
}

/// RFC 3461 section 4.
fn xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'+' && byte != b'=' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "+{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(to: &str, data: &str) -> Mail {
        Mail { from: "billing@acme.example".into(), to: to.into(), envid: "id=1".into(), data: data.into() }
    }

    fn all() -> Features {
        Features::read("hi\nSIZE 100\n8BITMIME\nSMTPUTF8\nDSN\nPIPELINING\nCHUNKING")
    }

    #[test]
    fn says_only_what_the_server_understands() {
        let plain = Envelope::of(&mail("ada+x@example.com", "A: b\r\n\r\nhello\r\n"), &Features::default()).unwrap();
        assert_eq!(plain.mail, "MAIL FROM:<billing@acme.example>\r\n");
        assert_eq!(plain.recipient, "RCPT TO:<ada+x@example.com>\r\n");
        let full = Envelope::of(&mail("ada+x@example.com", "A: b\r\n\r\nhellö\r\n"), &all()).unwrap();
        assert_eq!(full.mail, "MAIL FROM:<billing@acme.example> SIZE=16 BODY=8BITMIME RET=HDRS ENVID=id+3D1\r\n");
        assert_eq!(
            full.recipient,
            "RCPT TO:<ada+x@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;ada+2Bx@example.com\r\n"
        );
    }

    #[test]
    fn what_cannot_be_carried_has_a_name() {
        let unfit = |mail: &Mail, features: &Features| match Envelope::of(mail, features) {
            Err(Failure::Unfit { reason }) => reason,
            other => panic!("{other:?}"),
        };
        let none = Features::default();
        assert_eq!(unfit(&mail("a@b.example", &"x".repeat(101)), &all()), "too_large");
        assert_eq!(unfit(&mail("a@b.example", "A: b\r\n\r\nhellö\r\n"), &none), "8bitmime");
        let eight_bit = Features { eight_bit: true, ..Features::default() };
        assert_eq!(unfit(&mail("a@b.example", "A: ö\r\n\r\nhello\r\n"), &eight_bit), "smtputf8");
        assert_eq!(unfit(&mail("jürgen@b.example", "A: b\r\n\r\n"), &eight_bit), "smtputf8");
        assert_eq!(unfit(&mail("a@b.example>\r\nRCPT TO:<c@d.example", ""), &none), "bad_address");
        assert_eq!(unfit(&mail("", ""), &none), "bad_address");
        let international = Envelope::of(&mail("jürgen@bücher.example", "A: b\r\n\r\n"), &all()).unwrap();
        assert!(international.mail.contains(" SMTPUTF8"), "{international:?}");
        assert_eq!(international.recipient, "RCPT TO:<jürgen@xn--bcher-kva.example> NOTIFY=FAILURE,DELAY\r\n");
    }

    #[test]
    fn domains_have_an_ascii_form() {
        assert_eq!(ascii_domain("ada@Bücher.example"), "ada@xn--bcher-kva.example");
        assert_eq!(ascii_domain("ada@example.com"), "ada@example.com");
        assert_eq!(ascii_domain("größe"), "größe");
        let carried = Envelope::of(&mail("ada@bücher.example", "A: b\r\n\r\n"), &Features::default()).unwrap();
        assert_eq!(carried.recipient, "RCPT TO:<ada@xn--bcher-kva.example>\r\n", "needs no SMTPUTF8");
    }
}
