//! What an invoice says about its customer, what a customer's settlements add up to, and what of it is worth telling. Pure.
//!
//! A customer's state is the fold of its settlements in the order of [`Place`]. Whoever finds that a settlement does not
//! follow the last one, or is gone, folds all of them anew: [`Account::replay`].

use crate::portfolio::InForce;
use events::{Invoice, InvoiceStatus, snapshot, v1};
use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{CustomerId, InvoiceId, MerchantId, Segment};
use payer::bins::bin;
use payer::due::roll;
use payer::estimator::{Distribution, MOST_OPEN, Open, Payer, STORED};
use payer::label::{Change, Label, Looks};
use payer::peers::Peers;
use payer::segment::{Quartiles, SegmentKey, segment_key};

/// Version of the estimator, its constants and what is told of it.
pub const MODEL: &str = "peers-2";

/// A merchant, and a customer of it.
pub type PayerKey = (MerchantId, CustomerId);

/// No invoice was ever issued before, no due date lies behind: a slip of the keyboard, or the zero of some system's clock.
const YEARS: std::ops::RangeInclusive<i16> = 1990..=2150;
/// No terms are so long, and nothing so old is paid: five years.
const ABSURD_DAYS: i32 = 5 * 366;

/// What is wrong with an invoice's dates, so that it does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It was paid before it was issued.
    PaidBeforeIssue,
    /// A date lies absurdly far from the others, or from all that is ever meant.
    AbsurdDate,
}

impl Fault {
    /// As stored and counted.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaidBeforeIssue => "paid_before_issue",
            Self::AbsurdDate => "absurd_date",
        }
    }
}

/// What one invoice says, as of one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct Sighting {
    pub merchant: MerchantId,
    pub invoice: InvoiceId,
    pub version: i64,
    pub customer: CustomerId,
    pub issued_on: Date,
    pub due_on: Option<Date>,
    pub paid_on: Option<Date>,
    pub open: bool,
    pub settled: bool,
    pub segment: SegmentKey,
    pub fault: Option<Fault>,
}

impl Sighting {
    /// Whether something was paid late is a matter of civil dates in the merchant's zone.
    pub fn of(invoice: Invoice, zone: &TimeZone) -> Self {
        let paid_at = invoice.closed_at.filter(|_| invoice.status == InvoiceStatus::Paid);
        let paid_on = paid_at.map(|at| zone.to_datetime(at).date());
        let issued_on = invoice.issued_on;
        let due_on = invoice.due_on.map(roll);
        let fault = fault(issued_on, due_on, paid_on);
        let counts = due_on.is_some() && fault.is_none();
        Self {
            // What the payer contests is not unpaid for want of will or money.
            open: counts && invoice.open_minor > 0 && !invoice.disputed,
            settled: counts && paid_on.is_some(),
            segment: segment(issued_on, due_on),
            merchant: invoice.merchant,
            invoice: invoice.invoice,
            version: invoice.version,
            customer: invoice.customer,
            issued_on,
            due_on,
            paid_on,
            fault,
        }
    }

    /// The settlement, if it is one.
    pub fn settlement(&self) -> Option<Settlement> {
        let (due_on, paid_on) = self.due_on.zip(self.paid_on).filter(|_| self.settled)?;
        Some(Settlement::new(&self.invoice, due_on, paid_on, self.segment))
    }
}

fn fault(issued_on: Date, due_on: Option<Date>, paid_on: Option<Date>) -> Option<Fault> {
    let is_absurd = |date: &Date| !YEARS.contains(&date.year()) || days_between(issued_on, *date).abs() > ABSURD_DAYS;
    if [Some(issued_on), due_on, paid_on].iter().flatten().any(is_absurd) {
        Some(Fault::AbsurdDate)
    } else if paid_on.is_some_and(|paid_on| paid_on < issued_on) {
        Some(Fault::PaidBeforeIssue)
    } else {
        None
    }
}

