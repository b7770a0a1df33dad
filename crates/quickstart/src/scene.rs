//! Who is who on this machine, and where each of them listens.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Where somebody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Door {
    /// The outside world, for the provider.
    World,
    /// The site's mailbox server, for the edge.
    Mailbox,
    /// The edge, for the people of the site.
    Site,
    /// The edge, for what the provider releases.
    Released,
    /// The provider, for the edge and for the world.
    Provider,
    /// The gRPC services of the edge.
    EdgeGrpc,
    /// The gRPC services of the provider.
    ProviderGrpc,
    /// The gRPC services of the monitor.
    MonitorGrpc,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::World,
        Self::Mailbox,
        Self::Site,
        Self::Released,
        Self::Provider,
        Self::EdgeGrpc,
        Self::ProviderGrpc,
        Self::MonitorGrpc,
    ];
}

/// Ports in a row on 127.0.0.1, one for each [`Door`].
///
/// They lie below those that systems give to outgoing connections, so that a port found free stays free until a daemon
/// listens there. The first is the receiver's, which holds it from the start: two quick starts do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports(u16);

impl Ports {
    /// The first row that is tried.
    const FIRST: u16 = 20_250;
    /// No row begins at or beyond this port: above it begin, on most systems, the ports of outgoing connections.
    const END: u16 = 32_000;
    /// From one row to the next.
    const STEP: u16 = 10;

    /// The row that begins at this port, if it is one.
    #[must_use]
    pub fn beginning_at(first: u16) -> Option<Self> {
        let is_one = (Self::FIRST..Self::END).contains(&first)
            && (first - Self::FIRST).is_multiple_of(Self::STEP);
        is_one.then_some(Self(first))
    }

    /// Every row, the preferred one first.
    pub fn rows(preferred: Option<Self>) -> impl Iterator<Item = Self> {
        let all = (Self::FIRST..Self::END).step_by(usize::from(Self::STEP));
        preferred.into_iter().chain(all.map(Self))
    }

    /// The first port of the row.
    #[must_use]
    pub fn first(self) -> u16 {
        self.0
    }

    /// The address behind a door.
    #[must_use]
    pub fn at(self, door: Door) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.0 + door as u16))
    }

    /// Whether nobody listens behind any door now.
    #[must_use]
    pub fn are_free(self) -> bool {
        Door::ALL
            .iter()
            .all(|door| TcpListener::bind(self.at(*door)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_of_neighbouring_rows_do_not_meet() {
        let rows: Vec<_> = Ports::rows(None).take(2).collect();
        let ports = rows
            .iter()
            .flat_map(|row| Door::ALL.map(|door| row.at(door)));
        let mut ports: Vec<_> = ports.collect();
        ports.dedup();
        assert_eq!(ports.len(), 16);
        assert!(ports.is_sorted());
    }

    #[test]
    fn a_row_that_was_used_before_comes_first_and_nonsense_never() {
        let used = Ports::beginning_at(20_270);
        assert_eq!(Ports::rows(used).next(), used);
        assert_eq!(Ports::rows(None).next(), Ports::beginning_at(20_250));
        for nonsense in [0, 80, 20_251, 32_000, u16::MAX] {
            assert_eq!(Ports::beginning_at(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_row_with_a_listener_is_not_free() {
        let row = Ports::rows(None).find(|row| row.are_free()).unwrap();
        let _listener = TcpListener::bind(row.at(Door::MonitorGrpc)).unwrap();
        assert!(!row.are_free());
    }
}
