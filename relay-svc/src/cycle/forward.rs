//! The step of a cycle that forwards: over as many sessions as the backlog justifies, while the providers are asked beside.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Phase, queues::Next, run::Run};
use crate::{
    names::{HostPort, NextHop},
    outbound::{End, Fleet, News, Speaking, Stop, Tally, worse},
};

/// Mail that keeps coming is forwarded without a break for so long; then it is others' turn.
const STRETCH: Duration = Duration::from_secs(300);
/// While mail flows, its count is kept so often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What a fleet came to.
#[derive(Default)]
struct Sent {
    done: Tally,
    /// Why its sessions stopped; nothing when none came about.
    stop: Option<Stop>,
    /// Why the first of those did not come about that did not.
    failed: Option<End>,
    /// A session that can be used again.
    kept: Option<Speaking>,
}

impl Run {
    pub(super) async fn forward(&mut self, and_ask: bool, cancel: &CancellationToken) {
        let spool = self.shared.forwarder.spool.clone();
        let turn = self.turn.take();
        let hop = match self.queues.next(&spool, turn).await {
            // Without mail there is no session: the smart host is not bothered, nor the line.
            Ok(Next::Nothing { is_empty }) => return self.order.nothing_to_forward(is_empty),
            Ok(Next::Due(hop)) => hop,
            Err(error) => {
                return self.order.forward_failed(
                    0,
                    false,
                    error.to_string(),
                    false,
                    Instant::now(),
                );
            }
        };
        self.enter(Phase::Forward).await;
        let asking = and_ask.then(|| self.ask_beside());
        let before = self.tally();
        let (host, sent) = self.send(&hop, before, cancel).await;
        self.count(before, &sent.done);
        if let Some(asking) = asking {
            // First, for what went out beside it came after it.
            self.asked_beside(asking).await;
        }
        match sent.stop {
            Some(stop) => {
                let is_idle = matches!(stop, Stop::Idle);
                self.forwarded(host, stop, &sent.done, sent.kept).await;
                if is_idle {
                    self.look_at_the_other(&hop, sent.done.sent).await;
                }
            }
            None => {
                let none = || End::Failed("no session came about".into());
                let end = sent.failed.unwrap_or_else(none);
                self.not_forwarded(&hop, &end).await;
            }
        }
    }

    /// Once nothing is due of one queue, the other has its turn: the large mail of the link, while its hours last.
    async fn look_at_the_other(&mut self, hop: &NextHop, sent: u32) {
        let Some(other) = self.queues.after(hop, sent).cloned() else {
            return;
        };
        let spool = &self.shared.forwarder.spool;
        let next = self.queues.next(spool, Some(other.clone())).await;
        if matches!(next, Ok(Next::Due(due)) if due == other) {
            self.turn = Some(other);
            self.order.mail_waits();
        }
    }

    /// Sends over sessions with the smart host; or, when none comes about, or nothing comes of them, with the next host that
    /// there is instead.
    async fn send(
        &mut self,
        hop: &NextHop,
        before: Tally,
        cancel: &CancellationToken,
    ) -> (HostPort, Sent) {
        let mut hosts = vec![self.link.smart_host.clone()];
        hosts.extend(self.link.fallback.iter().cloned());
        let (mut first, mut so_far) = (None, Tally::default());
        while !hosts.is_empty() {
            let host = hosts.remove(0);
            let mut before = before;
            before.add(&so_far);
            let mut fleet = self.fleet(hop, host.clone(), cancel);
            fleet.before_another_host(!hosts.is_empty());
            let mut sent = self.send_to(&host, fleet, before).await;
            so_far.add(&sent.done);
            sent.done = so_far;
            let end = match sent.stop.take() {
                None => sent.failed.take(),
                Some(Stop::Ended(end)) if !hosts.is_empty() && !so_far.progressed() => Some(end),
                stop => {
                    sent.stop = stop;
                    return (host, sent);
                }
            };
            if let Some(kept) = sent.kept.take() {
                self.leaving.spawn(kept.quit());
            }
            if cancel.is_cancelled() {
                sent.failed = end;
                return (host, sent);
            }
            // What the first said counts for the mail that stays.
            first = first.or(end);
        }
        let failed = Sent {
            done: so_far,
            failed: first,
            ..Sent::default()
        };
        (self.link.smart_host.clone(), failed)
    }

    async fn send_to(&mut self, host: &HostPort, mut fleet: Fleet, before: Tally) -> Sent {
        let sessions = self.justified(&mut fleet, true).await;
        if let Some(speaking) = self.at_hand(host) {
            fleet.take(speaking);
        }
        while fleet.sessions() < sessions
            && let Some(connection) = self.fresh.take(host)
        {
            fleet.take_connection(connection);
        }
        fleet.grow(sessions);
        self.drain(&mut fleet, before).await
    }

