//! One policy in one world, day by day.

use super::policy::Policy;
use crate::distribution::Distribution;
use crate::estimator::{Open, Payer, Portfolio};
use crate::icc::Spread;
use crate::label::{Label, Looks, Thresholds};
use crate::peers::Peers;
use crate::world::{DAYS, Day, Effect, Invoice, World, is_weekend, next_business_day};
use std::ops::{AddAssign, Range};

/// Policies begin on this day. Until then nobody is reminded, and the estimator gets to know the payers.
const BEGIN: Day = 90;
/// The due dates that are scored: policies have settled in, and most of what is paid late is still seen.
const SCORED: Range<Day> = 180..390;
/// So many days late count, so that the few that never pay do not decide.
const MOST_LATE: Day = 60;
/// When an invoice comes into play, in days from due: nobody pays and no policy reminds before.
const ACTIVE: Day = -10;

/// The morning of a day, with what is then known of all customers from settlements of earlier days.
#[derive(Debug)]
pub(super) struct Morning {
    pub(super) today: Day,
    /// How all customers pay.
    pub(super) pooled: Distribution,
}

/// An invoice that is unpaid before its due date on the morning of a business day, and what is known of its customer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    /// Its place in the world.
    pub(super) place: usize,
    pub(super) invoice: Invoice,
    pub(super) morning: &'a Morning,
    /// Reminders of it until now.
    pub(super) reminders: u32,
    pub(super) label: Label,
    payer: &'a Payer,
    /// The customer's unpaid invoices with their due dates.
    open: &'a [(usize, Day)],
    portfolio: &'a Portfolio<()>,
}

impl Moment<'_> {
    /// Today, in days from the due date.
    pub(super) fn days(&self) -> Day {
        self.morning.today - self.invoice.due
    }

    /// How the customer's next payment is spread.
    pub(super) fn prediction(&self) -> Distribution {
        self.portfolio.predict(self.payer, &(), &overdue(self.open, self.morning.today))
    }
}

/// What came of the scored invoices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) invoices: u64,
    pub(super) on_time: u64,
    /// Paid on time, and would not have been without reminders.
    pub(super) rescued: u64,
    /// Reminders before the due date.
    pub(super) messages: u64,
    /// Those of them about invoices that would have been paid on time without.
    pub(super) needless: u64,
    /// Reminders from the due date on.
    pub(super) chases: u64,
    pub(super) days_late: u64,
    /// Customers who opted out, at any time.
    pub(super) opt_outs: u64,
    /// Days of unpaid invoices that were lived through, scored or not.
    pub(super) days: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.invoices += other.invoices;
        self.on_time += other.on_time;
        self.rescued += other.rescued;
        self.messages += other.messages;
        self.needless += other.needless;
        self.chases += other.chases;
        self.days_late += other.days_late;
        self.opt_outs += other.opt_outs;
        self.days += other.days;
    }
}

#[derive(Debug, Clone, Default)]
struct Customer {
    payer: Payer,
    messages: i32,
    opted_out: bool,
    /// Unpaid as far as is known, with due dates, in the order of issue.
    open: Vec<(usize, Day)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Case {
    effect: Effect,
    /// The chance of being late when the invoice came into play, and whom its customer then looked like.
    q: f32,
    peers: Option<Peers>,
    reminders: u32,
    chases: u32,
    paid: Option<Day>,
}

struct Run<'a> {
    world: &'a World,
    customers: Vec<Customer>,
    cases: Vec<Case>,
    portfolio: Portfolio<()>,
    opt_outs: u64,
    days: u64,
}

/// Lives through a world. `alone` says of each invoice whether it is paid on time without reminders, `chases` on which days
/// after the due date reminders go out.
pub(super) fn run(world: &World, alone: &[bool], chases: &[Day], policy: &mut dyn Policy) -> Tally {
    let invoices = world.invoices();
    let mut run = Run {
        world,
        customers: vec![Customer::default(); world.customers()],
        cases: vec![Case::default(); invoices.len()],
        portfolio: Portfolio::default(),
        opt_outs: 0,
        days: 0,
    };
    let (mut active, mut paid) = (Vec::new(), Vec::new());
    let mut coming = invoices.iter().copied().enumerate().peekable();
    let mut due = invoices.iter().enumerate().peekable();
    for today in 0..DAYS {
        // A payment is known on the next morning.
        paid.drain(..).for_each(|(place, invoice)| run.settle(place, invoice));
        while let Some((place, _)) = due.next_if(|(_, invoice)| invoice.due < today) {
            policy.learn(place, run.cases.get(place).is_some_and(|case| case.paid.is_some()), today);
        }
        let morning = run.morning(today);
        while let Some((place, invoice)) = coming.next_if(|(_, invoice)| invoice.due + ACTIVE <= today) {
            run.look(place, invoice, &morning);
            active.push((place, invoice));
        }
        active.retain(|(place, invoice)| {
            let pays = run.live(*place, *invoice, &morning, chases, policy);
            if pays {
                paid.push((*place, *invoice));
            }
            !pays
        });
    }
    run.tally(alone)
}

