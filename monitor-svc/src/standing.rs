//! What is known of a monitor, as it is kept, and how it changes. Pure.

use crate::{
    clock::Stamp,
    config::Monitor,
    judge::{self, Facts, State},
    names::{MonitorName, ProbeId},
    probe::{Probe, Proof},
};

/// The newest proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Proven {
    /// When, by our clock.
    pub time: Stamp,
    /// By which probe.
    pub probe: ProbeId,
    /// How long it was under way, milliseconds.
    pub round_trip_ms: u64,
}

/// What is known of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// Its name.
    pub name: MonitorName,
    /// When it first ran.
    pub since: Stamp,
    /// Its state, as it was last judged.
    pub state: State,
    /// Since when.
    pub state_time: Stamp,
    /// The newest proof.
    pub last_proof: Option<Proven>,
    /// When the last run of a probe began.
    pub last_run: Option<Stamp>,
    /// The newest probe.
    pub latest_probe: Option<ProbeId>,
    /// Reports that proved nothing.
    pub rejected: u64,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// From which proof on (or from the first run) nothing was proven until now, if this ends an outage.
    pub outage_from: Option<Stamp>,
}

impl Standing {
    /// A monitor that never ran.
    #[must_use]
    pub fn new(name: MonitorName, now: Stamp) -> Self {
        Self {
            name,
            since: now,
            state: State::Pending,
            state_time: now,
            last_proof: None,
            last_run: None,
            latest_probe: None,
            rejected: 0,
        }
    }

    /// The wall clock may have been set back while the monitor did not run: nothing lies in the future.
    #[must_use]
    pub fn not_beyond(mut self, now: Stamp) -> Self {
        self.since = self.since.min(now);
        self.state_time = self.state_time.min(now);
        self.last_run = self.last_run.map(|last| last.min(now));
        if let Some(proven) = &mut self.last_proof {
            proven.time = proven.time.min(now);
        }
        self
    }

    /// What the judge wants to know.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            since: self.since,
            last_proof: self.last_proof.map(|proven| proven.time),
        }
    }

    /// Judges anew, and gives the change if there is one. `unproven_from` is where the age of the last proof was counted
    /// from before.
    pub fn judge(
        &mut self,
        monitor: &Monitor,
        unproven_from: Stamp,
        now: Stamp,
    ) -> Option<Transition> {
        let judged = judge::judge(&monitor.thresholds, &self.facts(), now);
        if judged.state == self.state {
            return None;
        }
        let transition = Transition {
            from: self.state,
            to: judged.state,
            outage_from: (judged.state == State::Proven && self.state.is_unwell())
                .then_some(unproven_from),
        };
        self.state = judged.state;
        self.state_time = judged.since.max(self.state_time).min(now);
        Some(transition)
    }

    /// Where the age of the last proof is counted from.
    #[must_use]
    pub fn unproven_from(&self) -> Stamp {
        self.last_proof.map_or(self.since, |proven| proven.time)
    }

    /// Takes in what a probe proved, if it is what counts here. The proof's time is by our clock: that of the submission
    /// and, by the relay's clock, the time under way.
    pub fn prove(&mut self, monitor: &Monitor, probe: &Probe, now: Stamp) {
        if probe.proof < monitor.wanted || probe.proof == Proof::None {
            return;
        }
        let round_trip_ms = probe.round_trip_ms.unwrap_or(0);
        let start = probe
            .submitted
            .as_ref()
            .map_or(probe.created, |submitted| submitted.at);
        let time = start
            .plus(std::time::Duration::from_millis(round_trip_ms))
            .min(now);
        if self.last_proof.is_none_or(|last| last.time <= time) {
            self.last_proof = Some(Proven {
                time,
                probe: probe.id,
                round_trip_ms,
            });
        }
    }
}
