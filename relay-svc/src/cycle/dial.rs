//! The steps of a cycle that bring the line up and down; where connecting is dialling, the connections that the dial made.

use std::{collections::HashMap, time::Duration};

use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{DialAttempt, Outcome, run::Run};
use crate::{
    clock::Stamp,
    config::Driver,
    link::{self, LinkState},
    names::HostPort,
    outbound::{Connection, WEIGHED, justified},
    spool::SpoolError,
    telemetry,
};

/// Connections of the dial that nobody speaks on yet.
#[derive(Default)]
pub(super) struct Fresh {
    connections: HashMap<HostPort, Vec<Connection>>,
    at: Option<Instant>,
}

/// Mail is made due anew for so long while the line is up and nothing goes.
const ANEW: Duration = Duration::from_secs(2);
/// Such a connection is used for so long; later the host may have tired of waiting.
const FRESH: Duration = Duration::from_secs(5);

impl Fresh {
    fn add(&mut self, host: HostPort, connection: Connection) {
        self.connections.entry(host).or_default().push(connection);
    }

    /// The line came up now.
    fn dialled(&mut self, connection: Option<(HostPort, TcpStream)>) {
        self.at = Some(Instant::now());
        if let Some((host, stream)) = connection {
            self.add(host, Connection::Made(stream));
        }
    }

    /// One to a host, the one that brought the line up first.
    pub(super) fn take(&mut self, host: &HostPort) -> Option<Connection> {
        if self.at.is_none_or(|at| at.elapsed() >= FRESH) {
            self.connections.clear();
        }
        self.connections.get_mut(host)?.pop()
    }
}

impl Run {
    pub(super) async fn dial(&mut self, cancel: &CancellationToken) {
        self.shared
            .desk
            .set_state(&self.link.name, LinkState::Dialling);
        let (start, begun) = (Stamp::now(), Instant::now());
        let attributes = vec![
            KeyValue::new(telemetry::LINK, self.link.name.to_string()),
            KeyValue::new(telemetry::DRIVER, self.link.dial.driver.as_str()),
        ];
        let span = telemetry::start("relay.dial", SpanKind::Client, &self.span, attributes);
        let hosts = self.hosts();
        let mut fresh = self.connect_beside().await;
        let dialled = tokio::select! {
            () = cancel.cancelled() => Err(link::DialError { reason: "the relay is stopping".into(), output: String::new() }),
            dialled = link::dial(&self.link.dial, &hosts) => dialled,
        };
        let took = begun.elapsed();
        let error = dialled.as_ref().err().map(|error| error.reason.clone());
        telemetry::end(&span, error.clone().map(|reason| ("dial_failed", reason)));
        let mut labels = vec![KeyValue::new(telemetry::LINK, self.link.name.to_string())];
        labels.extend(
            error
                .as_ref()
                .map(|_| KeyValue::new(telemetry::ERROR_TYPE, "dial_failed")),
        );
        self.shared
            .forwarder
            .instruments
            .dial_duration
            .record(took.as_secs_f64(), &labels);
        let output = match &dialled {
            Ok(dialled) => dialled.output.clone(),
            Err(error) => error.output.clone(),
        };
        self.record.dials.push(DialAttempt {
            start,
            took,
            error: error.clone().unwrap_or_default(),
            output,
        });
        match dialled {
            Ok(dialled) => {
                fresh.dialled(dialled.connection);
                self.fresh = fresh;
                self.order.dialled();
                self.shared.desk.set_state(&self.link.name, LinkState::Up);
                self.open_window().await;
                self.note("line up").await;
                // The line is paid for: what takes longer waits for its next attempt.
                if tokio::time::timeout(ANEW, self.begin_anew()).await.is_err() {
                    tracing::info!(link = %self.link.name, "the line is back: backoff begins anew for a part of what waits");
                }
            }
            Err(error) => {
                self.order.dial_failed(error.reason.clone(), Instant::now());
                self.note(&format!("line not up: {}", error.reason)).await;
            }
        }
    }

    /// The line is there again, after it was missed: what a host refused for now before that is tried without waiting, and as
    /// at first.
    async fn begin_anew(&self) {
        let spool = &self.shared.forwarder.spool;
        let result = async {
            let missed_now = self.record.dials.len() > 1;
            let last = spool
                .cycles(Some(self.link.name.clone()), i64::MAX, 2)
                .await?;
            let mut before = last
                .iter()
                .filter(|(_, record)| record.id != self.record.id);
            let missed_before = before
                .next()
                .is_some_and(|(_, record)| record.outcome == Some(Outcome::LineMissing));
            let mut begun = 0;
            if missed_now || missed_before {
                for hop in self.queues.all() {
                    begun += spool.begin_anew(hop.to_string()).await?;
                }
            }
            Ok::<_, SpoolError>(begun)
        };
        match result.await {
            Ok(0) => {}
            Ok(recipients) => {
                tracing::info!(link = %self.link.name, recipients, "the line is back: backoff begins anew");
            }
            Err(error) => tracing::warn!(%error, "backoff does not begin anew"),
        }
    }

    /// Where connecting is dialling, the connections that the cycle will need are all made at once: a long line is waited
    /// for once. One is left out, which is the dial itself.
    async fn connect_beside(&self) -> Fresh {
        let mut fresh = Fresh::default();
        if !matches!(self.link.dial.driver, Driver::Implicit) {
            return fresh;
        }
        let spool = &self.shared.forwarder.spool;
        let weight = self.queues.weight(spool, WEIGHED);
        let (messages, octets) = weight.await.unwrap_or_default();
        if messages == 0 {
            return fresh;
        }
        let (smart_host, patience) = (&self.link.smart_host, self.link.dial.patience);
        let sessions = justified(messages, octets, self.link.connections, true);
        let asked = self.link.dequeue.iter().map(|dequeue| &dequeue.host);
        for host in std::iter::repeat_n(smart_host, sessions - 1).chain(asked) {
            let host = host.clone();
            fresh.add(host.clone(), Connection::begin(host, patience));
        }
        fresh
    }

    /// Everyone the cycle speaks to, the smart host first, each once.
    fn hosts(&self) -> Vec<HostPort> {
        let mut hosts = vec![self.link.smart_host.clone()];
        let others = self.link.dequeue.iter().map(|dequeue| &dequeue.host);
        for host in self.link.fallback.iter().chain(others) {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        hosts
    }

    /// Brings the line down; says why that failed, if it did.
    pub(super) async fn take_down(&mut self) -> Option<String> {
        self.shared
            .desk
            .set_state(&self.link.name, LinkState::HangingUp);
        let failed = link::hang_up(&self.link.dial).await.err();
        self.shared.desk.set_state(&self.link.name, LinkState::Down);
        if let Some(error) = &failed {
            tracing::warn!(link = %self.link.name, %error, output = error.output, "hanging up failed");
        }
        failed.map(|error| error.reason)
    }
}
