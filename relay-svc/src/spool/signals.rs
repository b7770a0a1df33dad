//! Who is to be woken by which change. Hints only: a woken reader looks into the spool for the truth.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

pub(super) struct Signals {
    hops: Mutex<HashMap<String, Arc<watch::Sender<u64>>>>,
    journal: watch::Sender<i64>,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            hops: Mutex::default(),
            journal: watch::Sender::new(0),
        }
    }
}

impl Signals {
    pub(super) fn hop(&self, hop: &str) -> Arc<watch::Sender<u64>> {
        let mut hops = self.hops.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            hops.entry(hop.to_owned())
                .or_insert_with(|| Arc::new(watch::Sender::new(0))),
        )
    }

    /// Mail for these hops changed.
    pub(super) fn wake<'a>(&self, hops: impl IntoIterator<Item = &'a str>) {
        for hop in hops {
            self.hop(hop)
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    pub(super) fn journal(&self) -> &watch::Sender<i64> {
        &self.journal
    }

    pub(super) fn journal_grew(&self, revision: i64) {
        self.journal
            .send_modify(|newest| *newest = revision.max(*newest));
    }
}
