//! The server's side of a handshake.

use std::{sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{MaybeTls, ReloadingIdentity, TlsError, Trust, provider, verify::AskForCertificate};

/// TLS for a listener: TLS 1.2 and 1.3, with session tickets (RFC 5077, RFC 8446 4.6.1) that outlive a reload.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    identity: Arc<ReloadingIdentity>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    /// TLS with an identity.
    ///
    /// # Errors
    /// The operating system gives no random numbers for the keys of session tickets.
    pub fn new(identity: Arc<ReloadingIdentity>) -> Result<Self, TlsError> {
        let ask = AskForCertificate {
            ask: identity.asks_clients(),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(ask))
            .with_cert_resolver(Arc::clone(&identity) as _);
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            identity,
        })
    }

    /// Shakes hands within `patience`: after the 220 of STARTTLS, or at once on a port of implicit TLS (RFC 8314 3.3).
    /// A client's certificate never ends the session; [`super::Session::trust`] says what it is worth.
    ///
    /// # Errors
    /// Why there is no TLS. The connection is closed then.
    pub async fn accept<S>(&self, stream: S, patience: Duration) -> Result<MaybeTls<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = timeout(patience, self.acceptor.accept(stream))
            .await
            .map_err(|_| TlsError::TimedOut(patience))??;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let trust = self.trust(chain);
        Ok(MaybeTls::server(stream, trust))
    }

    /// Looked at in each session, also in a resumed one: the roots or the date may have changed since.
    fn trust(&self, chain: &[CertificateDer<'_>]) -> Trust {
        let (Some((own, above)), Some(verifier)) = (chain.split_first(), self.identity.clients())
        else {
            return Trust::Unverified;
        };
        match verifier.verify_client_cert(own, above, UnixTime::now()) {
            Ok(_) => Trust::Roots,
            Err(error) => Trust::Refused(TlsError::from(error).to_string()),
        }
    }
}
