//! The server side of a session: bytes of a client in, steps for the shell out.
//!
//! The shell calls [`ServerSession::step`] and does what it says: write these bytes, read more, decide about this sender.
//! A step that asks ([`ServerStep::asks`]) is answered with a [`Reply`], whose code decides what state the session is in.
//! Order of commands, limits, framing and the end of data are decided here and nowhere else.
//!
//! A transaction begins with a positive answer to [`ServerStep::Mail`]. It ends with the answer to
//! [`ServerStep::EndOfData`], whatever it is, or with [`ServerStep::Abort`]; exactly one of the two comes.
//!
//! - `commands`: one command at a time, and whether it is allowed now.
//! - `data`, `chunks`: a message by DATA and by BDAT.
//! - `tls`, `auth`: STARTTLS and AUTH; the handshake and the mechanisms are the shell's.
//! - `answers`: what the shell's answers do to the session.
//! - `offer`: what EHLO says.
//!
//! Limits: one transaction at a time; no BINARYMIME, so a message is always text; no security layer behind AUTH.

mod answers;
mod auth;
mod chunks;
mod commands;
mod config;
mod data;
mod offer;
mod step;
mod tls;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::data::TextCheck;
use crate::framing::{Line, LineReader};
use crate::replies;
use crate::reply::Reply;

pub use config::ServerConfig;
pub use offer::{Limits, Offer};
pub use step::{AbortReason, AuthAnswer, ServerPhase, ServerStep};

use chunks::Chunk;
use data::Receiving;

/// So many bad commands are answered; one more ends the session.
const MAX_ERRORS: usize = 20;
/// So many senders, recipients and nodes are refused by policy in one session; one more ends it. A site that sends to a
/// list with stale entries stays below this, a client that tries names or domains does not (RFC 5321 7.3 and 7.9 leave
/// the host free to stop serving it).
const MAX_REFUSALS: usize = 50;
/// Replies are gathered while commands are waiting, but not beyond this, nor behind what became of a message.
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
    smtputf8: bool,
    /// The text so far, once a chunk has begun.
    text: Option<TextCheck>,
}

/// What is left of a transaction that was refused while the client may have sent more of it: MAIL was, or a chunk. What
/// belongs to it is refused as well, and is no mistake of a client that pipelines (RFC 2920 3.1).
#[derive(Clone, Debug, Default)]
struct Lost {
    /// Recipients that were accepted.
    recipients: usize,
    /// What the chunk was answered with, if it was one.
    chunk: Option<Reply>,
}

/// What is counted over the session, against those who only waste it.
#[derive(Debug, Default)]
struct Counts {
    errors: usize,
    refusals: usize,
    auth_failures: usize,
    /// MAIL commands, whatever became of them (MAILMAX of RFC 9422).
    messages: usize,
    /// Commands since the last message that was taken.
    idle_commands: usize,
}

#[derive(Debug)]
enum Stage {
    Commands,
    Data(Receiving),
    Chunk(Chunk),
    /// The client's response in an AUTH exchange is awaited.
    AuthResponse,
    /// 220 to STARTTLS was said; nothing is read until the handshake is done.
    Tls,
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
    /// `output` ends with what became of a message. That does not wait for the next command, which may take long: a client
    /// that gives up meanwhile would send again what was taken (RFC 2920 3.2 has the replies to MAIL, RCPT and RSET wait).
    is_verdict: bool,
    steps: VecDeque<ServerStep>,
    asked: Option<ServerStep>,
    stage: Stage,
    hello: Option<Hello>,
    open: Option<Open>,
    lost: Option<Lost>,
    tls: bool,
    identity: Option<String>,
    trusted: bool,
    counts: Counts,
    /// Ends the session once the open question is answered.
    ending: Option<(Reply, AbortReason)>,
}

impl ServerSession {
    /// A session whose first step writes the greeting.
    pub fn new(config: Arc<ServerConfig>) -> ServerSession {
        let mut output = Vec::new();
        if config.lmtp {
            replies::lmtp_greeting(&config.hostname).encode(&mut output);
        } else {
            replies::greeting(&config.hostname).encode(&mut output);
        }
        ServerSession {
            config,
            input: LineReader::new(),
            input_ended: false,
            output,
            is_verdict: false,
            steps: VecDeque::new(),
            asked: None,
            stage: Stage::Commands,
            hello: None,
            open: None,
            lost: None,
            tls: false,
            identity: None,
            trusted: false,
            counts: Counts::default(),
            ending: None,
        }
    }

    /// A session over a connection that speaks TLS from the start, as on port 465 (RFC 8314 3.3).
    pub fn within_tls(config: Arc<ServerConfig>) -> ServerSession {
        let mut session = ServerSession::new(config);
        session.tls = true;
        session
    }

