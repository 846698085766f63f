use super::*;
use jiff::ToSpan;
use jiff::civil::Weekday::{self, Monday, Saturday, Sunday, Thursday};
use proptest::prelude::*;
use std::collections::BTreeSet;

const YEARS: std::ops::RangeInclusive<i16> = 2024..=2031;
const NAMES: [&str; 10] = ["DE", "DK", "FR", "GB", "GB-NIR", "GB-SCT", "NL", "NO", "TARGET2", "US"];

fn date(text: &str) -> Date {
    text.parse().unwrap()
}

fn calendar(name: &str) -> Arc<Calendar> {
    built_in(name).unwrap_or_else(|| panic!("{name} is not built in")).clone()
}

fn holidays(names: &[&str]) -> Holidays {
    names.iter().map(|name| calendar(name)).collect()
}

fn plus(date: Date, days: i64) -> Date {
    date.checked_add(days.days()).unwrap()
}

#[test]
fn every_file_parses() {
    for text in FILES {
        let calendar = Calendar::parse(text).unwrap();
        assert!(calendar.source().contains("https://"), "{} cites no page", calendar.name());
        assert!(YEARS.clone().all(|y| calendar.covers(Date::constant(y, 1, 1))), "{}", calendar.name());
        assert!(!calendar.covers(date("2023-12-31")) && !calendar.covers(date("2032-01-01")));
    }
    assert_eq!(built_in_names().collect::<Vec<_>>(), NAMES);
    assert!(built_in("XX").is_none());
}

/// Business days from a date, Monday to Friday.
#[test]
fn business_days_over_easter_and_over_the_year_end() {
    // In 2026 Good Friday is 3 April. In 2026 Christmas Day is a Friday, in 2027 a Saturday.
    let rows = [
        // Good Friday and Easter Monday: every state's holiday act.
        ("DE", "2026-04-01", 3, "2026-04-08"),
        ("DE", "2026-04-07", -1, "2026-04-02"),
        // Second Christmas Day is a Saturday and nothing replaces it.
        ("DE", "2026-12-23", 6, "2027-01-04"),
        // Maundy Thursday, Good Friday and Easter Monday (helligdage).
        ("DK", "2026-04-01", 3, "2026-04-09"),
        ("DK", "2026-12-23", 6, "2027-01-04"),
        // The fourth Friday after Easter was Great Prayer Day until 2023 (lov 214/2023).
        ("DK", "2024-04-25", 1, "2024-04-26"),
        // Good Friday is a working day; Easter Monday is not (Code du travail L3133-1).
        ("FR", "2026-04-01", 3, "2026-04-07"),
        // 26 December is a working day, here a Saturday.
        ("FR", "2026-12-23", 6, "2027-01-04"),
        // In 2025 it is a Friday: 24, 26, 29 December.
        ("FR", "2025-12-23", 3, "2025-12-29"),
        // Good Friday (common law) and Easter Monday (1971 Act, Schedule 1).
        ("GB", "2026-04-01", 3, "2026-04-08"),
        // Boxing Day is a Saturday: its substitute is Monday the 28th.
        ("GB", "2026-12-23", 6, "2027-01-05"),
        // Christmas Day is a Saturday, so 27 and 28 December are substitutes; New Year's Day 2028 too, so 3 January.
        ("GB", "2027-12-23", 7, "2028-01-06"),
        ("GB-NIR", "2026-04-01", 3, "2026-04-08"),
        ("GB-NIR", "2026-12-23", 6, "2027-01-05"),
        // St Patrick's Day 2024 is a Sunday (substitute 18 March); 12 July 2026 is one too (13 July).
        ("GB-NIR", "2024-03-15", 1, "2024-03-19"),
        ("GB-NIR", "2026-07-10", 1, "2026-07-14"),
        // Scotland works on Easter Monday.
        ("GB-SCT", "2026-04-01", 3, "2026-04-07"),
        // 2 January 2027 is a Saturday: its substitute is Monday the 4th, beside Boxing Day's on 28 December.
        ("GB-SCT", "2026-12-23", 6, "2027-01-06"),
        // 1 and 2 January 2028 are a Saturday and a Sunday: 3 and 4 January.
        ("GB-SCT", "2027-12-23", 7, "2028-01-07"),
        // Good Friday is put on a par with holidays (Algemene termijnenwet 3.2), Easter Monday is one (3.1).
        ("NL", "2026-04-01", 3, "2026-04-08"),
        ("NL", "2026-12-23", 6, "2027-01-04"),
        // 27 April 2025 is a Sunday: King's Day is Saturday the 26th, so Monday the 28th is open.
        ("NL", "2025-04-25", 1, "2025-04-28"),
        // Maundy Thursday, Good Friday and Easter Monday (helligdagsfredloven § 2).
        ("NO", "2026-04-01", 3, "2026-04-09"),
        ("NO", "2026-12-23", 6, "2027-01-04"),
        // ECB, 14 December 2000: Good Friday, Easter Monday, 25 and 26 December, 1 January.
        ("TARGET2", "2026-04-01", 3, "2026-04-08"),
        ("TARGET2", "2025-12-24", 1, "2025-12-29"),
        ("TARGET2", "2026-12-23", 6, "2027-01-04"),
        // 5 U.S.C. 6103 has no holiday at Easter.
        ("US", "2026-04-01", 3, "2026-04-06"),
        // The day after Christmas is none.
        ("US", "2025-12-24", 1, "2025-12-26"),
        ("US", "2026-12-23", 6, "2027-01-04"),
        // Christmas Day 2027 and New Year's Day 2028 are Saturdays: observed on the Fridays before (6103(b)).
        ("US", "2027-12-23", 7, "2028-01-05"),
    ];
    for (name, from, n, expected) in rows {
        let to = add_business_days(date(from), n, Weekdays::BUSINESS, &holidays(&[name]));
        assert_eq!(to, Some(date(expected)), "{name}: {n} business days from {from}");
    }
}

