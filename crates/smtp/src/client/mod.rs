//! The client side of a session: orders of the shell and replies of a server in, steps for the shell out.
//!
//! The shell calls [`ClientSession::step`] and does what it says. Orders ([`ClientSession::transmit`],
//! [`ClientSession::ask`], [`ClientSession::etrn`], [`ClientSession::quit`]) are carried out in their order. Every transaction that was ordered
//! ends in exactly one [`ClientStep::Transaction`] with an outcome for each recipient, also when the session dies.
//!
//! # Flights
//!
//! On a long line round trips are the cost. With PIPELINING and CHUNKING whole messages follow each other without waiting,
//! `MAIL RCPT… BDAT LAST RSET MAIL RCPT… BDAT LAST`, and replies are matched strictly in order. Sending BDAT before the
//! replies to RCPT goes beyond the letter of RFC 3030 2, and is what servers in the field take. RSET stands between
//! transactions whose outcome is not known yet: behind one that lost all recipients Exim would otherwise send the next
//! message under the refused one's sender (seen with 4.96). Without CHUNKING the next MAIL rides with the final dot
//! (RFC 2920 3.1); without PIPELINING each command waits for its reply. ETRN and QUIT end their group (RFC 2920 3.1).
//!
//! [`ClientSession::room`] says how many messages and octets may be ordered beyond those that have no outcome yet; what
//! is ordered past it waits. A message whose [`Content`] is streamed is sent once its envelope was accepted.
//!
//! # LMTP
//!
//! An LMTP server answers the end of a message once for each recipient that it took (RFC 2033 4.2). In the field some
//! answer a refused one with a single line, and a refused chunk with one or with many; RFC 3030 does not say. A reply too
//! few would have the answer to RSET stand for a recipient, and a message that was refused be taken for delivered. So
//! nothing follows a message with several recipients, or in several chunks, before all its replies are there; where they
//! do not come, its other recipients are in doubt when the time is over. And behind the refusal of a chunk that is not the
//! last nothing is read any more: the message is refused, the session ends, and what was ordered behind it is not tried.
//! What has one recipient and comes in one piece has one answer however it is counted, and rides in flights.
//!
//! # A session that breaks
//!
//! What stands behind a 421, or behind an error after which the server closed, was not accepted: it was not tried. The
//! error has to be the last that was heard: a reply that came behind it, and were it the beginning of one, shows that the
//! server went on. When the connection is lost in any other way, each message that was written to its end is in doubt; so
//! it is when replies stop, whatever they said before, for silence is no close.
//!
//! Limits: a message with octets above 127 is not given to a server without 8BITMIME, nor one that needs SMTPUTF8 to a
//! server without that: converting it would change what was signed.

mod ask;
mod content;
mod envelope;
mod flight;
mod flying;
mod hello;
mod outcome;
mod replies;
mod step;

use std::collections::{HashSet, VecDeque};

use crate::ehlo::Capabilities;
use crate::etrn::EtrnNode;
use crate::path::{Domain, ForwardPath};
use crate::reply::Reply;
use crate::reply_reader::ReplyReader;

use content::Streaming;
use flying::Flying;

pub use ask::Asked;
pub use content::Content;
pub use flight::{FlightLimits, Room};
pub use hello::{ClientConfig, Protocol, TlsUse};
pub use outcome::{CloseReason, Recipient, RecipientOutcome, Transaction, TransactionOutcome};
use step::Awaited;
pub use step::{ClientPhase, ClientStep};

/// How the input came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputEnd {
    /// The server closed the connection.
    Closed,
    /// The line between was lost.
    LineLost,
}

#[derive(Debug)]
enum Order {
    Transmit(u64, Transaction, Content),
    Ask(ForwardPath),
    Etrn(EtrnNode),
    Quit,
}

/// One session with a server. See the module for how it is driven.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    input: ReplyReader,
    input_ended: Option<InputEnd>,
    output: Vec<u8>,
    /// Octets of `output` that hold a secret: it is written by itself.
    output_is_secret: bool,
    steps: VecDeque<ClientStep>,
    awaited: VecDeque<Awaited>,
    /// So many of the last in `awaited` were not given out for writing.
    unwritten: usize,
    /// Octets that were given out for writing, and how many of these the shell says it has not written.
    given_out: u64,
    left_over: u64,
    /// RSET was refused: whatever is answered behind it cannot be trusted.
    reset_refused: Option<Reply>,
    orders: VecDeque<Order>,
    /// Transactions that were begun and have no outcome, the oldest first; only the last is still being sent.
    flying: VecDeque<Flying>,
    streaming: Option<Streaming>,
    /// The recipient of the question that is being asked.
    asking: Option<ForwardPath>,
    /// What the shell has to do before the session is ready for orders.
    hello: hello::Stage,
    greeting: Option<Reply>,
    capabilities: Option<Capabilities>,
    /// The last transaction may have left something behind at the server: RSET goes before the next order.
    must_reset: bool,
    /// Messages ordered, and those of them that were begun.
    ordered: u64,
    begun: u64,
    /// The domains of recipients that were ordered, where their number is limited.
    domains: HashSet<Domain>,
    replies_read: u64,
    /// The last reply was a refusal.
    last_was_refusal: bool,
    /// A message was accepted.
    has_accepted: bool,
    /// The server said that it has had enough messages of this session.
    has_enough: bool,
    closed: Option<CloseReason>,
}

