//! The parsed file as an owned tree with positions.
//!
//! The parser's own tree borrows the text and sorts its keys; this one owns its strings, so that a
//! document can hold both. Depth is bounded by the parser (80 levels).

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// A value and where it stands (octets from the start of the file).
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
}

/// What a value is. Scalars that no reader asks for as such keep their text.
#[derive(Debug)]
pub(super) enum Kind {
    String(String),
    Integer(Integer),
    Boolean(bool),
    Float(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// An integer as written, and its value unless it has more than 127 bits.
#[derive(Debug)]
pub(super) struct Integer {
    pub(super) text: String,
    pub(super) value: Option<i128>,
}

/// A key of a table with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: usize,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn from_table(table: &Spanned<DeTable<'_>>) -> Self {
        Node {
            span: table.span(),
            kind: Kind::Table(entries(table.get_ref())),
        }
    }

    fn from_value(value: &Spanned<DeValue<'_>>) -> Self {
        let kind = match value.get_ref() {
            DeValue::String(text) => Kind::String(text.to_string()),
            DeValue::Integer(integer) => Kind::Integer(Integer::from_parsed(integer)),
            DeValue::Float(float) => Kind::Float(float.to_string()),
            DeValue::Boolean(boolean) => Kind::Boolean(*boolean),
            DeValue::Datetime(datetime) => Kind::Datetime(datetime.to_string()),
            DeValue::Array(items) => Kind::Array(items.iter().map(Node::from_value).collect()),
            DeValue::Table(table) => Kind::Table(entries(table)),
        };
        Node {
            span: value.span(),
            kind,
        }
    }
}

impl Integer {
    fn from_parsed(integer: &DeInteger<'_>) -> Self {
        Integer {
            text: integer.to_string(),
            value: i128::from_str_radix(integer.as_str(), integer.radix()).ok(),
        }
    }
}

fn entries(table: &DeTable<'_>) -> Vec<Entry> {
    table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_at: key.span().start,
            node: Node::from_value(value),
        })
        .collect()
}
