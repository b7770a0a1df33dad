//! Every reply that the server side gives, in one place: codes, enhanced codes and words.
//!
//! Codes are those of RFC 5321 4.2, RFC 1985 5.3, RFC 1870 6, RFC 3030 2, RFC 3207 4, RFC 4954 6, RFC 7504; enhanced codes
//! those of RFC 3463 and its registry.

mod decision;
mod security;
mod session;

pub use decision::*;
pub use security::*;
pub use session::*;
