//! A daemon's gRPC services with what stands beside them: health, reflection, and limits on a connection.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::Server,
};
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};
use tower::Service;

use crate::{grpc::CallLayer, incoming::Incoming, serve::serve_grpc};

/// Calls that are under way when the daemon stops get so long to end.
const GRACE: Duration = Duration::from_secs(5);
/// A connection whose client does not answer a ping is closed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Calls at once on one connection.
const STREAMS: u32 = 100;

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

/// The services of one daemon.
#[derive(Debug)]
pub struct Api {
    descriptors: &'static [u8],
    routes: RoutesBuilder,
    /// Of every service, and "" of the whole.
    names: Vec<&'static str>,
}

impl Api {
    /// Of the contract that `descriptors` describe, an encoded `FileDescriptorSet`; no services yet.
    #[must_use]
    pub fn new(descriptors: &'static [u8]) -> Self {
        Self {
            descriptors,
            routes: Routes::builder(),
            names: vec![""],
        }
    }

    /// Adds a service.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// Serves until `shutdown` is cancelled, with health and reflection. Streaming handlers must watch the same token.
    ///
    /// # Errors
    /// The server could not start.
    pub async fn serve(
        mut self,
        incoming: Incoming,
        calls: CallLayer,
        shutdown: CancellationToken,
    ) -> Result<(), ApiError> {
        let (health, health_service) = health_reporter();
        set_all(&health, &self.names, ServingStatus::Serving).await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        self.routes
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // What clients ask for that are older than v1, such as grpcurl until 1.8.
            .add_service(reflection().build_v1alpha()?);
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_concurrent_streams(STREAMS)
            .layer(calls)
            .add_routes(self.routes.routes());
        let (stopping, names) = (shutdown.clone(), self.names);
        tokio::spawn(async move {
            stopping.cancelled().await;
            // The words that a probe asks for; whoever balances load stops sending calls here.
            set_all(&health, &names, ServingStatus::NotServing).await;
        });
        serve_grpc(router, incoming, shutdown, GRACE).await?;
        Ok(())
    }
}

async fn set_all(health: &HealthReporter, names: &[&'static str], status: ServingStatus) {
    for name in names {
        health.set_service_status(*name, status).await;
    }
}
