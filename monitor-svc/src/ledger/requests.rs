//! The identities of calls (AIP-155): a repeat gets the probe that the first one ran.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{Ledger, LedgerError, books::Books};
use crate::{
    clock::Stamp,
    names::{MonitorName, ProbeId, RequestId},
};

/// How long an identity is remembered.
pub(super) const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The same request id came for another monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request id was used before, for another monitor")]
pub struct RequestConflict;

/// The identity of a call, with what a repeat of it must agree in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The client's identity for the call.
    pub id: RequestId,
    /// The monitor that it is for.
    pub monitor: MonitorName,
}

impl Ledger {
    /// The probe that the first call with this identity ran, if there was one.
    ///
    /// # Errors
    /// The identity was used for another monitor, or the database cannot be read.
    pub async fn requested(&self, key: RequestKey) -> Result<Option<ProbeId>, LedgerError> {
        self.read(move |books| find(books, &key)).await
    }
}

fn find(books: &Books<'_>, key: &RequestKey) -> Result<Option<ProbeId>, LedgerError> {
    let found: Option<(String, String)> = books
        .connection
        .prepare_cached("SELECT monitor, probe FROM requests WHERE id = ?1")?
        .query_row([key.id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((monitor, _)) if monitor != key.monitor.as_str() => Err(RequestConflict.into()),
        Some((_, probe)) => ProbeId::parse(&probe)
            .map(Some)
            .ok_or_else(|| LedgerError::Damaged(format!("request {}", key.id))),
        None => Ok(None),
    }
}

/// Remembers which probe a call ran.
pub(super) fn remember(
    books: &Books<'_>,
    key: &RequestKey,
    probe: ProbeId,
    now: Stamp,
) -> Result<(), LedgerError> {
    if find(books, key)?.is_none() {
        books.execute(
            "INSERT INTO requests (id, monitor, probe, created_ms) VALUES (?1, ?2, ?3, ?4)",
            params![
                key.id.to_string(),
                key.monitor.as_str(),
                probe.to_string(),
                now.0
            ],
        )?;
    }
    Ok(())
}
