//! Next hops that need no link, such as the site's mailbox server: mail goes at once.

use std::time::Duration;

use opentelemetry::Context;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{ConnectError, Connection, End, Feed, Forwarder, Stop, Terms, WHOLE, connect};
use crate::{
    clock::Stamp,
    names::{HostPort, NextHop},
    telemetry,
};

/// How long one connect may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A session stays open for more mail so long.
const IDLE: Duration = Duration::from_secs(5);
/// Mail that keeps coming is sent without a break for so long.
const STRETCH: Duration = Duration::from_secs(300);
/// The wall clock may step while we wait for mail to become due: it is looked at again so often.
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
            lease.lost().cancelled().await;
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
        let wait = match forwarder
            .spool
            .backlog(hop.to_string(), Stamp::now(), 1)
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
            Ok(backlog) => backlog.next_due.map(|due| due.since(Stamp::now())),
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

/// One session: all that is due, and what comes within [`IDLE`] behind it.
async fn deliver(
    forwarder: &Forwarder,
    hop: &NextHop,
    host: &HostPort,
    cancel: &CancellationToken,
) -> Result<(), ()> {
    let span = telemetry::start_session(host, &Context::new());
    let end = converse(forwarder, hop, host, &span, cancel).await;
    telemetry::end(
        &span,
        end.as_ref()
            .err()
            .map(|reason| ("session_failed", reason.clone())),
    );
    end.map_err(|reason| tracing::warn!(host = %host, reason, "delivery paused"))
}

async fn converse(
    forwarder: &Forwarder,
    hop: &NextHop,
    host: &HostPort,
    span: &Context,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let opened = match connect(host, PATIENCE).await {
        Ok(stream) => {
            let opener = forwarder.opener(PATIENCE, forwarder.flight, span);
            opener.session(host, Some(Connection::Made(stream))).await
        }
        // There is no line to wait for: a host that does not answer counts. A name that does not resolve never does.
        Err(ConnectError::Refused(reason) | ConnectError::TimedOut(reason)) => {
            Err(End::Failed(reason))
        }
        Err(ConnectError::Missing(reason)) => Err(End::Missing(reason)),
    };
    let mut session = match opened {
        Ok(session) => session,
        Err(end) => {
            if let End::Failed(reason) = &end {
                forwarder
                    .fail(hop, &host.host, reason)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            return Err(end.to_string());
        }
    };
    let mut woken = forwarder.spool.watch_hop(&hop.to_string());
    let feed = Feed::of_due(forwarder.spool.clone(), hop);
    loop {
        woken.mark_unchanged();
        let terms = Terms {
            parent: span,
            until: Instant::now() + STRETCH,
            share: WHOLE,
            cancel,
            told: &watch::Sender::default(),
            has_other_host: false,
        };
        let drained = forwarder.drain(&feed, &mut session, &terms).await;
        match drained.stop {
            Stop::Idle | Stop::Stretch => {}
            Stop::Exhausted | Stop::Cancelled => break,
            // Many hosts take so many messages in one session, and say so by ending it.
            Stop::Ended(_) if drained.tally.progressed() => break,
            Stop::Ended(end) => return Err(end.to_string()),
            Stop::Spool(error) => {
                session.quit().await;
                return Err(error.to_string());
            }
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = woken.changed() => {}
            () = tokio::time::sleep(IDLE) => break,
        }
        if !session.is_alive() {
            break;
        }
    }
    session.quit().await;
    Ok(())
}
