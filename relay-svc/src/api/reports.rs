//! ReportService. A watcher is shown what is not acknowledged, again and again, until it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use linkmail_proto::relay::v1 as wire;
use linkmail_service::page::{self, List};
use linkmail_smtp::{Mailbox, ReversePath};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    Services,
    convert::{cycle_name, size, time},
    errors::{DOMAIN, error, invalid, not_found, of_spool, unavailable},
};
use crate::{
    clock::Stamp,
    names::{LinkName, MessageId, NextHop},
    route::RecipientPattern,
    spool::{ReportState, SpoolError, StoredReport},
};

/// What is not acknowledged comes again after so long.
const AGAIN: Duration = Duration::from_secs(30);
/// So many wait for their acknowledgement on one stream.
const IN_FLIGHT: u32 = 64;
/// So many patterns of recipients may be named.
const PATTERNS: usize = 1000;
/// Of a report's content so many octets are shown.
const CONTENT: usize = 256 * 1024;
/// A page has at most so many.
const PAGE: u32 = 100;

type Answer = Result<wire::WatchReportsResponse, Status>;

pub(super) struct Reports {
    services: Services,
    watching: Watching,
}

/// The stream of each consumer, by a number of its own; a newer one ends it.
type Watching = Arc<Mutex<HashMap<LinkName, (u64, CancellationToken)>>>;

impl Reports {
    pub(super) fn new(services: Services) -> Self {
        Self {
            services,
            watching: Watching::default(),
        }
    }
}

/// A consumer's name has the form of a link's.
fn consumer(text: &str) -> Result<LinkName, Status> {
    LinkName::parse(text).map_err(|_| {
        let what = format!("{text:?} is not a name: 1 to 63 letters, digits and hyphens");
        invalid("consumer", what)
    })
}

fn patterns(texts: &[String]) -> Result<Vec<RecipientPattern>, Status> {
    if texts.len() > PATTERNS {
        return Err(invalid(
            "recipients",
            format!("expected at most {PATTERNS}"),
        ));
    }
    let read = texts.iter().enumerate().map(|(index, text)| {
        RecipientPattern::parse(text)
            .map_err(|wrong| invalid(&format!("recipients[{index}]"), wrong))
    });
    read.collect()
}

/// Reads `reports/{id}`.
fn report_id(name: &str) -> Result<MessageId, Status> {
    name.strip_prefix("reports/")
        .and_then(MessageId::parse)
        .ok_or_else(|| {
            let what = format!("{name:?} is not a report; expected reports/{{report}}");
            invalid("name", what)
        })
}

#[tonic::async_trait]
impl wire::report_service_server::ReportService for Reports {
    type WatchReportsStream = ReceiverStream<Answer>;

