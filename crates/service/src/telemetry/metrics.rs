//! Collecting metrics on demand of the telemetry thread.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    Instrument, InstrumentKind, ManualReader, Pipeline, Stream, Temporality,
};

/// Attribute sets per metric; what is beyond is summed under `otel.metric.overflow`.
const CARDINALITY: usize = 500;

/// The view over every instrument.
pub(super) fn limit_cardinality(_instrument: &Instrument) -> Option<Stream> {
    Stream::builder()
        .with_cardinality_limit(CARDINALITY)
        .build()
        .ok()
}

/// A reader shared by the provider, which fills it, and the worker, which sends what it holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
