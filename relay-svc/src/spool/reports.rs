//! Mail for `report` routes: it waits for a program to read and acknowledge it.
//!
//! A report is a message like any other; its recipients by the route `report` are queued until somebody acknowledges it,
//! and delivered then. Its body is kept as long as its row.

use std::time::Duration;

use linkmail_smtp::{Mailbox, ReversePath};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Origin, RecipientState, Spool, SpoolError, look, store};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId, NextHop},
};

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportState {
    /// Waits for a reader.
    Unacknowledged,
    /// Somebody has it.
    Acknowledged,
    /// Nobody fetched it in time.
    Expired,
}

/// A report as it stands, without its content.
#[derive(Debug, Clone)]
pub struct StoredReport {
    /// Its place in the spool.
    pub seq: i64,
    /// Its identity.
    pub id: MessageId,
    /// Its state.
    pub state: ReportState,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// The recipients that the route takes.
    pub recipients: Vec<String>,
    /// Octets of the message.
    pub size: u64,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<LinkName>,
    /// The cycle during which it came.
    pub cycle: Option<CycleId>,
    /// W3C `traceparent` of the span in which it came.
    pub traceparent: String,
    /// Who acknowledged it; empty unless somebody did.
    pub acknowledged_by: String,
}

impl Spool {
    /// Reports behind a place, oldest first; only those in a state, if one is given. One whose row is damaged is left out,
    /// with a log line.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn reports(
        &self,
        after: i64,
        state: Option<ReportState>,
        limit: u32,
    ) -> Result<Vec<StoredReport>, SpoolError> {
        self.read(move |connection| list(connection, after, state, limit))
            .await
    }

    /// Up to `limit` reports behind a place that nobody acknowledged and that have a recipient that `fits`, oldest first;
    /// and the place up to which that is all.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unread(
        &self,
        after: i64,
        fits: impl Fn(&Mailbox) -> bool + Send + 'static,
        limit: usize,
    ) -> Result<(Vec<StoredReport>, i64), SpoolError> {
        self.read(move |connection| unread(connection, after, fits, limit))
            .await
    }

    /// Those of these places whose reports nobody has acknowledged yet.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn still_unread(&self, seqs: Vec<i64>) -> Result<Vec<i64>, SpoolError> {
        let sql = "SELECT 1 FROM recipients INDEXED BY recipients_unread \
                   WHERE hop = 'report' AND state = 1 AND seq = ?1";
        self.read(move |connection| {
            let mut unread = connection.prepare_cached(sql)?;
            let mut still = Vec::new();
            for seq in seqs {
                if unread.exists([seq])? {
                    still.push(seq);
                }
            }
            Ok(still)
        })
        .await
    }

    /// One report, if there is one of this identity.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn report(&self, id: MessageId) -> Result<Option<StoredReport>, SpoolError> {
        self.read(move |connection| find(connection, id)).await
    }

    /// Settles a report for good; gives it as it stands then. A repeat changes nothing.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn acknowledge(
        &self,
        id: MessageId,
        consumer: String,
        now: Stamp,
    ) -> Result<Option<StoredReport>, SpoolError> {
        let found = self
            .write(move |connection| {
                let Some(report) = find(connection, id)? else {
                    return Ok(None);
                };
                settle(
                    connection,
                    report.seq,
                    RecipientState::Delivered,
                    &consumer,
                    now,
                )?;
                find(connection, id)
            })
            .await?;
        self.inner
            .signals
            .wake([NextHop::Report.to_string().as_str()]);
        Ok(found)
    }

    /// Gives up reports that nobody acknowledged for longer than `age` by the spool's clock; their identities.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn expire_reports(
        &self,
        age: Duration,
        now: Stamp,
    ) -> Result<Vec<MessageId>, SpoolError> {
        let Some(before) = self.clock().checked_sub(age) else {
            return Ok(Vec::new());
        };
        self.write(move |connection| {
            let mut expired = Vec::new();
            for seq in waiting_since(connection, before)? {
                settle(
                    connection,
                    seq,
                    RecipientState::Discarded,
                    "nobody fetched it",
                    now,
                )?;
                // Also of a report that is too damaged to be read.
                let id: Vec<u8> = connection
                    .prepare_cached("SELECT id FROM messages WHERE seq = ?1")?
                    .query_row([seq], |row| row.get(0))?;
                expired.extend(MessageId::from_bytes(&id));
            }
            Ok(expired)
        })
        .await
    }
}

