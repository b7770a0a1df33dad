//! CycleService. A watcher reads the journal at its own pace: it loses nothing and holds nothing up.

use linkmail_proto::relay::v1 as wire;
use linkmail_service::{
    page::{self, List},
    watch::{self, Journal},
};
use opentelemetry::trace::TraceContextExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    Services, convert,
    errors::{DOMAIN, error, invalid, not_found, of_spool, unavailable},
    messages::request_id,
};
use crate::{
    cycle::{self, Asked, Busy, RunError, Trigger},
    names::LinkName,
    spool::{RequestKey, Since, SpoolError},
};

pub(super) struct Cycles {
    services: Services,
}

impl Cycles {
    pub(super) fn new(services: Services) -> Self {
        Self { services }
    }

    fn known(&self, parent: &str) -> Result<Option<LinkName>, Status> {
        let link = convert::link_or_all("parent", parent)?;
        if let Some(name) = &link {
            self.services
                .desk
                .link(name)
                .ok_or_else(|| not_found("LINK_NOT_FOUND", parent))?;
        }
        Ok(link)
    }
}

#[tonic::async_trait]
impl wire::cycle_service_server::CycleService for Cycles {
    async fn run_cycle(
        &self,
        request: Request<wire::RunCycleRequest>,
    ) -> Result<Response<wire::Cycle>, Status> {
        let call = request.into_inner();
        let link = convert::link_name("parent", &call.parent)?;
        let key =
            request_id(&call.request_id)?.map(|id| RequestKey::new(id, [call.parent.as_bytes()]));
        let trigger = match wire::cycle::Trigger::try_from(call.trigger) {
            Ok(wire::cycle::Trigger::Unspecified | wire::cycle::Trigger::Api) => Trigger::Api,
            Ok(wire::cycle::Trigger::Probe) => Trigger::Probe,
            _ => return Err(invalid("trigger", "expected API or PROBE")),
        };
        let caller = opentelemetry::Context::current()
            .span()
            .span_context()
            .clone();
        let asked = Asked {
            trigger,
            request: key,
            caller,
        };
        let Services {
            desk,
            spool,
            shutdown,
            ..
        } = &self.services;
        let answer = cycle::ask(desk, spool, &link, asked, shutdown).await;
        let started = answer.ok_or_else(|| not_found("LINK_NOT_FOUND", &call.parent))?;
        started
            .map(|record| Response::new(convert::cycle(&record)))
            .map_err(|failed| not_run(failed, &link))
    }

    async fn get_cycle(
        &self,
        request: Request<wire::GetCycleRequest>,
    ) -> Result<Response<wire::Cycle>, Status> {
        let name = request.into_inner().name;
        let (link, id) = convert::cycle_id("name", &name)?;
        let found = self
            .services
            .spool
            .cycle(id)
            .await
            .map_err(|failed| of_spool(&failed))?;
        let record = found
            .filter(|record| record.link == link)
            .ok_or_else(|| not_found("CYCLE_NOT_FOUND", &name))?;
        Ok(Response::new(convert::cycle(&record)))
    }

    async fn list_cycles(
        &self,
        request: Request<wire::ListCyclesRequest>,
    ) -> Result<Response<wire::ListCyclesResponse>, Status> {
        let call = request.into_inner();
        let link = self.known(&call.parent)?;
        let limit = page::size(DOMAIN, call.page_size)?;
        let list = List {
            domain: DOMAIN,
            arguments: &["cycles", &call.parent],
        };
        let before = list.place(&call.page_token)?.unwrap_or(i64::MAX);
        let found = self.services.spool.cycles(link, before, limit + 1).await;
        let mut found = found.map_err(|failed| of_spool(&failed))?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let last = found.last().map_or(0, |(seq, _)| *seq);
        Ok(Response::new(wire::ListCyclesResponse {
            cycles: found
                .iter()
                .map(|(_, record)| convert::cycle(record))
                .collect(),
            next_page_token: if more {
                list.token(last)
            } else {
                String::new()
            },
        }))
    }

