//! At a provider: sends held mail once its site has asked for it, and gives up what was held for too long.
//!
//! A request lies in the spool (`spool::nodes`). This part takes the open ones, many nodes at a time and each node once at
//! a time, and sends what they ask for to the host of the node's route, each message once. It tells the spool that a
//! request is over when every message was tried, or when the site could not be reached for ten minutes: then the mail
//! stays held, and the site asks again. A request that comes meanwhile stays open behind the one that runs.
//!
//! Must not touch: links, cycles, inbound sessions. A site behind a line that it dials itself is there when it asks.

mod run;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Stamp,
    names::{NextHop, Node},
    outbound::Forwarder,
    spool::SpoolError,
};

/// So many nodes are worked on at once; most of them may wait for a site that does not answer.
const NODES: u32 = 1000;
/// So many of them send at once.
const SENDING: usize = 64;
/// So many messages are given up at once.
const BATCH: u32 = 50;
/// The longest wait between two looks at the requests, and at what waits for too long.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The wait before the spool is asked again that could not be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(10);
/// Nodes that nobody asks for, and that nothing is held for, are remembered for so long.
const NODES_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Reports that nobody acknowledges are given up after so long.
const REPORTS_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Releases until cancelled; what is under way then goes on after the next start.
pub async fn run(forwarder: Forwarder, cancel: CancellationToken) {
    let mut releases = Releases::new(forwarder.of_held(), cancel);
    let mut requested = releases.held.spool.watch_releases();
    let mut sweep_at = Instant::now();
    while !releases.cancel.is_cancelled() {
        requested.mark_unchanged();
        if Instant::now() >= sweep_at {
            sweep_at = Instant::now() + releases.sweep_every();
            if let Err(error) = releases.sweep().await {
                tracing::error!(%error, "what waits for too long cannot be given up");
            }
        }
        let look_again = match releases.begin().await {
            Ok(()) => sweep_at,
            Err(error) => {
                tracing::error!(%error, "the requests for releases cannot be read");
                Instant::now() + SPOOL_PAUSE
            }
        };
        tokio::select! {
            () = releases.cancel.cancelled() => break,
            _ = requested.changed() => {}
            Some(ended) = releases.running.join_next_with_id() => releases.ended(ended),
            () = tokio::time::sleep_until(look_again) => {}
        }
    }
    while releases.running.join_next().await.is_some() {}
}

/// What is being released.
struct Releases {
    held: Forwarder,
    cancel: CancellationToken,
    sending: Arc<Semaphore>,
    running: JoinSet<()>,
    /// By task, so that a node is free again however its release ends.
    nodes: HashMap<Id, Node>,
    busy: HashSet<Node>,
}

impl Releases {
    fn new(held: Forwarder, cancel: CancellationToken) -> Self {
        Self {
            held,
            cancel,
            sending: Arc::new(Semaphore::new(SENDING)),
            running: JoinSet::new(),
            nodes: HashMap::new(),
            busy: HashSet::new(),
        }
    }

    /// Starts what is open and does not run yet, as far as there is room.
    async fn begin(&mut self) -> Result<(), SpoolError> {
        for node in self.held.spool.open_releases(NODES).await? {
            if !self.busy.insert(node.clone()) {
                continue;
            }
            let release = release(
                self.held.clone(),
                node.clone(),
                Arc::clone(&self.sending),
                self.cancel.clone(),
            );
            self.nodes.insert(self.running.spawn(release).id(), node);
        }
        Ok(())
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        match ended {
            Ok((id, ())) => {
                if let Some(node) = self.nodes.remove(&id) {
                    self.busy.remove(&node);
                }
            }
            // It would fail again, and at once.
            Err(error) => {
                let node = self.nodes.remove(&error.id()).map(|node| node.to_string());
                tracing::error!(node, %error, "a release ended by a defect of its own; its node waits for the next start");
            }
        }
    }

    fn sweep_every(&self) -> Duration {
        let soon = Duration::from_millis(100);
        LOOK_AGAIN.min(self.held.retry.hold / 4).max(soon)
    }

    /// Gives up what waits for too long, and forgets nodes that are of no use. Nodes that are being released are left
    /// alone: their mail has its outcome soon.
    async fn sweep(&self) -> Result<(), SpoolError> {
        let spool = &self.held.spool;
        spool.keep_clock().await?;
        let limit = self.held.retry.hold;
        let reason = format!("held for {} and never asked for", in_words(limit));
        loop {
            let old = spool.held_too_long(limit, BATCH).await?;
            let full = old.len() >= BATCH as usize;
            let idle = old
                .into_iter()
                .filter(|(node, _)| !self.busy.contains(node));
            let mut given_up = 0;
            for (node, message) in idle {
                given_up += 1;
                let hop = NextHop::Hold(node);
                self.held.give_up(&hop, &message, &reason).await?;
            }
            if !full || given_up == 0 {
                break;
            }
        }
        for id in spool.expire_reports(REPORTS_KEPT, Stamp::now()).await? {
            tracing::warn!(%id, "report discarded: nobody acknowledged it for seven days");
        }
        let (policy, now) = (Arc::clone(&self.held.policy), Stamp::now());
        let named = move |node: &_| policy.routes.names(node);
        spool.forget_nodes(named, now.minus(NODES_KEPT), now).await
    }
}

/// Carries out one request for a node. What fails for the spool stays open, and is begun again after a while.
async fn release(held: Forwarder, node: Node, sending: Arc<Semaphore>, cancel: CancellationToken) {
    if let Err(error) = run::carry_out(&held, &node, &sending, &cancel).await {
        tracing::error!(%node, %error, "a release could not go on");
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sleep(SPOOL_PAUSE) => {}
        }
    }
}

/// A duration for people, in the largest unit of which it has at least two.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
