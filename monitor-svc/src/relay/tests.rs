//! The relay over gRPC, against a server in this process that answers as relay-svc does.

use linkmail_proto::relay::v1 as wire;
use linkmail_service::{errors::ErrorDomain, target::GrpcTarget};
use opentelemetry::{
    Context,
    trace::{FutureExt, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tokio::net::TcpListener;
use tokio_stream::{
    StreamExt,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tonic::{
    Code, Status,
    transport::{Server, server::Router},
};

use super::*;
use crate::verdict::Origin;
use fake::Fake;

mod fake;

const DOMAIN: ErrorDomain = ErrorDomain("relay.linkmail");
const CYCLE: &str = "links/isp/cycles/0198c5d2-0000-7000-8000-000000000001";

/// Serves the fake, and gives the relay that is tested.
async fn served(fake: &Fake) -> GrpcRelay {
    relay_at(&serve(fake).await)
}

async fn serve(fake: &Fake) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    tokio::spawn(router(fake).serve_with_incoming(TcpListenerStream::new(listener)));
    target
}

fn router(fake: &Fake) -> Router {
    Server::builder()
        .add_service(wire::message_service_server::MessageServiceServer::new(
            fake.clone(),
        ))
        .add_service(wire::cycle_service_server::CycleServiceServer::new(
            fake.clone(),
        ))
        .add_service(wire::report_service_server::ReportServiceServer::new(
            fake.clone(),
        ))
}

fn relay_at(target: &str) -> GrpcRelay {
    traced(target, &SdkTracerProvider::builder().build())
}

fn traced(target: &str, provider: &SdkTracerProvider) -> GrpcRelay {
    let target: GrpcTarget = target.parse().unwrap();
    let tracer = provider.tracer("test");
    let recipients = vec!["probe-*@branch.example".into()];
    GrpcRelay::new(
        target.channel().unwrap(),
        "monitor-svc".into(),
        recipients,
        tracer,
    )
}

fn submission() -> Submission {
    Submission {
        request: RequestId::new(),
        reverse_path: "probe-1@branch.example".into(),
        recipient: "nobody@isp.example".into(),
        content: b"Subject: x\r\n\r\n".into(),
    }
}

#[tokio::test]
async fn a_submission_goes_in_its_trace_and_its_answer_comes_back() {
    let fake = Fake {
        state: wire::recipient::State::Queued,
        ..Fake::default()
    };
    let relay = served(&fake).await;
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    let root = Context::new().with_span(tracer.start("root"));
    let trace = root.span().span_context().trace_id().to_string();
    let sent = submission();
    let message = relay.submit(sent.clone()).with_context(root).await.unwrap();
    let expected = Message {
        name: "messages/1".into(),
        accepted: Stamp(1_795_458_600_005),
        waits: true,
        route: "link:isp".into(),
    };
    assert_eq!(message, expected);
    let heard = fake.heard.lock().unwrap();
    let expected = wire::SubmitMessageRequest {
        request_id: sent.request.to_string(),
        reverse_path: sent.reverse_path,
        recipients: vec![sent.recipient],
        content: sent.content,
        smtputf8: false,
    };
    assert_eq!(heard.submissions, [expected]);
    assert!(heard.traces[0].contains(&trace), "{:?}", heard.traces);
}

#[tokio::test]
async fn a_message_waits_while_it_is_queued_or_held() {
    use wire::recipient::State;
    for (state, waits) in [
        (State::Queued, true),
        (State::Held, true),
        (State::Delivered, false),
        (State::Bounced, false),
        (State::Discarded, false),
        (State::SetAside, false),
    ] {
        let fake = Fake {
            state,
            ..Fake::default()
        };
        let message = served(&fake).await.message("messages/1").await.unwrap();
        assert_eq!(message.waits, waits, "{state:?}");
    }
}

#[tokio::test]
async fn a_cycle_is_started_for_a_probe_or_another_one_is_running() {
    let (link, request) = (LinkName::parse("isp").unwrap(), RequestId::new());
    let fake = Fake::default();
    let relay = served(&fake).await;
    let asked = relay.run_cycle(&link, request).await.unwrap();
    assert_eq!(asked, Asked::Started(CYCLE.into()));
    let expected = wire::RunCycleRequest {
        parent: "links/isp".into(),
        request_id: request.to_string(),
        trigger: wire::cycle::Trigger::Probe.into(),
    };
    assert_eq!(fake.heard.lock().unwrap().cycles, [expected]);
    assert!(relay.has_ended(CYCLE).await.unwrap());
    assert!(!relay.has_ended("links/isp/cycles/2").await.unwrap());

    let metadata = [("link", "links/isp"), ("cycle", CYCLE)];
    let busy = DOMAIN.error(Code::Aborted, "LINK_BUSY", "a cycle is running", &metadata);
    let fake = Fake {
        failure: Some(busy),
        ..Fake::default()
    };
    let asked = served(&fake).await.run_cycle(&link, request).await.unwrap();
    assert_eq!(asked, Asked::Busy(CYCLE.into()));
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again_and_nothing_else() {
    type Of = fn(String) -> RelayError;
    let rows: [(Code, Of); 9] = [
        (Code::NotFound, RelayError::NotFound),
        (Code::InvalidArgument, RelayError::Refused),
        (Code::PermissionDenied, RelayError::Refused),
        (Code::AlreadyExists, RelayError::Refused),
        (Code::Unimplemented, RelayError::Refused),
        (Code::Unavailable, RelayError::NotNow),
        (Code::ResourceExhausted, RelayError::NotNow),
        (Code::DeadlineExceeded, RelayError::NotNow),
        (Code::Aborted, RelayError::NotNow),
    ];
    for (code, kind) in rows {
        let fake = Fake {
            failure: Some(Status::new(code, "for a reason")),
            ..Fake::default()
        };
        let error = served(&fake).await.submit(submission()).await.unwrap_err();
        let told = format!("relay: {}: for a reason", code.description());
        assert_eq!(error, kind(told), "{code:?}");
    }
    let nobody = relay_at("127.0.0.1:1")
        .submit(submission())
        .await
        .unwrap_err();
    assert!(matches!(nobody, RelayError::NotNow(_)), "{nobody:?}");
}

/// The relay's words may name a person; its code does not.
#[tokio::test]
async fn a_call_that_fails_is_described_by_its_code() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let fake = Fake {
        failure: Some(Status::permission_denied("nobody@isp.example: denied")),
        ..Fake::default()
    };
    let relay = traced(&serve(&fake).await, &provider);
    let error = relay.submit(submission()).await.unwrap_err();
    assert!(error.to_string().contains("nobody@isp.example"));
    let span = exporter.get_finished_spans().unwrap().remove(0);
    let expected = opentelemetry::trace::Status::error("PERMISSION_DENIED");
    assert_eq!(span.status, expected);
    assert!(!format!("{span:?}").contains('@'));
}

#[tokio::test]
async fn reports_come_with_how_they_came_and_are_acknowledged() {
    let fake = Fake::default();
    let relay = served(&fake).await;
    let mut reports = relay.reports().await.unwrap();
    let isp = LinkName::parse("isp").unwrap();
    for origin in [
        Origin::Smtp(Some(isp)),
        Origin::Smtp(None),
        Origin::Relay,
        Origin::Other,
    ] {
        let report = reports.next().await.unwrap().unwrap();
        assert_eq!(report.origin, origin);
        assert!(report.null_sender);
        assert_eq!(report.bounce.reporting_mta, "mx.example");
        assert_eq!(report.cycle, CYCLE);
    }
    let end = reports.next().await.unwrap().unwrap_err();
    assert!(matches!(end, RelayError::NotNow(_)), "{end:?}");
    relay.acknowledge("reports/1").await.unwrap();
    assert_eq!(
        fake.heard.lock().unwrap().consumers,
        ["monitor-svc", "monitor-svc"]
    );
}

/// Whatever does not answer, a name server, a host or a program, costs a bounded time.
#[tokio::test(start_paused = true)]
async fn a_relay_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = relay_at(&silent.local_addr().unwrap().to_string());
    let start = tokio::time::Instant::now();
    let error = relay.submit(submission()).await.unwrap_err();
    assert!(matches!(error, RelayError::NotNow(_)), "{error:?}");
    let error = relay.reports().await.err().unwrap();
    assert!(matches!(error, RelayError::NotNow(_)), "{error:?}");
    assert!(start.elapsed().as_secs() <= 80, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_relay_on_a_unix_socket_is_reached_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let incoming = UnixListenerStream::new(listener);
    tokio::spawn(router(&Fake::default()).serve_with_incoming(incoming));
    let relay = relay_at(&format!("unix:{}", path.display()));
    assert_eq!(relay.submit(submission()).await.unwrap().name, "messages/1");
}
