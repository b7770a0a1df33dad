//! One command line, read into a value or into the reply that refuses it (RFC 5321 4.1.1, RFC 1985, RFC 1870, RFC 6152).
//!
//! Verbs are a table. Arguments are read strictly, with two allowances that every server makes: spaces behind the colon
//! of `FROM:` and `TO:`, and spaces at the end of the line. A verb behind which octets would follow that are not commands
//! (BDAT, HTTP) is answered 521, behind which the session closes.

use std::fmt;

use crate::etrn::EtrnNode;
use crate::path::{ForwardPath, MAX_DOMAIN, PathError, ReversePath};
use crate::replies;
use crate::reply::Reply;

/// A parameter of MAIL that is offered in EHLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `SIZE=n` (RFC 1870).
    Size,
    /// `BODY=7BIT` or `BODY=8BITMIME` (RFC 6152).
    Body,
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Parameter::Size => "SIZE",
            Parameter::Body => "BODY",
        })
    }
}

/// The parameters of one MAIL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// The size the client announces, in octets before dot-stuffing.
    pub size: Option<u64>,
    /// What `BODY=` says: whether octets above 127 may come.
    pub eight_bit: Option<bool>,
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
        /// SIZE and BODY.
        parameters: MailParameters,
    },
    /// RCPT with the argument of `TO:`.
    Rcpt(ForwardPath),
    /// DATA.
    Data,
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
}

type Parse = fn(&[u8]) -> Result<Command, Reply>;

/// Every verb that is known, and how its argument is read.
const VERBS: &[(&str, Parse)] = &[
    ("EHLO", |argument| {
        hello_name(argument, "EHLO").map(Command::Ehlo)
    }),
    ("HELO", |argument| {
        hello_name(argument, "HELO").map(Command::Helo)
    }),
    ("MAIL", parse_mail),
    ("RCPT", parse_rcpt),
    ("DATA", |argument| {
        no_argument(argument, Command::Data, "DATA")
    }),
    ("RSET", |argument| {
        no_argument(argument, Command::Rset, "RSET")
    }),
    ("NOOP", |_| Ok(Command::Noop)),
    ("QUIT", |argument| {
        no_argument(argument, Command::Quit, "QUIT")
    }),
    ("VRFY", |_| Ok(Command::Vrfy)),
    ("HELP", |_| Ok(Command::Help)),
    ("ETRN", parse_etrn),
    ("EXPN", |_| Err(replies::not_implemented())),
    ("TURN", |_| Err(replies::not_implemented())),
    ("ATRN", |_| Err(replies::not_implemented())),
    ("AUTH", |_| Err(replies::not_implemented())),
    ("STARTTLS", |_| Err(replies::not_implemented())),
    ("BDAT", |_| Err(replies::not_smtp())),
    ("GET", |_| Err(replies::not_smtp())),
    ("HEAD", |_| Err(replies::not_smtp())),
    ("POST", |_| Err(replies::not_smtp())),
    ("PUT", |_| Err(replies::not_smtp())),
    ("DELETE", |_| Err(replies::not_smtp())),
    ("OPTIONS", |_| Err(replies::not_smtp())),
    ("CONNECT", |_| Err(replies::not_smtp())),
    ("PATCH", |_| Err(replies::not_smtp())),
    ("TRACE", |_| Err(replies::not_smtp())),
    ("PRI", |_| Err(replies::not_smtp())),
];

