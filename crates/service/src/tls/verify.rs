//! Who is trusted, as rustls asks for it. The signature of a handshake is always verified when the certificate counts.
//!
//! Limits: a certificate that webpki cannot read (X.509 version 1) can be pinned or named by DANE-EE under TLS 1.3 alone;
//! for TLS 1.2 rustls has no way to verify by a bare key.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    FileError,
    dane::{self, Tlsa},
    pin::{self, Pin},
    provider,
    x509::Parts,
};

/// Why the other side's certificate is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It was not looked at, or there is none: encrypted, and no more (RFC 7435).
    Unverified,
    /// It leads to a root that is trusted; a server's is for the name, too.
    Roots,
    /// It is pinned; with roots configured besides, it is both.
    Pinned,
    /// DNS names it (RFC 7672).
    Dane,
    /// A client showed one that does not verify, and why. Nothing follows from it; the session goes on.
    Refused(String),
}

impl Trust {
    /// Whether the other side is who it should be.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        match self {
            Self::Roots | Self::Pinned | Self::Dane => true,
            Self::Unverified | Self::Refused(_) => false,
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unverified => f.write_str("unverified"),
            Self::Roots => f.write_str("verified by its issuer"),
            Self::Pinned => f.write_str("verified by its pin"),
            Self::Dane => f.write_str("verified by DANE"),
            Self::Refused(why) => write!(f, "not verified: {why}"),
        }
    }
}

/// What a server must show.
#[derive(Debug)]
pub(super) enum Demand {
    /// Nothing.
    Anything,
    /// A chain to a root and the name.
    Roots(Arc<WebPkiServerVerifier>),
    /// One of the pins, and what the roots say if there are any.
    Pinned(Vec<Pin>, Option<Arc<WebPkiServerVerifier>>),
    /// What DNS says; the names besides the host.
    Dane(Vec<Tlsa>, Vec<ServerName<'static>>),
}

impl Demand {
    pub(super) fn trust(&self) -> Trust {
        match self {
            Self::Anything => Trust::Unverified,
            Self::Roots(_) => Trust::Roots,
            Self::Pinned(..) => Trust::Pinned,
            Self::Dane(..) => Trust::Dane,
        }
    }
}

pub(super) fn by_roots(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, FileError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| FileError::NoSystemRoots(error.to_string()))
}

/// The verifier of a server's certificate.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    demand: Demand,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(demand: Demand) -> Self {
        Self {
            demand,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    /// The key of a certificate that webpki cannot read, such as one of X.509 version 1, where the certificate counts as such:
    /// a pin or a record of usage 3 names it or its key, and asks for nothing else in it (RFC 7672 3.1.1).
    fn key_of_unreadable<'a>(
        &self,
        own: &'a CertificateDer<'_>,
    ) -> Option<SubjectPublicKeyInfoDer<'a>> {
        let is_named = matches!(self.demand, Demand::Pinned(_, None) | Demand::Dane(..));
        if !is_named || ParsedCertificate::try_from(own).is_ok() {
            return None;
        }
        Parts::read(own).map(|parts| parts.key.into())
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let by_roots = |verifier: &Arc<WebPkiServerVerifier>| {
            verifier.verify_server_cert(own, above, name, ocsp, now)
        };
        match &self.demand {
            Demand::Anything => {}
            Demand::Roots(verifier) => return by_roots(verifier),
            Demand::Pinned(pins, verifier) => {
                pin::check(pins, own).map_err(other)?;
                if let Some(verifier) = verifier {
                    return by_roots(verifier);
                }
            }
            Demand::Dane(records, more) => {
                let chain: Vec<_> = std::iter::once(own).chain(above).cloned().collect();
                let names: Vec<_> = std::iter::once(name).chain(more).cloned().collect();
                dane::verify(records, &chain, &names, now, &self.algorithms).map_err(other)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.demand {
            // Nobody is verified, so a signature proves nothing; odd certificates must not cost the encryption.
            Demand::Anything => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls12_signature(message, own, signature, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.demand {
            Demand::Anything => Ok(HandshakeSignatureValid::assertion()),
            _ => match self.key_of_unreadable(own) {
                Some(key) => {
                    let algorithms = &self.algorithms;
                    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
                }
                None => verify_tls13_signature(message, own, signature, &self.algorithms),
            },
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Asks a client for its certificate and takes whatever comes: many senders show one that we do not know, and their mail
/// is welcome. Whether it counts is found after the handshake. That the client has the key is always verified.
#[derive(Debug)]
pub(super) struct AskForCertificate {
    pub(super) ask: bool,
}

impl ClientCertVerifier for AskForCertificate {
    fn offer_client_auth(&self) -> bool {
        self.ask
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _above: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, own, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, own, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
