//! Simulated payers. Nobody was measured: their types and their response to reminders are assumptions.
//!
//! A world is a number of customers, each of one [`Habit`], and an invoice for each of them every 30 days. An unpaid
//! invoice is paid on a day with a chance, its hazard, that depends on the habit, on where the day lies from the due date,
//! and on the reminders before it. The draw of an invoice on a day is the same whatever was sent. So two policies differ by
//! what they send and by nothing else, and a reminder can only hasten a payment: whether somebody "would have paid on time
//! anyway" is exact.
//!
//! The figures were chosen to agree with ledgers in what ledgers show: share on time, how much of lateness lies between
//! customers, hazard on the due date and after it, payments at weekends. What no ledger shows is the response; see
//! [`Response`].

pub(crate) mod draw;

use crate::ledger::Row;
use draw::{Draws, Stream};
use jiff::ToSpan;
use jiff::civil::{Date, date};

/// Days since the world began, on a Monday.
pub type Day = i32;

/// Days that a world lasts.
pub const DAYS: Day = 450;
/// Days from one invoice of a customer to the next.
const BETWEEN_INVOICES: Day = 30;
/// Days from issue to the due date, which is then rolled back from a weekend to Friday.
const TERM: Day = 21;
/// Nobody pays earlier than this before the due date.
const EARLIEST: Day = -10;
/// Days in which the effect of a reminder halves: what was seen in a public enforcement log.
const HALF_LIFE: f64 = 2.7;
/// What remains of the effect of a reminder for each earlier one on the same invoice.
const REPETITION: f64 = 0.75;
/// What remains of the effect of a reminder for each earlier message to the same customer.
const ATTENTION: f64 = 0.97;
/// The chance that a message makes its reader opt out of all further ones.
const OPT_OUT: f64 = 0.002;
/// A habit's hazard times a customer's factor may exceed 1. Somebody forgets even so.
const MOST: f64 = 0.95;
/// Hazards at weekends, as a share of those on business days.
const WEEKEND: f64 = 0.25;

/// Who is invoiced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Population {
    /// World A, consumer-like: 76 % pay on time.
    Consumers,
    /// World B, like small businesses: 47 % pay on time.
    Businesses,
}

/// How strongly payers respond to reminders. This is assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// As the meta-analysis of nudges says: one reminder the day before brings 2 to 3 points.
    Weak,
    /// As the trials with text messages say: 5 to 7 points.
    Medium,
}

impl Response {
    const fn scale(self) -> f64 {
        match self {
            Self::Weak => 0.35,
            Self::Medium => 1.0,
        }
    }
}

/// How somebody pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Early, or on the due date.
    Prompt,
    /// When reminded of it.
    Forgetful,
    /// When there is money: in the four days from payday.
    CashConstrained,
    /// On one business day of the week.
    PaymentRun,
    /// As late as possible, whatever one says.
    Strategic,
}

/// The figures of a habit. Hazards are per day.
struct Profile {
    habit: Habit,
    /// Share of the customers: consumers, businesses.
    share: [f64; 2],
    /// From ten days before the due date to the day before it.
    early: f64,
    /// On the due date: consumers, businesses.
    due_day: [f64; 2],
    /// From the day after the due date.
    late: f64,
    /// What a first reminder adds on its own day if it comes before the due date.
    before: f64,
    /// And if it comes after.
    after: f64,
}

#[rustfmt::skip]
const PROFILES: [Profile; 5] = [
    Profile { habit: Habit::Prompt, share: [0.62, 0.30], early: 0.10, due_day: [0.80, 0.60], late: 0.35, before: 0.20, after: 0.25 },
    Profile { habit: Habit::Forgetful, share: [0.24, 0.22], early: 0.055, due_day: [0.55, 0.25], late: 0.10, before: 0.30, after: 0.28 },
    Profile { habit: Habit::CashConstrained, share: [0.08, 0.12], early: 0.035, due_day: [0.35, 0.15], late: 0.09, before: 0.06, after: 0.07 },
    Profile { habit: Habit::PaymentRun, share: [0.0, 0.22], early: 0.045, due_day: [0.0, 0.12], late: 0.10, before: 0.12, after: 0.12 },
    Profile { habit: Habit::Strategic, share: [0.06, 0.14], early: 0.01, due_day: [0.20, 0.03], late: 0.045, before: 0.02, after: 0.08 },
];

