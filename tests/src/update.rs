//! Rewrites what a transcript expects.

use crate::player::{Failure, Side, as_mark, chunk_filler, filler, whole_line};
use crate::transcript::{Entry, Fact, Mark, Speaker, Transcript};

/// The transcript as it would have to be: what the driven side says, and what is true then, are taken from the side.
///
/// A group of expected lines is replaced by all that the side says there; patterns that still match are kept.
pub(crate) fn updated<S: Side>(
    transcript: &Transcript,
    side: &mut S,
) -> Result<Transcript, Failure> {
    let mut session = Vec::new();
    let mut group: Vec<&Mark> = Vec::new();
    for entry in &transcript.session {
        match &entry.mark {
            Mark::Line(speaker, _) | Mark::Bytes(speaker, _) | Mark::Pattern(speaker, _)
                if *speaker == side.speaker() =>
            {
                group.push(&entry.mark);
                continue;
            }
            Mark::Data(_) | Mark::Chunk(_) if side.speaker() == Speaker::Client => {
                group.push(&entry.mark);
                continue;
            }
            _ => {}
        }
        drain(side, &mut group, &mut session);
        match &entry.mark {
            Mark::Line(_, text) => side.receive(&[text.as_bytes(), b"\r\n"].concat()),
            Mark::Bytes(_, bytes) => side.receive(bytes),
            Mark::Data(octets) => {
                side.receive(&[filler(*octets).as_slice(), b".\r\n"].concat());
            }
            Mark::Chunk(octets) => side.receive(&chunk_filler(*octets)),
            Mark::Close => side.end_of_input(),
            Mark::Lost => {
                if !side.lose_line() {
                    return Err(transcript.failure(entry.line, "a side that is told", "none"));
                }
            }
            Mark::Tls => {
                if !side.start_tls() {
                    return Err(transcript.failure(entry.line, "a side that starts TLS", "none"));
                }
            }
            Mark::Wait(time, _) => {
                if !side.wait(*time) {
                    return Err(transcript.failure(entry.line, "a side with a clock", "none"));
                }
            }
            Mark::Pattern(..) | Mark::Closed | Mark::Comment(_) => {}
        }
        session.push(entry.mark.clone());
    }
    group.push(&Mark::Closed);
    drain(side, &mut group, &mut session);
    let numbered = |mark| Entry { line: 0, mark };
    let fact = |text| Fact { line: 0, text };
    let rewritten = Transcript {
        session: session.into_iter().map(numbered).collect(),
        then: side
            .facts()
            .unwrap_or_default()
            .into_iter()
            .map(fact)
            .collect(),
        ..transcript.clone()
    };
    Transcript::parse(&transcript.path, &rewritten.to_string())
}

fn drain<S: Side>(side: &mut S, group: &mut Vec<&Mark>, session: &mut Vec<Mark>) {
    if group.is_empty() {
        return;
    }
    let mut old = group.drain(..);
    while let Some(line) = side.next_line() {
        let kept = old.next().filter(|mark| match mark {
            Mark::Pattern(_, pattern) => {
                whole_line(pattern).is_ok_and(|regex| regex.is_match(&line))
            }
            _ => false,
        });
        session.push(
            kept.cloned()
                .unwrap_or_else(|| as_mark(side.speaker(), &line)),
        );
    }
}
