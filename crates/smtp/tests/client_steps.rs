//! What a transcript cannot show of the client: a body in pieces, replies while it is sent, and long envelopes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use linkmail_smtp::{
    BadBody, ClientPhase, ClientSession, ClientStep, CloseReason, Fault, ForwardPath,
    RecipientOutcome, ReversePath, Transaction,
};

fn transaction(recipients: usize) -> Transaction {
    Transaction {
        reverse_path: ReversePath::Null,
        recipients: (0..recipients)
            .map(|number| ForwardPath::parse(format!("r{number}@b.example").as_bytes()).unwrap())
            .collect(),
        size: 100,
        eight_bit: false,
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
    let mut session = ClientSession::new("client.test".into());
    session.transmit(transaction(1));
    session.receive(b"220 s.example\r\n");
    assert_eq!(written(&mut session), "EHLO client.test\r\n");
    session.receive(b"250-s.example\r\n250 PIPELINING\r\n");
    assert_eq!(
        written(&mut session),
        "MAIL FROM:<>\r\nRCPT TO:<r0@b.example>\r\nDATA\r\n"
    );
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(session.step(), ClientStep::SendBody);
    session
}

fn outcome(session: &mut ClientSession) -> RecipientOutcome {
    match session.step() {
        ClientStep::Transaction(outcome) => outcome.recipients[0].clone(),
        step => panic!("no outcome: {step:?}"),
    }
}

#[test]
fn a_body_goes_out_piece_by_piece() {
    let mut session = sending();
    for (piece, wire) in [(&b".a\r"[..], "..a"), (b"\n", "\r\n"), (b".b", "..b")] {
        session.body(piece).unwrap();
        assert_eq!(written(&mut session), wire);
        assert_eq!(session.step(), ClientStep::SendBody);
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
    assert_eq!(written(&mut session), "part\r\n");
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
        RecipientOutcome::NotTried(CloseReason::BadBody(_))
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
fn a_long_envelope_goes_out_in_groups() {
    let mut session = ClientSession::new("client.test".into());
    session.transmit(transaction(250));
    session.receive(b"220 s.example\r\n");
    written(&mut session);
    session.receive(b"250-s.example\r\n250 PIPELINING\r\n");
    let mut sizes = Vec::new();
    while let ClientStep::Write(bytes) = session.step() {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let ends_in_data = bytes.ends_with(b"DATA\r\n");
        sizes.push(lines);
        session.receive(&b"250 ok\r\n".repeat(lines - usize::from(ends_in_data)));
        if ends_in_data {
            session.receive(b"354 go\r\n");
        }
    }
    assert_eq!(sizes, [100, 100, 52]);
    assert_eq!(session.step(), ClientStep::SendBody);
}

#[test]
fn an_order_to_a_dead_session_has_its_outcome() {
    let mut session = ClientSession::new("client.test".into());
    assert_eq!(session.closed(), None);
    session.end_of_input();
    assert!(matches!(session.step(), ClientStep::Closed(_)));
    assert_eq!(
        session.closed(),
        Some(&CloseReason::PeerClosed { greeted: false })
    );
    session.transmit(transaction(1));
    assert!(matches!(
        outcome(&mut session),
        RecipientOutcome::NotTried(CloseReason::PeerClosed { greeted: false })
    ));
    assert!(matches!(session.step(), ClientStep::Closed(_)));
}
