//! Data as it comes from a client: removes the stuffed dots, finds the end, and tells an honest end from a malformed one.
//!
//! A line of a single dot that has anything but CRLF on both sides is an end to some servers and not to others, which is
//! what SMTP smuggling rests on (CVE-2023-51764 and its siblings). It is reported as such, at the first byte that proves it.

use super::Fault;

/// Where the data stands after some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// More is to come.
    Open,
    /// CRLF.CRLF was read.
    Ended,
    /// A lone dot, delimited by something else than CRLF on one side or both, was read.
    Malformed,
}

/// What one call to [`DataDecoder::decode`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// How many octets of the input belong to the data. Less than all only when the data has ended.
    pub consumed: usize,
    /// Where the data stands.
    pub state: DataState,
}

/// What a line starts behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Crlf,
    BareNewline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart(Start),
    Text,
    /// Behind a CR that is in no line of its own.
    Cr,
    /// Behind the dot that starts a line.
    Dot(Start),
    /// Behind such a dot and a CR.
    DotCr(Start),
    Over(DataState),
}

/// Decodes the data of one message. The result does not depend on the pieces in which the input comes.
#[derive(Debug)]
pub struct DataDecoder {
    at: At,
    fault: Option<Fault>,
}

impl Default for DataDecoder {
    fn default() -> DataDecoder {
        DataDecoder::new()
    }
}

impl DataDecoder {
    /// A decoder for what follows DATA's own CRLF, which counts as a line start: a message of nothing is `.` CRLF.
    pub fn new() -> DataDecoder {
        DataDecoder {
            at: At::LineStart(Start::Crlf),
            fault: None,
        }
    }

    /// The first byte that may not be in a message, if one was read. Nothing is decoded from there on.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Decodes as much of `input` as belongs to the data and appends it to `out`.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Decoded {
        let mut read = 0;
        #[cfg(linkmail_planted_bug = "data_decoder")]
        if self.at == At::Cr && input.starts_with(b"\n.") {
            self.put(b"\r\n", out);
            (self.at, read) = (At::Text, 1);
        }
        while read < input.len() {
            if let At::Over(state) = self.at {
                return Decoded {
                    consumed: read,
                    state,
                };
            }
            read += if self.at == At::Text {
                self.run(&input[read..], out)
            } else {
                self.byte(input[read], out)
            };
        }
        let state = match self.at {
            At::Over(state) => state,
            _ => DataState::Open,
        };
        Decoded {
            consumed: read,
            state,
        }
    }

    /// Inside a line: copies up to the next place that needs a look, over all whole lines that start without a dot.
    fn run(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut end = 0;
        let mut copied = input.len();
        while let Some(offset) = memchr::memchr3(b'\r', b'\n', 0, &input[end..]) {
            let at = end + offset;
            match (input[at], input.get(at + 1), input.get(at + 2)) {
                (b'\r', Some(b'\n'), Some(next)) if *next != b'.' => end = at + 2,
                _ => {
                    copied = at;
                    break;
                }
            }
        }
        self.put(&input[..copied], out);
        match input.get(copied) {
            None => copied,
            Some(byte) => copied + self.byte(*byte, out),
        }
    }

    /// One byte by the table of states; gives 1, or 0 when the byte is to be looked at again in the new state.
    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) -> usize {
        match (self.at, byte) {
            (At::Cr, b'\n') => {
                self.put(b"\r\n", out);
                self.at = At::LineStart(Start::Crlf);
            }
            (At::Cr, _) => {
                self.note(Fault::BareCr);
                self.at = At::LineStart(Start::BareNewline);
                return 0;
            }
            (At::Dot(start), b'\r') => self.at = At::DotCr(start),
            (At::Dot(_), b'\n') => self.at = At::Over(DataState::Malformed),
            (At::Dot(start), _) => {
                // The dot of a stuffed line goes; behind a bare newline nothing is decoded any more.
                debug_assert!(start == Start::Crlf || self.fault.is_some());
                self.at = At::Text;
                if byte == 0 {
                    self.note(Fault::Nul);
                } else {
                    self.put(&[byte], out);
                }
            }
            (At::DotCr(Start::Crlf), b'\n') => self.at = At::Over(DataState::Ended),
            (At::DotCr(_), _) => self.at = At::Over(DataState::Malformed),
            (At::LineStart(start), b'.') => self.at = At::Dot(start),
            (At::LineStart(_) | At::Text, b'\r') => self.at = At::Cr,
            (At::LineStart(_) | At::Text, b'\n') => {
                self.note(Fault::BareLf);
                self.at = At::LineStart(Start::BareNewline);
            }
            (At::LineStart(_) | At::Text, 0) => {
                self.note(Fault::Nul);
                self.at = At::Text;
            }
            (At::LineStart(_), _) => {
                self.at = At::Text;
                return 0;
            }
            (At::Text, _) => self.put(&[byte], out),
            (At::Over(_), _) => return 0,
        }
        1
    }

    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn put(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.fault.is_none() {
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> (Vec<u8>, usize, DataState, Option<Fault>) {
        let mut decoder = DataDecoder::new();
        let mut out = Vec::new();
        let decoded = decoder.decode(input, &mut out);
        (out, decoded.consumed, decoded.state, decoder.fault())
    }

    #[test]
    fn honest_ends() {
        for (input, body, consumed) in [
            (&b".\r\n"[..], &b""[..], 3),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", 6),
            (b"\r\n\r\n.\r\n", b"\r\n\r\n", 7),
            (b"..\r\n.\r\n", b".\r\n", 7),
            (b"a\r\n..b\r\nc.\r\n.\r\n", b"a\r\n.b\r\nc.\r\n", 15),
            (b".a\r\n.\r\n", b"a\r\n", 7),
            (b"\xff\xfe\r\n.\r\n", b"\xff\xfe\r\n", 7),
        ] {
            assert_eq!(
                decode(input),
                (body.to_vec(), consumed, DataState::Ended, None)
            );
        }
    }

    #[test]
    fn malformed_ends() {
        for input in [
            &b"a\n.\nx"[..],
            b"a\n.\r\nx",
            b"a\r\n.\nx",
            b"a\r.\rx",
            b"a\r\n.\r\r\nx",
            b"a\r\n.\rx",
            b"a\r.\r\nx",
            b"a\r.\nx",
            b"a\n.\rx",
            b".\nx",
            b".\rx",
            b"a\r\n\n.\r\nx",
        ] {
            let (_, consumed, state, _) = decode(input);
            assert_eq!(state, DataState::Malformed, "{}", input.escape_ascii());
            assert!(consumed < input.len() || input.ends_with(b"\rx"));
        }
    }

    #[test]
    fn faults_are_read_over_to_the_honest_end() {
        for (input, fault, body) in [
            (&b"a\nb\r\n.\r\n"[..], Fault::BareLf, &b"a"[..]),
            (b"a\rb\r\n.\r\n", Fault::BareCr, b"a"),
            (b"a\r\r\n.\r\n", Fault::BareCr, b"a"),
            (b"a\0b\nc\r\n.\r\n", Fault::Nul, b"a"),
            (b"\r\n.\0\r\n.\r\n", Fault::Nul, b"\r\n"),
            (b"a\n..\r\n.\r\n", Fault::BareLf, b"a"),
        ] {
            let (out, consumed, state, found) = decode(input);
            assert_eq!(
                (out.as_slice(), consumed, state, found),
                (body, input.len(), DataState::Ended, Some(fault))
            );
        }
    }
}
