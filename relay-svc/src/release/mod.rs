//! At a provider: sends held mail once its site has asked for it, and gives up what was held for too long.
//!
//! A request lies in the spool (`spool::nodes`). This part takes turns at the open ones: each node once at a time, each
//! host a few at a time (`hosts`, pure), each turn bounded (`turn`), so that no site keeps others waiting. A turn sends what
//! is asked for to the host of the node's route, over as many sessions as that justifies and the route allows; what is left
//! of it goes on in the next turn (`work`). It tells the spool that a request is over when every message was tried,
//! or when the site could not be reached for ten minutes: then the mail stays held, and the site asks again. A request
//! that comes meanwhile stays open behind the one that runs.
//!
//! Memory: a few hundred octets for each node that is remembered, a thousand for each host of a route, and what the
//! sessions of the turns need.
//!
//! Must not touch: links, cycles, inbound sessions. A site behind a line that it dials itself is there when it asks.

mod expiry;
mod hosts;
mod turn;
mod work;

use std::{collections::HashMap, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    names::{HostPort, Node},
    outbound::{Forwarder, InHand},
};
use expiry::Expiry;
use hosts::{Begun, End, Hosts};
use turn::{Place, Turn};

/// So many open requests are looked at in one go.
const PAGE: u32 = 1000;
/// Requests that no hint told of, such as those of the process before, are looked for so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The wait before the spool is asked again that could not be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(10);

/// Releases until cancelled; what is under way then goes on after the next start.
pub async fn run(forwarder: Forwarder, cancel: CancellationToken) {
    let (held, in_hand) = (forwarder.of_held(), forwarder.in_hand.clone());
    let mut expiry = Expiry::new(&held, in_hand.clone());
    let mut releases = Releases::new(held, in_hand, cancel);
    while !releases.cancel.is_cancelled() {
        expiry.sweep(&releases.held).await;
        releases.look().await;
        releases.begin();
        let pause = releases.hosts.wake_at();
        let wake = releases.looked.1.min(expiry.at());
        let wake = pause.map_or(wake, |until| until.min(wake));
        let spool = releases.held.spool.clone();
        tokio::select! {
            () = releases.cancel.cancelled() => break,
            asked = spool.asked() => asked.into_iter().for_each(|node| releases.asked(node)),
            Some(ended) = releases.running.join_next_with_id() => releases.ended(ended),
            () = sleep_until(wake) => {}
        }
    }
    while releases.running.join_next().await.is_some() {}
}

/// The turns that are taken, and what they are taken of.
struct Releases {
    held: Forwarder,
    in_hand: InHand,
    cancel: CancellationToken,
    hosts: Hosts,
    running: JoinSet<Turn>,
    /// By task, so that a node is known however its turn ends.
    turns: HashMap<Id, (HostPort, Node)>,
    /// The place in the list of open requests up to which they were looked at, and when that goes on.
    looked: (i64, Instant),
}

impl Releases {
    fn new(held: Forwarder, in_hand: InHand, cancel: CancellationToken) -> Self {
        Self {
            held,
            in_hand,
            cancel,
            hosts: Hosts::default(),
            running: JoinSet::new(),
            turns: HashMap::new(),
            looked: (0, Instant::now()),
        }
    }

    /// Where a node's mail goes, and over how many connections at most. One whose route has gone has a turn too, to have
    /// its request ended.
    fn host_of(&self, node: &Node) -> (HostPort, usize) {
        let routes = &self.held.policy.routes;
        let known = routes.hold_of(node).map(|hold| {
            let of_host = routes
                .holds()
                .filter(|one| one.release_to == hold.release_to);
            let most = of_host.map(|one| one.connections).min();
            (hold.release_to.clone(), most.unwrap_or(hold.connections))
        });
        known.unwrap_or_else(|| (HostPort::nowhere(), 1))
    }

    fn asked(&mut self, node: Node) {
        let (host, most) = self.host_of(&node);
        self.hosts.asked(&host, most, node);
    }

    /// Begins turns as far as there is room.
    fn begin(&mut self) {
        while let Some(begun) = self.hosts.begin(Instant::now()) {
            let Begun {
                host,
                node,
                work,
                connections,
            } = begun;
            let place = Place {
                held: self.held.clone(),
                in_hand: self.in_hand.clone(),
                node: node.clone(),
                connections,
                cancel: self.cancel.clone(),
            };
            self.turns
                .insert(self.running.spawn(place.take(work)).id(), (host, node));
        }
    }

    /// Finds open requests that nobody told of, a page at a time.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.looked.1 > now {
            return;
        }
        match self.held.spool.open_releases(self.looked.0, PAGE).await {
            Ok((found, next)) => {
                self.looked = match next {
                    Some(place) => (place, now),
                    None => (0, now + LOOK_AGAIN),
                };
                for node in found {
                    let (host, most) = self.host_of(&node);
                    self.hosts.found(&host, most, node);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the requests for releases cannot be read");
                self.looked.1 = now + SPOOL_PAUSE;
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, Turn), JoinError>) {
        let (id, result) = match ended {
            Ok((id, turn)) => (id, Ok(turn)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some((host, node)) = self.turns.remove(&id) else {
            return;
        };
        let end = match result {
            Ok(Turn::Over | Turn::Stopped) => End::Over,
            Ok(Turn::Stretched(work)) => End::GoesOn(work),
            Ok(Turn::NotReached(mut work)) => {
                let until = Instant::now() + work.pause();
                End::Pause(Some(work), until)
            }
            Ok(Turn::Elsewhere(work)) => End::Pause(work, Instant::now() + SPOOL_PAUSE),
            Ok(Turn::Failed(work, error)) => {
                tracing::error!(%node, %error, "a release could not go on");
                End::Pause(work, Instant::now() + SPOOL_PAUSE)
            }
            Err(error) => {
                tracing::error!(%node, %error, "a release ended by a defect of its own; its node waits for the next start");
                End::Broken
            }
        };
        if self.hosts.ended(&host, node, end) {
            // What did not fit before is found from the first place on.
            self.looked = (0, Instant::now());
        }
    }
}
