//! `dunlin campaign check` over directories, and the example campaigns.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use dunlin::commands::campaign::check;
use std::path::{Path, PathBuf};

const TODAY: &str = "2026-11-20";

/// A configuration directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dunlin-{name}-{}", std::process::id()));
        for kind in ["campaigns", "merchants"] {
            std::fs::create_dir_all(path.join(kind)).unwrap();
        }
        Self(path)
    }

    fn merchant(&self, id: &str, rest: &str) {
        let text = format!("name: {id}\ntime_zone: Europe/Berlin\nsender: {{ name: A, email: a@b.example }}\n{rest}");
        std::fs::write(self.0.join(format!("merchants/{id}.yaml")), text).unwrap();
    }

    fn findings(&self) -> Vec<String> {
        let found = serde_json::to_value(check(&self.0, TODAY.parse().unwrap())).unwrap();
        let text = |line: &serde_json::Value, key: &str| line[key].to_string().trim_matches('"').to_owned();
        let say = |line: &serde_json::Value| {
            let file = text(line, "file");
            let file = Path::new(&file).file_name().unwrap().to_str().unwrap().to_owned();
            format!("{file}:{}: {}: {}", text(line, "line"), text(line, "severity"), text(line, "path"))
        };
        found.as_array().unwrap().iter().map(say).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

#[test]
fn the_examples_are_complete_and_nothing_is_to_be_said_against_them() {
    let directory = Directory::new("examples");
    let mut names = Vec::new();
    let examples = std::fs::read_dir(config().join("examples/campaigns")).unwrap().map(|entry| entry.unwrap().path());
    for path in examples.chain([config().join("campaigns/adaptive.yaml")]) {
        let text = std::fs::read_to_string(&path).unwrap();
        let schema = text.lines().next().and_then(|line| line.strip_prefix("# yaml-language-server: $schema="));
        assert!(path.parent().unwrap().join(schema.unwrap()).is_file(), "{}: editors find the schema", path.display());
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        std::fs::write(directory.0.join("campaigns").join(path.file_name().unwrap()), text).unwrap();
    }
    names.sort();
    assert_eq!(names, ["adaptive", "consumer-subscription", "gentle-b2b", "strict-interest"]);
    // In the order that a merchant would list them in: the strict one before the gentle one, the one for all last.
    let order = "campaigns: [strict-interest, gentle-b2b, consumer-subscription, adaptive]";
    // 32 bytes of x.
    let secret = "whsec_eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=";
    let webhook = format!("webhook: {{ url: 'https://acme.example/dunlin', signing_secret: {secret} }}");
    for country in ["DE", "FR", "GB", "NL", "US"] {
        directory.merchant("acme", &format!("{order}\ncountry: {country}\n{webhook}\n"));
        assert_eq!(directory.findings(), Vec::<String>::new(), "{country}");
    }
}

#[test]
fn all_faults_of_all_files_come_with_their_lines() {
    let directory = Directory::new("faults");
    let campaign = "
name: main
contact: { weekdays: [mon], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 5 }
steps:
  - key: a
    when: { days_after_due: 3 }
    tone: friendly
    ends_with: stop
  - key: b
    when: { days_after_due: 9 }
    tone: firm
    template: rude
";
    std::fs::write(directory.0.join("campaigns/main.yaml"), campaign).unwrap();
    std::fs::write(directory.0.join("campaigns/broken.yaml"), campaign.replace("'18:00'", "'08:00'")).unwrap();
    directory.merchant("acme", "campaigns: [main, broken, gone]\nlocale: cs\n");
    directory.merchant("lost", "campaigns: [main, main]\n");
    assert_eq!(
        directory.findings(),
        [
            "broken.yaml:3: fault: contact.to",
            "main.yaml:7: warning: steps.0.tone",
            "main.yaml:10: warning: steps.1.when",
            "main.yaml:12: fault: steps.1.template",
            "acme.yaml:4: fault: campaigns.2",
            "lost.yaml:4: warning: campaigns.1",
        ]
    );
}
