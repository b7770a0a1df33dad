//! One SMTP session to a next hop: the pure client session over a socket, with a named timer for each wait.
//!
//! Replies are read while we write (RFC 2920 3.1), so neither side's window can fill and stop both. [`Session::next`] goes
//! on until there is something to tell; it may be dropped at any time and called again.

mod io;
mod secure;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use linkmail_service::tls::{MaybeTls, Mode};
use linkmail_smtp::{
    Asked, ClientConfig, ClientPhase, ClientSession, ClientStep, CloseReason, Content,
    DeliverByOffer, EtrnNode, FlightLimits, ForwardPath, Mailbox, Protocol, RecipientOutcome,
    Recorder, Reply, Room, TlsUse, Transaction,
};
use tokio::{net::TcpStream, time::Instant};

use super::{hosts::Host, login::Exchange, parts::Most};
use crate::{
    names::{HostPort, Scheme},
    queue::Outcome,
    report,
};
use io::Loss;

/// Of a message that is sent piece by piece no more than this waits to be written.
const UNWRITTEN: usize = 128 * 1024;

/// How a session came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Lost before the greeting: the line is missing. Not an attempt.
    Missing(String),
    /// Refused, lost or garbled after that. An attempt for what was under way.
    Failed(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Missing(reason) | Self::Failed(reason)) = self;
        f.write_str(reason)
    }
}

/// What [`Session::next`] has to tell.
#[derive(Debug)]
pub enum Event {
    /// The transaction of this number is over: one outcome per recipient, in their order.
    Outcome(u64, Vec<Outcome>),
    /// The next piece of the message of this number is awaited: [`Session::body`], [`Session::end_body`] or
    /// [`Session::abandon_body`].
    Body(u64),
    /// What came of a question.
    Asked(Asked),
    /// The reply to ETRN.
    Etrn(Reply),
    /// Nothing is under way.
    Idle,
    /// The session is over, and every transaction has its outcome.
    Closed,
}

/// How a session begins.
pub struct Beginning<'a> {
    /// What the relay calls itself.
    pub hostname: &'a str,
    /// How much may be under way at once.
    pub flight: FlightLimits,
    /// How the host is spoken to.
    pub host: Arc<Host>,
    /// TLS is opportunistic and has failed on another connection: none this time.
    pub in_clear: bool,
}

/// Why a session did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOpened {
    /// How it ended.
    pub end: End,
    /// TLS failed, and need not be: mail may go in clear over a new connection (RFC 7435).
    pub may_go_clear: bool,
}

/// An open session. Dropped without [`Session::quit`] it just closes the connection.
pub struct Session {
    peer: HostPort,
    host: Arc<Host>,
    /// None after a handshake that failed.
    stream: Option<MaybeTls<TcpStream>>,
    /// Octets were given to TLS that may not be on the wire yet.
    unflushed: bool,
    login: Option<Exchange>,
    /// No TLS was tried, since it failed on another connection.
    in_clear: bool,
    tls_failed: bool,
    /// What the host said that takes no mail without the TLS that was given up. No order is taken then.
    tls_wanted: Option<Reply>,
    source_failed: bool,
    /// There was mail for a domain that it does not take any more.
    is_spent: bool,
    smtp: ClientSession,
    recorder: Recorder,
    /// What is to be written, and how much of it was.
    out: Vec<u8>,
    written: usize,
    /// When something was last written, or a reply was completed. Octets that make no reply do not count.
    moved: Instant,
    /// Why the connection was given up by us or by the system, if it was.
    trouble: Option<String>,
    end: Option<End>,
}

impl Session {
    /// Reads the greeting, says hello, and does what the host asks for: TLS, a login.
    ///
    /// # Errors
    /// The session ended before it was ready for an order.
    pub async fn open(
        stream: TcpStream,
        peer: HostPort,
        beginning: Beginning<'_>,
    ) -> Result<Self, NotOpened> {
        let Beginning {
            hostname,
            flight,
            host,
            in_clear,
        } = beginning;
        let tls = match host.tls.mode() {
            Mode::None => TlsUse::Never,
            Mode::Opportunistic if in_clear => TlsUse::Never,
            Mode::Opportunistic => TlsUse::IfOffered,
            Mode::Require => TlsUse::Required,
            Mode::Implicit => TlsUse::Active,
        };
        let config = ClientConfig {
            hostname: hostname.to_owned(),
            tls,
            authenticate: host.login.is_some(),
            flight,
            protocol: match peer.scheme {
                Scheme::Smtp | Scheme::Smtps => Protocol::Smtp,
                Scheme::Lmtp => Protocol::Lmtp,
            },
        };
        let mut session = Self {
            peer,
            host,
            stream: Some(MaybeTls::plain(stream)),
            unflushed: false,
            login: None,
            in_clear,
            tls_failed: false,
            tls_wanted: None,
            source_failed: false,
            is_spent: false,
            smtp: ClientSession::new(config),
            recorder: Recorder::new(),
            out: Vec::new(),
            written: 0,
            moved: Instant::now(),
            trouble: None,
            end: None,
        };
        if tls == TlsUse::Active {
            session.shake_hands().await;
        }
        match session.next().await {
            Event::Idle => Ok(session),
            _ => Err(NotOpened {
                end: session.ended(),
                may_go_clear: session.tls_failed && session.host.tls.may_go_clear(),
            }),
        }
    }

