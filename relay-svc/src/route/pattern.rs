//! What a route's `domains` and `recipients` may hold. Pure.

use linkmail_smtp::{Domain, Mailbox};

use crate::names::Node;

/// What a route's `domains` may hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `branch.example`: just this domain, in lower case.
    Exact(String),
    /// `*.branch.example`: every domain below it; kept as `branch.example`.
    Below(String),
    /// `*`: whatever no other route takes.
    Any,
}

impl Pattern {
    /// Reads one entry of `domains`.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let domain = |name: &str| match Domain::parse(name.as_bytes()) {
            Ok(_) => Ok(name.to_ascii_lowercase()),
            Err(_) => Err(format!(
                "{text:?} is not a domain; expected branch.example, *.branch.example or *"
            )),
        };
        match text {
            "*" => Ok(Self::Any),
            _ => match text.strip_prefix("*.") {
                Some(suffix) => domain(suffix).map(Self::Below),
                None => domain(text).map(Self::Exact),
            },
        }
    }
}

impl Pattern {
    /// Whether it takes a domain.
    #[must_use]
    pub fn takes(&self, domain: &Domain) -> bool {
        let name = Node::of(domain);
        match self {
            Self::Any => true,
            Self::Exact(exact) => name.as_str() == exact,
            Self::Below(above) => {
                let below = name.as_str().strip_suffix(above.as_str());
                below.is_some_and(|below| below.ends_with('.'))
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name:?}"),
            Self::Below(name) => write!(f, "\"*.{name}\""),
            Self::Any => f.write_str("\"*\""),
        }
    }
}

/// What a route's `recipients` may hold: an address whose local part may have one `*`, for any octets or none.
///
/// Local parts are compared without regard to case. RFC 5321 2.4 leaves that to the host that owns the domain, and a
/// report must be found whatever the hosts on its way did to the case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecipientPattern {
    before: Vec<u8>,
    /// What follows the `*`; none: there is no `*`.
    after: Option<Vec<u8>>,
    domain: String,
}

impl RecipientPattern {
    /// Reads one entry of `recipients`.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a recipient; expected probe@branch.example, or one * in front of the @, such as probe-*@branch.example"
            )
        };
        let (local, _) = text.rsplit_once('@').ok_or_else(wrong)?;
        if local.matches('*').count() > 1 {
            return Err(wrong());
        }
        // An asterisk may stand in a local part (RFC 5321 4.1.2, atext), so that the pattern is an address itself.
        let address = Mailbox::parse(text.as_bytes()).map_err(|_| wrong())?;
        let (before, after) = match local.split_once('*') {
            Some((before, after)) => (before, Some(after)),
            None => (local, None),
        };
        let lower = |text: &str| text.to_ascii_lowercase().into_bytes();
        Ok(Self {
            before: lower(before),
            after: after.map(lower),
            domain: Node::of(address.domain()).as_str().to_owned(),
        })
    }

    /// Whether it takes the recipient.
    #[must_use]
    pub fn takes(&self, address: &Mailbox) -> bool {
        if Node::of(address.domain()).as_str() != self.domain {
            return false;
        }
        let local = address.local().to_ascii_lowercase();
        match &self.after {
            None => local == self.before,
            Some(after) => {
                local.len() >= self.before.len() + after.len()
                    && local.starts_with(&self.before)
                    && local.ends_with(after)
            }
        }
    }

    /// The more exact of two has the larger one: an address without `*` first, then by how much of it is fixed.
    pub(super) fn exactness(&self) -> (bool, usize) {
        let fixed = self.before.len() + self.after.as_ref().map_or(0, Vec::len);
        (self.after.is_none(), fixed)
    }
}

impl std::fmt::Display for RecipientPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = String::from_utf8_lossy(&self.before);
        let star = if self.after.is_some() { "*" } else { "" };
        let after = self.after.as_deref().unwrap_or_default();
        let after = String::from_utf8_lossy(after);
        write!(f, "\"{before}{star}{after}@{}\"", self.domain)
    }
}

/// Addresses, by themselves or by their domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressPattern {
    /// As a route's `recipients`.
    Address(RecipientPattern),
    /// As a route's `domains`.
    Domain(Pattern),
}

impl AddressPattern {
    /// Reads an address, which may have one `*` in front of the @, or a domain.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            RecipientPattern::parse(text).map(Self::Address)
        } else {
            Pattern::parse(text).map(Self::Domain)
        }
    }

    /// Whether it takes an address.
    #[must_use]
    pub fn takes(&self, address: &Mailbox) -> bool {
        match self {
            Self::Address(pattern) => pattern.takes(address),
            Self::Domain(pattern) => pattern.takes(address.domain()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_pattern_takes_what_it_says() {
        for (pattern, address, takes) in [
            ("probe-*@branch.example", "probe-1a2b@branch.example", true),
            ("probe-*@branch.example", "PROBE-1A@Branch.Example", true),
            ("probe-*@branch.example", "probe-@branch.example", true),
            ("probe-*@branch.example", "probe@branch.example", false),
            ("probe-*@branch.example", "probe-1@else.example", false),
            ("probe-*@branch.example", "probe-1@a.branch.example", false),
            ("a*b@x.example", "ab@x.example", true),
            ("ab*ba@x.example", "aba@x.example", false),
            ("*@x.example", "anyone@x.example", true),
            ("probe@x.example", "Probe@x.example", true),
            ("probe@x.example", "probes@x.example", false),
        ] {
            let address = Mailbox::parse(address.as_bytes()).unwrap();
            let read = RecipientPattern::parse(pattern).unwrap();
            assert_eq!(read.takes(&address), takes, "{pattern} {address}");
            assert_eq!(read.to_string(), format!("{pattern:?}"));
        }
    }

    #[test]
    fn what_is_no_recipient_pattern_is_refused() {
        for text in [
            "",
            "*",
            "probe",
            "*@*",
            "a*b*@x.example",
            "@x.example",
            "a b@x.example",
        ] {
            assert!(RecipientPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_meant_by_itself_or_by_its_domain() {
        for (pattern, address, takes) in [
            ("branch.example", "a@Branch.Example", true),
            ("branch.example", "a@deck.branch.example", false),
            ("*.branch.example", "a@deck.branch.example", true),
            ("*.branch.example", "a@branch.example", false),
            ("*.branch.example", "a@otherbranch.example", false),
            ("*", "a@else.example", true),
            ("a*@branch.example", "ab@branch.example", true),
            ("a*@branch.example", "b@branch.example", false),
        ] {
            let address = Mailbox::parse(address.as_bytes()).unwrap();
            let read = AddressPattern::parse(pattern).unwrap();
            assert_eq!(read.takes(&address), takes, "{pattern} {address}");
        }
        assert!(AddressPattern::parse("a b").is_err());
    }
}
