//! Contact hours: on which weekdays, and between which times of a payer's own day, dunlin may write, and on which dates it
//! may not all the same.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};
use std::sync::Arc;

/// Why contact hours make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// No weekday at all: nothing could ever be sent.
    #[error("no weekday is open")]
    NoWeekday,
    /// The window closes before it opens.
    #[error("closes at {1} before it opens at {0}")]
    Empty(Minute, Minute),
    /// A minute beyond 24:00.
    #[error("minute {0} is beyond 24:00")]
    Minute(u16),
    /// A zone that the time zone database does not know.
    #[error("{0:?} is not a time zone such as Europe/Berlin")]
    Zone(String),
}

/// Looks a zone up by its IANA name.
pub fn zone(name: &str) -> Result<TimeZone, ContactError> {
    TimeZone::get(name).map_err(|_| ContactError::Zone(name.to_owned()))
}

/// A minute of a local day, 0 to 1440 (24:00, as the end of a window).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minute(u16);

impl Minute {
    /// Checks the number.
    pub const fn try_new(minute: u16) -> Result<Self, ContactError> {
        if minute > 1440 { Err(ContactError::Minute(minute)) } else { Ok(Self(minute)) }
    }

    /// Minutes since local midnight.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The moments at which a local clock shows this minute of `date`: two when the clock is set back over it. Where the
    /// clock is set forward over it, the first moment after that.
    fn on(self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let (date, minute) = if self.0 == 1440 { (date.tomorrow().ok()?, 0) } else { (date, self.0) };
        let time = Time::new((minute / 60) as i8, (minute % 60) as i8, 0, 0).ok()?;
        let moment = zone.to_ambiguous_timestamp(date.to_datetime(time));
        if let AmbiguousOffset::Gap { .. } = moment.offset() {
            let change = zone.following(moment.earlier().ok()?).next()?.timestamp();
            return Some((change, change));
        }
        Some((moment.earlier().ok()?, moment.later().ok()?))
    }
}

impl std::fmt::Display for Minute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl std::str::FromStr for Minute {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(h, m)| {
            let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
            (h <= 24 && m < 60 && text.len() == 5).then_some(h * 60 + m)
        });
        parsed.and_then(|m| Self::try_new(m).ok()).ok_or_else(|| format!("{text:?} is not a time of day such as 09:00"))
    }
}

/// A set of weekdays, one bit each, Monday lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Weekdays(u8);

impl Weekdays {
    /// Monday to Friday.
    pub const BUSINESS: Self = Self(0b001_1111);
    /// Every day.
    pub const ALL: Self = Self(0b111_1111);

    /// From the bits, Monday lowest; higher bits are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b111_1111)
    }

    /// The bits, Monday lowest.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether the day is in the set.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl FromIterator<Weekday> for Weekdays {
    fn from_iter<I: IntoIterator<Item = Weekday>>(days: I) -> Self {
        Self(days.into_iter().fold(0, |bits, day| bits | 1 << day.to_monday_zero_offset()))
    }
}

/// When a payer may be written to: weekdays and a span of the local day, in the payer's own zone, holidays left out.
#[derive(Debug, Clone, PartialEq)]
pub struct ContactHours {
    zone: TimeZone,
    weekdays: Weekdays,
    opens: Minute,
    closes: Minute,
    /// Sorted.
    closed: Arc<[Date]>,
}

/// How many days ahead an open one is looked for. Seven days hold one of each weekday; the rest is room for holidays and
/// for days that a zone change swallowed.
const LOOK_AHEAD_DAYS: i32 = 40;

/// One open window: from `opens` up to, but not including, `closes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First moment inside.
    pub opens: Timestamp,
    /// First moment after.
    pub closes: Timestamp,
}

impl ContactHours {
    /// Checks that the window can open at all.
    pub fn try_new(zone: TimeZone, weekdays: Weekdays, opens: Minute, closes: Minute) -> Result<Self, ContactError> {
        if weekdays.bits() == 0 {
            return Err(ContactError::NoWeekday);
        }
        if opens >= closes {
            return Err(ContactError::Empty(opens, closes));
        }
        Ok(Self { zone, weekdays, opens, closes, closed: Arc::default() })
    }

    /// The same hours, closed on these dates, in whatever order they come.
    pub fn with_closed(self, dates: impl Into<Arc<[Date]>>) -> Self {
        let mut closed = dates.into();
        if !closed.is_sorted() {
            let mut sorted = closed.to_vec();
            sorted.sort_unstable();
            closed = sorted.into();
        }
        Self { closed, ..self }
    }

    /// The same hours in another zone.
    pub fn in_zone(&self, zone: TimeZone) -> Self {
        Self { zone, ..self.clone() }
    }

