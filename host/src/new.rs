//! `rgunicorn new`: a project that builds, has a test, and is served with one command, which is printed.
//!
//! Owns the names, where the interface is found, and the hints. The files are templates in `new/`, in which `{name}` and
//! the like are filled in. What a newcomer would get wrong: the hints are an interface. Every line of them that begins with
//! two spaces is a command that works as it stands, and a test does nothing but what they say.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{EXIT_SETTINGS, StartError, io_text};

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which kind of project.
    pub kind: Kind,
    /// The name of the package, and of its directory.
    pub name: String,
    /// The source tree of rgunicorn, in which the interface is found.
    pub source: Option<PathBuf>,
}

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An application in Rust.
    App,
    /// An application in C.
    CApp,
    /// A worker class in Rust.
    Worker,
}

/// A file of a template: where it goes, and what is in it.
type File = (&'static str, &'static str);

const COMMON: &[File] = &[
    (".cargo/config.toml", include_str!("new/cargo_config.toml.in")),
    (".gitignore", include_str!("new/gitignore.in")),
];

const APP: &[File] = &[
    ("Cargo.toml", include_str!("new/app/Cargo.toml.in")),
    ("src/lib.rs", include_str!("new/app/src/lib.rs")),
    ("tests/loads.rs", include_str!("new/app/tests/loads.rs")),
];

const C_APP: &[File] = &[
    ("Makefile", include_str!("new/c/Makefile.in")),
    ("{crate}.c", include_str!("new/c/app.c.in")),
    (".gitignore", include_str!("new/c/gitignore.in")),
    ("rgunicorn.h", include_str!("../../worker-api/include/rgunicorn.h")),
];

const WORKER: &[File] = &[
    ("Cargo.toml", include_str!("new/worker/Cargo.toml.in")),
    ("src/lib.rs", include_str!("new/worker/src/lib.rs")),
    ("src/future.rs", include_str!("new/worker/src/future.rs")),
    ("src/socket.rs", include_str!("new/worker/src/socket.rs")),
    ("tests/certified.rs", include_str!("new/worker/tests/certified.rs")),
];

/// The packages that a project may need: as a template names it, its name, its place in the source tree, its version.
const PACKAGES: &[(&str, &str, &str, &str)] = &[
    ("{worker-api}", "rgunicorn-worker-api", "worker-api", "1.0"),
    ("{http1}", "rgunicorn-http1", "plugins/http1", "0.1"),
    ("{reactor}", "rgunicorn-reactor", "plugins/reactor", "0.1"),
];

/// The source tree that this program was built from; it need not be there any more.
const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The variable that names another one.
const VARIABLE: &str = "RGUNICORN_SOURCE";

