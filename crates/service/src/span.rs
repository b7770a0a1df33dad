//! Spans of a daemon: started, linked, ended, and their contexts as text, for what must survive a restart.

use std::collections::HashMap;

use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{Link, SpanBuilder, SpanContext, SpanKind, TraceContextExt, Tracer as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// `error.type` of the conventions: low in cardinality, absent on success.
pub const ERROR_TYPE: &str = "error.type";

/// Starts a span of the scope `scope`, and gives the context that holds it. `parent` is its parent, if that has a span;
/// a link to an invalid context is left out.
#[must_use]
pub fn start(
    scope: &'static str,
    name: &'static str,
    kind: SpanKind,
    parent: &Context,
    attributes: Vec<KeyValue>,
    links: impl IntoIterator<Item = SpanContext>,
) -> Context {
    let links: Vec<Link> = links
        .into_iter()
        .filter(SpanContext::is_valid)
        .map(|link| Link::new(link, Vec::new(), 0))
        .collect();
    let mut builder = SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_attributes(attributes);
    if !links.is_empty() {
        builder = builder.with_links(links);
    }
    let span = opentelemetry::global::tracer(scope).build_with_context(builder, parent);
    Context::new().with_span(span)
}

/// Ends the span of a context; an error makes it fail.
pub fn end(context: &Context, error: Option<(&'static str, String)>) {
    let span = context.span();
    if let Some((kind, description)) = error {
        span.set_attribute(KeyValue::new(ERROR_TYPE, kind));
        span.set_status(opentelemetry::trace::Status::error(description));
    }
    span.end();
}

/// The span's context as W3C `traceparent`; empty without a span.
#[must_use]
pub fn to_text(context: &Context) -> String {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(context, &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}

/// What [`to_text`] gave, as a remote parent; an empty context if it is no such text.
#[must_use]
pub fn from_text(traceparent: &str) -> Context {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

/// What [`to_text`] gave, to link to; invalid if it is no such text.
#[must_use]
pub fn link_to(traceparent: &str) -> SpanContext {
    from_text(traceparent).span().span_context().clone()
}

/// The trace of a `traceparent`: 32 hex digits, or empty.
#[must_use]
pub fn trace_id(traceparent: &str) -> String {
    let span = link_to(traceparent);
    if span.is_valid() {
        span.trace_id().to_string()
    } else {
        String::new()
    }
}
