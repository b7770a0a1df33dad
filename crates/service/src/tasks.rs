//! What runs until a daemon stops, and what stops it.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The parts of a daemon. A part that ends by itself is a defect, and stops the whole.
#[derive(Debug, Default)]
pub struct Tasks {
    cancel: CancellationToken,
    failed: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// No parts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the daemon stops.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Cancelled when a part ended that should not have: the daemon then stops, to be started anew, rather than go on
    /// without one of its parts.
    #[must_use]
    pub fn failed(&self) -> &CancellationToken {
        &self.failed
    }

    /// Runs a part. It ends after [`Tasks::cancel`] is cancelled, and not before.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (cancel, failed) = (self.cancel.clone(), self.failed.clone());
        self.tracker.spawn(async move {
            let ended = tokio::spawn(work).await;
            if ended.is_err() || !cancel.is_cancelled() {
                tracing::error!(task = name, "a part ended by a defect of its own");
                failed.cancel();
            }
        });
    }

    /// Tells every part to stop, and waits for them, but not for longer than `drain`.
    pub async fn stop(&self, drain: Duration) {
        self.cancel.cancel();
        self.tracker.close();
        if tokio::time::timeout(drain, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(after = ?drain, "stopping with work in progress; what it was is on disk");
        }
    }
}

/// Returns so long after the daemon was told to stop: a peer that does not answer must not keep it from stopping.
pub async fn too_late(cancel: &CancellationToken, grace: Duration) {
    cancel.cancelled().await;
    tokio::time::sleep(grace).await;
}
