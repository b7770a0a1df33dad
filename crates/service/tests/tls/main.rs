//! TLS of both sides against each other, against plain rustls, and against OpenSSL. Certificates are made at run time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod authority;
mod client;
mod dane;
mod old_certificate;
mod openssl;
mod peer;
mod server;
mod settings;
mod stream;
