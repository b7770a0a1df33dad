//! STARTTLS (RFC 3207). The handshake is the shell's.

use crate::replies;

use super::{AbortReason, ServerSession, Stage};

impl ServerSession {
    /// Says 220 and waits for the handshake.
    ///
    /// What stands behind the command in the same piece was sent in clear and would be read as if it came under TLS, by
    /// whoever could put it there (CVE-2011-0411). The command must end its group (RFC 3207 4.1), so the session ends.
    pub(super) fn start_tls(&mut self) {
        if self.tls {
            return self.error(replies::out_of_order("TLS is on already"));
        }
        if !self.is_extended() {
            return self.error(replies::out_of_order("send EHLO first"));
        }
        if self.open.is_some() {
            return self.error(replies::out_of_order("STARTTLS within a transaction"));
        }
        if !self.input.unread().is_empty() {
            return self.close_with(&replies::injected_before_tls(), AbortReason::BadFraming);
        }
        self.reply(&replies::ready_for_tls());
        self.stage = Stage::Tls;
    }

    /// The handshake that [`super::ServerStep::StartTls`] asked for is done.
    ///
    /// Everything that the client said before is forgotten (RFC 3207 4.2), who it is included; what counts against it
    /// stays. Without that step nothing happens.
    pub fn tls_started(&mut self) {
        if !matches!(self.stage, Stage::Tls) {
            return;
        }
        self.stage = Stage::Commands;
        self.tls = true;
        self.input.clear();
        self.hello = None;
        self.lost = None;
        self.identity = None;
        self.trusted = false;
    }
}
