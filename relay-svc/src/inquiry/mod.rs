//! What others are asked while a client waits for its reply: a mailbox server, whether it takes mail for a recipient; name
//! servers, whether the sender's domain takes mail at all. It is where `inbound` meets `outbound`, and no mail passes.
//!
//! Must not touch: the spool, the queue, links. In doubt whatever is asked about is taken: who is down loses nobody mail.
//! Each question has a time within which it must be answered, and who does not answer is left alone for a while.

mod answers;
mod call_forward;
mod senders;
mod word;

pub use call_forward::{CallForward, Verdict};
pub use senders::SenderDomains;
