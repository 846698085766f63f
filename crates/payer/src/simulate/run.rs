//! One policy in one world, day by day.

use crate::estimator::{Open, Payer, Portfolio};
use crate::world::{self, DAYS, Day, Effect, World, is_weekend};
use std::ops::Range;

/// Policies begin on this day: until then nobody is reminded, and the estimator gets to know the payers.
pub const BEGIN: Day = 90;
/// Due dates that are scored: early enough that what is paid late is seen, too.
pub const SCORED: Range<Day> = 180..390;
/// Lateness counts up to this, so that a few invoices that are never paid do not decide.
const MOST_LATE: Day = 60;

/// Somebody unpaid before the due date, on a business day, and what is known on its morning.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Which invoice.
    pub place: usize,
    /// Of whom.
    pub customer: usize,
    /// The due date.
    pub due: Day,
    /// Today.
    pub today: Day,
    /// Reminders of this invoice so far.
    pub sent: u32,
    /// The customer's settlements of earlier days.
    pub payer: &'a Payer,
    /// Everybody's.
    pub portfolio: &'a Portfolio<()>,
    /// The customer's overdue invoices.
    pub open: &'a [Open],
}

/// Says whom to remind before the due date.
pub trait Policy {
    /// Whether to remind now.
    fn reminds(&mut self, moment: &Moment<'_>) -> bool;
    /// The due date of an invoice is over.
    fn learns(&mut self, _place: usize, _customer: usize, _on_time: bool) {}
}

/// What came of it, as sums over the scored invoices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Invoices.
    pub invoices: u64,
    /// Paid on time.
    pub on_time: u64,
    /// Of those, the ones that would not have been without reminders.
    pub rescued: u64,
    /// Reminders before the due date.
    pub messages: u64,
    /// Of those, the ones about invoices that would have been paid on time without.
    pub needless: u64,
    /// Reminders after it.
    pub chases: u64,
    /// Days late.
    pub days_late: i64,
    /// Customers who opted out.
    pub opt_outs: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, o: Self) {
        self.invoices += o.invoices;
        self.on_time += o.on_time;
        self.rescued += o.rescued;
        self.messages += o.messages;
        self.needless += o.needless;
        self.chases += o.chases;
        self.days_late += o.days_late;
        self.opt_outs += o.opt_outs;
    }
}

#[derive(Default, Clone)]
struct Customer {
    payer: Payer,
    messages: i32,
    opted_out: bool,
    /// Unpaid as far as is known, in the order of issue.
    open: Vec<usize>,
}

#[derive(Default, Clone, Copy)]
struct State {
    effect: Effect,
    before: u32,
    chases: u32,
    paid: Option<Day>,
}

/// Lives through a world.
pub fn run(world: &World, anyway: &[bool], chases: &[Day], policy: &mut dyn Policy) -> Tally {
    let invoices = world.invoices();
    let mut customers = vec![Customer::default(); world.customers()];
    let mut states = vec![State::default(); invoices.len()];
    let mut portfolio: Portfolio<()> = Portfolio::default();
    let mut active: Vec<usize> = Vec::new();
    let mut settled: Vec<usize> = Vec::new();
    let mut next = 0;
    let mut over = 0;
    let mut opt_outs = 0;
    let mut open: Vec<Open> = Vec::new();
    for today in 0..DAYS {
        for place in settled.drain(..) {
            let i = invoices[place];
            let c = &mut customers[i.customer];
            let delay = states[place].paid.unwrap() - i.due;
            c.payer.settle(delay);
            portfolio.settle((), delay);
            c.open.retain(|p| *p != place);
        }
        while over < invoices.len() && invoices[over].due < today {
            let on_time = states[over].paid.is_some();
            policy.learns(over, invoices[over].customer, on_time);
            over += 1;
        }
        while next < invoices.len() && invoices[next].due - 10 <= today {
            active.push(next);
            customers[invoices[next].customer].open.push(next);
            next += 1;
        }
        for place in &active {
            let i = invoices[*place];
            let s = &mut states[*place];
            let c = &mut customers[i.customer];
            s.effect.fade();
            if today >= BEGIN && !is_weekend(today) && !c.opted_out {
                let sends = if today < i.due {
                    open.clear();
                    open.extend(c.open.iter().map(|p| today - invoices[*p].due).filter(|d| *d > 0).map(|overdue_days| Open { overdue_days }));
                    policy.reminds(&Moment { place: *place, customer: i.customer, due: i.due, today, sent: s.before, payer: &c.payer, portfolio: &portfolio, open: &open })
                } else {
                    chases.iter().any(|o| world::next_business_day(i.due + o) == today)
                };
                if sends {
                    if today < i.due { s.before += 1 } else { s.chases += 1 }
                    if world.remind(*place, today, c.messages, &mut s.effect) {
                        c.opted_out = true;
                        opt_outs += 1;
                    }
                    c.messages += 1;
                }
            }
            if world.pays(*place, today, &s.effect) {
                s.paid = Some(today);
                settled.push(*place);
            }
        }
        active.retain(|p| states[*p].paid.is_none());
    }
    let mut t = Tally { opt_outs, ..Tally::default() };
    for ((i, s), anyway) in invoices.iter().zip(&states).zip(anyway) {
        if !SCORED.contains(&i.due) {
            continue;
        }
        let late = (s.paid.unwrap_or(DAYS) - i.due).clamp(0, MOST_LATE);
        t.invoices += 1;
        t.on_time += u64::from(late == 0);
        t.rescued += u64::from(late == 0 && !anyway);
        t.messages += u64::from(s.before);
        t.needless += if *anyway { u64::from(s.before) } else { 0 };
        t.chases += u64::from(s.chases);
        t.days_late += i64::from(late);
    }
    t
}