/// The anonymous Gregorian algorithm (Nature, 1876; Meeus, Astronomical Algorithms, chapter 8).
fn easter(year: i16) -> Date {
    let y = i32::from(year);
    let (a, b, c) = (y % 19, y / 100, y % 100);
    let g = (b - (b + 8) / 25 + 1) / 3;
    let h = (19 * a + b - b / 4 - g + 15) % 30;
    let l = (32 + 2 * (b % 4) + 2 * (c / 4) - h - c % 4) % 7;
    let m = (a + 11 * h + 22 * l) / 451;
    let sum = h + l - 7 * m + 114;
    Date::new(year, (sum / 31) as i8, (sum % 31 + 1) as i8).unwrap()
}

#[test]
fn easter_is_computed_right() {
    // As printed in the almanacs: the earliest and the latest of the last centuries, and the years before us.
    for text in ["1818-03-22", "1943-04-25", "2024-03-31", "2025-04-20", "2026-04-05", "2027-03-28", "2038-04-25"] {
        assert_eq!(easter(date(text).year()), date(text));
    }
}

const FEASTS: [(&str, i64); 7] = [
    ("Maundy Thursday", -3),
    ("Good Friday", -2),
    ("Easter Sunday", 0),
    ("Easter Monday", 1),
    ("Ascension Day", 39),
    ("Whit Sunday", 49),
    ("Whit Monday", 50),
];

#[test]
fn feasts_follow_easter_in_every_file() {
    for name in NAMES {
        let calendar = calendar(name);
        for (feast, offset) in FEASTS {
            let listed: Vec<Date> =
                calendar.days.iter().filter(|(_, name)| name.contains(feast)).map(|(day, _)| *day).collect();
            let computed: Vec<Date> = YEARS.map(|year| plus(easter(year), offset)).collect();
            assert!(listed.is_empty() || listed == computed, "{name}: {feast} is {listed:?}");
        }
    }
}

