//! The configuration of monitor-svc, as types. `deploy/examples/monitor.toml` shows every key with unit and default.
//!
//! Reading it checks everything that can be known from the file alone, and reports all that is wrong at once.

mod read;
mod read_monitor;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use linkmail_service::{
    settings::{Listen, Telemetry},
    target::GrpcTarget,
};
use linkmail_smtp::Mailbox;

use crate::{
    judge::Thresholds,
    names::{LinkName, MonitorName},
    probe::{Pattern, Proof},
};

pub use read::load;

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the ledger.
    pub state: PathBuf,
    /// The relay.
    pub relay: Relay,
    /// The gRPC services.
    pub grpc: Listen,
    /// Traces, metrics and logs.
    pub telemetry: Telemetry,
    /// Where changes of state are sent; nowhere: they are logged only.
    pub webhook: Option<Uri>,
    /// The monitors; at least one.
    pub monitors: Vec<Arc<Monitor>>,
}

/// `[relay]`
#[derive(Debug, Clone)]
pub struct Relay {
    /// Where its gRPC services are.
    pub address: GrpcTarget,
    /// As whom reports are watched.
    pub consumer: String,
}

/// `[[monitor]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Its name.
    pub name: MonitorName,
    /// The relay's link that is watched.
    pub link: LinkName,
    /// The false user at a valid domain.
    pub recipient: Mailbox,
    /// The reverse path of its probes.
    pub reverse_path: Pattern,
    /// When it changes its state, and how often it probes.
    pub thresholds: Thresholds,
    /// A report that took longer is late.
    pub late_after: Duration,
    /// What counts for the state.
    pub wanted: Proof,
    /// Whether a probe asks for a cycle.
    pub dial: bool,
}
