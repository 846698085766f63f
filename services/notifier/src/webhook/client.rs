//! One call: address, TLS, signature, answer.
//!
//! The connection is made here, and not by an HTTP library, so that the address that was checked is the one that is connected
//! to: a name that leads to a public address when it is looked at and to a private one a moment later gets nowhere.

use super::domain::{Answer, retry_after};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, SystemClock};
use runtime::merchant::Webhook;
use runtime::merchant::webhook::{is_development, is_public};
use sha2::Sha256;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};

/// A call that takes longer has failed.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Finds the addresses of a host.
type Lookup = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The same at every attempt.
    pub id: &'a str,
    /// Of this attempt, in machine time.
    pub sent_at: Timestamp,
    /// JSON.
    pub body: &'a str,
}

impl Message<'_> {
    /// The value of `webhook-signature`.
    fn signature(&self, key: &[u8]) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
        mac.update(format!("{}.{}.{}", self.id, self.sent_at.as_second(), self.body).as_bytes());
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    }
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The media type that the server gives it.
    pub kind: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Posts and fetches. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    lookup: Lookup,
}

impl Client {
    /// A client that trusts the public certificate authorities. Errors: TLS cannot be set up.
    pub fn try_new() -> anyhow::Result<Self> {
        Self::trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    fn trusting(roots: RootCertStore) -> anyhow::Result<Self> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let lookup: Lookup =
            Arc::new(|host, port| Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }));
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), lookup })
    }

    /// Posts a message. Redirects are not followed: the answer is what the first server says.
    pub async fn post(&self, webhook: &Webhook, message: &Message<'_>) -> Answer {
        match tokio::time::timeout(TIMEOUT, self.try_post(webhook, message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(problem)) => Answer::Broken(problem),
            Err(_) => Answer::Broken(format!("no answer within {} seconds", TIMEOUT.as_secs())),
        }
    }

    async fn try_post(&self, webhook: &Webhook, message: &Message<'_>) -> Result<Answer, String> {
        let (url, request) = prepare(webhook, message)?;
        let response = self.open(&url).await?.send(request).await?;
        Ok(Answer::Status { code: response.status().as_u16(), retry_after: asked_to_wait(&response) })
    }

    /// Fetches a file of at most so many bytes. What may pass begins with "unreachable" in the error.
    pub async fn get(&self, address: &str, limit: usize) -> Result<Fetched, String> {
        const REDIRECTS: usize = 3;
        let mut url = Url::parse(address).map_err(|_| "the address is no URL".to_owned())?;
        for _ in 0..=REDIRECTS {
            if url.scheme() != "https" && !is_development(&url) {
                return Err("the address does not begin with https://".to_owned());
            }
            let request = to(&url, Request::get(target(&url))).and_then(|r| r.body(Full::default()).ok());
            let request = request.ok_or("no request can be made of it")?;
            let answered = async { self.open(&url).await?.answer(request).await }.await;
            // The body can be read as long as the connection is there.
            let (response, _connection) = answered.map_err(|e| format!("unreachable: {e}"))?;
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            match response.status().as_u16() {
                200 => {
                    let kind = header(CONTENT_TYPE).to_owned();
                    let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| {
                        if error.is::<LengthLimitError>() {
                            format!("is larger than {limit} bytes")
                        } else {
                            format!("unreachable: {error}")
                        }
                    })?;
                    return Ok(Fetched { kind, bytes: body.to_bytes().to_vec() });
                }
                301 | 302 | 303 | 307 | 308 => {
                    url = url.join(header(LOCATION)).map_err(|_| "leads to an address that is no URL".to_owned())?;
                }
                code @ (400..=407 | 409..=428 | 430..=499) => return Err(format!("the server says {code}")),
                code => return Err(format!("unreachable: the server says {code}")),
            }
        }
        Err("leads from one address to the next".to_owned())
    }

    /// Connects, so that only the request is left to be written. Gives up after ten seconds.
    pub async fn open(&self, url: &Url) -> Result<Connection, String> {
        let opened = tokio::time::timeout(TIMEOUT, self.try_open(url)).await;
        opened.unwrap_or_else(|_| Err(format!("not connected within {} seconds", TIMEOUT.as_secs())))
    }

    async fn try_open(&self, url: &Url) -> Result<Connection, String> {
        let stream = self.connect(url).await?;
        let opened = if url.scheme() == "https" {
            let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name).map_err(|_| "the host is no name for TLS".to_owned())?;
            let stream = self.tls.connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
            Connection::begin(stream).await
        } else {
            Connection::begin(stream).await
        };
        opened.map_err(|e| format!("HTTP: {e}"))
    }

    /// Connects to one of the host's addresses; to none that it should not lead to.
    async fn connect(&self, url: &Url) -> Result<TcpStream, String> {
        let mut problem = "the host has no address".to_owned();
        for address in self.addresses(url).await.map_err(|e| format!("no address found: {e}"))? {
            if !may_connect(url, address.ip()) {
                problem = "address refused: the host leads to one that is not public".to_owned();
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // What is written has to leave at once.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => problem = format!("not connected: {error}"),
            }
        }
        Err(problem)
    }

    async fn addresses(&self, url: &Url) -> io::Result<Vec<SocketAddr>> {
        let port = url.port_or_known_default().unwrap_or(443);
        match url.host() {
            Some(Host::Ipv4(address)) => Ok(vec![(address, port).into()]),
            Some(Host::Ipv6(address)) => Ok(vec![(address, port).into()]),
            Some(Host::Domain(name)) => (self.lookup)(name.to_owned(), port).await,
            None => Ok(Vec::new()),
        }
    }
}

