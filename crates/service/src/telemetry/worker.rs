//! The thread that talks to the collector, with a runtime of its own.
//!
//! Its own runtime, because looking up the collector's name occupies a blocking thread for as long as
//! the resolver likes, and the daemon's runtime would wait for that thread at its end.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::runtime::Runtime;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::TelemetryError;
use super::drops::{Drops, Reason, Signal};
use super::metrics::Reader;
use super::otlp::{self, EXPORT_LIMIT};
use super::spans::{Pending, Queue, is_root};

const BATCH: usize = 512;
const BATCH_DELAY: Duration = Duration::from_secs(1);
const METRIC_INTERVAL: Duration = Duration::from_secs(15);
const METRIC_INTERVAL_VARIABLE: &str = "OTEL_METRIC_EXPORT_INTERVAL";
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The handle of the running thread. Dropped without [`Worker::stop`], the thread ends at once.
#[derive(Debug)]
pub(super) struct Worker {
    /// Cancelled: send what is left.
    closing: CancellationToken,
    /// Cancelled by the thread: everything left was sent or dropped.
    done: CancellationToken,
    pending: Arc<Pending>,
    /// Dropped: end now.
    _ending: tokio_util::sync::DropGuard,
}

impl Worker {
    pub(super) fn start(
        endpoint: String,
        resource: Resource,
        queue: Queue,
        reader: Reader,
        drops: Arc<Drops>,
    ) -> Result<Self, TelemetryError> {
        let unusable = |reason| TelemetryError::Endpoint {
            endpoint: endpoint.clone(),
            reason,
        };
        let target = otlp::endpoint(&endpoint).map_err(unusable)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()?;
        let (mut spans, metrics) = {
            let _inside = runtime.enter();
            otlp::exporters(target.connect_lazy()).map_err(unusable)?
        };
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut spans, &resource);
        let (closing, done) = (CancellationToken::new(), CancellationToken::new());
        let ending = CancellationToken::new();
        let pending = Arc::clone(&queue.pending);
        let work = Work {
            closing: closing.clone(),
            done: done.clone(),
            ending: ending.clone(),
            warning: Warning::new(Arc::clone(&drops)),
        };
        std::thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || work.run(runtime, queue, spans, reader, metrics, &drops))?;
        Ok(Worker {
            closing,
            done,
            pending,
            _ending: ending.drop_guard(),
        })
    }

    /// Waits at most `deadline` for what is left, and drops the rest.
    pub(super) async fn stop(self, deadline: Duration) {
        self.closing.cancel();
        let _ = timeout(deadline, self.done.cancelled()).await;
        self.pending.abandon();
    }
}

/// What runs in the thread.
struct Work {
    closing: CancellationToken,
    done: CancellationToken,
    ending: CancellationToken,
    warning: Warning,
}

impl Work {
    fn run(
        self,
        runtime: Runtime,
        queue: Queue,
        spans: SpanExporter,
        reader: Reader,
        metrics: MetricExporter,
        drops: &Drops,
    ) {
        runtime.block_on(async {
            let everything = async {
                tokio::join!(
                    send_spans(queue, &spans, &self.closing),
                    send_metrics(&reader, &metrics, &self.closing, drops),
                );
                self.done.cancel();
            };
            tokio::select! {
                () = everything => {}
                () = self.ending.cancelled() => {}
                () = self.warning.watch() => {}
            }
        });
        // A name look-up may still sit in the blocking thread; nobody waits for it.
        runtime.shutdown_background();
    }
}

async fn send_spans(mut queue: Queue, exporter: &SpanExporter, closing: &CancellationToken) {
    loop {
        let batch = next_batch(&mut queue, closing).await;
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        match timeout(EXPORT_LIMIT, exporter.export(batch)).await {
            Ok(Ok(())) => queue.pending.sent(count),
            Ok(Err(_)) => queue.pending.dropped(count, Reason::ExportFailed),
            Err(_) => queue.pending.dropped(count, Reason::TimedOut),
        }
    }
}

/// Spans to send together: as many as wait, up to [`BATCH`]; otherwise those of [`BATCH_DELAY`], unless
/// a trace ends before. Empty at the end.
async fn next_batch(queue: &mut Queue, closing: &CancellationToken) -> Vec<SpanData> {
    let mut batch = Vec::new();
    let receiver = &mut queue.receiver;
    tokio::select! {
        biased;
        _ = receiver.recv_many(&mut batch, BATCH) => {}
        () = closing.cancelled() => {}
    }
    let until = Instant::now() + BATCH_DELAY;
    while batch.len() < BATCH && !batch.iter().any(is_root) && !closing.is_cancelled() {
        let room = BATCH - batch.len();
        let more = timeout_at(until, receiver.recv_many(&mut batch, room));
        tokio::select! {
            more = more => if !matches!(more, Ok(1..)) { break },
            () = closing.cancelled() => break,
        }
    }
    if closing.is_cancelled() {
        receiver.close();
        let room = BATCH - batch.len();
        if room > 0 {
            receiver.recv_many(&mut batch, room).await;
        }
    }
    batch
}