impl ClientSession {
    /// A session that waits for the greeting.
    pub fn new(config: ClientConfig) -> ClientSession {
        ClientSession {
            hello: hello::Stage::new(&config),
            config,
            input: ReplyReader::new(),
            input_ended: None,
            output: Vec::new(),
            output_is_secret: false,
            steps: VecDeque::new(),
            awaited: VecDeque::from([Awaited::Greeting]),
            unwritten: 0,
            given_out: 0,
            left_over: 0,
            reset_refused: None,
            orders: VecDeque::new(),
            flying: VecDeque::new(),
            streaming: None,
            asking: None,
            greeting: None,
            capabilities: None,
            must_reset: false,
            ordered: 0,
            begun: 0,
            domains: HashSet::new(),
            replies_read: 0,
            last_was_refusal: false,
            has_accepted: false,
            has_enough: false,
            closed: None,
        }
    }

    /// Orders a message to be sent, and gives its number in this session, from 0 on. Its outcome comes as
    /// [`ClientStep::Transaction`].
    pub fn transmit(&mut self, transaction: Transaction, content: Content) -> u64 {
        let number = self.ordered;
        self.ordered += 1;
        self.note_domains(&transaction);
        match &self.closed {
            None => {
                let order = Order::Transmit(number, transaction, content);
                self.orders.push_back(order);
            }
            Some(reason) => {
                let outcome = TransactionOutcome::not_tried(&transaction, reason);
                self.steps
                    .push_back(ClientStep::Transaction(number, outcome));
            }
        }
        number
    }

    /// Orders ETRN. Its reply comes as [`ClientStep::Etrn`], unless the session ends first.
    pub fn etrn(&mut self, node: EtrnNode) {
        self.orders.push_back(Order::Etrn(node));
    }

    /// Orders the end of the session, which comes as [`ClientStep::Closed`].
    pub fn quit(&mut self) {
        self.orders.push_back(Order::Quit);
    }

