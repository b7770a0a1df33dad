//! Domains, mailboxes and the two paths of an envelope (RFC 5321 4.1.2).
//!
//! What was written is kept as bytes and given back unchanged: quotes stay, case stays. Comparison follows the RFC:
//! domains without case, local parts exactly. `parse` takes ASCII alone; `parse_utf8` is for an envelope with SMTPUTF8
//! (RFC 6531 3.3): well-formed UTF-8 without control characters.

mod domain;
mod mailbox;

use std::fmt;

use thiserror::Error;

pub use domain::Domain;
pub use mailbox::Mailbox;

use domain::check_domain;

/// The longest local part, in octets. RFC 5321 4.5.3.1.1 has everyone take 64, and asks for more where it can be had: senders
/// that carry a recipient (VERP) or another sender (SRS) are longer, and others in the field take them.
pub const MAX_LOCAL_PART: usize = 255;
/// The longest domain, in octets (RFC 5321 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;

/// Why some bytes are not a domain or a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing was given where an address or a domain must stand.
    #[error("empty")]
    Empty,
    /// A byte outside ASCII in an envelope without SMTPUTF8.
    #[error("not ASCII")]
    NotAscii,
    /// Not well-formed UTF-8, or a control character beyond ASCII in it.
    #[error("malformed UTF-8")]
    NotUtf8,
    /// There is no `@` between local part and domain.
    #[error("no @domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("malformed local part")]
    LocalPart,
    /// The local part has more than [`MAX_LOCAL_PART`] octets.
    #[error("local part longer than 255 octets")]
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

/// What characters an envelope may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    Ascii,
    /// SMTPUTF8 was given at MAIL.
    Utf8,
}

impl Alphabet {
    /// The bytes as text. Control characters within ASCII are left to the grammar of each part.
    fn check(self, bytes: &[u8]) -> Result<&str, PathError> {
        if self == Alphabet::Ascii && !bytes.is_ascii() {
            return Err(PathError::NotAscii);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PathError::NotUtf8)?;
        if text.chars().any(|c| !c.is_ascii() && c.is_control()) {
            return Err(PathError::NotUtf8);
        }
        Ok(text)
    }
}

/// Where reports about a message go; the argument of MAIL.
#[derive(Default, Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: reports about this message go nowhere (RFC 5321 4.5.5).
    #[default]
    Null,
    /// A sender.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads what stands between the brackets; nothing is [`ReversePath::Null`]. A source route is dropped.
    pub fn parse(bytes: &[u8]) -> Result<ReversePath, PathError> {
        ReversePath::read(bytes, Alphabet::Ascii)
    }

    /// The same with SMTPUTF8 (RFC 6531 3.3).
    pub fn parse_utf8(bytes: &[u8]) -> Result<ReversePath, PathError> {
        ReversePath::read(bytes, Alphabet::Utf8)
    }

    fn read(bytes: &[u8], alphabet: Alphabet) -> Result<ReversePath, PathError> {
        if bytes.is_empty() {
            return Ok(ReversePath::Null);
        }
        Mailbox::read(strip_source_route(bytes, alphabet)?, alphabet).map(ReversePath::Mailbox)
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
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
        ForwardPath::read(bytes, Alphabet::Ascii)
    }

    /// The same with SMTPUTF8 (RFC 6531 3.3).
    pub fn parse_utf8(bytes: &[u8]) -> Result<ForwardPath, PathError> {
        ForwardPath::read(bytes, Alphabet::Utf8)
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
    }

    fn read(bytes: &[u8], alphabet: Alphabet) -> Result<ForwardPath, PathError> {
        if bytes.eq_ignore_ascii_case(b"postmaster") {
            return Ok(ForwardPath::Postmaster);
        }
        Mailbox::read(strip_source_route(bytes, alphabet)?, alphabet).map(ForwardPath::Mailbox)
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
fn strip_source_route(bytes: &[u8], alphabet: Alphabet) -> Result<&[u8], PathError> {
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
        check_domain(hop.strip_prefix(b"@").ok_or(PathError::Domain)?, alphabet)?;
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
            &format!("{}@b.example", "a".repeat(255)),
        ] {
            let mailbox = Mailbox::parse(text.as_bytes()).unwrap();
            assert_eq!(mailbox.to_bytes(), text.as_bytes());
            assert_eq!(mailbox.to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_say_why() {
        let long_local = format!("{}@b.example", "a".repeat(256));
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

    #[test]
    fn utf8_needs_to_be_asked_for_and_well_formed() {
        for text in [
            "jos\u{e9}@b.example",
            "\"a \u{4f0a}\"@b\u{fc}cher.example",
            "a@\u{4f8b}\u{3048}.example",
            "plain@b.example",
        ] {
            let mailbox = Mailbox::parse_utf8(text.as_bytes()).unwrap();
            assert_eq!(mailbox.to_string(), text);
            assert_eq!(mailbox.is_ascii(), text.is_ascii());
        }
        let long = format!("{}@b.example", "\u{e9}".repeat(128));
        for (bytes, error) in [
            (&b"\xff@b.example"[..], PathError::NotUtf8),
            (b"a\xc3@b.example", PathError::NotUtf8),
            ("\u{85}@b.example".as_bytes(), PathError::NotUtf8),
            ("a@b\u{3000}c.example".as_bytes(), PathError::Domain),
            ("a@\u{e9}..example".as_bytes(), PathError::Domain),
            ("a@[\u{e9}]".as_bytes(), PathError::Literal),
            (long.as_bytes(), PathError::LocalPartTooLong),
        ] {
            assert_eq!(Mailbox::parse_utf8(bytes), Err(error), "{bytes:?}");
        }
        assert!(ReversePath::Null.is_ascii());
        let routed = ForwardPath::parse_utf8("@\u{e9}.example:u@\u{e9}.example".as_bytes());
        assert_eq!(routed.unwrap().to_string(), "u@\u{e9}.example");
    }
}
