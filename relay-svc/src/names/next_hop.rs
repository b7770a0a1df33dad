//! Where mail goes next, as a route and the spool write it.

use std::fmt;

use linkmail_smtp::Domain;

use super::{LinkName, Node};

/// How a host that was named is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// SMTP, in the clear until STARTTLS.
    #[default]
    Smtp,
    /// SMTP inside TLS from the first octet (RFC 8314 3.3).
    Smtps,
    /// LMTP (RFC 2033): a reply for each recipient after the data.
    Lmtp,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Smtp, Self::Smtps, Self::Lmtp];

    /// The word before `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Smtps => "smtps",
            Self::Lmtp => "lmtp",
        }
    }

    /// The port when none is named. LMTP has none, and must not use 25 (RFC 2033 5).
    fn port(self) -> Option<u16> {
        match self {
            Self::Smtp => Some(25),
            Self::Smtps => Some(465),
            Self::Lmtp => None,
        }
    }

    /// The scheme of an address, and what stands behind `://`.
    fn split(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once("://")?;
        let scheme = Self::ALL.into_iter().find(|s| s.as_str() == word)?;
        Some((scheme, rest))
    }
}

/// A host and its port, as in `smtp://HOST:PORT`. The host is a name or an address; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A domain name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// How it is spoken to.
    pub scheme: Scheme,
}

impl HostPort {
    /// Reads `smtp://HOST[:PORT]`, `smtps://HOST[:PORT]` or `lmtp://HOST:PORT`; the port is 25, or 465, unless named.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn parse_url(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a next hop; expected smtp://HOST, smtp://HOST:PORT, smtps://HOST or lmtp://HOST:PORT"
            )
        };
        let (scheme, rest) = Scheme::split(text).ok_or_else(wrong)?;
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
        let port = match (port, scheme.port()) {
            (Some(digits), _) => digits.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)?,
            (None, Some(port)) => port,
            (None, None) => {
                return Err(format!(
                    "{text:?} names no port; expected {text}:24, or another"
                ));
            }
        };
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            scheme,
        })
    }

    /// A host that MX records name, to be spoken to by SMTP.
    #[must_use]
    pub fn exchanger(host: &str, port: u16) -> Self {
        Self {
            host: host.to_ascii_lowercase(),
            port,
            scheme: Scheme::Smtp,
        }
    }

    /// No host at all.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::exchanger("", 0)
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

/// Without the scheme: for people, and for attributes of spans.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A domain that mail is delivered to straight, in lower case: its mail exchangers take it. Also an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination(String);

impl Destination {
    /// Of a domain as it was written.
    #[must_use]
    pub fn of(domain: &Domain) -> Self {
        Self(Node::of(domain).0)
    }

    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address that an address literal names (RFC 5321 4.1.3).
    #[must_use]
    pub fn literal(&self) -> Option<std::net::IpAddr> {
        let inner = self.0.strip_prefix('[')?.strip_suffix(']')?;
        match inner.strip_prefix("ipv6:") {
            Some(v6) => v6.parse().ok().map(std::net::IpAddr::V6),
            None => inner.parse().ok().map(std::net::IpAddr::V4),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a recipient's mail goes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// Over a link, in its next cycle.
    Link(LinkName),
    /// Over a link, in the hours that are kept there for mail as large as this.
    Oversize(LinkName),
    /// Straight to a host that is always reachable.
    Smtp(HostPort),
    /// Straight to the mail exchangers of a domain.
    Mx(Destination),
    /// Nowhere until the node's site asks for it.
    Hold(Node),
    /// To a program that reads reports over gRPC.
    Report,
}

impl NextHop {
    /// What every [`Self::Mx`] begins with as text.
    pub const MX: &'static str = "mx:";
    /// What every [`Self::Oversize`] begins with as text; the name of its link comes behind.
    pub const OVERSIZE: &'static str = "oversize:";

    /// Reads the `to` of a route, but for `hold` and `mx`, which take their domain from a recipient. What is oversize the
    /// link says, not a route.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("link:") {
            return LinkName::parse(name).map(Self::Link);
        }
        if Scheme::split(text).is_some() {
            return HostPort::parse_url(text).map(Self::Smtp);
        }
        if text == "report" {
            return Ok(Self::Report);
        }
        Err(format!(
            "{text:?} is not a next hop; one of link:NAME, smtp://HOST:PORT, smtps://HOST:PORT, lmtp://HOST:PORT, mx, hold, report"
        ))
    }

