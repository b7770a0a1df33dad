//! The replies that [`crate::server::ServerSession`] gives by itself.

use crate::data::Fault;
use crate::parameters::Parameter;
use crate::path::PathError;
use crate::reply::{Enhanced, Reply};

/// 220, the greeting.
pub fn greeting(hostname: &str) -> Reply {
    Reply::new(220, None, format!("{hostname} ESMTP"))
}

/// 220, the greeting of LMTP (RFC 2033 4.1).
pub fn lmtp_greeting(hostname: &str) -> Reply {
    Reply::new(220, None, format!("{hostname} LMTP"))
}

/// 250 to HELO.
pub fn hello(hostname: &str) -> Reply {
    Reply::new(250, None, hostname)
}

/// 250 to RSET and NOOP.
pub fn ok() -> Reply {
    Reply::new(250, Enhanced(2, 0, 0), "OK")
}

/// 221 to QUIT.
pub fn closing(hostname: &str) -> Reply {
    Reply::new(
        221,
        Enhanced(2, 0, 0),
        format!("{hostname} closing connection"),
    )
}

/// 252 to VRFY: addresses are not verified (RFC 5321 7.3), so nothing is said of one (2.1.5 would call it valid, RFC 3463 3.2).
pub fn not_verified() -> Reply {
    Reply::new(252, Enhanced(2, 0, 0), "not verified, send mail and see")
}

/// 214 to HELP.
pub fn help() -> Reply {
    Reply::new(
        214,
        Enhanced(2, 0, 0),
        "see RFC 5321; EHLO lists the extensions",
    )
}

/// 500: no such verb.
pub fn unknown_command() -> Reply {
    Reply::new(500, Enhanced(5, 5, 1), "unknown command")
}

/// 502: a verb of the standards that is not offered here.
pub fn not_implemented() -> Reply {
    Reply::new(502, Enhanced(5, 5, 1), "command not implemented")
}

/// 503: the command is not allowed now; `why` names what is missing or in the way.
pub fn out_of_order(why: &str) -> Reply {
    Reply::new(503, Enhanced(5, 5, 1), why)
}

/// 500: a command line that is longer than is read.
pub fn line_too_long() -> Reply {
    Reply::new(500, Enhanced(5, 5, 2), "line too long")
}

/// 500: a NUL in a command line.
pub fn nul_in_command() -> Reply {
    Reply::new(500, Enhanced(5, 5, 2), "NUL in a command")
}

/// 500: a bare CR or LF in a command line; the connection is closed behind it.
pub fn bare_newline_in_command(fault: Fault) -> Reply {
    Reply::new(500, Enhanced(5, 5, 2), format!("{fault} in a command"))
}

/// 501: the verb is known and its argument is not of its form, which is `syntax`.
pub fn bad_argument(syntax: &str) -> Reply {
    Reply::new(501, Enhanced(5, 5, 4), format!("syntax: {syntax}"))
}

/// 555: a parameter of MAIL or RCPT that is not offered (RFC 5321 4.1.1.11).
pub fn unknown_parameter() -> Reply {
    Reply::new(555, Enhanced(5, 5, 4), "unknown parameter")
}

/// 501: a parameter of MAIL or RCPT whose value is missing, malformed, too large, or given twice.
pub fn bad_parameter(parameter: Parameter) -> Reply {
    Reply::new(501, Enhanced(5, 5, 4), format!("bad {parameter} parameter"))
}

/// 555 to MAIL: the message is to be returned when late, and has less time than is taken (RFC 2852 4).
pub fn too_little_time(least: u32) -> Reply {
    Reply::new(
        555,
        Enhanced(5, 5, 4),
        format!("BY with less than {least} seconds"),
    )
}

/// 501 to MAIL with a malformed address, 553 if it needs SMTPUTF8 (RFC 6531 3.5).
pub fn bad_sender(error: PathError) -> Reply {
    match error {
        PathError::NotAscii => Reply::new(553, Enhanced(5, 6, 7), "non-ASCII address"),
        _ => Reply::new(
            501,
            Enhanced(5, 1, 7),
            format!("bad sender address: {error}"),
        ),
    }
}

