//! Reference rates by half-year.

use jiff::civil::Date;
use std::fmt;

/// Hundredths of a percent: interest is computed without floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(i32);

impl Percent {
    /// So many hundredths of a percent.
    pub const fn from_hundredths(hundredths: i32) -> Self {
        Self(hundredths)
    }

    /// Hundredths of a percent, also known as basis points.
    pub const fn hundredths(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        match (self.0.unsigned_abs() / 100, self.0.unsigned_abs() % 100) {
            (whole, 0) => write!(f, "{sign}{whole}"),
            (whole, rest) => write!(f, "{sign}{whole}.{rest:02}"),
        }
    }
}

impl std::str::FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let parsed = digits.split_once('.').and_then(|(whole, rest)| {
            let all_digits = [whole, rest].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
            (all_digits && whole.len() < 4 && rest.len() == 2).then(|| format!("{whole}{rest}").parse::<i32>().ok())?
        });
        let hundredths = parsed.ok_or_else(|| format!("{text:?} is not a percentage such as 8.00"))?;
        Ok(Self(if digits == text { hundredths } else { -hundredths }))
    }
}

/// Half a calendar year, the time for which a reference rate holds. `Display` writes `2026-H1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HalfYear {
    year: i16,
    second: bool,
}

impl HalfYear {
    /// The half-year of a date.
    pub fn of(date: Date) -> Self {
        Self { year: date.year(), second: date.month() > 6 }
    }

    /// How many half-years lie between this and a later one.
    fn distance_to(self, later: Self) -> Option<usize> {
        let index = |half: Self| i32::from(half.year) * 2 + i32::from(half.second);
        usize::try_from(index(later) - index(self)).ok()
    }
}

/// The last day of a date's half-year.
pub(super) fn last_day(date: Date) -> Date {
    // Every year that has a date has a 30 June.
    if date.month() > 6 { date.last_of_year() } else { Date::constant(date.year(), 6, 30) }
}

impl fmt::Display for HalfYear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-H{}", self.year, if self.second { 2 } else { 1 })
    }
}

impl std::str::FromStr for HalfYear {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once("-H").and_then(|(year, half)| {
            let second = match half {
                "1" => false,
                "2" => true,
                _ => return None,
            };
            (year.len() == 4).then(|| year.parse().ok().map(|year| Self { year, second }))?
        });
        parsed.ok_or_else(|| format!("{text:?} is not a half-year such as 2026-H1"))
    }
}

/// A reference rate through the years.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    name: String,
    title: String,
    source: String,
    first: HalfYear,
    /// One for each half-year from the first on.
    rates: Vec<Percent>,
}

impl Series {
    /// Takes rates in order; says which half-year is out of order.
    pub(super) fn try_new(
        name: String,
        title: String,
        source: String,
        rates: &[(HalfYear, Percent)],
    ) -> Result<Self, String> {
        let (first, _) = *rates.first().ok_or("needs at least one half-year")?;
        for (n, (half, _)) in rates.iter().enumerate() {
            if first.distance_to(*half) != Some(n) {
                return Err(format!("{half} does not follow the half-year before it"));
            }
        }
        Ok(Self { name, title, source, first, rates: rates.iter().map(|(_, rate)| *rate).collect() })
    }

    /// What packs call it, such as `ecb`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What people call it.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Where the rates can be read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The rate of a half-year, if it is on file.
    pub fn rate(&self, half: HalfYear) -> Option<Percent> {
        self.rates.get(self.first.distance_to(half)?).copied()
    }
}
