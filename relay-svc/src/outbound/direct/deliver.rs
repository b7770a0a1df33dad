//! One turn of one domain: its exchangers, a session with the first that takes it, and all that is due.
//!
//! Limits: one session for each domain at a time. What an exchanger refuses for now waits for its next attempt; another
//! exchanger of the domain is not asked in the same turn.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use linkmail_service::tls::{ClientSettings, ClientTls, FileError, Mode, Roots};
use opentelemetry::Context;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    dane,
    demand::{self, TlsDemand},
    exchangers::{self, Exchanger, Exchangers, NoExchanger, Ourselves},
    name_servers::{Dnssec, NameServers},
    sts::{Policies, policy::Policy, policy::PolicyMode},
};
use crate::{
    clock::Stamp,
    config::Mx,
    names::{Destination, HostPort, NextHop},
    outbound::{
        Beginning, CONNECTIONS, End, Feed, Forwarder, Host, NotOpened, Patience, Session, Stop,
        Terms, WHOLE, connect_any, settle::Attempt,
    },
    queue::Outcome,
    spool::SpoolError,
    telemetry,
};

/// All addresses of one exchanger have so long together.
const PATIENCE: Duration = Duration::from_secs(30);
/// All look-ups before the first connection have so long together.
const LOOK_UPS: Duration = Duration::from_secs(60);
/// Mail that keeps coming is sent without a break for so long.
const STRETCH: Duration = Duration::from_secs(300);
/// So many messages are settled in one go when there is no session.
const BATCH: u32 = 50;

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Came {
    /// What was due has its outcome, or goes on in another turn.
    ToItsEnd,
    /// The session broke, or could not go on: the rest waits a little.
    Broke(String),
    /// No name server says anything. Nothing was attempted.
    NoNameServer(String),
    /// The spool cannot be read or written.
    Spool(String),
    /// Another replica delivers to this domain now.
    Elsewhere,
    /// The relay is stopping.
    Cancelled,
}

impl From<SpoolError> for Came {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error.to_string())
    }
}

/// What delivery to exchangers needs. Cheap to clone.
#[derive(Clone)]
pub struct Direct {
    pub(super) forwarder: Forwarder,
    ourselves: Arc<Ourselves>,
    port: u16,
    dnssec: Dnssec,
    policies: Option<Policies>,
    /// For the exchangers that a policy names.
    verified: Arc<Host>,
}

impl Direct {
    /// Delivers to exchangers, but not to where we listen ourselves.
    ///
    /// # Errors
    /// The roots cannot be read any more.
    pub fn new(forwarder: Forwarder, listening: &[SocketAddr], mx: &Mx) -> Result<Self, FileError> {
        let hostname = Arc::clone(&forwarder.hostname);
        let roots = mx.mta_sts.clone();
        let spool = forwarder.spool.clone();
        let policies = roots.clone().map(|roots| Policies::new(spool, roots));
        let verified = ClientTls::new(&ClientSettings {
            roots: Some(roots.unwrap_or(Roots::Public)),
            ..ClientSettings::new(Mode::Require)
        })?;
        Ok(Self {
            forwarder,
            ourselves: Arc::new(Ourselves::new(hostname, listening, mx.port)),
            port: mx.port,
            dnssec: mx.dnssec,
            policies: policies.transpose()?,
            verified: Arc::new(plainly(verified)),
        })
    }

    /// One turn of a domain.
    pub(super) async fn turn(&self, domain: &Destination, cancel: &CancellationToken) -> Came {
        let looked_up = tokio::select! {
            () = cancel.cancelled() => return Came::Cancelled,
            looked_up = timeout(LOOK_UPS, self.look_up(domain)) => looked_up.unwrap_or_else(|_| {
                let why = format!("{domain}: the look-ups take too long");
                Err(NoExchanger::NotNow(why))
            }),
        };
        match looked_up {
            Ok((names, found)) => self.try_each(domain, &names, &found, cancel).await,
            Err(none) => self.without(domain, none).await,
        }
    }

    async fn look_up(
        &self,
        domain: &Destination,
    ) -> Result<(NameServers, Exchangers), NoExchanger> {
        let names = NameServers::of_system(self.dnssec)?;
        let mut random = || uuid::Uuid::new_v4().as_u64_pair().1;
        match exchangers::find(&names, domain, &self.ourselves, &mut random).await {
            // One domain may have name servers that never answer; that none does for any is another matter.
            Err(NoExchanger::NoNameServer(why)) if names.answer().await => {
                Err(NoExchanger::NotNow(why))
            }
            found => Ok((names, found?)),
        }
    }

