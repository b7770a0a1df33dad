//! Many messages in flight, and what bounds them.

use super::*;

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
