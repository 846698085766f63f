//! A simulated world: payers with habits, and a payment processor that tells Stripe-shaped stories about them.
//!
//! Everything is decided by hashes of names, so that every run lives through the same world. The payers are simulated:
//! their habits are made up to exercise dunlin, not measured on anybody.

use crate::stripe::{self, Invoice};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use runtime::Merchant;
use serde_json::Value;

/// How somebody pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Pays before the due date by itself.
    Prompt,
    /// Forgets, and pays when reminded.
    Forgetful,
    /// Pays a week late whatever we say.
    Slow,
    /// Pays half when reminded, and the rest a week later.
    Tight,
    /// Has a card that fails; pays when told so.
    Card,
    /// Does not pay.
    Never,
}

/// A customer of a merchant.
#[derive(Debug, Clone)]
pub struct Payer {
    /// The processor's id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Address.
    pub email: String,
    /// Index of the merchant.
    pub merchant: usize,
    /// How it pays.
    pub habit: Habit,
    /// Own time zone, if the processor knows it.
    pub time_zone: Option<&'static str>,
}

/// An invoice, and whose it is.
#[derive(Debug, Clone)]
pub struct Bill {
    /// As the processor sees it.
    pub invoice: Invoice,
    /// Index of the payer.
    pub payer: usize,
    /// The date to pay by, where the merchant is.
    pub due_on: Option<Date>,
}

/// Something that happens in the world.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// A payer appears.
    Arrive(usize),
    /// An invoice is issued.
    Issue(usize),
    /// A payer pays an amount, or what is left.
    Pay(usize, Option<i64>),
    /// The processor fails to charge a card.
    Fail(usize),
    /// The merchant takes an invoice back.
    Void(usize),
    /// A payer contests a charge.
    Dispute(usize),
    /// The bank decides for the payer.
    LoseDispute(usize),
}

/// The world.
pub struct World {
    /// Who is there.
    pub merchants: Vec<Merchant>,
    /// All customers.
    pub payers: Vec<Payer>,
    /// All invoices.
    pub bills: Vec<Bill>,
    events: u64,
}

const FIRST: [&str; 20] = [
    "Ada", "Ben", "Chloé", "Deniz", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kofi", "Lena", "Mats", "Noor",
    "Olga", "Paul", "Quentin", "Rosa", "Sven", "Tara",
];
const LAST: [&str; 20] = [
    "Almeida",
    "Brandt",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "García",
    "Haas",
    "Ivanova",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moretti",
    "Nowak",
    "Okafor",
    "Petrov",
    "Quist",
    "Rossi",
    "Schmidt",
    "Tanaka",
];

/// The share of paid invoices whose payers contest the charge and win: `chance(invoice, "dispute")` below it.
pub const DISPUTES: f64 = 0.008;

/// A number between 0 and 1 that depends on the names only.
pub fn chance(of: &str, what: &str) -> f64 {
    (kernel::id::stable_hash(&["world", of, what]) >> 11) as f64 / (1_u64 << 53) as f64
}

fn between(of: &str, what: &str, from: f64, to: f64) -> f64 {
    from + (to - from) * chance(of, what)
}

fn days(days: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(days * 86_400.0).unwrap_or_default()
}

impl World {
    /// Merchants with customers and invoices over `span` days from `start`.
    pub fn new(merchants: Vec<Merchant>, customers: usize, invoices: usize, start: Timestamp, span: f64) -> Self {
        let mut world = Self { merchants, payers: Vec::new(), bills: Vec::new(), events: 0 };
        for n in 0..customers {
            let payer = world.payer(n);
            world.payers.push(payer);
        }
        // Each customer is billed again and again; the last time early enough for the story to end.
        let spacing = (span - 24.0) / invoices.div_ceil(customers) as f64;
        for n in 0..invoices {
            let bill = world.bill(n, customers, start, spacing);
            world.bills.push(bill);
        }
        world
    }

