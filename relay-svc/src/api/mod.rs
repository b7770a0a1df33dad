//! gRPC ↔ own types, and nowhere else. Must not touch: spool files, sockets of others.

mod convert;
mod cycles;
mod errors;
mod links;
mod messages;
mod nodes;
mod reports;
mod submissions;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use linkmail_proto::relay::v1::{
    cycle_service_server::CycleServiceServer, link_service_server::LinkServiceServer,
    message_service_server::MessageServiceServer, node_service_server::NodeServiceServer,
    report_service_server::ReportServiceServer,
};
use linkmail_service::{grpc::CallLayer, incoming::Incoming, serve::serve_grpc};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use submissions::Submissions;

use crate::{cycle::Desk, policy::Policy, spool::Spool, telemetry::Instruments};

/// Calls that are under way when the relay stops get so long to end.
const GRACE: Duration = Duration::from_secs(5);
/// A connection whose client does not answer a ping is closed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Calls at once on one connection.
const STREAMS: u32 = 100;
/// What a request holds beside the message's content.
const ENVELOPE_OCTETS: u64 = 1024 * 1024;

/// What the services need.
#[derive(Clone)]
pub struct Services {
    /// Where messages and cycles are kept.
    pub spool: Spool,
    /// The links.
    pub desk: Desk,
    /// Who may send what where.
    pub policy: Arc<Policy>,
    /// Whose messages may go to anyone.
    pub relay_from: Vec<IpNet>,
    /// Octets of one message.
    pub message_size: u64,
    /// Recipients of one message.
    pub recipients: usize,
    /// The relay's own name.
    pub hostname: Arc<str>,
    /// What is measured.
    pub instruments: Instruments,
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
    set_all(&health, ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(linkmail_proto::relay::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let largest = usize::try_from(services.message_size.saturating_add(ENVELOPE_OCTETS))
        .unwrap_or(usize::MAX);
    let shutdown = services.shutdown.clone();
    let messages = MessageServiceServer::new(messages::Messages::new(services.clone()))
        .max_decoding_message_size(largest);
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS)
        .layer(calls)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // What clients ask for that are older than v1, such as grpcurl until 1.8.
        .add_service(reflection().build_v1alpha()?)
        .add_service(Submissions::new(messages))
        .add_service(CycleServiceServer::new(cycles::Cycles::new(
            services.clone(),
        )))
        .add_service(LinkServiceServer::new(links::Links::new(services.clone())))
        .add_service(NodeServiceServer::new(nodes::Nodes::new(services.clone())))
        .add_service(ReportServiceServer::new(reports::Reports::new(services)));
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        // The words that a probe asks for; whoever balances load stops sending calls here.
        set_all(&health, ServingStatus::NotServing).await;
    });
    serve_grpc(router, incoming, shutdown, GRACE).await?;
    Ok(())
}

/// Of every service, and of the whole.
async fn set_all(health: &HealthReporter, status: ServingStatus) {
    for name in [
        "",
        MessageServiceServer::<messages::Messages>::NAME,
        CycleServiceServer::<cycles::Cycles>::NAME,
        LinkServiceServer::<links::Links>::NAME,
        NodeServiceServer::<nodes::Nodes>::NAME,
        ReportServiceServer::<reports::Reports>::NAME,
    ] {
        health.set_service_status(name, status).await;
    }
}
