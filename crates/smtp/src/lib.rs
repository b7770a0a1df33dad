//! The SMTP protocol as pure code: bytes in, typed steps out.
//!
//! Nothing here opens a socket, reads a clock or touches a file. A caller feeds the bytes it received to a session,
//! asks it for the next [`server::ServerStep`] or [`client::ClientStep`], and does what the step says. The same calls
//! with the same bytes give the same steps, however the bytes were cut into pieces. Two rules of the server are about the
//! pieces: what stands behind STARTTLS, and, if that is switched on, who pipelines out of turn.
//!
//! - [`path`]: domains, mailboxes, reverse and forward paths, kept as the bytes that were written.
//! - [`command`], [`parameters`], [`dsn`], [`priority`], [`deliver_by`], [`peer_id`], [`etrn`], [`reply`], [`reply_reader`],
//!   [`ehlo`]: the vocabulary.
//! - [`framing`], [`data`]: where a command line and a message end. Only CRLF and CRLF.CRLF count.
//! - [`server`], [`client`]: the two sides of a session.
//! - [`replies`]: every reply that the server side gives, in one place.
//! - [`trace`]: the `Received` field, and counting those that are there.
//! - [`submission`]: which fields the header of a new message lacks.
//! - [`transcript`]: a bounded record of a session, in the form that the transcript tests read.
//!
//! Limits: no BINARYMIME.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod command;
pub mod data;
pub mod deliver_by;
pub mod dsn;
pub mod ehlo;
pub mod etrn;
pub mod framing;
pub mod parameters;
pub mod path;
pub mod peer_id;
pub mod priority;
pub mod replies;
pub mod reply;
pub mod reply_reader;
pub mod server;
pub mod submission;
pub mod trace;
pub mod transcript;

pub use client::{
    Asked, ClientConfig, ClientPhase, ClientSession, ClientStep, CloseReason, Content,
    FlightLimits, Protocol, Recipient, RecipientOutcome, Room, TlsUse, Transaction,
    TransactionOutcome,
};
pub use data::{BadBody, DataDecoder, DataEncoder, Fault};
pub use deliver_by::{ByMode, DeliverBy};
pub use ehlo::{Capabilities, DeliverByOffer, PeerOffer};
pub use etrn::EtrnNode;
pub use parameters::{MailParameters, RcptParameters};
pub use path::{Domain, ForwardPath, Mailbox, PathError, ReversePath};
pub use peer_id::PeerId;
pub use priority::Priority;
pub use reply::{Enhanced, Reply, Severity};
pub use server::{AbortReason, AuthAnswer, ServerConfig, ServerPhase, ServerSession, ServerStep};
pub use transcript::Recorder;
