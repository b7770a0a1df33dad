//! Reading messages: what is due, what waits, what became of them.

use std::{collections::HashSet, time::Duration};

use linkmail_smtp::{
    Mailbox, ReversePath,
    dsn::{EnvelopeId, Notify, OriginalRecipient, Ret},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Backlog, Body, Due, DueRecipient, ListFilter, MessageWish, Origin, RecipientRow,
    RecipientState, RecipientWish, Spool, SpoolError, StoredMessage,
};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId},
};

impl Spool {
    /// Up to `limit` messages that have recipients due for a next hop, those first that are due longest.
    ///
    /// # Errors
    /// The database cannot be read. A message whose row is damaged is set aside and does not stop the rest.
    pub async fn due(&self, hop: String, now: Stamp, limit: u32) -> Result<Vec<Due>, SpoolError> {
        loop {
            let hop = hop.clone();
            let (messages, damaged) = self
                .read(move |connection| due(connection, &hop, now, limit))
                .await?;
            let more = messages.is_empty() && !damaged.is_empty();
            self.set_aside_damaged(damaged).await?;
            if !more {
                return Ok(messages);
            }
        }
    }

    /// The places of up to `limit` messages that are due for a next hop behind a point in the order of their dues.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due_places(
        &self,
        hop: String,
        now: Stamp,
        after: DuePlace,
        limit: u32,
    ) -> Result<Vec<DuePlace>, SpoolError> {
        self.read(move |connection| {
            // Walks the partial index in order; recipients of one message that are due at different times give several.
            let mut places = connection.prepare_cached(
                "SELECT due_ms, seq FROM recipients INDEXED BY recipients_due \
                 WHERE hop = ?1 AND state = 1 AND due_ms <= ?2 AND (due_ms, seq) > (?3, ?4) \
                 GROUP BY due_ms, seq ORDER BY due_ms, seq LIMIT ?5",
            )?;
            let parameters = params![hop, now.0, after.due_ms, after.seq, limit];
            let places = places.query_map(parameters, |row| {
                Ok(DuePlace {
                    due_ms: row.get(0)?,
                    seq: row.get(1)?,
                })
            })?;
            Ok(places.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How many messages are due for a next hop, and how many octets they have together; up to `cap` messages count.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due_weight(
        &self,
        hop: String,
        now: Stamp,
        cap: u32,
    ) -> Result<(u64, u64), SpoolError> {
        self.read(move |connection| {
            let mut weigh = connection.prepare_cached(
                "SELECT count(*), coalesce(sum(size), 0) FROM messages WHERE seq IN \
                 (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_due \
                  WHERE hop = ?1 AND state = 1 AND due_ms <= ?2 LIMIT ?3)",
            )?;
            let weight = weigh.query_row(params![hop, now.0, cap], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            Ok((unsigned(weight.0), unsigned(weight.1)))
        })
        .await
    }

    /// These messages, each with those of its recipients that are in `state` for a next hop, and due; without those of
    /// which nothing is. A message whose row is damaged is set aside.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn waiting(
        &self,
        seqs: Vec<i64>,
        hop: String,
        state: RecipientState,
        now: Stamp,
    ) -> Result<Vec<Due>, SpoolError> {
        let (mut messages, damaged) = self
            .read(move |connection| {
                load_each(seqs, |seq| load_due(connection, seq, &hop, state, now))
            })
            .await?;
        self.set_aside_damaged(damaged).await?;
        messages.retain(|message| !message.recipients.is_empty());
        Ok(messages)
    }

    pub(super) async fn set_aside_damaged(
        &self,
        damaged: Vec<(i64, String)>,
    ) -> Result<(), SpoolError> {
        for (seq, what) in damaged {
            tracing::error!(seq, what, "spool: a damaged message is set aside");
            let sql = "UPDATE recipients SET state = 5, last_reply = ?2 WHERE seq = ?1 AND state IN (1, 6)";
            self.write(move |c| Ok(c.prepare_cached(sql)?.execute(params![seq, what])?))
                .await?;
        }
        Ok(())
    }

    /// What waits for a next hop; messages are counted up to `cap`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn backlog(&self, hop: String, now: Stamp, cap: u64) -> Result<Backlog, SpoolError> {
        self.read(move |connection| backlog(connection, &hop, now, cap))
            .await
    }

    /// How many messages wait for a next hop, due or not.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn queued(&self, hop: String) -> Result<u64, SpoolError> {
        // The index by state gives messages in order, so that they are told apart without being remembered: 0.6 s for a
        // million. By recipients_due it is 0.35 s while they are due in order of arrival, and 3 s when they are not.
        let sql = "SELECT count(DISTINCT seq) FROM recipients INDEXED BY recipients_state WHERE hop = ?1 AND state = 1";
        let count = self.read(move |c| {
            Ok(c.prepare_cached(sql)?
                .query_row([&hop], |row| row.get::<_, i64>(0))?)
        });
        Ok(unsigned(count.await?))
    }

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

/// A place in the order in which messages are due for a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuePlace {
    due_ms: i64,
    /// The place of the message in the spool.
    pub seq: i64,
}

impl DuePlace {
    /// Before all.
    pub const START: Self = Self {
        due_ms: i64::MIN,
        seq: 0,
    };
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

fn due(
    connection: &Connection,
    hop: &str,
    now: Stamp,
    limit: u32,
) -> Result<AndDamaged<Due>, SpoolError> {
    // Walks the partial index in order; recipients of one message that are due at different times give several rows.
    let mut seqs = connection.prepare_cached(
        "SELECT seq FROM recipients WHERE hop = ?1 AND state = 1 AND due_ms <= ?2 \
         GROUP BY due_ms, seq ORDER BY due_ms, seq LIMIT ?3",
    )?;
    let seqs = seqs.query_map(params![hop, now.0, limit], |row| row.get::<_, i64>(0))?;
    let mut seqs = seqs.collect::<Result<Vec<i64>, _>>()?;
    let mut seen = HashSet::new();
    seqs.retain(|seq| seen.insert(*seq));
    load_each(seqs, |seq| {
        load_due(connection, seq, hop, RecipientState::Queued, now)
    })
}

/// A message with those of its recipients that are in this state for this hop, and due.
pub(super) fn load_due(
    connection: &Connection,
    seq: i64,
    hop: &str,
    state: RecipientState,
    now: Stamp,
) -> Result<Due, SpoolError> {
    let mut message = connection.prepare_cached(
        "SELECT id, reverse_path, size, eight_bit, origin, link, accepted_ms, traceparent, ret, envelope_id, utf8_header \
         FROM messages \
         WHERE seq = ?1",
    )?;
    let mut rows = message.query([seq])?;
    let row = rows
        .next()?
        .ok_or_else(|| SpoolError::Damaged(format!("message {seq} has recipients and no row")))?;
    let mut recipients = connection.prepare_cached(
        "SELECT idx, address, attempts, waited_ms, tried_ms, due_ms, last_reply, notify, original FROM recipients \
         WHERE seq = ?1 AND hop = ?2 AND state = ?4 AND due_ms <= ?3 ORDER BY idx",
    )?;
    let mut rows = recipients.query(params![seq, hop, now.0, state as i64])?;
    let mut due = Due {
        seq,
        id: message_id(row, 0)?,
        reverse_path: reverse_path(row, 1)?,
        size: unsigned(row.get(2)?),
        eight_bit: row.get(3)?,
        origin: Origin::parse(&row.get::<_, String>(4)?)?,
        link: row
            .get::<_, Option<String>>(5)?
            .and_then(|name| LinkName::parse(&name).ok()),
        accepted: Stamp(row.get(6)?),
        traceparent: row.get(7)?,
        wish: MessageWish {
            ret: wish(row, 8, Ret::parse)?,
            envelope_id: wish(row, 9, EnvelopeId::parse)?,
        },
        utf8_header: row.get(10)?,
        recipients: Vec::new(),
    };
    while let Some(row) = rows.next()? {
        let address: Vec<u8> = row.get(1)?;
        due.recipients.push(DueRecipient {
            idx: row.get(0)?,
            address: Mailbox::parse_utf8(&address)
                .map_err(|e| SpoolError::Damaged(format!("message {seq}: {e}")))?,
            attempts: row.get(2)?,
            waited: Duration::from_millis(unsigned(row.get(3)?)),
            tried: row.get::<_, Option<i64>>(4)?.map(Stamp),
            due: Stamp(row.get(5)?),
            last_reply: row.get(6)?,
            wish: RecipientWish {
                notify: wish(row, 7, Notify::parse)?,
                original: wish(row, 8, |text| OriginalRecipient::parse(text, false))?,
            },
        });
    }
    Ok(due)
}

/// A parameter that the sender gave, if there is one.
fn wish<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, SpoolError> {
    match row.get::<_, Option<String>>(column)? {
        None => Ok(None),
        Some(text) => match parse(text.as_bytes()) {
            None => Err(SpoolError::Damaged(format!("parameter {text:?}"))),
            known => Ok(known),
        },
    }
}

fn backlog(
    connection: &Connection,
    hop: &str,
    now: Stamp,
    cap: u64,
) -> Result<Backlog, SpoolError> {
    let due: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_due \
             WHERE hop = ?1 AND state = 1 AND due_ms <= ?2 LIMIT ?3)",
        )?
        .query_row(
            params![hop, now.0, i64::try_from(cap).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
    let first = |sql: &str| -> Result<Option<Stamp>, SpoolError> {
        let found: Option<i64> = connection
            .prepare_cached(sql)?
            .query_row(params![hop, now.0], |row| row.get(0))?;
        Ok(found.map(Stamp))
    };
    let of = "SELECT min(due_ms) FROM recipients WHERE hop = ?1 AND state = 1 AND due_ms";
    Ok(Backlog {
        due: unsigned(due),
        oldest_due: first(&format!("{of} <= ?2"))?,
        next_due: first(&format!("{of} > ?2"))?,
    })
}

pub(super) fn load(connection: &Connection, seq: i64) -> Result<StoredMessage, SpoolError> {
    let mut message = connection.prepare_cached(
        "SELECT id, accepted_ms, reverse_path, origin, link, cycle, size, traceparent FROM messages WHERE seq = ?1",
    )?;
    let mut rows = message.query([seq])?;
    let row = rows
        .next()?
        .ok_or_else(|| SpoolError::Damaged(format!("message {seq} has recipients and no row")))?;
    let mut recipients = connection.prepare_cached(
        "SELECT address, state, hop, attempts, due_ms, last_reply FROM recipients WHERE seq = ?1 ORDER BY idx",
    )?;
    let mut recipient_rows = recipients.query([seq])?;
    let mut stored = StoredMessage {
        seq,
        id: message_id(row, 0)?,
        accepted: Stamp(row.get(1)?),
        reverse_path: reverse_path(row, 2)?,
        origin: Origin::parse(&row.get::<_, String>(3)?)?,
        link: row.get(4)?,
        cycle: row
            .get::<_, Option<Vec<u8>>>(5)?
            .and_then(|id| CycleId::from_bytes(&id)),
        size: unsigned(row.get(6)?),
        traceparent: row.get(7)?,
        recipients: Vec::new(),
    };
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

fn message_id(row: &Row<'_>, column: usize) -> Result<MessageId, SpoolError> {
    let bytes: Vec<u8> = row.get(column)?;
    MessageId::from_bytes(&bytes).ok_or_else(|| SpoolError::Damaged("message id".into()))
}

fn reverse_path(row: &Row<'_>, column: usize) -> Result<ReversePath, SpoolError> {
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

    const HOP: &str = "link:isp";

    /// A spool with messages 1 to 4 of two recipients each, which are due at different times.
    fn spool(folder: &std::path::Path) -> (Spool, Connection) {
        let spool = Spool::open(folder).unwrap();
        let other = Connection::open(folder.join("spool.sqlite")).unwrap();
        for seq in 1..=4 {
            let id = MessageId::new();
            other
                .execute(
                    "INSERT INTO messages (seq, id, accepted_ms, reverse_path, origin, size, eight_bit, hash, traceparent) \
                     VALUES (?1, ?2, 0, x'', 'smtp', 0, 0, x'', '')",
                    params![seq, id.as_bytes()],
                )
                .unwrap();
            for idx in 0..2 {
                other
                    .execute(
                        "INSERT INTO recipients (seq, idx, address, hop, state, due_ms) VALUES (?1, ?2, CAST('a@b.example' AS BLOB), ?3, 1, ?4)",
                        params![seq, idx, HOP, 10 * seq + idx],
                    )
                    .unwrap();
            }
        }
        (spool, other)
    }

    #[tokio::test]
    async fn a_message_counts_once_however_many_recipients_wait() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = spool(folder.path());
        assert_eq!(spool.queued(HOP.into()).await.unwrap(), 4);
        for (now, cap, due) in [(100, 9, 4), (100, 3, 3), (20, 9, 2), (9, 9, 0)] {
            let backlog = spool.backlog(HOP.into(), Stamp(now), cap).await.unwrap();
            assert_eq!(backlog.due, due, "at {now}, up to {cap}");
        }
    }

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
