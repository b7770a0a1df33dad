//! Several sessions with one host, fed from the same queue.
//!
//! A connection costs three round trips before its first message, and TCP starts each one slowly: about ten segments in the
//! first round trip. So many are opened as the backlog justifies, all at once, and no more than the link allows. Once
//! nothing is left to be sent, those that are not open yet are given up.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use linkmail_smtp::FlightLimits;
use opentelemetry::Context;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Beginning, ConnectError, Drained, End, Feed, Forwarder, Hosts, Left, NotOpened, Session, Stop,
    Tally, Terms, WHOLE, connect, share,
};
use crate::{names::HostPort, spool::SpoolError, telemetry};

/// What TCP sends in the first round trip of a connection: ten segments (RFC 6928 2).
const FIRST_WINDOW: u64 = 14_600;
/// So many messages are weighed at most.
pub const WEIGHED: u32 = 2000;

/// A session and its span.
pub struct Speaking {
    /// The session.
    pub session: Session,
    /// Its span.
    pub span: Context,
}

impl Speaking {
    /// Ends the span with what the session came to.
    pub fn end_span(&self) {
        let failed = self.session.end().map(ToString::to_string);
        telemetry::end(&self.span, failed.map(|reason| ("session_failed", reason)));
    }

    /// Says goodbye.
    pub async fn quit(self) {
        self.end_span();
        self.session.quit().await;
    }
}

/// Opens sessions with a host. Cheap to clone.
#[derive(Clone)]
pub struct Opener {
    /// What the relay calls itself.
    pub hostname: Arc<str>,
    /// How hosts are spoken to.
    pub hosts: Hosts,
    /// How long one connect may take.
    pub patience: Duration,
    /// How long a session may take to be ready for its first order, where that is bounded as a whole.
    pub within: Option<Duration>,
    /// How much one session may have under way.
    pub flight: FlightLimits,
    /// The span of all sessions.
    pub parent: Context,
}

impl Opener {
    /// A session with a host, over a connection that is there or a new one.
    ///
    /// # Errors
    /// There is no connection, or the session ended before it was ready for an order.
    pub async fn open(
        &self,
        host: &HostPort,
        connection: Option<Connection>,
    ) -> Result<Speaking, End> {
        let span = telemetry::start_session(host, &self.parent);
        let opening = self.session(host, connection);
        let opened = match self.within {
            None => opening.await,
            Some(within) => timeout(within, opening).await.unwrap_or_else(|_| {
                Err(End::Missing(format!(
                    "{host}: no session within {within:?}"
                )))
            }),
        };
        match opened {
            Ok(session) => Ok(Speaking { session, span }),
            Err(end) => {
                telemetry::end(&span, Some(("session_failed", end.to_string())));
                Err(end)
            }
        }
    }
}

impl Opener {
    /// The same without a span of its own.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub async fn session(
        &self,
        host: &HostPort,
        connection: Option<Connection>,
    ) -> Result<Session, End> {
        let mut stream = match connection {
            Some(connection) => connection.made().await?,
            None => connect(host, self.patience).await?,
        };
        let mut in_clear = false;
        loop {
            let beginning = Beginning {
                hostname: &self.hostname,
                flight: self.flight,
                host: self.hosts.of(host),
                in_clear,
            };
            match Session::open(stream, host.clone(), beginning).await {
                Err(NotOpened { end, may_go_clear }) if may_go_clear && !in_clear => {
                    tracing::warn!(%host, %end, "TLS failed and is not required: once more in clear");
                    in_clear = true;
                    stream = connect(host, self.patience).await?;
                }
                opened => return opened.map_err(|not| not.end),
            }
        }
    }
}

/// A connection that nobody speaks on yet.
#[derive(Debug)]
pub enum Connection {
    /// It is there.
    Made(TcpStream),
    /// It is being made.
    Making(AbortOnDropHandle<Result<TcpStream, ConnectError>>),
}

impl Connection {
    /// Begins to connect.
    #[must_use]
    pub fn begin(host: HostPort, patience: Duration) -> Self {
        let making = async move { connect(&host, patience).await };
        Self::Making(AbortOnDropHandle::new(tokio::spawn(making)))
    }

    async fn made(self) -> Result<TcpStream, End> {
        match self {
            Self::Made(stream) => Ok(stream),
            Self::Making(making) => match making.await {
                Ok(made) => Ok(made?),
                Err(error) => Err(End::Missing(format!("connecting failed: {error}"))),
            },
        }
    }
}

/// How many sessions a backlog justifies, of at most `limit`: by its octets, or one for each message with a host that takes
/// one message per round trip.
#[must_use]
pub fn justified(messages: u64, octets: u64, limit: usize, by_octets: bool) -> usize {
    let wanted = if by_octets {
        messages.min(octets.div_ceil(FIRST_WINDOW))
    } else {
        messages
    };
    usize::try_from(wanted).unwrap_or(limit).clamp(1, limit)
}

/// What a fleet has to tell.
pub enum News {
    /// A session is open; whether its host takes many messages per round trip.
    Opened(bool),
    /// A session did not come about.
    Failed(End),
    /// A session has sent what it could.
    Ended(Box<(Drained, Speaking)>),
    /// A session ended by a defect of its own: what became of its messages is not known.
    Broke(JoinError),
}

