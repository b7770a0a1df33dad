//! Domains, mailboxes and the two paths of an envelope (RFC 5321 4.1.2).
//!
//! What was written is kept as bytes and given back unchanged: quotes stay, case stays. Comparison follows the RFC:
//! domains without case, local parts exactly. Addresses are ASCII; SMTPUTF8 is not spoken here.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// The longest local part, in octets (RFC 5321 4.5.3.1.1).
pub const MAX_LOCAL_PART: usize = 64;
/// The longest domain, in octets (RFC 5321 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;
/// The longest label of a domain, in octets (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;

/// Why some bytes are not a domain or a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing was given where an address or a domain must stand.
    #[error("empty")]
    Empty,
    /// A byte outside ASCII; SMTPUTF8 is not offered.
    #[error("not ASCII")]
    NotAscii,
    /// There is no `@` between local part and domain.
    #[error("no @domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("malformed local part")]
    LocalPart,
    /// The local part has more than [`MAX_LOCAL_PART`] octets.
    #[error("local part longer than 64 octets")]
    LocalPartTooLong,
    /// The domain has an empty or malformed label.
    #[error("malformed domain")]
    Domain,
    /// The domain has more than [`MAX_DOMAIN`] octets.
    #[error("domain longer than 255 octets")]
    DomainTooLong,
    /// `[...]` holds no IPv4 address and no `IPv6:` address.
    #[error("malformed address literal")]
    Literal,
}

/// A domain name or an address literal, as it was written.
///
/// Labels of letters, digits and inner hyphens, no trailing dot; or `[192.0.2.1]`, `[IPv6:2001:db8::1]`.
/// Equality and hash ignore case.
#[derive(Clone)]
pub struct Domain(Vec<u8>);

impl Domain {
    /// Reads a domain. Errors: [`PathError`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Domain, PathError> {
        check_domain(bytes)?;
        Ok(Domain(bytes.to_vec()))
    }

    /// The bytes as they were written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `[...]` rather than a name.
    pub fn is_literal(&self) -> bool {
        self.0.first() == Some(&b'[')
    }
}

fn check_domain(bytes: &[u8]) -> Result<(), PathError> {
    if bytes.is_empty() {
        return Err(PathError::Empty);
    }
    if !bytes.is_ascii() {
        return Err(PathError::NotAscii);
    }
    if bytes.len() > MAX_DOMAIN {
        return Err(PathError::DomainTooLong);
    }
    if bytes[0] == b'[' {
        return check_literal(bytes);
    }
    let label_is_good = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
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
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if !bytes.is_ascii() {
            return Err(PathError::NotAscii);
        }
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
            domain: Domain::parse(domain)?,
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
            32..=126 => at += 1,
            _ => return None,
        }
    }
}

fn is_dot_string(local: &[u8]) -> bool {
    let is_atext =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(byte);
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

/// Where reports about a message go; the argument of MAIL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: reports about this message go nowhere (RFC 5321 4.5.5).
    Null,
    /// A sender.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads what stands between the brackets; nothing is [`ReversePath::Null`]. A source route is dropped.
    pub fn parse(bytes: &[u8]) -> Result<ReversePath, PathError> {
        if bytes.is_empty() {
            return Ok(ReversePath::Null);
        }
        Mailbox::parse(strip_source_route(bytes)?).map(ReversePath::Mailbox)
    }

    /// The sender, unless the path is null.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// What stands between the brackets; [`ReversePath::parse`] reads it back.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.mailbox().map(Mailbox::to_bytes).unwrap_or_default()
    }
}

/// The address without its brackets; empty for the null path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// A recipient; the argument of RCPT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain, in any case, which every server takes (RFC 5321 4.5.1).
    Postmaster,
    /// A recipient with a domain.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// Reads what stands between the brackets. A source route is dropped (RFC 5321 appendix C).
    pub fn parse(bytes: &[u8]) -> Result<ForwardPath, PathError> {
        if bytes.eq_ignore_ascii_case(b"postmaster") {
            return Ok(ForwardPath::Postmaster);
        }
        Mailbox::parse(strip_source_route(bytes)?).map(ForwardPath::Mailbox)
    }

    /// The mailbox, unless it is the bare postmaster.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ForwardPath::Postmaster => None,
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// What stands between the brackets; [`ForwardPath::parse`] reads it back.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            ForwardPath::Postmaster => b"postmaster".to_vec(),
            ForwardPath::Mailbox(mailbox) => mailbox.to_bytes(),
        }
    }
}

