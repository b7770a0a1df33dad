//! A body in pieces, and replies while it is sent.

use super::*;

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
