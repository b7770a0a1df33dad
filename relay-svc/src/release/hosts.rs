//! Whose turn it is: the nodes that were asked for, by the host that their mail goes to. Pure.
//!
//! A host has so many turns at once, and hosts take turns with each other: one customer with many nodes, or with a host
//! that never answers, keeps nobody else waiting. A host is given so many nodes to remember; what does not fit is found
//! in the spool later.
//!
//! Each turn is allotted connections. A host never has more of them than its routes allow: a few are kept for further
//! turns of it, and the rest is shared fairly.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use super::work::Work;
use crate::names::{HostPort, Node};

/// So many turns are taken at once.
const AT_ONCE: usize = 512;
/// So many of them by nodes of one host.
const PER_HOST: usize = 4;
/// Of the connections to a host one in so many is kept for turns that may come, at most one for each of them.
const KEPT: usize = 4;
/// All turns together have so many connections beside the first of each.
const FURTHER: usize = 256;
/// So many nodes of one host are remembered.
const REMEMBERED: usize = 1000;

/// Where a node stands that was asked for.
enum State {
    /// It waits for a turn.
    Ready(Option<Work>),
    /// It has its turn, and so many connections for it; and whether it was asked for once more meanwhile.
    Running(usize, bool),
    /// Its site is not there, or the spool is not; until then.
    Paused(Option<Work>, Instant),
    /// Its turn ended by a defect, and would again.
    Broken,
}

/// The nodes of one host.
#[derive(Default)]
struct Host {
    nodes: HashMap<Node, State>,
    ready: VecDeque<Node>,
    running: usize,
    /// The most connections that the routes of its nodes allow, all of them.
    most: usize,
    /// How many of these its turns have.
    allotted: usize,
    /// Whether some did not fit.
    overflowed: bool,
}

/// All of it.
#[derive(Default)]
pub(super) struct Hosts {
    hosts: HashMap<HostPort, Host>,
    /// Hosts with a node that is ready and a turn that is free, each once.
    next: VecDeque<HostPort>,
    paused: BTreeSet<(Instant, HostPort, Node)>,
    running: usize,
    /// Connections of all turns beside the first of each.
    further: usize,
}

/// A turn that begins.
pub(super) struct Begun {
    pub(super) host: HostPort,
    pub(super) node: Node,
    /// What is left of the turn before.
    pub(super) work: Option<Work>,
    /// The most connections that it may have at once.
    pub(super) connections: usize,
}

/// How a turn ended, for the node.
pub(super) enum End {
    /// The request is over.
    Over,
    /// It goes on when it is its turn again.
    GoesOn(Work),
    /// It goes on after a pause.
    Pause(Option<Work>, Instant),
    /// It must not be tried again.
    Broken,
}

impl Host {
    /// How many connections its next turn may have; nothing while it has to wait for another to end. All turns together
    /// may have `further` more beside the first of each.
    fn share(&self, further: usize) -> Option<usize> {
        let free = self.most.saturating_sub(self.allotted);
        if free == 0 || self.running >= PER_HOST {
            return None;
        }
        let turns = PER_HOST.min(self.running + self.ready.len()).max(1);
        let kept = (self.most / KEPT).min(PER_HOST - self.running - 1);
        let fair = (self.most / turns).min(free.saturating_sub(kept)).max(1);
        Some(fair.min(1 + further))
    }
}

impl Hosts {
    /// A node was asked for: what waits for its site need not wait any longer. Its route allows so many connections to
    /// the host at once; of several routes to one host the strictest counts.
    pub(super) fn asked(&mut self, host: &HostPort, most: usize, node: Node) {
        let place = self.hosts.entry(host.clone()).or_default();
        place.most = match place.most {
            0 => most,
            known => known.min(most),
        };
        let is_full = place.nodes.len() >= REMEMBERED;
        let work = match place.nodes.get_mut(&node) {
            Some(State::Ready(_) | State::Broken) => return,
            Some(State::Running(_, again)) => {
                *again = true;
                return;
            }
            Some(State::Paused(work, until)) => {
                let (work, until) = (work.take(), *until);
                self.paused.remove(&(until, host.clone(), node.clone()));
                work.map(Work::renewed)
            }
            None if is_full => {
                place.overflowed = true;
                return;
            }
            None => None,
        };
        self.line_up(host, node, work);
    }