/// The segment of an invoice: by its terms. Not by its amount: the quartiles of a merchant's amounts move, and an invoice must
/// be in the same segment whenever it is heard of.
fn segment(issued_on: Date, due_on: Option<Date>) -> SegmentKey {
    segment_key(due_on.map_or(0, |due_on| days_between(issued_on, due_on)), None, &Quartiles::default())
}

/// From one day to another; negative if that was before.
pub fn days_between(from: Date, to: Date) -> i32 {
    i32::try_from(to.duration_since(from).as_hours() / 24).unwrap_or(i32::MAX)
}

/// The Monday of a day's week.
pub fn monday(day: Date) -> Date {
    let since = i64::from(day.weekday().to_monday_zero_offset());
    day.checked_sub(SignedDuration::from_hours(24 * since)).unwrap_or(day)
}

/// Where a settlement stands in its customer's history: by day, and on the same day in an order that is always the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The day of payment as a number: 20260131. 0 before the first settlement.
    day: u32,
    /// Of the invoice. Two invoices of a day may have the same: then everything is folded anew, in one order all the same.
    hash: u32,
}

/// An invoice that was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settlement {
    /// Its place in the history.
    pub place: Place,
    /// So many days after its due date; negative is early.
    pub delay_days: i32,
    /// By its terms.
    pub segment: SegmentKey,
    /// The Monday of the week in which it was paid.
    pub week: Date,
}

impl Settlement {
    /// The payment of an invoice.
    pub fn new(invoice: &InvoiceId, due_on: Date, paid_on: Date, segment: SegmentKey) -> Self {
        let day = 10_000 * i32::from(paid_on.year()) + 100 * i32::from(paid_on.month()) + i32::from(paid_on.day());
        let hash = kernel::id::stable_hash(&[invoice.as_str()]);
        Self {
            place: Place { day: u32::try_from(day).unwrap_or_default(), hash: hash as u32 },
            delay_days: days_between(due_on, paid_on),
            segment,
            week: monday(paid_on),
        }
    }
}

/// What events of a batch change about a customer.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Settlements that were not known before.
    added: Vec<Settlement>,
    /// Settlements that were known, and are gone or others now.
    removed: Vec<Settlement>,
}

impl Changes {
    /// An invoice's settlement is another than before.
    pub fn note(&mut self, before: Option<Settlement>, now: Option<Settlement>) {
        if before != now {
            self.removed.extend(before);
            self.added.extend(now);
        }
    }

    /// The new settlements in their order, if they all follow the last one that is known. If not, everything is to be folded
    /// anew.
    pub fn following(&mut self, account: &Account) -> Option<&[Settlement]> {
        self.added.sort_unstable();
        let follows = self.added.first().is_none_or(|first| first.place > account.last);
        (follows && self.removed.is_empty() && !account.is_stale).then_some(&self.added)
    }

    /// The settlements that were known before, given those that are known now.
    fn undo(&self, now: &[Settlement]) -> Vec<Settlement> {
        let known = now.iter().filter(|settlement| !self.added.contains(settlement));
        let mut before: Vec<Settlement> = known.chain(&self.removed).copied().collect();
        before.sort_unstable();
        before
    }
}

/// A pool of the portfolio, as stored: a segment below 256, a group of peers from there on.
pub type PoolKey = i16;
/// The first group of peers.
pub const FIRST_PEERS: PoolKey = 256;

/// A settlement that is counted in a pool of the portfolio, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The pool.
    pub pool: PoolKey,
    /// The Monday of the week in which it was paid.
    pub week: Date,
    /// The bin of its delay.
    pub bin: usize,
    /// 1, or -1 if it was counted before and is no more.
    pub sign: i32,
}

/// Where a settlement counts: in its segment, and among those whom its customer looked like before it. (Whether the customer was
/// overdue then is left out: that would depend on all its other invoices, each time one of them changes. So no group of overdue
/// peers is counted, and [`payer::estimator::Portfolio::predict`] falls back to the others.)
fn counted(before: &Payer, settlement: &Settlement, sign: i32) -> impl Iterator<Item = Counted> {
    let peers = Peers::of(before, &[]).map(|peers| FIRST_PEERS + PoolKey::from(peers.0));
    let (week, bin) = (settlement.week, bin(settlement.delay_days));
    let pools = [Some(settlement.segment.0.into()), peers].into_iter().flatten();
    pools.map(move |pool| Counted { pool, week, bin, sign })
}

