//! Spans and measurements of gRPC calls, without a network.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use linkmail_service::client;
use linkmail_service::grpc::CallLayer;
use opentelemetry::Context;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{
    SpanId, SpanKind, Status as SpanStatus, TraceContextExt, TracerProvider,
};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracer, SdkTracerProvider, SpanData};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const METHOD: &str = "linkmail.relay.v1.CycleService/RunCycle";

struct World {
    spans: InMemorySpanExporter,
    tracers: SdkTracerProvider,
    metrics: InMemoryMetricExporter,
    meters: SdkMeterProvider,
}

impl World {
    fn new() -> Self {
        let spans = InMemorySpanExporter::default();
        let metrics = InMemoryMetricExporter::default();
        World {
            tracers: SdkTracerProvider::builder()
                .with_simple_exporter(spans.clone())
                .build(),
            meters: SdkMeterProvider::builder()
                .with_periodic_exporter(metrics.clone())
                .build(),
            spans,
            metrics,
        }
    }

    fn tracer(&self) -> SdkTracer {
        self.tracers.tracer("test")
    }

    fn layer(&self) -> CallLayer {
        CallLayer::new(self.tracer(), &self.meters.meter("test"))
    }

    fn finished(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().unwrap()
    }

    /// The attributes of `rpc.server.call.duration`, one line per set, with the count.
    fn measured(&self) -> Vec<String> {
        self.meters.force_flush().unwrap();
        let exports = self.metrics.get_finished_metrics().unwrap();
        let metrics = exports.iter().flat_map(|export| export.scope_metrics());
        let metric = metrics
            .flat_map(|scope| scope.metrics())
            .find(|metric| metric.name() == "rpc.server.call.duration")
            .unwrap();
        let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = metric.data() else {
            panic!("a histogram of floats");
        };
        let points = histogram.data_points();
        let mut lines: Vec<String> = points
            .map(|point| {
                assert_eq!(point.bounds().count(), 14);
                let mut pairs: Vec<String> = point
                    .attributes()
                    .map(|pair| format!("{}={}", pair.key, pair.value))
                    .collect();
                pairs.sort();
                format!("{} {}", point.count(), pairs.join(" "))
            })
            .collect();
        lines.sort();
        lines
    }
}

/// A handler that answers with a body of `frames` and trailers, and notes the span at each step.
#[derive(Clone)]
struct Handler {
    status: Code,
    seen: Arc<Mutex<Vec<SpanId>>>,
}

impl Handler {
    fn new(status: Code) -> Self {
        Handler {
            status,
            seen: Arc::default(),
        }
    }
}

fn current_span() -> SpanId {
    Context::current().span().span_context().span_id()
}

impl Service<Request<Body>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Body>) -> Self::Future {
        let handler = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            handler.seen.lock().unwrap().push(current_span());
            Ok(Response::new(Body::new(Frames { handler, left: 2 })))
        })
    }
}

struct Frames {
    handler: Handler,
    left: usize,
}

impl http_body::Body for Frames {
    type Data = tonic::codegen::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        self.handler.seen.lock().unwrap().push(current_span());
        if self.left > 0 {
            self.left -= 1;
            return Poll::Ready(Some(Ok(Frame::data("data".into()))));
        }
        let mut trailers = HeaderMap::new();
        let status = Status::new(self.handler.status, "because");
        status.add_header(&mut trailers).unwrap();
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

fn request(path: &str) -> Request<Body> {
    Request::builder()
        .uri(format!("http://relay/{path}"))
        .header("traceparent", PARENT)
        .body(Body::empty())
        .unwrap()
}

async fn next_frame(body: &mut Body) -> Frame<tonic::codegen::Bytes> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
    frame.unwrap().unwrap()
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|pair| pair.key.as_str() == key);
    found.map(|pair| pair.value.to_string())
}

