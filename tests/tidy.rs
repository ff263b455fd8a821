//! Rules of the repository that no compiler checks: where unsafe code may be, what the documents must name.
//!
//! Owns the rules and their exceptions, each with its reason. Reads files, runs nothing. What a newcomer would get
//! wrong: an exception that is no longer needed fails as well; take it out of the list.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where unsafe code may be: a file, or a directory with a slash at its end.
const UNSAFE: &[(&str, &str)] = &[
    ("host/src/sys/", "system calls that no safe crate offers"),
    ("host/src/plugin.rs", "dlopen(3), and the tables behind the symbol"),
    ("host/src/plugin/c_door.rs", "the functions of C libraries, and what they are handed"),
    ("host/src/plugin/c_door/layout.rs", "the types of those functions"),
    ("worker-api/src/abi.rs", "the layouts that cross, and the loading of a checked symbol"),
    ("worker-api/src/abi/", "the calls through those layouts"),
    ("worker-api/src/export.rs", "the exported tables and the symbols of the macros"),
    ("examples/inspect/src/bad_abi.rs", "a symbol that is wrong on purpose"),
    ("examples/inspect/src/crash.rs", "crashes on demand"),
    ("tests/fixtures/bad_constructor/src/lib.rs", "a constructor of a library, and what it breaks"),
    ("tests/fixtures/marked/src/lib.rs", "an allocator that knows its own blocks"),
    ("tests/fixtures/neighbour/src/lib.rs", "a call into the library beside it"),
    ("tests/fixtures/neighbour/helper/lib.rs", "a symbol for the library beside it"),
    ("tests/fixtures/no_note/src/lib.rs", "a symbol, so that it is a library at all"),
    ("tests/fixtures/unresolved/src/lib.rs", "a symbol that no library has"),
];

/// Which code may name what: a word, and where it may stand.
const ROOMS: &[(&str, &[&str])] = &[
    ("libloading", &["host/src/plugin.rs"]),
    ("clap", &["host/src/cli.rs", "host/src/cli/"]),
    ("clap_complete", &["tests/xtask/"]),
    ("clap_mangen", &["tests/xtask/"]),
    ("abi_stable", &["worker-api/src/abi.rs", "worker-api/src/abi/"]),
    ("httparse", &["plugins/http1/", "host/src/monitor/http.rs"]),
    ("rgunicorn_http1", &["plugins/", "tests/fixtures/", "tests/peers/interface/", "host/src/new/worker/"]),
    // Looking up a name loads libraries into the process that asks: the probe does, the master never.
    ("to_socket_addrs", &["host/src/config/", "tests/"]),
    ("from_name", &["host/src/config/identity.rs", "tests/"]),
];

/// Words that no file may hold, split here so that this one does not.
const UNWANTED: &[(&str, &str)] = &[("/wo", "rk/"), ("/tmp", "/wt"), ("TO", "DO"), ("FIX", "ME")];

#[test]
fn every_source_file_says_what_it_is() {
    let silent = sources().filter(|file| !file.text.starts_with("//!")).map(|file| file.name);
    expect_none("these files do not open with `//!`, which says what they own", silent);
}

#[test]
fn unsafe_code_is_only_where_it_is_listed() {
    let mut used = BTreeSet::new();
    let mut elsewhere = Vec::new();
    for file in sources().filter(|file| file.code_lines_with("unsafe").next().is_some()) {
        match UNSAFE.iter().find(|(room, _)| is_within(&file.name, room)) {
            Some((room, _)) => _ = used.insert(*room),
            None => elsewhere.push(file.name),
        }
    }
    expect_none("these files hold unsafe code; move it to one that is listed in tests/tidy.rs", elsewhere);
    let unused = UNSAFE.iter().filter(|(room, _)| !used.contains(room)).map(|(room, _)| (*room).to_owned());
    expect_none("these hold no unsafe code any more; take them out of the list in tests/tidy.rs", unused);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut silent = Vec::new();
    for file in sources() {
        let lines: Vec<&str> = file.text.lines().collect();
        let code: Vec<&str> = file.code.lines().collect();
        for number in file.code_lines_with("unsafe") {
            let opens = |word: &str| code[number].contains(&format!("unsafe {word}"));
            if (opens("{") || opens("impl")) && !is_argued(&lines, &code, number) {
                silent.push(format!("{}: {}", file.name, lines[number].trim()));
            }
        }
    }
    expect_none("these have no comment `SAFETY:` above, which names the fact relied on", silent);
}

