//! `dunlin dev` of the release build, as a process of its own on fresh data.

use crate::sink::Mails;
use anyhow::{Context, bail};
use e2e::processes::binary;
use events::api::ingest_client::IngestClient;
use events::api::{Fact, InvoiceFact, PublishRequest, VerdictKind, fact};
use events::time;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::PgPool;
use std::path::PathBuf;
use std::time::Duration;
use testkit::servers::{Binaries, Process};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Facts per request, as `dunlin import` sends them.
pub(crate) const BATCH: usize = 500;
/// Requests on their way at the same time.
pub(crate) const IN_FLIGHT: usize = 4;
const START_WITHIN: Duration = Duration::from_secs(60);

/// A running `dunlin dev`.
pub(crate) struct Dev {
    process: Process,
    settings: Value,
    home: PathBuf,
    /// All tables.
    pub(crate) pool: PgPool,
    /// For whatever is asked over HTTP.
    pub(crate) http: reqwest::Client,
}

impl Dev {
    /// Starts it. `environment` overrides its settings.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_with(environment, Mails::AsShipped).await
    }

    /// Starts it to send such mails.
    pub(crate) async fn start_with(environment: &[(&str, &str)], mails: Mails) -> anyhow::Result<Self> {
        let id = kernel::id::at(kernel::Clock::now(&kernel::SystemClock)).simple().to_string();
        let home = std::env::temp_dir().join("dunlin-bench").join(id);
        let config = home.join("config");
        write_config(&config)?;
        mails.write_into(&config)?;
        let binaries = Binaries::find()?;
        let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path that is no text");
        let (home_text, config) = (text(&home)?, text(&config)?);
        let (postgres, nats) = (text(&binaries.postgres)?, text(&binaries.nats_server)?);
        let mut variables = vec![
            ("DUNLIN_HOME", home_text.as_str()),
            ("DUNLIN_POSTGRES_BIN", postgres.as_str()),
            ("DUNLIN_NATS_SERVER", nats.as_str()),
        ];
        variables.extend(environment);
        let log = home.join("dunlin.log");
        let process = Process::start_with(&binary()?, &["--config", &config, "dev"], &variables, &log)?;
        let http = reqwest::Client::builder().pool_max_idle_per_host(128).build()?;
        let settings = wait_until_ready(&home, &http).await.with_context(|| format!("see {}", log.display()))?;
        let url = settings["postgres"]["admin_url"].as_str().context("postgres.admin_url")?;
        let pool = PgPool::connect(url).await?;
        Ok(Self { process, settings, home, pool, http })
    }

    /// `http://host:port` of an edge, by its key in the settings.
    pub(crate) fn url(&self, section: &str, key: &str) -> String {
        let section = if section.is_empty() { &self.settings } else { &self.settings[section] };
        format!("http://{}", section[key].as_str().unwrap_or_default())
    }

    /// Resident memory of the process, without the servers: now and at most, in MB.
    pub(crate) fn memory(&self) -> anyhow::Result<(f64, f64)> {
        memory_of(self.process.id().context("not running")?)
    }

    /// Resident memory of its nats-server now, in MB.
    pub(crate) fn memory_of_nats(&self) -> Option<f64> {
        let parent = self.process.id()?.to_string();
        let found = std::process::Command::new("pgrep").args(["-P", &parent, "nats-server"]).output().ok()?;
        let id = String::from_utf8(found.stdout).ok()?.trim().parse().ok()?;
        Some(memory_of(id).ok()?.0)
    }

    /// A counter of `/metrics`, over all lines that contain `label`.
    pub(crate) async fn counter(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = self.http.get(format!("{}/metrics", self.url("", "admin_listen"))).send().await?.text().await?;
        let mine = text.lines().filter(|l| l.starts_with(name) && l.contains(label));
        Ok(mine.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// A connection to the gRPC edge.
    pub(crate) async fn grpc(&self) -> anyhow::Result<IngestClient<Channel>> {
        Ok(IngestClient::connect(self.url("ingest", "grpc_listen")).await?)
    }

    /// Publishes facts in batches, a few at a time; returns when all of them are durable.
    pub(crate) async fn publish(&self, facts: Vec<Fact>) -> anyhow::Result<()> {
        let client = self.grpc().await?;
        let mut running = tokio::task::JoinSet::new();
        let mut facts = facts.into_iter();
        loop {
            let batch: Vec<Fact> = facts.by_ref().take(BATCH).collect();
            if batch.is_empty() || running.len() >= IN_FLIGHT {
                let Some(done) = running.join_next().await else { return Ok(()) };
                accepted(done??)?;
            }
            if !batch.is_empty() {
                let (mut client, request) = (client.clone(), publish_request(batch)?);
                running.spawn(async move { client.publish(request).await.map(|r| r.into_inner().verdicts) });
            }
        }
    }

    /// Waits until ingest has published everything it has committed.
    pub(crate) async fn wait_until_published(&self) -> anyhow::Result<()> {
        wait_for(&self.pool, "SELECT NOT EXISTS (SELECT FROM ingest.outbox_pending)").await
    }

    /// Waits until a statement says true.
    pub(crate) async fn wait_until(&self, statement: &'static str) -> anyhow::Result<()> {
        wait_for(&self.pool, statement).await
    }

    /// Ends it and removes its data.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.pool.close().await;
        self.process.stop()?;
        Ok(std::fs::remove_dir_all(&self.home)?)
    }
}

