//! A whole system on one machine, to be looked at: a provider, an edge and a monitor as processes, and a receiver that
//! plays the rest of the world.
//!
//! - [`commands`]: the command line.
//! - [`receiver`]: the mailbox server and the outside world in one small SMTP server; tests use it too.
//! - [`run`]: the order of a run. It sets the [`stage`]: each [`child`] with its [`configuration`], on the ports of the
//!   [`scene`], in its [`folder`]. Then it hands in the [`mail`], keeps the [`account`] of what it [`watch`]es, and
//!   [`display`]s it.
//! - Pure: [`account`], [`configuration`], [`display`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod account;
pub mod child;
pub mod commands;
pub mod configuration;
pub mod display;
pub mod folder;
pub mod mail;
pub mod receiver;
pub mod run;
pub mod scene;
pub mod stage;
pub mod watch;
