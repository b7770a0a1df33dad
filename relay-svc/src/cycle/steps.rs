//! The steps of a cycle that speak to hosts: forwarding, and asking for the release of mail.

use std::time::Duration;

use linkmail_smtp::{EtrnNode, Reply};
use opentelemetry::{
    KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    DequeueRequest, Phase,
    order::Announced,
    run::{Run, Speaking},
};
use crate::{
    clock::Stamp,
    names::HostPort,
    outbound::{ConnectError, End, Feed, Fleet, Session, Stop, Tally, connect, worse},
    telemetry,
};

/// The connection that brought the line up is used for so long; later the host may have tired of waiting.
const DIALLED_FRESH: Duration = Duration::from_secs(5);
/// Mail that keeps coming is forwarded without a break for so long; then it is others' turn.
const STRETCH: Duration = Duration::from_secs(300);
/// While mail flows, its count is kept so often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What the requests of one round gave.
#[derive(Default)]
struct Asked {
    announced: Option<Announced>,
    failures: Vec<String>,
    answered: bool,
}

impl Run {
    pub(super) async fn forward(&mut self, cancel: &CancellationToken) {
        let spool = self.shared.forwarder.spool.clone();
        match spool.backlog(self.hop.to_string(), Stamp::now(), 1).await {
            // Without mail there is no session: the smart host is not bothered, nor the line.
            Ok(backlog) if backlog.due == 0 => return self.order.nothing_to_forward(),
            Ok(_) => {}
            Err(error) => {
                return self.order.forward_failed(
                    0,
                    false,
                    error.to_string(),
                    false,
                    Instant::now(),
                );
            }
        }
        self.enter(Phase::Forward).await;
        let host = self.link.smart_host.clone();
        let mut fleet = self.fleet(host.clone(), cancel);
        let limit = self.link.connections;
        if let Ok(sessions) = fleet.justified(limit, true).await {
            fleet.grow(sessions);
        }
        let before = self.tally();
        let speaking = self.speak_to(&host).await;
        let (stop, done, speaking) = match speaking {
            Ok(mut speaking) => {
                if !speaking.session.takes_flights()
                    && let Ok(sessions) = fleet.justified(limit, false).await
                {
                    fleet.grow(sessions);
                }
                let (stop, done) = self.drain(&mut fleet, Some(&mut speaking), before).await;
                (stop, done, Some(speaking))
            }
            Err(end) => {
                let (_, done) = self.drain(&mut fleet, None, before).await;
                if done == Tally::default() {
                    return self.not_forwarded(&end).await;
                }
                (Stop::Ended(end), done, None)
            }
        };
        self.count(before, &done);
        self.forwarded(host, stop, &done, speaking).await;
    }

    /// Sessions with the smart host, beside the one that is kept.
    fn fleet(&self, host: HostPort, cancel: &CancellationToken) -> Fleet {
        let forwarder = self.shared.forwarder.with_flight(self.link.flight);
        Fleet::new(
            forwarder.clone(),
            Feed::of_due(forwarder.spool, &self.hop),
            host,
            self.link.dial.patience,
            self.span.clone(),
            Instant::now() + STRETCH,
            cancel.clone(),
        )
    }

    async fn forwarded(
        &mut self,
        host: HostPort,
        stop: Stop,
        done: &Tally,
        speaking: Option<Speaking>,
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
        match speaking {
            Some(speaking) if speaking.session.end().is_none() => self.keep(host, speaking),
            Some(Speaking { session, span }) => {
                let reason = session.end().map(ToString::to_string);
                telemetry::end(&span, reason.map(|reason| ("session_failed", reason)));
            }
            None => {}
        }
        self.note(&match failed {
            None => format!("{sent} sent"),
            Some(reason) => format!("{sent} sent, then: {reason}"),
        })
        .await;
    }

