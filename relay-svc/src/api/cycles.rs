//! CycleService. A watcher reads the journal at its own pace: it loses nothing and holds nothing up.

use std::time::Duration;

use linkmail_proto::relay::v1 as wire;
use opentelemetry::trace::TraceContextExt;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    Services, convert,
    errors::{error, invalid, not_found, of_spool, unavailable},
    messages::request_id,
    page::{self, List},
};
use crate::{
    cycle::{Busy, RunError},
    names::LinkName,
    spool::{JournalEntry, RequestKey, Since},
};

/// A watcher hears so often where the journal stands, whatever else it hears.
const BOOKMARK: Duration = Duration::from_secs(30);
/// So many changes are read at once, and as many wait for a slow watcher.
const BATCH: u32 = 64;

pub(super) struct Cycles {
    services: Services,
}

type Answer = Result<wire::WatchCyclesResponse, Status>;

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
        let caller = opentelemetry::Context::current()
            .span()
            .span_context()
            .clone();
        let answer = self.services.desk.run(&link, key, caller).await;
        let started = answer.ok_or_else(|| not_found("LINK_NOT_FOUND", &call.parent))?;
        started
            .map(|record| Response::new(convert::cycle(&record)))
            .map_err(|failed| match failed {
                RunError::Busy(Busy(running)) => {
                    let name = convert::cycle_name(link.as_str(), running);
                    let message = format!("{} has a cycle running: {name}", call.parent);
                    error(
                        Code::Aborted,
                        "LINK_BUSY",
                        message,
                        &[("link", &call.parent), ("cycle", &name)],
                    )
                }
                RunError::Spool(failed) => of_spool(&failed),
                RunError::Stopping => unavailable("SHUTTING_DOWN", "the relay is stopping"),
            })
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
        let limit = page::size(call.page_size)?;
        let list = List {
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

    type WatchCyclesStream = ReceiverStream<Answer>;

    async fn watch_cycles(
        &self,
        request: Request<wire::WatchCyclesRequest>,
    ) -> Result<Response<Self::WatchCyclesStream>, Status> {
        let call = request.into_inner();
        let link = self.known(&call.parent)?;
        if call.since_revision.is_some_and(|revision| revision < 0) {
            return Err(invalid("since_revision", "must not be negative"));
        }
        let (answers, stream) = mpsc::channel(BATCH as usize);
        let watch = Watch {
            services: self.services.clone(),
            link,
            answers,
        };
        tokio::spawn(watch.run(call.since_revision));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One watcher.
struct Watch {
    services: Services,
    link: Option<LinkName>,
    answers: mpsc::Sender<Answer>,
}

/// Why a watch ends.
enum End {
    /// The client has gone.
    Gone,
    /// The client is told.
    Failed(Status),
}

impl Watch {
    async fn run(self, since: Option<i64>) {
        let stopping = self.services.shutdown.clone();
        let end = tokio::select! {
            end = self.follow(since) => end,
            () = self.answers.closed() => End::Gone,
            () = stopping.cancelled() => End::Failed(unavailable("SHUTTING_DOWN", "the relay is stopping")),
        };
        if let End::Failed(status) = end {
            // A client that has gone needs no word.
            let _ = self.answers.send(Err(status)).await;
        }
    }

    async fn follow(&self, since: Option<i64>) -> End {
        match self.changes(since).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn changes(&self, since: Option<i64>) -> Result<std::convert::Infallible, End> {
        let mut grown = self.services.spool.watch_journal();
        let mut revision = match since {
            Some(revision) => revision,
            None => self.snapshot().await?,
        };
        let mut bookmark = Instant::now() + BOOKMARK;
        loop {
            grown.mark_unchanged();
            // Read before the changes are looked for: up to here the watched link has none that is not found now. So the
            // place of a link that is quiet does not fall behind what the journal keeps.
            let newest = self.services.spool.newest_revision();
            let newest = newest.await.map_err(failed)?;
            let entries = self.entries(revision).await?;
            let more = !entries.is_empty();
            if !more {
                revision = revision.max(newest);
            }
            for entry in entries {
                revision = entry.revision;
                self.tell(
                    wire::watch_cycles_response::Kind::Change,
                    revision,
                    Some(entry),
                )
                .await?;
            }
            if Instant::now() >= bookmark {
                self.tell(wire::watch_cycles_response::Kind::Bookmark, revision, None)
                    .await?;
                bookmark = Instant::now() + BOOKMARK;
            }
            if !more {
                // Late or not, the journal is looked at again.
                let _ = timeout_at(bookmark, grown.changed()).await;
            }
        }
    }

    /// The newest cycle of each link as it stands, and the revision behind which changes follow.
    async fn snapshot(&self) -> Result<i64, End> {
        let spool = &self.services.spool;
        // Taken first: a change between the two is told twice rather than never.
        let revision = spool.newest_revision().await.map_err(failed)?;
        let links = match &self.link {
            Some(link) => vec![link.clone()],
            None => self
                .services
                .desk
                .links()
                .iter()
                .map(|(link, _)| link.name.clone())
                .collect(),
        };
        for link in links {
            if let Some((_, record)) = spool
                .cycles(Some(link), i64::MAX, 1)
                .await
                .map_err(failed)?
                .pop()
            {
                let entry = JournalEntry {
                    revision,
                    event: String::new(),
                    record,
                };
                self.tell(
                    wire::watch_cycles_response::Kind::Snapshot,
                    revision,
                    Some(entry),
                )
                .await?;
            }
        }
        Ok(revision)
    }

    async fn entries(&self, after: i64) -> Result<Vec<JournalEntry>, End> {
        match self
            .services
            .spool
            .journal(self.link.clone(), after, BATCH)
            .await
            .map_err(failed)?
        {
            Since::Entries(entries) => Ok(entries),
            Since::Compacted { oldest } => {
                let oldest = oldest.to_string();
                let message = format!(
                    "changes before revision {oldest} are no longer kept: list, then watch anew"
                );
                let metadata = [("oldest_revision", oldest.as_str())];
                Err(End::Failed(error(
                    Code::OutOfRange,
                    "REVISION_COMPACTED",
                    message,
                    &metadata,
                )))
            }
        }
    }

    async fn tell(
        &self,
        kind: wire::watch_cycles_response::Kind,
        revision: i64,
        entry: Option<JournalEntry>,
    ) -> Result<(), End> {
        let (cycle, event) = match entry {
            Some(entry) => (Some(convert::cycle(&entry.record)), entry.event),
            None => (None, String::new()),
        };
        let answer = wire::WatchCyclesResponse {
            kind: kind.into(),
            revision,
            cycle,
            event,
        };
        self.answers.send(Ok(answer)).await.map_err(|_| End::Gone)
    }
}

fn failed(error: crate::spool::SpoolError) -> End {
    End::Failed(of_spool(&error))
}
