//! What text messages say, by locale: one small file each, built in, or of the same name in `<config_dir>/sms`.

use super::segments::{count, plain};
use crate::locale;
use events::v1::Tone;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The built-in texts.
const BUILT_IN: [(&str, &str); 10] = [
    ("da", include_str!("../../../templates/sms/da.yaml")),
    ("de", include_str!("../../../templates/sms/de.yaml")),
    ("en", include_str!("../../../templates/sms/en.yaml")),
    ("es", include_str!("../../../templates/sms/es.yaml")),
    ("fr", include_str!("../../../templates/sms/fr.yaml")),
    ("it", include_str!("../../../templates/sms/it.yaml")),
    ("nl", include_str!("../../../templates/sms/nl.yaml")),
    ("pl", include_str!("../../../templates/sms/pl.yaml")),
    ("pt", include_str!("../../../templates/sms/pt.yaml")),
    ("sv", include_str!("../../../templates/sms/sv.yaml")),
];

/// What carriers take for an opt-out everywhere.
const STOP: [&str; 6] = ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT"];
/// What lifts it.
const START: [&str; 2] = ["START", "UNSTOP"];
/// What asks who it is.
const HELP: [&str; 2] = ["HELP", "INFO"];

/// A text for one invoice, and one for several.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    one: String,
    many: String,
}

/// What is said in a locale.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    friendly: Text,
    firm: Text,
    r#final: Text,
    /// Before the link.
    pay: String,
    /// How to get no more.
    opt_out: String,
    /// The answer to HELP.
    help: String,
    /// What means STOP besides the words that do everywhere.
    stop_words: Vec<String>,
    /// What means START.
    start_words: Vec<String>,
}

/// What a message is about.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named as in the files")]
pub struct Says<'a> {
    pub merchant: &'a str,
    pub numbers: &'a [&'a str],
    pub total: &'a str,
    pub link: Option<&'a str>,
    /// Texts that a rule requires.
    pub wording: &'a [&'a str],
    /// The sender can be answered.
    pub can_answer: bool,
}

/// What a payer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyword {
    /// No more messages.
    Stop,
    /// Messages again.
    Start,
    /// To know who it is.
    Help,
}

/// All texts.
#[derive(Debug, Clone)]
pub struct Texts(BTreeMap<String, File>);

impl Texts {
    /// Reads the built-in texts and those of a directory, if it is there. Errors: a file that cannot be read, says something
    /// that is not known, or does not fit into three segments.
    pub fn load(directory: &Path) -> anyhow::Result<Self> {
        let mut sources: BTreeMap<String, String> =
            BUILT_IN.iter().map(|(locale, text)| ((*locale).to_owned(), (*text).to_owned())).collect();
        for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let locale = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".yaml"));
            if let Some(locale) = locale.filter(|locale| !locale.starts_with('.')) {
                sources.insert(locale.to_owned(), std::fs::read_to_string(&path)?);
            }
        }
        let mut texts = BTreeMap::new();
        for (locale, source) in sources {
            let file: File = serde_saphyr::from_str(&source).map_err(|e| anyhow::anyhow!("sms/{locale}.yaml: {e}"))?;
            file.check().map_err(|problem| anyhow::anyhow!("sms/{locale}.yaml: {problem}"))?;
            texts.insert(locale, file);
        }
        Ok(Self(texts))
    }

    /// The text for a payer, in the payer's locale, the merchant's, or English. It has no ornaments that cost.
    pub fn render(&self, tone: Tone, payer: &str, merchant: &str, says: &Says<'_>) -> Option<String> {
        Some(self.choose(payer, merchant)?.render(tone, says))
    }

    /// The locale that a payer is written to in.
    pub fn locale(&self, payer: &str, merchant: &str) -> &str {
        let all: Vec<_> = self.0.keys().collect();
        locale::choose(&[payer, merchant, "en"], &all, |locale| locale).map_or("en", |locale| locale.as_str())
    }

    /// The answer to HELP.
    pub fn help(&self, merchant_locale: &str, merchant: &str) -> String {
        let help = self.choose("", merchant_locale).map(|file| file.help.replace("{merchant}", merchant));
        help.unwrap_or_default()
    }

    fn choose(&self, payer: &str, merchant: &str) -> Option<&File> {
        let all: Vec<_> = self.0.iter().collect();
        locale::choose(&[payer, merchant, "en"], &all, |(locale, _)| locale).map(|(_, file)| *file)
    }

    /// What a payer's message asks for, in whatever language: only if it says nothing else.
    pub fn keyword(&self, body: &str) -> Option<Keyword> {
        let word = body.trim().trim_matches(|c: char| c.is_ascii_punctuation()).to_uppercase();
        let is_one = |known: &[&str], own: fn(&File) -> &Vec<String>| {
            known.contains(&word.as_str()) || self.0.values().flat_map(own).any(|w| w.to_uppercase() == word)
        };
        if is_one(&STOP, |file| &file.stop_words) {
            Some(Keyword::Stop)
        } else if is_one(&START, |file| &file.start_words) {
            Some(Keyword::Start)
        } else {
            HELP.contains(&word.as_str()).then_some(Keyword::Help)
        }
    }
}

