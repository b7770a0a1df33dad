//! What can happen, one transaction each.

use std::{sync::Arc, time::Duration};

use opentelemetry::Context;
use rusqlite::params;

use super::{
    Ledger, LedgerError,
    books::Books,
    outbox,
    requests::{self, RequestKey},
};
use crate::{
    clock::Stamp,
    config::Monitor,
    names::{MonitorName, ProbeId},
    notify::{Notice, words},
    probe::{Fate, Probe, Progress, Proof, Returned},
    standing::{Standing, Transition},
    telemetry,
    verdict::{self, Report, Verdict},
};

/// A probe whose report is not there after so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Old probes are kept for so long, and so many of a monitor whatever their age.
const PROBES_KEPT: Duration = Duration::from_secs(90 * 86_400);
const PROBES_KEPT_AT_LEAST: i64 = 1000;
/// The name of a seen report is kept for so long; the relay keeps a report that is acknowledged for seven days.
const REPORTS_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A change of state that was committed.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What changed.
    pub transition: Transition,
    /// The monitor after it.
    pub standing: Standing,
    /// Why, for a person.
    pub reason: String,
    /// The context of its span, which has not ended.
    pub context: Context,
}

/// What became of a report.
#[derive(Debug, Clone)]
pub struct Matched {
    /// What it proves; nothing if it was seen before.
    pub verdict: Option<Verdict>,
    /// The probe that it is for.
    pub probe: Option<Probe>,
    /// The monitor that it is for.
    pub monitor: Option<MonitorName>,
    /// The change of state that it brought.
    pub changed: Option<Changed>,
}

