//! Sessions to next hops: connect, speak, and what came of it.
//!
//! Must not touch: dialling, or the order of a cycle. `session` drives the pure client session over a socket; `feed` hands
//! out what waits for a next hop; `drain` sends it over a session, many messages in flight; `settle` records each
//! outcome, with the report that tells of it (`sender_report`); `always` does all that for next hops that need no link.

mod always;
mod connect;
pub mod direct;
mod drain;
mod feed;
mod fleet;
mod forward;
mod hosts;
mod hours;
mod in_hand;
mod lanes;
mod late;
mod login;
mod parts;
mod sender_report;
mod session;
mod settle;
mod share;

pub use always::run as run_always;
pub use connect::{ConnectError, connect, connect_any};
pub use drain::{Drained, Stop, Terms};
pub use feed::{Feed, InHandMessage, Left};
pub use fleet::{Connection, Fleet, News, Opener, Speaking, WEIGHED, justified, worse};
pub use forward::{Forwarder, Tally};
pub use hosts::{CONNECTIONS, Host, Hosts, Login, Patience, Sasl};
pub use hours::{Hours, check_zone};
pub use in_hand::{Hand, InHand, Pause};
pub(crate) use late::in_words;
pub use late::watch as watch_late;
pub use session::{Beginning, End, Event, NotOpened, Session};
pub use settle::Unrecorded;
pub use share::WHOLE;
