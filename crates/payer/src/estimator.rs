//! What a customer's past says about its next payment: counts of its delays that forget, shrunk to what others do.
//!
//! ```text
//! settlement   C <- .95 C;    C[bins near d] += 1 in all     customer
//!              S <- .999 S;   S[bin of d] += 1               segment: invoices with like terms and amounts
//!              G <- .9995 G;  G[bin of d] += 1               tenant; begins at bin width / total width
//!              P <- .999 P;   P[bin of d] += 1               peers: customers with like histories
//! prior        pG = G / |G|    pS = (30 pG + S) / (30 + |S|)
//! open j       tail_j(b) = pS(b) [b >= bin(days overdue of j)] / sum of the same
//! alone        f(b) = (kappa pS(b) + C(b) + 1.5 sum_j tail_j(b)) / (kappa + |C| + 1.5 n_open)
//! peers        pP = (300 f + P) / (300 + |P|)                P of those whom the customer looks like
//! prediction   p(b) = (16 pP(b) + C(b)) / (16 + |C|); f of a customer that has never paid
//!              where no overdue peers were counted: P of the others, f without tails, and 1.5 tail_j of pP with C
//! ```
//!
//! Each step is a Dirichlet prior over bins: whether a payment is late is then a Beta-Binomial. An open overdue invoice is
//! right-censored: it can only end in a bin that is still ahead.
//!
//! Peers, the spread of C over neighbouring days and the weights 1.5, 300 and 16 were chosen on invoices issued between the
//! 20th and the 60th percentile of two ledgers' dates of issue, and in simulated worlds. Those that are scored were looked at
//! about ten times on the way, and ruled one variant out: a mild effect of selection remains. Peers help where payers
//! change, as real ones do. Simulated ones do not, and there a last payment says no more than any other: hence the weight
//! of 300, which costs them little. Lighter weights rank the two ledgers better, and the worlds worse.
//!
//! State is a fold over events: the same settlements in the same order give the same bits. Whoever takes a payment back folds
//! the customer's remaining settlements anew ([`Payer::replay`]).

use crate::bins::{self, BINS, Counts, bin};
pub use crate::distribution::Distribution;
use crate::label::Standing;
use crate::peers::Peers;
use std::collections::BTreeMap;

/// What is left of a settlement's weight in its customer's counts after the next one: a memory of about 20 invoices.
const CUSTOMER_MEMORY: f32 = 0.95;
/// The same in the counts of a segment.
const SEGMENT_MEMORY: f32 = 0.999;
/// The same in the counts of a tenant.
const TENANT_MEMORY: f32 = 0.9995;
/// How many settlements of its segment the tenant's distribution weighs.
const TENANT_WEIGHT: f32 = 30.0;
/// How many settlements of its peers the distribution weighs that a customer has without them.
const ALONE_WEIGHT: f32 = 300.0;
/// How many settlements the peers weigh.
const PEERS_WEIGHT: f32 = 16.0;
/// How many settlements an open overdue invoice weighs.
const OPEN_WEIGHT: f32 = 1.5;
/// So many open overdue invoices count.
pub const MOST_OPEN: usize = 2;

/// How many settlements the prior weighs while a tenant has too few customers to tell ([`crate::icc`]): as if a quarter of the
/// variance of "late" lay between customers. It is .19 to .45 in the ledgers that we know.
pub const KAPPA: f32 = 3.0;

/// What is kept of a customer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Payer {
    /// C: settlements by bin of delay, forgetting.
    counts: Counts,
    /// All settlements that were ever counted.
    settled: u32,
    /// Those of them that came after the due date.
    late: u32,
    /// The delay of the last one.
    last_delay: i32,
    /// Its label.
    pub standing: Standing,
}

impl Payer {
    /// Counts a settlement that came so many days after the due date.
    pub fn settle(&mut self, delay_days: i32) {
        self.counts.iter_mut().for_each(|count| *count *= CUSTOMER_MEMORY);
        add_spread(&mut self.counts, delay_days);
        self.last_delay = delay_days;
        self.settled = self.settled.saturating_add(1);
        self.late = self.late.saturating_add(u32::from(delay_days > 0));
    }