    /// The same hours, but none before `opens` and none after `closes`; `None`: nothing is left.
    pub fn within(&self, opens: Minute, closes: Minute) -> Option<Self> {
        let (opens, closes) = (self.opens.max(opens), self.closes.min(closes));
        (opens < closes).then(|| Self { opens, closes, ..self.clone() })
    }

    /// The payer's zone.
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The open weekdays.
    pub const fn weekdays(&self) -> Weekdays {
        self.weekdays
    }

    /// Opening and closing minute of the local day.
    pub const fn span(&self) -> (Minute, Minute) {
        (self.opens, self.closes)
    }

    /// The dates on which it is closed all the same, sorted.
    pub fn closed(&self) -> &[Date] {
        &self.closed
    }

    /// The local date at a moment.
    pub fn date_at(&self, now: Timestamp) -> Date {
        self.zone.to_datetime(now).date()
    }

    /// The window of a local date, or `None` if that day is closed (or swallowed by a change of the zone, as
    /// Samoa's 30 December 2011 was).
    pub fn window_on(&self, date: Date) -> Option<Window> {
        if !self.weekdays.contains(date.weekday()) || self.closed.binary_search(&date).is_ok() {
            return None;
        }
        // When a clock is set back over the opening, it shows times before it once more; so the second time opens. When it is
        // set back over the closing, the first time closes, unless both are passed twice.
        let (_, opens) = self.opens.on(date, &self.zone)?;
        let (first, second) = self.closes.on(date, &self.zone)?;
        let window = Window { opens, closes: if first > opens { first } else { second } };
        (window.opens < window.closes && self.date_at(window.opens) == date).then_some(window)
    }

    /// The first window on or after a local date; `None` if all of the next 40 days are closed.
    pub fn window_from(&self, date: Date) -> Option<Window> {
        (0..LOOK_AHEAD_DAYS).find_map(|days| self.window_on(date.checked_add(days.days()).ok()?))
    }

