//! See `linkmail_laws::bdat`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| linkmail_laws::bdat::check(input));