    /// The state after these settlements, in this order; [`Standing::replay`] gives its label back to it.
    pub fn replay(delays: impl IntoIterator<Item = i32>) -> Self {
        let mut payer = Self::default();
        delays.into_iter().for_each(|delay| payer.settle(delay));
        payer
    }

    /// |C|: how many settlements the counts are worth, at most 20.
    pub fn effective(&self) -> f32 {
        self.counts.iter().sum()
    }

    /// All settlements that were ever counted.
    pub fn settled(&self) -> u32 {
        self.settled
    }

    /// Those of them that came after the due date.
    pub fn late(&self) -> u32 {
        self.late
    }

    /// The delay of the last settlement, in days; `None` if there is none.
    pub fn last_delay(&self) -> Option<i32> {
        (self.settled > 0).then_some(self.last_delay)
    }

    /// C: settlements by bin of delay, forgetting.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// As stored: words of four bytes in little endian, the first of which is the version.
    pub fn to_bytes(&self) -> [u8; STORED] {
        let counts = self.counts.iter().map(|count| count.to_bits());
        let words = [VERSION]
            .into_iter()
            .chain(counts)
            .chain([self.settled, self.late, self.last_delay.cast_unsigned()])
            .chain(self.standing.to_words());
        let mut bytes = [0; STORED];
        bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(four, word)| *four = word.to_le_bytes());
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If the bytes are of another version, or hold what is no count or no label. The customer is then to be replayed.
    pub fn from_bytes(bytes: &[u8; STORED]) -> Result<Self, NotAState> {
        let mut words = bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four));
        let mut word = || words.next().unwrap_or_default();
        let version = word();
        if version != VERSION {
            return Err(NotAState::Version(version));
        }
        let counts: Counts = std::array::from_fn(|_| f32::from_bits(word()));
        if !counts.iter().all(|count| count.is_finite() && *count >= 0.0) {
            return Err(NotAState::Count);
        }
        let (settled, late, last_delay) = (word(), word(), word().cast_signed());
        let standing = Standing::from_words([word(), word()]).ok_or(NotAState::Standing)?;
        Ok(Self { counts, settled, late, last_delay, standing })
    }
}

/// How many 32-bit words are stored of a customer: the version, the counts, two sums, the last delay, and the label.
const WORDS: usize = 1 + BINS + 3 + 2;
/// How many bytes are stored of a customer.
pub const STORED: usize = 4 * WORDS;
/// Of the stored form.
const VERSION: u32 = 1;
// A million customers must fit into a cache of 200 MB.
const _: () = assert!(size_of::<Payer>() <= 128 && STORED <= 128);

/// Why stored bytes are not the state of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAState {
    /// They were written by another version.
    #[error("the state is of version {0}, not {VERSION}")]
    Version(u32),
    /// A count is negative or no number.
    #[error("a count is negative or no number")]
    Count,
    /// A label does not exist, or its CUSUM is negative or no number.
    #[error("the label or its CUSUM is none")]
    Standing,
}

/// The memory of many customers' settlements: of a tenant, or of a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    counts: Counts,
    memory: f32,
}

impl Pool {
    /// Of a tenant: all days equally probable at first.
    pub fn of_tenant() -> Self {
        Self { counts: Distribution::uniform().0, memory: TENANT_MEMORY }
    }

    /// Of a segment: nothing at first.
    pub fn of_segment() -> Self {
        Self { counts: [0.0; BINS], memory: SEGMENT_MEMORY }
    }

    /// Counts one settlement.
    pub fn settle(&mut self, delay_days: i32) {
        self.counts.iter_mut().for_each(|count| *count *= self.memory);
        if let Some(count) = self.counts.get_mut(bin(delay_days)) {
            *count += 1.0;
        }
    }

