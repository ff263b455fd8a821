//! The system's compilers for C and C++, for libraries that are made without Rust.
//!
//! Owns their command lines. What a newcomer would get wrong: a machine without one is no failure; the test says by its
//! name that it was skipped, and returns.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A compiler that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiler(&'static str);

impl Compiler {
    /// The C compiler, `cc`; says that the test is skipped if there is none.
    pub fn c(test: &str) -> Option<Self> {
        Self::find("cc", test)
    }

    /// The C++ compiler, `c++`; says that the test is skipped if there is none.
    pub fn cpp(test: &str) -> Option<Self> {
        Self::find("c++", test)
    }

    fn find(name: &'static str, test: &str) -> Option<Self> {
        if is_there(name) {
            return Some(Self(name));
        }
        eprintln!("skipped {test}: no compiler {name}");
        None
    }

    /// Compiles a shared library from a source of the repository, with every warning an error.
    ///
    /// # Panics
    /// If it does not compile; with the compiler's words.
    #[track_caller]
    pub fn library(self, source: &str, file: &Path, options: &[&str]) {
        self.library_with(&format!("-I{}", include().display()), source, file, options);
    }

    /// The same with another word for where the header is.
    ///
    /// # Panics
    /// As [`Self::library`].
    #[track_caller]
    pub fn library_with(self, header: &str, source: &str, file: &Path, options: &[&str]) {
        let mut command = Command::new(self.0);
        command.args(["-O1", "-g1", "-fPIC", "-shared", "-Wall", "-Wextra", "-pedantic", "-Werror", header]);
        command.args(options).arg(Path::new(ROOT).join(source)).arg("-o").arg(file);
        run(&mut command);
    }
}

/// Where `rgunicorn.h` is.
pub fn include() -> PathBuf {
    Path::new(ROOT).join("worker-api/include")
}

/// Whether a program answers to `--version` (or `version`, as Go and Zig do).
pub fn is_there(program: impl AsRef<OsStr>) -> bool {
    ["--version", "version"].iter().any(|word| {
        let output = Command::new(program.as_ref()).arg(word).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    })
}

/// Runs a command that must succeed; returns what it printed.
///
/// # Panics
/// If it does not; with its words.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
