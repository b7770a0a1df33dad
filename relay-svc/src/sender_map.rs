//! What local senders are called outside: a map of addresses, and the header fields that it changes. Pure.
//!
//! ```text
//! # inside              outside
//! root@pc7.site.example admin@branch.example
//! @site.example         @branch.example
//! ```
//!
//! For mail that starts here, at submission, and nowhere else: the envelope's sender, and the addresses in From, Sender
//! and Reply-To. Of these fields only whole addresses change; names, comments, quoted strings, folding and everything
//! else stay as they are, octet for octet. An address wins over its domain.
//!
//! Limits: an address with white space or comments around its `@` (RFC 5322 4.4) is not found, and one with white space
//! inside quotes cannot be listed; recipients are not mapped; what was signed before is broken.

use std::collections::HashMap;

use linkmail_smtp::{Mailbox, ReversePath};

use crate::names::Node;

/// The fields that say who a message is from (RFC 5322 3.6.2).
const FIELDS: [&[u8]; 3] = [b"From", b"Sender", b"Reply-To"];

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SenderMap {
    addresses: HashMap<(Vec<u8>, Node), Mailbox>,
    domains: HashMap<Node, String>,
}

impl SenderMap {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Which line is wrong, in a sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut map = Self::default();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |what: String| format!("line {}: {what}", index + 1);
            let words: Vec<&str> = line.split_whitespace().collect();
            let [inside, outside] = words.as_slice() else {
                return Err(at(format!("{line:?}: {WANTED}")));
            };
            let again = map.insert(inside, outside).map_err(at)?;
            if again {
                return Err(at(format!("{inside:?} stands in an earlier line already")));
            }
        }
        Ok(map)
    }

    /// True if it was there before.
    fn insert(&mut self, inside: &str, outside: &str) -> Result<bool, String> {
        let address = |text: &str| {
            Mailbox::parse(text.as_bytes())
                .map_err(|error| format!("{text:?} is not an address: {error}; {WANTED}"))
        };
        // A domain is right if an address in it is.
        let domain = |text: &str| address(&format!("a{text}"));
        match (inside.starts_with('@'), outside.starts_with('@')) {
            (false, false) => {
                let key = key(&address(inside)?);
                Ok(self.addresses.insert(key, address(outside)?).is_some())
            }
            (true, true) => {
                domain(outside)?;
                let node = Node::of(domain(inside)?.domain());
                Ok(self.domains.insert(node, outside.to_owned()).is_some())
            }
            _ => Err(format!("{inside:?} {outside:?}: {WANTED}")),
        }
    }

    /// What a sender is called outside, if that is something else.
    #[must_use]
    pub fn outside(&self, inside: &Mailbox) -> Option<Mailbox> {
        let key = key(inside);
        if let Some(found) = self.addresses.get(&key) {
            return Some(found.clone());
        }
        let domain = self.domains.get(&key.1)?;
        let text = [inside.local(), domain.as_bytes()].concat();
        Mailbox::parse_utf8(&text).ok()
    }

    /// The sender of an envelope as it is called outside.
    #[must_use]
    pub fn reverse_path(&self, path: ReversePath) -> ReversePath {
        match &path {
            ReversePath::Mailbox(inside) => match self.outside(inside) {
                Some(outside) => ReversePath::Mailbox(outside),
                None => path,
            },
            ReversePath::Null => path,
        }
    }

    /// The start of a message, from its header on, with the senders in the header as they are called outside. What stands
    /// behind the first empty line is not looked at.
    #[must_use]
    pub fn header(&self, octets: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(octets.len());
        let mut rest = octets;
        while let Some((field, after)) = next_field(rest) {
            let name = memchr(b':', field).unwrap_or_default();
            let is_sender = FIELDS
                .iter()
                .any(|wanted| field[..name].trim_ascii_end().eq_ignore_ascii_case(wanted));
            if is_sender {
                out.extend_from_slice(&field[..=name]);
                self.senders(&field[name + 1..], &mut out);
            } else {
                out.extend_from_slice(field);
            }
            rest = after;
        }
        out.extend_from_slice(rest);
        out
    }

    /// The body of one field.
    fn senders(&self, body: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while at < body.len() {
            let length = match body[at] {
                b'(' => comment(&body[at..]),
                b'[' => body[at..]
                    .iter()
                    .position(|one| *one == b']')
                    .map_or(body.len() - at, |end| end + 1),
                b'"' => quoted(&body[at..]),
                one if is_word(one) => word(&body[at..]),
                _ => 1,
            };
            let is_local = body[at] == b'"' || is_word(body[at]);
            match is_local.then(|| address(&body[at..], length)).flatten() {
                Some((inside, whole)) => {
                    match self.outside(&inside) {
                        Some(outside) => out.extend_from_slice(&outside.to_bytes()),
                        None => out.extend_from_slice(&body[at..at + whole]),
                    }
                    at += whole;
                }
                None => {
                    out.extend_from_slice(&body[at..at + length]);
                    at += length;
                }
            }
        }
    }
}

const WANTED: &str = "expected two addresses, alice@pc.site.example alice@branch.example, or two domains, @site.example @branch.example";

fn key(address: &Mailbox) -> (Vec<u8>, Node) {
    (
        address.local().to_ascii_lowercase(),
        Node::of(address.domain()),
    )
}

fn memchr(wanted: u8, octets: &[u8]) -> Option<usize> {
    octets.iter().position(|one| *one == wanted)
}