impl Command {
    /// Reads a line without its CRLF. Errors: the reply that refuses it; [`Reply::closes`] says whether the session ends.
    pub fn parse(line: &[u8]) -> Result<Command, Reply> {
        let verb = Command::verb(line);
        let argument = line[verb.len()..].trim_ascii();
        match VERBS
            .iter()
            .find(|(name, _)| verb.eq_ignore_ascii_case(name.as_bytes()))
        {
            Some((_, parse)) => parse(argument),
            None => Err(replies::unknown_command()),
        }
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

/// The client's name: a domain, a literal, or one of the near misses of the field (`host_name`, a bare IP address).
///
/// Only what can stand in a `Received` field without being quoted is taken.
fn hello_name(argument: &[u8], verb: &str) -> Result<Vec<u8>, Reply> {
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
    if argument.is_empty() || argument.len() > MAX_DOMAIN || !argument.iter().all(is_good) {
        Err(replies::bad_argument(&format!("{verb} hostname")))
    } else {
        Ok(argument.to_vec())
    }
}

fn parse_mail(argument: &[u8]) -> Result<Command, Reply> {
    let (path, rest) = bracketed(argument, b"FROM:")
        .ok_or_else(|| replies::bad_argument("MAIL FROM:<address>"))?;
    let reverse_path = ReversePath::parse(path).map_err(replies::bad_sender)?;
    Ok(Command::Mail {
        reverse_path,
        parameters: mail_parameters(rest)?,
    })
}

fn parse_rcpt(argument: &[u8]) -> Result<Command, Reply> {
    let (path, rest) =
        bracketed(argument, b"TO:").ok_or_else(|| replies::bad_argument("RCPT TO:<address>"))?;
    let forward_path = ForwardPath::parse(path).map_err(replies::bad_recipient)?;
    if words(rest).next().is_some() {
        return Err(replies::unknown_parameter());
    }
    Ok(Command::Rcpt(forward_path))
}

fn parse_etrn(argument: &[u8]) -> Result<Command, Reply> {
    EtrnNode::parse(argument)
        .map(Command::Etrn)
        .map_err(|error: PathError| replies::bad_argument(&format!("ETRN node ({error})")))
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

fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
}

fn mail_parameters(rest: &[u8]) -> Result<MailParameters, Reply> {
    let mut parameters = MailParameters::default();
    for word in words(rest) {
        let mut halves = word.splitn(2, |byte| *byte == b'=');
        let keyword = halves.next().unwrap_or_default();
        let value = halves.next();
        if keyword.eq_ignore_ascii_case(b"SIZE") {
            let bad = || replies::bad_parameter(Parameter::Size);
            let size = value.and_then(decimal).ok_or_else(bad)?;
            if parameters.size.replace(size).is_some() {
                return Err(bad());
            }
        } else if keyword.eq_ignore_ascii_case(b"BODY") {
            let bad = || replies::bad_parameter(Parameter::Body);
            let eight_bit = match value {
                Some(value) if value.eq_ignore_ascii_case(b"7BIT") => false,
                Some(value) if value.eq_ignore_ascii_case(b"8BITMIME") => true,
                _ => return Err(bad()),
            };
            if parameters.eight_bit.replace(eight_bit).is_some() {
                return Err(bad());
            }
        } else {
            return Err(replies::unknown_parameter());
        }
    }
    Ok(parameters)
}

/// One to twenty digits that fit 64 bits (RFC 1870 5).
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Reply> {
        Command::parse(line.as_bytes())
    }

    #[test]
    fn verbs_and_keywords_know_no_case() {
        assert_eq!(parse("quit "), Ok(Command::Quit));
        assert_eq!(parse("noop anything"), Ok(Command::Noop));
        assert_eq!(
            parse("eHLo a_b.example"),
            Ok(Command::Ehlo(b"a_b.example".to_vec()))
        );
        let mail = parse("mail from: <A@b.example> size=1000 body=8bitmime").unwrap();
        assert_eq!(
            mail,
            Command::Mail {
                reverse_path: ReversePath::parse(b"A@b.example").unwrap(),
                parameters: MailParameters {
                    size: Some(1000),
                    eight_bit: Some(true)
                },
            }
        );
        assert_eq!(
            parse("RCPT TO:<\"a > b\"@c.example>"),
            Ok(Command::Rcpt(
                ForwardPath::parse(b"\"a > b\"@c.example").unwrap()
            ))
        );
        assert!(matches!(parse("etrn @b.example"), Ok(Command::Etrn(_))));
    }

    #[test]
    fn each_mistake_has_its_reply() {
        for (line, start) in [
            ("", "500 5.5.1"),
            ("FOO", "500 5.5.1"),
            ("MAILFROM:<a@b.example>", "500 5.5.1"),
            ("QUIT now", "501 5.5.4"),
            ("EHLO", "501 5.5.4"),
            ("EHLO two words", "501 5.5.4"),
            ("HELO (comment)", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL FROM:a@b.example", "501 5.5.4"),
            ("MAIL FROM:<a@b.example", "501 5.5.4"),
            ("MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<a@b..example>", "501 5.1.7"),
            ("MAIL FROM:<\u{e9}@b.example>", "553 5.6.7"),
            ("MAIL FROM:<> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<> SIZE=18446744073709551616", "501 5.5.4"),
            ("MAIL FROM:<> SIZE=1 SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<> SIZE=-1", "501 5.5.4"),
            ("MAIL FROM:<> BODY=BINARYMIME", "501 5.5.4"),
            ("MAIL FROM:<> RET=HDRS", "555 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<nobody>", "501 5.1.3"),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
            ("ETRN", "501 5.5.4"),
            ("ETRN a b", "501 5.5.4"),
            ("EXPN list", "502 5.5.1"),
            ("STARTTLS", "502 5.5.1"),
            ("BDAT 10 LAST", "521 5.5.1"),
            ("GET / HTTP/1.1", "521 5.5.1"),
        ] {
            let reply = parse(line).unwrap_err();
            assert!(reply.to_string().starts_with(start), "{line}: {reply}");
        }
    }
}
