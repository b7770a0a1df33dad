//! Domain names and address literals (RFC 5321 4.1.2, 4.1.3; RFC 6531 3.3).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Alphabet, MAX_DOMAIN, PathError};

/// The longest label of a domain, in octets (RFC 1035 2.3.4). A U-label may be longer: the bound is on its A-label.
const MAX_LABEL: usize = 63;

/// A domain name or an address literal, as it was written.
///
/// Labels of letters, digits and inner hyphens, no trailing dot; or `[192.0.2.1]`, `[IPv6:2001:db8::1]`. With SMTPUTF8
/// also labels of other letters (U-labels, RFC 6531 3.3), kept as they were written: they are neither normalised nor
/// turned into A-labels, and whether IDNA allows them is not looked at. Equality and hash ignore the case of ASCII letters.
#[derive(Clone)]
pub struct Domain(Vec<u8>);

impl Domain {
    /// Reads a domain. Errors: [`PathError`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Domain, PathError> {
        Domain::read(bytes, Alphabet::Ascii)
    }

    /// Reads a domain that may hold U-labels (RFC 6531 3.3). Errors: [`PathError`] says what is wrong.
    pub fn parse_utf8(bytes: &[u8]) -> Result<Domain, PathError> {
        Domain::read(bytes, Alphabet::Utf8)
    }

    pub(super) fn read(bytes: &[u8], alphabet: Alphabet) -> Result<Domain, PathError> {
        check_domain(bytes, alphabet)?;
        Ok(Domain(bytes.to_vec()))
    }

    /// The bytes as they were written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// Whether this is `[...]` rather than a name.
    pub fn is_literal(&self) -> bool {
        self.0.first() == Some(&b'[')
    }
}

pub(super) fn check_domain(bytes: &[u8], alphabet: Alphabet) -> Result<(), PathError> {
    if bytes.is_empty() {
        return Err(PathError::Empty);
    }
    let text = alphabet.check(bytes)?;
    if text.chars().any(|c| !c.is_ascii() && c.is_whitespace()) {
        return Err(PathError::Domain);
    }
    if bytes.len() > MAX_DOMAIN {
        return Err(PathError::DomainTooLong);
    }
    if bytes[0] == b'[' {
        return check_literal(bytes);
    }
    let label_is_good = |label: &[u8]| {
        !label.is_empty()
            && (label.len() <= MAX_LABEL || !label.is_ascii())
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-' || !byte.is_ascii())
            && label.first() != Some(&b'-')
            && label.last() != Some(&b'-')
    };
    if bytes.split(|byte| *byte == b'.').all(label_is_good) {
        Ok(())
    } else {
        Err(PathError::Domain)
    }
}

fn check_literal(bytes: &[u8]) -> Result<(), PathError> {
    let inner = bytes
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"))
        .and_then(|inner| std::str::from_utf8(inner).ok())
        .ok_or(PathError::Literal)?;
    let is_address = match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<Ipv6Addr>().is_ok(),
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    };
    if is_address {
        Ok(())
    } else {
        Err(PathError::Literal)
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Domain) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Domain {}

impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in &self.0 {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_u8(0xff);
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({self})")
    }
}

impl FromStr for Domain {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Domain, PathError> {
        Domain::parse(text.as_bytes())
    }
}