impl Run<'_> {
    fn settle(&mut self, place: usize, invoice: Invoice) {
        let (Some(case), Some(customer)) = (self.cases.get(place), self.customers.get_mut(invoice.customer)) else {
            return;
        };
        let Some(delay) = case.paid.map(|paid| paid - invoice.due) else { return };
        customer.payer.settle(delay);
        customer.payer.standing.settle(delay, case.q);
        customer.open.retain(|(open, _)| *open != place);
        self.portfolio.settle((), delay);
        if let Some(peers) = case.peers {
            self.portfolio.settle_peers(peers, delay);
        }
    }

    fn morning(&mut self, today: Day) -> Morning {
        // Once a week is enough for what changes slowly.
        if today % 7 == 0 {
            let mut spread = Spread::default();
            self.customers.iter().for_each(|c| spread.add(c.payer.settled(), c.payer.late()));
            self.portfolio.kappa = spread.kappa();
        }
        Morning { today, pooled: self.portfolio.tenant.distribution() }
    }

    /// Looks at a customer because of an invoice that comes into play.
    fn look(&mut self, place: usize, invoice: Invoice, morning: &Morning) {
        let (Some(case), Some(customer)) = (self.cases.get_mut(place), self.customers.get_mut(invoice.customer)) else {
            return;
        };
        let overdue = overdue(&customer.open, morning.today);
        let prediction = self.portfolio.predict(&customer.payer, &(), &overdue);
        let overdue_days = overdue.iter().map(|open| open.overdue_days).max();
        let usual = self.portfolio.predict(&customer.payer, &(), &[]);
        let effective = customer.payer.effective();
        let looks = Looks { effective, prediction: &prediction, usual: &usual, overdue_days };
        case.q = prediction.late();
        case.peers = Peers::of(&customer.payer, &overdue);
        customer.payer.standing.look(&looks, &Thresholds::of(&morning.pooled));
        customer.open.push((place, invoice.due));
    }

    /// One day of an unpaid invoice. True: it is paid.
    fn live(
        &mut self,
        place: usize,
        invoice: Invoice,
        morning: &Morning,
        chases: &[Day],
        policy: &mut dyn Policy,
    ) -> bool {
        let (Some(case), Some(customer)) = (self.cases.get_mut(place), self.customers.get_mut(invoice.customer)) else {
            return false;
        };
        let today = morning.today;
        self.days += 1;
        case.effect.fade();
        if today >= BEGIN && !is_weekend(today) && !customer.opted_out {
            let is_before = today < invoice.due;
            let reminds = if is_before {
                policy.reminds(&Moment {
                    place,
                    invoice,
                    morning,
                    reminders: case.reminders,
                    label: customer.payer.standing.label(),
                    payer: &customer.payer,
                    open: &customer.open,
                    portfolio: &self.portfolio,
                })
            } else {
                chases.iter().any(|days| next_business_day(invoice.due + days) == today)
            };
            if reminds {
                *(if is_before { &mut case.reminders } else { &mut case.chases }) += 1;
                if self.world.remind(place, today, customer.messages, &mut case.effect) {
                    customer.opted_out = true;
                    self.opt_outs += 1;
                }
                customer.messages += 1;
            }
        }
        let pays = self.world.pays(place, today, &case.effect);
        case.paid = pays.then_some(today);
        pays
    }

    fn tally(&self, alone: &[bool]) -> Tally {
        let mut tally = Tally { opt_outs: self.opt_outs, days: self.days, ..Tally::default() };
        let scored = self.world.invoices().iter().zip(&self.cases).zip(alone);
        for ((invoice, case), alone) in scored.filter(|((invoice, _), _)| SCORED.contains(&invoice.due)) {
            let late = (case.paid.unwrap_or(DAYS) - invoice.due).clamp(0, MOST_LATE);
            let (on_time, reminders) = (late == 0, u64::from(case.reminders));
            tally.invoices += 1;
            tally.on_time += u64::from(on_time);
            tally.rescued += u64::from(on_time && !alone);
            tally.messages += reminders;
            tally.needless += if *alone { reminders } else { 0 };
            tally.chases += u64::from(case.chases);
            tally.days_late += u64::from(late.unsigned_abs());
        }
        tally
    }
}

/// A customer's overdue invoices, the oldest first.
fn overdue(open: &[(usize, Day)], today: Day) -> Vec<Open> {
    let days = open.iter().map(|(_, due)| today - due).filter(|days| *days > 0);
    days.map(|overdue_days| Open { overdue_days }).collect()
}
