//! Conditions: typed matchers that a campaign asks of an invoice and its payer. No expressions: every key has one meaning.

use crate::Fault;
use kernel::{Currency, Money, PayerKind, Segment};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What must hold. All keys that are given must; a key with several values holds if one of them does. An empty condition
/// holds always.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConditionFile {
    /// The merchant is one of these.
    pub merchant: Vec<String>,
    /// The customer is one of these (the processor's ids).
    pub customer: Vec<String>,
    /// The customer pays like this.
    pub segment: Vec<Segment>,
    /// The customer has one of these tags.
    pub customer_tag: Vec<String>,
    /// The payer is in one of these countries (ISO 3166-1, two letters).
    pub country: Vec<String>,
    /// The payer is a business or a consumer.
    pub payer: Vec<PayerKind>,
    /// The invoice is in one of these currencies (ISO 4217).
    pub currency: Vec<String>,
    /// The invoice has one of these tags.
    pub invoice_tag: Vec<String>,
    /// What is still owed on the invoice lies in the range of its currency; other currencies do not match.
    pub amount: BTreeMap<String, RangeFile>,
    /// What the customer owes in all open invoices of that currency lies in its range; other currencies do not match.
    pub balance: BTreeMap<String, RangeFile>,
    /// The processor has failed to collect at least so often.
    pub failed_attempts: Option<u32>,
    /// It failed for one of these reasons the last time, in the processor's words such as `insufficient_funds`.
    pub decline_code: Vec<String>,
    /// All of these hold.
    pub all: Vec<ConditionFile>,
    /// One of these holds.
    pub any: Vec<ConditionFile>,
    /// This does not hold.
    pub not: Option<Box<ConditionFile>>,
}

/// A range of amounts in units of the currency, such as `50` or `49.90`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RangeFile {
    /// From this amount on.
    pub at_least: Option<Decimal>,
    /// Below this amount.
    pub below: Option<Decimal>,
}

/// A decimal as somebody wrote it: `50`, `49.9` or `"49.90"`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Decimal {
    /// As a whole number.
    Whole(i64),
    /// As a number.
    Number(f64),
    /// As a text.
    Text(String),
}

impl Decimal {
    fn money(&self, currency: Currency) -> Result<i64, String> {
        let text = match self {
            Self::Whole(n) => n.to_string(),
            Self::Number(n) => n.to_string(),
            Self::Text(text) => text.clone(),
        };
        Money::parse(&text, currency).map(|m| m.minor).map_err(|e| e.to_string())
    }
}

/// A checked condition: what must hold, in the order in which it is asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition(Vec<Matcher>);

#[derive(Debug, Clone, PartialEq)]
enum Matcher {
    Merchant(Vec<String>),
    Customer(Vec<String>),
    Segment(Vec<Segment>),
    CustomerTag(Vec<String>),
    Country(Vec<String>),
    Payer(Vec<PayerKind>),
    Currency(Vec<Currency>),
    InvoiceTag(Vec<String>),
    Amount(Vec<Range>),
    Balance(Vec<Range>),
    FailedAttempts(u32),
    DeclineCode(Vec<String>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Condition),
}

#[derive(Debug, Clone, PartialEq)]
struct Range {
    currency: Currency,
    at_least: Option<i64>,
    below: Option<i64>,
}

/// What conditions ask about. Unknown texts are empty.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "as in ConditionFile")]
pub struct Facts<'a> {
    pub merchant: &'a str,
    pub customer: &'a str,
    pub segment: Segment,
    pub customer_tags: &'a [String],
    /// Of the payer; the merchant's, where it is not known.
    pub country: &'a str,
    /// Of the payer; the merchant's usual kind, where it is not known.
    pub payer: PayerKind,
    pub currency: Currency,
    pub open_minor: i64,
    /// What the customer owes in this currency altogether.
    pub balance_minor: i64,
    pub invoice_tags: &'a [String],
    pub failed_attempts: u32,
    pub decline_code: &'a str,
}

