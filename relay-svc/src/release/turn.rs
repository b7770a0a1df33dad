//! One turn at the request for one node: sessions with its site, for a bounded time.

use std::time::Duration;

use linkmail_service::tasks::too_late;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::work::{Came, Ended, Work};
use crate::{
    names::{HostPort, NextHop, Node},
    outbound::{Feed, Fleet, Forwarder, InHand, News, Opener},
    spool::SpoolError,
    telemetry,
};

/// Sessions send for so long; then it is others' turn.
const STRETCH: Duration = Duration::from_secs(60);
/// When the relay is told to stop, the message that is under way gets so long.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// One connect may take so long.
const CONNECT: Duration = Duration::from_secs(30);
/// With the greeting and the answer to EHLO, so long. RFC 5321 4.5.3.2.1 allows five minutes for the greeting: a host that
/// needs them is tried again, and others have their turn.
const OPEN: Duration = Duration::from_secs(60);

/// How a turn ended.
pub(super) enum Turn {
    /// The request is over.
    Over,
    /// There is more to send.
    Stretched(Work),
    /// The site is not there, or a session ended early: it is tried again after a pause.
    NotReached(Work),
    /// The spool cannot be used: it is tried again after a pause.
    Failed(Option<Work>, SpoolError),
    /// Another replica releases it, or gives up what is held too long.
    Elsewhere(Option<Work>),
    /// The relay stops; the request stays open.
    Stopped,
}

/// The lease of a node: who has it sends what is held for it, or gives it up.
pub(super) fn lease_of(node: &Node) -> String {
    NextHop::Hold(node.clone()).to_string()
}

/// Whose turn it is, and what it may use.
pub(super) struct Place {
    pub(super) held: Forwarder,
    pub(super) in_hand: InHand,
    pub(super) node: Node,
    /// The most connections at once.
    pub(super) connections: usize,
    pub(super) cancel: CancellationToken,
}

impl Place {
    /// Takes a turn at the newest request for a node. A newer request than that of `work` takes its place: it asks for all
    /// that the older one does, and once more for what was tried already.
    pub(super) async fn take(mut self, work: Option<Work>) -> Turn {
        let spool = self.held.spool.clone();
        let lease = match spool.claim(&lease_of(&self.node)).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Turn::Elsewhere(work),
            Err(error) => return Turn::Failed(work, error),
        };
        self.held.spool = spool.under(&lease);
        self.cancel = self.cancel.child_token();
        let (stop, ends) = (self.cancel.clone(), lease.ends().clone());
        let watched = async {
            ends.cancelled().await;
            stop.cancel();
            std::future::pending::<Turn>().await
        };
        let turn = tokio::select! {
            turn = self.take_under(work) => turn,
            turn = watched => turn,
        };
        lease.give_back().await;
        turn
    }

    async fn take_under(self, work: Option<Work>) -> Turn {
        let (held, node) = (&self.held, &self.node);
        let request = match held.spool.release_request(node.clone()).await {
            Ok(Some(request)) => request,
            Ok(None) => return Turn::Over,
            Err(error) => return Turn::Failed(work, error),
        };
        let work = match work {
            Some(work) if work.request == request => work,
            _ => Work::new(request),
        };
        let Some(hold) = held.policy.routes.hold_of(node) else {
            // What was held was routed anew when the route went.
            let how = "no route holds mail for this node any more".to_owned();
            return over(held, node, work, "no_route", how).await;
        };
        let sending = Sending {
            place: &self,
            host: &hold.release_to,
        };
        sending.turn(work).await
    }
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

/// A turn, and what it needs.
struct Sending<'a> {
    place: &'a Place,
    host: &'a HostPort,
}

