//! Whether the class keeps its word: the conformance kit of rgunicorn, against the library.

use std::path::PathBuf;
use std::process::Command;

/// Cargo builds no library for a test of it, if only programs can load it.
fn library() -> PathBuf {
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--profile", profile]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().expect("cargo can be run").success());
    // target/debug/deps/certified-0123456789abcdef
    let test = std::env::current_exe().expect("a test has a file");
    let built = test.ancestors().nth(2).expect("cargo's layout");
    built.join("lib{crate}.so")
}

#[test]
fn the_class_is_certified() {
    // Set in .cargo/config.toml.
    let program = std::env::var_os("RGUNICORN").unwrap_or_else(|| "rgunicorn".into());
    let mut certify = Command::new(program);
    let tried = certify.args(["certify", "-k"]).arg(library()).output();
    let tried = tried.expect("rgunicorn can be run");
    let card = String::from_utf8_lossy(&tried.stdout);
    let said = String::from_utf8_lossy(&tried.stderr);
    assert!(tried.status.success(), "{card}{said}");
}
