//! What happens to a probe on its way to the relay, as events. Pure.

use super::{Fate, Probe, Step, Submitted};
use crate::{clock::Stamp, names::RequestId};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A run of it begins although it is not new: its message still waits, or it was never submitted.
    RunAgain {
        /// The identity of the request for a cycle of this run.
        cycle_request: RequestId,
        /// Whether a cycle is asked for.
        dial: bool,
        /// When the relay said that its message waits; nothing if it was never submitted.
        waited: Option<Stamp>,
        /// Why the run ends here: its message waits for another next hop than the link.
        elsewhere: Option<String>,
    },
    /// The relay answered for it, and sends it elsewhere.
    SentElsewhere {
        /// What it answered.
        submitted: Submitted,
        /// Where to, for a person.
        error: String,
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
                waited,
                elsewhere,
            } => self.run_again(cycle_request, dial, waited, elsewhere),
            Progress::SentElsewhere { submitted, error } => {
                let words = format!("probe {} failed: {error}", self.id);
                self.submitted = Some(submitted);
                self.error = error;
                if self.is_open() {
                    self.fate = Fate::Failed;
                }
                words
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

    fn run_again(
        &mut self,
        cycle_request: RequestId,
        dial: bool,
        waited: Option<Stamp>,
        elsewhere: Option<String>,
    ) -> String {
        self.runs = self.runs.saturating_add(1);
        let words = format!("probe {} runs again, for the {}. time", self.id, self.runs);
        if waited.is_some() {
            self.waited = waited;
            self.cycle_request = cycle_request;
            self.step = if dial { Step::Cycle } else { Step::Done };
        }
        self.fate = match elsewhere {
            Some(_) => Fate::Failed,
            // What failed or was lost, and waits after all, is awaited again.
            None if self.may_wait() => Fate::Open,
            None => self.fate,
        };
        self.error = elsewhere.unwrap_or_default();
        if self.error.is_empty() {
            words
        } else {
            format!("{words}, and failed: {}", self.error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::MonitorName;

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

    fn again(waited: Option<Stamp>) -> Progress {
        Progress::RunAgain {
            cycle_request: RequestId::new(),
            dial: true,
            waited,
            elsewhere: None,
        }
    }

    fn elsewhere() -> Progress {
        Progress::RunAgain {
            cycle_request: RequestId::new(),
            dial: true,
            waited: Some(Stamp(8)),
            elsewhere: Some("x".into()),
        }
    }

    #[test]
    fn each_event_leads_to_the_next_step() {
        // What happened before, what happens, the step and the runs after it.
        let rows: [(&[Progress], Progress, Step, u32); 8] = [
            (&[], submitted(true), Step::Cycle, 1),
            (&[], submitted(false), Step::Done, 1),
            (&[], Progress::Tried("x".into()), Step::Submit, 1),
            (&[], again(None), Step::Submit, 2),
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
                again(Some(Stamp(8))),
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

    /// Its message waits in the relay, whatever its fate.
    #[test]
    fn what_waits_runs_again_and_is_open_once_it_goes_over_the_link() {
        let mut probe = probe();
        let Progress::Submitted { submitted, .. } = submitted(true) else {
            unreachable!();
        };
        let error = "x".to_owned();
        probe.apply(Progress::SentElsewhere { submitted, error });
        let rows = [
            (None, Fate::Failed, Step::Done, 1, "x"),
            (Some(elsewhere()), Fate::Failed, Step::Done, 2, "x"),
            (Some(again(Some(Stamp(9)))), Fate::Open, Step::Cycle, 3, ""),
            (Some(elsewhere()), Fate::Failed, Step::Done, 4, "x"),
        ];
        for (event, fate, step, runs, error) in rows {
            if let Some(event) = event {
                probe.apply(event);
            }
            let stands = (probe.fate, probe.step, probe.runs, probe.error.as_str());
            assert_eq!(stands, (fate, step, runs, error));
            assert!(probe.may_wait());
        }
        assert_eq!(probe.awaited_from(), Stamp(8));
    }
}