impl Condition {
    /// Checks a condition; faults are pushed with their path below `path`.
    pub(crate) fn read(file: &ConditionFile, path: &str, faults: &mut Vec<Fault>) -> Self {
        let mut matchers = Vec::new();
        // A list that somebody wrote but left empty would match nothing; an empty default asks nothing.
        let list = |words: &Vec<String>, matcher: fn(Vec<String>) -> Matcher| {
            (!words.is_empty()).then(|| matcher(words.clone()))
        };
        matchers.extend(list(&file.merchant, Matcher::Merchant));
        matchers.extend(list(&file.customer, Matcher::Customer));
        if !file.segment.is_empty() {
            matchers.push(Matcher::Segment(file.segment.clone()));
        }
        matchers.extend(list(&file.customer_tag, Matcher::CustomerTag));
        for (n, country) in file.country.iter().enumerate() {
            if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) || country == "UK" {
                faults.push(Fault::new(format!("{path}.country.{n}"), not_a_country(country)));
            }
        }
        matchers.extend(list(&file.country, Matcher::Country));
        if !file.payer.is_empty() {
            matchers.push(Matcher::Payer(file.payer.clone()));
        }
        let currencies = file.currency.iter().enumerate();
        let currencies: Vec<Currency> =
            currencies.filter_map(|(n, code)| currency(code, &format!("{path}.currency.{n}"), faults)).collect();
        if !currencies.is_empty() {
            matchers.push(Matcher::Currency(currencies));
        }
        matchers.extend(list(&file.invoice_tag, Matcher::InvoiceTag));
        if !file.amount.is_empty() {
            matchers.push(Matcher::Amount(ranges(&file.amount, &format!("{path}.amount"), faults)));
        }
        if !file.balance.is_empty() {
            matchers.push(Matcher::Balance(ranges(&file.balance, &format!("{path}.balance"), faults)));
        }
        matchers.extend(file.failed_attempts.map(Matcher::FailedAttempts));
        matchers.extend(list(&file.decline_code, Matcher::DeclineCode));
        let mut inner = |files: &[ConditionFile], key: &str| -> Vec<Self> {
            let read = |(n, file)| Self::read(file, &format!("{path}.{key}.{n}"), faults);
            files.iter().enumerate().map(read).collect()
        };
        if !file.all.is_empty() {
            matchers.push(Matcher::All(inner(&file.all, "all")));
        }
        if !file.any.is_empty() {
            matchers.push(Matcher::Any(inner(&file.any, "any")));
        }
        if let Some(not) = &file.not {
            let condition = Self::read(not, &format!("{path}.not"), faults);
            if condition.0.is_empty() {
                faults.push(Fault::new(format!("{path}.not"), "is empty: it would never hold"));
            }
            matchers.push(Matcher::Not(condition));
        }
        Self(matchers)
    }

    /// The first key that does not hold, if one does not.
    pub fn failing(&self, facts: &Facts<'_>) -> Option<&'static str> {
        self.0.iter().find(|m| !m.holds(facts)).map(Matcher::key)
    }

    /// Whether all of it holds.
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        self.0.iter().all(|m| m.holds(facts))
    }

    /// Whether it asks nothing.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it asks what a customer owes altogether: that changes with other invoices.
    pub fn asks_balance(&self) -> bool {
        self.asks("balance")
    }

    /// Whether it asks anything under this key, at whatever depth.
    pub fn asks(&self, key: &str) -> bool {
        self.0.iter().any(|m| match m {
            Matcher::All(inner) | Matcher::Any(inner) => inner.iter().any(|c| c.asks(key)),
            Matcher::Not(inner) => inner.asks(key),
            plain => plain.key() == key,
        })
    }
}

