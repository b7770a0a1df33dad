//! gRPC ↔ own types, and nowhere else but in `relay` for what the relay says. Must not touch: files, sockets of others.

mod convert;
mod errors;
mod monitors;
mod probes;
#[cfg(test)]
mod tests;

use linkmail_proto::monitor::v1::{
    monitor_service_server::MonitorServiceServer, probe_service_server::ProbeServiceServer,
};
use linkmail_service::{
    api::{Api, ApiError},
    grpc::CallLayer,
    incoming::Incoming,
};
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, ledger::Ledger, run::Desk};

/// What the services need.
#[derive(Clone)]
pub struct Services {
    /// What is known.
    pub ledger: Ledger,
    /// The monitors.
    pub desk: Desk,
    /// The time.
    pub clock: Clock,
    /// Streams end when this is cancelled.
    pub shutdown: CancellationToken,
}

/// Serves until the shutdown token is cancelled, with health and reflection.
///
/// # Errors
/// The server could not start.
pub async fn serve(
    services: Services,
    incoming: Incoming,
    calls: CallLayer,
) -> Result<(), ApiError> {
    let shutdown = services.shutdown.clone();
    Api::new(linkmail_proto::monitor::DESCRIPTORS)
        .with(MonitorServiceServer::new(monitors::Monitors::new(
            services.clone(),
        )))
        .with(ProbeServiceServer::new(probes::Probes::new(services)))
        .serve(incoming, calls, shutdown)
        .await
}
