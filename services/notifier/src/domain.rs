//! Whether a reminder may go out, and what a mail server's answer means. Pure.

use crate::inbound::status::{Fault, Status};
use crate::smtp::{Failure, Phase, Reply};
use events::InvoiceStatus;
use events::v1::{Reminder, ReminderDue, ReminderLine};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use kernel::contact::{Minute, Weekdays, zone};
use kernel::{ContactHours, Currency, InvoiceId, Masked, MerchantId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is owed on an invoice.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Balance {
    pub version: i64,
    pub epoch: i32,
    pub status: InvoiceStatus,
    pub disputed: bool,
    pub pending_since: Option<Timestamp>,
    pub currency: Currency,
    pub total_minor: i64,
    pub open_minor: i64,
    pub number: String,
    pub due_on: Option<Date>,
    pub failed_attempts: i32,
    pub pay_url: Masked<String>,
    pub document_url: Masked<String>,
    pub bill_to_name: Masked<String>,
    pub bill_to_email: Masked<String>,
}

/// Balances by merchant and invoice.
pub type Balances = BTreeMap<(MerchantId, InvoiceId), Balance>;

/// What may be said about a reminder's invoices now.
#[derive(Debug, Clone, PartialEq)]
pub enum Claims<'a> {
    /// These are still owed.
    Owed(Vec<(&'a ReminderLine, &'a Balance)>),
    /// The decision knew more than we do: our own feed of balances has to catch up first.
    Behind,
    /// Nothing is left to remind of.
    Nothing(&'static str),
}

/// Looks at the balances of a reminder's invoices.
///
/// A line counts only in the epoch that it was decided for, and only if we know the invoice at least as well as the
/// scheduler did when it decided.
pub fn claims<'a>(merchant: &MerchantId, reminder: &'a Reminder, balances: &'a Balances) -> Claims<'a> {
    let lines = &reminder.lines;
    let decided_at = reminder.reminder_id.parse().ok().and_then(kernel::id::time_of);
    let mut owed = Vec::with_capacity(lines.len());
    let mut reason = "closed";
    for line in lines {
        let Ok(invoice) = InvoiceId::try_new(&line.invoice_id) else { continue };
        let Some(balance) = balances.get(&(merchant.clone(), invoice)) else { return Claims::Behind };
        if balance.version < line.invoice_version {
            return Claims::Behind;
        }
        match balance.status {
            _ if balance.epoch != line.epoch => reason = "next_epoch",
            InvoiceStatus::Open if balance.disputed => reason = "disputed",
            // What the scheduler knew of when it decided has held for as long as it may.
            InvoiceStatus::Open
                if balance.pending_since.is_some_and(|since| decided_at.is_none_or(|at| since > at)) =>
            {
                reason = "pending_payment";
            }
            InvoiceStatus::Open => owed.push((line, balance)),
            InvoiceStatus::Paid => reason = "paid",
            InvoiceStatus::Void | InvoiceStatus::WrittenOff => reason = "closed",
        }
    }
    if owed.is_empty() { Claims::Nothing(reason) } else { Claims::Owed(owed) }
}

/// What a message says is owed: compared with the balances once more before the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Invoice, epoch and open amount, as rendered.
    pub lines: Vec<(InvoiceId, i32, i64)>,
}

impl Said {
    /// What a message about these claims says.
    pub fn of(owed: &[(&ReminderLine, &Balance)]) -> Self {
        let line = |(line, balance): &(&ReminderLine, &Balance)| {
            Some((InvoiceId::try_new(&line.invoice_id).ok()?, balance.epoch, balance.open_minor))
        };
        Self { lines: owed.iter().filter_map(line).collect() }
    }
}

/// The contact hours of a reminder, with its holidays.
pub fn contact_hours(request: &ReminderDue) -> Option<ContactHours> {
    let wire = request.contact_hours.as_ref()?;
    let minute = |m: u32| Minute::try_new(u16::try_from(m).ok()?).ok();
    let weekdays = Weekdays::from_bits(u8::try_from(wire.weekdays).ok()?);
    let closed: Option<Vec<Date>> = wire.closed_on.iter().map(|date| date.parse().ok()).collect();
    let (opens, closes) = (minute(wire.opens_minute)?, minute(wire.closes_minute)?);
    let hours = ContactHours::try_new(zone(&wire.time_zone).ok()?, weekdays, opens, closes).ok()?;
    Some(hours.with_closed(closed?))
}

