//! `dunlin doctor`: what this machine is missing, and the line that gets it.

use std::process::{Command, ExitCode};
use testkit::Binaries;

/// `dunlin doctor`.
pub fn run() -> ExitCode {
    let checks = [
        ("PostgreSQL and nats-server", servers()),
        ("setpriv (ties servers to this process)", program("setpriv", "apt-get install util-linux")),
        ("space in .dunlin", space()),
    ];
    let mut fine = true;
    for (what, result) in checks {
        match result {
            Ok(found) => println!("ok       {what}: {found}"),
            Err(missing) => {
                fine = false;
                println!("MISSING  {what}: {missing}");
            }
        }
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn servers() -> Result<String, String> {
    let found = Binaries::find().map_err(|e| e.to_string())?;
    Ok(format!("{}, {}", found.postgres.display(), found.nats_server.display()))
}

fn program(name: &str, install: &str) -> Result<String, String> {
    match Command::new(name).arg("--version").output() {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Err(_) => Err(format!("not found; {install}")),
    }
}

/// Development data and servers need some room.
fn space() -> Result<String, String> {
    const NEEDED_MIB: u64 = 500;
    let home = testkit::servers::home();
    match testkit::servers::free_mib(&home).map_err(|e| e.to_string())? {
        free if free >= NEEDED_MIB => Ok(format!("{free} MiB free at {}", home.display())),
        free => Err(format!("{free} MiB free at {}; {NEEDED_MIB} are needed", home.display())),
    }
}
