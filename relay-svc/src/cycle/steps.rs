//! The steps of a cycle that speak to hosts: forwarding, and asking for the release of mail.

use std::time::Duration;

use linkmail_smtp::{EtrnNode, Reply};
use opentelemetry::{
    KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{DequeueRequest, Phase, order::Announced, run::Run};
use crate::{
    clock::Stamp,
    config::Dequeue,
    names::HostPort,
    outbound::{End, Feed, Fleet, News, Opener, Speaking, Stop, Tally, worse},
    telemetry,
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

/// A round of requests that runs beside the forwarding.
struct Asking {
    /// What had been received when it began.
    before: u32,
    task: JoinSet<(Vec<HostAnswers>, Instant)>,
}

/// What one host answered.
struct HostAnswers {
    host: HostPort,
    answers: Vec<(EtrnNode, Result<Reply, End>)>,
    speaking: Option<Speaking>,
}

/// Asks one host for every node.
async fn ask_host(
    speaking: Result<Speaking, End>,
    host: &HostPort,
    nodes: &[EtrnNode],
) -> HostAnswers {
    let mut answers = Vec::new();
    let speaking = match speaking {
        Ok(mut speaking) => {
            for node in nodes {
                let attributes = vec![KeyValue::new(telemetry::NODE, node.to_string())];
                let span =
                    telemetry::start("relay.etrn", SpanKind::Client, &speaking.span, attributes);
                let answer = speaking.session.etrn(node).await;
                let failed = match &answer {
                    Ok(reply) => {
                        let code = KeyValue::new(telemetry::REPLY_CODE, i64::from(reply.code));
                        span.span().set_attribute(code);
                        (!reply.is_positive()).then(|| ("refused", reply.to_string()))
                    }
                    Err(end) => Some(("session_failed", end.to_string())),
                };
                telemetry::end(&span, failed);
                answers.push((node.clone(), answer));
            }
            Some(speaking)
        }
        Err(end) => {
            answers.extend(nodes.iter().map(|node| (node.clone(), Err(end.clone()))));
            None
        }
    };
    HostAnswers {
        host: host.clone(),
        answers,
        speaking,
    }
}

/// What the requests of one round gave.
#[derive(Default)]
struct Asked {
    announced: Option<Announced>,
    failures: Vec<String>,
    answered: bool,
}

impl Run {
    pub(super) async fn forward(&mut self, and_ask: bool, cancel: &CancellationToken) {
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
        let asking = and_ask.then(|| self.ask_beside());
        let before = self.tally();
        let (host, sent) = self.send(before, cancel).await;
        self.count(before, &sent.done);
        if let Some(asking) = asking {
            // First, for what went out beside it came after it.
            self.asked_beside(asking).await;
        }
        match sent.stop {
            Some(stop) => self.forwarded(host, stop, &sent.done, sent.kept).await,
            None => {
                let none = || End::Failed("no session came about".into());
                let end = sent.failed.unwrap_or_else(none);
                self.not_forwarded(&end).await;
            }
        }
    }

    /// Sends over sessions with the smart host; or, when none comes about, with the next host that there is instead.
    async fn send(&mut self, before: Tally, cancel: &CancellationToken) -> (HostPort, Sent) {
        let mut hosts = vec![self.link.smart_host.clone()];
        hosts.extend(self.link.fallback.iter().cloned());
        let mut first = None;
        for host in hosts {
            let mut sent = self.send_to(&host, before, cancel).await;
            if sent.stop.is_some() || cancel.is_cancelled() {
                return (host, sent);
            }
            // What the first said counts for the mail that stays.
            if first.is_none() {
                first = sent.failed.take();
            }
        }
        let failed = Sent {
            failed: first,
            ..Sent::default()
        };
        (self.link.smart_host.clone(), failed)
    }

    async fn send_to(
        &mut self,
        host: &HostPort,
        before: Tally,
        cancel: &CancellationToken,
    ) -> Sent {
        let mut fleet = self.fleet(host.clone(), cancel);
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

    /// Sessions with the smart host.
    fn fleet(&self, host: HostPort, cancel: &CancellationToken) -> Fleet {
        let forwarder = self.shared.forwarder.clone();
        Fleet::new(
            forwarder.clone(),
            Feed::of_due(forwarder.spool, &self.hop),
            host,
            self.opener(),
            Instant::now() + STRETCH,
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
        if let Some(speaking) = self.at_hand(host) {
            return Ok(speaking);
        }
        let connection = self.fresh.take(host);
        self.opener().open(host, connection).await
    }

    /// The session with a host that is there, if it still is.
    fn at_hand(&mut self, host: &HostPort) -> Option<Speaking> {
        let speaking = self.sessions.remove(host)?;
        if speaking.session.is_alive() {
            return Some(speaking);
        }
        telemetry::end(&speaking.span, None);
        None
    }

    fn opener(&self) -> Opener {
        let (patience, flight) = (self.link.dial.patience, self.link.flight);
        self.shared.forwarder.opener(patience, flight, &self.span)
    }

    fn keep(&mut self, host: HostPort, speaking: Speaking) {
        if let Some(other) = self.sessions.insert(host, speaking) {
            self.leaving.spawn(other.quit());
        }
    }

    /// Asks every provider for every node.
    pub(super) async fn ask(&mut self, cancel: &CancellationToken) {
        self.enter(Phase::Dequeue).await;
        let before = self.record.received;
        let mut round = Vec::new();
        for Dequeue { host, nodes } in self.link.clone().dequeue.iter() {
            if cancel.is_cancelled() {
                break;
            }
            let speaking = self.speak_to(host).await;
            round.push(ask_host(speaking, host, nodes).await);
        }
        let at = Instant::now();
        self.take_answers(round, at, before).await;
    }

    /// The same beside the forwarding, on connections of their own: what waits on either side moves at once.
    fn ask_beside(&mut self) -> Asking {
        let (link, opener) = (self.link.clone(), self.opener());
        let hosts = link.dequeue.iter().map(|dequeue| &dequeue.host);
        let fresh: Vec<_> = hosts.map(|host| self.fresh.take(host)).collect();
        let round = async move {
            let mut round = Vec::new();
            for (Dequeue { host, nodes }, connection) in link.dequeue.iter().zip(fresh) {
                let speaking = opener.open(host, connection).await;
                round.push(ask_host(speaking, host, nodes).await);
            }
            (round, Instant::now())
        };
        let mut task = JoinSet::new();
        task.spawn(round);
        Asking {
            before: self.record.received,
            task,
        }
    }

    /// Waits for the answers of a round that runs beside.
    async fn asked_beside(&mut self, mut asking: Asking) {
        if let Some(Ok((round, at))) = asking.task.join_next().await {
            self.enter(Phase::Dequeue).await;
            self.take_answers(round, at, asking.before).await;
        }
    }

    /// Takes over the answers of one round; `before` is what had been received when it began.
    async fn take_answers(&mut self, round: Vec<HostAnswers>, at: Instant, before: u32) {
        let mut asked = Asked::default();
        for HostAnswers {
            host,
            answers,
            speaking,
        } in round
        {
            for (node, answer) in &answers {
                self.answered(&host, node, answer.as_ref(), &mut asked)
                    .await;
            }
            match speaking {
                Some(speaking) if speaking.session.is_alive() => self.keep(host, speaking),
                Some(speaking) => {
                    self.leaving.spawn(speaking.quit());
                }
                None => {}
            }
        }
        let announced = asked.announced.unwrap_or(Announced::Refused);
        self.order
            .asked(announced, asked.failures, asked.answered, at, before);
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