    fn payer(&self, n: usize) -> Payer {
        let merchant = n % self.merchants.len().max(1);
        let id = format!("cus_{}_{n:04}", self.merchant_id(merchant));
        let pick = |list: &[&'static str], what| {
            let index = (chance(&id, what) * list.len() as f64) as usize;
            list.get(index).copied().unwrap_or_default()
        };
        let (first, last) = (pick(&FIRST, "first"), pick(&LAST, "last"));
        let habit = match chance(&id, "habit") {
            x if x < 0.55 => Habit::Prompt,
            x if x < 0.75 => Habit::Forgetful,
            x if x < 0.85 => Habit::Slow,
            x if x < 0.92 => Habit::Tight,
            x if x < 0.97 => Habit::Card,
            _ => Habit::Never,
        };
        let zones = [None, None, None, Some("Europe/Lisbon"), Some("Asia/Tokyo"), Some("America/Denver")];
        let time_zone = zones.get((chance(&id, "zone") * zones.len() as f64) as usize).copied().flatten();
        Payer { name: format!("{first} {last}"), email: format!("{id}@payers.example"), merchant, habit, time_zone, id }
    }

    fn bill(&self, n: usize, customers: usize, start: Timestamp, spacing: f64) -> Bill {
        let payer = &self.payers[n % customers];
        let merchant = payer.merchant;
        let slug = self.merchant_id(merchant);
        let id = format!("in_{slug}_{n:05}");
        let round = (n / customers) as f64 + between(&id, "round", 0.1, 0.9);
        let issued_at = start.saturating_add(days(round * spacing)).unwrap_or(start);
        let term = if chance(&id, "term") < 0.7 { 14 } else { 7 };
        let zone = self.merchants[merchant].zone.clone();
        let due_on = zone.to_datetime(issued_at).date().checked_add(term.days()).ok();
        let card = payer.habit == Habit::Card;
        let due_on = due_on.filter(|_| !card);
        let due_at = due_on.and_then(|due| due.at(12, 0, 0, 0).to_zoned(zone).ok()).map(|z| z.timestamp());
        let invoice = Invoice {
            number: format!("{}-{n:05}", slug.to_uppercase()),
            currency: if merchant == 0 { "eur" } else { "usd" },
            total_minor: (between(&id, "amount", 20.0, 1_800.0) * 100.0) as i64,
            name: payer.name.clone(),
            email: payer.email.clone(),
            ..Invoice::draft(&id, &payer.id, issued_at, due_at)
        };
        Bill { invoice, payer: n % customers, due_on }
    }

    fn merchant_id(&self, merchant: usize) -> &str {
        self.merchants[merchant].id.as_str()
    }

    /// The merchant that a deed is about.
    pub fn merchant_of(&self, deed: &Deed) -> usize {
        let payer = match *deed {
            Deed::Arrive(payer) => payer,
            Deed::Issue(bill) | Deed::Pay(bill, _) | Deed::Fail(bill) | Deed::Void(bill) => self.bills[bill].payer,
            Deed::Dispute(bill) | Deed::LoseDispute(bill) => self.bills[bill].payer,
        };
        self.payers[payer].merchant
    }

    /// What happens without anybody reminding anybody, in no particular order.
    pub fn course(&self, start: Timestamp) -> Vec<(Timestamp, Deed)> {
        let mut deeds: Vec<_> = (0..self.payers.len()).map(|n| (start, Deed::Arrive(n))).collect();
        for (n, bill) in self.bills.iter().enumerate() {
            let id = bill.invoice.id.as_str();
            let issued_at = bill.invoice.issued_at;
            deeds.push((issued_at, Deed::Issue(n)));
            let later = |d: f64| issued_at.saturating_add(days(d)).unwrap_or(issued_at);
            let term = if chance(id, "term") < 0.7 { 14.0 } else { 7.0 };
            if chance(id, "void") < 0.01 {
                deeds.push((later(term * 0.6), Deed::Void(n)));
                continue;
            }
            match self.payers[bill.payer].habit {
                Habit::Prompt => deeds.push((later(between(id, "pay", 0.5, term - 0.5)), Deed::Pay(n, None))),
                Habit::Slow => deeds.push((later(term + between(id, "pay", 2.0, 12.0)), Deed::Pay(n, None))),
                Habit::Forgetful if chance(id, "remembers") < 0.5 => {
                    deeds.push((later(term + between(id, "pay", -4.0, 9.0)), Deed::Pay(n, None)));
                }
                Habit::Card => deeds.extend([0.1, 3.1, 5.1].map(|d| (later(d), Deed::Fail(n)))),
                Habit::Forgetful | Habit::Tight | Habit::Never => {}
            }
        }
        deeds
    }

