//! AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, and XOAUTH2 as Google and Microsoft describe it.

use super::{Connection, Failure, Phase};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kernel::Masked;
use std::path::PathBuf;

/// Who we are to the relay.
#[derive(Debug, Clone)]
pub struct Login {
    /// The account.
    pub user: String,
    /// What proves it.
    pub proof: Proof,
}

/// What proves who we are.
#[derive(Debug, Clone)]
pub enum Proof {
    /// A password, by one of these mechanisms: the first that the server offers.
    Password(Masked<String>, &'static [Mechanism]),
    /// An OAuth 2 access token in a file that somebody else keeps fresh: read for every connection.
    TokenFile(PathBuf),
}

/// How a password is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// In one line with the user.
    Plain,
    /// Line by line.
    Login,
}

impl Mechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

/// Continue: the server waits for the rest.
const GO_ON: u16 = 334;
const WELCOME: u16 = 235;

impl Connection {
    /// Says who we are. No password and no token leaves this machine unencrypted.
    pub(super) async fn log_in(&mut self, login: &Login) -> Result<(), Failure> {
        let stream = self.stream.get_ref();
        if !stream.is_encrypted() && !stream.is_loopback() {
            return Err(Failure::broken(Phase::Auth, "the connection is not encrypted: set smtp.security"));
        }
        let user = &login.user;
        match &login.proof {
            Proof::Password(password, mechanisms) => {
                let mechanism = mechanisms.iter().find(|m| self.features.offers_auth(m.name()));
                match mechanism {
                    Some(Mechanism::Plain) => {
                        let response = format!("\0{user}\0{}", password.reveal());
                        self.say_secret(&format!("AUTH PLAIN {}", STANDARD.encode(response)), WELCOME).await
                    }
                    Some(Mechanism::Login) => {
                        self.say_secret("AUTH LOGIN", GO_ON).await?;
                        self.say_secret(&STANDARD.encode(user), GO_ON).await?;
                        self.say_secret(&STANDARD.encode(password.reveal()), WELCOME).await
                    }
                    None => Err(not_offered(&mechanisms.iter().map(|m| m.name()).collect::<Vec<_>>().join(" or "))),
                }
            }
            Proof::TokenFile(path) => {
                if !self.features.offers_auth("XOAUTH2") {
                    return Err(not_offered("XOAUTH2"));
                }
                let token = tokio::fs::read_to_string(path).await;
                let token =
                    token.map_err(|e| Failure::broken(Phase::Auth, format!("the token cannot be read: {e}")))?;
                let response = STANDARD.encode(format!("user={user}\x01auth=Bearer {}\x01\x01", token.trim()));
                match self.say_secret(&format!("AUTH XOAUTH2 {response}"), WELCOME).await {
                    // What is wrong comes as a challenge; the refusal follows the empty answer to it.
                    Err(Failure::Refused { reply, .. }) if reply.code == GO_ON => self.say_secret("", WELCOME).await,
                    other => other,
                }
            }
        }
    }

    async fn say_secret(&mut self, line: &str, code: u16) -> Result<(), Failure> {
        let limit = self.timeouts.hello;
        self.send(Phase::Auth, format!("{line}\r\n").as_bytes(), limit).await?;
        let reply = self.reply(Phase::Auth, limit).await?;
        self.expect(Phase::Auth, reply, code).map(drop)
    }
}

fn not_offered(what: &str) -> Failure {
    Failure::broken(Phase::Auth, format!("the relay does not offer AUTH {what} on this connection"))
}
