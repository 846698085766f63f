//! What is wrong with messages before anybody gets one: every template in every language, filled with samples.

use crate::locale;
use crate::message::Letter;
use crate::render::Rendered;
use crate::sample::{About, Sample};
use crate::stationery::{Stationery, contrast};
use crate::templates::{Set, Templates};
use runtime::{Merchant, Merchants};
use std::collections::BTreeSet;
use std::path::Path;

/// Longer subjects are cut off in lists of messages.
const MAX_SUBJECT: usize = 78;
/// Gmail hides what is beyond.
const MAX_HTML: usize = 102 * 1_000;
/// WCAG 2.2, 1.4.3 (AA).
const MIN_CONTRAST: f64 = 4.5;
/// WCAG 2.2, 1.4.11: of something that is not text.
const MIN_CONTRAST_OF_THINGS: f64 = 3.0;

/// Something to be said about messages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where: a merchant, a template, a locale.
    pub about: String,
    /// Messages should not go out like this; otherwise it is a warning.
    pub fault: bool,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Checks all messages of all merchants. What cannot be compiled is told by [`Templates::load`] already.
pub fn check(config_dir: &Path, templates: &Templates, merchants: &Merchants) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    for owner in templates.owners().filter(|owner| merchants.by_name(owner).is_none()) {
        let reason = "there is no such merchant: nobody uses these files".to_owned();
        findings.insert(Finding { about: format!("templates/{owner}"), fault: true, reason });
    }
    for merchant in merchants.iter() {
        let mut told = |what: &str, fault: bool, reason: String| {
            findings.insert(Finding { about: format!("merchant {}: {what}", merchant.id), fault, reason });
        };
        let stationery = match Stationery::load(config_dir, merchant) {
            Ok((stationery, problems)) => {
                problems.into_iter().for_each(|problem| told(&problem.key, true, problem.reason));
                stationery
            }
            Err(problems) => {
                problems.into_iter().for_each(|problem| told(&problem.key, true, problem.reason));
                continue;
            }
        };
        if let Some(rgb) = merchant.file.brand.rgb()
            && contrast(rgb, [255; 3]) < MIN_CONTRAST_OF_THINGS
        {
            let reason = "can hardly be told from the white around the button: take a darker one".to_owned();
            told("brand.colour", false, reason);
        }
        let set = templates.of(merchant.id.as_str());
        check_locale(set, merchant, &mut told);
        check_messages(templates, set, merchant, &stationery, &mut told);
    }
    findings.into_iter().collect()
}

type Tell<'a> = &'a mut dyn FnMut(&str, bool, String);

fn check_locale(set: &Set, merchant: &Merchant, told: Tell<'_>) {
    let wanted = &merchant.file.locale;
    let speaks = |locale: &str| locale::same(locale::language(locale), locale::language(wanted));
    if !set.voices().iter().any(|voice| speaks(&voice.locale)) {
        told("locale", false, format!("there is no {wanted}.yaml in templates: messages will be in English"));
    }
    for (name, voice) in set.names().flat_map(|name| set.voices().iter().map(move |voice| (name, voice))) {
        let spoken = set.text(name, &voice.locale, "").map_or("", |(text, _)| text.locale.as_str());
        if !spoken.is_empty() && !locale::same(locale::language(spoken), locale::language(&voice.locale)) {
            let reason = format!("there is no text: add {name}.{0}.subject and {name}.{0}.opening", voice.locale);
            told(&format!("{name} in {}", voice.locale), false, reason);
        }
    }
}

fn check_messages(templates: &Templates, set: &Set, merchant: &Merchant, stationery: &Stationery, told: Tell<'_>) {
    let names: Vec<&str> = set.names().collect();
    for voice in set.voices() {
        for name in &names {
            for about in [About::One, About::Three] {
                let what = format!("{name} in {}", voice.locale);
                let Some(sample) = Sample::new(merchant, name, &voice.locale, about) else { continue };
                match sample.with(merchant, stationery, &[], |input| templates.say(&input)) {
                    Ok(said) => {
                        check_message(&said, told, &what);
                        banned(&said, &voice.catalogue.banned, &merchant.file.name, told, &what);
                    }
                    Err(problem) => told(&what, true, problem.to_string()),
                }
            }
        }
    }
}

