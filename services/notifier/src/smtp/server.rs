//! How the relay is reached.

use super::auth::Login;
use super::socket::{Socket, Stream};
use super::{Failure, Phase, Timeouts};
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// How the relay is reached.
#[derive(Debug, Clone)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What we call ourselves.
    pub hello: String,
    /// Of the conversation.
    pub timeouts: Timeouts,
    /// Without it nothing is encrypted.
    pub tls: Option<Tls>,
    /// Who we are to it, if it wants to know.
    pub login: Option<Login>,
}

/// When a connection becomes encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From its first byte (RFC 8314).
    Implicit,
    /// After STARTTLS (RFC 3207): a server that does not offer it gets no mail.
    Command,
}

/// Encryption of a connection.
#[derive(Clone)]
pub struct Tls {
    /// From when on.
    pub start: Start,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("start", &self.start).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Verifies the server by its name. Errors: the name is none, or TLS cannot be set up.
    pub fn try_new(start: Start, host: &str, roots: RootCertStore) -> anyhow::Result<Self> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Self { start, connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Encrypts a connection that is open.
    pub(super) async fn encrypt(&self, socket: Socket, timeouts: &Timeouts) -> Result<Stream, Failure> {
        match timeout(timeouts.hello, self.connector.connect(self.name.clone(), socket)).await {
            Ok(Ok(tls)) => Ok(Stream::Tls(Box::new(tls))),
            Ok(Err(error)) => Err(Failure::broken(Phase::Tls, error)),
            Err(_) => Err(Failure::broken(Phase::Tls, "the handshake took too long")),
        }
    }
}

/// The public certificate authorities, and those of a PEM text beside them. Errors: what is wrong with the text.
pub fn roots(pem: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(pem) = pem else { return Ok(roots) };
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("is no PEM: {e}"))?;
        roots.add(certificate).map_err(|e| format!("holds a certificate that cannot be used: {e}"))?;
        found = true;
    }
    if found { Ok(roots) } else { Err("holds no certificate in PEM form".to_owned()) }
}

impl Server {
    /// Connects, encrypted if that is from the first byte on.
    pub(super) async fn connect(&self) -> Result<Stream, Failure> {
        let connect = timeout(self.timeouts.hello, TcpStream::connect((self.host.as_str(), self.port)));
        let tcp = connect.await.map_err(|_| Failure::broken(Phase::Connect, "connecting took too long"))?;
        let tcp = tcp.map_err(|e| Failure::broken(Phase::Connect, e))?;
        // Without this Nagle's algorithm holds small writes back until the peer's delayed ack: 40 ms a mail.
        tcp.set_nodelay(true).map_err(|e| Failure::broken(Phase::Connect, e))?;
        let socket = Socket::new(tcp);
        match &self.tls {
            Some(tls) if tls.start == Start::Implicit => tls.encrypt(socket, &self.timeouts).await,
            _ => Ok(Stream::Plain(socket)),
        }
    }
}
