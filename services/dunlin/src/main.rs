//! `dunlin`: see `dunlin --help`.

use clap::Parser;
use dunlin::cli::Cli;
use runtime::config::Faults;
use std::process::ExitCode;

/// Mails and events are made on one thread and dropped on another all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Two workers at least: on one, the telemetry exporters' blocking shutdown could wait for itself.
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(cli.run()));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dunlin: {error:#}");
            // EX_USAGE of sysexits.h: the user's configuration is at fault, not the program.
            if error.downcast_ref::<Faults>().is_some() { ExitCode::from(64) } else { ExitCode::FAILURE }
        }
    }
}