fn check_message(said: &Rendered, told: Tell<'_>, what: &str) {
    let length = said.subject.chars().count();
    if said.subject.is_empty() {
        told(what, true, "the subject is empty".to_owned());
    }
    if length > MAX_SUBJECT {
        told(
            what,
            false,
            format!("the subject has {length} characters; after {MAX_SUBJECT} it is cut off: {}", said.subject),
        );
    }
    let size = Letter::html_size(&said.html);
    if size > MAX_HTML {
        told(what, true, format!("the HTML has {size} bytes; Gmail hides what is beyond {MAX_HTML}"));
    }
    // Who reads the text only must not know less.
    for (part, body) in [("text", &said.text), ("HTML", &said.html)] {
        for (needed, text) in [
            ("link to pay", "https://pay.example.com/"),
            ("way to unsubscribe", "/u/"),
            ("number of an invoice", "2026-0429"),
        ] {
            if !body.contains(text) {
                told(what, true, format!("there is no {needed} in the {part}"));
            }
        }
    }
    if said.html.match_indices("<img").any(|(at, _)| !tag(&said.html, at).contains("alt=")) {
        told(what, true, "an image has no text in its place (alt)".to_owned());
    }
    let styles = said.html.split("<style").skip(1).filter_map(|rest| rest.split("</style>").next());
    if styles.into_iter().any(|style| !style.is_ascii()) {
        told(what, true, "a style has characters beyond ASCII: write them as \\2192 and the like".to_owned());
    }
    for (text, background) in colours(&said.html) {
        let contrast = contrast(text, background);
        if contrast < MIN_CONTRAST {
            let hex = |[r, g, b]: [u8; 3]| format!("#{r:02x}{g:02x}{b:02x}");
            let (text, background) = (hex(text), hex(background));
            told(
                what,
                true,
                format!("{text} on {background} has a contrast of {contrast:.1}; {MIN_CONTRAST} can be read"),
            );
        }
    }
}

fn tag(html: &str, at: usize) -> &str {
    html.get(at..).and_then(|rest| rest.split('>').next()).unwrap_or_default()
}

/// The colours of texts, each with what it stands on: the style's own background, else white.
fn colours(html: &str) -> BTreeSet<([u8; 3], [u8; 3])> {
    let styles = html.split("style=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let pair = |style: &str| {
        let of = |property: &str| {
            let declarations = style.split(';').filter_map(|declaration| declaration.split_once(':'));
            let mut values = declarations.filter(|(name, _)| name.trim() == property).map(|(_, value)| value.trim());
            values.find_map(rgb)
        };
        // What is not seen need not be read: the preview line.
        let hidden = style.contains("display:none");
        let text = of("color").filter(|_| !hidden)?;
        Some((text, of("background-color").or_else(|| of("background")).unwrap_or([255; 3])))
    };
    styles.filter_map(pair).collect()
}

fn rgb(value: &str) -> Option<[u8; 3]> {
    let colour = value.to_owned();
    runtime::merchant::Brand { colour, ..Default::default() }.rgb()
}

/// Words that no reminder contains: the name of the merchant may.
fn banned(said: &Rendered, lists: &[Vec<String>], merchant: &str, told: Tell<'_>, what: &str) {
    let text = format!("{}\n{}", said.subject, said.text).replace(merchant, "").to_lowercase();
    for list in lists {
        let Some((kind, words)) = list.split_first() else { continue };
        for word in words.iter().filter(|word| contains(&text, &word.to_lowercase())) {
            told(what, true, format!("says {word:?}: a reminder is no place for a {kind}"));
        }
    }
}

/// Whether a text has a word, or, with a star at its end, one that begins so. Both in lower case.
fn contains(text: &str, word: &str) -> bool {
    let (stem, open) = word.strip_suffix('*').map_or((word, false), |stem| (stem, true));
    text.match_indices(stem).any(|(at, found)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + found.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(char::is_alphanumeric) && (open || !after.is_some_and(char::is_alphanumeric))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_or_by_their_beginning() {
        assert!(contains("wir gehen vor gericht.", "gericht*") && contains("gerichtlich", "gericht*"));
        assert!(!contains("das mittagsgericht", "gericht*"));
        assert!(contains("we sue you", "sue") && !contains("an issue", "sue") && !contains("sued", "sue"));
    }
}
