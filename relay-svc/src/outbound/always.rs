//! Next hops that need no link, such as the site's mailbox server: mail goes at once.

use std::time::Duration;

use opentelemetry::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    ConnectError, Connection, End, Feed, Fleet, Forwarder, News, Speaking, Stop, Tally, connect,
    worse,
};
use crate::{
    names::{HostPort, NextHop},
    telemetry,
};

/// How long one connect may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// While mail flows, it is looked so often whether it justifies more sessions.
const GROW_EVERY: Duration = Duration::from_millis(250);
/// A session stays open for more mail so long.
const IDLE: Duration = Duration::from_secs(5);
/// Mail that keeps coming is sent without a break for so long.
const STRETCH: Duration = Duration::from_secs(300);
/// Signals are hints: it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The pauses after a session that failed: from the first, doubling, to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Forwards to one host until cancelled, while no other replica does.
pub async fn run(forwarder: Forwarder, host: HostPort, cancel: CancellationToken) {
    let name = NextHop::Smtp(host.clone()).to_string();
    while let Some(lease) = forwarder.spool.claimed(&name, &cancel).await {
        let stop = cancel.child_token();
        let mut forwarder = forwarder.clone();
        forwarder.spool = forwarder.spool.under(&lease);
        let watched = async {
            lease.ends().cancelled().await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serve(forwarder, host.clone(), stop.clone()) => {}
            () = watched => {}
        }
    }
}

/// Forwards to one host until cancelled.
async fn serve(forwarder: Forwarder, host: HostPort, cancel: CancellationToken) {
    let hop = NextHop::Smtp(host.clone());
    let mut woken = forwarder.spool.watch_hop(&hop.to_string());
    let mut pause = PAUSE.0;
    while !cancel.is_cancelled() {
        woken.mark_unchanged();
        if let Err(error) = forwarder.judge_late(&hop).await {
            tracing::error!(hop = %hop, %error, "late mail cannot be judged");
        }
        let wait = match forwarder
            .spool
            .backlog(hop.to_string(), forwarder.spool.tick(), 1)
            .await
        {
            Ok(backlog) if backlog.due > 0 => match deliver(&forwarder, &hop, &host, &cancel).await
            {
                Ok(()) => {
                    pause = PAUSE.0;
                    continue;
                }
                Err(()) => {
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE.1);
                    continue;
                }
            },
            Ok(backlog) => backlog
                .next_due
                .map(|due| due.since(forwarder.spool.tick())),
            Err(error) => {
                tracing::error!(%error, "the queue cannot be read");
                Some(PAUSE.1)
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = woken.changed() => {}
            () = tokio::time::sleep(wait.map_or(LOOK_AGAIN, |wait| wait.min(LOOK_AGAIN))) => {}
        }
    }
}

/// What the sessions with the host came to.
#[derive(Default)]
struct Sent {
    tally: Tally,
    stop: Option<Stop>,
    kept: Option<Speaking>,
}

/// All that is due, and what comes within [`IDLE`] behind it, over as many sessions as it justifies.
async fn deliver(
    forwarder: &Forwarder,
    hop: &NextHop,
    host: &HostPort,
    cancel: &CancellationToken,
) -> Result<(), ()> {
    let mut leaving = JoinSet::new();
    let done = match open(forwarder, hop, host).await {
        Ok(first) => {
            let conversation = Conversation {
                forwarder,
                hop,
                host,
                cancel,
            };
            conversation.hold(first, &mut leaving).await
        }
        Err(reason) => Err(reason),
    };
    while leaving.join_next().await.is_some() {}
    done.map_err(|reason| tracing::warn!(host = %host, reason, "delivery paused"))
}

