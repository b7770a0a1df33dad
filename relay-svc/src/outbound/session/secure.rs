//! TLS and the login of a session: what the pure session asks its shell to do before the first order.

use linkmail_service::tls::{Class, MaybeTls, Mode};
use linkmail_smtp::{ClientPhase, Enhanced, RecipientOutcome, Reply};
use tokio::time::Instant;

use super::{super::login, Session, io::Loss};

impl Session {
    /// Makes the connection one of TLS, or ends the session; says whether it is.
    pub(super) async fn shake_hands(&mut self) -> bool {
        let patience = self.host.patience.of(ClientPhase::StartTls);
        let plain = self.stream.take().map(MaybeTls::into_plain);
        let made = match plain {
            Some(Ok(plain)) => {
                self.host
                    .tls
                    .connect(plain, &self.peer.host, patience)
                    .await
            }
            _ => {
                self.broken("the connection is not there for TLS", Loss::Line);
                return false;
            }
        };
        match made {
            Ok(stream) => {
                if let Some(tls) = stream.session() {
                    tracing::debug!(peer = %self.peer, %tls, "TLS");
                }
                self.stream = Some(stream);
                self.moved = Instant::now();
                true
            }
            Err(error) => {
                // Also when the connection was lost: some hosts say no to TLS so, and what insists on it says 530.
                self.tls_failed = true;
                // Before the greeting a connection that is lost is a line that is missing.
                if error.class() == Class::Lost && self.smtp.greeting().is_none() {
                    self.broken(&format!("TLS: {error}"), Loss::Line);
                } else {
                    self.smtp.abandon(format!("TLS: {error}"));
                }
                false
            }
        }
    }

    /// Whether mail goes in clear here although the host has TLS: it came to nothing, and need not be.
    fn has_given_up_tls(&self) -> bool {
        let is_opportunistic = self.host.tls.mode() == Mode::Opportunistic;
        let offered = self.smtp.capabilities().is_some_and(|it| it.starttls);
        is_opportunistic && !self.smtp.is_encrypted() && (self.in_clear || offered)
    }

    /// Whether the host refuses this for want of the TLS that was given up: 530 5.7.0 (RFC 3207 4), 5.7.10 (RFC
    /// 5248) or 5.7.11 (RFC 4954 6). That is said of the session, for good or not; the message may go in the next.
    pub(super) fn wants_tls(&self, reply: &Reply) -> bool {
        let says_so = reply.code == 530 || matches!(reply.enhanced, Some(Enhanced(5, 7, 10 | 11)));
        says_so && self.has_given_up_tls()
    }

    /// Remembers that the host wants TLS, if that is what it said.
    pub(super) fn note_refusals(&mut self, outcomes: &[RecipientOutcome]) {
        for outcome in outcomes {
            if let RecipientOutcome::Refused(reply) = outcome
                && self.wants_tls(reply)
            {
                self.tls_wanted = Some(reply.clone());
            }
        }
    }

    pub(super) async fn log_in(&mut self) {
        let host = self.host.clone();
        let Some(login) = &host.login else {
            return self.smtp.abandon("no login is configured".into());
        };
        let offered = self.smtp.capabilities().map(|offered| offered.auth.clone());
        let tls = self.stream.as_ref().and_then(MaybeTls::session);
        let verified = tls.is_some_and(|tls| tls.trust.is_verified());
        match login::begin(login, &offered.unwrap_or_default(), verified).await {
            Ok(begun) => {
                self.login = Some(begun.exchange);
                self.smtp.auth(begun.mechanism, begun.initial.as_deref());
            }
            Err(error) => self.smtp.abandon(error),
        }
    }

    /// Keys are derived from passwords slowly, on purpose: not on a thread that others need.
    pub(super) async fn answer(&mut self, challenge: Vec<u8>) {
        let Some(mut exchange) = self.login.take() else {
            return self.smtp.abandon("a challenge without a login".into());
        };
        let answering = tokio::task::spawn_blocking(move || {
            let answer = exchange.respond(&challenge);
            (exchange, answer)
        });
        match answering.await {
            Ok((exchange, Ok(answer))) => {
                self.login = Some(exchange);
                self.smtp.auth_response(&answer);
            }
            Ok((_, Err(error))) => self.smtp.abandon(format!("login: {error}")),
            Err(error) => self.smtp.abandon(format!("login: {error}")),
        }
    }
}