fn may_connect(url: &Url, address: IpAddr) -> bool {
    if is_development(url) { address.is_loopback() } else { is_public(address) }
}

/// Where a message goes, and the signed request. Errors: the merchant's settings make none possible.
pub fn prepare(webhook: &Webhook, message: &Message<'_>) -> Result<(Url, Request<Full<Bytes>>), String> {
    // Checked with the merchant's file; looked at again because nobody is harmed by it.
    let url = webhook.target().map_err(|problem| format!("the URL {problem}"))?;
    let key = webhook.key().map_err(|problem| format!("the signing secret {problem}"))?;
    let request = request(&url, message, key.reveal()).ok_or("no request can be made of it")?;
    Ok((url, request))
}

/// How long an answer asks us to wait, if it does.
pub fn asked_to_wait(response: &Response<Incoming>) -> Option<SignedDuration> {
    let header = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry_after(header, SystemClock.now())
}

/// A POST to a URL, so far without a body.
pub fn post_to(url: &Url) -> Option<Builder> {
    to(url, Request::post(target(url)))
}

fn target(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// Says whom a request is for, and whom it is from.
fn to(url: &Url, request: Builder) -> Option<Builder> {
    let host =
        url.port().map_or_else(|| url.host_str().map(str::to_owned), |p| Some(format!("{}:{p}", url.host_str()?)));
    Some(request.header(HOST, host?).header(USER_AGENT, concat!("dunlin/", env!("CARGO_PKG_VERSION"))))
}

fn request(url: &Url, message: &Message<'_>, key: &[u8]) -> Option<Request<Full<Bytes>>> {
    post_to(url)?
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", message.id)
        .header("webhook-timestamp", message.sent_at.as_second())
        .header("webhook-signature", message.signature(key)?)
        .body(Full::from(message.body.to_owned()))
        .ok()
}

/// An open connection that nothing was written to yet. Dropping it closes it.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Connection {
    async fn begin<S>(stream: S) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, _driver: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    async fn answer(mut self, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Self), String> {
        let response = self.sender.send_request(request).await.map_err(|e| format!("HTTP: {e}"))?;
        Ok((response, self))
    }

    /// Writes a request and reads the head of the answer. Errors: whether it arrived is not known.
    pub async fn send(mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        self.sender.send_request(request).await.map_err(|e| format!("HTTP: {e}"))
    }

    /// The same with the beginning of the answer's body, up to `most` bytes.
    pub async fn exchange(
        mut self,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<(Response<Incoming>, Vec<u8>), String> {
        let mut response = self.sender.send_request(request).await.map_err(|e| format!("HTTP: {e}"))?;
        let mut body = Vec::new();
        while body.len() < most
            && let Some(Ok(frame)) = response.body_mut().frame().await
        {
            body.extend(frame.into_data().unwrap_or_default());
        }
        body.truncate(most);
        Ok((response, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::Masked;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    #[test]
    fn signs_as_the_standard_does() {
        // The example of the specification's libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let sent_at = Timestamp::from_second(1_614_265_330).unwrap();
        let message = Message { id: "msg_p5jXN8AQM9LWM0D4loKWxJek", sent_at, body: "{\"test\": 2432232314}" };
        let signature = message.signature(&key).unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        // Public when the merchant's file was read, private now.
        let lookup: Lookup = Arc::new(move |_, port| {
            counter.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move { Ok(vec![([127, 0, 0, 1], port).into(), ([10, 0, 0, 1], port).into()]) })
        });
        let client = Client { lookup, ..Client::try_new().unwrap() };
        let secret = format!("whsec_{}", STANDARD.encode([7_u8; 32]));
        let webhook = Webhook { url: format!("https://merchant.example:{port}/"), signing_secret: Masked::new(secret) };
        let message = Message { id: "1", sent_at: Timestamp::UNIX_EPOCH, body: "{}" };
        let answer = client.post(&webhook, &message).await;
        let expected = "address refused: the host leads to one that is not public";
        assert_eq!(answer, Answer::Broken(expected.to_owned()));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "looked up once: what was checked is what is used");
        let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(connected.is_err(), "somebody connected");
    }

    /// A TLS server for `localhost`, self-signed, that answers one call.
    async fn tls_server() -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = testkit::tls::acceptor().unwrap().accept(stream).await else { return String::new() };
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        (port, tokio::spawn(serve))
    }

    #[tokio::test]
    async fn certificates_are_verified() {
        let message = Message { id: "1", sent_at: Timestamp::UNIX_EPOCH, body: "{}" };
        let webhook = |host: &str, port: u16| Webhook {
            url: format!("https://{host}:{port}/hook"),
            signing_secret: Masked::new(format!("whsec_{}", STANDARD.encode([7_u8; 32]))),
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(testkit::tls::CERTIFICATE.as_bytes()).unwrap()).unwrap();
        let trusting = Client::trusting(roots).unwrap();
        let broken = |answer| matches!(answer, Answer::Broken(problem) if problem.starts_with("TLS: "));

        let (port, served) = tls_server().await;
        let answer = trusting.post(&webhook("localhost", port), &message).await;
        assert_eq!(answer, Answer::Status { code: 503, retry_after: Some(jiff::SignedDuration::from_secs(7)) });
        assert!(served.await.unwrap().starts_with("POST /hook HTTP/1.1\r\nhost: localhost:"));

        let (port, served) = tls_server().await;
        assert!(broken(trusting.post(&webhook("127.0.0.1", port), &message).await), "a certificate for another name");
        assert_eq!(served.await.unwrap(), "");
        let (port, served) = tls_server().await;
        assert!(broken(Client::try_new().unwrap().post(&webhook("localhost", port), &message).await), "self-signed");
        assert_eq!(served.await.unwrap(), "");
    }

    #[test]
    fn names_of_this_machine_lead_nowhere_else() {
        let may = |url: &str, address: &str| may_connect(&url.parse().unwrap(), address.parse().unwrap());
        assert!(may("http://localhost:3000/", "127.0.0.1") && may("http://localhost:3000/", "::1"));
        assert!(!may("http://localhost:3000/", "10.0.0.1"));
        assert!(may("https://merchant.example/", "1.1.1.1"));
        assert!(!may("https://merchant.example/", "127.0.0.1") && !may("https://merchant.example/", "fd00::1"));
    }
}