/// Whether a SAFETY comment stands above the statement that this line is part of.
fn is_argued(lines: &[&str], code: &[&str], number: usize) -> bool {
    if lines[number].contains("SAFETY:") {
        return true;
    }
    for above in (0..number).rev() {
        if lines[above].contains("SAFETY:") {
            return true;
        }
        let above_code = code[above].trim_end();
        let ends_a_statement = above_code.ends_with([';', '{', '}', ',']) && !above_code.ends_with("=> {");
        if lines[above].trim().is_empty() || ends_a_statement {
            return false;
        }
    }
    false
}

#[test]
fn each_dependency_is_named_only_in_its_room() {
    let mut strays = Vec::new();
    for file in sources() {
        for (word, rooms) in ROOMS {
            let allowed = rooms.iter().any(|room| is_within(&file.name, room));
            if !allowed && file.code_lines_with(word).next().is_some() {
                strays.push(format!("{} names {word}", file.name));
            }
        }
    }
    expect_none("these belong elsewhere, see ROOMS in tests/tidy.rs", strays);
}

#[test]
fn the_master_waits_in_one_place() {
    let master = sources().filter(|file| file.name.starts_with("host/src/arbiter"));
    let waits: Vec<String> = master
        .flat_map(|file| {
            let lines = file.code.lines().filter(|line| line.contains("poll(") || line.contains("::wait("));
            lines.map(|line| format!("{}: {}", file.name, line.trim())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(waits.len(), 1, "the master waits in Arbiter::sleep only, not in {waits:#?}");
}

#[test]
fn tests_say_what_they_expect_and_why_they_do_not_run() {
    let panics = ["should", "panic"].join("_");
    let ignored = ["#[ig", "nore]"].concat();
    let macros = ["to", "do!"].concat();
    let others = ["unimpl", "emented!"].concat();
    let mut found = Vec::new();
    for file in sources() {
        for word in [&panics, &ignored, &macros, &others] {
            if file.code.contains(word.as_str()) {
                found.push(format!("{}: {word}", file.name));
            }
        }
    }
    expect_none("compare the message, give the reason, write the code", found);
}

#[test]
fn no_file_holds_an_unwanted_word() {
    let mut found = Vec::new();
    for (name, path) in files() {
        // What is no text holds no words.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (start, end) in UNWANTED {
            let word = format!("{start}{end}");
            if text.contains(&word) {
                found.push(format!("{name}: {word}"));
            }
        }
    }
    expect_none("these words say nothing about the project", found);
}

#[test]
fn every_setting_is_documented() {
    let table = read("host/src/settings.rs");
    let page = read("docs/SETTINGS.md");
    let mut lines = table.lines().map(str::trim);
    let mut names = Vec::new();
    while lines.by_ref().any(|line| line == "setting(") {
        let name = lines.by_ref().nth(1).and_then(|line| line.split('"').nth(1));
        names.push(name.expect("the second line of an entry is its name"));
    }
    assert!(names.len() > 30, "the table in host/src/settings.rs is not read any more: {names:?}");
    let missing =
        names.iter().filter(|name| !page.contains(&format!("| `{name}` |"))).map(|name| (*name).to_owned());
    expect_none("docs/SETTINGS.md does not name these settings; see host/src/settings/reference.rs", missing);
}

/// docs/SIGNALS.md: each row of its tables names a test in the part "Tests", and each test named there is one.
#[test]
fn every_row_of_the_signals_names_its_test() {
    let page = read("docs/SIGNALS.md");
    let (rows, tests) = page.split_once("\n## Tests\n").expect("a part that names the tests");
    let mut missing = Vec::new();
    for process in ["Master", "Worker"] {
        let tested = signals_of(tests, &format!("\n### {process}\n"));
        let tested: BTreeSet<&str> = tested.into_iter().flatten().collect();
        let untested = signals_of(rows, &format!("\n## {process}\n"))
            .into_iter()
            // "All others" names none.
            .filter(|row| !row.is_empty() && !row.iter().any(|signal| tested.contains(signal)));
        missing.extend(untested.map(|row| format!("{process}: {}", row.join(", "))));
    }
    expect_none("these rows of docs/SIGNALS.md name no test in its last part", missing);

    let mut absent = Vec::new();
    let mut file = String::new();
    // What stands in backquotes is a signal, a file, or a function of the file before it.
    for word in tests.split('`').skip(1).step_by(2).filter(|word| word.contains(['.', '_'])) {
        if word.ends_with(".rs") {
            file = read(&format!("tests/{}", word.trim_start_matches("tests/")));
        } else if !file.contains(&format!("fn {word}()")) {
            absent.push(word.to_owned());
        }
    }
    expect_none("docs/SIGNALS.md names tests that are not there", absent);
}

/// The signals of each row in the table below a heading.
fn signals_of<'p>(page: &'p str, heading: &str) -> Vec<Vec<&'p str>> {
    let (_, below) = page.split_once(heading).expect("the heading");
    let table = below.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let cells = table.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    cells.map(|cell| cell.split('`').skip(1).step_by(2).collect()).collect()
}

