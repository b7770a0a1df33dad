//! gRPC ↔ own types, and nowhere else. Must not touch: spool files, sockets of others.

mod actions;
mod convert;
mod cycles;
mod errors;
mod export;
mod filter;
mod links;
mod list;
mod messages;
mod nodes;
mod reports;
mod submissions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ipnet::IpNet;
use linkmail_proto::relay::v1::{
    cycle_service_server::CycleServiceServer, link_service_server::LinkServiceServer,
    message_service_server::MessageServiceServer, node_service_server::NodeServiceServer,
    report_service_server::ReportServiceServer,
};
use linkmail_service::{
    api::{Api, ApiError},
    grpc::CallLayer,
    incoming::Incoming,
};
use tokio_util::sync::CancellationToken;

use submissions::Submissions;

use crate::{
    cycle::Desk, operator::Operator, policy::Policy, spool::Spool, telemetry::Instruments,
};

/// What a request holds beside the message's content.
const ENVELOPE_OCTETS: u64 = 1024 * 1024;

/// What the services need.
#[derive(Clone)]
pub struct Services {
    /// Where messages and cycles are kept.
    pub spool: Spool,
    /// The links.
    pub desk: Desk,
    /// Who changes what waits.
    pub operator: Operator,
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

/// Serves until the shutdown token is cancelled, with health and reflection.
///
/// # Errors
/// The server could not start.
pub async fn serve(
    services: Services,
    incoming: Incoming,
    calls: CallLayer,
) -> Result<(), ApiError> {
    let largest = usize::try_from(services.message_size.saturating_add(ENVELOPE_OCTETS))
        .unwrap_or(usize::MAX);
    let shutdown = services.shutdown.clone();
    let messages = MessageServiceServer::new(messages::Messages::new(services.clone()))
        .max_decoding_message_size(largest);
    Api::new(linkmail_proto::relay::DESCRIPTORS)
        .with(Submissions::new(messages))
        .with(CycleServiceServer::new(cycles::Cycles::new(
            services.clone(),
        )))
        .with(LinkServiceServer::new(links::Links::new(services.clone())))
        .with(NodeServiceServer::new(nodes::Nodes::new(services.clone())))
        .with(ReportServiceServer::new(reports::Reports::new(services)))
        .serve(incoming, calls, shutdown)
        .await
}
