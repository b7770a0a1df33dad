//! What holds for every input of the SMTP sessions: one function for each fuzz target, which panics where a law is broken.
//!
//! The fuzzer of `tests/fuzz` calls them with what it makes up; the test suite calls them with the corpus and the former
//! findings. Each compares a session with a model that is written plainly and shares no code with it: the model walks over
//! the same octets, and says where commands and messages are, which replies must come, and what is stored.
//!
//! An input starts with a few octets that choose the configuration, the sizes of the pieces and the answers of the shell;
//! the rest is what the peer sends. Every input has a meaning.

#![allow(clippy::expect_used, clippy::unwrap_used)]

pub mod bdat;
pub mod client_session;
pub mod data_decoder;
pub mod input;
pub mod reference;
pub mod server_session;

/// A fuzz target: its name, and its laws over one input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 4] = [
    ("server_session", server_session::check),
    ("client_session", client_session::check),
    ("data_decoder", data_decoder::check),
    ("bdat", bdat::check),
];
