//! Whether rgunicorn would serve the library: it is loaded and the application is created, without a server.

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
    // target/debug/deps/loads-0123456789abcdef
    let test = std::env::current_exe().expect("a test has a file");
    let built = test.ancestors().nth(2).expect("cargo's layout");
    built.join("lib{crate}.so")
}

#[test]
fn rgunicorn_would_serve_it() {
    // Set in .cargo/config.toml.
    let program = std::env::var_os("RGUNICORN").unwrap_or_else(|| "rgunicorn".into());
    let mut check = Command::new(program);
    let checked = check.arg("check").arg(library()).output();
    let checked = checked.expect("rgunicorn can be run");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}
