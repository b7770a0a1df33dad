//! What is told of a change of state. Pure, but for its random identity.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::{
    clock::Stamp,
    config::Monitor,
    judge::State,
    standing::{Standing, Transition},
};

/// A change of state as the channel gets it, in JSON. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notice {
    /// Stays the same however often it is sent.
    pub id: Uuid,
    /// The monitor.
    pub monitor: String,
    /// The link that it watches.
    pub link: String,
    /// The state now.
    pub state: State,
    /// The state before.
    pub previous_state: State,
    /// When the change was seen.
    pub time: String,
    /// Since when the state holds.
    pub state_since: String,
    /// When something was last proven; null: never.
    pub last_proof_time: Option<String>,
    /// The age of that; before the first proof, the time since the monitor first ran.
    pub proof_age_seconds: f64,
    /// At the end of an outage: how long nothing was proven.
    pub outage_seconds: Option<f64>,
    /// How long the last proof was under way.
    pub round_trip_seconds: Option<f64>,
    /// The probe of the last proof, `monitors/{monitor}/probes/{probe}`.
    pub probe: Option<String>,
    /// Why, for a person.
    pub reason: String,
}

/// A notice that waits in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the outbox.
    pub seq: i64,
    /// The monitor that it tells of.
    pub monitor: String,
    /// The identity of the notice.
    pub id: String,
    /// When it was made.
    pub created: Stamp,
    /// When it is tried next.
    pub next: Stamp,
    /// How often it was tried.
    pub attempts: u32,
    /// The notice, in JSON.
    pub body: String,
    /// W3C `traceparent` of the change that it tells of.
    pub traceparent: String,
}

impl Notice {
    /// Of a change that is in `standing` already.
    #[must_use]
    pub fn new(
        monitor: &Monitor,
        standing: &Standing,
        transition: &Transition,
        reason: &str,
        now: Stamp,
    ) -> Self {
        let proven = standing.last_proof;
        let seconds = |time: Duration| time.as_secs_f64();
        Self {
            id: Uuid::new_v4(),
            monitor: standing.name.to_string(),
            link: monitor.link.to_string(),
            state: transition.to,
            previous_state: transition.from,
            time: rfc3339(now),
            state_since: rfc3339(standing.state_time),
            last_proof_time: proven.map(|proven| rfc3339(proven.time)),
            proof_age_seconds: seconds(standing.facts().proof_age(now)),
            outage_seconds: transition
                .outage_from
                .map(|from| seconds(proven.map_or(now, |proven| proven.time).since(from))),
            round_trip_seconds: proven.map(|proven| proven.round_trip_ms as f64 / 1000.0),
            probe: proven
                .map(|proven| format!("monitors/{}/probes/{}", standing.name, proven.probe)),
            reason: reason.to_owned(),
        }
    }
}

fn rfc3339(stamp: Stamp) -> String {
    prost_types::Timestamp::from(stamp.system_time()).to_string()
}

/// A time for people: `2.1 s`, `31 min`, `3 h 5 min`.
#[must_use]
pub fn words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match minutes {
        0 => format!("{:.1} s", time.as_secs_f64()),
        1..60 => format!("{minutes} min"),
        _ if minutes.is_multiple_of(60) => format!("{} h", minutes / 60),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_say_them() {
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (2.14, "2.1 s"),
            (59.94, "59.9 s"),
            (60.0, "1 min"),
            (1860.0, "31 min"),
            (7200.0, "2 h"),
            (11_100.0, "3 h 5 min"),
        ] {
            assert_eq!(words(Duration::from_secs_f64(seconds)), text);
        }
    }
}