    /// Takes what the client sent. Meant for after [`ServerStep::Read`], so that memory stays bounded by one read.
    ///
    /// Between 220 to STARTTLS and [`ServerSession::tls_started`] nothing is taken: it belongs to the handshake.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, Stage::Over | Stage::Tls) {
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

    /// The client spoke before it was greeted (RFC 5321 4.3.1): the session is refused in the greeting's place. To be
    /// called before the first step; a shell that wants to know waits a moment before it greets.
    pub fn early_talker(&mut self) {
        self.output.clear();
        self.close_with(&replies::out_of_turn(), AbortReason::OutOfTurn);
    }

    /// Whether commands or message data are awaited; each has its own timer.
    pub fn phase(&self) -> ServerPhase {
        match self.stage {
            Stage::Data(_) | Stage::Chunk(_) => ServerPhase::Data,
            _ => ServerPhase::Command,
        }
    }

    /// The name from EHLO or HELO, as it was written.
    pub fn client_name(&self) -> Option<&[u8]> {
        self.hello.as_ref().map(|hello| hello.name.as_slice())
    }

    /// Who the client has proved to be by AUTH, as the shell named it.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Whether the session speaks TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    /// The client is a relay of this project, by what the shell knows of it: the next EHLO offers XLINKMAIL, and its
    /// parameter is taken from now on. Forgotten when TLS starts. Not needed for who authenticates itself where
    /// [`ServerConfig::xlinkmail_by_login`] is on.
    pub fn trust_peer(&mut self) {
        self.trusted = true;
    }

    /// The protocol for the `Received` field (RFC 3848; with SMTPUTF8 in the open transaction RFC 6531 4.3): `SMTP` after
    /// HELO, else such as `ESMTP`, `ESMTPSA`, `LMTP`, `UTF8SMTPS`.
    pub fn protocol(&self) -> &'static str {
        const NAMES: [[&str; 4]; 4] = [
            ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"],
            ["LMTP", "LMTPA", "LMTPS", "LMTPSA"],
            ["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"],
            ["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"],
        ];
        if !self.is_extended() {
            return "SMTP";
        }
        let utf8 = self.open.as_ref().is_some_and(|open| open.smtputf8);
        let names = NAMES[2 * usize::from(utf8) + usize::from(self.config.lmtp)];
        names[2 * usize::from(self.tls) + usize::from(self.identity.is_some())]
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
            if self.output.len() >= MAX_GATHERED || self.is_verdict {
                return self.write();
            }
            if !self.advance() {
                return self.idle_step();
            }
        }
    }

    /// Reads one command or one piece of data; false when there is nothing to read.
    fn advance(&mut self) -> bool {
        match self.stage {
            Stage::Commands => self.advance_command(),
            Stage::Data(_) => self.advance_data(),
            Stage::Chunk(_) => self.advance_chunk(),
            Stage::AuthResponse => self.advance_auth(),
            Stage::Tls | Stage::Over => false,
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
            return self.write();
        }
        match self.stage {
            Stage::Over => ServerStep::Close,
            Stage::Tls => ServerStep::StartTls,
            _ => ServerStep::Read,
        }
    }

    /// The text of a line, if it is one; what is not is answered, or ends the session. `too_long` is the answer to a line
    /// that is.
    fn text_of(&mut self, line: Line, too_long: fn() -> Reply) -> Option<Vec<u8>> {
        match line {
            Line::Complete(text) => return Some(text),
            Line::TooLong { .. } => self.error(too_long()),
            Line::Nul { .. } => self.error(replies::nul_in_command()),
            Line::Endless => self.close_with(&too_long(), AbortReason::BadFraming),
            Line::BareNewline(fault) => {
                let reply = replies::bare_newline_in_command(fault);
                self.close_with(&reply, AbortReason::BadFraming);
            }
            Line::Tls => self.close_with(&replies::not_smtp(), AbortReason::BadFraming),
        }
        None
    }

    /// Whether the client said EHLO or LHLO.
    fn is_extended(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.extended)
    }

    fn reply(&mut self, reply: &Reply) {
        reply.encode(&mut self.output);
    }

    /// Answers a bad command, or ends the session when it was one too many or the reply says so.
    fn error(&mut self, reply: Reply) {
        self.counts.errors += 1;
        if reply.closes() {
            self.close_with(&reply, AbortReason::BadFraming);
        } else if self.counts.errors > MAX_ERRORS {
            self.too_many_errors();
        } else {
            self.reply(&reply);
        }
    }

    fn too_many_errors(&mut self) {
        let last = replies::too_many_errors(&self.config.hostname);
        self.close_with(&last, AbortReason::TooManyErrors);
    }

    fn write(&mut self) -> ServerStep {
        self.is_verdict = false;
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
