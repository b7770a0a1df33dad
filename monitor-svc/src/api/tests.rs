//! The services over a real listener, on a monitor in the simulated world.

use std::{collections::BTreeSet, time::Duration};

use linkmail_proto::monitor::v1::{
    self as wire, monitor_service_client::MonitorServiceClient,
    probe_service_client::ProbeServiceClient, watch_monitors_response::Kind,
};
use linkmail_service::{
    allow::PeerFilter,
    listen::GrpcAddress,
    telemetry::{Telemetry, TelemetryConfig},
};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use super::*;
use crate::{
    names::MonitorName,
    probe::Pattern,
    world::{Process, Scene, monitor},
};

/// A monitor that is served; time is real, and the world is quick.
struct Served {
    _scene: Scene,
    _process: Process,
    channel: Channel,
    shutdown: CancellationToken,
}

async fn served() -> Served {
    let mut other = monitor();
    other.name = MonitorName::parse("other").unwrap();
    other.reverse_path = Pattern::parse("other-*@branch.example").unwrap();
    let scene = Scene::of(vec![monitor(), other]);
    scene.world.bounce_after(Duration::ZERO);
    let process = scene.start().await;
    let shutdown = CancellationToken::new();
    let services = Services {
        ledger: process.ledger.clone(),
        desk: process.desk.clone(),
        clock: scene.world.clock,
        shutdown: shutdown.clone(),
    };
    let address: GrpcAddress = "127.0.0.1:0".parse().unwrap();
    let listener = address.bind().await.unwrap();
    let address = listener.address().clone();
    let telemetry = Telemetry::detached(TelemetryConfig {
        service_name: "test".into(),
        service_version: "0".into(),
        instance_id: "0".into(),
        otlp_endpoint: None,
        log_filter: "info".into(),
        dropped_metric: "monitor.telemetry.dropped",
    })
    .unwrap();
    let calls = CallLayer::new(telemetry.tracer(), &telemetry.meter());
    tokio::spawn(serve(
        services,
        listener.incoming(PeerFilter::default()),
        calls,
    ));
    let channel = address.connect(Duration::from_secs(5)).await.unwrap();
    Served {
        _scene: scene,
        _process: process,
        channel,
        shutdown,
    }
}

impl Served {
    fn monitors(&self) -> MonitorServiceClient<Channel> {
        MonitorServiceClient::new(self.channel.clone())
    }

    fn probes(&self) -> ProbeServiceClient<Channel> {
        ProbeServiceClient::new(self.channel.clone())
    }

    async fn run(&self, name: &str, request_id: &str) -> Result<wire::Probe, Status> {
        let call = wire::RunProbeRequest {
            name: name.into(),
            request_id: request_id.into(),
        };
        self.monitors()
            .run_probe(call)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn watch(
        &self,
        since: Option<i64>,
    ) -> Result<tonic::Streaming<wire::WatchMonitorsResponse>, Status> {
        let call = wire::WatchMonitorsRequest {
            name: "monitors/branch".into(),
            since_revision: since,
        };
        self.monitors()
            .watch_monitors(call)
            .await
            .map(tonic::Response::into_inner)
    }
}

/// Code, reason and, of a wrong argument, the field.
fn told<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String, String) {
    let status = answer.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "monitor.linkmail");
    let field = status
        .get_details_bad_request()
        .and_then(|bad| bad.field_violations.first().map(|one| one.field.clone()));
    (status.code(), info.reason, field.unwrap_or_default())
}

#[tokio::test]
async fn a_probe_is_run_watched_and_looked_up() {
    let served = served().await;
    let mut changes = served.watch(None).await.unwrap();
    let snapshot = changes.message().await.unwrap().unwrap();
    assert_eq!(snapshot.kind(), Kind::Snapshot);
    assert_eq!(snapshot.monitor.unwrap().name, "monitors/branch");
    let probe = served.run("monitors/branch", "").await.unwrap();
    assert!(!probe.message.is_empty());
    let mut last = snapshot.revision;
    let returned = loop {
        let change = changes.message().await.unwrap().unwrap();
        assert!(change.revision > last);
        last = change.revision;
        assert_eq!(change.monitor.unwrap().name, "monitors/branch");
        if let Some(known) = change.probe
            && known.name == probe.name
            && known.state() == wire::probe::State::Returned
        {
            break known;
        }
    };
    assert_eq!(returned.proof(), wire::probe::Proof::RoundTrip);
    assert_eq!(returned.reporting_mta, "mx.isp.example");
    let call = wire::GetProbeRequest {
        name: probe.name.clone(),
    };
    let looked_up = served.probes().get_probe(call).await.unwrap().into_inner();
    // The answer about its cycle may be slower than its report.
    let returned = wire::Probe {
        cycle: looked_up.cycle.clone(),
        ..returned
    };
    assert_eq!(looked_up, returned);

    let call = wire::GetMonitorRequest {
        name: "monitors/branch".into(),
    };
    let monitor = served
        .monitors()
        .get_monitor(call)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(monitor.state(), wire::monitor::State::Proven);
    assert_eq!(monitor.link, "links/isp");
    assert_eq!(monitor.recipient, "no-such-user@isp.example");
    assert_eq!(monitor.wanted_proof(), wire::probe::Proof::RoundTrip);
    assert!(monitor.next_probe_time.unwrap().seconds > monitor.state_time.unwrap().seconds);

    // Who comes back hears what he missed, and that alone.
    let mut again = served.watch(Some(last - 1)).await.unwrap();
    let change = again.message().await.unwrap().unwrap();
    assert_eq!((change.kind(), change.revision), (Kind::Change, last));
    served.shutdown.cancel();
    let end = loop {
        if let Err(status) = again.message().await {
            break status;
        }
    };
    assert_eq!(
        end.get_details_error_info().unwrap().reason,
        "SHUTTING_DOWN"
    );
    assert!(end.get_details_retry_info().is_some());
}

