//! Which messages somebody is at work on for which next hop: two sessions must not send the same one, and sending a held
//! message and giving it up must not meet. What is known of a message is to be read after it was taken into hand.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// A next hop, as the spool writes it, and a place in the spool.
type What = (Arc<str>, i64);

/// What is in somebody's hand: next hops, as the spool writes them, with places in the spool. One message may be sent to
/// two next hops at once. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InHand {
    taken: Arc<Mutex<HashSet<What>>>,
}

/// A message that is in hand for a next hop until this is dropped.
#[derive(Debug)]
pub struct Hand {
    all: InHand,
    what: What,
}

impl InHand {
    /// Takes a message into hand, unless somebody has it. What is known of it is to be read again then.
    #[must_use]
    pub fn take(&self, hop: &Arc<str>, place: i64) -> Option<Hand> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let what = (Arc::clone(hop), place);
        // Made only if it is ours: what is made is given back when it is dropped.
        if taken.insert(what.clone()) {
            let all = self.clone();
            Some(Hand { all, what })
        } else {
            None
        }
    }
}

impl InHand {
    /// Whether somebody has it.
    pub(super) fn has(&self, hop: &Arc<str>, place: i64) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.contains(&(Arc::clone(hop), place))
    }
}

impl Hand {
    /// The place of the message in the spool.
    #[must_use]
    pub fn place(&self) -> i64 {
        self.what.1
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let taken = self.all.taken.lock();
        taken
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.what);
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
}
