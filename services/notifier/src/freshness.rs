//! Whether we know enough of the payments to send: no reminder on stale balances.
//!
//! Ingest says through the stream up to when it has published everything ([`bus::watermark`]). As long as all of that has been
//! recorded here, nothing older than a merchant's bound can be missing; behind the bound, nothing is sent for it.

use crate::store;
use bus::watermark::Watch;
use events::topology::{WATERMARK_READER, WATERMARKED};
use jiff::Timestamp;
use kernel::{Clock, MerchantId, SystemClock};
use runtime::{Host, Merchant};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often deliveries that are held are told why.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// Deliveries per statement that tells them.
const NOTES: i64 = 2_000;
/// Why what is due waits where payments are not known in time.
pub const STALE: &str = "stale_knowledge";
/// A watermark further in the future than this tells of a clock that is wrong, and of nothing else.
const SKEW: Duration = Duration::from_secs(1);

/// The moment before which every payment is known here, in this process's monotonic time; none before the first watermark.
#[derive(Debug, Clone)]
pub struct Freshness(watch::Sender<Option<Instant>>);

impl Freshness {
    /// Nothing is known yet.
    pub fn unknown() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Until when a dot may be written for a merchant: its bound after the moment up to which every payment is known. `None`: it
    /// is held.
    pub fn permits_until(&self, merchant: &Merchant) -> Option<Instant> {
        self.0.borrow().map(|known| known + merchant.file.freshness()).filter(|until| *until > Instant::now())
    }

    /// The merchants for which nothing may be sent now.
    pub fn held(&self, host: &Host) -> Vec<MerchantId> {
        let held = |m: &&Merchant| self.permits_until(m).is_none();
        host.merchants.iter().filter(held).map(|m| m.id.clone()).collect()
    }

    /// Follows the watermarks until `stop`.
    pub async fn follow(self, host: Host, stop: CancellationToken) {
        let age =
            opentelemetry::global::meter("dunlin").f64_gauge("dunlin.notifier.knowledge_age").with_unit("s").build();
        let (mut watch, mut was_held, mut noted) = (None, true, Instant::now());
        while !stop.is_cancelled() {
            if let Err(error) = self.look(&host, &mut watch).await {
                tracing::debug!(error, "no watermark");
                watch = None;
            }
            let known = *self.0.borrow();
            if let Some(known) = known {
                age.record(known.elapsed().as_secs_f64(), &[]);
            }
            let merchants = self.held(&host);
            let held = !merchants.is_empty();
            if held && noted.elapsed() >= NOTE_INTERVAL {
                if let Err(error) = store::note_held(&host.pool, &merchants, STALE, host.now(), NOTES).await {
                    tracing::warn!(%error, "deliveries are held without a note of it");
                }
                noted = Instant::now();
            }
            if held && !was_held {
                tracing::error!("payments are not known in time: reminders are held until they are");
            } else if was_held && !held {
                tracing::info!("payments are known in time: reminders go out");
            }
            was_held = held;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn look(&self, host: &Host, watch: &mut Option<Watch>) -> Result<(), String> {
        let mut open = match watch.take() {
            Some(watch) => watch,
            None => Watch::open(&host.bus, WATERMARK_READER, WATERMARKED).await.map_err(|e| e.to_string())?,
        };
        let passed = open.passed().await.map_err(|e| e.to_string())?;
        *watch = Some(open);
        if let Some(told) = passed {
            self.learn(told)?;
        }
        Ok(())
    }

    /// Everything committed before `told`, a machine's time, is known.
    pub fn learn(&self, told: Timestamp) -> Result<(), String> {
        let (now, here) = (SystemClock.now(), Instant::now());
        let age = Duration::try_from(now.duration_since(told)).unwrap_or_default();
        if told.duration_since(now) > jiff::SignedDuration::try_from(SKEW).unwrap_or_default() {
            return Err(format!("watermark {told} lies in the future: a clock is wrong"));
        }
        let known = here.checked_sub(age).ok_or("watermark is older than this machine's last start")?;
        self.0.send_modify(|known_before| *known_before = (*known_before).max(Some(known)));
        Ok(())
    }
}
