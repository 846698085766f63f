//! `dunlin dev`: everything on one machine, in the foreground, from real servers. `--demo` brings a simulated world.

mod demo;
mod mailbox;

use crate::commands::{dev_settings, write_file};
use crate::settings::Configuration;
use crate::system::{self, Running};
use anyhow::Context;
use events::Service;
use kernel::{Masked, TimeLapse};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use testkit::servers::{Binaries, Disk, Nats, Postgres, home};
use testkit::smtp::SmtpServer;
use tokio_util::sync::CancellationToken;

/// The database of development systems.
const DATABASE: &str = "dunlin";

/// Run everything on this machine.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Simulate two merchants and 500 customers over 90 days in two minutes, on data of its own that is thrown away.
    #[arg(long)]
    demo: bool,
    /// What is logged, to stderr.
    #[arg(long, default_value = "warn")]
    log: String,
}

/// `dunlin dev`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let stop = system::stop_on_signal()?;
    let data = home().join(if arguments.demo { "demo" } else { "dev" });
    if arguments.demo && data.exists() {
        std::fs::remove_dir_all(&data)?;
    }
    let mut servers = Servers::start(&data).await?;
    let lapse = arguments.demo.then(demo::time_lapse);
    let settings = servers.write_settings(config, &arguments.log, lapse)?;
    let outcome = serve(&settings, &servers, arguments.demo, stop).await;
    // Nothing may be left behind, however this ends.
    let _ = std::fs::remove_file(&settings);
    servers.stop()?;
    outcome
}

async fn serve(settings: &Path, servers: &Servers, demo: bool, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let configuration = Configuration::load(settings)?;
    let telemetry = runtime::telemetry::init(&configuration.settings.telemetry, "dev")?;
    servers.create_database().await?;
    system::migrate(&configuration).await?;
    let running = Running::start(&configuration, &Service::ALL, telemetry.registry.clone(), stop.clone()).await?;
    let mailbox = mailbox::serve(servers.catcher.clone(), preferred_port(8025), stop.clone()).await?;
    print_addresses(&running, servers, mailbox);
    let world = async {
        if demo {
            demo::run(&configuration, &running, servers.catcher.clone(), stop.clone()).await
        } else {
            Ok(ExitCode::SUCCESS)
        }
    };
    let outcome = world.await;
    if outcome.is_err() {
        stop.cancel();
    }
    running.wait().await?;
    telemetry.shutdown().await;
    outcome
}

/// Postgres, NATS and the mail catcher.
struct Servers {
    postgres: Postgres,
    nats: Nats,
    catcher: SmtpServer,
}

impl Servers {
    async fn start(data: &Path) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let postgres =
            Postgres::start(&binaries, &data.join("postgres"), preferred_port(5440).port(), Disk::Durable).await?;
        let nats = Nats::start(&binaries, &data.join("nats"), preferred_port(4240).port()).await?;
        let catcher = SmtpServer::start(preferred_port(1025)).await?;
        Ok(Self { postgres, nats, catcher })
    }

    async fn create_database(&self) -> anyhow::Result<()> {
        runtime::database::create(&self.postgres.url("postgres"), DATABASE).await
    }

    /// Settings of this system, where operator commands find them.
    fn write_settings(&self, config: Option<PathBuf>, log: &str, lapse: Option<TimeLapse>) -> anyhow::Result<PathBuf> {
        let pages = preferred_port(8083);
        let passwords: std::collections::BTreeMap<_, _> =
            self.nats.passwords.iter().map(|(user, password)| (user, password.reveal())).collect();
        let settings = serde_json::json!({
            "config_dir": config_dir(config)?,
            "admin_listen": preferred_port(9090),
            "postgres": { "url": self.postgres.service_url(DATABASE), "admin_url": self.postgres.url(DATABASE) },
            "nats": { "url": self.nats.url(), "passwords": passwords, "stream_max_mib": self.nats.stream_max_mib },
            "links": { "public_url": format!("http://{pages}"), "key": link_key()?.reveal() },
            "telemetry": {
                "log_format": "text",
                "log_filter": log,
                "otlp_endpoint": std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok(),
            },
            "time_lapse": lapse,
            "ingest": { "http_listen": preferred_port(8081), "grpc_listen": preferred_port(8082) },
            "scheduler": { "grpc_listen": preferred_port(8084) },
            // The catcher is nobody's mailbox provider.
            "notifier": {
                "smtp": { "host": "127.0.0.1", "port": self.catcher.address.port() },
                "limits": { "domain_per_second": 0 },
            },
            "tracker": { "pages_listen": pages, "dashboard_listen": preferred_port(8080) },
        });
        let path = dev_settings();
        // JSON is YAML.
        write_file(&path, &serde_json::to_string_pretty(&settings)?)?;
        Ok(path)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.nats.stop()?;
        self.postgres.stop()
    }
}

