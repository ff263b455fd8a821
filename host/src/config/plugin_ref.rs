//! From what the operator writes, `-k threaded` or `app.so:app`, to a file.
//!
//! Owns the grammar of references and the directories that are searched. Does not open any file: whether it is a
//! plugin at all is judged later, from its private copy.
//!
//! What a newcomer would get wrong: symlinks are *not* resolved here. The path stays as the operator meant it, so
//! that a later reload follows a `current` link to where it points by then.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::io_text;
use crate::settings::gunicorn;

/// A plugin file, found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRef {
    /// As the operator wrote it.
    pub text: String,
    /// The file: absolute, symlinks not resolved, existing when it was looked for.
    pub file: PathBuf,
    /// For an application, the name inside the library; for a worker class, the class's name.
    pub name: String,
}

impl PluginRef {
    /// Whether the operator wrote the name of an application behind the file.
    pub fn names_application(&self) -> bool {
        split_application(&self.text).0 != self.text
    }

    /// Whether this worker class was chosen because the one that was written has no threads.
    pub fn is_for_threads(&self) -> bool {
        self.text == WITHOUT_THREADS && self.name == WITH_THREADS
    }
}

/// Where references by name are searched, and where relative paths start.
#[derive(Debug)]
pub(super) struct PluginSearch<'a> {
    /// The workers' directory, absolute.
    pub(super) directory: &'a Path,
    /// In this order; all absolute.
    pub(super) path: &'a [PathBuf],
}

/// Names of Gunicorn's worker classes that stand for ours.
const WORKER_CLASS_ALIASES: &[(&str, &str)] = &[("gthread", "threaded")];

/// As in Gunicorn, who writes the first, which is the default, and wants threads gets the second.
const WITHOUT_THREADS: &str = "sync";
const WITH_THREADS: &str = "threaded";

const DEFAULT_APPLICATION: &str = "app";

impl PluginSearch<'_> {
    /// Probe: finds the file of a worker class that is to have so many threads.
    ///
    /// # Errors
    /// One sentence that names what was searched.
    pub(super) fn worker_class(&self, text: &str, threads: u64) -> Result<PluginRef, String> {
        if text.is_empty() {
            return Err(
                "cannot find the worker class '': it is empty, perhaps for an unset variable; give sync, \
                        threaded, poll or a file with -k, or leave it out"
                    .to_owned(),
            );
        }
        let alias = WORKER_CLASS_ALIASES.iter().find(|(alias, _)| *alias == text);
        let wants_threads = text == WITHOUT_THREADS && threads > 1;
        let reference = if wants_threads { WITH_THREADS } else { alias.map_or(text, |(_, name)| name) };
        let file = self.find(reference).map_err(|why| {
            let for_threads = if wants_threads { " with threads" } else { "" };
            let advice = if is_file_reference(reference) { None } else { gunicorn::class_became(text) };
            let advice =
                advice.unwrap_or_else(|| "give a file with -k, or a directory with --plugin-path".to_owned());
            format!("cannot find the worker class '{text}'{for_threads}: {why}; {advice}")
        })?;
        let name = if is_file_reference(reference) { stem(&file) } else { reference.to_owned() };
        Ok(PluginRef { text: text.to_owned(), file, name })
    }

    /// Probe: finds the file of an application.
    ///
    /// # Errors
    /// One sentence that names what was searched.
    pub(super) fn application(&self, text: &str) -> Result<PluginRef, String> {
        let (reference, name) = split_application(text);
        if reference.is_empty() || name.is_empty() {
            return Err(format!(
                "cannot find the application '{text}': write FILE.so:NAME, or FILE.so alone"
            ));
        }
        let file = self.find(reference).map_err(|why| {
            let advice = if is_python(reference) {
                "an application is no Python module here, but a shared library: write FILE.so:NAME"
            } else {
                "give its file, or a directory with --plugin-path"
            };
            format!("cannot find the application '{text}': {why}; {advice}")
        })?;
        Ok(PluginRef { text: text.to_owned(), file, name: name.to_owned() })
    }

    fn find(&self, reference: &str) -> Result<PathBuf, String> {
        if is_file_reference(reference) {
            let file = plain(&self.directory.join(reference));
            return match file.metadata() {
                Ok(found) if found.is_file() => Ok(file),
                Ok(_) => Err(format!("{} is not a regular file", file.display())),
                Err(error) => Err(format!("{}: {}", file.display(), io_text(&error))),
            };
        }
        let library = library_name(reference);
        let found = self.path.iter().map(|directory| directory.join(&library)).find(|file| file.is_file());
        let found = found.map(|file| plain(&file));
        found.ok_or_else(|| {
            let searched: Vec<String> =
                self.path.iter().map(|directory| directory.display().to_string()).collect();
            format!("there is no {library} in {}", searched.join(", "))
        })
    }
}

/// The same path without `.`, and without each `..` behind a directory that is no symlink: behind a symlink it means the
/// parent of where that leads to, perhaps somewhere else at the next reload.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        let is_parent = component == Component::ParentDir;
        if is_parent
            && plain.file_name().is_some()
            && plain.symlink_metadata().is_ok_and(|found| found.is_dir())
        {
            plain.pop();
        } else {
            plain.push(component);
        }
    }
    plain
}

