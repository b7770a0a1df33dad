//! Mailboxes: `local@domain` (RFC 5321 4.1.2, RFC 6531 3.3).

use std::fmt;
use std::str::FromStr;

use super::{Alphabet, Domain, MAX_LOCAL_PART, PathError};

/// `local@domain`, as it was written.
///
/// The local part keeps its quotes and its case and compares exactly (RFC 5321 2.4); the domain compares without case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    local: Vec<u8>,
    domain: Domain,
}

impl Mailbox {
    /// Reads `local@domain`, without brackets. Errors: [`PathError`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Mailbox, PathError> {
        Mailbox::read(bytes, Alphabet::Ascii)
    }

    /// Reads `local@domain` in which both may hold UTF-8 (RFC 6531 3.3). Errors: [`PathError`] says what is wrong.
    pub fn parse_utf8(bytes: &[u8]) -> Result<Mailbox, PathError> {
        Mailbox::read(bytes, Alphabet::Utf8)
    }

    pub(super) fn read(bytes: &[u8], alphabet: Alphabet) -> Result<Mailbox, PathError> {
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        alphabet.check(bytes)?;
        let local_len = if bytes[0] == b'"' {
            quoted_string_len(bytes).ok_or(PathError::LocalPart)?
        } else {
            memchr::memchr(b'@', bytes).ok_or(PathError::NoDomain)?
        };
        let (local, rest) = bytes.split_at(local_len);
        let domain = rest.strip_prefix(b"@").ok_or(PathError::NoDomain)?;
        if local.len() > MAX_LOCAL_PART {
            return Err(PathError::LocalPartTooLong);
        }
        if local.first() != Some(&b'"') && !is_dot_string(local) {
            return Err(PathError::LocalPart);
        }
        Ok(Mailbox {
            local: local.to_vec(),
            domain: Domain::read(domain, alphabet)?,
        })
    }

    /// The local part as written, quotes included.
    pub fn local(&self) -> &[u8] {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }

    /// `local@domain` as written.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.local, b"@".as_slice(), self.domain.as_bytes()].concat()
    }
}

/// The length of the quoted string that `bytes` starts with, both quotes included (RFC 5321 4.1.2, Quoted-string).
fn quoted_string_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => {
                let escaped = bytes.get(at + 1)?;
                if !(32..=126).contains(escaped) {
                    return None;
                }
                at += 2;
            }
            32..=126 | 128.. => at += 1,
            _ => return None,
        }
    }
}

fn is_dot_string(local: &[u8]) -> bool {
    let is_atext = |byte: &u8| {
        byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"!#$%&'*+-/=?^_`{|}~".contains(byte)
    };
    local
        .split(|byte| *byte == b'.')
        .all(|atom| !atom.is_empty() && atom.iter().all(is_atext))
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailbox({self})")
    }
}

impl FromStr for Mailbox {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Mailbox, PathError> {
        Mailbox::parse(text.as_bytes())
    }
}
