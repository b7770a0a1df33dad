//! At a provider: sends held mail once its site has asked for it, and gives up what was held for too long.
//!
//! A request lies in the spool (`spool::nodes`). This part takes turns at the open ones: so many nodes at once, each node
//! once at a time, each turn bounded in time, so that a site with much mail or a slow line does not keep others waiting. A
//! turn sends what is asked for to the host of the node's route. It tells the spool that a request is over when every
//! message was tried, or when the site could not be reached for ten minutes: then the mail stays held, and the site asks
//! again. A request that comes meanwhile stays open behind the one that runs.
//!
//! Memory: a few hundred octets for each site that asked and is not done, and what 256 sessions need.
//!
//! Must not touch: links, cycles, inbound sessions. A site behind a line that it dials itself is there when it asks.

mod expiry;
mod turn;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{names::Node, outbound::Forwarder, spool::SpoolError};
use expiry::Expiry;
use turn::{Turn, Work};

/// So many turns are taken at once.
const AT_ONCE: usize = 256;
/// So many nodes are looked up at once, and may wait for a turn that nobody asks for.
const PAGE: u32 = 1000;
/// Requests that no hint told of, such as those of the process before, are looked for so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The wait before the spool is asked again that could not be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(10);

/// Releases until cancelled; what is under way then goes on after the next start.
pub async fn run(forwarder: Forwarder, cancel: CancellationToken) {
    let held = forwarder.of_held();
    let mut expiry = Expiry::new(&held);
    let mut releases = Releases::new(held, cancel);
    while !releases.cancel.is_cancelled() {
        expiry.sweep(&releases.held).await;
        releases.begin().await;
        let wake = releases.wake_at().min(expiry.at());
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

/// Where a node stands that was asked for.
enum State {
    /// It waits for a turn.
    Ready(Option<Work>),
    /// It has its turn; and whether it was asked for once more meanwhile.
    Running(bool),
    /// Its site is not there, or the spool is not; until then.
    Paused(Option<Work>, Instant),
    /// Its turn ended by a defect, and would again.
    Broken,
}

type Result = std::result::Result<Turn, SpoolError>;

/// The nodes that were asked for, and the turns that are taken.
struct Releases {
    held: Forwarder,
    cancel: CancellationToken,
    nodes: HashMap<Node, State>,
    ready: VecDeque<Node>,
    paused: BTreeSet<(Instant, Node)>,
    running: JoinSet<Result>,
    /// By task, so that a node is known however its turn ends.
    turns: HashMap<Id, Node>,
    /// The place in the list of open requests up to which they were looked at, and when that goes on.
    looked: (i64, Instant),
}

impl Releases {
    fn new(held: Forwarder, cancel: CancellationToken) -> Self {
        Self {
            held,
            cancel,
            nodes: HashMap::new(),
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            running: JoinSet::new(),
            turns: HashMap::new(),
            looked: (0, Instant::now()),
        }
    }

    /// When something is due that no event tells of.
    fn wake_at(&self) -> Instant {
        let pause = self.paused.first().map(|(until, _)| *until);
        pause.map_or(self.looked.1, |until| until.min(self.looked.1))
    }

    /// A node was asked for: what waits for its site need not wait any longer.
    fn asked(&mut self, node: Node) {
        match self.nodes.get_mut(&node) {
            Some(State::Ready(_) | State::Broken) => {}
            Some(State::Running(again)) => *again = true,
            Some(State::Paused(work, until)) => {
                let (work, until) = (work.take(), *until);
                self.paused.remove(&(until, node.clone()));
                self.line_up(node, work.map(Work::renewed));
            }
            None => self.line_up(node, None),
        }
    }

    fn line_up(&mut self, node: Node, work: Option<Work>) {
        self.ready.push_back(node.clone());
        self.nodes.insert(node, State::Ready(work));
    }

    /// Begins turns as far as there is room.
    async fn begin(&mut self) {
        let now = Instant::now();
        while let Some((until, _)) = self.paused.first()
            && *until <= now
            && let Some((_, node)) = self.paused.pop_first()
        {
            if let Some(State::Paused(work, _)) = self.nodes.remove(&node) {
                self.line_up(node, work);
            }
        }
        if self.looked.1 <= now && self.ready.len() < PAGE as usize {
            self.look().await;
        }
        while self.running.len() < AT_ONCE
            && let Some(node) = self.ready.pop_front()
        {
            let Some(State::Ready(work)) = self.nodes.insert(node.clone(), State::Running(false))
            else {
                continue;
            };
            let turn = turn::take(self.held.clone(), node.clone(), work, self.cancel.clone());
            self.turns.insert(self.running.spawn(turn).id(), node);
        }
    }

    /// Finds open requests that nobody told of.
    async fn look(&mut self) {
        let (after, now) = (self.looked.0, Instant::now());
        let found = match self.held.spool.open_releases(after, PAGE).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the requests for releases cannot be read");
                self.looked.1 = now + SPOOL_PAUSE;
                return;
            }
        };
        self.looked = match found.last() {
            Some((place, _)) if found.len() >= PAGE as usize => (*place, now),
            _ => (0, now + LOOK_AGAIN),
        };
        for (_, node) in found {
            if !self.nodes.contains_key(&node) {
                self.line_up(node, None);
            }
        }
    }

    fn ended(&mut self, ended: std::result::Result<(Id, Result), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(node) = self.turns.remove(&id) else {
            return;
        };
        let again = matches!(self.nodes.remove(&node), Some(State::Running(true)));
        match result {
            Ok(Ok(Turn::Over | Turn::Stopped)) if !again => {}
            Ok(Ok(Turn::Over | Turn::Stopped)) => self.line_up(node, None),
            Ok(Ok(Turn::Stretched(work))) => self.line_up(node, Some(work)),
            Ok(Ok(Turn::NotReached(work))) if again => self.line_up(node, Some(work.renewed())),
            Ok(Ok(Turn::NotReached(mut work))) => {
                let until = Instant::now() + work.pause();
                self.pause(node, Some(work), until);
            }
            Ok(Err(error)) => {
                tracing::error!(%node, %error, "a release could not go on");
                self.pause(node, None, Instant::now() + SPOOL_PAUSE);
            }
            Err(error) => {
                tracing::error!(%node, %error, "a release ended by a defect of its own; its node waits for the next start");
                self.nodes.insert(node, State::Broken);
            }
        }
    }

    fn pause(&mut self, node: Node, work: Option<Work>, until: Instant) {
        self.paused.insert((until, node.clone()));
        self.nodes.insert(node, State::Paused(work, until));
    }
}
