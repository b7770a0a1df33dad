//! How well a monitor's link is, by the age of the last proof. Pure.
//!
//! The state is a function of the thresholds, the facts and the time, and of nothing else: so it is the same after a
//! restart, and no state can be left only by luck. The worst level is asked for first.

use std::time::Duration;

use crate::clock::Stamp;

/// The state of a monitor, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Nothing was proven yet, and not for so long that it is worth a warning.
    Pending,
    /// The last proof is young enough.
    Proven,
    /// The last proof is old.
    Warning,
    /// It is so old that somebody should look.
    Alerting,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Proven, Self::Warning, Self::Alerting];

    /// The word on the wire, in logs and in notices.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Proven => "PROVEN",
            Self::Warning => "WARNING",
            Self::Alerting => "ALERTING",
        }
    }

    /// Whether probes run at the shorter interval.
    #[must_use]
    pub fn is_unwell(self) -> bool {
        matches!(self, Self::Warning | Self::Alerting)
    }
}

/// When a monitor changes its state, and how often it probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// From this age of the last proof on it is WARNING.
    pub warn_after: Duration,
    /// From this age on it is ALERTING; more than `warn_after`.
    pub alert_after: Duration,
    /// From probe to probe.
    pub interval: Duration,
    /// The same while WARNING or ALERTING.
    pub interval_unwell: Duration,
}

/// What is known of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When it first ran.
    pub since: Stamp,
    /// When something was last proven.
    pub last_proof: Option<Stamp>,
}

impl Facts {
    /// Where the age of the last proof is counted from.
    fn origin(&self) -> Stamp {
        self.last_proof.unwrap_or(self.since)
    }

    /// The age of the last proof; before the first one, the time since the monitor first ran.
    #[must_use]
    pub fn proof_age(&self, now: Stamp) -> Duration {
        now.since(self.origin())
    }
}

/// What is thought of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Its state.
    pub state: State,
    /// Since when that holds.
    pub since: Stamp,
    /// When it will be another one, if nothing is proven until then.
    pub changes: Option<Stamp>,
}

/// Judges a monitor.
#[must_use]
pub fn judge(thresholds: &Thresholds, facts: &Facts, now: Stamp) -> Judgement {
    let (origin, age) = (facts.origin(), facts.proof_age(now));
    let (warning, alerting) = (
        origin.plus(thresholds.warn_after),
        origin.plus(thresholds.alert_after),
    );
    let (state, since, changes) = if age >= thresholds.alert_after {
        (State::Alerting, alerting, None)
    } else if age >= thresholds.warn_after {
        (State::Warning, warning, Some(alerting))
    } else if facts.last_proof.is_some() {
        (State::Proven, origin, Some(warning))
    } else {
        (State::Pending, origin, Some(warning))
    };
    Judgement {
        state,
        since,
        changes,
    }
}

/// When the next probe is due: at once if none ever ran.
#[must_use]
pub fn next_probe(
    thresholds: &Thresholds,
    state: State,
    last_run: Option<Stamp>,
    now: Stamp,
) -> Stamp {
    let interval = if state.is_unwell() {
        thresholds.interval_unwell
    } else {
        thresholds.interval
    };
    last_run.map_or(now, |last| last.plus(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const MINUTES: Duration = Duration::from_secs(60);

    fn thresholds() -> Thresholds {
        Thresholds {
            warn_after: 30 * MINUTES,
            alert_after: 60 * MINUTES,
            interval: 15 * MINUTES,
            interval_unwell: 5 * MINUTES,
        }
    }

    #[test]
    fn the_state_follows_from_the_age_of_the_last_proof() {
        use State::{Alerting, Pending, Proven, Warning};
        // First run, last proof, now, in minutes; what follows: state, since, changes.
        let rows = [
            (0, None, 0, Pending, 0, Some(30)),
            (0, None, 29, Pending, 0, Some(30)),
            (0, None, 30, Warning, 30, Some(60)),
            (0, None, 59, Warning, 30, Some(60)),
            (0, None, 60, Alerting, 60, None),
            (0, None, 9999, Alerting, 60, None),
            (0, Some(5), 5, Proven, 5, Some(35)),
            (0, Some(5), 34, Proven, 5, Some(35)),
            (0, Some(5), 35, Warning, 35, Some(65)),
            (0, Some(5), 65, Alerting, 65, None),
            // A proof that is older than the first run still counts by its own age.
            (50, Some(40), 50, Proven, 40, Some(70)),
            // A clock that went back: nothing has passed.
            (50, Some(60), 10, Proven, 60, Some(90)),
            (50, None, 10, Pending, 50, Some(80)),
        ];
        for (since, last_proof, now, state, state_since, changes) in rows {
            let facts = Facts {
                since: Stamp(since * MINUTE),
                last_proof: last_proof.map(|m: i64| Stamp(m * MINUTE)),
            };
            let judged = judge(&thresholds(), &facts, Stamp(now * MINUTE));
            let expected = Judgement {
                state,
                since: Stamp(state_since * MINUTE),
                changes: changes.map(|m: i64| Stamp(m * MINUTE)),
            };
            assert_eq!(
                judged, expected,
                "since {since}, proof {last_proof:?}, now {now}"
            );
        }
    }

    #[test]
    fn the_next_probe_is_due_by_the_state_and_the_last_run() {
        let now = Stamp(100 * MINUTE);
        for (state, last_run, due) in [
            (State::Pending, None, 100),
            (State::Alerting, None, 100),
            (State::Pending, Some(100), 115),
            (State::Proven, Some(90), 105),
            (State::Warning, Some(90), 95),
            (State::Alerting, Some(98), 103),
        ] {
            let last = last_run.map(|m: i64| Stamp(m * MINUTE));
            assert_eq!(
                next_probe(&thresholds(), state, last, now),
                Stamp(due * MINUTE),
                "{state:?}"
            );
        }
    }

    /// A walk of proofs and waits. After each step: a proof now gives PROVEN, waiting gives ALERTING, and what is said to
    /// change does change at that time and not before.
    #[test]
    fn no_state_is_a_dead_end() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut draw = |below: i64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            i64::try_from(random % below.unsigned_abs()).unwrap()
        };
        let (thresholds, mut now) = (thresholds(), Stamp(0));
        let mut facts = Facts {
            since: now,
            last_proof: None,
        };
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20_000 {
            now = Stamp(now.0 + draw(25 * MINUTE));
            if draw(4) == 0 {
                facts.last_proof = Some(Stamp(now.0 - draw(70 * MINUTE)).max(facts.since));
            }
            let judged = judge(&thresholds, &facts, now);
            seen.insert(judged.state);
            assert!(judged.since <= now);
            if let Some(changes) = judged.changes {
                assert!(changes > now);
                let before = judge(&thresholds, &facts, Stamp(changes.0 - 1));
                let after = judge(&thresholds, &facts, changes);
                assert_eq!(before.state, judged.state);
                assert_ne!(after.state, judged.state);
                assert_eq!(after.since, changes);
            }
            let proven = Facts {
                last_proof: Some(now),
                ..facts
            };
            assert_eq!(judge(&thresholds, &proven, now).state, State::Proven);
            let later = now.plus(thresholds.alert_after);
            assert_eq!(judge(&thresholds, &facts, later).state, State::Alerting);
        }
        assert_eq!(seen.len(), State::ALL.len());
    }
}
