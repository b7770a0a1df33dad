//! Credentials as lines of text.
//!
//! ```text
//! # Comments and blank lines are passed over.
//! scanner:SCRAM-SHA-256$15000:<salt>$<StoredKey>:<ServerKey>
//! old-fax:SCRAM-SHA-256$15000:<salt>$<StoredKey>:<ServerKey>
//! old-fax:CRAM-MD5$<secret>
//! ```
//!
//! Salt, keys and secret are base64. The first form is what PostgreSQL stores, behind a name. A name may have one line
//! of each kind; SCRAM-SHA-256 serves PLAIN and LOGIN, too. A secret of CRAM-MD5 is the password itself: base64 only
//! keeps it in one piece. Whoever may read the file can then log in, so such lines are for devices that can do nothing
//! else.
//!
//! Limits: names in the file have no colon, do not begin with `#`, and neither begin nor end with a space.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::credential::{CRAM_SCHEME, SCRAM_SCHEME, decode_secret, encode_secret};
use crate::credential::{Credential, CredentialError, ScramKeys};
use crate::mechanism::Mechanism;
use crate::name::{Name, PrepareError};

/// What is wrong with a line. What stands behind the name is not repeated: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineError {
    /// No colon.
    #[error("no colon behind a name; right is <name>:SCRAM-SHA-256$... or <name>:CRAM-MD5$...")]
    NoColon,
    /// What stands before the colon is no name.
    #[error("the name: {0}")]
    Name(PrepareError),
    /// A name that would be read back as something else.
    #[error("the name {name:?} has a colon, begins with #, or begins or ends with a space", name = .0.as_str())]
    Unstorable(Name),
    /// What stands behind the colon begins with neither kind.
    #[error(
        "behind the name {name:?} stands neither SCRAM-SHA-256$ nor CRAM-MD5$ (passwords are not stored as they are)",
        name = .0.as_str()
    )]
    Kind(Name),
    /// The keys or the secret are malformed.
    #[error("{name:?}: {error}", name = .name.as_str())]
    Credential {
        /// Whose line it is.
        name: Name,
        /// What is wrong.
        error: CredentialError,
    },
    /// The name has a line of this kind already.
    #[error("{name:?} has {kind} in line {first} already; one of the two must go", name = .name.as_str())]
    Duplicate {
        /// Whose line it is.
        name: Name,
        /// Which kind is there twice.
        kind: Mechanism,
        /// The number of the first such line.
        first: usize,
    },
}

/// A line that cannot be used, by its number, which counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {error}")]
pub struct CredentialFileError {
    /// The number of the line.
    pub line: usize,
    /// What is wrong with it.
    pub error: LineError,
}

/// One line, with its end, and what is meant by it.
#[derive(Clone, Debug)]
struct Line {
    text: String,
    owner: Option<(Name, Mechanism)>,
}

/// The lines of a file, and the credentials in them. `Display` gives the text back.
#[derive(Clone, Default)]
pub struct CredentialFile {
    lines: Vec<Line>,
    credentials: BTreeMap<Name, Credential>,
}

