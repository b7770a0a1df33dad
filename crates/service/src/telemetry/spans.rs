//! From the end of a span to the worker: a bounded queue that never makes anyone wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::drops::{Drops, Reason, Signal};

/// Ended spans that wait at most.
const QUEUE: usize = 2048;

/// The side of the spans. `on_end` is one try-send.
#[derive(Debug)]
pub(super) struct Processor {
    sender: mpsc::Sender<SpanData>,
    pending: Arc<Pending>,
}

/// The side of the worker.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) receiver: mpsc::Receiver<SpanData>,
    pub(super) pending: Arc<Pending>,
}

/// Spans taken and neither sent nor dropped so far. Each is settled exactly once.
#[derive(Debug)]
pub(super) struct Pending {
    count: AtomicU64,
    drops: Arc<Drops>,
}

pub(super) fn queue(drops: Arc<Drops>) -> (Processor, Queue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pending = Arc::new(Pending {
        count: AtomicU64::new(0),
        drops,
    });
    let processor = Processor {
        sender,
        pending: Arc::clone(&pending),
    };
    (processor, Queue { receiver, pending })
}

impl Pending {
    fn take(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Settles `count` spans as sent.
    pub(super) fn sent(&self, count: u64) {
        self.settle(count);
    }

    /// Settles `count` spans as dropped.
    pub(super) fn dropped(&self, count: u64, reason: Reason) {
        let settled = self.settle(count);
        self.drops.add(Signal::Traces, reason, settled);
    }

    /// Drops all that is left. An export that comes to its end later finds nothing to settle.
    pub(super) fn abandon(&self) {
        let left = self.count.swap(0, Ordering::AcqRel);
        self.drops.add(Signal::Traces, Reason::Shutdown, left);
    }

    fn settle(&self, count: u64) -> u64 {
        let subtract = |pending: u64| Some(pending.saturating_sub(count));
        let before = self
            .count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract)
            .unwrap_or_default();
        before.min(count)
    }
}

impl SpanProcessor for Processor {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.pending.take();
        match self.sender.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.pending.dropped(1, Reason::QueueFull),
            Err(TrySendError::Closed(_)) => self.pending.dropped(1, Reason::Shutdown),
        }
    }

    /// Does nothing: flushing would wait for the collector. The worker sends when a trace ends.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Does nothing: [`super::Telemetry::shutdown`] stops the worker.
    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Whether a span is the first of its trace in this process, so that its end is worth sending at once.
pub(super) fn is_root(span: &SpanData) -> bool {
    span.parent_span_is_remote || span.parent_span_id == opentelemetry::trace::SpanId::INVALID
}