/// How a holiday's date comes about.
#[derive(Clone, Copy)]
enum Rule {
    Fixed(i8, i8),
    Easter(i64),
    /// The n-th weekday of a month, from its end if negative.
    Nth(i8, i8, Weekday),
    /// Of one year only.
    Once(i16, i8, i8),
}
use Rule::{Easter, Fixed, Nth, Once};

/// The rules of each calendar, from the laws that the files cite.
fn rules(name: &str) -> Vec<Rule> {
    let christmas = [Fixed(1, 1), Fixed(12, 25), Fixed(12, 26)];
    let bank = [Easter(-2), Nth(5, 1, Monday), Nth(5, -1, Monday)];
    let nordic = [-3, -2, 0, 1, 39, 49, 50].map(Easter);
    let more = |rules: &[Rule], others: &[Rule]| [&christmas[..], rules, others].concat();
    match name {
        "DE" => more(&[-2, 1, 39, 50].map(Easter), &[Fixed(5, 1), Fixed(10, 3)]),
        "DK" => more(&nordic, &[]),
        "FR" => [
            &[1, 39, 50].map(Easter)[..],
            &[(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)].map(|(m, d)| Fixed(m, d)),
        ]
        .concat(),
        "GB" => more(&bank, &[Easter(1), Nth(8, -1, Monday)]),
        "GB-NIR" => more(&bank, &[Easter(1), Nth(8, -1, Monday), Fixed(3, 17), Fixed(7, 12)]),
        "GB-SCT" => more(&bank, &[Nth(8, 1, Monday), Fixed(1, 2), Fixed(11, 30), Once(2026, 6, 15)]),
        "NL" => more(&[-2, 1, 39, 50].map(Easter), &[Fixed(4, 27), Fixed(5, 5)]),
        "NO" => more(&nordic, &[Fixed(5, 1), Fixed(5, 17)]),
        "TARGET2" => more(&[-2, 1].map(Easter), &[Fixed(5, 1)]),
        "US" => [
            &[(1, 1), (6, 19), (7, 4), (11, 11), (12, 25)].map(|(m, d)| Fixed(m, d))[..],
            &[Nth(1, 3, Monday), Nth(2, 3, Monday), Nth(5, -1, Monday), Nth(9, 1, Monday), Nth(10, 2, Monday)],
            &[Nth(11, 4, Thursday)],
        ]
        .concat(),
        other => panic!("no rules for {other}"),
    }
}

fn day_of(rule: Rule, year: i16) -> Option<Date> {
    Some(match rule {
        Fixed(month, day) => Date::new(year, month, day).unwrap(),
        Easter(offset) => plus(easter(year), offset),
        Nth(month, n, weekday) => {
            let first = Date::new(year, month, 1).unwrap();
            first.nth_weekday_of_month(n, weekday).unwrap()
        }
        Once(only, month, day) => return (only == year).then(|| Date::new(year, month, day).unwrap()),
    })
}

fn is_weekend(day: Date) -> bool {
    matches!(day.weekday(), Saturday | Sunday)
}

/// Where a country keeps a holiday that falls on `day`.
fn observed(name: &str, day: Date, taken: &BTreeSet<Date>) -> Date {
    match (name, day.weekday()) {
        ("US", Saturday) => plus(day, -1),
        ("US", Sunday) => plus(day, 1),
        // King's Day is never a Sunday.
        ("NL", Sunday) if (day.month(), day.day()) == (4, 27) => plus(day, -1),
        ("GB" | "GB-NIR" | "GB-SCT", Saturday | Sunday) => {
            (1..).map(|n| plus(day, n)).find(|d| !is_weekend(*d) && !taken.contains(d)).unwrap()
        }
        _ => day,
    }
}

