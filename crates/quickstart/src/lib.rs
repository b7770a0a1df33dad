//! A whole system on one machine, to be looked at: a provider, an edge and a monitor as processes, and a receiver that
//! plays the rest of the world.
//!
//! - [`receiver`]: the mailbox server and the outside world in one small SMTP server; tests use it too.
//! - [`commands`]: the command line.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod commands;
pub mod receiver;
