//! Treated against held out, over time.

use super::measure::{Measure, Outcome};
use super::sequence::{Interval, Moments, Said, cluster_robust, needed};
use super::{REGISTERED_DAY, Setting};
use crate::experiment::{Group, Holdouts};
use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// With fewer units than this in a group nothing is said of the difference: the intervals rest on averages.
const LEAST: u32 = 30;

/// Treated against held out, in one measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// What is compared.
    pub measure: Measure,
    /// What is counted.
    pub unit: Unit,
    /// Those on the adaptive schedule.
    pub treated: Side,
    /// Those on the static schedule.
    pub held_out: Side,
    /// What may be said now.
    pub verdict: Verdict,
    /// What was known at the end of each week, and now.
    pub weeks: Vec<Point>,
}

/// What is counted in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Each invoice by itself.
    Invoice,
    /// Each customer, with the mean of its invoices.
    Customer,
}

/// One group as it is, unadjusted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Side {
    /// Invoices.
    pub n: u32,
    /// The mean of the measure, if there are any.
    pub mean: Option<f64>,
}

/// What was known before a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Point {
    /// The day.
    #[schema(value_type = String, format = Date)]
    pub before: Date,
    /// Units on the adaptive schedule.
    pub treated: u32,
    /// Units on the static schedule.
    pub held_out: u32,
    /// The difference with its confidence sequence, unless there is too little to say any.
    pub interval: Option<Interval>,
}

/// What may be said of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Every invoice was first decided after its due date, so the schedule could not change the measure.
    ZeroByDefinition,
    /// Neither which way nor how much.
    NotMeasurable {
        /// Units so far.
        n: u64,
        /// About so many are needed to say how much.
        needed: u64,
    },
    /// If there is a difference, it is inside the interval.
    NoDifference,
    /// Higher for certain.
    Higher {
        /// About so many units are needed to say how much, if it cannot be said yet.
        needed: Option<u64>,
    },
    /// Lower for certain.
    Lower {
        /// About so many units are needed to say how much, if it cannot be said yet.
        needed: Option<u64>,
    },
}

impl Comparison {
    /// The difference now.
    pub fn interval(&self) -> Option<Interval> {
        self.weeks.last().and_then(|point| point.interval)
    }

    /// Units now.
    pub fn n(&self) -> u64 {
        self.weeks.last().map_or(0, |point| u64::from(point.treated) + u64::from(point.held_out))
    }
}

/// Compares invoices that are held out one by one with treated ones.
pub fn compare(measure: Measure, outcomes: &[Outcome], setting: Setting) -> Comparison {
    let units = score(measure, Unit::Invoice, outcomes, setting);
    let mut known = Known::default();
    let weeks = at_each_look(&units, measure, setting, |look, new| {
        new.iter().for_each(|unit| known.add(unit.is_treated, unit.said));
        (known, known.point(look, doubt(measure, &units)))
    });
    conclude(measure, Unit::Invoice, outcomes, &units, weeks)
}

/// Compares customers that are held out for good with the treated invoices of all others.
///
/// Customers stay, and their means go on moving, so the differences of two weeks are no independent looks. The width of the
/// sequence suffices all the same: even 26 independent looks at an interval so wide would raise a false alarm 6 % of the time,
/// and looks at the same customers raise far fewer.
pub fn compare_customers(measure: Measure, outcomes: &[Outcome], setting: Setting) -> Comparison {
    let units = score(measure, Unit::Customer, outcomes, setting);
    let mut customers: BTreeMap<u64, (bool, f64, Said)> = BTreeMap::new();
    let weeks = at_each_look(&units, measure, setting, |look, new| {
        for unit in new {
            let (is_treated, invoices, sum) = customers.entry(unit.customer).or_default();
            *is_treated = unit.is_treated;
            *invoices += 1.0;
            sum.difference += unit.said.difference;
            sum.miss += unit.said.miss;
        }
        let mut known = Known::default();
        for (is_treated, invoices, sum) in customers.values() {
            let mean = Said { difference: sum.difference / invoices, miss: sum.miss / invoices };
            known.add(*is_treated, mean);
        }
        (known, known.point(look, doubt(measure, &units)))
    });
    conclude(measure, Unit::Customer, outcomes, &units, weeks)
}

