//! How well a ledger's payments could have been foreseen: the ledger is lived through in time order, each invoice is forecast
//! when it is issued, from payments of earlier days only, and held against what happened.
//!
//! A payment of a day is known from the next day on. Invoices from the 60th percentile of the dates of issue on are scored; what
//! comes before only fills the state, which goes on learning. Invoices that are never paid in the ledger are not scored,
//! since nobody knows when they will be, but count as open while others of their customer are forecast.

mod baseline;
mod claims;

use crate::bins::{BINS, bin};
use crate::estimator::{Distribution, KAPPA, Open, Payer, Portfolio};
use crate::icc::Spread;
use crate::label::{Label, Looks, Thresholds};
use crate::ledger::{Fault, Invoice, Ledger, Rejected, date};
use crate::peers::Peers;
use crate::score::{Calibration, Coverage, Figures, Forecast, LEVELS, calibration, coverage};
use crate::segment::{Quartiles, SegmentKey, segment_key};
use baseline::{Global, Raw};
pub use claims::Claims;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Which invoices are scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Those from the 60th percentile of the dates of issue on.
    #[default]
    Test,
    /// Those from the 40th to the 60th: to choose among models without looking at the test.
    Validation,
}

impl Split {
    /// The days of issue that are scored, from the first to before the second; `None` of nothing.
    fn days(self, issued: &[i32]) -> Option<(i32, i32)> {
        let percentile = |p: usize| issued.get(issued.len() * p / 100).copied();
        match self {
            Self::Test => Some((percentile(60)?, i32::MAX)),
            Self::Validation => Some((percentile(40)?, percentile(60)?)),
        }
    }
}

/// What one model's forecasts were worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// Over all scored invoices.
    pub all: Figures,
    /// Over those of customers with at least five effective settlements.
    pub known: Figures,
}

/// Effective settlements of a customer from which on it is known well.
const KNOWN: f32 = 5.0;

/// How well a ledger's payments could have been foreseen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Which invoices are scored.
    pub split: Split,
    /// Issued from this day on; `None` if there is no invoice.
    pub from: Option<Date>,
    /// Usable rows.
    pub invoices: usize,
    /// Their customers.
    pub customers: usize,
    /// Rows that cannot be used, by what is wrong with them.
    pub rejected: BTreeMap<Fault, Rejected>,
    /// Usable rows without a payment: never scored.
    pub unpaid: usize,
    /// Our estimator first, then the naive baselines.
    pub models: Vec<Model>,
    /// The reliability diagram of our estimator.
    pub calibration: Vec<Calibration>,
    /// How often payments came by the day of each quantile.
    pub coverage: Vec<Coverage>,
    /// Scored delays by bin, by the label that the customer had at the time of issue.
    pub delays_by_label: BTreeMap<Label, [u32; BINS]>,
    /// The share of invoices at whose issue the customer's label changed; over the whole ledger.
    pub label_changes: Option<f64>,
    /// How many settlements the prior weighs at the end.
    pub kappa: f32,
    /// What may be claimed, and what may not.
    pub claims: Claims,
}

/// Lives through a ledger and scores what was forecast.
pub fn evaluate(ledger: &Ledger, split: Split) -> Report {
    let invoices = ledger.invoices();
    let mut issued: Vec<i32> = invoices.iter().map(|invoice| invoice.issue).collect();
    issued.sort_unstable();
    let scored = split.days(&issued).unwrap_or((i32::MAX, i32::MAX));
    let mut replay = Replay::new(ledger, scored);
    replay.run();
    let scores = |name, forecasts: fn(&Scored) -> Forecast| {
        let of = |keep: fn(&Scored) -> bool| {
            Figures::of(&replay.scored.iter().filter(|s| keep(s)).map(forecasts).collect::<Vec<_>>())
        };
        Model { name, all: of(|_| true), known: of(|s| s.effective >= KNOWN) }
    };
    let ours: Vec<Forecast> = replay.scored.iter().map(|s| s.ours).collect();
    let mut delays_by_label: BTreeMap<Label, [u32; BINS]> = BTreeMap::new();
    for scored in &replay.scored {
        let counts = delays_by_label.entry(scored.label).or_default();
        if let Some(count) = counts.get_mut(bin(scored.ours.delay)) {
            *count += 1;
        }
    }
    let us = scores("dunlin", |s| s.ours);
    Report {
        split,
        from: date(scored.0).filter(|_| !invoices.is_empty()),
        invoices: invoices.len(),
        customers: ledger.customers(),
        rejected: ledger.rejected().clone(),
        unpaid: invoices.iter().filter(|invoice| invoice.paid.is_none()).count(),
        claims: Claims::of(&us.all, &us.known),
        models: vec![
            us,
            scores("all customers alike", |s| s.global),
            scores("the customer's plain history", |s| s.raw),
            scores("the customer's late share, shrunk", |s| s.shrunk),
        ],
        calibration: calibration(&ours),
        coverage: coverage(&ours),
        delays_by_label,
        label_changes: (!invoices.is_empty()).then(|| replay.label_changes as f64 / invoices.len() as f64),
        kappa: replay.portfolio.kappa,
    }
}

/// What was forecast of a scored invoice.
struct Scored {
    ours: Forecast,
    global: Forecast,
    raw: Forecast,
    shrunk: Forecast,
    /// Effective settlements of its customer then.
    effective: f32,
    label: Label,
}

/// A customer while its ledger is lived through.
#[derive(Clone, Default)]
struct Customer {
    payer: Payer,
    raw: Raw,
    /// Invoices that are not known to be paid, oldest issued first.
    open: Vec<usize>,
}

