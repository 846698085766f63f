//! SMTP over a kept-open connection, with the hand-over split in two: [`Connection::prepare`] does everything up to the
//! last byte before the final dot, [`Prepared::write_dot`] writes the dot. Between the two the receiver has nothing it
//! could deliver, so the sender can still look at the balance and walk away.
//!
//! Every failure says how far the conversation had come ([`Phase`]): that decides whether the mail may have been accepted.
//! Time-outs follow RFC 5321 section 4.5.3.2, shortened where nothing can have been accepted yet.

use std::fmt;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting, greeting, EHLO.
    pub hello: Duration,
    /// MAIL and RCPT.
    pub envelope: Duration,
    /// DATA, until 354.
    pub data: Duration,
    /// Each block of the body.
    pub block: Duration,
    /// The reply to the final dot.
    pub reply: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(30),
            envelope: Duration::from_secs(60),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            reply: Duration::from_secs(600),
        }
    }
}

/// How far a conversation had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connecting, greeting, EHLO.
    Hello,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA, until 354.
    Data,
    /// The body without its final dot.
    Body,
    /// The final dot and its reply: from here on the mail may have been accepted.
    Dot,
}

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

/// The code with which a server hangs up, at whatever time.
pub const GOODBYE: u16 = 421;

/// Why a mail was not handed over, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server said no.
    #[error("refused at {phase:?}: {reply}")]
    Refused {
        /// To what.
        phase: Phase,
        /// How.
        reply: Reply,
    },
    /// The conversation broke off: time-out, reset, nonsense.
    #[error("broke off at {phase:?}: {problem}")]
    Broken {
        /// Where.
        phase: Phase,
        /// How.
        problem: String,
    },
}

impl Failure {
    fn broken(phase: Phase, problem: impl fmt::Display) -> Self {
        Self::Broken { phase, problem: problem.to_string() }
    }

    /// Only this mail was refused; the conversation may go on. (After DATA a server may expect a body. 421 is a goodbye.)
    fn spares_the_connection(&self) -> bool {
        matches!(self, Self::Refused { phase, reply } if *phase != Phase::Data && reply.code != GOODBYE)
    }
}

/// A mail to hand over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Envelope sender.
    pub from: String,
    /// Envelope recipient.
    pub to: String,
    /// Headers and body with CRLF line ends.
    pub data: Vec<u8>,
}

/// An open connection between two mails.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    timeouts: Timeouts,
    pipelining: bool,
    eight_bit: bool,
}

/// A connection on which a whole mail lies but for its final dot. Dropping it closes the connection: the mail is gone.
#[derive(Debug)]
#[must_use = "dropping a prepared mail takes it back"]
pub struct Prepared(Connection);

/// A connection that waits for the reply to a final dot.
#[derive(Debug)]
#[must_use = "only the reply tells whether the mail was accepted"]
pub struct Committed(Connection);

impl Connection {
    /// Connects and greets.
    pub async fn open(host: &str, port: u16, hello: &str, timeouts: Timeouts) -> Result<Self, Failure> {
        let broken = |problem: String| Failure::broken(Phase::Hello, problem);
        let connect = timeout(timeouts.hello, TcpStream::connect((host, port)));
        let socket = connect.await.map_err(|_| broken("connecting took too long".to_owned()))?;
        let socket = socket.map_err(|e| broken(e.to_string()))?;
        // Without this Nagle's algorithm holds small writes back until the peer's delayed ack: 40 ms a mail.
        socket.set_nodelay(true).map_err(|e| broken(e.to_string()))?;
        let stream = BufReader::new(socket);
        let mut connection = Self { stream, timeouts, pipelining: false, eight_bit: false };
        let greeting = connection.reply(Phase::Hello, timeouts.hello).await?;
        connection.expect(Phase::Hello, greeting, 220)?;
        connection.send(Phase::Hello, format!("EHLO {hello}\r\n").as_bytes(), timeouts.hello).await?;
        let features = connection.reply(Phase::Hello, timeouts.hello).await?;
        let features = connection.expect(Phase::Hello, features, 250)?;
        let offers = |name: &str| features.text.reveal().lines().any(|l| l.trim().eq_ignore_ascii_case(name));
        connection.pipelining = offers("PIPELINING");
        connection.eight_bit = offers("8BITMIME");
        Ok(connection)
    }

