//! What a transcript cannot show of the client.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod envelopes;
mod flights;
mod security;
mod steps;

use linkmail_smtp::dsn::{EnvelopeId, Notify, OriginalRecipient, Ret};
use linkmail_smtp::{
    BadBody, ClientConfig, ClientPhase, ClientSession, ClientStep, CloseReason, Content, DeliverBy,
    Fault, FlightLimits, ForwardPath, PeerId, Recipient, RecipientOutcome, ReversePath, Room,
    TlsUse, Transaction,
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
