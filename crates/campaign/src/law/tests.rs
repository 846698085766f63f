use super::file::{Pack, built_in, parse_rates};
use super::*;
use jiff::ToSpan;
use jiff::tz::TimeZone;
use kernel::money::Currency;
use proptest::prelude::*;

const EVERYTHING: Allow = Allow { interest: true, fixed_sum: true, reminder_fee: true };
const INTEREST: Allow = Allow { interest: true, fixed_sum: false, reminder_fee: false };
const FIXED_SUM: Allow = Allow { interest: false, fixed_sum: true, reminder_fee: false };
const REMINDER_FEE: Allow = Allow { interest: false, fixed_sum: false, reminder_fee: true };

use Payer::{Business, Consumer};

fn date(text: &str) -> Date {
    text.parse().unwrap()
}

/// Such as `40.00 EUR`.
fn money(text: &str) -> Money {
    let (amount, currency) = text.split_once(' ').unwrap();
    Money::parse(amount, Currency::try_new(currency).unwrap()).unwrap()
}

fn claim(open: &str, due_on: &str) -> Claim {
    Claim { open: money(open), due_on: date(due_on), reminders_sent: 0, last_reminded_on: None }
}

/// The rules for a claim: those of its due date.
fn of(country: &str, payer: Payer, claim: &Claim) -> &'static Rules {
    rules(country, payer, claim.due_on).unwrap_or_else(|| panic!("{country} has no rules for {payer:?}"))
}

/// The only amount charged, if there is one.
fn amount(country: &str, payer: Payer, allow: Allow, claim: &Claim, as_of: &str) -> Option<Money> {
    let found = charges(of(country, payer, claim), allow, claim, date(as_of));
    assert_eq!(found.missing, [], "{country}");
    assert!(found.charges.len() <= 1, "{found:?}");
    found.charges.first().map(|charge| charge.amount)
}

