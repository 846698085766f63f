//! Enhanced status codes (RFC 3463 and IANA's registry): what a final failure says about the address.

use std::fmt;

/// An enhanced status code, such as 5.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status {
    /// 2 success, 4 temporary, 5 permanent.
    pub class: u8,
    /// 1 address, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy; 0 none of them.
    pub subject: u16,
    /// Of the subject; 0 says nothing more.
    pub detail: u16,
}

/// What a failure says about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody can be written to there: not at this address, not at this domain, not any more.
    Address,
    /// It failed, but may work another time: full, unreachable, too large, or nobody said why.
    Passing,
    /// Who sent it or what it looks like is not wanted: the address may be fine.
    Policy,
}

impl Status {
    /// A code.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// The most telling code in a text: those with a detail before those without, later ones before earlier ones (servers
    /// quote the code of the next one after their own).
    pub fn find(text: &str) -> Option<Self> {
        codes(text).max_by_key(Status::telling)
    }

    /// How much a code says: 0 that it failed, 1 in what way, 2 why.
    pub fn telling(&self) -> u8 {
        match (self.subject, self.detail) {
            (0, _) => 0,
            (_, 0) => 1,
            // 5.5.0 and the like are what a server says that has no code of its own.
            (5, 1) => 1,
            _ => 2,
        }
    }

    /// What a failure with this code says about the address; `None` if the code does not say.
    pub const fn fault(&self) -> Option<Fault> {
        match (self.class, self.subject, self.detail) {
            // Our own address.
            (_, 1, 7 | 8) => Some(Fault::Policy),
            // Mailbox, domain, syntax, ambiguous; moved away; takes no mail.
            (5, 1, 1 | 2 | 3 | 4 | 6 | 10) => Some(Fault::Address),
            // Disabled. (5.7.13 is about who has logged in to send: RFC 5248.)
            (5, 2, 1) => Some(Fault::Address),
            // Somebody else has the mailbox or the domain now.
            (5, 7, 17 | 18) => Some(Fault::Address),
            (_, 7, _) => Some(Fault::Policy),
            (4, 1..=6, 1..) => Some(Fault::Passing),
            // Full, too large, mailing list; system full, too large.
            (5, 2, 2..=4) | (5, 3, 1..=5) => Some(Fault::Passing),
            // Congestion, loops, expired.
            (5, 4, 2 | 5..=7) => Some(Fault::Passing),
            (5, 6, 1..) => Some(Fault::Passing),
            _ => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// All enhanced codes in a text. `5.1.2.3` is an address, `4.72.1` a version.
fn codes(text: &str) -> impl Iterator<Item = Status> + '_ {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    text.split(move |c| !is_part(c)).filter_map(|word| {
        // "5.1.1." ends a sentence.
        let mut parts = word.trim_end_matches('.').split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |text: &str| (text.len() <= 3).then(|| text.parse::<u16>().ok()).flatten();
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        let status = Status::new(class, number(subject)?, number(detail)?);
        (parts.next().is_none() && status.subject <= 7).then_some(status)
    })
}

/// The first three-digit reply code of a failure in a text (RFC 5321, 4.2): 4xx or 5xx at the beginning of a word.
pub fn reply_code(text: &str) -> Option<u16> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '@')));
    let code = |word: &str| word.parse::<u16>().ok().filter(|code| word.len() == 3 && (400..600).contains(code));
    words.filter_map(code).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_and_addresses_and_versions_are_not() {
        let found = |text: &str| Status::find(text).map(|s| s.to_string());
        for (text, expected) in [
            ("550 5.1.1 User unknown", Some("5.1.1")),
            ("550-5.7.26 The MAIL FROM domain", Some("5.7.26")),
            ("(#5.5.0)", Some("5.5.0")),
            ("ERROR_CODE :5.1.1.", Some("5.1.1")),
            ("5.1.0 - Unknown address error 550-'5.2.2 full'", Some("5.2.2")),
            ("5.0.0 (permanent failure)", Some("5.0.0")),
            ("550 5.7.606 Access denied", Some("5.7.606")),
            ("Exim 4.80.1 at 5.1.2.3, 3.1.1, 5.1, 5.1.1000", None),
        ] {
            assert_eq!(found(text).as_deref(), expected, "{text}");
        }
        assert_eq!(reply_code("host 192.0.2.1 said: 552 too large"), Some(552));
        assert_eq!(reply_code("port 2550, 5501, 250 OK"), None);
    }

    #[test]
    fn only_what_is_certain_is_the_addresss_fault() {
        let fault = |text: &str| Status::find(text).and_then(|s| s.fault());
        for code in ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.7.17", "5.7.18"] {
            assert_eq!(fault(code), Some(Fault::Address), "{code}");
        }
        for code in ["4.1.1", "5.2.2", "4.2.2", "5.3.4", "4.4.1", "5.4.7", "4.3.2"] {
            assert_eq!(fault(code), Some(Fault::Passing), "{code}");
        }
        for code in ["5.7.1", "5.7.13", "4.7.0", "5.7.26", "5.1.8", "5.1.7"] {
            assert_eq!(fault(code), Some(Fault::Policy), "{code}");
        }
        for code in ["5.0.0", "5.1.0", "5.5.0", "5.4.1", "4.0.0"] {
            assert_eq!(fault(code), None, "{code} does not say");
        }
    }
}
