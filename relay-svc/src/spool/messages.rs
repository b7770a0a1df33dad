//! Messages, their recipients, and what became of each.

use std::{collections::HashSet, time::Duration};

use linkmail_smtp::{Mailbox, ReversePath};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Body, Draft, Spool, SpoolError,
    body::{Facts, Finished},
    requests::{self, RequestKey},
};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId, NextHop},
    queue::Settlement,
    route::Routes,
};

/// How a message came to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By SMTP.
    Smtp,
    /// By `SubmitMessage`.
    Grpc,
    /// Written by the relay itself.
    Report,
}

impl Origin {
    /// The word for it, in the spool and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Grpc => "grpc",
            Self::Report => "report",
        }
    }

    fn parse(text: &str) -> Result<Self, SpoolError> {
        [Self::Smtp, Self::Grpc, Self::Report]
            .into_iter()
            .find(|origin| origin.as_str() == text)
            .ok_or_else(|| SpoolError::Damaged(format!("origin {text:?}")))
    }
}

/// A recipient of a message that is to be accepted.
#[derive(Debug, Clone)]
pub struct NewRecipient {
    /// The address, as the client wrote it.
    pub address: Mailbox,
    /// Its next hop.
    pub hop: NextHop,
}

/// A message that is to be accepted, apart from its body.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its identity.
    pub id: MessageId,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// The recipients; at least one.
    pub recipients: Vec<NewRecipient>,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<LinkName>,
    /// The cycle during which it came over that link.
    pub cycle: Option<CycleId>,
    /// W3C `traceparent` of its creation; empty if there is none.
    pub traceparent: String,
    /// When it was received.
    pub accepted: Stamp,
    /// The identity of the call that brought it.
    pub request: Option<RequestKey>,
}

/// A message that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its identity: that of the first call if this one was a repeat.
    pub id: MessageId,
    /// Octets of the body.
    pub size: u64,
}

/// The state of a recipient. The numbers stand in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum RecipientState {
    /// Waits for its next attempt, or for the line.
    Queued = 1,
    /// Accepted by the next hop.
    Delivered = 2,
    /// Refused for good, and the sender was told.
    Bounced = 3,
    /// Refused for good, with nobody to tell.
    Discarded = 4,
    /// Cannot be sent; kept for an operator.
    SetAside = 5,
}

impl RecipientState {
    fn read(number: i64) -> Result<Self, SpoolError> {
        [
            Self::Queued,
            Self::Delivered,
            Self::Bounced,
            Self::Discarded,
            Self::SetAside,
        ]
        .into_iter()
        .find(|state| *state as i64 == number)
        .ok_or_else(|| SpoolError::Damaged(format!("recipient state {number}")))
    }
}

/// A message of which some recipients are due for one next hop.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its place in the spool.
    pub seq: i64,
    /// Its identity.
    pub id: MessageId,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// Octets of the body.
    pub size: u64,
    /// Whether the body has octets above 127.
    pub eight_bit: bool,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<LinkName>,
    /// When it was accepted.
    pub accepted: Stamp,
    /// W3C `traceparent` of its creation.
    pub traceparent: String,
    /// The recipients that are due; at least one.
    pub recipients: Vec<DueRecipient>,
}

/// A recipient that is due.
#[derive(Debug, Clone)]
pub struct DueRecipient {
    /// Its place in the envelope.
    pub idx: i64,
    /// The address.
    pub address: Mailbox,
    /// Counted attempts so far.
    pub attempts: u32,
    /// Time that passed between them.
    pub waited: Duration,
    /// The last of them.
    pub tried: Option<Stamp>,
    /// When it became due.
    pub due: Stamp,
}

/// What became of one recipient of a message.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The recipient's place in the envelope.
    pub idx: i64,
    /// What is to be recorded.
    pub settlement: Settlement,
}