#[tokio::test]
async fn a_repeated_request_is_one_and_belongs_to_one_monitor() {
    let served = served().await;
    let id = uuid::Uuid::new_v4().to_string();
    let first = served.run("monitors/branch", &id).await.unwrap();
    let again = served.run("monitors/branch", &id).await.unwrap();
    assert_eq!(first.name, again.name);
    let reused = told(served.run("monitors/other", &id).await);
    assert_eq!(
        reused,
        (
            Code::AlreadyExists,
            "REQUEST_ID_REUSED".into(),
            String::new()
        )
    );
}

#[tokio::test]
async fn lists_are_paged() {
    let served = served().await;
    for _ in 0..3 {
        served.run("monitors/other", "").await.unwrap();
    }
    let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let call = wire::ListProbesRequest {
            parent: "monitors/other".into(),
            page_size: 1,
            page_token: token,
        };
        let page = served
            .probes()
            .list_probes(call)
            .await
            .unwrap()
            .into_inner();
        names.extend(page.probes.into_iter().map(|probe| probe.name));
        token = page.next_page_token;
        pages += 1;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, names.len());
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(
        names.is_sorted_by(|newer, older| newer > older),
        "{names:?}"
    );

    let call = |page_token: String| wire::ListMonitorsRequest {
        page_size: 1,
        page_token,
    };
    let first = served.monitors().list_monitors(call(String::new())).await;
    let first = first.unwrap().into_inner();
    let second = served
        .monitors()
        .list_monitors(call(first.next_page_token))
        .await;
    let second = second.unwrap().into_inner();
    assert_eq!(first.monitors[0].name, "monitors/branch");
    assert_eq!(second.monitors[0].name, "monitors/other");
    assert_eq!(second.next_page_token, "");
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let served = served().await;
    let invalid = |field: &str| {
        (
            Code::InvalidArgument,
            "INVALID_FIELD".into(),
            field.to_owned(),
        )
    };
    let missing = |reason: &str| (Code::NotFound, reason.to_owned(), String::new());
    assert_eq!(told(served.run("branch", "").await), invalid("name"));
    assert_eq!(
        told(served.run("monitors/branch", "x").await),
        invalid("request_id")
    );
    assert_eq!(
        told(served.run("monitors/none", "").await),
        missing("MONITOR_NOT_FOUND")
    );
    assert_eq!(
        told(served.watch(Some(-1)).await),
        invalid("since_revision")
    );
    let get = |name: &str| wire::GetProbeRequest { name: name.into() };
    let mut probes = served.probes();
    assert_eq!(
        told(probes.get_probe(get("probes/1")).await),
        invalid("name")
    );
    let unknown = format!("monitors/branch/probes/{}", uuid::Uuid::new_v4());
    assert_eq!(
        told(probes.get_probe(get(&unknown)).await),
        missing("PROBE_NOT_FOUND")
    );
    let list = |parent: &str, page_size, page_token: &str| wire::ListProbesRequest {
        parent: parent.into(),
        page_size,
        page_token: page_token.into(),
    };
    assert_eq!(
        told(probes.list_probes(list("x", 0, "")).await),
        invalid("parent")
    );
    assert_eq!(
        told(probes.list_probes(list("monitors/-", -1, "")).await),
        invalid("page_size")
    );
    assert_eq!(
        told(probes.list_probes(list("monitors/-", 0, "x")).await),
        invalid("page_token")
    );
    let none = probes.list_probes(list("monitors/none", 0, "")).await;
    assert_eq!(told(none), missing("MONITOR_NOT_FOUND"));
}

#[tokio::test]
async fn health_is_served_for_each_service() {
    let served = served().await;
    let mut health = HealthClient::new(served.channel.clone());
    for service in [
        "",
        "linkmail.monitor.v1.MonitorService",
        "linkmail.monitor.v1.ProbeService",
    ] {
        let call = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(call).await.unwrap().into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::ServingStatus::Serving.into(),
            "{service}"
        );
    }
}
