//! When a recipient is tried again: waits that double, spread so that many relays do not come back to a host at once.

use std::time::Duration;

/// The widest spread of a wait, in per cent of it.
pub const MAX_JITTER: u32 = 50;

/// When a recipient is tried again, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The wait after the first counted attempt; it doubles with each further one.
    pub first: Duration,
    /// The longest wait between two attempts, before it is spread.
    pub longest: Duration,
    /// A wait is longer or shorter by up to so many per cent of it, at most [`MAX_JITTER`].
    pub jitter: u32,
    /// Given up once counted attempts have failed for so long.
    pub expire: Duration,
    /// Held mail is given up once it has been held for so long, by the clock of the spool.
    pub hold: Duration,
}

/// What tells the waits of one route at one relay from those of others. All messages of the route share it: what failed
/// together is due together, and goes in one dial; many sites that lost the same host do not come back to it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread(u64);

impl Spread {
    /// Of the relay of this name, for this next hop.
    #[must_use]
    pub fn of_route(relay: &str, hop: &str) -> Self {
        // FNV-1a; a zero keeps the two names apart.
        let octets = relay.bytes().chain([0]).chain(hop.bytes());
        Self(octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// A number that looks random, the same for the same route and step (the finalizer of splitmix64).
    fn number(self, step: u32) -> u64 {
        let mut bits = self
            .0
            .wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(step)));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

impl RetryPolicy {
    /// For held mail: an attempt that fails leaves it held, and only [`Self::hold`] ends that.
    #[must_use]
    pub fn of_held(self) -> Self {
        Self {
            expire: Duration::MAX,
            ..self
        }
    }

    /// The wait after so many counted attempts (at least one) since the backoff began, with the spread of the route. The
    /// same arguments give the same wait.
    #[must_use]
    pub fn wait(&self, spread: Spread, attempts: u32) -> Duration {
        let step = attempts.max(1);
        let doubled = 2_u32.saturating_pow(step - 1);
        let even = self.first.saturating_mul(doubled).min(self.longest);
        let range = u64::from(self.jitter.min(MAX_JITTER)) * 100;
        let parts = 10_000 - range + spread.number(step) % (2 * range + 1);
        let parts = u32::try_from(parts).unwrap_or(10_000);
        even.checked_mul(parts)
            .map_or(even, |scaled| scaled / 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: RetryPolicy = RetryPolicy {
        first: Duration::from_secs(300),
        longest: Duration::from_secs(7200),
        jitter: 0,
        expire: Duration::from_secs(5 * 86_400),
        hold: Duration::from_secs(14 * 86_400),
    };
    const SPREAD: RetryPolicy = RetryPolicy { jitter: 20, ..EVEN };

    #[test]
    fn waits_double_up_to_the_longest() {
        let wait = |n| EVEN.wait(Spread(7), n);
        let minutes: Vec<u64> = (1..=8).map(|n| wait(n).as_secs() / 60).collect();
        assert_eq!(minutes, [5, 10, 20, 40, 80, 120, 120, 120]);
        assert_eq!(wait(u32::MAX), EVEN.longest);
        assert_eq!(wait(0), wait(1));
    }

    #[test]
    fn a_wait_is_spread_within_its_bounds_and_over_all_of_them() {
        for attempts in 1..=8 {
            let even = EVEN.wait(Spread(0), attempts);
            let mut tenths = [0; 10];
            for id in 0..1000_u64 {
                let id = Spread(id.wrapping_mul(0x1234_5678_9abc_def1));
                let wait = SPREAD.wait(id, attempts);
                assert_eq!(wait, SPREAD.wait(id, attempts));
                assert!(wait >= even * 8 / 10 && wait <= even * 12 / 10, "{wait:?}");
                let place = (wait - even * 8 / 10).as_millis() * 10 / (even * 4 / 10).as_millis();
                tenths[usize::try_from(place.min(9)).unwrap()] += 1;
            }
            assert!(tenths.iter().all(|many| *many > 50), "{tenths:?}");
        }
    }

    #[test]
    fn each_attempt_and_each_route_is_spread_anew() {
        let longest = |n| SPREAD.wait(Spread(99), n);
        let waits: std::collections::HashSet<_> = (6..=25).map(longest).collect();
        assert!(waits.len() > 15, "{waits:?}");
        let of = |relay: u32, hop| Spread::of_route(&format!("relay{relay}.example"), hop);
        let sites: std::collections::HashSet<_> = (0..100)
            .map(|n| SPREAD.wait(of(n, "link:isp"), 1))
            .collect();
        assert!(sites.len() > 95, "{}", sites.len());
        assert_ne!(of(1, "link:isp"), of(1, "link:sat"));
        assert_ne!(Spread::of_route("a", "bc"), Spread::of_route("ab", "c"));
        assert_eq!(of(1, "link:isp"), of(1, "link:isp"));
    }
}
