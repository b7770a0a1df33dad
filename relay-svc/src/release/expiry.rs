//! What waits for too long: held mail is given up, reports that nobody reads are discarded, nodes of no use forgotten.
//!
//! A batch at a time, so that releases go on meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::turn::lease_of;
use crate::{
    names::{NextHop, Node},
    outbound::{Forwarder, InHand, in_words},
    spool::{HeldPlace, SpoolError},
};

/// So many messages are given up at once.
const BATCH: u32 = 50;
/// The longest wait between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Nodes that nobody asks for, and that nothing is held for, are remembered for so long.
const NODES_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Reports that nobody acknowledges are given up after so long.
const REPORTS_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// What other relays handed over is known again for so long.
const REPEATS_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// When the next look is due, and where it goes on.
pub(super) struct Expiry {
    every: Duration,
    at: Instant,
    place: HeldPlace,
    in_hand: InHand,
}

impl Expiry {
    pub(super) fn new(held: &Forwarder, in_hand: InHand) -> Self {
        let soon = Duration::from_millis(100);
        Self {
            every: LOOK_AGAIN.min(held.retry.hold / 4).max(soon),
            at: Instant::now(),
            place: HeldPlace::default(),
            in_hand,
        }
    }

    /// When the next look is due.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// A look, if one is due.
    pub(super) async fn sweep(&mut self, held: &Forwarder) {
        if Instant::now() < self.at {
            return;
        }
        let next = match self.under_lease(held).await {
            Ok(Some(place)) => {
                self.place = place;
                return;
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = next {
            tracing::error!(%error, "what waits for too long cannot be given up");
        }
        self.place = HeldPlace::default();
        self.at = Instant::now() + self.every;
    }

    /// Nothing while another replica sweeps for all.
    async fn under_lease(&self, held: &Forwarder) -> Result<Option<HeldPlace>, SpoolError> {
        let Some(lease) = held.spool.claim("sweep").await? else {
            return Ok(None);
        };
        let mut held = held.clone();
        held.spool = held.spool.under(&lease);
        // Also while there is much to give up: what others wait for is due by it.
        let kept = held.spool.keep_clock().await;
        if let Err(error) = kept {
            lease.give_back().await;
            return Err(error);
        }
        let next = match self.batch(&held).await {
            Ok(None) => forget(&held).await.map(|()| None),
            next => next,
        };
        lease.give_back().await;
        next
    }

    /// Gives up some held mail; where it goes on, if there may be more. A message that is being sent at this moment is
    /// left to the next sweep.
    async fn batch(&self, held: &Forwarder) -> Result<Option<HeldPlace>, SpoolError> {
        let over = "the time by which it was to be delivered is over";
        for (node, place) in held.spool.held_overdue(BATCH).await? {
            self.end(held, node, place, over).await?;
        }
        let limit = held.retry.hold;
        let place = self.place.clone();
        let old = held.spool.held_too_long(limit, place, BATCH).await?;
        let reason = format!("held for {}", in_words(limit));
        for (node, message) in old.messages {
            self.end(held, node, message.seq, &reason).await?;
        }
        Ok(old.next)
    }

    /// Gives up a message for a node, unless somebody sends it.
    async fn end(
        &self,
        held: &Forwarder,
        node: Node,
        place: i64,
        reason: &str,
    ) -> Result<(), SpoolError> {
        let hop = NextHop::Hold(node.clone()).to_string().into();
        let Some(_taken) = self.in_hand.take(&hop, place) else {
            return Ok(());
        };
        // Another replica may be sending it: it is left to the next sweep, too.
        let Some(lease) = held.spool.claim(&lease_of(&node)).await? else {
            return Ok(());
        };
        let mut held = held.clone();
        held.spool = held.spool.under(&lease);
        let given_up = self.give_up(&held, node, place, reason).await;
        lease.give_back().await;
        given_up
    }

    /// What is still held of a message for a node.
    async fn give_up(
        &self,
        held: &Forwarder,
        node: Node,
        place: i64,
        reason: &str,
    ) -> Result<(), SpoolError> {
        let now_held = held.spool.held(&node, place - 1, place, 1).await?;
        for message in now_held {
            let hop = NextHop::Hold(node.clone());
            held.give_up(&hop, &message, reason).await?;
        }
        Ok(())
    }
}

async fn forget(held: &Forwarder) -> Result<(), SpoolError> {
    let spool = &held.spool;
    spool.forget_repeats(REPEATS_KEPT).await?;
    for id in spool.expire_reports(REPORTS_KEPT).await? {
        tracing::warn!(%id, "report discarded: nobody acknowledged it for seven days");
    }
    let policy = Arc::clone(&held.policy);
    let named = move |node: &_| policy.routes.names(node);
    spool.forget_nodes(named, NODES_KEPT).await
}
