//! Campaigns in words: what a trigger or a condition says, for people who do not read YAML.

use crate::condition::{ConditionFile, Decimal, RangeFile};
use crate::file::{
    AfterStepFile, ArmFile, Assign, Channel, Ending, ExperimentFile, FailedAttemptsFile, WhenFile, WithFile, Without,
};
use kernel::PayerKind;
use std::collections::BTreeMap;

/// `1 day`, `3 days`.
pub fn count(n: impl Into<u64>, one: &str) -> String {
    match n.into() {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// When a step is due, such as `3 days after due`.
pub fn when(when: &WhenFile) -> String {
    let WhenFile {
        days_before_due,
        business_days_before_due,
        on_due_date,
        days_after_due,
        business_days_after_due,
        days_after_month_end,
        failed_attempts,
        after_step,
        days_after_previous,
        days_after_broken_promise,
    } = when;
    let days = |n: &Option<u16>, what: &str| n.map(|n| format!("{} {what}", count(n, "day")));
    let business_days = |n: &Option<u16>, what: &str| n.map(|n| format!("{} {what}", count(n, "business day")));
    let month_end = days_after_month_end.map(|n| match n {
        0 => "at the end of the month of the due date".to_owned(),
        n => format!("{} after the end of the month of the due date", count(n, "day")),
    });
    let after_step = after_step.as_ref();
    let after_step =
        after_step.map(|AfterStepFile { step, days }| format!("{} after step {step}", count(*days, "day")));
    let said = [
        days(days_before_due, "before due"),
        business_days(business_days_before_due, "before due"),
        on_due_date.filter(|yes| *yes).map(|_| "on the due date".to_owned()),
        days(days_after_due, "after due"),
        business_days(business_days_after_due, "after due"),
        month_end,
        failed_attempts.as_ref().map(failed),
        after_step,
        days(days_after_previous, "after the reminder before it"),
        days(days_after_broken_promise, "after a broken promise"),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    if said.is_empty() { "never".to_owned() } else { said.join(" and ") }
}

fn failed(file: &FailedAttemptsFile) -> String {
    match file {
        FailedAttemptsFile::Count(n) => format!("after {}", count(*n, "failed attempt")),
        FailedAttemptsFile::For { count: n, decline_code } => {
            format!("after {} for {}", count(*n, "failed attempt"), any_of(decline_code))
        }
    }
}

/// What must hold, such as `segment is usually_late and country is DE or AT`; `nothing` if it asks nothing.
pub fn condition(file: &ConditionFile) -> String {
    let asked: Vec<String> = demands(file).into_iter().map(|(_, words)| words).collect();
    if asked.is_empty() { "nothing".to_owned() } else { asked.join(" and ") }
}

/// What each key of a condition asks, by the key.
pub fn demands(file: &ConditionFile) -> Vec<(&'static str, String)> {
    let ConditionFile {
        merchant,
        customer,
        segment,
        customer_tag,
        country,
        payer,
        currency,
        invoice_tag,
        amount,
        balance,
        failed_attempts,
        decline_code,
        all,
        any,
        not,
    } = file;
    let is = |what: &str, words: &[String]| (!words.is_empty()).then(|| format!("{what} is {}", any_of(words)));
    let segments: Vec<String> = segment.iter().map(|s| s.as_str().to_owned()).collect();
    let payers: Vec<String> = payer.iter().map(|p| kind(*p).to_owned()).collect();
    let nested = |files: &[ConditionFile], word: &str| {
        (!files.is_empty()).then(|| {
            let inner: Vec<String> = files.iter().map(|f| format!("({})", condition(f))).collect();
            inner.join(word)
        })
    };
    let said = [
        ("merchant", is("merchant", merchant)),
        ("customer", is("customer", customer)),
        ("segment", is("segment", &segments)),
        ("customer_tag", is("a customer tag", customer_tag)),
        ("country", is("country", country)),
        ("payer", is("payer", &payers)),
        ("currency", is("currency", currency)),
        ("invoice_tag", is("an invoice tag", invoice_tag)),
        ("amount", ranges("open amount", amount)),
        ("balance", ranges("balance", balance)),
        ("failed_attempts", failed_attempts.map(|n| format!("at least {}", count(n, "failed attempt")))),
        ("decline_code", is("decline code", decline_code)),
        ("all", nested(all, " and ")),
        ("any", nested(any, " or ")),
        ("not", not.as_ref().map(|inner| format!("not ({})", condition(inner)))),
    ];
    said.into_iter().filter_map(|(key, words)| Some((key, words?))).collect()
}

fn ranges(what: &str, ranges: &BTreeMap<String, RangeFile>) -> Option<String> {
    let range = |(currency, RangeFile { at_least, below }): (&String, &RangeFile)| {
        let from = at_least.as_ref().map(|n| format!("at least {} {currency}", decimal(n)));
        let to = below.as_ref().map(|n| format!("below {} {currency}", decimal(n)));
        [from, to].into_iter().flatten().collect::<Vec<_>>().join(" and ")
    };
    let said: Vec<String> = ranges.iter().map(range).collect();
    (!said.is_empty()).then(|| format!("{what} is {}", said.join(" or ")))
}

fn decimal(decimal: &Decimal) -> String {
    match decimal {
        Decimal::Whole(n) => n.to_string(),
        Decimal::Number(n) => n.to_string(),
        Decimal::Text(text) => text.clone(),
    }
}

/// `a`, `a or b`, `a, b or c`.
pub fn any_of(words: &[String]) -> String {
    list(words, "or")
}

/// `a`, `a and b`, `a, b and c`; `none` if there are none.
pub fn all_of(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { list(words, "and") }
}

fn list(words: &[String], last: &str) -> String {
    match words.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((end, before)) => format!("{} {last} {end}", before.join(", ")),
    }
}

/// What is tried, such as `day -7 or none, by Thompson sampling`.
pub fn experiment(file: &ExperimentFile) -> String {
    let ExperimentFile { arms, assign } = file;
    let assign = match assign {
        Assign::Thompson => "by Thompson sampling".to_owned(),
        Assign::Split(weights) => {
            format!("split {}", weights.iter().map(u32::to_string).collect::<Vec<_>>().join(" to "))
        }
    };
    format!("{}, {assign}", any_of(&arms.iter().map(arm).collect::<Vec<_>>()))
}

/// An arm, such as `day -7 with template kind`.
pub fn arm(file: &ArmFile) -> String {
    match file {
        ArmFile::Without(Without::None) => "none".to_owned(),
        ArmFile::With(WithFile { days, template }) => {
            let days = days.map(|days| format!("day {days}"));
            let template = template.as_ref().map(|template| format!("template {template}"));
            days.into_iter().chain(template).collect::<Vec<_>>().join(" with ")
        }
    }
}

/// How a sequence ends.
pub const fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::HandOver => "a person takes over",
        Ending::Webhook => "the merchant's system takes over",
        Ending::Stop => "nothing more is done",
    }
}

