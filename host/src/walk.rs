//! A walk along a path as the kernel takes it, symlinks included: who could lead it elsewhere?
//!
//! Owns the steps. Does not judge them: see `image/trust.rs` for plugins and `logging/open.rs` for logs. What a newcomer
//! would get wrong: the file's own mode says little. Who can write a directory above it puts another file in its place,
//! and who can write the directory that holds a symlink points it elsewhere; so every step counts, not only where the
//! path ends.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::path::{Component, Path, PathBuf};

/// As many symlinks as the kernel follows (path_resolution(7)).
const MOST_SYMLINKS: usize = 40;

/// One name on the way.
#[derive(Debug)]
pub(crate) struct Step<'w> {
    /// The directory in which the name is looked up; no part of it is a symlink.
    pub(crate) directory: &'w Path,
    /// What that directory is.
    pub(crate) holder: &'w Metadata,
    /// The directory with the name.
    pub(crate) entry: &'w Path,
    /// What is there, a symlink itself; none if nothing is, which ends the walk.
    pub(crate) found: Option<&'w Metadata>,
}

/// Walks along an absolute path, and stops where `judge` does, or where nothing goes on.
///
/// # Errors
/// What `judge` says.
pub(crate) fn walk<E>(file: &Path, mut judge: impl FnMut(&Step<'_>) -> Result<(), E>) -> Result<(), E> {
    let mut directory = PathBuf::from("/");
    let mut symlinks = 0;
    // The names that are still to come, the next one last.
    let mut names = names_of(file);
    while let Some(name) = names.pop() {
        if name == ".." {
            directory.pop();
            continue;
        }
        let entry = directory.join(&name);
        let Ok(holder) = fs::metadata(&directory) else { return Ok(()) };
        let found = fs::symlink_metadata(&entry).ok();
        judge(&Step { directory: &directory, holder: &holder, entry: &entry, found: found.as_ref() })?;
        let Some(found) = found else { return Ok(()) };
        if found.is_symlink() {
            symlinks += 1;
            let Ok(target) = fs::read_link(&entry) else { return Ok(()) };
            if symlinks > MOST_SYMLINKS {
                return Ok(()); // Nobody can open it either.
            }
            if target.is_absolute() {
                directory = PathBuf::from("/");
            }
            names.extend(names_of(&target));
        } else if found.is_dir() {
            directory = entry;
        }
    }
    Ok(())
}

/// The names on a path, the first one last.
fn names_of(path: &Path) -> Vec<OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    let mut names: Vec<_> = named.collect();
    names.reverse();
    names
}
