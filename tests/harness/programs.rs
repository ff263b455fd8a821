//! The programs under test: built once for a test run, the broken ones included.
//!
//! Owns the calls of cargo, and where the results lie. Everything is built by the toolchain and
//! in the profile of the running test. What a newcomer would get wrong: each test file is a process of its own, and
//! several may run at a time, so a file lock lets one of them build, and a stamp tells the others of the same `cargo
//! test` that it was done.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::getppid;

use crate::classes::Class;

/// Where everything lies.
#[derive(Debug)]
pub struct Programs {
    /// Cargo's directory of the profile: the binary, and the plugins beside it.
    built: PathBuf,
    /// Plugins that are built in variants.
    variants: PathBuf,
}

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The programs, built if they are not yet.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(Programs::build)
}

impl Programs {
    /// The server.
    pub fn rgunicorn(&self) -> PathBuf {
        self.built.join("rgunicorn")
    }

    /// What an alias of cargo runs.
    pub fn xtask(&self) -> PathBuf {
        self.built.join("xtask")
    }

    /// The worker class `sync`.
    pub fn sync(&self) -> PathBuf {
        self.built.join("libsync.so")
    }

    /// A worker class of the workspace.
    pub fn class(&self, class: Class) -> PathBuf {
        self.built.join(format!("lib{}.so", class.name))
    }

    /// The application that a newcomer copies.
    pub fn hello(&self) -> PathBuf {
        self.built.join("libhello.so")
    }

    /// The same in C; there only if there is a C compiler.
    pub fn hello_c(&self) -> PathBuf {
        self.built.join("libhello_c.so")
    }

    /// The one in C++ that throws; there only if there is a C++ compiler.
    pub fn hello_cpp(&self) -> PathBuf {
        self.built.join("libhello_cpp.so")
    }

    /// The async application made by hand.
    pub fn downstream(&self) -> PathBuf {
        self.built.join("libdownstream.so")
    }

    /// An application of the workspace: `axum` for the one in `examples/axum`.
    pub fn example(&self, name: &str) -> PathBuf {
        self.built.join(format!("lib{name}.so"))
    }

    /// The test application as it is written with axum.
    pub fn inspect_axum(&self) -> PathBuf {
        self.example("inspect_axum")
    }

    /// The application that serves files.
    pub fn files(&self) -> PathBuf {
        self.built.join("libstatic.so")
    }

    /// The test application that says it is of version 1 or 2.
    pub fn inspect(&self, version: u32) -> PathBuf {
        match version {
            1 => self.built.join("libinspect.so"),
            2 => self.variants.join("libinspect_v2.so"),
            other => panic!("inspect is built as version 1 and 2, not {other}"),
        }
    }

    /// The same in C; there only if there is a C compiler.
    pub fn inspect_c(&self, version: u32) -> PathBuf {
        match version {
            1 => self.built.join("libinspect_c.so"),
            2 => self.variants.join("libinspect_c_v2.so"),
            other => panic!("inspect is built as version 1 and 2, not {other}"),
        }
    }

    /// An application in C of a version of the interface that no server knows; there only if there is a C compiler.
    pub fn bad_abi_c(&self) -> PathBuf {
        self.variants.join("libinspect_c_badabi.so")
    }

    /// An application of a version of the interface that no server knows.
    pub fn bad_abi(&self) -> PathBuf {
        self.variants.join("libinspect_badabi.so")
    }

    /// A plugin of the workspace in `tests/fixtures`: `exchange` for `libfx_exchange.so`.
    pub fn fixture(&self, name: &str) -> PathBuf {
        self.built.join(format!("libfx_{name}.so"))
    }

