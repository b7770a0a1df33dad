//! Which recipients are meant: what a list shows, and what an operator changes.
//!
//! Rows are walked in an order that an index has, a bounded number at a time, and looked at here: what is asked for may be
//! rare among a million, and each look ends.

use std::collections::HashSet;

use linkmail_smtp::{Mailbox, ReversePath};

use super::{
    RecipientState, Spool, SpoolError, StoredMessage, Tick,
    db::{Db, Row},
    look::{self, unsigned},
};
use crate::{clock::Stamp, names::MessageId, route::AddressPattern};

/// So many rows are read at once.
const ROWS: u32 = 500;
/// A list looks at so many rows for one page, and to the end of the last message.
const LOOKED_AT: usize = 10_000;

/// Takes a recipient of a message if all that is set fits.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    /// Of one of these messages; empty: of any.
    pub ids: Vec<MessageId>,
    /// In this state.
    pub state: Option<RecipientState>,
    /// With this next hop, as the spool writes it.
    pub route: Option<String>,
    /// With such an address.
    pub recipient: Option<AddressPattern>,
    /// Of a message with such a reverse path.
    pub sender: Option<SenderPattern>,
    /// Of a message that was accepted before.
    pub accepted_before: Option<Stamp>,
    /// Of a message of more octets.
    pub larger_than: Option<u64>,
}

/// Which reverse paths.
#[derive(Debug, Clone)]
pub enum SenderPattern {
    /// The null reverse path.
    Null,
    /// Such an address.
    Like(AddressPattern),
}

/// Up to where the rows were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterPlace {
    /// So many states, or messages that were named, are done.
    part: u16,
    /// Up to this place in the spool of the next one.
    seq: i64,
}

/// A recipient that a filter takes.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The place of its message in the spool.
    pub seq: i64,
    /// Its place in the envelope.
    pub idx: i64,
    /// The identity of its message.
    pub id: MessageId,
    /// Its address, as octets.
    pub address: Vec<u8>,
    /// Its next hop, as the spool writes it.
    pub hop: String,
    /// Its state.
    pub state: RecipientState,
    /// The last reply or error.
    pub last_reply: String,
    /// The octets of its message.
    pub size: u64,
}

/// What was found by one look.
#[derive(Debug, Default)]
pub struct Selection {
    /// The recipients; those of one message stand together.
    pub found: Vec<Selected>,
    /// Where it goes on, if there may be more.
    pub next: Option<FilterPlace>,
}

impl FilterPlace {
    /// As one number, for a token.
    #[must_use]
    pub fn to_number(self) -> i64 {
        (i64::from(self.part) << 48) | self.seq
    }

    /// What [`Self::to_number`] made.
    #[must_use]
    pub fn of_number(number: i64) -> Self {
        Self {
            part: u16::try_from(number >> 48).unwrap_or(u16::MAX),
            seq: number & ((1 << 48) - 1),
        }
    }
}

impl MessageFilter {
    /// Whether it takes everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.state.is_none()
            && self.route.is_none()
            && self.recipient.is_none()
            && self.sender.is_none()
            && self.accepted_before.is_none()
            && self.larger_than.is_none()
    }

    fn takes(&self, row: &Looked) -> bool {
        let of = &row.recipient;
        self.state.is_none_or(|state| state == of.state)
            && self.route.as_ref().is_none_or(|route| *route == of.hop)
            && self
                .accepted_before
                .is_none_or(|before| row.accepted < before)
            && self.larger_than.is_none_or(|octets| of.size > octets)
            && self.recipient.as_ref().is_none_or(|like| {
                Mailbox::parse_utf8(&of.address).is_ok_and(|address| like.takes(&address))
            })
            && self
                .sender
                .as_ref()
                .is_none_or(|like| like.takes(&row.reverse_path))
    }
}

impl SenderPattern {
    fn takes(&self, reverse_path: &[u8]) -> bool {
        match (self, ReversePath::parse_utf8(reverse_path)) {
            (Self::Null, Ok(ReversePath::Null)) => true,
            (Self::Like(like), Ok(ReversePath::Mailbox(address))) => like.takes(&address),
            _ => false,
        }
    }
}

impl Spool {
    /// The recipients in some states that a filter takes, by one look behind a place; without states those in any. A look
    /// may find nothing, and have a next one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn select(
        &self,
        filter: MessageFilter,
        states: Vec<RecipientState>,
        place: FilterPlace,
    ) -> Result<Selection, SpoolError> {
        self.read(move |db| Ok(select(db, &filter, &states, place)?.0))
            .await
    }

    /// Up to `limit` messages of which a filter takes a recipient, oldest first, or as they were named; and where it goes on,
    /// if there may be more. One whose row is damaged is left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn search(
        &self,
        filter: MessageFilter,
        place: FilterPlace,
        limit: usize,
    ) -> Result<(Vec<StoredMessage>, Option<FilterPlace>), SpoolError> {
        let now = (self.tick(), Stamp::now());
        self.read(move |db| search(db, &filter, place, limit, now))
            .await
    }
}

