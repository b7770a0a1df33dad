//! SASL for SMTP as pure code, both sides: decoded bytes in, typed steps out.
//!
//! Nothing here opens a socket, reads a clock or a file, or makes a random number: nonces, salts and secrets are
//! arguments. Base64 on the wire and the framing of AUTH (`334 `, `=`, `*`) belong to the caller; what is given and
//! taken here are the bytes behind them.
//!
//! - [`mechanism`]: the mechanisms by their registered names.
//! - [`name`]: names and passwords, prepared for comparison (SASLprep, RFC 4013).
//! - [`nonce`]: what makes an exchange unique.
//! - [`credential`]: what is stored for a name, as keys from which no password can be read.
//! - [`credential_file`]: credentials as lines of text.
//! - [`server`], [`client`]: the two sides of an exchange.
//!
//! | mechanism | server | client |
//! |---|---|---|
//! | SCRAM-SHA-256 (RFC 5802, 7677) | yes | yes |
//! | CRAM-MD5 (RFC 2195) | where a clear secret is stored | yes |
//! | PLAIN (RFC 4616), LOGIN | against the SCRAM keys | named only |
//!
//! Whether a mechanism may be used on a connection is the caller's to decide: PLAIN and LOGIN show the password to
//! whoever reads the line, and CRAM-MD5 lets him try passwords at his leisure.
//!
//! Limits: no channel binding, no security layer, no acting for others (an authorisation identity must be the
//! authenticated name). Secrets are kept out of `Debug` and of errors, but memory is not wiped after use.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod credential;
pub mod credential_file;
mod keyed;
pub mod mechanism;
pub mod name;
pub mod nonce;
mod scram;
pub mod server;

pub use client::{ClientError, ClientExchange};
pub use credential::{Credential, CredentialError, Iterations, ScramKeys};
pub use credential_file::{CredentialFile, CredentialFileError, LineError};
pub use mechanism::{Mechanism, UnknownMechanism};
pub use name::{Name, Password, PrepareError};
pub use nonce::{Nonce, NonceError};
pub use server::{Decoy, Failure, ServerExchange, ServerSetup, Step};
