//! One run of a probe: submit it, then ask for a cycle. Each step is committed before the next one begins.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt, SpanKind},
};

use super::Shared;
use crate::{
    clock::Stamp,
    config::Monitor,
    judge::next_probe,
    ledger::{LedgerError, RequestKey},
    names::RequestId,
    probe::{Probe, Progress, Step, Submitted, compose::compose},
    relay::{Asked, Message, Relay, RelayError, Submission},
    telemetry,
};

/// A cycle that is running is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a run begins.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// It is time, or somebody asks.
    New(Option<RequestKey>),
    /// The run before did not come to its end.
    GoOn,
}

/// How far a run came.
#[derive(Debug)]
pub(super) enum Attempted {
    /// As far as it goes: the relay answered.
    Done(Probe),
    /// It goes on with the next step; the relay was not asked for anything yet.
    GoesOn(Probe),
    /// The relay cannot be asked now: it is to go on later.
    Later(Probe),
}

impl Attempted {
    /// The probe that it is a run of.
    pub(super) fn probe(&self) -> &Probe {
        match self {
            Self::Done(probe) | Self::GoesOn(probe) | Self::Later(probe) => probe,
        }
    }
}

/// One run for a monitor.
#[derive(Clone)]
pub(super) struct Attempt<R: Relay> {
    pub(super) shared: Shared<R>,
    pub(super) monitor: Arc<Monitor>,
}

impl<R: Relay> Attempt<R> {
    /// Finds or makes the probe, and submits it. The probe then needs a cycle, or nothing more.
    ///
    /// # Errors
    /// The ledger could not record a step.
    pub(super) async fn submit(self, cause: Cause) -> Result<Attempted, LedgerError> {
        let newest = self.newest().await?;
        match (newest, cause) {
            (Some(probe), Cause::GoOn) if probe.is_open() => self.hand_over(probe).await,
            // Its report was quicker.
            (Some(probe), Cause::GoOn) => Ok(Attempted::GoesOn(probe)),
            (None, Cause::GoOn) => self.begin(None).await,
            (Some(probe), Cause::New(key)) if probe.may_wait() => self.look_up(probe, key).await,
            (_, Cause::New(key)) => {
                self.tidy().await?;
                // It may have been given up just now.
                match self.newest().await?.filter(Probe::is_open) {
                    Some(probe) if probe.submitted.is_none() => self.again(&probe, None, key).await,
                    _ => self.begin(key).await,
                }
            }
        }
    }

    async fn newest(&self) -> Result<Option<Probe>, LedgerError> {
        let name = self.monitor.name.clone();
        Ok(self.shared.ledger.standing(name).await?.1)
    }

    async fn tidy(&self) -> Result<(), LedgerError> {
        let (name, now) = (self.monitor.name.clone(), self.shared.clock.now());
        for lost in self.shared.ledger.tidy(name, now).await? {
            self.count(&lost, lost.fate.as_str());
        }
        Ok(())
    }

    /// Nothing came back for the newest probe: it runs again if its message still waits, whatever became of it, else a
    /// further one begins.
    async fn look_up(
        self,
        probe: Probe,
        key: Option<RequestKey>,
    ) -> Result<Attempted, LedgerError> {
        let name = probe.submitted.as_ref().map(|submitted| &submitted.message);
        let message = self.shared.relay.message(name.map_or("", String::as_str));
        match message.with_context(Context::new()).await {
            Ok(message) if message.waits => {
                let again = self.again(&probe, Some(&message), key).await?;
                self.tidy().await?;
                Ok(again)
            }
            Ok(_) | Err(RelayError::NotFound(_)) => {
                self.tidy().await?;
                self.begin(key).await
            }
            Err(error) => {
                let tried = Progress::Tried(error.to_string());
                let probe = self.record(&probe, tried, key).await?;
                self.count(&probe, "error");
                Ok(Attempted::Later(probe))
            }
        }
    }

    /// A further run of a probe: its message waits, or was never submitted.
    async fn again(
        &self,
        probe: &Probe,
        message: Option<&Message>,
        key: Option<RequestKey>,
    ) -> Result<Attempted, LedgerError> {
        let elsewhere = message.and_then(|message| self.elsewhere(message));
        let again = Progress::RunAgain {
            cycle_request: RequestId::new(),
            dial: self.monitor.dial,
            waited: message.map(|_| self.shared.clock.now()),
            elsewhere: elsewhere.clone(),
        };
        let probe = self.record(probe, again, key).await?;
        if elsewhere.is_some() {
            return Ok(Attempted::Done(self.failed(probe)));
        }
        match self.hand_over(probe).await? {
            // The relay was asked for its message.
            Attempted::GoesOn(probe) => Ok(Attempted::Done(probe)),
            other => Ok(other),
        }
    }

