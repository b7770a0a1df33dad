//! Reading messages: their bodies, and what became of them.

use std::collections::HashMap;

use super::{
    Body, ListFilter, Origin, RecipientRow, RecipientState, Spool, SpoolError, StoredMessage, Tick,
    db::{Db, Row},
    history,
};
use crate::{
    clock::Stamp,
    names::{CycleId, MessageId},
};
use linkmail_smtp::ReversePath;

impl Spool {
    /// The body of a message.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub async fn body(&self, seq: i64) -> Result<Body, SpoolError> {
        let sql = "SELECT m.body_file, b.content, m.hash FROM messages m LEFT JOIN bodies b USING (seq) WHERE seq = ?1";
        let found = self.read(move |db| {
            db.row(sql, &[seq.into()], |row| {
                Ok((row.get::<Option<String>>(0)?, row.get(1)?, row.get(2)?))
            })
        });
        match found.await? {
            Some((Some(name), _, hash)) => Body::open(self.body_store(), name, hash).await,
            Some((None, Some(content), hash)) => Ok(Body::inline(content, hash)),
            _ => Err(SpoolError::Damaged(format!("message {seq} has no body"))),
        }
    }

    /// The bodies of those of these messages whose bodies lie in the database.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn inline_bodies(&self, seqs: Vec<i64>) -> Result<HashMap<i64, Body>, SpoolError> {
        let sql =
            "SELECT b.content, m.hash FROM bodies b JOIN messages m USING (seq) WHERE seq = ?1";
        self.read(move |db| {
            let mut bodies = HashMap::with_capacity(seqs.len());
            for seq in &seqs {
                let body = db.row(sql, &[(*seq).into()], |row| {
                    Ok(Body::inline(row.get(0)?, row.get(1)?))
                });
                bodies.extend(body?.map(|body| (*seq, body)));
            }
            Ok(bodies)
        })
        .await
    }

    /// One message, if it is there.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn message(&self, id: MessageId) -> Result<Option<StoredMessage>, SpoolError> {
        let now = (self.tick(), Stamp::now());
        self.read(move |db| {
            place_of(db, id)?
                .map(|seq| look_up(db, seq, now))
                .transpose()
        })
        .await
    }

    /// Messages in the order of their acceptance. One whose row is damaged is left out, with a log line.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<StoredMessage>, SpoolError> {
        let now = (self.tick(), Stamp::now());
        self.read(move |db| list(db, filter, now)).await
    }
}

/// The place of a message in the spool.
pub(super) fn place_of(db: &Db<'_>, id: MessageId) -> Result<Option<i64>, SpoolError> {
    let sql = "SELECT seq FROM messages WHERE id = ?1";
    db.row(sql, &[id.as_bytes().into()], |row| row.get(0))
}

/// With what happened to its recipients.
fn look_up(db: &Db<'_>, seq: i64, now: (Tick, Stamp)) -> Result<StoredMessage, SpoolError> {
    let mut stored = load(db, seq, now)?;
    let mut history = history::of_message(db, seq)?.into_iter().peekable();
    for (idx, recipient) in (0..).zip(&mut stored.recipients) {
        while let Some((_, entry)) = history.next_if(|(of, _)| *of == idx) {
            recipient.history.push(entry);
        }
    }
    Ok(stored)
}

fn list(
    db: &Db<'_>,
    filter: ListFilter,
    now: (Tick, Stamp),
) -> Result<Vec<StoredMessage>, SpoolError> {
    let sql = match filter.state {
        None => "SELECT seq FROM messages WHERE seq > ?1 AND ?2 = 0 ORDER BY seq LIMIT ?3",
        Some(_) => {
            "SELECT DISTINCT seq FROM recipients WHERE state = ?2 AND seq > ?1 ORDER BY seq LIMIT ?3"
        }
    };
    let state = filter.state.map_or(0, |state| state as i64);
    let places = |after: i64, limit: u32| {
        db.query(sql, &[after.into(), state.into(), limit.into()], |row| {
            row.get(0)
        })
    };
    page(places, filter.after, filter.limit, |seq| {
        match load(db, seq, now) {
            Err(SpoolError::Damaged(what)) => {
                tracing::warn!(seq, what, "spool: a damaged message is not listed");
                Ok(None)
            }
            loaded => loaded.map(Some),
        }
    })
}

