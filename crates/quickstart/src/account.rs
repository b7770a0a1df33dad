//! The account of a run (pure): what was seen so far, whether it is complete, and what is missing if it is not.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// What a probe's report proved, from nothing to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Proof {
    /// Nothing.
    None,
    /// The way out.
    Outbound,
    /// The way out and back.
    RoundTrip,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NONE",
            Self::Outbound => "OUTBOUND",
            Self::RoundTrip => "ROUND_TRIP",
        })
    }
}

/// A cycle as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Cycle {
    /// `links/{link}/cycles/{cycle}`.
    pub name: String,
    /// How it ended; none while it runs.
    pub outcome: Option<Outcome>,
    /// Messages that went out.
    pub sent: u32,
    /// Messages that came in.
    pub received: u32,
    /// From its start to its end, in seconds; 0 while it runs.
    pub seconds: f64,
    /// 32 hex digits.
    pub trace_id: String,
}

/// How a cycle ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was done.
    Complete,
    /// A step failed, in words.
    Failed(String),
}

/// A probe as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// `monitors/{monitor}/probes/{probe}`.
    pub name: String,
    /// What its report proved so far.
    pub proof: Proof,
    /// Why no report will come, if so.
    pub failed: Option<String>,
    /// The cycle in which its report came, `links/{link}/cycles/{cycle}`; empty before.
    pub report_cycle: String,
    /// The trace in which its report came, 32 hex digits; empty before.
    pub report_trace_id: String,
}

/// One of the two messages that are to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the site to the world.
    Out,
    /// From the world to the site.
    In,
}

/// What `--once` says on standard output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Messages that the cycles sent.
    pub sent: u32,
    /// Messages that the cycles received.
    pub received: u32,
    /// The best that was proven.
    pub proof: Proof,
    /// The time of all cycles together, in seconds.
    pub cycle_seconds: f64,
    /// How many cycles ran.
    pub cycles: usize,
    /// The trace of the cycle in which the report arrived, else of the last cycle; 32 hex digits.
    pub trace_id: String,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Account {
    /// In the order in which they began: names grow with time.
    cycles: BTreeMap<String, Cycle>,
    probes: BTreeMap<String, Probe>,
    /// Whether each message arrived unchanged.
    arrived: BTreeMap<Way, bool>,
}

impl Account {
    /// Nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a cycle as it stands now.
    pub fn cycle(&mut self, cycle: Cycle) {
        self.cycles.insert(cycle.name.clone(), cycle);
    }

    /// Takes a probe as it stood a moment ago: a proof that is known already stays.
    pub fn probe(&mut self, probe: Probe) {
        let known = self.probes.get(&probe.name).map(|known| known.proof);
        if known.is_none_or(|known| known <= probe.proof) {
            self.probes.insert(probe.name.clone(), probe);
        }
    }

    /// Takes the arrival of a message, unchanged or not. It is no better for arriving once more.
    pub fn arrived(&mut self, way: Way, unchanged: bool) {
        let so_far = self.arrived.entry(way).or_insert(true);
        *so_far &= unchanged;
    }

    /// Whether a cycle runs.
    #[must_use]
    pub fn cycle_runs(&self) -> bool {
        self.cycles.values().any(|cycle| cycle.outcome.is_none())
    }

    /// Whether a cycle ended and something is still to come, which a further cycle may bring.
    #[must_use]
    pub fn wants_another_cycle(&self) -> bool {
        !self.cycles.is_empty() && !self.cycle_runs() && !self.is_over()
    }