/// What waits for a next hop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages that are due, counted up to the given cap.
    pub due: u64,
    /// Since when the longest of them is due.
    pub oldest_due: Option<Stamp>,
    /// When the next one becomes due that is not yet.
    pub next_due: Option<Stamp>,
}

/// A recipient as it stands.
#[derive(Debug, Clone)]
pub struct RecipientRow {
    /// The address, as text.
    pub address: String,
    /// Its state.
    pub state: RecipientState,
    /// Its next hop.
    pub hop: String,
    /// Counted attempts.
    pub attempts: u32,
    /// The next attempt, while queued.
    pub due: Stamp,
    /// The last reply or error.
    pub last_reply: String,
}

/// A message as it stands, without its body.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its place in the spool.
    pub seq: i64,
    /// Its identity.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<String>,
    /// The cycle during which it came.
    pub cycle: Option<CycleId>,
    /// Octets of the body.
    pub size: u64,
    /// W3C `traceparent` of its creation.
    pub traceparent: String,
    /// Its recipients, in the order of the envelope.
    pub recipients: Vec<RecipientRow>,
}

/// Which messages are listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListFilter {
    /// Only those after this place in the spool.
    pub after: i64,
    /// Only those with a recipient in this state.
    pub state: Option<RecipientState>,
    /// At most so many.
    pub limit: u32,
}

impl Spool {
    /// Makes the message durable. After `Ok` the relay answers for it (invariant 1).
    ///
    /// # Errors
    /// The disk is full, or the request id was used with other content; nothing is stored then.
    pub async fn accept(&self, draft: Draft, message: NewMessage) -> Result<Accepted, SpoolError> {
        let (body, facts) = draft.finish().await?;
        let hops: Vec<String> = message
            .recipients
            .iter()
            .map(|r| r.hop.to_string())
            .collect();
        let accepted = self
            .write(move |connection| insert(connection, &message, &body, &facts))
            .await?;
        self.inner.signals.wake(hops.iter().map(String::as_str));
        Ok(accepted)
    }

    /// Up to `limit` messages that have recipients due for a next hop, those first that are due longest.
    ///
    /// # Errors
    /// The database cannot be read. A message whose row is damaged is set aside and does not stop the rest.
    pub async fn due(&self, hop: String, now: Stamp, limit: u32) -> Result<Vec<Due>, SpoolError> {
        let (messages, damaged) = self
            .read(move |connection| due(connection, &hop, now, limit))
            .await?;
        for (seq, what) in damaged {
            tracing::error!(seq, what, "spool: a damaged message is set aside");
            let sql =
                "UPDATE recipients SET state = 5, last_reply = ?2 WHERE seq = ?1 AND state = 1";
            self.write(move |c| Ok(c.prepare_cached(sql)?.execute(params![seq, what])?))
                .await?;
        }
        Ok(messages)
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
        let sql = "SELECT count(DISTINCT seq) FROM recipients WHERE hop = ?1 AND state = 1";
        let count = self.read(move |c| {
            Ok(c.prepare_cached(sql)?
                .query_row([&hop], |row| row.get::<_, i64>(0))?)
        });
        Ok(unsigned(count.await?))
    }

    /// Records outcomes of a message's recipients, together with the report that tells its sender of them.
    ///
    /// # Errors
    /// The disk is full; nothing is recorded then.
    pub async fn settle(
        &self,
        seq: i64,
        settled: Vec<Settled>,
        report: Option<(Draft, NewMessage)>,
        now: Stamp,
    ) -> Result<(), SpoolError> {
        let mut hops = Vec::new();
        let report = match report {
            Some((draft, message)) => {
                hops.extend(message.recipients.iter().map(|r| r.hop.to_string()));
                let (body, facts) = draft.finish().await?;
                Some((message, body, facts))
            }
            None => None,
        };
        let spent = self.write(move |connection| {
            for each in &settled {
                record(connection, seq, each)?;
            }
            if let Some((message, body, facts)) = &report {
                insert(connection, message, body, facts)?;
            }
            close_if_done(connection, seq, now)
        });
        if let Some(file) = spent.await? {
            // A file that stays behind is swept at the next start.
            let _ = tokio::fs::remove_file(self.inner.folder.join("bodies").join(file)).await;
        }
        self.inner.signals.wake(hops.iter().map(String::as_str));
        Ok(())
    }