/// Up to `limit` of what is loaded behind a place: what is left out does not shorten the page.
pub(super) fn page<T>(
    places: impl Fn(i64, u32) -> Result<Vec<i64>, SpoolError>,
    mut after: i64,
    limit: u32,
    load: impl Fn(i64) -> Result<Option<T>, SpoolError>,
) -> Result<Vec<T>, SpoolError> {
    let mut loaded = Vec::new();
    while loaded.len() < limit as usize {
        let found = places(after, limit)?;
        for seq in &found {
            if loaded.len() < limit as usize {
                loaded.extend(load(*seq)?);
            }
            after = *seq;
        }
        if found.len() < limit as usize {
            break;
        }
    }
    Ok(loaded)
}

/// Messages, and those that are too damaged to be read: their place and what is wrong.
pub(super) type AndDamaged<T> = (Vec<T>, Vec<(i64, String)>);

/// Loads message after message, by their places; a damaged one does not stop the rest.
pub(super) fn load_each<T>(
    seqs: &[i64],
    load: impl Fn(i64) -> Result<T, SpoolError>,
) -> Result<AndDamaged<T>, SpoolError> {
    let (mut messages, mut damaged) = (Vec::new(), Vec::new());
    for seq in seqs {
        match load(*seq) {
            Ok(message) => messages.push(message),
            Err(SpoolError::Damaged(what)) => damaged.push((*seq, what)),
            Err(error) => return Err(error),
        }
    }
    Ok((messages, damaged))
}

pub(super) fn load(db: &Db<'_>, seq: i64, now: (Tick, Stamp)) -> Result<StoredMessage, SpoolError> {
    let message = "SELECT id, accepted_ms, reverse_path, origin, link, cycle, size, traceparent FROM messages WHERE seq = ?1";
    let recipients = "SELECT address, state, hop, attempts, due_ms, last_reply, settled_ms, host \
                      FROM recipients WHERE seq = ?1 ORDER BY idx";
    let stored = db.row(message, &[seq.into()], |row| stored(row, seq))?;
    let stored = stored
        .ok_or_else(|| SpoolError::Damaged(format!("message {seq} has recipients and no row")))?;
    Ok(StoredMessage {
        recipients: db.query(recipients, &[seq.into()], |row| recipient(row, now))?,
        ..stored
    })
}

fn stored(row: &Row<'_>, seq: i64) -> Result<StoredMessage, SpoolError> {
    Ok(StoredMessage {
        seq,
        id: message_id(row, 0)?,
        accepted: Stamp(row.get(1)?),
        reverse_path: reverse_path(row, 2)?,
        origin: Origin::parse(&row.get::<String>(3)?)?,
        link: row.get(4)?,
        cycle: row
            .get::<Option<Vec<u8>>>(5)?
            .and_then(|id| CycleId::from_bytes(&id)),
        size: unsigned(row.get(6)?),
        traceparent: row.get(7)?,
        recipients: Vec::new(),
    })
}

fn recipient(row: &Row<'_>, (tick, wall): (Tick, Stamp)) -> Result<RecipientRow, SpoolError> {
    Ok(RecipientRow {
        address: String::from_utf8_lossy(&row.get::<Vec<u8>>(0)?).into_owned(),
        state: RecipientState::read(row.get(1)?)?,
        hop: row.get(2)?,
        attempts: row.get(3)?,
        due: Tick(row.get(4)?).at_wall(tick, wall),
        last_reply: row.get(5)?,
        settled: row.get::<Option<i64>>(6)?.map(Stamp),
        host: row.get(7)?,
        history: Vec::new(),
    })
}

pub(super) fn message_id(row: &Row<'_>, column: usize) -> Result<MessageId, SpoolError> {
    let bytes: Vec<u8> = row.get(column)?;
    MessageId::from_bytes(&bytes).ok_or_else(|| SpoolError::Damaged("message id".into()))
}

pub(super) fn reverse_path(row: &Row<'_>, column: usize) -> Result<ReversePath, SpoolError> {
    let bytes: Vec<u8> = row.get(column)?;
    ReversePath::parse_utf8(&bytes)
        .map_err(|error| SpoolError::Damaged(format!("reverse path: {error}")))
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{
        due::tests::spool,
        tests::place::{Place, change, on_both},
    };

    async fn a_damaged_message_is_left_out_of_the_list_and_does_not_end_its_page(place: Place) {
        let spool = spool(&place).await;
        change(
            &spool,
            "UPDATE messages SET origin = 'pigeon' WHERE seq = 2",
        )
        .await;
        for state in [None, Some(RecipientState::Queued)] {
            let filter = ListFilter {
                after: 0,
                state,
                limit: 3,
            };
            let found = spool.list(filter).await.unwrap();
            assert_eq!(found.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 3, 4]);
        }
    }
    on_both![a_damaged_message_is_left_out_of_the_list_and_does_not_end_its_page];
}
