//! Between the wire's moments and dates and ours.

use jiff::Timestamp;
use jiff::civil::Date;

/// A moment for the wire.
pub fn to_wire(moment: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() }
}

/// A moment from the wire; `None` if it is unset or beyond what a calendar can show.
pub fn from_wire(moment: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    moment.and_then(|m| Timestamp::new(m.seconds, m.nanos).ok())
}

/// A civil date for the wire; empty for none.
pub fn date_to_wire(date: Option<Date>) -> String {
    date.map(|d| d.to_string()).unwrap_or_default()
}

/// A civil date from the wire: empty is none, anything but YYYY-MM-DD an error.
pub fn date_from_wire(date: &str) -> Result<Option<Date>, jiff::Error> {
    if date.is_empty() { Ok(None) } else { date.parse().map(Some) }
}
