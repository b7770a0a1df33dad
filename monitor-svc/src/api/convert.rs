//! Own types → wire types. Names of resources are made and read here.

use std::time::Duration;

use linkmail_proto::monitor::v1 as wire;
use prost_types::Timestamp;
use tonic::Status;

use super::errors::DOMAIN;
use crate::{
    clock::Stamp,
    config::Monitor,
    judge::{State, next_probe},
    names::{MonitorName, ProbeId},
    probe::{Fate, Probe, Proof},
    standing::Standing,
    telemetry,
};

fn time(stamp: Stamp) -> Timestamp {
    Timestamp {
        seconds: stamp.0.div_euclid(1000),
        nanos: i32::try_from(stamp.0.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
    }
}

fn milliseconds(ms: u64) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(Duration::from_millis(ms)).ok()
}

/// Reads `monitors/{monitor}`.
pub(super) fn monitor_name(field: &str, name: &str) -> Result<MonitorName, Status> {
    name.strip_prefix("monitors/")
        .and_then(|monitor| MonitorName::parse(monitor).ok())
        .ok_or_else(|| {
            DOMAIN.invalid(
                field,
                format!("{name:?} is not a monitor; expected monitors/{{monitor}}"),
            )
        })
}

/// Reads `monitors/{monitor}`, or `monitors/-` as every monitor.
pub(super) fn monitor_or_all(field: &str, name: &str) -> Result<Option<MonitorName>, Status> {
    if name == "monitors/-" {
        Ok(None)
    } else {
        monitor_name(field, name).map(Some)
    }
}

/// Reads `monitors/{monitor}/probes/{probe}`.
pub(super) fn probe_name(field: &str, name: &str) -> Result<(MonitorName, ProbeId), Status> {
    let parts = || {
        let (monitor, probe) = name.strip_prefix("monitors/")?.split_once("/probes/")?;
        Some((MonitorName::parse(monitor).ok()?, ProbeId::parse(probe)?))
    };
    parts().ok_or_else(|| {
        DOMAIN.invalid(
            field,
            format!("{name:?} is not a probe; expected monitors/{{monitor}}/probes/{{probe}}"),
        )
    })
}

fn name_of(monitor: &MonitorName, probe: ProbeId) -> String {
    format!("monitors/{monitor}/probes/{probe}")
}

fn proof(proof: Proof) -> wire::probe::Proof {
    match proof {
        Proof::None => wire::probe::Proof::None,
        Proof::Outbound => wire::probe::Proof::Outbound,
        Proof::RoundTrip => wire::probe::Proof::RoundTrip,
    }
}

fn state(state: State) -> wire::monitor::State {
    match state {
        State::Pending => wire::monitor::State::Pending,
        State::Proven => wire::monitor::State::Proven,
        State::Warning => wire::monitor::State::Warning,
        State::Alerting => wire::monitor::State::Alerting,
    }
}

/// A monitor as it stood at `now`.
pub(super) fn monitor(monitor: &Monitor, standing: &Standing, now: Stamp) -> wire::Monitor {
    let proven = standing.last_proof;
    let next = next_probe(&monitor.thresholds, standing.state, standing.last_run, now);
    wire::Monitor {
        name: format!("monitors/{}", standing.name),
        state: state(standing.state).into(),
        state_time: Some(time(standing.state_time)),
        link: format!("links/{}", monitor.link),
        recipient: monitor.recipient.to_string(),
        wanted_proof: proof(monitor.wanted).into(),
        last_proof_time: proven.map(|proven| time(proven.time)),
        last_proof: proven
            .map(|proven| name_of(&standing.name, proven.probe))
            .unwrap_or_default(),
        round_trip: proven.and_then(|proven| milliseconds(proven.round_trip_ms)),
        proof_age: prost_types::Duration::try_from(standing.facts().proof_age(now)).ok(),
        latest_probe: standing
            .latest_probe
            .map(|probe| name_of(&standing.name, probe))
            .unwrap_or_default(),
        next_probe_time: Some(time(next.max(now))),
        rejected_reports: i64::try_from(standing.rejected).unwrap_or(i64::MAX),
    }
}

pub(super) fn probe(probe: &Probe) -> wire::Probe {
    let fate = match probe.fate {
        Fate::Open => wire::probe::State::Open,
        Fate::Returned => wire::probe::State::Returned,
        Fate::Late => wire::probe::State::Late,
        Fate::Lost => wire::probe::State::Lost,
        Fate::Failed => wire::probe::State::Failed,
    };
    let submitted = probe.submitted.as_ref();
    let returned = probe.returned.clone();
    let report_time = returned.as_ref().map(|returned| time(returned.accepted));
    let of_report = returned.unwrap_or_else(|| crate::probe::Returned {
        name: String::new(),
        accepted: Stamp(0),
        cycle: String::new(),
        traceparent: String::new(),
        reporting_mta: String::new(),
        status: String::new(),
    });
    wire::Probe {
        name: name_of(&probe.monitor, probe.id),
        state: fate.into(),
        proof: proof(probe.proof).into(),
        create_time: Some(time(probe.created)),
        submit_time: submitted.map(|submitted| time(submitted.accepted)),
        report_time,
        round_trip: probe.round_trip_ms.and_then(milliseconds),
        runs: i32::try_from(probe.runs).unwrap_or(i32::MAX),
        message: submitted
            .map(|submitted| submitted.message.clone())
            .unwrap_or_default(),
        cycle: probe.cycle.clone(),
        report_trace_id: telemetry::trace_id(&of_report.traceparent),
        report: of_report.name,
        report_cycle: of_report.cycle,
        reporting_mta: of_report.reporting_mta,
        status: of_report.status,
        error: probe.error.clone(),
        trace_id: telemetry::trace_id(&probe.traceparent),
    }
}
