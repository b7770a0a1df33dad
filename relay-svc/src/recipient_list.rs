//! The recipients that there are, as a text file says them. Pure.
//!
//! ```text
//! # One in each line.
//! alice@branch.example
//! # A local part alone is one in every domain of the route.
//! info
//! ```
//!
//! Case does not count: RFC 5321 2.4 leaves local parts to the host that owns the domain, and a list that is written by
//! hand does not have the case that a sender writes.

use std::collections::HashSet;

use linkmail_smtp::Mailbox;

use crate::names::Node;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RecipientList {
    addresses: HashSet<(Vec<u8>, Node)>,
    local_parts: HashSet<Vec<u8>>,
}

impl RecipientList {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Which line is neither, in a sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |error| {
                format!(
                    "line {}: {line:?} is no recipient ({error}); expected alice@branch.example, or the local part alone",
                    index + 1
                )
            };
            if line.contains('@') {
                let address = Mailbox::parse_utf8(line.as_bytes()).map_err(wrong)?;
                list.addresses.insert(key(&address));
            } else {
                let whole = format!("{line}@local.invalid");
                let address = Mailbox::parse_utf8(whole.as_bytes()).map_err(wrong)?;
                list.local_parts.insert(key(&address).0);
            }
        }
        Ok(list)
    }

    /// Whether there is such a recipient.
    #[must_use]
    pub fn has(&self, address: &Mailbox) -> bool {
        let key = key(address);
        self.local_parts.contains(&key.0) || self.addresses.contains(&key)
    }
}

fn key(address: &Mailbox) -> (Vec<u8>, Node) {
    (
        address.local().to_ascii_lowercase(),
        Node::of(address.domain()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_listed_is_known_in_any_case() {
        let text = "# ours\n\nAlice@Branch.example\n  info \n\"odd one\"@branch.example\n";
        let list = RecipientList::parse(text).unwrap();
        for (address, known) in [
            ("alice@branch.example", true),
            ("ALICE@BRANCH.EXAMPLE", true),
            ("alice@lab.branch.example", false),
            ("info@lab.branch.example", true),
            ("INFO@branch.example", true),
            ("\"odd one\"@branch.example", true),
            ("bob@branch.example", false),
            ("alice+list@branch.example", false),
        ] {
            let address = Mailbox::parse(address.as_bytes()).unwrap();
            assert_eq!(list.has(&address), known, "{address}");
        }
        assert!(
            !RecipientList::parse("")
                .unwrap()
                .has(&Mailbox::parse(b"a@b").unwrap())
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, start) in [
            ("a\nb c\n", "line 2: \"b c\" is no recipient"),
            ("@branch.example", "line 1: \"@branch.example\" is no"),
            ("a@b@c", "line 1: "),
        ] {
            let error = RecipientList::parse(text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