async fn send_metrics(
    reader: &Reader,
    exporter: &MetricExporter,
    closing: &CancellationToken,
    drops: &Drops,
) {
    let mut metrics = ResourceMetrics::default();
    let mut ticks = tokio::time::interval(metric_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate, when nothing was measured yet.
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = closing.cancelled() => {}
        }
        if reader.collect(&mut metrics).is_ok() {
            let outcome = timeout(EXPORT_LIMIT, exporter.export(&metrics)).await;
            let scopes = metrics.scope_metrics();
            let count = scopes.map(|scope| scope.metrics().count() as u64).sum();
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(_)) => drops.add(Signal::Metrics, Reason::ExportFailed, count),
                Err(_) => drops.add(Signal::Metrics, Reason::TimedOut, count),
            }
        }
        if closing.is_cancelled() {
            return;
        }
    }
}

/// The environment's interval in milliseconds, else [`METRIC_INTERVAL`].
fn metric_interval() -> Duration {
    std::env::var(METRIC_INTERVAL_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|milliseconds| *milliseconds > 0)
        .map_or(METRIC_INTERVAL, Duration::from_millis)
}

/// Says in the log that telemetry is lost: with the first loss, then at most once a minute.
struct Warning {
    drops: Arc<Drops>,
}

impl Warning {
    fn new(drops: Arc<Drops>) -> Self {
        Warning { drops }
    }

    /// Watches until it is dropped.
    async fn watch(&self) {
        let mut said = 0;
        loop {
            tokio::time::sleep(BATCH_DELAY).await;
            let total = self.drops.total();
            if total > said {
                tracing::warn!(
                    dropped = total - said,
                    dropped_total = total,
                    "telemetry does not reach the collector"
                );
                said = total;
                tokio::time::sleep(WARNING_INTERVAL).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Counted(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Counted {
        fn on_event(&self, _event: &tracing::Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_told_at_once_and_then_once_a_minute() {
        let lines = Counted::default();
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        let _log = tracing::subscriber::set_default(subscriber);
        let drops = Arc::new(Drops::default());
        let warning = Warning::new(Arc::clone(&drops));
        let lose = async {
            let mut told = Vec::new();
            for _ in 0..180 {
                drops.add(Signal::Traces, Reason::ExportFailed, 1);
                tokio::time::sleep(Duration::from_secs(1)).await;
                told.push(lines.0.load(Ordering::Relaxed));
            }
            assert_eq!(told[2], 1);
            assert_eq!(told[59], 1);
            assert_eq!(told[65], 2);
            assert_eq!(told[179], 3);
        };
        tokio::select! {
            () = lose => {}
            () = warning.watch() => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spans_wait_for_company_but_not_after_the_end() {
        use opentelemetry::trace::{SpanContext, TraceContextExt, Tracer, TracerProvider};
        use opentelemetry_sdk::trace::SdkTracerProvider;

        let drops = Arc::new(Drops::default());
        let (processor, mut queue) = super::super::spans::queue(drops);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        let root = tracer.start("root");
        let cx = opentelemetry::Context::new().with_span(root);
        let closing = CancellationToken::new();
        let child = |name: &'static str| drop(tracer.start_with_context(name, &cx));

        child("one");
        let before = Instant::now();
        assert_eq!(next_batch(&mut queue, &closing).await.len(), 1);
        assert_eq!(before.elapsed(), BATCH_DELAY);

        child("two");
        cx.span().end();
        let before = Instant::now();
        assert_eq!(next_batch(&mut queue, &closing).await.len(), 2);
        assert_eq!(before.elapsed(), Duration::ZERO, "a root is sent at once");

        for _ in 0..BATCH + 3 {
            child("many");
        }
        assert_eq!(next_batch(&mut queue, &closing).await.len(), BATCH);
        closing.cancel();
        assert_eq!(next_batch(&mut queue, &closing).await.len(), 3);
        assert!(next_batch(&mut queue, &closing).await.is_empty());
        assert_ne!(cx.span().span_context(), &SpanContext::NONE);
    }
}
