//! Who may send what where; answers with a reply. Pure.
//!
//! A client whose address is in `relay_from`, or that has authenticated itself, may send to anyone who has a route.
//! Everyone may deliver to our own domains, and to `postmaster` (RFC 5321 4.5.1). A client may ask for the release of a
//! node's mail when its address is in `etrn_from` of the node's route, or who it is in `etrn_by`; all others are told
//! nothing, not even whether mail is held. `peer` says who is another relay of this project.

mod peer;

use std::net::IpAddr;

use ipnet::IpNet;
use linkmail_sasl::Name;
use linkmail_smtp::{Enhanced, EtrnNode, ForwardPath, Mailbox, Reply};

use crate::{
    names::{NextHop, Node, NodeScope},
    route::{Check, Hold, Routes},
};

pub use peer::Peer;

/// What a client has proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// By AUTH: the name of a credential.
    Name(String),
    /// By a certificate that leads to one of `client_roots`: SHA-256 of its public key, in small hexadecimal digits.
    Key(String),
}

impl Identity {
    /// Reads a name, or `sha256:` and the 64 hexadecimal digits of a certificate's public key.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(digits) = text.strip_prefix("sha256:") {
            let is_hash = digits.len() == 64 && digits.bytes().all(|one| one.is_ascii_hexdigit());
            return if is_hash {
                Ok(Self::Key(digits.to_ascii_lowercase()))
            } else {
                Err(format!(
                    "{text:?}: expected sha256: and 64 hexadecimal digits, the hash of the certificate's public key"
                ))
            };
        }
        let name = Name::parse(text).map_err(|error| format!("{text:?} is not a name: {error}"))?;
        Ok(Self::Name(name.as_str().to_owned()))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Key(digits) => write!(f, "sha256:{digits}"),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Where from.
    pub address: IpAddr,
    /// All that it has proved to be: it may have a certificate, and authenticate itself besides.
    pub identities: Vec<Identity>,
}

impl Client {
    /// One that has proved nothing.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            identities: Vec::new(),
        }
    }

    /// Whether it is one of these.
    #[must_use]
    pub fn is_any_of(&self, listed: &[Identity]) -> bool {
        self.identities.iter().any(|one| listed.contains(one))
    }

    /// The name that it has authenticated itself with.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.identities.iter().find_map(|one| match one {
            Identity::Name(name) => Some(name.as_str()),
            Identity::Key(_) => None,
        })
    }

    fn may_ask(&self, hold: &Hold) -> bool {
        contains(&hold.etrn_from, self.address) || self.is_any_of(&hold.etrn_by)
    }
}

/// What the policy looks at.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The routes.
    pub routes: Routes,
    /// Where mail for the bare `postmaster` goes.
    pub postmaster: Option<Mailbox>,
}

/// A recipient that may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The address: for the bare `postmaster`, the configured one.
    pub address: Mailbox,
    /// Its next hop.
    pub hop: NextHop,
    /// How it is found out whether there is such a user. The bare `postmaster` always is (RFC 5321 4.5.1).
    pub check: Option<Check>,
}

/// Why a recipient may not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The client may not relay.
    Relay,
    /// No route takes the domain.
    NoRoute,
    /// The bare `postmaster`, and no postmaster is known.
    NoPostmaster,
}

impl Denied {
    /// The reply to RCPT.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::Relay => Reply::new(550, Some(Enhanced(5, 7, 1)), "relaying denied"),
            Self::NoRoute => Reply::new(550, Some(Enhanced(5, 4, 4)), "no route to this domain"),
            Self::NoPostmaster => {
                Reply::new(550, Some(Enhanced(5, 1, 1)), "no postmaster is configured")
            }
        }
    }
}

/// Whether an address is in one of the networks; an IPv4 address in IPv6 clothing counts as itself. The unspecified address
/// is in none: it stands for a client whose address is not known, which has no rights by it.
#[must_use]
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    network_of(networks, address).is_some()
}

fn network_of(networks: &[IpNet], address: IpAddr) -> Option<&IpNet> {
    let address = address.to_canonical();
    let holds = |network: &&IpNet| !address.is_unspecified() && network.contains(&address);
    networks.iter().find(holds)
}

/// Every domain has a postmaster (RFC 5321 4.5.1).
fn is_postmaster(address: &Mailbox) -> bool {
    address.local().eq_ignore_ascii_case(b"postmaster")
}

