//! A mail server that keeps what it accepts and can be told to misbehave in every phase.
//!
//! Without a script it accepts everything: that is the catcher of `dunlin dev` and of the journeys. It is strict about what
//! it has not offered: a client that uses an extension without having read of it is refused.

use crate::tls;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kernel::{Clock, SystemClock};
use mail_parser::MessageParser;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

/// An accepted mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mail {
    /// Counts from 1 in the order of acceptance.
    pub number: u64,
    /// Machine time of acceptance: just before the 250 was written.
    pub accepted_at: Timestamp,
    /// Envelope sender.
    pub from: String,
    /// Envelope recipients.
    pub to: Vec<String>,
    /// Headers and body, dots unstuffed, CRLF line ends.
    pub data: Vec<u8>,
    /// MAIL and RCPT as they came.
    pub envelope: Vec<String>,
    /// It came over TLS.
    pub encrypted: bool,
    /// Whoever had logged in; empty: nobody.
    pub user: String,
}

impl Mail {
    /// The message as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }

    /// The values of a header, unfolded, in order.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let head = text.split("\r\n\r\n").next().unwrap_or_default();
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let mine = |line: &str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        unfolded.split("\r\n").filter_map(mine).collect()
    }

    /// Which invoices of dunlin's it is about.
    pub fn lines(&self) -> Vec<Line> {
        let header = self.headers("Dunlin-Steps").join(", ");
        let line = |part: &str| {
            let mut fields = part.trim().split('/').map(str::to_owned);
            Some(Line { invoice: fields.next()?, epoch: fields.next()?, step: fields.next()? })
        };
        header.split(',').filter_map(line).collect()
    }

    /// Its pay links, one per invoice.
    pub fn pay_links(&self) -> Vec<String> {
        let message = MessageParser::default().parse(&self.data);
        let text = message.as_ref().and_then(|m| m.body_text(0)).unwrap_or_default();
        // Whatever the language: that of the page is told by its path.
        text.split_whitespace().filter(|word| word.contains("/p/")).map(str::to_owned).collect()
    }
}

/// An invoice that a reminder is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The processor's id.
    pub invoice: String,
    /// Its epoch.
    pub epoch: String,
    /// The campaign's step.
    pub step: String,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The client connected.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA, or the first chunk.
    Data,
    /// The body is about to come.
    Body,
    /// The final dot, or the last chunk, has arrived.
    Dot,
}

/// What the server does at a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Goes on as a good server would.
    Proceed,
    /// Answers this instead; at [`Phase::Dot`] the mail is not accepted. Several lines are several replies' lines. At
    /// [`Phase::Body`] it is said out of turn.
    Reply(&'static str),
    /// Goes on, in these words.
    Words(&'static str),
    /// Closes the connection without an answer; at [`Phase::Dot`] the mail is not accepted.
    Close,
    /// The same with a TCP reset.
    Reset,
    /// Accepts the mail (at [`Phase::Dot`]) and closes without an answer: the ambiguous case.
    AcceptAndClose,
    /// The same with a TCP reset.
    AcceptAndReset,
    /// Accepts the mail (at [`Phase::Dot`]) and never answers.
    AcceptAndStall,
    /// Accepts the mail (at [`Phase::Dot`]) and answers this.
    AcceptAndSay(&'static str),
    /// Waits, then goes on.
    Delay(Duration),
    /// Goes on, with a pause after each byte of the answer.
    Trickle(Duration),
    /// Never answers.
    Stall,
}

/// Decides at each phase; gets the envelope recipients so far.
pub type Script = Arc<dyn Fn(Phase, &[String]) -> Reaction + Send + Sync>;

/// Encryption of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// None.
    None,
    /// STARTTLS is offered.
    StartTls,
    /// From the first byte on.
    Implicit,
}

/// What a server can do.
#[derive(Debug, Clone)]
pub struct Abilities {
    /// Lines of the reply to EHLO; STARTTLS and AUTH come by themselves.
    pub extensions: &'static [&'static str],
    /// With the certificate of [`crate::tls`].
    pub encryption: Encryption,
    /// Mechanisms of AUTH (PLAIN, LOGIN, XOAUTH2); with any, nobody may send who has not logged in.
    pub mechanisms: &'static [&'static str],
    /// Who may log in.
    pub user: &'static str,
    /// With which password or token.
    pub secret: &'static str,
    /// How much the kernel buffers of what was not read yet, in bytes; it has its own minimum.
    pub receive_buffer: Option<u32>,
}

