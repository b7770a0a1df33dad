//! The server session inside DATA: decodes, counts, and gives up early what will be refused.
//!
//! A message that is given up is read over to its honest end, so that its octets are never taken for commands.

use crate::data::DataState;
use crate::replies;

use super::{AbortReason, ServerSession, ServerStep, Stage};

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
            self.abort(reason);
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
                Some(reply) => reply.encode(&mut self.output),
                None => self.steps.push_back(ServerStep::EndOfData),
            },
            stage => self.stage = stage,
        }
    }
}
