//! The server session inside BDAT (RFC 3030 2): a message in chunks whose size is told.
//!
//! The octets of a chunk are consumed whatever becomes of it, so that they are never taken for commands, and each chunk
//! has its reply. The first refusal ends the transaction: a further chunk is refused until the message is begun anew, or
//! the client could believe that a message without its middle was taken.
//!
//! A message that does not end in CRLF gets one: it is not the text that RFC 3030 has in mind, but Exim mends it in the
//! same way, and DATA could not carry the message on otherwise. These two octets are all that is ever added to a body, and
//! they do not count against the size limit.

use crate::data::TextCheck;
use crate::replies;
use crate::reply::{Reply, Severity};

use super::{AbortReason, Lost, ServerSession, ServerStep, Stage};

/// The chunk that is being received.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Octets that are still to come.
    left: u64,
    size: u64,
    last: bool,
    refusal: Option<Refusal>,
}

/// What the end of the chunk will be answered with.
#[derive(Debug)]
struct Refusal {
    reply: Reply,
    /// Whether it was a mistake of the client, and counts as one.
    is_error: bool,
}

impl Refusal {
    fn of(reply: Reply) -> Option<Refusal> {
        Some(Refusal {
            reply,
            is_error: false,
        })
    }
}

impl ServerSession {
    pub(super) fn bdat(&mut self, size: u64, last: bool) {
        let refusal = self.chunk_refusal(size);
        if refusal.is_none() {
            let is_first = self.open.as_ref().is_some_and(|open| open.text.is_none());
            if is_first {
                self.steps.push_back(ServerStep::BeginData);
            }
            if size > 0 {
                // A chunk brings a message on; one of nothing could come for ever.
                self.counts.idle_commands = self.counts.idle_commands.saturating_sub(1);
            }
        }
        self.stage = Stage::Chunk(Chunk {
            left: size,
            size,
            last,
            refusal,
        });
    }

    /// Why the chunk is refused before its octets are seen, if it is.
    fn chunk_refusal(&mut self, size: u64) -> Option<Refusal> {
        let limit = self.config.size_limit;
        match (&self.open, &self.lost) {
            // A client that looks at its last chunk alone must not take "not now" for "never".
            (
                None,
                Some(Lost {
                    chunk: Some(first), ..
                }),
            ) => Refusal::of(match first.severity() {
                Severity::Transient => first.clone(),
                _ => replies::chunk_behind_refusal(),
            }),
            (None, lost) => Some(Refusal {
                reply: replies::out_of_order("send MAIL first"),
                is_error: lost.is_none(),
            }),
            (Some(open), _) if open.recipients == 0 => {
                let reply = self.no_recipients();
                self.lose(AbortReason::NoRecipients, Some(reply.clone()));
                Refusal::of(reply)
            }
            (Some(open), _) => {
                let before = open.text.as_ref().map_or(0, TextCheck::seen);
                #[cfg(linkmail_planted_bug = "bdat")]
                let (before, size) = (0_u64, before.wrapping_add(size));
                if before.checked_add(size).is_some_and(|whole| whole <= limit) {
                    return None;
                }
                let reply = replies::too_large(limit);
                self.lose(AbortReason::TooLarge, Some(reply.clone()));
                Refusal::of(reply)
            }
        }
    }

    /// The answer to [`ServerStep::BeginData`] in front of the first chunk. The client hears of a refusal behind the chunk.
    pub(super) fn first_chunk(&mut self, reply: Reply) {
        if reply.closes() {
            return self.close_with(&reply, AbortReason::Refused);
        }
        if reply.severity() == Severity::Intermediate {
            if let Some(open) = &mut self.open {
                open.text = Some(TextCheck::new());
            }
        } else {
            self.refuse_chunk(reply, AbortReason::Refused);
        }
    }

    fn refuse_chunk(&mut self, reply: Reply, reason: AbortReason) {
        self.lose(reason, Some(reply.clone()));
        if let Stage::Chunk(chunk) = &mut self.stage {
            chunk.refusal = Refusal::of(reply);
        }
    }

    /// Takes what was received of the chunk; false when nothing is there.
    pub(super) fn advance_chunk(&mut self) -> bool {
        let Stage::Chunk(chunk) = &mut self.stage else {
            return false;
        };
        let unread = self.input.unread();
        if chunk.left > 0 && unread.is_empty() {
            return false;
        }
        let count = usize::try_from(chunk.left).map_or(unread.len(), |left| left.min(unread.len()));
        chunk.left -= count as u64;
        let ended = chunk.left == 0;
        let mut fault = None;
        if chunk.refusal.is_none() && count > 0 {
            let piece = unread[..count].to_vec();
            let text = self.open.as_mut().and_then(|open| open.text.as_mut());
            match text.map_or(Ok(()), |text| text.feed(&piece)) {
                Ok(()) => self.steps.push_back(ServerStep::Body(piece)),
                Err(bad) => fault = Some(bad.fault),
            }
        }
        self.input.consume(count);
        if let Some(fault) = fault {
            self.refuse_chunk(replies::bad_body(fault), AbortReason::BadBody(fault));
        }
        if ended {
            self.end_of_chunk();
        }
        true
    }

    fn end_of_chunk(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Commands);
        let Stage::Chunk(chunk) = stage else {
            self.stage = stage;
            return;
        };
        match chunk.refusal {
            Some(refusal) if refusal.is_error => self.error(refusal.reply),
            Some(refusal) if chunk.last => self.refuse_message(&refusal.reply),
            Some(refusal) => self.reply(&refusal.reply),
            None if chunk.last => self.end_of_chunks(),
            None => self.reply(&replies::chunk_received(chunk.size)),
        }
    }

    /// The message is complete, unless it ends in the middle of a line end.
    fn end_of_chunks(&mut self) {
        let Some(text) = self.open.as_ref().and_then(|open| open.text.as_ref()) else {
            return;
        };
        let ends_line = text.ends_line();
        if let Err(bad) = text.finish() {
            let reply = replies::bad_body(bad.fault);
            self.lose(AbortReason::BadBody(bad.fault), Some(reply.clone()));
            return self.refuse_message(&reply);
        }
        if !ends_line {
            self.steps.push_back(ServerStep::Body(b"\r\n".to_vec()));
        }
        self.steps.push_back(ServerStep::EndOfData);
    }
}
