//! Whether everybody on the machine could decide what a plugin file contains.
//!
//! Owns what is refused on the way to it. Does not own the way (`walk.rs`), and does not judge owners and groups: whoever
//! the operator has given a directory to is trusted with it (docs/SECURITY.md). What a newcomer would get wrong: the file
//! may be sound, and still be anybody's to replace.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::walk::{Step, walk};

/// Of the mode: everybody may write; in a directory, only owners may rename and remove (`inode(7)`).
const WORLD_WRITABLE: u32 = 0o002;
const STICKY: u32 = 0o1000;

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
    walk(file, |Step { directory, holder, entry, found }| {
        let Some(found) = found else { return Ok(()) };
        let mode = holder.permissions().mode();
        if mode & WORLD_WRITABLE != 0 {
            if mode & STICKY == 0 {
                return Err(Untrusted::Directory(directory.to_path_buf()));
            }
            // Everybody may have made it, and only its owner can change it.
            if ![0, own, holder.uid()].contains(&found.uid()) {
                let (entry, directory) = (entry.to_path_buf(), directory.to_path_buf());
                return Err(Untrusted::Foreign { entry, owner: found.uid(), directory });
            }
        }
        if !found.is_symlink() && !found.is_dir() && found.permissions().mode() & WORLD_WRITABLE != 0 {
            return Err(Untrusted::File(entry.to_path_buf()));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
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