#[test]
fn every_file_has_the_days_of_its_rules_and_no_others() {
    for name in NAMES {
        let mut computed = BTreeSet::new();
        // A year more: New Year's Day 2028 is observed in 2027.
        for year in 2024..=2032 {
            let mut days: Vec<Date> = rules(name).into_iter().filter_map(|rule| day_of(rule, year)).collect();
            days.sort_unstable_by_key(|day| (is_weekend(*day), *day));
            for day in days {
                computed.insert(observed(name, day, &computed));
            }
        }
        computed.retain(|day| YEARS.contains(&day.year()));
        let listed: BTreeSet<Date> = calendar(name).days.keys().copied().collect();
        let (extra, missing): (Vec<_>, Vec<_>) =
            (listed.difference(&computed).collect(), computed.difference(&listed).collect());
        assert!(extra.is_empty() && missing.is_empty(), "{name}: listed {extra:?}, not listed {missing:?}");
    }
}

#[test]
fn observed_days_are_never_on_a_weekend() {
    for name in ["GB", "GB-NIR", "GB-SCT", "US"] {
        for (day, holiday) in &calendar(name).days {
            assert!(!is_weekend(*day), "{name}: {holiday} on {day}");
        }
    }
    assert_eq!(calendar("US").holiday(date("2027-12-31")), Some("New Year's Day (observed)"));
    assert_eq!(calendar("GB").holiday(date("2027-12-28")), Some("Boxing Day (substitute day)"));
}

#[test]
fn bits_and_names_agree_on_every_day() {
    for name in NAMES {
        let calendar = calendar(name);
        let days = date("2023-12-01").series(1.day()).take_while(|day| day.year() < 2033);
        for day in days {
            assert_eq!(calendar.is_holiday(day), calendar.holiday(day).is_some(), "{name}: {day}");
        }
    }
}

const SAMPLE: &str = "
name: shop
title: The shop's own days
source: the shop
years:
  2026: [{ on: 2026-08-10, name: Works holiday }, { on: 2026-08-11, name: Works holiday }]
  2027: [{ on: 2027-08-09, name: Works holiday }]
";

fn faults(from: &str, to: &str) -> Vec<(String, String)> {
    let text = SAMPLE.replace(from, to);
    assert_ne!(text, SAMPLE, "{from:?} is not in the sample");
    Calendar::parse(&text).unwrap_err().into_iter().map(|f| (f.path, f.reason)).collect()
}

