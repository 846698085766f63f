//! What is said about an invoice, and what follows from it. Pure.
//!
//! Processors repeat themselves and deliver out of order. So an invoice's state is not changed event by event: the facts
//! are collected as a set, and the state is a function of the set. Whatever order the same facts come in, and however
//! often, the state is the same; only the changes on the way differ.

use events::{Customer, Invoice, InvoiceStatus, Malformed};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{Currency, CustomerId, InvoiceId, Masked, MerchantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A fact with the moment it tells of and the sender's id of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// When it happened, as the sender tells.
    pub at: Timestamp,
    /// The sender's id; the same id is the same fact.
    pub id: String,
    /// What happened.
    pub fact: Fact,
}

impl Stamped {
    /// Whether it describes the invoice itself.
    pub const fn is_snapshot(&self) -> bool {
        matches!(self.fact, Fact::Snapshot(_))
    }

    /// Why the fact cannot be about the invoice that `facts` know, if it cannot.
    pub fn misfit(&self, facts: &Facts) -> Option<Malformed> {
        let (Fact::Payment { currency, .. }, Some(owed)) = (&self.fact, facts.currency()) else { return None };
        (*currency != owed)
            .then(|| Malformed::new("payment.currency", format!("is {currency}, but the invoice is in {owed}")))
    }
}

/// Something that happened to an invoice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// How the invoice looked at that moment.
    Snapshot(Box<Snapshot>),
    /// The processor says that it is paid in full.
    Paid {
        /// When, if it tells.
        paid_at: Option<Timestamp>,
        /// Said because of the payment itself, not by the way: only this closes an epoch after the first, since a
        /// processor goes on calling a charged-back invoice paid.
        certain: bool,
    },
    /// Money arrived that the snapshots do not count.
    Payment {
        /// The sender's id of the payment.
        payment: String,
        /// In minor units.
        amount_minor: i64,
        /// Must be the invoice's: a payment in another one counts nothing.
        currency: Currency,
    },
    /// Collecting failed.
    Failure {
        /// The processor's reason.
        decline_code: String,
        /// The processor's own count of attempts, if it counts.
        attempt: Option<i32>,
    },
    /// Money that had arrived is gone.
    Reversal {
        /// The sender's id of the reversal; the largest amount said under it counts.
        reversal: String,
        /// Why.
        kind: ReversalKind,
        /// In minor units.
        amount_minor: i64,
    },
    /// The merchant ended it without payment.
    Closure(Closure),
    /// The payer contests the charge, or no longer does.
    Dispute {
        /// The sender's id of the dispute.
        dispute: String,
        /// True when it begins, false when it ends.
        open: bool,
    },
    /// The processor calls it overdue.
    OverdueHint,
}

/// How an invoice looks to its sender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in dunlin.events.v1.Invoice, unless said otherwise")]
pub struct Snapshot {
    pub customer: CustomerId,
    pub number: String,
    pub currency: Currency,
    pub total_minor: i64,
    /// What the sender counts as paid or credited.
    pub paid_minor: i64,
    pub issued_on: Date,
    pub due_on: Option<Date>,
    /// Not issued yet: other services must not hear of it.
    pub draft: bool,
    pub pay_url: Masked<String>,
    pub bill_to_name: Masked<String>,
    pub bill_to_email: Masked<String>,
}

impl Snapshot {
    /// What cannot be true of any invoice. `prefix` is what the sender calls the place of these fields.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.total_minor < 0 {
            return Err(Malformed::new(
                "total",
                format!("{} is negative; an invoice asks for money", self.total_minor),
            ));
        }
        if self.paid_minor < 0 {
            return Err(Malformed::new("paid", format!("{} is negative", self.paid_minor)));
        }
        match self.due_on {
            Some(due) if due < self.issued_on => {
                Err(Malformed::new("due_on", format!("{due} lies before the date of issue, {}", self.issued_on)))
            }
            _ => Ok(()),
        }
    }
}

/// Why money is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReversalKind {
    /// The payer's bank took it back: a new epoch.
    Chargeback,
    /// A payment that had counted failed afterwards: a new epoch.
    LateFailure,
    /// The merchant gave it back: nothing is owed.
    Refund,
}

