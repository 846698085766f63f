//! A mail server that takes everything and keeps nothing: at a distance, or behind STARTTLS, which smtp-sink offers neither of.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// What kind of server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// How long an answer is on its way.
    pub(crate) latency: Duration,
    /// Whether it offers STARTTLS.
    pub(crate) tls: bool,
}

/// Runs as long as the process.
pub(crate) async fn start(kind: Kind) -> anyhow::Result<SocketAddr> {
    let kind = Kind { latency: kind.latency.saturating_sub(lateness(kind.latency).await), ..kind };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = testkit::tls::acceptor()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                let mut plain = BufReader::with_capacity(64 * 1024, socket);
                plain.write_all(b"220 bench ESMTP\r\n").await?;
                if !talk(&mut plain, kind).await? {
                    return Ok(());
                }
                // The client waits for this answer, so nothing of its handshake was read.
                let encrypted = acceptor.accept(plain.into_inner()).await?;
                let mut encrypted = BufReader::with_capacity(64 * 1024, encrypted);
                talk(&mut encrypted, Kind { tls: false, ..kind }).await?;
                Ok::<_, std::io::Error>(())
            });
        }
    });
    Ok(address)
}

/// How much later than it should a timer goes off, on average, where nothing else is going on: about a millisecond, which
/// is not the distance that is meant.
async fn lateness(after: Duration) -> Duration {
    const TIMES: u32 = 50;
    if after.is_zero() {
        return Duration::ZERO;
    }
    let begun = Instant::now();
    for _ in 0..TIMES {
        tokio::time::sleep(after).await;
    }
    (begun.elapsed() / TIMES).saturating_sub(after)
}

/// Returns whether the client asked for TLS.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, kind: Kind) -> std::io::Result<bool> {
    let (mut line, mut answers) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match &verb[..] {
            b"EHLO" if kind.tls => answers.extend(b"250-bench\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 8BITMIME\r\n"),
            b"EHLO" => answers.extend(b"250-bench\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
            b"STAR" | b"QUIT" => {
                answers.extend(b"220 2.0.0 ok\r\n");
                stream.write_all(&answers).await?;
                return Ok(&verb[..] == b"STAR");
            }
            b"DATA" => {
                answers.extend(b"354 go on\r\n");
                answer(stream, &mut answers, kind).await?;
                body(stream).await?;
                answers.extend(b"250 2.0.0 queued\r\n");
            }
            _ => answers.extend(b"250 2.1.0 ok\r\n"),
        }
        // Commands that came together are answered together, one way later.
        if stream.buffer().is_empty() {
            answer(stream, &mut answers, kind).await?;
        }
    }
}

async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, answers: &mut Vec<u8>, kind: Kind) -> std::io::Result<()> {
    if !kind.latency.is_zero() {
        tokio::time::sleep(kind.latency).await;
    }
    stream.write_all(answers).await?;
    stream.flush().await?;
    answers.clear();
    Ok(())
}

/// Reads to the final dot.
async fn body<S: AsyncBufRead + Unpin>(stream: &mut S) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 || line == b".\r\n" {
            return Ok(());
        }
    }
}
