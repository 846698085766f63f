//! All five services as processes of their own, on servers of their own: everything can be killed.

use anyhow::{Context, bail};
use dunlin::settings::Configuration;
use events::Service;
use kernel::{Clock, SystemClock, TimeLapse};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use testkit::SmtpServer;
use testkit::servers::{Binaries, Disk, Nats, Postgres, Process, free_port};

const DATABASE: &str = "dunlin";

/// A running system.
pub struct Processes {
    /// May be killed and launched again.
    pub postgres: Postgres,
    /// May be killed and launched again.
    pub nats: Nats,
    /// Where mail arrives.
    pub catcher: SmtpServer,
    /// The settings of all services.
    pub configuration: Configuration,
    /// Environment variables of services that start from now on.
    pub environment: Vec<(&'static str, String)>,
    services: BTreeMap<&'static str, Process>,
    directory: PathBuf,
}

impl Processes {
    /// Starts servers and services with files in a directory.
    pub async fn start(directory: &Path, lapse: TimeLapse) -> anyhow::Result<Self> {
        let mut system = Self::servers(directory, Some(lapse)).await?;
        for service in Service::ALL {
            system.start_service(service)?;
        }
        Ok(system)
    }

    /// Starts and prepares servers only.
    pub async fn servers(directory: &Path, lapse: Option<TimeLapse>) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let postgres = Postgres::start(&binaries, &directory.join("postgres"), free_port()?, Disk::Durable).await?;
        let nats = Nats::start(&binaries, &directory.join("nats"), free_port()?).await?;
        let catcher = SmtpServer::start("127.0.0.1:0".parse()?).await?;
        let settings = directory.join("dunlin.yaml");
        std::fs::write(&settings, settings_file(&postgres, &nats, &catcher, lapse)?)?;
        let configuration = Configuration::load(&settings)?;
        runtime::database::create(&postgres.url("postgres"), DATABASE).await?;
        dunlin::system::migrate(&configuration).await?;
        let (services, directory) = (BTreeMap::new(), directory.to_owned());
        Ok(Self { postgres, nats, catcher, configuration, environment: Vec::new(), services, directory })
    }

    /// Starts a service, as its supervisor would.
    pub fn start_service(&mut self, service: Service) -> anyhow::Result<()> {
        let settings = self.directory.join("dunlin.yaml");
        let settings = settings.to_str().context("a path that is no text")?;
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let arguments = ["--config", settings, "run", service.name()];
        let process = Process::start_with(&binary()?, &arguments, &environment, &self.log(service))?;
        self.services.insert(service.name(), process);
        Ok(())
    }

    /// Where a service's log is.
    pub fn log(&self, service: Service) -> PathBuf {
        self.directory.join(format!("{service}.log"))
    }

    /// The process of a service.
    pub fn id(&self, service: Service) -> anyhow::Result<u32> {
        self.services.get(service.name()).and_then(Process::id).context("not running")
    }

    /// Kills a service at once, and starts it again.
    pub fn restart(&mut self, service: Service) -> anyhow::Result<()> {
        self.services.get_mut(service.name()).context("not running")?.kill()?;
        self.start_service(service)
    }

    /// Starts services again that have ended by themselves, as their supervisor would; returns how many.
    pub fn restart_ended(&mut self) -> anyhow::Result<usize> {
        let mut ended = Vec::new();
        for service in Service::ALL {
            if self.services.get_mut(service.name()).is_some_and(Process::has_ended) {
                ended.push(service);
            }
        }
        ended.iter().try_for_each(|service| self.start_service(*service))?;
        Ok(ended.len())
    }

    /// Asks every service to end, and waits for it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.services.values_mut().try_for_each(Process::stop)
    }

    /// All tables.
    pub async fn pool(&self) -> sqlx::Result<sqlx::PgPool> {
        sqlx::PgPool::connect(&self.postgres.url(DATABASE)).await
    }
}

fn settings_file(
    postgres: &Postgres,
    nats: &Nats,
    catcher: &SmtpServer,
    lapse: Option<TimeLapse>,
) -> anyhow::Result<String> {
    let passwords: BTreeMap<_, _> = nats.passwords.iter().map(|(user, password)| (user, password.reveal())).collect();
    let port = || free_port().map(|port| format!("127.0.0.1:{port}"));
    let pages = port()?;
    Ok(serde_json::to_string_pretty(&json!({
        "config_dir": std::path::absolute(crate::system::config_dir())?,
        "admin_listen": "127.0.0.1:0",
        "postgres": { "url": postgres.service_url(DATABASE), "admin_url": postgres.url(DATABASE) },
        "nats": {
            "url": nats.url(),
            "passwords": passwords,
            "stream_max_mib": nats.stream_max_mib,
            // Soon: what a killed service had fetched comes again only then.
            "ack_wait_seconds": 10,
        },
        "links": { "public_url": format!("http://{pages}"), "key": "a key that is only for tests, 32+" },
        "telemetry": { "log_filter": "info" },
        "time_lapse": lapse,
        "ingest": { "http_listen": port()?, "grpc_listen": port()? },
        "notifier": {
            "smtp": { "host": "127.0.0.1", "port": catcher.address.port() },
            "limits": { "domain_per_second": 0 },
        },
        "tracker": { "pages_listen": pages, "dashboard_listen": "127.0.0.1:0" },
    }))?)
}

/// A directory of its own for the files of a run: of whoever starts [`Processes`] to remove.
pub fn new_directory() -> std::io::Result<PathBuf> {
    let id = kernel::id::at(SystemClock.now()).simple().to_string();
    let directory = std::env::temp_dir().join("dunlin-processes").join(id);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The program under test, beside the tests that were built with it.
pub fn binary() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found = here.ancestors().map(|directory| directory.join("dunlin")).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("dunlin is not built: run `cargo build --workspace`, or `make test`"),
    }
}