/// The configuration directory: as given, `config` here, or one made from what this program brings.
fn config_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let here = [given, Some(PathBuf::from("config"))].into_iter().flatten().find(|path| path.is_dir());
    if let Some(path) = here {
        return Ok(std::path::absolute(path)?);
    }
    let own = home().join("config");
    for (name, text) in [
        ("merchants/acme.yaml", include_str!("../../../../config/merchants/acme.yaml")),
        ("merchants/globex.yaml", include_str!("../../../../config/merchants/globex.yaml")),
        ("campaigns/adaptive.yaml", include_str!("../../../../config/campaigns/adaptive.yaml")),
        ("campaigns/default.yaml", include_str!("../../../../config/campaigns/default.yaml")),
    ] {
        if !own.join(name).exists() {
            write_file(&own.join(name), text)?;
        }
    }
    Ok(own)
}

/// Signs links; kept, so that links in caught mail survive a restart.
fn link_key() -> anyhow::Result<Masked<String>> {
    let path = home().join("link-key");
    if !path.exists() {
        let part = || kernel::id::new(&kernel::SystemClock).simple().to_string();
        write_file(&path, &(part() + &part()))?;
    }
    Ok(Masked::new(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?))
}

/// An address on this machine: the usual port, or another one if that is taken.
fn preferred_port(port: u16) -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let taken = TcpListener::bind(usual).is_err();
    let port = if taken { testkit::servers::free_port().unwrap_or(port) } else { port };
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn print_addresses(running: &Running, servers: &Servers, mailbox: SocketAddr) {
    let at = |role, what| running.address(role, what).map(|a| a.to_string()).unwrap_or_default();
    let rows = [
        ("Dashboard", format!("http://{}", at(Service::Tracker, "dashboard"))),
        ("Caught mail", format!("http://{mailbox}")),
        ("Stripe webhooks", format!("http://{}/v1/webhooks/<merchant>/stripe", at(Service::Ingest, "http"))),
        ("gRPC", format!("{} (dunlin.api.v1.Ingest, health, reflection)", at(Service::Ingest, "grpc"))),
        ("", format!("{} (dunlin.api.v1.Operations)", at(Service::Scheduler, "grpc"))),
        ("Pay links", format!("http://{}", at(Service::Tracker, "pages"))),
        ("API document", format!("http://{}/openapi.json", at(Service::Tracker, "dashboard"))),
        ("Metrics, health", format!("http://{0}/metrics  http://{0}/readyz?verbose", running.admin)),
        ("Postgres", servers.postgres.url(DATABASE)),
        ("NATS", servers.nats.url()),
        ("API key", format!("{} (merchants acme and globex)", crate::commands::import::DEVELOPMENT_KEY)),
    ];
    println!("\ndunlin is running. For development: no passwords, no TLS.\n");
    for (what, address) in rows {
        println!("  {what:16}{address}");
    }
    println!("\n  dunlin explain <merchant>/<invoice> tells the story of an invoice. Ctrl-C stops everything.\n");
}