    type WatchCyclesStream = ReceiverStream<Result<wire::WatchCyclesResponse, Status>>;

    async fn watch_cycles(
        &self,
        request: Request<wire::WatchCyclesRequest>,
    ) -> Result<Response<Self::WatchCyclesStream>, Status> {
        let call = request.into_inner();
        let link = self.known(&call.parent)?;
        let stopping = self.services.shutdown.clone();
        let journal = CycleJournal {
            services: self.services.clone(),
            link,
        };
        watch::follow(DOMAIN, journal, call.since_revision, stopping).map(Response::new)
    }
}

/// The journal of cycles, of one link or of all.
struct CycleJournal {
    services: Services,
    link: Option<LinkName>,
}

impl CycleJournal {
    fn links(&self) -> Vec<LinkName> {
        match &self.link {
            Some(link) => vec![link.clone()],
            None => {
                let all = self.services.desk.links();
                all.iter().map(|(link, _)| link.name.clone()).collect()
            }
        }
    }
}

impl Journal for CycleJournal {
    type Answer = wire::WatchCyclesResponse;

    fn grown(&self) -> tokio::sync::watch::Receiver<i64> {
        self.services.spool.watch_journal()
    }

    async fn newest(&self) -> Result<i64, Status> {
        self.services.spool.newest_revision().await.map_err(failed)
    }

    async fn since(&self, revision: i64) -> Result<watch::Since<Self::Answer>, Status> {
        let spool = &self.services.spool;
        let found = spool
            .journal(self.link.clone(), revision, watch::BATCH)
            .await
            .map_err(failed)?;
        Ok(match found {
            Since::Compacted { oldest } => watch::Since::Compacted { oldest },
            Since::Entries(entries) => {
                let told = entries.into_iter().map(|entry| {
                    let change = wire::WatchCyclesResponse {
                        kind: wire::watch_cycles_response::Kind::Change.into(),
                        revision: entry.revision,
                        cycle: Some(convert::cycle(&entry.record)),
                        event: entry.event,
                    };
                    (entry.revision, change)
                });
                watch::Since::Entries(told.collect())
            }
        })
    }

    /// The newest cycle of each link.
    async fn snapshot(&self, revision: i64) -> Result<Vec<Self::Answer>, Status> {
        let mut answers = Vec::new();
        for link in self.links() {
            let newest = self.services.spool.cycles(Some(link), i64::MAX, 1).await;
            let newest = newest.map_err(failed)?.pop();
            answers.extend(newest.map(|(_, record)| wire::WatchCyclesResponse {
                kind: wire::watch_cycles_response::Kind::Snapshot.into(),
                revision,
                cycle: Some(convert::cycle(&record)),
                event: String::new(),
            }));
        }
        Ok(answers)
    }

    fn bookmark(&self, revision: i64) -> Self::Answer {
        wire::WatchCyclesResponse {
            kind: wire::watch_cycles_response::Kind::Bookmark.into(),
            revision,
            cycle: None,
            event: String::new(),
        }
    }
}

/// Why no cycle was started.
fn not_run(failed: RunError, link: &LinkName) -> Status {
    let parent = format!("links/{link}");
    match failed {
        RunError::Busy(Busy(running)) => {
            let name = convert::cycle_name(link.as_str(), running);
            let message = format!("{parent} has a cycle running: {name}");
            error(
                Code::Aborted,
                "LINK_BUSY",
                message,
                &[("link", &parent), ("cycle", &name)],
            )
        }
        RunError::Spool(failed) => of_spool(&failed),
        RunError::Elsewhere | RunError::Failed(_) => {
            unavailable("LINK_KEPT_ELSEWHERE", &failed.to_string())
        }
        RunError::Stopping => unavailable("SHUTTING_DOWN", "the relay is stopping"),
    }
}

fn failed(error: SpoolError) -> Status {
    of_spool(&error)
}
