//! Where the rest of the program sees the links and asks for cycles.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry::trace::SpanContext;
use tokio::sync::{mpsc, oneshot};

use super::{Record, Trigger};
use crate::{
    clock::Stamp,
    config::Link,
    link::LinkState,
    names::{CycleId, LinkName},
    spool::{RequestKey, SpoolError},
};

/// Requests that wait for a keeper; it answers at once, so few ever do.
const WAITING: usize = 16;

/// A link as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Another replica keeps the link.
    #[error("another replica keeps this link now")]
    Elsewhere,
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
    pub(super) answer: oneshot::Sender<Result<Record, RunError>>,
}

/// What the keeper of a link starts with: the link, and the end at which it takes requests.
pub type Post = (Arc<Link>, mpsc::Receiver<RunRequest>);

struct Place {
    link: Arc<Link>,
    view: Mutex<LinkView>,
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
                view: Mutex::new(view),
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
        let place = self.places.get(name)?;
        let (answer, answered) = oneshot::channel();
        if place
            .requests
            .send(RunRequest {
                trigger,
                request,
                caller,
                answer,
            })
            .await
            .is_err()
        {
            return Some(Err(RunError::Stopping));
        }
        Some(answered.await.unwrap_or(Err(RunError::Stopping)))
    }

    /// The line of a link changed its state.
    pub(super) fn set_state(&self, name: &LinkName, state: LinkState) {
        if let Some(place) = self.places.get(name) {
            let mut view = place.view.lock().unwrap_or_else(PoisonError::into_inner);
            if view.state == state {
                return;
            }
            debug_assert!(
                view.state.can_become(state),
                "{:?} cannot become {state:?}",
                view.state
            );
            tracing::info!(link = %name, from = view.state.as_str(), to = state.as_str(), "link state changed");
            view.state = state;
            view.since = Stamp::now();
        }
    }

    pub(super) fn set_next(&self, name: &LinkName, next: Option<Stamp>) {
        if let Some(place) = self.places.get(name) {
            place
                .view
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next = next;
        }
    }
}

impl Place {
    fn view(&self) -> LinkView {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
