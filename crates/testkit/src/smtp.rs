//! A mail server that keeps what it accepts and can be told to misbehave in every phase.
//!
//! Without a script it accepts everything: that is the catcher of `dunlin dev` and of the journeys.

use jiff::Timestamp;
use kernel::{Clock, SystemClock};
use mail_parser::MessageParser;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// An accepted mail.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        text.lines().filter_map(|line| line.strip_prefix("Pay here: ")).map(|url| url.trim().to_owned()).collect()
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
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// The final dot arrived.
    Dot,
}

/// What the server does at a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Goes on as a good server would.
    Proceed,
    /// Answers this instead; at [`Phase::Dot`] the mail is not accepted. Several lines are several replies' lines.
    Reply(&'static str),
    /// Closes the connection without an answer; at [`Phase::Dot`] the mail is not accepted.
    Close,
    /// Accepts the mail (at [`Phase::Dot`]) and closes without an answer: the ambiguous case.
    AcceptAndClose,
    /// Waits, then goes on.
    Delay(Duration),
    /// Never answers.
    Stall,
}

/// Decides at each phase; gets the envelope recipients so far.
pub type Script = Arc<dyn Fn(Phase, &[String]) -> Reaction + Send + Sync>;

/// A running mail server; stops when dropped.
#[derive(Clone)]
pub struct SmtpServer {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _stop: Arc<tokio_util::sync::DropGuard>,
}

struct Shared {
    script: Mutex<Script>,
    mails: Mutex<Vec<Arc<Mail>>>,
    arrivals: broadcast::Sender<Arc<Mail>>,
    connections: AtomicU64,
}

impl SmtpServer {
    /// Starts a server that accepts everything, on an address (port 0 picks one).
    pub async fn start(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let stop = CancellationToken::new();
        let server = Self {
            address: listener.local_addr()?,
            shared: Arc::new(Shared {
                script: Mutex::new(Arc::new(|_, _| Reaction::Proceed)),
                mails: Mutex::default(),
                arrivals: broadcast::Sender::new(4096),
                connections: AtomicU64::new(0),
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

    /// What will be accepted from now on.
    pub fn arrivals(&self) -> broadcast::Receiver<Arc<Mail>> {
        self.shared.arrivals.subscribe()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
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
        let session = Session::new(socket, shared.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // A client that goes away in the middle is an everyday event.
                _ = session.run() => {}
            }
        });
    }
}

struct Session {
    stream: BufReader<TcpStream>,
    shared: Arc<Shared>,
    from: String,
    to: Vec<String>,
}

impl Session {
    fn new(socket: TcpStream, shared: Arc<Shared>) -> Self {
        let _ = socket.set_nodelay(true);
        Self { stream: BufReader::new(socket), shared, from: String::new(), to: Vec::new() }
    }

    /// Speaks until the client quits or the script closes.
    async fn run(mut self) -> std::io::Result<()> {
        if !self.react(Phase::Greeting, "220 catcher ESMTP").await? {
            return Ok(());
        }
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let command = line.trim_end();
            let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let goes_on = match verb.as_str() {
                "EHLO" => {
                    let features = "250-catcher\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 26214400\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES";
                    self.react(Phase::Hello, features).await?
                }
                "HELO" => self.react(Phase::Hello, "250 catcher").await?,
                "MAIL" => {
                    self.from = address(command);
                    self.to.clear();
                    self.react(Phase::Mail, "250 2.1.0 ok").await?
                }
                "RCPT" => {
                    self.to.push(address(command));
                    self.react(Phase::Recipient, "250 2.1.5 ok").await?
                }
                "DATA" => self.data().await?,
                "RSET" => {
                    self.to.clear();
                    self.say("250 2.0.0 ok").await?;
                    true
                }
                "NOOP" => self.say("250 2.0.0 ok").await.map(|()| true)?,
                "QUIT" => {
                    self.say("221 2.0.0 bye").await?;
                    false
                }
                _ => self.say("502 5.5.2 what?").await.map(|()| true)?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    async fn data(&mut self) -> std::io::Result<bool> {
        let script = lock(&self.shared.script).clone();
        match script(Phase::Data, &self.to) {
            Reaction::Proceed => {}
            Reaction::Delay(pause) => tokio::time::sleep(pause).await,
            other => return self.misbehave(other).await,
        }
        self.say("354 go ahead").await?;
        let data = self.body().await?;
        match script(Phase::Dot, &self.to) {
            Reaction::Proceed => {}
            Reaction::Delay(pause) => tokio::time::sleep(pause).await,
            Reaction::AcceptAndClose => {
                self.keep(data);
                return Ok(false);
            }
            other => return self.misbehave(other).await,
        }
        let number = self.keep(data);
        self.say(&format!("250 2.0.0 queued as {number}")).await?;
        Ok(true)
    }

    /// Reads up to the final dot and takes the dot-stuffing off.
    async fn body(&mut self) -> std::io::Result<Vec<u8>> {
        let mut data = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
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
            number: mails.len() as u64 + 1,
            accepted_at: SystemClock.now(),
            from: self.from.clone(),
            to: std::mem::take(&mut self.to),
            data,
        });
        mails.push(mail.clone());
        let _ = self.shared.arrivals.send(mail.clone());
        mail.number
    }

    /// Asks the script; returns whether the session goes on.
    async fn react(&mut self, phase: Phase, good: &str) -> std::io::Result<bool> {
        let script = lock(&self.shared.script).clone();
        match script(phase, &self.to) {
            Reaction::Proceed => self.say(good).await.map(|()| true),
            Reaction::Delay(pause) => {
                tokio::time::sleep(pause).await;
                self.say(good).await.map(|()| true)
            }
            other => self.misbehave(other).await,
        }
    }

    async fn misbehave(&mut self, reaction: Reaction) -> std::io::Result<bool> {
        match reaction {
            Reaction::Reply(text) => {
                self.say(text).await?;
                // 421 means that the server hangs up.
                Ok(!text.starts_with("421"))
            }
            Reaction::Stall => {
                // Holds the connection until the client gives up on it.
                let mut sink = [0; 1024];
                while self.stream.read(&mut sink).await? > 0 {}
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    async fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).await
    }
}

/// The address between the angle brackets.
fn address(command: &str) -> String {
    command.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(a, _)| a).to_owned()
}
