//! Publishing to JetStream: one atomic batch where possible, one by one where not.
//!
//! An atomic batch (ADR-50 of the NATS project) is stored whole or not at all, with one fsync: 10 to 30 times the rate of
//! single messages when every ack waits for the disk. One duplicate id refuses a whole batch, so after a time-out or a
//! refusal the same rows go singly, where a duplicate is simply confirmed as one.

use crate::store::OutboxRow;
use async_nats::connection::State;
use async_nats::header::{self, HeaderMap};
use async_nats::jetstream::Context;
use events::envelope::TRACEPARENT;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most messages per atomic batch. The server's limit is 1,000.
pub(crate) const MAX_BATCH: usize = 500;

/// Why rows are not confirmed. They stay pending; the sweep comes back to them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PublishError(String);

impl PublishError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Publishes rows (at most [`MAX_BATCH`]) and waits until the broker has them on disk. One result per row.
///
/// `hop_traceparent` replaces the creating trace in the header that the consumer continues, if it is given.
pub(crate) async fn publish(
    js: &Context,
    rows: &[OutboxRow],
    hop_traceparent: Option<&str>,
) -> Vec<Result<(), PublishError>> {
    if js.client().connection_state() != State::Connected {
        return rows.iter().map(|_| Err(PublishError::new("not connected to NATS"))).collect();
    }
    if rows.len() > 1 {
        match atomic_batch(js, rows, hop_traceparent).await {
            Ok(()) => return rows.iter().map(|_| Ok(())).collect(),
            Err(error) => {
                tracing::debug!(%error, rows = rows.len(), "atomic batch refused; publishing its rows singly")
            }
        }
    }
    join_all(rows.iter().map(|row| single(js, row, hop_traceparent))).await
}

async fn single(js: &Context, row: &OutboxRow, hop_traceparent: Option<&str>) -> Result<(), PublishError> {
    let ack = js
        .publish_with_headers(row.envelope.subject(), headers(row, hop_traceparent), row.payload.clone())
        .await
        .map_err(PublishError::new)?;
    ack.await.map(drop).map_err(PublishError::new)
}

/// The first message is a request, so that a refusal (no such stream, batches not allowed) shows at once; the middle ones
/// are plain; the last one commits, and its ack is the ack of all.
async fn atomic_batch(js: &Context, rows: &[OutboxRow], hop_traceparent: Option<&str>) -> Result<(), PublishError> {
    let client = js.client();
    let Some((last, rest)) = rows.split_last() else { return Ok(()) };
    let batch_id = batch_id(rest.first().unwrap_or(last));
    let message = |n: usize, row: &OutboxRow| {
        let mut headers = headers(row, hop_traceparent);
        headers.insert(header::NATS_BATCH_ID, batch_id.as_str());
        headers.insert(header::NATS_BATCH_SEQUENCE, (n + 1).to_string().as_str());
        (row.envelope.subject(), headers, row.payload.clone())
    };
    for (n, row) in rest.iter().enumerate() {
        let (subject, headers, payload) = message(n, row);
        if n == 0 {
            let reply = client.request_with_headers(subject, headers, payload).await.map_err(PublishError::new)?;
            if !reply.payload.is_empty() {
                return Err(PublishError::new(String::from_utf8_lossy(&reply.payload)));
            }
        } else {
            client.publish_with_headers(subject, headers, payload).await.map_err(PublishError::new)?;
        }
    }
    let (subject, mut headers, payload) = message(rest.len(), last);
    headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
    let ack = js.publish_with_headers(subject, headers, payload).await.map_err(PublishError::new)?;
    ack.await.map(drop).map_err(PublishError::new)
}

fn headers(row: &OutboxRow, hop_traceparent: Option<&str>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in row.envelope.headers() {
        map.insert(name, value.as_str());
    }
    if let Some(traceparent) = hop_traceparent.or(row.envelope.traceparent.as_deref()) {
        map.insert(TRACEPARENT, traceparent);
    }
    map
}

/// Batch ids only have to differ among the batches that a stream holds open at once.
fn batch_id(first: &OutboxRow) -> String {
    static ATTEMPT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", first.envelope.id.simple(), ATTEMPT.fetch_add(1, Ordering::Relaxed))
}
