//! What messages say in each language: one YAML file per locale, for all templates and all labels.
//!
//! A file adds to what stands below it, key by key: `de-AT.yaml` to `de.yaml`, and a merchant's to the built-in one of the
//! same locale. Where a text depends on a number it is a map of CLDR's plural categories.

use jiff::civil::Date;
use kernel::Money;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::LazyLock;

/// The built-in files by locale.
pub const BUILT_IN: [(&str, &str); 14] = [
    ("da", include_str!("../locales/da.yaml")),
    ("de", include_str!("../locales/de.yaml")),
    ("de-AT", include_str!("../locales/de-AT.yaml")),
    ("de-CH", include_str!("../locales/de-CH.yaml")),
    ("en", include_str!("../locales/en.yaml")),
    ("en-US", include_str!("../locales/en-US.yaml")),
    ("es", include_str!("../locales/es.yaml")),
    ("fr", include_str!("../locales/fr.yaml")),
    ("it", include_str!("../locales/it.yaml")),
    ("nl", include_str!("../locales/nl.yaml")),
    ("pl", include_str!("../locales/pl.yaml")),
    ("pt", include_str!("../locales/pt.yaml")),
    ("pt-BR", include_str!("../locales/pt-BR.yaml")),
    ("sv", include_str!("../locales/sv.yaml")),
];

/// The texts that the code prints by itself, whatever the body says.
pub const CHARGES: [&str; 4] = ["interest", "fixed_sum", "reminder_fee", "charge"];

static PARSED: LazyLock<BTreeMap<&'static str, Catalogue>> = LazyLock::new(|| {
    // A test parses each of them.
    BUILT_IN.iter().filter_map(|(locale, text)| Some((*locale, Catalogue::parse(text).ok()?))).collect()
});

/// What is built in for a locale.
pub fn built_in(locale: &str) -> Option<&'static Catalogue> {
    PARSED.get(locale)
}

/// A file of texts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catalogue {
    /// How dates and amounts are written.
    pub format: Format,
    /// Texts by key, for `[[key]]` in the bodies.
    pub texts: BTreeMap<String, Text>,
    /// Subject and opening of each template.
    pub templates: BTreeMap<String, Template>,
    /// Words that no text may contain; see [`crate::check`]. The first of each list says what they are.
    pub banned: Vec<Vec<String>>,
}

/// Subject and opening of a template.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// One line.
    pub subject: Text,
    /// Paragraphs, with empty lines between them.
    pub opening: Text,
}

/// A text, or one for each plural category.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// The same for every number.
    Plain(String),
    /// By the number that it depends on: of invoices, unless the key says otherwise.
    Plural(BTreeMap<Plural, String>),
}

/// CLDR's plural categories, as far as the languages here have them for whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plural {
    /// `1 invoice`.
    One,
    /// `2 faktury`.
    Few,
    /// `5 faktur`.
    Many,
    /// All else.
    Other,
}

impl Plural {
    /// The category of a number in a language.
    ///
    /// CLDR's rules for whole numbers below a million: all of the built-in languages but Polish count as English does;
    /// French and Portuguese would say "one" of zero too, which is never asked for.
    pub fn of(locale: &str, n: usize) -> Self {
        let polish = crate::locale::language(locale).eq_ignore_ascii_case("pl");
        match (n, n % 10, n % 100) {
            (1, ..) => Self::One,
            (_, 2..=4, tens) if polish && !(12..=14).contains(&tens) => Self::Few,
            _ if polish => Self::Many,
            _ => Self::Other,
        }
    }

    /// As written in files and seen by templates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Few => "few",
            Self::Many => "many",
            Self::Other => "other",
        }
    }
}

