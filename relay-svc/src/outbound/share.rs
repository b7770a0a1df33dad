//! How much of what waits one of several sessions takes ahead of its outcomes. Pure.
//!
//! What a session has taken is out of the others' reach, and the slowest of them says when all is done. So each begins with
//! a part, and each outcome makes room for two more messages: what is under way doubles with each round trip, as TCP's own
//! window does, and on a line that all share the faster sessions take more.

use linkmail_smtp::FlightLimits;

/// The share of a session that is alone.
pub const WHOLE: FlightLimits = FlightLimits {
    messages: usize::MAX,
    bytes: u64::MAX,
};

/// More octets are never taken ahead of the first outcome, except by a session that is alone. TCP sends 14 KiB in its first
/// round trip, twice that in each further one, and outcomes come a round trip or two behind.
const FIRST: u64 = 128 * 1024;

/// The first part of each of several sessions that have so much before them together.
#[must_use]
pub(super) fn first(messages: u64, octets: u64, sessions: usize) -> FlightLimits {
    let fair = |whole: u64| whole.div_ceil(sessions as u64).max(1);
    let octets = fair(octets);
    FlightLimits {
        messages: usize::try_from(fair(messages)).unwrap_or(usize::MAX),
        bytes: match sessions {
            0 | 1 => octets,
            _ => octets.min(FIRST),
        },
    }
}

/// What a session has taken, and what of that is done.
#[derive(Debug)]
pub(super) struct Share {
    first: FlightLimits,
    taken: (usize, u64),
    done: (usize, u64),
}

impl Share {
    /// Of a session that takes so much before its first outcome.
    pub(super) fn new(first: FlightLimits) -> Self {
        Self {
            first,
            taken: (0, 0),
            done: (0, 0),
        }
    }

    /// How many messages may be taken now. The last of them may be larger than what is left of the octets.
    pub(super) fn left(&self) -> usize {
        let messages = self.first.messages.saturating_add(2 * self.done.0);
        let bytes = self.first.bytes.saturating_add(2 * self.done.1);
        match self.taken.1 < bytes {
            true => messages.saturating_sub(self.taken.0),
            false => 0,
        }
    }

    /// A message of so many octets is taken.
    pub(super) fn take(&mut self, bytes: u64) {
        self.taken = (self.taken.0 + 1, self.taken.1 + bytes);
    }

    /// A message of so many octets has an outcome.
    pub(super) fn done(&mut self, bytes: u64) {
        self.done = (self.done.0 + 1, self.done.1 + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_doubles_with_each_round_trip() {
        let mut share = Share::new(first(1000, 4_000_000, 16));
        let mut under_way = 0;
        let mut trips = Vec::new();
        for _ in 0..4 {
            (0..under_way).for_each(|_| share.done(4000));
            under_way = 0;
            while share.left() > 0 {
                share.take(4000);
                under_way += 1;
            }
            trips.push(under_way);
        }
        assert_eq!(trips, [33, 66, 132, 264]);
    }

    #[test]
    fn a_session_that_is_alone_takes_all_and_several_take_their_part() {
        let part = |messages, octets, sessions| {
            let part = first(messages, octets, sessions);
            (part.messages, part.bytes)
        };
        assert_eq!(part(100, 430_000, 1), (100, 430_000));
        assert_eq!(part(100, 430_000, 15), (7, 28_667));
        assert_eq!(part(1000, 4_000_000, 16), (63, FIRST));
        assert_eq!(part(0, 0, 16), (1, 1));
    }

    #[test]
    fn whatever_is_left_there_is_room_once_all_is_done() {
        let mut share = Share::new(first(2, 2_000_000, 2));
        for bytes in [1_000_000, 1, 3_000_000, 500] {
            assert!(share.left() > 0);
            share.take(bytes);
            share.done(bytes);
        }
        assert_eq!(Share::new(WHOLE).left(), usize::MAX);
    }
}