    /// Counts a week of settlements, given how many fell into each bin. Their order within the week does not matter: each
    /// weighs the mean of what n settlements one by one would weigh, (1 - m^n) / (n (1 - m)) for the memory m.
    pub fn fold_week(&mut self, counts: &[u32; BINS]) {
        let settled: u32 = counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if settled == 0 {
            return;
        }
        let memory = f64::from(self.memory);
        let kept = power(memory, settled);
        let weight = (1.0 - kept) / (f64::from(settled) * (1.0 - memory));
        for (pooled, count) in self.counts.iter_mut().zip(counts) {
            *pooled = (kept * f64::from(*pooled) + weight * f64::from(*count)) as f32;
        }
    }

    /// How many settlements the counts are worth.
    pub fn effective(&self) -> f32 {
        self.counts.iter().sum()
    }

    /// How the pool's customers pay.
    pub fn distribution(&self) -> Distribution {
        Distribution::of(&self.counts)
    }

    /// How the pool's customers pay, shrunk to what is thought without it by the weight of so many settlements: while it is
    /// small, the pool says little.
    fn shrunk_to(&self, to: &Distribution, weight: f32) -> Distribution {
        let mut counts = self.counts;
        counts.iter_mut().zip(to.0).for_each(|(count, share)| *count += weight * share);
        Distribution::of(&counts)
    }
}

/// By squaring: the same bits on every machine, which `powf` and `powi` do not promise.
fn power(mut base: f64, mut exponent: u32) -> f64 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            power *= base;
        }
        base *= base;
        exponent /= 2;
    }
    power
}

/// Adds 1 to the counts, spread evenly over the days near a delay: a quarter of its length to both sides, since whoever pays on
/// the 12th day late could as well have paid on the 10th. A quarter never reaches the due date, let alone the other side of it.
fn add_spread(counts: &mut Counts, delay_days: i32) {
    let days = delay_days.clamp(bins::FIRST_DAY, bins::END - 1);
    let near = days.abs() / 4;
    let (first, last) = ((days - near).max(bins::FIRST_DAY), (days + near).min(bins::END - 1));
    let length = (last + 1 - first) as f32;
    for (count, (left, right)) in counts.iter_mut().zip(bins::edges()) {
        let common = (right.min(last + 1) - left.max(first)).max(0);
        *count += common as f32 / length;
    }
}

/// How the customers of one tenant pay: all together, by segment, and by what they look like.
#[derive(Debug, Clone, PartialEq)]
pub struct Portfolio<Key> {
    /// All of them.
    pub tenant: Pool,
    /// Invoices with like terms and amounts.
    pub segments: BTreeMap<Key, Pool>,
    /// Customers with like histories.
    pub peers: BTreeMap<Peers, Pool>,
    /// How many settlements the prior weighs in a customer's counts.
    pub kappa: f32,
}

impl<Key: Ord> Default for Portfolio<Key> {
    fn default() -> Self {
        Self { tenant: Pool::of_tenant(), segments: BTreeMap::new(), peers: BTreeMap::new(), kappa: KAPPA }
    }
}

impl<Key: Ord> Portfolio<Key> {
    /// Counts one settlement of an invoice of that segment.
    pub fn settle(&mut self, segment: Key, delay_days: i32) {
        self.tenant.settle(delay_days);
        self.segments.entry(segment).or_insert_with(Pool::of_segment).settle(delay_days);
    }

    /// Counts the same settlement for those whom its customer looked like when the invoice was issued ([`Peers::of`]).
    pub fn settle_peers(&mut self, peers: Peers, delay_days: i32) {
        self.peers.entry(peers).or_insert_with(Pool::of_segment).settle(delay_days);
    }

    /// pS: how a customer of whom nothing is known pays an invoice of that segment.
    pub fn prior(&self, segment: &Key) -> Distribution {
        let tenant = self.tenant.distribution();
        self.segments.get(segment).map_or(tenant, |pool| pool.shrunk_to(&tenant, TENANT_WEIGHT))
    }