    /// Forwards until idle, over all sessions, keeping the count meanwhile.
    async fn drain(
        &mut self,
        fleet: &mut Fleet,
        speaking: Option<&mut Speaking>,
        before: Tally,
    ) -> (Stop, Tally) {
        let mut progress = fleet.progress();
        let (mut stop, mut done) = (Stop::Idle, Tally::default());
        if let Some(Speaking { session, span }) = speaking {
            let span = span.clone();
            let drain = fleet.drain(session, &span);
            let mut drain = std::pin::pin!(drain);
            let drained = loop {
                tokio::select! {
                    drained = &mut drain => break drained,
                    () = tokio::time::sleep(COUNT_EVERY) => self.tell(&mut progress, before).await,
                }
            };
            (stop, done) = (drained.stop, drained.tally);
        }
        loop {
            let ended = tokio::select! {
                ended = fleet.next_ended() => ended,
                () = tokio::time::sleep(COUNT_EVERY) => {
                    self.tell(&mut progress, before).await;
                    continue;
                }
            };
            match ended {
                None => return (stop, done),
                Some(Ok((drained, session))) => {
                    done.add(&drained.tally);
                    stop = worse(stop, drained.stop);
                    self.leaving.spawn(session.quit());
                }
                // The others send what this one would have; if there are none, the caller's own session says so.
                Some(Err(end)) => {
                    tracing::info!(link = %self.link.name, %end, "a further session did not come about")
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
    async fn not_forwarded(&mut self, end: &End) {
        let reason = end.to_string();
        let missing = matches!(end, End::Missing(_));
        if !missing {
            match self
                .shared
                .forwarder
                .fail(&self.hop, &self.link.smart_host.host, &reason)
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

    /// An open session with a host: the one that is there, or a new one.
    async fn speak_to(&mut self, host: &HostPort) -> Result<Speaking, End> {
        if let Some(speaking) = self.sessions.remove(host) {
            if speaking.session.is_alive() {
                return Ok(speaking);
            }
            telemetry::end(&speaking.span, None);
        }
        let span = telemetry::start_session(host, &self.span);
        let opened = self.open(host).await;
        if let Err(end) = &opened {
            telemetry::end(&span, Some(("session_failed", end.to_string())));
        }
        opened.map(|session| Speaking { session, span })
    }

    async fn open(&mut self, host: &HostPort) -> Result<Session, End> {
        let stream = match self.dialled.take() {
            Some(dialled) if dialled.host == *host && dialled.at.elapsed() < DIALLED_FRESH => {
                dialled.stream
            }
            other => {
                self.dialled = other;
                connect(host, self.link.dial.patience)
                    .await
                    .map_err(|error| match error {
                        ConnectError::Missing(reason) | ConnectError::TimedOut(reason) => {
                            End::Missing(reason)
                        }
                        ConnectError::Refused(reason) => End::Failed(reason),
                    })?
            }
        };
        let hostname = &self.shared.forwarder.hostname;
        Session::open(stream, host.clone(), hostname, self.link.flight).await
    }

    fn keep(&mut self, host: HostPort, speaking: Speaking) {
        self.sessions.insert(host, speaking);
    }

    /// Asks every provider for every node.
    pub(super) async fn ask(&mut self, cancel: &CancellationToken) {
        self.enter(Phase::Dequeue).await;
        let mut asked = Asked::default();
        for index in 0..self.link.dequeue.len() {
            if cancel.is_cancelled() {
                break;
            }
            self.ask_host(index, &mut asked).await;
        }
        let announced = asked.announced.unwrap_or(Announced::Refused);
        self.order
            .asked(announced, asked.failures, asked.answered, Instant::now());
    }

    async fn ask_host(&mut self, index: usize, asked: &mut Asked) {
        let (host, nodes) = (
            self.link.dequeue[index].host.clone(),
            self.link.dequeue[index].nodes.clone(),
        );
        let mut speaking = match self.speak_to(&host).await {
            Ok(speaking) => speaking,
            Err(end) => {
                for node in &nodes {
                    self.answered(&host, node, Err(&end), asked).await;
                }
                return;
            }
        };
        for node in &nodes {
            let attributes = vec![KeyValue::new(telemetry::NODE, node.to_string())];
            let span = telemetry::start("relay.etrn", SpanKind::Client, &speaking.span, attributes);
            let answer = speaking.session.etrn(node).await;
            let failed = match &answer {
                Ok(reply) => {
                    span.span()
                        .set_attribute(KeyValue::new(telemetry::REPLY_CODE, i64::from(reply.code)));
                    (!reply.is_positive()).then(|| ("refused", reply.to_string()))
                }
                Err(end) => Some(("session_failed", end.to_string())),
            };
            telemetry::end(&span, failed);
            self.answered(&host, node, answer.as_ref(), asked).await;
        }
        match speaking.session.end() {
            None => self.keep(host, speaking),
            Some(end) => telemetry::end(&speaking.span, Some(("session_failed", end.to_string()))),
        }
    }

    async fn answered(
        &mut self,
        host: &HostPort,
        node: &EtrnNode,
        answer: Result<&Reply, &End>,
        asked: &mut Asked,
    ) {
        let (code, text) = match answer {
            Ok(reply) => (reply.code, reply.text()),
            Err(end) => (0, end.to_string()),
        };
        let labels = [
            KeyValue::new(telemetry::LINK, self.link.name.to_string()),
            KeyValue::new(telemetry::REPLY_CODE, i64::from(code)),
        ];
        self.shared
            .forwarder
            .instruments
            .etrn_requests
            .add(1, &labels);
        asked.answered |= answer.is_ok();
        let announced = announced(code, &text);
        asked.announced = Some(
            asked
                .announced
                .map_or(announced, |before| before.and(announced)),
        );
        // 458 is also the word of servers that are at it already, at our own request.
        let at_it = code == 458
            && self.record.requests.iter().any(|before| {
                before.host == host.to_string()
                    && before.node == node.to_string()
                    && before.code / 100 == 2
            });
        if !(200..300).contains(&code) && !at_it {
            asked
                .failures
                .push(format!("ETRN {node} at {host}: {text}"));
        }
        let event = format!("ETRN {node} at {host}: {code} {text}");
        self.record.requests.push(DequeueRequest {
            at: Stamp::now(),
            host: host.to_string(),
            node: node.to_string(),
            code,
            text,
        });
        self.note(&event).await;
    }
}

/// What an answer to ETRN promises (RFC 1985 5.3). 458 is also the word of servers that are at it already.
fn announced(code: u16, text: &str) -> Announced {
    let words: Vec<&str> = text.split_whitespace().collect();
    let pending = |pair: &[&str]| {
        let named = pair[1].to_ascii_lowercase().starts_with("pending");
        if named { pair[0].parse().ok() } else { None }
    };
    let number = || words.windows(2).find_map(pending);
    match code {
        253 => number().map_or(Announced::Unknown, Announced::Messages),
        250 | 252 | 254..=299 => Announced::Unknown,
        458 => Announced::Unknown,
        251 => Announced::Nothing,
        _ => Announced::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_etrn_promise_what_rfc_1985_says() {
        for (code, text, expected) in [
            (250, "Queuing started", Announced::Unknown),
            (
                251,
                "OK, no messages waiting for node x",
                Announced::Nothing,
            ),
            (
                252,
                "OK, pending messages for node x started",
                Announced::Unknown,
            ),
            (
                253,
                "OK, 14 pending messages for node x started",
                Announced::Messages(14),
            ),
            (253, "OK, messages for node x started", Announced::Unknown),
            (
                253,
                "mx1.isp.example: 4 pending messages",
                Announced::Messages(4),
            ),
            (458, "Already processing", Announced::Unknown),
            (459, "Node x not allowed: no", Announced::Refused),
            (0, "connection refused", Announced::Refused),
        ] {
            assert_eq!(announced(code, text), expected, "{code} {text}");
        }
    }
}
