//! What a message is sent with, and what became of it.

use std::fmt;

use crate::data::BadBody;
use crate::deliver_by::DeliverBy;
use crate::dsn::{EnvelopeId, Notify, OriginalRecipient, Ret};
use crate::path::{ForwardPath, ReversePath};
use crate::peer_id::PeerId;
use crate::priority::Priority;
use crate::reply::Reply;

use super::ClientPhase;

/// The envelope of a message to be sent. Parameters of extensions that the server does not offer are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Where reports go.
    pub reverse_path: ReversePath,
    /// Who is to get the message, at least one.
    pub recipients: Vec<Recipient>,
    /// The size of the message, in octets before dot-stuffing.
    pub size: u64,
    /// Whether the message holds octets above 127.
    pub eight_bit: bool,
    /// Whether its header does, as only SMTPUTF8 allows (RFC 6532 3).
    pub utf8_header: bool,
    /// How much of it a report is to return (RFC 3461 4.3).
    pub ret: Option<Ret>,
    /// The sender's own name for it (RFC 3461 4.4).
    pub envelope_id: Option<EnvelopeId>,
    /// Its priority, as it was accepted (RFC 6710 4.2).
    pub priority: Option<Priority>,
    /// By when it is to be delivered: what is left of that now (RFC 2852 4.1.4).
    pub deliver_by: Option<DeliverBy>,
    /// Its id for another relay of this project (XLINKMAIL).
    pub peer_id: Option<PeerId>,
}

impl Transaction {
    /// Whether it cannot be sent at all without SMTPUTF8 (RFC 6531 3.2).
    pub fn needs_utf8(&self) -> bool {
        self.utf8_header || !self.reverse_path.is_ascii()
    }
}

/// One recipient of a message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Who.
    pub path: ForwardPath,
    /// Which reports are wanted (RFC 3461 4.1).
    pub notify: Option<Notify>,
    /// The recipient as the sender wrote it (RFC 3461 4.2).
    pub original: Option<OriginalRecipient>,
}

impl From<ForwardPath> for Recipient {
    fn from(path: ForwardPath) -> Recipient {
        Recipient {
            path,
            notify: None,
            original: None,
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionOutcome {
    /// One for each recipient, in the order of [`Transaction::recipients`].
    pub recipients: Vec<RecipientOutcome>,
}

impl TransactionOutcome {
    /// Every recipient of `transaction` was not tried.
    pub(super) fn not_tried(transaction: &Transaction, reason: &CloseReason) -> TransactionOutcome {
        TransactionOutcome {
            recipients: transaction
                .recipients
                .iter()
                .map(|_| RecipientOutcome::NotTried(reason.clone()))
                .collect(),
        }
    }
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientOutcome {
    /// The server took the responsibility, with this reply to the end of data.
    Accepted(Reply),
    /// The server, or we in its place (552 5.3.4), refused; [`Reply::severity`] says for how long.
    Refused(Reply),
    /// The session ended before the server could take the message for this recipient.
    NotTried(CloseReason),
    /// The whole message was sent and its reply was lost: the server may or may not have it.
    InDoubt,
    /// The message holds what may not be sent; nothing of that was written.
    BadBody(BadBody),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// As ordered.
    Quit,
    /// The server refused the session: no 220 greeting, EHLO and HELO refused, or 421; by LMTP also a refused chunk.
    Refused(Reply),
    /// The connection ended without a word; `greeted` says whether a 220 greeting had come.
    PeerClosed {
        /// Whether a 220 greeting had come.
        greeted: bool,
    },
    /// The connection was lost, and not closed by the server.
    LineLost {
        /// Whether a 220 greeting had come.
        greeted: bool,
    },
    /// The server did not answer in time.
    TimedOut(ClientPhase),
    /// The server did not speak SMTP, or said what cannot be an answer.
    Protocol(String),
    /// The message held what may not be sent, and DATA cannot be ended in any other way.
    BadBody(BadBody),
    /// TLS is required, and was not offered or was refused.
    NotEncrypted(String),
    /// The server refused the login.
    LoginRefused(Reply),
    /// The shell ended it, for this reason.
    Abandoned(String),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Quit => f.write_str("quit"),
            CloseReason::Refused(reply) => write!(f, "refused {reply}"),
            CloseReason::PeerClosed { greeted: true } => f.write_str("peer closed"),
            CloseReason::PeerClosed { greeted: false } => {
                f.write_str("peer closed before the greeting")
            }
            CloseReason::LineLost { greeted: true } => f.write_str("connection lost"),
            CloseReason::LineLost { greeted: false } => {
                f.write_str("connection lost before the greeting")
            }
            CloseReason::TimedOut(phase) => write!(f, "timed out at {}", phase.name()),
            CloseReason::Protocol(what) => write!(f, "protocol error: {what}"),
            CloseReason::BadBody(bad) => write!(f, "bad body: {bad}"),
            CloseReason::NotEncrypted(why) | CloseReason::Abandoned(why) => f.write_str(why),
            CloseReason::LoginRefused(reply) => write!(f, "login refused {reply}"),
        }
    }
}
