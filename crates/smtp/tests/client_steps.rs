//! What a transcript cannot show of the client: a body in pieces, replies while it is sent, and long envelopes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use linkmail_smtp::dsn::{EnvelopeId, Notify, OriginalRecipient, Ret};
use linkmail_smtp::{
    BadBody, ClientConfig, ClientPhase, ClientSession, ClientStep, CloseReason, Content, Fault,
    FlightLimits, ForwardPath, PeerId, Recipient, RecipientOutcome, ReversePath, Room, TlsUse,
    Transaction,
};

fn session() -> ClientSession {
    ClientSession::new(config())
}

fn config() -> ClientConfig {
    ClientConfig {
        hostname: "client.test".into(),
        ..ClientConfig::default()
    }
}

fn transaction(recipients: usize) -> Transaction {
    Transaction {
        reverse_path: ReversePath::Null,
        recipients: (0..recipients)
            .map(|number| ForwardPath::parse(format!("r{number}@b.example").as_bytes()).unwrap())
            .map(Recipient::from)
            .collect(),
        size: 100,
        ..Transaction::default()
    }
}

fn written(session: &mut ClientSession) -> String {
    match session.step() {
        ClientStep::Write(bytes) => String::from_utf8(bytes).unwrap(),
        step => panic!("no Write: {step:?}"),
    }
}

/// A session that awaits the body of a message to one recipient.
fn sending() -> ClientSession {
    let mut session = session();
    session.transmit(transaction(1), Content::Streamed);
    session.receive(b"220 s.example\r\n");
    assert_eq!(written(&mut session), "EHLO client.test\r\n");
    session.receive(b"250-s.example\r\n250 PIPELINING\r\n");
    assert_eq!(
        written(&mut session),
        "MAIL FROM:<>\r\nRCPT TO:<r0@b.example>\r\nDATA\r\n"
    );
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(session.step(), ClientStep::SendBody(0));
    session
}

fn outcome(session: &mut ClientSession) -> RecipientOutcome {
    match session.step() {
        ClientStep::Transaction(_, outcome) => outcome.recipients[0].clone(),
        step => panic!("no outcome: {step:?}"),
    }
}

#[test]
fn a_body_goes_out_piece_by_piece() {
    let mut session = sending();
    for (piece, wire) in [(&b".a\r"[..], "..a"), (b"\n", "\r\n"), (b".b", "..b")] {
        session.body(piece).unwrap();
        assert_eq!(written(&mut session), wire);
        assert_eq!(session.step(), ClientStep::SendBody(0));
    }
    session.end_body().unwrap();
    assert_eq!(written(&mut session), "\r\n.\r\n");
    assert_eq!(session.step(), ClientStep::Read(ClientPhase::DataEnd));
}

#[test]
fn a_refusal_while_sending_is_the_outcome() {
    let mut session = sending();
    session.body(b"part\r\n").unwrap();
    session.receive(b"552 5.3.4 too much\r\n");
    assert!(matches!(outcome(&mut session), RecipientOutcome::Refused(reply) if reply.code == 552));
    assert!(matches!(
        session.step(),
        ClientStep::Closed(CloseReason::Refused(_))
    ));
}

#[test]
fn a_session_that_ends_while_sending_leaves_no_doubt() {
    let mut shut_down = sending();
    shut_down.receive(b"421 4.3.2 down\r\n");
    let mut lost = sending();
    lost.end_of_input();
    let mut stalled = sending();
    stalled.time_out();
    for session in [&mut shut_down, &mut lost, &mut stalled] {
        assert!(matches!(outcome(session), RecipientOutcome::NotTried(_)));
        assert!(matches!(session.step(), ClientStep::Closed(_)));
    }
    assert_eq!(
        stalled.step(),
        ClientStep::Closed(CloseReason::TimedOut(ClientPhase::DataBlock))
    );
}

#[test]
fn a_bad_byte_stops_everything_before_it_is_written() {
    let mut session = sending();
    session.body(b"good\r\n").unwrap();
    let bad = BadBody {
        fault: Fault::BareLf,
        offset: 9,
    };
    assert_eq!(session.body(b"bad\nMAIL"), Err(bad));
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::BadBody(_)
    ));
    assert_eq!(
        session.step(),
        ClientStep::Closed(CloseReason::BadBody(bad))
    );
    session.body(b"more").unwrap();
    session.end_body().unwrap();
    assert!(matches!(session.step(), ClientStep::Closed(_)));
}

