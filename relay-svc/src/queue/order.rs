//! What goes first over a link: by priority, among equals fair between lanes, within a lane what is due first.
//!
//! A lane is what shares a link with others and must not crowd them out: a domain of recipients. Fair is told in octets, as
//! they are what a slow line has few of: the lane that was given the fewest has its turn (start-time fair queuing, with
//! lanes of one weight). A lane that had nothing to send does not save up for it.
//!
//! Limits: priority is strict. While something of a higher one is due, nothing of a lower one goes (RFC 6710 leaves that to
//! us); only clients that may say a priority can do that to others.

use std::{cmp::Ordering, collections::HashMap, hash::Hash};

use linkmail_smtp::{Domain, Priority};

/// So many lanes there are: whoever shares one with others shares their turns, too (stochastic fair queuing).
pub const LANES: u8 = 32;

/// The lane of a domain. The number stands in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u8);

impl Lane {
    /// The same for a domain in any case.
    #[must_use]
    pub fn of(domain: &Domain) -> Self {
        let text = domain.to_string();
        // FNV-1a, folded.
        let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, octet| {
            (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
        });
        Self((hash ^ (hash >> 16)).to_le_bytes()[0] % LANES)
    }
}

/// A message that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due<Lane> {
    /// Whom it shares the link with.
    pub lane: Lane,
    /// Its priority, as it was accepted.
    pub priority: Priority,
    /// When it became due, in milliseconds of whatever clock.
    pub due: i64,
    /// Its place in the spool, which no other has.
    pub seq: i64,
    /// Its octets.
    pub size: u64,
}

impl<Lane> Due<Lane> {
    /// Before: goes first within its lane. A total order: the more urgent, then what became due first, then what came first.
    #[must_use]
    pub fn rank(&self, other: &Self) -> Ordering {
        let urgency = other.priority.cmp(&self.priority);
        urgency
            .then(self.due.cmp(&other.due))
            .then(self.seq.cmp(&other.seq))
    }
}

/// How many octets each lane of a link was given. Holds the lanes that wait, and those that are ahead of one that does; how
/// many these are is bounded by the lanes of what is due.
#[derive(Debug, Clone)]
pub struct Turns<Lane> {
    given: HashMap<Lane, u64>,
    /// What the lane that was given the fewest had been given at the last choice: where a lane begins that comes, or comes
    /// back. It only grows.
    level: u64,
}

impl<Lane> Default for Turns<Lane> {
    fn default() -> Self {
        Self {
            given: HashMap::new(),
            level: 0,
        }
    }
}

