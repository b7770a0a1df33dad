//! Sessions to next hops: connect, speak, and what came of it.
//!
//! Must not touch: dialling, or the order of a cycle. `session` drives the pure client session over a socket;
//! `forward` takes what is due for a next hop from the spool, sends it over a session, and records each outcome;
//! `always` does so for next hops that need no link.

mod always;
mod connect;
mod forward;
mod session;
mod settle;

pub use always::run as run_always;
pub use connect::{ConnectError, connect};
pub use forward::{Drained, Forwarder, Stop, Tally};
pub use session::{End, Session};
pub use settle::Unrecorded;
