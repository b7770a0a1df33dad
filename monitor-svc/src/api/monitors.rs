//! MonitorService. A watcher reads the journal at its own pace: it loses nothing and holds nothing up.

use std::sync::Arc;

use linkmail_proto::monitor::v1 as wire;
use linkmail_service::{
    page::{self, List},
    watch::{self, Journal},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    Services, convert,
    errors::{DOMAIN, of_ledger, of_run},
};
use crate::{
    config::Monitor,
    ledger::{LedgerError, RequestKey, Since},
    names::{MonitorName, RequestId},
};

pub(super) struct Monitors {
    services: Services,
}

impl Monitors {
    pub(super) fn new(services: Services) -> Self {
        Self { services }
    }

    fn known(&self, field: &str, name: &str) -> Result<MonitorName, Status> {
        let monitor = convert::monitor_name(field, name)?;
        match self.services.desk.monitor(&monitor) {
            Some(_) => Ok(monitor),
            None => Err(DOMAIN.not_found("MONITOR_NOT_FOUND", name)),
        }
    }
}

/// A monitor as it stands now.
async fn stands(services: &Services, monitor: &Monitor) -> Result<wire::Monitor, Status> {
    let standing = services.ledger.standing(monitor.name.clone()).await;
    let (standing, _) = standing.map_err(failed)?;
    Ok(convert::monitor(monitor, &standing, services.clock.now()))
}

#[tonic::async_trait]
impl wire::monitor_service_server::MonitorService for Monitors {
    async fn get_monitor(
        &self,
        request: Request<wire::GetMonitorRequest>,
    ) -> Result<Response<wire::Monitor>, Status> {
        let name = request.into_inner().name;
        let monitor = convert::monitor_name("name", &name)?;
        match self.services.desk.monitor(&monitor) {
            Some(monitor) => stands(&self.services, monitor).await.map(Response::new),
            None => Err(DOMAIN.not_found("MONITOR_NOT_FOUND", &name)),
        }
    }

    async fn list_monitors(
        &self,
        request: Request<wire::ListMonitorsRequest>,
    ) -> Result<Response<wire::ListMonitorsResponse>, Status> {
        let call = request.into_inner();
        let limit = page::size(DOMAIN, call.page_size)? as usize;
        let list = List {
            domain: DOMAIN,
            arguments: &["monitors"],
        };
        let place = list.place(&call.page_token)?.unwrap_or(0);
        let first = usize::try_from(place).unwrap_or(usize::MAX);
        let all: Vec<&Arc<Monitor>> = self.services.desk.monitors().collect();
        let page = all.iter().skip(first).take(limit);
        let mut monitors = Vec::new();
        for monitor in page {
            monitors.push(stands(&self.services, monitor).await?);
        }
        let next = first.saturating_add(monitors.len());
        let next_page_token = if next < all.len() {
            list.token(i64::try_from(next).unwrap_or(i64::MAX))
        } else {
            String::new()
        };
        Ok(Response::new(wire::ListMonitorsResponse {
            monitors,
            next_page_token,
        }))
    }

    type WatchMonitorsStream = ReceiverStream<Result<wire::WatchMonitorsResponse, Status>>;

    async fn watch_monitors(
        &self,
        request: Request<wire::WatchMonitorsRequest>,
    ) -> Result<Response<Self::WatchMonitorsStream>, Status> {
        let call = request.into_inner();
        let monitor = match call.name.as_str() {
            "" | "monitors/-" => None,
            name => Some(self.known("name", name)?),
        };
        let journal = MonitorJournal {
            services: self.services.clone(),
            monitor,
        };
        let stopping = self.services.shutdown.clone();
        watch::follow(DOMAIN, journal, call.since_revision, stopping).map(Response::new)
    }

