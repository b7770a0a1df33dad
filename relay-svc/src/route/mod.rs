//! Which next hop a recipient has. Pure.
//!
//! A pattern of recipients wins over domains, and the most exact one of them first. Then the most exact domain wins: by
//! name, then the longest `*.suffix`, then `*`.
//! What a route names, or covers by suffix, and that goes neither to a link nor to the exchangers of its domain is *our
//! own*: everyone may deliver to it.

mod pattern;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::PathBuf,
};

use ipnet::IpNet;
use linkmail_smtp::Mailbox;

use crate::{
    names::{Destination, HostPort, NextHop, Node},
    policy::Identity,
};

pub use pattern::{AddressPattern, Pattern, RecipientPattern};

/// Mail that is held: where its release goes, and who may ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Where released mail is sent. Never the address that asked: anyone could ask then (RFC 1985 4).
    pub release_to: HostPort,
    /// The most connections to it at once, for all nodes that are released to it; at least one.
    pub connections: usize,
    /// Networks that may ask by ETRN; empty: nobody.
    pub etrn_from: Vec<IpNet>,
    /// Who may ask by ETRN from anywhere.
    pub etrn_by: Vec<Identity>,
}

/// How it is found out whether a recipient of our own exists, before mail for it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// By a file that lists them.
    Listed(PathBuf),
    /// By asking the next hop.
    CallForward,
}

/// What the `to` of a route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The same next hop for every recipient.
    Hop(NextHop),
    /// To the mail exchangers of the recipient's domain.
    Mx,
    /// Held, for the node that is the recipient's domain.
    Hold(Hold),
}

impl Target {
    /// The next hop of a recipient.
    #[must_use]
    pub fn hop(&self, address: &Mailbox) -> NextHop {
        match self {
            Self::Hop(hop) => hop.clone(),
            Self::Mx => NextHop::Mx(Destination::of(address.domain())),
            Self::Hold(_) => NextHop::Hold(Node::of(address.domain())),
        }
    }

    /// Whether it leads to the outside, where only those may send whom a listener names.
    fn leads_out(&self) -> bool {
        matches!(self, Self::Hop(NextHop::Link(_)) | Self::Mx)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hop(hop) => hop.fmt(f),
            Self::Mx => f.write_str("mx"),
            Self::Hold(_) => f.write_str("hold"),
        }
    }
}

/// The routes of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// The most exact pattern first.
    recipients: Vec<(RecipientPattern, Target)>,
    exact: BTreeMap<String, Target>,
    below: BTreeMap<String, Target>,
    any: Option<Target>,
    /// Of domains by name, and with `*.` of those below one.
    checks: BTreeMap<String, Check>,
}

/// A route: where it leads, and whether its domain is our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// Where the mail goes next.
    pub target: &'a Target,
    /// Whether everyone may deliver to it.
    pub own: bool,
    /// How it is found out whether a recipient exists.
    pub check: Option<&'a Check>,
}

impl<'a> Route<'a> {
    fn named(target: &'a Target) -> Self {
        Self {
            target,
            own: !target.leads_out(),
            check: None,
        }
    }
}

impl Routes {
    /// Adds a pattern of domains. Gives it back when it is there already.
    ///
    /// # Errors
    /// The pattern is routed twice.
    pub fn insert(&mut self, pattern: Pattern, target: Target) -> Result<(), Pattern> {
        let place = match &pattern {
            Pattern::Exact(name) => self.exact.entry(name.clone()),
            Pattern::Below(name) => self.below.entry(name.clone()),
            Pattern::Any if self.any.is_some() => return Err(pattern),
            Pattern::Any => {
                self.any = Some(target);
                return Ok(());
            }
        };
        match place {
            Entry::Occupied(_) => Err(pattern),
            Entry::Vacant(free) => {
                free.insert(target);
                Ok(())
            }
        }
    }