    /// What is wrong with the next hop of a message, if that is not the link.
    fn elsewhere(&self, message: &Message) -> Option<String> {
        let expected = format!("link:{}", self.monitor.link);
        (message.route != expected).then(|| {
            format!(
                "the relay sends it by {:?} and not by {expected:?}: check the routes for {}",
                message.route, self.monitor.recipient
            )
        })
    }

    /// A further probe.
    async fn begin(self, key: Option<RequestKey>) -> Result<Attempted, LedgerError> {
        let now = self.shared.clock.now();
        let root = self.span(None);
        let probe = Probe::new(self.monitor.name.clone(), telemetry::to_text(&root), now);
        let probe = self.shared.ledger.begin(probe, key, now).await?;
        self.under(root, probe).await
    }

    /// A probe that was begun before.
    async fn hand_over(&self, probe: Probe) -> Result<Attempted, LedgerError> {
        if probe.step != Step::Submit {
            return Ok(Attempted::GoesOn(probe));
        }
        let root = self.span(Some(&probe));
        self.under(root, probe).await
    }

    async fn under(&self, root: Context, probe: Probe) -> Result<Attempted, LedgerError> {
        use opentelemetry::trace::TraceContextExt;
        let span = root.span();
        span.set_attribute(KeyValue::new(telemetry::PROBE, probe.id.to_string()));
        span.set_attribute(KeyValue::new(telemetry::RUN, i64::from(probe.runs)));
        let done = self.send(probe, &root).await;
        // The words are for the log: an address of a person may be among them.
        let error = match &done {
            Ok(probe) if probe.probe().error.is_empty() => None,
            Ok(_) => Some(("not_submitted", "the probe is not on its way")),
            Err(_) => Some(("ledger", "the ledger could not record it")),
        };
        telemetry::end(&root, error);
        done
    }

    async fn send(&self, probe: Probe, root: &Context) -> Result<Attempted, LedgerError> {
        let monitor = &self.monitor;
        let content = match compose(
            &probe,
            &monitor.reverse_path,
            &monitor.recipient,
            &monitor.link,
        ) {
            Ok(content) => content,
            Err(error) => return self.fail(&probe, error.to_string()).await,
        };
        let submission = Submission {
            request: probe.submit_request,
            reverse_path: monitor.reverse_path.address(probe.token),
            recipient: monitor.recipient.to_string(),
            content,
        };
        let submitted = self.shared.relay.submit(submission);
        let message = match submitted.with_context(root.clone()).await {
            Ok(message) => message,
            Err(RelayError::NotNow(error)) => {
                let probe = self.record(&probe, Progress::Tried(error), None).await?;
                self.count(&probe, "error");
                return Ok(Attempted::Later(probe));
            }
            Err(error) => return self.fail(&probe, error.to_string()).await,
        };
        let elsewhere = self.elsewhere(&message);
        let submitted = Submitted {
            message: message.name,
            accepted: message.accepted,
            at: self.shared.clock.now(),
        };
        if let Some(error) = elsewhere {
            let progress = Progress::SentElsewhere { submitted, error };
            let probe = self.record(&probe, progress, None).await?;
            return Ok(Attempted::Done(self.failed(probe)));
        }
        let progress = Progress::Submitted {
            submitted,
            dial: monitor.dial,
        };
        Ok(Attempted::Done(self.record(&probe, progress, None).await?))
    }

    async fn fail(&self, probe: &Probe, error: String) -> Result<Attempted, LedgerError> {
        let probe = self.record(probe, Progress::Refused(error), None).await?;
        Ok(Attempted::Done(self.failed(probe)))
    }

    fn failed(&self, probe: Probe) -> Probe {
        self.count(&probe, probe.fate.as_str());
        tracing::warn!(monitor = %probe.monitor, probe = %probe.id, error = probe.error, "probe failed");
        probe
    }