impl CredentialFile {
    /// Reads a file as a whole. Errors: the first line that cannot be used.
    pub fn parse(text: &str) -> Result<CredentialFile, CredentialFileError> {
        let mut file = CredentialFile::default();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let owner = file.read(line).map_err(|error| CredentialFileError {
                line: index + 1,
                error,
            })?;
            file.lines.push(Line {
                text: line.to_owned(),
                owner,
            });
        }
        Ok(file)
    }

    /// What is stored for a name.
    pub fn get(&self, name: &Name) -> Option<&Credential> {
        self.credentials.get(name)
    }

    /// The names, in order, with what is stored for them.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Credential)> {
        self.credentials.iter()
    }

    /// Adds a name, or replaces all its lines; every other line stays as it is. Errors: [`LineError::Unstorable`].
    pub fn set(&mut self, name: &Name, credential: Credential) -> Result<(), LineError> {
        check_storable(name)?;
        let is_of_name = |line: &Line| matches!(&line.owner, Some((owner, _)) if owner == name);
        let place = self.lines.iter().position(is_of_name);
        self.lines.retain(|line| !is_of_name(line));
        let place = place.unwrap_or(self.lines.len());
        // What is written behind a last line without an end would become part of it.
        if let Some(before) = place
            .checked_sub(1)
            .and_then(|last| self.lines.get_mut(last))
            && !before.text.ends_with('\n')
        {
            before.text.push('\n');
        }
        self.lines.splice(place..place, written(name, &credential));
        self.credentials.insert(name.clone(), credential);
        Ok(())
    }

    /// Removes all lines of a name; every other line stays as it is. False if it has none.
    pub fn remove(&mut self, name: &Name) -> bool {
        self.lines
            .retain(|line| !matches!(&line.owner, Some((owner, _)) if owner == name));
        self.credentials.remove(name).is_some()
    }

    /// Takes one line in, and says whose it is.
    fn read(&mut self, line: &str) -> Result<Option<(Name, Mechanism)>, LineError> {
        let line = line.trim_end_matches(['\n', '\r']);
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let (text, stored) = line.split_once(':').ok_or(LineError::NoColon)?;
        let name = Name::parse(text).map_err(LineError::Name)?;
        check_storable(&name)?;
        let stored = stored.trim_end();
        let malformed = |error| LineError::Credential {
            name: name.clone(),
            error,
        };
        let known = self.credentials.entry(name.clone()).or_default();
        let (kind, is_second) = if stored.starts_with(SCRAM_SCHEME) {
            let keys = ScramKeys::decode(stored).map_err(malformed)?;
            (Mechanism::ScramSha256, known.scram.replace(keys).is_some())
        } else if stored.starts_with(CRAM_SCHEME) {
            let secret = decode_secret(stored).map_err(malformed)?;
            (Mechanism::CramMd5, known.cram_md5.replace(secret).is_some())
        } else {
            return Err(LineError::Kind(name));
        };
        let owner = (name, kind);
        if !is_second {
            return Ok(Some(owner));
        }
        let is_first = |line: &Line| line.owner.as_ref() == Some(&owner);
        let first = self.lines.iter().position(is_first).unwrap_or_default() + 1;
        let (name, kind) = owner;
        Err(LineError::Duplicate { name, kind, first })
    }
}

impl fmt::Display for CredentialFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|line| f.write_str(&line.text))
    }
}

impl fmt::Debug for CredentialFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CredentialFile")
            .field(&self.credentials)
            .finish()
    }
}

/// The lines of one name.
fn written(name: &Name, credential: &Credential) -> Vec<Line> {
    let line = |kind, stored: String| Line {
        text: format!("{name}:{stored}\n"),
        owner: Some((name.clone(), kind)),
    };
    let scram = credential.scram.as_ref().map(ScramKeys::encode);
    let cram_md5 = credential.cram_md5.as_ref().map(encode_secret);
    scram
        .map(|stored| line(Mechanism::ScramSha256, stored))
        .into_iter()
        .chain(cram_md5.map(|stored| line(Mechanism::CramMd5, stored)))
        .collect()
}

