//! Failed authentications by address, so that nobody tries passwords at his leisure. Pure: the time is an argument.
//!
//! The table is bounded. When it is full, the address whose failure is oldest makes room; who wants to be forgotten by
//! that needs some thousands of addresses, and could as well try from all of them.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::places::host_of;

/// So many addresses are remembered.
const ROOM: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Failures {
    most: u32,
    pause: Duration,
    by_host: HashMap<IpAddr, (u32, Instant)>,
}

impl Failures {
    /// After `most` failures nothing is tried for `pause` after the last of them; a failure counts for as long.
    pub(super) fn new(most: u32, pause: Duration) -> Self {
        Self {
            most,
            pause,
            by_host: HashMap::new(),
        }
    }

    /// Whether nothing is tried for this client now.
    pub(super) fn is_paused(&self, client: IpAddr, now: Instant) -> bool {
        self.by_host
            .get(&host_of(client))
            .is_some_and(|(count, last)| *count >= self.most && now < *last + self.pause)
    }

    /// It has failed. True if that was one too many.
    pub(super) fn note(&mut self, client: IpAddr, now: Instant) -> bool {
        let host = host_of(client);
        if !self.by_host.contains_key(&host) && self.by_host.len() >= ROOM {
            let oldest = self.by_host.iter().min_by_key(|(_, (_, last))| *last);
            if let Some(oldest) = oldest.map(|(host, _)| *host) {
                self.by_host.remove(&oldest);
            }
        }
        let (count, last) = self.by_host.entry(host).or_insert((0, now));
        if now >= *last + self.pause {
            *count = 0;
        }
        *count += 1;
        *last = now;
        *count == self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_too_often_has_to_wait_and_others_do_not() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let pause = Duration::from_secs(600);
        let mut failures = Failures::new(3, pause);
        let mut now = Instant::now();
        assert!(!failures.note(a, now) && !failures.note(a, now));
        assert!(!failures.is_paused(a, now));
        assert!(failures.note("::ffff:192.0.2.1".parse().unwrap(), now));
        assert!(failures.is_paused(a, now) && !failures.is_paused(b, now));
        now += pause;
        assert!(!failures.is_paused(a, now));
        assert!(!failures.note(a, now) && !failures.is_paused(a, now));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_the_table_is_bounded() {
        let pause = Duration::from_secs(600);
        let mut failures = Failures::new(2, pause);
        let mut now = Instant::now();
        failures.note("2001:db8::1".parse().unwrap(), now);
        assert!(failures.note("2001:db8::2:1".parse().unwrap(), now));
        for number in 0..2 * u32::try_from(ROOM).unwrap() {
            now += Duration::from_millis(1);
            failures.note(IpAddr::V4((0x0a00_0000 + number).into()), now);
        }
        assert_eq!(failures.by_host.len(), ROOM);
        assert!(!failures.is_paused("2001:db8::1".parse().unwrap(), now));
    }
}
