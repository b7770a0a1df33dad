//! Who the client is: TLS, certificates and AUTH, and what it may do by them.

use std::time::Duration;

use linkmail_sasl::Name;
use linkmail_service::tls::{MaybeTls, Trust};
use linkmail_smtp::{AuthAnswer, replies};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    super::authority::{Answer, Refusal},
    Session,
};
use crate::policy::{self, Identity, Peer};

/// The wait for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);

impl Session<'_> {
    /// What the client may do follows from who it is.
    pub(super) fn weigh(&mut self) {
        let listener = &self.door.listener;
        self.may_relay = policy::contains(&listener.relay_from, self.peer.ip())
            || self.client.name().is_some()
            || self.client.is_any_of(&listener.relay_by);
    }

    /// Which relay of this project it is, if it is one.
    pub(super) fn other_relay(&self) -> Option<Peer> {
        Peer::of(&self.client, &self.door.listener.repeats_from)
    }

    /// A relay that is known before it said anything; one that authenticates itself becomes one by that.
    pub(super) fn trust(&mut self) {
        if self.other_relay().is_some() {
            self.smtp.trust_peer();
        }
    }

    /// Shakes hands. None: it failed, and the connection is gone with it.
    pub(super) async fn handshake(
        &mut self,
        stream: TcpStream,
        cancel: &CancellationToken,
    ) -> Option<MaybeTls<TcpStream>> {
        let tls = self.door.listener.tls.as_ref()?;
        let shaken = tokio::select! {
            biased;
            () = cancel.cancelled() => return None,
            shaken = tls.server.accept(stream, HANDSHAKE) => shaken,
        };
        match shaken {
            Ok(stream) => {
                self.encrypted(&stream);
                Some(stream)
            }
            Err(error) => {
                self.trouble = Some(format!("no TLS: {error}"));
                None
            }
        }
    }

    /// What was known of the client before is forgotten (RFC 3207 4.2); its certificate may tell more.
    fn encrypted(&mut self, stream: &MaybeTls<TcpStream>) {
        self.recorder.mark("!tls");
        self.goes_on();
        self.exchange = None;
        self.client.identities.clear();
        if let Some(tls) = stream.session() {
            self.tls = Some(tls.to_string());
            let proved = tls.peer.as_ref().filter(|_| tls.trust == Trust::Roots);
            let key = proved.and_then(|peer| peer.key_fingerprint.clone());
            self.client.identities.extend(key.map(Identity::Key));
        }
        self.weigh();
    }

    /// Begins an exchange anew, whatever became of an earlier one.
    pub(super) async fn begin_auth(&mut self, mechanism: &str, initial: Option<Vec<u8>>) {
        self.exchange = None;
        let answer = match (&self.inbound.authority, mechanism.parse()) {
            (Some(authority), Ok(mechanism)) => {
                authority.start(self.peer.ip(), mechanism, initial).await
            }
            _ => Answer::Unavailable,
        };
        self.authenticated(answer);
    }

    pub(super) async fn go_on_with_auth(&mut self, response: &[u8]) {
        let answer = match (&self.inbound.authority, self.exchange.take()) {
            (Some(authority), Some(exchange)) => {
                authority.respond(self.peer.ip(), exchange, response).await
            }
            _ => Answer::Unavailable,
        };
        self.authenticated(answer);
    }

    /// Tells the client what its AUTH came to.
    fn authenticated(&mut self, answer: Answer) {
        let answer = match answer {
            Answer::Challenge(exchange, challenge) => {
                self.exchange = Some(exchange);
                AuthAnswer::Challenge(challenge)
            }
            Answer::Accepted(name) => {
                let identity = name.as_str().to_owned();
                let proved = Identity::Name(identity.clone());
                self.client.identities.push(proved);
                self.weigh();
                AuthAnswer::Accepted { identity }
            }
            Answer::Malformed(refusal) => {
                self.not_authenticated(&refusal);
                AuthAnswer::Refused(replies::malformed_response())
            }
            Answer::Refused(refusal) => {
                self.not_authenticated(&refusal);
                AuthAnswer::Refused(replies::bad_credentials())
            }
            Answer::Unavailable => AuthAnswer::Refused(replies::authentication_unavailable()),
        };
        self.smtp.answer_auth(answer);
    }

    fn not_authenticated(&self, refusal: &Refusal) {
        tracing::warn!(
            peer = %self.peer,
            mechanism = %refusal.mechanism,
            name = refusal.name.as_ref().map(Name::as_str),
            reason = %refusal.why,
            "authentication failed"
        );
    }
}
