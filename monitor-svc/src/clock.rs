//! The monitor's clock: wall-clock time that does not jump while the monitor runs.

use tokio::time::Instant;

pub use linkmail_service::clock::Stamp;

/// A wall clock that shows less was never set (2026-01-01): a machine without a clock of its own starts in 1970.
const PLAUSIBLE: Stamp = Stamp(1_767_225_600_000);

/// The time to start from: what the wall clock shows, or the newest time that was recorded if the clock was never set. So
/// nothing that was proven grows old by half a century when the clock is set.
#[must_use]
pub fn plausible(wall: Stamp, recorded: Stamp) -> Stamp {
    if wall < PLAUSIBLE {
        recorded.max(PLAUSIBLE)
    } else {
        wall
    }
}

/// The wall clock as it stood at the start, plus the time that has passed since by a clock that only goes on. A step of
/// the wall clock changes nothing until the next start. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Stamp,
    start: Instant,
}

impl Clock {
    /// A clock that shows `wall` now.
    #[must_use]
    pub fn starting_at(wall: Stamp) -> Self {
        Self {
            wall,
            start: Instant::now(),
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Stamp {
        self.wall.plus(self.start.elapsed())
    }

    /// What it was set to.
    #[cfg(test)]
    pub(crate) fn start(&self) -> Stamp {
        self.wall
    }

    /// Waits until the clock shows `stamp`.
    pub async fn sleep_until(&self, stamp: Stamp) {
        tokio::time::sleep_until(self.start + stamp.since(self.wall)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_was_never_set_goes_on_from_what_was_recorded() {
        let (unset, set) = (Stamp(5000), Stamp(1_795_458_600_000));
        assert_eq!(plausible(set, Stamp(set.0 + 9)), set);
        assert_eq!(plausible(set, Stamp(0)), set);
        assert_eq!(plausible(unset, set), set);
        assert_eq!(plausible(unset, Stamp(0)), PLAUSIBLE);
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_where_it_was_set_whatever_the_wall_clock_shows() {
        let clock = Clock::starting_at(Stamp(1000));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), Stamp(6000));
        clock.sleep_until(Stamp(9000)).await;
        assert_eq!(clock.now(), Stamp(9000));
        clock.sleep_until(Stamp(10)).await;
        assert_eq!(clock.now(), Stamp(9000));
    }
}
