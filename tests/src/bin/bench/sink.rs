//! Postfix's smtp-sink as the mail relay, and smtp-source to it as the reference. Without them (Debian's package `postfix`,
//! see `deploy/postfix.sh`) our own catcher takes the mail and there is no reference.

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::SmtpServer;
use testkit::servers::{Process, free_port};

const PROGRAMS: &str = ".dunlin/postfix/usr/sbin";
const LIBRARIES: (&str, &str) = ("LD_LIBRARY_PATH", ".dunlin/postfix/usr/lib/postfix");
/// Of the notifier and of the reference: whoever keeps the end of each mail back for two transactions needs more than whoever
/// does not, to which it makes no difference.
pub(crate) const CONNECTIONS: &str = "128";

/// Text and HTML of a mail of ours, about: so large are those of the reference.
pub(crate) const MAIL_BYTES: usize = 4_096;
/// What makes them so large: a merchant's own page around the text, without the shipped one's regard for old mail programs.
const BODY: &str = include_str!("body.html");

/// Whose page is around the texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mails {
    AsTheReference,
    AsShipped,
}

impl Mails {
    /// Writes the page into a configuration.
    pub(crate) fn write_into(self, config: &Path) -> std::io::Result<()> {
        if self == Self::AsShipped {
            return Ok(());
        }
        std::fs::create_dir_all(config.join("templates"))?;
        std::fs::write(config.join("templates/body.html"), BODY)
    }

    /// Mails of so many bytes with their headers are what was to be measured.
    pub(crate) fn are_of(self, bytes: f64) -> anyhow::Result<()> {
        let is_as_meant = (self == Self::AsShipped) == (bytes > 1.5 * MAIL_BYTES as f64);
        anyhow::ensure!(is_as_meant, "mails of {bytes:.0} bytes are not what is to be measured");
        Ok(())
    }
}

/// Where mail goes.
pub(crate) struct Sink {
    /// On 127.0.0.1.
    pub(crate) port: u16,
    _running: Running,
}

#[expect(dead_code, reason = "kept to keep it running")]
enum Running {
    Postfix(Process),
    Own(SmtpServer),
}

impl Sink {
    /// Starts a sink.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let Some(program) = program("smtp-sink") else {
            eprintln!(
                "*** no smtp-sink (deploy/postfix.sh brings it): our own catcher takes the mail; there is NO REFERENCE ***"
            );
            let own = SmtpServer::start("127.0.0.1:0".parse()?).await?;
            return Ok(Self { port: own.address.port(), _running: Running::Own(own) });
        };
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        // Run by root it wants to be somebody else.
        let log = std::env::temp_dir().join("dunlin-bench").join("smtp-sink.log");
        let process =
            Process::start_with(&program, &["-u", "nobody", "-m", "256", &address, "1024"], &[LIBRARIES], &log)?;
        let begun = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "smtp-sink did not start; see {}",
                log.display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { port, _running: Running::Postfix(process) })
    }

    /// Mails per second from smtp-source over kept connections, `size` bytes each.
    pub(crate) fn reference(&self, mails: usize, size: usize) -> anyhow::Result<Option<f64>> {
        let Some(program) = program("smtp-source") else { return Ok(None) };
        let begun = Instant::now();
        let done = Command::new(program)
            .env(LIBRARIES.0, LIBRARIES.1)
            .args(["-d", "-s", CONNECTIONS, "-m", &mails.to_string(), "-l", &size.to_string()])
            .args(["-f", "billing@acme.example", "-t", "payer@payers.example", &format!("127.0.0.1:{}", self.port)])
            .status()
            .context("smtp-source")?;
        anyhow::ensure!(done.success(), "smtp-source failed");
        Ok(Some(mails as f64 / begun.elapsed().as_secs_f64()))
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(PROGRAMS).join(name);
    path.is_file().then_some(path)
}