    /// What a payer does upon a reminder about an invoice at a moment.
    pub fn answer(&self, bill: usize, reminder: &str, now: Timestamp) -> Vec<(Timestamp, Deed)> {
        let b = &self.bills[bill];
        if b.invoice.status != "open" {
            return Vec::new();
        }
        let soon = |what, from, to| now.saturating_add(days(between(reminder, what, from, to))).unwrap_or(now);
        let willing = chance(reminder, &b.invoice.id);
        match self.payers[b.payer].habit {
            Habit::Forgetful | Habit::Card if willing < 0.65 => vec![(soon("pay", 0.05, 1.5), Deed::Pay(bill, None))],
            Habit::Tight if willing < 0.7 => {
                let half = b.invoice.total_minor / 2;
                let first = if b.invoice.paid_minor == 0 { Some(half) } else { None };
                vec![(soon("pay", 0.1, 2.0), Deed::Pay(bill, first))]
            }
            _ => Vec::new(),
        }
    }

    /// Carries a deed out and tells the processor's webhooks about it. Nothing, if it makes no sense any more. Deeds that
    /// follow by themselves come along.
    pub fn perform(&mut self, deed: &Deed, now: Timestamp) -> (Vec<Value>, Vec<(Timestamp, Deed)>) {
        let mut follow = Vec::new();
        let told = match *deed {
            Deed::Arrive(payer) => {
                let p = &self.payers[payer];
                self.told("customer.created", now, stripe::customer(&p.id, &p.name, &p.email, p.time_zone))
            }
            Deed::Issue(bill) => {
                let draft = self.told_bill("invoice.created", now, bill);
                self.change(bill, |b| b.status = "open");
                [draft, self.told_bill("invoice.finalized", now, bill)].concat()
            }
            Deed::Pay(bill, amount) => self.pay(bill, amount, now, &mut follow),
            Deed::Fail(bill) if self.is_open(bill) => {
                self.change(bill, |b| b.attempts += 1);
                self.told_bill("invoice.payment_failed", now, bill)
            }
            Deed::Void(bill) if self.is_open(bill) => {
                self.change(bill, |b| b.status = "void");
                self.told_bill("invoice.voided", now, bill)
            }
            Deed::Dispute(bill) => {
                let later = now.saturating_add(days(6.0)).unwrap_or(now);
                follow.push((later, Deed::LoseDispute(bill)));
                self.told("charge.dispute.created", now, self.bills[bill].invoice.dispute("needs_response"))
            }
            Deed::LoseDispute(bill) => {
                self.told("charge.dispute.closed", now, self.bills[bill].invoice.dispute("lost"))
            }
            Deed::Fail(_) | Deed::Void(_) => Vec::new(),
        };
        (told, follow)
    }

    fn pay(
        &mut self,
        bill: usize,
        amount: Option<i64>,
        now: Timestamp,
        follow: &mut Vec<(Timestamp, Deed)>,
    ) -> Vec<Value> {
        if !self.is_open(bill) {
            return Vec::new();
        }
        self.change(bill, |b| b.pay(amount.unwrap_or(b.total_minor), now));
        if self.is_open(bill) {
            follow.push((now.saturating_add(days(7.0)).unwrap_or(now), Deed::Pay(bill, None)));
            return self.told_bill("invoice.updated", now, bill);
        }
        if chance(&self.bills[bill].invoice.id, "dispute") < DISPUTES {
            follow.push((now.saturating_add(days(3.0)).unwrap_or(now), Deed::Dispute(bill)));
        }
        // Processors say it twice.
        [self.told_bill("invoice.paid", now, bill), self.told_bill("invoice.payment_succeeded", now, bill)].concat()
    }

    fn is_open(&self, bill: usize) -> bool {
        self.bills[bill].invoice.status == "open"
    }

    fn change(&mut self, bill: usize, change: impl FnOnce(&mut Invoice)) {
        change(&mut self.bills[bill].invoice);
    }

    fn told_bill(&mut self, kind: &str, now: Timestamp, bill: usize) -> Vec<Value> {
        let object = self.bills[bill].invoice.object();
        self.told(kind, now, object)
    }

    fn told(&mut self, kind: &str, now: Timestamp, object: Value) -> Vec<Value> {
        self.events += 1;
        let id = format!("evt_{:08}", self.events);
        vec![stripe::event(&id, kind, now, object)]
    }
}
