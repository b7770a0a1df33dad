//! An exported message as a file: its envelope in fields of its own in front, then the content as it was stored.
//!
//! The fields end with `X-Linkmail-Content`; what follows is the content, whatever it begins with. What MAIL and RCPT said
//! stands as they would say it (RFC 5321 4.1.1), so it is read by their grammar (docs/decisions/0023).

use std::fmt::Write as _;

use linkmail_proto::relay::v1::{Envelope, EnvelopeRecipient, recipient::State};
use linkmail_smtp::{
    Mailbox, ReversePath,
    command::{Command, Grammar},
    dsn::{EnvelopeId, Notify, Ret},
    parameters::Extensions,
};
use prost_types::Timestamp;

const MESSAGE: &str = "X-Linkmail-Message";
const ACCEPTED: &str = "X-Linkmail-Accepted";
const FROM: &str = "X-Linkmail-Envelope-From";
const TO: &str = "X-Linkmail-Envelope-To";
const DONE: &str = "X-Linkmail-Envelope-Done";
const CONTENT: &str = "X-Linkmail-Content";

/// The fields in front of the content.
pub(super) fn header(envelope: &Envelope) -> String {
    let mut text = format!("{MESSAGE}: {}\r\n", envelope.name);
    if let Some(time) = envelope.accept_time {
        let _ = write!(text, "{ACCEPTED}: {time}\r\n");
    }
    let _ = write!(text, "{FROM}: <{}>", envelope.reverse_path);
    let flag = |is_set: bool, word: &str| {
        if is_set {
            format!(" {word}")
        } else {
            String::new()
        }
    };
    let value = |keyword: &str, value: &str| match value {
        "" => String::new(),
        value => format!(" {keyword}={value}"),
    };
    text.push_str(&flag(envelope.smtputf8, "SMTPUTF8"));
    text.push_str(&value("RET", &envelope.ret));
    text.push_str(&value("ENVID", &envelope.envelope_id));
    if envelope.priority != 0 {
        text.push_str(&value("MT-PRIORITY", &envelope.priority.to_string()));
    }
    text.push_str(&value("BY", &envelope.deliver_by));
    text.push_str("\r\n");
    for one in &envelope.recipients {
        let is_done = matches!(
            one.state(),
            State::Delivered | State::Bounced | State::Discarded
        );
        let field = if is_done { DONE } else { TO };
        let _ = write!(text, "{field}: <{}>", one.address);
        text.push_str(&value("NOTIFY", &one.notify));
        text.push_str(&value("ORCPT", &one.original_recipient));
        text.push_str("\r\n");
    }
    let mut hash = String::new();
    for octet in &envelope.sha256 {
        let _ = write!(hash, "{octet:02x}");
    }
    let _ = write!(
        text,
        "{CONTENT}: size={} sha256={hash}\r\n",
        envelope.size_bytes
    );
    text
}

/// The envelope and the content of a file; `None` if it has no envelope. Errors: in words, with the line.
pub(super) fn read(file: &[u8]) -> Result<Option<(Envelope, &[u8])>, String> {
    if !file.starts_with(format!("{MESSAGE}:").as_bytes()) {
        return Ok(None);
    }
    let (mut envelope, mut rest) = (Envelope::default(), file);
    for number in 1.. {
        let end = rest.iter().position(|octet| *octet == b'\n');
        let Some(end) = end else { break };
        let line = std::str::from_utf8(&rest[..end]);
        rest = &rest[end + 1..];
        let line = line.map_err(|_| format!("line {number}: expected UTF-8"))?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let field = line.split_once(": ");
        let (name, value) = field.ok_or_else(|| {
            format!("line {number}: expected a field of an exported message, found {line:?}")
        })?;
        take(&mut envelope, name, value).map_err(|wrong| format!("line {number}: {wrong}"))?;
        if name == CONTENT {
            return Ok(Some((envelope, rest)));
        }
    }
    Err(format!("there is no {CONTENT}: the file was broken off"))
}

fn take(envelope: &mut Envelope, name: &str, value: &str) -> Result<(), String> {
    match name {
        MESSAGE => value.clone_into(&mut envelope.name),
        ACCEPTED => {
            let time = value.parse::<Timestamp>();
            let wrong = |_| format!("{ACCEPTED}: expected a time such as 2026-11-24T19:49:19Z");
            envelope.accept_time = Some(time.map_err(wrong)?);
        }
        FROM => mail(envelope, value)?,
        TO => rcpt(envelope, value, State::Queued)?,
        DONE => rcpt(envelope, value, State::Delivered)?,
        CONTENT => content(envelope, value)
            .ok_or_else(|| format!("{CONTENT}: expected size=OCTETS sha256=HEX"))?,
        other => return Err(format!("{other} is no field of an exported message")),
    }
    Ok(())
}

fn grammar() -> Grammar {
    Grammar {
        extensions: Extensions {
            dsn: true,
            smtputf8: true,
            mt_priority: true,
            deliver_by: true,
            ..Extensions::default()
        },
        utf8: true,
        lmtp: false,
    }
}

