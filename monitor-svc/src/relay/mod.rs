//! The relay, as the monitor needs it. A trait: the real one over gRPC, and a simulated world in tests.

mod convert;
mod grpc;
#[cfg(test)]
mod tests;

use std::pin::Pin;

use tokio_stream::Stream;

use crate::{
    clock::Stamp,
    names::{LinkName, RequestId},
    verdict::Report,
};

pub use grpc::GrpcRelay;

/// Why the relay did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// It cannot be reached, or cannot do it now: try again.
    #[error("{0}")]
    NotNow(String),
    /// It does not know the thing.
    #[error("{0}")]
    NotFound(String),
    /// It will not do it, however often it is asked.
    #[error("{0}")]
    Refused(String),
}

/// A message to be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The identity of the call: a repeat makes no second message.
    pub request: RequestId,
    /// The reverse path.
    pub reverse_path: String,
    /// The recipient.
    pub recipient: String,
    /// The message.
    pub content: Vec<u8>,
}

/// A message in the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `messages/{id}`.
    pub name: String,
    /// When the relay answered for it, by its clock.
    pub accepted: Stamp,
    /// Whether it still waits there for its next hop.
    pub waits: bool,
    /// The next hop of its recipient, such as `link:isp`.
    pub route: String,
}

/// The answer to the request for a cycle, by the cycle's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It was started.
    Started(String),
    /// Another one is running on the link.
    Busy(String),
}

/// Reports as they come; one that is not acknowledged comes again.
pub type Reports = Pin<Box<dyn Stream<Item = Result<Report, RelayError>> + Send>>;

/// The relay. Each call has a deadline of its own.
pub trait Relay: Clone + Send + Sync + 'static {
    /// Hands a message over.
    fn submit(
        &self,
        submission: Submission,
    ) -> impl Future<Output = Result<Message, RelayError>> + Send;

    /// Looks a message up.
    fn message(&self, name: &str) -> impl Future<Output = Result<Message, RelayError>> + Send;

    /// Asks for a cycle.
    fn run_cycle(
        &self,
        link: &LinkName,
        request: RequestId,
    ) -> impl Future<Output = Result<Asked, RelayError>> + Send;

    /// Whether a cycle has ended.
    fn has_ended(&self, cycle: &str) -> impl Future<Output = Result<bool, RelayError>> + Send;

    /// Begins to watch for reports.
    fn reports(&self) -> impl Future<Output = Result<Reports, RelayError>> + Send;

    /// Settles a report: it does not come again.
    fn acknowledge(&self, report: &str) -> impl Future<Output = Result<(), RelayError>> + Send;
}
