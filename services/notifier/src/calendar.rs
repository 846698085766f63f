//! A calendar entry for a due date: RFC 5545, published as RFC 5546 has it. Nobody is invited, nothing is answered.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use std::fmt::Write;

/// A day to be marked.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Stays the same: a later one of the same invoice takes its place.
    pub uid: String,
    /// The whole day.
    pub day: Date,
    /// What it is about.
    pub title: String,
    /// Where to pay.
    pub url: Option<String>,
}

/// The file.
pub fn file(entries: &[Entry], now: Timestamp) -> String {
    let mut file =
        String::from("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//dunlin//reminders//EN\r\nMETHOD:PUBLISH\r\n");
    for entry in entries {
        let day = |date: Date| date.strftime("%Y%m%d").to_string();
        line(&mut file, "BEGIN:VEVENT");
        line(&mut file, &format!("UID:{}", entry.uid));
        line(&mut file, &format!("DTSTAMP:{}", now.strftime("%Y%m%dT%H%M%SZ")));
        line(&mut file, &format!("DTSTART;VALUE=DATE:{}", day(entry.day)));
        line(&mut file, &format!("DTEND;VALUE=DATE:{}", day(entry.day.saturating_add(1.day()))));
        line(&mut file, &format!("SUMMARY:{}", escaped(&entry.title)));
        if let Some(url) = &entry.url {
            line(&mut file, &format!("URL:{url}"));
        }
        line(&mut file, "TRANSP:TRANSPARENT");
        line(&mut file, "END:VEVENT");
    }
    line(&mut file, "END:VCALENDAR");
    file
}

/// RFC 5545 section 3.3.11.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | ';' | ',' => _ = write!(escaped, "\\{c}"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// RFC 5545 section 3.1: at most 75 bytes, and what follows begins with a space.
fn line(file: &mut String, line: &str) {
    let mut length = 0;
    for c in line.chars() {
        if length + c.len_utf8() > 74 {
            file.push_str("\r\n ");
            length = 0;
        }
        file.push(c);
        length += c.len_utf8();
    }
    file.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_whole_days_and_lines_are_short() {
        let entry = Entry {
            uid: "case-1@acme.example".to_owned(),
            day: "2026-06-30".parse().unwrap(),
            title: "Rechnung 1; 2, \\ von Ä\r\nEND:VCALENDAR wird fällig: 1.234,50 €, und so weiter und so fort"
                .to_owned(),
            url: Some("https://pay.example.com/p/1".to_owned()),
        };
        let file = file(&[entry], "2026-06-10T08:00:00Z".parse().unwrap());
        assert!(file.lines().all(|line| line.len() <= 75), "{file}");
        let unfolded = file.replace("\r\n ", "");
        for expected in [
            "METHOD:PUBLISH\r\n",
            "DTSTAMP:20260610T080000Z\r\nDTSTART;VALUE=DATE:20260630\r\nDTEND;VALUE=DATE:20260701\r\n",
            "SUMMARY:Rechnung 1\\; 2\\, \\\\ von Ä  END:VCALENDAR wird fällig: 1.234\\,50 €\\, und so weiter und so fort\r\nURL:",
        ] {
            assert!(unfolded.contains(expected), "{expected:?} is missing in {unfolded}");
        }
        assert_eq!(file.matches("\r\nEND:VCALENDAR\r\n").count(), 1);
    }
}
