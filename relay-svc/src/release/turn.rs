//! One turn at the request for one node: a session with its site, for a bounded time.

use std::{sync::Arc, time::Duration};

use linkmail_service::tasks::too_late;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    names::{HostPort, NextHop, Node},
    outbound::{Forwarder, Session, Tally, connect},
    spool::{Due, ReleaseRequest, SpoolError},
    telemetry,
};

/// So many messages are looked up at once.
const BATCH: u32 = 50;
/// A session sends for so long; then it is others' turn.
const STRETCH: Duration = Duration::from_secs(60);
/// A site that asked and cannot be reached is tried for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// When the relay is told to stop, the message that is under way gets so long.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// One connect may take so long.
const CONNECT: Duration = Duration::from_secs(30);
/// The pauses between tries to reach a site: from the first, doubling, to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How a turn ended.
pub(super) enum Turn {
    /// The request is over.
    Over,
    /// There is more to send.
    Stretched(Work),
    /// The site is not there, or its session ended early: it is tried again after a pause.
    NotReached(Work),
    /// The relay stops; the request stays open.
    Stopped,
}

/// How far a request was carried out, from turn to turn.
pub(super) struct Work {
    request: ReleaseRequest,
    /// The place of the last message of which every recipient was tried.
    after: i64,
    tally: Tally,
    pause: Duration,
    deadline: Instant,
}

impl Work {
    fn new(request: ReleaseRequest) -> Self {
        Self {
            request,
            after: 0,
            tally: Tally::default(),
            pause: PAUSE.0,
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// The site says that it is there.
    pub(super) fn renewed(self) -> Self {
        Self {
            pause: PAUSE.0,
            deadline: Instant::now() + PATIENCE,
            ..self
        }
    }

    /// The pause before the next turn.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        pause
    }

    /// What was done, in words.
    fn account(&self) -> String {
        let Tally {
            sent,
            deferred,
            refused,
            ..
        } = self.tally;
        format!("{sent} sent, {deferred} deferred, {refused} refused")
    }
}

/// Takes a turn at the newest request for a node. A newer request than that of `work` takes its place: it asks for all
/// that the older one does, and once more for what was tried already.
pub(super) async fn take(
    held: Forwarder,
    node: Node,
    work: Option<Work>,
    cancel: CancellationToken,
) -> Result<Turn, SpoolError> {
    let Some(request) = held.spool.release_request(node.clone()).await? else {
        return Ok(Turn::Over);
    };
    let mut work = match work {
        Some(work) if work.request == request => work,
        _ => Work::new(request),
    };
    let Some(hold) = held.policy.routes.hold_of(&node) else {
        // What was held was routed anew when the route went.
        let how = "no route holds mail for this node any more".to_owned();
        return over(&held, &node, &work, "no_route", how).await;
    };
    let node_is = KeyValue::new(telemetry::NODE, node.to_string());
    let none = Context::new();
    let span = telemetry::start("relay.release", SpanKind::Internal, &none, vec![node_is]);
    let mut session = Sending {
        held: &held,
        node: &node,
        hop: NextHop::Hold(node.clone()).to_string(),
        host: &hold.release_to,
        cancel: &cancel,
        span: span.clone(),
    };
    let before = (work.after, work.tally.sent);
    let ended = tokio::select! {
        ended = session.run(&mut work) => ended,
        () = too_late(&cancel, STOP_GRACE) => Ok(Ended::Stopped),
    };
    let failed = match &ended {
        Ok(Ended::Lost(reason)) => Some(("session_failed", reason.clone())),
        Ok(Ended::AllTried | Ended::Stretched | Ended::Stopped) => None,
        Err(error) => Some(("spool", error.to_string())),
    };
    let sent = i64::from(work.tally.sent - before.1);
    span.span()
        .set_attribute(KeyValue::new(telemetry::RELEASED, sent));
    telemetry::end(&span, failed);
    match ended? {
        Ended::AllTried => {
            let how = work.account();
            over(&held, &node, &work, "done", how).await
        }
        Ended::Stretched => Ok(Turn::Stretched(work)),
        Ended::Stopped => Ok(Turn::Stopped),
        Ended::Lost(reason) => {
            if work.after > before.0 {
                work = work.renewed();
            }
            if Instant::now() + work.pause >= work.deadline {
                let how = format!("{}; the site is not reached: {reason}", work.account());
                return over(&held, &node, &work, "unreachable", how).await;
            }
            tracing::warn!(%node, host = %hold.release_to, reason, "release paused");
            Ok(Turn::NotReached(work))
        }
    }
}

async fn over(
    held: &Forwarder,
    node: &Node,
    work: &Work,
    outcome: &'static str,
    how: String,
) -> Result<Turn, SpoolError> {
    tracing::info!(%node, request = work.request.number, how, "release ended");
    held.instruments
        .releases
        .add(1, &[KeyValue::new("outcome", outcome)]);
    let spool = &held.spool;
    spool
        .finish_release(node.clone(), work.request, how)
        .await?;
    Ok(Turn::Over)
}

/// How a session came to its end.
enum Ended {
    /// Nothing is left of what was asked for.
    AllTried,
    /// There is more, and it is others' turn.
    Stretched,
    /// The site is not there, or the session ended early.
    Lost(String),
    /// The relay stops.
    Stopped,
}

/// A session with a site.
struct Sending<'a> {
    held: &'a Forwarder,
    node: &'a Node,
    hop: String,
    host: &'a HostPort,
    cancel: &'a CancellationToken,
    span: Context,
}

