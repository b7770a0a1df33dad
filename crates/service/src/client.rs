//! One span for each gRPC call that a command or a daemon makes.

use opentelemetry::trace::{FutureExt, SpanKind, Status as SpanStatus, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use tonic::{Request, Status};

use crate::grpc::{ERROR_TYPE, METHOD, STATUS_CODE, SYSTEM, code_name};

pub use crate::propagation::inject;

/// Makes a call under a CLIENT span, which goes along in `traceparent`. `method` is the full name,
/// `linkmail.relay.v1.CycleService/RunCycle`. The span ends with the head of the response: what a
/// stream brings later belongs to its reader. Every status but OK is an error of the span, described by its code
/// alone: an address of a person may be among the words of the service.
///
/// # Errors
/// Those of `send`.
pub async fn call<T, R, F, Sent>(
    tracer: &SdkTracer,
    method: &'static str,
    mut request: Request<T>,
    send: F,
) -> Result<R, Status>
where
    F: FnOnce(Request<T>) -> Sent,
    Sent: Future<Output = Result<R, Status>>,
{
    let span = tracer
        .span_builder(method)
        .with_kind(SpanKind::Client)
        .with_attributes([KeyValue::new(SYSTEM, "grpc"), KeyValue::new(METHOD, method)])
        .start(tracer);
    let context = Context::current_with_span(span);
    let sent = {
        let _current = context.clone().attach();
        inject(request.metadata_mut());
        send(request)
    };
    let answer = sent.with_context(context.clone()).await;
    let span = context.span();
    match &answer {
        Ok(_) => span.set_attribute(KeyValue::new(STATUS_CODE, "OK")),
        Err(status) => {
            let code = code_name(status.code());
            span.set_attribute(KeyValue::new(STATUS_CODE, code));
            span.set_attribute(KeyValue::new(ERROR_TYPE, code));
            span.set_status(SpanStatus::error(code));
        }
    }
    span.end();
    answer
}
