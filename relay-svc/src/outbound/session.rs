//! One SMTP session to a next hop: the pure client session over a socket, with a named timer for each wait.
//!
//! Replies are read while we write (RFC 2920 3.1), so neither side's window can fill and stop both.

use std::{io, sync::Arc, time::Duration};

use linkmail_smtp::{
    BadBody, ClientPhase, ClientSession, ClientStep, CloseReason, EtrnNode, RecipientOutcome,
    Recorder, Reply, Transaction,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{names::HostPort, queue::Outcome, spool::Body};

/// Replies that are read while we write, at most: more than all commands of a transaction can have.
const EARLY_REPLIES: usize = 256 * 1024;
/// The wait for what a side said before it closed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The wait for the answer to QUIT: nothing depends on it.
const GOODBYE: Duration = Duration::from_secs(5);

/// The wait for a reply, by phase (RFC 5321 4.5.3.2).
fn patience(phase: ClientPhase) -> Duration {
    if phase == ClientPhase::Quit {
        GOODBYE
    } else {
        phase.timeout()
    }
}

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

/// An open session. Dropped without [`Session::quit`] it just closes the connection.
pub struct Session {
    peer: HostPort,
    stream: TcpStream,
    smtp: ClientSession,
    recorder: Recorder,
    /// Why the connection was given up by us or by the system, if it was.
    trouble: Option<String>,
    end: Option<End>,
    /// Orders that were carried out. What is lost or answered 421 behind one is tried in another session.
    orders: u32,
    /// What is waited for, and until when.
    waiting: Option<(ClientPhase, Instant)>,
}

/// What [`Session::advance`] came to.
enum Turn {
    Ready,
    SendBody,
    Transaction(Vec<RecipientOutcome>),
    Etrn(Reply),
    Closed,
}

impl Session {
    /// Reads the greeting and says hello.
    ///
    /// # Errors
    /// The session ended before it was ready for an order.
    pub async fn open(stream: TcpStream, peer: HostPort, hostname: &Arc<str>) -> Result<Self, End> {
        let mut session = Self {
            peer,
            stream,
            smtp: ClientSession::new(hostname.to_string()),
            recorder: Recorder::new(),
            trouble: None,
            end: None,
            orders: 0,
            waiting: None,
        };
        match session.advance().await {
            Turn::Ready => Ok(session),
            _ => Err(session.ended()),
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

    /// Whether an idle session looks usable: the other side has neither closed it nor said anything.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends one message; gives one outcome per recipient, in the order of the transaction.
    ///
    /// # Errors
    /// The stored body could not be read for a reason that lies with the machine, not with the message. The session is
    /// over then, and nothing was delivered.
    pub async fn send(
        &mut self,
        transaction: Transaction,
        mut body: Body,
    ) -> io::Result<Vec<Outcome>> {
        let recipients = transaction.recipients.len();
        if let Some(end) = &self.end {
            return Ok(vec![Outcome::NotAttempted(end.to_string()); recipients]);
        }
        self.smtp.transmit(transaction);
        loop {
            match self.advance().await {
                Turn::SendBody => {
                    if let Err(fault) = self.feed(&mut body).await {
                        // Nothing but closing ends the data without accepting it: the final dot is never sent.
                        self.end = Some(End::Failed(fault.to_string()));
                        return fault.outcome().map(|outcome| vec![outcome; recipients]);
                    }
                }
                Turn::Transaction(outcomes) => {
                    let outcomes = outcomes
                        .into_iter()
                        .map(|outcome| self.outcome(outcome))
                        .collect();
                    // An end that came with the outcome is noticed now, not at the next order.
                    if let Some(reason) = self.smtp.closed().cloned() {
                        self.close(&reason);
                    }
                    self.orders += 1;
                    return Ok(outcomes);
                }
                Turn::Ready | Turn::Etrn(_) => {}
                Turn::Closed => {
                    let reason = self.ended().to_string();
                    return Ok(vec![Outcome::Failed(reason); recipients]);
                }
            }
        }
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
            match self.advance().await {
                Turn::Etrn(reply) => {
                    self.orders += 1;
                    return Ok(reply);
                }
                Turn::Closed => return Err(self.ended()),
                Turn::Ready | Turn::SendBody | Turn::Transaction(_) => {}
            }
        }
    }

    /// Says goodbye; waits for the answer, but not for long.
    pub async fn quit(mut self) {
        if self.end.is_none() {
            self.smtp.quit();
            while !matches!(self.advance().await, Turn::Closed) {}
        }
    }

    /// The next piece of the body, or its end.
    async fn feed(&mut self, body: &mut Body) -> Result<(), Fault> {
        let piece = body.next().await.map_err(Fault::Unreadable)?;
        if piece.is_empty() {
            return self.smtp.end_body().map_err(Fault::BadBody);
        }
        self.smtp.body(&piece).map_err(Fault::BadBody)
    }

    /// The first transaction of a session counts whatever ends it. Behind others, a 421 or the end of the connection
    /// only says that the host has had enough of this session: the message goes again in a new one, uncounted.
    fn outcome(&self, outcome: RecipientOutcome) -> Outcome {
        let why = |reason: &str| match &self.trouble {
            Some(trouble) => trouble.clone(),
            None => format!("{}: {reason}", self.peer),
        };
        let first = self.orders == 0;
        match outcome {
            RecipientOutcome::Accepted(reply) => Outcome::Delivered(reply),
            RecipientOutcome::Refused(reply) if reply.code == 421 && !first => {
                Outcome::NotAttempted(reply.to_string())
            }
            RecipientOutcome::Refused(reply) => Outcome::Refused(reply),
            RecipientOutcome::NotTried(reason) if first => {
                Outcome::Failed(why(&reason.to_string()))
            }
            RecipientOutcome::NotTried(reason) => Outcome::NotAttempted(why(&reason.to_string())),
            RecipientOutcome::InDoubt => {
                Outcome::InDoubt(why("the connection was lost before the reply"))
            }
        }
    }

    /// Follows the pure session to the next point where it needs us.
    async fn advance(&mut self) -> Turn {
        loop {
            let step = self.smtp.step();
            if !matches!(step, ClientStep::Read(_)) {
                self.waiting = None;
            }
            match step {
                ClientStep::Write(octets) => self.write(&octets).await,
                ClientStep::Read(phase) => self.read(phase).await,
                ClientStep::Ready => return Turn::Ready,
                ClientStep::SendBody => return Turn::SendBody,
                ClientStep::Transaction(outcome) => return Turn::Transaction(outcome.recipients),
                ClientStep::Etrn(reply) => return Turn::Etrn(reply),
                ClientStep::Closed(reason) => {
                    self.close(&reason);
                    return Turn::Closed;
                }
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

    async fn write(&mut self, octets: &[u8]) {
        self.recorder.client(octets);
        let mut rest = octets;
        let (mut reader, mut writer) = self.stream.split();
        let mut early = [0; 4096];
        let mut room = EARLY_REPLIES;
        while !rest.is_empty() {
            tokio::select! {
                read = reader.read(&mut early), if room > 0 => match read {
                    // The end, or the error, is met again when the replies are read.
                    Ok(0) | Err(_) => room = 0,
                    Ok(count) => {
                        room = room.saturating_sub(count);
                        self.recorder.server(&early[..count]);
                        self.smtp.receive(&early[..count]);
                    }
                },
                written = timeout(ClientPhase::DataBlock.timeout(), writer.write(rest)) => match written {
                    Ok(Ok(count)) if count > 0 => rest = &rest[count..],
                    Ok(Ok(_)) => return self.lost("the connection takes no more data").await,
                    Ok(Err(error)) => return self.lost(&error.to_string()).await,
                    Err(_) => return self.broken("timed out sending data"),
                },
            }
        }
    }

    /// Writing failed. What the other side said before it closed, often a 421 or 554, is still there to be read.
    async fn lost(&mut self, reason: &str) {
        let until = Instant::now() + LAST_WORDS;
        let mut octets = [0; 4096];
        let mut room = EARLY_REPLIES;
        while room > 0
            && let Ok(Ok(count @ 1..)) = timeout_at(until, self.stream.read(&mut octets)).await
        {
            room = room.saturating_sub(count);
            self.recorder.server(&octets[..count]);
            self.smtp.receive(&octets[..count]);
        }
        self.broken(reason);
    }

    /// Octets that make no reply do not move its deadline.
    async fn read(&mut self, phase: ClientPhase) {
        let until = match self.waiting {
            Some((same, until)) if same == phase => until,
            _ => Instant::now() + patience(phase),
        };
        self.waiting = Some((phase, until));
        let mut octets = [0; 4096];
        match timeout_at(until, self.stream.read(&mut octets)).await {
            Ok(Ok(0)) => self.broken("the connection was closed by the other side"),
            Ok(Ok(count)) => {
                self.recorder.server(&octets[..count]);
                self.smtp.receive(&octets[..count]);
            }
            Ok(Err(error)) => self.broken(&error.to_string()),
            Err(_) => self.smtp.time_out(),
        }
    }

    fn broken(&mut self, reason: &str) {
        self.trouble
            .get_or_insert_with(|| format!("{}: {reason}", self.peer));
        self.smtp.end_of_input();
    }
}

/// Why a body could not be sent.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the stored body cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("the stored body cannot be sent: {0}")]
    BadBody(BadBody),
}

impl Fault {
    /// A fault of the message sets it aside; one of the machine, such as too many open files, does not.
    fn outcome(self) -> io::Result<Outcome> {
        match self {
            Self::Unreadable(error) if error.kind() != io::ErrorKind::InvalidData => Err(error),
            fault => Ok(Outcome::Unsendable(fault.to_string())),
        }
    }
}