impl ReversalKind {
    const fn begins_epoch(self) -> bool {
        matches!(self, Self::Chargeback | Self::LateFailure)
    }
}

/// How an invoice ends without payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Closure {
    /// Taken back.
    Voided,
    /// Given up.
    WrittenOff,
}

/// The set of facts about one invoice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The latest snapshot; of two at the same moment the one with more money paid, then the greater id.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<(Timestamp, String, Box<Snapshot>)>,
    /// "Paid" said by the way: the earliest time is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_hint: Option<Timestamp>,
    /// "Paid" said because of a payment.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    paid: BTreeSet<Timestamp>,
    /// By payment id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    payments: BTreeMap<String, (Timestamp, i64, Currency)>,
    /// By fact id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failures: BTreeMap<String, (Timestamp, String, Option<i32>)>,
    /// By reversal id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reversals: BTreeMap<String, (Timestamp, ReversalKind, i64)>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    closures: BTreeSet<(Timestamp, Closure)>,
    /// By dispute id: whether its beginning and its end were said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    disputes: BTreeMap<String, (bool, bool)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    overdue_hint: bool,
}

impl Facts {
    /// Adds a fact to the set. Adding it twice is adding it once; the order of adding does not matter.
    pub fn add(&mut self, Stamped { at, id, fact }: Stamped) {
        match fact {
            Fact::Snapshot(new) => {
                let newer = self
                    .snapshot
                    .as_ref()
                    .is_none_or(|(old_at, old_id, old)| (at, new.paid_minor, &id) > (*old_at, old.paid_minor, old_id));
                if newer {
                    self.snapshot = Some((at, id, new));
                }
            }
            Fact::Paid { paid_at, certain: true } => _ = self.paid.insert(paid_at.unwrap_or(at)),
            Fact::Paid { paid_at, certain: false } => {
                let said = paid_at.unwrap_or(at);
                self.paid_hint = Some(self.paid_hint.map_or(said, |known| known.min(said)));
            }
            Fact::Payment { payment, amount_minor, currency } => {
                let known = self.payments.entry(payment).or_insert((at, amount_minor, currency));
                *known = (known.0.min(at), known.1.max(amount_minor), known.2.max(currency));
            }
            Fact::Failure { decline_code, attempt } => _ = self.failures.insert(id, (at, decline_code, attempt)),
            Fact::Reversal { reversal, kind, amount_minor } => {
                // One reversal may be told in growing amounts (partial refunds of one charge). Its first moment counts.
                let known = self.reversals.entry(reversal).or_insert((at, kind, amount_minor));
                known.0 = known.0.min(at);
                known.2 = known.2.max(amount_minor);
            }
            Fact::Closure(closure) => _ = self.closures.insert((at, closure)),
            Fact::Dispute { dispute, open } => {
                let known = self.disputes.entry(dispute).or_default();
                if open {
                    known.0 = true;
                } else {
                    known.1 = true;
                }
            }
            Fact::OverdueHint => self.overdue_hint = true,
        }
    }

    /// The currency of the invoice, once it is known.
    pub fn currency(&self) -> Option<Currency> {
        self.snapshot.as_ref().map(|(_, _, details)| details.currency)
    }

