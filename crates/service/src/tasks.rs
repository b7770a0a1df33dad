//! What runs until a daemon stops, and what stops it.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A part ended by a defect of its own; the log says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part of the service ended by a defect of its own")]
pub struct Defect;

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

    /// Runs a part. It ends after [`Tasks::cancel`] is cancelled, and not before: else the whole stops, to be started
    /// anew, rather than go on without one of its parts.
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

    /// Runs the daemon until `signals` is cancelled, or a part ended that should not have; then stops every part.
    ///
    /// # Errors
    /// A part ended by a defect.
    pub async fn run(&self, signals: &CancellationToken, drain: Duration) -> Result<(), Defect> {
        tokio::select! {
            () = signals.cancelled() => {}
            () = self.failed.cancelled() => {}
        }
        // What fails while stopping is in the log, and is no reason to be started anew.
        let defect = self.failed.is_cancelled();
        self.stop(drain).await;
        tracing::info!("stopped");
        if defect { Err(Defect) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_signal_ends_it_well() {
        let (tasks, signals) = (Tasks::new(), CancellationToken::new());
        tasks.spawn("part", tasks.cancel().clone().cancelled_owned());
        signals.cancel();
        assert_eq!(tasks.run(&signals, DRAIN).await, Ok(()));
        assert!(tasks.cancel().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_or_panics_ends_all_of_it_as_a_defect() {
        for panics in [false, true] {
            let (tasks, signals) = (Tasks::new(), CancellationToken::new());
            tasks.spawn("sound", tasks.cancel().clone().cancelled_owned());
            tasks.spawn("defective", async move {
                assert!(!panics, "a defect");
            });
            assert_eq!(tasks.run(&signals, DRAIN).await, Err(Defect));
            assert!(tasks.cancel().is_cancelled());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_left_after_the_drain() {
        let (tasks, signals) = (Tasks::new(), CancellationToken::new());
        tasks.spawn("stuck", std::future::pending());
        signals.cancel();
        let began = tokio::time::Instant::now();
        assert_eq!(tasks.run(&signals, DRAIN).await, Ok(()));
        assert_eq!(began.elapsed(), DRAIN);
    }
}
