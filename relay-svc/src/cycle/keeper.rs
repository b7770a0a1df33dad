//! The keeper of a link: starts its cycles, one at a time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use opentelemetry::trace::SpanContext;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Busy, Desk, Record, RunError, RunRequest, Trigger,
    queues::Queues,
    replicas,
    run::Run,
    schedule::{Decision, Opening, Schedule},
};
use crate::{
    arrivals::Arrivals,
    clock::Stamp,
    config::Link,
    link,
    names::{CycleId, LinkName, NextHop},
    outbound::Forwarder,
    spool::{Lease, RequestKey, Spool, SpoolError},
};

/// The wait before the spool is asked again that could not be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(10);
/// Signals are hints: it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The same where the hours of the day matter.
const LOOK_AT_THE_WALL: Duration = Duration::from_secs(10);

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

/// The lease of a link: one keeper has it, whichever replica that is in.
fn lease_of(link: &LinkName) -> String {
    NextHop::Link(link.clone()).to_string()
}

/// Closes the books on the cycles that were left open of links that have no keeper any more.
///
/// # Errors
/// The spool cannot be read or written.
pub async fn interrupt_unkept(spool: &Spool, kept: &[Link]) -> Result<(), SpoolError> {
    let open = spool.open_cycles().await?.into_iter();
    let links: HashSet<_> = open.map(|record| record.link).collect();
    for link in links {
        if kept.iter().any(|kept| kept.name == link) {
            continue;
        }
        // Where another replica has it, its cycle may be running.
        if let Some(lease) = spool.claim(&lease_of(&link)).await? {
            interrupt_left_open(&spool.under(&lease), &link).await?;
        }
    }
    Ok(())
}

/// Closes the books on the cycles of a link that the keeper before left open; says whether there were any.
async fn interrupt_left_open(spool: &Spool, link: &LinkName) -> Result<bool, SpoolError> {
    let mut any = false;
    for mut record in spool.open_cycles().await? {
        if record.link != *link {
            continue;
        }
        // What came in its window was accepted, whoever of us counted it.
        if let Some((messages, bytes)) = spool.close_window(record.id).await? {
            record.received = record.received.max(messages);
            record.received_bytes = record.received_bytes.max(bytes);
        }
        let now = Stamp::now();
        let reason = "the relay stopped while the cycle ran".to_owned();
        record.finish(super::Outcome::Interrupted, reason, now);
        spool.save_cycle(&record, "interrupted", now).await?;
        any = true;
    }
    Ok(any)
}

/// The keeper of one link.
pub struct Keeper {
    lease: Lease,
    shared: Shared,
    link: Arc<Link>,
    queues: Queues,
    schedule: Schedule,
    opening: Opening,
    line_may_be_up: bool,
}

/// What a cycle is started with.
struct Start {
    trigger: Trigger,
    call: Option<RunRequest>,
}