    async fn watch_reports(
        &self,
        request: Request<wire::WatchReportsRequest>,
    ) -> Result<Response<Self::WatchReportsStream>, Status> {
        let call = request.into_inner();
        let (consumer, recipients) = (consumer(&call.consumer)?, patterns(&call.recipients)?);
        let (answers, stream) = mpsc::channel(IN_FLIGHT as usize);
        let place = Place::take(&self.watching, consumer);
        let watch = Watch {
            services: self.services.clone(),
            answers,
            recipients,
            shown: HashMap::new(),
        };
        tokio::spawn(watch.run(place));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn acknowledge_report(
        &self,
        request: Request<wire::AcknowledgeReportRequest>,
    ) -> Result<Response<wire::Report>, Status> {
        let call = request.into_inner();
        let (id, consumer) = (report_id(&call.name)?, consumer(&call.consumer)?);
        let spool = &self.services.spool;
        let settled = spool
            .acknowledge(id, consumer.to_string(), Stamp::now())
            .await
            .map_err(|failed| of_spool(&failed))?;
        let report = settled.ok_or_else(|| not_found("REPORT_NOT_FOUND", &call.name))?;
        Ok(Response::new(convert(&report, Vec::new())))
    }

    async fn get_report(
        &self,
        request: Request<wire::GetReportRequest>,
    ) -> Result<Response<wire::Report>, Status> {
        let name = request.into_inner().name;
        let found = self.services.spool.report(report_id(&name)?).await;
        let found = found.map_err(|failed| of_spool(&failed))?;
        let report = found.ok_or_else(|| not_found("REPORT_NOT_FOUND", &name))?;
        let content = content(&self.services, &report).await;
        Ok(Response::new(convert(&report, content)))
    }

    async fn list_reports(
        &self,
        request: Request<wire::ListReportsRequest>,
    ) -> Result<Response<wire::ListReportsResponse>, Status> {
        let call = request.into_inner();
        let state = wire::report::State::try_from(call.state);
        let state = state.map_err(|_| {
            let what = format!("{} is no state of a report", call.state);
            invalid("state", what)
        })?;
        let limit = page::size(DOMAIN, call.page_size)?.min(PAGE);
        let list = List {
            domain: DOMAIN,
            arguments: &["reports", state.as_str_name()],
        };
        let after = list.place(&call.page_token)?.unwrap_or(0);
        let spool = &self.services.spool;
        let found = spool.reports(after, own_state(state), limit + 1).await;
        let mut found = found.map_err(|failed| of_spool(&failed))?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let last = found.last().map_or(0, |report| report.seq);
        let reports = found.iter().map(|report| convert(report, Vec::new()));
        Ok(Response::new(wire::ListReportsResponse {
            reports: reports.collect(),
            next_page_token: if more {
                list.token(last)
            } else {
                String::new()
            },
        }))
    }
}

/// The place of a consumer, until it is dropped or a newer stream takes it.
struct Place {
    watching: Watching,
    consumer: LinkName,
    number: u64,
    replaced: CancellationToken,
}

impl Place {
    fn take(watching: &Watching, consumer: LinkName) -> Self {
        let replaced = CancellationToken::new();
        let mut streams = watching.lock().unwrap_or_else(PoisonError::into_inner);
        let number = streams.get(&consumer).map_or(0, |(number, _)| number + 1);
        let before = streams.insert(consumer.clone(), (number, replaced.clone()));
        drop(streams);
        if let Some((_, before)) = before {
            before.cancel();
        }
        Self {
            watching: Arc::clone(watching),
            consumer,
            number,
            replaced,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        if streams
            .get(&self.consumer)
            .is_some_and(|(number, _)| *number == self.number)
        {
            streams.remove(&self.consumer);
        }
    }
}

/// One watcher.
struct Watch {
    services: Services,
    answers: mpsc::Sender<Answer>,
    /// Whose reports are shown; empty: everyone's.
    recipients: Vec<RecipientPattern>,
    /// What waits for its acknowledgement: when it was last shown, and how often.
    shown: HashMap<MessageId, (Instant, i32)>,
}

impl Watch {
    async fn run(mut self, place: Place) {
        let stopping = self.services.shutdown.clone();
        let answers = self.answers.clone();
        let status = tokio::select! {
            status = self.show() => status,
            () = answers.closed() => return,
            () = place.replaced.cancelled() => {
                let message = "the consumer watches anew elsewhere";
                error(Code::Aborted, "CONSUMER_REPLACED", message, &[])
            }
            () = stopping.cancelled() => unavailable("SHUTTING_DOWN", "the relay is stopping"),
        };
        // A client that has gone needs no word.
        let _ = answers.send(Err(status)).await;
    }

    /// The oldest reports that wait for this watcher.
    async fn waiting(&self) -> Result<Vec<StoredReport>, SpoolError> {
        let (mut waiting, mut after) = (Vec::new(), 0);
        loop {
            let state = Some(ReportState::Unacknowledged);
            let page = self.services.spool.reports(after, state, IN_FLIGHT).await?;
            let Some(last) = page.last() else {
                return Ok(waiting);
            };
            after = last.seq;
            let all = page.len() < IN_FLIGHT as usize;
            waiting.extend(page.into_iter().filter(|report| self.is_for(report)));
            if all || waiting.len() >= IN_FLIGHT as usize {
                waiting.truncate(IN_FLIGHT as usize);
                return Ok(waiting);
            }
        }
    }