/// Somebody who is invoiced. The figures are the habit's times factors of mean 1 of this customer.
#[derive(Debug, Clone, Copy)]
struct Customer {
    habit: Habit,
    early: f64,
    due_day: f64,
    late: f64,
    before: f64,
    after: f64,
    /// The day of the payment run, 0 is Monday, or of the payday within 30 days.
    rhythm: Day,
}

/// An invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invoice {
    /// Place of the customer.
    pub customer: usize,
    /// The day of issue.
    pub issued: Day,
    /// The day to pay by: never on a weekend.
    pub due: Day,
}

/// What the reminders of one invoice do to its payment today.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Effect {
    level: f64,
    reminders: i32,
}

impl Effect {
    /// One day passes.
    pub fn fade(&mut self) {
        // Most invoices have no effect to fade, and 2^x is slow.
        if self.level > 0.0 {
            self.level *= (-1.0 / HALF_LIFE).exp2();
        }
    }
}

/// Customers and their invoices.
#[derive(Debug, Clone)]
pub struct World {
    payments: Stream,
    opt_outs: Stream,
    amounts: Stream,
    customers: Vec<Customer>,
    invoices: Vec<Invoice>,
}

impl World {
    /// The same world for the same arguments. Invoices are in the order of their due dates.
    pub fn new(population: Population, response: Response, seed: u64, customers: usize) -> Self {
        let mut world = Self {
            payments: Stream::new(seed, 0),
            opt_outs: Stream::new(seed, 1),
            amounts: Stream::new(seed, 2),
            customers: Vec::with_capacity(customers),
            invoices: Vec::with_capacity(customers * (DAYS / BETWEEN_INVOICES + 1) as usize),
        };
        for n in 0..customers {
            let mut draws = Stream::new(seed, 3 + n as u64).draws();
            world.customers.push(Customer::draw(population, response, &mut draws));
            for issued in (draws.below(BETWEEN_INVOICES)..DAYS).step_by(BETWEEN_INVOICES as usize) {
                world.invoices.push(Invoice { customer: n, issued, due: last_business_day(issued + TERM) });
            }
        }
        world.invoices.sort_by_key(|i| (i.due, i.customer));
        world
    }

    /// All invoices, in the order of their due dates.
    pub fn invoices(&self) -> &[Invoice] {
        &self.invoices
    }

    /// How many customers there are.
    pub fn customers(&self) -> usize {
        self.customers.len()
    }

    /// How a customer pays. No policy may look.
    pub fn habit(&self, customer: usize) -> Option<Habit> {
        self.customers.get(customer).map(|c| c.habit)
    }

    /// Whether the invoice at a place, unpaid until now, is paid on `day`.
    pub fn pays(&self, place: usize, day: Day, effect: &Effect) -> bool {
        let Some(invoice) = self.invoices.get(place) else { return false };
        let Some(customer) = self.customers.get(invoice.customer) else { return false };
        let hazard = customer.hazard(day, invoice.due, effect);
        hazard > 0.0 && self.payments.at(position(place, day)) < hazard
    }

    /// A reminder of the invoice at a place, the next after `messages` others to the same customer. True: they opt out.
    pub fn remind(&self, place: usize, day: Day, messages: i32, effect: &mut Effect) -> bool {
        let Some(invoice) = self.invoices.get(place) else { return false };
        let Some(customer) = self.customers.get(invoice.customer) else { return false };
        let first = if day <= invoice.due { customer.before } else { customer.after };
        effect.level += first * REPETITION.powi(effect.reminders) * ATTENTION.powi(messages);
        effect.reminders += 1;
        self.opt_outs.at(position(place, day)) < OPT_OUT
    }

