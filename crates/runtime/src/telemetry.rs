//! Logs, traces and metrics. Spans and metrics go out by OTLP if an endpoint is set; `/metrics` always works; every log line
//! names its trace.

use crate::settings::{LogFormat, TelemetrySettings};
use opentelemetry::trace::{TraceContextExt, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, time::FormatTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

/// Keeps exporters alive; flushes them at the end.
pub struct Telemetry {
    tracer: SdkTracerProvider,
    meter: SdkMeterProvider,
    /// What `/metrics` shows.
    pub registry: prometheus::Registry,
}

/// The exporters' own traffic must not trace itself.
const SPAN_FILTER: &str = "info,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off,async_nats=off,sqlx=off";

/// Sets up logs, traces and metrics for the process. Must run inside the tokio runtime.
///
/// Errors: an endpoint or a filter that cannot be read, or telemetry that is set up already.
pub fn init(settings: &TelemetrySettings, process: &str) -> anyhow::Result<Telemetry> {
    let resource = Resource::builder()
        .with_service_name(format!("dunlin-{process}"))
        .with_attribute(KeyValue::new("service.namespace", "dunlin"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let (tracer, meter, registry) = providers(settings, resource)?;
    let filter = EnvFilter::try_new(&settings.log_filter)?;
    let logs = match settings.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer().event_format(JsonLines).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().with_target(false).with_writer(std::io::stderr).boxed(),
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer.tracer("dunlin"))
        .with_threads(false)
        .with_location(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(EnvFilter::try_new(SPAN_FILTER)?);
    let subscriber = tracing_subscriber::registry().with(logs.with_filter(filter)).with(spans);
    tracing::subscriber::set_global_default(subscriber)?;
    opentelemetry::global::set_meter_provider(meter.clone());
    Ok(Telemetry { tracer, meter, registry })
}

fn providers(
    settings: &TelemetrySettings,
    resource: Resource,
) -> anyhow::Result<(SdkTracerProvider, SdkMeterProvider, prometheus::Registry)> {
    let registry = prometheus::Registry::new();
    let scraped = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()?;
    let mut meter = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(scraped);
    // Without an exporter spans still get ids, so that logs and `dunlin explain` can name the trace; they are not recorded.
    let sampler = match settings.otlp_endpoint {
        Some(_) => Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))),
        None => Sampler::AlwaysOff,
    };
    let mut tracer = SdkTracerProvider::builder().with_resource(resource).with_sampler(sampler);
    if let Some(endpoint) = &settings.otlp_endpoint {
        tracer = tracer.with_batch_exporter(SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?);
        meter = meter.with_periodic_exporter(MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?);
    }
    Ok((tracer.build(), meter.build(), registry))
}

impl Telemetry {
    /// Exports what is left. Off the runtime's workers, because the exporters block; and not for ever, because the
    /// collector may be gone.
    pub async fn shutdown(self) {
        let flush = tokio::task::spawn_blocking(move || {
            let _ = self.tracer.shutdown();
            let _ = self.meter.shutdown();
        });
        if tokio::time::timeout(Duration::from_secs(5), flush).await.is_err() {
            tracing::warn!("telemetry not flushed in time");
        }
    }
}

/// One JSON object per line: time, level, target, message, fields, trace and span.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Fields(Map::new());
        line.0.insert("time".to_owned(), time.into());
        line.0.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.0.insert("target".to_owned(), event.metadata().target().into());
        event.record(&mut line);
        let context = Context::current();
        let span = context.span().span_context().clone();
        if span.is_valid() {
            line.0.insert("trace_id".to_owned(), span.trace_id().to_string().into());
            line.0.insert("span_id".to_owned(), span.span_id().to_string().into());
        }
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