#[tokio::test]
async fn a_stream_is_one_server_span_under_the_callers() {
    let world = World::new();
    let handler = Handler::new(Code::Ok);
    let mut service = world.layer().layer(handler.clone());
    let response = service.call(request(METHOD)).await.unwrap();
    let mut body = response.into_body();
    next_frame(&mut body).await;
    next_frame(&mut body).await;
    assert!(world.finished().is_empty(), "the stream is still open");
    assert!(next_frame(&mut body).await.is_trailers());

    let spans = world.finished();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!(span.name, METHOD);
    assert_eq!(span.span_kind, SpanKind::Server);
    let trace = span.span_context.trace_id().to_string();
    assert_eq!(trace, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(span.parent_span_is_remote);
    assert_eq!(attribute(span, "rpc.system.name").unwrap(), "grpc");
    assert_eq!(attribute(span, "rpc.method").unwrap(), METHOD);
    assert_eq!(attribute(span, "rpc.response.status_code").unwrap(), "OK");
    assert_eq!(span.status, SpanStatus::Unset);
    let seen = handler.seen.lock().unwrap();
    assert_eq!(*seen, [span.span_context.span_id(); 4], "handler and body");
    assert_eq!(current_span(), SpanId::INVALID, "and nothing leaks");
    assert_eq!(
        world.measured(),
        [format!(
            "1 rpc.method={METHOD} rpc.response.status_code=OK rpc.system.name=grpc"
        )]
    );
}

#[tokio::test]
async fn only_the_servers_own_faults_are_errors() {
    for (code, name, error) in [
        (Code::InvalidArgument, "INVALID_ARGUMENT", false),
        (Code::NotFound, "NOT_FOUND", false),
        (Code::Aborted, "ABORTED", false),
        (Code::Internal, "INTERNAL", true),
        (Code::Unavailable, "UNAVAILABLE", true),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", true),
    ] {
        let world = World::new();
        let mut service = world.layer().layer(Handler::new(code));
        let mut body = service.call(request(METHOD)).await.unwrap().into_body();
        while !next_frame(&mut body).await.is_trailers() {}
        let span = &world.finished()[0];
        assert_eq!(attribute(span, "rpc.response.status_code").unwrap(), name);
        assert_eq!(
            matches!(span.status, SpanStatus::Error { .. }),
            error,
            "{name}"
        );
        assert_eq!(attribute(span, "error.type").is_some(), error, "{name}");
    }
}

#[tokio::test]
async fn a_status_in_the_head_ends_the_call_and_unknown_methods_count_as_one() {
    let world = World::new();
    let refuse = tower::service_fn(|_request: Request<Body>| async {
        Ok::<_, Infallible>(Status::unimplemented("no such method").into_http())
    });
    let mut service = world.layer().layer(refuse);
    service.call(request("made.up/One")).await.unwrap();
    service.call(request("made.up/Two")).await.unwrap();
    assert_eq!(world.finished().len(), 2);
    assert_eq!(
        world.measured(),
        ["2 error.type=UNIMPLEMENTED rpc.method=_OTHER \
          rpc.response.status_code=UNIMPLEMENTED rpc.system.name=grpc"]
    );
}

#[tokio::test]
async fn a_client_that_leaves_cancels() {
    let world = World::new();
    let mut service = world.layer().layer(Handler::new(Code::Ok));
    let mut body = service.call(request(METHOD)).await.unwrap().into_body();
    next_frame(&mut body).await;
    drop(body);
    let unanswered = service.call(request(METHOD));
    drop(unanswered);
    let spans = world.finished();
    let codes = spans
        .iter()
        .map(|span| attribute(span, "rpc.response.status_code"));
    assert!(codes.eq([Some("CANCELLED".to_owned()), Some("CANCELLED".to_owned())]));
}

#[tokio::test]
async fn health_and_reflection_are_not_traced() {
    let world = World::new();
    let mut service = world.layer().layer(Handler::new(Code::Ok));
    for path in [
        "grpc.health.v1.Health/Check",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let mut body = service.call(request(path)).await.unwrap().into_body();
        while !next_frame(&mut body).await.is_trailers() {}
    }
    assert!(world.finished().is_empty());
}

#[tokio::test]
async fn a_client_call_is_a_span_that_goes_along() {
    let world = World::new();
    let tracer = world.tracer();
    let sent = client::call(
        &tracer,
        METHOD,
        tonic::Request::new(()),
        |request| async move {
            assert!(current_span() != SpanId::INVALID);
            let parent = request.metadata().get("traceparent").unwrap();
            Ok::<_, Status>(parent.to_str().unwrap().to_owned())
        },
    );
    let traceparent = sent.await.unwrap();
    let refused = client::call(&tracer, METHOD, tonic::Request::new(()), |_| async {
        Err::<(), _>(Status::not_found("no such link"))
    });
    assert_eq!(refused.await.unwrap_err().code(), Code::NotFound);

    let spans = world.finished();
    assert!(traceparent.contains(&spans[0].span_context.span_id().to_string()));
    assert!(spans.iter().all(|span| span.span_kind == SpanKind::Client));
    assert_eq!(spans[0].status, SpanStatus::Unset);
    assert_eq!(spans[1].status, SpanStatus::error("NOT_FOUND"));
    assert_eq!(attribute(&spans[1], "error.type").unwrap(), "NOT_FOUND");
}