    /// Adds a pattern of recipients. Gives it back when it is there already.
    ///
    /// # Errors
    /// The pattern is routed twice.
    pub fn insert_recipient(
        &mut self,
        pattern: RecipientPattern,
        target: Target,
    ) -> Result<(), RecipientPattern> {
        if self.recipients.iter().any(|(known, _)| *known == pattern) {
            return Err(pattern);
        }
        self.recipients.push((pattern, target));
        // Stable: of two that are equally exact, the one that was written first wins.
        self.recipients
            .sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.exactness()));
        Ok(())
    }

    /// The route of a recipient, if it has one. A domain that has no name in DNS has none.
    #[must_use]
    pub fn find(&self, address: &Mailbox) -> Option<Route<'_>> {
        if !Node::is_of(address.domain()) {
            return None;
        }
        let by_recipient = self
            .recipients
            .iter()
            .find(|(pattern, _)| pattern.takes(address));
        if let Some((_, target)) = by_recipient {
            return Some(Route::named(target));
        }
        let node = Node::of(address.domain());
        if let Some(target) = self.by_domain(node.as_str()) {
            let mut route = Route::named(target);
            route.check = self.check_of(node.as_str());
            return Some(route);
        }
        self.any.as_ref().map(|target| Route {
            target,
            own: false,
            check: None,
        })
    }

    fn by_domain(&self, name: &str) -> Option<&Target> {
        self.exact
            .get(name)
            .or_else(|| above(name).find_map(|suffix| self.below.get(suffix)))
    }

    /// The check of the pattern that [`Self::by_domain`] finds.
    fn check_of(&self, name: &str) -> Option<&Check> {
        if self.exact.contains_key(name) {
            return self.checks.get(name);
        }
        let below = above(name).find(|suffix| self.below.contains_key(*suffix))?;
        self.checks.get(&format!("*.{below}"))
    }

    /// Has the recipients of a pattern of domains checked. Of `*` nothing is our own, and nothing is checked.
    pub fn check(&mut self, pattern: &Pattern, check: Check) {
        let key = match pattern {
            Pattern::Exact(name) => name.clone(),
            Pattern::Below(name) => format!("*.{name}"),
            Pattern::Any => return,
        };
        self.checks.insert(key, check);
    }

    /// How the mail of a node is held, if it is.
    #[must_use]
    pub fn hold_of(&self, node: &Node) -> Option<&Hold> {
        match self.by_domain(node.as_str())? {
            Target::Hold(hold) => Some(hold),
            Target::Hop(_) | Target::Mx => None,
        }
    }

    /// The `hold` routes that take mail of a node or of nodes below it.
    pub fn holds_at_or_below<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Hold> {
        let below = |name: &str| name == node.as_str() || above(name).any(|up| up == node.as_str());
        let exact = self.exact.iter().filter(move |(name, _)| below(name));
        let wild = self.below.iter().filter(move |(name, _)| below(name));
        let at_or_below = exact.chain(wild).map(|(_, target)| target);
        // Its own route may be one that takes everything below a domain above it.
        let own = self.by_domain(node.as_str());
        let is_above = !self.exact.contains_key(node.as_str());
        let own = own.filter(move |_| is_above);
        at_or_below.chain(own).filter_map(|target| match target {
            Target::Hold(hold) => Some(hold),
            Target::Hop(_) | Target::Mx => None,
        })
    }

    /// Every `hold` route.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.targets().filter_map(|target| match target {
            Target::Hold(hold) => Some(hold),
            Target::Hop(_) | Target::Mx => None,
        })
    }

    /// The nodes that a `hold` route takes by name.
    #[must_use]
    pub fn named_nodes(&self) -> Vec<Node> {
        let held = self
            .exact
            .iter()
            .filter(|(_, target)| matches!(target, Target::Hold(_)));
        held.filter_map(|(name, _)| name.parse().ok())
            .map(|domain| Node::of(&domain))
            .collect()
    }

    /// Whether a `hold` route takes a node by name.
    #[must_use]
    pub fn names(&self, node: &Node) -> bool {
        matches!(self.exact.get(node.as_str()), Some(Target::Hold(_)))
    }

    /// Every next hop that does not depend on the recipient, once, in order.
    #[must_use]
    pub fn hops(&self) -> BTreeSet<&NextHop> {
        self.targets()
            .filter_map(|target| match target {
                Target::Hop(hop) => Some(hop),
                Target::Mx | Target::Hold(_) => None,
            })
            .collect()
    }

    /// Whether mail goes to the exchangers of its domain by any route.
    #[must_use]
    pub fn use_mx(&self) -> bool {
        self.targets().any(|target| *target == Target::Mx)
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        let recipients = self.recipients.iter().map(|(_, target)| target);
        recipients
            .chain(self.exact.values())
            .chain(self.below.values())
            .chain(self.any.as_ref())
    }

    /// One of our own domains that is routed to a mail server by name, the first in alphabetical order.
    #[must_use]
    pub fn first_own(&self) -> Option<&str> {
        let served = |target: &Target| matches!(target, Target::Hop(NextHop::Smtp(_)));
        let mut own = self.exact.iter().filter(|(_, target)| served(target));
        own.next().map(|(name, _)| name.as_str())
    }

    /// Changes with any change of what is routed where: mail that is queued already is then routed anew.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(self.recipients.iter().map(|(of, to)| format!("{of} {to}")));
        lines.extend(
            self.exact
                .iter()
                .map(|(domain, to)| format!("{domain} {to}")),
        );
        lines.extend(
            self.below
                .iter()
                .map(|(domain, to)| format!("*.{domain} {to}")),
        );
        lines.extend(self.any.iter().map(|to| format!("* {to}")));
        lines.sort();
        lines.join("\n")
    }
}

