//! The order in which mail goes to a next hop: by rank, lane by lane, in a lane what is due first. See `queue/order.rs`.
//!
//! Lanes are few, and each is a stretch of one index: what is asked of a next hop is asked of each of its lanes.

use super::{
    Spool, SpoolError, Tick,
    db::{Db, Row},
    look::unsigned,
};
use crate::queue::order::Lane;
use linkmail_smtp::Priority;

/// A lane with mail that waits for a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingLane {
    /// The priority of its mail.
    pub priority: Priority,
    /// Which lane.
    pub lane: Lane,
    /// When the first of it is due.
    pub first: Tick,
}

/// A place in the order of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuePlace {
    /// When it became due.
    pub due: Tick,
    /// The place of the message in the spool.
    pub seq: i64,
    /// Octets of the message, where they were asked for.
    pub size: u64,
}

impl DuePlace {
    /// Before all.
    pub const START: Self = Self {
        due: Tick(i64::MIN),
        seq: 0,
        size: 0,
    };
}

const NEXT: &str = "SELECT rank, lane, due_ms FROM recipients INDEXED BY recipients_turn \
                    WHERE hop = ?1 AND state = 1 AND (rank, lane) > (?2, ?3) ORDER BY rank, lane, due_ms LIMIT 1";

/// The lanes of a next hop, the most urgent first.
pub(super) fn of(db: &Db<'_>, hop: &str) -> Result<Vec<WaitingLane>, SpoolError> {
    let mut lanes = Vec::new();
    let mut after = (i64::MIN, 0);
    while let Some((rank, number, first)) =
        db.row(NEXT, &[hop.into(), after.0.into(), after.1.into()], |row| {
            Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, Tick(row.get(2)?)))
        })?
    {
        after = (rank, number);
        // What nobody can have written is passed over: it stays in the queue, and can be seen there.
        let priority = i8::try_from(-rank).ok().and_then(Priority::new);
        if let (Some(priority), Ok(number)) = (priority, u8::try_from(number)) {
            lanes.push(WaitingLane {
                priority,
                lane: Lane(number),
                first,
            });
        }
    }
    Ok(lanes)
}

fn rank(lane: &WaitingLane) -> i64 {
    -i64::from(lane.priority.get())
}

/// Up to `limit` messages of a lane that are due, behind a place; with their sizes if these matter. Recipients of one message that are
/// due at different times give several.
pub(super) fn places(
    db: &Db<'_>,
    hop: &str,
    lane: &WaitingLane,
    now: Tick,
    after: DuePlace,
    (limit, sizes): (u32, bool),
) -> Result<Vec<DuePlace>, SpoolError> {
    let sql = if sizes {
        "SELECT due_ms, seq, coalesce((SELECT size FROM messages WHERE messages.seq = r.seq), 0) \
         FROM recipients r INDEXED BY recipients_turn WHERE hop = ?1 AND state = 1 AND rank = ?2 \
         AND lane = ?3 AND due_ms <= ?4 AND (due_ms, seq) > (?5, ?6) GROUP BY due_ms, seq ORDER BY due_ms, seq LIMIT ?7"
    } else {
        "SELECT due_ms, seq, CAST(0 AS BIGINT) FROM recipients INDEXED BY recipients_turn WHERE hop = ?1 AND state = 1 AND rank = ?2 \
         AND lane = ?3 AND due_ms <= ?4 AND (due_ms, seq) > (?5, ?6) GROUP BY due_ms, seq ORDER BY due_ms, seq LIMIT ?7"
    };
    let behind = [
        hop.into(),
        rank(lane).into(),
        i64::from(lane.lane.0).into(),
        now.0.into(),
        after.due.0.into(),
        after.seq.into(),
        limit.into(),
    ];
    db.query(sql, &behind, |row| {
        Ok(DuePlace {
            due: Tick(row.get(0)?),
            seq: row.get(1)?,
            size: unsigned(row.get(2)?),
        })
    })
}

/// How many messages of a lane are due, up to `cap`, and how many octets they have together if that is asked for.
pub(super) fn weight(
    db: &Db<'_>,
    hop: &str,
    lane: &WaitingLane,
    now: Tick,
    cap: u64,
    octets: bool,
) -> Result<(u64, u64), SpoolError> {
    let sql = if octets {
        "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM messages WHERE seq IN \
         (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_turn \
          WHERE hop = ?1 AND state = 1 AND rank = ?2 AND lane = ?3 AND due_ms <= ?4 LIMIT ?5)"
    } else {
        "SELECT count(*), CAST(0 AS BIGINT) FROM (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_turn \
         WHERE hop = ?1 AND state = 1 AND rank = ?2 AND lane = ?3 AND due_ms <= ?4 LIMIT ?5) AS due"
    };
    let of = [
        hop.into(),
        rank(lane).into(),
        i64::from(lane.lane.0).into(),
        now.0.into(),
        i64::try_from(cap).unwrap_or(i64::MAX).into(),
    ];
    let read = |row: &Row<'_>| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)));
    Ok(db.row(sql, &of, read)?.unwrap_or_default())
}

