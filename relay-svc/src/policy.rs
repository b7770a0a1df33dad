//! Who may send what where; answers with a reply. Pure.
//!
//! A client whose address is in `relay_from` may send to anyone who has a route. Everyone may deliver to our own
//! domains, and to `postmaster` (RFC 5321 4.5.1).

use std::net::IpAddr;

use ipnet::IpNet;
use linkmail_smtp::{Enhanced, ForwardPath, Mailbox, Reply};

use crate::{names::NextHop, route::Routes};

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

/// Whether an address is in one of the networks; an IPv4 address in IPv6 clothing counts as itself.
#[must_use]
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
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
        match self.routes.find(address.domain()) {
            Some(route) if route.own || may_relay || postmaster => Ok(Admitted {
                address: address.clone(),
                hop: route.hop.clone(),
            }),
            None if may_relay || postmaster => Err(Denied::NoRoute),
            _ => Err(Denied::Relay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Pattern;

    fn policy(any: bool) -> Policy {
        let mut routes = Routes::default();
        let mut add = |pattern, hop| {
            routes
                .insert(
                    Pattern::parse(pattern).unwrap(),
                    NextHop::parse(hop).unwrap(),
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
    fn an_ipv4_client_on_a_dual_stack_listener_is_known_by_its_ipv4_network() {
        let networks = ["10.1.0.0/16".parse().unwrap()];
        assert!(contains(&networks, "::ffff:10.1.2.3".parse().unwrap()));
        assert!(!contains(&networks, "10.2.0.1".parse().unwrap()));
    }
}