    /// The invoice that the facts make, or `None` while no snapshot of an issued invoice is among them.
    pub fn fold(&self, merchant: &MerchantId, invoice: &InvoiceId, version: i64) -> Option<Invoice> {
        let (snapshot_at, _, details) = self.snapshot.as_ref()?;
        if details.draft {
            return None;
        }
        let lost = || self.reversals.values().filter(|(_, kind, _)| kind.begins_epoch());
        let epoch = 1 + i32::try_from(lost().count()).unwrap_or(i32::MAX - 1);
        let epoch_began_at = lost().map(|(at, ..)| *at).max();
        let in_epoch = |at: Timestamp| epoch_began_at.is_none_or(|began| at > began);

        let payments = || self.payments.values().filter(|(.., currency)| *currency == details.currency);
        let paid: i64 = details.paid_minor + payments().map(|(_, amount, _)| amount).sum::<i64>();
        let reversed: i64 = lost().map(|(_, _, amount)| amount).sum();
        let owed = (details.total_minor - paid + reversed).clamp(0, details.total_minor);

        let said_paid = self.paid.iter().copied().filter(|at| in_epoch(*at)).min();
        let said_paid = if epoch == 1 { said_paid.or(self.paid_hint) } else { said_paid };
        let closure = self.closures.iter().copied().find(|(at, _)| in_epoch(*at));
        let last_payment = payments().map(|(at, ..)| *at).max();
        let (status, closed_at) = match (said_paid, closure) {
            (Some(at), _) => (InvoiceStatus::Paid, Some(at)),
            (None, _) if owed == 0 => (InvoiceStatus::Paid, Some(last_payment.unwrap_or(*snapshot_at))),
            (None, Some((at, Closure::Voided))) => (InvoiceStatus::Void, Some(at)),
            (None, Some((at, Closure::WrittenOff))) => (InvoiceStatus::WrittenOff, Some(at)),
            (None, None) => (InvoiceStatus::Open, None),
        };

        let failures = || self.failures.values().filter(|(at, ..)| in_epoch(*at));
        let counted = i32::try_from(failures().count()).unwrap_or(i32::MAX);
        // The processor's own number also counts attempts that we never heard of; it does not start again in a new epoch.
        let numbered = if epoch == 1 { failures().filter_map(|(_, _, n)| *n).max().unwrap_or(0) } else { 0 };
        Some(Invoice {
            merchant: merchant.clone(),
            invoice: invoice.clone(),
            customer: details.customer.clone(),
            version,
            epoch,
            epoch_began_at,
            status,
            number: details.number.clone(),
            currency: details.currency,
            total_minor: details.total_minor,
            open_minor: if status == InvoiceStatus::Open { owed } else { 0 },
            issued_on: details.issued_on,
            due_on: details.due_on,
            closed_at,
            disputed: self.disputes.values().any(|(begun, ended)| *begun && !*ended),
            overdue_hint: self.overdue_hint,
            failed_attempts: counted.max(numbered),
            last_failed_at: failures().map(|(at, ..)| *at).max(),
            pay_url: details.pay_url.clone(),
            bill_to_name: details.bill_to_name.clone(),
            bill_to_email: details.bill_to_email.clone(),
        })
    }
}

/// What other services have to hear about a change of the facts.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The invoice became payable.
    Issued,
    /// The debt fell by a payment.
    PaymentReceived {
        /// By how much.
        amount_minor: i64,
        /// When.
        paid_at: Timestamp,
    },
    /// Collecting failed.
    PaymentFailed {
        /// Why.
        decline_code: String,
        /// When.
        failed_at: Timestamp,
    },
    /// Money is gone.
    PaymentReversed {
        /// Why.
        kind: ReversalKind,
        /// How much.
        amount_minor: i64,
        /// When.
        reversed_at: Timestamp,
    },
    /// Voided or written off.
    Closed,
    /// Anything else.
    Changed,
}