impl Matcher {
    const fn key(&self) -> &'static str {
        match self {
            Self::Merchant(_) => "merchant",
            Self::Customer(_) => "customer",
            Self::Segment(_) => "segment",
            Self::CustomerTag(_) => "customer_tag",
            Self::Country(_) => "country",
            Self::Payer(_) => "payer",
            Self::Currency(_) => "currency",
            Self::InvoiceTag(_) => "invoice_tag",
            Self::Amount(_) => "amount",
            Self::Balance(_) => "balance",
            Self::FailedAttempts(_) => "failed_attempts",
            Self::DeclineCode(_) => "decline_code",
            Self::All(_) => "all",
            Self::Any(_) => "any",
            Self::Not(_) => "not",
        }
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        let one_of = |words: &[String], word: &str| words.iter().any(|w| w == word);
        let has_one = |words: &[String], tags: &[String]| tags.iter().any(|tag| one_of(words, tag));
        match self {
            Self::Merchant(ids) => one_of(ids, facts.merchant),
            Self::Customer(ids) => one_of(ids, facts.customer),
            Self::Segment(segments) => segments.contains(&facts.segment),
            Self::CustomerTag(tags) => has_one(tags, facts.customer_tags),
            Self::Country(countries) => one_of(countries, facts.country),
            Self::Payer(kinds) => kinds.contains(&facts.payer),
            Self::Currency(currencies) => currencies.contains(&facts.currency),
            Self::InvoiceTag(tags) => has_one(tags, facts.invoice_tags),
            Self::Amount(ranges) => in_range(ranges, facts.currency, facts.open_minor),
            Self::Balance(ranges) => in_range(ranges, facts.currency, facts.balance_minor),
            Self::FailedAttempts(n) => facts.failed_attempts >= *n,
            Self::DeclineCode(codes) => one_of(codes, facts.decline_code),
            Self::All(inner) => inner.iter().all(|c| c.holds(facts)),
            Self::Any(inner) => inner.iter().any(|c| c.holds(facts)),
            Self::Not(inner) => !inner.holds(facts),
        }
    }
}

fn in_range(ranges: &[Range], currency: Currency, minor: i64) -> bool {
    let range = ranges.iter().find(|r| r.currency == currency);
    range.is_some_and(|r| r.at_least.is_none_or(|from| minor >= from) && r.below.is_none_or(|to| minor < to))
}

fn not_a_country(text: &str) -> String {
    let hint = text.to_ascii_uppercase();
    let hint = if hint == "UK" { "GB".to_owned() } else { hint };
    let is_code = hint.len() == 2 && hint.bytes().all(|b| b.is_ascii_uppercase());
    let hint = if is_code { format!("; did you mean {hint}?") } else { String::new() };
    format!("{text:?} is not a country code of two capital letters such as DE{hint}")
}

fn currency(code: &str, path: &str, faults: &mut Vec<Fault>) -> Option<Currency> {
    Currency::try_new(code).map_err(|e| faults.push(Fault::new(path, e))).ok()
}

