//! See `linkmail_laws::data_decoder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| linkmail_laws::data_decoder::check(input));
