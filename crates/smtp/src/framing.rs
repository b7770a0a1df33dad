//! Where a command line ends: at CRLF and nowhere else (RFC 5321 2.3.8, 4.1.1).
//!
//! A bare CR or LF is never a line end and never part of a line: two servers that disagree about it read different
//! commands. Memory is bounded: of a line that is too long nothing is kept, and one without end is given up. The result
//! depends on the bytes alone, not on the pieces in which they came.

use crate::data::Fault;

/// The longest command line that is read, without its CRLF: the 512 octets of RFC 5321 4.5.3.1.4, what the extensions add
/// (the most with MAIL: SIZE 26, BODY 17, SMTPUTF8 10, RET 9, ENVID 107, AUTH 506, XLMID 43), and room for the parameters
/// of those that are not offered, so that they get their 555.
pub const MAX_LINE: usize = 2048;
/// The longest line that is read while an AUTH exchange is under way, without its CRLF (RFC 4954 4).
pub const MAX_AUTH_LINE: usize = 12288 - 2;
/// A line of more octets than this is not waited for to end.
const MAX_SKIPPED: usize = 64 * 1024;

/// What stands next in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A line, without its CRLF. No CR, LF or NUL is in it.
    Complete(Vec<u8>),
    /// A line of more octets than are allowed was read over.
    TooLong {
        /// It begins like BDAT: how much of a chunk stands behind it is not known.
        is_bdat: bool,
    },
    /// A line with a NUL was read over.
    Nul {
        /// As with [`Line::TooLong`].
        is_bdat: bool,
    },
    /// A line of more than 64 KiB: its end is not waited for, nothing more is read.
    Endless,
    /// A bare CR or LF: nothing more is read.
    BareNewline(Fault),
    /// The first two octets of a TLS record: nothing more is read.
    Tls,
}

impl Line {
    /// Whether octets of a chunk may follow, and nobody knows how many (RFC 3030 2).
    pub fn hides_chunk(&self) -> bool {
        matches!(
            self,
            Line::TooLong { is_bdat: true } | Line::Nul { is_bdat: true }
        )
    }
}

fn is_bdat(line: &[u8]) -> bool {
    let verb = line.get(..4);
    verb.is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
}

/// Cuts received bytes into command lines, and hands over what is not a command.
#[derive(Debug, Default)]
pub struct LineReader {
    buffer: Vec<u8>,
    read: usize,
    /// Octets of the line that was begun and is already too long; they are not kept.
    skipped: usize,
    /// A NUL was in the part that was skipped.
    skipped_nul: bool,
    /// That part began like BDAT.
    skipped_bdat: bool,
    /// Octets behind `read` that hold no CR and no LF.
    scanned: usize,
}

impl LineReader {
    /// A reader that has received nothing.
    pub fn new() -> LineReader {
        LineReader::default()
    }

