//! A link: whether its line is up, and what brings it up and down. Must not touch mail.

mod driver;
mod state;

pub use driver::{DialError, Dialled, dial, hang_up};
pub use state::LinkState;
