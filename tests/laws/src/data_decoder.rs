//! Laws of message data: the decoder and the encoder do what the plain reference does, and undo each other.
//!
//! An input: three octets for the sizes of pieces, then data from the wire; it is also taken as a message to be sent.

use linkmail_smtp::data::{DataState, TextCheck};
use linkmail_smtp::{BadBody, DataDecoder, DataEncoder};

use crate::input::{Input, cut, shown};
use crate::reference::{self, Data};

/// The laws, over one input.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let sizes = input.octets(3);
    let wire = input.rest();
    let expected = reference::decode(wire);
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    for pieces in [vec![wire], cut(wire, sizes), bytes] {
        assert_eq!(decode(&pieces), expected, "decoding {}", shown(wire));
    }
    assert_eq!(
        reference::fault(&expected.body),
        None,
        "given out of {}",
        shown(wire)
    );
    sent(wire, sizes);
    if expected.fault.is_none() {
        sent(&expected.body, sizes);
    }
}

fn decode(pieces: &[&[u8]]) -> Data {
    let mut decoder = DataDecoder::new();
    let mut data = Data {
        body: Vec::new(),
        consumed: 0,
        state: DataState::Open,
        fault: None,
    };
    for piece in pieces {
        let before = data.body.len();
        let decoded = decoder.decode(piece, &mut data.body);
        assert!(decoded.consumed <= piece.len());
        // One octet may have been held back from the piece before: a CR.
        assert!(data.body.len() - before <= decoded.consumed + 1);
        data.consumed += decoded.consumed;
        data.state = decoded.state;
        if decoded.state != DataState::Open {
            let again = decoder.decode(b"QUIT\r\n", &mut data.body);
            assert_eq!((again.consumed, again.state), (0, decoded.state));
            break;
        }
        assert_eq!(decoded.consumed, piece.len());
    }
    data.fault = decoder.fault();
    data
}

/// A message is sent whole and safe, or not beyond its first bad octet.
fn sent(message: &[u8], sizes: &[u8]) {
    let fault = reference::fault(message);
    let whole = encode(&[message]);
    for pieces in [cut(message, sizes), message.chunks(1).collect()] {
        assert_eq!(encode(&pieces), whole, "encoding {}", shown(message));
        let named = text(&pieces)
            .err()
            .map(|bad| (bad.fault, bad.offset as usize));
        assert_eq!(named, fault, "text {}", shown(message));
    }
    match (whole, fault) {
        ((wire, Ok(())), None) => {
            assert_eq!(wire, reference::encode(message));
            let data = decode(&[&wire, b"QUIT\r\n"]);
            assert_eq!(data.body, reference::ended(message));
            assert_eq!((data.consumed, data.state), (wire.len(), DataState::Ended));
            assert_eq!(data.fault, None);
        }
        ((wire, Err(bad)), Some((fault, at))) => {
            assert_eq!((bad.fault, bad.offset), (fault, at as u64));
            let good = reference::encode(&message[..at]);
            assert!(good.starts_with(&wire), "sent {}", shown(&wire));
            assert_ne!(reference::decode(&wire).state, DataState::Ended);
        }
        (got, fault) => panic!("{got:?} of a message with {fault:?}"),
    }
}

fn encode(pieces: &[&[u8]]) -> (Vec<u8>, Result<(), BadBody>) {
    let mut encoder = DataEncoder::new();
    let mut wire = Vec::new();
    for piece in pieces {
        if let Err(bad) = encoder.encode(piece, &mut wire) {
            return (wire, Err(bad));
        }
    }
    let end = encoder.finish(&mut wire);
    (wire, end)
}

fn text(pieces: &[&[u8]]) -> Result<(), BadBody> {
    let mut check = TextCheck::new();
    for piece in pieces {
        check.feed(piece)?;
    }
    check.finish()
}
