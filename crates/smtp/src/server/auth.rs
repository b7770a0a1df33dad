//! AUTH (RFC 4954): the exchange as lines of base64. What the lines mean is the shell's.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::framing::MAX_AUTH_LINE;
use crate::replies;
use crate::reply::{Reply, Severity};

use super::{AbortReason, AuthAnswer, ServerSession, ServerStep, Stage};

impl ServerSession {
    /// The mechanisms that are offered on this connection as it is.
    pub(super) fn mechanisms(&self) -> &[String] {
        if self.tls {
            &self.config.auth_in_tls
        } else {
            &self.config.auth_in_clear
        }
    }

    pub(super) fn auth(&mut self, mechanism: String, initial: Option<Vec<u8>>) {
        match self.auth_refusal(&mechanism) {
            Some(reply) => self.error(reply),
            None => self
                .steps
                .push_back(ServerStep::Auth { mechanism, initial }),
        }
    }

    fn auth_refusal(&self, mechanism: &String) -> Option<Reply> {
        if !self.is_extended() {
            Some(replies::out_of_order("send EHLO first"))
        } else if self.identity.is_some() {
            // RFC 4954 4: once only, and not within a transaction.
            Some(replies::out_of_order("already authenticated"))
        } else if self.open.is_some() {
            Some(replies::out_of_order("AUTH within a transaction"))
        } else if self.mechanisms().contains(mechanism) {
            None
        } else if !self.tls && self.config.auth_in_tls.contains(mechanism) {
            Some(replies::encryption_required())
        } else {
            Some(replies::unknown_mechanism())
        }
    }

    pub(super) fn auth_answered(&mut self, answer: AuthAnswer) {
        self.stage = Stage::Commands;
        match answer {
            AuthAnswer::Challenge(challenge) => {
                // Written as it is: a challenge may be longer than a line of any other reply (RFC 4954 4).
                let line = format!("334 {}\r\n", BASE64.encode(&challenge));
                self.output.extend_from_slice(line.as_bytes());
                self.stage = Stage::AuthResponse;
            }
            AuthAnswer::Accepted { identity } => {
                self.identity = Some(identity);
                self.reply(&replies::authenticated());
            }
            AuthAnswer::Refused(reply) => {
                self.counts.auth_failures += usize::from(reply.severity() == Severity::Permanent);
                if reply.closes() {
                    self.close_with(&reply, AbortReason::Refused);
                } else if self.counts.auth_failures > self.config.max_auth_failures {
                    let last = replies::too_many_attempts(&self.config.hostname);
                    self.close_with(&last, AbortReason::TooManyErrors);
                } else {
                    self.reply(&reply);
                }
            }
        }
    }

    /// Reads the client's response; false when no complete line is there. A line that is none ends the exchange, of which
    /// the shell hears nothing: the next AUTH begins another.
    pub(super) fn advance_auth(&mut self) -> bool {
        let Some(line) = self.input.next_line_within(MAX_AUTH_LINE) else {
            return false;
        };
        self.stage = Stage::Commands;
        if let Some(text) = self.text_of(line, replies::response_too_long) {
            if self.config.strict_pipelining && !self.input.unread().is_empty() {
                self.close_with(&replies::out_of_turn(), AbortReason::OutOfTurn);
                return true;
            }
            // RFC 4954 4: `*` cancels, and an empty line is an empty response.
            match BASE64.decode(&text).ok() {
                Some(response) => self.steps.push_back(ServerStep::AuthResponse(response)),
                None if text == b"*" => self.error(replies::authentication_cancelled()),
                None => self.error(replies::bad_base64()),
            }
        }
        true
    }
}