impl Catalogue {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
    }

    /// This with another file on top of it.
    pub fn with(&self, above: &Self) -> Self {
        let mut all = self.clone();
        all.format = all.format.with(&above.format);
        all.texts.extend(above.texts.clone());
        all.templates.extend(above.templates.clone());
        if !above.banned.is_empty() {
            all.banned.clone_from(&above.banned);
        }
        all
    }

    /// A text that does not depend on anything.
    pub fn plain(&self, key: &str) -> &str {
        match self.texts.get(key) {
            Some(Text::Plain(text)) => text,
            _ => "",
        }
    }

    /// A body with `[[key]]` replaced by the text of that key, and by its choice of plural where it has one.
    pub fn fill(&self, body: &str, html: bool) -> Result<String, String> {
        let mut filled = String::with_capacity(body.len() + 1_024);
        let mut rest = body;
        while let Some((before, after)) = rest.split_once("[[") {
            let (key, after) = after.split_once("]]").ok_or("a [[ has no ]]")?;
            let text = self.texts.get(key).ok_or_else(|| format!("there is no text {key:?}"))?;
            let number = if key == "more" { "more.plural" } else { "plural" };
            filled.push_str(before);
            filled.push_str(&text.source(number, html)?);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

impl Text {
    /// The source of a template that says this. `number`: the variable that holds the plural category. In HTML what stands
    /// outside of the engine's braces is escaped.
    pub fn source(&self, number: &str, html: bool) -> Result<String, String> {
        let escaped = |text: &str| if html { escape(text) } else { text.to_owned() };
        let forms = match self {
            Self::Plain(text) => return Ok(escaped(text)),
            Self::Plural(forms) => forms,
        };
        let other = forms.get(&Plural::Other).ok_or("has no form \"other\"")?;
        let mut source = String::new();
        for (category, text) in forms.iter().filter(|(category, _)| **category != Plural::Other) {
            let word = if source.is_empty() { "if" } else { "elif" };
            let _ = write!(source, "{{% {word} {number} == \"{}\" %}}{}", category.as_str(), escaped(text));
        }
        if source.is_empty() {
            return Ok(escaped(other));
        }
        let _ = write!(source, "{{% else %}}{}{{% endif %}}", escaped(other));
        Ok(source)
    }

    /// All forms.
    pub fn forms(&self) -> Vec<&str> {
        match self {
            Self::Plain(text) => vec![text],
            Self::Plural(forms) => forms.values().map(String::as_str).collect(),
        }
    }
}

/// Escapes what stands outside of `{{ }}` and `{% %}`: expressions are the engine's, which escapes what they give.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (before, code) = rest.split_at(start);
        let end = code.find("}}").into_iter().chain(code.find("%}")).min().map_or(code.len(), |end| end + 2);
        let (code, after) = code.split_at(end);
        escape_into(&mut escaped, before);
        escaped.push_str(code);
        rest = after;
    }
    escape_into(&mut escaped, rest);
    escaped
}

fn escape_into(escaped: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ => escaped.push(c),
        }
    }
}

/// How a locale writes dates and amounts: CLDR's long date and standard currency pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Format {
    /// With `{d}`, `{month}` and `{y}`.
    pub date: String,
    /// As in a date: Polish has a case for it.
    pub months: Vec<String>,
    /// The first of a month, where that is not its number.
    pub first: String,
    /// Between thousands.
    pub group: String,
    /// Before the decimals.
    pub decimal: String,
    /// So many digits must stand before the first separator of thousands: 2 for those that write 1234 but 12.345.
    pub min_grouping: usize,
    /// With `#` for the number and `¤` for the currency.
    pub money: String,
    /// By ISO code; other currencies are written as their code.
    pub symbols: BTreeMap<String, String>,
}

impl Format {
    fn with(&self, above: &Self) -> Self {
        let or = |above: &String, below: &String| if above.is_empty() { below.clone() } else { above.clone() };
        Self {
            date: or(&above.date, &self.date),
            months: if above.months.is_empty() { self.months.clone() } else { above.months.clone() },
            first: or(&above.first, &self.first),
            group: or(&above.group, &self.group),
            decimal: or(&above.decimal, &self.decimal),
            min_grouping: if above.min_grouping == 0 { self.min_grouping } else { above.min_grouping },
            money: or(&above.money, &self.money),
            symbols: if above.symbols.is_empty() { self.symbols.clone() } else { above.symbols.clone() },
        }
    }

