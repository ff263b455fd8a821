//! Plugins that another compiler built, or ours with other options, serve under each other and under our programs.
//!
//! Toolchain, optimisation, link-time optimisation, panic strategy and allocator are an author's own choice. Three
//! mixtures of them are tried here; `RGUNICORN_COMPILERS=1` tries every combination, which takes the better part of an
//! hour. What a newcomer would get wrong: the allocator is not only another one. It aborts
//! when a block comes back to it that it never gave, so that each side frees what it allocated or the test fails.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::{Server, Site, programs, wait_for};

/// Who compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    /// The one that runs this test.
    Ours,
    Nightly,
    /// With fields in another order wherever Rust may choose it.
    NightlyShuffled,
}

/// How the optimiser works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    Debug,
    Release,
    /// The library is optimised as a whole.
    FatLto,
}

/// A way to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    toolchain: Toolchain,
    effort: Effort,
    /// Instead of unwinding.
    aborts: bool,
    /// With an allocator that knows its own blocks.
    marked: bool,
}

const SAMPLE: [Way; 3] = [
    Way { toolchain: Toolchain::Ours, effort: Effort::Debug, aborts: true, marked: true },
    Way { toolchain: Toolchain::Ours, effort: Effort::FatLto, aborts: false, marked: true },
    Way { toolchain: Toolchain::NightlyShuffled, effort: Effort::Release, aborts: false, marked: false },
];

fn ways() -> Vec<Way> {
    if std::env::var_os("RGUNICORN_COMPILERS").is_none() {
        return SAMPLE.to_vec();
    }
    let mut ways = Vec::new();
    for toolchain in [Toolchain::Ours, Toolchain::Nightly, Toolchain::NightlyShuffled] {
        for effort in [Effort::Debug, Effort::Release, Effort::FatLto] {
            for aborts in [false, true] {
                ways.extend([false, true].map(|marked| Way { toolchain, effort, aborts, marked }));
            }
        }
    }
    ways
}

/// What came of a build.
struct Built {
    way: Way,
    class: PathBuf,
    app: PathBuf,
}

/// Builds the two fixtures; none where the toolchain is not there.
fn build(way: Way) -> Option<Built> {
    let mut command = match way.toolchain {
        Toolchain::Ours => Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into())),
        Toolchain::Nightly | Toolchain::NightlyShuffled => {
            let there = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
            if !there.is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: {way:?}, because there is no nightly toolchain here");
                return None;
            }
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
            for ours in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
                command.env_remove(ours);
            }
            command
        }
    };
    let profile = if way.effort == Effort::Debug { "dev" } else { "release" };
    let panic = if way.aborts { "abort" } else { "unwind" };
    let lto = if way.effort == Effort::FatLto { "\"fat\"" } else { "false" };
    let test = std::env::current_exe().expect("a test has a file");
    // target/PROFILE/deps/compilers-0123456789abcdef. A folder for each way: cargo names a library by its package only.
    let name = format!("{:?}-{:?}-{panic}-{}", way.toolchain, way.effort, way.marked).to_lowercase();
    let target =
        test.ancestors().nth(3).expect("cargo's layout").join("rgunicorn-tests/compilers").join(name);
    command.args(["build", "--offline", "--quiet", "--manifest-path", "tests/fixtures/Cargo.toml"]);
    command.args([
        "-p",
        "rgunicorn-fixture-exchange",
        "-p",
        "rgunicorn-fixture-minimal-class",
        "--profile",
        profile,
    ]);
    if way.marked {
        command
            .args(["--features", "rgunicorn-fixture-exchange/marked,rgunicorn-fixture-minimal-class/marked"]);
    }
    command.arg("--config").arg(format!("profile.{profile}.panic=\"{panic}\""));
    command.arg("--config").arg(format!("profile.{profile}.lto={lto}"));
    // What another compiler warns of is no matter here.
    let shuffled = if way.toolchain == Toolchain::NightlyShuffled { " -Zrandomize-layout" } else { "" };
    command.env("RUSTFLAGS", format!("--cap-lints=warn{shuffled}"));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).env("CARGO_TARGET_DIR", &target);
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    let built = target.join(if way.effort == Effort::Debug { "debug" } else { "release" });
    Some(Built { way, class: built.join("libfx_minimal_class.so"), app: built.join("libfx_exchange.so") })
}

/// Starts a server; the class `sync` where none is given.
fn start<'s>(site: &'s Site, class: Option<&PathBuf>, app: &PathBuf, name: &str) -> Server<'s> {
    site.install(app, "app.so");
    site.install(class.unwrap_or(&programs().sync()), "class.so");
    let launch = site.launch().with(|settings| {
        settings.text("worker_class", "./class.so").text("application", &format!("app.so:{name}"));
    });
    launch.start()
}

/// What crosses: bodies both ways, trailers, interim answers, futures that are woken from another thread, and panics.
fn serve(class: Option<&Built>, app: Option<&Built>) {
    let theirs = app.map_or(programs().fixture("exchange"), |built| built.app.clone());
    let aborts = app.is_some_and(|built| built.way.aborts);
    for name in ["app", "blocking"] {
        eprintln!("{name} of {:?} under {:?}", app.map(|built| built.way), class.map(|built| built.way));
        let site = Site::new("compilers");
        let mut server = start(&site, class.map(|built| &built.class), &theirs, name);
        for _ in 0..20 {
            assert_eq!(server.text("/early"), "early");
            let request = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nWikipedia";
            let heard = server.address().converse(request, harness::Pace::Whole).expect("an answer");
            assert_eq!(heard.response("POST").expect("a whole answer").text(), "9 11e60398");
        }
        assert_eq!(server.get("/no-such-route").status, 404);
        if name == "app" {
            assert_eq!(server.text("/pending"), "woken");
            let old = server.workers()[0];
            if aborts {
                assert!(server.address().get("/panic").is_err(), "the worker dies");
                server.wait_gone(old);
                server.expect_error("SIGABRT");
                wait_for("a new worker", || matches!(server.workers().as_slice(), [new] if *new != old));
            } else {
                assert_eq!(server.get("/panic").status, 500);
                assert_eq!(server.get("/panic-later").status, 500);
                assert_eq!(server.workers(), [old]);
                server.expect_error("GET /panic");
            }
            // Whoever dies says so first.
            server.expect_error("panicked");
            assert_eq!(server.text("/pending"), "woken");
        }
        server.finish();
    }
    // A text that one side allocates and the other reads, and gives back.
    let site = Site::new("compilers");
    site.install(&theirs, "app.so");
    let words = "not today".repeat(100);
    let launch = site.launch().with(|settings| _ = settings.list("raw_env", &[format!("FX_FAIL={words}")]));
    let ended = launch.start_in_vain();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
    assert!(ended.stderr.ends_with(&format!("app.so:app failed to load: {words}\n")), "{}", ended.stderr);
}

#[test]
fn builds_of_every_kind_serve_under_each_other() {
    let built: Vec<Built> = ways().into_iter().filter_map(build).collect();
    for (index, one) in built.iter().enumerate() {
        serve(None, Some(one));
        serve(Some(one), None);
        serve(Some(one), Some(&built[(index + 1) % built.len()]));
    }
}
