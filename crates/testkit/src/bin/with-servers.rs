//! Runs a command with one PostgreSQL server that all its test processes share:
//! `with-servers cargo nextest run`.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use testkit::servers::{Binaries, Disk, Postgres, free_port};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else { anyhow::bail!("usage: with-servers COMMAND [ARGUMENT …]") };
    let directory = std::env::temp_dir().join("dunlin-tests").join(std::process::id().to_string());
    let mut postgres =
        Postgres::start(&Binaries::find()?, &directory.join("postgres"), free_port()?, Disk::Fast).await?;
    let status = Command::new(program)
        .args(arguments)
        .env("DUNLIN_TEST_POSTGRES", postgres.url("").trim_end_matches('/'))
        .status();
    postgres.kill()?;
    std::fs::remove_dir_all(&directory)?;
    let status = status?;
    Ok(ExitCode::from(status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1) as u8))
}
