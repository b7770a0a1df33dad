//! What waits for one next hop, handed out to the sessions that send it: each message is in one hand at a time.
//!
//! A place is taken into hand first and read then, so that what is sent is what still waited when it was read. Some are
//! read ahead, together: a look-up for each would cost more than sending it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::Mutex;

use super::{
    hours::Hours,
    in_hand::{Hand, InHand},
    lanes::Lanes,
};
use crate::{
    names::{NextHop, Node},
    spool::{Body, Due, INLINE_LIMIT, RecipientState, Spool, SpoolError, Tick},
};

/// So many places are looked up at once.
const PAGE: u32 = 200;
/// So many messages are read at once, ahead of the sessions.
const AHEAD: usize = 50;
/// With so many octets of bodies, which each next hop that is being sent to then takes of the memory. A body in a file is
/// read when its turn comes.
const BODIES: u64 = 1024 * 1024;

/// Hands out the messages of one next hop.
pub struct Feed {
    spool: Spool,
    hop: Arc<str>,
    of: Of,
    /// Without them at any time.
    hours: Option<Hours>,
    hands: InHand,
    ahead: Mutex<Ahead>,
}

/// Which messages.
enum Of {
    /// Those that are due.
    Due,
    /// Those that are held for a node, up to a place; and what of them was left at the start.
    Held { node: Node, upto: i64, start: Left },
}

/// What is left of held messages that are handed out once each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Places that were reached and whose turn did not come, in their order.
    pub again: Vec<i64>,
    /// Everything behind this place.
    pub after: i64,
}

/// What was read, the places that come behind it, and where looking for more goes on.
struct Ahead {
    ready: VecDeque<InHandMessage>,
    /// In the order in which they are read: what was chosen, and could not be read at once.
    places: VecDeque<i64>,
    /// Of what is due.
    lanes: Lanes,
    /// Of what is held.
    after: i64,
    /// What is ready was read behind so many changes of operators at other replicas.
    steered: u64,
}

/// A message in hand. It is out of hand when this is dropped.
pub struct InHandMessage {
    /// The message.
    pub due: Due,
    /// Its body, where that was read with it.
    pub body: Option<Body>,
    /// Keeps it in hand.
    pub hand: Hand,
}

impl Feed {
    /// What is due for a next hop; also what comes while it is handed out.
    #[must_use]
    pub fn of_due(spool: Spool, hop: &NextHop, hands: InHand) -> Self {
        Self::new(spool, hop, Of::Due, hands, Left::default())
    }

    /// The same, while these hours last.
    #[must_use]
    pub fn within(self, hours: Option<Hours>) -> Self {
        Self { hours, ..self }
    }

    /// What is left for a node, up to a place; each message once.
    #[must_use]
    pub fn of_held(spool: Spool, node: &Node, left: Left, upto: i64, hands: InHand) -> Self {
        let of = Of::Held {
            node: node.clone(),
            upto,
            start: left.clone(),
        };
        Self::new(spool, &NextHop::Hold(node.clone()), of, hands, left)
    }

    fn new(spool: Spool, hop: &NextHop, of: Of, hands: InHand, left: Left) -> Self {
        Self {
            spool,
            hop: hop.to_string().into(),
            of,
            hours: None,
            hands,
            ahead: Mutex::new(Ahead {
                ready: VecDeque::new(),
                places: left.again.into(),
                lanes: Lanes::default(),
                after: left.after,
                steered: 0,
            }),
        }
    }

    /// The next hop, as the spool writes it.
    #[must_use]
    pub fn hop(&self) -> &str {
        &self.hop
    }