    /// Hands everything over but the final dot. On failure the connection is gone, unless only this mail was refused.
    pub async fn prepare(mut self, mail: &Mail) -> Result<Prepared, (Failure, Option<Self>)> {
        match self.envelope(mail).await {
            Ok(()) => {}
            Err(failure) if failure.spares_the_connection() => {
                // The transaction is over, the connection may go on.
                let reset = self.reset().await;
                return Err((failure, reset.is_ok().then_some(self)));
            }
            Err(failure) => return Err((failure, None)),
        }
        match self.body(&mail.data).await {
            Ok(()) => Ok(Prepared(self)),
            Err(failure) => Err((failure, None)),
        }
    }

    /// MAIL, RCPT, DATA: in one write where the server allows it.
    async fn envelope(&mut self, mail: &Mail) -> Result<(), Failure> {
        let Timeouts { envelope, data, .. } = self.timeouts;
        let body = if self.eight_bit { " BODY=8BITMIME" } else { "" };
        let from = format!("MAIL FROM:<{}>{body}\r\n", mail.from);
        let to = format!("RCPT TO:<{}>\r\n", mail.to);
        if !self.pipelining {
            for (phase, command, code, limit) in [
                (Phase::Mail, from.as_str(), 250, envelope),
                (Phase::Recipient, to.as_str(), 250, envelope),
                (Phase::Data, "DATA\r\n", 354, data),
            ] {
                self.send(phase, command.as_bytes(), limit).await?;
                let reply = self.reply(phase, limit).await?;
                self.expect(phase, reply, code)?;
            }
            return Ok(());
        }
        self.send(Phase::Mail, format!("{from}{to}DATA\r\n").as_bytes(), envelope).await?;
        let from = self.reply(Phase::Mail, envelope).await?;
        let to = self.reply(Phase::Recipient, envelope).await?;
        let go = self.reply(Phase::Data, data).await?;
        let refused = self.expect(Phase::Mail, from, 250).and_then(|_| self.expect(Phase::Recipient, to, 250)).err();
        match refused {
            // A server that says 354 although it takes no recipient expects a body now; the way out is to hang up.
            Some(Failure::Refused { phase, reply }) if go.code == 354 => {
                let _ = self.stream.get_mut().shutdown().await;
                Err(Failure::Refused { phase, reply })
            }
            Some(refused) => Err(refused),
            None => self.expect(Phase::Data, go, 354).map(drop),
        }
    }

    /// The body with dots stuffed, without the last CRLF and the dot.
    async fn body(&mut self, data: &[u8]) -> Result<(), Failure> {
        /// As much as one time-out is for.
        const BLOCK: usize = 64 * 1024;
        let stuffed = stuff_dots(data);
        for block in stuffed.chunks(BLOCK) {
            self.send(Phase::Body, block, self.timeouts.block).await?;
        }
        Ok(())
    }

    async fn reset(&mut self) -> Result<(), Failure> {
        self.send(Phase::Mail, b"RSET\r\n", self.timeouts.envelope).await?;
        let reply = self.reply(Phase::Mail, self.timeouts.envelope).await?;
        self.expect(Phase::Mail, reply, 250).map(drop)
    }

    /// Says goodbye; whether the server hears it does not matter.
    pub async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.get_mut().write_all(b"QUIT\r\n")).await;
    }

    async fn send(&mut self, phase: Phase, bytes: &[u8], limit: Duration) -> Result<(), Failure> {
        match timeout(limit, self.stream.get_mut().write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::broken(phase, error)),
            Err(_) => Err(Failure::broken(phase, "writing took too long")),
        }
    }

    /// Reads one reply, of however many lines. After a goodbye there will be no other.
    async fn reply(&mut self, phase: Phase, limit: Duration) -> Result<Reply, Failure> {
        match timeout(limit, read_reply(&mut self.stream)).await {
            Ok(Ok(reply)) if reply.code == GOODBYE => Err(Failure::Refused { phase, reply }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(problem)) => Err(Failure::broken(phase, problem)),
            Err(_) => Err(Failure::broken(phase, "no reply in time")),
        }
    }

    fn expect(&self, phase: Phase, reply: Reply, code: u16) -> Result<Reply, Failure> {
        // 250 and 251 mean the same to a sender.
        let good = reply.code == code || (code == 250 && reply.code == 251);
        if good { Ok(reply) } else { Err(Failure::Refused { phase, reply }) }
    }
}

