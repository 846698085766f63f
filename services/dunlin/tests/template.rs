//! `dunlin template`, as people call it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A configuration directory with its settings file; goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("template");
        let _ = std::fs::remove_dir_all(&path);
        let directory = Self(path);
        directory.write("dunlin.yaml", "config_dir: config\n");
        let merchant = "name: Acme\ntime_zone: Europe/Berlin\nsender: { name: Anna, email: anna@acme.example }\n";
        directory.write("config/merchants/acme.yaml", merchant);
        directory
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.current_dir(&self.0).args(["--config", "dunlin.yaml", "template"]).args(arguments);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
        (status.code().unwrap(), text)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn messages_are_checked_and_shown() {
    let directory = Directory::new();
    assert_eq!(directory.run(&["check", "--strict"]), (0, "0 faults, 0 warnings\n".to_owned()));
    let (code, text) = directory.run(&["preview", "--out", "look"]);
    assert_eq!((code, text.as_str()), (0, "168 messages of acme: open look/index.html\n"));
    for (file, expected) in [
        ("index.html", "en.html"),
        ("pl.html", "pl-final-three.dark.html"),
        ("fr-firm.txt", "Bonjour Ada Lovelace"),
        ("de-final.html", "Jetzt bezahlen"),
    ] {
        let text = std::fs::read_to_string(directory.0.join("look").join(file)).unwrap();
        assert!(text.contains(expected), "{expected:?} is missing in {file}");
    }

    directory.write("config/templates/nudge.subject", "N");
    directory.write("config/templates/nudge.opening", "Invoice {{ number }}. We will sue you.");
    let (code, text) = directory.run(&["check"]);
    assert_eq!(code, 64, "{text}");
    assert!(
        text.contains("merchant acme: nudge in en: fault: says \"sue\": a reminder is no place for a threat"),
        "{text}"
    );

    directory.write("config/templates/nudge.opening", "{{ no_such_word }}");
    let (code, text) = directory.run(&["check"]);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("templates: fault: nudge.opening: "), "{text}");

    let long = format!("N {}", "n".repeat(80));
    directory.write("config/templates/nudge.subject", &long);
    directory.write("config/templates/nudge.opening", "Invoice {{ number }}.");
    assert_eq!((directory.run(&["check"]).0, directory.run(&["check", "--strict"]).0), (0, 1), "a warning");
}