/// The classical interval of the on-time share, once its day has come.
pub(super) fn registered(outcomes: &[Outcome], setting: Setting) -> Option<Interval> {
    let day = setting.started_on.checked_add(REGISTERED_DAY.days()).ok().filter(|day| *day <= setting.as_of)?;
    let mut units = score(Measure::OnTime, Unit::Invoice, outcomes, setting);
    units.retain(|unit| unit.dated < Measure::OnTime.known_before(day));
    let held_out = units.iter().filter(|unit| !unit.is_treated).count();
    if held_out.min(units.len() - held_out) < LEAST as usize {
        return None;
    }
    cluster_robust(&units.iter().map(|unit| (unit.customer, unit.said.difference)).collect::<Vec<_>>())
}

/// An outcome with what it says of the difference.
struct Scored {
    /// It is known after [`Measure::known_before`] has passed this.
    dated: Date,
    customer: u64,
    is_treated: bool,
    propensity: f64,
    /// The predicted probability of being late.
    late: f64,
    value: f64,
    said: Said,
}

/// Scores the outcomes that can be compared, in the order in which they are known:
/// m1 - m0 + A/pi (Y - m1) - (1 - A)/(1 - pi) (Y - m0), whose mean is the difference.
///
/// m1 and m0, what is expected of an outcome if treated and if not, come from outcomes of earlier days only: they cannot
/// know the draw of the outcome that they are taken from.
fn score(measure: Measure, unit: Unit, outcomes: &[Outcome], setting: Setting) -> Vec<Scored> {
    let mut units: Vec<Scored> = outcomes
        .iter()
        .filter_map(|outcome| {
            let propensity = propensity(unit, outcome, setting)?;
            let (dated, value) = measure.value(outcome)?;
            let is_treated = outcome.group == Group::Treated;
            let (customer, late) = (outcome.customer, outcome.guess());
            Some(Scored { dated, customer, is_treated, propensity, late, value, said: Said::default() })
        })
        .collect();
    units.sort_by_key(|unit| unit.dated);
    let mut baseline = Baseline::default();
    for day in units.chunk_by_mut(|one, next| one.dated == next.dated) {
        for unit in day.iter_mut() {
            let expected = |is_treated| baseline.at(is_treated, unit.late).unwrap_or(measure.expected(unit.late));
            let (treated, held_out) = (expected(true), expected(false));
            let (missed, correction) = if unit.is_treated {
                (unit.value - treated, 1.0 / unit.propensity)
            } else {
                (unit.value - held_out, -1.0 / (1.0 - unit.propensity))
            };
            unit.said = Said {
                difference: treated - held_out + correction * missed,
                miss: missed / (unit.propensity * (1.0 - unit.propensity)).sqrt(),
            };
        }
        day.iter().for_each(|unit| baseline.add(unit.is_treated, unit.late, unit.value));
    }
    units
}

/// The probability of being treated, if the outcome belongs in the comparison and could have been on either side.
fn propensity(unit: Unit, outcome: &Outcome, setting: Setting) -> Option<f64> {
    let (other, propensity) = match unit {
        Unit::Invoice => (Group::CustomerHeldOut, outcome.propensity),
        Unit::Customer => (Group::InvoiceHeldOut, setting.treated_customers),
    };
    (outcome.group != other && 0.0 < propensity && propensity < 1.0).then_some(propensity)
}

/// The variance of what a unit says can hardly be above this: values at both ends of the range, and nothing expected.
fn doubt(measure: Measure, units: &[Scored]) -> f64 {
    let spread = |propensity: f64| (measure.range() / 2.0).powi(2) / (propensity * (1.0 - propensity));
    units.first().map_or(spread(Holdouts::INVOICES), |unit| spread(unit.propensity))
}

/// What is expected of outcomes: a line over the predicted probability of being late, in each group and in both.
#[derive(Default)]
struct Baseline {
    all: Line,
    treated: Line,
    held_out: Line,
}

