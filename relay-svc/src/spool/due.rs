//! What waits for a next hop, and what of it is due.

use std::{collections::HashSet, time::Duration};

use super::{
    Backlog, Due, DueRecipient, MessageWish, Origin, RecipientState, RecipientWish, Spool,
    SpoolError,
    db::{Db, Row},
    lanes::{self, DuePlace},
    look::{AndDamaged, load_each, message_id, reverse_path, unsigned},
};
use crate::{
    clock::Stamp,
    names::{LinkName, NextHop},
    spool::Tick,
};
use linkmail_smtp::{
    DeliverBy, Mailbox, Priority,
    dsn::{EnvelopeId, Notify, OriginalRecipient, Ret},
};

impl Spool {
    /// Up to `limit` messages that have recipients due for a next hop: the most urgent, of each lane those first that are due
    /// longest.
    ///
    /// # Errors
    /// The database cannot be read. A message whose row is damaged is set aside and does not stop the rest.
    pub async fn due(&self, hop: String, now: Tick, limit: u32) -> Result<Vec<Due>, SpoolError> {
        loop {
            let hop = hop.clone();
            let (messages, damaged) = self.read(move |db| due(db, &hop, now, limit)).await?;
            let more = messages.is_empty() && !damaged.is_empty();
            self.set_aside_damaged(damaged).await?;
            if !more {
                return Ok(messages);
            }
        }
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
        now: Tick,
    ) -> Result<Vec<Due>, SpoolError> {
        let (mut messages, damaged) = self
            .read(move |db| load_each(&seqs, |seq| load_due(db, seq, &hop, state, now)))
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
            let sql = "UPDATE recipients SET state = 5, last_reply = ?2 WHERE seq = ?1 AND state IN (1, 6, 7)";
            self.write(move |db| db.execute(sql, &[seq.into(), (&what).into()]))
                .await?;
        }
        Ok(())
    }

    /// What waits for a next hop; messages are counted up to `cap`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn backlog(&self, hop: String, now: Tick, cap: u64) -> Result<Backlog, SpoolError> {
        self.read(move |db| backlog(db, &hop, now, cap)).await
    }

    /// How many messages wait for a next hop, due or not.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn queued(&self, hop: String) -> Result<u64, SpoolError> {
        // The index by state gives messages in order, so that they are told apart without being remembered: 0.6 s for a
        // million.
        let sql = "SELECT count(DISTINCT seq) FROM recipients INDEXED BY recipients_state WHERE hop = ?1 AND state = 1";
        let count = self.read(move |db| db.value(sql, &[(&hop).into()]));
        Ok(unsigned(count.await?))
    }

    /// How many messages wait for a link, due or not, its large mail among them.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn queued_over(&self, link: &LinkName) -> Result<u64, SpoolError> {
        let sql = "SELECT count(DISTINCT seq) FROM recipients INDEXED BY recipients_state WHERE hop IN (?1, ?2) AND state = 1";
        let hop = NextHop::Link(link.clone()).to_string();
        let large = NextHop::Oversize(link.clone()).to_string();
        let count = self.read(move |db| db.value(sql, &[(&hop).into(), (&large).into()]));
        Ok(unsigned(count.await?))
    }
}

fn due(db: &Db<'_>, hop: &str, now: Tick, limit: u32) -> Result<AndDamaged<Due>, SpoolError> {
    let (mut seqs, mut seen) = (Vec::new(), HashSet::new());
    for lane in lanes::of(db, hop)? {
        let places = lanes::places(db, hop, &lane, now, DuePlace::START, (limit, false))?;
        seqs.extend(
            places
                .into_iter()
                .map(|place| place.seq)
                .filter(|seq| seen.insert(*seq)),
        );
        if seqs.len() >= limit as usize {
            break;
        }
    }
    seqs.truncate(limit as usize);
    load_each(&seqs, |seq| {
        load_due(db, seq, hop, RecipientState::Queued, now)
    })
}

const MESSAGE: &str = "SELECT id, reverse_path, size, eight_bit, origin, link, accepted_ms, traceparent, ret, envelope_id, utf8_header, \
                       priority, deliver_by, deadline_ms \
                       FROM messages WHERE seq = ?1";

/// By the primary key, which the `+` leave alone: by `recipients_due` it would walk all that is due for the hop.
const RECIPIENTS: &str = "SELECT idx, address, attempts, waited_ms, tried_ms, due_ms, last_reply, notify, original, attempts_before, \
     since_ms, late_ms \
     FROM recipients WHERE seq = ?1 AND +hop = ?2 AND +state = ?4 AND +due_ms <= ?3 ORDER BY idx";

/// A message with those of its recipients that are in this state for this hop, and due.
pub(super) fn load_due(
    db: &Db<'_>,
    seq: i64,
    hop: &str,
    state: RecipientState,
    now: Tick,
) -> Result<Due, SpoolError> {
    let of = [seq.into(), hop.into(), now.0.into(), (state as i64).into()];
    let recipients = db.query(RECIPIENTS, &of, |row| recipient(row, seq));
    db.row(MESSAGE, &[seq.into()], |row| message(row, seq))?
        .ok_or_else(|| SpoolError::Damaged(format!("message {seq} has recipients and no row")))
        .and_then(|due| {
            Ok(Due {
                recipients: recipients?,
                ..due
            })
        })
}

