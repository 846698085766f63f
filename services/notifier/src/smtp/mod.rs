//! SMTP over a kept-open connection, with the hand-over split in two: [`Connection::prepare`] does everything up to the
//! last bytes, [`Prepared::write_dot`] writes these: the final dot, or the last chunk where the server takes chunks. Between
//! the two the receiver has nothing it could deliver, so the sender can still look at the balance and walk away.
//!
//! ```text
//! Server ──open──► Connection ──prepare──► Prepared ──write_dot──► Committed ──verdict──► Connection
//!                                             └── take_back ──► nothing was ever sent
//! ```
//!
//! Every failure says how far the conversation had come ([`Phase`]): that decides whether the mail may have been accepted.
//! Time-outs follow RFC 5321 section 4.5.3.2, shortened where nothing can have been accepted yet. With pipelining a mail on
//! an open connection takes two round trips: the envelope, and the end of the body; one, if the envelope of the next goes right
//! behind that end ([`Prepared::and_begin`]).

mod auth;
mod body;
mod envelope;
mod features;
mod reply;
mod server;
mod socket;

pub use auth::{Login, Mechanism, Proof};
pub use envelope::ascii_domain;
pub use reply::{GOODBYE, Reply};
pub use server::{Server, Start, Tls, roots};

use envelope::Envelope;
use features::Features;
use futures_util::FutureExt;
use socket::Stream;
use std::fmt;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, timeout, timeout_at};

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting, the handshake, and each command before the first mail.
    pub hello: Duration,
    /// MAIL and RCPT.
    pub envelope: Duration,
    /// DATA, until 354; with chunks, the reply to the first.
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
    /// Connecting.
    Connect,
    /// STARTTLS and the handshake.
    Tls,
    /// Greeting, EHLO.
    Hello,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA, until 354; the first chunk.
    Data,
    /// The body without its final dot.
    Body,
    /// The final dot and its reply: from here on the mail may have been accepted.
    Dot,
}

const DATA: &[u8] = b"DATA\r\n";

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
    /// The server cannot carry this mail; it was not asked to.
    #[error("the server cannot carry the mail: {reason}")]
    Unfit {
        /// `too_large`, `8bitmime`, `smtputf8` (extensions that it lacks) or `bad_address`.
        reason: &'static str,
    },
}

impl Failure {
    fn broken(phase: Phase, problem: impl fmt::Display) -> Self {
        Self::Broken { phase, problem: problem.to_string() }
    }
}

/// A mail to hand over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Envelope sender.
    pub from: String,
    /// Envelope recipient.
    pub to: String,
    /// By what reports about it will call it (RFC 3461 section 4.4).
    pub envid: String,
    /// Headers and body with CRLF line ends.
    pub data: Vec<u8>,
}

/// An open connection between two mails.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<Stream>,
    timeouts: Timeouts,
    features: Features,
    /// The server has said 354: whatever we write now is a body to it.
    in_data: bool,
    /// The mail whose beginning was sent behind the one before, by its `envid`.
    begun: Option<String>,
}

/// A connection on which a whole mail lies but for its end. Dropping it closes the connection: the mail is gone.
#[derive(Debug)]
#[must_use = "dropping a prepared mail takes it back"]
pub struct Prepared {
    connection: Connection,
    /// The beginning of the next mail, and its `envid`.
    next: Option<(Vec<u8>, String)>,
}

/// A connection that waits for the reply to the end of a mail.
#[derive(Debug)]
#[must_use = "only the reply tells whether the mail was accepted"]
pub struct Committed(Connection);

impl Connection {
    /// Connects, encrypts, greets and says who we are, as far as the server is to have it.
    pub async fn open(server: &Server) -> Result<Self, Failure> {
        let limit = server.timeouts.hello;
        let stream = BufReader::new(server.connect().await?);
        let mut connection =
            Self { stream, timeouts: server.timeouts, features: Features::default(), in_data: false, begun: None };
        let greeting = connection.reply(Phase::Hello, limit).await?;
        connection.expect(Phase::Hello, greeting, 220)?;
        connection.hello(&server.hello).await?;
        if let Some(tls) = &server.tls
            && tls.start == Start::Command
        {
            connection = connection.start_tls(tls).await?;
            // What was said before cannot be trusted (RFC 3207 section 4.2).
            connection.hello(&server.hello).await?;
        }
        if let Some(login) = &server.login {
            connection.log_in(login).await?;
        }
        Ok(connection)
    }

