//! The server session between messages: one command line at a time, and whether it is allowed now (RFC 5321 4.1.4).

use crate::command::{Command, MailParameters};
use crate::ehlo;
use crate::framing::Line;
use crate::path::{ForwardPath, ReversePath};
use crate::replies;
use crate::reply::Reply;

use super::{AbortReason, Hello, MAX_ERRORS, ServerSession, ServerStep, Stage};

impl ServerSession {
    /// Reads one command; false when no complete line is there.
    pub(super) fn advance_command(&mut self) -> bool {
        let Some(line) = self.input.next_line() else {
            return false;
        };
        match line {
            Line::Complete(line) => self.command(&line),
            Line::TooLong => self.error(replies::line_too_long()),
            Line::Nul => self.error(replies::nul_in_command()),
            Line::Endless => {
                self.close_with(&replies::line_too_long(), AbortReason::BadFraming);
            }
            Line::BareNewline(fault) => {
                let reply = replies::bare_newline_in_command(fault);
                self.close_with(&reply, AbortReason::BadFraming);
            }
            Line::Tls => self.close_with(&replies::not_smtp(), AbortReason::BadFraming),
        }
        true
    }

    fn command(&mut self, line: &[u8]) {
        if !self.config.etrn && Command::verb(line).eq_ignore_ascii_case(b"ETRN") {
            return self.error(replies::not_implemented());
        }
        match Command::parse(line) {
            Err(reply) => self.error(reply),
            Ok(Command::Ehlo(name)) => self.hello(name, true),
            Ok(Command::Helo(name)) => self.hello(name, false),
            Ok(Command::Mail {
                reverse_path,
                parameters,
            }) => self.mail(reverse_path, parameters),
            Ok(Command::Rcpt(path)) => self.rcpt(path),
            Ok(Command::Data) => self.data(),
            Ok(Command::Rset) => {
                self.abort(AbortReason::Reset);
                self.reply(&replies::ok());
            }
            Ok(Command::Noop) => self.reply(&replies::ok()),
            Ok(Command::Vrfy) => self.reply(&replies::not_verified()),
            Ok(Command::Help) => self.reply(&replies::help()),
            Ok(Command::Quit) => {
                let reply = replies::closing(&self.config.hostname);
                self.close_with(&reply, AbortReason::Quit);
            }
            Ok(Command::Etrn(node)) => match self.etrn_refusal() {
                Some(reply) => self.error(reply),
                None => self.steps.push_back(ServerStep::Etrn(node)),
            },
        }
    }

    fn hello(&mut self, name: Vec<u8>, extended: bool) {
        self.abort(AbortReason::NewHello);
        self.hello = Some(Hello { name, extended });
        let config = &self.config;
        let reply = if extended {
            ehlo::offer(&config.hostname, config.size_limit, config.etrn)
        } else {
            replies::hello(&config.hostname)
        };
        self.reply(&reply);
    }

    fn mail(&mut self, reverse_path: ReversePath, parameters: MailParameters) {
        if self.hello.is_none() {
            return self.error(replies::out_of_order("send EHLO first"));
        }
        if self.open.is_some() {
            return self.error(replies::out_of_order("sender already given"));
        }
        let limit = self.config.size_limit;
        if parameters.size.is_some_and(|size| size > limit) {
            return self.reply(&replies::too_large(limit));
        }
        self.steps.push_back(ServerStep::Mail {
            reverse_path,
            size: parameters.size,
            eight_bit: parameters.eight_bit.unwrap_or(false),
        });
    }

    fn rcpt(&mut self, path: ForwardPath) {
        match &self.open {
            None => self.error(replies::out_of_order("send MAIL first")),
            Some(open) if open.recipients >= self.config.max_recipients => {
                self.reply(&replies::too_many_recipients());
            }
            Some(_) => self.steps.push_back(ServerStep::Recipient(path)),
        }
    }

    fn data(&mut self) {
        match &self.open {
            None => self.error(replies::out_of_order("send MAIL first")),
            Some(open) if open.recipients == 0 => self.reply(&replies::no_valid_recipients()),
            Some(_) => self.steps.push_back(ServerStep::BeginData),
        }
    }

    fn etrn_refusal(&self) -> Option<Reply> {
        if self.hello.is_none() {
            Some(replies::out_of_order("send EHLO first"))
        } else if self.open.is_some() {
            Some(replies::out_of_order("ETRN within a transaction"))
        } else {
            None
        }
    }

    fn reply(&mut self, reply: &Reply) {
        reply.encode(&mut self.output);
    }

    /// Answers a bad command, or ends the session when it was one too many or the reply says so.
    fn error(&mut self, reply: Reply) {
        self.errors += 1;
        if reply.closes() {
            self.close_with(&reply, AbortReason::BadFraming);
        } else if self.errors > MAX_ERRORS {
            let last = replies::too_many_errors(&self.config.hostname);
            self.close_with(&last, AbortReason::TooManyErrors);
        } else {
            self.reply(&reply);
        }
        debug_assert!(!matches!(self.stage, Stage::Data(_)));
    }
}
