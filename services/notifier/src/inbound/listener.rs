//! Takes mail in from a mail server: LMTP (RFC 2033), or SMTP (RFC 5321) for those that do not speak it. Everything is
//! bounded, and a message is accepted when it is on disk, never before.

use crate::config::{InboundProtocol, InboundSettings};
use crate::flow::inbound::{Mail, Proofs, take};
use events::topology::NOTIFIER_INBOUND;
use kernel::Masked;
use runtime::Host;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest command line: RFC 5321 wants 512, extensions some more.
const MAX_LINE: u64 = 2_048;
/// Most recipients of a message.
const MAX_RECIPIENTS: usize = 100;
/// Most commands that make no sense before the connection is closed.
const MAX_FAULTS: usize = 10;

/// Listens until `stop`, then lets those finish who are in the middle of a message.
pub async fn run(
    host: Host,
    proofs: Proofs,
    settings: InboundSettings,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let shared = Arc::new(Shared { host, proofs, settings });
    let room = Arc::new(Semaphore::new(shared.settings.connections.into()));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "inbound connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            connections.spawn(turn_away(stream));
            continue;
        };
        let (shared, stop) = (shared.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            // Who breaks off has been promised nothing.
            let _ = Session::new(stream, shared).serve(stop).await;
        });
    }
    connections.close();
    connections.wait().await;
}

async fn turn_away(mut stream: TcpStream) {
    let goodbye = stream.write_all(b"421 4.3.2 too many connections, try again later\r\n");
    let _ = tokio::time::timeout(Duration::from_secs(5), goodbye).await;
}

struct Shared {
    host: Host,
    proofs: Proofs,
    settings: InboundSettings,
}

impl Shared {
    /// Whether mail to an address is ours to take: a return path, where merchants get answers, or one of ours for people.
    fn is_ours(&self, address: &str) -> bool {
        const OURS: [&str; 3] = ["postmaster", "abuse", "complaints"];
        if self.proofs.return_path.as_ref().is_some_and(|path| path.verify(address).is_some()) {
            return true;
        }
        let of_merchant = self.host.merchants.iter().any(|merchant| {
            let sender = &merchant.file.sender;
            [Some(&sender.email), sender.reply_to.as_ref()]
                .into_iter()
                .flatten()
                .any(|a| a.eq_ignore_ascii_case(address))
        });
        of_merchant
            || address.rsplit_once('@').is_some_and(|(local, domain)| {
                domain.eq_ignore_ascii_case(&self.settings.domain) && OURS.iter().any(|o| o.eq_ignore_ascii_case(local))
            })
    }

    /// Takes a message in; `false`: not now.
    async fn take(&self, mail: Mail) -> bool {
        let taken = async {
            let mut work = self.host.bus.begin(&NOTIFIER_INBOUND).await?;
            take(&mut work, &self.proofs, &[mail], self.host.now()).await?;
            work.commit().await?;
            Ok::<_, bus::Failure>(())
        };
        taken
            .await
            .inspect_err(|error| tracing::warn!(%error, "inbound message not taken; its sender will try again"))
            .is_ok()
    }
}

struct Session {
    stream: BufReader<TcpStream>,
    shared: Arc<Shared>,
    greeted: bool,
    /// Since `MAIL FROM`.
    recipients: Option<Vec<String>>,
    faults: usize,
}

/// What goes on after a command.
#[derive(PartialEq, Eq)]
enum Next {
    Command,
    Quit,
}

