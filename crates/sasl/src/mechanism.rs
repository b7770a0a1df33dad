//! The mechanisms by their registered names.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A SASL mechanism that this project knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// RFC 7677, without channel binding. The password does not cross the line, and both sides prove themselves.
    ScramSha256,
    /// RFC 2195. The password does not cross the line, but the server must store it in clear.
    CramMd5,
    /// RFC 4616. The password crosses the line.
    Plain,
    /// draft-murchison-sasl-login, as it is found in the field. The password crosses the line.
    Login,
}

impl Mechanism {
    /// All of them, the best first: a client takes the first that it may use.
    pub const ALL: [Mechanism; 4] = [
        Mechanism::ScramSha256,
        Mechanism::CramMd5,
        Mechanism::Plain,
        Mechanism::Login,
    ];

    /// The registered name, as it stands in the answer to EHLO and behind AUTH.
    pub fn as_str(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::CramMd5 => "CRAM-MD5",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// Whether the password itself crosses the line, so that the connection must be encrypted.
    pub fn needs_encryption(self) -> bool {
        matches!(self, Mechanism::Plain | Mechanism::Login)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that is none of [`Mechanism::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no mechanism of this name; there are SCRAM-SHA-256, CRAM-MD5, PLAIN and LOGIN")]
pub struct UnknownMechanism;

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    /// Reads a name; case does not count (RFC 4954 4).
    fn from_str(text: &str) -> Result<Mechanism, UnknownMechanism> {
        Mechanism::ALL
            .into_iter()
            .find(|mechanism| mechanism.as_str().eq_ignore_ascii_case(text))
            .ok_or(UnknownMechanism)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_without_case_and_written_as_registered() {
        for mechanism in Mechanism::ALL {
            let name = mechanism.to_string();
            assert_eq!(name.parse(), Ok(mechanism));
            assert_eq!(name.to_lowercase().parse(), Ok(mechanism));
        }
        for text in ["", "SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "PLAIN "] {
            assert_eq!(text.parse::<Mechanism>(), Err(UnknownMechanism), "{text:?}");
        }
    }

    #[test]
    fn all_stands_in_the_order_of_the_variants() {
        assert!(Mechanism::ALL.is_sorted());
    }
}
