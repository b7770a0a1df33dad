//! The client side of a session: orders of the shell and replies of a server in, steps for the shell out.
//!
//! The shell calls [`ClientSession::step`] and does what it says. Orders ([`ClientSession::transmit`],
//! [`ClientSession::etrn`], [`ClientSession::quit`]) are carried out one after the other, each once the session is ready;
//! [`ClientStep::Ready`] says that nothing is left to do. Every transaction that was ordered ends in exactly one
//! [`ClientStep::Transaction`] with an outcome for each recipient, also when the session dies.
//!
//! With PIPELINING the envelope and DATA go out as one group (in groups of 100 recipients, so that neither side blocks on
//! writing, RFC 2920 3.1); without it each command waits for its reply. Replies are matched strictly in order.
//!
//! Limits: one message at a time in flight; no CHUNKING, STARTTLS, AUTH or DSN parameters. A message with octets above
//! 127 goes to a server without 8BITMIME as it is: converting it would change what was signed.

mod envelope;
mod outcome;
mod replies;
mod step;

use std::collections::VecDeque;

use crate::data::{BadBody, DataEncoder};
use crate::ehlo::Capabilities;
use crate::etrn::EtrnNode;
use crate::reply::Reply;
use crate::reply_reader::ReplyReader;

use envelope::Current;

pub use outcome::{CloseReason, RecipientOutcome, Transaction, TransactionOutcome};
pub use step::{ClientPhase, ClientStep};

/// A command whose reply is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Greeting,
    Ehlo,
    Helo,
    Reset,
    Mail,
    /// The recipient with this index.
    Rcpt(usize),
    Data,
    DataEnd,
    /// The end of a message of nothing, sent because DATA was accepted when no recipient was (RFC 2920 3.1).
    EmptyEnd,
    Etrn,
    Quit,
}

#[derive(Debug)]
enum Order {
    Transmit(Transaction),
    Etrn(EtrnNode),
    Quit,
}

/// One session with a server. See the module for how it is driven.
#[derive(Debug)]
pub struct ClientSession {
    hostname: String,
    input: ReplyReader,
    input_ended: bool,
    output: Vec<u8>,
    steps: VecDeque<ClientStep>,
    awaited: VecDeque<Awaited>,
    orders: VecDeque<Order>,
    current: Option<Current>,
    encoder: Option<DataEncoder>,
    greeting: Option<Reply>,
    capabilities: Option<Capabilities>,
    /// The last transaction may have left something behind at the server: RSET goes before the next order.
    must_reset: bool,
    closed: Option<CloseReason>,
}

impl ClientSession {
    /// A session that waits for the greeting; `hostname` is what it calls itself in EHLO.
    pub fn new(hostname: String) -> ClientSession {
        ClientSession {
            hostname,
            input: ReplyReader::new(),
            input_ended: false,
            output: Vec::new(),
            steps: VecDeque::new(),
            awaited: VecDeque::from([Awaited::Greeting]),
            orders: VecDeque::new(),
            current: None,
            encoder: None,
            greeting: None,
            capabilities: None,
            must_reset: false,
            closed: None,
        }
    }

    /// Orders a message to be sent. Its outcome comes as [`ClientStep::Transaction`].
    pub fn transmit(&mut self, transaction: Transaction) {
        match &self.closed {
            None => self.orders.push_back(Order::Transmit(transaction)),
            Some(reason) => {
                let outcome = TransactionOutcome::not_tried(&transaction, reason);
                self.steps.push_back(ClientStep::Transaction(outcome));
            }
        }
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

    /// The connection is gone, or was closed by the server. Replies that came before still count.
    pub fn end_of_input(&mut self) {
        self.input_ended = true;
    }

    /// The server did not answer in time; what was unanswered gets its outcome and the session ends.
    pub fn time_out(&mut self) {
        let phase = self
            .awaited
            .front()
            .map_or(ClientPhase::DataBlock, phase_of);
        self.die(CloseReason::TimedOut(phase));
    }

    /// Why the session is over, once it is. Outcomes may still be waiting in [`ClientSession::step`].
    pub fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// The greeting, once it has come.
    pub fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// What the server offers, once it has said so; nothing is offered after HELO.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.capabilities.as_ref()
    }