/// The address without its brackets.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// Drops `@a,@b:` in front of a mailbox; its domains must be well formed.
fn strip_source_route(bytes: &[u8]) -> Result<&[u8], PathError> {
    if bytes.first() != Some(&b'@') {
        return Ok(bytes);
    }
    // An IPv6 literal holds colons, so the route ends at the first colon outside brackets.
    let mut in_literal = false;
    let end = bytes
        .iter()
        .position(|byte| {
            match byte {
                b'[' => in_literal = true,
                b']' => in_literal = false,
                _ => {}
            }
            *byte == b':' && !in_literal
        })
        .ok_or(PathError::LocalPart)?;
    for hop in bytes[..end].split(|byte| *byte == b',') {
        check_domain(hop.strip_prefix(b"@").ok_or(PathError::Domain)?)?;
    }
    Ok(&bytes[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn good_addresses_come_back_as_written() {
        for text in [
            "Smith@bar.com",
            "a.b+c@branch.example",
            "\"quoted @ \\\" local\"@branch.example",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "x@localhost",
            "o'brien/x=y@a-b.example",
        ] {
            let mailbox = Mailbox::parse(text.as_bytes()).unwrap();
            assert_eq!(mailbox.to_bytes(), text.as_bytes());
            assert_eq!(mailbox.to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_say_why() {
        let long_local = format!("{}@b.example", "a".repeat(65));
        let long_domain = format!("a@{}example", "abcdefg.".repeat(32));
        let long_label = format!("a@{}.example", "a".repeat(64));
        for (text, error) in [
            ("", PathError::Empty),
            ("nobody", PathError::NoDomain),
            ("a@", PathError::Empty),
            ("@b.example", PathError::LocalPart),
            ("a..b@c.example", PathError::LocalPart),
            (".a@c.example", PathError::LocalPart),
            ("a b@c.example", PathError::LocalPart),
            ("\"open@c.example", PathError::LocalPart),
            ("\"a\"b@c.example", PathError::NoDomain),
            ("a@b..example", PathError::Domain),
            ("a@b.example.", PathError::Domain),
            ("a@-b.example", PathError::Domain),
            ("a@b_c.example", PathError::Domain),
            ("a@b@c.example", PathError::Domain),
            ("a@[192.0.2.256]", PathError::Literal),
            ("a@[IPv6:192.0.2.1]", PathError::Literal),
            ("a@[192.0.2.1", PathError::Literal),
            ("\u{e9}@b.example", PathError::NotAscii),
            (&long_local, PathError::LocalPartTooLong),
            (&long_domain, PathError::DomainTooLong),
            (&long_label, PathError::Domain),
        ] {
            assert_eq!(Mailbox::parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn domains_compare_without_case_and_local_parts_with_it() {
        let parse = |text: &str| text.parse::<Mailbox>().unwrap();
        assert_eq!(parse("a@B.Example"), parse("a@b.example"));
        assert_ne!(parse("A@b.example"), parse("a@b.example"));
        let set: HashSet<Domain> = ["b.example", "B.EXAMPLE", "c.example"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn paths_know_null_postmaster_and_source_routes() {
        assert_eq!(ReversePath::parse(b""), Ok(ReversePath::Null));
        assert_eq!(
            ForwardPath::parse(b"POSTmaster"),
            Ok(ForwardPath::Postmaster)
        );
        let routed = ForwardPath::parse(b"@a.example,@[IPv6:::1]:u@b.example").unwrap();
        assert_eq!(routed.to_string(), "u@b.example");
        assert_eq!(
            ForwardPath::parse(b"@a_b:u@b.example"),
            Err(PathError::Domain)
        );
        assert_eq!(ForwardPath::parse(b""), Err(PathError::Empty));
    }
}
