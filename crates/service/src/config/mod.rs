//! Reading a TOML file by hand, so that every error names file, line and key, and all are told at once.
//!
//! [`Document`] holds the file, [`Table`] reads keys of one table, [`FromConfig`] turns one value into
//! a type. Each `required`, `optional` or `or` that fails notes an error and lets the reader go on;
//! [`Document::finish`] returns everything that was noted, in file order. The reader of a daemon is
//! therefore straight code: read all, finish, then use.
//!
//! serde is not used: it stops at the first error and cannot say what the right keys are.

mod document;
mod error;
mod node;
mod suggest;
mod table;
mod types;
mod value;

pub use document::{Document, Position};
pub use error::{ConfigError, ConfigErrors};
pub use table::Table;
pub use types::{ByteSize, duration};
pub use value::{FromConfig, Value, choice};

#[cfg(test)]
mod tests;
