//! What a server says it can do (RFC 5321 section 4.1.1.1).

/// The extensions that matter to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// RFC 2920: commands go out before their replies are in.
    pub(super) pipelining: bool,
    /// RFC 6152.
    pub(super) eight_bit: bool,
    /// RFC 6531: addresses and headers in UTF-8.
    pub(super) smtp_utf8: bool,
    /// RFC 3461: it tells what became of a mail, under the id that we give.
    pub(super) dsn: bool,
    /// RFC 3030: BDAT instead of DATA.
    pub(super) chunking: bool,
    /// RFC 1870: that it wants to know; and how much it takes, in bytes, if it says so.
    pub(super) size: Option<Option<usize>>,
    /// RFC 3207.
    pub(super) start_tls: bool,
    pub(super) auth: Vec<String>,
}

impl Features {
    /// Reads the lines of the reply to EHLO; the first is a greeting.
    pub(super) fn read(reply: &str) -> Self {
        let mut features = Self::default();
        for line in reply.lines().skip(1) {
            // Before there was a standard, AUTH came with an equals sign.
            let mut words = line.split([' ', '=', '\r']).filter(|word| !word.is_empty()).map(str::to_ascii_uppercase);
            match words.next().as_deref() {
                Some("PIPELINING") => features.pipelining = true,
                Some("8BITMIME") => features.eight_bit = true,
                Some("SMTPUTF8") => features.smtp_utf8 = true,
                Some("DSN") => features.dsn = true,
                Some("CHUNKING") => features.chunking = true,
                Some("STARTTLS") => features.start_tls = true,
                // 0 means that there is no fixed limit.
                Some("SIZE") => {
                    features.size = Some(words.next().and_then(|n| n.parse().ok()).filter(|limit| *limit > 0));
                }
                Some("AUTH") => features.auth.extend(words),
                _ => {}
            }
        }
        features
    }

    pub(super) fn offers_auth(&self, mechanism: &str) -> bool {
        self.auth.iter().any(|m| m == mechanism)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_say() {
        let features = Features::read(
            "mx.example at your service\nPipelining\nSIZE 1000\nAUTH PLAIN LOGIN\nAUTH=XOAUTH2\n8BITMIME",
        );
        assert!(features.pipelining && features.eight_bit && !features.dsn && !features.chunking);
        assert_eq!(features.size, Some(Some(1000)));
        assert!(["PLAIN", "LOGIN", "XOAUTH2"].iter().all(|m| features.offers_auth(m)));
        assert!(!features.offers_auth("CRAM-MD5"));
        assert_eq!(Features::read("hi\nSIZE").size, Some(None));
        assert_eq!(Features::read("hi\nSIZE 0").size, Some(None));
        assert_eq!(Features::read("PIPELINING"), Features::default(), "the first line is a greeting");
    }
}
