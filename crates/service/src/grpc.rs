//! One span and one measurement for each gRPC call that is served.
//!
//! A call lasts until its response body ends, so that a stream is covered; the context is current while
//! the handler and the body are polled. Names follow the RPC semantic conventions v1.40 (release
//! candidate). Health and reflection are not traced: probes would drown everything else.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::trace::{FutureExt, SpanKind, Status as SpanStatus, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::propagation;

/// The attribute of the status; its name changes in conventions after v1.44, hence one constant.
pub(crate) const STATUS_CODE: &str = "rpc.response.status_code";
pub(crate) const SYSTEM: &str = "rpc.system.name";
pub(crate) const METHOD: &str = "rpc.method";
pub(crate) const ERROR_TYPE: &str = "error.type";

/// Boundaries of `rpc.*.call.duration` in seconds, from the convention.
const BOUNDARIES: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

const NOT_TRACED: [&str; 2] = ["grpc.health.", "grpc.reflection."];

/// The layer for `tonic::transport::Server::layer`.
#[derive(Debug, Clone)]
pub struct CallLayer {
    tracer: SdkTracer,
    duration: Histogram<f64>,
}

impl CallLayer {
    /// Makes spans by `tracer` and the histogram `rpc.server.call.duration` by `meter`.
    pub fn new(tracer: SdkTracer, meter: &Meter) -> Self {
        let duration = meter
            .f64_histogram("rpc.server.call.duration")
            .with_unit("s")
            .with_description("Duration of calls that were served")
            .with_boundaries(BOUNDARIES.to_vec())
            .build();
        CallLayer { tracer, duration }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

/// A service whose calls are traced. Made by [`CallLayer`].
#[derive(Debug, Clone)]
pub struct CallService<S> {
    inner: S,
    layer: Arc<CallLayer>,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        if NOT_TRACED.iter().any(|prefix| method.starts_with(prefix)) {
            return Box::pin(self.inner.call(request));
        }
        let call = Call::start(&self.layer, method, request.headers());
        // The handler's future may already start work while it is made.
        let current = call.context.clone().attach();
        let handled = self.inner.call(request);
        drop(current);
        Box::pin(async move {
            // An error is answered outside of this layer, as an internal error; so is it counted.
            let response = match handled.with_context(call.context.clone()).await {
                Ok(response) => response,
                Err(error) => {
                    call.end(&Status::internal("the service failed"));
                    return Err(error);
                }
            };
            Ok(call.follow(response))
        })
    }
}

/// A call in progress. Dropped before its end, it was cancelled by the client.
struct Call {
    context: Context,
    method: String,
    start: Instant,
    layer: Arc<CallLayer>,
    ended: bool,
}

impl Call {
    fn start(layer: &Arc<CallLayer>, method: String, headers: &HeaderMap) -> Self {
        let parent = propagation::extract(headers);
        let span = layer
            .tracer
            .span_builder(method.clone())
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new(SYSTEM, "grpc"),
                KeyValue::new(METHOD, method.clone()),
            ])
            .start_with_context(&layer.tracer, &parent);
        Call {
            context: parent.with_span(span),
            method,
            start: Instant::now(),
            layer: Arc::clone(layer),
            ended: false,
        }
    }

    /// Ends with the head of the response if the status is there already, else with its body.
    fn follow(self, response: Response<Body>) -> Response<Body> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.end(&status);
            return response;
        }
        response.map(|body| {
            Body::new(CallBody {
                inner: body,
                call: Some(self),
            })
        })
    }

    fn end(mut self, status: &Status) {
        self.record(status);
    }

    fn record(&mut self, status: &Status) {
        self.ended = true;
        let code = code_name(status.code());
        let mut attributes = vec![
            KeyValue::new(SYSTEM, "grpc"),
            KeyValue::new(METHOD, metric_method(&self.method, status.code())),
            KeyValue::new(STATUS_CODE, code),
        ];
        let span = self.context.span();
        span.set_attribute(KeyValue::new(STATUS_CODE, code));
        if is_server_error(status.code()) {
            attributes.push(KeyValue::new(ERROR_TYPE, code));
            span.set_attribute(KeyValue::new(ERROR_TYPE, code));
            span.set_status(SpanStatus::error(status.message().to_owned()));
        }
        let seconds = self.start.elapsed().as_secs_f64();
        self.layer.duration.record(seconds, &attributes);
        span.end();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.record(&Status::cancelled("the client left"));
        }
    }
}

/// Anyone can ask for any path; those that do not exist count as one.
fn metric_method(method: &str, code: Code) -> String {
    match code {
        Code::Unimplemented => "_OTHER".to_owned(),
        _ => method.to_owned(),
    }
}

/// The codes that are the server's fault (RPC conventions, gRPC, "span status").
fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The name of a code as gRPC writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A response body that ends its call.
struct CallBody {
    inner: Body,
    call: Option<Call>,
}

impl CallBody {
    fn end(&mut self, status: &Status) {
        if let Some(call) = self.call.take() {
            call.end(status);
        }
    }
}

impl http_body::Body for CallBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let context = self.call.as_ref().map(|call| call.context.clone());
        let _current = context.map(Context::attach);
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    self.end(&status.unwrap_or_else(|| Status::unknown("no status")));
                }
            }
            Some(Err(status)) => {
                let status = status.clone();
                self.end(&status);
            }
            None => self.end(&Status::unknown("the body ended without a status")),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
