//! The libraries that a plugin brings: found as the loader would find them, copied deepest first.
//!
//! Owns the search (ld.so(8), "DESCRIPTION") over DT_RPATH, LD_LIBRARY_PATH and DT_RUNPATH. Leaves to the loader
//! what lies in the system's directories and what it does not find; the loader's own sentence about a missing library
//! is better. Easily got wrong: RPATH is inherited by what a library needs, RUNPATH is not, and a library with a
//! RUNPATH ignores every RPATH.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::stable::{self, Taken};
use super::{ImageError, Neighbour, normalised, write_copy};
use crate::elf_note::ElfFacts;

/// Where the loader looks last and the system's packages live, each with its multiarch subdirectories.
const SYSTEM: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];

/// Probe: copies what the library at `path`, which has these facts, needs; in the order in which to load it.
///
/// # Errors
/// A library that the loader would take cannot be copied; the sentence names it.
///
/// Without a directory nothing is copied, and each is where it was found.
pub(super) fn copy_needed(
    facts: &ElfFacts,
    path: &Path,
    generation_dir: Option<&Path>,
    deadline: Instant,
) -> Result<Vec<Neighbour>, ImageError> {
    let environment = environment_directories(std::env::var_os("LD_LIBRARY_PATH").as_deref());
    let mut search = Search::new(generation_dir, environment, deadline);
    search.seen.insert(normalised(path));
    search.visit(facts, path, &[])?;
    Ok(search.found)
}

struct Search<'a> {
    generation_dir: Option<&'a Path>,
    environment: Vec<PathBuf>,
    deadline: Instant,
    /// Paths that are copied or being visited; libraries may need one another in a circle.
    seen: HashSet<PathBuf>,
    found: Vec<Neighbour>,
}

impl<'a> Search<'a> {
    fn new(generation_dir: Option<&'a Path>, environment: Vec<PathBuf>, deadline: Instant) -> Self {
        Self { generation_dir, environment, deadline, seen: HashSet::new(), found: Vec::new() }
    }

    /// Copies what a library needs; `inherited` are the RPATH directories of those that need it.
    fn visit(&mut self, facts: &ElfFacts, path: &Path, inherited: &[PathBuf]) -> Result<(), ImageError> {
        let origin = path.parent().unwrap_or(Path::new("/"));
        let runpath = expanded(&facts.runpath, origin);
        let mut rpath = expanded(&facts.rpath, origin);
        rpath.extend_from_slice(inherited);
        for name in &facts.needed {
            // A name with a slash is a path: the loader opens that, and would not recognise a copy by it.
            if name.contains('/') || name.is_empty() {
                continue;
            }
            let before = if facts.runpath.is_empty() { rpath.as_slice() } else { &[] };
            let directories: Vec<PathBuf> =
                before.iter().chain(&self.environment).chain(&runpath).cloned().collect();
            let Some((library, taken)) = self.find(name, &directories)? else { continue };
            let named = |error| ImageError::Neighbour { library: library.clone(), error: Box::new(error) };
            let copy = match self.generation_dir {
                Some(directory) => write_copy(&taken, &library, directory).map_err(named)?,
                None => library.clone(),
            };
            let Taken { bytes, sha256, facts } = taken;
            // The next ones may be as large.
            drop(bytes);
            self.visit(&facts, &library, &rpath)?;
            self.found.push(Neighbour { original: library, copy, sha256 });
        }
        Ok(())
    }

    /// The first library of this name that is for this machine, unless it is the system's or was seen before.
    fn find(&mut self, name: &str, directories: &[PathBuf]) -> Result<Option<(PathBuf, Taken)>, ImageError> {
        for directory in directories {
            let candidate = directory.join(name);
            if !candidate.is_file() {
                continue;
            }
            if is_system(directory) || self.seen.contains(&normalised(&candidate)) {
                return Ok(None);
            }
            match stable::take(&candidate, self.deadline) {
                Ok(taken) => {
                    self.seen.insert(normalised(&candidate));
                    return Ok(Some((candidate, taken)));
                }
                Err(error) if stable::is_for_another_machine(&error) => {}
                Err(error) => {
                    return Err(ImageError::Neighbour { library: candidate, error: Box::new(error) });
                }
            }
        }
        Ok(None)
    }
}

/// `$ORIGIN` becomes the directory of the file as it was opened. Directories with another token, and relative ones,
/// mean something only to the loader.
fn expanded(directories: &[String], origin: &Path) -> Vec<PathBuf> {
    let plain = |directory: &String| {
        let rest = ["$ORIGIN", "${ORIGIN}"].iter().find_map(|token| {
            let rest = directory.strip_prefix(token)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(rest)
        });
        let path = match rest {
            Some(rest) => origin.join(rest.trim_start_matches('/')),
            None => PathBuf::from(directory),
        };
        (path.is_absolute() && !rest.unwrap_or(directory).contains('$')).then_some(path)
    };
    directories.iter().filter_map(plain).collect()
}

/// The directories of LD_LIBRARY_PATH, relative ones from the current directory; empty ones are left to the loader.
fn environment_directories(value: Option<&OsStr>) -> Vec<PathBuf> {
    let parts = value.map(OsStr::as_bytes).unwrap_or_default().split(|byte| matches!(byte, b':' | b';'));
    let named = parts.filter(|part| !part.is_empty() && !part.contains(&b'$'));
    named.filter_map(|part| std::path::absolute(OsStr::from_bytes(part)).ok()).collect()
}

/// Whether it is the system's; a package manager replaces files there by rename, which running programs survive.
fn is_system(directory: &Path) -> bool {
    let directory = normalised(directory);
    SYSTEM.iter().any(|system| match directory.strip_prefix(system) {
        Ok(rest) => {
            let rest = rest.to_string_lossy();
            rest.is_empty()
                || (!rest.contains('/') && (rest.contains("-linux-gnu") || rest.contains("-linux-musl")))
        }
        Err(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn origin_is_the_directory_of_the_opened_file() {
        let directories =
            strings(&["$ORIGIN", "${ORIGIN}/../lib", "/opt/x", "$ORIGINAL", "$ORIGIN/$LIB", "lib"]);
        let expected = ["/srv/current", "/srv/current/../lib", "/opt/x"].map(PathBuf::from);
        assert_eq!(expanded(&directories, Path::new("/srv/current")), expected);
    }

    #[test]
    fn the_environment_is_split_as_the_loader_does() {
        let here = std::env::current_dir().unwrap();
        let found = environment_directories(Some(OsStr::new("/a:rel::/b;/c:$LIB")));
        assert_eq!(found, [PathBuf::from("/a"), here.join("rel"), PathBuf::from("/b"), PathBuf::from("/c")]);
        assert!(environment_directories(None).is_empty());
    }

    #[test]
    fn the_systems_directories() {
        for path in ["/lib", "/usr/lib64/", "/usr/lib/x86_64-linux-gnu", "/opt/../usr/lib"] {
            assert!(is_system(Path::new(path)), "{path}");
        }
        for path in ["/usr/lib/app", "/library", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu/app", "/"] {
            assert!(!is_system(Path::new(path)), "{path}");
        }
    }
}
