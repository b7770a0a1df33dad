//! Writing messages: accepted, settled, forgotten.

use std::time::Duration;

use super::{
    Accepted, Draft, Engine, NewMessage, NewRecipient, RecipientState, Settled, Spool, SpoolError,
    Tick,
    age::Now,
    body::{Facts, Finished},
    chunks,
    db::Db,
    history, look, nodes, repeats, requests,
};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId, NextHop},
    queue::{Settlement, order::Lane},
};
use linkmail_smtp::{
    DeliverBy, Priority,
    dsn::{EnvelopeId, Notify, Ret},
};

impl Spool {
    /// Makes the message durable. After `Ok` the relay answers for it (invariant 1).
    ///
    /// # Errors
    /// The disk is full, or the request id was used with other content; nothing is stored then.
    pub async fn accept(
        &self,
        draft: Draft,
        mut message: NewMessage,
    ) -> Result<Accepted, SpoolError> {
        if let Some(room) = self.room() {
            room.check()?;
        }
        let (body, facts) = draft.finish().await?;
        self.size_limits().sort(&mut message, facts.size);
        let file = body.name().map(str::to_owned);
        let (id, hops) = (
            message.id,
            message
                .recipients
                .iter()
                .map(|r| r.hop.to_string())
                .collect::<Vec<_>>(),
        );
        let now = self.now();
        let accepted = self
            .write(move |db| insert(db, &message, &body, &facts, now))
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
    ) -> Result<(), SpoolError> {
        let report = match report {
            None => None,
            Some((draft, mut message)) => {
                let finished = draft.finish().await?;
                self.size_limits().sort(&mut message, finished.1.size);
                Some((finished, message))
            }
        };
        let recipients = report.iter().flat_map(|(_, message)| &message.recipients);
        let hops: Vec<String> = recipients
            .map(|recipient| recipient.hop.to_string())
            .collect();
        let file = report
            .as_ref()
            .and_then(|((body, _), _)| body.name().map(str::to_owned));
        let now = self.now();
        let written = self.write(move |db| {
            let report = report.as_ref();
            settle(db, seq, &settled, report, now)
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
    pub(super) async fn remove_body(&self, file: &str) {
        match &self.inner.engine {
            Engine::Embedded(embedded) => embedded.removals.remove(file).await,
            Engine::Shared(shared) => chunks::remove(&shared.pool, file.to_owned()).await,
        }
    }

    /// Forgets finished messages whose last outcome is older than `age` by the spool's clock, some at a time; says how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget(&self, age: Duration) -> Result<u64, SpoolError> {
        let Some(before) = self.clock().checked_sub(age) else {
            return Ok(0);
        };
        let (forgotten, files) = self.write(move |db| forget(db, before)).await?;
        for file in files {
            self.remove_body(&file).await;
        }
        Ok(forgotten)
    }
}

fn insert(
    db: &Db<'_>,
    message: &NewMessage,
    body: &Finished,
    facts: &Facts,
    now: Now,
) -> Result<Accepted, SpoolError> {
    let (id, size) = (message.id, facts.size);
    if db.may_be_done() && look::place_of(db, id)?.is_some() {
        return Ok(Accepted { id, size });
    }
    if let Some(key) = &message.request {
        if let Some(target) = requests::find(db, key)? {
            let id = MessageId::from_bytes(&target)
                .ok_or_else(|| SpoolError::Damaged("request target".into()))?;
            return Ok(Accepted { id, size });
        }
        requests::remember(db, key, message.id.as_bytes(), now.clock)?;
    }
    let recipients = match &message.handover {
        None => message.recipients.iter().collect(),
        Some(handover) => {
            let (fresh, first) = repeats::take(db, message, handover, now.clock)?;
            if let Some(id) = first {
                return Ok(Accepted { id, size });
            }
            fresh
        }
    };
    if recipients.iter().any(|one| one.hop == NextHop::Report) {
        // Whoever reads reports goes on behind the last place that he saw.
        db.lock("SELECT 1 FROM meta WHERE key = 'reports' FOR UPDATE", &[])?;
    }
    let seq = insert_message(db, message, body, facts, now)?;
    insert_recipients(db, seq, (&recipients, message.wish.priority), now)?;
    Ok(Accepted { id, size })
}

/// The message itself, and its body if that has no file; says at which place.
fn insert_message(
    db: &Db<'_>,
    message: &NewMessage,
    body: &Finished,
    facts: &Facts,
    now: Now,
) -> Result<i64, SpoolError> {
    if let Some(name) = body.name() {
        chunks::lock(db, name)?;
    }
    let wish = &message.wish;
    let envelope_id = wish.envelope_id.as_ref().map(EnvelopeId::encode);
    let deliver_by = wish.deliver_by.as_ref().map(ToString::to_string);
    // Where it was over when the message came, a host before us has told.
    let seconds = wish.deliver_by.map(DeliverBy::seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = seconds
        .filter(|seconds| *seconds > 0)
        .map(|seconds| now.tick.plus(Duration::from_secs(seconds)));
    let seq = db.insert(
        "INSERT INTO messages (id, accepted_ms, reverse_path, origin, link, cycle, size, eight_bit, hash, \
         body_file, traceparent, ret, envelope_id, utf8_header, priority, deliver_by, deadline_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        "seq",
        &[
            message.id.as_bytes().into(),
            message.accepted.0.into(),
            (&message.reverse_path.to_bytes()).into(),
            message.origin.as_str().into(),
            message.link.as_ref().map(LinkName::as_str).into(),
            message.cycle.as_ref().map(CycleId::as_bytes).into(),
            i64::try_from(facts.size).unwrap_or(i64::MAX).into(),
            facts.eight_bit.into(),
            (&facts.hash).into(),
            body.name().into(),
            (&message.traceparent).into(),
            wish.ret.map(Ret::encode).into(),
            envelope_id.as_deref().into(),
            message.utf8_header.into(),
            i64::from(wish.priority.get()).into(),
            deliver_by.as_deref().into(),
            deadline.map(|end| end.0).into(),
        ],
    )?;
    if let Finished::Inline(content) = body {
        let sql = "INSERT INTO bodies (seq, content) VALUES (?1, ?2)";
        db.execute(sql, &[seq.into(), content.into()])?;
    }
    Ok(seq)
}

fn insert_recipients(
    db: &Db<'_>,
    seq: i64,
    (recipients, priority): (&[&NewRecipient], Priority),
    now: Now,
) -> Result<(), SpoolError> {
    let sql = "INSERT INTO recipients (seq, idx, address, hop, state, due_ms, since_ms, notify, original, rank, lane) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    for (idx, recipient) in (0_i64..).zip(recipients) {
        if let NextHop::Hold(node) = &recipient.hop {
            nodes::know(db, node, now.clock)?;
        }
        let wish = &recipient.wish;
        let original = wish.original.as_ref().map(|text| text.encode(false));
        db.execute(
            sql,
            &[
                seq.into(),
                idx.into(),
                (&recipient.address.to_bytes()).into(),
                (&recipient.hop.to_string()).into(),
                (RecipientState::waiting_for(&recipient.hop) as i64).into(),
                now.tick.0.into(),
                millis(now.clock).into(),
                wish.notify.map(Notify::encode).as_deref().into(),
                original.as_deref().into(),
                (-i64::from(priority.get())).into(),
                i64::from(Lane::of(recipient.address.domain()).0).into(),
            ],
        )?;
    }
    Ok(())
}

type Report = ((Finished, Facts), NewMessage);

/// The file that is to be removed, and whether the report was stored.
pub(super) fn settle(
    db: &Db<'_>,
    seq: i64,
    settled: &[Settled],
    report: Option<&Report>,
    now: Now,
) -> Result<(Option<String>, bool), SpoolError> {
    lock(db, seq)?;
    let (mut recorded, at) = (0, Stamp::now());
    for each in settled {
        recorded += record(db, seq, each, (now.tick, at))?;
    }
    // Nobody is told of what had its outcome before.
    let report = report.filter(|_| recorded > 0);
    if let Some(((body, facts), message)) = report {
        insert(db, message, body, facts, now)?;
    }
    Ok((close_if_done(db, seq, now.clock)?, report.is_some()))
}

/// Keeps others from what becomes of a message until the end of the change: the last outcome closes it.
pub(super) fn lock(db: &Db<'_>, seq: i64) -> Result<(), SpoolError> {
    let sql = "SELECT 1 FROM messages WHERE seq = ?1 FOR UPDATE";
    db.lock(sql, &[seq.into()]).map(drop)
}

/// Says how many recipients that was: one, or none if it had its outcome before.
fn record(
    db: &Db<'_>,
    seq: i64,
    settled: &Settled,
    (now, at): (Tick, Stamp),
) -> Result<u64, SpoolError> {
    let place = (seq, settled.idx);
    let (seq, idx) = (seq.into(), settled.idx.into());
    let (state, reply) = match &settled.settlement {
        Settlement::Retry {
            wait,
            attempts,
            waited,
            tried,
            in_doubt,
            reply,
        } => {
            let (waited, doubts) = (millis(*waited).into(), (*in_doubt).into());
            let (due, tried) = (now.plus(*wait).0.into(), millis(*tried).into());
            let kept = db.execute(
                "UPDATE recipients SET due_ms = ?3, attempts = ?4, waited_ms = ?5, tried_ms = ?6, last_reply = ?7, \
                 doubts = doubts + ?8 WHERE seq = ?1 AND idx = ?2 AND state IN (1, 6, 7)",
                &[seq, idx, due, (*attempts).into(), waited, tried, reply.into(), doubts],
            )?;
            if kept > 0 {
                let outcome = if *in_doubt { "in_doubt" } else { "deferred" };
                history::add(db, place.0, place.1, &settled.by.past(at, outcome, reply))?;
            }
            return Ok(kept);
        }
        Settlement::Delivered { reply } => (RecipientState::Delivered, reply),
        Settlement::Bounced { reply } => (RecipientState::Bounced, reply),
        Settlement::Discarded { reply } => (RecipientState::Discarded, reply),
        Settlement::SetAside { reason } => (RecipientState::SetAside, reason),
        Settlement::Late { at } => {
            let sql = "UPDATE recipients SET late_ms = ?3 WHERE seq = ?1 AND idx = ?2 AND state IN (1, 6) AND late_ms IS NULL";
            return db.execute(sql, &[seq, idx, at.0.into()]);
        }
    };
    let by = &settled.by;
    let counts = (state != RecipientState::SetAside && by.operator.is_empty()).into();
    // What an operator holds, or what was set aside, may have been in a session: its outcome is a fact.
    let sql = match state {
        RecipientState::SetAside => {
            "UPDATE recipients SET state = ?3, attempts = attempts + ?4, last_reply = ?5, settled_ms = ?6, host = ?7 \
             WHERE seq = ?1 AND idx = ?2 AND state IN (1, 6, 7)"
        }
        _ => {
            "UPDATE recipients SET state = ?3, attempts = attempts + ?4, last_reply = ?5, settled_ms = ?6, host = ?7 \
             WHERE seq = ?1 AND idx = ?2 AND state IN (1, 5, 6, 7)"
        }
    };
    let state = (state as i64).into();
    let host = (&by.host).into();
    let recorded = db.execute(
        sql,
        &[seq, idx, state, counts, reply.into(), at.0.into(), host],
    )?;
    if recorded > 0 && !by.operator.is_empty() {
        history::add(db, place.0, place.1, &by.past(at, "returned", reply))?;
    }
    Ok(recorded)
}

/// Says how many messages that was, and which files go with them: those of reports, whose bodies were kept so long.
fn forget(db: &Db<'_>, before: Duration) -> Result<(u64, Vec<String>), SpoolError> {
    let old = "SELECT seq, body_file FROM messages WHERE done_ms <= ?1 LIMIT 1000";
    let found = db.query(old, &[millis(before).into()], |row| {
        Ok((row.get::<i64>(0)?, row.get::<Option<String>>(1)?))
    })?;
    for (seq, _) in &found {
        let sql = "DELETE FROM messages WHERE seq = ?1";
        db.execute(sql, &[(*seq).into()])?;
    }
    let count = found.len() as u64;
    Ok((
        count,
        found.into_iter().filter_map(|(_, file)| file).collect(),
    ))
}

/// Lets the body go once every recipient has its outcome; gives the file that is to be removed.
pub(super) fn close_if_done(
    db: &Db<'_>,
    seq: i64,
    clock: Duration,
) -> Result<Option<String>, SpoolError> {
    let seq = [seq.into()];
    let open = "SELECT 1 FROM recipients WHERE seq = ?1 AND state IN (1, 5, 6, 7) LIMIT 1";
    if db.exists(open, &seq)? {
        return Ok(None);
    }
    let done = "UPDATE messages SET done_ms = ?2, deadline_ms = NULL WHERE seq = ?1";
    db.execute(done, &[seq[0], millis(clock).into()])?;
    // A report can still be looked at until it is forgotten.
    let report = "SELECT 1 FROM recipients WHERE seq = ?1 AND hop = 'report' LIMIT 1";
    if db.exists(report, &seq)? {
        return Ok(None);
    }
    db.execute("DELETE FROM bodies WHERE seq = ?1", &seq)?;
    let file = "SELECT body_file FROM messages WHERE seq = ?1";
    let file: Option<String> = db.row(file, &seq, |row| row.get(0))?.flatten();
    if file.is_some() {
        let sql = "UPDATE messages SET body_file = NULL WHERE seq = ?1";
        db.execute(sql, &seq)?;
    }
    Ok(file)
}

pub(super) fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
