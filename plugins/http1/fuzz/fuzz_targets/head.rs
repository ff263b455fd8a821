//! The properties of `src/head.rs`, for the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rgunicorn_http1_fuzz::head::holds(input));
