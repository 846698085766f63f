//! `dunlin dev`: an empty system that is ready for use, keeps its data over a restart, and leaves no process behind.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use e2e::processes::{binary, new_directory};
use e2e::system::PATIENCE;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::servers::{Binaries, Process};
use testkit::wait;

struct Dev {
    home: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Dev {
    fn new(home: &Path) -> Self {
        let binaries = Binaries::find().unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let environment = vec![
            ("DUNLIN_HOME", text(home)),
            ("DUNLIN_POSTGRES_BIN", text(&binaries.postgres)),
            ("DUNLIN_NATS_SERVER", text(&binaries.nats_server)),
        ];
        Self { home: home.to_owned(), environment }
    }

    /// Starts it, and waits until it says that it runs.
    async fn start(&self, log: &str) -> Process {
        let environment: Vec<_> = self.environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let log = self.home.join(log);
        let process = Process::start_with(&binary().unwrap(), &["dev"], &environment, &log).unwrap();
        wait::until_true("the table of addresses", PATIENCE, || {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            async move { told.contains("dunlin is running") && told.contains("Dashboard") }
        })
        .await;
        process
    }

    /// Runs a command beside it; it finds the running system by itself.
    fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binary().unwrap());
        // Away from the project, whose own system may be running.
        command.args(arguments).envs(self.environment.iter().map(|(k, v)| (k, v))).current_dir(&self.home);
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        told
    }
}

/// The processes below one, itself not included.
fn children(of: u32) -> Vec<u32> {
    let listed = Command::new("ps").args(["-o", "pid=", "--ppid", &of.to_string()]).output().unwrap();
    let direct: Vec<u32> =
        String::from_utf8(listed.stdout).unwrap().split_whitespace().filter_map(|id| id.parse().ok()).collect();
    direct.iter().flat_map(|id| children(*id)).chain(direct.iter().copied()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_survives_a_restart_and_no_process_does() {
    let home = new_directory().unwrap();
    let dev = Dev::new(&home);
    let mut process = dev.start("first.log").await;
    let before = children(process.id().unwrap());
    assert!(before.len() > 3, "PostgreSQL and nats-server run below it: {before:?}");
    std::fs::write(
        home.join("ledger.csv"),
        "invoice,customer,issue,due,amount,paid\nR-1,C-1,2026-01-05,2026-02-04,120.50,2026-02-01\n",
    )
    .unwrap();
    let told = dev.command(&["import", "ledger.csv", "--merchant", "acme", "--currency", "EUR"]);
    assert!(told.contains("1 rows, 1 new, 0 known already, 0 rejected"), "{told}");
    let story = dev.command(&["explain", "acme/R-1"]);
    process.stop().unwrap();
    let left: Vec<_> = before.iter().filter(|id| Path::new("/proc").join(id.to_string()).exists()).collect();
    assert!(left.is_empty(), "still there: {left:?}");
    assert!(!home.join("dev.yaml").exists(), "commands would look for a system that is gone");

    let mut process = dev.start("second.log").await;
    let told = dev.command(&["import", "ledger.csv", "--merchant", "acme", "--currency", "EUR"]);
    assert!(told.contains("1 rows, 0 new, 1 known already, 0 rejected"), "{told}");
    assert_eq!(dev.command(&["explain", "acme/R-1"]), story);
    process.stop().unwrap();
    std::fs::remove_dir_all(home).unwrap();
}
