//! The names of spans, attributes and instruments.
//!
//! Every attribute key that does not come from the OpenTelemetry conventions starts with `monitor.`, or with `relay.` if
//! it is a thing of the relay; no address of a person appears in any of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use linkmail_service::span;
use opentelemetry::{
    Context, KeyValue,
    metrics::{Counter, Histogram, Meter},
    trace::{SpanContext, SpanKind},
};

use crate::{
    clock::{Clock, Stamp},
    judge::{Facts, State},
    names::MonitorName,
    standing::{Standing, Transition},
};

pub use linkmail_service::span::{from_text, link_to, to_text, trace_id};

/// The instrumentation scope of this service.
pub const SCOPE: &str = "monitor-svc";

/// `monitor.name`: the monitor.
pub const MONITOR: &str = "monitor.name";
/// `monitor.probe.id`: the probe.
pub const PROBE: &str = "monitor.probe.id";
/// `monitor.probe.run`: which run of the probe.
pub const RUN: &str = "monitor.probe.run";
/// `monitor.probe.verdict`: what its report proves, or why it proves nothing.
pub const VERDICT: &str = "monitor.probe.verdict";
/// `monitor.probe.round_trip`: from submission to report, seconds.
pub const ROUND_TRIP: &str = "monitor.probe.round_trip";
/// `monitor.state`: the state after a change.
pub const STATE: &str = "monitor.state";
/// `monitor.state.previous`: the state before it.
pub const PREVIOUS: &str = "monitor.state.previous";
/// `monitor.notice.id`: the notice.
pub const NOTICE: &str = "monitor.notice.id";
/// `monitor.notice.attempt`: which attempt at sending it.
pub const ATTEMPT: &str = "monitor.notice.attempt";
/// `relay.cycle.id`: the cycle during which a report came.
pub const CYCLE: &str = "relay.cycle.id";
/// `relay.link.name`: the link.
pub const LINK: &str = "relay.link.name";

/// Starts a span and gives the context that holds it. `parent` is its parent, if that has a span.
#[must_use]
pub fn start(
    name: &'static str,
    kind: SpanKind,
    parent: &Context,
    attributes: Vec<KeyValue>,
    links: impl IntoIterator<Item = SpanContext>,
) -> Context {
    span::start(SCOPE, name, kind, parent, attributes, links)
}

/// Ends the span of a context; an error makes it fail. Its description is the same for each `error.type`: what a relay or a
/// channel said stands in the log, since an address of a person may be among it.
pub fn end(context: &Context, error: Option<(&'static str, &'static str)>) {
    span::end(
        context,
        error.map(|(kind, description)| (kind, description.to_owned())),
    );
}

/// Starts the span of a change of state, linked to what caused it. It ends when the change is committed.
#[must_use]
pub fn evaluated(standing: &Standing, transition: &Transition, cause: &str) -> Context {
    let attributes = vec![
        KeyValue::new(MONITOR, standing.name.to_string()),
        KeyValue::new(STATE, transition.to.as_str()),
        KeyValue::new(PREVIOUS, transition.from.as_str()),
    ];
    start(
        "monitor.evaluate",
        SpanKind::Internal,
        &Context::new(),
        attributes,
        [link_to(cause)],
    )
}

/// What is measured. Cheap to clone.
#[derive(Clone)]
pub struct Instruments {
    /// `monitor.probe.runs`: by monitor and what became of the run.
    pub runs: Counter<u64>,
    /// `monitor.probe.round_trip.duration`, seconds.
    pub round_trip: Histogram<f64>,
    /// `monitor.reports`: by verdict.
    pub reports: Counter<u64>,
    /// `monitor.notification.attempts`: by outcome.
    pub notifications: Counter<u64>,
}

impl Instruments {
    /// Made from a meter.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let count = |name: &'static str, unit: &'static str, about: &'static str| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(about)
                .build()
        };
        Self {
            runs: count(
                "monitor.probe.runs",
                "{run}",
                "Runs of probes by what became of them",
            ),
            round_trip: meter
                .f64_histogram("monitor.probe.round_trip.duration")
                .with_unit("s")
                .with_description("From a probe's submission to its report")
                .with_boundaries(vec![
                    5., 15., 30., 60., 120., 300., 600., 1200., 1800., 3600., 7200., 14400.,
                    28800., 86400.,
                ])
                .build(),
            reports: count(
                "monitor.reports",
                "{report}",
                "Reports by what they prove, or why they prove nothing",
            ),
            notifications: count(
                "monitor.notification.attempts",
                "{attempt}",
                "Attempts at sending a notice",
            ),
        }
    }
}

/// What the gauges show: the monitors as they were last looked at.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    seen: Arc<Mutex<BTreeMap<MonitorName, (State, Facts)>>>,
    oldest: Arc<Mutex<Option<Stamp>>>,
}

impl Gauges {
    /// Remembers how a monitor stands.
    pub fn show(&self, standing: &Standing) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(standing.name.clone(), (standing.state, standing.facts()));
    }

    /// Remembers when the oldest notice that waits was made; `None`: none waits.
    pub fn show_oldest(&self, created: Option<Stamp>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = created;
    }

    /// How long the oldest notice has waited; zero: none waits.
    #[must_use]
    pub fn oldest_age(&self, now: Stamp) -> Duration {
        let oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.map_or(Duration::ZERO, |created| now.since(created))
    }

    /// Shows them as `monitor.proof.age`, `monitor.state` and `monitor.notification.oldest.age`.
    pub fn observe(&self, meter: &Meter, clock: Clock) {
        let gauges = self.clone();
        meter
            .f64_observable_gauge("monitor.proof.age")
            .with_unit("s")
            .with_description("The age of the last proof")
            .with_callback(move |observer| {
                for (name, (_, facts)) in gauges.all() {
                    let age = facts.proof_age(clock.now()).as_secs_f64();
                    observer.observe(age, &[KeyValue::new(MONITOR, name.to_string())]);
                }
            })
            .build();
        let gauges = self.clone();
        meter
            .u64_observable_gauge("monitor.state")
            .with_description("1 for the state that the monitor is in, 0 for the others")
            .with_callback(move |observer| {
                for (name, (state, _)) in gauges.all() {
                    for one in State::ALL {
                        let attributes = [
                            KeyValue::new(MONITOR, name.to_string()),
                            KeyValue::new("state", one.as_str()),
                        ];
                        observer.observe(u64::from(one == state), &attributes);
                    }
                }
            })
            .build();
        let gauges = self.clone();
        meter
            .f64_observable_gauge("monitor.notification.oldest.age")
            .with_unit("s")
            .with_description("The age of the oldest notice that waits; 0 if none does")
            .with_callback(move |observer| {
                observer.observe(gauges.oldest_age(clock.now()).as_secs_f64(), &[]);
            })
            .build();
    }

    fn all(&self) -> Vec<(MonitorName, (State, Facts))> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .map(|(name, shown)| (name.clone(), *shown))
            .collect()
    }
}