/// When the first of a lane becomes due that is not yet.
pub(super) fn next(
    db: &Db<'_>,
    hop: &str,
    lane: &WaitingLane,
    now: Tick,
) -> Result<Option<Tick>, SpoolError> {
    let sql = "SELECT min(due_ms) FROM recipients INDEXED BY recipients_turn \
               WHERE hop = ?1 AND state = 1 AND rank = ?2 AND lane = ?3 AND due_ms > ?4";
    let of = [
        hop.into(),
        rank(lane).into(),
        i64::from(lane.lane.0).into(),
        now.0.into(),
    ];
    Ok(db.value::<Option<i64>>(sql, &of)?.map(Tick))
}

/// Some recipients of the first lane that has any which are due later.
fn begin_anew(db: &Db<'_>, hop: &str, now: Tick) -> Result<u64, SpoolError> {
    let sql = "UPDATE recipients SET attempts_before = attempts, due_ms = ?4 WHERE state = 1 AND (seq, idx) IN \
               (SELECT seq, idx FROM recipients INDEXED BY recipients_turn WHERE hop = ?1 AND state = 1 AND rank = ?2 \
                AND lane = ?3 AND due_ms > ?4 ORDER BY due_ms, seq LIMIT 500)";
    for lane in of(db, hop)? {
        let (rank, number) = (rank(&lane), i64::from(lane.lane.0));
        let of = [hop.into(), rank.into(), number.into(), now.0.into()];
        let changed = db.execute(sql, &of)?;
        if changed > 0 {
            return Ok(changed);
        }
    }
    Ok(0)
}

impl Spool {
    /// The lanes of a next hop with mail that is due, the most urgent first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due_lanes(&self, hop: String, now: Tick) -> Result<Vec<WaitingLane>, SpoolError> {
        self.read(move |db| {
            let mut lanes = of(db, &hop)?;
            lanes.retain(|lane| lane.first <= now);
            Ok(lanes)
        })
        .await
    }

    /// The places of up to `limit` messages of a lane that are due, behind a place in its order; with their sizes if these
    /// matter.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due_places(
        &self,
        hop: String,
        lane: WaitingLane,
        now: Tick,
        after: DuePlace,
        page: (u32, bool),
    ) -> Result<Vec<DuePlace>, SpoolError> {
        self.read(move |db| places(db, &hop, &lane, now, after, page))
            .await
    }

    /// Makes all due that waits for its next attempt at a next hop, and lets its backoff begin anew: the way is there
    /// again. Says how many recipients that was.
    ///
    /// # Errors
    /// The database cannot be written; some may be due then.
    pub async fn begin_anew(&self, hop: String) -> Result<u64, SpoolError> {
        let now = self.tick();
        let (mut changed, mut more) = (0, true);
        // Some at a time: others commit in between.
        while more {
            let hop = hop.clone();
            let count = self.write(move |db| begin_anew(db, &hop, now)).await?;
            changed += count;
            more = count > 0;
        }
        if changed > 0 {
            self.inner.signals.wake([hop.as_str()]);
        }
        Ok(changed)
    }

    /// How many messages are due for a next hop, and how many octets they have together; up to `cap` messages count. One
    /// with recipients in several lanes counts in each.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due_weight(
        &self,
        hop: String,
        now: Tick,
        cap: u32,
    ) -> Result<(u64, u64), SpoolError> {
        self.read(move |db| {
            let (mut messages, mut octets) = (0, 0);
            for lane in of(db, &hop)? {
                let left = u64::from(cap).saturating_sub(messages);
                if left == 0 {
                    break;
                }
                let found = weight(db, &hop, &lane, now, left, true)?;
                (messages, octets) = (messages + found.0, octets + found.1);
            }
            Ok((messages, octets))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_statement_is_one_look_into_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let other = crate::spool::schema::open(folder.path()).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {NEXT}");
        let plan: String = other
            .query_row(&plan, rusqlite::params!["link:isp", 0, 0], |row| {
                row.get("detail")
            })
            .unwrap();
        assert!(
            plan.contains("USING") && plan.contains("(hop=? AND (rank,lane)>(?,?))"),
            "{plan}"
        );
    }
}
