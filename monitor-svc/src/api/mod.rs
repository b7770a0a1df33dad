//! gRPC ↔ own types, and nowhere else but in `relay` for what the relay says. Must not touch: files, sockets of others.

mod convert;
mod errors;
mod monitors;
mod probes;
#[cfg(test)]
mod tests;

use std::time::Duration;

use linkmail_proto::monitor::v1::{
    monitor_service_server::MonitorServiceServer, probe_service_server::ProbeServiceServer,
};
use linkmail_service::{grpc::CallLayer, incoming::Incoming, serve::serve_grpc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{clock::Clock, ledger::Ledger, run::Desk};

/// Calls that are under way when the monitor stops get so long to end.
const GRACE: Duration = Duration::from_secs(5);
/// A connection whose client does not answer a ping is closed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Calls at once on one connection.
const STREAMS: u32 = 100;

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

/// Why the services cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The descriptors of the contract cannot be read.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("gRPC: {0}")]
    Serve(#[from] tonic::transport::Error),
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
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<MonitorServiceServer<monitors::Monitors>>()
        .await;
    health
        .set_serving::<ProbeServiceServer<probes::Probes>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(linkmail_proto::monitor::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let shutdown = services.shutdown.clone();
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS)
        .layer(calls)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // What clients ask for that are older than v1, such as grpcurl until 1.8.
        .add_service(reflection().build_v1alpha()?)
        .add_service(MonitorServiceServer::new(monitors::Monitors::new(
            services.clone(),
        )))
        .add_service(ProbeServiceServer::new(probes::Probes::new(services)));
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        health
            .set_not_serving::<MonitorServiceServer<monitors::Monitors>>()
            .await;
        health
            .set_not_serving::<ProbeServiceServer<probes::Probes>>()
            .await;
        health
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await;
    });
    serve_grpc(router, incoming, shutdown, GRACE).await?;
    Ok(())
}
