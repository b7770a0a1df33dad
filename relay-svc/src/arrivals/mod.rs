//! What arrives over a link, and in which cycle.
//!
//! A cycle opens a window on its link; a session that takes mail over that link enters each transaction here. So
//! `inbound` and `cycle` know nothing of each other, and a message is counted to the cycle during which it was
//! accepted, exactly.
//!
//! Where replicas share a spool, the window may be another's: it is looked for in the spool when a transaction begins, and
//! what comes in it is told to the link's keeper, see `exchange`.

mod exchange;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry::Context;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    names::{CycleId, LinkName},
    spool::{Came, OpenCycle, Spool},
    telemetry,
};

/// What a cycle sees of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were accepted since the window was opened.
    pub messages: u32,
    /// Their octets.
    pub bytes: u64,
    /// Transactions that are under way.
    pub open: u32,
    /// When something last happened: a transaction began, went on or ended.
    pub last: Instant,
}

/// What came in a window, by this process and by the other replicas.
#[derive(Debug, Clone, Copy)]
struct Counts {
    here: Came,
    elsewhere: Came,
    last: Instant,
}

struct Window {
    cycle: CycleId,
    context: Context,
    /// Whether its cycle runs in this process.
    ours: bool,
    counts: watch::Sender<Counts>,
}

/// The windows that are open, by link. Cheap to clone.
#[derive(Clone, Default)]
pub struct Arrivals {
    windows: Arc<Mutex<HashMap<LinkName, Arc<Window>>>>,
    /// Where the windows of other replicas are found, if there are any.
    shared: Option<Spool>,
    /// Something came in one of theirs.
    told: Arc<Notify>,
}

/// A window that a cycle holds open.
pub struct OpenWindow {
    arrivals: Arrivals,
    link: LinkName,
    cycle: CycleId,
    counts: watch::Receiver<Counts>,
}

/// A transaction over a link. Counts as under way until it is dropped.
pub struct Arrival {
    window: Option<Arc<Window>>,
    told: Arc<Notify>,
}

impl Arrivals {
    /// Of a relay on this spool.
    #[must_use]
    pub fn on(spool: &Spool) -> Self {
        Self {
            shared: spool.is_shared().then(|| spool.clone()),
            ..Self::default()
        }
    }

    /// Opens the window of a cycle. One cycle runs per link, so there is at most one.
    #[must_use]
    pub fn open(&self, link: &LinkName, cycle: CycleId, context: Context) -> OpenWindow {
        let window = Arc::new(Window::new(cycle, context, true));
        let counts = window.counts.subscribe();
        self.known().insert(link.clone(), window);
        OpenWindow {
            arrivals: self.clone(),
            link: link.clone(),
            cycle,
            counts,
        }
    }

    /// A client that releases mail over a link makes progress: receiving goes on, also before its first transaction. What
    /// counts as progress is the caller's to say.
    pub fn touch(&self, link: &LinkName) {
        let window = self.known().get(link).cloned();
        if let Some(window) = window {
            window.change(|_| {});
        }
    }

    /// A transaction begins over a link, inside a window or not.
    pub async fn begin(&self, link: &LinkName) -> Arrival {
        let known = self.known().get(link).cloned();
        let window = match (known, &self.shared) {
            (Some(window), _) if window.ours => Some(window),
            (known, None) => known,
            // Only the spool knows whether another replica's is still open, or has just been opened.
            (known, Some(spool)) => match spool.window_over(link).await {
                Ok(open) => open.map(|open| self.others(&open)),
                Err(error) => {
                    tracing::warn!(%link, %error, "whether a cycle receives over the link cannot be seen");
                    known
                }
            },
        };
        if let Some(window) = &window {
            window.change(|here| here.open += 1);
            if !window.ours {
                self.told.notify_one();
            }
        }
        Arrival {
            window,
            told: Arc::clone(&self.told),
        }
    }

    /// The window of another replica's cycle, as it is known here from now on.
    fn others(&self, open: &OpenCycle) -> Arc<Window> {
        let mut known = self.known();
        match known.get(&open.link) {
            Some(window) if window.ours || window.cycle == open.cycle => Arc::clone(window),
            _ => {
                let context = telemetry::from_text(&open.traceparent);
                let window = Arc::new(Window::new(open.cycle, context, false));
                known.insert(open.link.clone(), Arc::clone(&window));
                window
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<LinkName, Arc<Window>>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn new(cycle: CycleId, context: Context, ours: bool) -> Self {
        let counts = watch::Sender::new(Counts {
            here: Came::default(),
            elsewhere: Came::default(),
            last: Instant::now(),
        });
        Self {
            cycle,
            context,
            ours,
            counts,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Came)) {
        self.counts.send_modify(|counts| {
            change(&mut counts.here);
            counts.here.stirs += 1;
            counts.last = Instant::now();
        });
    }

    /// What came by the other replicas so far.
    fn came_elsewhere(&self, came: Came) {
        self.counts.send_if_modified(|counts| {
            let changed = counts.elsewhere != came;
            if counts.elsewhere.stirs != came.stirs {
                counts.last = Instant::now();
            }
            counts.elsewhere = came;
            changed
        });
    }
}

impl OpenWindow {
    /// What has arrived so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let counts = *self.counts.borrow();
        let (here, elsewhere) = (counts.here, counts.elsewhere);
        Tally {
            messages: here.messages.saturating_add(elsewhere.messages),
            bytes: here.bytes.saturating_add(elsewhere.bytes),
            open: here.open.saturating_add(elsewhere.open),
            last: counts.last,
        }
    }

    /// Returns at the next change.
    pub async fn changed(&mut self) {
        if self.counts.changed().await.is_err() {
            // The sender lives as long as the window is in the table, which is until this is dropped.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for OpenWindow {
    fn drop(&mut self) {
        let mut known = self.arrivals.known();
        if known
            .get(&self.link)
            .is_some_and(|window| window.cycle == self.cycle)
        {
            known.remove(&self.link);
        }
    }
}

impl Arrival {
    /// The cycle in whose window it is.
    #[must_use]
    pub fn cycle(&self) -> Option<CycleId> {
        self.window.as_ref().map(|window| window.cycle)
    }

    /// The span under which its own span belongs.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        self.window.as_ref().map(|window| window.context.clone())
    }

    /// The message is durable.
    pub fn accepted(&self, bytes: u64) {
        self.change(|here| {
            here.messages += 1;
            here.bytes += bytes;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Came)) {
        if let Some(window) = &self.window {
            window.change(change);
            if !window.ours {
                self.told.notify_one();
            }
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.change(|here| here.open = here.open.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_counted_to_the_window_in_which_its_transaction_began() {
        let (arrivals, link) = (Arrivals::default(), LinkName::parse("isp").unwrap());
        let before = arrivals.begin(&link).await;
        let id = CycleId::new();
        let window = arrivals.open(&link, id, Context::new());
        before.accepted(5);
        let during = arrivals.begin(&link).await;
        assert_eq!((window.tally().messages, window.tally().open), (0, 1));
        assert_eq!((before.cycle(), during.cycle()), (None, Some(id)));
        during.accepted(7);
        drop(during);
        assert_eq!(
            (
                window.tally().messages,
                window.tally().bytes,
                window.tally().open
            ),
            (1, 7, 0)
        );
        drop(window);
        assert_eq!(arrivals.begin(&link).await.cycle(), None);
    }
}