#[test]
fn an_order_to_a_dead_session_has_its_outcome() {
    let mut session = session();
    assert_eq!(session.closed(), None);
    session.end_of_input();
    assert!(matches!(session.step(), ClientStep::Closed(_)));
    assert_eq!(
        session.closed(),
        Some(&CloseReason::PeerClosed { greeted: false })
    );
    session.transmit(transaction(1), Content::Streamed);
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::NotTried(CloseReason::PeerClosed { greeted: false })
    ));
    assert!(matches!(session.step(), ClientStep::Closed(_)));
}

const CHUNKING: &[u8] = b"250-s.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n";

/// A session that is ready for orders.
fn ready(config: ClientConfig, offer: &[u8]) -> ClientSession {
    let mut session = ClientSession::new(config);
    session.receive(b"220 s.example\r\n");
    written(&mut session);
    session.receive(offer);
    assert_eq!(session.step(), ClientStep::Ready);
    session
}

#[test]
fn a_flight_is_bounded_and_flows_on_with_each_outcome() {
    let flight = FlightLimits {
        messages: 2,
        bytes: 250,
    };
    let room = |messages, bytes| Some(Room { messages, bytes });
    let mut session = ready(ClientConfig { flight, ..config() }, CHUNKING);
    assert_eq!(session.room(), room(2, 250));
    for _ in 0..3 {
        session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
    }
    assert_eq!(session.room(), None);
    let one = "MAIL FROM:<>\r\nRCPT TO:<r0@b.example>\r\nBDAT 3 LAST\r\nx\r\n";
    assert_eq!(written(&mut session), format!("{one}RSET\r\n{one}"));
    assert_eq!(session.step(), ClientStep::Read(ClientPhase::Mail));
    session.receive(b"250 ok\r\n250 ok\r\n250 taken\r\n");
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::Accepted(_)
    ));
    assert_eq!(written(&mut session), format!("RSET\r\n{one}"));
    session.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n250 taken\r\n");
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::Accepted(_)
    ));
    assert_eq!(session.room(), room(1, 150));
}

#[test]
fn a_session_takes_as_many_messages_as_the_server_limits_it_to() {
    let offer = b"250-s.example\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=5 MAILMAX=2\r\n";
    let mut session = ready(config(), offer);
    assert_eq!(session.room().map(|room| room.messages), Some(2));
    for left in [Some(1), None] {
        session.transmit(transaction(1), Content::Streamed);
        assert_eq!(session.room().map(|room| room.messages), left);
    }
    written(&mut session);
    assert!(!session.is_exhausted(), "the second waits for the first");
    let limits = session.capabilities().unwrap().limits;
    assert_eq!((limits.rcpt_max, limits.mail_max), (Some(5), Some(2)));
}

#[test]
fn nothing_is_said_in_clear_when_tls_is_required() {
    let tls = TlsUse::Required;
    for (offer, said) in [
        (
            &b"250-s.example\r\n250 AUTH PLAIN\r\n"[..],
            "STARTTLS is required and not offered",
        ),
        (
            b"250-s.example\r\n250 STARTTLS\r\n",
            "STARTTLS is required and was refused: 454 no",
        ),
    ] {
        let mut session = ClientSession::new(ClientConfig {
            tls,
            authenticate: true,
            ..config()
        });
        session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
        session.receive(b"220 s.example\r\n");
        assert_eq!(written(&mut session), "EHLO client.test\r\n");
        session.receive(offer);
        if said.contains("refused") {
            assert_eq!(written(&mut session), "STARTTLS\r\n");
            session.receive(b"454 no\r\n");
        }
        assert!(matches!(
            outcome(&mut session),
            RecipientOutcome::NotTried(_)
        ));
        match session.step() {
            ClientStep::Closed(reason) => assert_eq!(reason.to_string(), said),
            step => panic!("open: {step:?}"),
        }
    }
}

