//! Does what `order` says, and keeps the record of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use linkmail_service::tasks::too_late;
use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt, SpanContext, SpanKind, TraceContextExt},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Outcome, Phase, Record, Shared, Trigger,
    dial::Fresh,
    order::{Action, Ending, Inflow, Order, Plan},
    queues::{Next, Queues},
};
use crate::{
    arrivals::OpenWindow,
    clock::Stamp,
    config::Link,
    names::{HostPort, NextHop},
    outbound::Speaking,
    spool::OpenCycle,
    telemetry,
};

/// When the relay is told to stop, the step that is under way gets so long to end.
const STEP_GRACE: Duration = Duration::from_secs(8);
/// While mail comes in, its count is kept so often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The window of a cycle and its span.
pub(super) struct Window {
    pub(super) open: OpenWindow,
    pub(super) span: Context,
}

/// One cycle on its way.
pub(super) struct Run {
    pub(super) shared: Shared,
    pub(super) link: Arc<Link>,
    pub(super) queues: Queues,
    /// The queue that is looked at first when something is forwarded next.
    pub(super) turn: Option<NextHop>,
    pub(super) order: Order,
    pub(super) record: Record,
    pub(super) span: Context,
    pub(super) window: Option<Window>,
    /// Open sessions, by host: the one that forwarded also asks, and forwards again.
    pub(super) sessions: HashMap<HostPort, Speaking>,
    /// What the dial connected to, until sessions take it.
    pub(super) fresh: Fresh,
    /// Sessions that are saying goodbye.
    pub(super) leaving: JoinSet<()>,
    woken: watch::Receiver<u64>,
    begun: Instant,
    /// When the count of what was received was last kept.
    told: Instant,
}

impl Run {
    pub(super) fn new(
        shared: Shared,
        link: Arc<Link>,
        trigger: Trigger,
        caller: SpanContext,
    ) -> Self {
        let mut record = Record::begin(link.name.clone(), trigger, Stamp::now());
        let attributes = vec![
            KeyValue::new(telemetry::LINK, link.name.to_string()),
            KeyValue::new(telemetry::TRIGGER, trigger.as_str()),
            KeyValue::new(telemetry::CYCLE, record.id.to_string()),
            KeyValue::new(telemetry::DRIVER, link.dial.driver.as_str()),
        ];
        let none = Context::new();
        let span = telemetry::start_linked(
            "relay.cycle",
            SpanKind::Internal,
            &none,
            attributes,
            Some(caller),
        );
        record.trace_id = span.span().span_context().trace_id().to_string();
        let plan = Plan {
            dial_attempts: link.dial.attempts,
            dial_pause: link.dial.pause,
            asks: !link.dequeue.is_empty(),
            quiet: link.quiet,
            receive_at_most: link.receive_at_most,
            bounce_wait: link.bounce_wait,
        };
        let queues = Queues::of(&link);
        let woken = shared.forwarder.spool.watch_hop(&queues.name());
        let begun = Instant::now();
        Self {
            shared,
            link,
            queues,
            turn: None,
            order: Order::new(plan, begun),
            record,
            span,
            window: None,
            sessions: HashMap::new(),
            fresh: Fresh::default(),
            leaving: JoinSet::new(),
            woken,
            begun,
            told: begun,
        }
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Runs it. Cancelled, it hangs up and ends.
    pub(super) async fn finish(mut self, cancel: &CancellationToken) -> Ending {
        let span = self.span.clone();
        async move {
            tracing::info!(link = %self.link.name, cycle = %self.record.id, trigger = self.record.trigger.as_str(), "cycle started");
            loop {
                if cancel.is_cancelled() {
                    self.order.stop();
                }
                self.look();
                let step = match self.order.next(Instant::now()) {
                    Action::End => break,
                    // Both are bounded by themselves, and never left out.
                    Action::HangUp => {
                        self.hang_up().await;
                        continue;
                    }
                    Action::TakeDown => {
                        self.take_down().await;
                        self.order.taken_down();
                        continue;
                    }
                    step => step,
                };
                tokio::select! {
                    () = self.act(step, cancel) => continue,
                    () = too_late(cancel, STEP_GRACE) => {}
                }
                tracing::warn!(cycle = %self.record.id, "given up in the middle of a step: the relay is stopping");
            }
            self.end().await
        }
        .with_context(span)
        .await
    }

    async fn act(&mut self, step: Action, cancel: &CancellationToken) {
        match step {
            Action::Dial => self.dial(cancel).await,
            Action::Pause { until } => self.pause(until, cancel).await,
            Action::Forward { and_ask } => self.forward(and_ask, cancel).await,
            Action::Ask => self.ask(cancel).await,
            Action::Receive { until } => self.receive(until, cancel).await,
            Action::TakeDown | Action::HangUp | Action::End => {}
        }
    }

    /// Takes over what has arrived.
    fn look(&mut self) {
        if let Some(window) = &self.window {
            let tally = window.open.tally();
            self.record.received = tally.messages;
            self.record.received_bytes = tally.bytes;
            self.order.arrived(Inflow {
                messages: tally.messages,
                open: tally.open,
                last: tally.last,
            });
        }
    }

    /// Keeps the record as it stands. A spool that cannot take it now does not stop the cycle.
    pub(super) async fn note(&mut self, event: &str) {
        self.look();
        tracing::info!(link = %self.link.name, cycle = %self.record.id, phase = self.record.phase.as_str(), "{event}");
        if let Err(error) = self
            .shared
            .forwarder
            .spool
            .save_cycle(&self.record, event, Stamp::now())
            .await
        {
            tracing::error!(cycle = %self.record.id, %error, "the record of the cycle could not be kept");
        }
    }

    pub(super) async fn enter(&mut self, phase: Phase) {
        if self.record.enter(phase, Stamp::now()) {
            self.note(&format!("phase: {}", phase.as_str())).await;
        }
    }

    async fn pause(&mut self, until: Instant, cancel: &CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sleep_until(until) => {}
        }
    }

