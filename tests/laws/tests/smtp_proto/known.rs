//! Where the two differ over a command line, and why.

use crate::lines::is_plain;

/// Why the two differ over a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Theirs: a number of 20 digits or more starts again once it is full (`BDAT 99999999999999999999999` is 999).
    NumberWraps,
    /// Theirs: quotes and backslashes of a local part are dropped, so that it cannot be written again.
    Unquoted,
    /// Theirs: `<postmaster>` is empty, as `<>` is; and `RCPT TO:<>` is a recipient.
    PostmasterIsNull,
    /// Theirs: words behind a command that has no argument, or behind BDAT's, are read over.
    ExtraWords,
    /// Theirs: spaces between keyword, colon, path and parameters, and none where one must be.
    Spacing,
    /// Theirs: of a path no more is checked than that it has an `@` in it; of names nothing.
    AnyName,
    /// Theirs: parameters twice, with values that are none, of more than may be; ORCPT without its type.
    LooseParameters,
    /// Theirs: CR or a tab in a line is a space, or nothing.
    ControlCharacters,
    /// Theirs: extensions and commands that we have not.
    NotOfOurs,
    /// Ours: more than one space behind EHLO, VRFY without a name or with one of quotes alone, address literals; and an ORCPT of another type
    /// than `rfc822` (RFC 3461 4.2).
    RefusedByThem,
}

use Difference as D;

/// Each difference once: what ours and theirs make of the line; `-` is a refusal.
pub(crate) const KNOWN: &[(Difference, &str, &str, &str)] = &[
    (
        D::NumberWraps,
        "BDAT 99999999999999999999999",
        "-",
        "BDAT 999",
    ),
    (
        D::NumberWraps,
        "MAIL FROM:<a@b.example> SIZE=99999999999999999999999",
        "-",
        "MAIL a@b.example SIZE=999",
    ),
    (
        D::Unquoted,
        "RCPT TO:<\"a b\"@c.example>",
        "RCPT \"a b\"@c.example",
        "RCPT a b@c.example",
    ),
    (
        D::Unquoted,
        "MAIL FROM:<\"a@b\"@c.example>",
        "MAIL \"a@b\"@c.example SIZE=0",
        "MAIL a@b@c.example SIZE=0",
    ),
    (
        D::PostmasterIsNull,
        "RCPT TO:<postmaster>",
        "RCPT postmaster",
        "RCPT ",
    ),
    (D::PostmasterIsNull, "RCPT TO:<>", "-", "RCPT "),
    (D::ExtraWords, "QUIT now", "-", "QUIT"),
    (D::ExtraWords, "DATA extra", "-", "DATA"),
    (
        D::Spacing,
        "MAIL FROM :<a@b.example>",
        "-",
        "MAIL a@b.example SIZE=0",
    ),
    (
        D::Spacing,
        "MAIL FROM:<a@b.example>SIZE=10",
        "-",
        "MAIL a@b.example SIZE=10",
    ),
    (D::AnyName, "EHLO \u{e9}!", "-", "EHLO \u{e9}!"),
    (D::AnyName, "RCPT TO:<a@-b->", "-", "RCPT a@-b-"),
    (
        D::LooseParameters,
        "MAIL FROM:<a@b.example> SIZE=1 SIZE=2",
        "-",
        "MAIL a@b.example SIZE=2",
    ),
    (D::NotOfOurs, "EXPN list", "-", "EXPN"),
    (
        D::NotOfOurs,
        "MAIL FROM:<a@b.example> HOLDFOR=1",
        "-",
        "MAIL a@b.example SIZE=0",
    ),
    (
        D::RefusedByThem,
        "RCPT TO:<b@b.example> ORCPT=utf-8;b@b.example",
        "RCPT b@b.example",
        "-",
    ),
    (D::RefusedByThem, "EHLO  a.example", "EHLO a.example", "-"),
    (D::RefusedByThem, "VRFY", "VRFY", "-"),
    (D::RefusedByThem, "VRFY \"", "VRFY", "-"),
    (
        D::ControlCharacters,
        "RCPT TO:<a@b.example>\t",
        "RCPT a@b.example",
        "RCPT a@b.example",
    ),
];

/// The difference that a line is an example of, if it is known. Told from the line alone, and the direction.
pub(crate) fn known(line: &[u8], ours: &str, theirs: &str) -> Option<Difference> {
    let text = String::from_utf8_lossy(line);
    let digits = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max()
        .unwrap_or(0);
    let verb = text
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    let is_path = matches!(verb.as_str(), "MAIL" | "RCPT");
    if line
        .iter()
        .any(|byte| matches!(byte, b'\t' | b'\r' | 0x0b | 0x0c))
    {
        return Some(D::ControlCharacters);
    }
    if digits >= 20 {
        return Some(D::NumberWraps);
    }
    if text.starts_with(' ') {
        return Some(D::Spacing);
    }
    if is_path && text.contains(['"', '\\']) {
        return Some(D::Unquoted);
    }
    if verb == "RCPT"
        && (text.to_ascii_lowercase().contains("<postmaster>")
            || theirs.trim_end() == "RCPT"
            || theirs == "RCPT  NEVER")
    {
        return Some(D::PostmasterIsNull);
    }
    match (ours, theirs) {
        ("-", _) => refused_by_us(&text, &verb),
        (_, "-") => refused_by_them(&text, &verb),
        // Both take it and read different things in it.
        _ => None,
    }
}

pub(crate) fn refused_by_us(text: &str, verb: &str) -> Option<Difference> {
    let argument = text.get(verb.len()..).unwrap_or_default();
    Some(match verb {
        "EXPN" | "ATRN" | "BURL" | "LHLO" => D::NotOfOurs,
        "DATA" | "RSET" | "QUIT" | "STARTTLS" if !argument.trim().is_empty() => D::ExtraWords,
        "BDAT" if argument.split_whitespace().count() > 1 => D::ExtraWords,
        "EHLO" | "HELO" | "ETRN" => D::AnyName,
        "AUTH" => D::LooseParameters,
        "MAIL" | "RCPT" => {
            let (keyword, rest) = argument.split_once('<')?;
            let (path, rest) = rest.split_once(['>', ' ']).unwrap_or((rest, ""));
            let is_spaced = !matches!(
                keyword.trim().to_ascii_uppercase().as_str(),
                "FROM:" | "TO:"
            ) || !keyword.starts_with(' ')
                || path.contains(' ')
                || text.contains(" >")
                || !(rest.is_empty() || rest.starts_with(' '));
            if is_spaced {
                D::Spacing
            } else if !is_plain(
                &format!("{verb}{keyword}<{path}>")
                    .to_ascii_uppercase()
                    .replace(" <", "<"),
            ) {
                D::AnyName
            } else if rest.contains("HOLDFOR") {
                D::NotOfOurs
            } else if rest.contains(['=', '+']) || !rest.trim().is_empty() {
                D::LooseParameters
            } else {
                return None;
            }
        }
        _ => return None,
    })
}

pub(crate) fn refused_by_them(text: &str, verb: &str) -> Option<Difference> {
    let is_known = match verb {
        // Nothing is left of a name of quotes once they are dropped.
        "VRFY" => text[4..].trim_matches([' ', '"']).is_empty(),
        "EHLO" | "HELO" => text.contains("  "),
        "RCPT" => text.to_ascii_uppercase().contains("ORCPT=") || text.contains('['),
        "MAIL" => text.to_ascii_uppercase().contains("ENVID=") || text.contains('['),
        _ => false,
    };
    is_known.then_some(D::RefusedByThem)
}
