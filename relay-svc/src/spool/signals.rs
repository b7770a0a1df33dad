//! Who is to be woken by which change. Hints only: a woken reader looks into the spool for the truth.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use crate::names::{NextHop, Node};

/// So many nodes are remembered that were asked for; what does not fit is found by looking.
const ASKED: usize = 10_000;

pub(super) struct Signals {
    hops: Mutex<HashMap<String, Arc<watch::Sender<u64>>>>,
    journal: watch::Sender<i64>,
    calls: watch::Sender<u64>,
    asked: Mutex<HashSet<Node>>,
    woken: Notify,
    steered: AtomicU64,
    late: Mutex<HashSet<String>>,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            hops: Mutex::default(),
            journal: watch::Sender::new(0),
            calls: watch::Sender::new(0),
            asked: Mutex::default(),
            woken: Notify::new(),
            steered: AtomicU64::new(0),
            late: Mutex::default(),
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

    /// Mail for these hops changed. Hops that nobody listens to are not remembered: anyone can name new ones.
    pub(super) fn wake<'a>(&self, hops: impl IntoIterator<Item = &'a str>) {
        let known = self.hops.lock().unwrap_or_else(PoisonError::into_inner);
        for hop in hops {
            // One listens for all domains whose mail goes straight to their exchangers.
            let every = hop.starts_with(NextHop::MX).then_some(NextHop::MX);
            // Who keeps a link listens for its large mail, too.
            let link = NextHop::parse_oversize(hop);
            let link = link.map(|link| NextHop::Link(link).to_string());
            for listened in [every, link.as_deref(), Some(hop)]
                .into_iter()
                .flatten()
                .filter_map(|hop| known.get(hop))
            {
                listened.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
    }

    /// An operator changed something at another replica, for any hop.
    pub(super) fn was_steered(&self) {
        self.steered.fetch_add(1, Ordering::Release);
        let known = self.hops.lock().unwrap_or_else(PoisonError::into_inner);
        for listened in known.values() {
            listened.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// How often that was so.
    pub(super) fn steered(&self) -> u64 {
        self.steered.load(Ordering::Acquire)
    }

    /// The release of these nodes was requested.
    pub(super) fn asked_for(&self, nodes: impl IntoIterator<Item = Node>) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            if asked.len() < ASKED {
                asked.insert(node);
            }
        }
        self.woken.notify_one();
    }

    /// The nodes whose release was requested since the last time, once there is one; one waits at a time.
    pub(super) async fn asked(&self) -> HashSet<Node> {
        loop {
            let asked =
                std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
            if !asked.is_empty() {
                return asked;
            }
            self.woken.notified().await;
        }
    }

    /// Calls wait for a keeper.
    pub(super) fn called(&self) {
        self.calls
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn calls(&self) -> &watch::Sender<u64> {
        &self.calls
    }

    /// There is late mail for these next hops; `is_all`: for no others.
    pub(super) fn note_late(&self, hops: Vec<String>, is_all: bool) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if is_all {
            late.clear();
        }
        late.extend(hops.iter().cloned());
        drop(late);
        self.wake(hops.iter().map(String::as_str));
    }

    /// Whether there is late mail for one; told once.
    pub(super) fn take_late(&self, hop: &str) -> bool {
        let late = self.late.lock();
        late.unwrap_or_else(PoisonError::into_inner).remove(hop)
    }

    /// Those of domains, which stay until [`Self::take_late`].
    pub(super) fn late_domains(&self) -> Vec<String> {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let domains = late.iter().filter(|hop| hop.starts_with(NextHop::MX));
        domains.cloned().collect()
    }

    pub(super) fn journal(&self) -> &watch::Sender<i64> {
        &self.journal
    }

    pub(super) fn journal_grew(&self, revision: i64) {
        self.journal
            .send_modify(|newest| *newest = revision.max(*newest));
    }
}
