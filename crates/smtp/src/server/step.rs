//! What the server session tells its shell to do.

use std::fmt;

use crate::data::Fault;
use crate::etrn::EtrnNode;
use crate::parameters::{MailParameters, RcptParameters};
use crate::path::{ForwardPath, ReversePath};
use crate::reply::Reply;

/// What the client is expected to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerPhase {
    /// Commands.
    Command,
    /// Message data, after 354 or BDAT.
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
    /// A chunk came before any recipient was accepted.
    NoRecipients,
    /// A command line was not framed by CRLF, or was not SMTP.
    BadFraming,
    /// Too many bad commands, or too many refusals by policy.
    TooManyErrors,
    /// Too many commands that led to no message.
    TooManyCommands,
    /// The client spoke before it was its turn.
    OutOfTurn,
    /// The shell answered 421 or 521, or did not take the first chunk of a message.
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
            AbortReason::NoRecipients => "no recipients",
            AbortReason::BadFraming => "bad framing",
            AbortReason::TooManyErrors => "too many errors",
            AbortReason::TooManyCommands => "too many commands",
            AbortReason::OutOfTurn => "out of turn",
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
        /// What the client says about the message; a size is never more than the limit.
        parameters: MailParameters,
    },
    /// Asks: is mail to this recipient taken? 2yz counts it.
    Recipient {
        /// Who is to have the message.
        forward_path: ForwardPath,
        /// What is to be told about it.
        parameters: RcptParameters,
    },
    /// Asks: shall data begin? 354 begins it, also before the first chunk of BDAT, where the client does not see it. At
    /// least one recipient was accepted.
    BeginData,
    /// The next octets of the message: unstuffed, lines ended by CRLF, no bare CR or LF and no NUL.
    Body(Vec<u8>),
    /// Asks: the message is complete, is it taken? A positive reply takes the responsibility for it, for all of its
    /// recipients: with LMTP each is told the same.
    EndOfData,
    /// The open transaction is over and its message must be dropped.
    Abort(AbortReason),
    /// Asks: release the mail of this node.
    Etrn(EtrnNode),
    /// Do the handshake as the server; everything received from now on belongs to it. Then call
    /// [`super::ServerSession::tls_started`]; if it fails, drop the connection. Given again until then.
    StartTls,
    /// Asks: the client wants to authenticate. Begins an exchange anew, whatever became of an earlier one. Credentials, so
    /// never to be logged.
    Auth {
        /// One of the mechanisms that are offered, in upper case.
        mechanism: String,
        /// The initial response, if one came with the command.
        initial: Option<Vec<u8>>,
    },
    /// Asks: the client's response to the challenge. Credentials, so never to be logged.
    AuthResponse(Vec<u8>),
    /// Close the connection. Nothing follows. Shut down writing first and read on for a moment: closing a TCP socket with
    /// unread input resets the connection, and the client may lose the last reply.
    Close,
}

impl ServerStep {
    /// Whether the session waits for [`super::ServerSession::answer`], or for one of its kind.
    pub fn asks(&self) -> bool {
        matches!(
            self,
            ServerStep::Mail { .. }
                | ServerStep::Recipient { .. }
                | ServerStep::BeginData
                | ServerStep::EndOfData
                | ServerStep::Etrn(_)
                | ServerStep::Auth { .. }
                | ServerStep::AuthResponse(_)
        )
    }
}

/// The answer to [`ServerStep::Auth`] and [`ServerStep::AuthResponse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthAnswer {
    /// 334: the server's next word in the exchange, before base64. Empty where the mechanism lets the client begin.
    Challenge(Vec<u8>),
    /// 235: the client is this one.
    Accepted {
        /// Who it is, as the shell names it.
        identity: String,
    },
    /// The exchange failed; [`crate::replies::bad_credentials`] or another reply. 5yz counts as an attempt.
    Refused(Reply),
}
