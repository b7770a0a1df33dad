//! The content of a message on its way out: whole, in a flight, or piece by piece; by BDAT or by DATA.

use crate::data::{BadBody, DataEncoder, TextCheck};

use super::{Awaited, ClientSession, CloseReason};

/// Where the content of a message comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is all here, and may ride in a flight.
    Whole(Vec<u8>),
    /// The shell gives it piece by piece once [`super::ClientStep::SendBody`] asks for it, after the envelope was
    /// accepted; so a large message does not cross the line for recipients that are refused.
    Streamed,
}

/// A message that is given piece by piece.
#[derive(Debug)]
pub(super) enum Streaming {
    /// As DATA, after 354.
    Dotted(DataEncoder),
    /// In chunks.
    Chunked(TextCheck),
}

impl ClientSession {
    /// The next piece of the message, after [`super::ClientStep::SendBody`]; the steps that follow write it.
    ///
    /// Errors: the message cannot be sent. Nothing from the bad byte on and no end of data is ever written; its
    /// recipients get [`super::RecipientOutcome::BadBody`]. By DATA the session is over then, for nothing but closing ends
    /// it. Outside of SendBody nothing is taken.
    pub fn body(&mut self, piece: &[u8]) -> Result<(), BadBody> {
        let result = match &mut self.streaming {
            None => return Ok(()),
            Some(Streaming::Dotted(encoder)) => encoder.encode(piece, &mut self.output),
            Some(Streaming::Chunked(check)) => check.feed(piece),
        };
        match result {
            Err(bad) => {
                self.bad_body(bad);
                Err(bad)
            }
            Ok(()) => {
                if matches!(self.streaming, Some(Streaming::Chunked(_))) && !piece.is_empty() {
                    self.chunk(piece, b"", false);
                }
                Ok(())
            }
        }
    }

    /// Ends the message: the end of data is written and its reply awaited. Errors: as [`ClientSession::body`].
    pub fn end_body(&mut self) -> Result<(), BadBody> {
        let result = match &mut self.streaming {
            None => return Ok(()),
            Some(Streaming::Dotted(encoder)) => encoder.finish(&mut self.output).map(|()| false),
            Some(Streaming::Chunked(check)) => check.finish().map(|()| !check.ends_line()),
        };
        match (result, self.streaming.take()) {
            (Err(bad), streaming) => {
                self.streaming = streaming;
                self.bad_body(bad);
                Err(bad)
            }
            (Ok(lacks_end), Some(Streaming::Chunked(_))) => {
                self.chunk(if lacks_end { b"\r\n" } else { b"" }, b"", true);
                Ok(())
            }
            (Ok(_), _) => {
                self.end_sent();
                self.await_reply(Awaited::End);
                Ok(())
            }
        }
    }

    /// Gives up the message that is being sent piece by piece: its source failed. Nothing of it is delivered; by DATA the
    /// session is over.
    pub fn abandon_body(&mut self, why: &str) {
        match self.streaming.take() {
            None => {}
            Some(Streaming::Dotted(_)) => self.die(CloseReason::Abandoned(why.to_owned())),
            Some(Streaming::Chunked(_)) => {
                self.give_up_sending(super::flying::Fault::Source(why.to_owned()));
            }
        }
    }

    /// The number of the message whose next piece can go out now.
    pub(super) fn awaits_body(&self) -> Option<u64> {
        let may_send = match &self.streaming {
            None => false,
            Some(Streaming::Dotted(_)) => self.awaited.is_empty(),
            Some(Streaming::Chunked(_)) => self.awaited.is_empty() || self.pipelining(),
        };
        let newest = self.flying.back().map(|flying| flying.number);
        newest.filter(|_| may_send)
    }

    fn bad_body(&mut self, bad: BadBody) {
        self.give_up_sending(super::flying::Fault::Body(bad));
        if matches!(self.streaming.take(), Some(Streaming::Dotted(_))) {
            self.die(CloseReason::BadBody(bad));
        }
    }

    /// Writes the whole content of the transaction that is being sent, which is known to be good text.
    pub(super) fn send_whole(&mut self, content: &[u8], ends_line: bool) {
        self.chunk(content, if ends_line { b"" } else { b"\r\n" }, true);
    }

    /// `BDAT n [LAST]` with its octets (RFC 3030 2).
    fn chunk(&mut self, octets: &[u8], tail: &[u8], last: bool) {
        let size = octets.len() + tail.len();
        let end = if last { " LAST" } else { "" };
        let line = format!("BDAT {size}{end}\r\n");
        self.output.reserve(line.len() + size);
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(octets);
        self.output.extend_from_slice(tail);
        if last {
            self.end_sent();
        }
        self.await_reply(if last { Awaited::End } else { Awaited::Chunk });
    }
}
