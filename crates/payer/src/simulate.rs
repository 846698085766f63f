//! Policies of reminding in simulated worlds: what each brings, at what price, compared at an equal number of messages.
//!
//! The payers are simulated ([`crate::world`]), and how they respond is assumed. What is learnt here is which policy does
//! better *if* payers are like that; nothing here says what reminders bring to a merchant.
//! [`SimulationReport::assumptions`] goes with every figure.

mod policy;
mod report;
mod run;

use crate::advice::Step;
use crate::world::draw::Stream;
use crate::world::{Day, Population, Response, World};
use policy::{Advised, By, Everybody, Nobody, Policy, Riskiest, Share, Thompson, Twice};
use run::{Tally, run};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::ops::Range;

/// Reminders after the due date, the same under every policy.
const CHASES: [Day; 3] = [7, 14, 21];
/// Single offsets that are tried.
const OFFSETS: Range<Day> = -7..0;
/// What the campaign says: five days before, or a day earlier, or not at all.
const STEP: Step = Step { offset: -5, earlier: 1, later: 0, may_skip: true, is_followed: false };
/// A thinned policy is near enough to the number of messages aimed at.
const NEAR: f64 = 0.002;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Who is invoiced.
    pub population: Population,
    /// How strongly they respond.
    pub response: Response,
    /// How many there are in each world.
    pub customers: usize,
    /// A world for each seed.
    pub seeds: Range<u64>,
}

/// What a policy came to, over all worlds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Share of invoices paid on time.
    pub on_time: f64,
    /// What of it is due to reminders, in percentage points.
    pub lift_pp: f64,
    /// Reminders before the due date, per invoice.
    pub messages: f64,
    /// Reminders before the due date for each invoice that was paid on time and would not have been without; `None`: no
    /// such invoice.
    pub per_rescued: Option<f64>,
    /// Share of the reminders before the due date that went to who would have paid on time anyway.
    pub needless: f64,
    /// Reminders after the due date, per invoice.
    pub chases: f64,
    /// Mean days late, at most 60 of an invoice; 0 if on time.
    pub days_late: f64,
    /// Customers who opted out, of a thousand.
    pub opt_outs: f64,
}

/// A policy and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// What the policy is.
    pub policy: String,
    /// What it came to.
    pub score: Score,
}

/// The comparison at an equal number of messages before the due date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtEqualMessages {
    /// The offset at which so many messages bring most, in days from due.
    pub best_offset: Day,
    /// dunlin's advice.
    pub adaptive: Score,
    /// The best offset for a share of the customers, none for the others.
    pub fixed: Score,
    /// The best offset for a share of the invoices, drawn at random.
    pub random: Score,
}

/// Policies compared in one kind of world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulationReport {
    /// The kind of world, in words.
    pub world: String,
    /// Worlds, one per seed.
    pub worlds: usize,
    /// Customers in each.
    pub customers: usize,
    /// Invoices that are scored, over all worlds.
    pub invoices: u64,
    /// Days of unpaid invoices that were lived through, over all worlds and policies.
    pub invoice_days: u64,
    /// What is assumed. No figure means anything without it.
    pub assumptions: Vec<String>,
    /// All policies.
    pub policies: Vec<Scored>,
    /// dunlin's advice against the best fixed day, at an equal number of messages.
    pub equal: AtEqualMessages,
}

/// Lives through the worlds with each policy. The same setup gives the same report.
pub fn simulate(setup: &Setup) -> SimulationReport {
    let worlds = Worlds::new(setup);
    let mut policies = Vec::new();
    let mut score =
        |name: &str, tally: Tally| policies.push(Scored { policy: name.to_owned(), score: worlds.score(&tally) });
    score("no reminders at all", worlds.run(&[], |_| Nobody));
    let mut none =
        |chases: &[Day]| score(&format!("only after due, at {}", list(chases)), worlds.run(chases, |_| Nobody));
    none(&[3, 7, 14]);
    none(&CHASES);
    let everybody: Vec<(Day, Tally)> = OFFSETS.map(|offset| (offset, worlds.chased(|_| Everybody(offset)))).collect();
    for (offset, tally) in &everybody {
        score(&format!("all at {offset}"), *tally);
    }
    score("all at -6 and -1", worlds.chased(|_| Twice(-6)));
    for factor in [1.0, 1.3] {
        let tally = worlds.chased(|_| Riskiest { offset: STEP.offset, factor });
        score(&format!("q >= {factor:.1} q of all, at {}", STEP.offset), tally);
    }
    score(
        "Thompson over -7, -5, -3, -1, whether as advised",
        worlds.chased(|draws| Thompson::new(&[-7, -5, -3, -1], draws)),
    );
    let adaptive = worlds.chased(|_| Advised(STEP));
    score("dunlin's advice, at -6 or -5", adaptive);
    let (best_offset, most) = best(&everybody, adaptive.messages);
    let half = worlds.chased(|draws| Share { offset: best_offset, share: 0.5, by: By::Invoice, draws });
    score(&format!("a random half at {best_offset}"), half);
    let thinned = |by| worlds.thinned(best_offset, &most, by, adaptive.messages);
    let (fixed, random) = (thinned(By::Customer), thinned(By::Invoice));
    let equal = AtEqualMessages {
        best_offset,
        adaptive: worlds.score(&adaptive),
        fixed: worlds.score(&fixed),
        random: worlds.score(&random),
    };
    SimulationReport {
        world: report::world(setup),
        worlds: worlds.worlds.len(),
        customers: setup.customers,
        invoices: adaptive.invoices,
        invoice_days: worlds.days.get(),
        assumptions: report::assumptions(setup),
        policies,
        equal,
    }
}

