//! One value of the file, and how a type is made of it.

use super::node::{Kind, Node};

/// A value as it stands in the file.
#[derive(Debug, Clone, Copy)]
pub struct Value<'d>(pub(super) &'d Node);

impl<'d> Value<'d> {
    /// The text, if the value is a string.
    pub fn as_str(&self) -> Option<&'d str> {
        match &self.0.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if the value is an integer of at most 127 bits.
    pub fn as_integer(&self) -> Option<i128> {
        match &self.0.kind {
            Kind::Integer(integer) => integer.value,
            _ => None,
        }
    }

    /// The truth value, if the value is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match &self.0.kind {
            Kind::Boolean(boolean) => Some(*boolean),
            _ => None,
        }
    }

    /// The value in words, such as `integer 90`.
    pub fn describe(&self) -> String {
        match &self.0.kind {
            Kind::String(text) => format!("string {text:?}"),
            Kind::Integer(integer) => format!("integer {}", integer.text),
            Kind::Boolean(boolean) => format!("boolean {boolean}"),
            Kind::Float(text) => format!("float {text}"),
            Kind::Datetime(text) => format!("date {text}"),
            Kind::Array(_) => "an array".to_owned(),
            Kind::Table(_) => "a table".to_owned(),
        }
    }

    /// The message for a value that is something else than `wanted`:
    /// `expected a string such as "90s", found integer 90`.
    pub fn expected(&self, wanted: &str) -> String {
        format!("expected {wanted}, found {}", self.describe())
    }

    /// Parses a string by a function whose error is the message.
    ///
    /// # Errors
    /// The value is no string, or `parse` refuses it.
    pub fn parse_with<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        parse(self.as_str().ok_or_else(|| self.expected("a string"))?)
    }
}

/// A type that one value of the file can stand for.
pub trait FromConfig: Sized {
    /// Makes the type.
    ///
    /// # Errors
    /// A message for a person: what was expected and what was found.
    fn from_config(value: &Value<'_>) -> Result<Self, String>;
}

/// Finds the named one of a closed set.
///
/// # Errors
/// `unknown driver "implict"; one of implicit, command`, with `noun` as the first words.
pub fn choice<T: Clone>(noun: &str, text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(value.clone());
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(format!(
        "unknown {noun} {text:?}; one of {}",
        names.join(", ")
    ))
}
