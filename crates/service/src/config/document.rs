//! One configuration file: its tree, its lines, and the errors noted so far.

use std::cell::RefCell;
use std::path::Path;

use toml::de::DeTable;

use super::error::{ConfigError, ConfigErrors};
use super::node::{Kind, Node};
use super::table::Table;

/// A parsed file, and what readers found wrong in it.
#[derive(Debug)]
pub struct Document {
    file: String,
    /// Offsets at which lines begin; the first is 0.
    line_starts: Vec<usize>,
    root: Node,
    found: RefCell<Vec<Found>>,
}

/// A place in the file, to which an error can be pinned after its table was finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub(super) offset: usize,
    pub(super) key: Option<String>,
}

#[derive(Debug)]
struct Found {
    at: Position,
    message: String,
}

impl Document {
    /// Reads and parses a file. The errors name it as `path` is written.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is not TOML.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let octets = std::fs::read(path).map_err(|error| {
            ConfigErrors(vec![ConfigError {
                file: file.clone(),
                line: None,
                key: None,
                message: format!("cannot be read: {}", os_text(&error)),
            }])
        })?;
        match String::from_utf8(octets) {
            Ok(text) => Self::parse(file, &text),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let before = &error.as_bytes()[..good];
                Err(ConfigErrors(vec![ConfigError {
                    file,
                    line: Some(before.iter().filter(|octet| **octet == b'\n').count() + 1),
                    key: None,
                    message: "not UTF-8 text".to_owned(),
                }]))
            }
        }
    }

    /// Parses text. `file` is what the errors name.
    ///
    /// # Errors
    /// The text is not TOML: at most one error per line. A key that stands twice is not an error yet;
    /// it is noted, because the rest of the file can still be read.
    pub fn parse(file: impl Into<String>, text: &str) -> Result<Self, ConfigErrors> {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let document = Document {
            file: file.into(),
            line_starts: line_starts(text),
            root: Node::from_table(&tree),
            found: RefCell::default(),
        };
        let mut broken = false;
        for error in &errors {
            let span = error.span().unwrap_or(text.len()..text.len());
            broken |= document.note_syntax(text, span, error.message());
        }
        if !broken {
            return Ok(document);
        }
        // A line that is not TOML makes the parser stumble more than once; the first error says it.
        let mut errors = document.sorted();
        errors.dedup_by_key(|error| error.line);
        Err(ConfigErrors(errors))
    }

    /// Notes an error of the parser; true if the tree cannot be trusted after it.
    fn note_syntax(&self, text: &str, span: std::ops::Range<usize>, message: &str) -> bool {
        let duplicate = message == "duplicate key";
        let message = if duplicate {
            let key = text.get(span.clone()).unwrap_or_default();
            format!("{key} stands twice; write it once")
        } else {
            let message = message.trim_end_matches(", expected nothing");
            format!("not TOML: {message}")
        };
        let at = Position {
            offset: span.start,
            key: None,
        };
        self.error(&at, message);
        !duplicate
    }

    /// The top of the file.
    pub fn root(&self) -> Table<'_> {
        match &self.root.kind {
            Kind::Table(entries) => Table::new(self, entries, String::new(), 0),
            // The parser's root is a table by its type.
            _ => Table::new(self, &[], String::new(), 0),
        }
    }

    /// Notes an error at a place remembered by [`Table::position`], such as a link that no table defines.
    pub fn error(&self, at: &Position, message: impl Into<String>) {
        self.found.borrow_mut().push(Found {
            at: at.clone(),
            message: message.into(),
        });
    }

    /// Whether an error was noted so far.
    pub fn has_errors(&self) -> bool {
        !self.found.borrow().is_empty()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Everything that was noted, in file order.
    pub fn finish(&self) -> Result<(), ConfigErrors> {
        if self.has_errors() {
            Err(ConfigErrors(self.sorted()))
        } else {
            Ok(())
        }
    }

    /// The line of an offset, counted from 1.
    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    fn sorted(&self) -> Vec<ConfigError> {
        let found = self.found.borrow();
        let mut order: Vec<&Found> = found.iter().collect();
        // Stable: errors at one place stay in the order in which they were noted.
        order.sort_by_key(|found| found.at.offset);
        order
            .into_iter()
            .map(|found| ConfigError {
                file: self.file.clone(),
                line: Some(self.line(found.at.offset)),
                key: found.at.key.clone(),
                message: found.message.clone(),
            })
            .collect()
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after_newlines).collect()
}

/// The words of the operating system without the number that the standard library adds.
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