/// 501 to RCPT with a malformed address, 553 if it needs SMTPUTF8 (RFC 6531 3.5).
pub fn bad_recipient(error: PathError) -> Reply {
    match error {
        PathError::NotAscii => Reply::new(553, Enhanced(5, 6, 7), "non-ASCII address"),
        _ => Reply::new(
            501,
            Enhanced(5, 1, 3),
            format!("bad recipient address: {error}"),
        ),
    }
}

/// 452: one recipient more than a message may have (RFC 5321 4.5.3.1.10).
pub fn too_many_recipients() -> Reply {
    Reply::new(452, Enhanced(4, 5, 3), "too many recipients")
}

/// 552: the message is larger than `limit` octets (RFC 1870 6.1).
pub fn too_large(limit: u64) -> Reply {
    Reply::new(
        552,
        Enhanced(5, 3, 4),
        format!("message larger than {limit} octets"),
    )
}

/// 554 to DATA when no recipient was accepted (RFC 5321 4.1.1.4).
pub fn no_valid_recipients() -> Reply {
    Reply::new(554, Enhanced(5, 5, 1), "no valid recipients")
}

/// 550 after end of data: the message holds what may not be in a message.
pub fn bad_body(fault: Fault) -> Reply {
    Reply::new(
        550,
        Enhanced(5, 5, 2),
        format!("message refused: {fault} in the data"),
    )
}

/// 521: end of data was delimited by something else than CRLF, as in SMTP smuggling; closes.
pub fn malformed_end_of_data() -> Reply {
    Reply::new(
        521,
        Enhanced(5, 5, 2),
        "malformed end of data, closing connection",
    )
}

/// 521: the client does not speak SMTP, or would send octets that could be read as commands; closes.
pub fn not_smtp() -> Reply {
    Reply::new(521, Enhanced(5, 5, 1), "not SMTP, closing connection")
}

/// 421: too many bad commands, or too many that policy refused; closes.
pub fn too_many_errors(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 7, 0),
        format!("{hostname} too many errors, closing connection"),
    )
}

/// 421: the client was silent for too long (RFC 5321 4.5.3.2.7); closes.
pub fn timed_out(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 4, 2),
        format!("{hostname} timed out, closing connection"),
    )
}

/// 421: this host stops its service (RFC 5321 3.8); closes.
pub fn shutting_down(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 3, 2),
        format!("{hostname} shutting down, closing connection"),
    )
}

/// 421 instead of the greeting: as many sessions as are allowed are open; closes.
pub fn too_many_sessions(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 7, 0),
        format!("{hostname} too many sessions, try again later"),
    )
}

/// 250 to a chunk that is not the last (RFC 3030 2).
pub fn chunk_received(octets: u64) -> Reply {
    Reply::new(250, Enhanced(2, 0, 0), format!("{octets} octets received"))
}

/// 503 to a chunk behind one that was refused (RFC 3030 2): the message is lost until it is begun anew.
pub fn chunk_behind_refusal() -> Reply {
    out_of_order("an earlier chunk was refused, send RSET")
}

/// 521: a BDAT without a size that can be read, so that nobody knows where the next command is; closes.
pub fn malformed_chunk() -> Reply {
    Reply::new(
        521,
        Enhanced(5, 5, 4),
        "syntax: BDAT size [LAST], closing connection",
    )
}

/// 421 to MAIL: as many messages as one session may bring, MAILMAX of RFC 9422; closes.
pub fn too_many_messages(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 7, 0),
        format!("{hostname} too many messages in a session, closing connection"),
    )
}

/// 421: so many commands since the last message that none is meant; closes.
pub fn too_many_commands(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 7, 0),
        format!("{hostname} too many commands without a message, closing connection"),
    )
}

/// 554: the client speaks before it is its turn (RFC 2920 3.1, RFC 5321 4.3.1); closes.
pub fn out_of_turn() -> Reply {
    Reply::new(
        554,
        Enhanced(5, 5, 0),
        "SMTP protocol synchronization, closing connection",
    )
}
