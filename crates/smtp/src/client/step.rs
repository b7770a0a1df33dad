//! What the client session tells its shell to do.

use std::time::Duration;

use crate::reply::Reply;

use super::{Asked, CloseReason, TransactionOutcome};

/// What the client waits for; each has its own timer (RFC 5321 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientPhase {
    /// The greeting.
    Greeting,
    /// The reply to EHLO or HELO.
    Hello,
    /// The reply to STARTTLS.
    StartTls,
    /// The reply to AUTH, or to an answer to its challenge.
    Auth,
    /// The reply to MAIL.
    Mail,
    /// The reply to RCPT.
    Recipient,
    /// The reply to DATA.
    DataStart,
    /// The server taking the next piece of the message; a timer for writing, never read for.
    DataBlock,
    /// The reply to a chunk that is not the last.
    Chunk,
    /// The reply to the end of data.
    DataEnd,
    /// The reply to ETRN.
    Etrn,
    /// The reply to RSET.
    Reset,
    /// The reply to QUIT.
    Quit,
}

impl ClientPhase {
    /// The least time that RFC 5321 4.5.3.2 gives the server; where it names none, five minutes.
    pub fn timeout(self) -> Duration {
        let minutes = match self {
            ClientPhase::DataStart => 2,
            ClientPhase::DataBlock | ClientPhase::Chunk => 3,
            ClientPhase::DataEnd => 10,
            _ => 5,
        };
        Duration::from_secs(minutes * 60)
    }

    /// The phase in a word or two, for logs.
    pub fn name(self) -> &'static str {
        match self {
            ClientPhase::Greeting => "greeting",
            ClientPhase::Hello => "hello",
            ClientPhase::StartTls => "starttls",
            ClientPhase::Auth => "auth",
            ClientPhase::Mail => "mail",
            ClientPhase::Recipient => "recipient",
            ClientPhase::DataStart => "data start",
            ClientPhase::DataBlock => "data block",
            ClientPhase::Chunk => "chunk",
            ClientPhase::DataEnd => "data end",
            ClientPhase::Etrn => "etrn",
            ClientPhase::Reset => "reset",
            ClientPhase::Quit => "quit",
        }
    }
}

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Send these bytes.
    Write(Vec<u8>),
    /// Send these bytes, and let nobody see them: they hold a password or what it can be guessed from.
    WriteSecret(Vec<u8>),
    /// Receive, with the timer of the phase; more may be ordered meanwhile, as [`super::ClientSession::room`] says.
    Read(ClientPhase),
    /// Make the TLS handshake on this connection, then call `tls_started`, or `abandon`.
    StartTls,
    /// Log in: call `auth` with a mechanism that the server offers, or `abandon`.
    Authenticate,
    /// The server asks, and this is the challenge: call `auth_response`, or `abandon`.
    AuthChallenge(Vec<u8>),
    /// The server says that the login succeeded. A mechanism that has the server prove itself may know better: `abandon`.
    Authenticated,
    /// Nothing is left to do: give an order.
    Ready,
    /// The server awaits the message of this number: give the next piece to `body`, or call `end_body`. Replies may come
    /// meanwhile.
    SendBody(u64),
    /// The transaction of this number is over.
    Transaction(u64, TransactionOutcome),
    /// What came of a question.
    Asked(Asked),
    /// The reply to ETRN.
    Etrn(Reply),
    /// The session is over: close the connection. Nothing follows.
    Closed(CloseReason),
}

/// A command whose reply is awaited. Those of a transaction belong to the oldest that is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Reset,
    Mail,
    /// The recipient with this index.
    Rcpt(usize),
    Data,
    /// A chunk that is not the last.
    Chunk,
    /// The final dot, or the last chunk.
    End,
    /// The end of a message of nothing, sent because DATA was accepted when no recipient was (RFC 2920 3.1).
    EmptyEnd,
    /// MAIL and RCPT of a question.
    AskedSender,
    AskedRecipient,
    Etrn,
    Quit,
}

impl Awaited {
    /// In which wait it is.
    pub(super) fn phase(self) -> ClientPhase {
        match self {
            Awaited::Greeting => ClientPhase::Greeting,
            Awaited::Ehlo | Awaited::Helo => ClientPhase::Hello,
            Awaited::StartTls => ClientPhase::StartTls,
            Awaited::Auth => ClientPhase::Auth,
            Awaited::Reset => ClientPhase::Reset,
            Awaited::Mail | Awaited::AskedSender => ClientPhase::Mail,
            Awaited::Rcpt(_) | Awaited::AskedRecipient => ClientPhase::Recipient,
            Awaited::Data => ClientPhase::DataStart,
            Awaited::Chunk => ClientPhase::Chunk,
            Awaited::End | Awaited::EmptyEnd => ClientPhase::DataEnd,
            Awaited::Etrn => ClientPhase::Etrn,
            Awaited::Quit => ClientPhase::Quit,
        }
    }
}