    /// Takes what the client sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// What was received and not yet read, for the reader of message data.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.read..]
    }

    /// Marks the first `count` octets of [`LineReader::unread`] as read. Only at the start of a line.
    pub fn consume(&mut self, count: usize) {
        self.read = (self.read + count).min(self.buffer.len());
        self.scanned = 0;
    }

    /// Drops everything that was received and not read.
    pub fn clear(&mut self) {
        *self = LineReader::default();
    }

    /// The next line of a command, or nothing until more is received.
    pub fn next_line(&mut self) -> Option<Line> {
        self.next_line_within(MAX_LINE)
    }

    /// The next line, of up to `longest` octets; below 64 KiB, and the same until the line is there.
    pub fn next_line_within(&mut self, longest: usize) -> Option<Line> {
        let unread = &self.buffer[self.read..];
        if self.skipped == 0 && unread.starts_with(&[0x16, 0x03]) {
            self.clear();
            return Some(Line::Tls);
        }
        let found = memchr::memchr2(b'\r', b'\n', &unread[self.scanned..]);
        let Some(at) = found.map(|offset| self.scanned + offset) else {
            return self.keep_bounded(longest);
        };
        if self.skipped + at > MAX_SKIPPED {
            self.clear();
            return Some(Line::Endless);
        }
        let fault = match (unread[at], unread.get(at + 1)) {
            (b'\r', Some(b'\n')) => return Some(self.finish_line(at, longest)),
            (b'\r', None) => {
                self.scanned = at;
                return None;
            }
            (b'\r', Some(_)) => Fault::BareCr,
            _ => Fault::BareLf,
        };
        self.clear();
        Some(Line::BareNewline(fault))
    }

    fn finish_line(&mut self, at: usize, longest: usize) -> Line {
        let text = &self.buffer[self.read..self.read + at];
        let length = self.skipped + at;
        let has_nul = self.skipped_nul || memchr::memchr(0, text).is_some();
        let is_bdat = match self.skipped {
            0 => is_bdat(text),
            _ => self.skipped_bdat,
        };
        let line = if length > longest {
            Line::TooLong { is_bdat }
        } else if has_nul {
            Line::Nul { is_bdat }
        } else {
            Line::Complete(text.to_vec())
        };
        self.read += at + 2;
        self.scanned = 0;
        self.skipped = 0;
        self.skipped_nul = false;
        line
    }

    /// No line end is in sight: remembers how far was looked, and keeps nothing of a line that is too long already.
    fn keep_bounded(&mut self, longest: usize) -> Option<Line> {
        let unread = &self.buffer[self.read..];
        self.scanned = unread.len();
        if self.skipped + unread.len() > MAX_SKIPPED {
            self.clear();
            return Some(Line::Endless);
        }
        if self.skipped + unread.len() > longest {
            if self.skipped == 0 {
                self.skipped_bdat = is_bdat(unread);
            }
            self.skipped_nul |= memchr::memchr(0, unread).is_some();
            self.skipped += unread.len();
            self.buffer.clear();
            self.read = 0;
            self.scanned = 0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], piece: usize) -> Vec<Line> {
        let mut reader = LineReader::new();
        let mut lines = Vec::new();
        for piece in bytes.chunks(piece) {
            reader.receive(piece);
            while let Some(line) = reader.next_line() {
                let is_last = matches!(line, Line::Endless | Line::BareNewline(_) | Line::Tls);
                lines.push(line);
                if is_last {
                    return lines;
                }
            }
        }
        lines
    }

    #[test]
    fn the_pieces_do_not_matter() {
        let complete = |text: &str| Line::Complete(text.as_bytes().to_vec());
        let long = "x".repeat(MAX_LINE + 1);
        let exact = "x".repeat(MAX_LINE);
        let endless = "x".repeat(MAX_SKIPPED + 1);
        for (bytes, expected) in [
            (
                "NOOP\r\nQUIT\r\nre".to_owned(),
                vec![complete("NOOP"), complete("QUIT")],
            ),
            ("\r\n".to_owned(), vec![complete("")]),
            (format!("{exact}\r\n"), vec![complete(&exact)]),
            (
                format!("{long}\r\nQUIT\r\n"),
                vec![Line::TooLong { is_bdat: false }, complete("QUIT")],
            ),
            (
                format!("bdat {long}\r\nQUIT\r\nBDAT \01\r\n"),
                vec![
                    Line::TooLong { is_bdat: true },
                    complete("QUIT"),
                    Line::Nul { is_bdat: true },
                ],
            ),
            (
                "NO\0OP\r\nQUIT\r\n".to_owned(),
                vec![Line::Nul { is_bdat: false }, complete("QUIT")],
            ),
            (
                "NOOP\nQUIT\r\n".to_owned(),
                vec![Line::BareNewline(Fault::BareLf)],
            ),
            (
                "A\r\nNOOP\rQUIT\r\n".to_owned(),
                vec![complete("A"), Line::BareNewline(Fault::BareCr)],
            ),
            ("A\r\r\n".to_owned(), vec![Line::BareNewline(Fault::BareCr)]),
            (
                format!("{long}\nQUIT\r\n"),
                vec![Line::BareNewline(Fault::BareLf)],
            ),
            (format!("{endless}\r\n"), vec![Line::Endless]),
            ("\x16\x03\x01\x02".to_owned(), vec![Line::Tls]),
            ("\x16x\r\n".to_owned(), vec![complete("\x16x")]),
        ] {
            for piece in [1, 2, 3, 1000, 100_000] {
                assert_eq!(lines(bytes.as_bytes(), piece), expected, "piece {piece}");
            }
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut reader = LineReader::new();
        for _ in 0..60 {
            reader.receive(&[b'x'; 1000]);
            assert_eq!(reader.next_line(), None);
            assert!(reader.buffer.len() <= MAX_LINE + 1000);
        }
    }
}