impl Policy {
    /// Whether a client may send to a recipient, and where that goes.
    ///
    /// # Errors
    /// Why it may not.
    pub fn recipient(&self, path: &ForwardPath, may_relay: bool) -> Result<Admitted, Denied> {
        let address = match path {
            ForwardPath::Mailbox(mailbox) => mailbox,
            ForwardPath::Postmaster => self.postmaster.as_ref().ok_or(Denied::NoPostmaster)?,
        };
        let postmaster = matches!(path, ForwardPath::Postmaster);
        // Without relaying, a domain that is not our own is denied whether it has a route or not.
        match self.routes.find(address) {
            Some(route) if route.own || may_relay || postmaster => Ok(Admitted {
                address: address.clone(),
                hop: route.target.hop(address),
                check: route.check.cloned().filter(|_| !is_postmaster(address)),
            }),
            None if may_relay || postmaster => Err(Denied::NoRoute),
            _ => Err(Denied::Relay),
        }
    }

    /// What a client may have released by this ETRN; of the nodes below one, those that [`Self::may_release`] says.
    ///
    /// # Errors
    /// It may not ask, or for nothing that there is.
    pub fn release(&self, asked: &EtrnNode, client: &Client) -> Result<NodeScope, ReleaseDenied> {
        let may = |hold: &Hold| client.may_ask(hold);
        let wanted = match asked {
            EtrnNode::Domain(domain) => {
                let node = Node::of(domain);
                let held = self.routes.hold_of(&node).is_some_and(may);
                held.then_some(NodeScope::One(node))
            }
            EtrnNode::Subdomains(domain) => {
                let node = Node::of(domain);
                let held = self.routes.holds_at_or_below(&node).any(may);
                held.then_some(NodeScope::AtOrBelow(node))
            }
            EtrnNode::Queue(_) if self.routes.holds().any(may) => {
                return Err(ReleaseDenied::NoSuchQueue);
            }
            EtrnNode::Queue(_) => None,
        };
        wanted.ok_or(ReleaseDenied::NotAllowed)
    }

    /// Whether a client may have this node's mail released.
    #[must_use]
    pub fn may_release(&self, node: &Node, client: &Client) -> bool {
        self.routes
            .hold_of(node)
            .is_some_and(|hold| client.may_ask(hold))
    }
}

