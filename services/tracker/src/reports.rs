//! Lift reports, each made anew at most once a minute.

use crate::lift::{Ledger, Lift};
use crate::store::{self, LiftQuery};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::MerchantId;
use sqlx::PgPool;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How old a report may be. Machine time: it is the database that is spared. A new business day is a new report, so a clock
/// that runs a day in a second still shows each day.
const AGE: Duration = Duration::from_secs(60);

/// Merchant, campaign, and the day that outcomes are known before.
type Key = (MerchantId, Option<String>, Date);

/// A report with the moment when it was made; `None` in place of the report: the merchant has no such campaign.
type Made = (Instant, Option<Arc<Lift>>);

/// The reports of the last minute. Whoever asks for one that is being made waits for it, and for no other.
#[derive(Debug, Default)]
pub struct Reports(std::sync::Mutex<HashMap<Key, Arc<Mutex<Option<Made>>>>>);

impl Reports {
    /// A report of now; `None` if the merchant has no such campaign.
    pub async fn get(&self, pool: &PgPool, query: &LiftQuery, now: Timestamp) -> anyhow::Result<Option<Arc<Lift>>> {
        let as_of = query.zone.to_datetime(now).date();
        let place = self.place((query.merchant.clone(), query.campaign.clone(), as_of));
        let mut made = place.lock().await;
        if let Some((_, report)) = made.as_ref().filter(is_recent) {
            return Ok(report.clone());
        }
        let report = make(pool, query, now, as_of).await?.map(Arc::new);
        *made = Some((Instant::now(), report.clone()));
        Ok(report)
    }

    /// Where a report is kept. What is old and what has failed is forgotten, unless somebody is at it.
    fn place(&self, key: Key) -> Arc<Mutex<Option<Made>>> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| {
            let keeps = |made: &Option<Made>| made.as_ref().is_some_and(|made| is_recent(&made));
            Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|made| keeps(&made))
        });
        places.entry(key).or_default().clone()
    }
}

fn is_recent((made_at, _): &&Made) -> bool {
    made_at.elapsed() < AGE
}

async fn make(pool: &PgPool, query: &LiftQuery, now: Timestamp, as_of: Date) -> anyhow::Result<Option<Lift>> {
    let mut tx = store::snapshot(pool).await?;
    let campaigns = store::enrolled_campaigns(&mut tx, &query.merchant).await?;
    if query.campaign.as_ref().is_some_and(|campaign| !campaigns.contains(campaign)) {
        return Ok(None);
    }
    let messages = store::messages(&mut tx, query).await?;
    let mut ledger = Ledger::new(query.merchant.clone(), as_of, messages);
    store::enrolled(&mut tx, query, |enrolled| ledger.add(enrolled)).await?;
    drop(tx);
    let campaign = query.campaign.clone();
    // Tenths of a second of arithmetic: not on a thread that serves others.
    Ok(Some(tokio::task::spawn_blocking(move || ledger.report(campaign, campaigns, now)).await?))
}