/// The first session. Without one, that counts as an attempt for what is due first, unless the line is missing.
async fn open(forwarder: &Forwarder, hop: &NextHop, host: &HostPort) -> Result<Speaking, String> {
    let span = telemetry::start_session(host, &Context::new());
    let opened = match connect(host, PATIENCE).await {
        Ok(stream) => {
            let opener = forwarder.opener(PATIENCE, forwarder.flight, &span);
            opener.session(host, Some(Connection::Made(stream))).await
        }
        // There is no line to wait for: a host that does not answer counts. A name that does not resolve never does.
        Err(ConnectError::Refused(reason) | ConnectError::TimedOut(reason)) => {
            Err(End::Failed(reason))
        }
        Err(ConnectError::Missing(reason)) => Err(End::Missing(reason)),
    };
    let end = match opened {
        Ok(session) => return Ok(Speaking { session, span }),
        Err(end) => end,
    };
    telemetry::end(&span, Some(("session_failed", end.to_string())));
    if let End::Failed(reason) = &end {
        let counted = forwarder.fail(hop, &host.host, reason).await;
        counted.map_err(|error| error.to_string())?;
    }
    Err(end.to_string())
}

/// Sessions with one host, one after the other or side by side, as long as there is mail.
struct Conversation<'a> {
    forwarder: &'a Forwarder,
    hop: &'a NextHop,
    host: &'a HostPort,
    cancel: &'a CancellationToken,
}

impl Conversation<'_> {
    /// Begins with a session that is open. Those that said all they had to say are left to say goodbye.
    async fn hold(&self, first: Speaking, leaving: &mut JoinSet<()>) -> Result<(), String> {
        let spool = &self.forwarder.spool;
        let mut woken = spool.watch_hop(&self.hop.to_string());
        let mut next = Some(first);
        while let Some(speaking) = next.take() {
            woken.mark_unchanged();
            let mut sent = self.send(speaking, leaving).await;
            let rests = matches!(sent.stop, None | Some(Stop::Idle | Stop::Stretch));
            if let Some(kept) = sent.kept.take() {
                let goes_on = rests
                    && tokio::select! {
                        () = self.cancel.cancelled() => false,
                        _ = woken.changed() => kept.session.is_alive(),
                        () = tokio::time::sleep(IDLE) => false,
                    };
                match goes_on {
                    true => next = Some(kept),
                    false => _ = leaving.spawn(kept.quit()),
                }
            }
            match sent.stop {
                // Many hosts take so many messages in one session, and say so by ending it.
                Some(Stop::Ended(end)) if !sent.tally.progressed() => return Err(end.to_string()),
                Some(Stop::Spool(error)) => return Err(error.to_string()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends what is due, over a session that is open and as many more as that justifies.
    async fn send(&self, speaking: Speaking, leaving: &mut JoinSet<()>) -> Sent {
        let forwarder = self.forwarder;
        let mut takes_flights = speaking.session.takes_flights();
        let mut fleet = Fleet::new(
            forwarder.clone(),
            Feed::of_due(forwarder.spool.clone(), self.hop, forwarder.in_hand.clone()),
            self.host.clone(),
            forwarder.opener(PATIENCE, forwarder.flight, &Context::new()),
            STRETCH,
            self.cancel.clone(),
        );
        let most = forwarder.hosts.of(self.host).connections;
        // A spool that cannot be read is met again by the sessions.
        let sessions = fleet.justified(most, takes_flights).await.unwrap_or(1);
        fleet.take(speaking);
        fleet.grow(sessions);
        let mut sent = Sent::default();
        loop {
            let news = tokio::select! {
                news = fleet.next() => news,
                () = tokio::time::sleep(GROW_EVERY) => {
                    let sessions = fleet.justified(most, takes_flights).await;
                    fleet.grow(sessions.unwrap_or(1));
                    continue;
                }
            };
            match news {
                None => return sent,
                Some(News::Opened(takes)) => takes_flights = takes,
                Some(News::Failed(end)) => {
                    tracing::info!(host = %self.host, %end, "a further session did not come about");
                }
                Some(News::Broke(error)) => {
                    tracing::error!(host = %self.host, %error, "a session ended by a defect of its own");
                }
                Some(News::Ended(ended)) => {
                    let (drained, speaking) = *ended;
                    sent.tally.add(&drained.tally);
                    sent.stop = Some(match sent.stop.take() {
                        None => drained.stop,
                        Some(stop) => worse(stop, drained.stop),
                    });
                    match sent.kept {
                        None if speaking.session.is_alive() => sent.kept = Some(speaking),
                        _ => _ = leaving.spawn(speaking.quit()),
                    }
                }
            }
        }
    }
}