    async fn justified(&self, fleet: &mut Fleet, by_octets: bool) -> usize {
        let justified = fleet.justified(self.link.connections, by_octets).await;
        // A spool that cannot be read is met again by the session.
        justified.unwrap_or(1)
    }

    /// Sessions with a host, for one of the queues.
    fn fleet(&self, hop: &NextHop, host: HostPort, cancel: &CancellationToken) -> Fleet {
        let forwarder = self.shared.forwarder.clone();
        Fleet::new(
            forwarder.clone(),
            self.queues.feed(forwarder.spool, hop, forwarder.in_hand),
            host,
            self.opener(),
            STRETCH,
            cancel.clone(),
        )
    }

    async fn forwarded(
        &mut self,
        host: HostPort,
        stop: Stop,
        done: &Tally,
        kept: Option<Speaking>,
    ) {
        let now = Instant::now();
        let (sent, progressed) = (done.sent, done.progressed());
        let failed = match stop {
            Stop::Idle | Stop::Cancelled => {
                self.order.forwarded(sent, now);
                None
            }
            Stop::Stretch => {
                self.order.stretched(sent, now);
                None
            }
            Stop::Exhausted => {
                self.order.needs_another_session(sent, now);
                None
            }
            Stop::Ended(end) => {
                let missing = matches!(end, End::Missing(_));
                let reason = end.to_string();
                self.order
                    .forward_failed(sent, progressed, reason.clone(), missing, now);
                Some(reason)
            }
            Stop::Spool(error) => {
                let reason = error.to_string();
                self.order
                    .forward_failed(sent, false, reason.clone(), false, now);
                Some(reason)
            }
        };
        if let Some(kept) = kept {
            self.keep(host, kept);
        }
        self.note(&match failed {
            None => format!("{sent} sent"),
            Some(reason) => format!("{sent} sent, then: {reason}"),
        })
        .await;
    }

    /// Forwards until idle, over all sessions, keeping the count meanwhile.
    async fn drain(&mut self, fleet: &mut Fleet, before: Tally) -> Sent {
        let mut progress = fleet.progress();
        let mut sent = Sent::default();
        loop {
            let news = tokio::select! {
                news = fleet.next() => news,
                () = tokio::time::sleep(COUNT_EVERY) => {
                    self.tell(&mut progress, before).await;
                    continue;
                }
            };
            match news {
                None => return sent,
                Some(News::Opened(true)) => {}
                Some(News::Opened(false)) => {
                    let sessions = self.justified(fleet, false).await;
                    fleet.grow(sessions);
                }
                Some(News::Failed(end)) => {
                    tracing::info!(link = %self.link.name, %end, "a session did not come about");
                    sent.failed.get_or_insert(end);
                }
                Some(News::Broke(error)) => {
                    tracing::error!(link = %self.link.name, %error, "a session ended by a defect of its own");
                }
                Some(News::Ended(ended)) => {
                    let (drained, speaking) = *ended;
                    sent.done.add(&drained.tally);
                    sent.stop = Some(match sent.stop.take() {
                        None => drained.stop,
                        Some(stop) => worse(stop, drained.stop),
                    });
                    if sent.kept.is_none() && speaking.session.is_alive() {
                        sent.kept = Some(speaking);
                    } else {
                        self.leaving.spawn(speaking.quit());
                    }
                }
            }
        }
    }

    /// Keeps the count while mail flows.
    async fn tell(&mut self, progress: &mut watch::Receiver<Tally>, before: Tally) {
        if progress.has_changed().unwrap_or(false) {
            let done = *progress.borrow_and_update();
            self.count(before, &done);
            self.note(&format!("{} sent so far", self.record.sent))
                .await;
        }
    }

    fn tally(&self) -> Tally {
        Tally {
            sent: self.record.sent,
            sent_bytes: self.record.sent_bytes,
            deferred: self.record.deferred,
            refused: self.record.refused,
            ..Tally::default()
        }
    }

    fn count(&mut self, before: Tally, done: &Tally) {
        self.record.sent = before.sent + done.sent;
        self.record.sent_bytes = before.sent_bytes + done.sent_bytes;
        self.record.deferred = before.deferred + done.deferred;
        self.record.refused = before.refused + done.refused;
    }

    /// No session with the smart host: an attempt for what is due first, unless the line is missing.
    async fn not_forwarded(&mut self, hop: &NextHop, end: &End) {
        let reason = end.to_string();
        let missing = matches!(end, End::Missing(_));
        if !missing {
            match self
                .shared
                .forwarder
                .fail(hop, &self.link.smart_host.host, &reason)
                .await
            {
                Ok(tally) => {
                    self.record.deferred += tally.deferred;
                    self.record.refused += tally.refused;
                }
                Err(error) => tracing::error!(%error, "a failed attempt could not be recorded"),
            }
        }
        self.order
            .forward_failed(0, false, reason.clone(), missing, Instant::now());
        self.note(&format!("not forwarded: {reason}")).await;
    }
}