/// Where the settlements of a customer count, all of them, in their order.
fn all_counted(settlements: &[Settlement], sign: i32) -> Vec<Counted> {
    let mut payer = Payer::default();
    let mut all = Vec::with_capacity(2 * settlements.len());
    for settlement in settlements {
        all.extend(counted(&payer, settlement, sign));
        payer.settle(settlement.delay_days);
    }
    all
}

/// What was told of a customer last.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Told {
    label: Label,
    /// P(late) and P(more than 7 days late) in 1/[`STEPS`].
    q: [u8; 2],
    /// The days of [`LEVELS`].
    days: [i8; 3],
    /// P(late) of the portfolio that was told with it, in 1/[`STEPS`]; [`NO_PORTFOLIO`] if too few had paid.
    q_pooled: u8,
}

/// A probability is remembered in so many steps: fine enough for [`MOVED`].
const STEPS: f32 = 250.0;
/// Above all [`STEPS`].
const NO_PORTFOLIO: u8 = u8::MAX;
/// The quantiles that are told.
const LEVELS: [f32; 3] = [0.1, 0.5, 0.9];
/// A change of a probability below this changes no decision: thresholds lie tenths apart, and each event costs all services.
const MOVED: f32 = 0.03;
/// The same for quantiles, in days ...
const MOVED_DAYS: i32 = 2;
/// ... and as a part of the delay: whoever pays on the 40th day could as well have paid on the 35th.
const MOVED_PART: i32 = 4;
/// With less than so many effective settlements the schedule stays as it is, so there is nothing to tell.
const KNOWN: f32 = 2.0;

impl Told {
    fn of(label: Label, prediction: &Distribution, portfolio: &InForce) -> Self {
        let quantise = |p: f32| (p * STEPS).round() as u8;
        // Bins end within -61 and 120.
        let day = |level| prediction.quantile(level).clamp(i8::MIN.into(), i8::MAX.into()) as i8;
        let q_pooled = if portfolio.is_young() { NO_PORTFOLIO } else { quantise(portfolio.pooled.late()) };
        let q = [quantise(prediction.late()), quantise(prediction.late_7())];
        Self { label, q, days: LEVELS.map(day), q_pooled }
    }

    /// The portfolio changes with the week, so it makes no more than one news a week; while there is hardly one, a few more.
    fn differs(&self, now: &Self) -> bool {
        let moved = |a: u8, b: u8| f32::from(a.abs_diff(b)) >= MOVED * STEPS;
        let probabilities = self.q.iter().zip(now.q).any(|(a, b)| moved(*a, b));
        let has_portfolio = [self.q_pooled, now.q_pooled].map(|q| q != NO_PORTFOLIO);
        let portfolio = has_portfolio[0] != has_portfolio[1] || moved(self.q_pooled, now.q_pooled);
        let far = |a: i8, b: i8| i32::from(a.abs_diff(b)) >= MOVED_DAYS.max(i32::from(a).abs() / MOVED_PART);
        let days = self.days.iter().zip(now.days).any(|(a, b)| far(*a, b));
        self.label != now.label || probabilities || days || portfolio
    }
}

/// What is kept of a customer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Account {
    /// Its settlements, and its label.
    pub payer: Payer,
    /// The last settlement.
    last: Place,
    /// Of the last settlement: the next one will mostly be like it.
    segment: SegmentKey,
    told: Option<Told>,
    /// What is stored cannot be read: it is to be folded anew.
    is_stale: bool,
}

impl Default for Account {
    fn default() -> Self {
        let (payer, last, segment) = (Payer::default(), Place::default(), SegmentKey(0));
        Self { payer, last, segment, told: None, is_stale: false }
    }
}

