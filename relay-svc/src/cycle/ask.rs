//! The step of a cycle that asks for the release of mail.

use linkmail_smtp::{EtrnNode, Reply};
use opentelemetry::{
    KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{DequeueRequest, Phase, order::Announced, run::Run};
use crate::{
    clock::Stamp,
    config::Dequeue,
    names::HostPort,
    outbound::{End, Speaking},
    telemetry,
};

/// A round of requests that runs beside the forwarding.
pub(super) struct Asking {
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
    pub(super) fn ask_beside(&mut self) -> Asking {
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
    pub(super) async fn asked_beside(&mut self, mut asking: Asking) {
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
