//! Telling of changes of state: what is told, and the channel that it is told by.
//!
//! A notice is committed together with its change, and leaves the outbox when the channel took it: at least once, in
//! order for each monitor, under an identity that stays the same.

mod notice;
#[cfg(test)]
mod tests;
mod webhook;

pub use notice::{Notice, Waiting, words};
pub use webhook::{NoCertificates, Webhook};

/// What takes notices.
pub trait Channel: Send + Sync + 'static {
    /// Delivers a notice, within a time of its own. `Err` says why not; then it is tried again.
    fn deliver(&self, notice: &Waiting) -> impl Future<Output = Result<(), String>> + Send;
}

/// Nobody is told: the log has it.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Channel for Nobody {
    async fn deliver(&self, _: &Waiting) -> Result<(), String> {
        Ok(())
    }
}
