//! Whose turn it is among what is due for one next hop: reads ahead in each lane, and chooses by `queue::order`.

use std::{collections::VecDeque, sync::Arc};

use super::in_hand::InHand;
use crate::{
    queue::order::{Due, Lane, Turns},
    spool::{DuePlace, Spool, SpoolError, Tick, WaitingLane},
};

/// So many places of a lane are looked up at once.
const PAGE: u32 = 200;

/// The lanes of a next hop, and what each was given.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: Vec<Ahead>,
    turns: Turns<Lane>,
}

/// A lane, and what was looked up of it.
struct Ahead {
    of: WaitingLane,
    places: VecDeque<DuePlace>,
    /// Where the next look goes on.
    cursor: DuePlace,
    /// Nothing stood there when it was looked at.
    is_through: bool,
}

/// A look at the lanes, for the next places.
pub(super) struct Look<'a> {
    lanes: &'a mut Lanes,
    spool: &'a Spool,
    hop: &'a Arc<str>,
    hands: &'a InHand,
}

impl Lanes {
    pub(super) fn look<'a>(
        &'a mut self,
        spool: &'a Spool,
        hop: &'a Arc<str>,
        hands: &'a InHand,
    ) -> Look<'a> {
        Look {
            lanes: self,
            spool,
            hop,
            hands,
        }
    }

    /// Those that are there now; of those that were there before, what was looked up stays.
    fn keep(&mut self, found: Vec<WaitingLane>) {
        let mut before = std::mem::take(&mut self.lanes);
        for of in found {
            let same = |known: &Ahead| (known.of.priority, known.of.lane) == (of.priority, of.lane);
            let known = before
                .iter()
                .position(same)
                .map(|at| before.swap_remove(at));
            self.lanes.push(known.unwrap_or(Ahead {
                of,
                places: VecDeque::new(),
                cursor: DuePlace::START,
                is_through: false,
            }));
        }
        self.look_again(|_| {});
    }

    fn look_again(&mut self, and: impl Fn(&mut Ahead)) {
        for lane in &mut self.lanes {
            lane.is_through = false;
            and(lane);
        }
    }

    /// The place that goes next.
    fn next(&mut self) -> Option<i64> {
        let with_places = |lane: &(usize, &Ahead)| !lane.1.places.is_empty();
        let lanes: Vec<_> = self.lanes.iter().enumerate().filter(with_places).collect();
        let heads = lanes.iter().filter_map(|(_, lane)| {
            let head = lane.places.front()?;
            Some(Due {
                lane: lane.of.lane,
                priority: lane.of.priority,
                due: head.due.0,
                seq: head.seq,
                size: head.size,
            })
        });
        let heads: Vec<_> = heads.collect();
        let at = lanes.get(self.turns.next(&heads)?)?.0;
        self.lanes[at].places.pop_front().map(|place| place.seq)
    }
}

impl Look<'_> {
    /// Up to `limit` places that nobody has in hand, in their order. What is urgent and new is among them.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Vec<i64>, SpoolError> {
        let now = self.spool.tick();
        let found = self.spool.due_lanes(self.hop.to_string(), now).await?;
        self.lanes.keep(found);
        let mut chosen = self.choose(limit, now).await?;
        if chosen.is_empty() {
            // What came before the cursors meanwhile, such as a message that was given back, is found from the start.
            self.lanes.look_again(|lane| lane.cursor = DuePlace::START);
            chosen = self.choose(limit, now).await?;
        }
        Ok(chosen)
    }

    async fn choose(&mut self, limit: usize, now: Tick) -> Result<Vec<i64>, SpoolError> {
        let mut chosen = Vec::new();
        while chosen.len() < limit {
            self.fill(now).await?;
            match self.lanes.next() {
                Some(seq) => chosen.push(seq),
                None => break,
            }
        }
        Ok(chosen)
    }

    /// Looks up more of each lane of which nothing is at hand.
    async fn fill(&mut self, now: Tick) -> Result<(), SpoolError> {
        // One lane shares with nobody.
        let sizes = self.lanes.lanes.len() > 1;
        for lane in &mut self.lanes.lanes {
            while lane.places.is_empty() && !lane.is_through {
                let hop = self.hop.to_string();
                let places = self
                    .spool
                    .due_places(hop, lane.of, now, lane.cursor, (PAGE, sizes))
                    .await?;
                let Some(last) = places.last() else {
                    lane.is_through = true;
                    break;
                };
                lane.cursor = *last;
                let free = |place: &DuePlace| !self.hands.has(self.hop, place.seq);
                lane.places.extend(places.into_iter().filter(free));
            }
        }
        Ok(())
    }
}
