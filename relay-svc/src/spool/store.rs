//! Writing messages: accepted, settled, forgotten.

use std::time::Duration;

use linkmail_smtp::dsn::{EnvelopeId, Notify, Ret};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Accepted, Draft, NewMessage, NewRecipient, RecipientState, Settled, Spool, SpoolError,
    body::{Facts, Finished},
    nodes, repeats, requests,
};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId, NextHop},
    queue::Settlement,
};

impl Spool {
    /// Makes the message durable. After `Ok` the relay answers for it (invariant 1).
    ///
    /// # Errors
    /// The disk is full, or the request id was used with other content; nothing is stored then.
    pub async fn accept(&self, draft: Draft, message: NewMessage) -> Result<Accepted, SpoolError> {
        let (body, facts) = draft.finish().await?;
        let file = body.file().map(str::to_owned);
        let (id, hops) = (
            message.id,
            message
                .recipients
                .iter()
                .map(|r| r.hop.to_string())
                .collect::<Vec<_>>(),
        );
        let clock = self.clock();
        let accepted = self
            .write(move |connection| insert(connection, &message, &body, &facts, clock))
            .await;
        // Refused, or a repeat of an earlier call: no row names the file.
        if let (Some(file), false) = (
            file,
            accepted.as_ref().is_ok_and(|accepted| accepted.id == id),
        ) {
            self.remove_body(&file).await;
        }
        let accepted = accepted?;
        self.inner.signals.wake(hops.iter().map(String::as_str));
        Ok(accepted)
    }

    /// Records outcomes of a message's recipients, together with the report that tells its sender of them. The report is as
    /// durable as they are.
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
        let report = match report {
            None => None,
            Some((draft, message)) => Some((draft.finish().await?, message)),
        };
        let recipients = report.iter().flat_map(|(_, message)| &message.recipients);
        let hops: Vec<String> = recipients
            .map(|recipient| recipient.hop.to_string())
            .collect();
        let file = report
            .as_ref()
            .and_then(|((body, _), _)| body.file().map(str::to_owned));
        let clock = self.clock();
        let written = self.write(move |connection| {
            let mut recorded = 0;
            for each in &settled {
                recorded += record(connection, seq, each)?;
            }
            // Nobody is told of what had its outcome before.
            let report = report.filter(|_| recorded > 0);
            if let Some(((body, facts), message)) = &report {
                insert(connection, message, body, facts, clock)?;
            }
            Ok((close_if_done(connection, seq, now)?, report.is_some()))
        });
        let written = written.await;
        // No row names the file of a report that was not stored.
        if let Some(file) = file.filter(|_| !matches!(written, Ok((_, true)))) {
            self.remove_body(&file).await;
        }
        if let (Some(spent), _) = written? {
            self.remove_body(&spent).await;
        }
        self.inner.signals.wake(hops.iter().map(String::as_str));
        Ok(())
    }

    /// A file that stays behind all the same is swept at the next start.
    async fn remove_body(&self, file: &str) {
        let _ = tokio::fs::remove_file(self.inner.folder.join("bodies").join(file)).await;
    }

    /// Forgets finished messages whose last outcome is older than `before`, some at a time; says how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget(&self, before: Stamp) -> Result<u64, SpoolError> {
        let (forgotten, files) = self.write(move |c| forget(c, before)).await?;
        for file in files {
            self.remove_body(&file).await;
        }
        Ok(forgotten)
    }
}

fn insert(
    connection: &Connection,
    message: &NewMessage,
    body: &Finished,
    facts: &Facts,
    clock: Duration,
) -> Result<Accepted, SpoolError> {
    let size = facts.size;
    if let Some(key) = &message.request {
        if let Some(target) = requests::find(connection, key)? {
            let id = MessageId::from_bytes(&target)
                .ok_or_else(|| SpoolError::Damaged("request target".into()))?;
            return Ok(Accepted { id, size });
        }
        requests::remember(connection, key, message.id.as_bytes(), message.accepted)?;
    }
    let recipients = match &message.handover {
        None => message.recipients.iter().collect(),
        Some(handover) => {
            let (fresh, first) = repeats::take(connection, message, handover, clock)?;
            if let Some(id) = first {
                return Ok(Accepted { id, size });
            }
            fresh
        }
    };
    let seq = insert_message(connection, message, body, facts)?;
    insert_recipients(connection, seq, message.accepted, &recipients, clock)?;
    let id = message.id;
    Ok(Accepted { id, size })
}

