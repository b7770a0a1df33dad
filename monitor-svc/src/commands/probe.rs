//! `probe run MONITOR`: runs a probe and prints its fate as it happens. `probe list MONITOR`: those that were run.

use std::time::Duration;

use linkmail_proto::monitor::v1::{
    GetMonitorRequest, ListProbesRequest, Probe, RunProbeRequest, WatchMonitorsRequest,
    WatchMonitorsResponse,
    monitor_service_client::MonitorServiceClient,
    probe::{Proof, State},
    probe_service_client::ProbeServiceClient,
};
use linkmail_service::{
    command::{request, say, time_of_day},
    exit::Exit,
    listen::GrpcAddress,
};
use serde_json::json;
use tonic::Streaming;

use super::PROGRAM;
use crate::names::MonitorName;

pub(super) async fn run(
    monitor: &MonitorName,
    wait: Duration,
    address: &GrpcAddress,
) -> Result<(), Exit> {
    let mut monitors = MonitorServiceClient::new(PROGRAM.connect(address).await?);
    let name = format!("monitors/{monitor}");
    let known = monitors.get_monitor(request(GetMonitorRequest { name: name.clone() }));
    let known = known.await.map_err(|status| PROGRAM.refused(&status))?;
    let wanted = known.into_inner().wanted_proof();
    // The watch comes first: so nothing of the probe is missed.
    let watch = WatchMonitorsRequest {
        name: name.clone(),
        since_revision: None,
    };
    let changes = monitors.watch_monitors(watch).await;
    let changes = changes
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    let deadline = tokio::time::Instant::now() + wait;
    let run = request(RunProbeRequest {
        name,
        request_id: uuid::Uuid::new_v4().to_string(),
    });
    let probe = monitors.run_probe(run).await;
    let probe = probe
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    tell(&probe.name);
    if probe.state() != State::Open {
        return conclude(&probe, wanted);
    }
    match tokio::time::timeout_at(deadline, follow(changes, &probe.name)).await {
        Ok(ended) => conclude(&ended?, wanted),
        Err(_) => Err(PROGRAM.complain(
            Exit::TempFail,
            &format!("no report within {wait:?}; it is still awaited"),
        )),
    }
}

/// Says a line to whoever reads. He may be gone: the answer is the exit status all the same.
fn tell(line: impl std::fmt::Display) {
    let _ = say(line);
}

/// Prints what happens to a probe until its report is there, or none is awaited any more.
async fn follow(mut changes: Streaming<WatchMonitorsResponse>, name: &str) -> Result<Probe, Exit> {
    loop {
        let change = changes.message().await;
        let change = change.map_err(|status| PROGRAM.refused(&status))?;
        let Some(change) = change else {
            return Err(PROGRAM.complain(Exit::Unavailable, &"the monitor ended the watch"));
        };
        let Some(probe) = change.probe.filter(|probe| probe.name == name) else {
            continue;
        };
        if !change.event.is_empty() {
            let now = std::time::SystemTime::now();
            let time = time_of_day(Some(now.into()));
            tell(format_args!("{time}  {}", change.event));
        }
        if probe.state() != State::Open {
            return Ok(probe);
        }
    }
}

fn conclude(probe: &Probe, wanted: Proof) -> Result<(), Exit> {
    tell(format_args!(
        "{}: {} after {:.1} s; reporting MTA {}, status {}; trace {}, trace of the report {}",
        probe.state().as_str_name(),
        probe.proof().as_str_name(),
        seconds(probe.round_trip).unwrap_or_default(),
        or_none(&probe.reporting_mta),
        or_none(&probe.status),
        or_none(&probe.trace_id),
        or_none(&probe.report_trace_id)
    ));
    if probe.proof() as i32 >= wanted as i32 {
        return Ok(());
    }
    let wanted = wanted.as_str_name();
    let why = if probe.error.is_empty() {
        format!("{wanted} was wanted")
    } else {
        format!("{wanted} was wanted: {}", probe.error)
    };
    Err(PROGRAM.complain(Exit::TempFail, &why))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

pub(super) async fn list(
    monitor: &MonitorName,
    address: &GrpcAddress,
    as_json: bool,
) -> Result<(), Exit> {
    let mut probes = ProbeServiceClient::new(PROGRAM.connect(address).await?);
    let mut page_token = String::new();
    loop {
        let call = ListProbesRequest {
            parent: format!("monitors/{monitor}"),
            page_size: 500,
            page_token,
        };
        let page = probes.list_probes(request(call)).await;
        let page = page
            .map_err(|status| PROGRAM.refused(&status))?
            .into_inner();
        for probe in &page.probes {
            say(if as_json {
                in_json(probe)
            } else {
                in_words(probe)
            })?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

fn in_words(probe: &Probe) -> String {
    let took =
        seconds(probe.round_trip).map_or(String::new(), |seconds| format!(" after {seconds:.1} s"));
    let error = if probe.error.is_empty() {
        String::new()
    } else {
        format!(": {}", probe.error)
    };
    format!(
        "{}  {}  {} {}{took}{error}",
        probe.name,
        time(probe.create_time).unwrap_or_default(),
        probe.state().as_str_name(),
        probe.proof().as_str_name()
    )
}

fn in_json(probe: &Probe) -> String {
    json!({
        "name": probe.name,
        "state": probe.state().as_str_name(),
        "proof": probe.proof().as_str_name(),
        "create_time": time(probe.create_time),
        "submit_time": time(probe.submit_time),
        "report_time": time(probe.report_time),
        "round_trip_seconds": seconds(probe.round_trip),
        "runs": probe.runs,
        "message": probe.message,
        "cycle": probe.cycle,
        "report": probe.report,
        "report_cycle": probe.report_cycle,
        "reporting_mta": probe.reporting_mta,
        "status": probe.status,
        "error": probe.error,
        "trace_id": probe.trace_id,
        "report_trace_id": probe.report_trace_id,
    })
    .to_string()
}

/// A time for people and programs, RFC 3339.
pub(super) fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

/// A duration in seconds.
pub(super) fn seconds(duration: Option<prost_types::Duration>) -> Option<f64> {
    duration.map(|duration| duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
}
