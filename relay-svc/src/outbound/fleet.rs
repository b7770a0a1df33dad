//! Several sessions with one host, fed from the same queue.
//!
//! A connection costs three round trips before its first message, and TCP starts each one slowly: about ten segments in the
//! first round trip. So many are opened as the backlog justifies, all at once, and no more than the link allows.

use std::{sync::Arc, time::Duration};

use opentelemetry::Context;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{ConnectError, Drained, End, Feed, Forwarder, Session, Stop, Tally, Terms, connect};
use crate::{clock::Stamp, names::HostPort, spool::SpoolError, telemetry};

/// What TCP sends in the first round trip of a connection: ten segments (RFC 6928 2).
const FIRST_WINDOW: u64 = 14_600;
/// So many messages are weighed at most.
const WEIGHED: u32 = 2000;

/// What the sessions with one host have in common.
pub struct Fleet {
    forwarder: Forwarder,
    feed: Arc<Feed>,
    host: HostPort,
    /// How long one connect may take.
    patience: Duration,
    parent: Context,
    until: Instant,
    cancel: CancellationToken,
    told: Arc<watch::Sender<Tally>>,
    sessions: JoinSet<Result<(Drained, Session), End>>,
    begun: usize,
}

impl Fleet {
    /// A fleet without a session. `parent` is the span of all its sessions, and `told` hears of each message.
    #[must_use]
    pub fn new(
        forwarder: Forwarder,
        feed: Feed,
        host: HostPort,
        patience: Duration,
        parent: Context,
        until: Instant,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            forwarder,
            feed: Arc::new(feed),
            host,
            patience,
            parent,
            until,
            cancel,
            told: Arc::default(),
            sessions: JoinSet::new(),
            begun: 0,
        }
    }

    /// How many sessions the backlog justifies, of at most `limit`: by its octets, or one for each message with a host that
    /// takes one message per round trip.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn justified(&self, limit: usize, by_octets: bool) -> Result<usize, SpoolError> {
        let hop = self.feed.hop().to_owned();
        let spool = self.feed.spool();
        let (messages, octets) = spool.due_weight(hop, Stamp::now(), WEIGHED).await?;
        let wanted = if by_octets {
            messages.min(octets.div_ceil(FIRST_WINDOW))
        } else {
            messages
        };
        Ok(usize::try_from(wanted).unwrap_or(limit).clamp(1, limit))
    }

    /// Opens further sessions until there are so many, with one of the caller's own.
    pub fn grow(&mut self, sessions: usize) {
        while self.begun + 1 < sessions {
            self.begun += 1;
            let (forwarder, feed, host) =
                (self.forwarder.clone(), self.feed.clone(), self.host.clone());
            let (parent, cancel) = (self.parent.clone(), self.cancel.clone());
            let (patience, until, told) = (self.patience, self.until, self.told.clone());
            self.sessions.spawn(async move {
                let span = telemetry::start_session(&host, &parent);
                let terms = Terms {
                    parent: &span,
                    until,
                    cancel: &cancel,
                    told: &told,
                };
                let sent = serve(&forwarder, &feed, host, patience, &terms).await;
                let failed = match &sent {
                    Ok((_, session)) => session.end().map(ToString::to_string),
                    Err(end) => Some(end.to_string()),
                };
                telemetry::end(&span, failed.map(|reason| ("session_failed", reason)));
                sent
            });
        }
    }

    /// Sends over a session of the caller's own.
    pub async fn drain(&self, session: &mut Session, span: &Context) -> Drained {
        let terms = Terms {
            parent: span,
            until: self.until,
            cancel: &self.cancel,
            told: &self.told,
        };
        self.forwarder.drain(&self.feed, session, &terms).await
    }

    /// What was done so far, by all sessions.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Tally> {
        self.told.subscribe()
    }

    /// The next session that has ended; it may be said goodbye to.
    pub async fn next_ended(&mut self) -> Option<Result<(Drained, Session), End>> {
        loop {
            match self.sessions.join_next().await? {
                Ok(ended) => return Some(ended),
                Err(error) => tracing::error!(%error, "a session ended by a defect of its own"),
            }
        }
    }
}

async fn serve(
    forwarder: &Forwarder,
    feed: &Feed,
    host: HostPort,
    patience: Duration,
    terms: &Terms<'_>,
) -> Result<(Drained, Session), End> {
    let stream = connect(&host, patience)
        .await
        .map_err(|error| match error {
            ConnectError::Missing(reason) | ConnectError::TimedOut(reason) => End::Missing(reason),
            ConnectError::Refused(reason) => End::Failed(reason),
        })?;
    let mut session = Session::open(stream, host, &forwarder.hostname, forwarder.flight).await?;
    let drained = forwarder.drain(feed, &mut session, terms).await;
    Ok((drained, session))
}

/// Why all stopped, when these sessions stopped so: what was left by one that broke is not forgotten.
#[must_use]
pub fn worse(one: Stop, other: Stop) -> Stop {
    let rank = |stop: &Stop| match stop {
        Stop::Idle => 0,
        Stop::Exhausted => 1,
        Stop::Stretch => 2,
        Stop::Ended(_) => 3,
        Stop::Cancelled => 4,
        Stop::Spool(_) => 5,
    };
    if rank(&other) > rank(&one) {
        other
    } else {
        one
    }
}