    async fn hello(&mut self, name: &str) -> Result<(), Failure> {
        let limit = self.timeouts.hello;
        self.send(Phase::Hello, format!("EHLO {name}\r\n").as_bytes(), limit).await?;
        let reply = self.reply(Phase::Hello, limit).await?;
        let reply = self.expect(Phase::Hello, reply, 250)?;
        self.features = Features::read(reply.text.reveal());
        Ok(())
    }

    async fn start_tls(mut self, tls: &Tls) -> Result<Self, Failure> {
        if !self.features.start_tls {
            return Err(Failure::broken(Phase::Tls, "the relay does not offer STARTTLS"));
        }
        let limit = self.timeouts.hello;
        self.send(Phase::Tls, b"STARTTLS\r\n", limit).await?;
        let reply = self.reply(Phase::Tls, limit).await?;
        self.expect(Phase::Tls, reply, 220)?;
        // Whoever sits in between would have his words taken for those of the encrypted server.
        if !self.stream.buffer().is_empty() {
            return Err(Failure::broken(Phase::Tls, "plain text after the reply to STARTTLS"));
        }
        let Self { stream, timeouts, .. } = self;
        let Stream::Plain(socket) = stream.into_inner() else {
            return Err(Failure::broken(Phase::Tls, "encrypted already"));
        };
        let stream = BufReader::new(tls.encrypt(socket, &timeouts).await?);
        Ok(Self { stream, timeouts, features: Features::default(), in_data: false, begun: None })
    }

    /// Hands everything over but the end. On failure the connection is gone, unless only this mail was refused.
    pub async fn prepare(mut self, mail: &Mail) -> Result<Prepared, (Failure, Option<Self>)> {
        let prepared = match self.begun.take() {
            Some(begun) if begun == mail.envid => self.answers(mail).await,
            Some(_) => return Err((Failure::broken(Phase::Mail, "another mail was begun"), None)),
            None => match Envelope::of(mail, &self.features) {
                Ok(envelope) => self.begin(envelope, mail).await,
                Err(unfit) => return Err((unfit, Some(self))),
            },
        };
        match prepared {
            Ok(()) => Ok(Prepared { connection: self, next: None }),
            Err(failure) if self.is_spared_by(&failure) => {
                // The transaction is over, the connection may go on.
                let reset = self.reset().await;
                Err((failure, reset.is_ok().then_some(self)))
            }
            Err(failure) => Err((failure, None)),
        }
    }

    /// Only this mail was refused; the conversation may go on. (421 is a goodbye; anything but a refusal is nonsense.)
    fn is_spared_by(&self, failure: &Failure) -> bool {
        let Failure::Refused { reply, .. } = failure else { return false };
        !self.in_data && reply.code >= 400 && reply.code != GOODBYE
    }

    async fn begin(&mut self, envelope: Envelope, mail: &Mail) -> Result<(), Failure> {
        match self.pipelined(&envelope, &mail.data) {
            Some(beginning) => {
                self.send_blocks(Phase::Mail, &beginning).await?;
                self.answers(mail).await
            }
            None => self.one_by_one(envelope, &mail.data).await,
        }
    }

    /// What can be sent of a mail before the first reply: the envelope and DATA, or all of the body but its last chunk.
    fn pipelined(&self, envelope: &Envelope, data: &[u8]) -> Option<Vec<u8>> {
        let Envelope { mail, recipient } = envelope;
        let body = if self.features.chunking { body::first_chunk(data) } else { DATA.to_vec() };
        self.features.pipelining.then(|| [mail.as_bytes(), recipient.as_bytes(), &body].concat())
    }