    /// Who is at the other side.
    #[must_use]
    pub fn peer(&self) -> &HostPort {
        &self.peer
    }

    /// Whether no further order can be given, and why.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether an idle session looks usable: the other side has neither closed it nor said anything, and takes more.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let quiet = self.stream.as_ref().is_some_and(MaybeTls::is_idle);
        quiet && self.end.is_none() && !self.smtp.is_exhausted() && !self.is_spent
    }

    /// Whether it was ended by a message of ours that cannot be sent to its end, and not by the host.
    #[must_use]
    pub fn ended_by_message(&self) -> bool {
        let reason = self.smtp.closed();
        match reason {
            Some(CloseReason::BadBody(_)) => true,
            Some(CloseReason::Abandoned(_)) => self.source_failed,
            _ => false,
        }
    }

    /// Whether the host said that it has had enough of this session.
    #[must_use]
    pub fn was_dismissed(&self) -> bool {
        matches!(self.smtp.closed(), Some(CloseReason::Refused(_)))
    }

    /// Whether the host takes many messages per round trip.
    #[must_use]
    pub fn takes_flights(&self) -> bool {
        let offered = self.smtp.capabilities();
        offered.is_some_and(|offered| offered.pipelining && offered.chunking)
    }

    /// What the host answers for towards senders, once it has taken a message.
    #[must_use]
    pub fn takes(&self) -> report::Host {
        let offered = self.smtp.capabilities();
        offered.map_or_else(report::Host::default, |offered| report::Host {
            dsn: offered.dsn,
            deliver_by: offered.deliver_by != DeliverByOffer::NotOffered,
        })
    }

    /// How much may be given now beyond what is under way.
    #[must_use]
    pub fn room(&self) -> Option<Room> {
        self.smtp.room().filter(|_| self.tls_wanted.is_none())
    }

    /// What the host takes in one transaction.
    pub(super) fn most(&self) -> Most {
        let limits = self.smtp.capabilities().map(|offered| offered.limits);
        let limits = limits.unwrap_or_default();
        Most::by(limits.rcpt_max, limits.rcpt_domain_max)
    }

    /// Whether the host takes the domains of these recipients, beside those that it was told of in this session. If not,
    /// another session is needed.
    pub(super) fn takes_domains_of(&mut self, transaction: &Transaction) -> bool {
        let takes = self.smtp.takes_domains_of(transaction);
        self.is_spent |= !takes;
        takes
    }

    /// Gives a message to be sent; its number is named by [`Event::Outcome`].
    pub fn give(&mut self, transaction: Transaction, content: Content) -> u64 {
        self.smtp.transmit(transaction, content)
    }

    /// The next piece of the message that [`Event::Body`] asks for. One that cannot be sent shows in its outcome.
    pub fn body(&mut self, piece: &[u8]) {
        let _ = self.smtp.body(piece);
    }

    /// The message that [`Event::Body`] asks for is complete.
    pub fn end_body(&mut self) {
        let _ = self.smtp.end_body();
    }

    /// The message that [`Event::Body`] asks for cannot be read to its end.
    pub fn abandon_body(&mut self, why: &str) {
        self.source_failed = true;
        self.smtp.abandon_body(why);
    }

    /// Asks for the release of a node's mail.
    ///
    /// # Errors
    /// The session ended before the reply.
    pub async fn etrn(&mut self, node: &EtrnNode) -> Result<Reply, End> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        self.smtp.etrn(node.clone());
        loop {
            match self.next().await {
                Event::Etrn(reply) => return Ok(reply),
                Event::Closed => return Err(self.ended()),
                Event::Idle | Event::Body(_) | Event::Outcome(..) | Event::Asked(_) => {}
            }
        }
    }

    /// Asks whether mail for a recipient is taken; none is sent.
    ///
    /// # Errors
    /// The session ended before the reply.
    pub async fn ask(&mut self, recipient: &Mailbox) -> Result<Asked, End> {
        self.smtp.ask(ForwardPath::Mailbox(recipient.clone()));
        loop {
            match self.next().await {
                Event::Asked(asked) => return Ok(asked),
                Event::Closed => return Err(self.ended()),
                Event::Idle | Event::Body(_) | Event::Outcome(..) | Event::Etrn(_) => {}
            }
        }
    }

    /// Ends it without a further octet: what was written and is not answered is in doubt.
    pub fn abandon(&mut self, why: &str) {
        self.broken(why, Loss::Line);
        self.stream = None;
    }

    /// Says goodbye; waits for the answer, but not for long.
    pub async fn quit(mut self) {
        if self.end.is_none() {
            self.smtp.quit();
            while !matches!(self.next().await, Event::Closed) {}
        }
    }

    /// Goes on until there is something to tell.
    pub async fn next(&mut self) -> Event {
        loop {
            let before = self.smtp.replies_read();
            let step = self.smtp.step();
            if self.smtp.replies_read() != before {
                self.moved = Instant::now();
            }
            match step {
                ClientStep::Write(octets) => {
                    self.recorder.client(&octets);
                    self.queue(octets);
                }
                ClientStep::WriteSecret(octets) => self.queue(octets),
                ClientStep::Read(phase) => self.exchange(Some(phase)).await,
                ClientStep::SendBody(_) if self.unwritten() > UNWRITTEN => {
                    self.exchange(None).await;
                }
                ClientStep::SendBody(number) => return Event::Body(number),
                ClientStep::Ready if self.must_write() => self.exchange(None).await,
                ClientStep::Ready => match &self.tls_wanted {
                    Some(reply) => {
                        let why = format!("TLS did not come about, and the host wants it: {reply}");
                        self.smtp.abandon(why);
                    }
                    None => return Event::Idle,
                },
                ClientStep::Transaction(number, outcome) => {
                    let first = number == 0;
                    self.note_refusals(&outcome.recipients);
                    let outcomes = outcome.recipients.into_iter();
                    let outcomes = outcomes.map(|outcome| self.outcome(outcome, first));
                    return Event::Outcome(number, outcomes.collect());
                }
                ClientStep::Asked(asked) => return Event::Asked(asked),
                ClientStep::Etrn(reply) => return Event::Etrn(reply),
                ClientStep::StartTls if self.must_write() => self.write_alone().await,
                ClientStep::StartTls => {
                    if self.shake_hands().await {
                        self.smtp.tls_started();
                    }
                }
                ClientStep::Authenticate => self.log_in().await,
                ClientStep::AuthChallenge(challenge) => self.answer(challenge).await,
                ClientStep::Authenticated => {
                    if let Some(Err(error)) = self.login.take().map(Exchange::finish) {
                        self.smtp
                            .abandon(format!("the login cannot be trusted: {error}"));
                    }
                }
                ClientStep::Closed(reason) => {
                    self.close(&reason);
                    return Event::Closed;
                }
            }
        }
    }

    /// The first transaction of a session counts whatever ends it. Behind others, a 421, the end of the connection, or that
    /// the host wants TLS only says that the host has had enough of this session: the message goes again in a new one,
    /// uncounted.
    fn outcome(&self, outcome: RecipientOutcome, first: bool) -> Outcome {
        let why = |reason: &str| match &self.trouble {
            Some(trouble) => trouble.clone(),
            None => format!("{}: {reason}", self.peer),
        };
        match outcome {
            RecipientOutcome::Accepted(reply) => Outcome::Delivered(reply),
            RecipientOutcome::Refused(reply) if reply.code == 421 && !first => {
                Outcome::NotAttempted(reply.to_string())
            }
            RecipientOutcome::Refused(reply) if self.wants_tls(&reply) => {
                let reason = why(&format!("TLS did not come about: {reply}"));
                if first {
                    Outcome::Failed(reason)
                } else {
                    Outcome::NotAttempted(reason)
                }
            }
            RecipientOutcome::Refused(reply) => Outcome::Refused(reply),
            // Our own trouble with the source of the message is no attempt.
            RecipientOutcome::NotTried(CloseReason::Abandoned(reason)) => {
                Outcome::NotAttempted(reason)
            }
            RecipientOutcome::NotTried(reason) if first => {
                Outcome::Failed(why(&reason.to_string()))
            }
            RecipientOutcome::NotTried(reason) => Outcome::NotAttempted(why(&reason.to_string())),
            RecipientOutcome::InDoubt => {
                Outcome::InDoubt(why("the connection was lost before the reply"))
            }
            RecipientOutcome::BadBody(bad) => {
                Outcome::Unsendable(format!("the stored body cannot be sent: {bad}"))
            }
        }
    }

    fn close(&mut self, reason: &CloseReason) {
        let said = match (&self.trouble, reason) {
            (Some(trouble), _) => trouble.clone(),
            (None, reason) => format!("{}: {reason}", self.peer),
        };
        let before_greeting = matches!(
            reason,
            CloseReason::PeerClosed { greeted: false }
                | CloseReason::LineLost { greeted: false }
                | CloseReason::TimedOut(ClientPhase::Greeting)
        );
        let end = if before_greeting {
            End::Missing(said)
        } else {
            End::Failed(said)
        };
        if self.end.is_none() && !matches!(reason, CloseReason::Quit) {
            tracing::warn!(peer = %self.peer, reason = %end, transcript = self.recorder.text(), "outbound session failed");
        }
        self.end.get_or_insert(end);
    }

    fn ended(&self) -> End {
        self.end
            .clone()
            .unwrap_or_else(|| End::Failed(format!("{}: the session ended", self.peer)))
    }
}
