//! The mechanisms by their registered names, and which of those that are offered a client takes.

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
    /// All of them, the best first.
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

/// Why no mechanism can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoMechanism {
    /// What is offered and what is allowed have nothing in common.
    #[error("the server offers none of the mechanisms that are allowed")]
    NotOffered,
    /// What they have in common would show the password on this connection.
    #[error("of the mechanisms that are allowed the server offers {0} alone, which needs TLS")]
    NeedsEncryption(Mechanism),
}

/// The best mechanism that is both offered and allowed, in the order of [`Mechanism::ALL`].
///
/// `offered` are the words behind `AUTH` in the answer to EHLO; those that are not known are passed over. On a
/// connection that is not encrypted PLAIN and LOGIN are never taken, whatever is allowed.
pub fn choose<'a>(
    offered: impl IntoIterator<Item = &'a str>,
    allowed: &[Mechanism],
    encrypted: bool,
) -> Result<Mechanism, NoMechanism> {
    let mut common: Vec<Mechanism> = offered
        .into_iter()
        .filter_map(|word| word.parse().ok())
        .filter(|mechanism| allowed.contains(mechanism))
        .collect();
    // The order of the variants is the order of preference.
    common.sort();
    let best = *common.first().ok_or(NoMechanism::NotOffered)?;
    common
        .into_iter()
        .find(|mechanism| encrypted || !mechanism.needs_encryption())
        .ok_or(NoMechanism::NeedsEncryption(best))
}

#[cfg(test)]
mod tests {
    use super::Mechanism::{CramMd5, Login, Plain, ScramSha256};
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

    #[test]
    fn the_best_common_mechanism_is_taken() {
        let all = Mechanism::ALL.as_slice();
        let plain_alone = NoMechanism::NeedsEncryption(Plain);
        for (offered, allowed, encrypted, chosen) in [
            ("LOGIN PLAIN scram-sha-256", all, true, Ok(ScramSha256)),
            ("LOGIN PLAIN SCRAM-SHA-256", all, false, Ok(ScramSha256)),
            ("PLAIN CRAM-MD5", all, true, Ok(CramMd5)),
            ("PLAIN CRAM-MD5", &[Plain], true, Ok(Plain)),
            ("LOGIN XOAUTH2", all, true, Ok(Login)),
            ("LOGIN PLAIN", all, false, Err(plain_alone)),
            ("LOGIN PLAIN CRAM-MD5", &[Plain], false, Err(plain_alone)),
            (
                "SCRAM-SHA-1 GSSAPI",
                all,
                true,
                Err(NoMechanism::NotOffered),
            ),
            ("", all, true, Err(NoMechanism::NotOffered)),
            ("PLAIN", &[], true, Err(NoMechanism::NotOffered)),
        ] {
            assert_eq!(
                choose(offered.split_whitespace(), allowed, encrypted),
                chosen,
                "{offered}, encrypted: {encrypted}"
            );
        }
    }
}