    /// Whether there is nothing more to wait for: the messages are there, a probe has its fate, no cycle runs.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let fate = |probe: &Probe| probe.proof != Proof::None || probe.failed.is_some();
        self.arrived.len() == 2
            && self.probes.values().any(fate)
            && !self.cycles.is_empty()
            && !self.cycle_runs()
    }

    /// The best that was proven.
    #[must_use]
    pub fn proof(&self) -> Proof {
        let best = self.probes.values().map(|probe| probe.proof).max();
        best.unwrap_or(Proof::None)
    }

    /// What is missing for a complete run, each in words; nothing if it is complete.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (way, name) in [
            (Way::Out, "the message from the site to the world"),
            (Way::In, "the message from the world to the site"),
        ] {
            match self.arrived.get(&way) {
                Some(true) => {}
                Some(false) => missing.push(format!("{name} did not arrive as it was sent")),
                None => missing.push(format!("{name} did not arrive")),
            }
        }
        match self.proof() {
            Proof::RoundTrip => {}
            Proof::Outbound => missing.push(
                "the proof is OUTBOUND: the smart host refused the false user itself, so nothing showed that the way \
                 back works"
                    .to_owned(),
            ),
            Proof::None => missing.push("nothing is proven: the probe's report did not come".into()),
        }
        let failed = self
            .probes
            .values()
            .filter_map(|probe| probe.failed.as_ref());
        missing.extend(failed.map(|why| format!("a probe failed: {why}")));
        for cycle in self.cycles.values() {
            match &cycle.outcome {
                Some(Outcome::Complete) => {}
                Some(Outcome::Failed(why)) => missing.push(format!("a cycle ended {why}")),
                None => missing.push("a cycle did not end".to_owned()),
            }
        }
        if self.cycles.is_empty() {
            missing.push("no cycle ran".to_owned());
        }
        missing
    }

    /// All of it in one line.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let cycles = || self.cycles.values();
        // Not `sum`, which makes -0.0 of nothing.
        let seconds = cycles().fold(0.0, |sum, cycle| sum + cycle.seconds);
        Summary {
            sent: cycles().map(|cycle| cycle.sent).sum(),
            received: cycles().map(|cycle| cycle.received).sum(),
            proof: self.proof(),
            cycle_seconds: (seconds * 1000.0).round() / 1000.0,
            cycles: self.cycles.len(),
            trace_id: self.trace_id(),
        }
    }

    fn trace_id(&self) -> String {
        let best = self.probes.values().max_by_key(|probe| probe.proof);
        let best = best.filter(|probe| probe.proof != Proof::None);
        let by_cycle = best.and_then(|probe| self.cycles.get(&probe.report_cycle));
        let by_report = best.map(|probe| probe.report_trace_id.clone());
        by_cycle
            .map(|cycle| cycle.trace_id.clone())
            .or(by_report.filter(|trace| !trace.is_empty()))
            .or_else(|| {
                self.cycles
                    .values()
                    .next_back()
                    .map(|cycle| cycle.trace_id.clone())
            })
            .unwrap_or_else(|| "0".repeat(32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(number: u32, outcome: Option<Outcome>) -> Cycle {
        Cycle {
            name: format!("links/isp/cycles/{number}"),
            outcome,
            sent: 2,
            received: number,
            seconds: 0.5004,
            trace_id: format!("{number:032x}"),
        }
    }

    fn probe(proof: Proof, report_cycle: u32) -> Probe {
        Probe {
            name: "monitors/isp/probes/1".into(),
            proof,
            failed: None,
            report_cycle: format!("links/isp/cycles/{report_cycle}"),
            report_trace_id: format!("{:032x}", 0xff),
        }
    }

    fn complete() -> Account {
        let mut account = Account::new();
        account.cycle(cycle(1, Some(Outcome::Complete)));
        account.probe(probe(Proof::RoundTrip, 1));
        account.arrived(Way::Out, true);
        account.arrived(Way::In, true);
        account
    }

    #[test]
    fn a_run_is_over_when_all_is_there_and_no_cycle_runs() {
        let mut account = Account::new();
        account.cycle(cycle(1, None));
        account.arrived(Way::Out, true);
        account.arrived(Way::In, true);
        assert!(!account.is_over() && !account.wants_another_cycle());
        account.cycle(cycle(1, Some(Outcome::Complete)));
        assert!(!account.is_over() && account.wants_another_cycle());
        account.probe(probe(Proof::None, 1));
        assert!(!account.is_over());
        account.probe(probe(Proof::RoundTrip, 1));
        // An answer that was under way longer than the news.
        account.probe(probe(Proof::None, 1));
        assert!(account.is_over() && !account.wants_another_cycle());
        assert_eq!(account.missing(), Vec::<String>::new());
        account.cycle(cycle(2, None));
        assert!(!account.is_over());
    }

    #[test]
    fn each_thing_that_is_missing_is_said() {
        let said = Account::new().missing().join("; ");
        for words in [
            "to the world",
            "to the site",
            "nothing is proven",
            "no cycle",
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let mut account = complete();
        account.arrived(Way::In, false);
        account.cycle(cycle(2, Some(Outcome::Failed("line missing".into()))));
        account.probe(Probe {
            name: "monitors/isp/probes/2".into(),
            failed: Some("refused".into()),
            ..probe(Proof::None, 0)
        });
        let said = account.missing().join("; ");
        for words in ["as it was sent", "ended line missing", "failed: refused"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let mut account = Account::new();
        account.probe(probe(Proof::Outbound, 1));
        assert!(account.missing().join("; ").contains("OUTBOUND"));
    }

    #[test]
    fn the_summary_adds_up_and_names_the_trace_of_the_report() {
        let mut account = complete();
        account.cycle(cycle(3, Some(Outcome::Complete)));
        let json = serde_json::to_string(&account.summary()).unwrap();
        assert_eq!(
            json,
            "{\"sent\":4,\"received\":4,\"proof\":\"ROUND_TRIP\",\"cycle_seconds\":1.001,\"cycles\":2,\
             \"trace_id\":\"00000000000000000000000000000001\"}"
        );
    }

    #[test]
    fn without_a_proof_the_trace_is_that_of_the_last_cycle() {
        let trace = |account: &Account| account.summary().trace_id;
        let mut account = Account::new();
        assert!(account.summary().cycle_seconds.is_sign_positive());
        assert_eq!(trace(&account).len(), 32);
        account.cycle(cycle(1, Some(Outcome::Complete)));
        account.cycle(cycle(2, Some(Outcome::Complete)));
        account.probe(probe(Proof::None, 1));
        assert_eq!(trace(&account), format!("{:032x}", 2));
        // The report says its trace also when its cycle was not seen.
        account.probe(probe(Proof::Outbound, 9));
        assert_eq!(trace(&account), format!("{:032x}", 0xff));
    }
}
