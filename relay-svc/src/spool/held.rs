//! Held messages: those of a node, and those that have been held for too long.

use std::time::Duration;

use super::{
    Due, RecipientState, Spool, SpoolError, Tick,
    db::{Db, Row},
    due,
    look::{AndDamaged, load_each, unsigned},
    nodes::node,
    store::millis,
};
use crate::names::{NextHop, Node};

/// A place among what is held, by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct HeldPlace {
    since_ms: i64,
    seq: i64,
    hop: String,
}

/// What has been held for too long.
#[derive(Debug, Default)]
pub struct TooOld {
    /// The messages, each with its node.
    pub messages: Vec<(Node, Due)>,
    /// Where it goes on, if there may be more.
    pub next: Option<HeldPlace>,
}

impl Spool {
    /// Up to `limit` held messages of a node between two places in the spool, in their order.
    ///
    /// # Errors
    /// The database cannot be read. A message whose row is damaged is set aside and does not stop the rest.
    pub async fn held(
        &self,
        node: &Node,
        after: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<Due>, SpoolError> {
        let hop = NextHop::Hold(node.clone()).to_string();
        loop {
            let hop = hop.clone();
            let (messages, damaged) = self
                .read(move |db| held(db, &hop, after, upto, limit))
                .await?;
            let more = messages.is_empty() && !damaged.is_empty();
            self.set_aside_damaged(damaged).await?;
            if !more {
                return Ok(messages);
            }
        }
    }

    /// The places of up to `limit` held messages of a node between two places in the spool, in their order.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_places(
        &self,
        node: &Node,
        after: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<i64>, SpoolError> {
        let hop = NextHop::Hold(node.clone()).to_string();
        self.read(move |db| held_places(db, &hop, after, upto, limit))
            .await
    }

    /// How many messages are held for a next hop at some places, and behind one and up to another, and how many octets they
    /// have together; up to `cap` messages count.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_weight(
        &self,
        hop: String,
        places: Vec<i64>,
        after: i64,
        upto: i64,
        cap: u32,
    ) -> Result<(u64, u64), SpoolError> {
        self.read(move |db| held_weight(db, &hop, &places, after, upto, cap))
            .await
    }

    /// Up to `limit` messages that are held although the time is over after which their senders want them back; each by its
    /// node and its place in the spool.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_overdue(&self, limit: u32) -> Result<Vec<(Node, i64)>, SpoolError> {
        let sql = "SELECT DISTINCT r.hop, r.seq FROM messages m INDEXED BY messages_deadline JOIN recipients r ON r.seq = m.seq \
                   WHERE m.deadline_ms <= ?1 AND m.deliver_by LIKE '%R%' AND r.state = 6 LIMIT ?2";
        let now = self.tick();
        let found = self.read(move |db| {
            db.query(sql, &[now.0.into(), limit.into()], |row| {
                Ok((row.get::<String>(0)?, row.get(1)?))
            })
        });
        let found = found.await?.into_iter();
        let named =
            found.filter_map(|(hop, seq)| Some((hop.strip_prefix("hold:").and_then(node)?, seq)));
        Ok(named.collect())
    }

    /// Some held messages that have been held for longer than `age` by the spool's clock, oldest first, behind a place, each
    /// with its node; a message of two nodes comes twice. And the place where it goes on, if there may be more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_too_long(
        &self,
        age: Duration,
        after: HeldPlace,
        limit: u32,
    ) -> Result<TooOld, SpoolError> {
        let Some(before) = self.clock().checked_sub(age) else {
            return Ok(TooOld::default());
        };
        let (old, damaged) = self
            .read(move |db| {
                let places = too_old(db, before, &after, limit)?;
                let full = places.len() >= limit as usize;
                let mut old = TooOld {
                    messages: Vec::new(),
                    next: places.last().filter(|_| full).cloned(),
                };
                let mut damaged = Vec::new();
                for place in places {
                    let held = RecipientState::Held;
                    let (seq, hop) = (place.seq, place.hop.as_str());
                    let due = due::load_due(db, seq, hop, held, Tick::END);
                    match (hop.strip_prefix("hold:").and_then(node), due) {
                        (Some(node), Ok(due)) => old.messages.push((node, due)),
                        (None, _) => damaged.push((seq, format!("hop {hop:?}"))),
                        (_, Err(SpoolError::Damaged(what))) => damaged.push((seq, what)),
                        (_, Err(error)) => return Err(error),
                    }
                }
                Ok((old, damaged))
            })
            .await?;
        self.set_aside_damaged(damaged).await?;
        Ok(old)
    }
}

/// What was held before a reading of the spool's clock, behind a place.
fn too_old(
    db: &Db<'_>,
    before: Duration,
    after: &HeldPlace,
    limit: u32,
) -> Result<Vec<HeldPlace>, SpoolError> {
    let sql = "SELECT DISTINCT since_ms, seq, hop FROM recipients INDEXED BY recipients_held_since \
               WHERE state = 6 AND since_ms <= ?1 AND (since_ms, seq, hop) > (?2, ?3, ?4) \
               ORDER BY since_ms, seq, hop LIMIT ?5";
    let HeldPlace { since_ms, seq, hop } = after;
    let behind = [
        millis(before).into(),
        (*since_ms).into(),
        (*seq).into(),
        hop.into(),
        limit.into(),
    ];
    db.query(sql, &behind, |row| {
        Ok(HeldPlace {
            since_ms: row.get(0)?,
            seq: row.get(1)?,
            hop: row.get(2)?,
        })
    })
}

fn held_places(
    db: &Db<'_>,
    hop: &str,
    after: i64,
    upto: i64,
    limit: u32,
) -> Result<Vec<i64>, SpoolError> {
    let sql = "SELECT DISTINCT seq FROM recipients INDEXED BY recipients_held \
               WHERE hop = ?1 AND state = 6 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4";
    let between = [hop.into(), after.into(), upto.into(), limit.into()];
    db.query(sql, &between, |row| row.get(0))
}

fn held_weight(
    db: &Db<'_>,
    hop: &str,
    places: &[i64],
    after: i64,
    upto: i64,
    cap: u32,
) -> Result<(u64, u64), SpoolError> {
    let sql = "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM messages WHERE seq IN \
               (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_held \
                WHERE hop = ?1 AND state = 6 AND seq > ?2 AND seq <= ?3 LIMIT ?4)";
    let read = |row: &Row<'_>| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)));
    let of = |after: i64, upto: i64, cap: usize| -> Result<(u64, u64), SpoolError> {
        let cap = i64::try_from(cap).unwrap_or(i64::MAX);
        let between = [hop.into(), after.into(), upto.into(), cap.into()];
        Ok(db.row(sql, &between, read)?.unwrap_or_default())
    };
    let cap = cap as usize;
    let (mut messages, mut octets) = of(after, upto, cap.saturating_sub(places.len()))?;
    for place in places.iter().take(cap) {
        let one = of(place - 1, *place, 1)?;
        (messages, octets) = (messages + one.0, octets + one.1);
    }
    Ok((messages, octets))
}

fn held(
    db: &Db<'_>,
    hop: &str,
    after: i64,
    upto: i64,
    limit: u32,
) -> Result<AndDamaged<Due>, SpoolError> {
    load_each(&held_places(db, hop, after, upto, limit)?, |seq| {
        due::load_due(db, seq, hop, RecipientState::Held, Tick::END)
    })
}
