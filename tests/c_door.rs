//! Applications in C: the header, and what crosses the C door, on the wire and in the log.
//!
//! What is in no example is compiled here by the system's compiler, as an author would. The contract of `inspect` for its
//! form in C is in `inspect_c.rs`. What a newcomer would get wrong: where there is no compiler these tests pass, and say
//! that they were skipped.

use std::fs;
use std::process::Command;

use harness::breakage::{self, Breakage};
use harness::compiler::{self, Compiler, include, is_there};
use harness::{Site, programs, under_each_class};

/// Every warning is an error, in each dialect that the header promises, also where it is included twice.
#[test]
fn the_header_is_clean_in_c_and_in_cplusplus() {
    let site = Site::new("header");
    let compilers = [("cc", "c"), ("clang", "c"), ("c++", "cpp"), ("clang++", "cpp")];
    let mut tried = 0;
    for (compiler, language) in compilers.into_iter().filter(|(compiler, _)| is_there(compiler)) {
        let source = format!("header.{language}");
        let hello =
            fs::read_to_string(include().join("../../examples/hello-c/hello.c")).expect("the example");
        site.write(&source, format!("#include <rgunicorn.h>\n{hello}"));
        let standards = if language == "c" { ["c99", "c11", "gnu17"] } else { ["c++17", "c++20", "gnu++20"] };
        for (standard, optimised) in standards.into_iter().flat_map(|one| [(one, "-O0"), (one, "-O2")]) {
            let mut command = Command::new(compiler);
            command.arg(format!("-std={standard}")).args([
                "-Wall",
                "-Wextra",
                "-pedantic",
                "-Werror",
                optimised,
            ]);
            command.args(["-Wshadow", "-Wconversion", "-Wcast-qual", "-fPIC", "-shared"]);
            command.arg("-I").arg(include()).arg(site.join(&source)).arg("-o").arg(site.join("header.so"));
            compiler::run(&mut command);
            tried += 1;
        }
    }
    if tried == 0 {
        eprintln!("skipped the_header_is_clean_in_c_and_in_cplusplus: no compiler");
    }
}

#[test]
fn hello_is_served_and_swapped_with_its_like_in_rust() {
    if Compiler::c("hello_is_served_and_swapped_with_its_like_in_rust").is_none() {
        return;
    }
    under_each_class(|class| {
        let site = Site::new("hello_c");
        site.install(programs().hello_c(), "app.so");
        let server = site.launch().class(class).workers(2).start();
        let said = || {
            let answer = server.get("/any");
            assert_eq!(answer.field("content-type"), Some("text/plain"));
            assert_eq!(answer.field("content-length"), Some("14"));
            assert_eq!(answer.text(), "Hello, World!\n");
        };
        said();
        for file in [programs().hello(), programs().hello_c()] {
            site.install(file, "app.so");
            server.reload_well();
            said();
        }
        server.finish();
    });
}

/// As an author would who has copied it.
#[test]
fn the_makefile_of_hello_builds_it() {
    let test = "the_makefile_of_hello_builds_it";
    if Compiler::c(test).is_none() {
        return;
    }
    if !is_there("make") {
        return eprintln!("skipped {test}: no make");
    }
    let site = Site::new("makefile");
    for name in ["hello.c", "Makefile"] {
        site.install(include().join("../../examples/hello-c").join(name), name);
    }
    let include = format!("RGUNICORN_INCLUDE={}", include().display());
    compiler::run(Command::new("make").arg(include).env_remove("MAKEFLAGS").current_dir(site.path()));
    site.mine("libhello_c.so");
    let server = site.launch().with(|settings| _ = settings.text("application", "./libhello_c.so")).start();
    assert_eq!(server.text("/"), "Hello, World!\n");
    server.finish();
}

/// What the start-up code of an application can do wrong, C or not.
fn failing_boots() -> [(&'static str, Breakage); 12] {
    [
        ("init_fails", breakage::init_fails()),
        ("init_panics", breakage::init_panics()),
        ("init_aborts", breakage::init_aborts()),
        ("init_exits", breakage::init_exits()),
        ("init_hangs", breakage::init_hangs()),
        ("start_fails", breakage::start_fails()),
        ("start_panics", breakage::start_panics()),
        ("start_exits", breakage::start_exits()),
        ("only_workers_fail", breakage::only_workers_fail()),
        ("only_workers_abort", breakage::only_workers_abort()),
        ("only_workers_exit", breakage::only_workers_exit()),
        ("name_not_in_file", breakage::name_not_in_file()),
    ]
}

#[test]
fn a_boot_that_fails_in_c_is_refused_as_any_other() {
    if Compiler::c("a_boot_that_fails_in_c_is_refused_as_any_other").is_none() {
        return;
    }
    let site = Site::new("c_boots");
    site.install(programs().inspect_c(1), "app.so");
    let mut server = site.launch().settings(&[("boot_timeout", "2")]).start();
    let sound = server.settings.clone();
    let verdict_of = |server: &mut harness::Server<'_>, name: &str, says: &[&str]| {
        let verdict = server.reload();
        let refused = verdict.starts_with("Reload refused, generation 1 serves on: ");
        assert!(refused && says.iter().all(|words| verdict.contains(words)), "{name}: {verdict}");
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1", "{name}");
    };
    for (name, breakage) in failing_boots() {
        server.configure(|settings| _ = (breakage.arrange)(&site, settings));
        verdict_of(&mut server, name, breakage.says);
        server.configure(|settings| *settings = sound.clone());
    }
    site.install(programs().bad_abi_c(), "app.so");
    verdict_of(&mut server, "bad_abi", &["app.so", "version 2.0 of the plugin interface"]);
    site.install(programs().inspect_c(2), "app.so");
    let verdict = server.reload();
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:2");
    server.expect_error("Reload refused");
    server.expect_error("inspect: asked to");
    server.expect_error("Worker");
    server.finish();
}

#[test]
fn a_first_start_that_fails_in_c_has_the_exit_code_of_any_other() {
    if Compiler::c("a_first_start_that_fails_in_c_has_the_exit_code_of_any_other").is_none() {
        return;
    }
    for (name, breakage) in failing_boots().into_iter().filter(|(_, breakage)| !breakage.hangs) {
        let site = Site::new("c_first_start");
        site.install(programs().inspect_c(1), "app.so");
        let ended = site.launch().with(|settings| _ = (breakage.arrange)(&site, settings)).start_in_vain();
        assert_eq!(ended.status.code(), Some(breakage.exit_code), "{name}: {}", ended.stderr);
        assert!(breakage.says.iter().all(|words| ended.stderr.contains(words)), "{name}: {}", ended.stderr);
    }
}