fn search(
    db: &Db<'_>,
    filter: &MessageFilter,
    place: FilterPlace,
    limit: usize,
    now: (Tick, Stamp),
) -> Result<(Vec<StoredMessage>, Option<FilterPlace>), SpoolError> {
    let states: Vec<_> = filter.state.into_iter().collect();
    let (mut messages, mut looked_at, mut next) = (Vec::new(), 0, Some(place));
    let mut listed = HashSet::new();
    while let Some(place) = next.filter(|_| looked_at < LOOKED_AT && messages.len() < limit) {
        let (selection, rows) = select(db, filter, &states, place)?;
        looked_at += rows.max(1);
        next = selection.next;
        for Selected { seq, .. } in selection.found {
            if listed.contains(&seq) {
                continue;
            }
            if messages.len() == limit {
                // The page is full in the middle of a look.
                let last = messages.last().map_or(0, |last: &StoredMessage| last.seq);
                next = Some(FilterPlace { seq: last, ..place });
                break;
            }
            listed.insert(seq);
            match look::load(db, seq, now) {
                Err(SpoolError::Damaged(what)) => {
                    tracing::warn!(seq, what, "spool: a damaged message is not listed");
                }
                loaded => messages.push(loaded?),
            }
        }
    }
    Ok((messages, next))
}

/// A row, by the place of its message; without what it holds if that is damaged.
type LookedAt = (i64, Option<Looked>);

/// What a row holds.
struct Looked {
    recipient: Selected,
    reverse_path: Vec<u8>,
    accepted: Stamp,
}

/// What is read of a row, with its joins.
macro_rules! looked {
    ($rows:literal) => {
        concat!(
            "SELECT r.seq, r.idx, m.id, r.address, r.hop, r.state, r.last_reply, m.reverse_path, m.accepted_ms, m.size ",
            $rows
        )
    };
}

/// One look: what a filter takes, and how many rows were looked at. It ends with the last recipient of a message.
fn select(
    db: &Db<'_>,
    filter: &MessageFilter,
    states: &[RecipientState],
    place: FilterPlace,
) -> Result<(Selection, usize), SpoolError> {
    let part = usize::from(place.part);
    let behind = [place.seq.into(), ROWS.into()];
    let of_state = |state: RecipientState| (state as i64).into();
    let (mut rows, parts) = match (filter.ids.get(part), states.get(part)) {
        (Some(id), _) => {
            let sql = looked!(
                "FROM messages m JOIN recipients r ON r.seq = m.seq WHERE m.id = ?1 ORDER BY r.idx"
            );
            let mut rows = db.query(sql, &[id.as_bytes().into()], looked)?;
            if !states.is_empty() {
                rows.retain(|row| is_in(row, states));
            }
            (rows, filter.ids.len())
        }
        (None, _) if !filter.ids.is_empty() => (Vec::new(), 0),
        (None, Some(state)) => {
            let sql = looked!(
                "FROM recipients r INDEXED BY recipients_state JOIN messages m ON m.seq = r.seq \
                 WHERE r.state = ?3 AND r.seq > ?1 ORDER BY r.seq LIMIT ?2"
            );
            let [seq, limit] = behind;
            let rows = db.query(sql, &[seq, limit, of_state(*state)], looked)?;
            (rows, states.len())
        }
        (None, None) if part > 0 => (Vec::new(), 0),
        (None, None) => {
            let sql = looked!(
                "FROM recipients r JOIN messages m ON m.seq = r.seq WHERE r.seq > ?1 ORDER BY r.seq LIMIT ?2"
            );
            (db.query(sql, &behind, looked)?, 1)
        }
    };
    let is_cut = filter.ids.is_empty() && rows.len() >= ROWS as usize;
    let last = rows.last().map_or(place.seq, |(seq, _)| *seq);
    if is_cut {
        // All of the last message, of which some may be missing.
        rows.retain(|(seq, _)| *seq != last);
        let sql = looked!(
            "FROM recipients r JOIN messages m ON m.seq = r.seq WHERE r.seq = ?1 ORDER BY r.idx"
        );
        let mut whole = db.query(sql, &[last.into()], looked)?;
        if let Some(state) = states.get(part) {
            whole.retain(|row| is_in(row, &[*state]));
        }
        rows.append(&mut whole);
    }
    let next = if is_cut {
        Some(FilterPlace { seq: last, ..place })
    } else {
        let part = place.part.saturating_add(1);
        (usize::from(part) < parts).then_some(FilterPlace { part, seq: 0 })
    };
    let looked_at = rows.len();
    let rows = rows.into_iter().filter_map(|(_, row)| row);
    let found = rows
        .filter(|row| filter.takes(row))
        .map(|row| row.recipient);
    let found = found.collect();
    Ok((Selection { found, next }, looked_at))
}

fn is_in((_, row): &LookedAt, states: &[RecipientState]) -> bool {
    row.as_ref()
        .is_some_and(|row| states.contains(&row.recipient.state))
}

/// A damaged row takes no other with it.
fn looked(row: &Row<'_>) -> Result<LookedAt, SpoolError> {
    let seq = row.get(0)?;
    match what_is_there(row) {
        Err(SpoolError::Damaged(_)) => Ok((seq, None)),
        looked => Ok((seq, Some(looked?))),
    }
}

fn what_is_there(row: &Row<'_>) -> Result<Looked, SpoolError> {
    Ok(Looked {
        recipient: Selected {
            seq: row.get(0)?,
            idx: row.get(1)?,
            id: look::message_id(row, 2)?,
            address: row.get(3)?,
            hop: row.get(4)?,
            state: RecipientState::read(row.get(5)?)?,
            last_reply: row.get(6)?,
            size: unsigned(row.get(9)?),
        },
        reverse_path: row.get(7)?,
        accepted: Stamp(row.get(8)?),
    })
}
