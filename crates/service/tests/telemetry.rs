//! Telemetry against collectors that work, are absent, and never answer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use linkmail_service::telemetry::{Telemetry, TelemetryConfig, check_endpoint, check_filter};
use opentelemetry::KeyValue;
use opentelemetry::trace::{Span, TraceContextExt, Tracer};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

fn config(endpoint: impl Into<String>) -> TelemetryConfig {
    TelemetryConfig {
        service_name: "relay-svc".to_owned(),
        service_version: "0.1.0".to_owned(),
        instance_id: "one".to_owned(),
        otlp_endpoint: Some(endpoint.into()),
        log_filter: "info".to_owned(),
        dropped_metric: "relay.telemetry.dropped",
    }
}

/// Ends `count` spans and returns the longest that one end took.
fn end_spans(telemetry: &Telemetry, count: usize) -> Duration {
    let tracer = telemetry.tracer();
    let ends = (0..count).map(|_| {
        let mut span = tracer.start("relay.dial");
        let before = Instant::now();
        span.end();
        before.elapsed()
    });
    ends.max().unwrap_or_default()
}

/// Five thousand spans against `endpoint`: no end waits, all are counted.
async fn costs_nothing(endpoint: String) {
    let telemetry = Telemetry::detached(config(endpoint)).unwrap();
    let before = Instant::now();
    let longest = end_spans(&telemetry, 5000);
    // A busy machine may take the processor away in between; an export takes seconds.
    assert!(longest < Duration::from_millis(50), "{longest:?}");
    assert!(before.elapsed() < Duration::from_secs(1));
    assert!(telemetry.dropped() > 0, "the queue holds 2048");
    let before = Instant::now();
    let tracer = telemetry.tracer();
    let dropped = telemetry.shutdown(Duration::from_millis(300)).await;
    assert!(before.elapsed() < Duration::from_millis(800));
    // The counter's own metric is lost as well where the last export fails before the deadline.
    assert!((5000..=5010).contains(&dropped), "{dropped}");
    // After the end a span costs nothing either.
    tracer.start("late").end();
}

#[tokio::test]
async fn a_collector_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    costs_nothing(format!("http://{}", silent.local_addr().unwrap())).await;
}

#[tokio::test]
async fn a_collector_that_is_absent() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    costs_nothing(format!("http://{address}")).await;
}

#[tokio::test]
async fn a_collector_whose_name_does_not_resolve() {
    costs_nothing("http://collector.invalid:4317".to_owned()).await;
}

#[tokio::test]
async fn a_span_that_ends_after_the_shutdown_is_counted_and_harmless() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let telemetry = Telemetry::detached(config(endpoint)).unwrap();
    let mut open = telemetry.tracer().start("relay.cycle");
    telemetry.shutdown(Duration::from_millis(10)).await;
    open.end();
}

#[test]
fn without_an_endpoint_spans_have_ids_and_nothing_is_dropped() {
    let mut config = config("");
    config.otlp_endpoint = None;
    let telemetry = Telemetry::detached(config).unwrap();
    let tracer = telemetry.tracer();
    let context = opentelemetry::Context::new().with_span(tracer.start("relay.cycle"));
    assert!(context.span().span_context().is_valid());
    let child = tracer.start_with_context("relay.dial", &context);
    assert_eq!(
        child.span_context().trace_id(),
        context.span().span_context().trace_id()
    );
    assert_eq!(telemetry.dropped(), 0);
}

#[test]
fn endpoints_and_filters_are_checked() {
    assert_eq!(check_endpoint("http://127.0.0.1:4317"), Ok(()));
    assert_eq!(
        check_endpoint("127.0.0.1:4317").unwrap_err(),
        "expected a URL such as \"http://127.0.0.1:4317\", found \"127.0.0.1:4317\""
    );
    assert!(check_endpoint("ftp://host").is_err());
    assert!(
        check_endpoint("https://host")
            .unwrap_err()
            .contains("OTEL_EXPORTER_OTLP_CERTIFICATE")
    );
    assert!(Telemetry::detached(config("nowhere")).is_err());
    assert_eq!(check_filter("info,relay_svc=debug"), Ok(()));
    assert!(check_filter("loud").is_err());
}

/// A collector that hands on what it gets.
#[derive(Clone)]
struct Collector {
    traces: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    metrics: mpsc::UnboundedSender<ExportMetricsServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.traces.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let _ = self.metrics.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tokio::test]
async fn a_collector_that_works_gets_the_trace_when_its_root_ends() {
    let (traces, mut trace_requests) = mpsc::unbounded_channel();
    let (metrics, mut metric_requests) = mpsc::unbounded_channel();
    let collector = Collector { traces, metrics };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .add_service(MetricsServiceServer::new(collector));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(server.serve_with_incoming(incoming));

    let telemetry = Telemetry::detached(config(endpoint)).unwrap();
    let tracer = telemetry.tracer();
    let root = opentelemetry::Context::new().with_span(tracer.start("relay.cycle"));
    tracer.start_with_context("relay.dial", &root).end();
    telemetry
        .meter()
        .u64_counter("relay.cycles")
        .build()
        .add(1, &[]);
    root.span()
        .set_attribute(KeyValue::new("relay.link.name", "isp"));
    root.span().end();

    // No shutdown yet: the end of the root is what sends.
    let sent = tokio::time::timeout(Duration::from_secs(10), trace_requests.recv());
    let sent = sent.await.unwrap().unwrap();
    let resource = sent.resource_spans[0].resource.as_ref().unwrap();
    let attribute = |key: &str| {
        let found = resource
            .attributes
            .iter()
            .find(|attribute| attribute.key == key);
        format!("{:?}", found.and_then(|attribute| attribute.value.clone()))
    };
    assert!(attribute("service.name").contains("\"relay-svc\""));
    assert!(attribute("service.namespace").contains("\"linkmail\""));
    assert!(attribute("service.version").contains("\"0.1.0\""));
    assert!(attribute("service.instance.id").contains("\"one\""));
    let scope = &sent.resource_spans[0].scope_spans[0];
    let names: Vec<&str> = scope.spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["relay.dial", "relay.cycle"]);
    assert_eq!(scope.spans[0].parent_span_id, scope.spans[1].span_id);

    assert_eq!(telemetry.shutdown(Duration::from_secs(5)).await, 0);
    let measured = metric_requests.recv().await.unwrap();
    let names: Vec<&str> = measured.resource_metrics[0].scope_metrics[0]
        .metrics
        .iter()
        .map(|metric| metric.name.as_str())
        .collect();
    assert!(names.contains(&"relay.cycles"), "{names:?}");
    assert!(names.contains(&"relay.telemetry.dropped"), "{names:?}");
}
