//! Judging: a report by what it proves, a monitor by the time that has passed. One transaction each, with all that follows.

use std::{sync::Arc, time::Duration};

use opentelemetry::Context;
use rusqlite::params;

use super::{Ledger, LedgerError, books::Books, outbox};
use crate::{
    clock::Stamp,
    config::Monitor,
    names::MonitorName,
    notify::{Notice, words},
    probe::{Fate, Probe, Proof, Returned},
    standing::{Standing, Transition},
    telemetry,
    verdict::{self, Reason, Report, Verdict},
};

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
            match monitor {
                Some(monitor) if fresh > 0 => {
                    let judging = Judging {
                        books,
                        monitor: &monitor,
                        cause: &cause,
                        now,
                    };
                    judging.settle(&report, probe)
                }
                _ => Ok(Matched {
                    verdict: (fresh > 0).then_some(Verdict::Rejected(Reason::UnknownToken)),
                    probe,
                    monitor: monitor.map(|monitor| monitor.name.clone()),
                    changed: None,
                }),
            }
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
            let judging = Judging {
                books,
                monitor: &monitor,
                cause: &cause,
                now,
            };
            judging.turn(standing, unproven_from, None, reason)
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
            if !monitor.reverse_path.fits(recipient) {
                continue;
            }
            let probe = match monitor.reverse_path.token(recipient) {
                Some(token) => books.probe_of(token)?,
                None => None,
            };
            if let Some(probe) = probe.filter(|probe| probe.monitor == monitor.name) {
                return Ok((Some(Arc::clone(monitor)), Some(probe)));
            }
            fits.get_or_insert_with(|| Arc::clone(monitor));
        }
    }
    Ok((fits, None))
}

/// One judgement, and what it is made of.
struct Judging<'a> {
    books: &'a Books<'a>,
    monitor: &'a Monitor,
    cause: &'a str,
    now: Stamp,
}

impl Judging<'_> {
    /// A report for this monitor.
    fn settle(&self, report: &Report, probe: Option<Probe>) -> Result<Matched, LedgerError> {
        let verdict = verdict::judge(report, probe.as_ref(), &self.monitor.link);
        let (probe, changed) = match (verdict, probe) {
            (Verdict::Rejected(reason), probe) => {
                self.reject(report, probe.as_ref(), reason)?;
                (probe, None)
            }
            (Verdict::Proves(proof), Some(probe)) => self.close(report, probe, proof)?,
            (Verdict::NotSent, Some(probe)) => self.close(report, probe, Proof::None)?,
            (Verdict::Proves(_) | Verdict::NotSent, None) => {
                return Err(LedgerError::Damaged("a verdict without a probe".into()));
            }
        };
        Ok(Matched {
            verdict: Some(verdict),
            probe,
            monitor: Some(self.monitor.name.clone()),
            changed,
        })
    }

    fn reject(
        &self,
        report: &Report,
        probe: Option<&Probe>,
        reason: Reason,
    ) -> Result<(), LedgerError> {
        let mut standing = self.books.known(&self.monitor.name)?;
        standing.rejected = standing.rejected.saturating_add(1);
        self.books.keep(&standing)?;
        // Anyone can write to a token that was never given: that must not drive what happened out of the journal.
        if probe.is_none() {
            return Ok(());
        }
        let event = format!("{} proves nothing: {}", report.name, reason.words());
        self.books.note(&standing, probe, &event, self.now)
    }

    fn close(
        &self,
        report: &Report,
        mut probe: Probe,
        proof: Proof,
    ) -> Result<(Option<Probe>, Option<Changed>), LedgerError> {
        let mut standing = self.books.known(&self.monitor.name)?;
        probe.close(proof, returned(report), self.monitor.late_after);
        if proof == Proof::None {
            let (status, diagnostic) = (&report.bounce.status, &report.bounce.diagnostic);
            let words = format!("the relay gave it up: {status} {diagnostic}");
            words.trim_end().clone_into(&mut probe.error);
        }
        let unproven_from = standing.unproven_from();
        standing.prove(self.monitor, &probe, self.now);
        let reason = told(&probe);
        self.books.keep_probe(&probe)?;
        self.books.keep(&standing)?;
        self.books
            .note(&standing, Some(&probe), &reason, self.now)?;
        let changed = self.turn(standing, unproven_from, Some(&probe), reason)?;
        Ok((Some(probe), changed))
    }

    /// Judges the monitor, and records the change of its state with its notice, if there is one. `unproven_from` is where
    /// the age of the last proof was counted from before.
    fn turn(
        &self,
        mut standing: Standing,
        unproven_from: Stamp,
        probe: Option<&Probe>,
        reason: String,
    ) -> Result<Option<Changed>, LedgerError> {
        let Some(transition) = standing.judge(self.monitor, unproven_from, self.now) else {
            return Ok(None);
        };
        let context = telemetry::evaluated(&standing, &transition, self.cause);
        let notice = Notice::new(self.monitor, &standing, &transition, &reason, self.now);
        outbox::add(self.books, &notice, &telemetry::to_text(&context), self.now)?;
        self.books.keep(&standing)?;
        let (from, to) = (transition.from.as_str(), transition.to.as_str());
        let event = format!("{from} → {to}: {reason}");
        self.books.note(&standing, probe, &event, self.now)?;
        Ok(Some(Changed {
            transition,
            standing,
            reason,
            context,
        }))
    }
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