    /// Fixtures built by the nightly toolchain; none if there is no such toolchain here.
    pub fn nightly_fixtures(&self, packages: &[&str]) -> Option<PathBuf> {
        let rustup = |words: &[&str]| {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly"]).args(words).current_dir(ROOT).env_remove("RUSTUP_TOOLCHAIN");
            command
        };
        let there = rustup(&["rustc", "--version"]).stdin(Stdio::null()).output();
        if !there.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let target = self.nightly();
        let mut command = rustup(&["cargo", "build", "--manifest-path", "tests/fixtures/Cargo.toml"]);
        command.env("CARGO_TARGET_DIR", &target);
        for package in packages {
            command.args(["--package", &format!("rgunicorn-fixture-{package}")]);
        }
        run(&mut command);
        Some(target.join("debug"))
    }

    /// The target folder of whatever is built by the nightly toolchain.
    pub fn nightly(&self) -> PathBuf {
        self.variants.with_file_name("nightly")
    }

    /// The target folder of what is built in variants, by our toolchain and without debug information.
    pub fn others(&self) -> PathBuf {
        self.variants.with_file_name("build")
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        self.built.parent().expect("a profile's directory lies in the target folder")
    }

    fn build() -> Self {
        let test = std::env::current_exe().expect("a test has a file");
        // target/PROFILE/deps/boot-0123456789abcdef
        let built = test.ancestors().nth(2).expect("cargo's layout").to_owned();
        let profile = built.file_name().and_then(OsStr::to_str).expect("a profile").to_owned();
        let target = built.parent().expect("a target directory").to_owned();
        let ours = target.join("rgunicorn-tests");
        let variants = ours.join(&profile);
        fs::create_dir_all(&variants).expect("a directory below target");
        let lock = File::create(ours.join("lock")).expect("a lock file");
        let _locked = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock");
        let programs = Self { built, variants };
        let stamp = programs.variants.join("stamp");
        let run = test_run();
        if run.is_none() || fs::read_to_string(&stamp).ok() != run {
            programs.build_all(&profile, &target, &programs.others());
            fs::write(&stamp, run.unwrap_or_default()).expect("the stamp");
        }
        programs
    }

    fn build_all(&self, profile: &str, target: &Path, other: &Path) {
        cargo(profile, target, &["--workspace", "--exclude", "rgunicorn-tests"], &[]);
        let inspect = &["--package", "rgunicorn-example-inspect", "--package", "rgunicorn-examples-c"];
        for (variable, value, variant) in [("INSPECT_VERSION", "2", "v2"), ("INSPECT_BAD_ABI", "1", "badabi")]
        {
            cargo(profile, other, inspect, &[(variable, value), ("CARGO_PROFILE_DEV_DEBUG", "0")]);
            for name in ["libinspect", "libinspect_c"] {
                let built = other.join(profile).join(format!("{name}.so"));
                // Without a C compiler there is no second one.
                if name == "libinspect" || built.exists() {
                    copy(&built, &self.variants.join(format!("{name}_{variant}.so")));
                }
            }
        }
        // Beside the programs, since most of what they depend on is the same.
        cargo(profile, target, &["--manifest-path", "tests/fixtures/Cargo.toml"], &[]);
    }
}

/// What is the same for all test processes of one `cargo test`, and for no other: the process id of cargo, and when
/// it began. None if something else has started this process.
fn test_run() -> Option<String> {
    let parent = getppid();
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).ok()?;
    let (name, after) = stat.rsplit_once(')')?;
    let begun = after.split_ascii_whitespace().nth(19)?;
    name.ends_with("(cargo").then(|| format!("{parent} {begun}"))
}

fn cargo(profile: &str, target: &Path, what: &[&str], variables: &[(&str, &str)]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.arg("build").args(what).current_dir(ROOT);
    match profile {
        "debug" => {}
        "release" => {
            command.arg("--release");
        }
        other => {
            command.args(["--profile", other]);
        }
    }
    command.env("CARGO_TARGET_DIR", target).env_remove("INSPECT_VERSION").env_remove("INSPECT_BAD_ABI");
    run(command.envs(variables.iter().copied()));
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Another test process may be reading the old file.
fn copy(from: &Path, to: &Path) {
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    fs::rename(&temporary, to).expect("a rename within a directory");
}
