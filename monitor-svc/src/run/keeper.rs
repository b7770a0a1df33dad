//! The keeper of a monitor: judges it when its state is due to change, and runs its probes when they are due or asked for.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Backoff, Shared,
    attempt::{Attempt, Attempted, Cause},
    callers::{Callers, tell},
    desk::{Answer, Requests, RunRequest, Seat},
    log,
};
use crate::{
    clock::Stamp,
    config::Monitor,
    judge::{judge, next_probe},
    ledger::{LedgerError, RequestKey},
    names::ProbeId,
    probe::{Probe, Step},
    relay::Relay,
};

/// A relay that cannot be asked is asked again after so long; each further wait is twice as long, up to the interval.
const RETRY: Duration = Duration::from_secs(10);
/// A ledger that refuses is tried again after so long.
const LEDGER_RETRY: Duration = Duration::from_secs(10);

type Work = Pin<Box<dyn Future<Output = Result<Attempted, LedgerError>> + Send>>;

/// What a keeper does besides judging.
enum Doing {
    Nothing,
    /// A probe is found or made, and submitted.
    Submitting(Work),
    /// A cycle is asked for, for this probe.
    Dialling(Work, ProbeId),
}

/// How the work ended, and which work.
enum Ended {
    Submitting(Result<Attempted, LedgerError>),
    Dialling(Result<Attempted, LedgerError>),
}

/// The keeper of one monitor.
pub struct Keeper<R: Relay> {
    shared: Shared<R>,
    monitor: Arc<Monitor>,
    requests: Requests,
    doing: Doing,
    callers: Callers,
    backoff: Backoff,
    /// Nothing is tried before.
    not_before: Option<Stamp>,
}

impl<R: Relay> Keeper<R> {
    /// The keeper that takes a seat at the desk.
    #[must_use]
    pub fn new(shared: Shared<R>, seat: Seat) -> Self {
        let longest = seat
            .monitor
            .thresholds
            .interval
            .min(seat.monitor.thresholds.interval_unwell);
        Self {
            shared,
            monitor: seat.monitor,
            requests: seat.requests,
            doing: Doing::Nothing,
            callers: Callers::default(),
            backoff: Backoff::new(RETRY.min(longest), longest),
            not_before: None,
        }
    }

