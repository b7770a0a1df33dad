//! One command line, read into a value or into the reply that refuses it (RFC 5321 4.1.1 and its extensions).
//!
//! Verbs are a table. Arguments are read strictly, with two allowances that every server makes: spaces behind the colon
//! of `FROM:` and `TO:`, and spaces at the end of the line. A verb behind which octets would follow that are not commands
//! (HTTP, BDAT that is not offered or whose size cannot be read) is answered 521, behind which the session closes.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::etrn::EtrnNode;
use crate::parameters::{Extensions, MailParameters, RcptParameters, decimal, words};
use crate::path::{ForwardPath, MAX_DOMAIN, PathError, ReversePath};
use crate::replies;
use crate::reply::Reply;

/// What a line is read by: which commands and parameters there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grammar {
    /// The extensions that are offered.
    pub extensions: Extensions,
    /// MAIL had SMTPUTF8: recipients may hold UTF-8.
    pub utf8: bool,
    /// LMTP (RFC 2033 4.1): LHLO, and neither EHLO nor HELO.
    pub lmtp: bool,
}

/// A command whose form is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// EHLO with the name the client gives itself.
    Ehlo(Vec<u8>),
    /// HELO with the name the client gives itself.
    Helo(Vec<u8>),
    /// MAIL.
    Mail {
        /// The argument of `FROM:`.
        reverse_path: ReversePath,
        /// What follows it.
        parameters: MailParameters,
    },
    /// RCPT.
    Rcpt {
        /// The argument of `TO:`.
        forward_path: ForwardPath,
        /// What follows it.
        parameters: RcptParameters,
    },
    /// DATA.
    Data,
    /// BDAT (RFC 3030 2): so many octets follow.
    Bdat {
        /// Octets of the chunk.
        size: u64,
        /// Whether the message ends with it.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP, its argument ignored.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY, its argument ignored.
    Vrfy,
    /// HELP, its argument ignored.
    Help,
    /// ETRN.
    Etrn(EtrnNode),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954 4).
    Auth {
        /// The mechanism, in upper case.
        mechanism: String,
        /// The initial response, decoded; empty for `=`.
        initial: Option<Vec<u8>>,
    },
}

type Parse = fn(&[u8], &Grammar) -> Result<Command, Reply>;

/// Every verb that is known, and how its argument is read.
const VERBS: &[(&str, Parse)] = &[
    ("EHLO", |argument, grammar| {
        hello(argument, "EHLO", !grammar.lmtp).map(Command::Ehlo)
    }),
    ("HELO", |argument, grammar| {
        hello(argument, "HELO", !grammar.lmtp).map(Command::Helo)
    }),
    ("LHLO", |argument, grammar| {
        hello(argument, "LHLO", grammar.lmtp).map(Command::Ehlo)
    }),
    ("MAIL", parse_mail),
    ("RCPT", parse_rcpt),
    ("DATA", |argument, _| {
        no_argument(argument, Command::Data, "DATA")
    }),
    ("BDAT", parse_bdat),
    ("RSET", |argument, _| {
        no_argument(argument, Command::Rset, "RSET")
    }),
    ("NOOP", |_, _| Ok(Command::Noop)),
    ("QUIT", |argument, _| {
        no_argument(argument, Command::Quit, "QUIT")
    }),
    ("VRFY", |_, _| Ok(Command::Vrfy)),
    ("HELP", |_, _| Ok(Command::Help)),
    ("ETRN", parse_etrn),
    ("STARTTLS", |argument, grammar| {
        offered(grammar.extensions.starttls)?;
        no_argument(argument, Command::StartTls, "STARTTLS")
    }),
    ("AUTH", parse_auth),
    ("EXPN", |_, _| Err(replies::not_implemented())),
    ("TURN", |_, _| Err(replies::not_implemented())),
    ("ATRN", |_, _| Err(replies::not_implemented())),
];

/// The first words of HTTP requests: a browser, or an attacker who uses one (ALPACA).
const HTTP: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE", "PRI",
];

impl Command {
    /// Reads a line without its CRLF. Errors: the reply that refuses it; [`Reply::closes`] says whether the session ends.
    pub fn parse(line: &[u8], grammar: &Grammar) -> Result<Command, Reply> {
        let verb = Command::verb(line);
        let argument = line[verb.len()..].trim_ascii();
        let is_verb = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        if let Some((_, parse)) = VERBS.iter().find(|(name, _)| is_verb(name)) {
            parse(argument, grammar)
        } else if HTTP.iter().any(|name| is_verb(name)) {
            Err(replies::not_smtp())
        } else {
            Err(replies::unknown_command())
        }
    }

    /// Whether commands may follow it before its reply has come: MAIL, RCPT, RSET (RFC 2920 3.1) and BDAT (RFC 3030 4.2).
    /// Every other one ends its group.
    pub fn may_be_followed(&self) -> bool {
        matches!(
            self,
            Command::Mail { .. } | Command::Rcpt { .. } | Command::Rset | Command::Bdat { .. }
        )
    }

    /// The first word of a line.
    pub fn verb(line: &[u8]) -> &[u8] {
        let end = memchr::memchr(b' ', line).unwrap_or(line.len());
        &line[..end]
    }
}

