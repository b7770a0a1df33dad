//! Traces, metrics and logs of a daemon.
//!
//! Spans are made with the OpenTelemetry API and sent, like metrics, over OTLP by a thread with a
//! runtime of its own: a collector that is absent, refuses, or never answers costs the daemon nothing
//! but a counter, and a name look-up for it occupies none of the daemon's threads.
//! Logs go to standard error and never over the network.
//!
//! Limit: if the collector's address lies behind a demand-dial line, sending to it may dial. Put the
//! collector on the site's side.

mod drops;
mod logs;
mod metrics;
mod otlp;
mod spans;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, KeyValue, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use drops::Drops;
use worker::Worker;

/// The conventions that the names of attributes and metrics follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.42.0";

/// What a daemon says about itself, and where telemetry goes.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `service.name`, such as `relay-svc`.
    pub service_name: String,
    /// `service.version`.
    pub service_version: String,
    /// `service.instance.id`: which of several, stable over a restart if possible.
    pub instance_id: String,
    /// The collector, `http://HOST:4317`. None: `OTEL_EXPORTER_OTLP_ENDPOINT`, else nowhere.
    pub otlp_endpoint: Option<String>,
    /// Which log lines are written: `info`, or `info,relay_svc::cycle=debug`.
    pub log_filter: String,
    /// The name of the counter of dropped telemetry, such as `relay.telemetry.dropped`.
    pub dropped_metric: &'static str,
}

/// Why telemetry cannot start. None of these is about the collector's state.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint cannot be used as it is written.
    #[error("OTLP endpoint {endpoint:?}: {reason}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The log filter cannot be read.
    #[error("log filter {filter:?}: {reason}")]
    LogFilter {
        /// As given.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// The operating system gives no thread.
    #[error("telemetry thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Checks a log filter without starting anything, for the reader of a configuration.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), String> {
    logs::parse_filter(filter).map(|_| ())
}

/// Checks a collector's address without starting anything, for the reader of a configuration.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    otlp::endpoint(endpoint).map(|_| ())
}

/// Running telemetry. Keep it until the end, then call [`Telemetry::shutdown`].
#[derive(Debug)]
pub struct Telemetry {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    scope: InstrumentationScope,
    drops: Arc<Drops>,
    worker: Option<Worker>,
}

impl Telemetry {
    /// Starts logging to standard error and, with an endpoint, sending. Waits for nothing. Sets the
    /// global tracer and meter providers; the first logger of a process stays.
    ///
    /// # Errors
    /// The endpoint or the filter cannot be used, or there is no thread.
    pub fn start(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        logs::install(&config.log_filter).map_err(|reason| TelemetryError::LogFilter {
            filter: config.log_filter.clone(),
            reason,
        })?;
        let telemetry = Self::detached(config)?;
        global::set_tracer_provider(telemetry.tracers.clone());
        global::set_meter_provider(telemetry.meters.clone());
        Ok(telemetry)
    }

    /// As [`Telemetry::start`], without touching anything global.
    ///
    /// # Errors
    /// The endpoint cannot be used, or there is no thread.
    pub fn detached(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        let endpoint = config.otlp_endpoint.clone().or_else(otlp::from_environment);
        let resource = resource(&config);
        let drops = Arc::new(Drops::default());
        let mut tracers = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource.clone());
        let mut meters = SdkMeterProvider::builder()
            .with_view(metrics::limit_cardinality)
            .with_resource(resource.clone());
        let mut start = None;
        if let Some(endpoint) = endpoint {
            let (processor, queue) = spans::queue(Arc::clone(&drops));
            let reader = metrics::Reader::default();
            tracers = tracers.with_span_processor(processor);
            meters = meters.with_reader(reader.clone());
            start = Some((endpoint, queue, reader));
        }
        let (tracers, meters) = (tracers.build(), meters.build());
        let scope = InstrumentationScope::builder(config.service_name)
            .with_version(config.service_version)
            .with_schema_url(SCHEMA_URL)
            .build();
        drops.observe(
            &meters.meter_with_scope(scope.clone()),
            config.dropped_metric,
        );
        let worker = match start {
            Some((endpoint, queue, reader)) => Some(Worker::start(
                endpoint,
                resource,
                queue,
                reader,
                Arc::clone(&drops),
            )?),
            None => None,
        };
        Ok(Telemetry {
            tracers,
            meters,
            scope,
            drops,
            worker,
        })
    }

    /// Makes spans. Without an endpoint they still have ids, and go nowhere.
    pub fn tracer(&self) -> SdkTracer {
        self.tracers.tracer_with_scope(self.scope.clone())
    }

    /// Makes instruments.
    pub fn meter(&self) -> Meter {
        self.meters.meter_with_scope(self.scope.clone())
    }

    /// Spans, and metrics of failed exports, that did not reach the collector so far.
    pub fn dropped(&self) -> u64 {
        self.drops.total()
    }

    /// Sends what is left and stops, within `deadline`; what does not get out in time is dropped.
    /// Returns everything dropped since the start. Spans that end afterwards are dropped too.
    pub async fn shutdown(self, deadline: Duration) -> u64 {
        if let Some(worker) = self.worker {
            worker.stop(deadline).await;
        }
        self.drops.total()
    }
}

/// The environment may add attributes; what the configuration knows wins.
fn resource(config: &TelemetryConfig) -> Resource {
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_schema_url(
            [
                KeyValue::new("service.namespace", "linkmail"),
                KeyValue::new("service.name", config.service_name.clone()),
                KeyValue::new("service.version", config.service_version.clone()),
                KeyValue::new("service.instance.id", config.instance_id.clone()),
            ],
            SCHEMA_URL,
        )
        .build()
}
