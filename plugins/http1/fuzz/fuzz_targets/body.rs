//! The properties of `src/body.rs`, for the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rgunicorn_http1_fuzz::body::holds(input));
