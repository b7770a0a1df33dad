//! A cycle, from trigger to hang-up: dial → forward → request the dequeue → receive → hang up.
//!
//! `schedule` (pure) says when one starts, `order` (pure) what it does next, `run` does it, `record` is what is kept of
//! it, `queues` (small and large mail) what waits for it. `keeper` owns a link: it runs at most one cycle at a time, and nothing
//! else dials (invariant 5). `desk` is where the rest of the program sees the links and asks for cycles; `replicas` hands calls
//! on to the keeper, where there are several relays on one spool.
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
mod replicas;
mod run;
mod schedule;
mod sessions;

pub use desk::{Busy, Desk, LinkView, Post, RunError, RunRequest};
pub use keeper::{Keeper, Shared, interrupt_unkept};
pub use record::{DequeueRequest, DialAttempt, Outcome, Phase, PhaseSpan, Record, Trigger};
pub use replicas::{Asked, ask};