fn mail(envelope: &mut Envelope, value: &str) -> Result<(), String> {
    let line = format!("MAIL FROM:{value}");
    match Command::parse(line.as_bytes(), &grammar()) {
        Ok(Command::Mail {
            reverse_path,
            parameters,
        }) => {
            envelope.reverse_path = match reverse_path {
                ReversePath::Null => String::new(),
                ReversePath::Mailbox(mailbox) => mailbox.to_string(),
            };
            envelope.smtputf8 = parameters.smtputf8;
            envelope.ret = parameters.ret.map_or("", Ret::encode).to_owned();
            let name = parameters.envelope_id.as_ref().map(EnvelopeId::encode);
            envelope.envelope_id = name.unwrap_or_default();
            envelope.priority = parameters.priority.unwrap_or_default().get().into();
            let by = parameters.deliver_by.map(|by| by.to_string());
            envelope.deliver_by = by.unwrap_or_default();
            Ok(())
        }
        Ok(_) => Err(format!("{FROM}: expected <ADDRESS>")),
        Err(reply) => Err(format!("{FROM}: {}", reply.text())),
    }
}

fn rcpt(envelope: &mut Envelope, value: &str, state: State) -> Result<(), String> {
    let line = format!("RCPT TO:{value}");
    match Command::parse(line.as_bytes(), &grammar()) {
        Ok(Command::Rcpt {
            forward_path,
            parameters,
        }) => {
            let address = forward_path.mailbox().map(Mailbox::to_string);
            let original = parameters.original.as_ref().map(|text| text.encode(false));
            envelope.recipients.push(EnvelopeRecipient {
                address: address.unwrap_or_else(|| "postmaster".to_owned()),
                state: state.into(),
                notify: parameters.notify.map(Notify::encode).unwrap_or_default(),
                original_recipient: original.unwrap_or_default(),
            });
            Ok(())
        }
        Ok(_) => Err(format!("{TO}: expected <ADDRESS>")),
        Err(reply) => Err(format!("{TO}: {}", reply.text())),
    }
}

fn content(envelope: &mut Envelope, value: &str) -> Option<()> {
    let (size, hash) = value.split_once(' ')?;
    envelope.size_bytes = size.strip_prefix("size=")?.parse().ok()?;
    let hash = hash.strip_prefix("sha256=")?.as_bytes();
    let digit = |octet: u8| u8::try_from(char::from(octet).to_digit(16)?).ok();
    if hash.len() != 64 {
        return None;
    }
    let octets = hash
        .chunks(2)
        .map(|two| Some(digit(two[0])? * 16 + digit(two[1])?));
    envelope.sha256 = octets.collect::<Option<_>>()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient(address: &str, notify: &str, original: &str) -> EnvelopeRecipient {
        EnvelopeRecipient {
            address: address.to_owned(),
            state: State::Queued.into(),
            notify: notify.to_owned(),
            original_recipient: original.to_owned(),
        }
    }

    fn full() -> Envelope {
        Envelope {
            name: "messages/0190a5a0-0000-7000-8000-000000000000".to_owned(),
            accept_time: Some(Timestamp {
                seconds: 1_700_000_000,
                nanos: 123_000_000,
            }),
            reverse_path: "\"a b\\\" <c>\"@brånch.example".to_owned(),
            smtputf8: true,
            ret: "HDRS".to_owned(),
            envelope_id: "QQ+2B314+3D".to_owned(),
            priority: -3,
            deliver_by: "-120;NT".to_owned(),
            recipients: vec![
                recipient("bob@remote.example", "SUCCESS,DELAY", "rfc822;bob+2Bx@a.b"),
                recipient("ü@remote.example", "NEVER", "utf-8;\\x{FC}@a.b"),
                recipient("plain@remote.example", "", ""),
            ],
            size_bytes: 7,
            sha256: (0..32).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_the_content_may_be_anything() {
        let null = Envelope {
            reverse_path: String::new(),
            smtputf8: false,
            ret: String::new(),
            envelope_id: String::new(),
            priority: 0,
            deliver_by: String::new(),
            ..full()
        };
        for envelope in [full(), null] {
            for content in [&b""[..], b"\r\nX-Linkmail-Content: no", b"a: \xff\0\n"] {
                let mut file = header(&envelope).into_bytes();
                file.extend_from_slice(content);
                let (read, rest) = read(&file).unwrap().unwrap();
                assert_eq!((&read, rest), (&envelope, content));
            }
        }
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let good = header(&full());
        for (from, to, said) in [
            (
                "BY=-120;NT",
                "BY=soon",
                "line 3: X-Linkmail-Envelope-From: ",
            ),
            (
                "NOTIFY=NEVER",
                "NOTIFY=MAYBE",
                "line 5: X-Linkmail-Envelope-To: ",
            ),
            (
                "2023-",
                "in 2023-",
                "line 2: X-Linkmail-Accepted: expected a time",
            ),
            (
                "sha256=00",
                "sha256=0",
                "line 7: X-Linkmail-Content: expected size=",
            ),
            (
                "X-Linkmail-Content",
                "Subject",
                "line 7: Subject is no field",
            ),
            ("X-Linkmail-Envelope-From: ", "", "line 3: expected a field"),
        ] {
            let wrong = read(good.replace(from, to).as_bytes()).unwrap_err();
            assert!(wrong.starts_with(said), "{wrong}");
        }
        let cut = read(&good.as_bytes()[..80]).unwrap_err();
        assert!(cut.contains("the file was broken off"), "{cut}");
        assert_eq!(read(b"From: a@b.example\n\nplain"), Ok(None));
    }
}