/// Where a session of the fleet begins.
enum Start {
    Open(Box<Speaking>),
    Connected(Connection),
    Anew,
}

/// What a session came to; nothing if it was not needed any more.
type Came = Option<Box<(Drained, Speaking)>>;

/// The sessions with one host.
pub struct Fleet {
    forwarder: Forwarder,
    feed: Arc<Feed>,
    host: HostPort,
    opener: Opener,
    stretch: Duration,
    /// When no message is begun any more; from the first session that is open on.
    until: Arc<OnceLock<Instant>>,
    cancel: CancellationToken,
    has_other_host: bool,
    /// Nothing is left to be sent.
    dry: CancellationToken,
    share: FlightLimits,
    told: Arc<watch::Sender<Tally>>,
    sessions: JoinSet<Result<Came, End>>,
    begun: usize,
    opened: (mpsc::UnboundedSender<bool>, mpsc::UnboundedReceiver<bool>),
}

impl Fleet {
    /// A fleet without a session. No message is begun later than `stretch` after its first session is open.
    #[must_use]
    pub fn new(
        forwarder: Forwarder,
        feed: Feed,
        host: HostPort,
        opener: Opener,
        stretch: Duration,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            forwarder,
            feed: Arc::new(feed),
            host,
            opener,
            stretch,
            until: Arc::default(),
            cancel,
            has_other_host: false,
            dry: CancellationToken::new(),
            share: WHOLE,
            told: Arc::default(),
            sessions: JoinSet::new(),
            begun: 0,
            opened: mpsc::unbounded_channel(),
        }
    }

    /// Whether another host is tried when nothing comes of this one: what fails with its sessions waits for that.
    pub fn before_another_host(&mut self, is: bool) {
        self.has_other_host = is;
    }

    /// How many sessions the backlog [justifies](justified). Each has its share of the backlog before the first outcome.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn justified(&mut self, limit: usize, by_octets: bool) -> Result<usize, SpoolError> {
        let (messages, octets) = self.feed.weight(WEIGHED).await?;
        let sessions = justified(messages, octets, limit, by_octets);
        self.share = share::first(messages, octets, sessions);
        Ok(sessions)
    }

    /// Sends over a session that is open.
    pub fn take(&mut self, speaking: Speaking) {
        self.begin(Start::Open(Box::new(speaking)));
    }

    /// Opens a session over a connection.
    pub fn take_connection(&mut self, connection: Connection) {
        self.begin(Start::Connected(connection));
    }

    /// How many sessions were begun.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.begun
    }

    /// Opens sessions until there are so many.
    pub fn grow(&mut self, sessions: usize) {
        while self.begun < sessions {
            self.begin(Start::Anew);
        }
    }

    fn begin(&mut self, start: Start) {
        self.begun += 1;
        let (forwarder, feed, host) =
            (self.forwarder.clone(), self.feed.clone(), self.host.clone());
        let (opener, opened) = (self.opener.clone(), self.opened.0.clone());
        let (until, stretch) = (self.until.clone(), self.stretch);
        let (told, share) = (self.told.clone(), self.share);
        let (cancel, dry) = (self.cancel.clone(), self.dry.clone());
        let has_other_host = self.has_other_host;
        self.sessions.spawn(async move {
            let opening = async {
                match start {
                    Start::Open(speaking) => Ok(*speaking),
                    Start::Connected(made) => opener.open(&host, Some(made)).await,
                    Start::Anew => opener.open(&host, None).await,
                }
            };
            let mut speaking = tokio::select! {
                biased;
                opening = opening => opening?,
                () = dry.cancelled() => return Ok(None),
            };
            let _ = opened.send(speaking.session.takes_flights());
            let span = speaking.span.clone();
            let terms = Terms {
                parent: &span,
                until: *until.get_or_init(|| Instant::now() + stretch),
                share,
                cancel: &cancel,
                told: &told,
                has_other_host,
            };
            let drained = forwarder.drain(&feed, &mut speaking.session, &terms).await;
            if matches!(drained.stop, Stop::Idle) {
                dry.cancel();
            }
            Ok(Some(Box::new((drained, speaking))))
        });
    }

    /// What was done so far, by all sessions.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Tally> {
        self.told.subscribe()
    }

    /// What there is to tell next; nothing once all sessions have ended.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            tokio::select! {
                biased;
                Some(takes_flights) = self.opened.1.recv() => return Some(News::Opened(takes_flights)),
                ended = self.sessions.join_next() => match ended? {
                    Ok(Ok(Some(ended))) => return Some(News::Ended(ended)),
                    Ok(Ok(None)) => {}
                    Ok(Err(end)) => return Some(News::Failed(end)),
                    Err(error) => return Some(News::Broke(error)),
                },
            }
        }
    }

    /// What its feed has left, with those places whose turn did not come.
    pub async fn left(&self, untried: Vec<i64>) -> Left {
        self.feed.left(untried).await
    }
}

/// Why all stopped, when two sessions stopped so: what was left by one that broke is not forgotten.
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
