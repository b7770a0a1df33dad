//! The server side of a session: bytes of a client in, steps for the shell out.
//!
//! The shell calls [`ServerSession::step`] and does what it says: write these bytes, read more, decide about this sender.
//! A step that asks ([`ServerStep::asks`]) is answered with a [`Reply`], whose code decides what state the session is in.
//! Order of commands, limits, framing and the end of data are decided here and nowhere else.
//!
//! A transaction begins with a positive answer to [`ServerStep::Mail`]. It ends with the answer to
//! [`ServerStep::EndOfData`], whatever it is, or with [`ServerStep::Abort`]; exactly one of the two comes.
//!
//! Limits: one transaction at a time; no TLS and no AUTH.

mod commands;
mod data;
mod step;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::data::DataDecoder;
use crate::framing::LineReader;
use crate::replies;
use crate::reply::{Reply, Severity};

pub use step::{AbortReason, ServerConfig, ServerPhase, ServerStep};

/// So many bad commands are answered; one more ends the session.
const MAX_ERRORS: usize = 20;
/// So many senders, recipients and nodes are refused by policy in one session; one more ends it. A site that sends to a
/// list with stale entries stays below this, a client that tries names or domains does not (RFC 5321 7.3 and 7.9 leave
/// the host free to stop serving it).
const MAX_REFUSALS: usize = 50;
/// Replies are gathered while commands are waiting, but not beyond this.
const MAX_GATHERED: usize = 16 * 1024;

/// What the client called itself.
#[derive(Debug)]
struct Hello {
    name: Vec<u8>,
    extended: bool,
}

/// The transaction that is open, from a positive answer to MAIL on.
#[derive(Debug, Default)]
struct Open {
    recipients: usize,
}

/// The data that is being received.
#[derive(Debug)]
struct Receiving {
    decoder: DataDecoder,
    bytes: u64,
    /// What the end of data will be answered with, if the message was given up on the way.
    refusal: Option<Reply>,
}

#[derive(Debug)]
enum Stage {
    Commands,
    Data(Receiving),
    /// Nothing more is read; what is queued is still delivered.
    Over,
}

/// One session with a client. See the module for how it is driven.
#[derive(Debug)]
pub struct ServerSession {
    config: Arc<ServerConfig>,
    input: LineReader,
    input_ended: bool,
    output: Vec<u8>,
    steps: VecDeque<ServerStep>,
    asked: Option<ServerStep>,
    stage: Stage,
    hello: Option<Hello>,
    open: Option<Open>,
    errors: usize,
    refusals: usize,
    /// Ends the session once the open question is answered.
    ending: Option<(Reply, AbortReason)>,
}

impl ServerSession {
    /// A session whose first step writes the greeting.
    pub fn new(config: Arc<ServerConfig>) -> ServerSession {
        let mut output = Vec::new();
        replies::greeting(&config.hostname).encode(&mut output);
        ServerSession {
            config,
            input: LineReader::new(),
            input_ended: false,
            output,
            steps: VecDeque::new(),
            asked: None,
            stage: Stage::Commands,
            hello: None,
            open: None,
            errors: 0,
            refusals: 0,
            ending: None,
        }
    }

