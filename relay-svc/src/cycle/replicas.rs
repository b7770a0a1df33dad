//! The keeper of a link and the other replicas, where there are any.
//!
//! A call for a cycle that came to a replica without the keeper is handed on through the spool, and waited for. The keeper
//! takes such calls like those of its own process, and shows how the link stands.

use std::time::Duration;

use linkmail_service::span;
use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Busy, Desk, LinkView, Record, RunError, RunRequest, Trigger};
use crate::{
    names::LinkName,
    spool::{Answer, CALL_WAIT, Call, CallId, RequestKey, Spool, SpoolError},
    telemetry,
};

/// The answer to a call that was handed on is looked for so often.
const ANSWER_EVERY: Duration = Duration::from_millis(200);
/// The wait before the spool is asked again that could not be read or written.
const SPOOL_PAUSE: Duration = Duration::from_secs(2);
/// A next start that moved by less is not shown anew.
const MOVED: Duration = Duration::from_secs(1);

/// A call for a cycle.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What the cycle is for: a call, or a probe.
    pub trigger: Trigger,
    /// The identity of the call.
    pub request: Option<RequestKey>,
    /// The span of the call; the cycle's own span is linked to it.
    pub caller: SpanContext,
}

/// Asks for a cycle now, of whichever replica keeps the link; answers as it begins. `None`: there is no such link.
///
/// # Errors
/// One is running, it could not be kept, the relay is stopping, or the replica that keeps the link did not answer in
/// [`CALL_WAIT`]: no cycle begins by the call then.
pub async fn ask(
    desk: &Desk,
    spool: &Spool,
    link: &LinkName,
    asked: Asked,
    stopping: &CancellationToken,
) -> Option<Result<Record, RunError>> {
    let here = desk.run(
        link,
        asked.trigger,
        asked.request.clone(),
        asked.caller.clone(),
    );
    match here.await? {
        Err(RunError::Elsewhere) => Some(hand_on(spool, link, asked, stopping).await),
        answer => Some(answer),
    }
}

async fn hand_on(
    spool: &Spool,
    link: &LinkName,
    asked: Asked,
    stopping: &CancellationToken,
) -> Result<Record, RunError> {
    let caller = Context::new().with_remote_span_context(asked.caller);
    let call = Call {
        trigger: asked.trigger,
        request: asked.request,
        caller: telemetry::to_text(&caller),
    };
    let until = Instant::now() + CALL_WAIT;
    let call = spool.hand_on(link, call).await?;
    while Instant::now() < until && !stopping.is_cancelled() {
        match spool.answer_to(call).await {
            Ok(Some(_)) => break,
            Ok(None) | Err(SpoolError::Unavailable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = sleep(ANSWER_EVERY) => {}
        }
    }
    match spool.withdraw(call).await? {
        Some(Answer::Started(cycle)) => {
            let gone = || SpoolError::Damaged(format!("cycle {cycle} is gone"));
            Ok(spool.cycle(cycle).await?.ok_or_else(gone)?)
        }
        Some(Answer::Busy(cycle)) => Err(RunError::Busy(Busy(cycle))),
        Some(Answer::Conflict) => Err(SpoolError::Request(crate::spool::RequestConflict).into()),
        Some(Answer::Failed(reason)) => Err(RunError::Failed(reason)),
        None if stopping.is_cancelled() => Err(RunError::Stopping),
        None => Err(RunError::Elsewhere),
    }
}

/// What the keeper of a link does for the other replicas, until it is dropped. `spool` stands under its lease.
pub(super) async fn serve(spool: &Spool, desk: &Desk, link: &LinkName) {
    if spool.is_shared() {
        tokio::join!(take_calls(spool, desk, link), show(spool, desk, link));
    }
    std::future::pending().await
}

/// Takes the calls that were handed on, one after the other.
async fn take_calls(spool: &Spool, desk: &Desk, link: &LinkName) {
    let mut called = spool.watch_calls();
    loop {
        called.mark_unchanged();
        match spool.calls(link).await {
            Ok(calls) => {
                for (id, call) in calls {
                    take(spool, desk, link, id, call).await;
                }
            }
            Err(SpoolError::LeaseLost) => return,
            Err(error) => {
                tracing::warn!(%link, %error, "calls of other replicas cannot be taken");
                sleep(SPOOL_PAUSE).await;
            }
        }
        if called.changed().await.is_err() {
            return;
        }
    }
}

async fn take(spool: &Spool, desk: &Desk, link: &LinkName, id: CallId, call: Call) {
    let (answer, answered) = oneshot::channel();
    let request = RunRequest {
        trigger: call.trigger,
        request: call.request,
        caller: span::link_to(&call.caller),
        call: Some(id),
        answer,
    };
    let answer = match desk.ask(link, request, answered).await {
        Some(Ok(record)) => Answer::Started(record.id),
        Some(Err(RunError::Busy(Busy(running)))) => Answer::Busy(running),
        Some(Err(RunError::Spool(SpoolError::Request(_)))) => Answer::Conflict,
        Some(Err(RunError::Spool(error))) => Answer::Failed(error.to_string()),
        // The next keeper takes it.
        None | Some(Err(RunError::Elsewhere | RunError::Stopping | RunError::Failed(_))) => return,
    };
    if let Err(error) = spool.answer_call(id, answer).await {
        tracing::warn!(%link, %error, "a call of another replica could not be answered");
    }
}

/// Shows how the link stands, whenever that changes.
async fn show(spool: &Spool, desk: &Desk, link: &LinkName) {
    let Some(mut view) = desk.watch(link) else {
        return;
    };
    let mut shown = None;
    loop {
        let now = *view.borrow_and_update();
        if shown.is_none_or(|shown| differs(&shown, &now)) {
            match spool.show_link(link, now).await {
                Ok(()) => shown = Some(now),
                Err(SpoolError::LeaseLost) => return,
                Err(error) => {
                    tracing::warn!(%link, %error, "the link cannot be shown to the other replicas");
                    sleep(SPOOL_PAUSE).await;
                    continue;
                }
            }
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

fn differs(shown: &LinkView, now: &LinkView) -> bool {
    let moved = match (shown.next, now.next) {
        (Some(one), Some(other)) => one.since(other).max(other.since(one)) >= MOVED,
        (one, other) => one.is_some() != other.is_some(),
    };
    moved || (shown.state, shown.since) != (now.state, now.since)
}
