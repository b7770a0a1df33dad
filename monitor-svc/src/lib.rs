//! monitor-svc: proves by periodic probes that the way out and back over a link works, and tells people when it does not.
//!
//! A `probe` is mailed through the relay to a false user. The report that comes back gets a `verdict`; `judge` makes a
//! state of the age of the last proof; `notify` tells of its changes. Everything that must survive is in the `ledger`.
//! `run` is the shell around these, `relay` the other service, `api` shows it all over gRPC, `commands` are the faces on
//! the command line. docs/09-monitor.md follows the data.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod bounce;
pub mod clock;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod judge;
pub mod ledger;
pub mod names;
pub mod notify;
pub mod probe;
pub mod relay;
pub mod run;
pub mod standing;
pub mod telemetry;
pub mod verdict;
#[cfg(test)]
mod world;
