//! What makes an exchange unique: a text that is never used twice.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use thiserror::Error;

/// The longest nonce that is taken from the other side, in octets. RFC 5802 sets none; those in use have 18 to 64.
pub(crate) const MAX_NONCE: usize = 512;

/// Why a text is no nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a nonce is 1 to 512 printable ASCII characters without comma and space")]
pub struct NonceError;

/// Printable ASCII without comma and space (RFC 5802 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// A nonce from random octets, which the caller draws anew for each exchange from a cryptographic generator.
    pub fn from_random(octets: [u8; 18]) -> Nonce {
        Nonce(BASE64_STANDARD_NO_PAD.encode(octets))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Nonce {
    type Err = NonceError;

    fn from_str(text: &str) -> Result<Nonce, NonceError> {
        let printable = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        if (1..=MAX_NONCE).contains(&text.len()) && text.bytes().all(printable) {
            Ok(Nonce(text.to_owned()))
        } else {
            Err(NonceError)
        }
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_octets_make_a_nonce_and_separators_do_not() {
        let nonce = Nonce::from_random([0xff; 18]);
        assert_eq!(nonce.as_str().parse(), Ok(nonce));
        let long = "x".repeat(MAX_NONCE + 1);
        for text in ["", "a,b", "a b", "a\n", "\u{fc}", &long] {
            assert_eq!(text.parse::<Nonce>(), Err(NonceError), "{text:?}");
        }
    }
}
