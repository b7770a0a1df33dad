//! Which messages somebody is at work on: two sessions must not send the same one, and sending a held message and giving
//! it up must not meet. What is known of a message is to be read after it was taken into hand.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The places in the spool that are in somebody's hand. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InHand {
    places: Arc<Mutex<HashSet<i64>>>,
}

/// A place that is in hand until this is dropped.
#[derive(Debug)]
pub struct Hand {
    all: InHand,
    place: i64,
}

impl InHand {
    /// Takes a message into hand, unless somebody has it. What is known of it is to be read again then.
    #[must_use]
    pub fn take(&self, place: i64) -> Option<Hand> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Made only if it is ours: what is made is given back when it is dropped.
        if places.insert(place) {
            let all = self.clone();
            Some(Hand { all, place })
        } else {
            None
        }
    }
}

impl Hand {
    /// The place of the message in the spool.
    #[must_use]
    pub fn place(&self) -> i64 {
        self.place
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let places = self.all.places.lock();
        places
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_in_one_hand_until_it_is_given_back() {
        let all = InHand::default();
        let first = all.take(1);
        assert!(first.is_some() && all.take(2).is_some());
        assert!(all.clone().take(1).is_none());
        drop(first);
        assert!(all.take(1).is_some());
    }
}