    /// When the invoice at a place is paid if nobody reminds of it; `None`: not while the world lasts.
    pub fn unreminded(&self, place: usize) -> Option<Day> {
        let due = self.invoices.get(place)?.due;
        (due + EARLIEST..DAYS).find(|day| self.pays(place, *day, &Effect::default()))
    }

    /// The world as a ledger, nobody reminded, in the order of due dates. All invoices are of one segment, and their
    /// amounts mean nothing; what is not paid while the world lasts is open.
    pub fn ledger(&self) -> impl Iterator<Item = Row> {
        self.invoices.iter().enumerate().map(|(place, invoice)| Row {
            customer: format!("customer-{:05}", invoice.customer),
            invoice: format!("invoice-{place:06}"),
            issue: Some(date_of(invoice.issued)),
            due: Some(date_of(invoice.due)),
            paid: self.unreminded(place).map(date_of),
            amount_minor: Some(1_000 + (99_000.0 * self.amounts.at(place as u64)) as i64),
            segment: Some(TERM.to_string()),
        })
    }
}

impl Customer {
    fn draw(population: Population, response: Response, draws: &mut Draws) -> Self {
        let of = |pair: [f64; 2]| match (population, pair) {
            (Population::Consumers, [consumers, _]) => consumers,
            (Population::Businesses, [_, businesses]) => businesses,
        };
        let mut rank = draws.unit();
        let [first, others @ ..] = &PROFILES;
        let mut profile = first;
        for next in others {
            rank -= of(profile.share);
            if rank < 0.0 {
                break;
            }
            profile = next;
        }
        let rhythm = if profile.habit == Habit::PaymentRun { draws.below(5) } else { draws.below(30) };
        let early = (profile.early * draws.factor(3)).min(MOST);
        let due_day = (of(profile.due_day) * draws.factor(6)).min(MOST);
        let late = (profile.late * draws.factor(3)).min(MOST);
        let response = response.scale() * draws.factor(4);
        let (before, after) = (profile.before * response, profile.after * response);
        Self { habit: profile.habit, early, due_day, late, before, after, rhythm }
    }

    fn hazard(&self, day: Day, due: Day, effect: &Effect) -> f64 {
        let habitual = match day - due {
            ..EARLIEST => return 0.0,
            EARLIEST..0 => self.early,
            0 => self.due_day,
            _ => self.late,
        };
        let means = match self.habit {
            Habit::CashConstrained if (day - self.rhythm).rem_euclid(30) < 4 => 3.0,
            Habit::CashConstrained => 0.6,
            _ => 1.0,
        };
        let hazard = 1.0 - (1.0 - (habitual * means).min(MOST)) * (1.0 - effect.level.min(MOST));
        let hazard = match self.habit {
            // What others do on four days happens on one.
            Habit::PaymentRun if day.rem_euclid(7) == self.rhythm => 1.0 - (1.0 - hazard).powi(4),
            Habit::PaymentRun => 0.0,
            _ => hazard,
        };
        if is_weekend(day) { hazard * WEEKEND } else { hazard }
    }
}

/// Where in a stream the number of an invoice on a day is.
fn position(place: usize, day: Day) -> u64 {
    (place as u64) << 32 | u64::from(day.cast_unsigned())
}

/// Saturday and Sunday.
pub fn is_weekend(day: Day) -> bool {
    day.rem_euclid(7) >= 5
}

/// The day itself, or the Friday before.
pub fn last_business_day(day: Day) -> Day {
    day - (day.rem_euclid(7) - 4).max(0)
}

/// The day itself, or the Monday after.
pub fn next_business_day(day: Day) -> Day {
    if is_weekend(day) { day + 7 - day.rem_euclid(7) } else { day }
}

/// A day as a date.
pub fn date_of(day: Day) -> Date {
    const BEGIN: Date = date(2024, 1, 1); // a Monday
    BEGIN.saturating_add(day.days())
}

#[cfg(test)]
mod tests;
