//! When a cycle starts by itself. Pure, with time as an argument.
//!
//! The schedule counts from the start of any cycle, by a clock that does not jump. After a cycle whose way out failed
//! nothing starts by itself for a pause that doubles up to [`LONGEST_PAUSE`].

use std::time::Duration;

use tokio::time::Instant;

use super::{Trigger, order::Ending};
use crate::config::Triggers;

/// The longest pause after cycles that did not go well.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What waits for the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Messages that are due.
    pub(super) due: u64,
    /// How long the longest of them is due.
    pub(super) oldest: Option<Duration>,
    /// In how long the next one becomes due.
    pub(super) next_due: Option<Duration>,
    /// The hours of large mail have begun, and some is due that waited for them.
    pub(super) hours_began: bool,
    /// In how long they begin, if some waits for them.
    pub(super) hours_in: Option<Duration>,
}

impl Waiting {
    /// What waits in another queue counts, too.
    pub(super) fn add(&mut self, other: &Self) {
        let times = [self.next_due, other.next_due];
        *self = Self {
            due: self.due + other.due,
            oldest: self.oldest.max(other.oldest),
            next_due: times.into_iter().flatten().min(),
            ..*self
        };
    }
}

/// The beginning of the hours of large mail: what has waited for them goes, also where it alone would start no cycle.
#[derive(Debug, Default)]
pub(super) struct Opening {
    was_open: bool,
    began: bool,
}

impl Opening {
    /// Whether they have begun since the last look, or before it and no cycle started since; `due` messages wait for them.
    /// The first look sees them begin.
    #[must_use]
    pub(super) fn look(&mut self, is_open: bool, due: u64) -> bool {
        let begins = is_open && !self.was_open;
        self.was_open = is_open;
        self.began = is_open && due > 0 && (self.began || begins);
        self.began
    }

    /// A cycle starts.
    pub(super) fn started(&mut self) {
        self.began = false;
    }
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// A cycle starts.
    Start(Trigger),
    /// Nothing, until then, unless something changes.
    Wait(Option<Instant>),
}

/// The triggers of one link.
#[derive(Debug)]
pub(super) struct Schedule {
    triggers: Triggers,
    redial_after: Duration,
    next: Option<Instant>,
    /// The next start by schedule was missed while nothing ran.
    missed: bool,
    failures: u32,
    paused_until: Option<Instant>,
}

impl Schedule {
    /// At the start of the program. `since_last` is how long ago the last cycle began, if there was one.
    #[must_use]
    pub(super) fn new(
        triggers: Triggers,
        redial_after: Duration,
        since_last: Option<Duration>,
        now: Instant,
    ) -> Self {
        // A clock that was set back makes the last cycle look recent; then one interval passes at most.
        let left = |every: Duration| {
            since_last.map_or(Duration::ZERO, |passed| every.saturating_sub(passed))
        };
        let next = triggers.every.map(|every| now + left(every));
        let missed = next.is_some_and(|next| next <= now);
        Self {
            triggers,
            redial_after,
            next,
            missed,
            failures: 0,
            paused_until: None,
        }
    }

    /// A cycle begins. A person who asks for one sees a way that the failures before did not.
    pub(super) fn started(&mut self, trigger: Trigger, now: Instant) {
        if trigger == Trigger::Api {
            self.failures = 0;
        }
        self.missed = false;
        self.next = self.triggers.every.map(|every| now + every);
    }

    /// A cycle has ended.
    pub(super) fn ended(&mut self, ending: &Ending, now: Instant) {
        if !ending.pause {
            self.failures = 0;
            self.paused_until = None;
            return;
        }
        let doubled = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.paused_until =
            Some(now + self.redial_after.saturating_mul(doubled).min(LONGEST_PAUSE));
    }

    /// When the next cycle starts by schedule, or may start after a pause.
    #[must_use]
    pub(super) fn next_start(&self) -> Option<Instant> {
        match (self.next, self.paused_until) {
            (Some(next), Some(pause)) => Some(next.max(pause)),
            (next, pause) => next.or(pause),
        }
    }

