//! XLINKMAIL, an extension of our own between two relays of this project (RFC 5321 2.2.2 leaves names with X to local use).
//!
//! - EHLO keyword `XLINKMAIL`, offered to a peer that the receiver knows; `XLINKMAIL AUTH` to a client that becomes one by
//!   AUTH, before which the ids that it gives are not looked at.
//! - MAIL parameter `XLMID=uuid`, the id that the message has at the sending relay, in the form of 36 characters. It adds
//!   43 octets to the line. A value of another form is 501.
//!
//! A receiver that knows its peer remembers which recipients were taken under an id. When the connection was lost before
//! the reply, the sender hands the message over again under the same id, and the receiver does not take it twice.
//! docs/xlinkmail.md is the specification.

use std::fmt;

/// The id that another relay of this project gave a message, handed over with it by XLINKMAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerId([u8; 16]);

impl PeerId {
    /// Reads the form of 36 characters (RFC 9562 4), in any case.
    pub fn parse(text: &[u8]) -> Option<PeerId> {
        if text.len() != 36 {
            return None;
        }
        let mut digits = Vec::with_capacity(32);
        for (place, byte) in text.iter().enumerate() {
            match (place, byte) {
                (8 | 13 | 18 | 23, b'-') => {}
                (8 | 13 | 18 | 23, _) => return None,
                _ => digits.push(u8::try_from(char::from(*byte).to_digit(16)?).ok()?),
            }
        }
        let mut octets = [0; 16];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks(2)) {
            *octet = pair[0] * 16 + pair[1];
        }
        Some(PeerId(octets))
    }

    /// The id that these sixteen octets of a UUID are.
    pub fn from_octets(octets: [u8; 16]) -> PeerId {
        PeerId(octets)
    }

    /// The sixteen octets of the UUID.
    pub fn octets(&self) -> [u8; 16] {
        self.0
    }
}

/// 36 characters in lower case.
impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, octet) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{octet:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_of_36_characters_is_read() {
        let text = "0193A5C0-4b7e-7c3a-9f00-00000000002a";
        let id = PeerId::parse(text.as_bytes()).unwrap();
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
        assert_eq!((id.octets()[0], id.octets()[15]), (1, 0x2a));
        for text in [
            "",
            "0193a5c04b7e7c3a9f00000000000002a",
            "0193a5c04b7e7c3a9f0000000000002a0000",
            "0193a5c0-4b7e-7c3a-9f00-00000000002g",
            "0193a5c0-4b7e-7c3a-9f000-0000000002a",
            "{193a5c0-4b7e-7c3a-9f00-00000000002}",
        ] {
            assert_eq!(PeerId::parse(text.as_bytes()), None, "{text}");
        }
    }
}
