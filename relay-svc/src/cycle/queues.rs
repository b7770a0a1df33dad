//! What waits for a link, in two queues: its mail, and its large mail, which goes in the hours that are kept for it.
//!
//! Both belong to the lease of the link. The small goes first, however long the large has waited: it is what the large would
//! hold up.

use super::schedule::{Opening, Waiting};
use crate::{
    config::Link,
    names::NextHop,
    outbound::{Feed, Hours, InHand},
    spool::{Spool, SpoolError},
};

/// The queues of a link.
pub(super) struct Queues {
    mail: NextHop,
    large: Option<(NextHop, Hours)>,
}

/// The queue of which something goes next.
pub(super) enum Next {
    /// Some of this is due.
    Due(NextHop),
    /// Nothing is due that may go.
    Nothing {
        /// Nor will anything be.
        is_empty: bool,
    },
}

impl Queues {
    pub(super) fn of(link: &Link) -> Self {
        let large = link.oversize.clone().map(|oversize| {
            let hop = NextHop::Oversize(link.name.clone());
            (hop, Hours::new(oversize))
        });
        Self {
            mail: NextHop::Link(link.name.clone()),
            large,
        }
    }

    /// The name under which changes of both are told.
    pub(super) fn name(&self) -> String {
        self.mail.to_string()
    }

    /// Whether the hours of a day matter.
    pub(super) fn has_hours(&self) -> bool {
        self.large.is_some()
    }

    /// Both, also while the large has to wait.
    pub(super) fn all(&self) -> impl Iterator<Item = &NextHop> {
        let large = self.large.as_ref().map(|(hop, _)| hop);
        std::iter::once(&self.mail).chain(large)
    }

    /// Those of which something may go now.
    fn open(&self) -> impl Iterator<Item = &NextHop> {
        self.all().filter(|hop| self.is_open(hop))
    }

    fn is_open(&self, hop: &NextHop) -> bool {
        self.hours_of(hop).is_none_or(|hours| hours.is_open())
    }

    fn hours_of(&self, hop: &NextHop) -> Option<Hours> {
        let (large, hours) = self.large.as_ref()?;
        (large == hop).then(|| hours.clone())
    }

    /// Hands out what is due of one of them, the large while its hours last.
    pub(super) fn feed(&self, spool: Spool, hop: &NextHop, in_hand: InHand) -> Feed {
        Feed::of_due(spool, hop, in_hand).within(self.hours_of(hop))
    }

    /// The one that comes when nothing is due of another any more; after the large only if some of it went, so that what
    /// cannot be read of both does not go round for ever.
    pub(super) fn after(&self, hop: &NextHop, sent: u32) -> Option<&NextHop> {
        let (large, _) = self.large.as_ref()?;
        match hop == large {
            true => (sent > 0).then_some(&self.mail),
            false => Some(large),
        }
    }

    /// Which goes next, beginning with `first`.
    pub(super) async fn next(
        &self,
        spool: &Spool,
        first: Option<NextHop>,
    ) -> Result<Next, SpoolError> {
        let mut hops: Vec<&NextHop> = self.all().collect();
        hops.sort_by_key(|hop| first.as_ref() != Some(*hop));
        let mut is_empty = true;
        for hop in hops {
            let backlog = spool.backlog(hop.to_string(), spool.tick(), 1).await?;
            if backlog.due > 0 && self.is_open(hop) {
                return Ok(Next::Due(hop.clone()));
            }
            is_empty &= backlog.due == 0 && backlog.next_due.is_none();
        }
        Ok(Next::Nothing { is_empty })
    }

    /// How many messages are due that may go, and how many octets they have, counted up to `cap` of each.
    pub(super) async fn weight(&self, spool: &Spool, cap: u32) -> Result<(u64, u64), SpoolError> {
        let mut weight = (0, 0);
        for hop in self.open() {
            let (messages, octets) = spool.due_weight(hop.to_string(), spool.tick(), cap).await?;
            weight = (weight.0 + messages, weight.1 + octets);
        }
        Ok(weight)
    }

    /// What waits, as far as it may go, and the hours for which the rest waits; messages are counted up to `cap`.
    pub(super) async fn waiting(
        &self,
        spool: &Spool,
        cap: u64,
        opening: &mut Opening,
    ) -> Result<Waiting, SpoolError> {
        let mut waiting = of_queue(spool, &self.mail, cap).await?;
        let Some((hop, hours)) = &self.large else {
            return Ok(waiting);
        };
        let large = of_queue(spool, hop, cap).await?;
        let is_open = hours.is_open();
        waiting.hours_began = opening.look(is_open, large.due);
        if is_open {
            waiting.add(&large);
        } else if large.due > 0 || large.next_due.is_some() {
            waiting.hours_in = hours.opens_in();
        }
        Ok(waiting)
    }
}

async fn of_queue(spool: &Spool, hop: &NextHop, cap: u64) -> Result<Waiting, SpoolError> {
    let now = spool.tick();
    let backlog = spool.backlog(hop.to_string(), now, cap).await?;
    Ok(Waiting {
        due: backlog.due,
        oldest: backlog.oldest_due.map(|since| now.since(since)),
        next_due: backlog.next_due.map(|at| at.since(now)),
        ..Waiting::default()
    })
}