    /// There is no exchanger to be tried.
    async fn without(&self, domain: &Destination, none: NoExchanger) -> Came {
        let (outcome, why) = match none {
            NoExchanger::NoNameServer(why) => return Came::NoNameServer(why),
            NoExchanger::NotNow(why) => (Outcome::Failed(why.clone()), why),
            NoExchanger::Never(reply) => (Outcome::Refused(reply.clone()), reply.to_string()),
        };
        tracing::info!(%domain, why, "no mail exchanger");
        let host = Arc::clone(&self.forwarder.hostname);
        self.settle_all(domain, &host, &outcome).await
    }

    async fn try_each(
        &self,
        domain: &Destination,
        names: &NameServers,
        found: &Exchangers,
        cancel: &CancellationToken,
    ) -> Came {
        let policy = match (&self.policies, found.domain.as_deref()) {
            (Some(policies), Some(domain)) => tokio::select! {
                policy = policies.of(names, domain, Stamp::now()) => match policy {
                    Ok(policy) => policy,
                    Err(error) => return error.into(),
                },
                () = cancel.cancelled() => return Came::Cancelled,
            },
            _ => None,
        };
        let (mut last, mut left) = (None, found.hosts.as_slice());
        while let Some((host, others)) = left.split_first() {
            left = others;
            note_test(domain, &host.host, policy.as_ref());
            let span = telemetry::start_session(&self.peer(host), &Context::new());
            let opening = async {
                let dane = dane::look_up(names, found.proven, host, self.port).await;
                let demand =
                    demand::of(found.domain.as_deref(), &host.host, dane, policy.as_ref())?;
                let opened = self.open(host, &demand).await;
                opened.map_err(|end| end.to_string())
            };
            let opened = tokio::select! {
                opened = opening => opened,
                () = cancel.cancelled() => {
                    telemetry::end(&span, None);
                    return Came::Cancelled;
                }
            };
            let (why, began) = match opened {
                // Nothing came of the session: the next exchanger may do better.
                Ok(session) => {
                    let sent = self.send(domain, session, !left.is_empty(), (&span, cancel));
                    match sent.await {
                        Came::Broke(why) => (why, true),
                        came => return came,
                    }
                }
                Err(why) => {
                    telemetry::end(&span, Some(("session_failed", why.clone())));
                    (why, false)
                }
            };
            tracing::info!(%domain, host = host.host, why, "mail exchanger passed over");
            last = Some((host, why, began));
        }
        match last {
            // What was tried has its outcome.
            Some((_, why, true)) => Came::Broke(why),
            Some((host, why, false)) => {
                let outcome = Outcome::Failed(why);
                self.settle_all(domain, &host.host, &outcome).await
            }
            None => Came::Broke(format!("{domain}: no exchanger was tried")),
        }
    }

    fn peer(&self, host: &Exchanger) -> HostPort {
        HostPort::exchanger(&host.host, self.port)
    }

    /// The one place where what is demanded of TLS meets the session. Its addresses are tried until one takes a session
    /// (RFC 5321 5.1): what one of them refuses, such as an address of ours without a name, another may take.
    ///
    /// # Errors
    /// There is no session, or none that the demand allows.
    async fn open(&self, exchanger: &Exchanger, demand: &TlsDemand) -> Result<Session, End> {
        let peer = self.peer(exchanger);
        let host = self.speak(&peer, demand)?;
        let mut left = exchanger.addresses.clone();
        let mut said = None;
        loop {
            let stream = match connect_any(&peer, &left, Instant::now() + PATIENCE).await {
                Ok(stream) => stream,
                Err(error) => return Err(said.unwrap_or_else(|| error.into())),
            };
            let at = stream.peer_addr().map(|at| at.ip()).ok();
            let end = match self.begin(stream, &peer, &host, demand).await {
                Ok(session) => return Ok(session),
                Err(end) => end,
            };
            left.retain(|address| Some(*address) != at);
            if left.is_empty() || at.is_none() {
                return Err(end);
            }
            tracing::info!(host = %peer, address = ?at, %end, "address passed over");
            said = Some(end);
        }
    }

    /// A session over a connection; once more in clear, over another to the same address, if TLS fails and need not be.
    async fn begin(
        &self,
        stream: TcpStream,
        peer: &HostPort,
        host: &Arc<Host>,
        demand: &TlsDemand,
    ) -> Result<Session, End> {
        let beginning = |in_clear| Beginning {
            hostname: &self.forwarder.hostname,
            flight: self.forwarder.flight,
            host: Arc::clone(host),
            in_clear,
        };
        let at = stream.peer_addr().map(|at| at.ip());
        let end = match (
            Session::open(stream, peer.clone(), beginning(false)).await,
            at,
        ) {
            (Ok(session), _) => return Ok(session),
            (
                Err(NotOpened {
                    end,
                    may_go_clear: true,
                }),
                Ok(at),
            ) => {
                tracing::warn!(host = %peer, %end, "TLS failed and is not required: once more in clear");
                let stream = connect_any(peer, &[at], Instant::now() + PATIENCE).await?;
                let again = Session::open(stream, peer.clone(), beginning(true)).await;
                return again.map_err(|not| not.end);
            }
            (Err(not), _) => not.end,
        };
        Err(match end {
            End::Failed(why) if !demand.may_go_clear() => {
                let by = demand.by();
                End::Failed(format!("{why} (TLS is demanded by {by})"))
            }
            end => end,
        })
    }

