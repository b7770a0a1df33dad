//! Names of things, parsed once at the edge: messages, links, cycles, nodes, next hops.

mod next_hop;

use std::fmt;

use linkmail_smtp::Domain;
use uuid::Uuid;

pub use next_hop::{Destination, HostPort, NextHop, Scheme};

/// The identity of a message in the spool: a UUID (version 7, so that ids sort by time of acceptance).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

/// The identity of a cycle: a UUID (version 7).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct CycleId(Uuid);

/// Under this id another relay of this project is told of the message.
impl From<MessageId> for linkmail_smtp::PeerId {
    fn from(id: MessageId) -> Self {
        Self::from_octets(id.0.into_bytes())
    }
}

macro_rules! uuid_name {
    ($name:ident) => {
        impl $name {
            /// A new identity, of now.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The sixteen octets under which the spool keeps it.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }

            /// Reads what [`Self::as_bytes`] gave.
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }

            /// Reads the last segment of a resource name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::try_parse(text).ok().map(Self)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    };
}

uuid_name!(MessageId);
uuid_name!(CycleId);

/// A client's own identity for a call, by which a repeat is known (AIP-155).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Reads a UUID in any of its usual forms.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Reads sixteen octets.
    #[must_use]
    pub fn from_bytes(octets: &[u8]) -> Option<Self> {
        Uuid::from_slice(octets).ok().map(Self)
    }

    /// The sixteen octets under which the spool keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The name of a link: letters, digits and hyphens, 1 to 63 of them.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct LinkName(String);

impl LinkName {
    /// Checks the form.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is not a link name: 1 to 63 letters, digits and hyphens"
            ))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A domain whose mail is held until its site asks for it, in lower case (RFC 1985 5.2). One with U-labels is known by its
/// A-labels: ETRN has no other form of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(String);

impl Node {
    /// Of a domain as it was written.
    #[must_use]
    pub fn of(domain: &Domain) -> Self {
        let text = String::from_utf8_lossy(domain.as_bytes()).to_ascii_lowercase();
        match domain.is_ascii() {
            true => Self(text),
            false => Self(idna::domain_to_ascii(&text).unwrap_or(text)),
        }
    }

    /// Whether a domain has a name of this kind at all: one with U-labels may have no A-labels (RFC 5890 2.3.2.1), or such
    /// as no name may have.
    #[must_use]
    pub fn is_of(domain: &Domain) -> bool {
        domain.is_ascii() || Self::of(domain).0.parse::<Domain>().is_ok()
    }

    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from the right: `example.branch`. What is below a domain then begins as the domain itself does.
    #[must_use]
    pub fn reversed(&self) -> String {
        self.0.rsplit('.').collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What of the held mail is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeScope {
    /// That of one node.
    One(Node),
    /// That of a node and of all below it.
    AtOrBelow(Node),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_a_labels_is_no_node() {
        let is_of = |text: &str| Node::is_of(&Domain::parse_utf8(text.as_bytes()).unwrap());
        assert!(is_of("branch.example") && is_of("b\u{fc}cher.example"));
        for text in [
            format!("{}.example", "\u{fc}".repeat(60)),
            "a\u{ff3f}b.example".to_owned(),
            "a.\u{200d}.example".to_owned(),
        ] {
            assert!(!is_of(&text), "{text:?}");
        }
    }

    #[test]
    fn what_is_below_a_node_begins_as_the_node_does() {
        let node = |text: &str| Node::of(&text.parse().unwrap());
        assert_eq!(node("Branch.Example").reversed(), "example.branch");
        assert!(
            node("a.b.branch.example")
                .reversed()
                .starts_with("example.branch.")
        );
        assert!(
            !node("mybranch.example")
                .reversed()
                .starts_with("example.branch.")
        );
    }
}