/// What an invoice is first taken to be paid like.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    /// As the ledger says.
    Own(usize),
    /// By terms and amount.
    Ours(SegmentKey),
}

/// What is kept of the issue of an invoice until it is paid.
struct Issue {
    segment: Segment,
    peers: Option<Peers>,
    q: f32,
}

/// A ledger that is lived through, day by day.
struct Replay<'a> {
    invoices: &'a [Invoice],
    /// The days of issue that are scored.
    days: (i32, i32),
    customers: Vec<Customer>,
    portfolio: Portfolio<Segment>,
    /// What is looked at anew every week, as is the portfolio's kappa.
    thresholds: Thresholds,
    quartiles: Quartiles,
    /// Amounts of all issued invoices.
    amounts: Vec<i64>,
    /// What is kept of the issue of each invoice that is not known to be paid.
    issues: HashMap<usize, Issue>,
    global: Global,
    scored: Vec<Scored>,
    label_changes: u32,
}

impl<'a> Replay<'a> {
    fn new(ledger: &'a Ledger, days: (i32, i32)) -> Self {
        let invoices = ledger.invoices();
        let known = invoices.iter().filter(|invoice| invoice.paid.is_some_and(|paid| paid < days.0));
        let portfolio = Portfolio::default();
        Self {
            invoices,
            days,
            customers: vec![Customer::default(); ledger.customers()],
            thresholds: Thresholds::of(&portfolio.tenant.distribution()),
            portfolio,
            quartiles: Quartiles::default(),
            amounts: Vec::new(),
            issues: HashMap::new(),
            global: Global::of(known.filter_map(Invoice::delay)),
            scored: Vec::new(),
            label_changes: 0,
        }
    }

    fn run(&mut self) {
        let invoices = self.invoices;
        let mut by_issue: Vec<(usize, &Invoice)> = invoices.iter().enumerate().collect();
        by_issue.sort_by_key(|(_, invoice)| invoice.issue);
        let mut by_payment: Vec<(i32, usize, &Invoice)> =
            by_issue.iter().filter_map(|(place, invoice)| Some((invoice.paid?, *place, *invoice))).collect();
        by_payment.sort_by_key(|(paid, ..)| *paid);
        let mut payments = by_payment.into_iter().peekable();
        let mut week = None;
        for (place, invoice) in by_issue {
            while let Some((_, paid, settled)) = payments.next_if(|(paid, ..)| *paid < invoice.issue) {
                self.settle(paid, settled);
            }
            let this_week = Some(invoice.issue.div_euclid(7));
            if week != this_week {
                week = this_week;
                self.look_at_all();
            }
            self.issue(place, invoice);
        }
    }

    fn settle(&mut self, place: usize, invoice: &Invoice) {
        let (Some(delay), Some(customer)) = (invoice.delay(), self.customers.get_mut(invoice.customer)) else { return };
        let Some(issue) = self.issues.remove(&place) else { return };
        customer.payer.settle(delay);
        customer.payer.standing.settle(delay, issue.q);
        customer.raw.settle(delay);
        customer.open.retain(|open| *open != place);
        self.portfolio.settle(issue.segment, delay);
        if let Some(peers) = issue.peers {
            self.portfolio.settle_peers(peers, delay);
        }
    }

    /// Once a week.
    fn look_at_all(&mut self) {
        self.thresholds = Thresholds::of(&self.portfolio.tenant.distribution());
        let mut spread = Spread::default();
        self.customers.iter().for_each(|customer| spread.add(customer.payer.settled(), customer.payer.late()));
        self.portfolio.kappa = spread.kappa();
        self.quartiles = Quartiles::of(&mut self.amounts);
    }

    fn issue(&mut self, place: usize, invoice: &Invoice) {
        let Some(customer) = self.customers.get_mut(invoice.customer) else { return };
        let open = customer.open.iter().filter_map(|place| self.invoices.get(*place));
        let overdue: Vec<Open> = open
            .map(|other| Open { overdue_days: invoice.issue - other.due })
            .filter(|open| open.overdue_days > 0)
            .collect();
        let ours = || segment_key(invoice.due - invoice.issue, invoice.amount_minor, &self.quartiles);
        let segment = invoice.segment.map_or_else(|| Segment::Ours(ours()), Segment::Own);
        let peers = Peers::of(&customer.payer, &overdue);
        let prediction = self.portfolio.predict(&customer.payer, &segment, &overdue);
        let effective = customer.payer.effective();
        let overdue_days = overdue.iter().map(|open| open.overdue_days).max();
        let usual = self.portfolio.predict(&customer.payer, &segment, &[]);
        let looks = Looks { effective, prediction: &prediction, usual: &usual, overdue_days };
        self.label_changes += u32::from(customer.payer.standing.look(&looks, &self.thresholds).is_some());
        customer.open.push(place);
        self.amounts.extend(invoice.amount_minor);
        self.issues.insert(place, Issue { segment, peers, q: prediction.late() });
        if let Some(delay) = invoice.delay()
            && (self.days.0..self.days.1).contains(&invoice.issue)
        {
            self.scored.push(Scored {
                ours: forecast(&prediction, delay),
                global: self.global.forecast(delay),
                raw: customer.raw.forecast(&self.global, delay),
                shrunk: customer.raw.shrunk(&self.global, KAPPA, delay),
                effective,
                label: customer.payer.standing.label(),
            });
        }
    }
}

fn forecast(prediction: &Distribution, delay: i32) -> Forecast {
    let quantiles = LEVELS.map(|level| prediction.quantile(level));
    Forecast { q: prediction.late(), q7: Some(prediction.late_7()), quantiles: Some(quantiles), delay }
}

#[cfg(test)]
mod tests;