    /// How an exchanger is spoken to.
    fn speak(&self, peer: &HostPort, demand: &TlsDemand) -> Result<Arc<Host>, End> {
        let tls = match demand {
            TlsDemand::Opportunistic => return Ok(self.forwarder.hosts.of(peer)),
            TlsDemand::Verified => return Ok(Arc::clone(&self.verified)),
            TlsDemand::Dane {
                base,
                domain,
                records,
            } => ClientTls::dane(base, domain.as_deref(), records),
        };
        let tls = tls.map_err(|error| End::Failed(format!("{peer}: {error}")))?;
        Ok(Arc::new(plainly(tls)))
    }

    async fn send(
        &self,
        domain: &Destination,
        mut session: Session,
        has_other_host: bool,
        (span, cancel): (&Context, &CancellationToken),
    ) -> Came {
        let hop = NextHop::Mx(domain.clone());
        let feed = Feed::of_due(
            self.forwarder.spool.clone(),
            &hop,
            self.forwarder.in_hand.clone(),
        );
        let terms = Terms {
            parent: span,
            until: Instant::now() + STRETCH,
            share: WHOLE,
            cancel,
            told: &watch::Sender::default(),
            has_other_host,
        };
        let drained = self.forwarder.drain(&feed, &mut session, &terms).await;
        let came = match drained.stop {
            Stop::Idle | Stop::Stretch => Came::ToItsEnd,
            // Nothing came of it, and the next session would end alike.
            Stop::Exhausted if drained.last.is_none() => {
                Came::Broke(format!("{}: takes no message in a session", session.peer()))
            }
            Stop::Exhausted => Came::ToItsEnd,
            // Many hosts end a session after so many messages: the rest goes in the next.
            Stop::Ended(_) if drained.tally.progressed() => Came::ToItsEnd,
            Stop::Ended(end) => Came::Broke(end.to_string()),
            Stop::Cancelled => Came::Cancelled,
            Stop::Spool(error) => error.into(),
        };
        let failed = session.end().map(ToString::to_string);
        telemetry::end(span, failed.map(|reason| ("session_failed", reason)));
        session.quit().await;
        came
    }

    /// The same outcome for all that is due for a domain now.
    async fn settle_all(&self, domain: &Destination, host: &str, outcome: &Outcome) -> Came {
        match self.settle_due(domain, host, outcome).await {
            Ok(()) => Came::ToItsEnd,
            Err(error) => error.into(),
        }
    }

    async fn settle_due(
        &self,
        domain: &Destination,
        host: &str,
        outcome: &Outcome,
    ) -> Result<(), SpoolError> {
        let (forwarder, hop) = (&self.forwarder, NextHop::Mx(domain.clone()).to_string());
        forwarder.record_leftovers(&hop).await?;
        // What is tried again is due later than this, so that each message comes up once.
        let now = forwarder.spool.tick();
        loop {
            let due = forwarder.spool.due(hop.clone(), now, BATCH).await?;
            if due.is_empty() {
                return Ok(());
            }
            for message in due {
                let outcomes = vec![outcome.clone(); message.recipients.len()];
                let mut attempt = Attempt::new(message, hop.clone(), host, Context::new());
                let whole = attempt.whole();
                forwarder.settle(&mut attempt, &whole, &outcomes).await?;
            }
        }
    }
}

/// A host that is spoken to so, without a login, and as patiently as RFC 5321 asks for.
fn plainly(tls: ClientTls) -> Host {
    Host {
        tls,
        login: None,
        patience: Patience::default(),
        connections: CONNECTIONS,
    }
}

/// A policy that is being tested keeps nothing back; its domain wants to know what it would have (RFC 8461 5).
fn note_test(domain: &Destination, host: &str, policy: Option<&Policy>) {
    let tested = policy.filter(|policy| policy.mode == PolicyMode::Testing);
    if tested.is_some_and(|policy| !policy.names(host)) {
        tracing::info!(%domain, host, "an MTA-STS policy that is being tested does not name this exchanger");
    }
}