    pub(super) async fn open_window(&mut self) {
        let attributes = vec![KeyValue::new(telemetry::LINK, self.link.name.to_string())];
        let span = telemetry::start(
            "relay.inbound.window",
            SpanKind::Internal,
            &self.span,
            attributes,
        );
        let open = self
            .shared
            .arrivals
            .open(&self.link.name, self.record.id, span.clone());
        let others = OpenCycle {
            link: self.link.name.clone(),
            cycle: self.record.id,
            traceparent: telemetry::to_text(&span),
        };
        self.window = Some(Window { open, span });
        if let Err(error) = self.shared.forwarder.spool.open_window(others).await {
            tracing::error!(cycle = %self.record.id, %error, "what comes in over other replicas is not counted");
        }
    }

    /// Waits for mail in either direction.
    async fn receive(&mut self, until: Instant, cancel: &CancellationToken) {
        self.enter(Phase::Receive).await;
        let Some(window) = &mut self.window else {
            return;
        };
        let before = window.open.tally().messages;
        let woken = tokio::select! {
            () = cancel.cancelled() => false,
            () = sleep_until(until) => true,
            () = window.open.changed() => false,
            _ = self.woken.changed() => true,
        };
        let came = window.open.tally().messages;
        if came > before && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            self.note(&format!("{came} received so far")).await;
        }
        if woken {
            self.find_mail().await;
        }
    }

    /// Whether mail waits to go out.
    async fn find_mail(&mut self) {
        self.woken.mark_unchanged();
        let next = self.queues.next(&self.shared.forwarder.spool, None).await;
        if matches!(next, Ok(Next::Due(_))) {
            self.order.mail_waits();
        }
    }

    async fn hang_up(&mut self) {
        self.enter(Phase::HangUp).await;
        let sessions: Vec<Speaking> = self
            .sessions
            .drain()
            .map(|(_, speaking)| speaking)
            .collect();
        for speaking in sessions {
            self.leaving.spawn(speaking.quit());
        }
        // Each is bounded by itself.
        while self.leaving.join_next().await.is_some() {}
        self.fresh = Fresh::default();
        self.look();
        if let Some(window) = self.window.take() {
            self.count_all().await;
            window.span.span().set_attribute(KeyValue::new(
                telemetry::RECEIVED,
                i64::from(self.record.received),
            ));
            telemetry::end(&window.span, None);
        }
        let attributes = vec![KeyValue::new(telemetry::LINK, self.link.name.to_string())];
        let span = telemetry::start("relay.hangup", SpanKind::Internal, &self.span, attributes);
        let failed = self.take_down().await;
        telemetry::end(&span, failed.map(|reason| ("hang_up_failed", reason)));
        self.order.hung_up();
    }

    /// Counts what came in the window by all replicas, also what one of them had not told yet.
    async fn count_all(&mut self) {
        match self
            .shared
            .forwarder
            .spool
            .close_window(self.record.id)
            .await
        {
            Ok(Some((messages, bytes))) => {
                self.record.received = self.record.received.max(messages);
                self.record.received_bytes = self.record.received_bytes.max(bytes);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(cycle = %self.record.id, %error, "what came in over other replicas could not be counted");
            }
        }
    }

    async fn end(mut self) -> Ending {
        let ending = self.order.ending();
        let (outcome, error) = (ending.outcome, ending.error.clone());
        self.record.finish(outcome, error.clone(), Stamp::now());
        let span = self.span.span();
        for (key, value) in [
            (telemetry::SENT, i64::from(self.record.sent)),
            (telemetry::RECEIVED, i64::from(self.record.received)),
            (telemetry::SENT_BYTES, attribute(self.record.sent_bytes)),
            (
                telemetry::RECEIVED_BYTES,
                attribute(self.record.received_bytes),
            ),
            (telemetry::DIALS, attribute(self.record.dials.len() as u64)),
        ] {
            span.set_attribute(KeyValue::new(key, value));
        }
        span.set_attribute(KeyValue::new(telemetry::CYCLE_OUTCOME, outcome.as_str()));
        let (sent, received) = (self.record.sent, self.record.received);
        self.note(&format!(
            "ended {}: {sent} sent, {received} received",
            outcome.as_str()
        ))
        .await;
        let failed = (outcome != Outcome::Complete).then(|| (outcome.as_str(), error));
        telemetry::end(&self.span, failed);
        let link = KeyValue::new(telemetry::LINK, self.link.name.to_string());
        let outcome_label = KeyValue::new("outcome", outcome.as_str());
        let trigger = KeyValue::new("trigger", self.record.trigger.as_str());
        let instruments = &self.shared.forwarder.instruments;
        instruments.cycle_duration.record(
            self.begun.elapsed().as_secs_f64(),
            &[link.clone(), outcome_label.clone()],
        );
        instruments.cycles.add(1, &[link, trigger, outcome_label]);
        ending
    }

    /// It could not be kept, and does not run.
    pub(super) fn give_up(self, reason: String) {
        telemetry::end(&self.span, Some(("not_kept", reason)));
    }
}

/// A count as an attribute holds it.
fn attribute(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
