//! What both daemons do around their work: configuration, exit codes, telemetry, serving gRPC, shutdown.
//!
//! Nothing here knows of mail, links or cycles. A daemon reads its file with [`config`], starts
//! [`telemetry`], binds with [`listen`], serves its [`api`], speaks [`tls`] where it is told to,
//! [`linger`]s where it spoke last, runs what its parts ([`tasks`]) do until the signals of [`shutdown`], and ends with an
//! [`exit::Exit`]. Its services share [`errors`], [`page`]s and
//! [`watch`]es, its client commands use [`command`] and [`client`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod allow;
pub mod api;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod errors;
pub mod exit;
pub mod fresh;
pub mod grpc;
pub mod incoming;
pub mod linger;
pub mod listen;
pub mod page;
pub mod proxy_protocol;
pub mod serve;
pub mod settings;
pub mod shutdown;
pub mod span;
pub mod sqlite;
pub mod target;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod watch;

mod propagation;
