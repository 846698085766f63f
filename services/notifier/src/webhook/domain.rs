//! Whether a call is still to be made, and what the answer to it means. Pure.

use crate::domain::Balance;
use events::InvoiceStatus;
use jiff::{SignedDuration, Timestamp};
use std::fmt;

/// Whether an invoice is still owed in the epoch whose sequence has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// It is.
    Yes,
    /// The scheduler knew more than we do: our own feed of balances has to catch up first.
    Behind,
    /// Nobody should act on it now, but perhaps later.
    NotNow(&'static str),
    /// No more.
    No(&'static str),
}

/// Looks at an invoice's balance by the rule of reminders, but for disputes: a reminder is dropped then, and the next step
/// speaks; here there is no next step, so the call waits.
pub fn still_owed(balance: Option<&Balance>, epoch: i32, version: i64) -> Owed {
    let Some(balance) = balance.filter(|b| b.version >= version && b.epoch >= epoch) else { return Owed::Behind };
    match balance.status {
        _ if balance.epoch != epoch => Owed::No("next_epoch"),
        InvoiceStatus::Open if balance.disputed => Owed::NotNow("disputed"),
        InvoiceStatus::Open => Owed::Yes,
        InvoiceStatus::Paid => Owed::No("paid"),
        InvoiceStatus::Void | InvoiceStatus::WrittenOff => Owed::No("closed"),
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With an answer.
    Status {
        /// HTTP's.
        code: u16,
        /// How long the merchant's system asks us to wait.
        retry_after: Option<SignedDuration>,
    },
    /// Without one, and why.
    Broken(String),
}

/// What is kept of it, and shown.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, .. } => write!(f, "status {code}"),
            Self::Broken(problem) => f.write_str(problem),
        }
    }
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The merchant's system has it.
    Delivered,
    /// It is given up, for this reason.
    Failed(&'static str),
    /// Another try.
    Retry {
        /// In business time.
        after: SignedDuration,
        /// What the merchant's system asked for, in its own time.
        asked: SignedDuration,
    },
}

impl Outcome {
    /// For metrics and spans.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed(_) => "failed",
            Self::Retry { .. } => "retry",
        }
    }
}

/// How long to wait after each call in vain: the schedule of Standard Webhooks, three days in all.
const SCHEDULE: [SignedDuration; 9] = [
    SignedDuration::from_secs(5),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(30),
    SignedDuration::from_hours(2),
    SignedDuration::from_hours(5),
    SignedDuration::from_hours(10),
    SignedDuration::from_hours(14),
    SignedDuration::from_hours(20),
    SignedDuration::from_hours(24),
];

/// The longest that a merchant's system may ask us to wait.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(24);

/// What an answer means after so many calls in vain. 410 says that nobody listens there any more, and never will.
pub fn outcome(answer: &Answer, tries: i32) -> Outcome {
    let asked = match answer {
        Answer::Status { code: 200..=299, .. } => return Outcome::Delivered,
        Answer::Status { code: 410, .. } => return Outcome::Failed("gone"),
        Answer::Status { retry_after, .. } => retry_after.unwrap_or_default().min(LONGEST_WAIT),
        Answer::Broken(_) => SignedDuration::ZERO,
    };
    match usize::try_from(tries).ok().and_then(|tries| SCHEDULE.get(tries)) {
        Some(after) => Outcome::Retry { after: (*after).max(asked), asked },
        None => Outcome::Failed("expired"),
    }
}

/// Reads `Retry-After`: seconds, or a date. `now` is the machine's.
pub fn retry_after(header: &str, now: Timestamp) -> Option<SignedDuration> {
    if let Ok(seconds) = header.trim().parse::<u32>() {
        return Some(SignedDuration::from_secs(seconds.into()));
    }
    let date = jiff::fmt::rfc2822::parse(header.trim()).ok()?;
    Some(date.timestamp().duration_since(now).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::balance;

    #[test]
    fn only_what_is_owed_in_that_epoch_is_told() {
        let look = |balance: Balance| still_owed(Some(&balance), 1, 2);
        assert_eq!(still_owed(None, 1, 0), Owed::Behind);
        assert_eq!(look(balance(1, 100)), Owed::Behind);
        assert_eq!(still_owed(Some(&balance(9, 100)), 2, 0), Owed::Behind, "that epoch has not reached us");
        assert_eq!(look(balance(2, 100)), Owed::Yes);
        assert_eq!(look(balance(3, 0)), Owed::No("paid"));
        assert_eq!(look(Balance { disputed: true, ..balance(2, 100) }), Owed::NotNow("disputed"));
        assert_eq!(look(Balance { disputed: true, ..balance(2, 0) }), Owed::No("paid"));
        assert_eq!(look(Balance { epoch: 2, ..balance(3, 100) }), Owed::No("next_epoch"));
        for status in [InvoiceStatus::Void, InvoiceStatus::WrittenOff] {
            assert_eq!(look(Balance { status, ..balance(2, 0) }), Owed::No("closed"));
        }
    }

    fn after(code: u16, tries: i32) -> Outcome {
        outcome(&Answer::Status { code, retry_after: None }, tries)
    }

    #[test]
    fn the_schedule_is_that_of_the_standard() {
        let seconds = |tries| match after(500, tries) {
            Outcome::Retry { after, .. } => after.as_secs(),
            _ => 0,
        };
        let expected = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, 0];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(seconds), expected);
        assert_eq!(after(500, 9), Outcome::Failed("expired"));
        assert_eq!(outcome(&Answer::Broken("reset".into()), 9), Outcome::Failed("expired"));
    }

    #[test]
    fn statuses_mean_what_the_standard_says() {
        for code in [200, 202, 204, 299] {
            assert_eq!(after(code, 0), Outcome::Delivered, "{code}");
        }
        for code in [301, 307, 400, 401, 404, 429, 500, 503] {
            assert!(matches!(after(code, 0), Outcome::Retry { .. }), "{code}: a redirect is not followed");
        }
        assert_eq!(after(410, 0), Outcome::Failed("gone"));
    }

    #[test]
    fn what_is_asked_for_is_honoured_up_to_a_day() {
        let asks = |seconds| {
            let retry_after = Some(SignedDuration::from_secs(seconds));
            match outcome(&Answer::Status { code: 503, retry_after }, 1) {
                Outcome::Retry { after, .. } => after.as_secs(),
                _ => 0,
            }
        };
        assert_eq!([1, 300, 3_600, 86_400, 1_000_000].map(asks), [300, 300, 3_600, 86_400, 86_400]);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now: Timestamp = "2026-06-10T08:00:00Z".parse().unwrap();
        for (header, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 10 Jun 2026 08:01:30 GMT", Some(90)),
            ("Wed, 10 Jun 2026 07:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(header, now).map(|d| d.as_secs()), expected, "{header:?}");
        }
    }
}
