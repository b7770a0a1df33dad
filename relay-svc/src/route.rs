//! Which next hop a recipient's domain has. Pure.
//!
//! The most exact pattern wins: a domain by name, then the longest `*.suffix`, then `*`.
//! A domain that a route names, or covers by suffix, and that does not go to a link is *our own*:
//! everyone may deliver to it.

use std::collections::HashMap;

use linkmail_smtp::Domain;

use crate::names::NextHop;

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

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name:?}"),
            Self::Below(name) => write!(f, "\"*.{name}\""),
            Self::Any => f.write_str("\"*\""),
        }
    }
}

/// The routes of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    exact: HashMap<String, NextHop>,
    below: HashMap<String, NextHop>,
    any: Option<NextHop>,
}

/// A route: the hop, and whether its domain is our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// Where the mail goes next.
    pub hop: &'a NextHop,
    /// Whether everyone may deliver to it.
    pub own: bool,
}

impl Routes {
    /// Adds a pattern. Gives back the pattern when it is there already.
    ///
    /// # Errors
    /// The pattern is routed twice.
    pub fn insert(&mut self, pattern: Pattern, hop: NextHop) -> Result<(), Pattern> {
        let taken = match &pattern {
            Pattern::Exact(name) => self.exact.contains_key(name),
            Pattern::Below(name) => self.below.contains_key(name),
            Pattern::Any => self.any.is_some(),
        };
        if taken {
            return Err(pattern);
        }
        match pattern {
            Pattern::Exact(name) => drop(self.exact.insert(name, hop)),
            Pattern::Below(name) => drop(self.below.insert(name, hop)),
            Pattern::Any => self.any = Some(hop),
        }
        Ok(())
    }

    /// The route of a domain, if it has one.
    #[must_use]
    pub fn find(&self, domain: &Domain) -> Option<Route<'_>> {
        let name = String::from_utf8_lossy(domain.as_bytes()).to_ascii_lowercase();
        let named = |hop| Route {
            hop,
            own: !matches!(hop, NextHop::Link(_)),
        };
        if let Some(hop) = self.exact.get(&name) {
            return Some(named(hop));
        }
        let mut rest = name.as_str();
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(hop) = self.below.get(suffix) {
                return Some(named(hop));
            }
            rest = suffix;
        }
        self.any.as_ref().map(|hop| Route { hop, own: false })
    }

    /// Every next hop, once, in no order.
    #[must_use]
    pub fn hops(&self) -> Vec<&NextHop> {
        let mut all: Vec<_> = self
            .exact
            .values()
            .chain(self.below.values())
            .chain(self.any.as_ref())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// One of our own domains that is routed by name, the first in alphabetical order.
    #[must_use]
    pub fn first_own(&self) -> Option<&str> {
        let own = self
            .exact
            .iter()
            .filter(|(_, hop)| !matches!(hop, NextHop::Link(_)));
        own.map(|(name, _)| name.as_str()).min()
    }

    /// Changes with any change of the routes: mail that is queued already is then routed anew.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<String> = self
            .exact
            .iter()
            .map(|(d, hop)| format!("{d} {hop}"))
            .collect();
        lines.extend(self.below.iter().map(|(d, hop)| format!("*.{d} {hop}")));
        lines.extend(self.any.iter().map(|hop| format!("* {hop}")));
        lines.sort();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let mut routes = Routes::default();
        for (pattern, hop) in [
            ("branch.example", "smtp://mail.branch.example:25"),
            ("*.branch.example", "smtp://sub.branch.example:25"),
            ("*.lab.branch.example", "smtp://lab.branch.example:25"),
            ("partner.example", "link:vsat"),
            ("*", "link:isp"),
        ] {
            routes
                .insert(
                    Pattern::parse(pattern).unwrap(),
                    NextHop::parse(hop).unwrap(),
                )
                .unwrap();
        }
        routes
    }

    fn find(name: &str) -> (String, bool) {
        let routes = routes();
        let route = routes
            .find(&Domain::parse(name.as_bytes()).unwrap())
            .unwrap();
        (route.hop.to_string(), route.own)
    }

    #[test]
    fn the_most_exact_pattern_wins_and_only_named_domains_off_the_links_are_our_own() {
        assert_eq!(
            find("Branch.Example"),
            ("smtp://mail.branch.example:25".into(), true)
        );
        assert_eq!(
            find("a.b.branch.example"),
            ("smtp://sub.branch.example:25".into(), true)
        );
        assert_eq!(
            find("x.lab.branch.example"),
            ("smtp://lab.branch.example:25".into(), true)
        );
        assert_eq!(find("partner.example"), ("link:vsat".into(), false));
        assert_eq!(find("elsewhere.example"), ("link:isp".into(), false));
    }

    #[test]
    fn a_pattern_is_routed_once() {
        let mut routes = routes();
        let hop = NextHop::parse("link:isp").unwrap();
        assert!(
            routes
                .insert(Pattern::parse("BRANCH.example").unwrap(), hop)
                .is_err()
        );
    }
}