    /// Whether the payer may be written to now.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.window_on(self.date_at(now)).is_some_and(|w| w.opens <= now && now < w.closes)
    }

    /// The first moment from `now` on at which the payer may be written to.
    pub fn next_open(&self, now: Timestamp) -> Option<Timestamp> {
        let today = self.date_at(now);
        match self.window_on(today) {
            Some(w) if now < w.closes => Some(now.max(w.opens)),
            _ => self.window_from(today.tomorrow().ok()?).map(|w| w.opens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hours(zone_name: &str) -> ContactHours {
        let (nine, six) = ("09:00".parse().unwrap(), "18:00".parse().unwrap());
        ContactHours::try_new(zone(zone_name).unwrap(), Weekdays::BUSINESS, nine, six).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn opens_in_the_payers_zone_on_weekdays_only() {
        let berlin = hours("Europe/Berlin");
        assert!(!berlin.is_open(at("2026-01-05T07:59:59Z")), "08:59 local");
        assert!(berlin.is_open(at("2026-01-05T08:00:00Z")), "09:00 local on a Monday");
        assert!(!berlin.is_open(at("2026-01-05T17:00:00Z")), "18:00 is closed already");
        assert!(!berlin.is_open(at("2026-01-04T10:00:00Z")), "a Sunday");
        assert_eq!(berlin.next_open(at("2026-01-03T10:00:00Z")), Some(at("2026-01-05T08:00:00Z")));
    }

    #[test]
    fn keeps_local_time_across_daylight_saving() {
        let berlin = hours("Europe/Berlin");
        assert_eq!(berlin.next_open(at("2026-03-27T20:00:00Z")), Some(at("2026-03-30T07:00:00Z")));
        let night = ContactHours::try_new(
            zone("Europe/Berlin").unwrap(),
            Weekdays::ALL,
            "02:30".parse().unwrap(),
            "04:00".parse().unwrap(),
        )
        .unwrap();
        let window = night.window_on("2026-03-29".parse().unwrap()).unwrap();
        assert_eq!(window.opens, at("2026-03-29T01:00:00Z"), "02:30 does not exist: 03:00 summer time");
        let window = night.window_on("2026-10-25".parse().unwrap()).unwrap();
        assert_eq!(window.opens, at("2026-10-25T01:30:00Z"), "02:00 comes once more after the first 02:30");
    }

    #[test]
    fn the_clock_on_the_wall_is_inside_whenever_it_is_open() {
        // Berlin sets it forward over 02:00 to 03:00 in March and back in October.
        for (opens, closes) in [("01:00", "02:30"), ("02:15", "02:45"), ("02:30", "03:15"), ("01:30", "03:30")] {
            let (opens, closes): (Minute, Minute) = (opens.parse().unwrap(), closes.parse().unwrap());
            let hours = ContactHours::try_new(zone("Europe/Berlin").unwrap(), Weekdays::ALL, opens, closes).unwrap();
            for midnight in [at("2026-03-28T23:00:00Z"), at("2026-10-24T22:00:00Z")] {
                for minute in 0..6 * 60_i64 {
                    let now = midnight.checked_add(minute.minutes()).unwrap();
                    let local = hours.zone().to_datetime(now);
                    let clock = Minute(local.hour() as u16 * 60 + local.minute() as u16);
                    assert!(!hours.is_open(now) || (opens <= clock && clock < closes), "{opens} to {closes}: {local}");
                }
            }
        }
    }

    #[test]
    fn hours_can_be_narrowed_but_not_widened() {
        let minute = |text: &str| text.parse::<Minute>().unwrap();
        let span = |opens, closes| hours("UTC").within(minute(opens), minute(closes)).map(|h| h.span());
        assert_eq!(span("08:00", "21:00"), Some((minute("09:00"), minute("18:00"))));
        assert_eq!(span("10:00", "12:00"), Some((minute("10:00"), minute("12:00"))));
        assert_eq!(span("18:00", "21:00"), None);
    }

    #[test]
    fn a_swallowed_day_is_closed() {
        let apia = hours("Pacific/Apia");
        assert_eq!(apia.window_from("2011-12-30".parse().unwrap()).map(|w| apia.date_at(w.opens)), {
            Some("2012-01-02".parse().unwrap())
        });
    }

    #[test]
    fn holidays_are_closed_however_many_in_a_row() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        let berlin = hours("Europe/Berlin").with_closed([date("2026-12-26"), date("2026-12-25")]);
        assert_eq!(berlin.closed(), [date("2026-12-25"), date("2026-12-26")]);
        assert_eq!(berlin.window_on(date("2026-12-25")), None, "a Friday");
        assert!(!berlin.is_open(at("2026-12-25T10:00:00Z")));
        assert_eq!(berlin.next_open(at("2026-12-24T20:00:00Z")), Some(at("2026-12-28T08:00:00Z")));
        assert_eq!(berlin.in_zone(zone("UTC").unwrap()).closed(), berlin.closed(), "in every zone");

        let closed_for = |days: i32| {
            let dates: Vec<Date> = (0..days).map(|n| date("2026-12-25").checked_add(n.days()).unwrap()).collect();
            hours("Europe/Berlin").with_closed(dates).next_open(at("2026-12-24T20:00:00Z"))
        };
        assert_eq!(closed_for(31), Some(at("2027-01-25T08:00:00Z")), "a whole month");
        assert_eq!(closed_for(400), None);
    }

    #[test]
    fn impossible_hours_are_refused() {
        let utc = || zone("UTC").unwrap();
        let m = |t: &str| t.parse::<Minute>().unwrap();
        assert!(ContactHours::try_new(utc(), Weekdays::from_bits(0), m("09:00"), m("18:00")).is_err());
        let error = ContactHours::try_new(utc(), Weekdays::ALL, m("18:00"), m("09:00")).unwrap_err();
        assert_eq!(error.to_string(), "closes at 09:00 before it opens at 18:00");
        assert!("9:00".parse::<Minute>().is_err() && "24:01".parse::<Minute>().is_err());
        assert_eq!(
            zone("Mars/Base").unwrap_err().to_string(),
            r#""Mars/Base" is not a time zone such as Europe/Berlin"#
        );
    }

    proptest! {
        #[test]
        fn next_open_is_open_and_not_early(
            second in 1_500_000_000_i64..2_000_000_000,
            zone_index in 0..6_usize,
            bits in 1..128_u8,
            opens in 0..1440_u16,
            length in 60..600_u16,
            closed in prop::collection::vec(-3..30_i32, 0..12),
        ) {
            let name = ["UTC", "Europe/London", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"][zone_index];
            let closes = Minute::try_new((opens + length).min(1440)).unwrap();
            prop_assume!(closes.get() - opens >= 60);
            let hours = ContactHours::try_new(zone(name).unwrap(), Weekdays::from_bits(bits), Minute::try_new(opens).unwrap(), closes).unwrap();
            let now = Timestamp::from_second(second).unwrap();
            let today = hours.date_at(now);
            let hours = hours.with_closed(closed.iter().map(|n| today.checked_add(n.days()).unwrap()).collect::<Vec<_>>());
            prop_assert!(hours.closed().is_sorted());
            prop_assert!(!hours.is_open(now) || !hours.closed().contains(&today));
            let open = hours.next_open(now).unwrap();
            prop_assert!(!hours.closed().contains(&hours.date_at(open)), "{} is closed", hours.date_at(open));
            prop_assert!(open >= now);
            prop_assert!(hours.is_open(open));
            prop_assert_eq!(hours.is_open(now), open == now);
        }
    }
}
