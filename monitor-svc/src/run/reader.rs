//! The reader of reports: judges each, commits what follows, then acknowledges it.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt, SpanKind, TraceContextExt},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{Backoff, Shared, log, sparing::Sparing};
use crate::{
    config::Monitor,
    ledger::{LedgerError, Matched},
    probe::{Probe, Proof},
    relay::{Relay, Reports},
    telemetry,
    verdict::{Report, Verdict},
};

/// The wait before the relay is asked again for reports; it doubles up to the longest.
const RECONNECT: Duration = Duration::from_secs(1);
const RECONNECT_LONGEST: Duration = Duration::from_secs(30);
/// Reports that prove nothing are told of so often: who can send mail here can send them.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The one reader of reports.
pub struct Reader<R: Relay> {
    shared: Shared<R>,
    monitors: Arc<[Arc<Monitor>]>,
    rejections: Sparing,
}

impl<R: Relay> Reader<R> {
    /// Reads reports for these monitors.
    #[must_use]
    pub fn new(shared: Shared<R>, monitors: Vec<Arc<Monitor>>) -> Self {
        Self {
            shared,
            monitors: monitors.into(),
            rejections: Sparing::new(TOLD_EVERY),
        }
    }

    /// Runs until it is cancelled. A stream that ends is opened again.
    pub async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            never = self.watch() => match never {},
        }
    }

    async fn watch(&mut self) -> std::convert::Infallible {
        let mut backoff = Backoff::new(RECONNECT, RECONNECT_LONGEST);
        let mut told = false;
        loop {
            match self.shared.relay.reports().await {
                Ok(reports) => {
                    if told {
                        tracing::info!("the relay gives reports again");
                        told = false;
                    }
                    let opened = self.shared.clock.now();
                    self.follow(reports).await;
                    if self.shared.clock.now().since(opened) > RECONNECT_LONGEST {
                        backoff.reset();
                    }
                }
                Err(error) if !told => {
                    tracing::warn!(%error, "the relay gives no reports; trying until it does");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Takes reports until the stream ends.
    async fn follow(&mut self, mut reports: Reports) {
        while let Some(report) = reports.next().await {
            match report {
                Ok(report) => self.take(report).await,
                Err(error) => {
                    tracing::warn!(%error, "the relay ended the stream of reports; watching anew");
                    return;
                }
            }
        }
    }

    /// One report. Without a commit it is not acknowledged, and comes again.
    async fn take(&mut self, report: Report) {
        let name = report.name.clone();
        let context = telemetry::start(
            "monitor.bounce.match",
            SpanKind::Consumer,
            &Context::new(),
            Vec::new(),
            [telemetry::link_to(&report.traceparent)],
        );
        let now = self.shared.clock.now();
        let monitors = Arc::clone(&self.monitors);
        let cause = telemetry::to_text(&context);
        let cycle = report.cycle.clone();
        let ledger = &self.shared.ledger;
        let matched = match ledger.matched(report, monitors, cause, now).await {
            Ok(matched) => matched,
            Err(error) => return self.not_recorded(&context, &name, &error),
        };
        self.tell(&context, &name, &cycle, &matched);
        let acknowledged = self.shared.relay.acknowledge(&name);
        if let Err(error) = acknowledged.with_context(context.clone()).await {
            tracing::warn!(report = name, %error, "the report is not acknowledged; it comes again");
        }
        telemetry::end(&context, None);
    }

    fn not_recorded(&self, context: &Context, name: &str, error: &LedgerError) {
        tracing::error!(report = name, %error, "the report cannot be recorded; it comes again");
        telemetry::end(context, Some(("ledger", "the ledger could not record it")));
    }

    /// Logs and measures what became of a report.
    fn tell(&mut self, context: &Context, name: &str, cycle: &str, matched: &Matched) {
        let Some(verdict) = matched.verdict else {
            context
                .span()
                .set_attribute(KeyValue::new(telemetry::VERDICT, "seen"));
            return;
        };
        let instruments = &self.shared.instruments;
        instruments
            .reports
            .add(1, &[KeyValue::new("verdict", verdict.as_str())]);
        describe(context, cycle, verdict, matched);
        let probe = matched.probe.as_ref();
        match verdict {
            Verdict::Rejected(reason) => {
                if let Some(left_out) = self.rejections.tell(self.shared.clock.now()) {
                    tracing::warn!(
                        report = name,
                        monitor = matched.monitor.as_ref().map(tracing::field::display),
                        reason = reason.words(),
                        left_out,
                        "the report proves nothing"
                    );
                }
            }
            Verdict::Proves(_) | Verdict::NotSent => {
                if let Some(probe) = probe {
                    self.closed(probe, name);
                }
            }
        }
        if let Some(changed) = &matched.changed {
            self.shared.gauges.show(&changed.standing);
            log(changed);
        }
    }

    fn closed(&self, probe: &Probe, report: &str) {
        let monitor = KeyValue::new(telemetry::MONITOR, probe.monitor.to_string());
        let verdict = KeyValue::new("verdict", probe.fate.as_str());
        let seconds = probe.round_trip_ms.unwrap_or(0) as f64 / 1000.0;
        let instruments = &self.shared.instruments;
        instruments.runs.add(1, &[monitor.clone(), verdict]);
        if probe.proof != Proof::None {
            instruments.round_trip.record(seconds, &[monitor]);
        }
        tracing::info!(
            monitor = %probe.monitor,
            probe = %probe.id,
            report,
            fate = probe.fate.as_str(),
            proof = probe.proof.as_str(),
            round_trip_seconds = seconds,
            "probe closed"
        );
    }
}

/// The attributes of the span, and its link to the probe's submission.
fn describe(context: &Context, cycle: &str, verdict: Verdict, matched: &Matched) {
    let span = context.span();
    span.set_attribute(KeyValue::new(telemetry::VERDICT, verdict.as_str()));
    if let Some(monitor) = &matched.monitor {
        span.set_attribute(KeyValue::new(telemetry::MONITOR, monitor.to_string()));
    }
    if let Some((_, id)) = cycle.rsplit_once('/') {
        span.set_attribute(KeyValue::new(telemetry::CYCLE, id.to_owned()));
    }
    if let Some(probe) = &matched.probe {
        span.add_link(telemetry::link_to(&probe.traceparent), Vec::new());
        span.set_attribute(KeyValue::new(telemetry::PROBE, probe.id.to_string()));
        if let Some(ms) = probe.round_trip_ms {
            span.set_attribute(KeyValue::new(telemetry::ROUND_TRIP, ms as f64 / 1000.0));
        }
    }
}