#[test]
fn nonsense_is_named_by_path_and_all_at_once() {
    assert!(Calendar::parse(SAMPLE).is_ok());
    let one = |path: &str, reason: &str| vec![(path.to_owned(), reason.to_owned())];
    assert_eq!(faults("source: the shop", "source: ''"), one("source", "is empty"));
    assert_eq!(faults("2027-08-09", "2028-08-09"), one("years.2027.0.on", "2028-08-09 is not in 2027"));
    assert_eq!(faults("2026-08-11", "2026-08-10"), one("years.2026.1.on", r#"2026-08-10 is "Works holiday" already"#));
    assert_eq!(faults("[{ on: 2027-08-09, name: Works holiday }]", "[]"), one("years.2027", "has no days"));
    assert_eq!(
        faults("2027: [{ on: 2027", "2029: [{ on: 2029"),
        one("years.2029", "follows 2026: the years between them are missing")
    );
    let several = SAMPLE.replace("name: shop", "name: ' '").replace("2027-08-09", "2026-08-10");
    let paths: Vec<String> = Calendar::parse(&several).unwrap_err().into_iter().map(|f| f.path).collect();
    assert_eq!(paths, ["name", "years.2027.0.on", "years.2027.0.on"]);
    let no_years = "{ name: a, title: a, source: a, years: {} }";
    assert_eq!(Calendar::parse(no_years).unwrap_err()[0].path, "years");
    assert_eq!(faults("title:", "titel:").len(), 1, "an unknown key");
    assert!(faults("2027-08-09", "2027-02-30")[0].1.contains("02-30"), "no such day");
}

#[test]
fn several_calendars_are_united() {
    let shop = Arc::new(Calendar::parse(SAMPLE).unwrap());
    let both: Holidays = [calendar("DE"), shop].into_iter().collect();
    assert!(both.is_closed(date("2026-08-10")) && both.is_closed(date("2026-10-03")));
    assert_eq!(both.name_of(date("2026-08-10")), Some("Works holiday"));
    assert_eq!((both.covers(date("2026-01-01")), both.missing_year(date("2026-01-01"))), (true, None));
    assert_eq!((both.covers(date("2025-01-01")), both.missing_year(date("2025-01-01"))), (false, Some("shop")));
    assert_eq!(both.missing_year(date("2040-01-01")), Some("DE"));
    let august = both.closed_between(date("2026-08-11"), date("2026-10-03"));
    assert_eq!(august, [date("2026-08-11"), date("2026-10-03")]);
    assert!(both.closed_between(date("2026-10-03"), date("2026-08-11")).is_empty());
    assert_eq!(holidays(&["DE", "TARGET2"]).closed_between(date("2026-01-01"), date("2026-01-31")).len(), 1);
    let none = Holidays::default();
    assert!(!none.is_closed(date("2026-12-25")) && none.covers(date("1900-01-01")));
}

#[test]
fn what_a_calendar_does_not_know_has_no_business_days() {
    let de = holidays(&["DE"]);
    let add = |from: &str, n, days: Weekdays, holidays: &Holidays| add_business_days(date(from), n, days, holidays);
    assert_eq!(add("2031-12-30", 1, Weekdays::BUSINESS, &de), Some(date("2031-12-31")));
    assert_eq!(add("2031-12-31", 1, Weekdays::BUSINESS, &de), None);
    assert_eq!(add("2024-01-02", -1, Weekdays::BUSINESS, &de), None);
    assert_eq!(add("2026-04-03", 0, Weekdays::BUSINESS, &de), Some(date("2026-04-03")), "itself, though a holiday");
    let none = Holidays::default();
    assert_eq!(add("2026-04-03", 1, Weekdays::from_bits(0), &none), None, "no open weekday");
    assert_eq!(add("9999-12-30", 5, Weekdays::BUSINESS, &none), None, "beyond the last date");
    assert_eq!(add("2026-04-03", i32::MIN, Weekdays::ALL, &none), None);
    assert_eq!(add("2026-04-03", i32::MAX, Weekdays::ALL, &none), None);
}

proptest! {
    #[test]
    fn business_days_are_open_monotone_and_inverse(
        day in 0..1_500_i64,
        n in 1..60_i32,
        bits in 1..128_u8,
        which in 0..NAMES.len(),
    ) {
        let from = plus(date("2025-06-01"), day);
        let (weekdays, holidays) = (Weekdays::from_bits(bits), holidays(&[NAMES[which]]));
        let add = |date, n| add_business_days(date, n, weekdays, &holidays);
        // One weekday a week for 60 weeks stays within the years on file, on both sides.
        let (after, before) = (add(from, n).unwrap(), add(from, -n).unwrap());
        prop_assert!(is_business_day(after, weekdays, &holidays) && is_business_day(before, weekdays, &holidays));
        prop_assert!(before < from && from < after);
        prop_assert!(add(from, n + 1).unwrap() > after, "a day more is later");
        prop_assert!(add(plus(from, 1), n).unwrap() >= after, "a later start is never earlier");
        prop_assert_eq!(add(after, 1), add(from, n + 1), "step by step");
        if is_business_day(from, weekdays, &holidays) {
            prop_assert_eq!(add(after, -n), Some(from));
            prop_assert_eq!(add(before, n), Some(from));
        }
    }
}
