//! What the lift report promises, tried on thousands of made-up experiments whose truth is known.
//!
//! Payers are good or bad: a chance of paying on time each, so far apart that the intra-customer correlation is .3. Figures are printed; `--nocapture` shows them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use jiff::ToSpan;
use jiff::civil::Date;
use payer::Label;
use payer::experiment::Group;
use payer::lift::{Comparison, Interval, Measure, Outcome, Setting, Verdict, compare, compare_customers, lift};

/// Weeks of an experiment, with a look at the end of each.
const WEEKS: u32 = 26;
const ICC: f64 = 0.3;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How payers pay, and what treatment does to them.
#[derive(Clone, Copy)]
struct World {
    customers: u32,
    /// Invoices of each.
    each: u32,
    /// Held-out share of invoices, of customers not held out.
    invoices: f64,
    /// Held-out share of customers.
    held_out_customers: f64,
    /// The mean share paid on time when held out.
    on_time: f64,
    /// The share of bad payers.
    bad: f64,
    /// What treatment adds to it.
    lift: f64,
    /// Whether predictions know the customer's past.
    predicts: bool,
}

const BASE: World = World {
    customers: 1_300,
    each: 8,
    invoices: 0.1,
    held_out_customers: 0.0,
    on_time: 0.5,
    bad: 0.5,
    lift: 0.0,
    predicts: true,
};

fn day(n: u32) -> Date {
    "2026-01-05".parse::<Date>().unwrap().checked_add(i64::from(n).days()).unwrap()
}

fn setting(world: World) -> Setting {
    Setting { started_on: day(0), as_of: day(WEEKS * 7), treated_customers: 1.0 - world.held_out_customers }
}

/// All invoices of an experiment: due evenly over its weeks, decided five days before. `days` are those of [`day`].
fn outcomes(world: World, seed: u64, days: &[Date]) -> Vec<Outcome> {
    let mut random = Random(seed);
    let between_payers = (ICC * world.on_time * (1.0 - world.on_time)).sqrt();
    let odds = (world.bad / (1.0 - world.bad)).sqrt();
    let (bad, good) = (world.on_time - between_payers / odds, world.on_time + between_payers * odds);
    assert!(0.0 <= bad && good + world.lift <= 1.0, "{bad} and {good} are chances");
    let mut outcomes = Vec::with_capacity((world.customers * world.each) as usize);
    let span = WEEKS * 7 - 6;
    for customer in 0..world.customers {
        let own = if random.next() < world.bad { bad } else { good };
        let is_held_out = random.next() < world.held_out_customers;
        let first = (random.next() * f64::from(span) / f64::from(world.each)) as u32;
        let mut on_time = 0.0;
        for n in 0..world.each {
            let due = 5 + first + n * span / world.each;
            let group = match is_held_out {
                true => Group::CustomerHeldOut,
                false if random.next() < world.invoices => Group::InvoiceHeldOut,
                false => Group::Treated,
            };
            let chance = if group == Group::Treated { own + world.lift } else { own };
            let is_on_time = random.next() < chance;
            // The customer's past, shrunk as the estimator does it.
            let strength = (1.0 - ICC) / ICC;
            let known = (strength * world.on_time + on_time) / (strength + f64::from(n));
            on_time += if is_on_time { 1.0 } else { 0.0 };
            outcomes.push(Outcome {
                customer: u64::from(customer),
                label: Label::Mixed,
                group,
                propensity: 1.0 - world.invoices,
                late: world.predicts.then_some(1.0 - known),
                decided_on: days[due as usize - 5],
                due_on: days[due as usize],
                paid_on: Some(days[due as usize + if is_on_time { 0 } else { 4 }]),
                messages: 1,
                messages_by_due: 1,
                opted_out: false,
                complained: None,
            });
        }
    }
    outcomes
}

/// The share of runs of a world in which something is so.
fn share(world: World, runs: u64, is_so: impl Fn(&[Outcome]) -> bool) -> f64 {
    let days: Vec<Date> = (0..WEEKS * 7 + 10).map(day).collect();
    let hits = (0..runs).filter(|seed| is_so(&outcomes(world, *seed * 7_919 + 1, &days))).count();
    hits as f64 / runs as f64
}

fn excludes(interval: Option<Interval>, truth: f64) -> bool {
    interval.is_some_and(|i| truth < i.low || i.high < truth)
}

/// Whether the interval missed the truth at any weekly look.
fn misses(comparison: &Comparison, truth: f64) -> bool {
    assert_eq!(comparison.weeks.len(), WEEKS as usize);
    comparison.weeks.iter().any(|week| excludes(week.interval, truth))
}

fn by_invoice(measure: Measure, world: World, truth: f64) -> impl Fn(&[Outcome]) -> bool {
    move |outcomes| misses(&compare(measure, outcomes, setting(world)), truth)
}

#[test]
fn false_alarms_are_rare_however_often_one_looks() {
    const RUNS: u64 = 1_000;
    let alarms = share(BASE, RUNS, by_invoice(Measure::OnTime, BASE, 0.0));
    println!("A/A: a false alarm in {:.1} % of {RUNS} runs with {WEEKS} looks", alarms * 100.0);
    assert!(alarms <= 0.05, "{alarms}");
}