impl Baseline {
    fn add(&mut self, is_treated: bool, late: f64, value: f64) {
        self.all.add(late, value);
        if is_treated { self.treated.add(late, value) } else { self.held_out.add(late, value) }
    }

    fn at(&self, is_treated: bool, late: f64) -> Option<f64> {
        let group = if is_treated { &self.treated } else { &self.held_out };
        group.at(late).or_else(|| self.all.at(late))
    }
}

/// A least-squares line, kept up in one pass (Welford 1962).
#[derive(Default)]
struct Line {
    n: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        self.n += 1.0;
        let from_mean = x - self.mean_x;
        self.mean_x += from_mean / self.n;
        self.mean_y += (y - self.mean_y) / self.n;
        self.xx += from_mean * (x - self.mean_x);
        self.xy += from_mean * (y - self.mean_y);
    }

    /// The value at a point, unless too little is known.
    fn at(&self, x: f64) -> Option<f64> {
        const LEAST: f64 = 20.0;
        /// Flat as long as points hardly differ.
        const RIDGE: f64 = 1.0;
        (self.n >= LEAST).then(|| self.mean_y + self.xy / (self.xx + RIDGE) * (x - self.mean_x))
    }
}

/// What is known of both groups.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    treated: u32,
    held_out: u32,
    moments: Moments,
}

impl Known {
    fn add(&mut self, is_treated: bool, said: Said) {
        if is_treated {
            self.treated += 1
        } else {
            self.held_out += 1
        }
        self.moments.add(said);
    }

    fn point(self, before: Date, doubt: f64) -> Point {
        let Self { treated, held_out, moments } = self;
        let interval = (treated.min(held_out) >= LEAST).then(|| moments.sequence(doubt));
        Point { before, treated, held_out, interval }
    }
}

/// Hands out at each look what has become known since the one before.
fn at_each_look<T>(
    units: &[Scored],
    measure: Measure,
    setting: Setting,
    mut look: impl FnMut(Date, &[Scored]) -> T,
) -> Vec<T> {
    let mut rest = units;
    let mut take = |today: Date| {
        let (new, later) = rest.split_at(rest.partition_point(|unit| unit.dated < measure.known_before(today)));
        rest = later;
        look(today, new)
    };
    setting.looks().into_iter().map(&mut take).collect()
}

fn conclude(
    measure: Measure,
    unit: Unit,
    outcomes: &[Outcome],
    units: &[Scored],
    weeks: Vec<(Known, Point)>,
) -> Comparison {
    let known = weeks.last().map(|(known, _)| *known).unwrap_or_default();
    let weeks: Vec<Point> = weeks.into_iter().map(|(_, point)| point).collect();
    let interval = weeks.last().and_then(|point| point.interval);
    let is_too_late = |outcome: &Outcome| outcome.decided_on > outcome.due_on;
    let is_zero = measure == Measure::OnTime && !outcomes.is_empty() && outcomes.iter().all(is_too_late);
    let limit = measure.limit();
    let needed = needed(known.moments.deviation(doubt(measure, units)), limit);
    let size = |interval: Interval| (interval.half_width() > limit).then_some(needed);
    let verdict = match interval {
        _ if is_zero => Verdict::ZeroByDefinition,
        Some(interval) if interval.low > 0.0 => Verdict::Higher { needed: size(interval) },
        Some(interval) if interval.high < 0.0 => Verdict::Lower { needed: size(interval) },
        Some(interval) if interval.half_width() <= limit => Verdict::NoDifference,
        _ => Verdict::NotMeasurable { n: u64::from(known.treated) + u64::from(known.held_out), needed },
    };
    let last = weeks.last().map_or(Date::MIN, |point| measure.known_before(point.before));
    let side = |is_treated| {
        let values = units.iter().filter(|unit| unit.is_treated == is_treated && unit.dated < last);
        let (n, sum) = values.fold((0_u32, 0.0), |(n, sum), unit| (n + 1, sum + unit.value));
        Side { n, mean: (n > 0).then(|| sum / f64::from(n)) }
    };
    Comparison { measure, unit, treated: side(true), held_out: side(false), verdict, weeks }
}