    /// Takes what the server sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.closed.is_none() {
            self.input.receive(bytes);
        }
    }

    /// The server closed the connection, in good order or by a reset. Replies that came before still count.
    pub fn end_of_input(&mut self) {
        self.input_ended.get_or_insert(InputEnd::Closed);
    }

    /// The connection is gone, and it was not the server that closed it: the system gave it up, or what came over it was
    /// garbled. Replies that came before still count.
    pub fn line_lost(&mut self) {
        self.input_ended.get_or_insert(InputEnd::LineLost);
    }

    /// So many of the last octets that were given out were never written: a message whose end is among them was not sent.
    /// To be told before the end of the input, the loss of the line, or [`ClientSession::time_out`].
    pub fn not_written(&mut self, octets: usize) {
        self.left_over = octets as u64;
    }

    /// The server did not answer in time; what was unanswered gets its outcome and the session ends.
    pub fn time_out(&mut self) {
        let phase = self
            .awaited
            .front()
            .map_or(ClientPhase::DataBlock, |awaited| awaited.phase());
        self.die(CloseReason::TimedOut(phase));
    }

    /// The shell ends the session, for what it knows and the session does not: TLS or the login failed, or the source of
    /// a message. What was unanswered gets its outcome.
    pub fn abandon(&mut self, why: String) {
        self.die(CloseReason::Abandoned(why));
    }

    /// Why the session is over, once it is. Outcomes may still be waiting in [`ClientSession::step`].
    pub fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// The greeting, once it has come.
    pub fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// How many replies were read so far: progress, for the timers of the shell.
    pub fn replies_read(&self) -> u64 {
        self.replies_read
    }

    /// What the server offers, once it has said so; nothing is offered after HELO.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.capabilities.as_ref()
    }

    /// What to do next. [`ClientStep::Closed`] is given for ever.
    pub fn step(&mut self) -> ClientStep {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return step;
            }
            if let Some(reason) = &self.closed
                && self.output.is_empty()
            {
                return ClientStep::Closed(reason.clone());
            }
            if self.closed.is_none() && self.ended_by_injection() {
                continue;
            }
            match self.input.next_reply() {
                Ok(Some(reply)) if self.closed.is_none() => {
                    self.reply(reply);
                    continue;
                }
                Err(error) if self.closed.is_none() => {
                    self.die(CloseReason::Protocol(error.to_string()));
                    continue;
                }
                Ok(None) if self.closed.is_none() => {
                    if let Some(end) = self.input_ended {
                        self.lost(end);
                        continue;
                    }
                }
                _ => {}
            }
            if self.closed.is_none() && self.proceed() {
                continue;
            }
            if !self.output.is_empty() {
                let bytes = std::mem::take(&mut self.output);
                self.unwritten = 0;
                self.given_out += bytes.len() as u64;
                return if std::mem::take(&mut self.output_is_secret) {
                    ClientStep::WriteSecret(bytes)
                } else {
                    ClientStep::Write(bytes)
                };
            }
            if self.closed.is_none() {
                return self.idle_step();
            }
        }
    }

    /// The step when nothing is left to be written or read now.
    fn idle_step(&mut self) -> ClientStep {
        if let Some(step) = self.hello_step() {
            return step;
        }
        if let Some(number) = self.awaits_body() {
            return ClientStep::SendBody(number);
        }
        match self.awaited.front() {
            Some(awaited) => ClientStep::Read(awaited.phase()),
            None => ClientStep::Ready,
        }
    }

    /// Sends what comes next, of a transaction or of the next order; false when there is nothing, or it has to wait.
    fn proceed(&mut self) -> bool {
        if !self.is_ready() || self.reset_refused.is_some() {
            return false;
        }
        if self.is_sending() {
            return self.send_on();
        }
        let idle = self.awaited.is_empty();
        match self.orders.front() {
            None => return false,
            Some(_) if !idle && !self.pipelining() => return false,
            Some(Order::Transmit(..)) if !self.may_begin() => return false,
            Some(_) if self.replies_may_miscount() => return false,
            // ETRN may ride behind messages; what rides behind ETRN has to wait, and so has QUIT for all outcomes.
            Some(Order::Quit | Order::Ask(_)) if !idle => return false,
            Some(_) if self.awaited.contains(&Awaited::Etrn) || self.asking.is_some() => {
                return false;
            }
            Some(_) => {}
        }
        match self.orders.pop_front() {
            None => return false,
            Some(Order::Transmit(number, transaction, content)) => {
                self.begin(number, transaction, content);
            }
            Some(Order::Etrn(node)) => {
                if self.may_linger() {
                    self.must_reset = false;
                    self.command(b"RSET", Awaited::Reset);
                    if !self.pipelining() {
                        self.orders.push_front(Order::Etrn(node));
                        return true;
                    }
                }
                let line = [b"ETRN ".as_slice(), &node.to_bytes()].concat();
                self.command(&line, Awaited::Etrn);
            }
            Some(Order::Ask(recipient)) => self.begin_asking(recipient),
            Some(Order::Quit) => self.command(b"QUIT", Awaited::Quit),
        }
        true
    }

    fn pipelining(&self) -> bool {
        self.capabilities
            .as_ref()
            .is_some_and(|offered| offered.pipelining)
    }

    fn chunking(&self) -> bool {
        self.capabilities
            .as_ref()
            .is_some_and(|offered| offered.chunking)
    }

    fn command(&mut self, line: &[u8], awaited: Awaited) {
        self.output.extend_from_slice(line);
        self.output.extend_from_slice(b"\r\n");
        self.await_reply(awaited);
    }

    /// The connection ended: in good order behind QUIT, else not.
    fn lost(&mut self, end: InputEnd) {
        let greeting = self.greeting.as_ref();
        let greeted = greeting.is_some_and(|reply| reply.code == 220);
        let reason = match end {
            _ if self.awaited.front() == Some(&Awaited::Quit) => CloseReason::Quit,
            InputEnd::Closed => CloseReason::PeerClosed { greeted },
            InputEnd::LineLost => CloseReason::LineLost { greeted },
        };
        self.die(reason);
    }

    /// Ends the session: every transaction gets its outcome, and nothing more is written.
    fn die(&mut self, reason: CloseReason) {
        if self.closed.is_some() {
            return;
        }
        self.output.clear();
        self.streaming = None;
        self.asking = None;
        let refused = match &reason {
            CloseReason::Refused(_) => true,
            CloseReason::PeerClosed { .. } => self.last_was_refusal && !self.input.has_unread(),
            _ => false,
        };
        self.take_back_unwritten_ends();
        for flying in std::mem::take(&mut self.flying) {
            let number = flying.number;
            let outcome = flying.outcome_of_loss(refused, &reason);
            self.steps
                .push_back(ClientStep::Transaction(number, outcome));
        }
        for order in self.orders.drain(..) {
            if let Order::Transmit(number, transaction, _) = order {
                let outcome = TransactionOutcome::not_tried(&transaction, &reason);
                self.steps
                    .push_back(ClientStep::Transaction(number, outcome));
            }
        }
        self.awaited.clear();
        self.closed = Some(reason);
    }
}
