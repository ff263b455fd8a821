//! The properties of `src/exchange.rs`, for the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rgunicorn_http1_fuzz::exchange::holds(input));