#[test]
fn what_was_said_before_tls_is_forgotten_and_what_was_injected_ends_the_session() {
    let starting = || {
        let mut session = ClientSession::new(ClientConfig {
            tls: TlsUse::IfOffered,
            ..config()
        });
        session.receive(b"220 s.example\r\n");
        written(&mut session);
        session.receive(b"250-s.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
        assert_eq!(written(&mut session), "STARTTLS\r\n");
        session
    };
    let mut good = starting();
    good.receive(b"220 go\r\n");
    assert_eq!(good.step(), ClientStep::StartTls);
    good.tls_started();
    assert_eq!((good.is_encrypted(), good.capabilities()), (true, None));
    assert_eq!(written(&mut good), "EHLO client.test\r\n");
    let mut injected = starting();
    injected.receive(b"220 go\r\n250-EVIL\r\n250 PIPELINING\r\n");
    assert!(matches!(
        injected.step(),
        ClientStep::Closed(CloseReason::Protocol(_))
    ));
    // What comes while the shell makes the handshake, told before or after it, or cut in the middle of a line.
    for (octets, tells_after) in [
        (&b"250-EVIL\r\n"[..], false),
        (b"250 EVIL\r\n", true),
        (b"250-EVIL\r\n", true),
        (b"25", true),
    ] {
        let mut injected = starting();
        injected.receive(b"220 go\r\n");
        assert_eq!(injected.step(), ClientStep::StartTls);
        injected.receive(octets);
        if tells_after {
            injected.tls_started();
            injected.receive(b"250 s.example\r\n");
        }
        let ClientStep::Closed(CloseReason::Protocol(what)) = injected.step() else {
            panic!("{octets:?} {tells_after}");
        };
        assert_eq!(what, "octets in clear behind the answer to STARTTLS");
    }
}

#[test]
fn a_login_asks_the_shell_and_hides_what_it_says() {
    let mut session = ClientSession::new(ClientConfig {
        authenticate: true,
        ..config()
    });
    session.receive(b"220 s.example\r\n");
    written(&mut session);
    session.receive(b"250-s.example\r\n250 AUTH login Cram-MD5\r\n");
    assert_eq!(session.step(), ClientStep::Authenticate);
    let offered = session.capabilities().unwrap().auth.clone();
    assert_eq!(offered, ["LOGIN", "CRAM-MD5"]);
    session.auth("CRAM-MD5", None);
    let secret = |session: &mut ClientSession| match session.step() {
        ClientStep::WriteSecret(bytes) => String::from_utf8(bytes).unwrap(),
        step => panic!("not a secret: {step:?}"),
    };
    assert_eq!(secret(&mut session), "AUTH CRAM-MD5\r\n");
    assert_eq!(session.step(), ClientStep::Read(ClientPhase::Auth));
    session.receive(b"334 PDE+\r\n");
    assert_eq!(session.step(), ClientStep::AuthChallenge(b"<1>".to_vec()));
    session.auth_response(b"me 0f");
    assert_eq!(secret(&mut session), "bWUgMGY=\r\n");
    session.receive(b"235 2.7.0 welcome\r\n");
    assert_eq!(session.step(), ClientStep::Authenticated);
    assert_eq!(session.step(), ClientStep::Ready);
}

#[test]
fn a_long_initial_response_waits_for_an_empty_challenge() {
    let said = |octets: usize, challenge: &[u8]| {
        let mut session = ClientSession::new(ClientConfig {
            authenticate: true,
            ..config()
        });
        session.receive(b"220 s.example\r\n");
        written(&mut session);
        session.receive(b"250-s.example\r\n250 AUTH XOAUTH2\r\n");
        assert_eq!(session.step(), ClientStep::Authenticate);
        session.auth("XOAUTH2", Some(&vec![b'x'; octets]));
        let ClientStep::WriteSecret(first) = session.step() else {
            panic!("no AUTH");
        };
        assert_eq!(session.step(), ClientStep::Read(ClientPhase::Auth));
        session.receive(challenge);
        (first, session.step())
    };
    // "AUTH XOAUTH2 " and CRLF leave 497 octets, which base64 fills up to 496 of.
    let (fits, _) = said(372, b"235 welcome\r\n");
    assert_eq!(fits.len(), 511);
    let (alone, answer) = said(373, b"334 \r\n");
    assert_eq!(alone, b"AUTH XOAUTH2\r\n");
    let ClientStep::WriteSecret(answer) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(answer.len(), 500 + 2);
    assert!(answer.starts_with(b"eHh4eHh4") && answer.ends_with(b"==\r\n"));
    let (_, wrong) = said(373, b"334 eA==\r\n");
    assert!(matches!(
        wrong,
        ClientStep::Closed(CloseReason::Protocol(_))
    ));
    let (_, challenge) = said(372, b"334 eA==\r\n");
    assert_eq!(challenge, ClientStep::AuthChallenge(b"x".to_vec()));
}

#[test]
fn a_large_message_waits_for_its_envelope_and_the_next_one_for_its_end() {
    let mut session = ready(config(), CHUNKING);
    session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
    session.transmit(transaction(1), Content::Streamed);
    session.transmit(transaction(1), Content::Whole(b"y\r\n".to_vec()));
    let envelope = "MAIL FROM:<>\r\nRCPT TO:<r0@b.example>\r\n";
    assert_eq!(
        written(&mut session),
        format!("{envelope}BDAT 3 LAST\r\nx\r\nRSET\r\n{envelope}")
    );
    session.receive(&b"250 ok\r\n".repeat(5));
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::Accepted(_)
    ));
    assert_eq!(session.step(), ClientStep::Read(ClientPhase::Recipient));
    session.receive(b"250 ok\r\n");
    assert_eq!(session.step(), ClientStep::SendBody(1));
    session.body(b"large").unwrap();
    assert_eq!(written(&mut session), "BDAT 5\r\nlarge");
    assert_eq!(session.step(), ClientStep::SendBody(1));
    session.end_body().unwrap();
    assert_eq!(
        written(&mut session),
        format!("BDAT 2 LAST\r\n\r\nRSET\r\n{envelope}BDAT 3 LAST\r\ny\r\n")
    );
    session.receive(b"452 4.3.1 no room\r\n503 5.5.1 no\r\n");
    assert!(matches!(outcome(&mut session), RecipientOutcome::Refused(reply) if reply.code == 452));
    session.receive(&b"250 ok\r\n".repeat(4));
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::Accepted(_)
    ));
}