    /// The body of a message.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub async fn body(&self, seq: i64) -> Result<Body, SpoolError> {
        let found = self.read(move |connection| {
            let sql = "SELECT m.body_file, b.content FROM messages m LEFT JOIN bodies b USING (seq) WHERE seq = ?1";
            let row: Option<(Option<String>, Option<Vec<u8>>)> =
                connection.prepare_cached(sql)?.query_row([seq], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
            Ok(row)
        });
        match found.await? {
            Some((Some(file), _)) => Body::open(&self.inner.folder, &file).await,
            Some((None, Some(content))) => Ok(Body::Inline(content)),
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

    /// Messages in the order of their acceptance.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<StoredMessage>, SpoolError> {
        self.read(move |connection| {
            let sql = match filter.state {
                None => "SELECT seq FROM messages WHERE seq > ?1 AND ?2 = 0 ORDER BY seq LIMIT ?3",
                Some(_) => {
                    "SELECT DISTINCT seq FROM recipients WHERE state = ?2 AND seq > ?1 ORDER BY seq LIMIT ?3"
                }
            };
            let state = filter.state.map_or(0, |state| state as i64);
            let mut statement = connection.prepare_cached(sql)?;
            let seqs: Vec<i64> = statement
                .query_map(params![filter.after, state, filter.limit], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            seqs.into_iter().map(|seq| load(connection, seq)).collect()
        })
        .await
    }

    /// Routes queued mail anew if the routes changed since the last time; says how many recipients moved.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn reroute(&self, routes: Routes) -> Result<u64, SpoolError> {
        self.write(move |connection| reroute(connection, &routes))
            .await
    }

    /// Forgets finished messages whose last outcome is older than `before`, some at a time; says how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget(&self, before: Stamp) -> Result<u64, SpoolError> {
        let sql = "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages WHERE done_ms < ?1 LIMIT 1000)";
        self.write(
            move |connection| Ok(connection.prepare_cached(sql)?.execute([before.0])? as u64),
        )
        .await
    }
}

fn insert(
    connection: &Connection,
    message: &NewMessage,
    body: &Finished,
    facts: &Facts,
) -> Result<Accepted, SpoolError> {
    if let Some(key) = &message.request {
        if let Some(target) = requests::find(connection, key)? {
            let first = MessageId::from_bytes(&target)
                .ok_or_else(|| SpoolError::Damaged("request target".into()))?;
            return Ok(Accepted {
                id: first,
                size: facts.size,
            });
        }
        requests::remember(connection, key, message.id.as_bytes(), message.accepted)?;
    }
    let file = match body {
        Finished::File(name) => Some(name),
        Finished::Inline(_) => None,
    };
    connection
        .prepare_cached(
            "INSERT INTO messages (id, accepted_ms, reverse_path, origin, link, cycle, size, eight_bit, hash, \
             body_file, traceparent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            message.id.as_bytes(),
            message.accepted.0,
            message.reverse_path.to_bytes(),
            message.origin.as_str(),
            message.link.as_ref().map(LinkName::as_str),
            message.cycle.as_ref().map(CycleId::as_bytes),
            i64::try_from(facts.size).unwrap_or(i64::MAX),
            facts.eight_bit,
            facts.hash,
            file,
            message.traceparent,
        ])?;
    let seq = connection.last_insert_rowid();
    if let Finished::Inline(content) = body {
        connection
            .prepare_cached("INSERT INTO bodies (seq, content) VALUES (?1, ?2)")?
            .execute(params![seq, content])?;
    }
    let mut statement = connection.prepare_cached(
        "INSERT INTO recipients (seq, idx, address, hop, state, due_ms) VALUES (?1, ?2, ?3, ?4, 1, ?5)",
    )?;
    for (idx, recipient) in (0_i64..).zip(&message.recipients) {
        let hop = recipient.hop.to_string();
        statement.execute(params![
            seq,
            idx,
            recipient.address.to_bytes(),
            hop,
            message.accepted.0
        ])?;
    }
    Ok(Accepted {
        id: message.id,
        size: facts.size,
    })
}

