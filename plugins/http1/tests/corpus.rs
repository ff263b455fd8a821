//! The fuzz targets without a fuzzer: each input that is kept in `fuzz/kept` is tried once more.
//!
//! Owns nothing of the properties: they are the files that the fuzz targets are made of. What a newcomer would get
//! wrong: the panics above the last one are the findings, each with what was broken; the last one names the inputs.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a crate of its own as well")]
mod properties;

use properties::kept;

/// Tries every input of a target; all of them, also after one that fails.
fn replay(target: &str, holds: fn(&[u8])) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/kept").join(format!("{target}.txt"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(!text.is_empty(), "{}: there is no input", file.display());
    let mut broken = Vec::new();
    for line in text.lines() {
        let input = kept::from_line(line).unwrap_or_else(|| panic!("{}: what is {line}?", file.display()));
        assert_eq!(kept::to_line(&input), line, "{}", file.display());
        if catch_unwind(|| holds(&input)).is_err() {
            broken.push(line);
        }
    }
    assert!(broken.is_empty(), "{target}: these inputs break a property:\n{}", broken.join("\n"));
}

#[test]
fn any_head() {
    replay("head", properties::head::holds);
}

#[test]
fn any_body() {
    replay("body", properties::body::holds);
}

#[test]
fn any_response() {
    replay("response", properties::response::holds);
}

#[test]
fn any_connection() {
    replay("exchange", properties::exchange::holds);
}

#[test]
fn any_proxy_header() {
    replay("proxy", properties::proxy::holds);
}