#[test]
fn false_alarms_are_rare_in_odd_ledgers_too() {
    const RUNS: u64 = 250;
    let on_time = Measure::OnTime;
    for (name, measure, world) in [
        ("predictions that know nothing", on_time, World { predicts: false, ..BASE }),
        // The first held-out invoices are then all on time, which looks like certainty.
        ("97 % on time, 5 % held out", on_time, World { on_time: 0.97, bad: 0.08, invoices: 0.05, ..BASE }),
        ("halves", on_time, World { invoices: 0.5, ..BASE }),
        ("480 invoices", on_time, World { customers: 60, ..BASE }),
        ("days to pay", Measure::Days, BASE),
    ] {
        let alarms = share(world, RUNS, by_invoice(measure, world, 0.0));
        println!("A/A, {name}: a false alarm in {:.1} % of {RUNS} runs", alarms * 100.0);
        assert!(alarms <= 0.05, "{name}: {alarms}");
    }
}

#[test]
fn a_classical_interval_at_every_look_would_raise_false_alarms() {
    // What the sequence is for: the same estimates with +/-1.96 standard errors.
    const RATIO: f64 = 1.96;
    let naive = |outcomes: &[Outcome]| {
        let comparison = compare(Measure::OnTime, outcomes, setting(BASE));
        let deviation = 0.45 / 0.3; // of a unit, about: residuals of .45, a tenth held out
        comparison.weeks.iter().any(|week| {
            let n = f64::from(week.treated + week.held_out);
            week.interval.is_some_and(|i| i.estimate.abs() > RATIO * deviation / n.sqrt())
        })
    };
    let alarms = share(BASE, 200, naive);
    println!("A/A, classical interval at each of {WEEKS} looks: {:.1} % false alarms", alarms * 100.0);
    assert!(alarms > 0.15, "{alarms}");
}

#[test]
fn customers_held_out_for_good_raise_few_false_alarms() {
    const RUNS: u64 = 1_000;
    let world = World { held_out_customers: 0.05, ..BASE };
    let alarms = share(world, RUNS, |o| misses(&compare_customers(Measure::OnTime, o, setting(world)), 0.0));
    println!("A/A, by customer: a false alarm in {:.1} % of {RUNS} runs", alarms * 100.0);
    assert!(alarms <= 0.05, "{alarms}");
}

#[test]
fn a_lift_of_seven_and_a_half_points_is_found() {
    const RUNS: u64 = 250;
    let at = |lift, predicts| {
        // 10,000 invoices.
        let world = World { customers: 1_250, lift, predicts, ..BASE };
        let power = share(world, RUNS, |outcomes| {
            let comparison = compare(Measure::OnTime, outcomes, setting(world));
            comparison.weeks.iter().any(|week| week.interval.is_some_and(|i| i.low > 0.0))
        });
        println!(
            "lift {:.1} points, predictions {predicts}: found in {:.1} % of {RUNS} runs",
            lift * 100.0,
            power * 100.0
        );
        power
    };
    assert!(at(0.075, true) >= 0.85);
    assert!(at(0.075, false) >= 0.85);
    let less = [at(0.03, true), at(0.05, true)];
    assert!(less[0] < less[1] && less[1] < 0.85, "a smaller lift is harder to find: {less:?}");
}

#[test]
fn the_sequence_covers_the_lift_at_all_times() {
    let world = World { lift: 0.06, ..BASE };
    let missed = share(world, 250, by_invoice(Measure::OnTime, world, 0.06));
    println!("lift 6 points: the sequence misses it at any look in {:.1} % of runs", missed * 100.0);
    assert!(missed <= 0.05, "{missed}");
}

#[test]
fn the_registered_interval_covers_the_lift_once() {
    const RUNS: u64 = 400;
    let world = World { lift: 0.06, ..BASE };
    let missed = share(world, RUNS, |outcomes| excludes(lift(outcomes, &[], setting(world)).registered, 0.06));
    println!("registered interval: misses the lift in {:.1} % of {RUNS} runs", missed * 100.0);
    // 5 % +/- three standard errors: a width that is wrong in either direction shows.
    assert!((0.018..=0.082).contains(&missed), "{missed}");
}

#[test]
fn an_interval_over_invoices_fails_when_customers_are_held_out() {
    // Why customers are compared as customers: taken as single invoices, their likeness looks like certainty.
    let world = World { customers: 400, each: 26, held_out_customers: 0.1, invoices: 0.0, ..BASE };
    let alarms = share(world, 200, |outcomes| {
        let relabelled: Vec<Outcome> = outcomes
            .iter()
            .map(|o| Outcome {
                group: if o.group == Group::CustomerHeldOut { Group::InvoiceHeldOut } else { o.group },
                propensity: 0.9,
                late: None,
                ..o.clone()
            })
            .collect();
        misses(&compare(Measure::OnTime, &relabelled, setting(world)), 0.0)
    });
    println!("A/A, customers taken as single invoices: {:.1} % false alarms", alarms * 100.0);
    assert!(alarms > 0.10, "{alarms}");
}

#[test]
fn what_is_needed_is_about_what_it_takes() {
    let days: Vec<Date> = (0..WEEKS * 7 + 10).map(day).collect();
    let verdict = |customers, lift| {
        let world = World { customers, lift, ..BASE };
        compare(Measure::OnTime, &outcomes(world, 5, &days), setting(world)).verdict
    };
    let Verdict::NotMeasurable { n, needed } = verdict(100, 0.0) else { panic!("{:?}", verdict(100, 0.0)) };
    assert_eq!(n, 800);
    assert!((6_000..14_000).contains(&needed), "{needed}");
    // A fifth more than was said suffices.
    let enough = u32::try_from(needed).unwrap() * 12 / 10 / 8;
    assert_eq!(verdict(enough, 0.0), Verdict::NoDifference);
    assert_eq!(verdict(enough, 0.12), Verdict::Higher { needed: None });
    assert!(matches!(verdict(300, 0.22), Verdict::Higher { needed: Some(_) }), "{:?}", verdict(300, 0.22));
}
