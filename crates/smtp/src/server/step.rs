//! What the server session is configured with and what it tells its shell to do.

use std::fmt;

use crate::data::Fault;
use crate::etrn::EtrnNode;
use crate::path::{ForwardPath, ReversePath};

/// What a session needs to know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The name in the greeting and in the answer to EHLO.
    pub hostname: String,
    /// The largest message that is accepted, in octets before dot-stuffing; advertised as SIZE.
    pub size_limit: u64,
    /// The most recipients of one message; RFC 5321 4.5.3.1.8 asks for at least 100.
    pub max_recipients: usize,
    /// Whether ETRN is offered.
    pub etrn: bool,
}

/// What the client is expected to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerPhase {
    /// Commands.
    Command,
    /// Message data, after 354.
    Data,
}

/// Why a transaction ended without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// RSET.
    Reset,
    /// EHLO or HELO within the transaction (RFC 5321 4.1.4).
    NewHello,
    /// QUIT within the transaction.
    Quit,
    /// The client closed the connection.
    ClientLeft,
    /// The client was silent for too long.
    TimedOut,
    /// This host stops.
    ShutDown,
    /// The message is larger than is accepted.
    TooLarge,
    /// The message holds a byte that may not be in a message.
    BadBody(Fault),
    /// A lone dot was delimited by something else than CRLF, as in SMTP smuggling.
    MalformedEnd,
    /// A command line was not framed by CRLF, or was not SMTP.
    BadFraming,
    /// Too many bad commands, or too many refusals by policy.
    TooManyErrors,
    /// The shell answered 421 or 521.
    Refused,
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AbortReason::Reset => "reset",
            AbortReason::NewHello => "new hello",
            AbortReason::Quit => "quit",
            AbortReason::ClientLeft => "client left",
            AbortReason::TimedOut => "timed out",
            AbortReason::ShutDown => "shut down",
            AbortReason::TooLarge => "too large",
            AbortReason::BadBody(fault) => return write!(f, "{fault} in the data"),
            AbortReason::MalformedEnd => "malformed end of data",
            AbortReason::BadFraming => "bad framing",
            AbortReason::TooManyErrors => "too many errors",
            AbortReason::Refused => "refused",
        })
    }
}

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerStep {
    /// Send these bytes.
    Write(Vec<u8>),
    /// Receive, with the timer of [`ServerPhase`].
    Read,
    /// Asks: is mail from this sender taken? 2yz opens the transaction.
    Mail {
        /// Where reports go.
        reverse_path: ReversePath,
        /// The size announced, in octets; never more than the limit.
        size: Option<u64>,
        /// Whether `BODY=8BITMIME` was given.
        eight_bit: bool,
    },
    /// Asks: is mail to this recipient taken? 2yz counts it.
    Recipient(ForwardPath),
    /// Asks: shall data begin? 354 begins it. At least one recipient was accepted.
    BeginData,
    /// The next octets of the message: unstuffed, lines ended by CRLF, no bare CR or LF and no NUL.
    Body(Vec<u8>),
    /// Asks: the message is complete, is it taken? A positive reply takes the responsibility for it.
    EndOfData,
    /// The open transaction is over and its message must be dropped.
    Abort(AbortReason),
    /// Asks: release the mail of this node.
    Etrn(EtrnNode),
    /// Close the connection. Nothing follows. Shut down writing first and read on for a moment: closing a TCP socket with
    /// unread input resets the connection, and the client may lose the last reply.
    Close,
}

impl ServerStep {
    /// Whether the session waits for [`super::ServerSession::answer`].
    pub fn asks(&self) -> bool {
        matches!(
            self,
            ServerStep::Mail { .. }
                | ServerStep::Recipient(_)
                | ServerStep::BeginData
                | ServerStep::EndOfData
                | ServerStep::Etrn(_)
        )
    }
}
