//! Applications in C: the header, the examples, the tables of other versions and of other languages, and refusals.
//!
//! What is in no example is compiled here by the system's compiler, as an author would. What an exchange can do is in
//! `c_exchange.rs`, the contract of `inspect` for its form in C in `inspect_c.rs`. What a newcomer would get wrong:
//! where there is no compiler these tests pass, and say that they were skipped.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::breakage::{self, Breakage};
use harness::classes::classes;
use harness::compiler::{self, Compiler, include, is_there};
use harness::{Failure, Pace, Site, programs, under_each_class};

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

/// Staged as a packager does it, found by pkg-config where that is installed, and enough to compile with.
#[test]
fn the_header_is_installed_with_its_pkg_config_file() {
    let test = "the_header_is_installed_with_its_pkg_config_file";
    let Some(compiler) = Compiler::c(test) else { return };
    let site = Site::new(test);
    let staged = site.join("staged");
    // What the alias says, without a build of its own: alone, the package's dependencies have fewer features.
    let aliases = include().join("../../.cargo/config.toml");
    let alias =
        "\ninstall-header = \"run --quiet --package xtask --no-default-features -- install-header\"\n";
    assert!(
        fs::read_to_string(aliases).expect("it is there").contains(alias),
        "the alias says something else"
    );
    let install = |words: &[&str]| {
        let mut command = Command::new(programs().xtask());
        command.arg("install-header").args(words).current_dir(include());
        command
    };
    compiler::run(install(&["--prefix", "/opt/x", "--destdir"]).arg(&staged));
    let package = staged.join("opt/x/lib/pkgconfig");
    let text = fs::read_to_string(package.join("rgunicorn.pc")).expect("it was installed");
    assert!(text.contains("prefix=/opt/x\n") && text.contains("\nVersion: 1.0.0\n"), "{text}");
    assert!(!text.contains('@'), "{text}");
    let header = staged.join("opt/x/include");
    assert_eq!(
        fs::read(header.join("rgunicorn.h")).expect("it was installed"),
        fs::read(include().join("rgunicorn.h")).expect("it is there")
    );
    if is_there("pkg-config") {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", &package).env("PKG_CONFIG_SYSROOT_DIR", &staged);
        let flags = compiler::run(command.args(["--cflags", "rgunicorn >= 1.0"]));
        assert_eq!(flags.trim(), format!("-I{}", header.display()));
        compiler.library_with(
            flags.trim(),
            "examples/hello-c/hello.c",
            &site.join("hello.so"),
            &["-std=c99"],
        );
    } else {
        eprintln!("skipped a part of {test}: no pkg-config");
    }
    for wrong in [&["--wrong"][..], &["--prefix"], &["--prefix", "relative"]] {
        let output = install(wrong).output().expect("it runs");
        assert!(!output.status.success(), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("xtask: --"), "{wrong:?}: {output:?}");
    }
}

