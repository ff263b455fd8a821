//! Whether everybody on the machine could decide what a plugin file contains.
//!
//! Owns the walk along a path, symlinks included, and what is refused on it. Does not judge owners and groups: whoever
//! the operator has given a directory to is trusted with it (docs/SECURITY.md). What a newcomer would get wrong: the
//! file's own mode says little. Who can write a directory above it puts another file in its place, and who can write
//! the directory that holds a symlink points it elsewhere; so every step of the path as it was given is judged, not
//! only where it ends.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Of the mode: everybody may write; in a directory, only owners may rename and remove (`inode(7)`).
const WORLD_WRITABLE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// As many symlinks as the kernel follows (`path_resolution(7)`).
const MOST_SYMLINKS: usize = 40;

/// What is wrong with a path; the sentence goes on behind "cannot load x: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's sentence is its documentation")]
pub enum Untrusted {
    #[error(
        "everybody can write the file {}; take that right away (chmod o-w), or allow it with allow_world_writable",
        .0.display()
    )]
    File(PathBuf),
    #[error(
        "everybody can put another file in its place, because everybody can write the directory {}; take that right \
         away (chmod o-w), or allow it with allow_world_writable",
        .0.display()
    )]
    Directory(PathBuf),
    #[error(
        "{} belongs to user {owner} and lies in {}, where everybody can put files; move it, or allow it with \
         allow_world_writable",
        entry.display(), directory.display()
    )]
    Foreign { entry: PathBuf, owner: u32, directory: PathBuf },
}

/// Probe: judges a plugin's path as the operator gave it; absolute. What cannot be looked at is left to who opens it.
///
/// # Errors
/// The first step that everybody could change.
pub fn judge(file: &Path) -> Result<(), Untrusted> {
    let own = nix::unistd::geteuid().as_raw();
    let mut directory = PathBuf::from("/");
    let mut symlinks = 0;
    // The steps that are still to be taken, the next one last.
    let mut steps = steps_of(file);
    while let Some(step) = steps.pop() {
        if step == ".." {
            directory.pop();
            continue;
        }
        let entry = directory.join(&step);
        let (Ok(holder), Ok(found)) = (fs::metadata(&directory), fs::symlink_metadata(&entry)) else {
            return Ok(());
        };
        let mode = holder.permissions().mode();
        if mode & WORLD_WRITABLE != 0 {
            if mode & STICKY == 0 {
                return Err(Untrusted::Directory(directory));
            }
            // Everybody may have made it, and only its owner can change it.
            if ![0, own, holder.uid()].contains(&found.uid()) {
                return Err(Untrusted::Foreign { entry, owner: found.uid(), directory });
            }
        }
        if found.is_symlink() {
            symlinks += 1;
            let Ok(target) = fs::read_link(&entry) else { return Ok(()) };
            if symlinks > MOST_SYMLINKS {
                return Ok(()); // Nobody can open it either.
            }
            if target.is_absolute() {
                directory = PathBuf::from("/");
            }
            steps.extend(steps_of(&target));
        } else if found.is_dir() {
            directory = entry;
        } else if found.permissions().mode() & WORLD_WRITABLE != 0 {
            return Err(Untrusted::File(entry));
        }
    }
    Ok(())
}

/// The names on a path, the first one last.
fn steps_of(path: &Path) -> Vec<std::ffi::OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    let mut steps: Vec<_> = named.collect();
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::temp_dir::TempDir;

    fn allow(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn judges_each_step_of_the_path() {
        let base = TempDir::new("trust");
        let (open, shut) = (base.path().join("open"), base.path().join("shut"));
        fs::create_dir(&open).unwrap();
        fs::create_dir(&shut).unwrap();
        allow(&open, 0o755);
        let file = shut.join("app.so");
        fs::write(&file, "").unwrap();
        symlink("../shut/app.so", open.join("current.so")).unwrap();
        symlink(&shut, base.path().join("release")).unwrap();
        let by_link = open.join("current.so");
        for path in [&file, &by_link, &base.path().join("release/app.so"), &open.join("../shut/app.so")] {
            assert_eq!(judge(path), Ok(()), "{}", path.display());
        }
        // The symlink's directory counts, though the file's own is sound.
        allow(&open, 0o777);
        assert_eq!(judge(&by_link), Err(Untrusted::Directory(open.clone())));
        assert_eq!(judge(&file), Ok(()));
        // Sticky: what is ours there stays ours.
        allow(&open, 0o1777);
        assert_eq!(judge(&by_link), Ok(()));
        allow(&shut, 0o777);
        assert_eq!(judge(&by_link), Err(Untrusted::Directory(shut.clone())));
        assert_eq!(judge(&base.path().join("release/app.so")), Err(Untrusted::Directory(shut.clone())));
        allow(&shut, 0o775);
        allow(&file, 0o666);
        assert_eq!(judge(&by_link), Err(Untrusted::File(file)));
        assert_eq!(judge(&shut.join("missing.so")), Ok(()));
    }

    #[test]
    fn what_another_user_put_into_a_sticky_directory_is_not_trusted() {
        if !nix::unistd::geteuid().is_root() {
            return; // Only root can give a file away.
        }
        let base = TempDir::new("trust-owner");
        allow(base.path(), 0o1777);
        let file = base.path().join("app.so");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        assert!(matches!(judge(&file), Err(Untrusted::Foreign { owner: 65534, .. })));
    }
}