impl File {
    fn render(&self, tone: Tone, says: &Says<'_>) -> String {
        let text = match tone {
            Tone::Firm => &self.firm,
            Tone::Final => &self.r#final,
            Tone::Friendly | Tone::Unspecified => &self.friendly,
        };
        let text = if says.numbers.len() > 1 { &text.many } else { &text.one };
        let numbers = says.numbers.join(", ");
        let about = fill(
            text,
            &[
                ("{merchant}", says.merchant),
                ("{numbers}", &numbers),
                ("{total}", says.total),
                ("{count}", &says.numbers.len().to_string()),
            ],
        );
        let pay = says.link.map(|link| fill(&self.pay, &[("{link}", link)]));
        let opt_out = says.can_answer.then(|| self.opt_out.clone());
        let wording = says.wording.iter().map(|text| (*text).to_owned());
        let parts: Vec<String> = std::iter::once(about).chain(pay).chain(wording).chain(opt_out).collect();
        plain(&parts.join(" ").split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Whether a message of usual size fits, and every placeholder is one.
    fn check(&self) -> Result<(), String> {
        const LINK: &str =
            "https://pay.example.com/p/0123456789012345678901234567890123456789012345678901234567890123456789";
        for (tone, name) in [(Tone::Friendly, "friendly"), (Tone::Firm, "firm"), (Tone::Final, "final")] {
            for numbers in [&["R-2026-0042"][..], &["R-2026-0042", "R-2026-0043"]] {
                let says = Says {
                    merchant: "Example Company Ltd",
                    numbers,
                    total: "€12,345.67",
                    link: Some(LINK),
                    wording: &[],
                    can_answer: true,
                };
                let text = self.render(tone, &says);
                if let Some(place) = text.find('{') {
                    let unknown = text.get(place..).and_then(|rest| rest.split_inclusive('}').next()).unwrap_or("{");
                    return Err(format!("{name}: {unknown} is no placeholder"));
                }
                let segments = count(&text);
                if segments.count > 3 {
                    let alphabet = if segments.ucs2 { ", since a character is not in the GSM alphabet" } else { "" };
                    return Err(format!("{name}: takes {} segments{alphabet}; 3 is the most", segments.count));
                }
            }
        }
        let has = |key: &str, text: &str, placeholder: &str| {
            text.contains(placeholder).then_some(()).ok_or_else(|| format!("{key}: lacks {placeholder}"))
        };
        has("pay", &self.pay, "{link}")?;
        has("help", &self.help, "{merchant}")?;
        has("opt_out", &self.opt_out, "STOP")
    }
}

/// Fills placeholders in one pass: what is filled in is not looked at again.
fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(place) = rest.find('{') {
        let (before, after) = rest.split_at(place);
        filled += before;
        match values.iter().find(|(name, _)| after.starts_with(name)) {
            Some((name, value)) => {
                filled += value;
                rest = after.strip_prefix(name).unwrap_or_default();
            }
            None => {
                filled.push('{');
                rest = after.strip_prefix('{').unwrap_or_default();
            }
        }
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts {
        Texts::load(Path::new("/nowhere")).unwrap()
    }

    fn says<'a>(numbers: &'a [&'a str]) -> Says<'a> {
        Says {
            merchant: "Acme {total}",
            numbers,
            total: "€5.00",
            link: Some("https://pay/x"),
            wording: &["Law."],
            can_answer: true,
        }
    }

    #[test]
    fn messages_say_who_what_how_much_and_how() {
        let render = |payer, numbers: &[&str]| texts().render(Tone::Firm, payer, "en", &says(numbers)).unwrap();
        assert_eq!(
            render("de-AT", &["R-1"]),
            "Acme {total}: Rechnung R-1 über €5.00 ist überfällig. Bitte zahlen Sie jetzt, oder sagen Sie uns, was \
             dagegen spricht. Zahlen: https://pay/x Law. Keine SMS mehr: STOP antworten.",
            "what is filled in is text"
        );
        assert!(render("xx", &["R-1", "R-2"]).starts_with("Acme {total}: 2 invoices over €5.00"));
        let name_only = Says { can_answer: false, link: None, wording: &[], ..says(&["R-1"]) };
        let text = texts().render(Tone::Friendly, "fr", "en", &name_only).unwrap();
        assert_eq!(text, "Acme {total} : la facture R-1 de €5.00 reste à payer. Un simple oubli ?");
    }

    #[test]
    fn all_that_are_shipped_are_in_the_gsm_alphabet() {
        let texts = texts();
        assert_eq!(texts.0.len(), 10);
        for (locale, file) in &texts.0 {
            for tone in [Tone::Friendly, Tone::Firm, Tone::Final] {
                for numbers in [&["R-1"][..], &["R-1", "R-2"]] {
                    let text = file.render(tone, &Says { wording: &[], ..says(numbers) });
                    assert!(!count(&text).ucs2, "{locale}: {text}");
                }
            }
        }
    }

    #[test]
    fn keywords_are_known_in_every_language_and_alone() {
        let texts = texts();
        for word in ["STOP", " stop. ", "StopAll", "unsubscribe", "CANCEL", "end", "Quit", "Abmelden", "arrêt", "BAJA"]
        {
            assert_eq!(texts.keyword(word), Some(Keyword::Stop), "{word}");
        }
        assert_eq!(texts.keyword("start"), Some(Keyword::Start));
        assert_eq!(texts.keyword("Help?"), Some(Keyword::Help));
        for other in ["please stop calling me at work", "I paid on Monday", ""] {
            assert_eq!(texts.keyword(other), None, "{other}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let broken = |from: &str, to: &str| {
            let source = include_str!("../../../templates/sms/en.yaml").replace(from, to);
            let file: File = serde_saphyr::from_str(&source).unwrap();
            file.check().unwrap_err()
        };
        assert_eq!(broken("{count} invoices over", "{n} invoices over"), "friendly: {n} is no placeholder");
        assert_eq!(broken("Pay: {link}", "Pay!"), "pay: lacks {link}");
        let long = broken("Reply STOP to get no more texts.\"\nhelp", &format!("STOP {}\"\nhelp", "ł".repeat(200)));
        assert!(long.ends_with("since a character is not in the GSM alphabet; 3 is the most"), "{long}");
    }
}
