//! W3C trace context in the headers of gRPC requests (<https://www.w3.org/TR/trace-context/>).

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

/// The context that a request carries; an empty one if it carries none that is valid.
pub(crate) fn extract(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

/// Writes the current context into the metadata of a request that goes out. Without an active span
/// nothing is written.
pub fn inject(metadata: &mut MetadataMap) {
    TraceContextPropagator::new().inject_context(&Context::current(), &mut Metadata(metadata));
}

struct Headers<'h>(&'h HeaderMap);

impl Extractor for Headers<'_> {
    /// A header that stands twice has no meaning (trace-context 3.2), and none is taken then.
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        let value = values.next()?;
        match values.next() {
            None => value.to_str().ok(),
            Some(_) => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct Metadata<'m>(&'m mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says nothing; what is not ASCII cannot be sent.
        if value.is_empty() {
            return;
        }
        let key = MetadataKey::from_bytes(key.as_bytes());
        let value = MetadataValue::try_from(value);
        if let (Ok(key), Ok(value)) = (key, value) {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_extracted_is_injected() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", PARENT.parse().unwrap());
        headers.insert("tracestate", "a=1".parse().unwrap());
        let _current = extract(&headers).attach();
        let mut metadata = MetadataMap::new();
        inject(&mut metadata);
        assert_eq!(metadata.get("traceparent").unwrap(), PARENT);
        assert_eq!(metadata.get("tracestate").unwrap(), "a=1");
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", PARENT.parse().unwrap());
        headers.append("traceparent", PARENT.parse().unwrap());
        assert!(!extract(&headers).has_active_span());
    }

    #[test]
    fn without_a_span_nothing_is_sent() {
        let mut metadata = MetadataMap::new();
        inject(&mut metadata);
        assert!(metadata.is_empty());
    }
}