/// The message itself, and its body if that has no file; says at which place.
fn insert_message(
    connection: &Connection,
    message: &NewMessage,
    body: &Finished,
    facts: &Facts,
) -> Result<i64, SpoolError> {
    connection
        .prepare_cached(
            "INSERT INTO messages (id, accepted_ms, reverse_path, origin, link, cycle, size, eight_bit, hash, \
             body_file, traceparent, ret, envelope_id, utf8_header) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
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
            body.file(),
            message.traceparent,
            message.wish.ret.map(Ret::encode),
            message.wish.envelope_id.as_ref().map(EnvelopeId::encode),
            message.utf8_header,
        ])?;
    let seq = connection.last_insert_rowid();
    if let Finished::Inline(content) = body {
        connection
            .prepare_cached("INSERT INTO bodies (seq, content) VALUES (?1, ?2)")?
            .execute(params![seq, content])?;
    }
    Ok(seq)
}

fn insert_recipients(
    connection: &Connection,
    seq: i64,
    accepted: Stamp,
    recipients: &[&NewRecipient],
    clock: Duration,
) -> Result<(), SpoolError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO recipients (seq, idx, address, hop, state, due_ms, since_ms, notify, original) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for (idx, recipient) in (0_i64..).zip(recipients) {
        if let NextHop::Hold(node) = &recipient.hop {
            nodes::know(connection, node, accepted)?;
        }
        let wish = &recipient.wish;
        statement.execute(params![
            seq,
            idx,
            recipient.address.to_bytes(),
            recipient.hop.to_string(),
            RecipientState::waiting_for(&recipient.hop) as i64,
            accepted.0,
            millis(clock),
            wish.notify.map(Notify::encode),
            wish.original
                .as_ref()
                .map(|original| original.encode(false)),
        ])?;
    }
    Ok(())
}

/// Says how many recipients that was: one, or none if it had its outcome before.
fn record(connection: &Connection, seq: i64, settled: &Settled) -> Result<usize, SpoolError> {
    let (state, reply) = match &settled.settlement {
        Settlement::Retry {
            due,
            attempts,
            waited,
            tried,
            in_doubt,
            reply,
        } => {
            return connection
                .prepare_cached(
                    "UPDATE recipients SET due_ms = ?3, attempts = ?4, waited_ms = ?5, tried_ms = ?6, last_reply = ?7, \
                     doubts = doubts + ?8 WHERE seq = ?1 AND idx = ?2 AND state IN (1, 6)",
                )?
                .execute(params![
                    seq, settled.idx, due.0, attempts, millis(*waited), tried.0, reply, i64::from(*in_doubt),
                ])
                .map_err(SpoolError::from);
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
             WHERE seq = ?1 AND idx = ?2 AND state IN (1, 6)",
        )?
        .execute(params![seq, settled.idx, state as i64, counts, reply])
        .map_err(SpoolError::from)
}

/// Says how many messages that was, and which files go with them: those of reports, whose bodies were kept so long.
fn forget(connection: &Connection, before: Stamp) -> Result<(u64, Vec<String>), SpoolError> {
    let mut old = connection
        .prepare_cached("SELECT seq, body_file FROM messages WHERE done_ms < ?1 LIMIT 1000")?;
    let mut delete = connection.prepare_cached("DELETE FROM messages WHERE seq = ?1")?;
    let mut rows = old.query([before.0])?;
    let mut found: Vec<(i64, Option<String>)> = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, row.get(1)?));
    }
    for (seq, _) in &found {
        delete.execute([seq])?;
    }
    let count = found.len() as u64;
    Ok((
        count,
        found.into_iter().filter_map(|(_, file)| file).collect(),
    ))
}

/// Lets the body go once every recipient has its outcome; gives the file that is to be removed.
pub(super) fn close_if_done(
    connection: &Connection,
    seq: i64,
    now: Stamp,
) -> Result<Option<String>, SpoolError> {
    let open: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM recipients WHERE seq = ?1 AND state IN (1, 5, 6))",
        )?
        .query_row([seq], |row| row.get(0))?;
    if open {
        return Ok(None);
    }
    connection
        .prepare_cached("UPDATE messages SET done_ms = ?2 WHERE seq = ?1")?
        .execute([seq, now.0])?;
    // A report can still be looked at until it is forgotten.
    let is_report: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM recipients WHERE seq = ?1 AND hop = 'report')",
        )?
        .query_row([seq], |row| row.get(0))?;
    if is_report {
        return Ok(None);
    }
    connection
        .prepare_cached("DELETE FROM bodies WHERE seq = ?1")?
        .execute([seq])?;
    let file: Option<String> = connection
        .prepare_cached("SELECT body_file FROM messages WHERE seq = ?1")?
        .query_row([seq], |row| row.get(0))
        .optional()?
        .flatten();
    if file.is_some() {
        connection
            .prepare_cached("UPDATE messages SET body_file = NULL WHERE seq = ?1")?
            .execute([seq])?;
    }
    Ok(file)
}

pub(super) fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
