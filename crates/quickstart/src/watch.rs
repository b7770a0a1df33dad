//! What the daemons tell over gRPC, as events of our own. Wire types stop here.

use std::time::{Duration, SystemTime};

use linkmail_proto::{
    monitor::v1::{
        self as monitor, ListProbesRequest, RunProbeRequest, WatchMonitorsRequest,
        WatchMonitorsResponse, monitor_service_client::MonitorServiceClient,
        probe_service_client::ProbeServiceClient, watch_monitors_response,
    },
    relay::v1::{
        self as relay, RunCycleRequest, WatchCyclesRequest,
        cycle_service_client::CycleServiceClient, watch_cycles_response,
    },
};
use linkmail_service::{
    clock::Stamp,
    command::{between, request},
    listen::{ConnectError, GrpcAddress},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::account::{Cycle, Outcome, Probe, Proof};

/// The wait for a connection to a daemon on this machine.
const CONNECT: Duration = Duration::from_secs(2);
/// A daemon that does not serve yet is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A monitor without a history gets so long to begin its first probe by itself.
const FIRST_PROBE: Duration = Duration::from_secs(2);

/// Something that a daemon told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// A cycle changed; what happened is in words.
    Cycle(Cycle, String),
    /// A monitor changed, because of a probe if there is one; what happened is in words.
    Monitor(Option<Probe>, String),
    /// The monitor serves, and runs a probe.
    Probing,
    /// A call failed, or a stream ended.
    Trouble(String),
}

/// Why a daemon cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It refused the call.
    #[error("{}", .0.message())]
    Refused(#[from] Status),
}

