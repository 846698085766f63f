//! The other side of an HTTP call, scripted: a merchant's system or a provider of text messages that keeps what it was asked
//! and answers, stalls or hangs up as it is told to. No real provider can be reached from tests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method and target, such as `POST /hook`.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// A header's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str())
    }

    /// The fields of a posted form.
    pub fn form(&self) -> Vec<(String, String)> {
        reqwest::Url::parse(&format!("http://form/?{}", self.body))
            .map(|url| url.query_pairs().into_owned().collect())
            .unwrap_or_default()
    }
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Answer with a status, headers (`name: value`) and a body.
    Answer(u16, Vec<String>, String),
    /// Take it and hang up without a word.
    HangUp,
    /// Take it and never answer.
    Stall,
}

impl Reaction {
    /// A bare status.
    pub const fn status(code: u16) -> Self {
        Self::Answer(code, Vec::new(), String::new())
    }

    /// A status with a JSON body.
    pub fn json(code: u16, body: impl Into<String>) -> Self {
        Self::Answer(code, vec!["content-type: application/json".to_owned()], body.into())
    }
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    reactions: VecDeque<Reaction>,
    always: Option<Reaction>,
}

/// The server. It ends when this is dropped.
pub struct HttpServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: AbortOnDropHandle<()>,
}

impl HttpServer {
    /// Starts on a free port. Where it is not told otherwise, it answers 204.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, state) = (listener.local_addr()?, Arc::new(Mutex::new(State::default())));
        let shared = state.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { serve(stream, &state).await });
            }
        });
        Ok(Self { address, state, _server: AbortOnDropHandle::new(server) })
    }

    /// What to do with the next requests, first to last.
    pub fn will(&self, reactions: impl IntoIterator<Item = Reaction>) {
        lock(&self.state).reactions.extend(reactions);
    }

    /// What to do with all others.
    pub fn always(&self, reaction: Reaction) {
        lock(&self.state).always = Some(reaction);
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state).requests.clone()
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read(&mut stream).await {
        let reaction = {
            let mut state = lock(state);
            state.requests.push(request);
            let always = state.always.clone().unwrap_or(Reaction::status(204));
            state.reactions.pop_front().unwrap_or(always)
        };
        match reaction {
            Reaction::HangUp => return,
            Reaction::Stall => std::future::pending().await,
            Reaction::Answer(code, headers, body) => {
                let mut answer = format!("HTTP/1.1 {code} Scripted\r\ncontent-length: {}\r\n", body.len());
                headers.iter().for_each(|header| answer += &format!("{header}\r\n"));
                if stream.write_all(format!("{answer}\r\n{body}").as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// `None`: the other side has hung up.
async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let (mut line, mut headers) = (String::new(), Vec::new());
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let target = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { target, headers, body: String::new() };
    let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}