    async fn run_probe(
        &self,
        request: Request<wire::RunProbeRequest>,
    ) -> Result<Response<wire::Probe>, Status> {
        let call = request.into_inner();
        let monitor = convert::monitor_name("name", &call.name)?;
        let key = request_id(&call.request_id)?.map(|id| RequestKey {
            id,
            monitor: monitor.clone(),
        });
        let running = self.services.desk.run(&monitor, key);
        let ran = tokio::select! {
            ran = running => ran,
            () = self.services.shutdown.cancelled() => {
                return Err(of_run(&crate::run::RunError::Stopping));
            }
        };
        match ran {
            None => Err(DOMAIN.not_found("MONITOR_NOT_FOUND", &call.name)),
            Some(Ok(probe)) => Ok(Response::new(convert::probe(&probe))),
            Some(Err(error)) => Err(of_run(&error)),
        }
    }
}

/// Reads an optional request id.
fn request_id(text: &str) -> Result<Option<RequestId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    RequestId::parse(text)
        .map(Some)
        .ok_or_else(|| DOMAIN.invalid("request_id", format!("{text:?} is not a UUID")))
}

/// The journal of monitors, of one or of all.
struct MonitorJournal {
    services: Services,
    monitor: Option<MonitorName>,
}

impl Journal for MonitorJournal {
    type Answer = wire::WatchMonitorsResponse;

    fn grown(&self) -> tokio::sync::watch::Receiver<i64> {
        self.services.ledger.watch()
    }

    async fn newest(&self) -> Result<i64, Status> {
        self.services.ledger.newest_revision().await.map_err(failed)
    }

    async fn since(&self, revision: i64) -> Result<watch::Since<Self::Answer>, Status> {
        let ledger = &self.services.ledger;
        let found = ledger
            .journal(self.monitor.clone(), revision, watch::BATCH)
            .await
            .map_err(failed)?;
        let entries = match found {
            Since::Compacted { oldest } => return Ok(watch::Since::Compacted { oldest }),
            Since::Entries(entries) => entries,
        };
        let told = entries.into_iter().map(|entry| {
            // A monitor that is no longer configured has a name and nothing else to show.
            let configured = self.services.desk.monitor(&entry.standing.name);
            let monitor = configured
                .map(|monitor| convert::monitor(monitor, &entry.standing, entry.at))
                .unwrap_or_else(|| wire::Monitor {
                    name: format!("monitors/{}", entry.standing.name),
                    ..wire::Monitor::default()
                });
            let change = wire::WatchMonitorsResponse {
                kind: wire::watch_monitors_response::Kind::Change.into(),
                revision: entry.revision,
                monitor: Some(monitor),
                probe: entry.probe.as_ref().map(convert::probe),
                event: entry.event,
            };
            (entry.revision, change)
        });
        Ok(watch::Since::Entries(told.collect()))
    }

    /// The monitors as they stand, each with its newest probe.
    async fn snapshot(&self, revision: i64) -> Result<Vec<Self::Answer>, Status> {
        let mut answers = Vec::new();
        for monitor in self.services.desk.monitors() {
            if self
                .monitor
                .as_ref()
                .is_some_and(|name| *name != monitor.name)
            {
                continue;
            }
            let standing = self.services.ledger.standing(monitor.name.clone()).await;
            let (standing, newest) = standing.map_err(failed)?;
            let now = self.services.clock.now();
            answers.push(wire::WatchMonitorsResponse {
                kind: wire::watch_monitors_response::Kind::Snapshot.into(),
                revision,
                monitor: Some(convert::monitor(monitor, &standing, now)),
                probe: newest.as_ref().map(convert::probe),
                event: String::new(),
            });
        }
        Ok(answers)
    }

    fn bookmark(&self, revision: i64) -> Self::Answer {
        wire::WatchMonitorsResponse {
            kind: wire::watch_monitors_response::Kind::Bookmark.into(),
            revision,
            monitor: None,
            probe: None,
            event: String::new(),
        }
    }
}

fn failed(error: LedgerError) -> Status {
    of_ledger(&error)
}
