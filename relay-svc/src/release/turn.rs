//! One turn at the request for one node: a session with its site, for a bounded time.

use std::time::Duration;

use linkmail_service::tasks::too_late;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    names::{HostPort, Node},
    outbound::{Drained, Feed, Forwarder, InHand, Session, Stop, Tally, Terms, WHOLE},
    spool::{ReleaseRequest, SpoolError},
    telemetry,
};

/// A session sends for so long; then it is others' turn.
const STRETCH: Duration = Duration::from_secs(60);
/// A site that asked and cannot be reached is tried for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// When the relay is told to stop, the message that is under way gets so long.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// One connect may take so long.
const CONNECT: Duration = Duration::from_secs(30);
/// With the greeting and the answer to EHLO, so long. RFC 5321 4.5.3.2.1 allows five minutes for the greeting: a host that
/// needs them is tried again, and others have their turn.
const OPEN: Duration = Duration::from_secs(60);
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
    /// The spool cannot be used: it is tried again after a pause.
    Failed(Option<Work>, SpoolError),
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

    /// Takes over what a session did. A recipient whose turn did not come has it in the next one.
    fn ended(&mut self, drained: Drained) -> Result<Ended, SpoolError> {
        self.tally.add(&drained.tally);
        let tried_to = match drained.untried {
            Some(place) => Some(place - 1),
            None => drained.last,
        };
        self.after = self.after.max(tried_to.unwrap_or(0));
        match drained.stop {
            Stop::Idle => Ok(Ended::AllTried),
            Stop::Stretch | Stop::Exhausted => Ok(Ended::Stretched),
            Stop::Ended(end) => Ok(Ended::Lost(end.to_string())),
            Stop::Cancelled => Ok(Ended::Stopped),
            // Bodies that cannot be read now: the rest was tried, and its site asks again.
            Stop::Spool(SpoolError::Io(_)) => Ok(Ended::AllTried),
            Stop::Spool(error) => Err(error),
        }
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
    in_hand: InHand,
    node: Node,
    work: Option<Work>,
    cancel: CancellationToken,
) -> Turn {
    let request = match held.spool.release_request(node.clone()).await {
        Ok(Some(request)) => request,
        Ok(None) => return Turn::Over,
        Err(error) => return Turn::Failed(work, error),
    };
    let work = match work {
        Some(work) if work.request == request => work,
        _ => Work::new(request),
    };
    let Some(hold) = held.policy.routes.hold_of(&node) else {
        // What was held was routed anew when the route went.
        let how = "no route holds mail for this node any more".to_owned();
        return over(&held, &node, work, "no_route", how).await;
    };
    let sending = Sending {
        held: &held,
        in_hand: &in_hand,
        node: &node,
        host: &hold.release_to,
        cancel: &cancel,
    };
    sending.turn(work).await
}

async fn over(
    held: &Forwarder,
    node: &Node,
    work: Work,
    outcome: &'static str,
    how: String,
) -> Turn {
    let spool = &held.spool;
    let done = spool.finish_release(node.clone(), work.request, how.clone());
    if let Err(error) = done.await {
        return Turn::Failed(Some(work), error);
    }
    tracing::info!(%node, request = work.request.number, how, "release ended");
    held.instruments
        .releases
        .add(1, &[KeyValue::new("outcome", outcome)]);
    Turn::Over
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

/// A turn, and what it needs.
struct Sending<'a> {
    held: &'a Forwarder,
    in_hand: &'a InHand,
    node: &'a Node,
    host: &'a HostPort,
    cancel: &'a CancellationToken,
}

impl Sending<'_> {
    async fn turn(&self, mut work: Work) -> Turn {
        let node_is = KeyValue::new(telemetry::NODE, self.node.to_string());
        let none = Context::new();
        let span = telemetry::start("relay.release", SpanKind::Internal, &none, vec![node_is]);
        let (after, sent) = (work.after, work.tally.sent);
        let ended = tokio::select! {
            ended = self.session(&mut work, &span) => ended,
            () = too_late(self.cancel, STOP_GRACE) => Ok(Ended::Stopped),
        };
        let failed = match &ended {
            Ok(Ended::Lost(reason)) => Some(("session_failed", reason.clone())),
            Ok(Ended::AllTried | Ended::Stretched | Ended::Stopped) => None,
            Err(error) => Some(("spool", error.to_string())),
        };
        let sent = i64::from(work.tally.sent - sent);
        span.span()
            .set_attribute(KeyValue::new(telemetry::RELEASED, sent));
        telemetry::end(&span, failed);
        if work.after > after {
            work = work.renewed();
        }
        match ended {
            Ok(Ended::AllTried) => {
                let how = work.account();
                over(self.held, self.node, work, "done", how).await
            }
            Ok(Ended::Stretched) => Turn::Stretched(work),
            Ok(Ended::Stopped) => Turn::Stopped,
            Ok(Ended::Lost(reason)) => self.lost(work, reason).await,
            Err(error) => Turn::Failed(Some(work), error),
        }
    }

    /// The site is not there: it is tried again, unless it was so for long.
    async fn lost(&self, work: Work, reason: String) -> Turn {
        if Instant::now() + work.pause >= work.deadline {
            let how = format!("{}; the site is not reached: {reason}", work.account());
            return over(self.held, self.node, work, "unreachable", how).await;
        }
        tracing::warn!(node = %self.node, host = %self.host, reason, "release paused");
        Turn::NotReached(work)
    }

    async fn session(&self, work: &mut Work, span: &Context) -> Result<Ended, SpoolError> {
        let (spool, upto) = (self.held.spool.clone(), work.request.upto);
        if spool
            .held_places(self.node, work.after, upto, 1)
            .await?
            .is_empty()
        {
            return Ok(Ended::AllTried);
        }
        let span = telemetry::start_session(self.host, span);
        let opened = tokio::select! {
            () = self.cancel.cancelled() => return Ok(Ended::Stopped),
            opened = open(self.host, self.held, &span) => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(reason) => {
                telemetry::end(&span, Some(("session_failed", reason.clone())));
                return Ok(Ended::Lost(reason));
            }
        };
        let hands = self.in_hand.clone();
        let feed = Feed::of_held(spool, self.node, work.after, upto, hands);
        let terms = Terms {
            parent: &span,
            until: Instant::now() + STRETCH,
            share: WHOLE,
            cancel: self.cancel,
            told: &watch::Sender::default(),
            has_other_host: false,
        };
        let drained = self.held.drain(&feed, &mut session, &terms).await;
        let failed = session.end().map(ToString::to_string);
        telemetry::end(&span, failed.map(|reason| ("session_failed", reason)));
        session.quit().await;
        work.ended(drained)
    }
}

/// A connection that was greeted, within a time that a turn can spare.
async fn open(host: &HostPort, held: &Forwarder, span: &Context) -> Result<Session, String> {
    let opener = held.opener(CONNECT, held.flight, span);
    let opening = async {
        let opened = opener.session(host, None).await;
        opened.map_err(|end| end.to_string())
    };
    timeout(OPEN, opening)
        .await
        .unwrap_or_else(|_| Err(format!("{host}: no greeting within {OPEN:?}")))
}
