//! A cycle as a resource: what is kept, listed and watched.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Stamp,
    names::{CycleId, LinkName},
};

/// A cycle that changes its phase more often keeps the first so many.
const PHASES: usize = 100;

/// What started a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// `every`.
    Schedule,
    /// `queued` or `oldest`.
    Queue,
    /// `RunCycle`.
    Api,
    /// The schedule was missed while the relay did not run.
    CatchUp,
    /// `RunCycle` for a probe.
    Probe,
}

impl Trigger {
    /// The word for it in logs and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Queue => "queue",
            Self::Api => "api",
            Self::CatchUp => "catch_up",
            Self::Probe => "probe",
        }
    }
}

/// Where a cycle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The line is being dialled.
    Dial,
    /// Mail goes to the smart host.
    Forward,
    /// The providers are asked to release.
    Dequeue,
    /// Mail comes from the providers.
    Receive,
    /// The line is being hung up.
    HangUp,
    /// It is over.
    Ended,
}

impl Phase {
    /// The word for it in logs and for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Forward => "forward",
            Self::Dequeue => "dequeue",
            Self::Receive => "receive",
            Self::HangUp => "hang up",
            Self::Ended => "ended",
        }
    }
}

/// How a cycle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All steps were done.
    Complete,
    /// The line did not come up; nothing was attempted.
    LineMissing,
    /// The line was up and a step failed.
    Incomplete,
    /// The relay stopped while it ran.
    Interrupted,
}

impl Outcome {
    /// The word for it in logs, spans and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::LineMissing => "line_missing",
            Self::Incomplete => "incomplete",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A stretch of time in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which.
    pub phase: Phase,
    /// When it was entered.
    pub start: Stamp,
    /// When it was left.
    pub end: Option<Stamp>,
}

/// One try at bringing the line up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialAttempt {
    /// When it began.
    pub start: Stamp,
    /// How long it took.
    pub took: Duration,
    /// Why the line is not up; empty if it is.
    pub error: String,
    /// What the dial program printed, its end.
    pub output: String,
}

/// One ETRN and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DequeueRequest {
    /// When it was sent.
    pub at: Stamp,
    /// To whom, `HOST:PORT`.
    pub host: String,
    /// For which node, as configured.
    pub node: String,
    /// The reply code; 0 if none came.
    pub code: u16,
    /// The reply text, or the error.
    pub text: String,
}

/// One cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its identity.
    pub id: CycleId,
    /// Its link.
    pub link: LinkName,
    /// What started it.
    pub trigger: Trigger,
    /// Where it is.
    pub phase: Phase,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it did not end complete.
    #[serde(default)]
    pub error: String,
    /// When it began.
    pub start: Stamp,
    /// When it ended.
    #[serde(default)]
    pub end: Option<Stamp>,
    /// Messages that the smart host accepted (for at least one recipient).
    #[serde(default)]
    pub sent: u32,
    /// Their octets.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Messages accepted from the provider.
    #[serde(default)]
    pub received: u32,
    /// Their octets.
    #[serde(default)]
    pub received_bytes: u64,
    /// Recipients deferred by the smart host.
    #[serde(default)]
    pub deferred: u32,
    /// Recipients refused for good by the smart host.
    #[serde(default)]
    pub refused: u32,
    /// The phases in the order in which they were entered.
    #[serde(default)]
    pub phases: Vec<PhaseSpan>,
    /// The tries at bringing the line up.
    #[serde(default)]
    pub dials: Vec<DialAttempt>,
    /// What the providers were asked and answered.
    #[serde(default)]
    pub requests: Vec<DequeueRequest>,
    /// Its trace: 32 hex digits; empty if there is none.
    #[serde(default)]
    pub trace_id: String,
}

impl Record {
    /// A cycle that begins now.
    #[must_use]
    pub fn begin(link: LinkName, trigger: Trigger, now: Stamp) -> Self {
        Self {
            id: CycleId::new(),
            link,
            trigger,
            phase: Phase::Dial,
            outcome: None,
            error: String::new(),
            start: now,
            end: None,
            sent: 0,
            sent_bytes: 0,
            received: 0,
            received_bytes: 0,
            deferred: 0,
            refused: 0,
            phases: vec![PhaseSpan {
                phase: Phase::Dial,
                start: now,
                end: None,
            }],
            dials: Vec::new(),
            requests: Vec::new(),
            trace_id: String::new(),
        }
    }

    /// Enters a phase; says whether that is a change.
    pub fn enter(&mut self, phase: Phase, now: Stamp) -> bool {
        if self.phase == phase {
            return false;
        }
        self.phase = phase;
        if let Some(last) = self.phases.last_mut() {
            last.end.get_or_insert(now);
        }
        if phase != Phase::Ended && self.phases.len() < PHASES {
            self.phases.push(PhaseSpan {
                phase,
                start: now,
                end: None,
            });
        }
        true
    }

    /// Ends it.
    pub fn finish(&mut self, outcome: Outcome, error: String, now: Stamp) {
        self.enter(Phase::Ended, now);
        self.outcome = Some(outcome);
        self.error = error;
        self.end = Some(now);
    }
}
