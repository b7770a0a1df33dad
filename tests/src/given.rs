//! Reads the given part of a transcript, statement by statement.

use crate::player::Failure;
use crate::transcript::{Fact, Transcript, unescape};

/// A failure that says what a statement of the given part should be.
pub(crate) fn unknown(transcript: &Transcript, fact: &Fact, expected: &str) -> Failure {
    transcript.failure(fact.line, expected, &fact.text)
}

/// The value behind `key `, parsed. Errors: it is not of its type.
pub(crate) fn value<T: std::str::FromStr>(
    transcript: &Transcript,
    fact: &Fact,
    text: &str,
) -> Result<T, Failure> {
    text.parse()
        .map_err(|_| unknown(transcript, fact, "a value of the right type"))
}

/// The text between double quotes, with its escapes undone; or, for `N octets`, lines of that size.
pub(crate) fn body(text: &str) -> Option<Vec<u8>> {
    if let Some(number) = text.strip_suffix(" octets") {
        let octets: usize = number.parse().ok()?;
        let mut body = vec![b'x'; octets];
        for start in (0..octets).step_by(72) {
            let end = (start + 72).min(octets);
            if end - start >= 2 {
                body[end - 2..end].copy_from_slice(b"\r\n");
            }
        }
        return Some(body);
    }
    unescape(text.strip_prefix('"')?.strip_suffix('"')?)
}

/// The texts between brackets, such as `<a@b.example> <c@d.example>`.
pub(crate) fn bracketed(text: &str) -> Option<Vec<&str>> {
    text.split_whitespace()
        .map(|word| word.strip_prefix('<')?.strip_suffix('>'))
        .collect()
}