impl Request {
    /// Makes the project, and returns the hints.
    ///
    /// # Errors
    /// The name is no name for a package, the directory is there already, or it cannot be written.
    pub fn make(&self) -> Result<String, StartError> {
        let fail = |why: String| {
            StartError::new(EXIT_SETTINGS, format!("cannot make the project {}: {why}", self.name))
        };
        judge_name(&self.name, self.kind).map_err(fail)?;
        let source = if self.kind == Kind::CApp { None } else { self.source().map_err(fail)? };
        let program = std::env::current_exe()
            .map_err(|error| fail(format!("cannot find the program's own file: {}", io_text(&error))))?;
        let program = program.display().to_string();
        let (common, files, hints): (&[File], &[File], _) = match self.kind {
            Kind::App => (COMMON, APP, self.hints_app(&program)),
            Kind::CApp => (&[], C_APP, self.hints_c_app(&program)),
            Kind::Worker => (COMMON, WORKER, self.hints_worker(&program)),
        };
        fs::create_dir(&self.name).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                fail(format!("{} is there already; choose another name", self.name))
            }
            _ => fail(format!("cannot make its directory: {}", io_text(&error))),
        })?;
        for (path, text) in common.iter().chain(files) {
            let path = Path::new(&self.name).join(path.replace("{crate}", &self.library()));
            write(&path, &self.filled(text, source.as_deref(), &program))
                .map_err(|error| fail(format!("cannot write {}: {}", path.display(), io_text(&error))))?;
        }
        let interface = match &source {
            _ if self.kind == Kind::CApp => "rgunicorn.h is in it".to_owned(),
            Some(source) => format!("the interface is taken from {}", source.join("worker-api").display()),
            None => format!(
                "the interface is taken by its version, since the sources that this program was built from are not \
                 here; --source or {VARIABLE} names a source tree"
            ),
        };
        Ok(format!("Made {}/; {interface}.\n\n{hints}", self.name))
    }

    /// The source tree: what was named must be one; what this program was built from is used if it is there.
    fn source(&self) -> Result<Option<PathBuf>, String> {
        let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = self.source.clone().or(variable);
        let is_one = |tree: &Path| tree.join("worker-api/Cargo.toml").is_file();
        match named {
            None => {
                let built_from = fs::canonicalize(BUILT_FROM).ok();
                Ok(built_from.filter(|tree| is_one(tree)))
            }
            Some(tree) if is_one(&tree) => fs::canonicalize(&tree)
                .map(Some)
                .map_err(|error| format!("{}: {}", tree.display(), io_text(&error))),
            Some(tree) => Err(format!(
                "{} is no source tree of rgunicorn: it has no worker-api/Cargo.toml; name another one with --source",
                tree.display()
            )),
        }
    }

    fn filled(&self, text: &str, source: Option<&Path>, program: &str) -> String {
        let mut text = text.replace("{name}", &self.name).replace("{crate}", &self.library());
        text = text.replace("{program}", &toml_string(program));
        text = text.replace("{program-in-make}", &quoted(program).replace('$', "$$"));
        for (mark, package, place, version) in PACKAGES {
            let dependency = match source {
                Some(tree) => {
                    let path = toml_string(&tree.join(place).display().to_string());
                    format!("{package} = {{ path = {path} }}")
                }
                None => format!("{package} = \"{version}\""),
            };
            text = text.replace(mark, &dependency);
        }
        text
    }

    /// The name of the library, as cargo makes it of the package's.
    fn library(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Where cargo puts the library.
    fn built(&self) -> String {
        let target = std::env::var("CARGO_TARGET_DIR").ok().filter(|target| !target.is_empty());
        format!("{}/debug/lib{}.so", target.as_deref().unwrap_or("target"), self.library())
    }

    fn hints_app(&self, program: &str) -> String {
        let (name, built, program) = (&self.name, quoted(&self.built()), quoted(program));
        format!(
            "Build it, test it, and serve it on http://127.0.0.1:8000/:\n\n  cd {name}\n  cargo test\n  cargo build\n  \
             {program} --pid {name}.pid {built}\n\nIn another terminal, after each change of src/lib.rs:\n\n  cd {name}\n  \
             cargo build\n  kill -HUP $(cat {name}.pid)\n\nIf what was built does not work, what serves goes on, and \
             the log says why.\n"
        )
    }

    fn hints_c_app(&self, program: &str) -> String {
        let (name, library, program) = (&self.name, self.library(), quoted(program));
        format!(
            "Build it, test it, and serve it on http://127.0.0.1:8000/:\n\n  cd {name}\n  make test\n  {program} --pid \
             {name}.pid ./lib{library}.so\n\nIn another terminal, after each change of {library}.c:\n\n  cd {name}\n  \
             make\n  kill -HUP $(cat {name}.pid)\n\nIf what was built does not work, what serves goes on, and the log \
             says why.\n"
        )
    }

    fn hints_worker(&self, program: &str) -> String {
        let (name, built, program) = (&self.name, quoted(&self.built()), quoted(program));
        format!(
            "Build it, and see whether it keeps its word (a minute; 'cargo test' does the same):\n\n  cd {name}\n  \
             cargo build\n  {program} certify -k {built}\n\nServe an application with it on http://127.0.0.1:8000/:\n\n  \
             {program} -k {built} reference:app\n"
        )
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text)
}

/// Whether cargo takes it for the name of a package with a library, and a shell as one plain word.
fn judge_name(name: &str, kind: Kind) -> Result<(), String> {
    let sound =
        |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'_');
    if name.len() > 64
        || !name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        || !name.bytes().all(sound)
    {
        let rule = "a name begins with a small letter and has small letters, digits, '-' and '_', 64 at most";
        return Err(rule.to_owned());
    }
    // A C application is no package.
    if kind != Kind::CApp && RESERVED.contains(&name) {
        return Err("Rust needs that word for itself; choose another name".to_owned());
    }
    Ok(())
}

/// Keywords, and packages that every compiler brings.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    "proc-macro",
    "proc_macro",
];

/// A basic string of TOML.
fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"/._-+=:@%,".contains(&octet);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cargo_takes() {
        for name in ["a", "shop", "my-shop_2"] {
            assert_eq!(judge_name(name, Kind::App), Ok(()), "{name}");
        }
        for name in ["", "2a", "-a", "A", "a b", "a/b", "..", "self", "é", &"a".repeat(65)] {
            assert!(judge_name(name, Kind::App).is_err(), "{name}");
        }
        assert_eq!(judge_name("static", Kind::CApp), Ok(()));
    }

    #[test]
    fn a_template_is_filled_in() {
        let request = Request { kind: Kind::App, name: "my-shop".to_owned(), source: None };
        let text =
            request.filled("{name} {crate} {worker-api} {http1} {program}", Some(Path::new("/a b")), "/p\"q");
        let expected = "my-shop my_shop rgunicorn-worker-api = { path = \"/a b/worker-api\" } rgunicorn-http1 = { \
                        path = \"/a b/plugins/http1\" } '/p\"q'";
        assert_eq!(text, expected);
        assert_eq!(request.filled("{worker-api}", None, ""), "rgunicorn-worker-api = \"1.0\"");
        assert_eq!((quoted("/a/b.so").as_str(), quoted("a b's").as_str()), ("/a/b.so", r"'a b'\''s'"));
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        let request = Request { kind: Kind::App, name: "shop".to_owned(), source: None };
        for (path, text) in COMMON.iter().chain(APP).chain(C_APP).chain(WORKER) {
            let filled = request.filled(text, None, "/rgunicorn");
            for mark in [
                "{program-in-make}",
                "{name}",
                "{crate}",
                "{program}",
                "{worker-api}",
                "{http1}",
                "{reactor}",
            ] {
                assert!(!filled.contains(mark), "{path}: {mark}");
            }
        }
    }
}
