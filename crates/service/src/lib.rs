//! What both daemons do around their work: configuration, exit codes, telemetry, serving gRPC, shutdown.
//!
//! Nothing here knows of mail, links or cycles. A daemon reads its file with [`config`], starts
//! [`telemetry`], binds with [`listen`], serves with [`serve`], waits for [`shutdown`], and ends
//! with an [`exit::Exit`]; its client commands use [`listen::GrpcAddress::connect`] and [`client`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod allow;
pub mod client;
pub mod config;
pub mod exit;
pub mod grpc;
pub mod incoming;
pub mod listen;
pub mod serve;
pub mod shutdown;
pub mod telemetry;

mod propagation;
