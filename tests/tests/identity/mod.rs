//! A certificate of our own, and the half of a handshake that trusts it.

use std::sync::{Arc, LazyLock};

use linkmail_tests::socket::Handshake;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

/// Whose certificate it is.
const NAME: &str = "relay.test";

/// A certificate with its key.
pub(crate) struct Identity(pub(crate) CertifiedKey<KeyPair>);

/// The one of this process.
pub(crate) static IDENTITY: LazyLock<Identity> = LazyLock::new(Identity::new);

impl Identity {
    /// A new one.
    pub(crate) fn new() -> Identity {
        Identity(rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap())
    }

    /// The half of who connects, and trusts this certificate alone.
    pub(crate) fn connecting(&self) -> Handshake {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Handshake::Client(Arc::new(config), ServerName::try_from(NAME).unwrap())
    }
}