    /// The replies to all that; then the body, if it waits for one of them.
    async fn answers(&mut self, mail: &Mail) -> Result<(), Failure> {
        let refused = self.envelope_replies().await?;
        let go = self.reply(Phase::Data, self.timeouts.data).await?;
        // A server that says so although it takes no recipient expects a body now; the way out is to hang up.
        self.in_data = !self.features.chunking && go.code == 354;
        if let Some(refused) = refused {
            return Err(refused);
        }
        self.go_on(go, &mail.data).await
    }

    /// For servers that want to answer each command.
    async fn one_by_one(&mut self, envelope: Envelope, data: &[u8]) -> Result<(), Failure> {
        let Timeouts { envelope: limit, .. } = self.timeouts;
        for (phase, line) in [(Phase::Mail, envelope.mail), (Phase::Recipient, envelope.recipient)] {
            self.send(phase, line.as_bytes(), limit).await?;
            let reply = self.reply(phase, limit).await?;
            self.expect(phase, reply, 250)?;
        }
        if self.features.chunking {
            self.send_blocks(Phase::Data, &body::first_chunk(data)).await?;
        } else {
            self.send(Phase::Data, DATA, self.timeouts.data).await?;
        }
        let go = self.reply(Phase::Data, self.timeouts.data).await?;
        self.in_data = !self.features.chunking && go.code == 354;
        self.go_on(go, data).await
    }

    /// The reply to DATA, and the body; or that to a body that came in a chunk.
    async fn go_on(&mut self, go: Reply, data: &[u8]) -> Result<(), Failure> {
        if self.features.chunking {
            return self.expect(Phase::Data, go, 250).map(drop);
        }
        self.expect(Phase::Data, go, 354)?;
        self.send_blocks(Phase::Body, &body::stuff_dots(data)).await?;
        self.until_sent().await?;
        if self.interruption().is_some() {
            let reply = self.reply(Phase::Body, self.timeouts.envelope).await?;
            return Err(Failure::Refused { phase: Phase::Body, reply });
        }
        Ok(())
    }

    /// The replies to MAIL and RCPT, and which of them was a refusal.
    async fn envelope_replies(&mut self) -> Result<Option<Failure>, Failure> {
        let limit = self.timeouts.envelope;
        let mail = self.reply(Phase::Mail, limit).await?;
        let recipient = self.reply(Phase::Recipient, limit).await?;
        let accepted = self.expect(Phase::Mail, mail, 250).and_then(|_| self.expect(Phase::Recipient, recipient, 250));
        Ok(accepted.err())
    }

