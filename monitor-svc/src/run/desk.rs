//! Where others ask for a probe, and find the monitors.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    config::Monitor,
    ledger::{LedgerError, RequestKey},
    names::MonitorName,
    probe::Probe,
};

/// So many calls wait at once for a probe of one monitor; one more is refused.
pub(super) const CALLS: usize = 64;

/// Why no probe ran.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The ledger could not record it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// As many wait already as may.
    #[error("too many calls wait for a probe of this monitor")]
    TooMany,
    /// The monitor is stopping.
    #[error("the monitor is stopping")]
    Stopping,
}

/// Whom a keeper answers.
pub(super) type Answer = oneshot::Sender<Result<Probe, RunError>>;

/// Somebody asks for a probe.
pub(super) struct RunRequest {
    pub(super) key: Option<RequestKey>,
    pub(super) answer: Answer,
}

/// A keeper's end of the desk.
pub(super) type Requests = mpsc::Receiver<RunRequest>;

/// The monitors, and the way to their keepers. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    places: Arc<BTreeMap<MonitorName, Place>>,
}

struct Place {
    monitor: Arc<Monitor>,
    requests: mpsc::Sender<RunRequest>,
    calls: Semaphore,
}

/// What a keeper is made from.
pub struct Seat {
    pub(super) monitor: Arc<Monitor>,
    pub(super) requests: Requests,
}

impl Desk {
    /// A desk for these monitors, and a seat for the keeper of each.
    #[must_use]
    pub fn new(monitors: &[Arc<Monitor>]) -> (Self, Vec<Seat>) {
        let (mut places, mut seats) = (BTreeMap::new(), Vec::new());
        for monitor in monitors {
            let (sender, requests) = mpsc::channel(CALLS);
            let place = Place {
                monitor: Arc::clone(monitor),
                requests: sender,
                calls: Semaphore::new(CALLS),
            };
            places.insert(monitor.name.clone(), place);
            seats.push(Seat {
                monitor: Arc::clone(monitor),
                requests,
            });
        }
        let places = Arc::new(places);
        (Self { places }, seats)
    }

    /// One monitor's configuration.
    #[must_use]
    pub fn monitor(&self, name: &MonitorName) -> Option<&Arc<Monitor>> {
        self.places.get(name).map(|place| &place.monitor)
    }

    /// All of them, by name.
    pub fn monitors(&self) -> impl Iterator<Item = &Arc<Monitor>> {
        self.places.values().map(|place| &place.monitor)
    }

    /// Runs a probe of a monitor; `None`: there is no such monitor. Answers once the relay has answered for it, or it
    /// failed, or the try at it failed.
    pub async fn run(
        &self,
        name: &MonitorName,
        key: Option<RequestKey>,
    ) -> Option<Result<Probe, RunError>> {
        let place = self.places.get(name)?;
        // Given back when the call ends, also when it is cancelled.
        let Ok(_call) = place.calls.try_acquire() else {
            return Some(Err(RunError::TooMany));
        };
        let (answer, answered) = oneshot::channel();
        if place
            .requests
            .send(RunRequest { key, answer })
            .await
            .is_err()
        {
            return Some(Err(RunError::Stopping));
        }
        Some(answered.await.unwrap_or(Err(RunError::Stopping)))
    }
}
