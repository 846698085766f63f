//! What a server answers: RFC 5321 section 4.2, with the codes of RFC 3463.

use std::fmt;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The code with which a server hangs up, at whatever time.
pub const GOODBYE: u16 = 421;

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// RFC 3463, such as 5.1.1, if the server gives one.
    pub enhanced: Option<String>,
    /// All lines; may name the recipient, so it is kept out of logs.
    pub text: kernel::Masked<String>,
}

impl Reply {
    /// 2xx.
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 5xx.
    pub const fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.enhanced.as_ref().map_or(Ok(()), |code| write!(f, " {code}"))
    }
}

/// Reads one reply, of however many lines. Errors: what is wrong with it.
pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Reply, String> {
    /// No honest reply is longer.
    const MAX: usize = 64 * 1024;
    let mut text = String::new();
    loop {
        let mut line = Vec::new();
        let room = MAX.saturating_sub(text.len());
        let mut bounded = (&mut *stream).take(room as u64 + 1);
        let read = bounded.read_until(b'\n', &mut line).await.map_err(|e| e.to_string())?;
        if read > room {
            return Err("the server's reply is too long".to_owned());
        }
        if line.last() != Some(&b'\n') {
            // Half a reply says nothing: what reads as 250 may have been cut off from anything.
            return Err("the server hung up".to_owned());
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        let code = line.get(..3).and_then(|c| c.parse::<u16>().ok()).filter(|c| (200..600).contains(c));
        let Some(code) = code else { return Err("the server's reply is no SMTP".to_owned()) };
        let rest = line.get(4..).unwrap_or_default();
        text.push_str(rest);
        match line.as_bytes().get(3) {
            None | Some(b' ') => {
                let enhanced = enhanced_code(code, rest);
                return Ok(Reply { code, enhanced, text: kernel::Masked::new(text) });
            }
            Some(b'-') => text.push('\n'),
            Some(_) => return Err("the server's reply is no SMTP".to_owned()),
        }
    }
}

/// The RFC 3463 code at the beginning of a reply's text: its class must be that of the reply.
fn enhanced_code(code: u16, text: &str) -> Option<String> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split('.').map(|p| p.parse::<u16>().ok().filter(|n| *n < 1000));
    let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
    (parts.next().is_none() && class == code / 100).then(|| format!("{class}.{subject}.{detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_belong_to_their_class() {
        assert_eq!(enhanced_code(550, "5.1.1 unknown").as_deref(), Some("5.1.1"));
        assert_eq!(enhanced_code(250, "2.0.0").as_deref(), Some("2.0.0"));
        assert_eq!(enhanced_code(550, "4.1.1 mixed up"), None);
        assert_eq!(enhanced_code(250, "127.0.0.1 is here"), None);
        assert_eq!(enhanced_code(250, "ok"), None);
        assert_eq!(enhanced_code(250, "2.0"), None);
    }

    #[tokio::test]
    async fn only_whole_replies_count() {
        let read = async |text: &str| read(&mut text.as_bytes()).await.map(|reply| (reply.code, reply.enhanced));
        assert_eq!(read("250 2.0.0 ok\r\n").await, Ok((250, Some("2.0.0".to_owned()))));
        assert_eq!(read("250-a\r\n250 b\r\n").await, Ok((250, None)));
        assert_eq!(read("250\r\n").await, Ok((250, None)));
        for cut_off in ["", "2", "250", "250 2.0.0 ok", "250-a\r\n", "250-a\r\n250 b"] {
            assert_eq!(read(cut_off).await, Err("the server hung up".to_owned()), "{cut_off:?}");
        }
        for nonsense in ["hello\r\n", "\r\n", "199 x\r\n", "600 x\r\n", "2500 x\r\n", "ünsinn\r\n"] {
            assert_eq!(read(nonsense).await, Err("the server's reply is no SMTP".to_owned()), "{nonsense:?}");
        }
    }
}
