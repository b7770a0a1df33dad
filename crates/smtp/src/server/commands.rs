//! The server session between messages: one command line at a time, and whether it is allowed now (RFC 5321 4.1.4).

use crate::command::{Command, Grammar};
use crate::parameters::{Extensions, MailParameters, RcptParameters};
use crate::path::{ForwardPath, ReversePath};
use crate::replies;
use crate::reply::Reply;

use super::{AbortReason, Hello, Lost, ServerSession, ServerStep};

impl ServerSession {
    /// Reads one command; false when no complete line is there.
    pub(super) fn advance_command(&mut self) -> bool {
        let Some(line) = self.input.next_line() else {
            return false;
        };
        self.counts.idle_commands += 1;
        if line.hides_chunk() {
            self.close_with(&replies::malformed_chunk(), AbortReason::BadFraming);
        } else if let Some(text) = self.text_of(line, replies::line_too_long) {
            self.command(&text);
        }
        true
    }

    fn command(&mut self, line: &[u8]) {
        let grammar = self.grammar();
        let command = match Command::parse(line, &grammar) {
            Ok(command) => command,
            Err(reply) => {
                let is_mail = Command::verb(line).eq_ignore_ascii_case(b"MAIL");
                if is_mail && self.open.is_none() {
                    self.lost = Some(Lost::default());
                }
                return self.error(reply);
            }
        };
        if let Some((reply, reason)) = self.closed_out(&command) {
            return self.close_with(&reply, reason);
        }
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail {
                reverse_path,
                parameters,
            } => self.mail(reverse_path, parameters),
            Command::Rcpt {
                forward_path,
                parameters,
            } => self.rcpt(forward_path, parameters),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Rset => {
                self.abort(AbortReason::Reset);
                self.lost = None;
                self.reply(&replies::ok());
            }
            Command::Noop => self.reply(&replies::ok()),
            Command::Vrfy => self.reply(&replies::not_verified()),
            Command::Help => self.reply(&replies::help()),
            Command::Quit => {
                let reply = replies::closing(&self.config.hostname);
                self.close_with(&reply, AbortReason::Quit);
            }
            Command::Etrn(node) => match self.etrn_refusal() {
                Some(reply) => self.error(reply),
                None => self.steps.push_back(ServerStep::Etrn(node)),
            },
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
        }
    }

    /// What a line is read by now. After HELO there are no parameters but those that every server takes.
    fn grammar(&self) -> Grammar {
        let known = self.config.extensions();
        let extended = self.is_extended();
        Grammar {
            extensions: Extensions {
                dsn: known.dsn && extended,
                smtputf8: known.smtputf8 && extended,
                mt_priority: known.mt_priority && extended,
                deliver_by: known.deliver_by && extended,
                xlinkmail: (self.is_peer() || self.may_become_peer()) && extended,
                ..known
            },
            utf8: self.open.as_ref().is_some_and(|open| open.smtputf8),
            lmtp: self.config.lmtp,
        }
    }

    /// Why the session ends instead of doing this command, if it does.
    fn closed_out(&self, command: &Command) -> Option<(Reply, AbortReason)> {
        if self.counts.idle_commands > self.config.max_idle_commands {
            let reply = replies::too_many_commands(&self.config.hostname);
            return Some((reply, AbortReason::TooManyCommands));
        }
        // What follows BDAT is its chunk. Anything else waits for its reply, unless PIPELINING was offered and the
        // command may stand within a group (RFC 2920 3.1).
        let may_be_followed = matches!(command, Command::Bdat { .. })
            || self.is_extended() && command.may_be_followed();
        if self.config.strict_pipelining && !may_be_followed && !self.input.unread().is_empty() {
            return Some((replies::out_of_turn(), AbortReason::OutOfTurn));
        }
        None
    }

    fn hello(&mut self, name: Vec<u8>, extended: bool) {
        self.abort(AbortReason::NewHello);
        self.lost = None;
        self.hello = Some(Hello { name, extended });
        let reply = if extended {
            self.offer().reply()
        } else {
            replies::hello(&self.config.hostname)
        };
        self.reply(&reply);
    }

    fn mail(&mut self, reverse_path: ReversePath, mut parameters: MailParameters) {
        if self.hello.is_none() {
            return self.error(replies::out_of_order("send EHLO first"));
        }
        self.counts.messages += 1;
        if self
            .config
            .max_messages
            .is_some_and(|most| self.counts.messages > most)
        {
            let reply = replies::too_many_messages(&self.config.hostname);
            return self.close_with(&reply, AbortReason::TooManyCommands);
        }
        if self.open.is_some() {
            return self.error(replies::out_of_order("sender already given"));
        }
        #[cfg(not(linkmail_planted_bug = "server_session"))]
        {
            self.lost = Some(Lost::default());
        }
        if let Some(reply) = self.security_refusal() {
            return self.error(reply);
        }
        // AUTH= belongs to an extension that is offered only where a mechanism is (RFC 4954 3).
        if parameters.submitter.is_some() && self.mechanisms().is_empty() {
            return self.error(replies::unknown_parameter());
        }
        let limit = self.config.size_limit;
        if parameters.size.is_some_and(|size| size > limit) {
            return self.reply(&replies::too_large(limit));
        }
        let least = self.config.deliver_by.unwrap_or(0);
        if parameters
            .deliver_by
            .is_some_and(|by| !by.is_taken_with(least))
        {
            return self.reply(&replies::too_little_time(least));
        }
        if !self.is_peer() {
            // What EHLO offers is taken (RFC 5321 4.1.1.11), and an id of a client that is not known yet says nothing.
            parameters.peer_id = None;
        }
        self.steps.push_back(ServerStep::Mail {
            reverse_path,
            parameters,
        });
    }

    fn rcpt(&mut self, forward_path: ForwardPath, parameters: RcptParameters) {
        match &self.open {
            None => self.no_transaction(),
            // A recipient that came late would have less than the message.
            Some(open) if open.text.is_some() => {
                self.error(replies::out_of_order("RCPT after BDAT"));
            }
            Some(open) if open.recipients >= self.config.max_recipients => {
                self.reply(&replies::too_many_recipients());
            }
            Some(_) => self.steps.push_back(ServerStep::Recipient {
                forward_path,
                parameters,
            }),
        }
    }

    fn data(&mut self) {
        match &self.open {
            None => self.no_transaction(),
            // RFC 3030 2: DATA and BDAT do not mix in a transaction.
            Some(open) if open.text.is_some() => {
                self.error(replies::out_of_order("DATA after BDAT"));
            }
            Some(open) if open.recipients == 0 => {
                let reply = self.no_recipients();
                self.reply(&reply);
            }
            Some(_) => self.steps.push_back(ServerStep::BeginData),
        }
    }

    /// 554 (RFC 5321 4.1.1.4), and with LMTP 503 (RFC 2033 4.2).
    pub(super) fn no_recipients(&self) -> Reply {
        if self.config.lmtp {
            replies::out_of_order("no valid recipients")
        } else {
            replies::no_valid_recipients()
        }
    }

    /// 503 to what needs a transaction. Behind a MAIL that was refused it is no mistake.
    fn no_transaction(&mut self) {
        let reply = replies::out_of_order("send MAIL first");
        match self.lost {
            Some(_) => self.reply(&reply),
            None => self.error(reply),
        }
    }

    fn etrn_refusal(&self) -> Option<Reply> {
        if self.hello.is_none() {
            Some(replies::out_of_order("send EHLO first"))
        } else if self.open.is_some() {
            Some(replies::out_of_order("ETRN within a transaction"))
        } else {
            self.security_refusal()
        }
    }

    /// 530 while TLS or AUTH is wanted and not there (RFC 3207 4, RFC 4954 6).
    fn security_refusal(&self) -> Option<Reply> {
        if self.config.require_tls && !self.tls {
            Some(replies::tls_required())
        } else if self.config.require_auth && self.identity.is_none() {
            Some(replies::authentication_required())
        } else {
            None
        }
    }
}
