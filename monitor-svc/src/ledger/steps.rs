//! What can happen to a monitor and its probes on their way to the relay, one transaction each.

use std::{sync::Arc, time::Duration};

use rusqlite::params;

use super::{
    Ledger, LedgerError,
    books::Books,
    requests::{self, RequestKey},
};
use crate::{
    clock::Stamp,
    config::Monitor,
    names::{MonitorName, ProbeId, RequestId},
    probe::{Fate, Probe, Progress, Proof},
    standing::Standing,
};

/// A probe whose report is not there after so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Old probes are kept for so long, and so many of a monitor whatever their age.
const PROBES_KEPT: Duration = Duration::from_secs(90 * 86_400);
const PROBES_KEPT_AT_LEAST: i64 = 1000;
/// The name of a seen report is kept for so long; the relay keeps a report that is acknowledged for seven days.
const REPORTS_KEPT: Duration = Duration::from_secs(30 * 86_400);

impl Ledger {
    /// Enters the monitors of the configuration that are new. What is known of the others stays; what the wall clock set
    /// back would have put into the future is now.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn enrol(&self, monitors: Vec<MonitorName>, now: Stamp) -> Result<(), LedgerError> {
        self.write(move |books| {
            not_beyond(books, now)?;
            // What is no longer configured has no keeper to ask the relay.
            give_up_old(books, now, |probe| !monitors.contains(&probe.monitor))?;
            for name in &monitors {
                match books.standing(name)? {
                    Some(standing) => books.keep(&standing.not_beyond(now))?,
                    None => {
                        let standing = Standing::new(name.clone(), now);
                        books.keep(&standing)?;
                        books.note(&standing, None, "watches from now on", now)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// A new probe begins its first run. Its token and its identities are durable when this returns.
    ///
    /// # Errors
    /// The database refuses; nothing was begun.
    pub async fn begin(
        &self,
        probe: Probe,
        key: Option<RequestKey>,
        now: Stamp,
    ) -> Result<Probe, LedgerError> {
        self.write(move |books| {
            let mut standing = books.known(&probe.monitor)?;
            standing.last_run = Some(now);
            standing.latest_probe = Some(probe.id);
            books.add_probe(&probe)?;
            books.keep(&standing)?;
            books.note(
                &standing,
                Some(&probe),
                &format!("probe {} begins", probe.id),
                now,
            )?;
            if let Some(key) = key {
                requests::remember(books, &key, probe.id, now)?;
            }
            Ok(probe)
        })
        .await
    }

    /// Calls get the probe that is running. Gives the identities that were used for another monitor.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn join(
        &self,
        id: ProbeId,
        keys: Vec<RequestKey>,
        now: Stamp,
    ) -> Result<Vec<RequestId>, LedgerError> {
        self.write(move |books| {
            let mut conflicts = Vec::new();
            for key in keys {
                match requests::remember(books, &key, id, now) {
                    Err(LedgerError::Request(_)) => conflicts.push(key.id),
                    remembered => remembered?,
                }
            }
            Ok(conflicts)
        })
        .await
    }

    /// Something happened to a probe on its way to the relay.
    ///
    /// # Errors
    /// The database refuses; nothing was recorded.
    pub async fn progress(
        &self,
        id: ProbeId,
        progress: Progress,
        monitor: Arc<Monitor>,
        key: Option<RequestKey>,
        now: Stamp,
    ) -> Result<Probe, LedgerError> {
        self.write(move |books| {
            let mut probe = books.known_probe(id)?;
            let mut standing = books.known(&probe.monitor)?;
            if matches!(progress, Progress::RunAgain { .. }) {
                standing.last_run = Some(now);
            }
            let event = probe.apply(progress);
            correct_round_trip(&mut probe, &mut standing, &monitor, now);
            if let Some(event) = event {
                books.keep_probe(&probe)?;
                books.keep(&standing)?;
                books.note(&standing, Some(&probe), &event, now)?;
            }
            if let Some(key) = key {
                requests::remember(books, &key, id, now)?;
            }
            Ok(probe)
        })
        .await
    }

    /// Gives up what a monitor awaited for too long, and forgets what is old. Gives the probes that were given up. What may
    /// wait in the relay is to be looked up there before.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn tidy(&self, monitor: MonitorName, now: Stamp) -> Result<Vec<Probe>, LedgerError> {
        self.write(move |books| {
            let given_up = give_up_old(books, now, |probe| probe.monitor == monitor)?;
            forget(books, now)?;
            Ok(given_up)
        })
        .await
    }
}

/// A report may be quicker than the relay's answer to the submission, or that answer may have been lost with a crash:
/// then the time under way is known only now.
fn correct_round_trip(probe: &mut Probe, standing: &mut Standing, monitor: &Monitor, now: Stamp) {
    if let Some(returned) = probe.returned.clone()
        && probe.proof != Proof::None
    {
        let before = probe.clone();
        probe.close(probe.proof, returned, monitor.late_after);
        if *probe != before
            && let Some(last) = &mut standing.last_proof
            && last.probe == probe.id
        {
            last.round_trip_ms = probe.round_trip_ms.unwrap_or(last.round_trip_ms);
            last.time = last.time.min(now);
        }
    }
}

/// Gives up those of the probes that were awaited for too long.
fn give_up_old(
    books: &Books<'_>,
    now: Stamp,
    concerns: impl Fn(&Probe) -> bool,
) -> Result<Vec<Probe>, LedgerError> {
    let latest = now.minus(LOST_AFTER);
    let sql = "SELECT record FROM probes WHERE open = 1 AND created_ms <= ?1";
    let mut given_up = books.probes(sql, [latest.0])?;
    given_up.retain(|probe| concerns(probe) && probe.awaited_from() <= latest);
    for probe in &mut given_up {
        let event = give_up(probe);
        books.keep_probe(probe)?;
        books.note(&books.known(&probe.monitor)?, Some(probe), &event, now)?;
    }
    Ok(given_up)
}

fn give_up(probe: &mut Probe) -> String {
    if probe.submitted.is_some() {
        probe.fate = Fate::Lost;
        format!("probe {} is lost: no report for seven days", probe.id)
    } else {
        probe.fate = Fate::Failed;
        format!("probe {} failed: the relay never took it", probe.id)
    }
}

/// A notice that is due in the future would hang until then, and what is of the future would be kept for longer.
fn not_beyond(books: &Books<'_>, now: Stamp) -> Result<(), LedgerError> {
    let sql = "SELECT record FROM probes WHERE open = 1 OR created_ms > ?1";
    for probe in books.probes(sql, [now.0])? {
        books.keep_probe(&probe.not_beyond(now))?;
    }
    for sql in [
        "UPDATE probes SET created_ms = ?1 WHERE created_ms > ?1",
        "UPDATE reports SET seen_ms = ?1 WHERE seen_ms > ?1",
        "UPDATE requests SET created_ms = ?1 WHERE created_ms > ?1",
        "UPDATE outbox SET created_ms = ?1 WHERE created_ms > ?1",
        "UPDATE outbox SET next_ms = ?1 WHERE next_ms > ?1",
    ] {
        books.execute(sql, [now.0])?;
    }
    Ok(())
}

fn forget(books: &Books<'_>, now: Stamp) -> Result<(), LedgerError> {
    books.execute(
        "DELETE FROM probes WHERE open = 0 AND created_ms < ?1 AND seq NOT IN \
         (SELECT seq FROM probes AS newer WHERE newer.monitor = probes.monitor ORDER BY seq DESC LIMIT ?2)",
        params![now.minus(PROBES_KEPT).0, PROBES_KEPT_AT_LEAST],
    )?;
    books.execute(
        "DELETE FROM reports WHERE seen_ms < ?1",
        [now.minus(REPORTS_KEPT).0],
    )?;
    books.execute(
        "DELETE FROM requests WHERE created_ms < ?1",
        [now.minus(requests::KEPT).0],
    )?;
    Ok(())
}
