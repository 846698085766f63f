//! `dunlin backtest` as somebody at a keyboard meets it: what it prints, what it refuses, and how it exits.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const CAMPAIGN: &str = "\
name: Plain
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 1, spread_minutes: 0 }
steps:
  - { key: first, when: { days_after_due: 3 }, tone: friendly }
  - { key: last, when: { days_after_due: 7 }, tone: final }
";

const LEDGER: &str = "\
Debtor,invoice,issue,due,paid,amount
cus_1,in_1,2026-05-01,2026-06-01,2026-06-05,100.00
cus_1,in_2,2026-05-01,2026-06-01,2026-06-20,100.00
cus_2,in_3,2026-05-01,2026-06-01,2026-05-20,100.00
";

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

struct Desk(PathBuf);

impl Desk {
    fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("backtest-{name}"));
        std::fs::create_dir_all(&directory).unwrap();
        let desk = Self(directory);
        desk.write("new.yaml", CAMPAIGN);
        desk.write("ledger.csv", LEDGER);
        desk
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn backtest(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.arg("backtest").args(arguments).current_dir(&self.0);
        // Whatever runs on this machine is none of its business.
        command.env_remove("DUNLIN_CONFIG").env("HOME", &self.0).env("DUNLIN_HOME", &self.0);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

const PLAIN: [&str; 8] =
    ["--campaign", "new.yaml", "--ledger", "ledger.csv", "--currency", "EUR", "--map", "customer=Debtor"];

fn plain<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&PLAIN, more].concat()
}

#[test]
fn a_ledger_is_counted_and_drawn() {
    let desk = Desk::new("counted");
    desk.write(
        "current.yaml",
        &CAMPAIGN.replace("Plain", "Current").replace("days_after_due: 7", "days_after_due: 30"),
    );
    let said = desk.backtest(&plain(&["--against", "current.yaml", "--output", "json", "--html", "out/report.html"]));
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    let counts = |report: &Value| ["invoices", "reminders", "paid_anyway"].map(|key| report[key].as_u64().unwrap());
    // Both of the first customer on 4 June, one of them again on the 8th.
    assert_eq!(counts(&json["campaign"]), [3, 2, 1]);
    assert_eq!(counts(&json["against"]), [3, 1, 1]);
    assert_eq!(json["differences"][0], "1 more reminders: 2 instead of 1 (+100.0 %)");
    assert!(json["note"].as_str().unwrap().contains("nothing about their effect"));
    let page = std::fs::read_to_string(desk.0.join("out/report.html")).unwrap();
    assert!(page.contains("nothing about their effect") && page.contains("<svg") && !page.contains("<script"));
    assert!(!page.contains("http://") && !page.contains("https://"), "it loads nothing from elsewhere");
    let said = desk.backtest(&plain(&["--time-zone", "Europe/Berlin"]));
    assert!(said.stdout.contains("nothing about their effect"), "{}", said.stdout);
    assert!(said.stdout.contains("days and hours of Europe/Berlin"), "{}", said.stdout);
}

#[test]
fn rows_that_make_no_sense_are_listed_and_strict_refuses_them() {
    let desk = Desk::new("rows");
    let mut ledger = LEDGER.to_owned();
    for n in 0..25 {
        ledger += &format!("cus_3,bad_{n},2026-05-01,2026-13-01,,100.00\n");
    }
    desk.write("ledger.csv", &ledger);
    let said = desk.backtest(&plain(&["--output", "json"]));
    assert_eq!(said.code, 0, "{}", said.stderr);
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&json["rejected"]["rows"], &json["campaign"]["invoices"]), (&25.into(), &3.into()));
    assert!(
        said.stderr.contains(r#"ledger.csv:5: due: "2026-13-01" is no date such as 2026-01-31"#),
        "{}",
        said.stderr
    );
    assert_eq!(said.stderr.lines().count(), 22, "twenty of them, a line before and one after: {}", said.stderr);
    assert!(said.stderr.contains("and 5 more"));
    assert_eq!(desk.backtest(&plain(&["--strict"])).code, 1);
}

#[test]
fn a_campaign_with_faults_says_all_of_them() {
    let desk = Desk::new("faults");
    desk.write("new.yaml", &CAMPAIGN.replace("key: last", "key: first").replace("'09:00'", "'9am'"));
    desk.write("current.yaml", &CAMPAIGN.replace("tone: final", "tone: rude"));
    let said = desk.backtest(&plain(&["--against", "current.yaml"]));
    assert_eq!(said.code, 64, "{}", said.stderr);
    for fault in ["new.yaml:2: contact.from", "new.yaml:5: steps.1.key", "current.yaml:5"] {
        assert!(said.stderr.contains(fault), "{fault} is missing in:\n{}", said.stderr);
    }
}

#[test]
fn wrong_usage_says_what_would_be_right() {
    let desk = Desk::new("usage");
    let said = desk.backtest(&plain(&["--switch-on", "1.6.2026"]));
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains(r#""1.6.2026" is no date such as 2026-01-31"#), "{}", said.stderr);
    assert_eq!(desk.backtest(&["--campaign", "new.yaml"]).code, 2, "which history?");
    let said = desk.backtest(&plain(&["--time-zone", "Berlin"]));
    assert!(said.stderr.contains("is not a time zone such as Europe/Berlin"), "{}", said.stderr);
}
