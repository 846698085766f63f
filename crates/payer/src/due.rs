//! The day on which an invoice is due for whoever pays it.

use jiff::ToSpan;
use jiff::civil::{Date, Weekday};

/// What is due on a weekend is due on the Monday after it: nobody can pay then. Holidays are not known here. Predictions count
/// days from this day, so whoever compares payments with them does so too.
pub fn roll(due_on: Date) -> Date {
    let days = match due_on.weekday() {
        Weekday::Saturday => 2,
        Weekday::Sunday => 1,
        _ => 0,
    };
    due_on.checked_add(days.days()).unwrap_or(due_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn a_weekend_is_over_on_monday() {
        let rolled: Vec<i8> = (5..=9).map(|day| roll(date(2026, 6, day)).day()).collect();
        assert_eq!(rolled, [5, 8, 8, 8, 9]);
        assert_eq!(roll(Date::MAX), Date::MAX, "there is no day after it");
    }
}
