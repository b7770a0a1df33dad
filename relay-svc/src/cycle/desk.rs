//! Where the rest of the program sees the links and asks for cycles.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use opentelemetry::trace::SpanContext;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Record, Trigger};
use crate::{
    clock::Stamp,
    config::Link,
    link::LinkState,
    names::{CycleId, LinkName},
    spool::{CallId, RequestKey, SpoolError},
};

/// Requests that wait for a keeper; it answers at once, so few ever do.
const WAITING: usize = 16;

/// A link as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkView {
    /// Its line.
    pub state: LinkState,
    /// Since when.
    pub since: Stamp,
    /// When the next cycle starts by schedule, or may start after a pause.
    pub next: Option<Stamp>,
}

/// A cycle is running already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy(pub CycleId);

/// Why no cycle was started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// One is running.
    #[error("a cycle is running")]
    Busy(Busy),
    /// Another replica keeps the link, and did not answer.
    #[error("another replica keeps this link, and did not take the call; no cycle begins by it")]
    Elsewhere,
    /// Another replica keeps the link, and could not keep the cycle.
    #[error("the replica that keeps this link could not start a cycle: {0}")]
    Failed(String),
    /// The spool could not keep it.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
}

/// A call for a cycle.
pub struct RunRequest {
    /// What the cycle is for: a call, or a probe.
    pub trigger: Trigger,
    /// The identity of the call.
    pub request: Option<RequestKey>,
    /// The span of the call; the cycle's own span is linked to it.
    pub caller: SpanContext,
    /// The call as another replica handed it on.
    pub(super) call: Option<CallId>,
    pub(super) answer: oneshot::Sender<Result<Record, RunError>>,
}

/// What the keeper of a link starts with: the link, and the end at which it takes requests.
pub type Post = (Arc<Link>, mpsc::Receiver<RunRequest>);

struct Place {
    link: Arc<Link>,
    view: watch::Sender<LinkView>,
    /// Whether its keeper is at work in this process.
    kept: AtomicBool,
    requests: mpsc::Sender<RunRequest>,
}

/// The links of this process. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    places: Arc<BTreeMap<LinkName, Place>>,
}

impl Desk {
    /// A desk for these links, with the ends at which their keepers take requests.
    #[must_use]
    pub fn new(links: &[Link]) -> (Self, Vec<Post>) {
        let mut places = BTreeMap::new();
        let mut keepers = Vec::new();
        for link in links {
            let (requests, taken) = mpsc::channel(WAITING);
            let link = Arc::new(link.clone());
            let view = LinkView {
                state: LinkState::Down,
                since: Stamp::now(),
                next: None,
            };
            let place = Place {
                link: Arc::clone(&link),
                view: watch::Sender::new(view),
                kept: AtomicBool::new(false),
                requests,
            };
            places.insert(link.name.clone(), place);
            keepers.push((link, taken));
        }
        (
            Self {
                places: Arc::new(places),
            },
            keepers,
        )
    }

    /// The links, by name.
    #[must_use]
    pub fn links(&self) -> Vec<(Arc<Link>, LinkView)> {
        self.places
            .values()
            .map(|place| (Arc::clone(&place.link), place.view()))
            .collect()
    }

    /// One link.
    #[must_use]
    pub fn link(&self, name: &LinkName) -> Option<(Arc<Link>, LinkView)> {
        self.places
            .get(name)
            .map(|place| (Arc::clone(&place.link), place.view()))
    }

    /// Asks for a cycle now; answers as it begins. `None`: there is no such link.
    ///
    /// # Errors
    /// One is running, it could not be kept, or the relay is stopping.
    pub async fn run(
        &self,
        name: &LinkName,
        trigger: Trigger,
        request: Option<RequestKey>,
        caller: SpanContext,
    ) -> Option<Result<Record, RunError>> {
        let (answer, answered) = oneshot::channel();
        let asked = RunRequest {
            trigger,
            request,
            caller,
            call: None,
            answer,
        };
        self.ask(name, asked, answered).await
    }

    /// The same, of a call that may have been handed on.
    pub(super) async fn ask(
        &self,
        name: &LinkName,
        request: RunRequest,
        answered: oneshot::Receiver<Result<Record, RunError>>,
    ) -> Option<Result<Record, RunError>> {
        let place = self.places.get(name)?;
        if place.requests.send(request).await.is_err() {
            return Some(Err(RunError::Stopping));
        }
        Some(answered.await.unwrap_or(Err(RunError::Stopping)))
    }

    /// Whether the keeper of a link is at work in this process: what it sees here is how the link stands.
    #[must_use]
    pub fn keeps(&self, name: &LinkName) -> bool {
        let place = self.places.get(name);
        place.is_some_and(|place| place.kept.load(Ordering::Relaxed))
    }

    pub(super) fn set_kept(&self, name: &LinkName, kept: bool) {
        if let Some(place) = self.places.get(name) {
            place.kept.store(kept, Ordering::Relaxed);
        }
    }

    /// How a link stands here, from now on.
    pub(super) fn watch(&self, name: &LinkName) -> Option<watch::Receiver<LinkView>> {
        self.places.get(name).map(|place| place.view.subscribe())
    }

    /// The line of a link changed its state.
    pub(super) fn set_state(&self, name: &LinkName, state: LinkState) {
        let Some(place) = self.places.get(name) else {
            return;
        };
        place.view.send_if_modified(|view| {
            if view.state == state {
                return false;
            }
            debug_assert!(
                view.state.can_become(state),
                "{:?} cannot become {state:?}",
                view.state
            );
            tracing::info!(link = %name, from = view.state.as_str(), to = state.as_str(), "link state changed");
            view.state = state;
            view.since = Stamp::now();
            true
        });
    }

    pub(super) fn set_next(&self, name: &LinkName, next: Option<Stamp>) {
        if let Some(place) = self.places.get(name) {
            place.view.send_modify(|view| view.next = next);
        }
    }
}

impl Place {
    fn view(&self) -> LinkView {
        *self.view.borrow()
    }
}
