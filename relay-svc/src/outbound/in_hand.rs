//! Which messages somebody is at work on for which next hop: two sessions must not send the same one, and sending a held
//! message and giving it up must not meet. What is known of a message is to be read after it was taken into hand.
//!
//! A feed takes messages into hand ahead of the sessions. What was only read so far can be taken back from it, by an operator
//! who changes it: the feed finds its hand empty when it would hand the message out, and reads it anew. While an operator
//! changes something nothing is read ahead ([`InHand::pause`]); what a session has begun is left alone.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A next hop, as the spool writes it, and a place in the spool.
type What = (Arc<str>, i64);

/// What is in somebody's hand: next hops, as the spool writes them, with places in the spool. One message may be sent to
/// two next hops at once. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InHand {
    taken: Arc<Mutex<Taken>>,
    /// Shared by those who read ahead; alone for who changes what is read.
    reading: Arc<RwLock<()>>,
}

#[derive(Debug, Default)]
struct Taken {
    hands: HashMap<What, Of>,
    last: u64,
}

/// Whose hand it is, and whether its work has begun.
#[derive(Debug)]
struct Of {
    number: u64,
    begun: bool,
}

/// A message that is in hand for a next hop until this is dropped.
#[derive(Debug)]
pub struct Hand {
    all: InHand,
    what: What,
    number: u64,
}

/// Nothing is read ahead before this is dropped.
pub struct Pause<'a> {
    all: &'a InHand,
    _alone: RwLockWriteGuard<'a, ()>,
}

impl InHand {
    /// Takes a message into hand, unless somebody has it. What is known of it is to be read again then.
    #[must_use]
    pub fn take(&self, hop: &Arc<str>, place: i64) -> Option<Hand> {
        self.take_as(hop, place, true)
    }

    /// The same for a message that is read ahead; its work begins with [`Hand::begin`].
    #[must_use]
    pub fn take_ahead(&self, hop: &Arc<str>, place: i64) -> Option<Hand> {
        self.take_as(hop, place, false)
    }

    fn take_as(&self, hop: &Arc<str>, place: i64, begun: bool) -> Option<Hand> {
        let mut taken = self.lock();
        let number = taken.last + 1;
        let what = (Arc::clone(hop), place);
        match taken.hands.entry(what.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(free) => drop(free.insert(Of { number, begun })),
        }
        taken.last = number;
        let all = self.clone();
        Some(Hand { all, what, number })
    }

    /// Held while messages are taken into hand ahead and read.
    pub async fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.reading.read().await
    }

    /// Waits until nobody reads ahead, and keeps all from it.
    pub async fn pause(&self) -> Pause<'_> {
        let alone = self.reading.write().await;
        Pause {
            all: self,
            _alone: alone,
        }
    }

    /// Whether somebody has it.
    pub(super) fn has(&self, hop: &Arc<str>, place: i64) -> bool {
        self.lock().hands.contains_key(&(Arc::clone(hop), place))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pause<'_> {
    /// Whether the work at a message has begun.
    #[must_use]
    pub fn has_begun(&self, hop: &str, place: i64) -> bool {
        let taken = self.all.lock();
        let of = taken.hands.get(&(Arc::from(hop), place));
        of.is_some_and(|of| of.begun)
    }

    /// Takes a message out of the hand that has read it ahead, if one has; `false` if its work has begun.
    #[must_use]
    pub fn take_back(&self, hop: &str, place: i64) -> bool {
        let mut taken = self.all.lock();
        match taken.hands.entry((Arc::from(hop), place)) {
            Entry::Occupied(of) if of.get().begun => false,
            Entry::Occupied(of) => {
                of.remove();
                true
            }
            Entry::Vacant(_) => true,
        }
    }
}

impl Hand {
    /// The place of the message in the spool.
    #[must_use]
    pub fn place(&self) -> i64 {
        self.what.1
    }

    /// Begins the work; `false` if the message was taken back, and is to be read anew.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.set(true)
    }

    /// Goes back to what is only read ahead.
    pub fn rest(&self) {
        self.set(false);
    }

    fn set(&self, begun: bool) -> bool {
        let mut taken = self.all.lock();
        let mine = taken.hands.get_mut(&self.what);
        let mine = mine.filter(|of| of.number == self.number);
        mine.map(|of| of.begun = begun).is_some()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut taken = self.all.lock();
        let mine = taken.hands.get(&self.what);
        if mine.is_some_and(|of| of.number == self.number) {
            taken.hands.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_in_one_hand_for_a_hop_until_it_is_given_back() {
        let all = InHand::default();
        let (hop, other) = ("hold:a.example".into(), "hold:b.example".into());
        let first = all.take(&hop, 1);
        assert!(first.is_some() && all.take(&hop, 2).is_some());
        assert!(all.clone().take(&hop, 1).is_none());
        assert!(all.take(&other, 1).is_some());
        drop(first);
        assert!(all.take(&hop, 1).is_some());
    }

    #[tokio::test]
    async fn what_was_read_ahead_can_be_taken_back_and_what_has_begun_cannot() {
        let all = InHand::default();
        let hop: Arc<str> = "link:isp".into();
        let ahead = all.take_ahead(&hop, 1).unwrap();
        let sent = all.take_ahead(&hop, 2).unwrap();
        assert!(sent.begin());
        {
            let pause = all.pause().await;
            assert!(pause.take_back(&hop, 1) && pause.take_back(&hop, 3));
            assert!(!pause.take_back(&hop, 2));
            assert!(all.reading.try_read().is_err());
        }
        // Somebody else has it now, and the stale hand neither begins nor ends that.
        let anew = all.take_ahead(&hop, 1).unwrap();
        assert!(!ahead.begin());
        drop(ahead);
        assert!(all.take_ahead(&hop, 1).is_none() && anew.begin());
        anew.rest();
        assert!(all.pause().await.take_back(&hop, 1));
    }
}
