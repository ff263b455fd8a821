//! The interface of the past and of the next minor version, derived from today's sources.
//!
//! Owns the edits, and the workspaces in the target folder that they are written to. Derived, because a copy that is
//! kept by hand is soon of no version that ever was: whatever is added to a table today, the past lacks its last
//! function, and the next version has one more. What a newcomer would get wrong: the edits are made to text, and each
//! says so when it finds nothing to do; then correct the words that it looks for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Epoch {
    /// One function fewer on every table, one method, one constant and one key of the note.
    Past,
    /// As it is in this checkout.
    Now,
    /// One more of each.
    Next,
    /// One more of each, but not the ones of `Next`: another history.
    Other,
}

impl Epoch {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Past => "past",
            Self::Now => "now",
            Self::Next => "next",
            Self::Other => "other",
        }
    }
}

/// Files of the derived interface by path, as they will be written.
struct Sources(BTreeMap<PathBuf, String>);

/// Writes the workspace of an epoch below `to`: the interface, edited, beside copies of what is built with it.
pub(crate) fn write_workspace(root: &Path, epoch: Epoch, to: &Path) {
    let mut sources = Sources(BTreeMap::new());
    for directory in ["host", "plugins", "worker-api"] {
        sources.read(root, Path::new(directory));
    }
    sources.read(&root.join("tests/fixtures"), Path::new("epoch"));
    match epoch {
        Epoch::Past => sources.take_away(),
        Epoch::Now => {}
        Epoch::Next => sources.add("next"),
        Epoch::Other => sources.add("other"),
    }
    sources.0.insert(PathBuf::from("Cargo.toml"), manifest(root));
    for (name, text) in &sources.0 {
        write(&to.join(name), text);
    }
    // Cargo adapts the lock file to what is left of the workspace; it begins with ours, so that nothing is downloaded.
    let lock = fs::read_to_string(root.join("Cargo.lock")).expect("the workspace has a lock file");
    if write(&to.join("Cargo.lock.origin"), &lock) {
        write(&to.join("Cargo.lock"), &lock);
    }
}

/// The workspace's manifest with other members, and without debug information.
fn manifest(root: &Path) -> String {
    let text = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace has a manifest");
    let (before, after) = text.split_once("members = [").expect("a list of members");
    let (_, after) = after.split_once("]\n").expect("its end");
    let (package, profiles) = after.split_once("[profile.").expect("profiles, at the end");
    assert!(profiles.contains("sha2"), "hashing an image must be fast");
    format!(
        "{before}members = [\"host\", \"worker-api\", \"plugins/sync\", \"epoch\"]\n{}\
         \n[profile.dev]\ndebug = false\nincremental = false\n\n[profile.dev.package.sha2]\nopt-level = 3\n",
        package.replace("[workspace.package]\n", "[workspace.package]\nversion = \"0.1.0\"\n")
    )
}

/// Writes a file unless it is there already, so that cargo builds no more than it must; whether it did.
fn write(file: &Path, text: &str) -> bool {
    if fs::read_to_string(file).is_ok_and(|there| there == text) {
        return false;
    }
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory below target");
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    true
}

/// A table in `abi.rs`.
struct Table {
    name: String,
    /// What stands behind `last_prefix_field`: name and type of each function, and their text.
    suffix: Vec<(String, String, String)>,
}

const INTERFACE: &str = "worker-api/src/abi.rs";
const CALLS: &str = "worker-api/src/abi/call.rs";
const TABLES: &str = "worker-api/src/abi/serve.rs";
const LOADER: &str = "host/src/plugin.rs";

impl Sources {
    /// Reads the files below a directory; what is built, and fuzzers, left out.
    fn read(&mut self, root: &Path, directory: &Path) {
        for entry in fs::read_dir(root.join(directory)).expect("a directory of the checkout") {
            let entry = entry.expect("an entry of a directory");
            let path = directory.join(entry.file_name());
            if entry.file_type().expect("its kind").is_dir() {
                if !["target", "fuzz"].contains(&entry.file_name().to_string_lossy().as_ref()) {
                    self.read(root, &path);
                }
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                self.0.insert(path, text);
            }
        }
    }

