//! `cargo install-header`: the C header and its pkg-config file, where C compilers look.
//!
//! Owns the layout below the prefix. Does not own the texts: both lie in `worker-api/include`. What a newcomer would
//! get wrong: `--destdir` is where files are put now, `--prefix` where they will be; only the latter is written into
//! them.

use std::fs;
use std::path::{Path, PathBuf};

/// The header.
const HEADER: &str = include_str!("../../../worker-api/include/rgunicorn.h");
/// What pkg-config reads, with `@…@` where a value belongs.
const TEMPLATE: &str = include_str!("../../../worker-api/include/rgunicorn.pc.in");

const USAGE: &str = "usage: cargo install-header [--prefix /usr/local] [--destdir DIRECTORY]";

/// Writes both files; prints where.
///
/// # Errors
/// A word that is not understood, or a file that cannot be written.
pub(crate) fn install(words: Vec<String>) -> Result<(), String> {
    let (mut prefix, mut staging) = ("/usr/local".to_owned(), PathBuf::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {USAGE}"));
        match word.as_str() {
            "--prefix" => prefix = value()?,
            "--destdir" => staging = PathBuf::from(value()?),
            _ => return Err(format!("{word} is not understood; {USAGE}")),
        }
    }
    if !prefix.starts_with('/') || prefix.contains(char::is_whitespace) {
        return Err(format!("--prefix must be an absolute path without spaces, not '{prefix}'"));
    }
    let below = |name: &str| {
        let path = Path::new(&prefix).join(name);
        // An absolute path would replace the directory in `join`.
        if staging.as_os_str().is_empty() {
            path
        } else {
            staging.join(path.strip_prefix("/").unwrap_or(&path))
        }
    };
    write(&below("include/rgunicorn.h"), HEADER)?;
    write(&below("lib/pkgconfig/rgunicorn.pc"), &package(&prefix))
}

/// The pkg-config file for this prefix.
fn package(prefix: &str) -> String {
    TEMPLATE.replace("@PREFIX@", prefix).replace("@VERSION@", &version())
}

/// The interface's version, as the header has it; the last number is none of the interface's.
fn version() -> String {
    let quoted = HEADER.lines().find_map(|line| line.strip_prefix("#define RGUNICORN_ABI \""));
    format!("{}.0", quoted.unwrap_or_default().trim_end_matches('"'))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let said = |error| format!("cannot write {}: {error}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(said)?;
    }
    fs::write(path, text).map_err(said)?;
    println!("{}", path.display());
    Ok(())
}