/// Why nothing is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseDenied {
    /// The client may not ask for it, whether it is held or not.
    NotAllowed,
    /// The client may ask, but there are no queues with names of their own.
    NoSuchQueue,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::HostPort,
        route::{Pattern, Target},
    };

    fn policy(any: bool) -> Policy {
        let mut routes = Routes::default();
        let mut add = |pattern, hop| {
            routes
                .insert(
                    Pattern::parse(pattern).unwrap(),
                    Target::Hop(NextHop::parse(hop).unwrap()),
                )
                .unwrap();
        };
        add("branch.example", "smtp://mail.branch.example:25");
        if any {
            add("*", "link:isp");
        }
        Policy {
            routes,
            postmaster: Some(Mailbox::parse(b"hostmaster@branch.example").unwrap()),
        }
    }

    fn path(text: &str) -> ForwardPath {
        ForwardPath::Mailbox(Mailbox::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_stranger_reaches_our_own_domains_and_nobody_else() {
        let policy = policy(true);
        assert!(policy.recipient(&path("a@branch.example"), false).is_ok());
        assert_eq!(
            policy.recipient(&path("a@else.example"), false),
            Err(Denied::Relay)
        );
        assert_eq!(
            policy
                .recipient(&path("a%else.example@branch.example"), false)
                .unwrap()
                .hop
                .to_string(),
            "smtp://mail.branch.example:25"
        );
        assert!(policy.recipient(&path("a@else.example"), true).is_ok());
    }

    #[test]
    fn a_domain_without_a_route_is_refused_and_tells_a_stranger_nothing() {
        let policy = policy(false);
        assert_eq!(
            policy.recipient(&path("a@else.example"), true),
            Err(Denied::NoRoute)
        );
        assert_eq!(
            policy.recipient(&path("a@else.example"), false),
            Err(Denied::Relay)
        );
    }

    #[test]
    fn postmaster_without_a_domain_is_the_configured_one() {
        let admitted = policy(true)
            .recipient(&ForwardPath::Postmaster, false)
            .unwrap();
        assert_eq!(admitted.address.to_string(), "hostmaster@branch.example");
    }

    #[test]
    fn who_may_ask_for_a_release_and_for_what() {
        let mut policy = policy(true);
        for (pattern, from) in [
            ("ship.example", "10.1.0.0/16"),
            ("*.ship.example", "10.2.0.0/16"),
            ("clinic.example", "10.2.0.0/16"),
        ] {
            let hold = Hold {
                release_to: HostPort::parse_url("smtp://mx.site.example").unwrap(),
                connections: 16,
                etrn_from: vec![from.parse().unwrap()],
                etrn_by: vec![Identity::parse("clinic").unwrap()],
            };
            let pattern = Pattern::parse(pattern).unwrap();
            policy.routes.insert(pattern, Target::Hold(hold)).unwrap();
        }
        let node = |text: &str| Node::of(&text.parse().unwrap());
        let one = |text: &str| Ok(NodeScope::One(node(text)));
        let below = |text: &str| Ok(NodeScope::AtOrBelow(node(text)));
        let (no, none) = (
            Err(ReleaseDenied::NotAllowed),
            Err(ReleaseDenied::NoSuchQueue),
        );
        for (asked, client, expected) in [
            ("ship.example", "10.1.0.5", one("ship.example")),
            ("SHIP.example", "::ffff:10.1.0.5", one("ship.example")),
            ("ship.example", "10.2.0.5", no.clone()),
            ("ship.example", "192.0.2.1", no.clone()),
            ("deck.ship.example", "10.1.0.5", no.clone()),
            ("deck.ship.example", "10.2.0.5", one("deck.ship.example")),
            ("@ship.example", "10.1.0.5", below("ship.example")),
            ("@ship.example", "10.2.0.5", below("ship.example")),
            ("@example", "10.2.0.5", below("example")),
            ("@ship.example", "192.0.2.1", no.clone()),
            ("branch.example", "10.1.0.5", no.clone()),
            ("nowhere.example", "10.1.0.5", no.clone()),
            ("#night", "10.1.0.5", none),
            ("#night", "192.0.2.1", no),
        ] {
            let client = Client::at(client.parse().unwrap());
            let answer = policy.release(&asked.parse().unwrap(), &client);
            assert_eq!(answer, expected, "{asked} {client:?}");
        }
        let mut client = Client::at("10.2.0.5".parse().unwrap());
        let may = |name: &str, client: &Client| policy.may_release(&node(name), client);
        assert!(may("deck.ship.example", &client) && !may("ship.example", &client));
        client.identities = vec![Identity::Key("ab".into()), Identity::Name("ship".into())];
        assert!(!may("ship.example", &client));
        client.identities.push(Identity::Name("clinic".into()));
        assert!(may("ship.example", &client));
        let asked = "ship.example".parse().unwrap();
        assert!(policy.release(&asked, &client).is_ok());
    }

    #[test]
    fn an_identity_is_a_name_or_the_hash_of_a_key() {
        let digits = "AB".repeat(32);
        for (text, told) in [
            ("scanner", Some("scanner".to_owned())),
            (
                &format!("sha256:{digits}"),
                Some(format!("sha256:{}", "ab".repeat(32))),
            ),
            ("sha256:ab", None),
            ("", None),
        ] {
            assert_eq!(Identity::parse(text).ok().map(|one| one.to_string()), told);
        }
    }

    #[test]
    fn a_checked_recipient_says_so_and_postmaster_is_never_checked() {
        let mut policy = policy(true);
        let pattern = Pattern::parse("lab.example").unwrap();
        let target = Target::Hop(NextHop::parse("smtp://mail.branch.example:25").unwrap());
        policy.routes.insert(pattern.clone(), target).unwrap();
        policy.routes.check(&pattern, Check::CallForward);
        let check = |text: &str| policy.recipient(&path(text), false).unwrap().check;
        assert_eq!(check("a@lab.example"), Some(Check::CallForward));
        assert_eq!(check("PostMaster@lab.example"), None);
        assert_eq!(check("a@branch.example"), None);
    }

    #[test]
    fn an_ipv4_client_on_a_dual_stack_listener_is_known_by_its_ipv4_network() {
        let networks = ["10.1.0.0/16".parse().unwrap()];
        assert!(contains(&networks, "::ffff:10.1.2.3".parse().unwrap()));
        assert!(!contains(&networks, "10.2.0.1".parse().unwrap()));
    }
}
