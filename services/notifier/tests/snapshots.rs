//! What payers read, in every language, as it was when somebody last looked at it.
//!
//! After a change that is meant, `UPDATE_SNAPSHOTS=1 cargo nextest run -p notifier --test snapshots` writes the files anew;
//! look at the difference, and at `dunlin template preview`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use kernel::Masked;
use notifier::kept::Kept;
use notifier::render::{Rendered, Templates};
use notifier::sample::{About, Sample};
use notifier::stationery::Stationery;
use runtime::Merchant;
use runtime::merchant::DkimKey;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

struct Writer {
    templates: Templates,
    merchant: Merchant,
    stationery: Stationery,
}

impl Writer {
    fn new() -> Self {
        let mut merchant = testkit::system::merchant("acme", "Europe/Berlin").unwrap();
        merchant.file.name = "Acme Office Supplies".to_owned();
        merchant.file.sender.name = "Anna Becker".to_owned();
        merchant.file.brand.footer = "Acme Office Supplies GmbH, Berlin\nHRB 12345 B".to_owned();
        merchant.file.sender.dkim = [("rsa", include_str!("dkim/rsa.pem")), ("ed", include_str!("dkim/ed25519.pem"))]
            .map(|(selector, key)| DkimKey {
                domain: "acme.example".to_owned(),
                selector: selector.to_owned(),
                private_key: Masked::new(key.to_owned()),
            })
            .to_vec();
        merchant.file.brand.calendar_entry = true;
        let templates = Templates::load(Path::new("built-in only")).unwrap();
        let (stationery, problems) = Stationery::load(Path::new("."), &merchant).unwrap();
        assert!(problems.is_empty());
        Self { templates, merchant, stationery }
    }

    fn say(&self, name: &str, locale: &str, about: About) -> Rendered {
        let sample = Sample::new(&self.merchant, name, locale, about).unwrap();
        sample.with(&self.merchant, &self.stationery, &[], |input| self.templates.say(&input)).unwrap()
    }
}

#[test]
fn messages_are_as_they_were() {
    let writer = Writer::new();
    let set = writer.templates.of("acme");
    let mut files = BTreeMap::new();
    for voice in set.voices() {
        let mut texts = String::new();
        for name in set.names() {
            for (about, of) in [(About::One, "one invoice"), (About::Three, "three invoices")] {
                let said = writer.say(name, &voice.locale, about);
                writeln!(texts, "##### {name}, {of}\n{}\n\n{}", said.subject, said.text).unwrap();
            }
        }
        files.insert(format!("{}.txt", voice.locale), texts);
        files.insert(format!("{}.html", voice.locale), writer.say("final", &voice.locale, About::Three).html);
    }
    for name in set.names() {
        files.insert(format!("en-{name}.html"), writer.say(name, "en", About::One).html);
    }
    // Whole messages, as they go to the mail server: signed twice, and with a calendar entry where the date lies ahead.
    for (name, locale) in [("firm", "fr"), ("upcoming", "en")] {
        let sample = Sample::new(&writer.merchant, name, locale, About::Three).unwrap();
        let whole = sample.with(&writer.merchant, &writer.stationery, &[], |input| writer.templates.render(input));
        let (whole, pattern) = whole.unwrap();
        // What is left are mostly links, signatures and the calendar entry, which are like nothing else.
        let kept = Kept::with(&whole, pattern).stored().len();
        assert!(kept * 3 < whole.len(), "{kept} bytes are kept of {}", whole.len());
        let whole = String::from_utf8(whole).unwrap().replace("\r\n", "\n");
        files.insert(format!("{locale}-{name}.eml"), whole);
    }

    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        let _ = std::fs::remove_dir_all(directory());
        std::fs::create_dir_all(directory()).unwrap();
        for (name, text) in &files {
            std::fs::write(directory().join(name), text).unwrap();
        }
    }
    let there: BTreeMap<String, String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap()))
        .collect();
    assert_eq!(there.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>(), "one file for each");
    for (name, text) in &files {
        let first = there[name].lines().zip(text.lines()).find(|(before, now)| before != now);
        assert!(there[name] == *text, "{name} is not as it was: {first:#?}");
    }
}
