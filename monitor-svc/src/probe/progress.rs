//! What happens to a probe on its way to the relay, as events. Pure.

use super::{Fate, Probe, Step, Submitted};
use crate::names::RequestId;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A run of it begins although it is not new: its message still waits, or it was never submitted.
    RunAgain {
        /// The identity of the request for a cycle of this run.
        cycle_request: RequestId,
        /// Whether a cycle is asked for.
        dial: bool,
    },
    /// The relay answered for it.
    Submitted {
        /// What it answered.
        submitted: Submitted,
        /// Whether a cycle is to be asked for.
        dial: bool,
    },
    /// A cycle was started for it.
    CycleStarted(String),
    /// A cycle was running: its end is awaited, then one may be asked for again.
    CycleFound(String),
    /// No cycle is needed any more.
    Taken,
    /// A try failed, and is made again.
    Tried(String),
    /// No cycle could be had; no further one is asked for in this run.
    NoCycle(String),
    /// The relay refuses it.
    Refused(String),
}

impl Probe {
    /// Applies an event. Gives what happened in words; nothing if nothing changed.
    pub fn apply(&mut self, progress: Progress) -> Option<String> {
        let before = self.clone();
        let words = match progress {
            Progress::RunAgain {
                cycle_request,
                dial,
            } => {
                self.runs = self.runs.saturating_add(1);
                self.error.clear();
                if self.submitted.is_some() {
                    self.cycle_request = cycle_request;
                    self.step = if dial { Step::Cycle } else { Step::Done };
                }
                format!("probe {} runs again, for the {}. time", self.id, self.runs)
            }
            Progress::Submitted { submitted, dial } => {
                let words = format!("probe {} submitted: {}", self.id, submitted.message);
                self.submitted = Some(submitted);
                self.error.clear();
                self.step = if dial { Step::Cycle } else { Step::Done };
                words
            }
            Progress::CycleStarted(cycle) => {
                let words = format!("probe {}: {cycle} started", self.id);
                self.cycle = cycle;
                self.error.clear();
                self.step = Step::Done;
                words
            }
            Progress::CycleFound(cycle) => {
                let words = format!("probe {}: {cycle} is running", self.id);
                self.cycle = cycle;
                self.error.clear();
                words
            }
            Progress::Taken => {
                self.step = Step::Done;
                format!("probe {} is on its way", self.id)
            }
            Progress::Tried(error) => {
                let words = format!("probe {}: {error}", self.id);
                self.error = error;
                words
            }
            Progress::NoCycle(error) => {
                let words = format!("probe {}: {error}", self.id);
                self.error = error;
                self.step = Step::Done;
                words
            }
            Progress::Refused(error) => {
                let words = format!("probe {} failed: {error}", self.id);
                self.error = error;
                if self.is_open() {
                    self.fate = Fate::Failed;
                }
                words
            }
        };
        // Its report may have been quicker than the relay's answer: there is nothing more to do for it then.
        if !self.is_open() {
            self.step = Step::Done;
        }
        (*self != before).then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Stamp, names::MonitorName};

    fn probe() -> Probe {
        let monitor = MonitorName::parse("m").unwrap();
        Probe::new(monitor, String::new(), Stamp(0))
    }

    fn submitted(dial: bool) -> Progress {
        Progress::Submitted {
            submitted: Submitted {
                message: "messages/1".into(),
                accepted: Stamp(5),
                at: Stamp(6),
            },
            dial,
        }
    }

    fn again() -> Progress {
        Progress::RunAgain {
            cycle_request: RequestId::new(),
            dial: true,
        }
    }

    #[test]
    fn each_event_leads_to_the_next_step() {
        // What happened before, what happens, the step and the runs after it.
        let rows: [(&[Progress], Progress, Step, u32); 8] = [
            (&[], submitted(true), Step::Cycle, 1),
            (&[], submitted(false), Step::Done, 1),
            (&[], Progress::Tried("x".into()), Step::Submit, 1),
            (&[], again(), Step::Submit, 2),
            (
                &[submitted(true)],
                Progress::CycleStarted("c".into()),
                Step::Done,
                1,
            ),
            (
                &[submitted(true)],
                Progress::CycleFound("c".into()),
                Step::Cycle,
                1,
            ),
            (
                &[submitted(true), Progress::NoCycle("x".into())],
                again(),
                Step::Cycle,
                2,
            ),
            (
                &[submitted(true)],
                Progress::Tried("x".into()),
                Step::Cycle,
                1,
            ),
        ];
        for (number, (before, event, step, runs)) in rows.into_iter().enumerate() {
            let mut probe = probe();
            for event in before {
                probe.apply(event.clone());
            }
            assert!(probe.apply(event).is_some(), "row {number}");
            assert_eq!((probe.step, probe.runs), (step, runs), "row {number}");
        }
    }

    #[test]
    fn what_changes_nothing_is_not_told() {
        let mut probe = probe();
        assert!(probe.apply(Progress::Tried("x".into())).is_some());
        assert!(probe.apply(Progress::Tried("x".into())).is_none());
    }

    #[test]
    fn a_probe_that_is_closed_has_nothing_left_to_do() {
        for late in [submitted(true), Progress::Refused("x".into())] {
            let mut probe = probe();
            probe.fate = Fate::Returned;
            probe.apply(late);
            assert_eq!((probe.step, probe.fate), (Step::Done, Fate::Returned));
        }
    }
}