    /// A node has an open request that nobody told of.
    pub(super) fn found(&mut self, host: &HostPort, most: usize, node: Node) {
        let known = self.hosts.get(host);
        if !known.is_some_and(|place| place.nodes.contains_key(&node)) {
            self.asked(host, most, node);
        }
    }

    /// When the next pause is over.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.paused.first().map(|(until, _, _)| *until)
    }

    /// The node whose turn it is, if there is room for one more.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Begun> {
        while self
            .paused
            .first()
            .is_some_and(|(until, _, _)| *until <= now)
        {
            if let Some((_, host, node)) = self.paused.pop_first()
                && let Some(State::Paused(work, _)) = self.take(&host, &node)
            {
                self.line_up(&host, node, work);
            }
        }
        while self.running < AT_ONCE
            && let Some(name) = self.next.pop_front()
        {
            let Some(host) = self.hosts.get_mut(&name) else {
                continue;
            };
            let Some(connections) = host.share(FURTHER - self.further) else {
                continue;
            };
            let Some(node) = host.ready.pop_front() else {
                continue;
            };
            let running = State::Running(connections, false);
            let work = match host.nodes.insert(node.clone(), running) {
                Some(State::Ready(work)) => work,
                // What stands in `ready` is ready.
                Some(State::Running(..) | State::Paused(..) | State::Broken) | None => None,
            };
            host.running += 1;
            host.allotted += connections;
            self.running += 1;
            self.further += connections - 1;
            self.queue(&name);
            return Some(Begun {
                host: name,
                node,
                work,
                connections,
            });
        }
        None
    }

    /// A turn has ended. Says whether nodes of its host did not fit before and would now.
    pub(super) fn ended(&mut self, host: &HostPort, node: Node, end: End) -> bool {
        let (connections, again) = match self.take(host, &node) {
            Some(State::Running(connections, again)) => (connections, again),
            _ => (0, false),
        };
        self.running = self.running.saturating_sub(1);
        self.further = self.further.saturating_sub(connections.saturating_sub(1));
        if let Some(place) = self.hosts.get_mut(host) {
            place.running = place.running.saturating_sub(1);
            place.allotted = place.allotted.saturating_sub(connections);
        }
        match end {
            End::Over if !again => {}
            End::Over => self.line_up(host, node, None),
            End::GoesOn(work) => self.line_up(host, node, Some(work)),
            End::Pause(work, _) if again => self.line_up(host, node, work.map(Work::renewed)),
            End::Pause(work, until) => {
                self.paused.insert((until, host.clone(), node.clone()));
                self.put(host, node, State::Paused(work, until));
            }
            End::Broken => self.put(host, node, State::Broken),
        }
        self.queue(host);
        let Some(place) = self.hosts.get_mut(host) else {
            return false;
        };
        let room = place.overflowed && place.ready.is_empty() && place.nodes.len() < REMEMBERED;
        place.overflowed &= !room;
        if place.nodes.is_empty() {
            self.hosts.remove(host);
        }
        room
    }

    fn take(&mut self, host: &HostPort, node: &Node) -> Option<State> {
        self.hosts.get_mut(host)?.nodes.remove(node)
    }

    fn put(&mut self, host: &HostPort, node: Node, state: State) {
        let place = self.hosts.entry(host.clone()).or_default();
        place.nodes.insert(node, state);
    }

    fn line_up(&mut self, host: &HostPort, node: Node, work: Option<Work>) {
        let place = self.hosts.entry(host.clone()).or_default();
        place.ready.push_back(node.clone());
        place.nodes.insert(node, State::Ready(work));
        self.queue(host);
    }

    /// Lets a host wait for its turn, if it has use for one.
    fn queue(&mut self, name: &HostPort) {
        let host = self.hosts.get(name);
        let useful = host.is_some_and(|host| !host.ready.is_empty() && host.share(0).is_some());
        if useful && !self.next.contains(name) {
            self.next.push_back(name.clone());
        }
    }
}

#[cfg(test)]
mod tests;