fn ranges(files: &BTreeMap<String, RangeFile>, path: &str, faults: &mut Vec<Fault>) -> Vec<Range> {
    let mut ranges = Vec::new();
    for (code, file) in files {
        let path = format!("{path}.{code}");
        let Some(currency) = currency(code, &path, faults) else { continue };
        let mut bound = |key: &str, decimal: &Option<Decimal>| {
            let money = decimal.as_ref()?.money(currency);
            money.map_err(|e| faults.push(Fault::new(format!("{path}.{key}"), e))).ok()
        };
        let (at_least, below) = (bound("at_least", &file.at_least), bound("below", &file.below));
        if file.at_least.is_none() && file.below.is_none() {
            faults.push(Fault::new(&path, "needs at_least, below or both"));
        }
        if let (Some(from), Some(to)) = (at_least, below)
            && from >= to
        {
            faults.push(Fault::new(&path, "is empty: at_least is not below `below`"));
        }
        ranges.push(Range { currency, at_least, below });
    }
    ranges
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn facts() -> Facts<'static> {
        Facts {
            merchant: "acme",
            customer: "cus_1",
            segment: Segment::UsuallyLate,
            customer_tags: &[],
            country: "DE",
            payer: PayerKind::Business,
            currency: Currency::try_new("EUR").unwrap(),
            open_minor: 10_000,
            balance_minor: 25_000,
            invoice_tags: &[],
            failed_attempts: 2,
            decline_code: "insufficient_funds",
        }
    }

    fn read(yaml: &str) -> Result<Condition, Vec<Fault>> {
        let mut faults = Vec::new();
        let condition = Condition::read(&serde_saphyr::from_str(yaml).unwrap(), "audience", &mut faults);
        if faults.is_empty() { Ok(condition) } else { Err(faults) }
    }

    #[test]
    fn each_matcher_asks_one_thing() {
        let tags = ["vip".to_owned()];
        let facts = Facts { customer_tags: &tags, invoice_tags: &tags, ..facts() };
        for (holds, fails) in [
            ("merchant: [acme, globex]", "merchant: [globex]"),
            ("customer: [cus_1]", "customer: [cus_2]"),
            ("segment: [usually_late]", "segment: [prompt, new]"),
            ("customer_tag: [gold, vip]", "customer_tag: [gold]"),
            ("country: [AT, DE]", "country: [AT]"),
            ("payer: [business]", "payer: [consumer]"),
            ("currency: [EUR]", "currency: [USD]"),
            ("invoice_tag: [vip]", "invoice_tag: [gold]"),
            ("amount: { EUR: { at_least: 100 } }", "amount: { EUR: { below: 100.00 } }"),
            ("amount: { EUR: { at_least: '99.99', below: 100.01 } }", "amount: { USD: { at_least: 1 } }"),
            ("balance: { EUR: { at_least: 250 } }", "balance: { EUR: { at_least: 250.01 } }"),
            ("failed_attempts: 2", "failed_attempts: 3"),
            ("decline_code: [insufficient_funds]", "decline_code: [expired_card]"),
            ("any: [{ country: [AT] }, { country: [DE] }]", "any: [{ country: [AT] }, { country: [FR] }]"),
            ("all: [{ country: [DE] }, { segment: [usually_late] }]", "all: [{ country: [DE] }, { segment: [new] }]"),
            ("not: { customer: [cus_2] }", "not: { country: [DE], segment: [usually_late] }"),
        ] {
            assert!(read(holds).unwrap().holds(&facts), "{holds}");
            assert!(!read(fails).unwrap().holds(&facts), "{fails}");
            let key = fails.split(':').next();
            assert_eq!(read(fails).unwrap().failing(&facts), key, "the key that does not hold is named");
        }
        assert!(read("{}").unwrap().holds(&facts), "asking nothing holds");
    }

    #[test]
    fn nonsense_is_named_by_path() {
        let faults = read(
            "{ country: [de, Germany], currency: [EURO], amount: { EUR: { at_least: 1.005 }, XXX: {} }, \
             any: [{ balance: { EUR: { at_least: 5, below: 5 } } }], not: {} }",
        )
        .unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "audience.country.0",
                "audience.country.1",
                "audience.currency.0",
                "audience.amount.EUR.at_least",
                "audience.amount.XXX",
                "audience.any.0.balance.EUR",
                "audience.not"
            ]
        );
        assert!(faults[0].reason.ends_with("did you mean DE?"), "{:?}", faults[0]);
        assert!(read("country: [UK]").unwrap_err()[0].reason.ends_with("did you mean GB?"));
    }

    #[test]
    fn says_whether_it_depends_on_other_invoices() {
        assert!(read("any: [{ not: { balance: { EUR: { below: 5 } } } }]").unwrap().asks_balance());
        assert!(!read("amount: { EUR: { below: 5 } }").unwrap().asks_balance());
    }
}
