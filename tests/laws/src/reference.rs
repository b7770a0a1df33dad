//! Message data read and written the plain way: line by line over the whole of it, without states.
//!
//! It says what `linkmail_smtp::data` must do: only CRLF.CRLF ends data, a lone dot between any other newlines is a
//! malformed end, and from the first octet on that may not be in a message nothing is given out.

use linkmail_smtp::Fault;
use linkmail_smtp::data::DataState;

/// What data holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Data {
    /// The message, up to the first fault.
    pub body: Vec<u8>,
    /// Octets that belong to it.
    pub consumed: usize,
    /// Where it stands.
    pub state: DataState,
    /// The first octet that may not be in a message.
    pub fault: Option<Fault>,
}

impl Data {
    fn push(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.body.extend_from_slice(bytes);
        }
    }

    fn end(mut self, consumed: usize, state: DataState) -> Data {
        self.consumed = consumed;
        self.state = state;
        self
    }
}

/// How a line ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newline {
    Crlf,
    Bare(Fault),
}

/// The newline at the start of `rest`, and its length; nothing while it cannot be told.
fn newline(rest: &[u8]) -> Option<(Newline, usize)> {
    match rest {
        [b'\n', ..] => Some((Newline::Bare(Fault::BareLf), 1)),
        [b'\r', b'\n', ..] => Some((Newline::Crlf, 2)),
        [b'\r', _, ..] => Some((Newline::Bare(Fault::BareCr), 1)),
        _ => None,
    }
}

/// Reads what follows DATA's own CRLF.
pub fn decode(wire: &[u8]) -> Data {
    let mut data = Data {
        body: Vec::new(),
        consumed: 0,
        state: DataState::Open,
        fault: None,
    };
    let mut at = 0;
    let mut behind_crlf = true;
    loop {
        let rest = &wire[at..];
        let is_newline = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let length = rest.iter().position(is_newline).unwrap_or(rest.len());
        let line = &rest[..length];
        let end = newline(&rest[length..]);
        if line == b"." {
            match end {
                None => return data.end(wire.len(), DataState::Open),
                Some((Newline::Crlf, _)) if behind_crlf => {
                    return data.end(at + 3, DataState::Ended);
                }
                Some((Newline::Bare(Fault::BareLf), _)) => {
                    return data.end(at + 2, DataState::Malformed);
                }
                // A CR behind the dot is told from an honest end by the octet behind it.
                Some(_) => return data.end(at + 3, DataState::Malformed),
            }
        }
        text(line.strip_prefix(b".").unwrap_or(line), &mut data);
        let Some((kind, size)) = end else {
            return data.end(wire.len(), DataState::Open);
        };
        match kind {
            Newline::Crlf => data.push(b"\r\n"),
            Newline::Bare(fault) => {
                data.fault.get_or_insert(fault);
            }
        }
        behind_crlf = kind == Newline::Crlf;
        at += length + size;
    }
}

fn text(line: &[u8], data: &mut Data) {
    match line.iter().position(|byte| *byte == 0) {
        None => data.push(line),
        Some(nul) => {
            data.push(&line[..nul]);
            data.fault.get_or_insert(Fault::Nul);
        }
    }
}

/// The first octet of a whole message that may not be in one, and its place.
pub fn fault(message: &[u8]) -> Option<(Fault, usize)> {
    (0..message.len()).find_map(|at| {
        let before = at.checked_sub(1).map(|before| message[before]);
        let fault = match message[at] {
            0 => Fault::Nul,
            b'\n' if before != Some(b'\r') => Fault::BareLf,
            b'\r' if message.get(at + 1) != Some(&b'\n') => Fault::BareCr,
            _ => return None,
        };
        Some((fault, at))
    })
}

/// A good message with the CRLF at its end that it may lack.
pub fn ended(message: &[u8]) -> Vec<u8> {
    let mut whole = message.to_vec();
    if !whole.is_empty() && !whole.ends_with(b"\r\n") {
        whole.extend_from_slice(b"\r\n");
    }
    whole
}

/// A good message as it goes over the wire, with its end.
pub fn encode(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in ended(message).split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