/// The offset at which so many messages bring most, with what it brings for everybody. A share of a policy brings that
/// share of its lift.
fn best(everybody: &[(Day, Tally)], messages: u64) -> (Day, Tally) {
    let brings = |tally: &Tally| {
        let share = messages as f64 / tally.messages.max(1) as f64;
        tally.rescued as f64 * share.min(1.0)
    };
    let best = everybody.iter().max_by(|(_, a), (_, b)| brings(a).total_cmp(&brings(b)));
    best.copied().unwrap_or_default()
}

fn list(days: &[Day]) -> String {
    days.iter().map(|day| format!("{day:+}")).collect::<Vec<_>>().join(", ")
}

/// Worlds of a setup, each with what happens in it without reminders: whether each invoice is paid on time.
struct Worlds {
    worlds: Vec<(World, Vec<bool>, Stream)>,
    /// Invoice-days lived through so far.
    days: Cell<u64>,
}

impl Worlds {
    fn new(setup: &Setup) -> Self {
        let world = |seed| {
            let world = World::new(setup.population, setup.response, seed, setup.customers);
            let is_on_time = |(place, invoice): (usize, &crate::world::Invoice)| {
                world.unreminded(place).is_some_and(|day| day <= invoice.due)
            };
            let alone = world.invoices().iter().enumerate().map(is_on_time).collect();
            // The luck of policies has nothing to do with that of payers.
            (world, alone, Stream::new(!seed, 0))
        };
        Self { worlds: setup.seeds.clone().map(world).collect(), days: Cell::new(0) }
    }

    /// One policy, made anew for each world from a stream of random numbers.
    fn run<P: Policy>(&self, chases: &[Day], policy: impl Fn(Stream) -> P) -> Tally {
        let mut sum = Tally::default();
        for (world, alone, draws) in &self.worlds {
            sum += run(world, alone, chases, &mut policy(*draws));
        }
        self.days.set(self.days.get() + sum.days);
        sum
    }

    fn chased<P: Policy>(&self, policy: impl Fn(Stream) -> P) -> Tally {
        self.run(&CHASES, policy)
    }

    /// The share of a policy that sends so many messages, found by secants from what it sends to everybody.
    fn thinned(&self, offset: Day, everybody: &Tally, by: By, messages: u64) -> Tally {
        let aim = messages as f64;
        let mut share = (aim / everybody.messages.max(1) as f64).min(1.0);
        let mut tally = *everybody;
        for _ in 0..5 {
            tally = self.chased(|draws| Share { offset, share, by, draws });
            let ratio = aim / tally.messages.max(1) as f64;
            if (ratio - 1.0).abs() < NEAR || share * ratio > 1.0 {
                break;
            }
            share *= ratio;
        }
        tally
    }

    fn score(&self, tally: &Tally) -> Score {
        let per = |count: u64, of: u64| count as f64 / of.max(1) as f64;
        let customers: usize = self.worlds.iter().map(|(world, ..)| world.customers()).sum();
        Score {
            on_time: per(tally.on_time, tally.invoices),
            lift_pp: 100.0 * per(tally.rescued, tally.invoices),
            messages: per(tally.messages, tally.invoices),
            per_rescued: (tally.rescued > 0).then(|| per(tally.messages, tally.rescued)),
            needless: per(tally.needless, tally.messages),
            chases: per(tally.chases, tally.invoices),
            days_late: per(tally.days_late, tally.invoices),
            opt_outs: 1_000.0 * per(tally.opt_outs, customers as u64),
        }
    }
}
