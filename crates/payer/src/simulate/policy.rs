//! Who is reminded before the due date.

use super::run::Moment;
use crate::advice::{Known, Step, Timing, advise};
use crate::experiment::{Knowledge, Tally, week_of};
use crate::world::draw::Stream;
use crate::world::{Day, date_of, last_business_day, next_business_day};
use std::collections::HashMap;

/// Says whom to remind.
pub(super) trait Policy {
    /// Whether to remind this morning.
    fn reminds(&mut self, moment: &Moment<'_>) -> bool;

    /// An invoice has been paid by its due date, or has not; known on the day after.
    fn learn(&mut self, _place: usize, _on_time: bool, _today: Day) {}
}

/// No reminders before the due date.
pub(super) struct Nobody;

impl Policy for Nobody {
    fn reminds(&mut self, _: &Moment<'_>) -> bool {
        false
    }
}

/// Whether a reminder at this offset goes out today: on the first business day from it on, unless that is the due date or
/// later.
fn is_day_of(offset: Day, moment: &Moment<'_>) -> bool {
    moment.reminders == 0 && next_business_day(moment.invoice.due + offset) == moment.morning.today
}

/// Everybody at one offset.
pub(super) struct Everybody(pub(super) Day);

impl Policy for Everybody {
    fn reminds(&mut self, moment: &Moment<'_>) -> bool {
        is_day_of(self.0, moment)
    }
}

/// Everybody twice. The second reminder goes out on the last business day before the due date.
pub(super) struct Twice(pub(super) Day);

impl Policy for Twice {
    fn reminds(&mut self, moment: &Moment<'_>) -> bool {
        is_day_of(self.0, moment) || last_business_day(moment.invoice.due - 1) == moment.morning.today
    }
}

/// Who shares the luck of a draw.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    Customer,
    Invoice,
}

/// A random share of all, at one offset.
pub(super) struct Share {
    pub(super) offset: Day,
    pub(super) share: f64,
    pub(super) by: By,
    pub(super) draws: Stream,
}

impl Policy for Share {
    fn reminds(&mut self, moment: &Moment<'_>) -> bool {
        let drawn = match self.by {
            By::Customer => moment.invoice.customer,
            By::Invoice => moment.place,
        };
        is_day_of(self.offset, moment) && self.draws.at(drawn as u64) < self.share
    }
}

/// Whoever is so much more often late than all invoices are, if still unpaid on the day of the reminder.
pub(super) struct Riskiest {
    pub(super) offset: Day,
    pub(super) factor: f32,
}

impl Policy for Riskiest {
    fn reminds(&mut self, moment: &Moment<'_>) -> bool {
        is_day_of(self.offset, moment)
            && moment.prediction().late_given_unpaid(moment.days()) >= self.factor * moment.morning.pooled.late()
    }
}

/// What [`advise`] says.
pub(super) struct Advised(pub(super) Step);

impl Policy for Advised {
    fn reminds(&mut self, moment: &Moment<'_>) -> bool {
        let Step { offset, earlier, .. } = self.0;
        // Asking on other days would change nothing, and takes time.
        let is_in_window = moment.days() >= offset - i32::from(earlier)
            && moment.morning.today <= next_business_day(moment.invoice.due + offset);
        is_in_window
            && match timing(self.0, moment) {
                Timing::Keep => is_day_of(offset, moment),
                Timing::Move(days) => is_day_of(offset + days, moment),
                Timing::Skip => false,
            }
    }
}

fn timing(step: Step, moment: &Moment<'_>) -> Timing {
    let prediction = moment.prediction();
    let known = Known { label: moment.label, prediction: &prediction, portfolio: Some(&moment.morning.pooled) };
    advise(&known, &step, moment.days(), None).timing
}

/// Thompson sampling over offsets, learnt anew each week. On the day of the arm, [`advise`] says whether.
pub(super) struct Thompson {
    arms: Vec<Day>,
    draws: Stream,
    /// The offset of each invoice whose outcome is not known yet.
    drawn: HashMap<usize, Day>,
    outcomes: Vec<Tally<Day>>,
    propensities: Vec<f64>,
    /// The share of invoices that are late.
    late: f64,
}

impl Thompson {
    pub(super) fn new(offsets: &[Day], draws: Stream) -> Self {
        let arms = offsets.to_vec();
        let propensities = vec![1.0 / arms.len() as f64; arms.len()];
        Self { arms, draws, drawn: HashMap::new(), outcomes: Vec::new(), propensities, late: 0.5 }
    }

    fn offset(&mut self, place: usize) -> Day {
        let mut rest = self.draws.at(place as u64);
        let is_drawn = |(_, propensity): &(&Day, &f64)| {
            rest -= **propensity;
            rest < 0.0
        };
        let arm = self.arms.iter().zip(&self.propensities).find(is_drawn).map(|(arm, _)| arm);
        // The sum of the propensities may round to a little below 1; then the last arm is meant.
        let offset = arm.or(self.arms.last()).copied().unwrap_or(0);
        *self.drawn.entry(place).or_insert(offset)
    }
}

impl Policy for Thompson {
    fn reminds(&mut self, moment: &Moment<'_>) -> bool {
        self.late = f64::from(moment.morning.pooled.late());
        let offset = self.offset(moment.place);
        let step = Step { offset, earlier: 0, later: 0, may_skip: true, is_followed: false };
        is_day_of(offset, moment) && timing(step, moment) == Timing::Keep
    }

    fn learn(&mut self, place: usize, on_time: bool, today: Day) {
        let Some(offset) = self.drawn.remove(&place) else { return };
        let (week, arm) = (week_of(date_of(today)), offset);
        if self.outcomes.last().is_some_and(|last| last.week != week) {
            self.propensities = Knowledge::learn(&self.arms, self.late, &self.outcomes).propensities();
        }
        let counted = self.outcomes.iter_mut().rev().take_while(|t| t.week == week).find(|t| t.arm == arm);
        let (successes, failures) = (u32::from(on_time), u32::from(!on_time));
        match counted {
            Some(tally) => {
                tally.successes += successes;
                tally.failures += failures;
            }
            None => self.outcomes.push(Tally { week, arm, successes, failures }),
        }
    }
}