/// The messages that are due, and those that are too damaged to be read: their place and what is wrong.
type DueAndDamaged = (Vec<Due>, Vec<(i64, String)>);

fn due(
    connection: &Connection,
    hop: &str,
    now: Stamp,
    limit: u32,
) -> Result<DueAndDamaged, SpoolError> {
    // Walks the partial index in order; recipients of one message that are due at different times give several rows.
    let mut seqs = connection.prepare_cached(
        "SELECT seq FROM recipients WHERE hop = ?1 AND state = 1 AND due_ms <= ?2 \
         GROUP BY due_ms, seq ORDER BY due_ms, seq LIMIT ?3",
    )?;
    let (mut seen, mut messages, mut damaged) = (HashSet::new(), Vec::new(), Vec::new());
    for seq in seqs.query_map(params![hop, now.0, limit], |row| row.get::<_, i64>(0))? {
        let seq = seq?;
        if !seen.insert(seq) {
            continue;
        }
        match load_due(connection, seq, hop, now) {
            Ok(message) => messages.push(message),
            Err(SpoolError::Damaged(what)) => damaged.push((seq, what)),
            Err(error) => return Err(error),
        }
    }
    Ok((messages, damaged))
}

fn load_due(connection: &Connection, seq: i64, hop: &str, now: Stamp) -> Result<Due, SpoolError> {
    let mut message = connection.prepare_cached(
        "SELECT id, reverse_path, size, eight_bit, origin, link, accepted_ms, traceparent FROM messages WHERE seq = ?1",
    )?;
    let mut rows = message.query([seq])?;
    let row = rows
        .next()?
        .ok_or_else(|| SpoolError::Damaged(format!("message {seq} has recipients and no row")))?;
    let mut recipients = connection.prepare_cached(
        "SELECT idx, address, attempts, waited_ms, tried_ms, due_ms FROM recipients \
         WHERE seq = ?1 AND hop = ?2 AND state = 1 AND due_ms <= ?3 ORDER BY idx",
    )?;
    let mut rows = recipients.query(params![seq, hop, now.0])?;
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
        recipients: Vec::new(),
    };
    while let Some(row) = rows.next()? {
        let address: Vec<u8> = row.get(1)?;
        due.recipients.push(DueRecipient {
            idx: row.get(0)?,
            address: Mailbox::parse(&address)
                .map_err(|e| SpoolError::Damaged(format!("message {seq}: {e}")))?,
            attempts: row.get(2)?,
            waited: Duration::from_millis(unsigned(row.get(3)?)),
            tried: row.get::<_, Option<i64>>(4)?.map(Stamp),
            due: Stamp(row.get(5)?),
        });
    }
    Ok(due)
}

fn backlog(
    connection: &Connection,
    hop: &str,
    now: Stamp,
    cap: u64,
) -> Result<Backlog, SpoolError> {
    let due: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM recipients WHERE hop = ?1 AND state = 1 AND due_ms <= ?2 \
             GROUP BY due_ms, seq LIMIT ?3)",
        )?
        .query_row(params![hop, now.0, i64::try_from(cap).unwrap_or(i64::MAX)], |row| row.get(0))?;
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