impl Sending<'_> {
    async fn turn(&self, mut work: Work) -> Turn {
        let Place {
            held, node, cancel, ..
        } = self.place;
        let node_is = KeyValue::new(telemetry::NODE, node.to_string());
        let none = Context::new();
        let span = telemetry::start("relay.release", SpanKind::Internal, &none, vec![node_is]);
        let before = work.tally;
        let ended = tokio::select! {
            ended = self.sessions(&mut work, &span) => ended,
            () = too_late(cancel, STOP_GRACE) => Ok(Ended::Stopped),
        };
        let failed = match &ended {
            Ok(Ended::Lost(reason)) => Some(("session_failed", reason.clone())),
            Ok(Ended::AllTried | Ended::Stretched | Ended::Stopped) => None,
            Err(error) => Some(("spool", error.to_string())),
        };
        let sent = i64::from(work.tally.sent - before.sent);
        span.span()
            .set_attribute(KeyValue::new(telemetry::RELEASED, sent));
        telemetry::end(&span, failed);
        if work.tally.moved_since(&before) {
            work = work.renewed();
        }
        match ended {
            Ok(Ended::AllTried) => {
                let how = work.account();
                over(held, node, work, "done", how).await
            }
            Ok(Ended::Stretched) => Turn::Stretched(work),
            Ok(Ended::Stopped) => Turn::Stopped,
            Ok(Ended::Lost(reason)) => self.lost(work, reason).await,
            Err(error) => Turn::Failed(Some(work), error),
        }
    }

    /// The site is not there: it is tried again, unless it was so for long.
    async fn lost(&self, mut work: Work, reason: String) -> Turn {
        let Place { held, node, .. } = self.place;
        if work.is_over_behind_a_pause() {
            let how = format!("{}; the site is not reached: {reason}", work.account());
            return over(held, node, work, "unreachable", how).await;
        }
        tracing::warn!(%node, host = %self.host, reason, "release paused");
        Turn::NotReached(work)
    }

    async fn sessions(&self, work: &mut Work, span: &Context) -> Result<Ended, SpoolError> {
        let Place {
            held,
            in_hand,
            node,
            connections,
            cancel,
        } = self.place;
        // An outcome that a full disk kept out is recorded before the request can be over.
        let hop = NextHop::Hold(node.clone()).to_string();
        held.record_leftovers(&hop).await?;
        let (left, upto) = (work.left.clone(), work.request.upto);
        if left.again.is_empty()
            && held
                .spool
                .held_places(node, left.after, upto, 1)
                .await?
                .is_empty()
        {
            return Ok(Ended::AllTried);
        }
        let feed = Feed::of_held(held.spool.clone(), node, left, upto, in_hand.clone());
        let opener = Opener {
            within: Some(OPEN),
            ..held.opener(CONNECT, held.flight, span)
        };
        let host = self.host.clone();
        let mut fleet = Fleet::new(held.clone(), feed, host, opener, STRETCH, cancel.clone());
        let sessions = fleet.justified(*connections, true).await?;
        fleet.grow(sessions);
        let Some(mut came) = self.drain(&mut fleet).await else {
            return Ok(Ended::Stopped);
        };
        let left = fleet.left(std::mem::take(&mut came.untried)).await;
        work.ended(came, left)
    }

    /// Sends over all sessions until they are done; nothing when the relay stops before one is open.
    async fn drain(&self, fleet: &mut Fleet) -> Option<Came> {
        let (mut came, mut leaving) = (Came::default(), JoinSet::new());
        let mut is_open = false;
        loop {
            let news = tokio::select! {
                news = fleet.next() => news,
                () = self.place.cancel.cancelled(), if !is_open => return None,
            };
            match news {
                None => break,
                Some(News::Opened(takes_flights)) => {
                    is_open = true;
                    if !takes_flights {
                        // A spool that cannot be read is met again by the session.
                        let sessions = fleet.justified(self.place.connections, false).await;
                        fleet.grow(sessions.unwrap_or(1));
                    }
                }
                Some(News::Failed(end)) => {
                    tracing::info!(node = %self.place.node, %end, "a session did not come about");
                    came.failed(end);
                }
                Some(News::Ended(ended)) => {
                    let (drained, speaking) = *ended;
                    came.ended(drained);
                    leaving.spawn(speaking.quit());
                }
                Some(News::Broke(error)) => go_down_with(error),
            }
        }
        while leaving.join_next().await.is_some() {}
        Some(came)
    }
}

/// What a session did that ended by a defect is not known: its turn ends alike, and its node is left alone.
fn go_down_with(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}
