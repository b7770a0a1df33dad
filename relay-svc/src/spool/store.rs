//! Writing messages: accepted, settled, forgotten.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Accepted, Draft, NewMessage, RecipientState, Settled, Spool, SpoolError,
    body::{Facts, Finished},
    requests,
};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId},
    queue::Settlement,
};

/// So often an outcome is tried to be recorded on a full disk.
const FULL_TRIES: u32 = 20;
/// The pause between two tries.
const FULL_PAUSE: Duration = Duration::from_millis(500);

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

    /// Records outcomes of a message's recipients, together with the report that tells its sender of them.
    ///
    /// An outcome that is not recorded would send the message again. A full disk is therefore waited for, up to
    /// [`FULL_TRIES`] times [`FULL_PAUSE`].
    ///
    /// # Errors
    /// The disk stays full; nothing is recorded then.
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
        let outcome = Arc::new((settled, report));
        let mut tries = 0;
        let spent = loop {
            let outcome = Arc::clone(&outcome);
            let recorded = self.write(move |connection| {
                let (settled, report) = &*outcome;
                for each in settled {
                    record(connection, seq, each)?;
                }
                if let Some((message, body, facts)) = report {
                    insert(connection, message, body, facts)?;
                }
                close_if_done(connection, seq, now)
            });
            match recorded.await {
                Err(SpoolError::Full) if tries < FULL_TRIES => {
                    tries += 1;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                ended => break ended?,
            }
        };
        if let Some(file) = spent {
            // A file that stays behind is swept at the next start.
            let _ = tokio::fs::remove_file(self.inner.folder.join("bodies").join(file)).await;
        }
        self.inner.signals.wake(hops.iter().map(String::as_str));
        Ok(())
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

fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