    /// Asks for a cycle. One that is running may take the probe along: its end is awaited, and one is asked for again if
    /// the probe's message still waits then; all of it until the next run is due.
    ///
    /// # Errors
    /// The ledger could not record a step.
    pub(super) async fn dial(self, mut probe: Probe) -> Result<Attempted, LedgerError> {
        let until = self.next_run().await?;
        loop {
            let parent = telemetry::from_text(&probe.traceparent);
            let asked = self
                .shared
                .relay
                .run_cycle(&self.monitor.link, probe.cycle_request);
            let cycle = match asked.with_context(parent).await {
                Ok(Asked::Started(cycle)) => {
                    let started = Progress::CycleStarted(cycle);
                    return Ok(Attempted::Done(self.record(&probe, started, None).await?));
                }
                Ok(Asked::Busy(cycle)) => cycle,
                Err(error) => return self.no_cycle(&probe, error).await,
            };
            let found = Progress::CycleFound(cycle.clone());
            probe = self.record(&probe, found, None).await?;
            match self.wait_for_end(&probe, &cycle, until).await? {
                Ok(true) if self.still_waits(&probe).await? => {}
                Ok(true) => {
                    let taken = Progress::Taken;
                    return Ok(Attempted::Done(self.record(&probe, taken, None).await?));
                }
                Ok(false) => {
                    let busy = format!("link {} is busy with {cycle}", self.monitor.link);
                    let given_up = Progress::NoCycle(busy);
                    return Ok(Attempted::Done(self.record(&probe, given_up, None).await?));
                }
                Err(error) => return self.no_cycle(&probe, error).await,
            }
        }
    }

    /// When the next run is due.
    async fn next_run(&self) -> Result<Stamp, LedgerError> {
        let name = self.monitor.name.clone();
        let (standing, _) = self.shared.ledger.standing(name).await?;
        let (now, thresholds) = (self.shared.clock.now(), &self.monitor.thresholds);
        Ok(next_probe(
            thresholds,
            standing.state,
            standing.last_run,
            now,
        ))
    }

    async fn no_cycle(&self, probe: &Probe, error: RelayError) -> Result<Attempted, LedgerError> {
        self.count(probe, "error");
        if let RelayError::NotNow(error) = error {
            let probe = self.record(probe, Progress::Tried(error), None).await?;
            return Ok(Attempted::Later(probe));
        }
        let given_up = Progress::NoCycle(error.to_string());
        Ok(Attempted::Done(self.record(probe, given_up, None).await?))
    }

    /// Waits until a cycle has ended or the probe is closed; `false`: not until then.
    async fn wait_for_end(
        &self,
        probe: &Probe,
        cycle: &str,
        until: Stamp,
    ) -> Result<Result<bool, RelayError>, LedgerError> {
        while self.shared.clock.now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            let known = self.shared.ledger.probe(probe.id).await?;
            if !known.is_some_and(|known| known.is_open()) {
                return Ok(Ok(true));
            }
            match self.shared.relay.has_ended(cycle).await {
                Ok(true) | Err(RelayError::NotFound(_)) => return Ok(Ok(true)),
                Ok(false) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(false))
    }

    /// Whether a probe's message waits in the relay. If that cannot be learned, a cycle is asked for in any case.
    async fn still_waits(&self, probe: &Probe) -> Result<bool, LedgerError> {
        let known = self.shared.ledger.probe(probe.id).await?;
        let Some(submitted) = known
            .filter(Probe::is_open)
            .and_then(|probe| probe.submitted)
        else {
            return Ok(false);
        };
        let message = self.shared.relay.message(&submitted.message);
        Ok(match message.with_context(Context::new()).await {
            Ok(message) => message.waits,
            Err(RelayError::NotFound(_)) => false,
            Err(_) => true,
        })
    }

    async fn record(
        &self,
        probe: &Probe,
        progress: Progress,
        key: Option<RequestKey>,
    ) -> Result<Probe, LedgerError> {
        let (monitor, now) = (Arc::clone(&self.monitor), self.shared.clock.now());
        let ledger = &self.shared.ledger;
        ledger.progress(probe.id, progress, monitor, key, now).await
    }

    /// The root of a probe's trace; of one that was begun before, a further span in its trace.
    fn span(&self, before: Option<&Probe>) -> Context {
        let parent = before.map_or_else(Context::new, |probe| {
            telemetry::from_text(&probe.traceparent)
        });
        let attributes = vec![
            KeyValue::new(telemetry::MONITOR, self.monitor.name.to_string()),
            KeyValue::new(telemetry::LINK, self.monitor.link.to_string()),
        ];
        let kind = SpanKind::Internal;
        telemetry::start("monitor.probe.submit", kind, &parent, attributes, None)
    }

    fn count(&self, probe: &Probe, verdict: &'static str) {
        let attributes = [
            KeyValue::new(telemetry::MONITOR, probe.monitor.to_string()),
            KeyValue::new("verdict", verdict),
        ];
        self.shared.instruments.runs.add(1, &attributes);
    }
}