/// As the name is after preparation, in which wide signs and odd spaces have become the plain ones.
fn check_storable(name: &Name) -> Result<(), LineError> {
    let text = name.as_str();
    if text.contains(':') || text.starts_with('#') || text.trim() != text {
        Err(LineError::Unstorable(name.clone()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Iterations;
    use crate::name::Password;

    const KEYS: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn fresh(password: &str) -> Credential {
        let password = Password::parse(password).unwrap();
        Credential::from_password(&password, &[7; 16], Iterations::new(4096).unwrap()).unwrap()
    }

    #[test]
    fn a_bad_line_is_named_with_what_would_be_right() {
        for (text, message) in [
            (
                "# x\n\nscanner\n".to_owned(),
                "line 3: no colon behind a name; right is <name>:SCRAM-SHA-256$... or <name>:CRAM-MD5$...",
            ),
            (format!(":{KEYS}"), "line 1: the name: empty"),
            (
                format!("a\u{7}:{KEYS}"),
                "line 1: the name: a character that SASLprep (RFC 4013) does not allow: a control character, \
                 one younger than Unicode 3.2, or right-to-left text mixed with other text",
            ),
            (
                format!(" a:{KEYS}"),
                r##"line 1: the name " a" has a colon, begins with #, or begins or ends with a space"##,
            ),
            (
                format!("\u{ff03}a:{KEYS}"),
                r##"line 1: the name "#a" has a colon, begins with #, or begins or ends with a space"##,
            ),
            (
                "a:hunter2".to_owned(),
                "line 1: behind the name \"a\" stands neither SCRAM-SHA-256$ nor CRAM-MD5$ \
                 (passwords are not stored as they are)",
            ),
            (
                "a:SCRAM-SHA-256$1:x".to_owned(),
                "line 1: \"a\": malformed; right is SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, \
                 salt and keys in base64",
            ),
            (
                "a:CRAM-MD5$tan".to_owned(),
                "line 1: \"a\": malformed; right is CRAM-MD5$<secret>, the secret in base64",
            ),
            (
                format!("\u{fc}:{KEYS}\n# x\nu\u{308}:{KEYS}\n"),
                "line 3: \"\u{fc}\" has SCRAM-SHA-256 in line 1 already; one of the two must go",
            ),
            (
                "a:CRAM-MD5$dGFu\na:CRAM-MD5$dGFu".to_owned(),
                "line 2: \"a\" has CRAM-MD5 in line 1 already; one of the two must go",
            ),
        ] {
            let error = CredentialFile::parse(&text).unwrap_err();
            assert_eq!(error.to_string(), message, "{text}");
        }
    }

    #[test]
    fn both_kinds_of_a_name_come_together() {
        let text = format!("# first\r\na:CRAM-MD5$dGFu \r\n\r\nb=,c d:{KEYS}\r\na:{KEYS}");
        let file = CredentialFile::parse(&text).unwrap();
        assert_eq!(file.to_string(), text);
        let names: Vec<_> = file.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b=,c d"]);
        let credential = file.get(&name("a")).unwrap();
        assert_eq!(credential.scram().unwrap().encode(), KEYS);
        assert!(credential.has_cram_md5());
        assert!(!file.get(&name("b=,c d")).unwrap().has_cram_md5());
        assert!(file.get(&name("A")).is_none());
    }

    #[test]
    fn the_lines_of_one_name_are_replaced_and_no_others() {
        let text = format!("# who\na:CRAM-MD5$dGFu\n\nb:{KEYS}\r\na:{KEYS}\n# end");
        let mut file = CredentialFile::parse(&text).unwrap();
        let new = fresh("new");
        let keys = new.scram().unwrap().encode();
        file.set(&name("a"), new.clone()).unwrap();
        assert_eq!(
            file.to_string(),
            format!("# who\na:{keys}\n\nb:{KEYS}\r\n# end")
        );
        let secret = Password::parse("tan").unwrap();
        file.set(&name("c"), new.with_cram_md5(secret)).unwrap();
        let text = file.to_string();
        assert_eq!(
            text,
            format!("# who\na:{keys}\n\nb:{KEYS}\r\n# end\nc:{keys}\nc:CRAM-MD5$dGFu\n")
        );
        let again = CredentialFile::parse(&text).unwrap();
        assert_eq!(format!("{again:?}"), format!("{file:?}"));
    }

    #[test]
    fn an_empty_file_takes_a_name_and_some_names_are_not_taken() {
        let mut file = CredentialFile::parse("").unwrap();
        for text in ["a:b", "#a", " a", "a "] {
            let error = LineError::Unstorable(name(text));
            assert_eq!(file.set(&name(text), fresh("x")), Err(error));
        }
        file.set(&name("a"), fresh("x")).unwrap();
        let keys = fresh("x").scram().unwrap().encode();
        assert_eq!(file.to_string(), format!("a:{keys}\n"));
    }
}