    /// The next piece of the message, after [`ClientStep::SendBody`]; the steps that follow write it.
    ///
    /// Errors: the message cannot be sent. Then nothing from the bad byte on and no end of data is ever written, and the
    /// session is over. Outside of SendBody nothing is taken.
    pub fn body(&mut self, piece: &[u8]) -> Result<(), BadBody> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        match encoder.encode(piece, &mut self.output) {
            Ok(()) => Ok(()),
            Err(bad) => {
                self.die(CloseReason::BadBody(bad));
                Err(bad)
            }
        }
    }

    /// Ends the message: the end of data is written and its reply awaited. Errors: as [`ClientSession::body`].
    pub fn end_body(&mut self) -> Result<(), BadBody> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        match encoder.finish(&mut self.output) {
            Ok(()) => {
                self.encoder = None;
                self.awaited.push_back(Awaited::DataEnd);
                Ok(())
            }
            Err(bad) => {
                self.die(CloseReason::BadBody(bad));
                Err(bad)
            }
        }
    }

    /// What to do next. [`ClientStep::Closed`] is given for ever.
    pub fn step(&mut self) -> ClientStep {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return step;
            }
            if !self.output.is_empty() {
                return ClientStep::Write(std::mem::take(&mut self.output));
            }
            if let Some(reason) = &self.closed {
                return ClientStep::Closed(reason.clone());
            }
            match self.input.next_reply() {
                Ok(Some(reply)) => self.reply(reply),
                Err(error) => self.die(CloseReason::Protocol(error.to_string())),
                Ok(None) if self.input_ended => self.lost(),
                Ok(None) => {
                    if let Some(awaited) = self.awaited.front() {
                        return ClientStep::Read(phase_of(awaited));
                    }
                    if self.encoder.is_some() {
                        return ClientStep::SendBody;
                    }
                    if !self.proceed() {
                        return ClientStep::Ready;
                    }
                }
            }
        }
    }

    /// Sends what comes next, of the transaction or of the next order; false when there is nothing.
    fn proceed(&mut self) -> bool {
        if self.current.is_some() {
            self.send_group();
            return true;
        }
        let Some(order) = self.orders.pop_front() else {
            return false;
        };
        if self.must_reset && !matches!(order, Order::Quit) {
            self.must_reset = false;
            self.command(b"RSET", Awaited::Reset);
            // With PIPELINING the transaction follows in the same group: RSET may stand anywhere in one.
            if !self.pipelining() || matches!(order, Order::Etrn(_)) {
                self.orders.push_front(order);
                return true;
            }
        }
        match order {
            Order::Transmit(transaction) => self.begin(transaction),
            Order::Etrn(node) => {
                let line = [b"ETRN ".as_slice(), &node.to_bytes()].concat();
                self.command(&line, Awaited::Etrn);
            }
            Order::Quit => self.command(b"QUIT", Awaited::Quit),
        }
        true
    }

    fn pipelining(&self) -> bool {
        self.capabilities
            .as_ref()
            .is_some_and(|offered| offered.pipelining)
    }

    fn command(&mut self, line: &[u8], awaited: Awaited) {
        self.output.extend_from_slice(line);
        self.output.extend_from_slice(b"\r\n");
        self.awaited.push_back(awaited);
    }

    /// The connection ended: in good order behind QUIT, else not.
    fn lost(&mut self) {
        let reason = if self.awaited.front() == Some(&Awaited::Quit) {
            CloseReason::Quit
        } else {
            CloseReason::PeerClosed {
                greeted: self
                    .greeting
                    .as_ref()
                    .is_some_and(|reply| reply.code == 220),
            }
        };
        self.die(reason);
    }

    /// Ends the session: every transaction gets its outcome, and nothing more is written.
    fn die(&mut self, reason: CloseReason) {
        if self.closed.is_some() {
            return;
        }
        self.output.clear();
        self.encoder = None;
        if let Some(current) = self.current.take() {
            let end_sent = self.awaited.contains(&Awaited::DataEnd);
            let outcome = current.outcome_of_loss(end_sent, &reason);
            self.steps.push_back(ClientStep::Transaction(outcome));
        }
        for order in self.orders.drain(..) {
            if let Order::Transmit(transaction) = order {
                let outcome = TransactionOutcome::not_tried(&transaction, &reason);
                self.steps.push_back(ClientStep::Transaction(outcome));
            }
        }
        self.awaited.clear();
        self.closed = Some(reason);
    }
}

fn phase_of(awaited: &Awaited) -> ClientPhase {
    match awaited {
        Awaited::Greeting => ClientPhase::Greeting,
        Awaited::Ehlo | Awaited::Helo => ClientPhase::Hello,
        Awaited::Reset => ClientPhase::Reset,
        Awaited::Mail => ClientPhase::Mail,
        Awaited::Rcpt(_) => ClientPhase::Recipient,
        Awaited::Data => ClientPhase::DataStart,
        Awaited::DataEnd | Awaited::EmptyEnd => ClientPhase::DataEnd,
        Awaited::Etrn => ClientPhase::Etrn,
        Awaited::Quit => ClientPhase::Quit,
    }
}
