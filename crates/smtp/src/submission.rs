//! What a submission server may complete in a header (RFC 6409 8): Date and Message-ID that the client left out.
//!
//! Only for mail that starts here: mail that is relayed is never touched but for its trace (RFC 5321 6.4). Nothing that
//! is there is changed. The shell writes its `Received` field when data begins, passes the body through a
//! [`HeaderFilter`], and writes the fields that are missing when the filter says which, so that they stand between
//! `Received` and what the client wrote.
//!
//! Limits: the header is held back until it has ended, at most [`MAX_HELD`] octets of it. A larger one is passed on with
//! nothing said to be missing: a second Date or Message-ID would be worse than none.

use crate::trace::HeaderScan;

/// So many octets of a header are held back, and up to one piece more.
pub const MAX_HELD: usize = 64 * 1024;

/// Which fields a header lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Date, which every message has (RFC 5322 3.6); may be added (RFC 6409 8.2).
    pub date: bool,
    /// Message-ID, which every message should have; may be added (RFC 6409 8.3).
    pub message_id: bool,
    /// From, which every message has. Not to be made up: who it is from is the client's to say.
    pub from: bool,
}

/// What may go on to the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Nothing yet: the header goes on.
    Held,
    /// The header has ended. The fields that are added come first, then these octets.
    Header(Header),
    /// Octets behind the header.
    Body(Vec<u8>),
}

/// A header that was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it lacks; nothing if it was too large to be looked at.
    pub missing: Missing,
    /// Whether each line is a field or the continuation of one (RFC 5322 2.2). A message that begins with its text is
    /// not: fields in front of it would make it a header.
    pub is_well_formed: bool,
    /// The header, and what came behind it in the same piece.
    pub octets: Vec<u8>,
}

/// Holds the header of one message back until it is known what it lacks. The octets that come out are those that went in,
/// in their order.
#[derive(Debug, Default)]
pub struct HeaderFilter {
    scan: HeaderScan,
    held: Vec<u8>,
    is_over: bool,
}

impl HeaderFilter {
    /// A filter at the start of a message.
    pub fn new() -> HeaderFilter {
        HeaderFilter::default()
    }

    /// Takes the next piece of the message.
    pub fn feed(&mut self, piece: Vec<u8>) -> Passed {
        if self.is_over {
            return Passed::Body(piece);
        }
        self.scan.feed(&piece);
        self.held.extend_from_slice(&piece);
        if self.scan.ended() || self.held.len() > MAX_HELD {
            Passed::Header(self.release())
        } else {
            Passed::Held
        }
    }

    /// The message is over. Gives its header, unless that was given before: a message without an empty line is all header.
    pub fn finish(&mut self) -> Option<Header> {
        (!self.is_over).then(|| self.release())
    }

    fn release(&mut self) -> Header {
        self.is_over = true;
        let octets = std::mem::take(&mut self.held);
        let length = usize::try_from(self.scan.header_bytes()).unwrap_or(octets.len());
        let is_whole = self.scan.ended() || octets.len() <= MAX_HELD;
        let mut missing = Missing {
            date: is_whole,
            message_id: is_whole,
            from: is_whole,
        };
        let mut is_well_formed = true;
        let header = octets.get(..length).unwrap_or(&octets);
        for (number, line) in header.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
            match field_name(line) {
                _ if is_folded => is_well_formed &= number > 0,
                None => is_well_formed = false,
                Some(name) if name.eq_ignore_ascii_case(b"Date") => missing.date = false,
                Some(name) if name.eq_ignore_ascii_case(b"Message-ID") => {
                    missing.message_id = false;
                }
                Some(name) if name.eq_ignore_ascii_case(b"From") => missing.from = false,
                Some(_) => {}
            }
        }
        Header {
            missing,
            is_well_formed,
            octets,
        }
    }
}

/// The name of a field: printable ASCII but the colon (RFC 5322 2.2), with white space behind it allowed (RFC 5322 4.5).
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = line[..memchr::memchr(b':', line)?].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// The fields that may be added, for what is missing: Date in the form of RFC 5322 3.3, and Message-ID of an id without
/// its brackets.
pub fn added_fields(missing: Missing, date: &str, message_id: &str) -> Vec<u8> {
    debug_assert!(!date.contains(['\r', '\n']) && !message_id.contains(['\r', '\n', ' ']));
    let mut fields = String::new();
    if missing.date {
        fields.push_str(&format!("Date: {date}\r\n"));
    }
    if missing.message_id {
        fields.push_str(&format!("Message-ID: <{message_id}>\r\n"));
    }
    fields.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out, and the header that was found.
    fn filter(message: &[u8], piece: usize) -> (Vec<u8>, Header) {
        let mut filter = HeaderFilter::new();
        let (mut out, mut found) = (Vec::new(), None);
        for piece in message.chunks(piece) {
            match filter.feed(piece.to_vec()) {
                Passed::Held => {}
                Passed::Header(header) => {
                    out.extend_from_slice(&header.octets);
                    assert!(found.replace(header).is_none());
                }
                Passed::Body(octets) => out.extend(octets),
            }
        }
        if let Some(header) = filter.finish() {
            out.extend_from_slice(&header.octets);
            assert!(found.replace(header).is_none());
        }
        (out, found.unwrap())
    }

    #[test]
    fn what_is_missing_is_found_whatever_the_pieces() {
        let lacks = |date, message_id, from| Missing {
            date,
            message_id,
            from,
        };
        for (message, missing, is_well_formed) in [
            ("", lacks(true, true, true), true),
            ("\r\ntext\r\n", lacks(true, true, true), true),
            (
                "date : x\r\nMESSAGE-ID: <a@b>\r\nFrom:\r\n\tDate: y\r\n\r\ntext\r\n",
                lacks(false, false, false),
                true,
            ),
            (
                "From: a@b.example\r\nSubject: Date: x\r\n Message-ID: y\r\n\r\nDate: x\r\n",
                lacks(true, true, false),
                true,
            ),
            (
                "Received: x\r\nDate: y\r\nX-Message-ID: z\r\n",
                lacks(false, true, true),
                true,
            ),
            (
                "Hello,\r\nFrom: me\r\n\r\n",
                lacks(true, true, false),
                false,
            ),
            (" folded: x\r\n\r\n", lacks(true, true, true), false),
            ("a b: x\r\n\r\n", lacks(true, true, true), false),
        ] {
            for piece in [1, 2, 5, 1000] {
                let (out, header) = filter(message.as_bytes(), piece);
                assert_eq!(out, message.as_bytes());
                let got = (header.missing, header.is_well_formed);
                assert_eq!(got, (missing, is_well_formed), "{message:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_header_too_large_to_be_held_is_passed_on_as_it_is() {
        let message = format!(
            "{}\r\ntext\r\n",
            "X-Filler: and more of it\r\n".repeat(4000)
        );
        let (out, header) = filter(message.as_bytes(), 1000);
        assert_eq!(out, message.as_bytes());
        assert_eq!(header.missing, Missing::default());
        assert!(header.octets.len() <= MAX_HELD + 1000);
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let date = "Thu, 21 May 1998 05:33:29 -0700";
        let mut missing = Missing {
            date: true,
            message_id: true,
            from: true,
        };
        assert_eq!(
            String::from_utf8(added_fields(missing, date, "1@relay.test")).unwrap(),
            "Date: Thu, 21 May 1998 05:33:29 -0700\r\nMessage-ID: <1@relay.test>\r\n"
        );
        missing.date = false;
        missing.message_id = false;
        assert!(added_fields(missing, date, "1@relay.test").is_empty());
    }
}