impl Default for Abilities {
    fn default() -> Self {
        Self {
            extensions: &["PIPELINING", "8BITMIME", "SIZE 26214400", "DSN", "ENHANCEDSTATUSCODES"],
            encryption: Encryption::None,
            mechanisms: &[],
            user: "",
            secret: "",
            receive_buffer: None,
        }
    }
}

/// A running mail server; stops when dropped.
#[derive(Clone)]
pub struct SmtpServer {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _stop: Arc<tokio_util::sync::DropGuard>,
}

struct Shared {
    abilities: Abilities,
    script: Mutex<Script>,
    mails: Mutex<Vec<Arc<Mail>>>,
    accepted: AtomicU64,
    arrivals: broadcast::Sender<Arc<Mail>>,
    connections: AtomicU64,
    round_trips: AtomicU64,
    sessions: Mutex<CancellationToken>,
}

impl SmtpServer {
    /// Starts a server that accepts everything, on an address (port 0 picks one).
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        Self::start_with(address, Abilities::default()).await
    }

    /// The same with other abilities.
    pub async fn start_with(address: SocketAddr, abilities: Abilities) -> io::Result<Self> {
        let listener = listen(address, abilities.receive_buffer)?;
        let stop = CancellationToken::new();
        let server = Self {
            address: listener.local_addr()?,
            shared: Arc::new(Shared {
                abilities,
                script: Mutex::new(Arc::new(|_, _| Reaction::Proceed)),
                mails: Mutex::default(),
                accepted: AtomicU64::new(0),
                arrivals: broadcast::Sender::new(4096),
                connections: AtomicU64::new(0),
                round_trips: AtomicU64::new(0),
                sessions: Mutex::default(),
            }),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        tokio::spawn(accept(listener, server.shared.clone(), stop));
        Ok(server)
    }

    /// Sets the script for what comes from now on.
    pub fn script(&self, script: impl Fn(Phase, &[String]) -> Reaction + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// What was accepted so far, in order.
    pub fn mails(&self) -> Vec<Arc<Mail>> {
        lock(&self.shared.mails).clone()
    }

    /// How many were accepted so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.mails).len()
    }

    /// Takes what was accepted so far: it is not kept any longer.
    pub fn take_mails(&self) -> Vec<Arc<Mail>> {
        std::mem::take(&mut lock(&self.shared.mails))
    }

    /// What will be accepted from now on.
    pub fn arrivals(&self) -> broadcast::Receiver<Arc<Mail>> {
        self.shared.arrivals.subscribe()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        let mut sessions = lock(&self.shared.sessions);
        sessions.cancel();
        *sessions = CancellationToken::new();
    }

    /// How often a client has waited for an answer so far: whatever it asked at once counts once.
    pub fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::Relaxed)
    }
}

fn listen(address: SocketAddr, receive_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(1024)
}

#[expect(clippy::panic, reason = "a poisoned lock means that a test has panicked already")]
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| panic!("poisoned"))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = socket else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, stop, over) = (shared.clone(), stop.clone(), lock(&shared.sessions).clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = over.cancelled() => {}
                // A client that goes away in the middle is an everyday event.
                _ = serve(socket, shared) => {}
            }
        });
    }
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

async fn encrypt(socket: TcpStream) -> io::Result<Stream> {
    let acceptor = tls::acceptor().map_err(io::Error::other)?;
    Ok(Either::Right(Box::new(acceptor.accept(socket).await?)))
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let _ = socket.set_nodelay(true);
    let stream = match shared.abilities.encryption {
        Encryption::Implicit => encrypt(socket).await?,
        Encryption::None | Encryption::StartTls => Either::Left(socket),
    };
    let mut session = Session {
        stream: BufReader::new(stream),
        shared,
        said: false,
        from: String::new(),
        to: Vec::new(),
        envelope: Vec::new(),
        chunks: None,
        user: String::new(),
    };
    if session.react(Phase::Greeting, "220 catcher ESMTP").await?.is_none() {
        return Ok(());
    }
    while let Some(command) = session.line().await? {
        match session.obey(&command).await? {
            Then::GoOn => {}
            Then::Encrypt => {
                // What came in plain text before the handshake is nobody's.
                let Either::Left(socket) = session.stream.into_inner() else { return Ok(()) };
                session.stream = BufReader::new(encrypt(socket).await?);
            }
            Then::End => return Ok(()),
        }
    }
    Ok(())
}

