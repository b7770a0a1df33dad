//! The server session inside DATA: decodes, counts, and gives up early what will be refused.
//!
//! A message that is given up is read over to its honest end, so that its octets are never taken for commands.

use crate::data::{DataDecoder, DataState};
use crate::replies;
use crate::reply::Reply;

use super::{AbortReason, Lost, ServerSession, ServerStep, Stage};

/// The data that is being received.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    decoder: DataDecoder,
    bytes: u64,
    /// What the end of data will be answered with, if the message was given up on the way.
    refusal: Option<Reply>,
}

impl ServerSession {
    /// Decodes what was received; false when nothing is there.
    pub(super) fn advance_data(&mut self) -> bool {
        let Stage::Data(receiving) = &mut self.stage else {
            return false;
        };
        let unread = self.input.unread();
        if unread.is_empty() {
            return false;
        }
        let mut body = Vec::with_capacity(unread.len());
        let decoded = receiving.decoder.decode(unread, &mut body);
        self.input.consume(decoded.consumed);
        receiving.bytes += body.len() as u64;
        let mut give_up = None;
        if receiving.refusal.is_none() {
            if receiving.bytes > self.config.size_limit {
                receiving.refusal = Some(replies::too_large(self.config.size_limit));
                give_up = Some(AbortReason::TooLarge);
            } else if let Some(fault) = receiving.decoder.fault() {
                receiving.refusal = Some(replies::bad_body(fault));
                give_up = Some(AbortReason::BadBody(fault));
            } else if !body.is_empty() {
                self.steps.push_back(ServerStep::Body(body));
            }
        }
        if let Some(reason) = give_up {
            self.lose(reason, None);
        }
        match decoded.state {
            DataState::Open => {}
            DataState::Ended => self.end_of_data(),
            DataState::Malformed => {
                let reply = replies::malformed_end_of_data();
                self.close_with(&reply, AbortReason::MalformedEnd);
            }
        }
        true
    }

    fn end_of_data(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Commands);
        match stage {
            Stage::Data(receiving) => match receiving.refusal {
                Some(reply) => {
                    self.refuse_message(&reply);
                    self.lost = None;
                }
                None => self.steps.push_back(ServerStep::EndOfData),
            },
            stage => self.stage = stage,
        }
    }

    /// Ends the transaction without its message, and remembers what it was.
    pub(super) fn lose(&mut self, reason: AbortReason, chunk: Option<Reply>) {
        if let Some(open) = &self.open {
            self.lost = Some(Lost {
                recipients: open.recipients,
                chunk,
            });
        }
        self.abort(reason);
    }

    /// The answer where a message ends that was lost: with LMTP once for each recipient that was accepted (RFC 2033 4.2).
    pub(super) fn refuse_message(&mut self, reply: &Reply) {
        let recipients = match &self.lost {
            Some(lost) if self.config.lmtp => lost.recipients.max(1),
            _ => 1,
        };
        for _ in 0..recipients {
            self.reply(reply);
        }
        self.is_verdict = true;
    }
}