fn unread(
    connection: &Connection,
    after: i64,
    fits: impl Fn(&Mailbox) -> bool,
    limit: usize,
) -> Result<(Vec<StoredReport>, i64), SpoolError> {
    let mut found = connection.prepare_cached(
        "SELECT seq, address FROM recipients INDEXED BY recipients_unread \
         WHERE hop = 'report' AND state = 1 AND seq > ?1 ORDER BY seq",
    )?;
    let mut rows = found.query([after])?;
    let (mut reports, mut seen): (Vec<StoredReport>, i64) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        let (seq, address): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let is_known = reports.last().is_some_and(|last| last.seq == seq);
        if reports.len() >= limit && !is_known {
            break;
        }
        seen = seq;
        let wanted = Mailbox::parse_utf8(&address).is_ok_and(|address| fits(&address));
        if is_known || !wanted {
            continue;
        }
        match load(connection, seq) {
            Ok(report) => reports.extend(report),
            Err(SpoolError::Damaged(what)) => {
                tracing::warn!(seq, what, "spool: a damaged report is not shown");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((reports, seen))
}

fn waiting_since(connection: &Connection, before: Duration) -> Result<Vec<i64>, SpoolError> {
    let mut old = connection.prepare_cached(
        "SELECT DISTINCT seq FROM recipients INDEXED BY recipients_unread_since \
         WHERE hop = 'report' AND state = 1 AND since_ms <= ?1 LIMIT 1000",
    )?;
    let seqs = old.query_map([store::millis(before)], |row| row.get(0))?;
    Ok(seqs.collect::<Result<_, _>>()?)
}

fn settle(
    connection: &Connection,
    seq: i64,
    state: RecipientState,
    why: &str,
    now: Stamp,
) -> Result<(), SpoolError> {
    connection
        .prepare_cached(
            "UPDATE recipients SET state = ?2, last_reply = ?3 WHERE seq = ?1 AND hop = 'report' AND state = 1",
        )?
        .execute(params![seq, state as i64, why])?;
    store::close_if_done(connection, seq, now).map(drop)
}

fn find(connection: &Connection, id: MessageId) -> Result<Option<StoredReport>, SpoolError> {
    let seq: Option<i64> = connection
        .prepare_cached("SELECT seq FROM messages WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| row.get(0))
        .optional()?;
    match seq {
        Some(seq) => load(connection, seq),
        None => Ok(None),
    }
}

fn list(
    connection: &Connection,
    after: i64,
    state: Option<ReportState>,
    limit: u32,
) -> Result<Vec<StoredReport>, SpoolError> {
    let mut seqs = connection.prepare_cached(
        "SELECT DISTINCT seq FROM recipients INDEXED BY recipients_report \
         WHERE hop = 'report' AND seq > ?1 AND (?2 = 0 OR state = ?2) ORDER BY seq",
    )?;
    let wanted = state.map_or(0, |state| recipients_of(state) as i64);
    let mut rows = seqs.query(params![after, wanted])?;
    let mut reports = Vec::new();
    while reports.len() < limit as usize
        && let Some(row) = rows.next()?
    {
        let seq = row.get(0)?;
        match load(connection, seq) {
            Ok(report) => reports.extend(report),
            Err(SpoolError::Damaged(what)) => {
                tracing::warn!(seq, what, "spool: a damaged report is not listed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reports)
}

/// The state of the recipients of a report in this state.
fn recipients_of(state: ReportState) -> RecipientState {
    match state {
        ReportState::Unacknowledged => RecipientState::Queued,
        ReportState::Acknowledged => RecipientState::Delivered,
        ReportState::Expired => RecipientState::Discarded,
    }
}

/// A message as a report, if the route takes any of its recipients.
fn load(connection: &Connection, seq: i64) -> Result<Option<StoredReport>, SpoolError> {
    let message = look::load(connection, seq)?;
    let hop = NextHop::Report.to_string();
    let mine = message.recipients.iter().filter(|row| row.hop == hop);
    let Some(first) = mine.clone().next() else {
        return Ok(None);
    };
    let any = |state| mine.clone().any(|row| row.state == state);
    let state = if any(RecipientState::Queued) {
        ReportState::Unacknowledged
    } else if any(RecipientState::Delivered) {
        ReportState::Acknowledged
    } else if any(RecipientState::Discarded) {
        ReportState::Expired
    } else {
        // Set aside: it is listed with the messages.
        return Ok(None);
    };
    let acknowledged = state == ReportState::Acknowledged;
    Ok(Some(StoredReport {
        seq,
        id: message.id,
        state,
        accepted: message.accepted,
        acknowledged_by: if acknowledged {
            first.last_reply.clone()
        } else {
            String::new()
        },
        recipients: message
            .recipients
            .iter()
            .filter(|row| row.hop == hop)
            .map(|row| row.address.clone())
            .collect(),
        reverse_path: message.reverse_path,
        size: message.size,
        origin: message.origin,
        link: message.link.and_then(|name| LinkName::parse(&name).ok()),
        cycle: message.cycle,
        traceparent: message.traceparent,
    }))
}
