//! What runs: a keeper for each monitor, one reader of reports, one notifier. A thin shell around the ledger.
//!
//! They meet only in the ledger: each looks there for what is to be done, so that a restart just goes on.

mod attempt;
mod callers;
mod desk;
mod keeper;
mod notifier;
mod reader;
mod sparing;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use desk::{Desk, RunError};
pub use keeper::Keeper;
pub use notifier::Notifier;
pub use reader::Reader;

use crate::{
    clock::Clock,
    ledger::{Changed, Ledger},
    relay::Relay,
    telemetry::{self, Gauges, Instruments},
};

/// What the parts share. Cheap to clone.
#[derive(Clone)]
pub struct Shared<R: Relay> {
    /// What is known.
    pub ledger: Ledger,
    /// The relay.
    pub relay: R,
    /// The time.
    pub clock: Clock,
    /// What is measured.
    pub instruments: Instruments,
    /// How the monitors stand, for the gauges.
    pub gauges: Gauges,
}

/// Waits that grow: from the first, each is twice as long as the one before, up to the longest.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The wait after one more failure.
    fn next(&mut self) -> Duration {
        let wait = Self::after(self.first, self.longest, self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after `failures` earlier ones.
    fn after(first: Duration, longest: Duration, failures: u32) -> Duration {
        first
            .saturating_mul(2_u32.saturating_pow(failures))
            .min(longest)
    }
}

/// The one line that tells of a change of state; and the end of its span.
fn log(changed: &Changed) {
    let (standing, transition) = (&changed.standing, &changed.transition);
    let (monitor, reason) = (&standing.name, &changed.reason);
    let (state, previous) = (transition.to.as_str(), transition.from.as_str());
    if transition.to.is_unwell() {
        tracing::warn!(%monitor, state, previous_state = previous, reason, "monitor state changed");
    } else {
        tracing::info!(%monitor, state, previous_state = previous, reason, "monitor state changed");
    }
    telemetry::end(&changed.context, None);
}
