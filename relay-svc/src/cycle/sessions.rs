//! The sessions of a cycle: which are at hand, and how new ones are opened.

use super::run::Run;
use crate::{
    names::HostPort,
    outbound::{End, Opener, Speaking},
    telemetry,
};

impl Run {
    /// An open session with a host: the one that is there, or a new one.
    pub(super) async fn speak_to(&mut self, host: &HostPort) -> Result<Speaking, End> {
        if let Some(speaking) = self.at_hand(host) {
            return Ok(speaking);
        }
        let connection = self.fresh.take(host);
        self.opener().open(host, connection).await
    }

    /// The session with a host that is there, if it still is.
    pub(super) fn at_hand(&mut self, host: &HostPort) -> Option<Speaking> {
        let speaking = self.sessions.remove(host)?;
        if speaking.session.is_alive() {
            return Some(speaking);
        }
        telemetry::end(&speaking.span, None);
        None
    }

    pub(super) fn opener(&self) -> Opener {
        let (patience, flight) = (self.link.dial.patience, self.link.flight);
        self.shared.forwarder.opener(patience, flight, &self.span)
    }

    pub(super) fn keep(&mut self, host: HostPort, speaking: Speaking) {
        if let Some(other) = self.sessions.insert(host, speaking) {
            self.leaving.spawn(other.quit());
        }
    }
}
