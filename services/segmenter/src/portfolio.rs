//! How all customers of a merchant pay: what one customer is held against.
//!
//! In force is the fold of all weeks before this one, so that within a week everybody is measured by much the same. Only while
//! those weeks hold too few settlements, what is there of this week counts too. Much the same, not the same: late news change
//! past weeks, which are read again every few minutes, and a review of everybody finds out anew what the portfolio weighs.
//!
//! `payer evaluate` lives through a ledger with more than that: quartiles of amounts, groups of overdue peers, and a portfolio
//! of the day. What the service foretells may be a little better or worse than its figures.

use crate::domain::{FIRST_PEERS, monday};
use crate::store::{self, Week};
use jiff::civil::Date;
use kernel::MerchantId;
use payer::bins::BINS;
use payer::estimator::{Distribution, KAPPA, Open, Payer, Pool, Portfolio};
use payer::label::Thresholds;
use payer::peers::Peers;
use payer::segment::SegmentKey;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Late news change past weeks, a little: they are read again after so long, in machine time.
const KEEP: Duration = Duration::from_secs(300);
/// With fewer settlements than this a portfolio says little: it is read again with every batch, with those of this week, and
/// nobody is advised by it. A share among 200 is known to 7 points at worst, with 95 % confidence.
pub const YOUNG: u64 = 200;

/// Weeks that began longer before this one do not count: nobody pays today like two years ago. Read by this rule, so it does
/// not matter when they are deleted, nor what late news still adds to them.
pub const KEEP_WEEKS: i32 = 104;

/// A merchant's portfolio, as it is in force during a week.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// How all customers pay, whatever their terms.
    pub pooled: Distribution,
    /// What labels are given by.
    pub thresholds: Thresholds,
    /// How many settlements it holds.
    pub settlements: u64,
    portfolio: Portfolio<SegmentKey>,
}

