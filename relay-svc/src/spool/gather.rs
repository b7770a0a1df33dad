//! How long a commit waits for changes that are on their way. Pure: times are passed in.
//!
//! While a commit syncs, those that come meanwhile wait for the next one, and those that it answers come back right behind
//! its begin: on a slow disk the writers end up in two halves that take turns, and each sync carries one of them. A wait of a
//! part of a commit's own time brings them together. It is for those of whom something is known: as many as were there for
//! the last commit, and those that came while it ran. Who writes alone is never made to wait, nor is anybody on a fast disk;
//! and where a wait brings nobody, as when clients are far away, some commits go without.

use std::time::Duration;

/// Commits that take less are not worth waiting for: it would cost as much as it saves.
const SLOW: Duration = Duration::from_millis(1);
/// The wait is at most this part of what a commit takes.
const PART: u32 = 4;
/// After a wait that brought nobody, so many commits go without: at first, and at most.
const REST: (u32, u32) = (16, 256);
/// Of what is known of the time of a commit, a new one changes this part.
const SMOOTH: u32 = 8;

/// What is known of the commits so far.
#[derive(Debug)]
pub(super) struct Gather {
    /// What a commit takes; nothing before the first.
    commit: Duration,
    /// How many changes the last one had.
    last: usize,
    /// So many more go without a wait.
    resting: u32,
    /// How many that will be after the next wait that brings nobody.
    rest: u32,
}

impl Default for Gather {
    fn default() -> Self {
        Self {
            commit: Duration::ZERO,
            last: 0,
            resting: 0,
            rest: REST.0,
        }
    }
}

/// What one commit may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    taken: usize,
    expected: usize,
    longest: Duration,
}

impl Gather {
    /// For a commit that has taken all that waited, so many changes. `came_meanwhile`: the first of them came while the commit
    /// before ran.
    pub(super) fn wait(&self, taken: usize, came_meanwhile: bool) -> Wait {
        let expected = match came_meanwhile {
            true => self.last + taken,
            false => self.last,
        };
        let is_worth_it = self.commit >= SLOW && self.resting == 0 && expected > taken;
        Wait {
            taken,
            expected,
            longest: match is_worth_it {
                true => self.commit / PART,
                false => Duration::ZERO,
            },
        }
    }

    /// A commit that had this wait, if it came to one, took so long and had so many changes.
    pub(super) fn committed(&mut self, wait: Option<Wait>, changes: usize, took: Duration) {
        self.commit = match self.commit {
            Duration::ZERO => took,
            known => known - known / SMOOTH + took / SMOOTH,
        };
        self.last = changes;
        match wait.filter(|wait| wait.longest > Duration::ZERO) {
            Some(wait) if changes == wait.taken => {
                self.resting = self.rest;
                self.rest = (2 * self.rest).min(REST.1);
            }
            Some(_) => self.rest = REST.0,
            None => self.resting = self.resting.saturating_sub(1),
        }
    }
}

impl Wait {
    /// How much longer a commit waits that has so many changes by now, and has waited so long.
    pub(super) fn left(&self, changes: usize, waited: Duration) -> Option<Duration> {
        let left = self.longest.checked_sub(waited);
        left.filter(|left| changes < self.expected && *left > Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// After some commits of a size that each took so long and did not wait.
    fn after(commits: u32, changes: usize, took: Duration) -> Gather {
        let mut gather = Gather::default();
        (0..commits).for_each(|_| gather.committed(None, changes, took));
        gather
    }

    #[test]
    fn who_writes_alone_never_waits() {
        let gather = after(100, 1, ms(50));
        assert_eq!(gather.wait(1, false).left(1, NOW), None);
    }

    #[test]
    fn nobody_waits_on_a_fast_disk() {
        let gather = after(100, 30, Duration::from_micros(900));
        assert_eq!(gather.wait(20, true).left(20, NOW), None);
    }

    #[test]
    fn two_halves_become_one_and_stay_one() {
        // 30 have been answered, and 20 came meanwhile.
        let mut gather = after(3, 30, ms(8));
        let wait = gather.wait(20, true);
        assert_eq!(wait.left(20, NOW), Some(ms(2)));
        assert_eq!(wait.left(49, ms(1)), Some(ms(1)));
        assert_eq!(wait.left(49, ms(2)), None, "not for ever");
        assert_eq!(wait.left(50, ms(1)), None, "all are there");
        gather.committed(Some(wait), 50, ms(8));
        // Now nobody came meanwhile, and the first is back.
        let wait = gather.wait(1, false);
        assert_eq!(wait.left(1, NOW), Some(ms(2)));
        assert_eq!(wait.left(50, NOW), None);
    }

    #[test]
    fn what_brings_nobody_is_not_done_for_a_while_and_then_for_longer() {
        let mut gather = after(3, 30, ms(8));
        let mut commits_between = Vec::new();
        for _ in 0..6 {
            let wait = gather.wait(20, true);
            assert!(wait.left(20, NOW).is_some());
            gather.committed(Some(wait), 20, ms(8));
            let mut without = 0;
            while without < 999 && gather.wait(20, true).left(20, NOW).is_none() {
                gather.committed(Some(gather.wait(20, true)), 20, ms(8));
                without += 1;
            }
            commits_between.push(without);
        }
        assert_eq!(commits_between, [16, 32, 64, 128, 256, 256]);
        // One that brings somebody is worth it again.
        let wait = gather.wait(20, true);
        gather.committed(Some(wait), 21, ms(8));
        assert!(gather.wait(20, true).left(20, NOW).is_some());
    }

    #[test]
    fn the_time_of_a_commit_is_what_it_was_lately() {
        let mut gather = after(1, 30, ms(8));
        for _ in 0..40 {
            gather.committed(None, 30, Duration::from_micros(100));
        }
        assert_eq!(gather.wait(20, true).left(20, NOW), None);
    }
}
