//! The names of spans, attributes and instruments, and the spans' contexts as text.
//!
//! Every attribute key that does not come from the OpenTelemetry conventions starts with `relay.`; no address of a
//! person appears in any of them.

use linkmail_service::span;
use opentelemetry::{
    Context, KeyValue,
    metrics::{Counter, Histogram, Meter},
    trace::{SpanContext, SpanKind},
};

use crate::names::HostPort;

/// The instrumentation scope of this service.
pub const SCOPE: &str = "relay-svc";

/// `relay.link.name`: the link.
pub const LINK: &str = "relay.link.name";
/// `relay.cycle.id`: the cycle.
pub const CYCLE: &str = "relay.cycle.id";
/// `relay.cycle.trigger`: what started it.
pub const TRIGGER: &str = "relay.cycle.trigger";
/// `relay.cycle.outcome`: how it ended.
pub const CYCLE_OUTCOME: &str = "relay.cycle.outcome";
/// `relay.cycle.sent`: messages the smart host accepted.
pub const SENT: &str = "relay.cycle.sent";
/// `relay.cycle.received`: messages accepted from the provider.
pub const RECEIVED: &str = "relay.cycle.received";
/// `relay.cycle.sent_bytes`: octets of the former.
pub const SENT_BYTES: &str = "relay.cycle.sent_bytes";
/// `relay.cycle.received_bytes`: octets of the latter.
pub const RECEIVED_BYTES: &str = "relay.cycle.received_bytes";
/// `relay.cycle.dials`: tries at bringing the line up.
pub const DIALS: &str = "relay.cycle.dials";
/// `relay.release.sent`: messages that a release sent.
pub const RELEASED: &str = "relay.release.sent";
/// `relay.etrn.node`: the node of an ETRN or of a release.
pub const NODE: &str = "relay.etrn.node";
/// `relay.smtp.reply_code`: the code of a reply.
pub const REPLY_CODE: &str = "relay.smtp.reply_code";
/// `relay.delivery.outcome`: `delivered`, `deferred`, `refused`, `not_sent` or `mixed`.
pub const DELIVERY: &str = "relay.delivery.outcome";
/// `relay.dial.driver`: the driver.
pub const DRIVER: &str = "relay.dial.driver";
pub use linkmail_service::span::{ERROR_TYPE, end, from_text, to_text, trace_id};

/// `messaging.system` of the conventions.
pub const SYSTEM: &str = "messaging.system";
/// `messaging.message.id` of the conventions.
pub const MESSAGE: &str = "messaging.message.id";
/// `messaging.message.body.size` of the conventions.
pub const SIZE: &str = "messaging.message.body.size";
/// `server.address` of the conventions.
pub const SERVER: &str = "server.address";
/// `server.port` of the conventions.
pub const PORT: &str = "server.port";

/// Starts a span and gives the context that holds it. `parent` is its parent, if that has a span.
#[must_use]
pub fn start(
    name: &'static str,
    kind: SpanKind,
    parent: &Context,
    attributes: Vec<KeyValue>,
) -> Context {
    start_linked(name, kind, parent, attributes, None)
}

/// Starts a span with a link to another one.
#[must_use]
pub fn start_linked(
    name: &'static str,
    kind: SpanKind,
    parent: &Context,
    attributes: Vec<KeyValue>,
    link: Option<SpanContext>,
) -> Context {
    span::start(SCOPE, name, kind, parent, attributes, link)
}

/// Starts the span of a session with a next hop.
#[must_use]
pub fn start_session(host: &HostPort, parent: &Context) -> Context {
    let attributes = vec![
        KeyValue::new(SERVER, host.host.clone()),
        KeyValue::new(PORT, i64::from(host.port)),
    ];
    start("relay.smtp.session", SpanKind::Client, parent, attributes)
}

/// What is measured. Cheap to clone.
#[derive(Clone)]
pub struct Instruments {
    /// `relay.cycles`: cycles that ended, by link, trigger and outcome.
    pub cycles: Counter<u64>,
    /// `relay.cycle.duration`, seconds.
    pub cycle_duration: Histogram<f64>,
    /// `relay.dial.duration`, seconds.
    pub dial_duration: Histogram<f64>,
    /// `relay.etrn.requests`: by link and reply code.
    pub etrn_requests: Counter<u64>,
    /// `relay.message.accepted`: by origin.
    pub accepted: Counter<u64>,
    /// `relay.message.deliveries`: recipients, by direction and outcome.
    pub deliveries: Counter<u64>,
    /// `relay.message.queue.duration`: from acceptance to delivery, seconds.
    pub queue_duration: Histogram<f64>,
    /// `relay.release.requests`: ETRN commands of sites, by reply code.
    pub release_requests: Counter<u64>,
    /// `relay.releases`: releases that ended, by outcome.
    pub releases: Counter<u64>,
    /// `relay.smtp.sessions`: inbound sessions that ended, by outcome.
    pub sessions: Counter<u64>,
}

impl Default for Instruments {
    /// Of the global meter provider.
    fn default() -> Self {
        Self::new(&opentelemetry::global::meter(SCOPE))
    }
}

impl Instruments {
    /// Made from a meter.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, about: &'static str, bounds: &[f64]| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(about)
                .with_boundaries(bounds.to_vec())
                .build()
        };
        let count = |name: &'static str, unit: &'static str, about: &'static str| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(about)
                .build()
        };
        Self {
            cycles: count("relay.cycles", "{cycle}", "Cycles that ended"),
            cycle_duration: seconds(
                "relay.cycle.duration",
                "From the start of a cycle to its end",
                &[
                    1., 2.5, 5., 10., 30., 60., 120., 300., 600., 1200., 1800., 3600.,
                ],
            ),
            dial_duration: seconds(
                "relay.dial.duration",
                "One try at bringing the line up",
                &[
                    0.5, 1., 2.5, 5., 10., 15., 20., 30., 45., 60., 90., 120., 180., 300.,
                ],
            ),
            etrn_requests: count(
                "relay.etrn.requests",
                "{request}",
                "ETRN commands and their replies",
            ),
            accepted: count(
                "relay.message.accepted",
                "{message}",
                "Messages accepted into the spool",
            ),
            deliveries: count(
                "relay.message.deliveries",
                "{recipient}",
                "Recipients by what an attempt gave",
            ),
            queue_duration: seconds(
                "relay.message.queue.duration",
                "From acceptance to delivery",
                &[
                    1., 5., 15., 60., 300., 900., 1800., 3600., 7200., 14400., 28800., 86400.,
                    172_800., 432_000.,
                ],
            ),
            release_requests: count(
                "relay.release.requests",
                "{request}",
                "ETRN commands of sites and their replies",
            ),
            releases: count(
                "relay.releases",
                "{release}",
                "Releases of held mail that ended",
            ),
            sessions: count(
                "relay.smtp.sessions",
                "{session}",
                "Inbound SMTP sessions that ended",
            ),
        }
    }
}
