//! What telemetry did not reach the collector, and why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// What was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Counted in spans.
    Traces,
    /// Counted in metrics of one export. Sums are cumulative, so the next export repairs the loss.
    Metrics,
}

/// Why it was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// More ended than could be sent.
    QueueFull,
    /// The collector was not there, or refused.
    ExportFailed,
    /// The collector did not answer in time.
    TimedOut,
    /// The process ended first.
    Shutdown,
}

const SIGNALS: [(Signal, &str); 2] = [(Signal::Traces, "traces"), (Signal::Metrics, "metrics")];

const REASONS: [(Reason, &str); 4] = [
    (Reason::QueueFull, "queue_full"),
    (Reason::ExportFailed, "export_failed"),
    (Reason::TimedOut, "timed_out"),
    (Reason::Shutdown, "shutdown"),
];

/// Counts that any thread may raise without waiting.
#[derive(Debug, Default)]
pub(super) struct Drops {
    counts: [[AtomicU64; REASONS.len()]; SIGNALS.len()],
}

impl Drops {
    pub(super) fn add(&self, signal: Signal, reason: Reason, count: u64) {
        self.counts[signal as usize][reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn count(&self, signal: Signal, reason: Reason) -> u64 {
        self.counts[signal as usize][reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn total(&self) -> u64 {
        let counts = self.counts.iter().flatten();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Shows the counts as a counter `name` with attributes `signal` and `reason`.
    pub(super) fn observe(self: &Arc<Self>, meter: &Meter, name: &'static str) {
        let drops = Arc::clone(self);
        meter
            .u64_observable_counter(name)
            .with_unit("{item}")
            .with_description("Spans and metrics that did not reach the collector")
            .with_callback(move |observer| {
                for (signal, signal_name) in SIGNALS {
                    for (reason, reason_name) in REASONS {
                        let attributes = [
                            KeyValue::new("signal", signal_name),
                            KeyValue::new("reason", reason_name),
                        ];
                        observer.observe(drops.count(signal, reason), &attributes);
                    }
                }
            })
            .build();
    }
}
