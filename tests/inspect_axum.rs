//! The contract of `inspect` once more, kept by an application that is written with axum (`examples/inspect-axum`).
//!
//! Owns nothing: the tests are those of `inspect.rs`, with the other library in its place. What a newcomer would get
//! wrong: where the two must differ, such as in the file that a panic names, and what is left out because it is the
//! server's alone, is said there.

#[path = "inspect.rs"]
mod contract;
