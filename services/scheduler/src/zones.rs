//! Timers are moments, derived from local dates and times. When the time zone data changes (a new release of the database, a
//! country that gives daylight saving up), those of all open cases are derived anew.

use crate::flow::Cases;
use crate::rules::Rules;
use crate::store::{self, CaseChange, CustomerKey};
use bus::Failure;
use events::topology::SCHEDULER_OPERATIONS;
use jiff::Timestamp;
use runtime::Host;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Customers per transaction.
const BATCH: i64 = 200;

/// Compares the time zone data with that of the last run, and derives timers anew if it has changed. Then there is nothing
/// more to do until `stop`.
pub async fn run(rules: Rules, host: Host, stop: CancellationToken) {
    let fingerprint = fingerprint();
    while !stop.is_cancelled() {
        match derive_anew(&rules, &host, &fingerprint, &stop).await {
            Ok(()) => return stop.cancelled().await,
            Err(error) => tracing::warn!(%error, "timers are not derived anew yet; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

async fn derive_anew(rules: &Rules, host: &Host, fingerprint: &str, stop: &CancellationToken) -> Result<(), Failure> {
    match store::zones(&host.pool).await? {
        Some(known) if known == fingerprint => return Ok(()),
        Some(_) => tracing::warn!("the time zone data has changed: timers of all open cases are derived anew"),
        None => return Ok(store::save_zones(&host.pool, fingerprint).await?),
    }
    let mut after: Option<CustomerKey> = None;
    loop {
        if stop.is_cancelled() {
            return Ok(());
        }
        let mut work = host.bus.begin(&SCHEDULER_OPERATIONS).await?;
        let now = rules.now();
        let page = store::customers_after(work.tx(), after.as_ref(), BATCH).await?;
        let Some(last) = page.last().cloned() else { break };
        let customers: BTreeSet<CustomerKey> = page.into_iter().collect();
        store::lock_customers(work.tx(), &customers).await?;
        let ids = store::lock_cases(work.tx(), &HashSet::new(), &customers).await?;
        let in_force = rules.in_force();
        let cases = rules.load_cases(&mut work, &in_force, &ids, now).await?;
        let planner = Cases(rules.clone());
        let change = |(before, case): &(_, _)| planner.replan(&in_force, before, case, now, None);
        let changes: Vec<CaseChange> = cases.iter().filter_map(change).collect();
        store::save_cases(work.tx(), &changes).await?;
        work.commit().await?;
        after = Some(last);
    }
    Ok(store::save_zones(&host.pool, fingerprint).await?)
}

/// A hash of all changes of all zones between 2020 and 2040: the same for the same rules, wherever they come from.
fn fingerprint() -> String {
    let date = |year: i16| jiff::civil::Date::new(year, 1, 1).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let (from, to) = (date(2020).map(|z| z.timestamp()), date(2040).map(|z| z.timestamp()));
    let mut hash = Sha256::new();
    for name in jiff::tz::db().available() {
        let Ok(zone) = jiff::tz::TimeZone::get(name.as_str()) else { continue };
        hash.update(name.as_str());
        for change in
            zone.following(from.unwrap_or(Timestamp::MIN)).take_while(|c| to.is_none_or(|to| c.timestamp() < to))
        {
            hash.update(change.timestamp().as_second().to_le_bytes());
            hash.update(change.offset().seconds().to_le_bytes());
        }
    }
    hex::encode(hash.finalize()).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_same_data_has_the_same_fingerprint() {
        let fingerprint = super::fingerprint();
        assert_eq!(fingerprint.len(), 16);
        assert_eq!(fingerprint, super::fingerprint());
    }
}