impl InForce {
    /// The fold of the weeks (in order) before the one that begins on `this_week`; with that week, while they hold fewer than
    /// [`YOUNG`] settlements: a nearly empty first week would rule all of the next one.
    pub fn fold(weeks: &[Week], this_week: Date, kappa: Option<f32>) -> Self {
        // Those of peers are the same settlements again.
        let before = weeks.iter().filter(|week| week.begins_on < this_week && week.pool < FIRST_PEERS);
        let are_enough = before.flat_map(|week| week.counts).map(u64::from).sum::<u64>() >= YOUNG;
        let counted = weeks.iter().filter(|week| week.begins_on < this_week || !are_enough);

        let mut portfolio = Portfolio { kappa: kappa.unwrap_or(KAPPA), ..Portfolio::default() };
        let mut by_week: BTreeMap<Date, [u32; BINS]> = BTreeMap::new();
        for week in counted {
            let pool = match u8::try_from(week.pool) {
                Ok(segment) => portfolio.segments.entry(SegmentKey(segment)).or_insert_with(Pool::of_segment),
                Err(_) => {
                    let Ok(peers) = u8::try_from(week.pool - FIRST_PEERS) else { continue };
                    portfolio.peers.entry(Peers(peers)).or_insert_with(Pool::of_segment)
                }
            };
            pool.fold_week(&week.counts);
            if week.pool < FIRST_PEERS {
                let sum = by_week.entry(week.begins_on).or_insert([0; BINS]);
                sum.iter_mut().zip(week.counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
            }
        }
        by_week.values().for_each(|counts| portfolio.tenant.fold_week(counts));
        let pooled = portfolio.tenant.distribution();
        let settlements = by_week.values().flatten().map(|count| u64::from(*count)).sum();
        Self { thresholds: Thresholds::of(&pooled), settlements, portfolio, pooled }
    }

    /// Whether too few have paid to hold a customer against them.
    pub fn is_young(&self) -> bool {
        self.settlements < YOUNG
    }

    /// How a customer's next payment is spread.
    pub fn predict(&self, payer: &Payer, segment: SegmentKey, open: &[Open]) -> Distribution {
        self.portfolio.predict(payer, &segment, open)
    }
}

/// The portfolios of merchants that were asked for, kept for their week.
#[derive(Debug, Default)]
pub struct Portfolios {
    kept: Mutex<HashMap<MerchantId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    week: Date,
    read_at: Instant,
    in_force: Arc<InForce>,
}

impl Portfolios {
    /// The portfolios of merchants, each on a day in its zone.
    pub async fn on(
        &self,
        tx: &mut PgConnection,
        days: &BTreeMap<MerchantId, Date>,
    ) -> sqlx::Result<BTreeMap<MerchantId, Arc<InForce>>> {
        let mut found = BTreeMap::new();
        let mut stale = BTreeMap::new();
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            for (merchant, day) in days {
                let week = monday(*day);
                let is_fresh =
                    |kept: &&Kept| kept.week == week && !kept.in_force.is_young() && kept.read_at.elapsed() < KEEP;
                match kept.get(merchant).filter(is_fresh) {
                    Some(kept) => drop(found.insert(merchant.clone(), kept.in_force.clone())),
                    None => drop(stale.insert(merchant.clone(), week)),
                }
            }
        }
        if stale.is_empty() {
            return Ok(found);
        }
        let mut weeks = store::weeks(tx, &stale).await?;
        let kappas = store::kappas(tx, stale.keys()).await?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (merchant, week) in stale {
            let of_merchant = weeks.remove(&merchant).unwrap_or_default();
            let in_force = Arc::new(InForce::fold(&of_merchant, week, kappas.get(&merchant).copied()));
            found.insert(merchant.clone(), in_force.clone());
            kept.insert(merchant, Kept { week, read_at: Instant::now(), in_force });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use payer::bins::bin;

    const THIS_WEEK: Date = date(2026, 6, 1);

    fn week(begins_on: Date, pool: i16, delay: i32, count: u32) -> Week {
        let mut counts = [0; BINS];
        counts[bin(delay)] = count;
        Week { begins_on, pool, counts }
    }

    #[test]
    fn what_is_paid_this_week_counts_from_the_next_on() {
        let weeks = [week(date(2026, 5, 25), 5, 0, 300), week(THIS_WEEK, 5, 9, 900)];
        let now = InForce::fold(&weeks, THIS_WEEK, None);
        assert_eq!(now.settlements, 300);
        assert_eq!(now, InForce::fold(&weeks[..1], THIS_WEEK, None));
        let next = InForce::fold(&weeks, date(2026, 6, 8), None);
        assert!(now.pooled.late() < 0.01 && next.pooled.late() > 0.7, "{}", next.pooled.late());
        assert!(next.thresholds.prompt > now.thresholds.prompt);
    }

    #[test]
    fn a_nearly_empty_first_week_does_not_rule_the_next_one() {
        let weeks = |first| {
            let of_peers = week(date(2026, 5, 25), FIRST_PEERS, 0, first);
            [week(date(2026, 5, 25), 5, 0, first), of_peers, week(THIS_WEEK, 5, 9, 900)]
        };
        let settlements = |first| InForce::fold(&weeks(first), THIS_WEEK, None).settlements;
        assert_eq!([199, 200].map(settlements), [1_099, 200], "peers are the same settlements again");
        let in_force = |weeks: &[Week]| InForce::fold(weeks, THIS_WEEK, None);
        assert!(in_force(&weeks(199)[..2]).is_young() && !in_force(&weeks(200)[..2]).is_young());
    }

    #[test]
    fn the_first_week_is_measured_by_itself() {
        let weeks = [week(date(2026, 5, 25), 5, 0, 0), week(THIS_WEEK, 5, 9, 900)];
        assert_eq!(InForce::fold(&weeks, THIS_WEEK, None).settlements, 900);
        let nobody = InForce::fold(&[], THIS_WEEK, None);
        assert_eq!((nobody.settlements, nobody.pooled), (0, Pool::of_tenant().distribution()));
    }

    #[test]
    fn segments_and_peers_are_pools_of_their_own() {
        let before = date(2026, 5, 25);
        let weeks = [week(before, 5, 0, 500), week(before, 10, 9, 500), week(before, FIRST_PEERS + 3, 9, 500)];
        let portfolio = InForce::fold(&weeks, THIS_WEEK, None);
        assert_eq!(portfolio.settlements, 1_000, "peers are the same settlements again");
        let late = |segment| portfolio.predict(&Payer::default(), SegmentKey(segment), &[]).late();
        assert!(late(5) < 0.1 && late(10) > 0.9, "{} {}", late(5), late(10));
        assert_eq!(portfolio.portfolio.peers.len(), 1);
    }
}
