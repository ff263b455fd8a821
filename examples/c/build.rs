//! Compiles the examples in C and C++ with the system's compilers into cargo's directory of the profile.
//!
//! Owns their command lines. Links nothing into a Rust library: what comes out is what a C author's own build would
//! make. What a newcomer would get wrong: a machine without a compiler, or that builds for another one, is no failure;
//! the library is skipped, and a warning names it.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library: its name, its language, its directory beside this one, its sources there.
const LIBRARIES: &[(&str, &Language, &str, &[&str])] = &[
    ("hello_c", &C, "hello-c", &["hello.c"]),
    ("inspect_c", &C, "inspect-c", &["inspect.c", "initialise.c", "octets.c"]),
    ("hello_cpp", &CPP, "hello-cpp", &["hello.cpp"]),
];

/// How a language is compiled.
struct Language {
    /// The variable that names the compiler, and what it is otherwise.
    compiler: (&'static str, &'static str),
    standard: &'static str,
}

const C: Language = Language { compiler: ("CC", "cc"), standard: "-std=c99" };
const CPP: Language = Language { compiler: ("CXX", "c++"), standard: "-std=c++17" };

/// Variables that choose a variant, each a macro of the same name in the source.
const VARIANTS: &[&str] = &["INSPECT_VERSION", "INSPECT_BAD_ABI"];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let include = here.join("../../worker-api/include");
    println!("cargo::rerun-if-changed={}", here.join("build.rs").display());
    println!("cargo::rerun-if-changed={}", include.join("rgunicorn.h").display());
    for name in VARIANTS.iter().chain(&["CC", "CXX"]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // target/PROFILE/build/PACKAGE-HASH/out
    let out = PathBuf::from(variable("OUT_DIR")?);
    let profile = out.ancestors().nth(3).ok_or("OUT_DIR is not where cargo has it")?.to_owned();
    for (name, language, directory, sources) in LIBRARIES {
        let file = profile.join(format!("lib{name}.so"));
        println!("cargo::rerun-if-changed={}", here.join("..").join(directory).display());
        match language.found()? {
            Ok(compiler) => {
                let sources = sources.iter().map(|source| here.join("..").join(directory).join(source));
                language.compile(&compiler, &include, sources.collect(), &out.join(name), &file)?;
            }
            Err(why) => println!("cargo::warning=skipped lib{name}.so: {why}"),
        }
    }
    Ok(())
}

impl Language {
    /// The compiler and the words that come first (`CC="ccache gcc"`), or why there is none.
    fn found(&self) -> Result<Result<Vec<String>, String>, Box<dyn Error>> {
        let (variable_name, default) = self.compiler;
        let named = env::var(variable_name).unwrap_or_default();
        if named.trim().is_empty() && variable("HOST")? != variable("TARGET")? {
            return Ok(Err(format!("built for another machine; set {variable_name} to a compiler for it")));
        }
        let named = if named.trim().is_empty() { default } else { named.as_str() };
        let compiler: Vec<String> = named.split_whitespace().map(str::to_owned).collect();
        if Command::new(&compiler[0]).args(&compiler[1..]).arg("--version").output().is_err() {
            return Ok(Err(format!("no compiler {named}")));
        }
        Ok(Ok(compiler))
    }

    /// Compiles beside the library first: whoever runs the old one must not see half of the new one.
    fn compile(
        &self,
        compiler: &[String],
        include: &Path,
        sources: Vec<PathBuf>,
        temporary: &Path,
        file: &Path,
    ) -> Result<(), Box<dyn Error>> {
        let mut command = Command::new(&compiler[0]);
        command.args(&compiler[1..]);
        command.args([self.standard, "-fPIC", "-shared", "-fvisibility=hidden", "-g1"]);
        command.args(["-Wall", "-Wextra", "-pedantic"]);
        command.arg(format!("-O{}", if variable("OPT_LEVEL")? == "0" { "1" } else { "2" }));
        for name in VARIANTS {
            if let Some(value) = env::var(name).ok().filter(|value| !value.is_empty()) {
                command.arg(format!("-D{name}={value}"));
            }
        }
        command.arg("-I").arg(include).args(sources).arg("-o").arg(temporary);
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("{command:?}:\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        let beside = file.with_extension("so.new");
        fs::copy(temporary, &beside)?;
        fs::rename(&beside, file)?;
        Ok(())
    }
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"))
}
