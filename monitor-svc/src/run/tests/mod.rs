//! The parts together, in a simulated world and paused time. A day takes a second.

use std::{path::Path, sync::Arc, time::Duration};

use linkmail_smtp::Mailbox;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock::Stamp,
    config::Monitor,
    judge::Thresholds,
    ledger::LedgerError,
    names::{LinkName, MonitorName},
    probe::{Pattern, Probe, Proof},
    standing::Standing,
    world::{People, Steps, World},
};

mod crash;
mod day;
mod relay;
mod reports;

const MINUTE: Duration = Duration::from_secs(60);
const START: Stamp = Stamp(1_795_458_600_000);

fn monitor() -> Monitor {
    Monitor {
        name: MonitorName::parse("branch").unwrap(),
        link: LinkName::parse("isp").unwrap(),
        recipient: Mailbox::parse(b"no-such-user@isp.example").unwrap(),
        reverse_path: Pattern::parse("probe-*@branch.example").unwrap(),
        thresholds: Thresholds {
            warn_after: 30 * MINUTE,
            alert_after: 60 * MINUTE,
            interval: 15 * MINUTE,
            interval_unwell: 5 * MINUTE,
        },
        late_after: 30 * MINUTE,
        wanted: Proof::RoundTrip,
        dial: true,
    }
}

/// The world, the people in it, and a state folder; processes come and go.
struct Scene {
    world: World,
    people: People,
    folder: tempfile::TempDir,
    monitor: Arc<Monitor>,
}

/// A running process.
struct Process {
    ledger: Ledger,
    desk: Desk,
    parts: JoinSet<()>,
}

impl Scene {
    fn new(monitor: Monitor) -> Self {
        let clock = Clock::starting_at(START);
        Self {
            world: World::new(clock),
            people: People::new(clock),
            folder: tempfile::tempdir().unwrap(),
            monitor: Arc::new(monitor),
        }
    }

    async fn start(&self) -> Process {
        self.start_counted(Steps::default()).await.unwrap()
    }

    /// `None`: it died before it was up.
    async fn start_counted(&self, steps: Steps) -> Option<Process> {
        let ledger = open(self.folder.path(), &steps).await;
        let names = vec![self.monitor.name.clone()];
        let up = ledger.enrol(names, self.world.clock.now());
        tokio::select! {
            enrolled = up => enrolled.unwrap(),
            () = steps.death() => return None,
        }
        let shared = Shared {
            ledger: ledger.clone(),
            relay: self.world.seen_by(steps.clone()),
            clock: self.world.clock,
            instruments: Instruments::new(&opentelemetry::global::meter("test")),
            gauges: Gauges::default(),
        };
        let monitors = vec![Arc::clone(&self.monitor)];
        let (desk, seats) = Desk::new(&monitors);
        let (mut parts, never) = (JoinSet::new(), CancellationToken::new());
        for seat in seats {
            parts.spawn(Keeper::new(shared.clone(), seat).run(never.clone()));
        }
        parts.spawn(Reader::new(shared.clone(), monitors).run(never.clone()));
        let notifier = Notifier {
            ledger: ledger.clone(),
            clock: self.world.clock,
            channel: self.people.reached_by(steps),
            instruments: shared.instruments,
        };
        parts.spawn(notifier.run(never));
        Some(Process {
            ledger,
            desk,
            parts,
        })
    }

    /// Lets time pass until so many minutes after the start of the world.
    async fn until(&self, minutes: f64) {
        self.world.clock.sleep_until(self.world.at(minutes)).await;
    }

    /// Minutes after the start of the world.
    fn minutes(&self, stamp: Stamp) -> f64 {
        stamp.since(START).as_secs_f64() / 60.0
    }
}

/// Opens the ledger as soon as the process before is gone: what it was writing ends first.
async fn open(folder: &Path, steps: &Steps) -> Ledger {
    loop {
        match Ledger::open_in(folder, steps.clone()) {
            Err(LedgerError::InUse { .. }) => {
                tokio::task::spawn_blocking(std::thread::yield_now)
                    .await
                    .unwrap();
            }
            opened => return opened.unwrap(),
        }
    }
}

impl Process {
    /// Ends it as a crash does.
    async fn kill(mut self) {
        self.parts.abort_all();
        while self.parts.join_next().await.is_some() {}
    }

    async fn standing(&self) -> Standing {
        let name = MonitorName::parse("branch").unwrap();
        self.ledger.standing(name).await.unwrap().0
    }

    /// The probes, oldest first.
    async fn probes(&self) -> Vec<Probe> {
        let mut probes = self.ledger.probes(None, i64::MAX, 1000).await.unwrap();
        probes.reverse();
        probes.into_iter().map(|(_, probe)| probe).collect()
    }

    async fn run_probe(&self) -> Probe {
        let name = MonitorName::parse("branch").unwrap();
        self.desk.run(&name, None).await.unwrap().unwrap()
    }
}

/// The states that people were told of.
fn states(notices: &[Value]) -> Vec<(&str, &str)> {
    notices
        .iter()
        .map(|notice| {
            (
                notice["previous_state"].as_str().unwrap(),
                notice["state"].as_str().unwrap(),
            )
        })
        .collect()
}