    /// What is missing or makes no sense.
    pub fn fault(&self) -> Option<&'static str> {
        let lacks = |pattern: &str, parts: &[&str]| parts.iter().any(|part| !pattern.contains(part));
        match self {
            _ if lacks(&self.date, &["{d}", "{month}", "{y}"]) => Some("format.date: needs {d}, {month} and {y}"),
            _ if self.months.len() != 12 => Some("format.months: must be twelve"),
            _ if lacks(&self.money, &["#", "¤"]) => {
                Some("format.money: needs # for the number and ¤ for the currency")
            }
            _ if self.group.is_empty() || self.decimal.is_empty() => Some("format: needs group and decimal"),
            _ => None,
        }
    }

    /// `1 June 2026`.
    pub fn date(&self, date: Date) -> String {
        let month = usize::try_from(date.month() - 1).ok().and_then(|n| self.months.get(n)).map_or("", String::as_str);
        let mut written = String::with_capacity(24);
        let mut rest = self.date.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            written.push_str(before);
            let Some((field, after)) = after.split_once('}') else { break };
            match field {
                "d" if date.day() == 1 && !self.first.is_empty() => written.push_str(&self.first),
                "d" => drop(write!(written, "{}", date.day())),
                "month" => written.push_str(month),
                "y" => drop(write!(written, "{}", date.year())),
                _ => {}
            }
            rest = after;
        }
        written.push_str(rest);
        written
    }

    /// `€1,234.50`.
    pub fn money(&self, money: Money) -> String {
        let code = money.currency.code();
        let symbol = self.symbols.get(code).map_or(code, String::as_str);
        let mut written = String::with_capacity(20);
        if money.minor < 0 {
            written.push('-');
        }
        let mut parts = self.money.chars().peekable();
        while let Some(part) = parts.next() {
            match part {
                '#' => self.number(&mut written, money),
                '¤' => {
                    written.push_str(symbol);
                    // CLDR's spacing: a code or a symbol that ends with a letter does not touch the number.
                    if parts.peek() == Some(&'#') && symbol.ends_with(char::is_alphabetic) {
                        written.push('\u{a0}');
                    }
                }
                other => written.push(other),
            }
        }
        written
    }

    fn number(&self, written: &mut String, money: Money) {
        let decimals = usize::from(money.currency.decimals());
        let unit = 10_u64.pow(u32::from(money.currency.decimals()));
        let digits = (money.minor.unsigned_abs() / unit).to_string();
        let grouped = digits.len() >= 3 + self.min_grouping.max(1);
        for (n, digit) in digits.chars().enumerate() {
            if grouped && n > 0 && (digits.len() - n).is_multiple_of(3) {
                written.push_str(&self.group);
            }
            written.push(digit);
        }
        if decimals > 0 {
            let _ = write!(written, "{}{:0decimals$}", self.decimal, money.minor.unsigned_abs() % unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole of a built-in locale, as it is in force.
    fn whole(locale: &str) -> Catalogue {
        let base = built_in(crate::locale::language(locale)).unwrap();
        base.with(built_in(locale).unwrap())
    }

    #[test]
    fn built_in_files_are_whole() {
        let english = whole("en");
        for (locale, text) in BUILT_IN {
            Catalogue::parse(text).unwrap_or_else(|fault| panic!("{locale}: {fault}"));
            let catalogue = whole(locale);
            assert_eq!(catalogue.format.fault(), None, "{locale}");
            let keys = |c: &Catalogue| c.texts.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&catalogue), keys(&english), "{locale}");
            let names = |c: &Catalogue| c.templates.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&catalogue), names(&english), "{locale}");
            assert_eq!(catalogue.banned.len(), 2, "{locale}");
        }
    }

    #[test]
    fn amounts_and_dates_are_written_as_cldr_has_them() {
        let money = |locale: &str, minor, code: &str| {
            whole(locale).format.money(Money::new(minor, code.parse().unwrap())).replace(['\u{a0}', '\u{202f}'], "_")
        };
        let date = |locale: &str, date: &str| whole(locale).format.date(date.parse().unwrap());
        // Taken from CLDR by another implementation.
        for (locale, euros, dollars, yen, dinars, day) in [
            ("en", "€1,234.50", "US$12,345,678.90", "JP¥1,235", "KWD_1.234", "15 March 2026"),
            ("en-US", "€1,234.50", "$12,345,678.90", "¥1,235", "KWD_1.234", "March 15, 2026"),
            ("de", "1.234,50_€", "12.345.678,90_$", "1.235_¥", "1,234_KWD", "15. März 2026"),
            ("de-AT", "€_1.234,50", "$_12.345.678,90", "¥_1.235", "KWD_1,234", "15. März 2026"),
            ("de-CH", "EUR_1'234.50", "$_12'345'678.90", "¥_1'235", "KWD_1.234", "15. März 2026"),
            ("es", "1234,50_€", "12.345.678,90_US$", "1235_JPY", "1,234_KWD", "15 de marzo de 2026"),
            ("fr", "1_234,50_€", "12_345_678,90_$US", "1_235_JPY", "1,234_KWD", "15 mars 2026"),
            ("it", "1234,50_€", "12.345.678,90_USD", "1235_JPY", "1,234_KWD", "15 marzo 2026"),
            ("nl", "€_1.234,50", "US$_12.345.678,90", "JP¥_1.235", "KWD_1,234", "15 maart 2026"),
            ("pt", "1234,50_€", "12_345_678,90_US$", "1235_JP¥", "1,234_KWD", "15 de março de 2026"),
            ("pt-BR", "€_1.234,50", "US$_12.345.678,90", "JP¥_1.235", "KWD_1,234", "15 de março de 2026"),
            ("pl", "1234,50_€", "12_345_678,90_USD", "1235_JPY", "1,234_KWD", "15 marca 2026"),
            ("da", "1.234,50_€", "12.345.678,90_USD", "1.235_JP¥", "1,234_KWD", "15. marts 2026"),
            ("sv", "1_234,50_€", "12_345_678,90_US$", "1_235_JPY", "1,234_KWD", "15 mars 2026"),
        ] {
            assert_eq!(money(locale, 123_450, "EUR"), euros, "{locale}");
            assert_eq!(money(locale, 1_234_567_890, "USD"), dollars, "{locale}");
            assert_eq!(money(locale, 1_235, "JPY"), yen, "{locale}");
            assert_eq!(money(locale, 1_234, "KWD"), dinars, "{locale}");
            assert_eq!(date(locale, "2026-03-15"), day, "{locale}");
        }
        assert_eq!(
            (date("fr", "2026-06-01"), date("de-AT", "2026-01-01")),
            ("1er juin 2026".into(), "1. Jänner 2026".into())
        );
        assert_eq!(money("en", -5, "EUR"), "-€0.05");
    }

    #[test]
    fn plurals_follow_cldr() {
        let of = |locale, n| Plural::of(locale, n).as_str();
        assert_eq!([1, 2, 5, 21, 101].map(|n| of("de-AT", n)), ["one", "other", "other", "other", "other"]);
        let polish = [1, 2, 4, 5, 11, 12, 14, 21, 22, 25, 112, 122].map(|n| of("pl", n));
        let expected = ["one", "few", "few", "many", "many", "many", "many", "many", "few", "many", "many", "few"];
        assert_eq!(polish, expected);
    }

    #[test]
    fn texts_are_escaped_outside_of_expressions() {
        let text = |text: &str| Text::Plain(text.to_owned()).source("plural", true).unwrap();
        assert_eq!(
            text("a < b & {{ x if n > 1 else \"&\" }} > {% if a < b %}<{% endif %}"),
            "a &lt; b &amp; {{ x if n > 1 else \"&\" }} &gt; {% if a < b %}&lt;{% endif %}"
        );
        assert_eq!(text("open {{ braces"), "open {{ braces");
    }

    #[test]
    fn markers_without_a_text_are_named() {
        let fault = whole("en").fill("<p>[[no_such_text]]</p>", true).unwrap_err();
        assert_eq!(fault, "there is no text \"no_such_text\"");
    }
}