#[test]
fn every_signal_is_documented() {
    let page = read("docs/SIGNALS.md");
    let mut names = BTreeSet::new();
    for name in ["host/src/arbiter/signals.rs", "host/src/arbiter.rs", "host/src/sys/signal.rs"] {
        let code = Source::new(name.to_owned(), read(name)).code;
        let words = code.split(|character: char| !is_word(character));
        names.extend(words.filter_map(|word| word.strip_prefix("SIG")).map(str::to_owned));
    }
    assert!(names.len() > 10, "the signals are not read any more: {names:?}");
    // Not signals: an action, and the bounds of the real-time range.
    let signals = names.into_iter().filter(|name| !name.starts_with('_') && !name.starts_with("RTM"));
    let missing = signals.filter(|name| !page.contains(&format!("`{name}`")));
    expect_none("docs/SIGNALS.md does not name these signals", missing);
}

#[test]
fn every_dependency_is_justified() {
    let page = read("ARCHITECTURE.md");
    let mut missing = BTreeSet::new();
    for (name, path) in files().filter(|(name, _)| name.ends_with("Cargo.toml")) {
        if name.starts_with("tests/fixtures/") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a manifest is text");
        let mut within = false;
        for line in text.lines() {
            if line.starts_with('[') {
                within =
                    matches!(line.trim(), "[dependencies]" | "[dev-dependencies]" | "[build-dependencies]");
            } else if within && let Some((dependency, _)) = line.split_once('=') {
                let dependency = dependency.trim().trim_end_matches(".workspace");
                let other = dependency != "rgunicorn"
                    && !dependency.starts_with("rgunicorn-")
                    && !dependency.starts_with('#');
                if other && !page.contains(&format!("| `{dependency}` |")) {
                    missing.insert(dependency.to_owned());
                }
            }
        }
    }
    expect_none("ARCHITECTURE.md does not say why these dependencies are there", missing);
}

/// `cargo build --release` at the root leaves every library in `target/release`, and each is tried and described.
#[test]
fn every_library_is_built_tested_and_documented() {
    let workspace = read("Cargo.toml");
    let all = |wanted: fn(&str) -> bool| -> String {
        let paths = files().filter(|(name, _)| wanted(name)).map(|(_, path)| path);
        paths.filter_map(|path| fs::read_to_string(path).ok()).collect()
    };
    let tests = all(|name| name.starts_with("tests/") && name.ends_with(".rs"));
    let docs = all(|name| name == "README.md" || name.starts_with("docs/") && name.ends_with(".md"));
    // Without a list of default members, `cargo build` builds them all.
    let mut missing: Vec<String> =
        workspace.lines().filter(|line| line.starts_with("default-members")).map(str::to_owned).collect();
    let mut libraries = 0;
    for (name, path) in files() {
        let Some(directory) = name.strip_suffix("/Cargo.toml") else { continue };
        let manifest = fs::read_to_string(&path).expect("a manifest is text");
        let is_ours = directory.starts_with("examples/") || directory.starts_with("plugins/");
        if !is_ours || !manifest.contains("\"cdylib\"") {
            continue;
        }
        libraries += 1;
        let (_, lib) = manifest.split_once("[lib]").expect("a library's part of its manifest");
        let library = lib.split('"').nth(1).expect("its name");
        let is_tried =
            tests.contains(&format!("\"{library}\"")) || tests.contains(&format!("lib{library}.so"));
        for (is_there, what) in [
            (workspace.contains(&format!("\"{directory}\",")), "is no member of the workspace"),
            (is_tried, "is named in no test"),
            (
                docs.contains(&format!("`{directory}`")) || docs.contains(&format!("`{library}`")),
                "is in no document",
            ),
            (root().join(directory).join("README.md").is_file(), "has no README.md"),
        ] {
            if !is_there {
                missing.push(format!("{directory} {what}"));
            }
        }
    }
    assert!(libraries > 10, "the manifests are not read any more");
    expect_none("these libraries are not built, tried and described like the others", missing);
}