/// How an attempt to hand over ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The mail server took it.
    Accepted(Reply),
    /// Not accepted; worth another try. `relay` says that the fault is the relay's or ours, not this mail's.
    Retry {
        /// For the log and the delivery.
        reason: String,
        /// Of the reply, if there was one.
        status_code: String,
        /// Every other mail would fail the same way.
        relay: bool,
    },
    /// Not accepted, and never will be.
    Failed {
        /// Machine-readable.
        reason: &'static str,
        /// Of the reply, if there was one.
        status_code: String,
        /// The address does not exist: nobody should write there again.
        bad_address: bool,
    },
    /// May have been accepted.
    Unknown,
}

impl Attempt {
    /// Reads a failure by how far the conversation had come: the phase table of RFC 5321's commands.
    ///
    /// | phase | 4xx | 5xx | broken off |
    /// |---|---|---|---|
    /// | connecting, STARTTLS, greeting, EHLO, AUTH | retry, the relay pauses | retry, the relay pauses | retry, the relay pauses |
    /// | MAIL | retry | retry, the relay pauses | retry |
    /// | RCPT | retry | failed; what says that there is no such mailbox suppresses the address | retry |
    /// | DATA, body | retry | failed | retry |
    /// | final dot | retry | failed | **unknown** |
    ///
    /// A 5xx about our own address is like one to MAIL, whenever it comes: no payer can do anything about it. A mail that the
    /// relay cannot carry has failed without being tried.
    pub fn of_failure(failure: &Failure) -> Self {
        const BAD_SENDER: [&str; 2] = ["5.1.7", "5.1.8"];
        match failure {
            Failure::Unfit { reason } => Self::Failed { reason, status_code: String::new(), bad_address: false },
            Failure::Broken { phase: Phase::Dot, .. } => Self::Unknown,
            Failure::Broken { phase, problem } => {
                Self::Retry { reason: problem.clone(), status_code: String::new(), relay: *phase < Phase::Mail }
            }
            Failure::Refused { phase, reply } => {
                let code = reply.enhanced.as_deref().unwrap_or_default();
                if reply.is_permanent() && *phase > Phase::Mail && !BAD_SENDER.contains(&code) {
                    let fault = Status::find(code).and_then(|status| status.fault());
                    let bad_address = *phase == Phase::Recipient && fault == Some(Fault::Address);
                    return Self::Failed { reason: "refused", status_code: reply.to_string(), bad_address };
                }
                let relay = *phase < Phase::Mail || reply.is_permanent();
                Self::Retry { reason: format!("refused at {phase:?}"), status_code: reply.to_string(), relay }
            }
        }
    }
}

/// When to try again after so many tries: 5, 10, 20, 40, 80 minutes, then every two hours. Greylisting often gives in
/// after five minutes.
pub fn next_attempt(now: Timestamp, tries: i32) -> Timestamp {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(0).min(5);
    let minutes = (5 * 2_i64.pow(doublings)).min(120);
    now.saturating_add(SignedDuration::from_mins(minutes)).unwrap_or(Timestamp::MAX)
}

