//! Message data on the wire: dot-stuffing both ways, and where it ends (RFC 5321 4.5.2, 4.1.1.4).
//!
//! Only CRLF ends a line and only CRLF.CRLF ends data. A bare CR, a bare LF and a NUL are faults: they are never
//! repaired, never stored and never sent.

mod decoder;
mod encoder;
mod text;

use std::fmt;

pub use decoder::{DataDecoder, DataState, Decoded};
pub use encoder::{BadBody, DataEncoder};
pub use text::TextCheck;

/// A byte that may not be in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A carriage return that no line feed follows.
    BareCr,
    /// A line feed that no carriage return precedes.
    BareLf,
    /// A NUL.
    Nul,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::BareCr => "bare <CR>",
            Fault::BareLf => "bare <LF>",
            Fault::Nul => "<NUL>",
        })
    }
}