impl Ledger {
    /// Enters the monitors of the configuration that are new. What is known of the others stays.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn enrol(&self, monitors: Vec<MonitorName>, now: Stamp) -> Result<(), LedgerError> {
        self.write(move |books| {
            for name in monitors {
                match books.standing(&name)? {
                    Some(standing) => books.keep(&standing.not_beyond(now))?,
                    None => {
                        let standing = Standing::new(name, now);
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

    /// A call gets the probe that is running.
    ///
    /// # Errors
    /// The identity was used for another monitor, or the database refuses.
    pub async fn join(&self, id: ProbeId, key: RequestKey, now: Stamp) -> Result<(), LedgerError> {
        self.write(move |books| requests::remember(books, &key, id, now))
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

    /// Judges a report and records all that follows: the probe's fate, the proof, the state, the notice. `cause` is the
    /// `traceparent` of the span in which it is judged.
    ///
    /// # Errors
    /// The database refuses; the report is not to be acknowledged.
    pub async fn matched(
        &self,
        report: Report,
        monitors: Arc<[Arc<Monitor>]>,
        cause: String,
        now: Stamp,
    ) -> Result<Matched, LedgerError> {
        self.write(move |books| {
            let fresh = books.execute(
                "INSERT INTO reports (name, seen_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![report.name, now.0],
            )?;
            let (monitor, probe) = addressee(books, &report, &monitors)?;
            if fresh == 0 {
                return Ok(Matched {
                    verdict: None,
                    probe,
                    monitor: monitor.map(|monitor| monitor.name.clone()),
                    changed: None,
                });
            }
            let Some(monitor) = monitor else {
                return Ok(Matched {
                    verdict: Some(Verdict::Rejected(verdict::Reason::UnknownToken)),
                    probe: None,
                    monitor: None,
                    changed: None,
                });
            };
            settle(books, &report, &monitor, probe, &cause, now)
        })
        .await
    }

    /// Judges a monitor by the time that has passed. `cause` is the `traceparent` of what it was waiting for.
    ///
    /// # Errors
    /// The database refuses; nothing changed.
    pub async fn evaluate(
        &self,
        monitor: Arc<Monitor>,
        cause: String,
        now: Stamp,
    ) -> Result<Option<Changed>, LedgerError> {
        self.write(move |books| {
            let standing = books.known(&monitor.name)?;
            let unproven_from = standing.unproven_from();
            let reason = format!("nothing was proven for {}", words(now.since(unproven_from)));
            turn(
                books,
                standing,
                unproven_from,
                &monitor,
                None,
                reason,
                &cause,
                now,
            )
        })
        .await
    }

    /// Gives up what was awaited for too long, and forgets what is old. Gives the probes that were given up.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn tidy(&self, now: Stamp) -> Result<Vec<Probe>, LedgerError> {
        self.write(move |books| {
            let sql = "SELECT record FROM probes WHERE open = 1 AND created_ms <= ?1";
            let mut given_up = books.probes(sql, [now.minus(LOST_AFTER).0])?;
            for probe in &mut given_up {
                let event = give_up(probe);
                books.keep_probe(probe)?;
                books.note(&books.known(&probe.monitor)?, Some(probe), &event, now)?;
            }
            forget(books, now)?;
            Ok(given_up)
        })
        .await
    }
}

/// The monitor whose reverse path a report's recipient fits, and the probe whose token it carries.
fn addressee(
    books: &Books<'_>,
    report: &Report,
    monitors: &[Arc<Monitor>],
) -> Result<(Option<Arc<Monitor>>, Option<Probe>), LedgerError> {
    let mut fits = None;
    for recipient in &report.recipients {
        for monitor in monitors {
            let Some(token) = monitor.reverse_path.token(recipient) else {
                continue;
            };
            let probe = books.probe_of(token)?;
            if let Some(probe) = probe.filter(|probe| probe.monitor == monitor.name) {
                return Ok((Some(Arc::clone(monitor)), Some(probe)));
            }
            fits.get_or_insert_with(|| Arc::clone(monitor));
        }
    }
    Ok((fits, None))
}

fn settle(
    books: &Books<'_>,
    report: &Report,
    monitor: &Monitor,
    probe: Option<Probe>,
    cause: &str,
    now: Stamp,
) -> Result<Matched, LedgerError> {
    let mut standing = books.known(&monitor.name)?;
    let verdict = verdict::judge(report, probe.as_ref(), &monitor.link);
    let proof = match verdict {
        Verdict::Proves(proof) => proof,
        Verdict::NotSent => Proof::None,
        Verdict::Rejected(reason) => {
            standing.rejected = standing.rejected.saturating_add(1);
            books.keep(&standing)?;
            let event = format!("{} proves nothing: {}", report.name, reason.words());
            books.note(&standing, probe.as_ref(), &event, now)?;
            return Ok(Matched {
                verdict: Some(verdict),
                probe,
                monitor: Some(monitor.name.clone()),
                changed: None,
            });
        }
    };
    let Some(mut probe) = probe else {
        return Err(LedgerError::Damaged("a verdict without a probe".into()));
    };
    probe.close(proof, returned(report), monitor.late_after);
    if verdict == Verdict::NotSent {
        probe.error = format!(
            "the relay gave it up: {} {}",
            report.bounce.status, report.bounce.diagnostic
        );
    }
    let unproven_from = standing.unproven_from();
    standing.prove(monitor, &probe, now);
    let reason = told(&probe);
    books.keep_probe(&probe)?;
    books.keep(&standing)?;
    books.note(&standing, Some(&probe), &reason, now)?;
    let changed = turn(
        books,
        standing,
        unproven_from,
        monitor,
        Some(&probe),
        reason,
        cause,
        now,
    )?;
    Ok(Matched {
        verdict: Some(verdict),
        probe: Some(probe),
        monitor: Some(monitor.name.clone()),
        changed,
    })
}

fn returned(report: &Report) -> Returned {
    Returned {
        name: report.name.clone(),
        accepted: report.accepted,
        cycle: report.cycle.clone(),
        traceparent: report.traceparent.clone(),
        reporting_mta: report.bounce.reporting_mta.clone(),
        status: report.bounce.status.clone(),
    }
}

/// What became of a probe, for a person.
fn told(probe: &Probe) -> String {
    let took = words(Duration::from_millis(probe.round_trip_ms.unwrap_or(0)));
    let proved = match probe.proof {
        Proof::None => return format!("probe {} never went out: {}", probe.id, probe.error),
        Proof::Outbound => "proves the way out",
        Proof::RoundTrip => "proves the way out and back",
    };
    let late = if probe.fate == Fate::Late {
        ", late"
    } else {
        ""
    };
    format!(
        "probe {} came back after {took}{late}: it {proved}",
        probe.id
    )
}

/// Judges a monitor, and records the change of its state with its notice, if there is one.
#[allow(clippy::too_many_arguments)]
fn turn(
    books: &Books<'_>,
    mut standing: Standing,
    unproven_from: Stamp,
    monitor: &Monitor,
    probe: Option<&Probe>,
    reason: String,
    cause: &str,
    now: Stamp,
) -> Result<Option<Changed>, LedgerError> {
    let Some(transition) = standing.judge(monitor, unproven_from, now) else {
        return Ok(None);
    };
    let context = telemetry::evaluated(&standing, &transition, cause);
    let notice = Notice::new(monitor, &standing, &transition, &reason, now);
    outbox::add(books, &notice, &telemetry::to_text(&context), now)?;
    books.keep(&standing)?;
    let event = format!(
        "{} → {}: {reason}",
        transition.from.as_str(),
        transition.to.as_str()
    );
    books.note(&standing, probe, &event, now)?;
    Ok(Some(Changed {
        transition,
        standing,
        reason,
        context,
    }))
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

fn give_up(probe: &mut Probe) -> String {
    if probe.submitted.is_some() {
        probe.fate = Fate::Lost;
        format!("probe {} is lost: no report for seven days", probe.id)
    } else {
        probe.fate = Fate::Failed;
        format!("probe {} failed: the relay never took it", probe.id)
    }
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