/// How long to wait for ourselves, our database or our own feed of balances, when a delivery has been claimed so often:
/// 0.2 seconds, doubled up to 30.
pub fn catch_up(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(8);
    (Duration::from_millis(200) * 2_u32.pow(doublings)).min(Duration::from_secs(30))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn merchant() -> MerchantId {
        "acme".parse().unwrap()
    }

    pub(crate) fn balance(version: i64, open_minor: i64) -> Balance {
        Balance {
            version,
            epoch: 1,
            status: if open_minor > 0 { InvoiceStatus::Open } else { InvoiceStatus::Paid },
            disputed: false,
            pending_since: None,
            currency: "EUR".parse().unwrap(),
            total_minor: open_minor,
            open_minor,
            number: "R-1".to_owned(),
            due_on: None,
            failed_attempts: 0,
            pay_url: Masked::default(),
            document_url: Masked::default(),
            bill_to_name: Masked::default(),
            bill_to_email: Masked::default(),
        }
    }

    const DECIDED: &str = "2026-06-04T07:00:00Z";

    fn line(invoice: &str) -> ReminderLine {
        ReminderLine { invoice_id: invoice.to_owned(), epoch: 1, invoice_version: 2, ..Default::default() }
    }

    fn look(lines: &[ReminderLine], balances: &[(&str, Balance)]) -> Result<usize, &'static str> {
        let balances = balances.iter().map(|(i, b)| ((merchant(), i.parse().unwrap()), b.clone())).collect();
        let reminder_id = kernel::id::at(DECIDED.parse().unwrap()).to_string();
        let reminder = Reminder { lines: lines.to_vec(), reminder_id, ..Default::default() };
        match claims(&merchant(), &reminder, &balances) {
            Claims::Owed(owed) => Ok(owed.len()),
            Claims::Behind => Err("behind"),
            Claims::Nothing(reason) => Err(reason),
        }
    }

    #[test]
    fn only_what_is_owed_is_claimed() {
        let lines = [line("a"), line("b")];
        assert_eq!(look(&lines, &[("a", balance(2, 100)), ("b", balance(3, 100))]), Ok(2));
        assert_eq!(look(&lines, &[("a", balance(2, 100)), ("b", balance(3, 0))]), Ok(1));
        assert_eq!(look(&lines, &[("a", balance(2, 0)), ("b", balance(3, 0))]), Err("paid"));
        let disputed = Balance { disputed: true, ..balance(2, 100) };
        assert_eq!(look(&lines[..1], &[("a", disputed)]), Err("disputed"));
        let pending = |since: &str| Balance { pending_since: Some(since.parse().unwrap()), ..balance(2, 100) };
        let since = look(&lines[..1], &[("a", pending("2026-06-04T07:00:01Z"))]);
        assert_eq!(since, Err("pending_payment"), "it set out after the decision");
        assert_eq!(look(&lines[..1], &[("a", pending("2026-05-20T07:00:00Z"))]), Ok(1), "it has held long enough");
        let reopened = Balance { epoch: 2, ..balance(2, 100) };
        assert_eq!(look(&lines[..1], &[("a", reopened)]), Err("next_epoch"), "that debt has a case of its own");
        let void = Balance { status: InvoiceStatus::Void, ..balance(2, 0) };
        assert_eq!(look(&lines[..1], &[("a", void)]), Err("closed"));
    }

    #[test]
    fn knowing_less_than_the_scheduler_means_waiting() {
        assert_eq!(look(&[line("a")], &[]), Err("behind"));
        assert_eq!(look(&[line("a")], &[("a", balance(1, 100))]), Err("behind"));
    }

    fn refused(phase: Phase, code: u16, enhanced: &str) -> Attempt {
        let enhanced = (!enhanced.is_empty()).then(|| enhanced.to_owned());
        Attempt::of_failure(&Failure::Refused { phase, reply: Reply { code, enhanced, text: Masked::default() } })
    }

    #[test]
    fn the_phase_table_holds() {
        let failed = |attempt: &Attempt| matches!(attempt, Attempt::Failed { bad_address: false, .. });
        let retry =
            |attempt: &Attempt, of_relay: bool| matches!(attempt, Attempt::Retry { relay, .. } if *relay == of_relay);
        for phase in [Phase::Tls, Phase::Hello, Phase::Auth, Phase::Mail] {
            assert!(retry(&refused(phase, 421, "4.3.2"), phase != Phase::Mail), "at MAIL it may be about this mail");
            assert!(retry(&refused(phase, 550, "5.7.1"), true), "our fault or the relay's, not the payer's");
        }
        for code in ["5.1.7", "5.1.8"] {
            assert!(retry(&refused(Phase::Recipient, 550, code), true), "{code} is about our own address");
        }
        for phase in [Phase::Recipient, Phase::Data, Phase::Dot] {
            assert!(retry(&refused(phase, 451, "4.7.1"), false));
            assert!(failed(&refused(phase, 554, "5.7.1")));
        }
        for code in ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"] {
            assert!(
                matches!(refused(Phase::Recipient, 550, code), Attempt::Failed { bad_address: true, .. }),
                "{code}"
            );
        }
        assert!(failed(&refused(Phase::Recipient, 552, "5.2.2")), "a full mailbox is no bad address");
        assert!(failed(&refused(Phase::Recipient, 550, "5.1.0")), "other address status: may be anybody's");
        assert!(failed(&refused(Phase::Recipient, 550, "")), "without a code we do not know");
        let early = [Phase::Connect, Phase::Tls, Phase::Hello, Phase::Auth];
        for phase in early.into_iter().chain([Phase::Mail, Phase::Recipient, Phase::Data, Phase::Body]) {
            let broken = Attempt::of_failure(&Failure::Broken { phase, problem: "reset".into() });
            assert!(retry(&broken, early.contains(&phase)), "{phase:?}");
        }
        let unfit = Attempt::of_failure(&Failure::Unfit { reason: "smtputf8" });
        assert!(failed(&unfit) && matches!(unfit, Attempt::Failed { reason: "smtputf8", .. }));
        let dot = Attempt::of_failure(&Failure::Broken { phase: Phase::Dot, problem: "reset".into() });
        assert_eq!(dot, Attempt::Unknown, "may have been accepted");
    }

    #[test]
    fn retries_back_off() {
        let now = Timestamp::UNIX_EPOCH;
        let minutes = |n| next_attempt(now, n).duration_since(now).as_mins();
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 50].map(minutes), [5, 10, 20, 40, 80, 120, 120, 120]);
        let pause = |n| catch_up(n).as_millis();
        assert_eq!([0, 1, 2, 3, 8, 9, 1_000].map(pause), [200, 200, 400, 800, 25_600, 30_000, 30_000]);
    }
}
