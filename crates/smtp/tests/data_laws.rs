//! Laws of message data: the pieces do not matter, stuffing is undone by unstuffing, nothing unsafe is ever emitted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use linkmail_smtp::data::DataState;
use linkmail_smtp::{BadBody, DataDecoder, DataEncoder, Fault};
use proptest::prelude::*;

/// Bytes in which line ends, dots and faults are frequent.
fn tricky(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(b'\r'), 4 => Just(b'\n'), 4 => Just(b'.'), 3 => Just(b'a'), 1 => Just(0_u8), 1 => any::<u8>(),
    ];
    let word = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r\n.".to_vec()),
        Just(b"text".to_vec()),
        byte.prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(word, 0..max).prop_map(|words| words.concat())
}

/// A message that may be sent: lines of anything but CR, LF and NUL, ended by CRLF.
fn good_body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => Just(b'.'),
        5 => any::<u8>().prop_filter("text", |byte| !matches!(byte, 0 | b'\r' | b'\n')),
    ];
    let line = prop::collection::vec(byte, 0..6);
    prop::collection::vec(line, 0..12).prop_map(|lines| {
        lines
            .iter()
            .flat_map(|line| [line, b"\r\n".as_slice()].concat())
            .collect()
    })
}

/// Cuts `bytes` at the given places, taken modulo its length.
fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.sort_unstable();
    places.push(bytes.len());
    let mut start = 0;
    places
        .into_iter()
        .map(|end| {
            let piece = &bytes[start..end];
            start = end;
            piece
        })
        .collect()
}

fn decode(pieces: &[&[u8]]) -> (Vec<u8>, usize, DataState, Option<Fault>) {
    let mut decoder = DataDecoder::new();
    let mut out = Vec::new();
    let mut total = 0;
    let mut state = DataState::Open;
    for piece in pieces {
        let decoded = decoder.decode(piece, &mut out);
        total += decoded.consumed;
        state = decoded.state;
        if state != DataState::Open {
            break;
        }
    }
    (out, total, state, decoder.fault())
}

fn encode(pieces: &[&[u8]]) -> (Vec<u8>, Result<(), BadBody>) {
    let mut encoder = DataEncoder::new();
    let mut out = Vec::new();
    for piece in pieces {
        if let Err(bad) = encoder.encode(piece, &mut out) {
            return (out, Err(bad));
        }
    }
    let end = encoder.finish(&mut out);
    (out, end)
}

/// The rule in one sentence, without a state machine: data ends at the first CRLF.CRLF, its own CRLF before it included.
fn first_honest_end(wire: &[u8]) -> Option<usize> {
    let framed = [b"\r\n", wire].concat();
    framed
        .windows(5)
        .position(|window| window == b"\r\n.\r\n")
        .map(|at| at + 3)
}

fn is_clean(bytes: &[u8]) -> bool {
    let text = bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>();
    let (last, lines) = text.split_last().expect("split gives one part at least");
    let clean = |part: &[u8]| !part.contains(&0) && !part.contains(&b'\r');
    lines
        .iter()
        .all(|line| line.strip_suffix(b"\r").is_some_and(clean))
        && clean(last)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_does_not_depend_on_the_pieces(wire in tricky(40), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let whole = decode(&[&wire]);
        prop_assert_eq!(&whole, &decode(&cut(&wire, &cuts)));
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        prop_assert_eq!(&whole, &decode(&bytes));
    }

    #[test]
    fn encoding_does_not_depend_on_the_pieces(body in tricky(40), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let whole = encode(&[&body]);
        prop_assert_eq!(&whole, &encode(&cut(&body, &cuts)));
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        prop_assert_eq!(&whole, &encode(&bytes));
    }

    #[test]
    fn data_ends_at_the_first_honest_end_or_earlier_by_refusal(wire in tricky(40)) {
        let (out, consumed, state, _) = decode(&[&wire]);
        let honest = first_honest_end(&wire);
        match state {
            DataState::Ended => prop_assert_eq!(Some(consumed), honest),
            DataState::Malformed => prop_assert!(honest.is_none_or(|honest| consumed <= honest)),
            DataState::Open => prop_assert_eq!(honest, None),
        }
        prop_assert!(is_clean(&out) || state == DataState::Open);
    }

    #[test]
    fn unstuffing_undoes_stuffing(body in good_body(), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let (wire, end) = encode(&cut(&body, &cuts));
        prop_assert_eq!(end, Ok(()));
        let follow = [wire.as_slice(), b"MAIL FROM:<>\r\n"].concat();
        prop_assert_eq!(decode(&[&follow]), (body, wire.len(), DataState::Ended, None));
    }

    #[test]
    fn the_encoder_never_emits_a_bare_newline_or_an_early_end(body in tricky(40)) {
        let (wire, end) = encode(&[&body]);
        match end {
            Ok(()) => {
                prop_assert!(is_clean(&wire));
                prop_assert_eq!(first_honest_end(&wire), Some(wire.len()));
            }
            Err(bad) => {
                prop_assert_eq!(first_honest_end(&wire), None);
                prop_assert!(is_clean(&wire));
                let (good, at) = body.split_at(bad.offset as usize);
                prop_assert!(is_clean(good));
                let named = match bad.fault { Fault::BareCr => b'\r', Fault::BareLf => b'\n', Fault::Nul => 0 };
                prop_assert_eq!(at.first(), Some(&named));
            }
        }
    }
}
