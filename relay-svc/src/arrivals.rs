//! What arrives over a link, and in which cycle.
//!
//! A cycle opens a window on its link; a session that takes mail over that link enters each transaction here. So
//! `inbound` and `cycle` know nothing of each other, and a message is counted to the cycle during which it was
//! accepted, exactly.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry::Context;
use tokio::{sync::watch, time::Instant};

use crate::names::{CycleId, LinkName};

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

struct Window {
    cycle: CycleId,
    context: Context,
    tally: watch::Sender<Tally>,
}

/// The windows that are open, by link. Cheap to clone.
#[derive(Clone, Default)]
pub struct Arrivals {
    windows: Arc<Mutex<HashMap<LinkName, Arc<Window>>>>,
}

/// A window that a cycle holds open.
pub struct OpenWindow {
    arrivals: Arrivals,
    link: LinkName,
    tally: watch::Receiver<Tally>,
}

/// A transaction over a link. Counts as under way until it is dropped.
pub struct Arrival {
    window: Option<Arc<Window>>,
}

impl Arrivals {
    /// Opens the window of a cycle. One cycle runs per link, so there is at most one.
    #[must_use]
    pub fn open(&self, link: &LinkName, cycle: CycleId, context: Context) -> OpenWindow {
        let first = Tally {
            messages: 0,
            bytes: 0,
            open: 0,
            last: Instant::now(),
        };
        let (tally, seen) = watch::channel(first);
        let window = Arc::new(Window {
            cycle,
            context,
            tally,
        });
        self.windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(link.clone(), window);
        OpenWindow {
            arrivals: self.clone(),
            link: link.clone(),
            tally: seen,
        }
    }

    /// A client that releases mail over a link makes progress: receiving goes on, also before its first transaction. What
    /// counts as progress is the caller's to say.
    pub fn touch(&self, link: &LinkName) {
        let window = self
            .windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(link)
            .cloned();
        if let Some(window) = window {
            window.change(|_| {});
        }
    }

    /// A transaction begins over a link, inside a window or not.
    #[must_use]
    pub fn begin(&self, link: &LinkName) -> Arrival {
        let window = self
            .windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(link)
            .cloned();
        if let Some(window) = &window {
            window.change(|tally| tally.open += 1);
        }
        Arrival { window }
    }
}

impl Window {
    fn change(&self, change: impl FnOnce(&mut Tally)) {
        self.tally.send_modify(|tally| {
            change(tally);
            tally.last = Instant::now();
        });
    }
}

impl OpenWindow {
    /// What has arrived so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        *self.tally.borrow()
    }

    /// Returns at the next change.
    pub async fn changed(&mut self) {
        if self.tally.changed().await.is_err() {
            // The sender lives as long as the window is in the table, which is until this is dropped.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for OpenWindow {
    fn drop(&mut self) {
        self.arrivals
            .windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.link);
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
        if let Some(window) = &self.window {
            window.change(|tally| {
                tally.messages += 1;
                tally.bytes += bytes;
            });
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(window) = &self.window {
            window.change(|tally| tally.open = tally.open.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_to_the_window_in_which_its_transaction_began() {
        let (arrivals, link) = (Arrivals::default(), LinkName::parse("isp").unwrap());
        let before = arrivals.begin(&link);
        let id = CycleId::new();
        let window = arrivals.open(&link, id, Context::new());
        before.accepted(5);
        let during = arrivals.begin(&link);
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
        assert_eq!(arrivals.begin(&link).cycle(), None);
    }
}