/// Compares two states of an invoice. `at` is the moment of the latest news, for payments that tell no time.
pub fn changes(before: (&Facts, Option<&Invoice>), after: (&Facts, &Invoice), at: Timestamp) -> Vec<Change> {
    let ((old_facts, old), (new_facts, new)) = (before, after);
    let mut changes = Vec::new();
    let Some(old) = old else {
        changes.push(Change::Issued);
        if new.status == InvoiceStatus::Paid {
            let paid_at = new.closed_at.unwrap_or(at);
            changes.push(Change::PaymentReceived { amount_minor: new.total_minor, paid_at });
        }
        return changes;
    };
    for (id, (reversed_at, kind, amount_minor)) in &new_facts.reversals {
        let told = old_facts.reversals.get(id).map_or(0, |(_, _, amount)| *amount);
        if *amount_minor > told {
            let amount_minor = amount_minor - told;
            changes.push(Change::PaymentReversed { kind: *kind, amount_minor, reversed_at: *reversed_at });
        }
    }
    for (id, (failed_at, decline_code, _)) in &new_facts.failures {
        if !old_facts.failures.contains_key(id) {
            changes.push(Change::PaymentFailed { decline_code: decline_code.clone(), failed_at: *failed_at });
        }
    }
    let same_epoch = old.epoch == new.epoch;
    let newly_paid = new.status == InvoiceStatus::Paid && (old.status != InvoiceStatus::Paid || !same_epoch);
    if newly_paid
        || (same_epoch && new.status == InvoiceStatus::Open && new.open_minor < old.open_minor && !repriced(old, new))
    {
        let last_payment = new_facts.payments.values().map(|(at, ..)| *at).max();
        let paid_at = new.closed_at.or(last_payment).unwrap_or(at);
        changes.push(Change::PaymentReceived { amount_minor: old.open_minor - new.open_minor, paid_at });
    }
    let gone = |i: &Invoice| matches!(i.status, InvoiceStatus::Void | InvoiceStatus::WrittenOff);
    if gone(new) && old.status != new.status {
        changes.push(Change::Closed);
    }
    let same = Invoice { version: old.version, ..new.clone() } == *old;
    if changes.is_empty() && !same {
        changes.push(Change::Changed);
    }
    changes
}

/// The total itself changed: a smaller debt need not be a payment.
fn repriced(old: &Invoice, new: &Invoice) -> bool {
    old.total_minor != new.total_minor
}

/// What is known about a customer: the latest fact holds; of two at the same moment a deletion, then the greater id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomerFacts {
    /// When it was said.
    pub at: Timestamp,
    /// The sender's id of the fact.
    pub id: String,
    /// Nobody is left to write to.
    pub deleted: bool,
    /// The name to greet.
    pub name: Masked<String>,
    /// The address to write to.
    pub email: Masked<String>,
    /// IANA zone, or empty.
    pub time_zone: String,
    /// BCP 47 language, or empty.
    pub locale: String,
}

