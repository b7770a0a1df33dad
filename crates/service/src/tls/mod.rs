//! TLS for mail: what a listener shows, what a next hop must show, and the streams between.
//!
//! A [`ServerTls`] accepts with the [`ReloadingIdentity`] of its files; a [`ClientTls`] connects as the settings of a next
//! hop ask, or as its [`dane`] records do. Both give a [`MaybeTls`] stream and an error that says in words what failed.
//! rustls with ring, TLS 1.2 and 1.3 (RFC 9325, RFC 8996); the roots of the system, the public ones, or a file.
//!
//! Limits: no revocation lists, no OCSP, no look-up of TLSA records, no MTA-STS. The SMTP side of STARTTLS is the
//! caller's: what it read before the handshake must be thrown away (RFC 3207 4.2, CVE-2011-0411).

mod client;
pub mod dane;
mod error;
mod files;
mod identity;
mod pin;
mod server;
mod settings;
mod stream;
mod verify;
mod x509;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use client::{ClientTls, Mode};
pub use error::{Class, TlsError};
pub use files::FileError;
pub use identity::{IdentityFiles, Reload, ReloadingIdentity, ServerFiles, ServerIdentity};
pub use pin::{NotAPin, Pin};
pub use server::ServerTls;
pub use settings::{ClientSettings, Roots};
pub use stream::{Liveness, MaybeTls, Session};
pub use verify::Trust;
pub use x509::PeerCertificate;

/// ring, named at each use: another crate in the process may bring a provider of its own.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}
