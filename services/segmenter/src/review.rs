//! Days and weeks pass, and nobody says so: whoever is overdue is looked at once a day, everybody once a week.
//!
//! A new day in a merchant's zone begins a review. It goes through the customers in their order, so many in a transaction; a
//! crash, or another replica, goes on where it was. However many days have passed since the last one, there is one review:
//! that of today.

use crate::domain::{Changes, monday};
use crate::flow::{Known, Payers};
use crate::portfolio::{KEEP_WEEKS, YOUNG};
use crate::store::{self, Progress};
use bus::Failure;
use events::topology::SEGMENTER_REVIEW;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kernel::MerchantId;
use payer::icc::Spread;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Customers per transaction.
const CHUNK: i64 = 2_000;
/// How often the calendar is looked at, in machine time: a day may take a second.
const TICK: Duration = Duration::from_millis(200);
/// A failed review is tried again after so long, in machine time.
const LATER: Duration = Duration::from_secs(1);
/// Past so many times as many settlements the portfolio is another one: everybody is looked at without waiting for Monday. So
/// is it once there are enough of them to advise by.
const GROWN: i64 = 2;

/// Reviews until `stop`.
pub async fn run(payers: Payers, stop: CancellationToken) {
    let mut done: HashMap<MerchantId, Date> = HashMap::new();
    while !stop.is_cancelled() {
        let merchants: Vec<MerchantId> = payers.host.merchants.iter().map(|m| m.id.clone()).collect();
        let mut pause = TICK;
        for merchant in merchants {
            let today = payers.today(&merchant);
            if done.get(&merchant) == Some(&today) || stop.is_cancelled() {
                continue;
            }
            match chunk(&payers, &merchant, today).await {
                Ok(Reviewed::All) => drop(done.insert(merchant, today)),
                Ok(Reviewed::Some) => pause = Duration::ZERO,
                Ok(Reviewed::Elsewhere) => {}
                Err(error) => {
                    tracing::warn!(%merchant, %error, "customers not reviewed; trying again");
                    pause = LATER;
                }
            }
        }
        if !pause.is_zero() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// What became of a part of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reviewed {
    /// There is more.
    Some,
    /// Nothing is left to do today.
    All,
    /// Another replica is at it.
    Elsewhere,
}

/// Reviews the next customers of a merchant, in one transaction.
pub async fn chunk(payers: &Payers, merchant: &MerchantId, today: Date) -> Result<Reviewed, Failure> {
    let mut work = payers.host.bus.begin(&SEGMENTER_REVIEW).await?;
    let Some(mut progress) = store::lock_progress(work.tx(), merchant).await? else {
        return Ok(Reviewed::Elsewhere);
    };
    if progress.after.is_none() {
        if progress.day >= today {
            return Ok(Reviewed::All);
        }
        begin(payers, &mut work, merchant, today, &mut progress).await?;
    }
    let after = progress.after.take().unwrap_or_default();
    let page = match progress.everybody {
        true => store::page_of_everybody(work.tx(), merchant, &after, CHUNK).await?,
        false => store::page_of_overdue(work.tx(), merchant, &after, CHUNK, today).await?,
    };
    let is_last = page.len() < CHUNK as usize;
    let mut kappa = None;
    if progress.everybody {
        kappa = spread(&mut progress, &page).filter(|_| is_last);
    }
    if !is_last {
        progress.after = page.keys().next_back().map(|(_, customer)| customer.to_string());
    }
    store::save_progress(work.tx(), merchant, &progress, kappa).await?;
    if !page.is_empty() {
        let nothing = page.keys().map(|key| (key.clone(), Changes::default())).collect();
        payers.assess(&mut work, page, nothing).await?;
    }
    work.commit().await?;
    Ok(if is_last && progress.day >= today { Reviewed::All } else { Reviewed::Some })
}

/// Begins the review of a day.
async fn begin(
    payers: &Payers,
    work: &mut bus::Work,
    merchant: &MerchantId,
    today: Date,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let portfolios = payers.portfolios.on(work.tx(), &BTreeMap::from([(merchant.clone(), today)])).await?;
    let count = |settlements: u64| i64::try_from(settlements).unwrap_or(i64::MAX);
    let settlements = portfolios.get(merchant).map_or(0, |p| count(p.settlements));
    let week = monday(today);
    let are_enough_now = progress.settlements < count(YOUNG) && settlements >= count(YOUNG);
    let has_grown = are_enough_now || settlements > progress.settlements.saturating_mul(GROWN);
    progress.everybody = week > progress.week || has_grown;
    if progress.everybody {
        (progress.week, progress.settlements) = (week, settlements);
        progress.spread = Spread::default().sums().to_vec();
    }
    progress.day = today;
    progress.after = Some(String::new());
    Ok(())
}

/// Counts in how customers differ; gives the weight of the portfolio that follows from all so far.
fn spread(progress: &mut Progress, page: &Known) -> Option<f32> {
    let sums: [f64; 5] = progress.spread.as_slice().try_into().ok()?;
    let mut spread = Spread::from_sums(sums);
    page.values().for_each(|(account, _)| spread.add(account.payer.settled(), account.payer.late()));
    progress.spread = spread.sums().to_vec();
    Some(spread.kappa())
}

/// Changes of labels are kept for so long.
const KEEP_DAYS: i64 = 400;
/// Rows per statement.
const TRIM: i64 = 10_000;

/// Deletes what is past retention, until `stop`: chunk by chunk while there is much, then every hour.
pub async fn retention(payers: Payers, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match trim(&payers).await {
            Ok(deleted) if deleted >= TRIM as u64 => Duration::from_millis(100),
            Ok(_) => Duration::from_secs(3_600),
            Err(error) => {
                tracing::warn!(%error, "old changes of labels and old weeks not deleted; trying again");
                Duration::from_secs(60)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Deletes changes of labels, and weeks of portfolios that no merchant reads any more, whatever its zone. Returns how many rows
/// of the kind that had more.
async fn trim(payers: &Payers) -> sqlx::Result<u64> {
    let (pool, now) = (&payers.host.pool, payers.host.now());
    let ago = |days: i64| now.checked_sub(SignedDuration::from_hours(24 * days)).unwrap_or(Timestamp::MIN);
    let changes = store::trim_label_changes(pool, ago(KEEP_DAYS), TRIM).await?;
    let keep_days = 7 * (i64::from(KEEP_WEEKS) + 2);
    let weeks = store::trim_weeks(pool, TimeZone::UTC.to_datetime(ago(keep_days)).date(), TRIM).await?;
    Ok(changes.max(weeks))
}
