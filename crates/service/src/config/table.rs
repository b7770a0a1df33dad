//! Reading the keys of one table, noting what is wrong and what was asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::document::{Document, Position};
use super::node::{Entry, Kind, Node};
use super::suggest;
use super::value::{FromConfig, Value};

/// One table of a [`Document`], under a path such as `link[0].dial`.
///
/// Several may live at once. Ask for every key that the table may hold, then call [`Table::finish`],
/// which refuses the rest.
#[derive(Debug)]
#[must_use = "unknown keys are found by `finish`"]
pub struct Table<'d> {
    document: &'d Document,
    entries: &'d [Entry],
    path: String,
    at: usize,
    asked: RefCell<BTreeSet<String>>,
}

impl<'d> Table<'d> {
    pub(super) fn new(
        document: &'d Document,
        entries: &'d [Entry],
        path: String,
        at: usize,
    ) -> Self {
        Table {
            document,
            entries,
            path,
            at,
            asked: RefCell::default(),
        }
    }

    /// A key that must be there. None after noting that it is missing or wrong.
    pub fn required<T: FromConfig>(&self, key: &str) -> Option<T> {
        self.required_value(key)
            .and_then(|node| self.convert(key, node, T::from_config))
    }

    /// A key that may be absent. None if it is, or after noting that it is wrong.
    pub fn optional<T: FromConfig>(&self, key: &str) -> Option<T> {
        self.find(key)
            .and_then(|node| self.convert(key, node, T::from_config))
    }

    /// A key with a default, which also stands in after noting that the value is wrong.
    pub fn or<T: FromConfig>(&self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A string that must be there, turned into a type by `parse`, whose error is the message.
    pub fn required_with<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.required_value(key)
            .and_then(|node| self.convert(key, node, |value| value.parse_with(&parse)))
    }

    /// A string that may be absent, turned into a type by `parse`, whose error is the message.
    pub fn parse_with<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.find(key)
            .and_then(|node| self.convert(key, node, |value| value.parse_with(&parse)))
    }

    /// An array of values; empty if absent. Wrong elements are noted, one by one, and left out.
    pub fn list<T: FromConfig>(&self, key: &str) -> Vec<T> {
        self.items(key, T::from_config)
    }

    /// An array of values with a default for its absence; an empty array is not the default.
    pub fn list_or<T: FromConfig>(&self, key: &str, default: Vec<T>) -> Vec<T> {
        if self.has(key) {
            self.list(key)
        } else {
            default
        }
    }

    /// An array of strings turned into a type by `parse`; empty if absent.
    pub fn list_with<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.items(key, |value| value.parse_with(&parse))
    }

    /// An array of strings that must be there with at least one `noun`, turned into a type by `parse`.
    pub fn required_list_with<T>(
        &self,
        key: &str,
        noun: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let node = self.required_value(key);
        if node.is_some_and(|node| matches!(&node.kind, Kind::Array(items) if items.is_empty())) {
            self.error(key, format!("expected at least one {noun}"));
        }
        self.list_with(key, parse)
    }

    /// A table under this one, as `[key]` or `key = { … }`. None if absent or after noting that it is no table.
    pub fn table(&self, key: &str) -> Option<Table<'d>> {
        let node = self.find(key)?;
        self.as_table(key, node)
    }

    /// A table that must be there.
    pub fn required_table(&self, key: &str) -> Option<Table<'d>> {
        let node = self.required_value(key)?;
        self.as_table(key, node)
    }

    /// An array of tables, as `[[key]]` or `key = [{ … }, { … }]`; empty if absent.
    pub fn tables(&self, key: &str) -> Vec<Table<'d>> {
        let Some(node) = self.find(key) else {
            return Vec::new();
        };
        let Kind::Array(items) = &node.kind else {
            let found = Value(node).describe();
            let form = if matches!(node.kind, Kind::Table(_)) {
                format!(
                    "expected an array of tables, found one table; write [[{key}]] or [{{ … }}]"
                )
            } else {
                format!("expected an array of tables such as [{{ … }}], found {found}")
            };
            self.error(key, form);
            return Vec::new();
        };
        let tables = items.iter().enumerate();
        tables
            .filter_map(|(index, item)| self.as_table(&format!("{key}[{index}]"), item))
            .collect()
    }

    /// Notes an error at a key: at its value, or at the head of this table if it is absent.
    pub fn error(&self, key: &str, message: impl Into<String>) {
        self.document.error(&self.position(key), message);
    }

    /// Where a key's value stands, or the head of this table if it is absent; for [`Document::error`].
    pub fn position(&self, key: &str) -> Position {
        let offset = self.peek(key).map_or(self.at, |node| node.span.start);
        self.place(offset, key)
    }

    /// Where an element of an array stands.
    pub fn position_in(&self, key: &str, index: usize) -> Position {
        let item = self.peek(key).and_then(|node| match &node.kind {
            Kind::Array(items) => items.get(index),
            _ => None,
        });
        let offset = item.map_or_else(|| self.position(key).offset, |item| item.span.start);
        self.place(offset, &format!("{key}[{index}]"))
    }

    /// Whether the key stands in the file, right or wrong. Counts as asking for it.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Whether the key stands in the file as a table. Counts as asking for it.
    pub fn has_table(&self, key: &str) -> bool {
        self.find(key)
            .is_some_and(|node| matches!(node.kind, Kind::Table(_)))
    }

    /// Whether no key at all stands in this table.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The path of this table, such as `link[0].dial`; empty at the top.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Notes every key that was never asked for, with the likely one or all that are known.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for entry in self.entries {
            if !asked.contains(&entry.key) {
                let message = suggest::unknown_key(&entry.key, &asked);
                let at = self.place(entry.key_at, &entry.key);
                self.document.error(&at, message);
            }
        }
    }

    fn items<T>(&self, key: &str, convert: impl Fn(&Value<'_>) -> Result<T, String>) -> Vec<T> {
        let Some(node) = self.find(key) else {
            return Vec::new();
        };
        let Kind::Array(items) = &node.kind else {
            self.error(key, Value(node).expected("an array such as [\"…\"]"));
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items
            .filter_map(|(index, item)| self.convert(&format!("{key}[{index}]"), item, &convert))
            .collect()
    }

    fn convert<T>(
        &self,
        key: &str,
        node: &Node,
        convert: impl Fn(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        match convert(&Value(node)) {
            Ok(value) => Some(value),
            Err(message) => {
                self.document
                    .error(&self.place(node.span.start, key), message);
                None
            }
        }
    }

    fn as_table(&self, key: &str, node: &'d Node) -> Option<Table<'d>> {
        let path = self.join(key);
        match &node.kind {
            Kind::Table(entries) => Some(Table::new(self.document, entries, path, node.span.start)),
            Kind::Array(_) => {
                let at = self.place(node.span.start, key);
                self.document.error(
                    &at,
                    format!("expected one table, found an array; write [{path}]"),
                );
                None
            }
            _ => {
                let at = self.place(node.span.start, key);
                self.document
                    .error(&at, Value(node).expected("a table such as { … }"));
                None
            }
        }
    }

    fn required_value(&self, key: &str) -> Option<&'d Node> {
        let node = self.find(key);
        if node.is_none() {
            self.error(key, "missing; this key is required");
        }
        node
    }

    fn find(&self, key: &str) -> Option<&'d Node> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.peek(key)
    }

    fn peek(&self, key: &str) -> Option<&'d Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.node)
    }

    fn place(&self, offset: usize, key: &str) -> Position {
        Position {
            offset,
            key: Some(self.join(key)),
        }
    }

    fn join(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}