/// The application that docs/C.md shows, as it stands there.
#[test]
fn the_guides_application_serves() {
    let test = "the_guides_application_serves";
    let Some(compiler) = Compiler::c(test) else { return };
    let page = fs::read_to_string(include().join("../../docs/C.md")).expect("the guide");
    let source = page.split_once("\n```c\n").and_then(|(_, rest)| rest.split_once("\n```\n"));
    let (source, _) = source.expect("an application in the guide");
    let site = Site::new(test);
    site.write("mirror.c", format!("{source}\n"));
    let path = site.join("mirror.c").display().to_string();
    compiler.library(&path, &site.join("app.so"), &["-std=c99"]);
    site.mine("app.so");
    let mut server = site.launch().with(|settings| _ = settings.append("[app.app]\nlimit = 5\n")).start();
    server.wait_log("mirror: up to 5 octets");
    let post = |body: &str| {
        let length = body.len();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        let heard = server.address().converse(request.as_bytes(), Pace::Whole).expect("it listens");
        heard.response("POST")
    };
    assert_eq!(post("hello").expect("an answer").text(), "hello");
    assert_eq!(server.get("/").status, 405);
    // Nothing was sent yet when it failed.
    assert_eq!(post("hello, world").expect("an answer").status, 500);
    server.expect_error("mirror: the body is over the limit");
    server.expect_error("the application failed");
    server.finish();
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

/// What the start-up code of an application can do wrong, C or not; but hang, which is `boot_timeout`'s matter.
fn failing_boots() -> [(&'static str, Breakage); 11] {
    [
        ("init_fails", breakage::init_fails()),
        ("init_panics", breakage::init_panics()),
        ("init_aborts", breakage::init_aborts()),
        ("init_exits", breakage::init_exits()),
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
    let mut server = site.launch().start();
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
    server.reload_well();
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
    for (name, breakage) in failing_boots() {
        let site = Site::new("c_first_start");
        site.install(programs().inspect_c(1), "app.so");
        let ended = site.launch().with(|settings| _ = (breakage.arrange)(&site, settings)).start_in_vain();
        assert_eq!(ended.status.code(), Some(breakage.exit_code), "{name}: {}", ended.stderr);
        assert!(breakage.says.iter().all(|words| ended.stderr.contains(words)), "{name}: {}", ended.stderr);
    }
}

/// An application of an older header lacks functions, and one of a newer header has more than this server knows.
#[test]
fn older_and_newer_tables_are_served() {
    let test = "older_and_newer_tables_are_served";
    let Some(compiler) = Compiler::c(test) else { return };
    for (variant, ends_with) in [("PAST", "ready"), ("NEXT", "destroy")] {
        let site = Site::new(test);
        door(&site, compiler, variant);
        site.mine("trace");
        let trace = format!("DOOR_TRACE={}", site.join("trace").display());
        let server = site.launch().with(|settings| _ = settings.list("raw_env", &[trace])).start();
        assert_eq!(server.text("/"), "app", "{variant}");
        server.finish();
        let trace = site.read("trace");
        assert!(trace.lines().last().is_some_and(|line| line.starts_with(ends_with)), "{variant}: {trace}");
    }
}

/// Compiles a variant of the fixture to `app.so`.
fn door(site: &Site, compiler: Compiler, variant: &str) {
    let variant = format!("-DDOOR={variant}");
    let options = ["-std=c99", &variant, "-Wno-unused"];
    compiler.library("tests/fixtures/c/door.c", &site.join("new.so"), &options);
    fs::rename(site.join("new.so"), site.join("app.so")).expect("a rename within a directory");
    site.mine("app.so");
}

#[test]
fn a_table_that_cannot_be_used_is_refused_in_one_sentence() {
    let test = "a_table_that_cannot_be_used_is_refused_in_one_sentence";
    let Some(compiler) = Compiler::c(test) else { return };
    let site = Site::new(test);
    door(&site, compiler, "NOW");
    let mut server = site.launch().start();
    let app = site.join("app.so").display().to_string();
    for (variant, says) in [
        ("NO_HANDLE", "its application 'app' has no function `handle`; set it in its rgunicorn_app"),
        (
            "UNKNOWN_FLAG",
            "its application 'app' has the flags 0x100000, which this version does not know; upgrade rgunicorn",
        ),
        (
            "UNSIZED",
            "its table 'rgunicorn_app' says that it has 0 octets, and none of version 1 has less than 48; set \
             struct_size to the sizeof of the struct, and rebuild it",
        ),
        (
            "UNKNOWN_KIND",
            "its application 'app' is of the kind 7, which this version does not know in C; declare it BLOCKING or \
             INLINE",
        ),
        (
            "OTHER_MAJOR",
            "its table is of version 2.0 of the C interface, and this rgunicorn speaks 1.0; rebuild it with \
             rgunicorn.h of version 1",
        ),
        ("UNNAMED", "an entry of its table has no name or no rgunicorn_app; use RGUNICORN_EXPORT"),
        (
            "UNSIZED_LIBRARY",
            "its table 'rgunicorn_library' says that it has 3 octets, and none of version 1 has less than 32; set \
             struct_size to the sizeof of the struct, and rebuild it",
        ),
        (
            "UNKNOWN_DOOR",
            "its door is 'wasm', which this version does not know for this kind of plugin; upgrade rgunicorn",
        ),
        (
            "ONLY_A_NOTE",
            "it has the note of an application, but not the symbol RGUNICORN_C_APP_V1 that belongs to it; rebuild it, and keep its dynamic symbols",
        ),
        (
            "ABSENT_NAME",
            "it has no application named 'app'; it has: none of that name, whatever its note says; write FILE:NAME \
             with one of these",
        ),
    ] {
        // The sizes are those of a 64-bit machine.
        let sized = says.contains("octets") && size_of::<usize>() != 8;
        door(&site, compiler, variant);
        let verdict = server.reload();
        let expected =
            format!("Reload refused, generation 1 serves on: cannot load the application {app}: {says}");
        assert!(verdict == expected || sized, "{variant}:\n{verdict}\n{expected}");
        assert_eq!(server.text("/"), "app");
    }
    server.expect_error("Reload refused");
    server.finish();
}

/// What is thrown inside is caught inside: an answer, or a deployment that is refused.
#[test]
fn exceptions_of_cplusplus_end_at_the_border() {
    if Compiler::cpp("exceptions_of_cplusplus_end_at_the_border").is_none() {
        return;
    }
    under_each_class(|class| {
        let site = Site::new("hello_cpp");
        site.install(programs().hello_cpp(), "app.so");
        let mut server = site.launch().class(class).start();
        let worker = server.workers();
        assert_eq!(server.text("/world"), "Hello from /world\n");
        for (target, says) in [
            ("/throw", "the application failed: hello-cpp: asked to throw"),
            ("/throw-number", "the application failed: an exception that is no std::exception"),
        ] {
            assert_eq!(server.get(target).status, 500);
            server.wait_log(says);
        }
        assert_eq!(server.workers(), worker, "an exception is no death");
        let sound = server.settings.clone();
        let greet = |server: &mut harness::Server<'_>, with: &str| {
            let settings = format!("[app.app]\ngreeting = \"{with}\"\n");
            server.configure(|there| {
                *there = sound.clone();
                there.append(&settings);
            });
        };
        greet(&mut server, &"x".repeat(101));
        let verdict = server.reload();
        let why = "failed to load: the setting 'greeting' has more than 100 octets; shorten it";
        assert!(verdict.starts_with("Reload refused") && verdict.contains(why), "{verdict}");
        greet(&mut server, "Good morning");
        server.reload_well();
        assert_eq!(server.text("/"), "Good morning from /\n");
        server.expect_error("/throw");
        server.expect_error("the application failed");
        server.expect_error("Reload refused");
        server.finish();
    });
}

/// What is thrown out of the library all the same takes one worker with it, and nothing else.
#[test]
fn an_exception_that_leaves_is_a_dead_worker() {
    let test = "an_exception_that_leaves_is_a_dead_worker";
    let Some(compiler) = Compiler::cpp(test) else { return };
    under_each_class(|class| {
        let site = Site::new(test);
        compiler.library("tests/fixtures/c/escape.cpp", &site.join("app.so"), &["-std=c++17"]);
        site.mine("app.so");
        let mut server = site.launch().class(class).start();
        let worker = server.workers()[0];
        let answer = server.address().get("/throw");
        assert!(matches!(answer, Err(Failure::Truncated(_) | Failure::Reset)), "{answer:?}");
        server.wait_gone(worker);
        assert_eq!(server.text("/"), "whole");
        server.wait_log("SIGABRT");
        server.expect_error("SIGABRT");
        server.expect_error("Rust cannot catch foreign exceptions");
        server.finish();
    });
}

/// In other languages the functions are theirs, and a few lines of C are the door.
#[test]
fn hello_in_zig_is_served() {
    let test = "hello_in_zig_is_served";
    if !is_there("zig") {
        return eprintln!("skipped {test}: no zig");
    }
    let site = Site::new(test);
    let sources = ["hello.zig", "door.c"].map(|name| fixtures("zig").join(name));
    let mut command = Command::new("zig");
    command
        .args(["build-lib", "-dynamic", "-lc", "-O", "ReleaseSafe", "-femit-bin=app.so", "-I"])
        .arg(include());
    command.args(["--cache-dir", "cache", "--global-cache-dir", "cache"]);
    compiler::run(command.args(sources).current_dir(site.path()));
    serves_hello(&site);
}

#[test]
fn hello_in_go_is_served() {
    let test = "hello_in_go_is_served";
    if !is_there("go") {
        return eprintln!("skipped {test}: no go");
    }
    if Compiler::c(test).is_none() {
        return;
    }
    let site = Site::new(test);
    let mut command = Command::new("go");
    command.args(["build", "-buildvcs=false", "-buildmode=c-shared", "-o"]).arg(site.join("app.so"));
    command.env("CGO_ENABLED", "1").env("CGO_CFLAGS", format!("-I{}", include().display()));
    command.env("GOCACHE", site.join("cache")).env("GOPATH", site.join("cache")).env("GOFLAGS", "");
    // Nothing is to be fetched.
    command.env("GOPROXY", "off").env("GOTOOLCHAIN", "local");
    compiler::run(command.current_dir(fixtures("go")));
    serves_hello(&site);
}

/// The directory's `app.so`, under each class, also swapped.
fn serves_hello(site: &Site) {
    let _ = fs::remove_dir_all(site.join("cache"));
    for name in ["app.so", "app.h", "app.so.o"] {
        site.mine(name);
    }
    for class in classes() {
        eprintln!("under {}", class.name);
        let server = site.launch().class(class).start();
        assert_eq!(server.text("/"), "Hello, World!\n");
        server.reload_well();
        assert_eq!(server.text("/"), "Hello, World!\n");
        server.finish();
    }
}

fn fixtures(name: &str) -> PathBuf {
    include().join("../../tests/fixtures").join(name)
}