impl Prepared {
    /// Writes the final dot before `deadline`, or not at all. A write of which the kernel took nothing has handed nothing over: that is a failure of the
    /// body. One that got stuck in between leaves open whether the mail was accepted.
    pub async fn write_dot(mut self, deadline: Instant) -> Result<Committed, Failure> {
        const DOT: &[u8] = b"\r\n.\r\n";
        if Instant::now() >= deadline {
            return Err(Failure::broken(Phase::Body, "the permit has expired"));
        }
        let taken = match timeout_at(deadline, self.0.stream.get_mut().write(DOT)).await {
            Ok(Ok(taken)) if taken > 0 => taken,
            Ok(Ok(_)) => return Err(Failure::broken(Phase::Body, "the connection takes no more")),
            Ok(Err(error)) => return Err(Failure::broken(Phase::Body, error)),
            Err(_) => return Err(Failure::broken(Phase::Body, "writing took too long")),
        };
        let limit = deadline.saturating_duration_since(Instant::now());
        self.0.send(Phase::Dot, DOT.get(taken..).unwrap_or_default(), limit).await?;
        Ok(Committed(self.0))
    }
}

impl Committed {
    /// Waits for the verdict. After a clear one the connection can be used again.
    pub async fn verdict(mut self) -> Result<(Reply, Connection), (Failure, Option<Connection>)> {
        let reply = self.0.reply(Phase::Dot, self.0.timeouts.reply).await.map_err(|failure| (failure, None))?;
        if reply.is_positive() {
            return Ok((reply, self.0));
        }
        Err((Failure::Refused { phase: Phase::Dot, reply }, Some(self.0)))
    }
}

async fn read_reply(stream: &mut BufReader<TcpStream>) -> Result<Reply, String> {
    /// No honest reply is longer.
    const MAX: usize = 64 * 1024;
    let mut text = String::new();
    loop {
        let mut line = Vec::new();
        let room = MAX.saturating_sub(text.len());
        let mut bounded = (&mut *stream).take(room as u64 + 1);
        let read = bounded.read_until(b'\n', &mut line).await.map_err(|e| e.to_string())?;
        if read == 0 {
            return Err("the server hung up".to_owned());
        }
        if read > room {
            return Err("the server's reply is too long".to_owned());
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        let code = line.get(..3).and_then(|c| c.parse::<u16>().ok()).filter(|c| (200..600).contains(c));
        let Some(code) = code else { return Err("the server's reply is no SMTP".to_owned()) };
        let rest = line.get(4..).unwrap_or_default();
        text.push_str(rest);
        if line.as_bytes().get(3) != Some(&b'-') {
            let enhanced = enhanced_code(code, rest);
            return Ok(Reply { code, enhanced, text: kernel::Masked::new(text) });
        }
        text.push('\n');
    }
}

/// The RFC 3463 code at the beginning of a reply's text: its class must be that of the reply.
fn enhanced_code(code: u16, text: &str) -> Option<String> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split('.').map(|p| p.parse::<u16>().ok().filter(|n| *n < 1000));
    let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
    (parts.next().is_none() && class == code / 100).then(|| format!("{class}.{subject}.{detail}"))
}

/// Doubles dots at the beginning of lines, and takes the last line end off: it belongs to the final dot.
fn stuff_dots(data: &[u8]) -> Vec<u8> {
    let data = data.strip_suffix(b"\r\n").unwrap_or(data);
    let mut stuffed = Vec::with_capacity(data.len() + 16);
    let mut at_line_start = true;
    for &byte in data {
        if at_line_start && byte == b'.' {
            stuffed.push(b'.');
        }
        stuffed.push(byte);
        at_line_start = byte == b'\n';
    }
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_stuffed_and_the_last_line_end_is_held_back() {
        assert_eq!(stuff_dots(b".a\r\n..b\r\nc.\r\n"), b"..a\r\n...b\r\nc.");
        assert_eq!(stuff_dots(b"no end"), b"no end");
        assert_eq!(stuff_dots(b""), b"");
    }

    #[test]
    fn enhanced_codes_belong_to_their_class() {
        assert_eq!(enhanced_code(550, "5.1.1 unknown").as_deref(), Some("5.1.1"));
        assert_eq!(enhanced_code(250, "2.0.0").as_deref(), Some("2.0.0"));
        assert_eq!(enhanced_code(550, "4.1.1 mixed up"), None);
        assert_eq!(enhanced_code(250, "127.0.0.1 is here"), None);
        assert_eq!(enhanced_code(250, "ok"), None);
    }
}