/// How many bytes are stored of a customer's state.
const STATE: usize = STORED + 8;
const _: () = assert!(STATE <= 128);
/// The same of what was told.
const TOLD: usize = 8;

impl Account {
    /// As stored: what the crate `payer` stores, then day and hash of the last settlement, in little endian.
    pub fn state(&self) -> [u8; STATE] {
        let mut bytes = [0; STATE];
        let (payer, last) = bytes.split_at_mut(STORED);
        payer.copy_from_slice(&self.payer.to_bytes());
        let words = [self.last.day, self.last.hash];
        last.as_chunks_mut().0.iter_mut().zip(words).for_each(|(four, word)| *four = word.to_le_bytes());
        bytes
    }

    /// As stored: the segment, then what was told, if anything was.
    pub fn told(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TOLD);
        bytes.push(self.segment.0);
        if let Some(told) = self.told {
            let label = Label::ALL.iter().zip(0..).find(|(label, _)| **label == told.label).map_or(0, |(_, n)| n);
            bytes.extend([label, told.q[0], told.q[1]]);
            bytes.extend(told.days.map(i8::cast_unsigned));
            bytes.push(told.q_pooled);
        }
        bytes
    }

    /// Reads the stored form. What another version wrote is to be folded anew, and told anew.
    pub fn read(state: &[u8], told: &[u8]) -> Self {
        let told_then = match told {
            [_, label, q, q7, p10, p50, p90, q_pooled] => {
                let days = [*p10, *p50, *p90].map(u8::cast_signed);
                let label = Label::ALL.get(usize::from(*label));
                label.map(|label| Told { label: *label, q: [*q, *q7], days, q_pooled: *q_pooled })
            }
            _ => None,
        };
        let segment = SegmentKey(told.first().copied().unwrap_or_default());
        let read = || {
            let (payer, last) = state.split_first_chunk::<STORED>()?;
            let [day, hash] = *<&[u8; 8]>::try_from(last).ok()?.as_chunks().0 else { return None };
            let last = Place { day: u32::from_le_bytes(day), hash: u32::from_le_bytes(hash) };
            Some(Self { payer: Payer::from_bytes(payer).ok()?, last, segment, told: told_then, is_stale: false })
        };
        read().unwrap_or(Self { told: told_then, is_stale: true, ..Self::default() })
    }

    /// Counts a settlement that follows all others.
    fn settle(&mut self, settlement: &Settlement, portfolio: &InForce) {
        // What was expected of this payment: the estimate before it. (That of the day of issue would be another event's work.)
        let expected = portfolio.predict(&self.payer, settlement.segment, &[]).late();
        self.payer.standing.settle(settlement.delay_days, expected);
        self.payer.settle(settlement.delay_days);
        (self.last, self.segment) = (settlement.place, settlement.segment);
    }

    /// The fold of all settlements of a customer, in their order. The label stays until the customer is looked at: it was given
    /// for what was known then.
    fn replay(&self, settlements: &[Settlement], portfolio: &InForce) -> Self {
        let mut account = Self { told: self.told, ..Self::default() };
        account.payer.standing = self.payer.standing.replay([]);
        settlements.iter().for_each(|settlement| account.settle(settlement, portfolio));
        account
    }

    /// How the customer's next payment is spread.
    pub fn predict(&self, portfolio: &InForce, open: &[Open]) -> Distribution {
        portfolio.predict(&self.payer, self.segment, open)
    }
}

/// A customer that is being looked at.
pub struct Assessment<'a> {
    /// What is known of it.
    pub account: Account,
    /// Changes of its label, in their order.
    pub changes: Vec<Change>,
    /// What its settlements change about the portfolio.
    pub counted: Vec<Counted>,
    /// What the last look saw.
    seen: Option<(Distribution, Distribution)>,
    portfolio: &'a InForce,
    open: &'a [Open],
}

