//! Trace contexts across queues and time. A hop through a queue is a link to the producer's stored context, not a
//! parent; only a single, fresh, first delivery continues its producer's trace (see [`crate::consume`]).

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The W3C `traceparent` of the current span, if there is a trace.
pub fn current() -> Option<String> {
    of(&Span::current())
}

/// The W3C `traceparent` of a span, if it belongs to a trace.
pub fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let span_context = context.span().span_context().clone();
    span_context.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            span_context.trace_id(),
            span_context.span_id(),
            span_context.trace_flags().to_u8() & TraceFlags::SAMPLED.to_u8()
        )
    })
}

/// Reads a W3C `traceparent`; anything malformed is no context.
pub fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || trace.len() != 32 || span.len() != 16 {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

/// The trace id of a `traceparent`, for people.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1)
}

/// Makes a span continue a stored context. Only works before the span is entered.
pub fn set_parent(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = traceparent.and_then(parse) {
        // Fails only if no OpenTelemetry layer is installed: then there is nothing to continue.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// Links a span to stored contexts, at most as many as a span may have.
pub fn link<'a>(span: &Span, traceparents: impl IntoIterator<Item = &'a str>) {
    /// The SDK's default limit of links per span; more would be dropped anyway.
    const MAX_LINKS: usize = 128;
    for context in traceparents.into_iter().take(MAX_LINKS).filter_map(parse) {
        span.add_link(context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_standard_writes() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parse(text).unwrap();
        assert!(context.is_sampled());
        assert_eq!(trace_id(text), Some("0af7651916cd43dd8448eb211c80319c"));
        for bad in ["", "00-0-0-0", "00-00000000000000000000000000000000-0000000000000000-00", "garbage"] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
