//! Lift reports, each made anew at most once a minute.

use crate::lift::{Ledger, Lift};
use crate::store::{self, LiftQuery};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::MerchantId;
use sqlx::PgPool;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How old a report may be. Machine time: it is the database that is spared. A new business day is a new report, so a clock
/// that runs a day in a second still shows each day.
const AGE: Duration = Duration::from_secs(60);

/// Merchant, campaign, and the day that outcomes are known before.
type Key = (MerchantId, Option<String>, Date);

/// The reports of the last minute. They are made one at a time: whoever asks for one that is being made waits for it.
#[derive(Debug, Default)]
pub struct Reports(Mutex<HashMap<Key, (Instant, Arc<Lift>)>>);

impl Reports {
    /// A report of now; `None` if the merchant has no such campaign.
    pub async fn get(&self, pool: &PgPool, query: &LiftQuery, now: Timestamp) -> anyhow::Result<Option<Arc<Lift>>> {
        let key = (query.merchant.clone(), query.campaign.clone(), query.zone.to_datetime(now).date());
        let mut recent = self.0.lock().await;
        recent.retain(|_, (made_at, _)| made_at.elapsed() < AGE);
        if let Some((_, report)) = recent.get(&key) {
            return Ok(Some(report.clone()));
        }
        let Some(report) = make(pool, query, now, key.2).await? else { return Ok(None) };
        let report = Arc::new(report);
        recent.insert(key, (Instant::now(), report.clone()));
        Ok(Some(report))
    }
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
