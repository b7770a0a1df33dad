//! The notifier: sends what waits in the outbox, in order for each monitor, until the channel has it.

use std::time::Duration;

use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt, SpanKind},
};
use tokio_util::sync::CancellationToken;

use super::Backoff;
use crate::{
    clock::{Clock, Stamp},
    ledger::{Ledger, LedgerError},
    notify::{Channel, Waiting},
    telemetry::{self, Gauges, Instruments},
};

/// The wait after the first failure; it doubles up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(300);
/// A notice that is older than this is of no use to anyone.
const USEFUL: Duration = Duration::from_secs(7 * 86_400);
/// A ledger that refuses is tried again after so long.
const LEDGER_RETRY: Duration = Duration::from_secs(10);
/// Without anything to send the outbox is looked at so often.
const LOOK: Duration = Duration::from_secs(3600);

/// The one notifier.
pub struct Notifier<C: Channel> {
    /// Where notices wait.
    pub ledger: Ledger,
    /// The time.
    pub clock: Clock,
    /// Who takes them.
    pub channel: C,
    /// What is measured.
    pub instruments: Instruments,
    /// How long the oldest notice has waited.
    pub gauges: Gauges,
}

impl<C: Channel> Notifier<C> {
    /// Runs until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut grown = self.ledger.watch();
        loop {
            grown.mark_unchanged();
            let work = async {
                let wake = match self.send_due().await {
                    Ok(wake) => wake,
                    Err(error) => {
                        tracing::error!(%error, "notices cannot be read or recorded");
                        self.clock.now().plus(LEDGER_RETRY)
                    }
                };
                tokio::select! {
                    _ = grown.changed() => {}
                    () = self.clock.sleep_until(wake) => {}
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = work => {}
            }
        }
    }

    /// Sends what is due, one of each monitor, until nothing is; says when to look again.
    async fn send_due(&self) -> Result<Stamp, LedgerError> {
        loop {
            let waiting = self.ledger.waiting().await?;
            self.gauges
                .show_oldest(waiting.iter().map(|notice| notice.created).min());
            let now = self.clock.now();
            let Some(due) = waiting.iter().find(|notice| notice.next <= now) else {
                let next = waiting.iter().map(|notice| notice.next).min();
                return Ok(next.unwrap_or(now.plus(LOOK)));
            };
            self.send(due).await?;
        }
    }

    async fn send(&self, notice: &Waiting) -> Result<(), LedgerError> {
        let attributes = vec![
            KeyValue::new(telemetry::MONITOR, notice.monitor.clone()),
            KeyValue::new(telemetry::NOTICE, notice.id.clone()),
            KeyValue::new(telemetry::ATTEMPT, i64::from(notice.attempts) + 1),
        ];
        let context = telemetry::start(
            "monitor.notify",
            SpanKind::Client,
            &Context::new(),
            attributes,
            [telemetry::link_to(&notice.traceparent)],
        );
        let delivered = self.channel.deliver(notice);
        let delivered = delivered.with_context(context.clone()).await;
        let failed = delivered.is_err();
        let error = failed.then_some(("not_taken", "the channel did not take it"));
        telemetry::end(&context, error);
        match delivered {
            Ok(()) => {
                self.count("delivered");
                self.ledger.told(notice.seq).await
            }
            Err(error) => self.not_taken(notice, &error).await,
        }
    }

    /// Only what was just tried in vain is dropped: the age alone may come of a clock that was set.
    async fn not_taken(&self, notice: &Waiting, error: &str) -> Result<(), LedgerError> {
        let now = self.clock.now();
        if now.since(notice.created) > USEFUL {
            tracing::warn!(
                monitor = notice.monitor,
                notice = notice.id,
                error,
                "a notice is dropped: nobody took it for seven days"
            );
            self.count("dropped");
            return self.ledger.told(notice.seq).await;
        }
        self.count("failed");
        let wait = Backoff::after(RETRY, RETRY_LONGEST, notice.attempts);
        tracing::warn!(monitor = notice.monitor, notice = notice.id, error, again_after = ?wait, "a notice was not taken");
        self.ledger.postpone(notice.seq, now.plus(wait)).await
    }

    fn count(&self, outcome: &'static str) {
        let outcome = KeyValue::new("outcome", outcome);
        self.instruments.notifications.add(1, &[outcome]);
    }
}
