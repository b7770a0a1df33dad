//! ReportService. A watcher is shown what is not acknowledged, again and again, until it is.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use linkmail_proto::relay::v1 as wire;
use linkmail_service::page::{self, List};
use linkmail_smtp::{Mailbox, ReversePath};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
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
    names::{LinkName, MessageId, NextHop},
    route::RecipientPattern,
    spool::{ReportState, SpoolError, StoredReport},
};

/// What is not acknowledged comes again after so long.
const AGAIN: Duration = Duration::from_secs(30);
/// So many wait for their acknowledgement on one stream.
const IN_HAND: usize = 64;
/// So many consumers watch at once.
const CONSUMERS: usize = 64;
/// A client that does not read is told the end of its stream for so long.
const LAST_WORD: Duration = Duration::from_secs(5);
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

/// The stream of each consumer; a newer one ends it.
type Watching = Arc<Mutex<Streams>>;

#[derive(Default)]
struct Streams {
    by_consumer: HashMap<LinkName, (u64, CancellationToken)>,
    /// The number of the newest stream.
    newest: u64,
}

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
        // What a client does not read is held here: one report.
        let (answers, stream) = mpsc::channel(1);
        let place = Place::take(&self.watching, consumer)?;
        let watch = Watch {
            services: self.services.clone(),
            answers,
            recipients: recipients.into(),
            seen: 0,
            in_hand: BTreeMap::new(),
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
            .acknowledge(id, consumer.to_string())
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
    fn take(watching: &Watching, consumer: LinkName) -> Result<Self, Status> {
        let replaced = CancellationToken::new();
        let mut streams = watching.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !streams.by_consumer.contains_key(&consumer);
        if is_new && streams.by_consumer.len() >= CONSUMERS {
            let message = format!("{CONSUMERS} consumers watch reports already");
            let code = Code::ResourceExhausted;
            return Err(error(code, "TOO_MANY_CONSUMERS", message, &[]));
        }
        streams.newest += 1;
        let number = streams.newest;
        let mine = (number, replaced.clone());
        if let Some((_, before)) = streams.by_consumer.insert(consumer.clone(), mine) {
            before.cancel();
        }
        drop(streams);
        Ok(Self {
            watching: Arc::clone(watching),
            consumer,
            number,
            replaced,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        let current = streams.by_consumer.get(&self.consumer);
        if current.is_some_and(|(number, _)| *number == self.number) {
            streams.by_consumer.remove(&self.consumer);
        }
    }
}

/// A report that waits for its acknowledgement.
struct InHand {
    id: MessageId,
    /// When it was last shown, and how often.
    shown: Option<Instant>,
    times: i32,
}

/// One watcher.
struct Watch {
    services: Services,
    answers: mpsc::Sender<Answer>,
    /// Whose reports are shown; empty: everyone's.
    recipients: Arc<[RecipientPattern]>,
    /// The place up to which every report was looked at.
    seen: i64,
    /// By place.
    in_hand: BTreeMap<i64, InHand>,
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
        drop(place);
        // A client that has gone, or does not read, needs no word.
        let _ = timeout(LAST_WORD, answers.send(Err(status))).await;
    }

    /// Ends with what the client is to be told.
    async fn show(&mut self) -> Status {
        match self.follow().await {
            Ok(never) => match never {},
            Err(failed) => of_spool(&failed),
        }
    }

    async fn follow(&mut self) -> Result<Infallible, SpoolError> {
        let spool = self.services.spool.clone();
        let mut changed = spool.watch_hop(&NextHop::Report.to_string());
        loop {
            changed.mark_unchanged();
            let places = self.in_hand.keys().copied().collect();
            let still = spool.still_unread(places).await?;
            self.in_hand.retain(|place, _| still.contains(place));
            self.take_up().await?;
            while let Some((place, id)) = self.next_due() {
                self.tell(place, id).await?;
            }
            let shown = self.in_hand.values().filter_map(|report| report.shown);
            let again = shown.min().unwrap_or_else(Instant::now) + AGAIN;
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(again) => {}
            }
        }
    }

    /// Takes the next ones into hand, as far as there is room.
    async fn take_up(&mut self) -> Result<(), SpoolError> {
        let room = IN_HAND.saturating_sub(self.in_hand.len());
        let wanted = Arc::clone(&self.recipients);
        let fits = move |address: &Mailbox| {
            wanted.is_empty() || wanted.iter().any(|pattern| pattern.takes(address))
        };
        let (found, seen) = self.services.spool.unread(self.seen, fits, room).await?;
        self.seen = seen;
        for report in found {
            let report_in_hand = InHand {
                id: report.id,
                shown: None,
                times: 0,
            };
            self.in_hand.insert(report.seq, report_in_hand);
        }
        Ok(())
    }

    /// The one that was not shown for longest, if that is long enough: what was never shown first.
    fn next_due(&self) -> Option<(i64, MessageId)> {
        let now = Instant::now();
        let due = |report: &InHand| report.shown.is_none_or(|at| at + AGAIN <= now);
        let due = self.in_hand.iter().filter(|(_, report)| due(report));
        let longest = due.min_by_key(|(place, report)| (report.shown, **place));
        longest.map(|(place, report)| (*place, report.id))
    }

    async fn tell(&mut self, place: i64, id: MessageId) -> Result<(), SpoolError> {
        let found = self.services.spool.report(id).await?;
        let unread = found.filter(|report| report.state == ReportState::Unacknowledged);
        let Some(report) = unread else {
            // Acknowledged while the client read others.
            self.in_hand.remove(&place);
            return Ok(());
        };
        let content = content(&self.services, &report).await;
        let Some(in_hand) = self.in_hand.get_mut(&place) else {
            return Ok(());
        };
        in_hand.times = in_hand.times.saturating_add(1);
        let answer = wire::WatchReportsResponse {
            report: Some(convert(&report, content)),
            delivery_attempt: in_hand.times,
        };
        // A client that has gone is noticed by the caller. One that does not read waits for itself.
        let _ = self.answers.send(Ok(answer)).await;
        in_hand.shown = Some(Instant::now());
        Ok(())
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
