//! A monitor in the world: processes come and go, the state folder stays.

use std::{path::Path, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{People, Steps, World};
use crate::{
    clock::{Clock, Stamp},
    config::Monitor,
    ledger::{Ledger, LedgerError},
    names::MonitorName,
    probe::Probe,
    run::{Desk, Keeper, Notifier, Reader, Shared},
    standing::Standing,
    telemetry::{Gauges, Instruments},
};

/// When each world begins.
pub(crate) const START: Stamp = Stamp(1_795_458_600_000);

/// The world, the people in it, and a state folder; processes come and go.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) people: People,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) monitors: Vec<Arc<Monitor>>,
}

/// A running process.
pub(crate) struct Process {
    pub(crate) ledger: Ledger,
    pub(crate) desk: Desk,
    pub(crate) gauges: Gauges,
    parts: JoinSet<()>,
}

impl Scene {
    pub(crate) fn new(monitor: Monitor) -> Self {
        Self::of(vec![monitor])
    }

    pub(crate) fn of(monitors: Vec<Monitor>) -> Self {
        let clock = Clock::starting_at(START);
        Self {
            world: World::new(clock),
            people: People::new(clock),
            folder: tempfile::tempdir().unwrap(),
            monitors: monitors.into_iter().map(Arc::new).collect(),
        }
    }

    pub(crate) async fn start(&self) -> Process {
        self.start_counted(Steps::default()).await.unwrap()
    }

    /// `None`: it died before it was up.
    pub(crate) async fn start_counted(&self, steps: Steps) -> Option<Process> {
        let ledger = open(self.folder.path(), &steps).await;
        let names = self.monitors.iter().map(|monitor| monitor.name.clone());
        let up = ledger.enrol(names.collect(), self.world.clock.now());
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
        let (desk, seats) = Desk::new(&self.monitors);
        let (mut parts, never) = (JoinSet::new(), CancellationToken::new());
        for seat in seats {
            parts.spawn(Keeper::new(shared.clone(), seat).run(never.clone()));
        }
        parts.spawn(Reader::new(shared.clone(), self.monitors.clone()).run(never.clone()));
        let notifier = Notifier {
            ledger: ledger.clone(),
            clock: self.world.clock,
            channel: self.people.reached_by(steps),
            instruments: shared.instruments,
            gauges: shared.gauges.clone(),
        };
        parts.spawn(notifier.run(never));
        Some(Process {
            gauges: shared.gauges,
            ledger,
            desk,
            parts,
        })
    }

    /// Lets time pass until so many minutes after the start of the world.
    pub(crate) async fn until(&self, minutes: f64) {
        self.world.clock.sleep_until(self.world.at(minutes)).await;
    }

    /// Minutes after the start of the world.
    pub(crate) fn minutes(&self, stamp: Stamp) -> f64 {
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
    pub(crate) async fn kill(mut self) {
        self.parts.abort_all();
        while self.parts.join_next().await.is_some() {}
    }

    pub(crate) async fn standing(&self) -> Standing {
        let name = MonitorName::parse("branch").unwrap();
        self.ledger.standing(name).await.unwrap().0
    }

    /// The probes, oldest first.
    pub(crate) async fn probes(&self) -> Vec<Probe> {
        let mut probes = self.ledger.probes(None, i64::MAX, 1000).await.unwrap();
        probes.reverse();
        probes.into_iter().map(|(_, probe)| probe).collect()
    }

    pub(crate) async fn run_probe(&self) -> Probe {
        let name = MonitorName::parse("branch").unwrap();
        self.desk.run(&name, None).await.unwrap().unwrap()
    }
}