const fn kind(payer: PayerKind) -> &'static str {
    match payer {
        PayerKind::Business => "business",
        PayerKind::Consumer => "consumer",
    }
}

/// Channels in their order.
pub fn channels(channels: &[Channel]) -> String {
    channels.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", then ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_in_words() {
        for (yaml, words) in [
            ("days_before_due: 1", "1 day before due"),
            ("business_days_before_due: 2", "2 business days before due"),
            ("on_due_date: true", "on the due date"),
            ("days_after_due: 7", "7 days after due"),
            ("business_days_after_due: 1", "1 business day after due"),
            ("days_after_month_end: 0", "at the end of the month of the due date"),
            ("days_after_month_end: 3", "3 days after the end of the month of the due date"),
            ("failed_attempts: 2", "after 2 failed attempts"),
            ("failed_attempts: { count: 1, decline_code: [a, b, c] }", "after 1 failed attempt for a, b or c"),
            ("after_step: { step: first, days: 3 }", "3 days after step first"),
            ("days_after_previous: 4", "4 days after the reminder before it"),
            ("days_after_broken_promise: 0", "0 days after a broken promise"),
            ("{}", "never"),
        ] {
            assert_eq!(when(&serde_saphyr::from_str(yaml).unwrap()), words, "{yaml}");
        }
    }

    #[test]
    fn experiments_in_words() {
        for (yaml, words) in [
            (
                "{ arms: [{ days: -7 }, { days: -3 }, none], assign: thompson }",
                "day -7, day -3 or none, by Thompson sampling",
            ),
            (
                "{ arms: [{ template: kind }, { days: 3, template: plain }], assign: { split: [1, 2] } }",
                "template kind or day 3 with template plain, split 1 to 2",
            ),
        ] {
            assert_eq!(experiment(&serde_saphyr::from_str(yaml).unwrap()), words, "{yaml}");
        }
    }

    #[test]
    fn conditions_in_words() {
        for (yaml, words) in [
            ("{}", "nothing"),
            ("{ segment: [usually_late, new], country: [DE] }", "segment is usually_late or new and country is DE"),
            (
                "{ merchant: [a], customer: [b], customer_tag: [c] }",
                "merchant is a and customer is b and a customer tag is c",
            ),
            ("{ payer: [consumer], currency: [EUR] }", "payer is consumer and currency is EUR"),
            ("{ invoice_tag: [x], decline_code: [y] }", "an invoice tag is x and decline code is y"),
            ("amount: { EUR: { at_least: 5, below: '9.50' } }", "open amount is at least 5 EUR and below 9.50 EUR"),
            ("balance: { EUR: { below: 5.5 }, USD: { at_least: 1 } }", "balance is below 5.5 EUR or at least 1 USD"),
            ("failed_attempts: 1", "at least 1 failed attempt"),
            ("any: [{ country: [DE] }, { not: { country: [AT] } }]", "(country is DE) or (not (country is AT))"),
            ("all: [{ country: [DE] }, { segment: [usually_late] }]", "(country is DE) and (segment is usually_late)"),
        ] {
            assert_eq!(condition(&serde_saphyr::from_str(yaml).unwrap()), words, "{yaml}");
        }
    }
}
