//! SMTP listeners: socket ↔ pure server session ↔ draft in the spool.
//!
//! Must not touch: the queue, outbound sessions, links; what others are to be asked, `inquiry` asks. A message that is durable is found by whoever sends it on.
//! 250 after end of data is sent only after the spool said so (invariant 1).

mod authority;
mod connection;
mod etrn;
mod failures;
mod listen;
mod pace;
mod places;
mod recipients;
mod senders;
mod session;
#[cfg(test)]
mod tests;
mod transaction;

pub use listen::{Inbound, serve};