    /// How a customer's payment of an invoice of that segment is spread. Where nobody was counted as overdue, an overdue
    /// customer is held against those with the same history, and what is open says what it says: forgetting its peers, it
    /// could look the more punctual for being overdue.
    pub fn predict(&self, payer: &Payer, segment: &Key, open: &[Open]) -> Distribution {
        let prior = self.prior(segment);
        let alone = |open| predict(payer, &prior, open, self.kappa);
        let Some(peers) = Peers::of(payer, open) else { return alone(open) };
        let pool = |peers| self.peers.get(&peers);
        if let Some(pool) = pool(peers) {
            return predict(payer, &pool.shrunk_to(&alone(open), ALONE_WEIGHT), &[], PEERS_WEIGHT);
        }
        match Peers::of(payer, &[]).and_then(pool) {
            Some(pool) => predict(payer, &pool.shrunk_to(&alone(&[]), ALONE_WEIGHT), open, PEERS_WEIGHT),
            None => predict(payer, &alone(open), &[], PEERS_WEIGHT),
        }
    }
}

/// An invoice of the customer that is unpaid after its due date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Today minus its due date, in days.
    pub overdue_days: i32,
}

/// How a customer's next payment is spread, without regard to peers: its own counts, its open overdue invoices (oldest issued first; the first
/// [`MOST_OPEN`] count), and `kappa` settlements' worth of the prior.
pub fn predict(payer: &Payer, prior: &Distribution, open: &[Open], kappa: f32) -> Distribution {
    let mut counts = payer.counts;
    counts.iter_mut().zip(prior.0).for_each(|(count, share)| *count += kappa * share);
    for open in open.iter().take(MOST_OPEN) {
        let first = bin(open.overdue_days);
        let ahead: f32 = prior.0.iter().skip(first).sum();
        if ahead > 0.0 {
            let tail = counts.iter_mut().zip(prior.0).skip(first);
            tail.for_each(|(count, share)| *count += OPEN_WEIGHT * share / ahead);
        }
    }
    Distribution::of(&counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }

    fn pool(delays: &[(i32, u32)]) -> Pool {
        let mut pool = Pool::of_segment();
        delays.iter().for_each(|(delay, times)| (0..*times).for_each(|_| pool.settle(*delay)));
        pool
    }

    #[test]
    fn counts_forget_and_sums_do_not() {
        let payer = Payer::replay([5, 0, -1]);
        close(payer.counts()[bin(4)] + payer.counts()[bin(6)], 0.95 * 0.95);
        close(payer.counts()[bin(0)], 0.95);
        close(payer.effective(), 1.0 + 0.95 + 0.95 * 0.95);
        assert_eq!((payer.settled(), payer.late()), (3, 1));
        close(Payer::replay([0; 500]).effective(), 20.0);
    }

    #[test]
    fn a_new_segment_pays_like_its_tenant() {
        let mut portfolio = Portfolio::default();
        portfolio.prior(&"new").0.iter().zip(Distribution::uniform().0).for_each(|(a, b)| close(*a, b));
        // Ten settlements of its own against a weight of thirty.
        (0..10).for_each(|_| portfolio.settle("old", 0));
        let (tenant, weight) = (portfolio.tenant.distribution(), portfolio.segments["old"].effective());
        assert_eq!(portfolio.prior(&"new"), tenant);
        close(portfolio.prior(&"old").0[bin(0)], (30.0 * tenant.0[bin(0)] + weight) / (30.0 + weight));
    }

    #[test]
    fn a_prediction_shrinks_to_the_prior_by_kappa() {
        let prior = pool(&[(0, 3), (5, 1)]).distribution();
        let payer = Payer::replay([5, 5]);
        let n = payer.effective();
        close(predict(&Payer::default(), &prior, &[], 6.0).late(), prior.late());
        close(predict(&payer, &prior, &[], 6.0).late(), (6.0 * prior.late() + n) / (6.0 + n));
    }

    #[test]
    fn what_peers_did_next_moves_the_prediction() {
        let mut portfolio = Portfolio::default();
        let payer = Payer::replay([0, 0, 3]);
        let alone = predict(&payer, &portfolio.prior(&()), &[], portfolio.kappa);
        let expected = |of_peers: f32| {
            let late = payer.counts()[bin(3)];
            (16.0 * of_peers + late) / (16.0 + payer.effective())
        };
        close(portfolio.predict(&payer, &(), &[]).late(), expected(alone.late()));
        let peers = Peers::of(&payer, &[]).unwrap();
        (0..60).for_each(|_| portfolio.settle_peers(peers, 9));
        let weight = portfolio.peers[&peers].effective();
        let of_peers = (300.0 * alone.late() + weight) / (300.0 + weight);
        close(portfolio.predict(&payer, &(), &[]).late(), expected(of_peers));
        let other = Payer::replay([0, 3, 0]);
        let without = Portfolio { peers: BTreeMap::new(), ..portfolio.clone() };
        assert_eq!(
            portfolio.predict(&other, &(), &[]),
            without.predict(&other, &(), &[]),
            "its last payment was not late"
        );
    }

    #[test]
    fn who_is_overdue_has_peers_where_that_was_not_counted() {
        let mut portfolio = Portfolio::default();
        let (payer, open) = (Payer::replay([0, 0, 3]), [Open { overdue_days: 1 }]);
        let peers = Peers::of(&payer, &[]).unwrap();
        (0..1_000).for_each(|_| portfolio.settle((), 0));
        (0..300).for_each(|_| portfolio.settle_peers(peers, 9));
        let late = |portfolio: &Portfolio<()>, open: &[Open]| portfolio.predict(&payer, &(), open).late();
        assert!(late(&portfolio, &open) > late(&portfolio, &[]), "being overdue makes nobody more punctual");
        let without = Portfolio { peers: BTreeMap::new(), ..portfolio.clone() };
        assert!(late(&portfolio, &open) > late(&without, &open) + 0.1);
        // Where it was counted, that is what counts.
        (0..300).for_each(|_| portfolio.settle_peers(Peers::of(&payer, &open).unwrap(), 0));
        assert!(late(&portfolio, &open) < late(&portfolio, &[]));
    }

    #[test]
    fn who_has_never_paid_is_predicted_alone() {
        let mut portfolio = Portfolio::default();
        portfolio.settle((), 4);
        (0..Peers::GROUPS).for_each(|group| portfolio.settle_peers(Peers(u8::try_from(group).unwrap()), 40));
        let (payer, open) = (Payer::default(), [Open { overdue_days: 9 }]);
        let alone = predict(&payer, &portfolio.prior(&()), &open, portfolio.kappa);
        assert_eq!(portfolio.predict(&payer, &(), &open), alone);
    }

    #[test]
    fn a_payment_is_spread_over_days_near_it_on_its_side_of_the_due_date() {
        let spread = |day: i32| {
            let counts = *Payer::replay([day]).counts();
            close(counts.iter().sum(), 1.0);
            counts
        };
        for day in -3..=3 {
            assert_eq!(spread(day)[bin(day)], 1.0, "{day}");
        }
        // 9 to 15: two days from 8 on, four from 11 on, one from 15 on.
        let counts = spread(12);
        close(counts[bin(8)], 2.0 / 7.0);
        close(counts[bin(11)], 4.0 / 7.0);
        close(counts[bin(15)], 1.0 / 7.0);
        // -5 to -3.
        close(spread(-4)[bin(-5)], 2.0 / 3.0);
        close(spread(-4)[bin(-3)], 1.0 / 3.0);
        for far in [-61, -1_000, 120, 1_000] {
            assert!(spread(far)[bin(far)] > 0.1, "{far}");
        }
    }

    #[test]
    fn an_open_invoice_can_only_be_paid_late() {
        let prior = pool(&[(0, 2), (3, 1), (30, 1)]).distribution();
        let open = |days: &[i32]| {
            let open: Vec<Open> = days.iter().map(|days| Open { overdue_days: *days }).collect();
            predict(&Payer::default(), &prior, &open, 6.0)
        };
        close(open(&[1]).late(), (6.0 * prior.late() + 1.5) / 7.5);
        // Ten days overdue: only the payment after thirty days is still ahead.
        close(open(&[10]).late_7(), (6.0 * prior.late_7() + 1.5) / 7.5);
        assert_eq!(open(&[10, 5, 5]), open(&[10, 5]), "two count");
        assert_eq!(open(&[100]), Distribution::of(&prior.0), "nobody of this kind ever paid that late");
    }

    #[test]
    fn a_week_is_much_like_its_settlements_one_by_one() {
        // Two thousand customers' payments in a week, in an order that is as bad as can be: all early ones first.
        let mut week = [0; BINS];
        (week[bin(-3)], week[bin(4)]) = (1_500, 500);
        for start in [Pool::of_tenant(), pool(&[(0, 50), (20, 50)])] {
            let (mut folded, mut one_by_one) = (start, start);
            folded.fold_week(&week);
            (0..1_500).for_each(|_| one_by_one.settle(-3));
            (0..500).for_each(|_| one_by_one.settle(4));
            let weight = folded.effective() / one_by_one.effective();
            assert!((weight - 1.0).abs() < 1e-4, "{weight}");
            let alternating = {
                let mut pool = start;
                (0..2_000).for_each(|n| pool.settle(if n % 4 == 3 { 4 } else { -3 }));
                pool.distribution().late()
            };
            let late = folded.distribution().late();
            assert!((late - alternating).abs() < 0.001, "{late} or {alternating}");
        }
    }

    #[test]
    fn an_empty_week_changes_nothing() {
        let mut pool = pool(&[(0, 3)]);
        let before = pool;
        pool.fold_week(&[0; BINS]);
        assert_eq!(pool, before);
    }

    #[test]
    fn bytes_of_another_kind_are_refused() {
        let mut bytes = Payer::replay([1]).to_bytes();
        bytes[STORED - 7] = 6;
        assert_eq!(Payer::from_bytes(&bytes), Err(NotAState::Standing));
        bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(Payer::from_bytes(&bytes), Err(NotAState::Count));
        bytes[0] = 9;
        assert_eq!(Payer::from_bytes(&bytes), Err(NotAState::Version(9)));
    }

    proptest! {
        #[test]
        fn a_replay_gives_the_same_bits(delays in prop::collection::vec(-90_i32..200, 0..60), interrupted in 0_usize..60) {
            let at_once = Payer::replay(delays.iter().copied());
            // Stored and read again on the way.
            let (before, after) = delays.split_at(interrupted.min(delays.len()));
            let mut halfway = Payer::replay(before.iter().copied());
            halfway.standing.settle(5, 0.2);
            let mut payer = Payer::from_bytes(&halfway.to_bytes()).unwrap();
            prop_assert_eq!(payer, halfway);
            payer.standing = Standing::default();
            after.iter().for_each(|delay| payer.settle(*delay));
            prop_assert_eq!(payer.to_bytes(), at_once.to_bytes());
        }

        #[test]
        fn a_reversal_is_a_replay_of_what_is_left(delays in prop::collection::vec(-90_i32..200, 1..30), taken in any::<prop::sample::Index>()) {
            let mut left = delays.clone();
            let delay = left.remove(taken.index(delays.len()));
            let replayed = Payer::replay(left.iter().copied());
            prop_assert_eq!(replayed.settled() + 1, Payer::replay(delays.iter().copied()).settled());
            left.push(delay);
            let mut again = replayed;
            again.settle(delay);
            prop_assert_eq!(again.to_bytes(), Payer::replay(left).to_bytes());
        }

        #[test]
        fn predictions_are_distributions(delays in prop::collection::vec(-90_i32..200, 0..40), open in prop::collection::vec(1_i32..300, 0..4), kappa in 2.0_f32..15.0) {
            let mut portfolio = Portfolio::default();
            delays.iter().for_each(|delay| portfolio.settle(0, *delay));
            delays.iter().for_each(|delay| portfolio.settle_peers(Peers(0), *delay));
            portfolio.kappa = kappa;
            let open: Vec<Open> = open.into_iter().map(|overdue_days| Open { overdue_days }).collect();
            let p = portfolio.predict(&Payer::replay(delays), &0, &open);
            prop_assert!(p.0.iter().all(|share| (0.0..=1.0).contains(share)));
            prop_assert!((p.0.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
