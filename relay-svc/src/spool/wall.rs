//! What the wall clock is believed. Boxes without a battery start in 1970, and jump by years when the line comes up.
//!
//! Nothing that is kept here ages by the wall clock; it dates mail, and tells how long a relay did not run. A step is
//! logged.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use super::Spool;
use crate::clock::Stamp;

/// When this program was built: no time before can be now.
const BUILT: &str = env!("LINKMAIL_BUILT_MS");

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A step of so much is told.
const STEP: Duration = Duration::from_secs(300);

/// Whether it can be so late: not before the time at which this program was built.
#[must_use]
pub fn is_plausible(time: Stamp) -> bool {
    time >= built()
}

fn built() -> Stamp {
    Stamp(BUILT.parse().unwrap_or(0))
}

/// Compares the wall clock with one that does not jump.
struct WallClock {
    seen: Stamp,
    at: Instant,
}

/// The wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    /// What it should have shown.
    expected: Stamp,
    /// What it shows.
    found: Stamp,
}

impl WallClock {
    fn new(now: Stamp, at: Instant) -> Self {
        Self { seen: now, at }
    }

    /// Whether it was set by more than five minutes since the last look.
    fn look(&mut self, now: Stamp, at: Instant) -> Option<Step> {
        let expected = self.seen.plus(at.saturating_duration_since(self.at));
        *self = Self::new(now, at);
        let off = now.since(expected).max(expected.since(now));
        (off > STEP).then_some(Step {
            expected,
            found: now,
        })
    }
}

impl Spool {
    /// Tells whoever reads the log when the wall clock is set, or cannot be right.
    pub async fn watch_wall(&self) -> Infallible {
        let mut clock = WallClock::new(Stamp::now(), Instant::now());
        if !is_plausible(clock.seen) {
            tracing::warn!(
                now = clock.seen.rfc2822(),
                built = built().rfc2822(),
                "the clock of this machine is before the time at which this program was built: mail is dated by it, nothing ages by it"
            );
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(Step { expected, found }) = clock.look(Stamp::now(), Instant::now()) else {
                continue;
            };
            tracing::warn!(
                from = expected.rfc2822(),
                to = found.rfc2822(),
                "the clock of this machine was set: nothing ages by that"
            );
            // A rest that begins soon is measured from the right time.
            if let Err(error) = self.keep_clock().await {
                tracing::warn!(%error, "the clock of the spool cannot be kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_once_and_what_drifts_is_not() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let wall = |seconds: u64| Stamp(0).plus(Duration::from_secs(seconds));
        let mut clock = WallClock::new(wall(0), start);
        assert_eq!(clock.look(wall(60), later(60)), None);
        assert_eq!(clock.look(wall(420), later(120)), None, "300 s ahead");
        let years = 56 * 365 * 86_400;
        let step = clock.look(wall(years), later(180));
        let expected = Step {
            expected: wall(480),
            found: wall(years),
        };
        assert_eq!(step, Some(expected));
        assert_eq!(clock.look(wall(years + 60), later(240)), None);
        let back = clock.look(wall(180), later(300));
        assert_eq!(back.map(|step| step.found), Some(wall(180)));
    }

    #[test]
    fn what_is_before_the_program_was_built_is_not_now() {
        assert!(is_plausible(Stamp::now()));
        assert!(!is_plausible(Stamp(0)));
        assert!(!is_plausible(built().minus(Duration::from_millis(1))));
        assert!(is_plausible(built()));
    }
}
