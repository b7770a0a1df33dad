//! See `linkmail_laws::server_session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| linkmail_laws::server_session::check(input));
