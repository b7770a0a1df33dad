//! relay-svc: stores and forwards mail over links that must be dialled, then makes the provider release what it holds
//! for the site.
//!
//! `inbound` takes mail into the `spool`, under `policy`; `inquiry` asks others what it must know for that. `cycle` brings a line up through `link`, has `outbound`
//! forward what the `queue` says is due, asks for the release of what waits, and counts what comes in through
//! `arrivals`. `api` shows it all over gRPC; `daemon` wires it; `commands` are the faces on the command line.
//! ARCHITECTURE.md at the top of the repository has the picture and the invariants.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod arrivals;
pub mod commands;
pub mod config;
pub mod cycle;
pub mod daemon;
pub mod inbound;
pub mod inquiry;
pub mod link;
pub mod names;
pub mod operator;
pub mod outbound;
pub mod policy;
pub mod queue;
pub mod recipient_list;
pub mod release;
pub mod report;
pub mod route;
pub mod sender_map;
pub mod spool;
pub mod telemetry;

pub use linkmail_service::clock;