/// The application reference before the last colon, and the name after it.
pub(super) fn split_application(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        // A colon further left belongs to the path.
        Some((file, name)) if !name.contains('/') => (file, name),
        _ => (text, DEFAULT_APPLICATION),
    }
}

/// `package.module`, `app.py`: no name of ours has a dot that is not the one of its file.
fn is_python(reference: &str) -> bool {
    !is_file_reference(reference) && reference.contains('.') || reference.ends_with(".py")
}

fn is_file_reference(reference: &str) -> bool {
    reference.contains('/') || reference.ends_with(".so")
}

/// Cargo writes a package's dashes as underscores.
fn library_name(name: &str) -> String {
    format!("lib{}.so", name.replace('-', "_"))
}

fn stem(file: &Path) -> String {
    let stem = file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    stem.strip_prefix("lib").map_or(stem.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn finds_files_and_names() {
        let temp = TempDir::new("plugin_ref");
        let (near, far) = (temp.path().join("near"), temp.path().join("far"));
        std::fs::create_dir_all(&near).unwrap();
        std::fs::create_dir_all(&far).unwrap();
        for file in ["near/libthreaded.so", "far/libthreaded.so", "far/libmy_app.so", "x.so", "a:b.so"] {
            std::fs::write(temp.path().join(file), "").unwrap();
        }
        let path = [near.clone(), far.clone()];
        let search = PluginSearch { directory: temp.path(), path: &path };
        let class = |text: &str| search.worker_class(text, 1).map(|found| (found.file, found.name));
        let app = |text: &str| search.application(text).map(|found| (found.file, found.name));
        let found = |file: &Path, name: &str| Ok((file.to_owned(), name.to_owned()));
        assert_eq!(class("threaded"), found(&near.join("libthreaded.so"), "threaded"));
        assert_eq!(class("gthread"), found(&near.join("libthreaded.so"), "threaded"));
        let chosen = search.worker_class("sync", 2).unwrap();
        assert_eq!((&chosen.file, chosen.is_for_threads()), (&near.join("libthreaded.so"), true));
        assert!(!search.worker_class("threaded", 2).unwrap().is_for_threads());
        assert!(!search.worker_class("far/libthreaded.so", 2).unwrap().is_for_threads());
        assert_eq!(class("far/libthreaded.so"), found(&temp.path().join("far/libthreaded.so"), "threaded"));
        assert_eq!(app("my-app"), found(&far.join("libmy_app.so"), "app"));
        assert_eq!(app("my-app:two"), found(&far.join("libmy_app.so"), "two"));
        assert_eq!(app("x.so:app"), found(&temp.path().join("x.so"), "app"));
        assert_eq!(app("./a:b.so:z"), found(&temp.path().join("./a:b.so"), "z"));
    }

    #[test]
    fn a_path_is_shown_without_detours() {
        let temp = TempDir::new("plugin_ref_plain");
        let top = temp.path();
        for name in ["plugins", "elsewhere/releases", "."] {
            std::fs::create_dir_all(top.join(name)).unwrap();
            std::fs::write(top.join(name).join("x.so"), "").unwrap();
        }
        std::os::unix::fs::symlink("elsewhere/releases", top.join("current")).unwrap();
        let search = PluginSearch { directory: top, path: &[] };
        let found = |text: &str| search.application(text).unwrap().file;
        assert_eq!(found("./plugins/../x.so"), top.join("x.so"));
        assert_eq!(found("plugins/./../plugins/x.so"), top.join("plugins/x.so"));
        std::fs::write(top.join("elsewhere/x.so"), "").unwrap();
        assert_eq!(found("current/../x.so"), top.join("current/../x.so"), "that is elsewhere/x.so");
        assert_eq!(found("current/x.so"), top.join("current/x.so"));
    }

    #[test]
    fn says_what_was_searched() {
        let path = [PathBuf::from("/nowhere/a"), PathBuf::from("/nowhere/b")];
        let search = PluginSearch { directory: Path::new("/"), path: &path };
        assert_eq!(
            search.worker_class("mine", 1).unwrap_err(),
            "cannot find the worker class 'mine': there is no libmine.so in /nowhere/a, /nowhere/b; give a file \
             with -k, or a directory with --plugin-path"
        );
        assert_eq!(
            search.worker_class("gevent", 1).unwrap_err(),
            "cannot find the worker class 'gevent': there is no libgevent.so in /nowhere/a, /nowhere/b; Green threads are \
             Python's. 'threaded' runs what blocks, 'poll' has many connections"
        );
        let error = search.worker_class("sync", 2).unwrap_err();
        assert!(
            error.starts_with("cannot find the worker class 'sync' with threads: there is no libthreaded.so"),
            "{error}"
        );
        let cases = [
            ("no.so:app", "/no.so: No such file or directory"),
            ("/tmp/", "/tmp is not a regular file"),
            ("x.so:", "write FILE.so:NAME"),
            ("shop.wsgi:application", "no Python module here"),
            ("shop.py", "no Python module here"),
        ];
        for (text, expected) in cases {
            let got = search.application(text).unwrap_err();
            assert!(got.contains(expected), "{text}: {got}");
        }
    }
}
