//! How fresh a consumer's knowledge is: watermarks through the stream.
//!
//! About twice a second the producer puts a *watermark* T into its own stream: every event that was committed before T, by
//! whichever replica, stands in the stream before this message. A consumer that has dealt with everything before the
//! watermark knows all that was committed before T.
//!
//! Both sides err on the side of knowing less:
//!
//! - The producer reads the database's clock first and then which events are committed and not yet confirmed by the broker; once
//!   the broker has confirmed all of these, the watermark goes out. The table is shared, so one look covers all replicas.
//! - The consumer takes the latest watermark and then asks where its durable stands: an acknowledgement comes after a commit, so
//!   what is acknowledged is known, by whichever replica.
//!
//! Watermarks are no events: nobody has to deal with each, so they have no row in outbox or inbox, and the broker forgets them
//! after a minute. T is the time of the producer's database, and is compared with the consumer's machine: how far their clocks
//! are apart adds to the bound.

use crate::{Bus, store};
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::{Error, HeaderMap};
use events::topology::watermark_subject;
use events::{Flow, Kind, Service};
use jiff::Timestamp;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a watermark is told.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked whether the broker has confirmed what was committed.
const CONFIRMED: Duration = Duration::from_millis(40);
/// With more unconfirmed events than that the producer is too far behind for a watermark to be worth the effort.
const MOST_UNCONFIRMED: usize = 50_000;
/// The header that says how long the broker keeps a message.
const TTL: &str = "Nats-TTL";
/// How long it keeps a watermark: long enough for a consumer that was cut off to see how old the last is.
const KEEP: &str = "1m";

/// Tells watermarks of what this service emits until `stop`.
pub async fn tell(bus: Bus, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let told = tokio::select! {
            () = stop.cancelled() => return,
            told = tell_once(&bus) => told,
        };
        if let Err(error) = told {
            tracing::warn!(service = %bus.service, %error, "no watermark told: consumers will take themselves for behind");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn tell_once(bus: &Bus) -> Result<(), Error> {
    let (before, waiting) = store::unconfirmed(&bus.pool, MOST_UNCONFIRMED as i64).await?;
    if waiting.len() == MOST_UNCONFIRMED {
        return Err(format!("{MOST_UNCONFIRMED} events or more wait for the broker").into());
    }
    // Events that no version here knows wait for one that does: nobody is told of them before.
    let known = |subject: &str| subject.rsplit_once('.').and_then(|(ce_type, _)| Kind::by_ce_type(ce_type)).is_some();
    let mut waiting: Vec<_> = waiting.into_iter().filter(|(_, subject)| known(subject)).map(|(key, _)| key).collect();
    while !waiting.is_empty() {
        tokio::time::sleep(CONFIRMED).await;
        waiting = store::still_unconfirmed(&bus.pool, &waiting).await?;
    }
    let mut headers = HeaderMap::new();
    headers.insert(TTL, KEEP);
    let text = before.to_string();
    bus.js.publish_with_headers(watermark_subject(bus.service), headers, text.into()).await?.await?;
    Ok(())
}

/// A consumer's view of a producer's watermarks.
#[derive(Debug)]
pub struct Watch {
    stream: Stream<()>,
    consumer: Consumer<pull::Config>,
    subject: String,
    /// Watermarks that were seen before everything before them was dealt with: position and time.
    ahead: Vec<(u64, Timestamp)>,
}

impl Watch {
    /// Watches how far a flow has come on the stream of a producer.
    pub async fn open(bus: &Bus, flow: &Flow, producer: Service) -> Result<Self, Error> {
        let stream = bus.js.get_stream_no_info(producer.stream()).await?;
        let consumer = bus.js.get_consumer_from_stream(flow.name, producer.stream()).await?;
        Ok(Self { stream, consumer, subject: watermark_subject(producer), ahead: Vec::new() })
    }

    /// The latest T of which it has become certain that all events committed before it are dealt with, if there is a new one.
    pub async fn passed(&mut self) -> Result<Option<Timestamp>, Error> {
        let latest = self.stream.direct_get_last_for_subject(&*self.subject).await?;
        let told: Timestamp = std::str::from_utf8(&latest.payload)?.parse()?;
        if self.ahead.last().is_none_or(|seen| *seen != (latest.sequence, told)) {
            self.ahead.push((latest.sequence, told));
        }
        // Asked after the watermark was read: if nothing is left now, nothing was left before it.
        let standing = self.consumer.get_info().await?;
        let idle = standing.num_pending == 0 && standing.num_ack_pending == 0;
        let done = |at: u64| idle || standing.ack_floor.stream_sequence >= at;
        let passed = self.ahead.iter().filter(|(at, _)| done(*at)).map(|(_, told)| *told).max();
        self.ahead.retain(|(at, _)| !done(*at));
        // Far behind, the oldest are passed first.
        self.ahead.truncate(256);
        Ok(passed)
    }
}
