//! Who a client is as another relay of this project, so that what it hands over again is recognised (docs/xlinkmail.md).
//!
//! A client is one peer at a time, and finds nothing but what that peer handed over: whatever id it gives, it can keep
//! back no mail but its own. What it has proved to be counts before its address, so that a site stays the same peer
//! wherever it comes from.

use ipnet::IpNet;

use super::{Client, Identity, network_of};

/// Another relay of this project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// One that has authenticated itself, or has shown a certificate that leads to one of `client_roots`.
    Proved(Identity),
    /// One whose address is in this network of `repeats_from`; it stays the same when its address changes within.
    Listed(IpNet),
}

impl Peer {
    /// The peer that a client is: by the name that it authenticated itself with, else by its certificate, which changes
    /// more often, else by its address.
    #[must_use]
    pub fn of(client: &Client, repeats_from: &[IpNet]) -> Option<Self> {
        let name = client.name().map(|name| Identity::Name(name.to_owned()));
        let proved = name.or_else(|| client.identities.first().cloned());
        let listed = || network_of(repeats_from, client.address);
        proved
            .map(Self::Proved)
            .or_else(|| listed().map(|network| Self::Listed(network.trunc())))
    }

    /// What the spool knows it by; no two peers have the same. No network begins with a letter behind f.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Proved(Identity::Name(name)) => format!("name:{name}"),
            Self::Proved(key @ Identity::Key(_)) => key.to_string(),
            Self::Listed(network) => network.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_who_it_has_proved_to_be_before_where_it_is() {
        let networks = ["10.1.0.0/16", "fd00:1::5/64", "::/96"].map(|text| text.parse().unwrap());
        let hash = "ab".repeat(32);
        let (name, key) = (Identity::Name("ship".into()), Identity::Key(hash.clone()));
        let by_key = format!("sha256:{hash}");
        for (address, identities, expected) in [
            ("192.0.2.1", vec![], None),
            ("::", vec![], None),
            ("10.1.2.3", vec![], Some("10.1.0.0/16")),
            ("::ffff:10.1.9.9", vec![], Some("10.1.0.0/16")),
            ("fd00:1::77", vec![], Some("fd00:1::/64")),
            ("10.1.2.3", vec![name.clone()], Some("name:ship")),
            ("192.0.2.1", vec![name.clone()], Some("name:ship")),
            ("10.1.2.3", vec![key.clone()], Some(&by_key)),
            ("10.1.2.3", vec![key, name], Some("name:ship")),
        ] {
            let client = Client {
                address: address.parse().unwrap(),
                identities,
            };
            let peer = Peer::of(&client, &networks);
            let key = peer.as_ref().map(Peer::key);
            assert_eq!(key.as_deref(), expected, "{client:?}");
        }
    }

    /// Names are free text but for what [`linkmail_sasl::Name`] refuses: one that looks like another peer is not taken for
    /// it.
    #[test]
    fn no_two_peers_have_the_same_key() {
        let hash = "ab".repeat(32);
        let texts = ["10.1.0.0/16", "::/0", "name:a", "a", "name:name:a"];
        let names = texts.map(|text| Identity::Name(text.into()));
        let hashed = [
            Identity::Key(hash.clone()),
            Identity::Name(format!("sha256:{hash}")),
        ];
        let networks = ["10.1.0.0/16", "10.1.0.0/17", "::/0", "::a:0:0/96"];
        let networks = networks.map(|text| Peer::Listed(text.parse().unwrap()));
        let peers = names.into_iter().chain(hashed).map(Peer::Proved);
        let mut keys: Vec<_> = peers.chain(networks).map(|peer| peer.key()).collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count, "{keys:?}");
    }
}