    /// Waits until the kernel has sent what it took: the end of the mail must not queue up behind a stalled peer, and reach it
    /// long after the permit.
    async fn until_sent(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeouts.block;
        while self.stream.get_ref().unsent().map_err(|e| Failure::broken(Phase::Body, e))? > 0 {
            if Instant::now() >= deadline {
                return Err(Failure::broken(Phase::Body, "the relay takes no more"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// What the server did although it was not its turn: it spoke, or hung up. What it says then answers nothing that comes
    /// later.
    fn interruption(&mut self) -> Option<Failure> {
        let problem = match self.stream.fill_buf().now_or_never()? {
            Ok([]) => "the server hung up".to_owned(),
            Ok(_) => "the server spoke out of turn".to_owned(),
            Err(error) => error.to_string(),
        };
        Some(Failure::broken(Phase::Body, problem))
    }

    async fn reset(&mut self) -> Result<(), Failure> {
        self.send(Phase::Mail, b"RSET\r\n", self.timeouts.envelope).await?;
        let reply = self.reply(Phase::Mail, self.timeouts.envelope).await?;
        self.expect(Phase::Mail, reply, 250).map(drop)
    }

    /// Whether the beginning of a mail was sent that is still to be prepared.
    pub const fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Says goodbye; whether the server hears it does not matter. Not to one that waits for a body: it would be part of it.
    pub async fn quit(mut self) {
        if self.has_begun() {
            return;
        }
        let stream = self.stream.get_mut();
        let goodbye = async {
            stream.write_all(b"QUIT\r\n").await?;
            stream.shutdown().await
        };
        let _ = timeout(Duration::from_secs(1), goodbye).await;
    }

    /// Each block has the time of one.
    async fn send_blocks(&mut self, phase: Phase, bytes: &[u8]) -> Result<(), Failure> {
        /// As much as one time-out is for.
        const BLOCK: usize = 64 * 1024;
        for block in bytes.chunks(BLOCK) {
            self.send(phase, block, self.timeouts.block).await?;
        }
        Ok(())
    }

    async fn send(&mut self, phase: Phase, bytes: &[u8], limit: Duration) -> Result<(), Failure> {
        let stream = self.stream.get_mut();
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        match timeout(limit, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::broken(phase, error)),
            Err(_) => Err(Failure::broken(phase, "writing took too long")),
        }
    }

    /// Reads one reply, of however many lines. After a goodbye there will be no other.
    async fn reply(&mut self, phase: Phase, limit: Duration) -> Result<Reply, Failure> {
        match timeout(limit, reply::read(&mut self.stream)).await {
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
    /// Has the next mail begin right behind the end of this one, which saves it a round trip (RFC 2920 section 3.1). It is then
    /// to be prepared on this connection, or the connection to be dropped; nothing of it can be delivered before its own end.
    /// Not a mail that is large, nor one that the server cannot carry.
    pub fn and_begin(&mut self, mail: &Mail) {
        /// Small enough to go with the end in one write.
        const MOST: usize = 32 * 1024;
        if mail.data.len() > MOST {
            return;
        }
        let envelope = Envelope::of(mail, &self.connection.features).ok();
        let beginning = envelope.and_then(|envelope| self.connection.pipelined(&envelope, &mail.data));
        self.next = beginning.map(|beginning| (beginning, mail.envid.clone()));
    }

    /// Writes the end of the mail before `deadline`, or not at all. A write of which the kernel took nothing has handed nothing over: that is a
    /// failure of the body. One that got stuck in between leaves open whether the mail was accepted.
    pub async fn write_dot(self, deadline: Instant) -> Result<Committed, Failure> {
        let Self { mut connection, next } = self;
        let end: &[u8] = if connection.in_data { b"\r\n.\r\n" } else { b"BDAT 2 LAST\r\n\r\n" };
        if Instant::now() >= deadline {
            return Err(Failure::broken(Phase::Body, "the permit has expired"));
        }
        if let Some(interruption) = connection.interruption() {
            return Err(interruption);
        }
        let (beginning, begun) = next.unzip();
        connection.begun = begun;
        let end = beginning.map_or_else(|| end.to_vec(), |beginning| [end, &beginning].concat());
        let before = connection.stream.get_ref().taken();
        let stream = connection.stream.get_mut();
        let write = async {
            stream.write_all(&end).await?;
            stream.flush().await
        };
        let problem = match timeout_at(deadline, write).await {
            Ok(Ok(())) => return Ok(Committed(connection)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "writing took too long".to_owned(),
        };
        let phase = if connection.stream.get_ref().taken() == before { Phase::Body } else { Phase::Dot };
        Err(Failure::broken(phase, problem))
    }

    /// Takes the mail back. The connection may go on if the server can be told so: inside DATA it cannot.
    pub async fn take_back(self) -> Option<Connection> {
        let Self { mut connection, .. } = self;
        let told = !connection.in_data && connection.reset().await.is_ok();
        told.then_some(connection)
    }
}

impl Committed {
    /// Waits for the verdict. After a clear one the connection can be used again.
    pub async fn verdict(self) -> Result<(Reply, Connection), (Failure, Option<Connection>)> {
        let Self(mut connection) = self;
        let reply = connection.reply(Phase::Dot, connection.timeouts.reply).await.map_err(|failure| (failure, None))?;
        let was_data = std::mem::take(&mut connection.in_data);
        if reply.is_positive() {
            return Ok((reply, connection));
        }
        // After a refused chunk only a reset begins anew (RFC 3030 section 2): what follows it already is refused with it.
        let usable = was_data || connection.begun.is_none() && connection.reset().await.is_ok();
        Err((Failure::Refused { phase: Phase::Dot, reply }, usable.then_some(connection)))
    }
}