/// What follows a command.
enum Then {
    GoOn,
    Encrypt,
    End,
}

struct Session {
    stream: BufReader<Stream>,
    shared: Arc<Shared>,
    /// Something was said since the client was last waited for.
    said: bool,
    from: String,
    to: Vec<String>,
    envelope: Vec<String>,
    chunks: Option<Vec<u8>>,
    user: String,
}

impl Session {
    /// The next line without its end; `None` when the client has gone.
    async fn line(&mut self) -> io::Result<Option<String>> {
        self.count_round_trip();
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }

    /// Whoever has to be waited for after something was said has waited for that.
    fn count_round_trip(&mut self) {
        if self.stream.buffer().is_empty() && std::mem::take(&mut self.said) {
            self.shared.round_trips.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn offers(&self, extension: &str) -> bool {
        self.shared.abilities.extensions.iter().any(|line| line.split(' ').next() == Some(extension))
    }

    fn is_encrypted(&self) -> bool {
        matches!(self.stream.get_ref(), Either::Right(_))
    }

    async fn obey(&mut self, command: &str) -> io::Result<Then> {
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        if !self.stream.buffer().is_empty() && !self.offers("PIPELINING") && !matches!(&*verb, "BDAT" | "STARTTLS") {
            return self.say("554 5.5.0 wait for your turn").await.map(|()| Then::End);
        }
        let abilities = &self.shared.abilities;
        let sends = matches!(&*verb, "MAIL" | "RCPT" | "DATA" | "BDAT");
        if sends && !abilities.mechanisms.is_empty() && self.user.is_empty() {
            return self.say("530 5.7.0 who are you?").await.map(|()| Then::GoOn);
        }
        let goes_on = match &*verb {
            "EHLO" => {
                let features = self.features();
                self.react(Phase::Hello, &features).await?.is_some()
            }
            "HELO" => self.react(Phase::Hello, "250 catcher").await?.is_some(),
            "STARTTLS" if abilities.encryption == Encryption::StartTls && !self.is_encrypted() => {
                return Ok(match self.react(Phase::Tls, "220 2.0.0 go ahead").await? {
                    Some(true) => Then::Encrypt,
                    Some(false) => Then::GoOn,
                    None => Then::End,
                });
            }
            "AUTH" if !abilities.mechanisms.is_empty() => self.log_in(command).await?,
            "MAIL" | "RCPT" => self.address(&verb, command).await?,
            "DATA" => self.data().await?,
            "BDAT" if self.offers("CHUNKING") => self.chunk(command).await?,
            "RSET" => {
                self.forget();
                self.say("250 2.0.0 ok").await.map(|()| true)?
            }
            "NOOP" => self.say("250 2.0.0 ok").await.map(|()| true)?,
            "QUIT" => self.say("221 2.0.0 bye").await.map(|()| false)?,
            _ => self.say("502 5.5.2 what?").await.map(|()| true)?,
        };
        Ok(if goes_on { Then::GoOn } else { Then::End })
    }

    /// The reply to EHLO.
    fn features(&self) -> String {
        let abilities = &self.shared.abilities;
        let mut lines = vec!["catcher".to_owned()];
        lines.extend(abilities.extensions.iter().map(|line| (*line).to_owned()));
        if abilities.encryption == Encryption::StartTls && !self.is_encrypted() {
            lines.push("STARTTLS".to_owned());
        }
        if !abilities.mechanisms.is_empty() {
            lines.push(format!("AUTH {}", abilities.mechanisms.join(" ")));
        }
        let last = lines.len() - 1;
        let line = |(n, line): (usize, String)| format!("250{}{line}", if n < last { '-' } else { ' ' });
        lines.into_iter().enumerate().map(line).collect::<Vec<_>>().join("\r\n")
    }

    /// AUTH; returns whether the session goes on.
    async fn log_in(&mut self, command: &str) -> io::Result<bool> {
        let script = lock(&self.shared.script).clone();
        let reaction = script(Phase::Auth, &self.to);
        if reaction != Reaction::Proceed {
            return Ok(self.misbehave(reaction, "235 2.7.0 welcome").await?.is_some());
        }
        let Abilities { user, secret, mechanisms, .. } = self.shared.abilities;
        let mut words = command.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next().and_then(decode);
        let good = match (mechanisms.contains(&&*mechanism), &*mechanism) {
            (true, "PLAIN") => initial == Some(format!("\0{user}\0{secret}")),
            (true, "LOGIN") => {
                self.say("334 VXNlcm5hbWU6").await?;
                let name = self.line().await?.as_deref().and_then(decode);
                self.say("334 UGFzc3dvcmQ6").await?;
                let password = self.line().await?.as_deref().and_then(decode);
                name.as_deref() == Some(user) && password.as_deref() == Some(secret)
            }
            (true, "XOAUTH2") => {
                let good = initial == Some(format!("user={user}\x01auth=Bearer {secret}\x01\x01"));
                if !good {
                    self.say("334 eyJzdGF0dXMiOiI0MDEifQ==").await?;
                    self.line().await?;
                }
                good
            }
            _ => return self.say("504 5.5.4 no such mechanism").await.map(|()| true),
        };
        if good {
            self.user = user.to_owned();
            return self.say("235 2.7.0 welcome").await.map(|()| true);
        }
        self.say("535 5.7.8 you are not").await.map(|()| true)
    }

    /// MAIL and RCPT; returns whether the session goes on.
    async fn address(&mut self, verb: &str, command: &str) -> io::Result<bool> {
        let parameters = command.rsplit_once('>').map_or("", |(_, rest)| rest);
        let foreign = parameters.split_ascii_whitespace().find(|parameter| {
            let extension = match parameter.split('=').next().unwrap_or_default() {
                "BODY" => "8BITMIME",
                "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN",
                name => name,
            };
            !self.offers(extension)
        });
        if foreign.is_some() || (!command.is_ascii() && !self.offers("SMTPUTF8")) {
            return self.say("555 5.5.4 what is that?").await.map(|()| true);
        }
        if verb == "MAIL" {
            self.forget();
            self.from = address(command);
            self.envelope.push(command.to_owned());
            return Ok(self.react(Phase::Mail, "250 2.1.0 ok").await?.is_some());
        }
        self.envelope.push(command.to_owned());
        self.to.push(address(command));
        Ok(self.react(Phase::Recipient, "250 2.1.5 ok").await?.is_some())
    }

    fn forget(&mut self) {
        self.to.clear();
        self.envelope.clear();
        self.chunks = None;
    }

    /// DATA and its body; returns whether the session goes on.
    async fn data(&mut self) -> io::Result<bool> {
        match self.react(Phase::Data, "354 go ahead").await? {
            Some(true) => {}
            other => return Ok(other.is_some()),
        }
        if !self.may_read_on().await? {
            return Ok(false);
        }
        let data = self.body().await?;
        self.end_of_body(data).await
    }

    /// One chunk; returns whether the session goes on.
    async fn chunk(&mut self, command: &str) -> io::Result<bool> {
        let mut words = command.split(' ').skip(1);
        let size: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let is_last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if self.chunks.is_none() && !self.may_read_on().await? {
            return Ok(false);
        }
        self.count_round_trip();
        let mut data = vec![0; size];
        self.stream.read_exact(&mut data).await?;
        if self.to.is_empty() {
            return self.say("503 5.5.1 no recipient").await.map(|()| true);
        }
        let mut all = self.chunks.take().unwrap_or_default();
        all.append(&mut data);
        if is_last {
            return self.end_of_body(all).await;
        }
        self.chunks = Some(all);
        Ok(self.react(Phase::Data, "250 2.0.0 go on").await?.is_some())
    }

    /// What the script says to the body: stop reading, hang up, or talk in between.
    async fn may_read_on(&mut self) -> io::Result<bool> {
        let script = lock(&self.shared.script).clone();
        match script(Phase::Body, &self.to) {
            Reaction::Proceed => Ok(true),
            Reaction::Delay(pause) => {
                tokio::time::sleep(pause).await;
                Ok(true)
            }
            Reaction::Reply(text) => self.say(text).await.map(|()| !text.starts_with("421")),
            // Not even read any more.
            Reaction::Stall => std::future::pending().await,
            other => Ok(self.misbehave(other, "").await?.is_some()),
        }
    }

    async fn end_of_body(&mut self, data: Vec<u8>) -> io::Result<bool> {
        let script = lock(&self.shared.script).clone();
        let reaction = script(Phase::Dot, &self.to);
        match reaction {
            Reaction::Close | Reaction::Reset | Reaction::Stall | Reaction::Reply(_) => {
                self.forget();
                return Ok(self.misbehave(reaction, "").await?.is_some());
            }
            Reaction::Delay(pause) => tokio::time::sleep(pause).await,
            _ => {}
        }
        let number = self.keep(data);
        let good = format!("250 2.0.0 queued as {number}");
        let then = match reaction {
            Reaction::AcceptAndClose => Reaction::Close,
            Reaction::AcceptAndReset => Reaction::Reset,
            Reaction::AcceptAndStall => Reaction::Stall,
            Reaction::AcceptAndSay(text) => Reaction::Reply(text),
            Reaction::Delay(_) => Reaction::Proceed,
            other => other,
        };
        Ok(self.misbehave(then, &good).await?.is_some())
    }

    /// Reads up to the final dot and takes the dot-stuffing off.
    async fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            self.count_round_trip();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.as_slice() {
                b".\r\n" => return Ok(data),
                [b'.', rest @ ..] => data.extend_from_slice(rest),
                whole => data.extend_from_slice(whole),
            }
        }
    }

