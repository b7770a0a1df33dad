//! Reading messages: their bodies, and what became of them.

use std::collections::HashMap;

use linkmail_smtp::ReversePath;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Body, ListFilter, Origin, RecipientRow, RecipientState, Spool, SpoolError, StoredMessage,
};
use crate::{
    clock::Stamp,
    names::{CycleId, MessageId},
};

impl Spool {
    /// The body of a message.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub async fn body(&self, seq: i64) -> Result<Body, SpoolError> {
        let sql = "SELECT m.body_file, b.content, m.hash FROM messages m LEFT JOIN bodies b USING (seq) WHERE seq = ?1";
        let found = self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([seq])?;
            Ok(match rows.next()? {
                Some(row) => Some((row.get::<_, Option<String>>(0)?, row.get(1)?, row.get(2)?)),
                None => None,
            })
        });
        match found.await? {
            Some((Some(file), _, hash)) => Body::open(&self.inner.folder, &file, hash).await,
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
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let mut bodies = HashMap::with_capacity(seqs.len());
            for seq in seqs {
                let mut rows = statement.query([seq])?;
                if let Some(row) = rows.next()? {
                    bodies.insert(seq, Body::inline(row.get(0)?, row.get(1)?));
                }
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
        self.read(move |connection| {
            let seq: Option<i64> = connection
                .prepare_cached("SELECT seq FROM messages WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?;
            seq.map(|seq| load(connection, seq)).transpose()
        })
        .await
    }

    /// Messages in the order of their acceptance. One whose row is damaged is left out, with a log line.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<StoredMessage>, SpoolError> {
        self.read(move |connection| list(connection, filter)).await
    }
}

fn list(connection: &Connection, filter: ListFilter) -> Result<Vec<StoredMessage>, SpoolError> {
    // Rows come in the order of the index, so reading stops where the page is full: what is left out does not shorten it.
    let sql = match filter.state {
        None => "SELECT seq FROM messages WHERE seq > ?1 AND ?2 = 0 ORDER BY seq",
        Some(_) => "SELECT DISTINCT seq FROM recipients WHERE state = ?2 AND seq > ?1 ORDER BY seq",
    };
    let state = filter.state.map_or(0, |state| state as i64);
    let mut statement = connection.prepare_cached(sql)?;
    let mut seqs = statement.query(params![filter.after, state])?;
    let mut messages = Vec::new();
    while messages.len() < filter.limit as usize
        && let Some(row) = seqs.next()?
    {
        let seq = row.get(0)?;
        match load(connection, seq) {
            Ok(message) => messages.push(message),
            Err(SpoolError::Damaged(what)) => {
                tracing::warn!(seq, what, "spool: a damaged message is not listed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(messages)
}

/// Messages, and those that are too damaged to be read: their place and what is wrong.
pub(super) type AndDamaged<T> = (Vec<T>, Vec<(i64, String)>);

/// Loads message after message, by their places; a damaged one does not stop the rest.
pub(super) fn load_each<T>(
    seqs: Vec<i64>,
    load: impl Fn(i64) -> Result<T, SpoolError>,
) -> Result<AndDamaged<T>, SpoolError> {
    let (mut messages, mut damaged) = (Vec::new(), Vec::new());
    for seq in seqs {
        match load(seq) {
            Ok(message) => messages.push(message),
            Err(SpoolError::Damaged(what)) => damaged.push((seq, what)),
            Err(error) => return Err(error),
        }
    }
    Ok((messages, damaged))
}

/// What every look at a message reads of its row.
pub(super) struct MessageRow {
    pub(super) id: MessageId,
    pub(super) accepted: Stamp,
    pub(super) reverse_path: ReversePath,
    pub(super) origin: Origin,
    pub(super) link: Option<String>,
    pub(super) size: u64,
    pub(super) traceparent: String,
}

/// Reads the row of a message; `make` has it for the columns that are not in [`MessageRow`], by their names.
pub(super) fn load_row<T>(
    connection: &Connection,
    seq: i64,
    make: impl FnOnce(MessageRow, &Row<'_>) -> Result<T, SpoolError>,
) -> Result<T, SpoolError> {
    let mut message = connection.prepare_cached(
        "SELECT id, accepted_ms, reverse_path, origin, link, size, traceparent, \
         cycle, eight_bit, ret, envelope_id, utf8_header FROM messages WHERE seq = ?1",
    )?;
    let mut rows = message.query([seq])?;
    let row = rows
        .next()?
        .ok_or_else(|| SpoolError::Damaged(format!("message {seq} has recipients and no row")))?;
    let of_all = MessageRow {
        id: message_id(&row.get::<_, Vec<u8>>(0)?)?,
        accepted: Stamp(row.get(1)?),
        reverse_path: reverse_path(&row.get::<_, Vec<u8>>(2)?)?,
        origin: Origin::parse(&row.get::<_, String>(3)?)?,
        link: row.get(4)?,
        size: unsigned(row.get(5)?),
        traceparent: row.get(6)?,
    };
    make(of_all, row)
}

pub(super) fn load(connection: &Connection, seq: i64) -> Result<StoredMessage, SpoolError> {
    let mut stored = load_row(connection, seq, |message, row| {
        let cycle: Option<Vec<u8>> = row.get("cycle")?;
        Ok(StoredMessage {
            seq,
            id: message.id,
            accepted: message.accepted,
            reverse_path: message.reverse_path,
            origin: message.origin,
            link: message.link,
            cycle: cycle.and_then(|id| CycleId::from_bytes(&id)),
            size: message.size,
            traceparent: message.traceparent,
            recipients: Vec::new(),
        })
    })?;
    let mut recipients = connection.prepare_cached(
        "SELECT address, state, hop, attempts, due_ms, last_reply FROM recipients WHERE seq = ?1 ORDER BY idx",
    )?;
    let mut recipient_rows = recipients.query([seq])?;
    while let Some(row) = recipient_rows.next()? {
        stored.recipients.push(RecipientRow {
            address: String::from_utf8_lossy(&row.get::<_, Vec<u8>>(0)?).into_owned(),
            state: RecipientState::read(row.get(1)?)?,
            hop: row.get(2)?,
            attempts: row.get(3)?,
            due: Stamp(row.get(4)?),
            last_reply: row.get(5)?,
        });
    }
    Ok(stored)
}

fn message_id(octets: &[u8]) -> Result<MessageId, SpoolError> {
    MessageId::from_bytes(octets).ok_or_else(|| SpoolError::Damaged("message id".into()))
}

fn reverse_path(octets: &[u8]) -> Result<ReversePath, SpoolError> {
    ReversePath::parse_utf8(octets)
        .map_err(|error| SpoolError::Damaged(format!("reverse path: {error}")))
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::due::tests::spool;

    #[tokio::test]
    async fn a_damaged_message_is_left_out_of_the_list_and_does_not_end_its_page() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, other) = spool(folder.path());
        other
            .execute("UPDATE messages SET origin = 'pigeon' WHERE seq = 2", [])
            .unwrap();
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
}