impl<Lane: Clone + Eq + Hash> Turns<Lane> {
    /// Which of these goes next, and notes it: the place in `heads`, which has the first of each lane by [`Due::rank`]. The
    /// order of `heads` does not matter. Nothing, if there is none.
    pub fn next(&mut self, heads: &[Due<Lane>]) -> Option<usize> {
        let given = |head: &Due<Lane>| {
            let known = self.given.get(&head.lane).copied();
            // What is behind by having been idle is not made up for.
            known.unwrap_or(self.level).max(self.level)
        };
        let most = heads.iter().map(|head| head.priority).max()?;
        let level = heads.iter().map(given).min()?;
        let urgent = heads.iter().enumerate();
        let urgent = urgent.filter(|(_, head)| head.priority == most);
        let (place, chosen) = urgent.min_by(|(_, a), (_, b)| {
            let order = given(a).cmp(&given(b));
            order.then_with(|| a.rank(b))
        })?;
        let waiting: Vec<_> = heads
            .iter()
            .map(|head| (head.lane.clone(), given(head)))
            .collect();
        self.given.extend(waiting);
        self.level = level;
        if let Some(given) = self.given.get_mut(&chosen.lane) {
            // A message of nothing costs its envelope all the same.
            *given = given.saturating_add(chosen.size.max(1));
        }
        self.given.retain(|_, given| *given > level);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(lane: u8, priority: i8, due: i64, seq: i64, size: u64) -> Due<u8> {
        Due {
            lane,
            priority: Priority::new(priority).unwrap(),
            due,
            seq,
            size,
        }
    }

    /// Sends all that is due, one by one, and says which.
    fn drain(mut queue: Vec<Due<u8>>) -> Vec<Due<u8>> {
        let (mut turns, mut sent) = (Turns::default(), Vec::new());
        while !queue.is_empty() {
            let mut heads: HashMap<u8, Due<u8>> = HashMap::new();
            for one in &queue {
                let head = heads.entry(one.lane).or_insert_with(|| one.clone());
                if one.rank(head).is_lt() {
                    *head = one.clone();
                }
            }
            let heads: Vec<_> = heads.into_values().collect();
            let next = heads[turns.next(&heads).unwrap()].clone();
            queue.retain(|one| one.seq != next.seq);
            sent.push(next);
        }
        sent
    }

    #[test]
    fn rank_is_a_total_order() {
        let mut all = Vec::new();
        for priority in [-9, 0, 9] {
            for at in [1, 2] {
                for _ in 0..3 {
                    // Places that run against the order of time.
                    all.push(due(0, priority, at, 100 - all.len() as i64, 1));
                }
            }
        }
        for a in &all {
            for b in &all {
                assert_eq!(a.rank(b), b.rank(a).reverse());
                assert_eq!(a.rank(b) == Ordering::Equal, a.seq == b.seq);
                for c in &all {
                    assert!(!(a.rank(b).is_lt() && b.rank(c).is_lt()) || a.rank(c).is_lt());
                }
            }
        }
        assert!(due(0, 1, 9, 9, 1).rank(&due(0, 0, 1, 1, 1)).is_lt());
        assert!(due(0, 0, 1, 9, 1).rank(&due(0, 0, 2, 1, 1)).is_lt());
    }

    #[test]
    fn the_more_urgent_goes_first_whatever_its_lane_was_given() {
        let queue = vec![
            due(1, 0, 1, 1, 10),
            due(1, 5, 9, 2, 1_000_000),
            due(1, 5, 9, 3, 10),
            due(2, -1, 0, 4, 10),
            due(2, 0, 0, 5, 10),
        ];
        let order: Vec<i64> = drain(queue).iter().map(|one| one.seq).collect();
        assert_eq!(order, [2, 3, 5, 1, 4]);
    }

    /// While several lanes have something to send, none is ahead of another by more than the largest message.
    #[test]
    fn lanes_share_by_octets() {
        let mut queue = Vec::new();
        for (lane, count, size) in [(1, 300, 1_000), (2, 3, 100_000), (3, 40, 7_777)] {
            for _ in 0..count {
                let seq = queue.len() as i64;
                queue.push(due(lane, 0, seq, seq, size));
            }
        }
        let mut left = HashMap::from([(1, 300), (2, 3), (3, 40)]);
        let mut given = HashMap::from([(1, 0_u64), (2, 0), (3, 0)]);
        for one in drain(queue) {
            *given.get_mut(&one.lane).unwrap() += one.size;
            *left.get_mut(&one.lane).unwrap() -= 1;
            if left.values().any(|left| *left == 0) {
                break;
            }
            let (most, least) = (given.values().max().unwrap(), given.values().min().unwrap());
            assert!(most - least <= 100_000, "{given:?}");
        }
        assert!(given.values().all(|octets| *octets > 150_000), "{given:?}");
    }

    #[test]
    fn a_lane_saves_nothing_up_while_it_is_idle() {
        let mut turns = Turns::default();
        for seq in 0..1000 {
            assert_eq!(turns.next(&[due(1, 0, 0, seq, 1000)]), Some(0));
        }
        let mut times = [0, 0];
        for seq in 0..100 {
            let heads = [due(1, 0, 0, seq, 1000), due(2, 0, 0, 5000 + seq, 1000)];
            times[turns.next(&heads).unwrap()] += 1;
        }
        assert_eq!(times, [50, 50]);
        assert!(turns.given.len() <= 2);
        assert_eq!(turns.next(&[]), None);
    }

    #[test]
    fn urgent_mail_counts_for_its_lane_and_takes_nothing_from_the_account_of_others() {
        let mut turns = Turns::default();
        let normal = |lane| due(lane, 0, 1, i64::from(lane), 1000);
        // The second is behind the third by one message when the urgent one comes.
        assert_eq!(turns.next(&[normal(2), normal(3)]), Some(0));
        let urgent = due(1, 9, 1, 1, 20_000);
        assert_eq!(turns.next(&[urgent, normal(2), normal(3)]), Some(0));
        let heads = [normal(1), normal(2), normal(3)];
        let chosen: Vec<_> = (0..40).map(|_| turns.next(&heads).unwrap()).collect();
        assert_eq!(chosen[..4], [2, 1, 2, 1]);
        let first = chosen.iter().position(|place| *place == 0);
        assert_eq!(first, Some(39));
    }

    #[test]
    fn a_lane_that_is_gone_for_a_moment_keeps_what_it_was_given() {
        let mut turns = Turns::default();
        let small = || due(2, 0, 1, 2, 1000);
        assert_eq!(turns.next(&[due(1, 0, 0, 1, 10_000), small()]), Some(0));
        assert_eq!(turns.next(&[small()]), Some(0));
        let mut times = [0, 0];
        for seq in 0..9 {
            times[turns.next(&[due(1, 0, 0, seq, 10_000), small()]).unwrap()] += 1;
        }
        assert_eq!(times, [0, 9]);
    }

    #[test]
    fn the_choice_does_not_depend_on_the_order_of_what_is_offered() {
        let heads = [due(1, 0, 3, 1, 5), due(2, 0, 3, 2, 5), due(3, 0, 2, 3, 5)];
        for shift in 0..3 {
            let mut turned = heads.to_vec();
            turned.rotate_left(shift);
            let mut turns = Turns::default();
            let order: Vec<i64> = (0..9)
                .map(|_| turned[turns.next(&turned).unwrap()].seq)
                .collect();
            assert_eq!(order, [3, 1, 2, 3, 1, 2, 3, 1, 2]);
        }
    }
}