fn message(row: &Row<'_>, seq: i64) -> Result<Due, SpoolError> {
    Ok(Due {
        seq,
        id: message_id(row, 0)?,
        reverse_path: reverse_path(row, 1)?,
        size: unsigned(row.get(2)?),
        eight_bit: row.get(3)?,
        origin: Origin::parse(&row.get::<String>(4)?)?,
        link: row
            .get::<Option<String>>(5)?
            .and_then(|name| LinkName::parse(&name).ok()),
        accepted: Stamp(row.get(6)?),
        traceparent: row.get(7)?,
        wish: MessageWish {
            ret: wish(row, 8, Ret::parse)?,
            envelope_id: wish(row, 9, EnvelopeId::parse)?,
            priority: priority(row.get(11)?)?,
            deliver_by: wish(row, 12, DeliverBy::parse)?,
        },
        utf8_header: row.get(10)?,
        deadline: row.get::<Option<i64>>(13)?.map(Tick),
        recipients: Vec::new(),
    })
}

fn recipient(row: &Row<'_>, seq: i64) -> Result<DueRecipient, SpoolError> {
    let address: Vec<u8> = row.get(1)?;
    Ok(DueRecipient {
        idx: row.get(0)?,
        address: Mailbox::parse_utf8(&address)
            .map_err(|e| SpoolError::Damaged(format!("message {seq}: {e}")))?,
        attempts: row.get(2)?,
        waited: Duration::from_millis(unsigned(row.get(3)?)),
        tried: row
            .get::<Option<i64>>(4)?
            .map(|ms| Duration::from_millis(unsigned(ms))),
        due: Tick(row.get(5)?),
        last_reply: row.get(6)?,
        wish: RecipientWish {
            notify: wish(row, 7, Notify::parse)?,
            original: wish(row, 8, |text| OriginalRecipient::parse(text, false))?,
        },
        attempts_before: row.get(9)?,
        since: Duration::from_millis(unsigned(row.get(10)?)),
        is_late: row.get::<Option<i64>>(11)?.is_some(),
    })
}

pub(super) fn priority(number: i64) -> Result<Priority, SpoolError> {
    let known = i8::try_from(number).ok().and_then(Priority::new);
    known.ok_or_else(|| SpoolError::Damaged(format!("priority {number}")))
}

/// A parameter that the sender gave, if there is one.
fn wish<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, SpoolError> {
    match row.get::<Option<String>>(column)? {
        None => Ok(None),
        Some(text) => match parse(text.as_bytes()) {
            None => Err(SpoolError::Damaged(format!("parameter {text:?}"))),
            known => Ok(known),
        },
    }
}

fn backlog(db: &Db<'_>, hop: &str, now: Tick, cap: u64) -> Result<Backlog, SpoolError> {
    let mut backlog = Backlog::default();
    for lane in lanes::of(db, hop)? {
        if lane.first <= now {
            let left = cap.saturating_sub(backlog.due);
            backlog.due += lanes::weight(db, hop, &lane, now, left, false)?.0;
            backlog.oldest_due = [backlog.oldest_due, Some(lane.first)]
                .into_iter()
                .flatten()
                .min();
        }
        let next = lanes::next(db, hop, &lane, now)?;
        backlog.next_due = [backlog.next_due, next].into_iter().flatten().min();
    }
    Ok(backlog)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        names::MessageId,
        spool::tests::place::{Place, on_both},
    };

    const HOP: &str = "link:isp";

    /// A spool with messages 1 to 4 of two recipients each, which are due at different times.
    pub(in crate::spool) async fn spool(place: &Place) -> Spool {
        let message = "INSERT INTO messages (seq, id, accepted_ms, reverse_path, origin, size, eight_bit, hash, traceparent) \
                       VALUES (?1, ?2, 0, ?3, 'smtp', 0, 0, ?3, '')";
        let recipient = "INSERT INTO recipients (seq, idx, address, hop, state, due_ms) VALUES (?1, ?2, ?3, ?4, 1, ?5)";
        let spool = place.open().await;
        let made = spool.write(move |db| {
            for seq in 1..=4_i64 {
                let id = MessageId::new();
                db.execute(message, &[seq.into(), id.as_bytes().into(), b"".into()])?;
                for idx in 0..2_i64 {
                    let address = b"a@b.example".into();
                    let due = (10 * seq + idx).into();
                    db.execute(
                        recipient,
                        &[seq.into(), idx.into(), address, HOP.into(), due],
                    )?;
                }
            }
            Ok(())
        });
        made.await.unwrap();
        spool
    }

    #[tokio::test]
    async fn a_message_is_loaded_without_a_look_at_others() {
        let folder = tempfile::tempdir().unwrap();
        let _spool = Spool::open(folder.path()).unwrap();
        let other = rusqlite::Connection::open(folder.path().join("spool.sqlite")).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {RECIPIENTS}");
        let mut plan = other.prepare(&plan).unwrap();
        let queued = RecipientState::Queued as i64;
        let steps = plan.query_map(rusqlite::params![1, HOP, 100, queued], |row| row.get(3));
        let steps: Vec<String> = steps.unwrap().map(Result::unwrap).collect();
        assert_eq!(steps, ["SEARCH recipients USING PRIMARY KEY (seq=?)"]);
    }

    async fn a_message_counts_once_however_many_recipients_wait(place: Place) {
        let spool = spool(&place).await;
        assert_eq!(spool.queued(HOP.into()).await.unwrap(), 4);
        for (now, cap, due) in [(100, 9, 4), (100, 3, 3), (20, 9, 2), (9, 9, 0)] {
            let backlog = spool.backlog(HOP.into(), Tick(now), cap).await.unwrap();
            assert_eq!(backlog.due, due, "at {now}, up to {cap}");
        }
    }

    on_both![a_message_counts_once_however_many_recipients_wait];
}
