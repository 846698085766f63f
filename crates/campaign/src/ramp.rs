//! The ramp of late entries: switching a campaign on over an old ledger must not flood.

use crate::campaign::Campaign;
use jiff::civil::Date;
use kernel::contact::Weekdays;
use std::collections::BTreeMap;

/// Hands out days on which late invoices of one merchant begin: at most so many on each, in the order in which they come.
///
/// Days on which the campaign never writes are left out, else the entries of a weekend would all begin on Monday. Holidays
/// differ from payer to payer and are not: what falls on one waits for the day after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ramp {
    at_most: u32,
    weekdays: Weekdays,
    /// How many begin on each day.
    taken: BTreeMap<Date, u32>,
    /// From the first of these days on, none before the second has room: keeps long ramps from being searched anew.
    full: Option<(Date, Date)>,
}

impl Ramp {
    /// The ramp of a campaign; `None` if it has no limit.
    pub fn new(campaign: &Campaign) -> Option<Self> {
        Self::resume(campaign, [])
    }

    /// Goes on where another one stopped: with how many late invoices begin on each day already.
    pub fn resume(campaign: &Campaign, taken: impl IntoIterator<Item = (Date, u32)>) -> Option<Self> {
        let at_most = campaign.entry.at_most_per_day.filter(|n| *n > 0)?;
        let weekdays = campaign.hours.weekdays();
        Some(Self { at_most, weekdays, taken: taken.into_iter().collect(), full: None })
    }

    /// The first day from `today` on that has room, and takes one place of it.
    pub fn take(&mut self, today: Date) -> Date {
        let known = self.full.filter(|(from, free)| *from <= today && today <= *free);
        let (from, mut day) = known.unwrap_or((today, today));
        while !self.has_room(day) {
            // The end of all dates: better too many on it than none.
            let Ok(next) = day.tomorrow() else { break };
            day = next;
        }
        self.full = Some((from, day));
        *self.taken.entry(day).or_default() += 1;
        day
    }

    /// How many begin on each day.
    pub fn taken(&self) -> impl Iterator<Item = (Date, u32)> {
        self.taken.iter().map(|(day, n)| (*day, *n))
    }

    fn has_room(&self, day: Date) -> bool {
        self.weekdays.contains(day.weekday()) && self.taken.get(&day).is_none_or(|n| *n < self.at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::tests::{SAMPLE, parse};

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn campaign() -> Campaign {
        parse(&format!("entry: {{ at_most_per_day: 2 }}{SAMPLE}"))
    }

    #[test]
    fn no_day_gets_more_than_it_may_and_weekends_get_none() {
        let mut ramp = Ramp::new(&campaign()).unwrap();
        // From a Thursday on; the sample writes from Monday to Friday.
        let days: Vec<String> = (0..7).map(|_| ramp.take(date("2026-06-04")).to_string()).collect();
        assert_eq!(
            days,
            ["2026-06-04", "2026-06-04", "2026-06-05", "2026-06-05", "2026-06-08", "2026-06-08", "2026-06-09"]
        );
        assert_eq!(ramp.take(date("2026-06-01")), date("2026-06-01"), "an earlier day has room of its own");
        assert_eq!(ramp.take(date("2026-06-04")), date("2026-06-09"));
        assert_eq!(ramp.take(date("2026-06-09")), date("2026-06-10"));
    }

    #[test]
    fn goes_on_where_it_stopped() {
        let mut ramp = Ramp::new(&campaign()).unwrap();
        for _ in 0..3 {
            ramp.take(date("2026-06-04"));
        }
        let mut resumed = Ramp::resume(&campaign(), ramp.taken()).unwrap();
        for _ in 0..9 {
            assert_eq!(resumed.take(date("2026-06-04")), ramp.take(date("2026-06-04")));
        }
        assert!(resumed.taken().all(|(_, n)| n <= 2));
    }

    #[test]
    fn no_limit_is_no_ramp() {
        assert_eq!(Ramp::new(&crate::campaign::tests::sample()), None);
    }
}