    /// Whether a cycle starts now.
    #[must_use]
    pub(super) fn decide(&self, waiting: &Waiting, now: Instant) -> Decision {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Decision::Wait(Some(until));
        }
        if self.next.is_some_and(|next| next <= now) {
            return Decision::Start(if self.missed {
                Trigger::CatchUp
            } else {
                Trigger::Schedule
            });
        }
        if self
            .triggers
            .queued
            .is_some_and(|count| waiting.due >= count)
        {
            return Decision::Start(Trigger::Queue);
        }
        if waiting.hours_began && self.starts_by_itself() {
            return Decision::Start(Trigger::Queue);
        }
        let by_age = match (self.triggers.oldest, waiting.oldest) {
            (Some(limit), Some(age)) if age >= limit => return Decision::Start(Trigger::Queue),
            (Some(limit), Some(age)) => Some(now + (limit - age)),
            _ => None,
        };
        let counts = self.triggers.queued.is_some() || self.triggers.oldest.is_some();
        let by_due = waiting.next_due.filter(|_| counts).map(|wait| now + wait);
        let by_hours = waiting.hours_in.filter(|_| self.starts_by_itself());
        let by_hours = by_hours.map(|wait| now + wait);
        let next = [self.next, by_age, by_due, by_hours];
        Decision::Wait(next.into_iter().flatten().min())
    }

    fn starts_by_itself(&self) -> bool {
        self.triggers != Triggers::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::Outcome;

    const MINUTE: Duration = Duration::from_secs(60);
    const ALL: Triggers = Triggers {
        every: Some(Duration::from_secs(1800)),
        queued: Some(3),
        oldest: Some(Duration::from_secs(600)),
    };

    fn ending(outcome: Outcome) -> Ending {
        Ending {
            outcome,
            error: String::new(),
            pause: outcome != Outcome::Complete,
        }
    }

    fn schedule(since_last: Option<Duration>, now: Instant) -> Schedule {
        Schedule::new(ALL, 2 * MINUTE, since_last, now)
    }

    #[test]
    fn a_start_that_was_missed_while_nothing_ran_is_caught_up() {
        let now = Instant::now();
        assert_eq!(
            schedule(None, now).decide(&Waiting::default(), now),
            Decision::Start(Trigger::CatchUp)
        );
        let overdue = schedule(Some(31 * MINUTE), now);
        assert_eq!(
            overdue.decide(&Waiting::default(), now),
            Decision::Start(Trigger::CatchUp)
        );
        let fresh = schedule(Some(20 * MINUTE), now);
        assert_eq!(
            fresh.decide(&Waiting::default(), now),
            Decision::Wait(Some(now + 10 * MINUTE))
        );
        assert_eq!(
            fresh.decide(&Waiting::default(), now + 10 * MINUTE),
            Decision::Start(Trigger::Schedule)
        );
    }

    #[test]
    fn number_and_age_of_what_is_due_start_a_cycle() {
        let now = Instant::now();
        let mut schedule = schedule(None, now);
        schedule.started(Trigger::Schedule, now);
        let mut waiting = Waiting {
            due: 2,
            oldest: Some(4 * MINUTE),
            ..Waiting::default()
        };
        assert_eq!(
            schedule.decide(&waiting, now),
            Decision::Wait(Some(now + 6 * MINUTE))
        );
        waiting.due = 3;
        assert_eq!(
            schedule.decide(&waiting, now),
            Decision::Start(Trigger::Queue)
        );
        let old = Waiting {
            due: 1,
            oldest: Some(10 * MINUTE),
            ..Waiting::default()
        };
        assert_eq!(schedule.decide(&old, now), Decision::Start(Trigger::Queue));
        let later = Waiting {
            due: 0,
            next_due: Some(5 * MINUTE),
            ..Waiting::default()
        };
        assert_eq!(
            schedule.decide(&later, now),
            Decision::Wait(Some(now + 5 * MINUTE))
        );
    }

    #[test]
    fn the_hours_of_large_mail_are_not_slept_through_and_start_a_cycle_after_a_pause_only() {
        let now = Instant::now();
        let mut schedule = schedule(None, now);
        schedule.started(Trigger::Schedule, now);
        let before = Waiting {
            hours_in: Some(7 * MINUTE),
            ..Waiting::default()
        };
        assert_eq!(
            schedule.decide(&before, now),
            Decision::Wait(Some(now + 7 * MINUTE))
        );
        let began = Waiting {
            due: 1,
            hours_began: true,
            ..Waiting::default()
        };
        assert_eq!(
            schedule.decide(&began, now),
            Decision::Start(Trigger::Queue)
        );
        schedule.ended(&ending(Outcome::LineMissing), now);
        assert_eq!(
            schedule.decide(&began, now),
            Decision::Wait(Some(now + 2 * MINUTE))
        );
    }

    #[test]
    fn hours_begin_once() {
        let mut opening = Opening::default();
        assert!(!opening.look(false, 9));
        assert!(opening.look(true, 9));
        assert!(opening.look(true, 9), "no cycle started");
        opening.started();
        assert!(!opening.look(true, 9));
        assert!(!opening.look(false, 9));
        assert!(!opening.look(true, 0));
        assert!(!opening.look(true, 1), "came in the hours");
        assert!(Opening::default().look(true, 1));
    }

    #[test]
    fn two_queues_count_together() {
        let mut waiting = Waiting {
            due: 2,
            oldest: Some(MINUTE),
            ..Waiting::default()
        };
        waiting.add(&Waiting {
            due: 1,
            oldest: Some(2 * MINUTE),
            next_due: Some(3 * MINUTE),
            ..Waiting::default()
        });
        let both = Waiting {
            due: 3,
            oldest: Some(2 * MINUTE),
            next_due: Some(3 * MINUTE),
            ..Waiting::default()
        };
        assert_eq!(waiting, both);
    }

    #[test]
    fn after_failures_nothing_starts_by_itself_for_a_growing_pause_and_a_success_ends_it() {
        let mut now = Instant::now();
        let mut schedule = schedule(None, now);
        let urgent = Waiting {
            due: 99,
            oldest: Some(99 * MINUTE),
            ..Waiting::default()
        };
        for pause in [2, 4, 8, 16, 32, 60, 60] {
            schedule.started(Trigger::Schedule, now);
            schedule.ended(&ending(Outcome::LineMissing), now);
            assert_eq!(
                schedule.decide(&urgent, now),
                Decision::Wait(Some(now + pause * MINUTE))
            );
            now += pause * MINUTE;
            assert!(matches!(schedule.decide(&urgent, now), Decision::Start(_)));
        }
        schedule.started(Trigger::Schedule, now);
        schedule.ended(&ending(Outcome::Complete), now);
        assert_eq!(
            schedule.decide(&urgent, now),
            Decision::Start(Trigger::Queue)
        );
        schedule.ended(&ending(Outcome::Incomplete), now);
        assert_eq!(
            schedule.decide(&urgent, now),
            Decision::Wait(Some(now + 2 * MINUTE))
        );
    }

    #[test]
    fn a_call_starts_the_pauses_from_the_first_again() {
        let now = Instant::now();
        let mut schedule = schedule(None, now);
        for _ in 0..5 {
            schedule.started(Trigger::Schedule, now);
            schedule.ended(&ending(Outcome::LineMissing), now);
        }
        schedule.started(Trigger::Api, now);
        schedule.ended(&ending(Outcome::LineMissing), now);
        let pause = Decision::Wait(Some(now + 2 * MINUTE));
        assert_eq!(schedule.decide(&Waiting::default(), now), pause);
    }

    #[test]
    fn without_triggers_nothing_starts() {
        let now = Instant::now();
        let schedule = Schedule::new(Triggers::default(), MINUTE, None, now);
        let waiting = Waiting {
            due: 1000,
            oldest: Some(1000 * MINUTE),
            next_due: Some(MINUTE),
            hours_began: true,
            hours_in: Some(MINUTE),
        };
        assert_eq!(schedule.decide(&waiting, now), Decision::Wait(None));
    }
}