    fn keep(&mut self, data: Vec<u8>) -> u64 {
        let mut mails = lock(&self.shared.mails);
        let mail = Arc::new(Mail {
            number: self.shared.accepted.fetch_add(1, Ordering::Relaxed) + 1,
            accepted_at: SystemClock.now(),
            from: self.from.clone(),
            to: std::mem::take(&mut self.to),
            data,
            envelope: std::mem::take(&mut self.envelope),
            encrypted: matches!(self.stream.get_ref(), Either::Right(_)),
            user: self.user.clone(),
        });
        mails.push(mail.clone());
        let _ = self.shared.arrivals.send(mail.clone());
        mail.number
    }

    /// Asks the script. `None`: the session is over; else whether the good answer was given.
    async fn react(&mut self, phase: Phase, good: &str) -> io::Result<Option<bool>> {
        let script = lock(&self.shared.script).clone();
        self.misbehave(script(phase, &self.to), good).await
    }

    async fn misbehave(&mut self, reaction: Reaction, good: &str) -> io::Result<Option<bool>> {
        match reaction {
            Reaction::Proceed => self.say(good).await.map(|()| Some(true)),
            Reaction::Words(text) => self.say(text).await.map(|()| Some(true)),
            Reaction::Delay(pause) => {
                tokio::time::sleep(pause).await;
                self.say(good).await.map(|()| Some(true))
            }
            Reaction::Trickle(pause) => {
                for byte in format!("{good}\r\n").bytes() {
                    self.stream.get_mut().write_all(&[byte]).await?;
                    tokio::time::sleep(pause).await;
                }
                self.said = true;
                Ok(Some(true))
            }
            Reaction::Reply(text) => {
                self.say(text).await?;
                // 421 means that the server hangs up.
                Ok((!text.starts_with("421")).then_some(false))
            }
            Reaction::Stall => {
                // Holds the connection until the client gives up on it.
                let mut sink = [0; 1024];
                while self.stream.read(&mut sink).await? > 0 {}
                Ok(None)
            }
            Reaction::Reset => {
                match self.stream.get_ref() {
                    Either::Left(socket) => socket.set_zero_linger()?,
                    Either::Right(tls) => tls.get_ref().0.set_zero_linger()?,
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.said = true;
        let stream = self.stream.get_mut();
        stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        stream.flush().await
    }
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// The address between the angle brackets.
fn address(command: &str) -> String {
    command.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(a, _)| a).to_owned()
}
