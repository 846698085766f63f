//! What is wrong with messages is found before anybody gets one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use notifier::check::check;
use notifier::render::Templates;
use runtime::{Merchant, Merchants};
use std::path::PathBuf;

/// A configuration directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("dunlin-check-{}", kernel::id::new(&kernel::SystemClock)));
        std::fs::create_dir_all(path.join("templates/acme")).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join("templates").join(file), text).unwrap();
    }

    /// All faults and warnings, about one merchant.
    fn findings(&self, change: impl FnOnce(&mut Merchant)) -> Vec<String> {
        let mut merchant = testkit::system::merchant("acme", "Europe/Berlin").unwrap();
        change(&mut merchant);
        let mut merchants = Merchants::default();
        merchants.insert(merchant);
        let templates = Templates::load(&self.0.join("templates")).unwrap();
        let told = |f: notifier::check::Finding| {
            format!("{}: {}: {}", f.about, if f.fault { "fault" } else { "warning" }, f.reason)
        };
        check(&self.0, &templates, &merchants).into_iter().map(told).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn nothing_is_to_be_said_against_what_is_built_in() {
    assert_eq!(Directory::new().findings(|_| {}), [] as [String; 0]);
}

#[test]
fn texts_are_checked_in_every_language() {
    let directory = Directory::new();
    directory.write("nudge.subject", &format!("{} {{{{ number }}}}", "n".repeat(90)));
    directory.write("nudge.opening", "A special offer!");
    directory.write("shove.en.subject", "Shove");
    directory.write("shove.en.opening", "Invoice {{ number }}");
    directory.write("nudge.de.subject", "Letzte Warnung");
    directory.write("nudge.de.opening", "Sonst gehen wir vor Gericht. Das ist kein Gerichtsstand.");
    let findings = directory.findings(|merchant| merchant.file.locale = "cs".to_owned());
    for expected in [
        "merchant acme: nudge in en: warning: the subject has 100 characters",
        "merchant acme: nudge in en: fault: says \"special offer\": a reminder is no place for a promotion",
        "merchant acme: nudge in de: fault: says \"Gericht*\": a reminder is no place for a threat",
        "merchant acme: shove in fr: warning: there is no text: add shove.fr.subject and shove.fr.opening",
        "merchant acme: locale: warning: there is no cs.yaml in templates: messages will be in English",
    ] {
        assert!(
            findings.iter().any(|finding| finding.starts_with(expected)),
            "{expected:?} is missing in {findings:#?}"
        );
    }
}

#[test]
fn bodies_are_checked() {
    let directory = Directory::new();
    directory.write(
        "acme/body.html",
        "<style>p::after{content:'→'}</style><p style=\"color:#bbbbbb\">{{ subject }} {{ wording[0].text if wording else '' }}</p>
         <img src=\"https://acme.example/x.png\"><p style=\"color:#ffffff;background-color:#12513f\">{{ pay_url }}</p>",
    );
    let findings = directory.findings(|_| {});
    for expected in [
        "merchant acme: firm in en: fault: #bbbbbb on #ffffff has a contrast of 1.9; 4.5 can be read",
        "merchant acme: firm in en: fault: an image has no text in its place (alt)",
        "merchant acme: firm in en: fault: a style has characters beyond ASCII",
        "merchant acme: firm in en: fault: there is no way to unsubscribe in the HTML",
    ] {
        assert!(
            findings.iter().any(|finding| finding.starts_with(expected)),
            "{expected:?} is missing in {findings:#?}"
        );
    }
    assert!(!findings.iter().any(|finding| finding.contains("#12513f")), "white on green can be read: {findings:#?}");

    directory
        .write("acme/body.html", &format!("{{{{ wording[0].text if wording else '' }}}}{}", "<p>x</p>".repeat(13_000)));
    let findings = directory.findings(|_| {});
    assert!(findings.iter().any(|f| f.contains("the HTML has 108")), "{findings:#?}");
}

#[test]
fn brands_are_checked() {
    let directory = Directory::new();
    let huge = std::fs::File::create(directory.0.join("logo.png")).unwrap();
    huge.set_len(40 * 1_024 * 1_024).unwrap();
    std::fs::create_dir(directory.0.join("templates/globex")).unwrap();
    directory.write("globex/nudge.subject", "s");
    let findings = directory.findings(|merchant| {
        merchant.file.brand.logo = Some("logo.png".to_owned());
        merchant.file.brand.colour = "#fff0f0".to_owned();
        merchant.file.sender.dkim = vec![runtime::merchant::DkimKey {
            domain: "acme.example".to_owned(),
            selector: "s".to_owned(),
            private_key: kernel::Masked::new("secret".to_owned()),
        }];
    });
    assert_eq!(
        findings,
        [
            "merchant acme: sender.dkim.0.private_key: fault: is no private key in PEM",
            "templates/globex: fault: there is no such merchant: nobody uses these files",
        ]
    );
    let findings = directory.findings(|merchant| {
        merchant.file.brand.logo = Some("logo.png".to_owned());
        merchant.file.brand.colour = "#fff0f0".to_owned();
    });
    assert_eq!(
        findings[0],
        "merchant acme: brand.colour: warning: can hardly be told from the white around the button: take a darker one"
    );
    assert!(findings[1].ends_with("logo.png has 41943040 bytes; at most 65536 travel with a message"), "{findings:#?}");
}