    fn is_for(&self, report: &StoredReport) -> bool {
        let fits = |address: &String| {
            Mailbox::parse(address.as_bytes()).is_ok_and(|address| {
                self.recipients
                    .iter()
                    .any(|pattern| pattern.takes(&address))
            })
        };
        self.recipients.is_empty() || report.recipients.iter().any(fits)
    }

    /// Ends with what the client is to be told.
    async fn show(&mut self) -> Status {
        let spool = self.services.spool.clone();
        let mut changed = spool.watch_hop(&NextHop::Report.to_string());
        loop {
            changed.mark_unchanged();
            let waiting = match self.waiting().await {
                Ok(waiting) => waiting,
                Err(failed) => return of_spool(&failed),
            };
            self.shown
                .retain(|id, _| waiting.iter().any(|report| report.id == *id));
            let now = Instant::now();
            for report in &waiting {
                let (at, times) = self.shown.get(&report.id).copied().unwrap_or((now, 0));
                if times > 0 && at + AGAIN > now {
                    continue;
                }
                let content = content(&self.services, report).await;
                let answer = wire::WatchReportsResponse {
                    report: Some(convert(report, content)),
                    delivery_attempt: times.saturating_add(1),
                };
                if self.answers.send(Ok(answer)).await.is_err() {
                    // Noticed by the caller, too.
                    return Status::cancelled("the client left");
                }
                let shown = (Instant::now(), times.saturating_add(1));
                self.shown.insert(report.id, shown);
            }
            let next = self.shown.values().map(|(at, _)| *at + AGAIN).min();
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(next.unwrap_or_else(|| Instant::now() + AGAIN)) => {}
            }
        }
    }
}

/// The start of the message. One that cannot be read is shown empty: what is known of it is worth telling all the same.
async fn content(services: &Services, report: &StoredReport) -> Vec<u8> {
    let read = async {
        let body = services.spool.body(report.seq).await?;
        Ok::<_, SpoolError>(body.head(CONTENT).await?)
    };
    read.await
        .inspect_err(|error| tracing::warn!(id = %report.id, %error, "a report cannot be read"))
        .unwrap_or_default()
}

fn own_state(state: wire::report::State) -> Option<ReportState> {
    match state {
        wire::report::State::Unspecified => None,
        wire::report::State::Unacknowledged => Some(ReportState::Unacknowledged),
        wire::report::State::Acknowledged => Some(ReportState::Acknowledged),
        wire::report::State::Expired => Some(ReportState::Expired),
    }
}

fn convert(report: &StoredReport, content: Vec<u8>) -> wire::Report {
    let state = match report.state {
        ReportState::Unacknowledged => wire::report::State::Unacknowledged,
        ReportState::Acknowledged => wire::report::State::Acknowledged,
        ReportState::Expired => wire::report::State::Expired,
    };
    let link = report.link.as_ref();
    let cycle = link
        .zip(report.cycle)
        .map(|(link, cycle)| cycle_name(link.as_str(), cycle));
    wire::Report {
        name: format!("reports/{}", report.id),
        state: state.into(),
        accept_time: Some(time(report.accepted)),
        reverse_path: match &report.reverse_path {
            ReversePath::Null => String::new(),
            ReversePath::Mailbox(mailbox) => mailbox.to_string(),
        },
        recipients: report.recipients.clone(),
        content,
        size_bytes: size(report.size),
        origin: report.origin.as_str().to_owned(),
        link: link.map_or(String::new(), |link| format!("links/{link}")),
        cycle: cycle.unwrap_or_default(),
        traceparent: report.traceparent.clone(),
        acknowledged_by: report.acknowledged_by.clone(),
    }
}
