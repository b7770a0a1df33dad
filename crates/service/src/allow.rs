//! Who may connect: loopback and the Unix socket always, others from allowed networks only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// The other side of a connection. Every gRPC request carries it: see [`Peer::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A client on the Unix socket, let in by the mode of the file.
    Unix,
}

impl Peer {
    /// The address that policies look at; a caller on the Unix socket counts as 127.0.0.1.
    pub fn ip(&self) -> IpAddr {
        match self {
            Peer::Tcp(address) => address.ip().to_canonical(),
            Peer::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Who sent a request, from `tonic::Request::extensions`. None if it did not come through
    /// [`crate::incoming::Incoming`], such as in a test that calls a service directly.
    pub fn of(extensions: &http::Extensions) -> Option<Peer> {
        extensions.get().copied()
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => write!(f, "{address}"),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// The networks that may connect besides loopback and the Unix socket. Applied when a connection is
/// accepted, before anything is read from it.
#[derive(Debug, Clone, Default)]
pub struct PeerFilter {
    networks: Vec<IpNet>,
}

impl PeerFilter {
    /// Lets in these networks; with none, only this host.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        PeerFilter {
            networks: networks.into_iter().collect(),
        }
    }

    /// Whether a peer may connect.
    pub fn allows(&self, peer: &Peer) -> bool {
        let ip = peer.ip();
        ip.is_loopback() || self.networks.iter().any(|network| network.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_always_others_by_network() {
        let none = PeerFilter::default();
        let some = PeerFilter::new(["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (address, without, with) in [
            ("127.0.0.1:9", true, true),
            ("127.9.9.9:9", true, true),
            ("[::1]:9", true, true),
            ("[::ffff:127.0.0.1]:9", true, true),
            ("10.1.2.3:9", false, true),
            ("[::ffff:10.1.2.3]:9", false, true),
            ("10.2.0.1:9", false, false),
            ("[fd12::1]:9", false, true),
            ("[2001:db8::1]:9", false, false),
        ] {
            let peer = Peer::Tcp(address.parse().unwrap());
            assert_eq!(none.allows(&peer), without, "{address}");
            assert_eq!(some.allows(&peer), with, "{address}");
        }
        assert!(none.allows(&Peer::Unix));
    }
}
