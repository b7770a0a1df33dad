//! One request for one node: sessions with its site until every message was tried.

use std::time::Duration;

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    names::{HostPort, NextHop, Node},
    outbound::{Forwarder, Session, Tally, connect},
    spool::{Due, ReleaseRequest, SpoolError},
    telemetry,
};

/// So many messages are looked up at once.
const BATCH: u32 = 50;
/// A site that asked and cannot be reached is tried for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// One connect may take so long.
const CONNECT: Duration = Duration::from_secs(30);
/// The pauses between tries to reach a site: from the first, doubling, to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How a request came to its end.
enum Ended {
    /// Every message was tried.
    Done,
    /// The site could not be reached in time.
    Unreachable(String),
    /// No route holds mail for the node any more, and what was held went with it.
    NoRoute,
    /// The relay stops; the request stays open.
    Stopped,
}

impl Ended {
    /// The word for it in metrics.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unreachable(_) => "unreachable",
            Self::NoRoute => "no_route",
            Self::Stopped => "stopped",
        }
    }
}

/// Carries out the newest request for a node, if one is open.
pub(super) async fn carry_out(
    held: &Forwarder,
    node: &Node,
    sending: &Semaphore,
    cancel: &CancellationToken,
) -> Result<(), SpoolError> {
    let requested = held.spool.watch_releases();
    let Some(request) = held.spool.release_request(node.clone()).await? else {
        return Ok(());
    };
    let node_is = KeyValue::new(telemetry::NODE, node.to_string());
    let span = telemetry::start(
        "relay.release",
        SpanKind::Internal,
        &Context::new(),
        vec![node_is],
    );
    let mut run = Run {
        held,
        node,
        hop: NextHop::Hold(node.clone()).to_string(),
        request,
        sending,
        cancel,
        requested,
        span,
        after: 0,
        tally: Tally::default(),
    };
    let ended = run.go().await;
    run.close(&ended);
    let ended = ended?;
    if matches!(ended, Ended::Stopped) {
        return Ok(());
    }
    let how = run.account(&ended);
    tracing::info!(%node, request = request.number, how, "release ended");
    held.instruments
        .releases
        .add(1, &[KeyValue::new("outcome", ended.as_str())]);
    held.spool.finish_release(node.clone(), request, how).await
}

/// A request that is being carried out.
struct Run<'a> {
    held: &'a Forwarder,
    node: &'a Node,
    hop: String,
    request: ReleaseRequest,
    sending: &'a Semaphore,
    cancel: &'a CancellationToken,
    requested: watch::Receiver<u64>,
    span: Context,
    /// The place of the last message that was tried.
    after: i64,
    tally: Tally,
}

impl Run<'_> {
    async fn go(&mut self) -> Result<Ended, SpoolError> {
        let Some(hold) = self.held.policy.routes.hold_of(self.node) else {
            return Ok(Ended::NoRoute);
        };
        let host = &hold.release_to;
        let (mut deadline, mut pause) = (Instant::now() + PATIENCE, PAUSE.0);
        loop {
            let before = self.after;
            let session = self.session(host).await?;
            if self.cancel.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let Some(reason) = session else {
                return Ok(Ended::Done);
            };
            if self.after > before {
                (deadline, pause) = (Instant::now() + PATIENCE, PAUSE.0);
            }
            if Instant::now() + pause >= deadline {
                return Ok(Ended::Unreachable(reason));
            }
            tracing::warn!(node = %self.node, %host, reason, "release paused");
            if self.asked_again_before(Instant::now() + pause).await? {
                // The site says that it is there.
                (deadline, pause) = (Instant::now() + PATIENCE, PAUSE.0);
            } else {
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Waits; says whether the site asked once more meanwhile. Cancelled, it returns at once.
    async fn asked_again_before(&mut self, until: Instant) -> Result<bool, SpoolError> {
        loop {
            self.requested.mark_unchanged();
            let newest = self.held.spool.release_request(self.node.clone()).await?;
            if let Some(newest) = newest.filter(|newest| newest.number > self.request.number) {
                // The newer request takes the place of this one. It asks for all that this one does, and once more for what
                // was tried already.
                self.request = newest;
                self.after = 0;
                return Ok(true);
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(false),
                () = sleep_until(until) => return Ok(false),
                _ = self.requested.changed() => {}
            }
        }
    }

    /// One session with the site: sends until nothing is left, or says why it ended before.
    async fn session(&mut self, host: &HostPort) -> Result<Option<String>, SpoolError> {
        if self.batch().await?.is_empty() {
            return Ok(None);
        }
        let span = telemetry::start_session(host, &self.span);
        let opened = tokio::select! {
            () = self.cancel.cancelled() => Err("the relay is stopping".to_owned()),
            opened = open(host, &self.held.hostname) => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(reason) => {
                telemetry::end(&span, Some(("session_failed", reason.clone())));
                return Ok(Some(reason));
            }
        };
        let sent = self.send_all(&mut session, &span).await;
        let reason = session.end().map(ToString::to_string);
        let failed = reason.clone().map(|reason| ("session_failed", reason));
        telemetry::end(&span, failed);
        sent?;
        session.quit().await;
        Ok(reason)
    }

    async fn send_all(&mut self, session: &mut Session, span: &Context) -> Result<(), SpoolError> {
        // Never closed, so that this cannot fail.
        let _turn = self.sending.acquire().await.ok();
        loop {
            // What was delivered and is not on record would be sent again: it is recorded first.
            self.held.record_leftovers(&self.hop).await?;
            let batch = self.batch().await?;
            if batch.is_empty() {
                return Ok(());
            }
            for message in batch {
                if self.cancel.is_cancelled() {
                    return Ok(());
                }
                let done = self.held.send(&self.hop, &message, session, span).await?;
                self.tally.add(&done);
                let ended = session.end().is_some();
                // What was not attempted has its turn in the next session.
                if done.attempted() || !ended {
                    self.after = message.seq;
                }
                if ended {
                    return Ok(());
                }
            }
        }
    }

    async fn batch(&self) -> Result<Vec<Due>, SpoolError> {
        self.held
            .spool
            .held(self.node, self.after, self.request.upto, BATCH)
            .await
    }

    /// Ends the span.
    fn close(&self, ended: &Result<Ended, SpoolError>) {
        let failed = match ended {
            Ok(Ended::Unreachable(reason)) => Some(("unreachable", reason.clone())),
            Ok(Ended::Done | Ended::NoRoute | Ended::Stopped) => None,
            Err(error) => Some(("spool", error.to_string())),
        };
        let sent = i64::from(self.tally.sent);
        self.span
            .span()
            .set_attribute(KeyValue::new(telemetry::RELEASED, sent));
        telemetry::end(&self.span, failed);
    }

    /// What was done, in words.
    fn account(&self, ended: &Ended) -> String {
        let Tally {
            sent,
            deferred,
            refused,
            ..
        } = self.tally;
        let done = format!("{sent} sent, {deferred} deferred, {refused} refused");
        match ended {
            Ended::Unreachable(reason) => format!("{done}; the site is not reached: {reason}"),
            Ended::NoRoute => "no route holds mail for this node any more".to_owned(),
            Ended::Done | Ended::Stopped => done,
        }
    }
}

async fn open(host: &HostPort, hostname: &std::sync::Arc<str>) -> Result<Session, String> {
    let stream = connect(host, CONNECT)
        .await
        .map_err(|error| error.to_string())?;
    Session::open(stream, host.clone(), hostname)
        .await
        .map_err(|end| end.to_string())
}