impl<'a> Assessment<'a> {
    /// Begins with what is known of a customer: its account, its merchant's portfolio, and its open overdue invoices, oldest
    /// issued first.
    pub fn new(account: Account, portfolio: &'a InForce, open: &'a [Open]) -> Self {
        let open = open.get(..MOST_OPEN).unwrap_or(open);
        Self { account, changes: Vec::new(), counted: Vec::new(), seen: None, portfolio, open }
    }

    /// Counts settlements that follow all others, and looks at the customer after each.
    pub fn settle(&mut self, settlements: &[Settlement]) {
        for settlement in settlements {
            self.counted.extend(counted(&self.account.payer, settlement, 1));
            self.account.settle(settlement, self.portfolio);
            self.look();
        }
    }

    /// Folds the customer anew, of all settlements that are known now, and looks at it once.
    pub fn replay(&mut self, mut settlements: Vec<Settlement>, changes: &Changes) {
        settlements.sort_unstable();
        self.counted.extend(all_counted(&changes.undo(&settlements), -1));
        self.counted.extend(all_counted(&settlements, 1));
        self.account = self.account.replay(&settlements, self.portfolio);
        self.look();
    }

    /// Looks at what kind of payer the customer is. Once for each thing that was heard: to look twice at the same is to agree
    /// with oneself.
    pub fn look(&mut self) {
        let seen = self.see();
        let change = self.account.payer.standing.look(&self.looks(&seen), &self.portfolio.thresholds);
        self.changes.extend(change);
        self.seen = Some(seen);
    }

    /// How the next payment is spread, and how it would be without what is open.
    fn see(&self) -> (Distribution, Distribution) {
        let usual = self.account.predict(self.portfolio, &[]);
        match self.open {
            [] => (usual, usual),
            open => (self.account.predict(self.portfolio, open), usual),
        }
    }

    fn looks<'p>(&self, (prediction, usual): &'p (Distribution, Distribution)) -> Looks<'p> {
        let overdue_days = self.open.iter().map(|open| open.overdue_days).max();
        Looks { effective: self.account.payer.effective(), prediction, usual, overdue_days }
    }

    /// Why the customer has its label, or why it has it still; with how its next payment is spread.
    pub fn explain(&self) -> (String, Distribution) {
        let seen = self.seen.unwrap_or_else(|| self.see());
        let standing = &self.account.payer.standing;
        let (label, reason) = self.looks(&seen).label(standing.cusum(), &self.portfolio.thresholds);
        if label == standing.label() {
            return (reason.to_string(), seen.0);
        }
        (format!("to become {} if the next look agrees: {reason}", label.as_str()), seen.0)
    }

    /// The event, if enough has changed since the last one.
    pub fn tell(&mut self, key: &PayerKey, version: i64) -> Option<v1::CustomerSegmented> {
        let (prediction, _) = self.seen.unwrap_or_else(|| self.see());
        let label = self.account.payer.standing.label();
        let now = Told::of(label, &prediction, self.portfolio);
        let effective = self.account.payer.effective();
        let is_news = match &self.account.told {
            None => effective >= KNOWN,
            Some(told) => told.differs(&now),
        };
        // Before anybody has paid there is nothing to hold a customer against.
        if !is_news || self.portfolio.settlements == 0 {
            return None;
        }
        self.account.told = Some(now);
        let days = now.days.map(i32::from);
        Some(v1::CustomerSegmented {
            merchant_id: key.0.to_string(),
            customer_id: key.1.to_string(),
            version,
            segment: snapshot::segment_to_wire(word(label)).into(),
            settled: i32::try_from(self.account.payer.settled()).unwrap_or(i32::MAX),
            settled_late: i32::try_from(self.account.payer.late()).unwrap_or(i32::MAX),
            reason: self.explain().0,
            outlook: Some(v1::Outlook {
                delay: prediction.0.to_vec(),
                pooled: if self.portfolio.is_young() { Vec::new() } else { self.portfolio.pooled.0.to_vec() },
                effective,
                late: prediction.late(),
                late_7: prediction.late_7(),
                p10_days: days[0],
                p50_days: days[1],
                p90_days: days[2],
                late_pooled: self.portfolio.pooled.late(),
                model: MODEL.to_owned(),
            }),
        })
    }
}