    /// The spool it reads.
    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// How many messages wait, and how many octets they have together, those in hand among them; up to `cap` messages count.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn weight(&self, cap: u32) -> Result<(u64, u64), SpoolError> {
        let hop = self.hop.to_string();
        match &self.of {
            Of::Due => self.spool.due_weight(hop, self.spool.tick(), cap).await,
            Of::Held { upto, start, .. } => {
                let Left { again, after } = start.clone();
                self.spool.held_weight(hop, again, after, *upto, cap).await
            }
        }
    }

    /// What was not handed out; `untried` are places that were, and whose turn did not come.
    pub async fn left(&self, untried: Vec<i64>) -> Left {
        let ahead = self.ahead.lock().await;
        let mut again = untried;
        again.extend(ahead.ready.iter().map(|message| message.due.seq));
        again.extend(&ahead.places);
        again.sort_unstable();
        again.dedup();
        Left {
            again,
            after: ahead.after,
        }
    }

    /// Up to `limit` messages, in their order (`queue/order.rs`); none when nothing is left that nobody has in hand, or its
    /// hours are over.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn take(&self, limit: usize) -> Result<Vec<InHandMessage>, SpoolError> {
        if self.hours.as_ref().is_some_and(|hours| !hours.is_open()) {
            return Ok(Vec::new());
        }
        let mut ahead = self.ahead.lock().await;
        let steered = self.spool.steered();
        if steered != ahead.steered {
            ahead.steered = steered;
            ahead.read_anew();
        }
        let mut taken = Vec::new();
        while taken.len() < limit {
            if ahead.ready.is_empty() && taken.is_empty() {
                self.read_ahead(&mut ahead).await?;
            }
            match ahead.ready.pop_front() {
                Some(message) if message.hand.begin() => taken.push(message),
                // An operator took it back.
                Some(message) => ahead.places.push_front(message.due.seq),
                None => break,
            }
        }
        Ok(taken)
    }

    /// Gives a message back, to be taken next.
    pub async fn put_back(&self, message: InHandMessage) {
        message.hand.rest();
        self.ahead.lock().await.ready.push_front(message);
    }

    /// Reads the next messages, if there are any that nobody has in hand.
    async fn read_ahead(&self, ahead: &mut Ahead) -> Result<(), SpoolError> {
        let _reading = self.hands.reading().await;
        while ahead.ready.is_empty() {
            let mut hands = Vec::new();
            while hands.len() < AHEAD
                && let Some(seq) = ahead.places.pop_front()
            {
                hands.extend(self.hands.take_ahead(&self.hop, seq));
            }
            if hands.is_empty() {
                if !self.look(ahead).await? {
                    return Ok(());
                }
                continue;
            }
            let places: Vec<i64> = hands.iter().map(Hand::place).collect();
            if let Err(error) = self.read(hands, ahead).await {
                // Their turn has not come.
                let places = places.into_iter().rev();
                places.for_each(|place| ahead.places.push_front(place));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Looks up the next places; whether there are any.
    async fn look(&self, ahead: &mut Ahead) -> Result<bool, SpoolError> {
        match &self.of {
            Of::Due => {
                let mut look = ahead.lanes.look(&self.spool, &self.hop, &self.hands);
                ahead.places.extend(look.next(AHEAD).await?);
            }
            Of::Held { node, upto, .. } => {
                let places = self
                    .spool
                    .held_places(node, ahead.after, *upto, PAGE)
                    .await?;
                if let Some(last) = places.last() {
                    ahead.after = *last;
                }
                ahead.places.extend(places);
            }
        }
        Ok(!ahead.places.is_empty())
    }

    /// Reads what still waits of what is in hand. What is too much at once goes back to the places.
    async fn read(&self, hands: Vec<Hand>, ahead: &mut Ahead) -> Result<(), SpoolError> {
        let (state, now) = match self.of {
            Of::Due => (RecipientState::Queued, self.spool.tick()),
            Of::Held { .. } => (RecipientState::Held, Tick::END),
        };
        let seqs = hands.iter().map(Hand::place).collect();
        let mut waiting = self
            .spool
            .waiting(seqs, self.hop.to_string(), state, now)
            .await?;
        let later = waiting.split_off(at_once(&waiting));
        let mut bodies = self.bodies(&waiting).await;
        for due in later.iter().rev() {
            ahead.places.push_front(due.seq);
        }
        let mut waiting = waiting.into_iter().peekable();
        for hand in hands {
            if let Some(due) = waiting.next_if(|due| due.seq == hand.place()) {
                let body = bodies.remove(&due.seq);
                ahead.ready.push_back(InHandMessage { due, body, hand });
            }
        }
        Ok(())
    }

    async fn bodies(&self, waiting: &[Due]) -> HashMap<i64, Body> {
        let small = waiting.iter().filter(|due| is_inline(due));
        let bodies = self.spool.inline_bodies(small.map(|due| due.seq).collect());
        // What cannot be read now is read again by itself, and what is wrong with it is told there.
        bodies.await.unwrap_or_default()
    }
}

impl Ahead {
    /// Gives up what was read: it is read again before it is handed out.
    fn read_anew(&mut self) {
        while let Some(message) = self.ready.pop_back() {
            self.places.push_front(message.due.seq);
        }
    }
}

fn is_inline(due: &Due) -> bool {
    due.size <= INLINE_LIMIT as u64
}

/// How many of these messages are read at once with their bodies.
fn at_once(waiting: &[Due]) -> usize {
    let mut octets = 0;
    let fits = |due: &&Due| {
        octets += if is_inline(due) { due.size } else { 0 };
        octets <= BODIES
    };
    waiting.iter().take_while(fits).count()
}