impl Sending<'_> {
    async fn run(&mut self, work: &mut Work) -> Result<Ended, SpoolError> {
        if self.batch(work).await?.is_empty() {
            return Ok(Ended::AllTried);
        }
        let span = telemetry::start_session(self.host, &self.span);
        let opened = tokio::select! {
            () = self.cancel.cancelled() => Err("the relay is stopping".to_owned()),
            opened = open(self.host, &self.held.hostname) => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(reason) => {
                telemetry::end(&span, Some(("session_failed", reason.clone())));
                return Ok(self.lost(reason));
            }
        };
        let ended = self.send_all(work, &mut session, &span).await;
        let reason = session.end().map(ToString::to_string);
        let failed = reason.clone().map(|reason| ("session_failed", reason));
        telemetry::end(&span, failed);
        let ended = ended?;
        session.quit().await;
        Ok(match (ended, reason) {
            (Ended::Lost(_), Some(reason)) => self.lost(reason),
            (ended, _) => ended,
        })
    }

    fn lost(&self, reason: String) -> Ended {
        if self.cancel.is_cancelled() {
            Ended::Stopped
        } else {
            Ended::Lost(reason)
        }
    }

    async fn send_all(
        &self,
        work: &mut Work,
        session: &mut Session,
        span: &Context,
    ) -> Result<Ended, SpoolError> {
        let until = Instant::now() + STRETCH;
        loop {
            // What was delivered and is not on record would be sent again: it is recorded first.
            self.held.record_leftovers(&self.hop).await?;
            let batch = self.batch(work).await?;
            if batch.is_empty() {
                return Ok(Ended::AllTried);
            }
            for message in batch {
                if self.cancel.is_cancelled() {
                    return Ok(Ended::Stopped);
                }
                let done = self.held.send(&self.hop, &message, session, span).await?;
                work.tally.add(&done);
                // A recipient whose turn did not come has it in the next session.
                if done.untried == 0 {
                    work.after = message.seq;
                }
                if let Some(end) = session.end() {
                    return Ok(Ended::Lost(end.to_string()));
                }
                if Instant::now() >= until {
                    return Ok(Ended::Stretched);
                }
            }
        }
    }

    async fn batch(&self, work: &Work) -> Result<Vec<Due>, SpoolError> {
        self.held
            .spool
            .held(self.node, work.after, work.request.upto, BATCH)
            .await
    }
}

async fn open(host: &HostPort, hostname: &Arc<str>) -> Result<Session, String> {
    let stream = connect(host, CONNECT)
        .await
        .map_err(|error| error.to_string())?;
    Session::open(stream, host.clone(), hostname)
        .await
        .map_err(|end| end.to_string())
}
