//! Turns the environment variables that choose a variant of `inspect` into what its source can ask for.
//!
//! `INSPECT_BAD_ABI=1` becomes `cfg(inspect_bad_abi)`, because it decides which symbols exist. `INSPECT_VERSION` is
//! read by the source itself; here it is only named, so that a build with another value is a build.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=INSPECT_VERSION");
    println!("cargo::rerun-if-env-changed=INSPECT_BAD_ABI");
    println!("cargo::rustc-check-cfg=cfg(inspect_bad_abi)");
    if std::env::var_os("INSPECT_BAD_ABI").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=inspect_bad_abi");
    }
}