impl Keeper {
    /// Keeps a link until cancelled: now, if no other replica does, or as soon as none does any more. Who calls for a cycle
    /// meanwhile is told so.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn post(
        shared: Shared,
        link: Arc<Link>,
        mut requests: mpsc::Receiver<RunRequest>,
        cancel: CancellationToken,
    ) -> Result<impl Future<Output = ()> + use<>, SpoolError> {
        let lease = shared.forwarder.spool.claim(&lease_of(&link.name)).await?;
        let mut keeper = match lease {
            Some(lease) => Some(Self::take_over(&shared, &link, lease).await?),
            None => None,
        };
        Ok(async move {
            while !cancel.is_cancelled() {
                match keeper.take() {
                    Some(keeper) => keeper.run(&mut requests, &cancel).await,
                    None => keeper = Self::next(&shared, &link, &mut requests, &cancel).await,
                }
            }
        })
    }

    /// Waits until the link is free, and takes it over.
    async fn next(
        shared: &Shared,
        link: &Arc<Link>,
        requests: &mut mpsc::Receiver<RunRequest>,
        cancel: &CancellationToken,
    ) -> Option<Self> {
        let name = lease_of(&link.name);
        let mut claimed = std::pin::pin!(shared.forwarder.spool.claimed(&name, cancel));
        let lease = loop {
            tokio::select! {
                lease = &mut claimed => break lease?,
                Some(call) = requests.recv() => drop(call.answer.send(Err(RunError::Elsewhere))),
            }
        };
        match Self::take_over(shared, link, lease).await {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                tracing::error!(link = %link.name, %error, "the link cannot be taken over");
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(SPOOL_PAUSE) => {}
                }
                None
            }
        }
    }

    /// Takes a link over from the keeper before, which may have left its line up.
    async fn take_over(
        shared: &Shared,
        link: &Arc<Link>,
        lease: Lease,
    ) -> Result<Self, SpoolError> {
        let mut shared = shared.clone();
        shared.forwarder.spool = shared.forwarder.spool.under(&lease);
        let (link, spool) = (Arc::clone(link), &shared.forwarder.spool);
        let line_may_be_up = interrupt_left_open(spool, &link.name).await?;
        let last = spool.cycles(Some(link.name.clone()), i64::MAX, 1).await?;
        let since_last = last
            .first()
            .map(|(_, record)| Stamp::now().since(record.start));
        let schedule = Schedule::new(link.trigger, link.redial_after, since_last, Instant::now());
        Ok(Self {
            lease,
            shared,
            queues: Queues::of(&link),
            link,
            schedule,
            opening: Opening::default(),
            line_may_be_up,
        })
    }

    /// Runs cycles until cancelled, or until the lease is lost; the one that runs then is brought to its end first. When the
    /// lease is asked back, that one is the last.
    async fn run(mut self, requests: &mut mpsc::Receiver<RunRequest>, cancel: &CancellationToken) {
        let stop = cancel.child_token();
        let lost = self.lease.lost().clone();
        let (desk, link) = (self.shared.desk.clone(), self.link.name.clone());
        let spool = self.shared.forwarder.spool.clone();
        desk.set_kept(&link, true);
        let last = self.lease.ends().clone();
        let cycles = self.cycles(requests, &stop, &last);
        let watched = async {
            lost.cancelled().await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cycles => {}
            () = watched => {}
            () = replicas::serve(&spool, &desk, &link) => {}
        }
        desk.set_kept(&link, false);
        desk.set_next(&link, None);
    }

    async fn cycles(
        &mut self,
        requests: &mut mpsc::Receiver<RunRequest>,
        cancel: &CancellationToken,
        last: &CancellationToken,
    ) {
        if self.line_may_be_up
            && let Err(error) = link::hang_up(&self.link.dial).await
        {
            tracing::warn!(link = %self.link.name, %error, "hanging up after an interrupted cycle failed");
        }
        let mut woken = self.shared.forwarder.spool.watch_hop(&self.queues.name());
        while !cancel.is_cancelled() && !last.is_cancelled() {
            woken.mark_unchanged();
            for hop in self.queues.all() {
                if let Err(error) = self.shared.forwarder.judge_late(hop).await {
                    tracing::error!(link = %self.link.name, %error, "late mail cannot be judged");
                }
            }
            let decision = self.decide().await;
            let start = match decision {
                Decision::Start(trigger) => Start {
                    trigger,
                    call: None,
                },
                Decision::Wait(until) => {
                    let look_again = Instant::now() + self.look_again();
                    let until = until.map_or(look_again, |until| until.min(look_again));
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        () = last.cancelled() => break,
                        _ = woken.changed() => continue,
                        () = tokio::time::sleep_until(until) => continue,
                        Some(call) = requests.recv() => Start { trigger: call.trigger, call: Some(call) },
                    }
                }
            };
            self.cycle(start, requests, cancel).await;
        }
    }

    fn look_again(&self) -> Duration {
        match self.queues.has_hours() {
            true => LOOK_AT_THE_WALL,
            false => LOOK_AGAIN,
        }
    }

    async fn decide(&mut self) -> Decision {
        let next = self.schedule.next_start();
        let in_how_long = next.map(|next| next.saturating_duration_since(Instant::now()));
        self.shared.desk.set_next(
            &self.link.name,
            in_how_long.map(|wait| Stamp::now().plus(wait)),
        );
        let spool = &self.shared.forwarder.spool;
        let cap = self.link.trigger.queued.unwrap_or(1);
        match self.queues.waiting(spool, cap, &mut self.opening).await {
            Ok(waiting) => self.schedule.decide(&waiting, Instant::now()),
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
        let (request, caller, call, answer) = match start.call {
            Some(asked) => (asked.request, asked.caller, asked.call, Some(asked.answer)),
            None => (None, SpanContext::NONE, None, None),
        };
        // A caller that has gone gets its cycle all the same.
        let tell = |reply| {
            if let Some(answer) = answer {
                let _ = answer.send(reply);
            }
        };
        let spool = self.shared.forwarder.spool.clone();
        match earlier(&spool, request.clone()).await {
            Ok(None) => {}
            Ok(Some(first)) => return tell(Ok(first)),
            Err(error) => return tell(Err(error)),
        }
        let run = Run::new(
            self.shared.clone(),
            Arc::clone(&self.link),
            start.trigger,
            caller,
        );
        match spool.begin_cycle(run.record(), request, call).await {
            Ok(true) => {}
            Ok(false) => {
                run.give_up("the call was withdrawn".to_owned());
                return tell(Err(RunError::Elsewhere));
            }
            Err(error) => {
                tracing::error!(link = %self.link.name, %error, "no cycle: it cannot be kept");
                run.give_up(error.to_string());
                tell(Err(error.into()));
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(SPOOL_PAUSE) => {}
                }
                return;
            }
        }
        tell(Ok(run.record().clone()));
        self.schedule.started(run.record().trigger, Instant::now());
        self.opening.started();
        let id = run.record().id;
        let ending = {
            let mut running = std::pin::pin!(run.finish(cancel));
            loop {
                tokio::select! {
                    ending = &mut running => break ending,
                    Some(call) = requests.recv() => {
                        let answer = busy(&spool, call.request, id).await;
                        let _ = call.answer.send(answer);
                    }
                }
            }
        };
        self.schedule.ended(&ending, Instant::now());
    }
}

/// The cycle that an earlier call with the same request id started.
async fn earlier(spool: &Spool, request: Option<RequestKey>) -> Result<Option<Record>, RunError> {
    let Some(key) = request else {
        return Ok(None);
    };
    let Some(first) = spool.repeated_cycle(key).await? else {
        return Ok(None);
    };
    let kept = spool.cycle(first).await?;
    kept.map(Some)
        .ok_or_else(|| SpoolError::Damaged(format!("cycle {first} is gone")).into())
}

/// The answer while a cycle runs: a repeat of an earlier call gets what that started.
async fn busy(
    spool: &Spool,
    request: Option<RequestKey>,
    running: CycleId,
) -> Result<Record, RunError> {
    match earlier(spool, request).await? {
        Some(first) => Ok(first),
        None => Err(RunError::Busy(Busy(running))),
    }
}
