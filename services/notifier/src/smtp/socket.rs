//! The stream to a server, encrypted or not, and what the kernel knows about it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A TCP socket that counts what the kernel has taken from us: only these bytes can ever reach the other side.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    taken: u64,
}

impl Socket {
    pub(super) const fn new(tcp: TcpStream) -> Self {
        Self { tcp, taken: 0 }
    }

    /// How many bytes the kernel has taken but not sent yet, because the other side takes no more. Not those that wait for
    /// an acknowledgement only (SIOCOUTQ): kernels delay it while their side has nothing to say, by 40 ms a mail.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "the kernel offers this by ioctl alone, and rustix has no function for it")]
    fn unsent(&self) -> io::Result<usize> {
        use rustix::ioctl::{Getter, ioctl};
        /// linux/sockios.h
        const SIOCOUTQNSD: u32 = 0x894B;
        // SAFETY: SIOCOUTQNSD writes one int (tcp(7), there as SIOCOUTQ with the same operand), and the socket outlives the call.
        let unsent = unsafe { ioctl(&self.tcp, Getter::<SIOCOUTQNSD, i32>::new()) }?;
        Ok(usize::try_from(unsent).unwrap_or(0))
    }

    #[cfg(not(target_os = "linux"))]
    fn unsent(&self) -> io::Result<usize> {
        Ok(0)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.tcp).poll_write(cx, buf);
        if let Poll::Ready(Ok(taken)) = done {
            self.taken += taken as u64;
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Plain or encrypted.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub(super) const fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.socket().tcp.peer_addr().is_ok_and(|address| address.ip().is_loopback())
    }

    /// How many bytes the kernel has taken so far, encrypted ones as they are.
    pub(super) fn taken(&self) -> u64 {
        self.socket().taken
    }

    /// See [`Socket::unsent`].
    pub(super) fn unsent(&self) -> io::Result<usize> {
        self.socket().unsent()
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
