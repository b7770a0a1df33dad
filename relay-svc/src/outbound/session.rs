//! One SMTP session to a next hop: the pure client session over a socket, with a named timer for each wait.
//!
//! Replies are read while we write (RFC 2920 3.1), so neither side's window can fill and stop both.

use std::{sync::Arc, time::Duration};

use linkmail_smtp::{
    BadBody, ClientPhase, ClientSession, ClientStep, CloseReason, EtrnNode, RecipientOutcome,
    Recorder, Reply, Transaction,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{names::HostPort, queue::Outcome, spool::Body};

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

/// What became of one message.
pub struct Sent {
    /// One per recipient, in the order of the transaction.
    pub outcomes: Vec<Outcome>,
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
}

/// What [`Session::advance`] stopped at.
enum Stop {
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
        };
        match session.advance().await {
            Stop::Ready => Ok(session),
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

    /// Sends one message.
    pub async fn send(&mut self, transaction: Transaction, mut body: Body) -> Sent {
        let recipients = transaction.recipients.len();
        let all = |outcome: Outcome| Sent {
            outcomes: vec![outcome; recipients],
        };
        if let Some(end) = &self.end {
            return all(Outcome::NotAttempted(end.to_string()));
        }
        self.smtp.transmit(transaction);
        loop {
            match self.advance().await {
                Stop::SendBody => {
                    if let Err(reason) = self.feed(&mut body).await {
                        // Nothing but closing ends the data without accepting it: the final dot is never sent.
                        self.end = Some(End::Failed(reason.clone()));
                        return all(Outcome::Unsendable(reason));
                    }
                }
                Stop::Transaction(outcomes) => {
                    let outcomes = outcomes
                        .into_iter()
                        .map(|outcome| self.outcome(outcome))
                        .collect();
                    // An end that came with the outcome is noticed now, not at the next order.
                    if self.trouble.is_some() {
                        self.end = Some(self.ended());
                    }
                    return Sent { outcomes };
                }
                Stop::Ready | Stop::Etrn(_) => {}
                Stop::Closed => {
                    let reason = self.ended().to_string();
                    return all(Outcome::Failed(reason));
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
                Stop::Etrn(reply) => return Ok(reply),
                Stop::Closed => return Err(self.ended()),
                Stop::Ready | Stop::SendBody | Stop::Transaction(_) => {}
            }
        }
    }

    /// Says goodbye; waits for the answer, but not for long.
    pub async fn quit(mut self) {
        if self.end.is_none() {
            self.smtp.quit();
            while !matches!(self.advance().await, Stop::Closed) {}
        }
    }

    /// The next piece of the body, or its end.
    async fn feed(&mut self, body: &mut Body) -> Result<(), String> {
        let piece = body
            .next()
            .await
            .map_err(|error| format!("the stored body cannot be read: {error}"))?;
        if piece.is_empty() {
            return self.smtp.end_body().map_err(unsendable);
        }
        self.smtp.body(&piece).map_err(unsendable)
    }

    fn outcome(&self, outcome: RecipientOutcome) -> Outcome {
        let why = |reason: &str| match &self.trouble {
            Some(trouble) => trouble.clone(),
            None => format!("{}: {reason}", self.peer),
        };
        match outcome {
            RecipientOutcome::Accepted(reply) => Outcome::Delivered(reply),
            RecipientOutcome::Refused(reply) => Outcome::Refused(reply),
            RecipientOutcome::NotTried(reason) => Outcome::Failed(why(&reason.to_string())),
            RecipientOutcome::InDoubt => {
                Outcome::InDoubt(why("the connection was lost before the reply"))
            }
        }
    }

    /// Follows the pure session to the next point where it needs us.
    async fn advance(&mut self) -> Stop {
        loop {
            match self.smtp.step() {
                ClientStep::Write(octets) => self.write(&octets).await,
                ClientStep::Read(phase) => self.read(phase).await,
                ClientStep::Ready => return Stop::Ready,
                ClientStep::SendBody => return Stop::SendBody,
                ClientStep::Transaction(outcome) => return Stop::Transaction(outcome.recipients),
                ClientStep::Etrn(reply) => return Stop::Etrn(reply),
                ClientStep::Closed(reason) => {
                    self.close(&reason);
                    return Stop::Closed;
                }
            }
        }
    }

    fn close(&mut self, reason: &CloseReason) {
        let said = match (&self.trouble, reason) {
            (Some(trouble), _) => trouble.clone(),
            (None, reason) => format!("{}: {reason}", self.peer),
        };
        let before_greeting = matches!(reason, CloseReason::PeerClosed { greeted: false });
        let end = if before_greeting {
            End::Missing(said)
        } else {
            End::Failed(said)
        };
        if !matches!(reason, CloseReason::Quit) {
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
        let mut reading = true;
        while !rest.is_empty() {
            tokio::select! {
                biased;
                read = reader.read(&mut early), if reading => match read {
                    Ok(0) | Err(_) => reading = false,
                    Ok(count) => {
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
        let mut octets = [0; 4096];
        while let Ok(Ok(count @ 1..)) = timeout(LAST_WORDS, self.stream.read(&mut octets)).await {
            self.recorder.server(&octets[..count]);
            self.smtp.receive(&octets[..count]);
        }
        self.broken(reason);
    }

    async fn read(&mut self, phase: ClientPhase) {
        let mut octets = [0; 4096];
        match timeout(patience(phase), self.stream.read(&mut octets)).await {
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

fn unsendable(bad: BadBody) -> String {
    format!("the stored body cannot be sent: {bad}")
}
