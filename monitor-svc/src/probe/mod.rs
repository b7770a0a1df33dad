//! A probe: a test message and its fate. Pure, but for the random numbers of its identities.

pub mod compose;
mod progress;
pub mod token;

use crate::{
    clock::Stamp,
    names::{MonitorName, ProbeId, RequestId},
};

pub use progress::Progress;
pub use token::{Pattern, Token};

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Fate {
    /// On its way; its report is awaited.
    Open,
    /// Its report came in time.
    Returned,
    /// Its report came, later than it should.
    Late,
    /// No report came for seven days; none is awaited any more.
    Lost,
    /// The relay did not take it, gave it up, or sends it elsewhere. In the last case it is open again if that changes
    /// while its message waits.
    Failed,
}

impl Fate {
    /// The word for it in metrics and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Returned => "returned",
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}

/// What a report proves, the least first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Proof {
    /// Nothing.
    None,
    /// The way out works.
    Outbound,
    /// The way out and back works.
    RoundTrip,
}

impl Proof {
    /// The word for it in metrics and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Outbound => "outbound",
            Self::RoundTrip => "round_trip",
        }
    }
}

/// What is still to be done for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Step {
    /// It is to be submitted.
    Submit,
    /// A cycle is to be asked for.
    Cycle,
    /// Nothing.
    Done,
}

/// That the relay answered for a probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Submitted {
    /// `messages/{id}`.
    pub message: String,
    /// When, by the relay's clock.
    pub accepted: Stamp,
    /// When, by ours.
    pub at: Stamp,
}

/// What came back for a probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Returned {
    /// `reports/{report}`.
    pub name: String,
    /// When it reached the relay, by the relay's clock.
    pub accepted: Stamp,
    /// `links/{link}/cycles/{cycle}`; empty: it came during none.
    pub cycle: String,
    /// W3C `traceparent` of the span in which it came.
    pub traceparent: String,
    /// Who wrote it, as it says itself.
    pub reporting_mta: String,
    /// RFC 3464 2.3.4.
    pub status: String,
}

/// A probe, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// Its identity.
    pub id: ProbeId,
    /// Whose it is.
    pub monitor: MonitorName,
    /// By which its report is known.
    pub token: Token,
    /// What became of it.
    pub fate: Fate,
    /// What its report proved.
    pub proof: Proof,
    /// What is still to be done.
    pub step: Step,
    /// When it was made.
    pub created: Stamp,
    /// The relay's answer.
    pub submitted: Option<Submitted>,
    /// Its report.
    pub returned: Option<Returned>,
    /// From the relay's answer to the report, milliseconds by the relay's clock.
    pub round_trip_ms: Option<u64>,
    /// How often a cycle was asked for, or would have been.
    pub runs: u32,
    /// The identity of its submission.
    pub submit_request: RequestId,
    /// The identity of its newest request for a cycle.
    pub cycle_request: RequestId,
    /// The cycle that it last started or found running; empty: none.
    pub cycle: String,
    /// What the last try failed with; empty: nothing.
    pub error: String,
    /// W3C `traceparent` of its submission.
    pub traceparent: String,
    /// When the relay last said, at the start of a run, that its message still waits; by our clock.
    #[serde(default)]
    pub waited: Option<Stamp>,
}

impl Probe {
    /// A new probe that is to be submitted. `traceparent` is that of its submission.
    #[must_use]
    pub fn new(monitor: MonitorName, traceparent: String, now: Stamp) -> Self {
        Self {
            id: ProbeId::new(),
            monitor,
            token: Token::random(),
            fate: Fate::Open,
            proof: Proof::None,
            step: Step::Submit,
            created: now,
            submitted: None,
            returned: None,
            round_trip_ms: None,
            runs: 1,
            submit_request: RequestId::new(),
            cycle_request: RequestId::new(),
            cycle: String::new(),
            error: String::new(),
            traceparent,
            waited: None,
        }
    }

    /// Whether its message may wait in the relay: nothing came back for it.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.submitted.is_some() && self.returned.is_none()
    }

    /// Since when its report can be missing: as long as its message waits, none can come.
    #[must_use]
    pub fn awaited_from(&self) -> Stamp {
        self.waited.unwrap_or(self.created)
    }

    /// The wall clock may have been set back while the monitor did not run: nothing of our clock lies in the future.
    #[must_use]
    pub fn not_beyond(mut self, now: Stamp) -> Self {
        self.created = self.created.min(now);
        self.waited = self.waited.map(|waited| waited.min(now));
        if let Some(submitted) = &mut self.submitted {
            submitted.at = submitted.at.min(now);
        }
        self
    }

    /// Whether its report is awaited.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.fate == Fate::Open
    }

    /// When it went out, for people: the relay's answer, or its making while there is none.
    #[must_use]
    pub fn start(&self) -> Stamp {
        self.submitted
            .as_ref()
            .map_or(self.created, |submitted| submitted.accepted)
    }

    /// Ends it with what its report proved. `late_after` is how long a report may take.
    pub fn close(&mut self, proof: Proof, returned: Returned, late_after: std::time::Duration) {
        let round_trip = returned.accepted.since(self.start());
        self.fate = match proof {
            Proof::None => Fate::Failed,
            _ if round_trip > late_after => Fate::Late,
            _ => Fate::Returned,
        };
        self.proof = proof;
        self.round_trip_ms = Some(u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX));
        self.returned = Some(returned);
        self.step = Step::Done;
    }
}