/// The domains above a name: `branch.example` and `example` for `a.branch.example`.
fn above(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.').map(|(_, rest)| rest), |rest| {
        rest.split_once('.').map(|(_, rest)| rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(to: &str) -> Target {
        match to.strip_prefix("hold ") {
            Some(from) => Target::Hold(Hold {
                release_to: HostPort::parse_url("smtp://mx.site.example").unwrap(),
                connections: 16,
                etrn_from: vec![from.parse().unwrap()],
                etrn_by: Vec::new(),
            }),
            None if to == "mx" => Target::Mx,
            None => Target::Hop(NextHop::parse(to).unwrap()),
        }
    }

    fn routes() -> Routes {
        let mut routes = Routes::default();
        for (pattern, to) in [
            ("branch.example", "smtp://mail.branch.example:25"),
            ("*.branch.example", "smtp://sub.branch.example:25"),
            ("*.lab.branch.example", "smtp://lab.branch.example:25"),
            ("partner.example", "link:vsat"),
            ("*.straight.example", "mx"),
            ("ship.example", "hold 10.1.0.0/16"),
            ("*.ship.example", "hold 10.2.0.0/16"),
            ("*.yard.ship.example", "hold 10.3.0.0/16"),
            ("shore.ship.example", "smtp://shore.example:25"),
            ("*", "link:isp"),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            routes.insert(pattern, target(to)).unwrap();
        }
        for (pattern, to) in [
            ("probe-*@branch.example", "report"),
            ("probe-x*@branch.example", "link:vsat"),
            ("probe-xy@branch.example", "link:isp"),
        ] {
            let pattern = RecipientPattern::parse(pattern).unwrap();
            routes.insert_recipient(pattern, target(to)).unwrap();
        }
        routes
    }

    fn find(address: &str) -> (String, bool) {
        let (routes, address) = (routes(), Mailbox::parse(address.as_bytes()).unwrap());
        let route = routes.find(&address).unwrap();
        (route.target.hop(&address).to_string(), route.own)
    }

    #[test]
    fn the_most_exact_pattern_wins_and_only_what_is_named_off_the_links_is_our_own() {
        for (address, hop, own) in [
            ("a@Branch.Example", "smtp://mail.branch.example:25", true),
            ("a@a.b.branch.example", "smtp://sub.branch.example:25", true),
            (
                "a@x.lab.branch.example",
                "smtp://lab.branch.example:25",
                true,
            ),
            ("a@partner.example", "link:vsat", false),
            ("a@elsewhere.example", "link:isp", false),
            ("a@A.Straight.example", "mx:a.straight.example", false),
            ("probe-1@branch.example", "report", true),
            ("probe-x1@branch.example", "link:vsat", false),
            ("probe-xy@branch.example", "link:isp", false),
            (
                "probe-1@a.branch.example",
                "smtp://sub.branch.example:25",
                true,
            ),
            ("a@Ship.Example", "hold:ship.example", true),
            ("a@deck.ship.example", "hold:deck.ship.example", true),
        ] {
            assert_eq!(find(address), (hop.to_owned(), own), "{address}");
        }
    }

    #[test]
    fn a_pattern_is_routed_once() {
        let mut routes = routes();
        for pattern in ["BRANCH.example", "*.ship.example", "*"] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert!(routes.insert(pattern, target("link:isp")).is_err());
        }
        let pattern = RecipientPattern::parse("PROBE-*@branch.example").unwrap();
        assert!(routes.insert_recipient(pattern, target("report")).is_err());
    }

    #[test]
    fn nodes_are_held_by_their_own_route() {
        let routes = routes();
        let node = |text: &str| Node::of(&text.parse().unwrap());
        let from = |hold: &Hold| hold.etrn_from[0].to_string();
        for (name, asks) in [
            ("ship.example", Some("10.1.0.0/16")),
            ("deck.ship.example", Some("10.2.0.0/16")),
            ("shore.ship.example", None),
            ("branch.example", None),
            ("elsewhere.example", None),
        ] {
            let held = routes.hold_of(&node(name)).map(from);
            assert_eq!(held.as_deref(), asks, "{name}");
        }
        let below = |name: &str| routes.holds_at_or_below(&node(name)).count();
        assert_eq!((below("example"), below("ship.example")), (3, 3));
        assert_eq!(below("deck.ship.example"), 1);
        // What is below a node may have a route of its own, and the node another one from above.
        assert_eq!(below("yard.ship.example"), 2);
        assert_eq!(
            (below("a.deck.ship.example"), below("branch.example")),
            (1, 0)
        );
        assert_eq!(routes.named_nodes(), [node("ship.example")]);
        assert_eq!(routes.first_own(), Some("branch.example"));
    }
}