fn no_argument(argument: &[u8], command: Command, verb: &str) -> Result<Command, Reply> {
    if argument.is_empty() {
        Ok(command)
    } else {
        Err(replies::bad_argument(verb))
    }
}

/// 502 for a command whose extension is not offered.
fn offered(is_offered: bool) -> Result<(), Reply> {
    if is_offered {
        Ok(())
    } else {
        Err(replies::not_implemented())
    }
}

/// The client's name: a domain, a literal, or one of the near misses of the field (`host_name`, a bare IP address).
///
/// Only what can stand in a `Received` field without being quoted is taken. The hello of the other protocol is unknown
/// (RFC 2033 4.1).
fn hello(argument: &[u8], verb: &str, is_of_protocol: bool) -> Result<Vec<u8>, Reply> {
    if !is_of_protocol {
        return Err(replies::unknown_command());
    }
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
    if argument.is_empty() || argument.len() > MAX_DOMAIN || !argument.iter().all(is_good) {
        Err(replies::bad_argument(&format!("{verb} hostname")))
    } else {
        Ok(argument.to_vec())
    }
}

fn parse_mail(argument: &[u8], grammar: &Grammar) -> Result<Command, Reply> {
    let (path, rest) = bracketed(argument, b"FROM:")
        .ok_or_else(|| replies::bad_argument("MAIL FROM:<address>"))?;
    // SMTPUTF8 stands behind the path and says how to read it (RFC 6531 3.4).
    let parameters = MailParameters::parse(rest, &grammar.extensions);
    let utf8 = parameters.as_ref().is_ok_and(|read| read.smtputf8);
    let reverse_path = if utf8 {
        ReversePath::parse_utf8(path)
    } else {
        ReversePath::parse(path)
    };
    Ok(Command::Mail {
        reverse_path: reverse_path.map_err(replies::bad_sender)?,
        parameters: parameters?,
    })
}

fn parse_rcpt(argument: &[u8], grammar: &Grammar) -> Result<Command, Reply> {
    let (path, rest) =
        bracketed(argument, b"TO:").ok_or_else(|| replies::bad_argument("RCPT TO:<address>"))?;
    let forward_path = if grammar.utf8 {
        ForwardPath::parse_utf8(path)
    } else {
        ForwardPath::parse(path)
    };
    Ok(Command::Rcpt {
        forward_path: forward_path.map_err(replies::bad_recipient)?,
        parameters: RcptParameters::parse(rest, &grammar.extensions, grammar.utf8)?,
    })
}

/// `BDAT size [LAST]`. Without a size nobody knows where the next command is, so the session closes.
fn parse_bdat(argument: &[u8], grammar: &Grammar) -> Result<Command, Reply> {
    if !grammar.extensions.chunking {
        return Err(replies::not_smtp());
    }
    let mut words = words(argument);
    let size = words.next().and_then(decimal);
    match (size, words.next(), words.next()) {
        (Some(size), None, None) => Ok(Command::Bdat { size, last: false }),
        (Some(size), Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => {
            Ok(Command::Bdat { size, last: true })
        }
        _ => Err(replies::malformed_chunk()),
    }
}

fn parse_etrn(argument: &[u8], grammar: &Grammar) -> Result<Command, Reply> {
    offered(grammar.extensions.etrn)?;
    EtrnNode::parse(argument)
        .map(Command::Etrn)
        .map_err(|error: PathError| replies::bad_argument(&format!("ETRN node ({error})")))
}

/// `AUTH mechanism [initial-response]`; the name of a mechanism has up to 20 letters, digits, hyphens and underscores
/// (RFC 4422 3.1).
fn parse_auth(argument: &[u8], grammar: &Grammar) -> Result<Command, Reply> {
    offered(grammar.extensions.auth)?;
    let syntax = || replies::bad_argument("AUTH mechanism [initial-response]");
    let mut words = words(argument);
    let mechanism = words.next().ok_or_else(syntax)?;
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    if mechanism.len() > 20 || !mechanism.iter().all(is_good) {
        return Err(syntax());
    }
    let initial = match words.next() {
        None => None,
        Some(b"=") => Some(Vec::new()),
        Some(text) => Some(BASE64.decode(text).map_err(|_| replies::bad_base64())?),
    };
    if words.next().is_some() {
        return Err(syntax());
    }
    let mechanism = mechanism
        .iter()
        .map(|byte| char::from(byte.to_ascii_uppercase()));
    Ok(Command::Auth {
        mechanism: mechanism.collect(),
        initial,
    })
}

/// What stands between the brackets behind `keyword`, and what follows them.
///
/// A bracket inside a quoted local part does not end the path. What follows starts with a space, if anything does.
fn bracketed<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (start, rest) = argument.split_at_checked(keyword.len())?;
    if !start.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let inner = rest.trim_ascii_start().strip_prefix(b"<")?;
    let mut in_quotes = false;
    let mut at = 0;
    loop {
        match inner.get(at)? {
            b'"' => in_quotes = !in_quotes,
            b'\\' if in_quotes => at += 1,
            b'>' if !in_quotes => break,
            _ => {}
        }
        at += 1;
    }
    let rest = &inner[at + 1..];
    (rest.is_empty() || rest.starts_with(b" ")).then_some((&inner[..at], rest))
}

#[cfg(test)]
mod tests;