#[test]
fn every_file_makes_sense() {
    let (packs, faults) = built_in();
    assert_eq!(faults, []);
    assert_eq!(packs.len(), std::fs::read_dir("data/law").unwrap().count() - 1, "a file in data/law is not built in");
    let mut ids: Vec<&str> = packs.iter().flat_map(|pack| &pack.rules).map(|rules| rules.id.as_str()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
}

#[test]
fn no_country_has_two_packs() {
    let (packs, _) = built_in();
    for country in packs.iter().flat_map(|pack| &pack.countries) {
        for day in ["2010-01-01", "2022-12-31", "2023-01-01", "2025-12-31", "2026-01-01", "2030-01-01"] {
            let count = packs.iter().filter(|pack| pack.holds_in(&country.code, date(day))).count();
            assert!(count <= 1, "{} on {day}", country.code);
        }
    }
}

#[test]
fn rules_hold_from_their_day_on() {
    let rows = [
        // SI 2002/1675, article 1: in force on 7 August 2002.
        ("GB", Business, "2002-08-06", None),
        ("GB", Business, "2002-08-07", Some("GB/late-payment/1998")),
        // The Act is about contracts in the course of business (section 2).
        ("GB", Consumer, "2026-01-01", None),
        // Directive 2011/7/EU, Article 12 (1): transposed by 16 March 2013.
        ("NL", Business, "2013-03-15", None),
        ("NL", Business, "2013-03-16", Some("EU/late-payment/2011")),
        ("NL", Consumer, "2026-01-01", None),
        ("nl", Business, "2026-01-01", Some("EU/late-payment/2011")),
        // Croatia has the euro since 2023, Bulgaria since 2026.
        ("HR", Business, "2022-12-31", Some("EU-OTHER/late-payment/2011")),
        ("HR", Business, "2023-01-01", Some("EU/late-payment/2011")),
        ("BG", Business, "2025-12-31", Some("EU-OTHER/late-payment/2011")),
        ("BG", Business, "2026-01-01", Some("EU/late-payment/2011")),
        // Art. 229 § 34 EGBGB: contracts made after 28 July 2014.
        ("DE", Business, "2014-07-28", None),
        ("DE", Business, "2014-07-29", Some("DE/default/business")),
        ("DE", Consumer, "2014-07-28", Some("DE/default/consumer")),
        // Ordonnance 2019-359.
        ("FR", Business, "2019-04-25", None),
        ("FR", Business, "2019-04-26", Some("FR/late-payment/L441-10")),
        ("FR", Consumer, "2026-01-01", None),
        // Lov 1244/2012: claims due from 1 March 2013.
        ("DK", Business, "2013-02-28", None),
        ("DK", Business, "2013-03-01", Some("DK/renteloven/business")),
        ("DK", Consumer, "2013-03-01", Some("DK/renteloven/consumer")),
        // The fee was halved for claims due from 1 October 2020.
        ("NO", Consumer, "2016-12-31", None),
        ("NO", Consumer, "2020-09-30", Some("NO/inkassoforskriften/2017")),
        ("NO", Consumer, "2020-10-01", Some("NO/inkassoforskriften/2020")),
        ("NO", Business, "2026-01-01", Some("NO/inkassoforskriften/2020")),
        // SFS 2013:55 and 2013:56.
        ("SE", Business, "2013-03-15", None),
        ("SE", Business, "2013-03-16", Some("SE/rantelagen/business")),
        ("SE", Consumer, "2026-01-01", Some("SE/rantelagen/consumer")),
        // Regulation F, 86 FR 5766: effective on 30 November 2021.
        ("US", Consumer, "2021-11-29", None),
        ("US", Consumer, "2021-11-30", Some("US/regulation-f")),
        ("US", Business, "2026-01-01", None),
        ("XX", Business, "2026-01-01", None),
    ];
    for (country, payer, on, id) in rows {
        let found = rules(country, payer, date(on)).map(|rules| rules.id.as_str());
        assert_eq!(found, id, "{country}, {payer:?}, {on}");
    }
}

#[test]
fn every_member_state_has_a_fixed_sum_between_businesses() {
    let members = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK";
    for country in members.split(' ') {
        let rules = rules(country, Business, date("2026-11-24")).unwrap_or_else(|| panic!("{country}"));
        assert!(!rules.fee.fixed_sum.is_empty(), "{country}");
        let other = ["CZ", "HU", "IE", "PL", "RO"].contains(&country);
        assert_eq!(rules.interest.is_none(), other, "{country}: the ECB's rate is not everybody's");
    }
}

#[test]
fn fixed_sums_go_by_the_size_of_the_claim() {
    let rows = [
        // Section 5A (2): less than £1,000; £1,000 or more but less than £10,000; £10,000 or more.
        ("GB", "0.01 GBP", "40.00 GBP"),
        ("GB", "999.99 GBP", "40.00 GBP"),
        ("GB", "1000.00 GBP", "70.00 GBP"),
        ("GB", "9999.99 GBP", "70.00 GBP"),
        ("GB", "10000.00 GBP", "100.00 GBP"),
        // Directive 2011/7/EU, Article 6 (1).
        ("NL", "5.00 EUR", "40.00 EUR"),
        ("PL", "5.00 EUR", "40.00 EUR"),
        // § 288 (5) BGB.
        ("DE", "50000.00 EUR", "40.00 EUR"),
        // Code de commerce, D441-5.
        ("FR", "50000.00 EUR", "40.00 EUR"),
        // Renteloven § 9 a (3).
        ("DK", "500.00 DKK", "310.00 DKK"),
        // Lag 1981:739, 4 a §.
        ("SE", "500.00 SEK", "450.00 SEK"),
    ];
    for (country, open, sum) in rows {
        let claim = claim(open, "2026-01-15");
        assert_eq!(amount(country, Business, FIXED_SUM, &claim, "2026-01-16"), Some(money(sum)), "{country}: {open}");
        assert_eq!(amount(country, Business, FIXED_SUM, &claim, "2026-01-15"), None, "{country}: not late yet");
    }
    // § 288 (5), sentence 1: not against consumers. Norway's standardkompensasjon is not on file.
    assert_eq!(amount("DE", Consumer, FIXED_SUM, &claim("500.00 EUR", "2026-01-15"), "2026-02-01"), None);
    assert_eq!(amount("NO", Business, FIXED_SUM, &claim("500.00 NOK", "2026-01-15"), "2026-02-01"), None);
}

/// 36 500 makes a percent a year one a day.
#[test]
fn interest_follows_the_reference_rate() {
    let rows = [
        // SI 2002/1675, article 4: the rate is that of the half-year in which interest starts to run. 225 days at 13.25 %,
        // though base rate is 4.75 % from 2025 on.
        ("GB", Business, "10000.00 GBP", "2024-06-20", "2025-01-31", "816.78 GBP"),
        // It starts to run on 31 December and 1 January: 31 days at 13.25 % and at 12.75 %.
        ("GB", Business, "10000.00 GBP", "2024-12-30", "2025-01-30", "112.53 GBP"),
        ("GB", Business, "10000.00 GBP", "2024-12-31", "2025-01-31", "108.29 GBP"),
        // Directive 2011/7/EU, Article 2 (6) and (7): 15 days at 10.15 %, 15 at 10.40 %.
        ("NL", Business, "10000.00 EUR", "2026-06-15", "2026-07-15", "84.45 EUR"),
        // 2.50 % from January 2023, 4.00 % from July on, 4.50 % from January 2024: 10 + 184 + 10 days.
        ("NL", Business, "36500.00 EUR", "2023-06-20", "2024-01-10", "2438.00 EUR"),
        // 50.00 for a fifth of a year at 10.15 %: 1.015, a half upwards.
        ("NL", Business, "50.00 EUR", "2026-01-10", "2026-03-24", "1.02 EUR"),
        // Article 3 (1): from the day after the due date.
        ("NL", Business, "36500.00 EUR", "2026-01-10", "2026-01-11", "10.15 EUR"),
        // L441-10 II: ECB + 10.
        ("FR", Business, "36500.00 EUR", "2026-01-10", "2026-01-20", "121.50 EUR"),
        // § 288 (2) BGB: 9 points over 1.27 %; (1): 5 points for a consumer.
        ("DE", Business, "36500.00 EUR", "2026-01-10", "2026-01-20", "102.70 EUR"),
        ("DE", Consumer, "36500.00 EUR", "2026-01-10", "2026-01-20", "62.70 EUR"),
        // § 247: 3.62 % until June 2024, 3.37 % from July on. 10 days each.
        ("DE", Business, "36500.00 EUR", "2024-06-20", "2024-07-10", "249.90 EUR"),
        // Below zero from July 2016 to December 2022: -0.88 %.
        ("DE", Business, "36500.00 EUR", "2022-01-10", "2022-01-20", "81.20 EUR"),
        // Renteloven § 5: 3.75 + 8 in the first half of 2024, as lawyers publish it (procesrente 11.75 %).
        ("DK", Consumer, "36500.00 DKK", "2024-01-10", "2024-01-20", "117.50 DKK"),
        // Ministry of finance: 9.25 % from July 2022, 10.75 % from January 2023. 10 days each.
        ("NO", Consumer, "36500.00 NOK", "2022-12-21", "2023-01-10", "200.00 NOK"),
        // Räntelagen § 6 and 9: 4.00 + 8.
        ("SE", Consumer, "36500.00 SEK", "2024-01-10", "2024-01-20", "120.00 SEK"),
    ];
    for (country, payer, open, due, as_of, expected) in rows {
        let found = amount(country, payer, INTEREST, &claim(open, due), as_of);
        assert_eq!(found, Some(money(expected)), "{country}, {payer:?}: {open} from {due} to {as_of}");
    }
}

#[test]
fn reminder_fees_have_their_limits() {
    let rows = [
        // Renteloven § 9 b (2): DKK 100, three of them, ten days apart.
        ("DK", "2026-01-15", 0, None, "2026-01-16", Some("100.00 DKK")),
        ("DK", "2026-01-15", 1, Some("2026-01-16"), "2026-01-25", None),
        ("DK", "2026-01-15", 1, Some("2026-01-16"), "2026-01-26", Some("100.00 DKK")),
        ("DK", "2026-01-15", 2, Some("2026-01-26"), "2026-02-05", Some("100.00 DKK")),
        ("DK", "2026-01-15", 3, Some("2026-02-05"), "2026-03-05", None),
        ("DK", "2026-01-15", 1, None, "2026-03-05", None),
        // Inkassoforskriften § 1-2: at the earliest 14 days after the due date, for at most two.
        ("NO", "2026-01-15", 0, None, "2026-01-28", None),
        ("NO", "2026-01-15", 0, None, "2026-01-29", Some("35.00 NOK")),
        ("NO", "2026-01-15", 1, Some("2026-01-29"), "2026-02-12", Some("35.00 NOK")),
        ("NO", "2026-01-15", 2, Some("2026-02-12"), "2026-03-12", None),
        // 70 kr for claims due before 1 October 2020.
        ("NO", "2020-09-30", 0, None, "2020-11-01", Some("70.00 NOK")),
        // Lag 1981:739, 2 and 4 §§.
        ("SE", "2026-01-15", 0, None, "2026-01-16", Some("60.00 SEK")),
        ("SE", "2026-01-15", 1, Some("2026-01-16"), "2026-02-16", None),
        // No statute knows one.
        ("DE", "2026-01-15", 0, None, "2026-02-15", None),
    ];
    for (country, due, reminders_sent, last, as_of, fee) in rows {
        let currency = match country {
            "DK" => "DKK",
            "NO" => "NOK",
            "SE" => "SEK",
            _ => "EUR",
        };
        let open = claim(&format!("500.00 {currency}"), due);
        let claim = Claim { reminders_sent, last_reminded_on: last.map(date), ..open };
        let found = amount(country, Consumer, REMINDER_FEE, &claim, as_of);
        assert_eq!(found, fee.map(money), "{country}: due {due}, {reminders_sent} sent, {as_of}");
    }
}

#[test]
fn a_fixed_sum_may_be_for_the_reminder_too() {
    let kinds = |country: &str, currency: &str| -> Vec<ChargeKind> {
        let claim = claim(&format!("500.00 {currency}"), "2026-01-15");
        let found = charges(of(country, Business, &claim), EVERYTHING, &claim, date("2026-02-15"));
        found.charges.iter().map(|charge| charge.kind).collect()
    };
    // Directive 2011/7/EU, Article 6 (3): more only for costs above the sum.
    assert_eq!(kinds("SE", "SEK"), [ChargeKind::Interest, ChargeKind::FixedSum]);
    // Renteloven § 9 a (3), sentence 2: the sum does not touch other claims for costs.
    assert_eq!(kinds("DK", "DKK"), [ChargeKind::Interest, ChargeKind::FixedSum, ChargeKind::ReminderFee]);
    let claim = claim("500.00 SEK", "2026-01-15");
    assert_eq!(amount("SE", Business, REMINDER_FEE, &claim, "2026-02-15"), Some(money("60.00 SEK")));
}

#[test]
fn a_charge_says_how_it_came_about() {
    let claim = claim("10000.00 EUR", "2025-12-15");
    let found = charges(of("NL", Business, &claim), EVERYTHING, &claim, date("2026-07-15"));
    let texts: Vec<&str> = found.charges.iter().map(|charge| charge.rule.as_str()).collect();
    // The rate did not change with the year.
    let interest =
        "EU late payment: 8 points over ECB main refinancing rate (2.15 % from 2025-12-16, 2.40 % from 2026-07-01)";
    assert_eq!(texts, [interest, "EU late payment: €40.00"]);
    assert!(found.charges.iter().all(|charge| charge.as_of == date("2026-07-15")));
    let text = |country, payer, claim: &Claim, allow, as_of: &str| {
        charges(of(country, payer, claim), allow, claim, date(as_of)).charges[0].rule.clone()
    };
    let small = self::claim("1.00 GBP", "2026-01-15");
    assert_eq!(
        text("GB", Business, &small, FIXED_SUM, "2026-01-16"),
        "UK late payment: £40.00 for a claim below £1,000.00"
    );
    let kroner = self::claim("1000.00 NOK", "2026-01-15");
    assert_eq!(
        text("NO", Consumer, &kroner, EVERYTHING, "2026-01-25"),
        "Norway, late payment: forsinkelsesrente (12 % from 2026-01-16)"
    );
    assert_eq!(
        text("NO", Consumer, &kroner, REMINDER_FEE, "2026-02-25"),
        "Norway, late payment: 35,00\u{a0}kr for reminder 1 of at most 2"
    );
}

#[test]
fn what_is_not_known_is_said() {
    // Norway's rate of the second half of 2026 is not on file: no interest at all, not even for June.
    let kroner = claim("500.00 NOK", "2026-06-15");
    let found = charges(of("NO", Consumer, &kroner), EVERYTHING, &kroner, date("2026-07-15"));
    assert_eq!(found.charges.len(), 1, "the reminder fee needs no rate");
    assert_eq!(found.missing[0].to_string(), "no interest: the forsinkelsesrente of 2026-H2 is not on file");
    // Nothing is converted.
    let euros = claim("500.00 EUR", "2026-06-15");
    let found = charges(of("GB", Business, &euros), EVERYTHING, &euros, date("2026-06-20"));
    assert_eq!(found.charges.len(), 1, "a rate needs no currency");
    assert_eq!(found.missing[0].to_string(), "no fixed_sum: the law names it in GBP, the claim is in EUR");
    let found = charges(of("DK", Consumer, &euros), REMINDER_FEE, &euros, date("2026-06-20"));
    assert!(matches!(found.missing[..], [Missing::Currency { kind: ChargeKind::ReminderFee, .. }]), "{found:?}");
    let huge = Claim { open: Money::new(i64::MAX, money("1.00 GBP").currency), ..claim("1.00 GBP", "2019-01-01") };
    let found = charges(of("GB", Business, &huge), INTEREST, &huge, date("2099-01-01"));
    assert_eq!(found.missing, [Missing::TooLarge { kind: ChargeKind::Interest }]);
}

#[test]
fn only_what_is_wanted_and_owed_is_charged() {
    let late = claim("500.00 DKK", "2026-01-15");
    let none = |claim: &Claim, allow, as_of| charges(of("DK", Business, claim), allow, claim, date(as_of));
    assert_eq!(none(&late, Allow::default(), "2026-03-01"), Charges::default());
    assert_eq!(none(&late, EVERYTHING, "2026-01-15"), Charges::default(), "on the due date");
    assert_eq!(none(&late, EVERYTHING, "2026-01-01"), Charges::default(), "before it");
    assert_eq!(
        amount("DK", Consumer, INTEREST, &claim("0.01 DKK", "2026-01-15"), "2026-01-16"),
        None,
        "below half a cent"
    );
    for open in ["0.00 DKK", "-5.00 DKK"] {
        let paid = Claim { open: money(open), ..late };
        assert_eq!(none(&paid, EVERYTHING, "2026-03-01"), Charges::default(), "{open}");
    }
}

#[test]
fn consumers_in_the_us_are_left_alone_at_night() {
    let rules = rules("US", Consumer, date("2026-01-01")).unwrap();
    // 12 CFR 1006.14 (b) (2) and 1006.6 (e).
    assert_eq!(rules.cap, Some(Cap { reminders: 7, days: 7 }));
    assert_eq!(rules.wording[0].locale, "en");
    assert!(rules.wording[0].text.contains("unsubscribe"));
    // 12 CFR 1006.6 (b) (1): 8:00 to 21:00.
    let limit = rules.contact.unwrap();
    let minute = |text: &str| text.parse::<Minute>().unwrap();
    let hours = |days, from, to| ContactHours::try_new(TimeZone::UTC, days, minute(from), minute(to)).unwrap();
    let wide = limit.tighten(&hours(Weekdays::ALL, "06:00", "22:00")).unwrap();
    assert_eq!(wide, hours(Weekdays::ALL, "08:00", "21:00"));
    let narrow = hours(Weekdays::BUSINESS, "09:00", "18:00");
    assert_eq!(limit.tighten(&narrow).unwrap(), narrow, "it adds no hours");
    assert!(limit.tighten(&hours(Weekdays::ALL, "21:00", "23:00")).is_err(), "nothing is left");
    let sunday = ContactLimit { weekdays: Weekdays::from_bits(0b100_0000), ..limit };
    assert!(sunday.tighten(&narrow).is_err(), "no day is left");
}

const SAMPLE: &str = r#"
pack: XX
title: Nowhere
currency: EUR
countries: [{ code: XX }]
rules:
  - id: one
    payers: [consumer]
    from: 2020-01-01
    until: 2021-01-01
    source: https://example.com
    earliest_days_after_due: 5
    contact: { weekdays: [mon, fri], from: "08:00", to: "21:00" }
    fixed_sum: [{ below: "10.00", amount: "1.00" }, { amount: "2.00" }]
    interest: { series: ecb, points: "8.00", rate_of: first_day }
  - id: two
    payers: [business, consumer]
    from: 2021-01-01
    source: https://example.com
    reminder_fee: { amount: "5.00", at_most: 1 }
"#;

fn faults(from: &str, to: &str) -> Vec<(String, String)> {
    let text = SAMPLE.replacen(from, to, 1);
    assert_ne!(text, SAMPLE, "{from:?} is not in the sample");
    let (series, _) = parse_rates(include_str!("../../data/law/rates.yaml"));
    Pack::parse(&text, &series).unwrap_err().into_iter().map(|fault| (fault.path, fault.reason)).collect()
}

#[test]
fn nonsense_in_a_pack_is_named_by_path_and_all_at_once() {
    let (series, _) = parse_rates(include_str!("../../data/law/rates.yaml"));
    let pack = Pack::parse(SAMPLE, &series).unwrap();
    assert_eq!(pack.rules[0].contact.unwrap().weekdays, Weekdays::from_bits(0b001_0001));
    assert_eq!(pack.rules[0].earliest_days_after_due, Some(5));
    let rows = [
        ("payers: [consumer]", "payers: []", "payers", "names nobody"),
        ("https://example.com", "a book", "source", "needs an address where the law can be read"),
        ("until: 2021-01-01", "until: 2020-01-01", "until", "is not after 2020-01-01"),
        ("[mon, fri]", "[someday]", "contact.weekdays", "may have mon, tue, wed, thu, fri, sat and sun"),
        ("from: \"08:00\"", "from: \"8\"", "contact.from", r#""8" is not a time of day such as 09:00"#),
        (
            "amount: \"1.00\"",
            "amount: \"1.005\"",
            "fixed_sum.0.amount",
            r#""1.005" has more than the 2 decimals of EUR"#,
        ),
        (", { amount: \"2.00\" }", "", "fixed_sum", "needs a last sum without `below`, for all other claims"),
        (
            "amount: \"2.00\"",
            "below: \"5.00\", amount: \"2.00\"",
            "fixed_sum.1.below",
            "is not above the one before it",
        ),
        (
            "amount: \"2.00\"",
            "below: \"10.00\", amount: \"2.00\"",
            "fixed_sum.1.below",
            "is not above the one before it",
        ),
        ("series: ecb", "series: fed", "interest.series", r#""fed" is no series of rates.yaml"#),
        ("points: \"8.00\"", "points: \"8 %\"", "interest.points", r#""8 %" is not a percentage such as 8.00"#),
    ];
    for (from, to, path, reason) in rows {
        let found = faults(from, to);
        assert_eq!(found[0], (format!("XX.rules.0.{path}"), reason.to_owned()));
    }
    let clash = faults("until: 2021-01-01", "until: 2021-01-02");
    assert_eq!(clash, [("XX.rules.1.from".to_owned(), "XX/one still holds for the same payers".to_owned())]);
    assert_eq!(faults("code: XX", "code: xx")[0].0, "XX.countries.0.code");
    assert_eq!(faults("    payers: [consumer]\n    from: 2020-01-01", "    payers: []\n    from: 2022-01-01").len(), 2);
    assert_eq!(faults("at_most: 1", "at_most: 1, per_day: 3").len(), 1, "an unknown key");
}

#[test]
fn nonsense_in_the_rates_is_named() {
    let parse = |rates: &str| {
        let text = format!("[{{ name: a, title: a, source: 'https://example.com', rates: {{ {rates} }} }}]");
        let (series, faults) = parse_rates(&text);
        (series.len(), faults.into_iter().map(|fault| (fault.path, fault.reason)).collect::<Vec<_>>())
    };
    assert_eq!(parse("2025-H2: '1.00', 2026-H1: '-0.88'"), (1, Vec::new()));
    for (rates, reason) in [
        ("2025-H1: '1.00', 2026-H1: '1.00'", "2026-H1 does not follow the half-year before it"),
        ("2025-H1: '1.00', 2026-H3: '1.00'", r#""2026-H3" is not a half-year such as 2026-H1"#),
        ("2025-H1: '1,00'", r#""1,00" is not a percentage such as 8.00"#),
        ("", "needs at least one half-year"),
    ] {
        assert_eq!(parse(rates).1[0], ("rates.a".to_owned(), reason.to_owned()), "{rates}");
    }
    let (_, faults) = parse_rates("[{ name: a, title: a, source: a book, rates: { 2025-H1: '1.00' } }]");
    assert_eq!(faults.len(), 1, "no address");
}

#[test]
fn percentages_are_written_as_read() {
    for (text, shown) in [("8.00", "8"), ("9.25", "9.25"), ("0.05", "0.05"), ("-0.88", "-0.88"), ("-0.50", "-0.50")] {
        assert_eq!(text.parse::<Percent>().unwrap().to_string(), shown);
    }
    for text in ["8", "8.5", "8.005", "--8.00", "8.-5", ".50x", ""] {
        assert!(text.parse::<Percent>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn interest_is_the_sum_of_its_days(
        cents in 1..1_000_000_000_i64,
        due in 0..1_900_i64, // the rates on file end in 2026
        days in 1..900_i64,
        country in 0..3_usize,
    ) {
        let country = ["NL", "FR", "GB"][country];
        let open = Money::new(cents, money("1.00 EUR").currency);
        let due_on = date("2019-03-01").checked_add(due.days()).unwrap();
        prop_assume!(country != "FR" || due_on >= date("2019-04-26"));
        let claim = Claim { open, due_on, reminders_sent: 0, last_reminded_on: None };
        let as_of = due_on.checked_add(days.days()).unwrap();
        let rules = of(country, Business, &claim);
        let interest = rules.interest.as_ref().unwrap();
        // Day by day, as a person would do it, in 3 650 000ths of a cent: nothing is rounded here.
        let exact: i128 = (1..=days)
            .map(|n| {
                let day = if country == "GB" { 1 } else { n };
                let rate = interest.series.rate(HalfYear::of(due_on.checked_add(day.days()).unwrap())).unwrap();
                i128::from(cents) * i128::from(rate.hundredths() + interest.points.hundredths())
            })
            .sum();
        let charged = charges(rules, INTEREST, &claim, as_of).charges.first().map_or(0, |c| i128::from(c.amount.minor));
        let twice_the_error = 2 * (charged * 3_650_000 - exact);
        prop_assert!((-3_650_000 < twice_the_error) && (twice_the_error <= 3_650_000), "{} for {}", charged, exact);
    }

    #[test]
    fn charges_come_to_an_end_for_any_claim(
        minor in any::<i64>(),
        due in -4_371_000..2_932_000_i64,
        as_of in -4_371_000..2_932_000_i64,
        reminders_sent in any::<u16>(),
        last in proptest::option::of(-4_371_000..2_932_000_i64),
    ) {
        let day = |n: i64| date("1970-01-01").checked_add(n.days()).unwrap();
        for rules in PACKS.iter().flat_map(|pack| &pack.rules) {
            let open = Money::new(minor, money("1.00 EUR").currency);
            let claim = Claim { open, due_on: day(due), reminders_sent, last_reminded_on: last.map(day) };
            let found = charges(rules, EVERYTHING, &claim, day(as_of));
            prop_assert!(found.charges.iter().all(|charge| charge.amount.minor > 0));
            prop_assert!(found.charges.is_empty() || (minor > 0 && as_of > due));
        }
    }
}
