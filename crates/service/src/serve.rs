//! Serving gRPC until a token says stop, with a bounded end.
//!
//! Left alone, tonic waits for ever for a client that connected and says nothing (hyper #4170).

use std::time::Duration;

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tower::{Layer, Service};

use crate::incoming::Incoming;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The time between breaking the connections and giving up on their tasks.
const ABORT_PATIENCE: Duration = Duration::from_secs(1);

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Every connection ended by itself.
    Drained,
    /// Some outlasted the grace period and were broken.
    Aborted,
}

/// Serves until `shutdown` is cancelled; then stops accepting, lets the calls in progress end for
/// `grace`, and breaks what is left. Streaming handlers must watch the same token.
///
/// # Errors
/// The server could not start a connection's service.
pub async fn serve_grpc<L>(
    router: Router<L>,
    incoming: Incoming,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<Served, tonic::transport::Error>
where
    L: Layer<Routes>,
    L::Service: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    <L::Service as Service<Request<Body>>>::Future: Send,
    <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
{
    let abort = incoming.abort_token();
    let stop = shutdown.clone().cancelled_owned();
    let mut serving = std::pin::pin!(router.serve_with_incoming_shutdown(incoming, stop));
    let out_of_grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = &mut serving => return ended.map(|()| Served::Drained),
        () = out_of_grace => {}
    }
    tracing::warn!(
        ?grace,
        "gRPC clients did not leave in time; closing their connections"
    );
    abort.cancel();
    match tokio::time::timeout(ABORT_PATIENCE, serving).await {
        Ok(ended) => ended.map(|()| Served::Aborted),
        Err(_) => Ok(Served::Aborted),
    }
}
