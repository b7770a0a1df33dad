//! What replicas tell each other of the windows of cycles: those that do not keep a link what came over it, the keeper what
//! is open.
//!
//! Told soon after it happened and again each half second, so that a cycle hears within a second that mail comes in over
//! another replica. Between a transaction that began and the quiet of a cycle there is nothing more: `quiet` is longer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Arrivals, Window};
use crate::{
    names::CycleId,
    spool::{Came, Exchanged, Spool, SpoolError},
};

/// The windows are looked at so often.
const EVERY: Duration = Duration::from_millis(500);
/// And no more often than that, however much happens.
const AT_MOST: Duration = Duration::from_millis(100);
/// A transaction that goes on without anything new is told of again, so that it is not taken for that of a replica that is
/// gone.
const AGAIN: Duration = Duration::from_secs(3);

/// What was told last of a window.
type Told = HashMap<CycleId, (Came, Instant)>;

impl Arrivals {
    /// Exchanges what arrives with the other replicas until cancelled; nothing where there can be none.
    pub async fn exchange(self, cancel: CancellationToken) {
        let Some(spool) = self.shared.clone() else {
            return cancel.cancelled().await;
        };
        let mut told = Told::new();
        while !cancel.is_cancelled() {
            if let Err(error) = self.exchange_once(&spool, &mut told).await {
                tracing::warn!(%error, "what arrives cannot be exchanged with the other replicas");
            }
            sleep(AT_MOST).await;
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.told.notified() => {}
                () = sleep(EVERY) => {}
            }
        }
    }

    async fn exchange_once(&self, spool: &Spool, told: &mut Told) -> Result<(), SpoolError> {
        let windows: Vec<Arc<Window>> = self.known().values().cloned().collect();
        told.retain(|cycle, _| windows.iter().any(|window| window.cycle == *cycle));
        let (mut here, mut ours) = (Vec::new(), Vec::new());
        for window in &windows {
            let came = window.counts.borrow().here;
            if window.ours {
                ours.push(window.cycle);
            } else if is_news(told.get(&window.cycle), came) {
                here.push((window.cycle, came));
            }
        }
        let now = Instant::now();
        let exchanged = spool.exchange_arrivals(here.clone(), ours).await?;
        told.extend(here.into_iter().map(|(cycle, came)| (cycle, (came, now))));
        self.take_over(&windows, &exchanged);
        Ok(())
    }

    /// Takes over what was learnt since `before` was known.
    fn take_over(&self, before: &[Arc<Window>], exchanged: &Exchanged) {
        for window in before.iter().filter(|window| window.ours) {
            if let Some(came) = exchanged.elsewhere.get(&window.cycle) {
                window.came_elsewhere(*came);
            }
        }
        for open in &exchanged.open {
            let _ = self.others(open);
        }
        // A window that was found meanwhile is not among them, and is open all the same.
        let is_over = |cycle: &CycleId| {
            before.iter().any(|window| window.cycle == *cycle)
                && !exchanged.open.iter().any(|open| open.cycle == *cycle)
        };
        self.known()
            .retain(|_, window| window.ours || !is_over(&window.cycle));
    }
}

fn is_news(told: Option<&(Came, Instant)>, came: Came) -> bool {
    match told {
        None => came != Came::default(),
        Some((before, at)) => *before != came || (came.open > 0 && at.elapsed() >= AGAIN),
    }
}
