//! Command lines that are read, and the reply to each mistake.

use super::*;

const PLAIN: Grammar = Grammar {
    extensions: Extensions {
        chunking: false,
        dsn: false,
        smtputf8: false,
        etrn: true,
        starttls: false,
        auth: false,
        mt_priority: false,
        deliver_by: false,
        xlinkmail: false,
    },
    utf8: false,
    lmtp: false,
};
const ALL: Grammar = Grammar {
    extensions: Extensions::ALL,
    ..PLAIN
};

fn parse(line: &str) -> Result<Command, Reply> {
    Command::parse(line.as_bytes(), &PLAIN)
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
                eight_bit: true,
                ..MailParameters::default()
            },
        }
    );
    assert_eq!(
        parse("RCPT TO:<\"a > b\"@c.example>"),
        Ok(Command::Rcpt {
            forward_path: ForwardPath::parse(b"\"a > b\"@c.example").unwrap(),
            parameters: RcptParameters::default(),
        })
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
        ("AUTH PLAIN", "502 5.5.1"),
        ("LHLO a.example", "500 5.5.1"),
        ("BDAT 10 LAST", "521 5.5.1"),
        ("GET / HTTP/1.1", "521 5.5.1"),
    ] {
        let reply = parse(line).unwrap_err();
        assert!(reply.to_string().starts_with(start), "{line}: {reply}");
    }
}

#[test]
fn a_chunk_says_its_size_or_ends_the_session() {
    let parse = |line: &str| Command::parse(line.as_bytes(), &ALL);
    let bdat = |size, last| Ok(Command::Bdat { size, last });
    assert_eq!(parse("BDAT 0"), bdat(0, false));
    assert_eq!(
        parse("bdat 18446744073709551615  last "),
        bdat(u64::MAX, true)
    );
    for line in [
        "BDAT",
        "BDAT LAST",
        "BDAT 1 FIRST",
        "BDAT 1 LAST x",
        "BDAT -1",
        "BDAT +1",
        "BDAT 0x10",
        "BDAT 18446744073709551616",
    ] {
        let reply = parse(line).unwrap_err();
        assert!(reply.closes(), "{line}: {reply}");
    }
}

#[test]
fn auth_names_a_mechanism_and_may_bring_a_response() {
    let parse = |line: &str| Command::parse(line.as_bytes(), &ALL);
    let auth = |initial: Option<&[u8]>| {
        Ok(Command::Auth {
            mechanism: "PLAIN".into(),
            initial: initial.map(<[u8]>::to_vec),
        })
    };
    assert_eq!(parse("AUTH plain"), auth(None));
    assert_eq!(parse("AUTH PLAIN ="), auth(Some(b"")));
    assert_eq!(parse("AUTH PLAIN AGEAYg=="), auth(Some(b"\0a\0b")));
    for (line, start) in [
        ("AUTH", "501 5.5.4"),
        ("AUTH PL*IN", "501 5.5.4"),
        ("AUTH PLAIN-WITH-A-LONG-NAME", "501 5.5.4"),
        ("AUTH PLAIN AGEAYg== x", "501 5.5.4"),
        ("AUTH PLAIN AGEAYg", "501 5.5.2"),
        ("STARTTLS now", "501 5.5.4"),
    ] {
        let reply = parse(line).unwrap_err();
        assert!(reply.to_string().starts_with(start), "{line}: {reply}");
    }
}

#[test]
fn lmtp_has_a_hello_of_its_own_and_utf8_must_be_asked_for() {
    let lmtp = Grammar { lmtp: true, ..ALL };
    assert!(matches!(
        Command::parse(b"LHLO a.example", &lmtp),
        Ok(Command::Ehlo(_))
    ));
    for line in [&b"EHLO a.example"[..], b"HELO a.example"] {
        assert_eq!(Command::parse(line, &lmtp).unwrap_err().code, 500);
    }
    let utf8 = Grammar { utf8: true, ..ALL };
    let rcpt = "RCPT TO:<\u{e9}@b.example>";
    assert_eq!(Command::parse(rcpt.as_bytes(), &ALL).unwrap_err().code, 553);
    assert!(Command::parse(rcpt.as_bytes(), &utf8).is_ok());
    let mail = "MAIL FROM:<\u{e9}@b.example>";
    assert_eq!(Command::parse(mail.as_bytes(), &ALL).unwrap_err().code, 553);
    assert!(Command::parse(format!("{mail} SMTPUTF8").as_bytes(), &ALL).is_ok());
}