    /// Takes what the client sent. Meant for after [`ServerStep::Read`], so that memory stays bounded by one read.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, Stage::Over) {
            self.input.receive(bytes);
        }
    }

    /// The client has closed its side. What it sent before is still done.
    pub fn end_of_input(&mut self) {
        self.input_ended = true;
    }

    /// Ends the session with 421 4.4.2: the client was silent for too long.
    pub fn time_out(&mut self) {
        let reply = replies::timed_out(&self.config.hostname);
        self.end_early(reply, AbortReason::TimedOut);
    }

    /// Ends the session with 421 4.3.2, after the answer to the open question if there is one.
    pub fn shut_down(&mut self) {
        let reply = replies::shutting_down(&self.config.hostname);
        self.end_early(reply, AbortReason::ShutDown);
    }

    /// Whether commands or message data are awaited; each has its own timer.
    pub fn phase(&self) -> ServerPhase {
        match self.stage {
            Stage::Data(_) => ServerPhase::Data,
            Stage::Commands | Stage::Over => ServerPhase::Command,
        }
    }

    /// The name from EHLO or HELO, as it was written.
    pub fn client_name(&self) -> Option<&[u8]> {
        self.hello.as_ref().map(|hello| hello.name.as_slice())
    }

    /// The protocol for the `Received` field: `ESMTP` after EHLO, else `SMTP` (RFC 3848).
    pub fn protocol(&self) -> &'static str {
        match &self.hello {
            Some(hello) if hello.extended => "ESMTP",
            _ => "SMTP",
        }
    }

    /// What to do next. A step that asks is given again until it is answered; Close is given for ever.
    pub fn step(&mut self) -> ServerStep {
        loop {
            if let Some(asked) = &self.asked {
                return asked.clone();
            }
            if let Some(step) = self.steps.pop_front() {
                if step.asks() {
                    self.asked = Some(step.clone());
                }
                return step;
            }
            if let Some((reply, reason)) = self.ending.take() {
                self.close_with(&reply, reason);
                continue;
            }
            if self.output.len() >= MAX_GATHERED {
                return self.write();
            }
            if !self.advance() {
                return self.idle_step();
            }
        }
    }

    /// Answers the step that asked. Without an open question nothing happens.
    ///
    /// MAIL is accepted and a recipient counted on 2yz, data begins on 3yz. After 421 and 521 the session closes. A refusal
    /// for good that is one too many is replaced by 421.
    pub fn answer(&mut self, reply: Reply) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let is_by_policy = matches!(
            asked,
            ServerStep::Mail { .. } | ServerStep::Recipient(_) | ServerStep::Etrn(_)
        );
        // 459 says "not allowed" with a code that is not for good (RFC 1985 5.3).
        let not_allowed =
            reply.refuses() || matches!(asked, ServerStep::Etrn(_)) && reply.code == 459;
        self.refusals += usize::from(is_by_policy && not_allowed);
        match (asked, reply.severity()) {
            (ServerStep::Mail { .. }, Severity::Positive) => self.open = Some(Open::default()),
            (ServerStep::Recipient(_), Severity::Positive) => {
                if let Some(open) = &mut self.open {
                    open.recipients += 1;
                }
            }
            (ServerStep::BeginData, Severity::Intermediate) => {
                self.stage = Stage::Data(Receiving {
                    decoder: DataDecoder::new(),
                    bytes: 0,
                    refusal: None,
                });
            }
            (ServerStep::EndOfData, _) => self.open = None,
            _ => {}
        }
        if reply.closes() {
            self.close_with(&reply, AbortReason::Refused);
        } else if self.refusals > MAX_REFUSALS {
            let last = replies::too_many_errors(&self.config.hostname);
            self.close_with(&last, AbortReason::TooManyErrors);
        } else {
            reply.encode(&mut self.output);
        }
    }

    /// Reads one command or one piece of data; false when there is nothing to read.
    fn advance(&mut self) -> bool {
        match self.stage {
            Stage::Commands => self.advance_command(),
            Stage::Data(_) => self.advance_data(),
            Stage::Over => false,
        }
    }

    /// The step when all input is read and nothing is queued.
    fn idle_step(&mut self) -> ServerStep {
        if self.input_ended && !matches!(self.stage, Stage::Over) {
            self.stage = Stage::Over;
            self.input.clear();
            if self.open.take().is_some() {
                return ServerStep::Abort(AbortReason::ClientLeft);
            }
        }
        if !self.output.is_empty() {
            self.write()
        } else if matches!(self.stage, Stage::Over) {
            ServerStep::Close
        } else {
            ServerStep::Read
        }
    }

    fn write(&mut self) -> ServerStep {
        ServerStep::Write(std::mem::take(&mut self.output))
    }

    fn end_early(&mut self, reply: Reply, reason: AbortReason) {
        if !matches!(self.stage, Stage::Over) {
            self.ending.get_or_insert((reply, reason));
        }
    }

    /// Writes a last reply, drops the transaction and everything unread, and closes.
    fn close_with(&mut self, reply: &Reply, reason: AbortReason) {
        self.abort(reason);
        reply.encode(&mut self.output);
        self.input.clear();
        self.stage = Stage::Over;
    }

    /// Drops the transaction, if one is open, and tells the shell.
    fn abort(&mut self, reason: AbortReason) {
        if self.open.take().is_some() {
            self.steps.push_back(ServerStep::Abort(reason));
        }
    }
}
