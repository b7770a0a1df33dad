//! What waits and is late: which next hops have such mail, and which messages that is.

use std::time::Duration;

use super::{
    Due, RecipientState, Spool, SpoolError, Tick, due::load_due, look::load_each, store::millis,
};
use crate::{names::NextHop, queue::late::Lateness};

/// So many next hops are told of at once.
const HOPS: i64 = 10_000;

/// The time of the sender is over, and something is to be done: it is given up, or that it is late is not on record.
const OVERDUE: &str = "SELECT DISTINCT r.hop FROM messages m INDEXED BY messages_deadline JOIN recipients r ON r.seq = m.seq \
     WHERE m.deadline_ms <= ?1 AND r.state = 1 AND r.hop <> 'report' AND (r.late_ms IS NULL OR m.deliver_by LIKE '%R%') LIMIT ?2";
/// It waits for too long. Walks all that is queued, in the order of the spool.
const LATE: &str = "SELECT DISTINCT hop FROM recipients INDEXED BY recipients_state \
     WHERE state = 1 AND ((since_ms <= ?1 AND late_ms IS NULL) OR since_ms <= ?2) AND hop <> 'report' LIMIT ?3";

impl Spool {
    /// Next hops with mail whose time, which its sender set, is over, and which somebody is to look at for that.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn overdue_hops(&self) -> Result<Vec<String>, SpoolError> {
        let now = self.tick();
        self.read(move |db| db.query(OVERDUE, &[now.0.into(), HOPS.into()], |row| row.get(0)))
            .await
    }

    /// Next hops with mail that is late by these limits, and which somebody is to look at for that.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn late_hops(&self, limits: Lateness) -> Result<Vec<String>, SpoolError> {
        let (warn, gone) = self.since(&limits);
        self.read(move |db| {
            let since = [warn.into(), gone.into(), HOPS.into()];
            db.query(LATE, &since, |row| row.get(0))
        })
        .await
    }

    /// Up to `limit` messages that wait for a next hop and are late in one way or another, behind a place in the spool, with
    /// all recipients that wait for it.
    ///
    /// # Errors
    /// The database cannot be read. A message whose row is damaged is set aside and does not stop the rest.
    pub async fn late(
        &self,
        hop: &NextHop,
        limits: Lateness,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Due>, SpoolError> {
        // A domain has few messages, a link may have most of them.
        let sql = match hop {
            NextHop::Mx(_) => {
                "SELECT DISTINCT r.seq FROM recipients r INDEXED BY recipients_turn JOIN messages m ON m.seq = r.seq \
                 WHERE r.hop = ?1 AND r.state = 1 AND r.seq > ?2 AND ((r.since_ms <= ?3 AND r.late_ms IS NULL) \
                 OR r.since_ms <= ?4 OR m.deadline_ms <= ?5) ORDER BY r.seq LIMIT ?6"
            }
            _ => {
                "SELECT DISTINCT r.seq FROM recipients r INDEXED BY recipients_state JOIN messages m ON m.seq = r.seq \
                 WHERE r.hop = ?1 AND r.state = 1 AND r.seq > ?2 AND ((r.since_ms <= ?3 AND r.late_ms IS NULL) \
                 OR r.since_ms <= ?4 OR m.deadline_ms <= ?5) ORDER BY r.seq LIMIT ?6"
            }
        };
        let ((warn, gone), now, hop) = (self.since(&limits), self.tick(), hop.to_string());
        let (messages, damaged) = self
            .read(move |db| {
                let of = [
                    (&hop).into(),
                    after.into(),
                    warn.into(),
                    gone.into(),
                    now.0.into(),
                    limit.into(),
                ];
                let seqs: Vec<i64> = db.query(sql, &of, |row| row.get(0))?;
                let queued = RecipientState::Queued;
                load_each(&seqs, |seq| load_due(db, seq, &hop, queued, Tick::END))
            })
            .await?;
        self.set_aside_damaged(damaged).await?;
        Ok(messages)
    }

    /// What waits since then is late, and what waits since then was left by its line.
    fn since(&self, limits: &Lateness) -> (i64, i64) {
        let before = |age: Duration| self.clock().checked_sub(age).map_or(-1, millis);
        (
            limits.warn_after.map_or(-1, before),
            before(limits.line_gone),
        )
    }
}
