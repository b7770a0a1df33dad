//! The keeper of a link: starts its cycles, one at a time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use opentelemetry::trace::SpanContext;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Busy, Desk, Record, RunError, RunRequest, Trigger,
    run::Run,
    schedule::{Decision, Schedule, Waiting},
};
use crate::{
    arrivals::Arrivals,
    clock::Stamp,
    config::Link,
    link,
    names::{CycleId, LinkName, NextHop},
    outbound::Forwarder,
    spool::{RequestKey, Spool, SpoolError},
};

/// The wait before the spool is asked again that could not be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(10);
/// The count of waiting messages stops here: a trigger that needs more is met by it.
const COUNT: u64 = 1_000_000;

/// What the keepers of all links share. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// Forwards mail.
    pub forwarder: Forwarder,
    /// Counts what comes in.
    pub arrivals: Arrivals,
    /// Where the links are seen.
    pub desk: Desk,
}

/// Closes the books on the cycles that the process before left open; gives their links.
///
/// # Errors
/// The spool cannot be read or written.
pub async fn interrupt_left_open(spool: &Spool) -> Result<HashSet<LinkName>, SpoolError> {
    let mut links = HashSet::new();
    for mut record in spool.open_cycles().await? {
        let now = Stamp::now();
        let reason = "the relay stopped while the cycle ran".to_owned();
        record.finish(super::Outcome::Interrupted, reason, now);
        spool.save_cycle(&record, "interrupted", now).await?;
        links.insert(record.link);
    }
    Ok(links)
}

/// The keeper of one link.
pub struct Keeper {
    shared: Shared,
    link: Arc<Link>,
    hop: NextHop,
    schedule: Schedule,
    line_may_be_up: bool,
}

/// What a cycle is started with.
struct Start {
    trigger: Trigger,
    call: Option<RunRequest>,
}

impl Keeper {
    /// Takes a link over from the process before, which may have left its line up.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn take_over(
        shared: Shared,
        link: Arc<Link>,
        line_may_be_up: bool,
    ) -> Result<Self, SpoolError> {
        let spool = &shared.forwarder.spool;
        let last = spool.cycles(Some(link.name.clone()), i64::MAX, 1).await?;
        let since_last = last
            .first()
            .map(|(_, record)| Stamp::now().since(record.start));
        let schedule = Schedule::new(link.trigger, link.redial_after, since_last, Instant::now());
        let hop = NextHop::Link(link.name.clone());
        Ok(Self {
            shared,
            link,
            hop,
            schedule,
            line_may_be_up,
        })
    }

    /// Runs cycles until cancelled; the one that runs then is brought to its end first.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<RunRequest>,
        cancel: CancellationToken,
    ) {
        if self.line_may_be_up
            && let Err(error) = link::hang_up(&self.link.dial).await
        {
            tracing::warn!(link = %self.link.name, %error, "hanging up after an interrupted cycle failed");
        }
        let mut woken = self.shared.forwarder.spool.watch_hop(&self.hop.to_string());
        while !cancel.is_cancelled() {
            woken.mark_unchanged();
            let decision = self.decide().await;
            let start = match decision {
                Decision::Start(trigger) => Start {
                    trigger,
                    call: None,
                },
                Decision::Wait(until) => {
                    let until =
                        until.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        _ = woken.changed() => continue,
                        () = tokio::time::sleep_until(until) => continue,
                        Some(call) = requests.recv() => Start { trigger: Trigger::Api, call: Some(call) },
                    }
                }
            };
            self.cycle(start, &mut requests, &cancel).await;
        }
    }

    async fn decide(&self) -> Decision {
        let next = self.schedule.next_start();
        let in_how_long = next.map(|next| next.saturating_duration_since(Instant::now()));
        self.shared.desk.set_next(
            &self.link.name,
            in_how_long.map(|wait| Stamp::now().plus(wait)),
        );
        let now = Stamp::now();
        let cap = self.link.trigger.queued.unwrap_or(1).min(COUNT);
        match self
            .shared
            .forwarder
            .spool
            .backlog(self.hop.to_string(), now, cap)
            .await
        {
            Ok(backlog) => {
                let waiting = Waiting {
                    due: backlog.due,
                    oldest: backlog.oldest_due.map(|since| now.since(since)),
                    next_due: backlog.next_due.map(|at| at.since(now)),
                };
                self.schedule.decide(&waiting, Instant::now())
            }
            Err(error) => {
                tracing::error!(link = %self.link.name, %error, "the queue cannot be read");
                Decision::Wait(Some(Instant::now() + SPOOL_PAUSE))
            }
        }
    }

    /// One cycle, while answering that one is running to whoever asks for another.
    async fn cycle(
        &mut self,
        start: Start,
        requests: &mut mpsc::Receiver<RunRequest>,
        cancel: &CancellationToken,
    ) {
        let caller = start
            .call
            .as_ref()
            .map_or(SpanContext::NONE, |call| call.caller.clone());
        let run = Run::new(
            self.shared.clone(),
            Arc::clone(&self.link),
            start.trigger,
            caller,
        );
        let (request, answer) = match start.call {
            Some(call) => (call.request, Some(call.answer)),
            None => (None, None),
        };
        let begun = self.begin(run.record(), request).await;
        let failed = begun.is_err();
        let repeated = matches!(&begun, Ok(Some(_)));
        let reply = begun.map(|repeat| repeat.unwrap_or_else(|| run.record().clone()));
        if let Err(error) = &reply {
            tracing::error!(link = %self.link.name, %error, "no cycle: it cannot be kept");
        }
        if let Some(answer) = answer {
            // A caller that has gone gets its cycle all the same.
            let _ = answer.send(reply);
        }
        if repeated {
            return;
        }
        if failed {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(SPOOL_PAUSE) => {}
            }
            return;
        }
        self.schedule.started(run.record().trigger, Instant::now());
        let id = run.record().id;
        let spool = self.shared.forwarder.spool.clone();
        let outcome = {
            let mut running = std::pin::pin!(run.finish(cancel));
            loop {
                tokio::select! {
                    outcome = &mut running => break outcome,
                    Some(call) = requests.recv() => {
                        let answer = busy(&spool, call.request, id).await;
                        let _ = call.answer.send(answer);
                    }
                }
            }
        };
        self.schedule.ended(outcome, Instant::now());
    }

    /// Keeps the new cycle; for a repeat of a call, gives the cycle that the first one started.
    async fn begin(
        &self,
        record: &Record,
        request: Option<RequestKey>,
    ) -> Result<Option<Record>, RunError> {
        let spool = &self.shared.forwarder.spool;
        match spool.begin_cycle(record, request).await? {
            None => Ok(None),
            Some(first) => {
                let kept = spool.cycle(first).await?;
                kept.map(Some)
                    .ok_or_else(|| SpoolError::Damaged(format!("cycle {first} is gone")).into())
            }
        }
    }
}

/// The answer while a cycle runs: a repeat of an earlier call gets what that started.
async fn busy(
    spool: &Spool,
    request: Option<RequestKey>,
    running: CycleId,
) -> Result<Record, RunError> {
    if let Some(key) = request
        && let Some(first) = spool.repeated_cycle(key).await?
    {
        let kept = spool.cycle(first).await?;
        return kept.ok_or_else(|| SpoolError::Damaged(format!("cycle {first} is gone")).into());
    }
    Err(RunError::Busy(Busy(running)))
}
