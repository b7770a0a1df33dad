//! A cycle, from trigger to hang-up: dial → forward → request the dequeue → receive → hang up.
//!
//! `schedule` (pure) says when one starts, `order` (pure) what it does next, `run` does it, `record` is what is kept of
//! it. `queues` is what waits for it. `keeper` owns a link: it runs at most one cycle at a time, and nothing else dials (invariant 5). `desk` is where
//! the rest of the program sees the links and asks for cycles.
//!
//! Must not touch: SMTP syntax.

mod ask;
mod desk;
mod dial;
mod forward;
mod keeper;
mod order;
mod queues;
mod record;
mod run;
mod schedule;
mod sessions;

pub use desk::{Busy, Desk, LinkView, Post, RunError, RunRequest};
pub use keeper::{Keeper, Shared, interrupt_unkept};
pub use record::{DequeueRequest, DialAttempt, Outcome, Phase, PhaseSpan, Record, Trigger};