fn accepted(verdicts: Vec<events::api::Verdict>) -> anyhow::Result<()> {
    match verdicts.into_iter().find(|v| v.kind() != VerdictKind::Accepted) {
        Some(verdict) => bail!("not accepted: {verdict:?}"),
        None => Ok(()),
    }
}

async fn wait_for(pool: &PgPool, statement: &'static str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !sqlx::query_scalar::<_, bool>(statement).fetch_one(pool).await? {
        if Instant::now() > deadline {
            bail!("not within two minutes: {statement}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn publish_request(facts: Vec<Fact>) -> anyhow::Result<tonic::Request<PublishRequest>> {
    let mut request = tonic::Request::new(PublishRequest { merchant_id: "acme".to_owned(), facts });
    let key = format!("Bearer {}", dunlin::commands::import::DEVELOPMENT_KEY);
    request.metadata_mut().insert("authorization", key.parse()?);
    Ok(request)
}

/// An invoice of 1,234.56 EUR to a customer of its own.
pub(crate) fn invoice_fact(id: &str, issued_at: Timestamp, due_on: &str) -> Fact {
    let invoice = InvoiceFact {
        invoice_id: id.to_owned(),
        customer_id: format!("cus_{id}"),
        number: id.to_uppercase(),
        currency: "EUR".to_owned(),
        total_minor: 123_456,
        issued_on: "2026-05-01".to_owned(),
        due_on: due_on.to_owned(),
        pay_url: format!("https://pay.example.com/{id}"),
        bill_to_name: "Greta Lindqvist".to_owned(),
        bill_to_email: format!("ap@{}.payers.example", id.replace('_', "-")),
        ..Default::default()
    };
    Fact {
        id: format!("bench:{id}"),
        occurred_at: Some(time::to_wire(issued_at)),
        fact: Some(fact::Fact::Invoice(invoice)),
    }
}

/// The project's configuration, with all reminders of a morning at nine o'clock sharp: a spread would be measured instead.
fn write_config(target: &std::path::Path) -> anyhow::Result<()> {
    let source = e2e::system::config_dir();
    for part in ["merchants", "campaigns"] {
        std::fs::create_dir_all(target.join(part))?;
        for entry in std::fs::read_dir(source.join(part))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path)?.replace("spread_minutes: 15", "spread_minutes: 0 ");
            std::fs::write(target.join(part).join(path.file_name().context("no name")?), text)?;
        }
    }
    Ok(())
}

/// Waits for the settings that `dunlin dev` leaves, and for readiness.
async fn wait_until_ready(home: &std::path::Path, http: &reqwest::Client) -> anyhow::Result<Value> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        if let Ok(text) = std::fs::read_to_string(home.join("dev.yaml"))
            && let Ok(settings) = text.parse::<Value>()
            && let Some(admin) = settings["admin_listen"].as_str()
            && let Ok(response) = http.get(format!("http://{admin}/readyz?verbose")).send().await
            && response.status().is_success()
            // Ready means that those which run are: all five have to.
            && response.text().await.is_ok_and(|report| report.contains("tracker nats"))
        {
            return Ok(settings);
        }
        if Instant::now() > deadline {
            bail!("dunlin dev is not ready within {START_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn memory_of(id: u32) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).context("no such field")?;
        let kilobytes: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
        Ok::<_, anyhow::Error>(kilobytes / 1_000.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
