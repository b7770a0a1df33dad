//! Whose turn it is: which domains are at it, and which rest after a session that broke. Pure.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

/// The pauses of a domain whose sessions break: from the first, doubling, to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// So many domains are remembered to rest; of more, some are tried earlier.
const RESTING: usize = 10_000;

/// The turns of domains, by their next hop.
#[derive(Debug, Default)]
pub(super) struct Turns {
    busy: HashSet<String>,
    resting: HashMap<String, Rest>,
    /// The last one that began: the next look goes on behind it, so that each has its turn.
    last: String,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    pause: Duration,
}

impl Turns {
    /// The one behind which the next look begins.
    pub(super) fn last(&self) -> &str {
        &self.last
    }

    /// Those of `due` that begin now, at most `free` of them.
    pub(super) fn begin(&mut self, due: Vec<String>, free: usize, now: Instant) -> Vec<String> {
        // One that went well since, or was forgotten by its sender, need not be remembered.
        self.resting.retain(|_, rest| now < rest.until + PAUSE.1);
        let mut begun = Vec::new();
        for hop in due {
            let rests = self.resting.get(&hop).is_some_and(|rest| now < rest.until);
            if begun.len() < free && !rests && self.busy.insert(hop.clone()) {
                self.last.clone_from(&hop);
                begun.push(hop);
            }
        }
        begun
    }

    /// A turn ended well, or with all that was due recorded.
    pub(super) fn done(&mut self, hop: &str) {
        self.busy.remove(hop);
        self.resting.remove(hop);
    }

    /// A turn ended without that; its domain rests.
    pub(super) fn broke(&mut self, hop: &str, now: Instant) {
        self.busy.remove(hop);
        let before = self.resting.get(hop).map(|rest| rest.pause);
        let pause = before.map_or(PAUSE.0, |pause| (pause * 2).min(PAUSE.1));
        if before.is_some() || self.resting.len() < RESTING {
            let until = now + pause;
            self.resting.insert(hop.to_owned(), Rest { until, pause });
        }
    }

    /// When the first that rests has its turn again.
    pub(super) fn next_rested(&self, now: Instant) -> Option<Instant> {
        let until = self.resting.values().map(|rest| rest.until);
        until.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("mx:{name}")).collect()
    }

    #[test]
    fn a_domain_has_one_turn_at_a_time_and_rests_longer_each_time_it_breaks() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert_eq!(
            turns.begin(hops(&["a", "b", "c"]), 2, now),
            hops(&["a", "b"])
        );
        assert_eq!(turns.last(), "mx:b");
        assert_eq!(turns.begin(hops(&["a", "b", "c"]), 5, now), hops(&["c"]));
        turns.done("mx:b");
        turns.broke("mx:a", now);
        assert_eq!(turns.begin(hops(&["a", "b"]), 5, now), hops(&["b"]));
        assert_eq!(turns.next_rested(now), Some(now + PAUSE.0));
        let mut at = now + PAUSE.0;
        for pause in [10, 20, 40, 80, 160, 300, 300].map(Duration::from_secs) {
            assert_eq!(turns.begin(hops(&["a"]), 5, at), hops(&["a"]));
            turns.broke("mx:a", at);
            assert_eq!(turns.next_rested(at), Some(at + pause));
            at += pause;
        }
        assert_eq!(turns.begin(hops(&["a"]), 5, at), hops(&["a"]));
        turns.done("mx:a");
        turns.broke("mx:a", at);
        assert_eq!(turns.next_rested(at), Some(at + PAUSE.0));
        assert!(
            turns
                .begin(Vec::new(), 5, at + PAUSE.0 + PAUSE.1)
                .is_empty()
        );
        assert!(turns.resting.is_empty());
    }
}