    /// Reads what the spool wrote for mail that goes to the exchangers of a domain.
    #[must_use]
    pub fn parse_mx(text: &str) -> Option<Destination> {
        let domain: Domain = text.strip_prefix(Self::MX)?.parse().ok()?;
        Some(Destination::of(&domain))
    }

    /// Reads what the spool wrote for mail that is too large for its link at any time; gives the link.
    #[must_use]
    pub fn parse_oversize(text: &str) -> Option<LinkName> {
        LinkName::parse(text.strip_prefix(Self::OVERSIZE)?).ok()
    }

    /// Reads what the spool wrote for mail that is held for a node.
    #[must_use]
    pub fn parse_hold(text: &str) -> Option<Node> {
        let domain: Domain = text.strip_prefix("hold:")?.parse().ok()?;
        Some(Node::of(&domain))
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link:{name}"),
            Self::Oversize(link) => write!(f, "{}{link}", Self::OVERSIZE),
            Self::Smtp(host) => write!(f, "{}://{host}", host.scheme.as_str()),
            Self::Mx(domain) => write!(f, "{}{domain}", Self::MX),
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
            "smtps://mail.example:465",
            "lmtp://[::1]:24",
            "report",
        ] {
            assert_eq!(NextHop::parse(text).unwrap().to_string(), text);
        }
        for (text, full) in [
            ("smtp://mail.example", "smtp://mail.example:25"),
            ("smtps://Mail.example", "smtps://mail.example:465"),
        ] {
            assert_eq!(NextHop::parse(text).unwrap().to_string(), full);
        }
    }

    #[test]
    fn next_hops_that_are_none_are_refused() {
        for text in [
            "",
            "mail.example",
            "hold",
            "hold:branch.example",
            "mx",
            "mx:branch.example",
            "link:",
            "link:a b",
            "oversize:isp",
            "smtp://",
            "smtp://a..b",
            "smtp://a:0",
            "smtp://a:x",
            "smtp://[::1",
            "smtp://[::1]x",
            "smtps://",
            "lmtp://mail.example",
            "http://mail.example",
        ] {
            assert!(NextHop::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_spool_wrote_is_read_however_the_domain_is_written() {
        let of = |text: &str| Destination::of(&text.parse().unwrap());
        let hop = NextHop::Mx(of("Remote.Example"));
        assert_eq!(hop.to_string(), "mx:remote.example");
        assert_eq!(
            NextHop::parse_mx("mx:remote.example"),
            Some(of("remote.example"))
        );
        assert_eq!(NextHop::parse_mx("hold:remote.example"), None);
        let isp = LinkName::parse("isp").unwrap();
        let large = NextHop::Oversize(isp.clone()).to_string();
        assert_eq!(NextHop::parse_oversize(&large), Some(isp));
        assert_eq!(NextHop::parse_oversize("link:isp"), None);
        for (text, address) in [
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("[IPv6:2001:DB8::1]", Some("2001:db8::1")),
            ("remote.example", None),
        ] {
            let literal = of(text).literal().map(|address| address.to_string());
            assert_eq!(literal.as_deref(), address, "{text}");
            let hop = NextHop::Mx(of(text)).to_string();
            assert_eq!(NextHop::parse_mx(&hop), Some(of(text)), "{text}");
        }
    }
}
