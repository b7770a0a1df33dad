//! Data as it goes to a server: stuffs the dots and refuses what would be read in two ways.

use thiserror::Error;

use super::Fault;

/// A message cannot be sent: a byte in it may not be on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{fault} at octet {offset} of the message")]
pub struct BadBody {
    /// Which byte.
    pub fault: Fault,
    /// Where in the message, in octets from its start.
    pub offset: u64,
}

/// Encodes the data of one message. The result does not depend on the pieces in which the body comes.
#[derive(Debug)]
pub struct DataEncoder {
    at_line_start: bool,
    /// The last octet was a CR; it is sent with the LF that must follow.
    held_cr: bool,
    offset: u64,
}

impl Default for DataEncoder {
    fn default() -> DataEncoder {
        DataEncoder::new()
    }
}

impl DataEncoder {
    /// An encoder for the start of a message.
    pub fn new() -> DataEncoder {
        DataEncoder {
            at_line_start: true,
            held_cr: false,
            offset: 0,
        }
    }

    /// Appends the stuffed form of `body` to `out`. Errors: [`BadBody`]; everything before that byte is in `out`, nothing
    /// from it on, and the encoder is of no further use.
    pub fn encode(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), BadBody> {
        out.reserve(body.len() + body.len() / 64 + 2);
        let mut read = 0;
        while read < body.len() {
            if self.held_cr {
                if body[read] != b'\n' {
                    return Err(self.bad(Fault::BareCr, read, 1));
                }
                out.extend_from_slice(b"\r\n");
                self.held_cr = false;
                self.at_line_start = true;
                read += 1;
                continue;
            }
            if self.at_line_start && body[read] == b'.' {
                out.push(b'.');
            }
            self.at_line_start = false;
            read = self.run(body, read, out)?;
        }
        self.offset += body.len() as u64;
        Ok(())
    }

    /// Copies from `start` over all whole lines up to one that starts with a dot, or to a CR at the end of the piece.
    fn run(&mut self, body: &[u8], start: usize, out: &mut Vec<u8>) -> Result<usize, BadBody> {
        let mut end = start;
        while let Some(offset) = memchr::memchr3(b'\r', b'\n', 0, &body[end..]) {
            let at = end + offset;
            match (body[at], body.get(at + 1)) {
                (b'\r', Some(b'\n')) if body.get(at + 2).is_some_and(|next| *next != b'.') => {
                    end = at + 2;
                }
                (b'\r', Some(b'\n')) => {
                    out.extend_from_slice(&body[start..at + 2]);
                    self.at_line_start = true;
                    return Ok(at + 2);
                }
                (b'\r', None) => {
                    out.extend_from_slice(&body[start..at]);
                    self.held_cr = true;
                    return Ok(at + 1);
                }
                (byte, _) => {
                    out.extend_from_slice(&body[start..at]);
                    let fault = match byte {
                        b'\r' => Fault::BareCr,
                        b'\n' => Fault::BareLf,
                        _ => Fault::Nul,
                    };
                    return Err(self.bad(fault, at, 0));
                }
            }
        }
        out.extend_from_slice(&body[start..]);
        Ok(body.len())
    }

    /// Appends the end of data, and a CRLF before it if the body does not end in one. Errors: the body ends in a CR.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), BadBody> {
        if self.held_cr {
            return Err(self.bad(Fault::BareCr, 0, 1));
        }
        if !self.at_line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        Ok(())
    }

    /// The fault `back` octets before octet `at` of the current piece.
    fn bad(&self, fault: Fault, at: usize, back: u64) -> BadBody {
        BadBody {
            fault,
            offset: self.offset + at as u64 - back,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(body: &[u8]) -> Result<Vec<u8>, BadBody> {
        let mut encoder = DataEncoder::new();
        let mut out = Vec::new();
        encoder.encode(body, &mut out)?;
        encoder.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn dots_are_stuffed_and_the_end_is_added() {
        for (body, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n.a\r\nb.\r\n", b"..\r\n..a\r\nb.\r\n.\r\n"),
            (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(encode(body).unwrap(), wire);
        }
    }

    #[test]
    fn bad_bytes_are_named_with_their_place() {
        for (body, fault, offset) in [
            (&b"a\nb"[..], Fault::BareLf, 1),
            (b"\n", Fault::BareLf, 0),
            (b"a\r\nb\rc", Fault::BareCr, 4),
            (b"ab\r", Fault::BareCr, 2),
            (b"a\r\r\n", Fault::BareCr, 1),
            (b"a\r\n\0", Fault::Nul, 3),
            (b".\n", Fault::BareLf, 1),
        ] {
            assert_eq!(encode(body), Err(BadBody { fault, offset }));
        }
    }
}
