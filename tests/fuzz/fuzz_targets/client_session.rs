//! See `linkmail_laws::client_session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| linkmail_laws::client_session::check(input));
