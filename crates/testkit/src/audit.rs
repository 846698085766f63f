//! What really arrived, compared with what was really paid: nothing here comes from dunlin's own counters.

use crate::smtp::{Line, Mail};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A reminder accepted this long after the payment's 2xx was sent after the payment. Within it, the mail was on its way
/// already: no system can call it back.
pub const GRACE: SignedDuration = SignedDuration::from_secs(1);

/// When, in machine time, ingest had confirmed that nothing was owed on an invoice, and from when on it was again.
#[derive(Debug, Default)]
pub struct Payments(BTreeMap<String, Vec<Settled>>);

/// From when to when nothing was owed.
#[derive(Debug)]
struct Settled {
    from: Timestamp,
    to: Option<Timestamp>,
}

impl Payments {
    /// Nothing is owed from here on: the moment of the 2xx.
    pub fn closed(&mut self, invoice: &str, at: Timestamp) {
        let spans = self.0.entry(invoice.to_owned()).or_default();
        // Processors say it twice.
        if spans.last().is_none_or(|span| span.to.is_some()) {
            spans.push(Settled { from: at, to: None });
        }
    }

    /// Money is owed again, from the moment on at which ingest may have known.
    pub fn reopened(&mut self, invoice: &str, at: Timestamp) {
        if let Some(span) = self.0.get_mut(invoice).and_then(|spans| spans.last_mut()) {
            span.to = Some(at);
        }
    }

    /// How many invoices were paid at least once.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How long nothing had been owed when a mail was accepted; `None` if something was.
    fn paid_for(&self, invoice: &str, accepted_at: Timestamp) -> Option<SignedDuration> {
        let in_force = |span: &&Settled| span.from < accepted_at && span.to.is_none_or(|to| accepted_at < to);
        let span = self.0.get(invoice)?.iter().find(in_force)?;
        Some(accepted_at.duration_since(span.from))
    }
}

/// What arrived, and what should not have.
#[derive(Debug, Default)]
pub struct Audit {
    /// Mails that arrived.
    pub mails: usize,
    /// Invoices that they were about, counted per mail.
    pub lines: usize,
    /// Lines about an invoice that had been paid for more than [`GRACE`].
    pub after_payment: Vec<String>,
    /// The same, within [`GRACE`].
    pub within_grace: usize,
    /// Copies of a message, or of a step of an invoice, beyond the first.
    pub duplicates: Vec<String>,
}

impl Audit {
    /// Compares mail with payments.
    pub fn of(mails: &[Arc<Mail>], payments: &Payments) -> Self {
        let mut audit = Self { mails: mails.len(), ..Self::default() };
        let mut copies: BTreeMap<String, u32> = BTreeMap::new();
        for mail in mails {
            *copies.entry(format!("message {}", mail.headers("Message-ID").join(""))).or_default() += 1;
            for Line { invoice, epoch, step } in mail.lines() {
                audit.lines += 1;
                *copies.entry(format!("{invoice}/{epoch}/{step}")).or_default() += 1;
                match payments.paid_for(&invoice, mail.accepted_at) {
                    Some(since) if since > GRACE => {
                        audit
                            .after_payment
                            .push(format!("mail {} about {invoice}, paid {since:#} before", mail.number));
                    }
                    Some(_) => audit.within_grace += 1,
                    None => {}
                }
            }
        }
        audit.duplicates =
            copies.into_iter().filter(|(_, n)| *n > 1).map(|(what, n)| format!("{what}: {n} copies")).collect();
        audit
    }

    /// Whether nothing arrived that should not have.
    pub fn is_clean(&self) -> bool {
        self.after_payment.is_empty() && self.duplicates.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mail(id: &str, steps: &str, second: i64) -> Arc<Mail> {
        let data = format!("Message-ID: <{id}>\r\nDunlin-Steps: {steps}\r\n\r\n").into_bytes();
        Arc::new(Mail { number: 1, accepted_at: at(second), data, ..Mail::default() })
    }

    #[test]
    fn mail_after_the_payment_is_found_unless_money_is_owed_again() {
        let mut payments = Payments::default();
        payments.closed("in_1", at(100));
        payments.closed("in_1", at(105));
        payments.reopened("in_1", at(200));
        let audit = |second| Audit::of(&[mail("a", "in_1/1/overdue-3", second)], &payments);
        assert!(audit(99).is_clean() && audit(99).within_grace == 0);
        assert!(audit(101).is_clean() && audit(101).within_grace == 1);
        assert_eq!(audit(102).after_payment, ["mail 1 about in_1, paid 2s before"]);
        assert!(audit(201).is_clean());
    }

    #[test]
    fn copies_of_a_message_or_a_step_are_found() {
        let payments = Payments::default();
        let twice = [mail("a", "in_1/1/overdue-3", 1), mail("b", "in_1/1/overdue-3, in_2/1/overdue-3", 2)];
        assert_eq!(Audit::of(&twice, &payments).duplicates, ["in_1/1/overdue-3: 2 copies"]);
        let again = [mail("a", "in_1/1/overdue-3", 1), mail("a", "in_1/2/overdue-3", 2)];
        assert_eq!(Audit::of(&again, &payments).duplicates, ["message <a>: 2 copies"]);
    }
}