fn record(connection: &Connection, seq: i64, settled: &Settled) -> Result<(), SpoolError> {
    let (state, reply) = match &settled.settlement {
        Settlement::Retry {
            due,
            attempts,
            waited,
            tried,
            reply,
        } => {
            connection
                .prepare_cached(
                    "UPDATE recipients SET due_ms = ?3, attempts = ?4, waited_ms = ?5, tried_ms = ?6, last_reply = ?7 \
                     WHERE seq = ?1 AND idx = ?2 AND state = 1",
                )?
                .execute(params![seq, settled.idx, due.0, attempts, millis(*waited), tried.0, reply])?;
            return Ok(());
        }
        Settlement::Delivered { reply } => (RecipientState::Delivered, reply),
        Settlement::Bounced { reply } => (RecipientState::Bounced, reply),
        Settlement::Discarded { reply } => (RecipientState::Discarded, reply),
        Settlement::SetAside { reason } => (RecipientState::SetAside, reason),
    };
    let counts = i64::from(state != RecipientState::SetAside);
    connection
        .prepare_cached(
            "UPDATE recipients SET state = ?3, attempts = attempts + ?4, last_reply = ?5 \
             WHERE seq = ?1 AND idx = ?2 AND state = 1",
        )?
        .execute(params![seq, settled.idx, state as i64, counts, reply])?;
    Ok(())
}

/// Lets the body go once every recipient has its outcome; gives the file that is to be removed.
fn close_if_done(
    connection: &Connection,
    seq: i64,
    now: Stamp,
) -> Result<Option<String>, SpoolError> {
    let open: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM recipients WHERE seq = ?1 AND state IN (1, 5))",
        )?
        .query_row([seq], |row| row.get(0))?;
    if open {
        return Ok(None);
    }
    let file = connection
        .prepare_cached("SELECT body_file FROM messages WHERE seq = ?1")?
        .query_row([seq], |row| row.get(0))
        .optional()?
        .flatten();
    connection
        .prepare_cached("DELETE FROM bodies WHERE seq = ?1")?
        .execute([seq])?;
    connection
        .prepare_cached("UPDATE messages SET done_ms = ?2 WHERE seq = ?1")?
        .execute([seq, now.0])?;
    Ok(file)
}

fn load(connection: &Connection, seq: i64) -> Result<StoredMessage, SpoolError> {
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

fn reroute(connection: &Connection, routes: &Routes) -> Result<u64, SpoolError> {
    let print = routes.fingerprint();
    let known: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'routes'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if known.as_deref() == Some(print.as_str()) {
        return Ok(0);
    }
    let mut moved = 0;
    let mut queued =
        connection.prepare("SELECT seq, idx, address, hop FROM recipients WHERE state = 1")?;
    let mut change =
        connection.prepare("UPDATE recipients SET hop = ?3 WHERE seq = ?1 AND idx = ?2")?;
    let mut changes = Vec::new();
    let mut rows = queued.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, idx, address, hop): (i64, i64, Vec<u8>, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Ok(address) = Mailbox::parse(&address) else {
            continue;
        };
        match routes.find(address.domain()) {
            Some(route) if route.hop.to_string() != hop => {
                changes.push((seq, idx, route.hop.to_string()))
            }
            Some(_) => {}
            None => {
                tracing::warn!(recipient = %address, hop, "queued mail has no route any more; it keeps its old one")
            }
        }
    }
    for (seq, idx, hop) in changes {
        moved += change.execute(params![seq, idx, hop])? as u64;
    }
    connection.execute(
        "INSERT OR REPLACE INTO meta (key, value) VALUES ('routes', ?1)",
        [print],
    )?;
    Ok(moved)
}

fn message_id(row: &Row<'_>, column: usize) -> Result<MessageId, SpoolError> {
    let bytes: Vec<u8> = row.get(column)?;
    MessageId::from_bytes(&bytes).ok_or_else(|| SpoolError::Damaged("message id".into()))
}

fn reverse_path(row: &Row<'_>, column: usize) -> Result<ReversePath, SpoolError> {
    let bytes: Vec<u8> = row.get(column)?;
    ReversePath::parse(&bytes)
        .map_err(|error| SpoolError::Damaged(format!("reverse path: {error}")))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