    fn file(&mut self, name: &str) -> &mut String {
        self.0.get_mut(Path::new(name)).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Replaces the one place that has this text.
    #[track_caller]
    fn replace(&mut self, name: &str, from: &str, to: &str) {
        let text = self.file(name);
        assert_eq!(text.matches(from).count(), 1, "{name}: {from}");
        *text = text.replace(from, to);
    }

    /// Inserts text behind the one place that has this text.
    #[track_caller]
    fn insert(&mut self, name: &str, behind: &str, text: &str) {
        self.replace(name, behind, &format!("{behind}{text}"));
    }

    fn tables(&mut self) -> Vec<Table> {
        let text = self.file(INTERFACE).clone();
        let parts: Vec<&str> = text.split("#[sabi(last_prefix_field)]\n").collect();
        assert!(parts.len() > 8, "the tables of {INTERFACE} are not read any more");
        let table = |pair: &[&str]| {
            let name = pair[0].rsplit("pub struct ").next().and_then(|rest| rest.split(' ').next());
            let (body, _) = pair[1].split_once("\n}\n").expect("the end of a table");
            let (_, mut rest) = body.split_once(",\n").unwrap_or((body, ""));
            let mut suffix = Vec::new();
            while !rest.is_empty() {
                let end = rest.find(",\n").map_or(rest.len(), |end| end + 2);
                let (field, after) = rest.split_at(end);
                let code: String = field.lines().filter(|line| !line.trim().starts_with("///")).collect();
                let (name, kind) = code.trim().trim_end_matches(',').split_once(": ").expect("name: type");
                suffix.push((name.replace("pub ", ""), kind.trim().to_owned(), field.to_owned()));
                rest = after;
            }
            Table { name: name.expect("the name of a table").to_owned(), suffix }
        };
        parts.windows(2).map(table).collect()
    }

    /// The initialisers of a table, wherever they are: edits the text between their braces.
    fn initialisers(&mut self, table: &str, edit: impl Fn(&str) -> String) {
        let begin = format!("WithMetadata::new({table} {{\n");
        let mut found = 0;
        for text in self.0.values_mut() {
            let Some(at) = text.find(&begin) else { continue };
            let start = at + begin.len();
            let end = start + text[start..].find("    }));").expect("the end of an initialiser");
            text.replace_range(start..end, &edit(&text[start..end]));
            found += 1;
        }
        assert_eq!(found, 1, "initialisers of {table}");
    }

    fn take_away(&mut self) {
        let mut shrunk = 0;
        for table in self.tables() {
            // A table that has just been born has nothing yet that the past could lack.
            let Some((function, kind, text)) = table.suffix.last() else { continue };
            shrunk += 1;
            self.replace(INTERFACE, text, "");
            self.initialisers(&table.name, |fields| {
                let is_it = |line: &&str| line.trim().split([':', ',']).next() == Some(function);
                assert_eq!(fields.lines().filter(is_it).count(), 1, "{function} of {}", table.name);
                fields.lines().filter(|line| !is_it(line)).map(|line| format!("{line}\n")).collect()
            });
            let call = format!("self.object.table.{function}()");
            let calls = self.file(CALLS);
            *calls = calls.replace(&call, &format!("None::<{kind}>"));
            // The host asks the roots themselves.
            let loader = self.file(LOADER);
            *loader = loader.replace(&format!("module.{function}()"), &format!("None::<{kind}>"));
        }
        assert!(shrunk >= 8, "only {shrunk} tables of {INTERFACE} have a function behind last_prefix_field");
        // The types of what is not there.
        self.insert(CALLS, "use std::task::{Context, Poll};\n", "#[allow(unused_imports)]\nuse super::*;\n");
        self.insert(
            LOADER,
            "use std::sync::{Mutex, PoisonError};\n",
            "#[allow(unused_imports)]\nuse rgunicorn_worker_api::abi::*;\n",
        );
        // A constant.
        self.replace(INTERFACE, "pub const RECORD_TAKEN_OVER: u32 = 2;\n", "const _: u32 = 0;\n");
        self.replace(TABLES, "super::RECORD_TAKEN_OVER", "0");
        self.replace("worker-api/src/worker.rs", "abi::RECORD_TAKEN_OVER", "0");
        // A method.
        let requests = self.file("worker-api/src/request.rs");
        let (before, after) =
            requests.split_once("    /// Whether the request is over `request_timeout`").expect("it");
        let (method, after) = after.split_once("\n    }\n").expect("its end");
        assert!(method.contains("pub fn expired("), "{method}");
        *requests = format!("{before}{after}");
        // A key of the note, in both macros.
        let export = self.file("worker-api/src/export.rs");
        assert_eq!(export.matches("$(\"\\nneeds=\", $needs,)?").count(), 2);
        *export =
            export.replace("$(\"\\nneeds=\", $needs,)?", "").replace("$(, needs = $needs:literal)?", "");
        *export = export.replace(", needs = \"keep-alive\" }", " }");
    }

    /// Everything is called `name`, and says 7.
    fn add(&mut self, name: &str) {
        for table in self.tables() {
            let last = table.suffix.last().map(|(_, _, text)| text.clone());
            let grown = format!("    pub {name}: extern \"C\" fn() -> u32,\n");
            match last {
                Some(text) => self.insert(INTERFACE, &text, &grown),
                None => {
                    let text = self.file(INTERFACE);
                    let start = text.find(&format!("pub struct {} {{", table.name)).expect("the table");
                    let end = start + text[start..].find("\n}\n").expect("its end") + 1;
                    text.insert_str(end, &grown);
                }
            }
            self.initialisers(&table.name, |fields| format!("{fields}        {name}: crate::abi::seven,\n"));
        }
        // Methods, from the handles up to what authors use.
        let ask = |of: &str| format!("    pub fn next(&self) -> Option<u32> {{ self.{of}.next() }}\n");
        self.insert(
            CALLS,
            "        impl $name<'_> {\n",
            &format!(
                "pub fn next(self) -> Option<u32> {{ self.object.table.{name}().map(|call| call()) }}\n"
            ),
        );
        for (file, place, of) in [
            ("request.rs", "impl<'x> Request<'x> {\n", "handle()"),
            ("response.rs", "impl<'x> Response<'x> {\n", "handle"),
            ("response.rs", "impl Stream<'_> {\n", "handle"),
            ("app.rs", "impl<'x> WorkerFacts<'x> {\n", "host"),
            ("worker.rs", "impl Host {\n", "handle"),
            ("worker.rs", "impl Mounted {\n", "app"),
        ] {
            self.insert(&format!("worker-api/src/{file}"), place, &ask(of));
        }
        // Who asks: the application does itself; the class in its `run`, and the host when it has loaded a library.
        self.insert(
            "worker-api/src/export.rs",
            "        let apps = applications(mounts);\n",
            "log::info!(\"epoch: the class asks, host {:?}, application {:?}\", host.next(), apps.iter().next().and_then(|app| app.next()));\n",
        );
        self.replace(
            INTERFACE,
            "pub unsafe fn load<M: RootModule>(",
            "pub unsafe fn load<M: RootModule + Ask>(",
        );
        let loaded = ".map_err(|error| Refusal::Constructor(format!(\"{error:?}\")))\n";
        self.replace(INTERFACE, loaded, &format!("{}.inspect(Ask::ask)\n", loaded.trim_end()));
        let roots = self.tables().into_iter().filter(|table| table.name.ends_with("Module"));
        let asks = roots.map(|table| {
            format!(
                "impl Ask for {0}_Ref {{ fn ask(&self) {{\nlog::info!(\"epoch: the host asks, module {{:?}}\", \
                 self.{name}().map(|call| call()));\n}} }}\n",
                table.name
            )
        });
        let asks: String = asks.collect();
        self.file(INTERFACE).push_str(&format!("pub trait Ask {{ fn ask(&self); }}\n{asks}"));
        // Constants that others do not know, and a key.
        self.file(INTERFACE).push_str(
            "pub const IO_NEXT: i64 = -11;\npub const EVENT_NEXT: u32 = 1 << 30;\n\
             pub extern \"C\" fn seven() -> u32 { 7 }\n",
        );
        self.replace(TABLES, ".take_events()", ".take_events() | super::EVENT_NEXT");
        let place =
            "unsafe extern \"C\" fn informational(this: Opaque, status: u32, list: FieldList) -> i64 {\n";
        self.insert(TABLES, place, "if status == 199 { return super::IO_NEXT; }\n");
        let export = self.file("worker-api/src/export.rs");
        *export = export.replace("$crate::note::ABI,", "$crate::note::ABI, \"\\nnext=7\",");
        // Its number.
        self.replace(INTERFACE, "pub const ABI_MINOR: u32 = 0;", "pub const ABI_MINOR: u32 = 1;");
        self.replace(
            "worker-api/src/note.rs",
            "pub const ABI: &str = \"1.0\";",
            "pub const ABI: &str = \"1.1\";",
        );
        self.replace("worker-api/src/note.rs", "abi::ABI_MINOR == 0", "abi::ABI_MINOR == 1");
        self.replace("worker-api/Cargo.toml", "version = \"1.0.0\"", "version = \"1.1.0\"");
    }
}