impl Session {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        Self { stream: BufReader::new(stream), shared, greeted: false, recipients: None, faults: 0 }
    }

    fn is_lmtp(&self) -> bool {
        self.shared.settings.protocol == InboundProtocol::Lmtp
    }

    async fn serve(mut self, stop: CancellationToken) -> io::Result<()> {
        let name = if self.is_lmtp() { "LMTP" } else { "ESMTP" };
        self.reply(&format!("220 {} {name} dunlin", self.shared.settings.domain)).await?;
        loop {
            let line = tokio::select! {
                () = stop.cancelled() => return self.reply("421 4.3.2 shutting down").await,
                line = read_line(&mut self.stream, self.shared.settings.idle_seconds) => line,
            };
            match line {
                Ok(Some(line)) if self.command(&line).await? == Next::Command => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return self.reply("421 4.4.2 time is up").await;
                }
                Err(error) => return Err(error),
            }
            if self.faults > MAX_FAULTS {
                return self.reply("421 4.7.0 too many errors").await;
            }
        }
    }

    async fn reply(&mut self, text: &str) -> io::Result<()> {
        let wait = Duration::from_secs(self.shared.settings.idle_seconds.into());
        let written = async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.write_all(b"\r\n").await?;
            self.stream.flush().await
        };
        tokio::time::timeout(wait, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn fault(&mut self, text: &str) -> io::Result<()> {
        self.faults += 1;
        self.reply(text).await
    }

    async fn command(&mut self, line: &str) -> io::Result<Next> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "LHLO" if self.is_lmtp() => self.hello(true).await?,
            "EHLO" if !self.is_lmtp() => self.hello(true).await?,
            "HELO" if !self.is_lmtp() => self.hello(false).await?,
            "MAIL" if !self.greeted => self.fault("503 5.5.1 who are you?").await?,
            "MAIL" if self.recipients.is_some() => self.fault("503 5.5.1 one message at a time").await?,
            "MAIL" => self.mail(rest).await?,
            "RCPT" => self.rcpt(rest).await?,
            "DATA" => return self.data().await,
            "RSET" => {
                self.recipients = None;
                self.reply("250 2.0.0 ok").await?;
            }
            "NOOP" => self.reply("250 2.0.0 ok").await?,
            "VRFY" => self.reply("252 2.5.2 send some mail").await?,
            "QUIT" => {
                self.reply("221 2.0.0 bye").await?;
                return Ok(Next::Quit);
            }
            _ => self.fault("500 5.5.2 not known here").await?,
        }
        Ok(Next::Command)
    }

    async fn hello(&mut self, extended: bool) -> io::Result<()> {
        (self.greeted, self.recipients) = (true, None);
        let domain = self.shared.settings.domain.clone();
        if !extended {
            return self.reply(&format!("250 {domain}")).await;
        }
        let size = u64::from(self.shared.settings.max_message_kib) * 1024;
        let lines = format!(
            "250-{domain}\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES"
        );
        self.reply(&lines).await
    }

    async fn mail(&mut self, rest: &str) -> io::Result<()> {
        if !rest.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("FROM:")) {
            return self.fault("501 5.5.4 MAIL FROM:<address>").await;
        }
        let size = rest.to_ascii_uppercase().split_once(" SIZE=").and_then(|(_, s)| s.split(' ').next()?.parse().ok());
        if size.is_some_and(|size: u64| size > u64::from(self.shared.settings.max_message_kib) * 1024) {
            return self.reply("552 5.3.4 too large").await;
        }
        self.recipients = Some(Vec::new());
        self.reply("250 2.1.0 ok").await
    }

    async fn rcpt(&mut self, rest: &str) -> io::Result<()> {
        let path = rest.get(..3).filter(|word| word.eq_ignore_ascii_case("TO:")).and_then(|_| rest.get(3..));
        let Some(address) = path.map(str::trim).and_then(|p| p.strip_prefix('<')?.split_once('>')).map(|(a, _)| a)
        else {
            return self.fault("501 5.5.4 RCPT TO:<address>").await;
        };
        let Some(count) = self.recipients.as_ref().map(Vec::len) else {
            return self.fault("503 5.5.1 MAIL first").await;
        };
        if count >= MAX_RECIPIENTS {
            return self.reply("452 4.5.3 too many recipients").await;
        }
        if !self.shared.is_ours(address) {
            return self.fault("550 5.1.1 no such address").await;
        }
        let address = address.to_owned();
        self.recipients.get_or_insert_default().push(address);
        self.reply("250 2.1.5 ok").await
    }

    async fn data(&mut self) -> io::Result<Next> {
        if self.recipients.as_ref().is_none_or(Vec::is_empty) {
            self.fault("503 5.5.1 RCPT first").await?;
            return Ok(Next::Command);
        }
        self.reply("354 go ahead").await?;
        let (max, idle) = (self.shared.settings.max_message_kib as usize * 1024, self.shared.settings.idle_seconds);
        let raw = match read_data(&mut self.stream, max, idle).await {
            Ok(raw) => raw,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.reply("421 4.4.2 time is up").await?;
                return Ok(Next::Quit);
            }
            Err(error) => return Err(error),
        };
        let recipients = self.recipients.take().unwrap_or_default();
        // One answer for each recipient in LMTP, one for all in SMTP.
        let answers = if self.is_lmtp() { recipients.len() } else { 1 };
        let taken = match raw {
            Some(raw) => Some(self.shared.take(Mail { raw: Masked::new(raw), recipients }).await),
            None => None,
        };
        let answer = match taken {
            Some(true) => "250 2.0.0 taken",
            Some(false) => "451 4.3.0 not now, try again later",
            None => "552 5.3.4 too large",
        };
        for _ in 0..answers {
            self.reply(answer).await?;
        }
        Ok(Next::Command)
    }
}

/// A command line without its end; `None` at the end of the connection.
async fn read_line(stream: &mut BufReader<TcpStream>, idle_seconds: u32) -> io::Result<Option<String>> {
    let line = read_until_newline(stream, MAX_LINE, idle_seconds).await?;
    match line {
        line if line.is_empty() => Ok(None),
        line if !line.ends_with(b"\n") => Err(io::Error::new(io::ErrorKind::InvalidData, "line too long")),
        line => Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned())),
    }
}

async fn read_until_newline(stream: &mut BufReader<TcpStream>, max: u64, idle_seconds: u32) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let wait = Duration::from_secs(idle_seconds.into());
    let mut bounded = stream.take(max);
    let read = bounded.read_until(b'\n', &mut line);
    tokio::time::timeout(wait, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(line)
}

/// The message up to the final dot, without the dots that were doubled for transport; `None` if it was too large. Only CRLF
/// ends a line here: whoever reads bare line feeds as ends can be made to see two messages in one.
async fn read_data(stream: &mut BufReader<TcpStream>, max: usize, idle_seconds: u32) -> io::Result<Option<Vec<u8>>> {
    const CHUNK: u64 = 64 * 1024;
    let (mut raw, mut fits, mut begins) = (Vec::new(), true, true);
    loop {
        let piece = read_until_newline(stream, CHUNK, idle_seconds).await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if begins && piece == b".\r\n" {
            return Ok(fits.then_some(raw));
        }
        let content = if begins { piece.strip_prefix(b".").unwrap_or(&piece) } else { &piece };
        fits &= raw.len() + content.len() <= max;
        if fits {
            raw.extend_from_slice(content);
        }
        // A line that ends in a bare line feed goes on.
        begins = piece.ends_with(b"\r\n") || piece.as_slice() == b"\n" && raw.ends_with(b"\r\n");
    }
}
