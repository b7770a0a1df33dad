//! What each of the two makes of a command line, in the same words; and lines about which there can be no two minds.

use std::borrow::Cow;

use linkmail_smtp::command::{Command, Grammar};
use linkmail_smtp::dsn::Notify;
use linkmail_smtp::parameters::Extensions;
use smtp_proto::{MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, RCPT_NOTIFY_NEVER, Request};

pub(crate) fn grammar() -> Grammar {
    Grammar {
        extensions: Extensions {
            chunking: true,
            dsn: true,
            smtputf8: true,
            etrn: true,
            starttls: true,
            auth: true,
            // Read differently by the other, and by our own tests.
            mt_priority: false,
            deliver_by: false,
            xlinkmail: false,
        },
        ..Grammar::default()
    }
}

/// What a line says, as far as both can tell; `-` is a refusal.
pub(crate) fn ours(line: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match Command::parse(line, &grammar()) {
        Err(_) => "-".into(),
        Ok(Command::Ehlo(name)) => format!("EHLO {}", text(&name)),
        Ok(Command::Helo(name)) => format!("HELO {}", text(&name)),
        Ok(Command::Mail {
            reverse_path,
            parameters,
        }) => format!(
            "MAIL {} SIZE={}{}{}",
            text(&reverse_path.to_bytes()),
            parameters.size.unwrap_or(0),
            if parameters.eight_bit {
                " 8BITMIME"
            } else {
                ""
            },
            if parameters.smtputf8 { " SMTPUTF8" } else { "" },
        ),
        Ok(Command::Rcpt {
            forward_path,
            parameters,
        }) => format!(
            "RCPT {}{}",
            text(&forward_path.to_bytes()),
            if parameters.notify == Some(Notify::NEVER) {
                " NEVER"
            } else {
                ""
            },
        ),
        Ok(Command::Bdat { size, last }) => {
            format!("BDAT {size}{}", if last { " LAST" } else { "" })
        }
        Ok(Command::Etrn(node)) => format!("ETRN {}", text(&node.to_bytes())),
        Ok(Command::Data) => "DATA".into(),
        Ok(Command::Rset) => "RSET".into(),
        Ok(Command::Noop) => "NOOP".into(),
        Ok(Command::Quit) => "QUIT".into(),
        Ok(Command::Vrfy) => "VRFY".into(),
        Ok(Command::Help) => "HELP".into(),
        Ok(Command::StartTls) => "STARTTLS".into(),
        Ok(Command::Auth { .. }) => "AUTH".into(),
    }
}

pub(crate) fn theirs(line: &[u8]) -> String {
    let line = [line, b"\r\n"].concat();
    let request: Result<Request<Cow<'_, str>>, _> = Request::parse(&mut line.iter());
    match request {
        Err(_) => "-".into(),
        Ok(Request::Ehlo { host }) => format!("EHLO {host}"),
        Ok(Request::Helo { host }) => format!("HELO {host}"),
        Ok(Request::Mail { from }) => format!(
            "MAIL {} SIZE={}{}{}",
            from.address,
            from.size,
            if from.flags & MAIL_BODY_8BITMIME != 0 {
                " 8BITMIME"
            } else {
                ""
            },
            if from.flags & MAIL_SMTPUTF8 != 0 {
                " SMTPUTF8"
            } else {
                ""
            },
        ),
        Ok(Request::Rcpt { to }) => {
            let never = if to.flags & RCPT_NOTIFY_NEVER != 0 {
                " NEVER"
            } else {
                ""
            };
            format!("RCPT {}{never}", to.address)
        }
        Ok(Request::Bdat {
            chunk_size,
            is_last,
        }) => {
            format!("BDAT {chunk_size}{}", if is_last { " LAST" } else { "" })
        }
        Ok(Request::Etrn { name }) => format!("ETRN {name}"),
        Ok(request) => request.name().into(),
    }
}

/// A line that nobody may refuse, and that has one meaning: what it is made of is as plain as the standards have it.
pub(crate) fn is_plain(line: &str) -> bool {
    let name = |text: &str| {
        !text.is_empty()
            && text.split('.').all(|label| {
                let is_good = |c: char| c.is_ascii_alphanumeric();
                label.len() < 30
                    && label.starts_with(is_good)
                    && label.ends_with(is_good)
                    && label.chars().all(is_good)
            })
    };
    let address = |text: &str| {
        text.split_once('@').is_some_and(|(local, domain)| {
            local.len() < 30 && name(local) && name(domain) && domain.contains('.')
        })
    };
    let number = |text: &str| {
        !text.is_empty() && text.len() < 19 && text.bytes().all(|c| c.is_ascii_digit())
    };
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["DATA" | "RSET" | "QUIT" | "NOOP" | "HELP" | "STARTTLS"] => true,
        ["EHLO" | "HELO" | "ETRN", host] => name(host) && host.contains('.'),
        ["BDAT", size] | ["BDAT", size, "LAST"] => number(size),
        ["MAIL", path, rest @ ..] => {
            let path = path
                .strip_prefix("FROM:<")
                .and_then(|path| path.strip_suffix('>'));
            let is_good = |word: &&str| match word.split_once('=') {
                Some(("SIZE", size)) => number(size),
                Some(("BODY", body)) => matches!(body, "7BIT" | "8BITMIME"),
                _ => *word == "SMTPUTF8",
            };
            path.is_some_and(|path| path.is_empty() || address(path))
                && rest.len() < 2
                && rest.iter().all(is_good)
        }
        ["RCPT", path, rest @ ..] => {
            let path = path
                .strip_prefix("TO:<")
                .and_then(|path| path.strip_suffix('>'));
            path.is_some_and(address)
                && matches!(rest, [] | ["NOTIFY=NEVER" | "NOTIFY=SUCCESS,FAILURE"])
        }
        _ => false,
    }
}
