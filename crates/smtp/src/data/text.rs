//! Message text as it is, without dot-stuffing: finds the first octet that may not be in it.

use super::{BadBody, Fault};

/// Looks over one message, whatever the pieces it comes in.
///
/// Used where nothing is stuffed and no dot ends the message: chunks of BDAT (RFC 3030 2), and bodies before they are
/// sent. A message of text has no bare CR, no bare LF (RFC 5321 2.3.8) and no NUL.
#[derive(Debug, Default)]
pub struct TextCheck {
    /// The last octet was a CR; an LF must follow.
    held_cr: bool,
    seen: u64,
    ends_line: bool,
}

impl TextCheck {
    /// A check at the start of a message.
    pub fn new() -> TextCheck {
        TextCheck::default()
    }

    /// Looks at the next piece. Errors: the first fault, after which the check is of no further use.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), BadBody> {
        let Some((first, last)) = piece.first().zip(piece.last()) else {
            return Ok(());
        };
        if self.held_cr && *first != b'\n' {
            return Err(BadBody {
                fault: Fault::BareCr,
                offset: self.seen - 1,
            });
        }
        for index in memchr::memchr3_iter(b'\r', b'\n', 0, piece) {
            let before_is_cr = match index.checked_sub(1) {
                Some(before) => piece[before] == b'\r',
                None => self.held_cr,
            };
            let fault = match piece[index] {
                0 => Fault::Nul,
                b'\n' if !before_is_cr => Fault::BareLf,
                b'\r' if piece.get(index + 1).is_some_and(|next| *next != b'\n') => Fault::BareCr,
                _ => continue,
            };
            return Err(BadBody {
                fault,
                offset: self.seen + index as u64,
            });
        }
        self.held_cr = *last == b'\r';
        self.ends_line = *last == b'\n';
        self.seen += piece.len() as u64;
        Ok(())
    }

    /// The message is over. Errors: it ends in a CR.
    pub fn finish(&self) -> Result<(), BadBody> {
        if self.held_cr {
            return Err(BadBody {
                fault: Fault::BareCr,
                offset: self.seen - 1,
            });
        }
        Ok(())
    }

    /// Octets seen.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether the message ends in CRLF, or is empty.
    pub fn ends_line(&self) -> bool {
        self.ends_line || self.seen == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], piece: usize) -> Result<(), BadBody> {
        let mut check = TextCheck::new();
        for piece in bytes.chunks(piece) {
            check.feed(piece)?;
        }
        check.finish()
    }

    #[test]
    fn the_first_bad_octet_is_named_whatever_the_pieces() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"a\r\nb\r\n", None),
            (b"no end", None),
            (b".\r\n..\r\n", None),
            (b"a\nb", Some((Fault::BareLf, 1))),
            (b"\n", Some((Fault::BareLf, 0))),
            (b"a\r\nb\rc", Some((Fault::BareCr, 4))),
            (b"ab\r", Some((Fault::BareCr, 2))),
            (b"a\r\r\n", Some((Fault::BareCr, 1))),
            (b"a\r\n\n", Some((Fault::BareLf, 3))),
            (b"a\r\n\0\n", Some((Fault::Nul, 3))),
            (b"a\r\0", Some((Fault::BareCr, 1))),
        ] {
            let expected =
                expected.map_or(Ok(()), |(fault, offset)| Err(BadBody { fault, offset }));
            for piece in [1, 2, 3, 100] {
                assert_eq!(check(bytes, piece), expected, "{bytes:?} by {piece}");
            }
        }
        let mut whole = TextCheck::new();
        assert!(whole.ends_line());
        whole.feed(b"a\r\n").unwrap();
        assert!(whole.ends_line());
        whole.feed(b"b").unwrap();
        assert!(!whole.ends_line());
    }
}
