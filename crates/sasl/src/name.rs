//! Names and passwords, prepared for comparison.
//!
//! Both go through SASLprep (RFC 4013), as RFC 4616 and RFC 5802 ask: a letter with its accent is the same however the
//! client composed it, odd spaces are spaces. What SASLprep does not allow is refused on every side, also when a
//! credential is made, so that no password can be stored that could not be used. Printable ASCII stays as it is.
//!
//! Limits: SASLprep knows the characters of Unicode 3.2 (2002); younger ones, most emoji among them, are refused. Case
//! counts.

use std::fmt;

use stringprep::saslprep;
use thiserror::Error;

/// The longest name, in octets after preparation; RFC 4616 2 asks for no more.
pub const MAX_NAME: usize = 255;
/// The longest password, in octets after preparation; RFC 4616 2 asks for 255.
pub const MAX_PASSWORD: usize = 1024;

/// Why a text is no name or no password. The text itself is not repeated: it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PrepareError {
    /// Nothing, or nothing but characters that SASLprep drops.
    #[error("empty")]
    Empty,
    /// More octets than [`MAX_NAME`] or [`MAX_PASSWORD`].
    #[error("too long: names have up to 255 octets, passwords up to 1024")]
    TooLong,
    /// A control character, one that Unicode 3.2 does not know, or right-to-left text mixed with other text.
    #[error(
        "a character that SASLprep (RFC 4013) does not allow: a control character, one younger than Unicode 3.2, \
         or right-to-left text mixed with other text"
    )]
    Prohibited,
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
}

/// Who authenticates: not empty, up to [`MAX_NAME`] octets, prepared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Prepares a name. Errors: [`PrepareError`].
    pub fn parse(text: &str) -> Result<Name, PrepareError> {
        prepare(text, MAX_NAME).map(Name)
    }

    /// Prepares a name from the wire. Errors: [`PrepareError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Name, PrepareError> {
        Name::parse(std::str::from_utf8(bytes).map_err(|_| PrepareError::NotUtf8)?)
    }

    /// The prepared name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A password: not empty, up to [`MAX_PASSWORD`] octets, prepared. `Debug` does not show it.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Prepares a password. Errors: [`PrepareError`].
    pub fn parse(text: &str) -> Result<Password, PrepareError> {
        prepare(text, MAX_PASSWORD).map(Password)
    }

    /// Prepares a password from the wire. Errors: [`PrepareError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Password, PrepareError> {
        Password::parse(std::str::from_utf8(bytes).map_err(|_| PrepareError::NotUtf8)?)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

fn prepare(text: &str, max: usize) -> Result<String, PrepareError> {
    let prepared = saslprep(text).map_err(|_| PrepareError::Prohibited)?;
    if prepared.is_empty() {
        Err(PrepareError::Empty)
    } else if prepared.len() > max {
        Err(PrepareError::TooLong)
    } else {
        Ok(prepared.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4013 3, and what the module promises.
    #[test]
    fn names_are_prepared() {
        let long = "x".repeat(MAX_NAME + 1);
        for (text, prepared) in [
            ("user", Ok("user")),
            ("USER", Ok("USER")),
            ("I\u{ad}X", Ok("IX")),
            ("\u{aa}", Ok("a")),
            ("\u{2168}", Ok("IX")),
            ("u\u{308}ber", Ok("\u{fc}ber")),
            ("a\u{a0}b", Ok("a b")),
            ("", Err(PrepareError::Empty)),
            ("\u{ad}", Err(PrepareError::Empty)),
            ("\u{7}", Err(PrepareError::Prohibited)),
            ("\u{627}1", Err(PrepareError::Prohibited)),
            ("\u{1f511}", Err(PrepareError::Prohibited)),
            (&long, Err(PrepareError::TooLong)),
            (&long[1..], Ok(&long[1..])),
        ] {
            assert_eq!(
                Name::parse(text).as_ref().map(Name::as_str),
                prepared.as_ref().copied(),
                "{text:?}"
            );
        }
        assert_eq!(Name::from_bytes(b"\xff"), Err(PrepareError::NotUtf8));
    }

    #[test]
    fn a_password_is_not_shown() {
        let password = Password::parse("pencil").unwrap();
        assert_eq!(format!("{password:?}"), "Password(..)");
        assert!(matches!(
            Password::from_bytes(&[b'x'; MAX_PASSWORD + 1]),
            Err(PrepareError::TooLong)
        ));
    }
}