    /// Runs until it is cancelled. What it was about to do is in the ledger.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut grown = self.shared.ledger.watch();
        loop {
            grown.mark_unchanged();
            let wake = match self.look().await {
                Ok(wake) => wake,
                Err(error) => {
                    tracing::error!(monitor = %self.monitor.name, %error, "the monitor cannot be judged");
                    self.shared.clock.now().plus(LEDGER_RETRY)
                }
            };
            let clock = self.shared.clock;
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(request) = self.requests.recv() => self.asked(request).await,
                ended = next(&mut self.doing) => self.ended(ended).await,
                _ = grown.changed() => {}
                () = clock.sleep_until(wake) => {}
            }
        }
    }

    /// Judges, starts what is due, and says when to look again.
    async fn look(&mut self) -> Result<Stamp, LedgerError> {
        let name = self.monitor.name.clone();
        let (mut standing, newest) = self.shared.ledger.standing(name).await?;
        let now = self.shared.clock.now();
        let thresholds = &self.monitor.thresholds;
        let judged = judge(thresholds, &standing.facts(), now);
        if judged.state != standing.state {
            let cause = newest.as_ref().map(|probe| probe.traceparent.clone());
            let monitor = Arc::clone(&self.monitor);
            let ledger = &self.shared.ledger;
            let changed = ledger.evaluate(monitor, cause.unwrap_or_default(), now);
            if let Some(changed) = changed.await? {
                log(&changed);
                standing = changed.standing;
            }
        }
        self.shared.gauges.show(&standing);
        let far = now.plus(thresholds.alert_after);
        let mut wake = judged.changes.unwrap_or(far);
        if matches!(self.doing, Doing::Nothing) {
            let unfinished =
                newest.is_some_and(|probe| probe.is_open() && probe.step != Step::Done);
            let due = next_probe(thresholds, standing.state, standing.last_run, now);
            let soonest = if unfinished { now.min(due) } else { due };
            let at = self
                .not_before
                .map_or(soonest, |not_before| soonest.max(not_before));
            if at > now {
                wake = wake.min(at);
            } else if due > now {
                self.submit(Cause::GoOn);
            } else {
                self.submit(Cause::New(None));
            }
        }
        Ok(wake)
    }

    fn attempt(&self) -> Attempt<R> {
        Attempt {
            shared: self.shared.clone(),
            monitor: Arc::clone(&self.monitor),
        }
    }

    fn submit(&mut self, cause: Cause) {
        self.doing = Doing::Submitting(Box::pin(self.attempt().submit(cause)));
    }

    /// Somebody asks for a probe, who may have gone.
    async fn asked(&mut self, RunRequest { key, answer }: RunRequest) {
        if answer.is_closed() {
            return;
        }
        let known = match &key {
            Some(key) => known(&self.shared, key.clone()).await,
            None => Ok(None),
        };
        match known {
            Err(error) => tell(answer, Err(error.into())),
            Ok(Some(probe)) => self.repeated(probe, answer),
            Ok(None) => {
                if let Err((answer, error)) = self.fresh(key, answer).await {
                    tell(answer, Err(error.into()));
                }
            }
        }
    }

    /// A repeat gets the probe that the first call ran (AIP-155). It waits for the relay's answer, too, if that is the probe
    /// in hand.
    fn repeated(&mut self, probe: Probe, answer: Answer) {
        let submitting = matches!(self.doing, Doing::Submitting(_));
        if submitting && probe.is_open() && probe.step == Step::Submit {
            self.callers.wait(answer, None, Some(probe.id));
        } else {
            tell(answer, Ok(probe));
        }
    }

    /// Gets the probe that is in hand, or a run begins.
    async fn fresh(
        &mut self,
        key: Option<RequestKey>,
        answer: Answer,
    ) -> Result<(), (Answer, LedgerError)> {
        let dialling = match &self.doing {
            Doing::Submitting(_) => {
                self.callers.wait(answer, key, None);
                return Ok(());
            }
            Doing::Dialling(_, id) => Some(*id),
            Doing::Nothing => None,
        };
        let running = match dialling {
            Some(id) => self.shared.ledger.probe(id).await,
            None => Ok(None),
        };
        match running {
            Ok(Some(probe)) if probe.is_open() => {
                let mut caller = Callers::default();
                caller.wait(answer, key, None);
                caller.answer(&self.shared, &probe).await;
            }
            // If there was one, its report is there: no cycle is needed for it any more.
            Ok(_) => {
                self.submit(Cause::New(key));
                self.callers.wait(answer, None, None);
            }
            Err(error) => return Err((answer, error)),
        }
        Ok(())
    }

    async fn ended(&mut self, ended: Ended) {
        self.doing = Doing::Nothing;
        let (submitting, result) = match ended {
            Ended::Submitting(result) => (true, result),
            Ended::Dialling(result) => (false, result),
        };
        let attempted = match result {
            Ok(attempted) => attempted,
            Err(error) => return self.not_recorded(&error),
        };
        let probe = attempted.probe().clone();
        if matches!(attempted, Attempted::GoesOn(_)) && !probe.is_open() && !self.callers.are_gone()
        {
            // Its report was quicker than they, who want a probe that runs.
            return self.submit(Cause::New(None));
        }
        let callers = std::mem::take(&mut self.callers);
        callers.answer(&self.shared, &probe).await;
        match attempted {
            Attempted::Later(_) => {
                let wait = self.backoff.next();
                tracing::warn!(monitor = %probe.monitor, probe = %probe.id, error = probe.error, again_after = ?wait, "the relay cannot be asked");
                self.not_before = Some(self.shared.clock.now().plus(wait));
                return;
            }
            Attempted::Done(_) => self.backoff.reset(),
            Attempted::GoesOn(_) => {}
        }
        self.not_before = None;
        if submitting && probe.is_open() && probe.step == Step::Cycle {
            let id = probe.id;
            self.doing = Doing::Dialling(Box::pin(self.attempt().dial(probe)), id);
        }
    }

    fn not_recorded(&mut self, error: &LedgerError) {
        tracing::error!(monitor = %self.monitor.name, %error, "a probe cannot be recorded");
        self.not_before = Some(self.shared.clock.now().plus(LEDGER_RETRY));
        std::mem::take(&mut self.callers).refuse(error);
    }
}

/// The probe that a call with this identity ran before.
async fn known<R: Relay>(
    shared: &Shared<R>,
    key: RequestKey,
) -> Result<Option<Probe>, LedgerError> {
    match shared.ledger.requested(key).await? {
        Some(id) => shared.ledger.probe(id).await,
        None => Ok(None),
    }
}

/// The end of what is being done; never, if that is nothing.
async fn next(doing: &mut Doing) -> Ended {
    match doing {
        Doing::Nothing => std::future::pending().await,
        Doing::Submitting(work) => Ended::Submitting(work.await),
        Doing::Dialling(work, _) => Ended::Dialling(work.await),
    }
}