/// The next field with the lines that continue it, and what follows; none at the empty line, or at the end.
fn next_field(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    if octets.is_empty() || octets.starts_with(b"\r\n") {
        return None;
    }
    let mut end = 0;
    loop {
        end += memchr(b'\n', &octets[end..]).map_or(octets.len() - end, |at| at + 1);
        if !matches!(octets.get(end), Some(b' ' | b'\t')) {
            return Some(octets.split_at(end));
        }
    }
}

/// What an unquoted local part is made of, with its dots (RFC 5322 3.2.3, RFC 6532 3.2).
fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet >= 128 || b"!#$%&'*+-/=?^_`{|}~.".contains(&octet)
}

fn word(octets: &[u8]) -> usize {
    octets.iter().take_while(|one| is_word(**one)).count()
}

/// The length of the quoted string that stands here, or of all that is left.
fn quoted(octets: &[u8]) -> usize {
    let mut at = 1;
    while at < octets.len() {
        match octets[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    octets.len()
}

/// The length of the comment that stands here, with those inside of it, or of all that is left.
fn comment(octets: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < octets.len() {
        match octets[at] {
            b'\\' => at += 1,
            b'(' => depth += 1,
            b')' if depth == 1 => return at + 1,
            b')' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    octets.len()
}

/// The address that begins here with a local part of so many octets, and its length.
fn address(octets: &[u8], local: usize) -> Option<(Mailbox, usize)> {
    let domain = octets.get(local..)?.strip_prefix(b"@")?;
    // Whole words alone: in an encoded word (RFC 2047) what looks like a domain goes on with `?=`.
    let length = local + 1 + word(domain);
    let address = Mailbox::parse_utf8(octets.get(..length)?).ok()?;
    (octets.get(length) != Some(&b'@')).then_some((address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "# inside outside\nroot@pc7.site.example admin@branch.example\n\
        @site.example @branch.example\n\"odd..one\"@site.example odd@branch.example\n";

    fn map() -> SenderMap {
        SenderMap::parse(MAP).unwrap()
    }

    #[test]
    fn an_address_wins_over_its_domain_and_case_does_not_count() {
        for (inside, outside) in [
            ("ROOT@PC7.site.example", Some("admin@branch.example")),
            ("Alice@Site.Example", Some("Alice@branch.example")),
            ("\"odd..one\"@site.example", Some("odd@branch.example")),
            ("root@pc8.site.example", None),
            ("alice@branch.example", None),
        ] {
            let found = map().outside(&Mailbox::parse(inside.as_bytes()).unwrap());
            assert_eq!(
                found.map(|one| one.to_string()).as_deref(),
                outside,
                "{inside}"
            );
        }
        assert_eq!(map().reverse_path(ReversePath::Null), ReversePath::Null);
    }

    #[test]
    fn only_addresses_in_the_fields_of_the_sender_change() {
        let a = "alice@site.example";
        for (before, after) in [
            (
                "From: alice@site.example\r\n",
                "From: alice@branch.example\r\n",
            ),
            (
                "from : <alice@site.example>\r\n",
                "from : <alice@branch.example>\r\n",
            ),
            (
                "From: \"alice@site.example\" (alice@site.example (\\) x))\r\n\t<alice@site.example>\r\n",
                "From: \"alice@site.example\" (alice@site.example (\\) x))\r\n\t<alice@branch.example>\r\n",
            ),
            (
                "Reply-To: team: alice@site.example,\r\n bob@site.example,carol@else.example;\r\n",
                "Reply-To: team: alice@branch.example,\r\n bob@branch.example,carol@else.example;\r\n",
            ),
            (
                "Sender: \"odd..one\"@site.example\r\n",
                "Sender: odd@branch.example\r\n",
            ),
            (
                "From: =?utf-8?q?alice@site.example?= <x@else.example>\r\n",
                "From: =?utf-8?q?alice@site.example?= <x@else.example>\r\n",
            ),
            (
                "From: alice@site.example.else, x@[10.0.0.1], a@site.example@b\r\n",
                "From: alice@site.example.else, x@[10.0.0.1], a@site.example@b\r\n",
            ),
            (
                "From: <@site.example:bob@site.example>\r\n",
                "From: <@site.example:bob@branch.example>\r\n",
            ),
            (
                "From: \"open alice@site.example\r\n",
                "From: \"open alice@site.example\r\n",
            ),
            (
                "From: (open alice@site.example\r\n",
                "From: (open alice@site.example\r\n",
            ),
            ("From: \"x\\", "From: \"x\\"),
        ] {
            let rest = format!("To: {a}\r\nSubject: From: {a}\r\n From: {a}\r\n\r\nFrom: {a}\r\n");
            if before.ends_with('\n') {
                let whole = format!("{before}{rest}");
                let mapped = String::from_utf8(map().header(whole.as_bytes())).unwrap();
                assert_eq!(mapped, format!("{after}{rest}"));
            }
            assert_eq!(map().header(before.as_bytes()), after.as_bytes());
        }
        let body = b"\r\nFrom: alice@site.example\r\n";
        assert_eq!(map().header(body), body);
        assert_eq!(map().header(b""), b"");
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, start) in [
            ("a@b.example\n", "line 1: \"a@b.example\": expected two"),
            ("a@b.example @c.example", "line 1: \"a@b.example\" \"@c"),
            ("\n@ @c.example", "line 2: \"a@\" is not an address"),
            (
                "@b.example @c.example\n@B.example @d.example\n",
                "line 2: \"@B.example\" stands",
            ),
        ] {
            let error = SenderMap::parse(text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