impl CustomerFacts {
    /// Whether this is said later than another.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.at, self.deleted, &self.id) > (other.at, other.deleted, &other.id)
    }

    /// The snapshot for events.
    pub fn snapshot(&self, merchant: &MerchantId, customer: &CustomerId, version: i64) -> Customer {
        Customer {
            merchant: merchant.clone(),
            customer: customer.clone(),
            version,
            name: self.name.clone(),
            email: self.email.clone(),
            time_zone: self.time_zone.clone(),
            locale: self.locale.clone(),
            deleted: self.deleted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn eur() -> Currency {
        Currency::try_new("EUR").unwrap()
    }

    fn snapshot(paid_minor: i64) -> Box<Snapshot> {
        Box::new(Snapshot {
            customer: CustomerId::try_new("cus_1").unwrap(),
            number: "R-1".to_owned(),
            currency: eur(),
            total_minor: 1_000,
            paid_minor,
            issued_on: "2026-01-01".parse().unwrap(),
            due_on: Some("2026-01-31".parse().unwrap()),
            draft: false,
            pay_url: Masked::default(),
            bill_to_name: Masked::default(),
            bill_to_email: Masked::default(),
        })
    }

    fn stamped(second: i64, fact: Fact) -> Stamped {
        Stamped { at: at(second), id: format!("evt_{second}"), fact }
    }

    fn fold(facts: &Facts) -> Option<Invoice> {
        facts.fold(&MerchantId::try_new("acme").unwrap(), &InvoiceId::try_new("in_1").unwrap(), 1)
    }

    fn facts(list: &[Stamped]) -> Facts {
        let mut facts = Facts::default();
        list.iter().cloned().for_each(|f| facts.add(f));
        facts
    }

    #[test]
    fn a_payment_before_its_invoice_counts_when_the_invoice_comes() {
        let payment = stamped(1, Fact::Payment { payment: "p1".into(), amount_minor: 400, currency: eur() });
        let early = facts(std::slice::from_ref(&payment));
        assert_eq!(fold(&early), None, "nothing to tell about an unknown invoice");
        let both = facts(&[payment, stamped(2, Fact::Snapshot(snapshot(0)))]);
        assert_eq!(fold(&both).unwrap().open_minor, 600);
    }

    #[test]
    fn money_of_another_currency_pays_nothing() {
        let foreign = Fact::Payment { payment: "p".into(), amount_minor: 1_000, currency: "USD".parse().unwrap() };
        let both = facts(&[stamped(1, foreign), stamped(2, Fact::Snapshot(snapshot(0)))]);
        assert_eq!(fold(&both).unwrap().open_minor, 1_000);
    }

    #[test]
    fn a_late_old_snapshot_does_not_win() {
        let new = stamped(9, Fact::Snapshot(snapshot(700)));
        let old = stamped(2, Fact::Snapshot(snapshot(0)));
        assert_eq!(fold(&facts(&[new, old])).unwrap().open_minor, 300);
    }

    #[test]
    fn paid_absorbs_until_a_chargeback_opens_the_next_epoch() {
        let mut list = vec![
            stamped(1, Fact::Snapshot(snapshot(0))),
            stamped(2, Fact::Paid { paid_at: None, certain: true }),
            stamped(3, Fact::Failure { decline_code: "late news".into(), attempt: Some(1) }),
        ];
        let paid = fold(&facts(&list)).unwrap();
        assert_eq!((paid.status, paid.epoch, paid.open_minor), (InvoiceStatus::Paid, 1, 0));

        list.push(stamped(5, Fact::Snapshot(snapshot(1_000))));
        list.push(stamped(
            6,
            Fact::Reversal { reversal: "dp_1".into(), kind: ReversalKind::Chargeback, amount_minor: 1_000 },
        ));
        // The processor still calls it paid, by the way.
        list.push(stamped(7, Fact::Paid { paid_at: Some(at(2)), certain: false }));
        let reopened = fold(&facts(&list)).unwrap();
        assert_eq!((reopened.status, reopened.epoch, reopened.open_minor), (InvoiceStatus::Open, 2, 1_000));
        assert_eq!(reopened.failed_attempts, 0, "failures of the first epoch are over");

        list.push(stamped(8, Fact::Payment { payment: "p2".into(), amount_minor: 1_000, currency: eur() }));
        let settled = fold(&facts(&list)).unwrap();
        assert_eq!((settled.status, settled.epoch, settled.closed_at), (InvoiceStatus::Paid, 2, Some(at(8))));
    }

    #[test]
    fn a_refund_owes_nothing() {
        let list = [
            stamped(1, Fact::Snapshot(snapshot(1_000))),
            stamped(2, Fact::Reversal { reversal: "ch_1".into(), kind: ReversalKind::Refund, amount_minor: 1_000 }),
        ];
        let invoice = fold(&facts(&list)).unwrap();
        assert_eq!((invoice.status, invoice.epoch), (InvoiceStatus::Paid, 1));
    }

    #[test]
    fn disputes_hold_while_they_last_and_their_end_may_come_first() {
        let begun = stamped(2, Fact::Dispute { dispute: "dp".into(), open: true });
        let ended = stamped(3, Fact::Dispute { dispute: "dp".into(), open: false });
        let base = stamped(1, Fact::Snapshot(snapshot(0)));
        assert!(fold(&facts(&[base.clone(), begun.clone()])).unwrap().disputed);
        assert!(!fold(&facts(&[base, ended, begun])).unwrap().disputed);
    }

    #[test]
    fn drafts_are_nobodys_business() {
        let mut draft = snapshot(0);
        draft.draft = true;
        assert_eq!(fold(&facts(&[stamped(1, Fact::Snapshot(draft))])), None);
    }

    #[test]
    fn changes_say_what_happened() {
        let before = facts(&[stamped(1, Fact::Snapshot(snapshot(0)))]);
        let step = |fact: Fact| {
            let mut after = before.clone();
            after.add(stamped(5, fact));
            let new = fold(&after).unwrap();
            changes((&before, fold(&before).as_ref()), (&after, &new), at(5))
        };
        assert_eq!(changes((&Facts::default(), None), (&before, &fold(&before).unwrap()), at(1)), [Change::Issued]);
        assert_eq!(
            step(Fact::Snapshot(snapshot(400))),
            [Change::PaymentReceived { amount_minor: 400, paid_at: at(5) }],
            "a partial payment shows in the next snapshot"
        );
        assert_eq!(
            step(Fact::Paid { paid_at: Some(at(4)), certain: true }),
            [Change::PaymentReceived { amount_minor: 1_000, paid_at: at(4) }]
        );
        assert_eq!(step(Fact::Closure(Closure::Voided)), [Change::Closed]);
        assert_eq!(
            step(Fact::Failure { decline_code: "no_money".into(), attempt: Some(2) }),
            [Change::PaymentFailed { decline_code: "no_money".into(), failed_at: at(5) }]
        );
        assert_eq!(step(Fact::Dispute { dispute: "d".into(), open: true }), [Change::Changed]);
        assert_eq!(step(Fact::Snapshot(snapshot(0))), [], "the same again is no news");
        let mut cheaper = snapshot(0);
        cheaper.total_minor = 500;
        assert_eq!(step(Fact::Snapshot(cheaper)), [Change::Changed], "a lower price is no payment");
    }

    fn any_fact() -> impl Strategy<Value = Stamped> {
        let fact = prop_oneof![
            (0..=1_000_i64, any::<bool>()).prop_map(|(paid, draft)| {
                let mut s = snapshot(paid);
                s.draft = draft;
                Fact::Snapshot(s)
            }),
            (prop::option::of(0..50_i64), any::<bool>())
                .prop_map(|(paid_at, certain)| Fact::Paid { paid_at: paid_at.map(at), certain }),
            (0..3_u8, 1..600_i64, any::<bool>()).prop_map(|(p, amount_minor, foreign)| Fact::Payment {
                payment: format!("p{p}"),
                amount_minor,
                currency: if foreign { Currency::try_new("USD").unwrap() } else { eur() },
            }),
            (0..3_i32).prop_map(|n| Fact::Failure { decline_code: "x".into(), attempt: Some(n) }),
            (0..2_u8, 1..600_i64, any::<bool>()).prop_map(|(r, amount_minor, refund)| Fact::Reversal {
                reversal: format!("r{r}{refund}"),
                kind: if refund { ReversalKind::Refund } else { ReversalKind::Chargeback },
                amount_minor
            }),
            any::<bool>().prop_map(|v| Fact::Closure(if v { Closure::Voided } else { Closure::WrittenOff })),
            (0..2_u8, any::<bool>()).prop_map(|(d, open)| Fact::Dispute { dispute: format!("d{d}"), open }),
            Just(Fact::OverdueHint),
        ];
        (0..50_i64, 0..1_000_u32, fact).prop_map(|(second, n, fact)| Stamped {
            at: at(second),
            id: format!("evt_{n}"),
            fact,
        })
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(
            list in prop::collection::vec(any_fact(), 1..14),
            shuffle in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            // An id names one fact.
            let mut seen = BTreeSet::new();
            let list: Vec<_> = list.into_iter().filter(|f| seen.insert(f.id.clone())).collect();
            let ordered = facts(&list);
            let mut shuffled = Facts::default();
            for index in &shuffle {
                shuffled.add(index.get(&list).clone());
            }
            list.iter().rev().cloned().for_each(|f| shuffled.add(f));
            prop_assert_eq!(fold(&shuffled), fold(&ordered));
            let stored: Facts = serde_json::from_str(&serde_json::to_string(&shuffled).unwrap()).unwrap();
            prop_assert_eq!(fold(&stored), fold(&ordered), "storing loses nothing");
        }

        #[test]
        fn what_is_open_is_never_more_than_billed_nor_negative(list in prop::collection::vec(any_fact(), 1..14)) {
            if let Some(invoice) = fold(&facts(&list)) {
                prop_assert!((0..=invoice.total_minor).contains(&invoice.open_minor));
                prop_assert_eq!(invoice.open_minor > 0, invoice.status == InvoiceStatus::Open);
                prop_assert_eq!(invoice.closed_at.is_some(), invoice.status != InvoiceStatus::Open);
            }
        }
    }
}
