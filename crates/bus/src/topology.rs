//! Streams and durables, as data derived from [`events::topology`], applied by `dunlin migrate` (and by `dunlin dev` at start).
//! Services only ever bind to what is there: their broker users may not create anything.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use events::Service;
use events::topology::{FLOWS, INTAKE_DURABLE, INTAKE_STREAM, INTAKE_SUBJECT, WATERMARKED, watermark_subject};
use std::time::Duration;

/// What differs between a laptop and a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSettings {
    /// Copies of each stream: 1 on one machine, 3 in a cluster.
    pub replicas: usize,
    /// Size limit of each stream; a full one refuses new events, which then wait in the outbox.
    pub max_bytes: i64,
    /// How long a fetched event may take before it is delivered again.
    pub ack_wait: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self { replicas: 1, max_bytes: 4 << 30, ack_wait: Duration::from_secs(60) }
    }
}

/// How many streams there are: one per service, and the intake.
pub const STREAMS: usize = Service::ALL.len() + 1;

/// How long the broker keeps events: as long as the outbox does.
pub const MAX_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Brings streams and durables to what the code declares. Idempotent.
pub async fn apply(js: &Context, settings: &StreamSettings) -> Result<(), async_nats::Error> {
    for service in Service::ALL {
        let mut subjects: Vec<String> = service.emits().map(|k| k.subject_filter()).collect();
        subjects.extend((service == WATERMARKED).then(|| watermark_subject(service)));
        declare(js, service.stream(), subjects, settings).await?;
    }
    declare(js, INTAKE_STREAM, vec![format!("{INTAKE_SUBJECT}.*")], settings).await?;

    for flow in FLOWS {
        for (producer, kinds) in flow.sources() {
            let filters = kinds.iter().map(|k| k.subject_filter()).collect();
            js.create_consumer_on_stream(consumer_config(flow.name, filters, settings), producer.stream()).await?;
        }
    }
    js.create_consumer_on_stream(consumer_config(INTAKE_DURABLE, Vec::new(), settings), INTAKE_STREAM).await?;
    Ok(())
}

async fn declare(
    js: &Context,
    name: &str,
    subjects: Vec<String>,
    settings: &StreamSettings,
) -> Result<(), async_nats::Error> {
    let Err(error) = js.create_or_update_stream(stream_config(name, subjects, settings)).await else { return Ok(()) };
    let no_room = matches!(error.kind(), CreateStreamErrorKind::JetStream(cause)
        if cause.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED);
    if !no_room {
        return Err(format!("stream {name}: {error}").into());
    }
    let mib = settings.max_bytes >> 20;
    let all = mib * STREAMS as i64;
    Err(format!(
        "stream {name}: nats-server has no room for {STREAMS} streams of nats.stream_max_mib = {mib} MiB, {all} MiB in all: \
         raise its max_file_store (DUNLIN_NATS_MAX_STORE in deploy/nats.conf) where the disk is large enough, or lower \
         nats.stream_max_mib"
    )
    .into())
}

fn stream_config(name: &str, subjects: Vec<String>, settings: &StreamSettings) -> stream::Config {
    stream::Config {
        name: name.to_owned(),
        subjects,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: settings.replicas,
        max_age: MAX_AGE,
        max_bytes: settings.max_bytes,
        max_message_size: 256 * 1024,
        duplicate_window: Duration::from_secs(300),
        deny_delete: true,
        deny_purge: true,
        allow_atomic_publish: true,
        // Watermarks are read by subject, and forgotten soon.
        allow_direct: true,
        allow_message_ttl: true,
        ..Default::default()
    }
}

fn consumer_config(name: &str, filter_subjects: Vec<String>, settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        // Nothing is given up by count: what can never work becomes a dead letter. No backoff either: it would replace
        // ack_wait and redeliver batches that are still in work.
        max_deliver: -1,
        max_ack_pending: 5_000,
        filter_subjects,
        ..Default::default()
    }
}

/// Binds to a durable and opens one long-lived pull on it.
pub async fn pull(
    js: &Context,
    stream: &str,
    durable: &str,
    max_messages: usize,
) -> Result<(PullConsumer, pull::Stream), async_nats::Error> {
    let consumer: jetstream::consumer::Consumer<pull::Config> = js.get_consumer_from_stream(durable, stream).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(max_messages)
        .expires(Duration::from_secs(30))
        .heartbeat(Duration::from_secs(10))
        .messages()
        .await?;
    Ok((consumer, messages))
}
