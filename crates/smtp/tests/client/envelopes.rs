//! What goes with MAIL and RCPT.

use super::*;

#[test]
fn what_the_sender_asked_for_is_passed_on_where_it_is_offered() {
    let asked = Transaction {
        recipients: vec![Recipient {
            notify: Notify::parse(b"SUCCESS,DELAY"),
            original: OriginalRecipient::parse(b"rfc822;r+2B0@b.example", false),
            ..transaction(1).recipients[0].clone()
        }],
        ret: Some(Ret::Headers),
        envelope_id: EnvelopeId::new("a b"),
        peer_id: PeerId::parse(b"0193a5c0-4b7e-7c3a-9f00-00000000002a"),
        ..transaction(1)
    };
    for (offer, mail, rcpt) in [
        (&b"250-s.example\r\n250 PIPELINING\r\n"[..], "", ""),
        (
            b"250-s.example\r\n250-PIPELINING\r\n250-DSN\r\n250 XLINKMAIL\r\n",
            " RET=HDRS ENVID=a+20b XLMID=0193a5c0-4b7e-7c3a-9f00-00000000002a",
            " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;r+2B0@b.example",
        ),
    ] {
        let mut session = ready(config(), offer);
        session.transmit(asked.clone(), Content::Streamed);
        assert_eq!(
            written(&mut session),
            format!("MAIL FROM:<>{mail}\r\nRCPT TO:<r0@b.example>{rcpt}\r\nDATA\r\n")
        );
    }
}

/// The id is sent where it is looked at: `XLINKMAIL` says that it is, `XLINKMAIL AUTH` that it will be behind a login.
#[test]
fn an_id_is_sent_to_who_looks_at_it() {
    let asked = Transaction {
        peer_id: PeerId::parse(b"0193a5c0-4b7e-7c3a-9f00-00000000002a"),
        ..transaction(1)
    };
    for (offer, logs_in, is_sent) in [
        ("PIPELINING", true, false),
        ("XLINKMAIL", false, true),
        ("XLINKMAIL", true, true),
        ("XLINKMAIL AUTH", false, false),
        ("xlinkmail auth", true, true),
    ] {
        let mut session = ClientSession::new(ClientConfig {
            authenticate: logs_in,
            ..config()
        });
        session.receive(b"220 s.example\r\n");
        written(&mut session);
        session.receive(format!("250-s.example\r\n250-AUTH PLAIN\r\n250 {offer}\r\n").as_bytes());
        if logs_in {
            assert_eq!(session.step(), ClientStep::Authenticate);
            session.auth("PLAIN", Some(b"\0a\0b"));
            assert!(matches!(session.step(), ClientStep::WriteSecret(_)));
            session.receive(b"235 2.7.0 welcome\r\n");
            assert_eq!(session.step(), ClientStep::Authenticated);
        }
        assert_eq!(session.step(), ClientStep::Ready);
        session.transmit(asked.clone(), Content::Streamed);
        let mail = written(&mut session);
        assert_eq!(
            mail.contains(" XLMID="),
            is_sent,
            "{offer} {logs_in}: {mail}"
        );
    }
}

#[test]
fn smtputf8_is_used_where_it_is_needed_and_offered() {
    let to = |text: &str| Recipient::from(ForwardPath::parse_utf8(text.as_bytes()).unwrap());
    let odd = to("j\u{f6}rg@b.example");
    let mixed = Transaction {
        recipients: vec![odd.clone(), to("a@b.example")],
        ..transaction(1)
    };
    let offers = b"250-s.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n";
    let mut able = ready(config(), offers);
    able.transmit(mixed.clone(), Content::Streamed);
    assert_eq!(
        written(&mut able),
        "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<j\u{f6}rg@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"
    );
    let mut plain = ready(config(), offers);
    plain.transmit(transaction(1), Content::Streamed);
    assert!(written(&mut plain).starts_with("MAIL FROM:<>\r\n"));
    // Without it, who can be named is named, and the rest is refused in the server's place.
    let refused = |outcome: &RecipientOutcome| matches!(outcome, RecipientOutcome::Refused(reply) if reply.to_string().starts_with("553 5.6.7"));
    let mut unable = ready(config(), CHUNKING);
    unable.transmit(mixed, Content::Whole(b"x\r\n".to_vec()));
    assert_eq!(
        written(&mut unable),
        "MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 3 LAST\r\nx\r\n"
    );
    unable.receive(b"250 ok\r\n250 ok\r\n250 taken\r\n");
    match unable.step() {
        ClientStep::Transaction(0, outcome) => {
            assert!(refused(&outcome.recipients[0]));
            assert!(matches!(
                outcome.recipients[1],
                RecipientOutcome::Accepted(_)
            ));
        }
        step => panic!("no outcome: {step:?}"),
    }
    for hopeless in [
        Transaction {
            recipients: vec![odd],
            ..transaction(1)
        },
        Transaction {
            utf8_header: true,
            ..transaction(1)
        },
    ] {
        unable.transmit(hopeless, Content::Streamed);
        assert!(refused(&outcome(&mut unable)));
    }
    assert_eq!(unable.step(), ClientStep::Ready);
}

/// A sender who wants to know that a message is late hears it by DELAY from who does not know its time (RFC 2852 4.1.4.2).
#[test]
fn delay_is_asked_for_where_the_time_of_delivery_is_not_known() {
    for (by, offer, asked, sent) in [
        ("60;N", "DSN", "", " NOTIFY=FAILURE,DELAY"),
        ("60;N", "DSN", "FAILURE", " NOTIFY=FAILURE,DELAY"),
        ("60;N", "DSN", "SUCCESS", " NOTIFY=SUCCESS,DELAY"),
        ("60;N", "DSN", "NEVER", " NOTIFY=NEVER"),
        ("60;N", "DSN\r\n250-DELIVERBY", "", ""),
        ("60;N", "DSN\r\n250-DELIVERBY", "FAILURE", " NOTIFY=FAILURE"),
        ("60;N", "ETRN", "FAILURE", ""),
    ] {
        let mut session = ready(
            config(),
            format!("250-s.example\r\n250-PIPELINING\r\n250-{offer}\r\n250 SIZE\r\n").as_bytes(),
        );
        session.transmit(
            Transaction {
                recipients: vec![Recipient {
                    notify: Notify::parse(asked.as_bytes()),
                    ..transaction(1).recipients[0].clone()
                }],
                deliver_by: DeliverBy::parse(by.as_bytes()),
                ..transaction(1)
            },
            Content::Streamed,
        );
        let said = written(&mut session);
        let rcpt = said.lines().nth(1).unwrap();
        assert_eq!(
            rcpt,
            format!("RCPT TO:<r0@b.example>{sent}"),
            "{by} {offer} {asked}"
        );
    }
}