/// The label in the words of the events.
fn word(label: Label) -> Segment {
    match label {
        Label::New => Segment::New,
        Label::Prompt => Segment::Prompt,
        Label::Mixed => Segment::Mixed,
        Label::UsuallyLate => Segment::UsuallyLate,
        Label::ChronicallyLate => Segment::ChronicallyLate,
        Label::AtRisk => Segment::AtRisk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Week;
    use jiff::civil::date;
    use payer::bins::BINS;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TODAY: Date = date(2026, 6, 1);

    fn nobody() -> InForce {
        InForce::fold(&[], TODAY, None)
    }

    /// An invoice that was paid so many days after its due date.
    fn settlement((n, day, delay): (u16, i32, i32)) -> Settlement {
        let due_on = date(2026, 1, 1) + SignedDuration::from_hours(24 * i64::from(day));
        let paid_on = due_on + SignedDuration::from_hours(24 * i64::from(delay));
        let segment = segment(date(2025, 12, 20), Some(due_on));
        Settlement::new(&format!("in_{n}").parse().unwrap(), due_on, paid_on, segment)
    }

    /// A customer as the handler treats it: what is in order is added, for everything else all is folded anew.
    #[derive(Default)]
    struct Customer {
        account: Account,
        known: BTreeMap<u16, Settlement>,
        pools: BTreeMap<(PoolKey, Date, usize), i32>,
    }

    impl Customer {
        fn hear(&mut self, n: u16, now: Option<Settlement>) {
            let before = match now {
                Some(now) => self.known.insert(n, now),
                None => self.known.remove(&n),
            };
            let mut changes = Changes::default();
            changes.note(before, now);
            let portfolio = nobody();
            // Read and written each time, as rows are.
            let stored = Account::read(&self.account.state(), &self.account.told());
            assert_eq!(stored, self.account);
            let mut assessment = Assessment::new(stored, &portfolio, &[]);
            match changes.following(&self.account) {
                Some(settled) => assessment.settle(settled),
                None => assessment.replay(self.known.values().copied().collect(), &changes),
            }
            self.account = assessment.account;
            for counted in assessment.counted {
                *self.pools.entry((counted.pool, counted.week, counted.bin)).or_default() += counted.sign;
            }
        }

        /// All but the label, which depends on what was known when.
        fn facts(mut self) -> Vec<String> {
            self.account.payer.standing = Default::default();
            self.pools.retain(|_, count| *count != 0);
            let account = format!("{:?} {:?}", self.account.state(), self.account.told());
            self.pools.iter().map(|pool| format!("{pool:?}")).chain([account]).collect()
        }
    }

    #[test]
    fn a_week_begins_on_monday() {
        assert_eq!(monday(date(2026, 6, 7)), TODAY);
        assert_eq!([monday(TODAY), monday(date(2026, 6, 8))], [TODAY, date(2026, 6, 8)]);
    }

    #[test]
    fn dates_that_make_no_sense_are_told_from_odd_ones() {
        let fault = |issued: &str, due: &str, paid: &str| {
            let date = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
            fault(issued.parse().unwrap(), date(due), date(paid))
        };
        assert_eq!(fault("2026-01-01", "2026-01-31", "2026-01-01"), None);
        assert_eq!(fault("2026-01-01", "", "2029-01-01"), None, "late, but not absurdly");
        assert_eq!(fault("2026-01-01", "2025-12-31", ""), None, "due before issue: it happens");
        assert_eq!(fault("2026-01-01", "2026-01-31", "2025-12-31"), Some(Fault::PaidBeforeIssue));
        assert_eq!(fault("2026-01-01", "2062-01-31", ""), Some(Fault::AbsurdDate));
        assert_eq!(fault("1970-01-01", "1970-01-31", ""), Some(Fault::AbsurdDate));
        assert_eq!(fault("2026-01-01", "9999-12-31", ""), Some(Fault::AbsurdDate));
    }

    #[test]
    fn what_has_hardly_moved_is_no_news() {
        let mut counts = [0.0; BINS];
        (counts[bin(0)], counts[bin(3)]) = (70.0, 30.0);
        let told = |counts| Told::of(Label::Mixed, &Distribution::of(&counts), &nobody());
        let before = told(counts);
        let moved = |late: f32, day: i32| {
            let mut counts = [0.0; BINS];
            (counts[bin(0)], counts[bin(day)]) = (100.0 - late, late);
            before.differs(&told(counts))
        };
        assert!(!moved(32.0, 3) && moved(33.1, 3) && moved(26.9, 3));
        assert!(moved(30.0, 8), "the chance to be more than a week late, and the quantile");
        assert!(before.differs(&Told { label: Label::Prompt, ..before }));
        let days = |days| Told { days, ..before };
        assert!(days([-2, 0, 3]).differs(&days([-4, 0, 3])) && !days([-2, 0, 3]).differs(&days([-1, 1, 4])));
        let pooled = |q_pooled| Told { q_pooled, ..before };
        assert!(pooled(100).differs(&pooled(108)) && !pooled(100).differs(&pooled(107)));
        assert!(before.differs(&pooled(250)) && pooled(250).differs(&before), "there is a portfolio now, or none");
        assert!(days([0, 0, 40]).differs(&days([0, 0, 50])) && !days([0, 0, 40]).differs(&days([0, 0, 49])));
    }

    #[test]
    fn a_portfolio_of_a_handful_is_not_told() {
        let pooled = |settlements: u32| {
            let mut counts = [0; BINS];
            counts[bin(0)] = settlements;
            let portfolio = InForce::fold(&[Week { begins_on: TODAY, pool: 5, counts }], TODAY, None);
            let mut assessment = Assessment::new(Account::default(), &portfolio, &[]);
            (0..3).for_each(|n| assessment.settle(&[settlement((n, i32::from(n), 0))]));
            let told = assessment.tell(&("acme".parse().unwrap(), "ada".parse().unwrap()), 1);
            told.map(|told| told.outlook.unwrap().pooled.len())
        };
        assert_eq!([0, 1, 199, 200].map(pooled), [None, Some(0), Some(0), Some(BINS)]);
    }

    #[test]
    fn what_another_version_wrote_is_folded_anew() {
        let mut customer = Customer::default();
        (0..4).for_each(|n| customer.hear(n, Some(settlement((n, i32::from(n), 2)))));
        let mut state = customer.account.state();
        state[0] = 99;
        let stale = Account::read(&state, &customer.account.told());
        assert_eq!(Changes::default().following(&stale), None);
        let portfolio = nobody();
        let mut assessment = Assessment::new(stale, &portfolio, &[]);
        assessment.replay(customer.known.values().copied().collect(), &Changes::default());
        let [read, kept] = [assessment.account, customer.account].map(|account| account.state()[..112].to_vec());
        assert_eq!(read, kept);
        let sums: i32 = assessment.counted.iter().map(|counted| counted.sign).sum();
        assert_eq!(sums, 0, "the portfolio knows them already");
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_bits(
            news in prop::collection::vec((0_u16..12, 0_i32..40, -20_i32..60, prop::bool::weighted(0.8)), 1..60),
        ) {
            let mut heard = Customer::default();
            for (n, day, delay, is_paid) in news {
                heard.hear(n, is_paid.then(|| settlement((n, day, delay))));
            }
            // What is left, in order, without a detour.
            let mut straight = Customer::default();
            let mut left: Vec<_> = heard.known.clone().into_iter().collect();
            left.sort_by_key(|(_, settlement)| *settlement);
            left.iter().for_each(|(n, settlement)| straight.hear(*n, Some(*settlement)));
            let payer = Payer::replay(left.iter().map(|(_, settlement)| settlement.delay_days));
            prop_assert_eq!(payer.counts(), heard.account.payer.counts());
            prop_assert_eq!(heard.facts(), straight.facts());
        }
    }
}
