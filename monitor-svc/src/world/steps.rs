//! Steps: each call of the relay and of the channel and each commit of the ledger is one. At one of them the process dies.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before the step has its effect.
    Before,
    /// After it, before anybody hears of it.
    After,
}

/// Counts the steps of one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    death: Option<(u64, Moment)>,
    dead: CancellationToken,
}

impl Steps {
    /// A process that dies at a step, counted from 1.
    pub(crate) fn dying_at(step: u64, moment: Moment) -> Self {
        Self {
            inner: Arc::new(Inner {
                death: Some((step, moment)),
                ..Inner::default()
            }),
        }
    }

    /// The steps that were begun.
    pub(crate) fn count(&self) -> u64 {
        self.inner.count.load(Ordering::SeqCst)
    }

    /// Returns when the process is dead.
    pub(crate) async fn death(&self) {
        self.inner.dead.cancelled().await;
    }

    /// A step begins. Does not return in a process that is dead.
    pub(crate) async fn before(&self) -> u64 {
        self.live().await;
        let step = self.inner.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.reach(step, Moment::Before).await;
        step
    }

    /// A step had its effect.
    pub(crate) async fn after(&self, step: u64) {
        self.live().await;
        self.reach(step, Moment::After).await;
    }

    async fn live(&self) {
        if self.inner.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    async fn reach(&self, step: u64, moment: Moment) {
        if self.inner.death == Some((step, moment)) {
            self.inner.dead.cancel();
            std::future::pending::<()>().await;
        }
    }
}
