//! Names of things, parsed once at the edge: messages, links, cycles, nodes, next hops.

use std::fmt;

use linkmail_smtp::Domain;
use uuid::Uuid;

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

/// A host and its port, as in `smtp://HOST:PORT`. The host is a name or an address; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A domain name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl HostPort {
    /// Reads `smtp://HOST[:PORT]`; the port is 25 unless named.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn parse_url(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a next hop; expected smtp://HOST or smtp://HOST:PORT");
        let rest = text.strip_prefix("smtp://").ok_or_else(wrong)?;
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(wrong()),
                }
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let is_name = Domain::parse(host.as_bytes()).is_ok() && !host.starts_with('[');
        if !is_address && !is_name {
            return Err(wrong());
        }
        let port = match port {
            None => 25,
            Some(digits) => digits.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)?,
        };
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl HostPort {
    /// No host at all.
    #[must_use]
    pub fn nowhere() -> Self {
        Self {
            host: String::new(),
            port: 0,
        }
    }

    /// A host as RFC 3464 2.1.2 names it: a domain, or an address as a domain literal.
    #[must_use]
    pub fn mta_name(host: &str) -> String {
        match host.parse() {
            Ok(std::net::IpAddr::V4(address)) => format!("[{address}]"),
            Ok(std::net::IpAddr::V6(address)) => format!("[IPv6:{address}]"),
            Err(_) => host.to_owned(),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where a recipient's mail goes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// Over a link, in its next cycle.
    Link(LinkName),
    /// Straight to a host that is always reachable.
    Smtp(HostPort),
    /// Nowhere until the node's site asks for it.
    Hold(Node),
    /// To a program that reads reports over gRPC.
    Report,
}

impl NextHop {
    /// Reads the `to` of a route, but for `hold`, which names its node only with a recipient.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("link:") {
            return LinkName::parse(name).map(Self::Link);
        }
        if text.starts_with("smtp://") {
            return HostPort::parse_url(text).map(Self::Smtp);
        }
        if text == "report" {
            return Ok(Self::Report);
        }
        Err(format!(
            "{text:?} is not a next hop; one of link:NAME, smtp://HOST:PORT, hold, report"
        ))
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link:{name}"),
            Self::Smtp(host) => write!(f, "smtp://{host}"),
            Self::Hold(node) => write!(f, "hold:{node}"),
            Self::Report => f.write_str("report"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read_and_written_alike() {
        for text in [
            "link:isp",
            "smtp://mail.example:2525",
            "smtp://[2001:db8::1]:25",
            "smtp://192.0.2.1:25",
            "report",
        ] {
            assert_eq!(NextHop::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            NextHop::parse("smtp://mail.example").unwrap().to_string(),
            "smtp://mail.example:25"
        );
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

    #[test]
    fn next_hops_that_are_none_are_refused() {
        for text in [
            "",
            "mail.example",
            "hold",
            "hold:branch.example",
            "link:",
            "link:a b",
            "smtp://",
            "smtp://a..b",
            "smtp://a:0",
            "smtp://a:x",
            "smtp://[::1",
            "smtp://[::1]x",
        ] {
            assert!(NextHop::parse(text).is_err(), "{text}");
        }
    }
}
