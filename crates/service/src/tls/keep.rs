//! Keeping certificates fresh: on SIGHUP, and by looking at the files now and then.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::ReloadingIdentity;

/// Reloads each identity on SIGHUP and every `every`, until `cancel` is cancelled. A part for [`crate::tasks::Tasks`].
/// What is wrong with a file is logged by [`ReloadingIdentity::reload`].
///
/// # Errors
/// The operating system refuses the signal handler.
pub fn keep_fresh(
    identities: Vec<Arc<ReloadingIdentity>>,
    every: Duration,
    cancel: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send> {
    // At once, and not when the future is first polled: until then SIGHUP would end the process.
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
                _ = hangups.recv() => tracing::info!("SIGHUP: reading certificates anew"),
            }
            for identity in &identities {
                let identity = Arc::clone(identity);
                // The outcome is in the log already.
                let _ = tokio::task::spawn_blocking(move || identity.reload().is_ok()).await;
            }
        }
    })
}