// ---------------------------------------------------------------------------------------------------------------
// Files.

/// A Rust file.
struct Source {
    /// From the root of the repository, with slashes.
    name: String,
    text: String,
    /// The text with comments and the contents of literals blanked out, line by line as before.
    code: String,
}

impl Source {
    fn new(name: String, text: String) -> Self {
        Self { code: without_comments_and_literals(&text), name, text }
    }

    /// The lines, from 0, in whose code the word stands by itself.
    fn code_lines_with(&self, word: &str) -> impl Iterator<Item = usize> {
        let has =
            move |line: &str| line.split(|character: char| !is_word(character)).any(|other| other == word);
        self.code.lines().enumerate().filter(move |(_, line)| has(line)).map(|(number, _)| number)
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn is_within(name: &str, room: &str) -> bool {
    if room.ends_with('/') { name.starts_with(room) } else { name == room }
}

fn expect_none(complaint: &str, found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "{complaint}:\n{}", found.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
}

fn sources() -> impl Iterator<Item = Source> {
    files().filter(|(name, _)| name.ends_with(".rs")).map(|(name, path)| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {name}: {error}"));
        Source::new(name, text)
    })
}

/// Every file of the repository by name, sorted; what is built or belongs to other programs left out.
fn files() -> impl Iterator<Item = (String, PathBuf)> {
    fn walk(directory: &Path, prefix: &str, found: &mut Vec<(String, PathBuf)>) {
        for entry in fs::read_dir(directory).expect("a directory of the repository") {
            let entry = entry.expect("an entry of a directory");
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let hidden = name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".cargo" | ".gitignore");
            if hidden || name == "target" {
                continue;
            }
            let kind = entry.file_type().expect("the kind of an entry");
            let full = format!("{prefix}{name}");
            if kind.is_dir() {
                walk(&entry.path(), &format!("{full}/"), found);
            } else if kind.is_file() {
                found.push((full, entry.path()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.sort();
    found.into_iter()
}

/// Blanks comments and the insides of string and character literals; line ends stay where they are.
fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest, 0),
            'r' | 'b' | 'c' if !is_word(before) => prefixed_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        let (piece, after) = rest.split_at(taken);
        if skipped == 0 {
            out.push(first);
        } else {
            out.extend(piece.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        }
        before = piece.chars().next_back().unwrap_or(' ');
        rest = after;
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a string literal that begins after `start` octets of prefix, with its quotes.
fn string(rest: &str, start: usize) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip_while(|(at, _)| *at <= start) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a literal with a prefix (`r#"…"#`, `b"…"`, `c"…"`, `br"…"`, `b'…'`), or 0 if this is none.
fn prefixed_string(rest: &str) -> usize {
    let letters = rest.len() - rest.trim_start_matches(['r', 'b', 'c']).len();
    let raw = rest[..letters].contains('r');
    let after = &rest[letters..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if letters > 2 || !after[hashes..].starts_with('"') {
        return if after.starts_with('\'') && letters == 1 { letters + character(after) } else { 0 };
    }
    if !raw {
        return if hashes == 0 { string(rest, letters) } else { 0 };
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = letters + hashes + 1;
    rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
}

/// The length of a character literal, or 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            // What follows the backslash belongs to the escape, were it a quote.
            characters.next();
            characters.find(|(_, character)| *character == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[test]
fn comments_and_literals_are_not_code() {
    let cases = [
        ("a // unsafe\nb", "a          \nb"),
        ("/* x /* y */ z */ a", "                  a"),
        (r#"f("un\"safe") g"#, "f(          ) g"),
        ("r#\"a\"b\"# c", "         c"),
        ("b'\\'' x 'a' <'a>", "      x     <'a>"),
        ("for_r\"x\"", "for_r   "),
    ];
    for (text, code) in cases {
        assert_eq!(without_comments_and_literals(text), code, "{text}");
    }
}