#[test]
fn a_bad_octet_in_a_chunk_ends_the_message_and_not_the_session() {
    let mut session = ready(config(), CHUNKING);
    session.transmit(transaction(1), Content::Whole(b"bare\nline".to_vec()));
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::BadBody(_)
    ));
    session.transmit(transaction(1), Content::Streamed);
    written(&mut session);
    session.receive(b"250 ok\r\n250 ok\r\n");
    assert_eq!(session.step(), ClientStep::SendBody(1));
    assert!(session.body(b"bare\rline").is_err());
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::BadBody(_)
    ));
    session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
    assert!(written(&mut session).starts_with("RSET\r\nMAIL"));
}

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

#[test]
fn so_many_domains_are_taken_in_a_session() {
    let to = |domains: &[&str]| Transaction {
        recipients: domains
            .iter()
            .map(|domain| ForwardPath::parse(format!("r@{domain}").as_bytes()).unwrap())
            .map(Recipient::from)
            .collect(),
        ..transaction(1)
    };
    let mut free = ready(config(), CHUNKING);
    free.transmit(to(&["a.example"]), Content::Streamed);
    assert!(free.takes_domains_of(&to(&["b.example", "c.example"])));
    let offer = b"250-s.example\r\n250 LIMITS RCPTDOMAINMAX=2\r\n";
    let mut bound = ready(config(), offer);
    assert!(!bound.takes_domains_of(&to(&["a.example", "b.example", "c.example"])));
    assert!(bound.takes_domains_of(&to(&["a.example", "b.example", "A.example"])));
    bound.transmit(to(&["a.example"]), Content::Streamed);
    assert!(bound.takes_domains_of(&to(&["A.example", "b.example"])));
    assert!(!bound.takes_domains_of(&to(&["b.example", "c.example"])));
    bound.transmit(to(&["b.example"]), Content::Streamed);
    assert!(bound.takes_domains_of(&to(&["b.example", "a.example"])));
    assert!(!bound.takes_domains_of(&to(&["c.example"])));
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

#[test]
fn what_was_not_written_is_not_in_doubt() {
    let mut session = ready(config(), CHUNKING);
    for _ in 0..3 {
        session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
    }
    let flight = written(&mut session);
    let one = flight.len() - 2 * ("RSET\r\n".len() + flight.find("RSET").unwrap());
    assert!(flight[one..].starts_with("RSET"));
    // All of the first message and a part of the second reached the kernel.
    session.not_written(flight.len() - one - 20);
    session.end_of_input();
    let first = outcome(&mut session);
    assert_eq!(first, RecipientOutcome::InDoubt);
    for _ in 0..2 {
        assert!(matches!(
            outcome(&mut session),
            RecipientOutcome::NotTried(_)
        ));
    }
}

#[test]
fn a_refusal_of_the_last_flight_says_nothing_about_this_one() {
    let mut session = ready(config(), CHUNKING);
    session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
    written(&mut session);
    session.receive(b"250 ok\r\n550 no\r\n503 no\r\n");
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::Refused(_)
    ));
    session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
    written(&mut session);
    session.end_of_input();
    assert_eq!(outcome(&mut session), RecipientOutcome::InDoubt);
}
