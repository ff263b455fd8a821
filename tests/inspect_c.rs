//! The contract of `inspect` for its form in C: every test of `inspect.rs` once more, with `libinspect_c.so`.
//!
//! Owns nothing of its own. What a newcomer would get wrong: what differs is decided there, by the name of this test.

#[path = "inspect.rs"]
mod inspect;
