//! What was tried for a recipient before its outcome, and what operators did with it.
//!
//! A row for each counted attempt that left the recipient waiting, and for each step of an operator, written in the commit of
//! what it tells of. The outcome itself stands with the recipient: what is delivered at its first attempt costs no row.
//! They go with the message.
//!
//! Limits: the newest [`KEPT`] of each recipient.

use super::{
    GivenBy, SpoolError,
    db::{Db, Row},
};
use crate::clock::Stamp;

/// So many are kept of each recipient.
const KEPT: i64 = 100;

/// An attempt that left a recipient waiting, or a step of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastAttempt {
    /// When, by the wall clock.
    pub at: Stamp,
    /// `deferred` or `in_doubt`; of a step of an operator `held`, `released`, `expedited`, `rerouted`, `deleted`,
    /// `returned`.
    pub outcome: String,
    /// Who was spoken to, as RFC 3464 2.1.2 names it; empty: nobody.
    pub host: String,
    /// The reply or error; what an operator was told, or changed.
    pub reply: String,
    /// Who did it; empty: it was an attempt.
    pub operator: String,
}

impl GivenBy {
    /// What they gave, as an entry.
    pub(super) fn past(&self, at: Stamp, outcome: &str, reply: &str) -> PastAttempt {
        PastAttempt {
            at,
            outcome: outcome.to_owned(),
            host: self.host.clone(),
            reply: reply.to_owned(),
            operator: self.operator.clone(),
        }
    }
}

/// Adds what happened to a recipient.
pub(super) fn add(db: &Db<'_>, seq: i64, idx: i64, entry: &PastAttempt) -> Result<(), SpoolError> {
    let newest = "SELECT coalesce(max(number), 0) FROM attempts WHERE seq = ?1 AND idx = ?2";
    let number = db.value::<i64>(newest, &[seq.into(), idx.into()])? + 1;
    let sql = "INSERT INTO attempts (seq, idx, number, at_ms, outcome, host, reply, operator) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    db.execute(
        sql,
        &[
            seq.into(),
            idx.into(),
            number.into(),
            entry.at.0.into(),
            (&entry.outcome).into(),
            (&entry.host).into(),
            (&entry.reply).into(),
            (&entry.operator).into(),
        ],
    )?;
    if number > KEPT {
        let old = "DELETE FROM attempts WHERE seq = ?1 AND idx = ?2 AND number <= ?3";
        db.execute(old, &[seq.into(), idx.into(), (number - KEPT).into()])?;
    }
    Ok(())
}

/// What happened to the recipients of a message: the place of each in the envelope with its entries, oldest first.
pub(super) fn of_message(db: &Db<'_>, seq: i64) -> Result<Vec<(i64, PastAttempt)>, SpoolError> {
    let sql = "SELECT idx, at_ms, outcome, host, reply, operator FROM attempts WHERE seq = ?1 ORDER BY idx, number";
    db.query(sql, &[seq.into()], |row| Ok((row.get(0)?, entry(row)?)))
}

fn entry(row: &Row<'_>) -> Result<PastAttempt, SpoolError> {
    Ok(PastAttempt {
        at: Stamp(row.get(1)?),
        outcome: row.get(2)?,
        host: row.get(3)?,
        reply: row.get(4)?,
        operator: row.get(5)?,
    })
}