/// Returns when the service says that it serves.
pub async fn until_serving(address: &GrpcAddress) {
    loop {
        if let Ok(channel) = address.connect(CONNECT).await {
            let check = HealthCheckRequest {
                service: String::new(),
            };
            let answer = HealthClient::new(channel).check(request(check)).await;
            if answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                return;
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The edge's cycles on the link `isp`.
#[derive(Debug, Clone)]
pub struct Cycles(CycleServiceClient<Channel>);

impl Cycles {
    const LINK: &str = "links/isp";

    /// Connects.
    ///
    /// # Errors
    /// The edge cannot be reached.
    pub async fn connect(address: &GrpcAddress) -> Result<Self, WatchError> {
        Ok(Self(CycleServiceClient::new(
            address.connect(CONNECT).await?,
        )))
    }

    /// Tells of every change from now on.
    ///
    /// # Errors
    /// The edge refuses.
    pub async fn watch(&mut self, told: mpsc::Sender<Told>) -> Result<(), WatchError> {
        let watch = WatchCyclesRequest {
            parent: Self::LINK.to_owned(),
            since_revision: None,
        };
        let mut changes = self.0.watch_cycles(watch).await?.into_inner();
        tokio::spawn(async move {
            loop {
                let next = match changes.message().await {
                    Ok(Some(change)) => match (change.kind(), change.cycle) {
                        (watch_cycles_response::Kind::Change, Some(cycle)) => {
                            Told::Cycle(cycle_of(&cycle), change.event)
                        }
                        _ => continue,
                    },
                    Ok(None) => Told::Trouble("the edge ended the watch over its cycles".into()),
                    Err(status) => Told::Trouble(format!("watching cycles: {}", status.message())),
                };
                let is_last = matches!(next, Told::Trouble(_));
                if told.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Starts a cycle.
    ///
    /// # Errors
    /// The edge refuses, such as because a cycle runs.
    pub async fn run(&mut self) -> Result<(), WatchError> {
        let run = RunCycleRequest {
            parent: Self::LINK.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
            trigger: relay::cycle::Trigger::Api.into(),
        };
        self.0.run_cycle(request(run)).await?;
        Ok(())
    }
}

/// The monitor `isp`.
#[derive(Debug, Clone)]
struct Monitor {
    monitors: MonitorServiceClient<Channel>,
    probes: ProbeServiceClient<Channel>,
}

impl Monitor {
    const NAME: &str = "monitors/isp";

    async fn connect(address: &GrpcAddress) -> Result<Self, WatchError> {
        let channel = address.connect(CONNECT).await?;
        Ok(Self {
            monitors: MonitorServiceClient::new(channel.clone()),
            probes: ProbeServiceClient::new(channel),
        })
    }

    /// Tells of every change; with `anew`, also of what the monitor has done already.
    async fn watch(&mut self, anew: bool, told: mpsc::Sender<Told>) -> Result<(), WatchError> {
        let watch = WatchMonitorsRequest {
            name: Self::NAME.to_owned(),
            since_revision: anew.then_some(0),
        };
        let mut changes = self.monitors.watch_monitors(watch).await?.into_inner();
        tokio::spawn(async move {
            loop {
                let next = match changes.message().await {
                    Ok(Some(change)) => match change.kind() {
                        watch_monitors_response::Kind::Change => {
                            let words = worth_telling(&change);
                            Told::Monitor(change.probe.as_ref().map(probe_of), words)
                        }
                        _ => continue,
                    },
                    Ok(None) => Told::Trouble("the monitor ended the watch over its probes".into()),
                    Err(status) => Told::Trouble(format!("watching probes: {}", status.message())),
                };
                let is_last = matches!(next, Told::Trouble(_));
                if told.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Runs a probe; its fate is told by the watch.
    async fn run_probe(&mut self) -> Result<Probe, WatchError> {
        let run = RunProbeRequest {
            name: Self::NAME.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
        };
        let probe = self.monitors.run_probe(request(run)).await?.into_inner();
        Ok(probe_of(&probe))
    }

    /// The newest probe, if it began at this time or later.
    async fn probe_since(&mut self, time: Stamp) -> Result<Option<Probe>, WatchError> {
        let list = ListProbesRequest {
            parent: Self::NAME.to_owned(),
            page_size: 1,
            page_token: String::new(),
        };
        let page = self.probes.list_probes(request(list)).await?.into_inner();
        let newest = page.probes.first();
        let is_new = |probe: &&monitor::Probe| {
            let began = probe.create_time.map(SystemTime::try_from);
            began.is_some_and(|began| began.is_ok_and(|began| Stamp::from(began) >= time))
        };
        Ok(newest.filter(is_new).map(probe_of))
    }
}

/// Waits for the monitor to serve, watches it, and sees to it that it runs a probe.
///
/// `anew`: it has no history. `started` is when it was started: one that has run no probe yet runs its first by itself, and one is enough.
pub async fn prove(address: GrpcAddress, anew: bool, started: Stamp, told: mpsc::Sender<Told>) {
    until_serving(&address).await;
    let probed = async {
        let mut monitor = Monitor::connect(&address).await?;
        monitor.watch(anew, told.clone()).await?;
        // Nobody who listens any more needs no answer.
        let _ = told.send(Told::Probing).await;
        let patience = if anew { FIRST_PROBE } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(probe) = monitor.probe_since(started).await? {
                return Ok(probe);
            }
            if Instant::now() >= deadline {
                return monitor.run_probe().await;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let news = match probed.await {
        Ok(probe) => Told::Monitor(Some(probe), String::new()),
        Err(error) => Told::Trouble(format!("the probe: {error}")),
    };
    let _ = told.send(news).await;
}

/// The words of a change. A monitor that has run nothing has nothing to tell, and how a probe gets on its way is told by
/// the cycle that takes it.
fn worth_telling(change: &WatchMonitorsResponse) -> String {
    let has_run = |monitor: &monitor::Monitor| !monitor.latest_probe.is_empty();
    let on_its_way = |probe: &monitor::Probe| {
        probe.state() == monitor::probe::State::Open && probe.error.is_empty()
    };
    if !change.monitor.as_ref().is_some_and(has_run)
        || change.probe.as_ref().is_some_and(on_its_way)
    {
        return String::new();
    }
    change.event.clone()
}

fn cycle_of(cycle: &relay::Cycle) -> Cycle {
    let ended = cycle.phase() == relay::cycle::Phase::Ended;
    let outcome = ended.then(|| match cycle.outcome() {
        relay::cycle::Outcome::Complete => Outcome::Complete,
        other => {
            let words = other.as_str_name().to_lowercase().replace('_', " ");
            Outcome::Failed(format!("{words}: {}", cycle.error))
        }
    });
    Cycle {
        name: cycle.name.clone(),
        outcome,
        sent: u32::try_from(cycle.sent).unwrap_or(0),
        received: u32::try_from(cycle.received).unwrap_or(0),
        seconds: between(cycle.start_time, cycle.end_time) / 1000.0,
        trace_id: cycle.trace_id.clone(),
    }
}

fn probe_of(probe: &monitor::Probe) -> Probe {
    use monitor::probe::{Proof as WireProof, State};
    let failed = match probe.state() {
        State::Failed => Some(probe.error.clone()),
        State::Lost => Some("no report came".to_owned()),
        _ => None,
    };
    Probe {
        name: probe.name.clone(),
        proof: match probe.proof() {
            WireProof::RoundTrip => Proof::RoundTrip,
            WireProof::Outbound => Proof::Outbound,
            WireProof::None | WireProof::Unspecified => Proof::None,
        },
        failed,
        report_cycle: probe.report_cycle.clone(),
        report_trace_id: probe.report_trace_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_has_an_outcome_once_it_ended() {
        use relay::cycle::{Outcome as Wire, Phase};
        let at = |seconds| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into());
        let cycle = |phase: Phase, outcome: Wire| relay::Cycle {
            phase: phase.into(),
            outcome: outcome.into(),
            error: "no carrier".into(),
            start_time: at(10),
            end_time: at(12).filter(|_| phase == Phase::Ended),
            sent: 2,
            ..relay::Cycle::default()
        };
        let runs = cycle_of(&cycle(Phase::Receive, Wire::Unspecified));
        assert_eq!((runs.outcome, runs.seconds, runs.sent), (None, 0.0, 2));
        let ended = cycle_of(&cycle(Phase::Ended, Wire::Complete));
        assert_eq!(
            (ended.outcome, ended.seconds),
            (Some(Outcome::Complete), 2.0)
        );
        let failed = cycle_of(&cycle(Phase::Ended, Wire::LineMissing));
        let why = "line missing: no carrier".to_owned();
        assert_eq!(failed.outcome, Some(Outcome::Failed(why)));
    }

    #[test]
    fn a_probe_that_failed_or_is_lost_says_why() {
        use monitor::probe::{Proof as WireProof, State};
        let probe = |state: State, proof: WireProof| {
            probe_of(&monitor::Probe {
                state: state.into(),
                proof: proof.into(),
                error: "refused".into(),
                ..monitor::Probe::default()
            })
        };
        let late = probe(State::Late, WireProof::RoundTrip);
        assert_eq!((late.proof, late.failed), (Proof::RoundTrip, None));
        let open = probe(State::Open, WireProof::Unspecified);
        assert_eq!((open.proof, open.failed), (Proof::None, None));
        let failed = probe(State::Failed, WireProof::None);
        assert_eq!(failed.failed.as_deref(), Some("refused"));
        assert!(probe(State::Lost, WireProof::None).failed.is_some());
    }

    #[test]
    fn a_probe_on_its_way_is_not_told_of_unless_something_is_wrong() {
        use monitor::probe::State;
        let change = |latest: &str, state: State, error: &str| {
            worth_telling(&WatchMonitorsResponse {
                monitor: Some(monitor::Monitor {
                    latest_probe: latest.into(),
                    ..monitor::Monitor::default()
                }),
                probe: Some(monitor::Probe {
                    state: state.into(),
                    error: error.into(),
                    ..monitor::Probe::default()
                }),
                event: "words".into(),
                ..WatchMonitorsResponse::default()
            })
        };
        assert_eq!(change("p", State::Open, ""), "");
        assert_eq!(change("p", State::Open, "refused"), "words");
        assert_eq!(change("p", State::Returned, ""), "words");
        assert_eq!(change("", State::Returned, ""), "");
    }
}
