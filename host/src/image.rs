//! Images: private, never-modified copies of plugin files and of the libraries that they bring.
//!
//! Owns what is copied, where to, and when a file counts as whole. Does not load anything, and does not judge whether
//! a library is a plugin (`plugin` does, by the note). Easily got wrong: the worker loads the copy, never the
//! original, and the copies have the same relative layout as the originals, because `$ORIGIN` in a library's RUNPATH
//! is the directory that it was opened from.

mod closure;
mod runtime_dir;
mod stable;
#[cfg(test)]
pub(crate) mod test_library;
pub mod trust;

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::elf_note::{ElfError, ElfFacts, Note, hex};

pub use runtime_dir::{RuntimeDir, RuntimeDirError};
use stable::Taken;

/// Workers that dropped their privileges pass through, and cannot list.
const DIRECTORY_MODE: u32 = 0o711;
/// Nobody writes to a copy, its owner included.
const FILE_MODE: u32 = 0o555;

/// A plugin's private copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the configuration names it.
    pub original: PathBuf,
    /// What workers load.
    pub copy: PathBuf,
    /// Of the bytes, in hexadecimal.
    pub sha256: String,
    /// In octets.
    pub size: u64,
    /// The linker's, in hexadecimal.
    pub build_id: Option<String>,
    /// `None` when it is a shared library but no plugin.
    pub note: Option<Note>,
    /// The libraries that it brings, deepest first: opened in this order, each finds what it needs already loaded,
    /// since the loader recognises libraries by their SONAME.
    pub neighbours: Vec<Neighbour>,
}

/// The copy of a library that a plugin needs and that the system does not provide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Where the loader would have found it.
    pub original: PathBuf,
    /// What workers load.
    pub copy: PathBuf,
    /// Of the bytes, in hexadecimal.
    pub sha256: String,
}

/// Why a file cannot become an image. The sentences speak of "it"; the caller names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's sentence is its documentation")]
pub enum ImageError {
    #[error("it does not exist; build it or correct the path")]
    Missing,
    #[error("its path is a loop of symlinks; correct the symlinks")]
    SymlinkLoop,
    #[error("it is a directory; give the shared library in it")]
    Directory,
    #[error("it is {0}, not a regular file; give a shared library")]
    NotRegular(&'static str),
    #[error("it cannot be read: {0}; the user that starts rgunicorn must be able to read it")]
    Unreadable(io::Error),
    #[error("it has {size} bytes, and the limit is 1 GiB; strip it of its debug information")]
    TooLarge { size: u64 },
    #[error("it is still being written ({size} bytes so far); reload again when that is done")]
    BeingWritten { size: u64 },
    #[error("{0}")]
    Elf(#[source] ElfError),
    #[error("its copy {} cannot be written: {error}; make room, or choose another --runtime-dir", copy.display())]
    Copy { copy: PathBuf, error: io::Error },
    #[error("it changed while this generation was prepared; reload again")]
    Changed,
    #[error("the library {} that it needs cannot be used: {error}", library.display())]
    Neighbour { library: PathBuf, error: Box<ImageError> },
}

/// Probe: copies a plugin and the libraries that it brings into a generation's directory.
///
/// # Errors
/// A file is missing, no shared library for this machine, or still being written when the deadline comes; or the
/// copy cannot be written. What was copied so far stays: the caller removes the generation.
pub fn copy_plugin(file: &Path, generation_dir: &Path, deadline: Instant) -> Result<Image, ImageError> {
    take(file, Some(generation_dir), deadline).map(|(image, _)| image)
}

/// Looks at a plugin as [`copy_plugin`] does, and copies nothing: what is named as a copy is the original.
///
/// # Errors
/// As [`copy_plugin`], but for what concerns the copy.
pub fn look(file: &Path, deadline: Instant) -> Result<(Image, ElfFacts), ImageError> {
    take(file, None, deadline)
}

fn take(
    file: &Path,
    generation_dir: Option<&Path>,
    deadline: Instant,
) -> Result<(Image, ElfFacts), ImageError> {
    let taken = stable::take(file, deadline)?;
    let path = std::path::absolute(file).map_err(ImageError::Unreadable)?;
    let copy = match generation_dir {
        Some(directory) => write_copy(&taken, &path, directory)?,
        None => path.clone(),
    };
    let neighbours = closure::copy_needed(&taken.facts, &path, generation_dir, deadline)?;
    let image = Image {
        original: file.to_owned(),
        copy,
        sha256: taken.sha256,
        size: taken.bytes.len() as u64,
        build_id: taken.facts.build_id.clone(),
        note: taken.facts.note.clone(),
        neighbours,
    };
    Ok((image, taken.facts))
}

/// Removes a generation's images; a process that has them mapped keeps them. Missing is fine.
///
/// # Errors
/// As remove(3) gives them.
pub fn remove_generation(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// `<generation_dir>/<absolute path>`, without `.` and `..`: among the copies no directory is a symlink, so that the
/// loader's `$ORIGIN/../lib` leads where the names say.
fn copy_path(path: &Path, generation_dir: &Path) -> PathBuf {
    generation_dir.join(normalised(path).strip_prefix("/").unwrap_or(path))
}

/// Resolves `.` and `..` by name only.
fn normalised(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                // Above the root is the root.
                plain.pop();
            }
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => plain.push(component),
        }
    }
    plain
}

/// Writes the bytes that were hashed. The same file may come twice, as a library that two plugins bring.
fn write_copy(taken: &Taken, path: &Path, generation_dir: &Path) -> Result<PathBuf, ImageError> {
    let copy = copy_path(path, generation_dir);
    let failed = |error| ImageError::Copy { copy: copy.clone(), error };
    if let Some(directory) = copy.parent() {
        make_directories(directory, generation_dir).map_err(failed)?;
    }
    let mut created = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy) {
        Ok(created) => created,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return if hash_of(&copy).map_err(failed)? == taken.sha256 {
                Ok(copy)
            } else {
                Err(ImageError::Changed)
            };
        }
        Err(error) => return Err(failed(error)),
    };
    let written = created
        .write_all(&taken.bytes)
        .and_then(|()| created.set_permissions(Permissions::from_mode(FILE_MODE)));
    written.map_err(failed)?;
    Ok(copy)
}

/// Makes the directories between `top`, which exists, and `directory`.
fn make_directories(directory: &Path, top: &Path) -> io::Result<()> {
    let mut path = top.to_owned();
    for component in directory.strip_prefix(top).map_err(io::Error::other)?.components() {
        path.push(component);
        match make_directory(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// mkdir(2) subtracts the umask from its mode, so that the mode is set afterwards.
fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

fn hash_of(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.read_to_end(&mut bytes)?;
    Ok(hex(&Sha256::digest(&bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::test_library::{NOTE, compile, compiler_is_missing, library, make_old};
    use super::*;
    use crate::temp_dir::TempDir;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn refused(file: &Path, dir: &TempDir, deadline: Instant) -> String {
        copy_plugin(file, dir.path(), deadline).unwrap_err().to_string()
    }

    #[test]
    fn a_copy_lies_where_the_original_did_and_stays_as_it_was() {
        if compiler_is_missing("a_copy_lies_where_the_original_did_and_stays_as_it_was") {
            return;
        }
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        let file = source.join("app.so");
        library(&file, NOTE, &[]);
        make_old(&file);
        let bytes = fs::read(&file).unwrap();
        // An old file needs no second read, and so no time.
        let image = copy_plugin(&file, generation.path(), Instant::now()).unwrap();
        assert_eq!(image.original, file);
        assert_eq!(image.copy, generation.path().join(file.strip_prefix("/").unwrap()));
        assert_eq!((image.size, image.sha256.as_str()), (bytes.len() as u64, &*hex(&Sha256::digest(&bytes))));
        assert_eq!(image.note.as_ref().unwrap().get("kind"), Some("app"));
        assert!(image.neighbours.is_empty(), "{:?}", image.neighbours);
        assert_eq!((mode(&image.copy), mode(image.copy.parent().unwrap())), (0o555, 0o711));
        fs::write(&file, "overwritten").unwrap();
        assert_eq!(fs::read(&image.copy).unwrap(), bytes);
        remove_generation(generation.path()).unwrap();
        assert!(!image.copy.exists());
        remove_generation(generation.path()).unwrap();
    }

    #[test]
    fn what_a_plugin_brings_is_copied_deepest_first_and_loads_without_the_originals() {
        if compiler_is_missing("what_a_plugin_brings_is_copied_deepest_first_and_loads_without_the_originals")
        {
            return;
        }
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        let (plugins, libs) = (source.join("plugins"), source.join("libs"));
        fs::create_dir(&plugins).unwrap();
        fs::create_dir(&libs).unwrap();
        let search = format!("-L{}", libs.display());
        library(&libs.join("libdeep.so"), "int deep(void) { return 40; }", &[]);
        let middle = "int deep(void); int middle(void) { return deep() + 1; }";
        library(&libs.join("libmiddle.so"), middle, &[&search, "-ldeep", "-Wl,-rpath,$ORIGIN"]);
        let app = plugins.join("app.so");
        let code = "int middle(void); int value(void) { return middle() + 1; }";
        library(&app, code, &[&search, "-lmiddle", "-ldeep", "-Wl,-rpath,$ORIGIN/../libs"]);

        let image = copy_plugin(&app, generation.path(), soon()).unwrap();
        let names: Vec<_> = image.neighbours.iter().map(|neighbour| neighbour.copy.clone()).collect();
        let place = generation.path().join(libs.strip_prefix("/").unwrap());
        assert_eq!(names, [place.join("libdeep.so"), place.join("libmiddle.so")]);

        let program = source.join("load");
        let load = "#include <dlfcn.h>\n#include <stdio.h>\nint main(int n, char **files) { void *h = 0; \
                    for (int i = 1; i < n; i++) if (!(h = dlopen(files[i], RTLD_NOW | RTLD_LOCAL))) \
                    { puts(dlerror()); return 1; } int (*v)(void) = (int (*)(void))dlsym(h, \"value\"); return v(); }";
        compile(&program, load, &["-ldl"]);
        fs::remove_dir_all(&plugins).unwrap();
        fs::remove_dir_all(&libs).unwrap();
        let output = Command::new(&program).args(names).arg(&image.copy).output().unwrap();
        assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stdout));
        // The relative layout alone is enough, too.
        let output = Command::new(&program).arg(&image.copy).output().unwrap();
        assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn rpath_is_inherited_and_circles_end() {
        if compiler_is_missing("rpath_is_inherited_and_circles_end") {
            return;
        }
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        let search = format!("-L{}", source.path().display());
        library(&source.join("libone.so"), "int one;", &[]);
        library(&source.join("libtwo.so"), "int two;", &[&search, "-lone"]);
        library(&source.join("libone.so"), "int one;", &[&search, "-ltwo"]);
        let rpath = format!("-Wl,-rpath,{}", source.path().display());
        library(&source.join("app.so"), NOTE, &[&search, "-lone", "-Wl,--disable-new-dtags", &rpath]);
        let image = copy_plugin(&source.join("app.so"), generation.path(), soon()).unwrap();
        let names: Vec<_> = image.neighbours.iter().map(|neighbour| neighbour.original.clone()).collect();
        assert_eq!(names, [source.join("libtwo.so"), source.join("libone.so")]);
    }

    #[test]
    fn a_library_that_is_shared_by_two_plugins_is_copied_once() {
        if compiler_is_missing("a_library_that_is_shared_by_two_plugins_is_copied_once") {
            return;
        }
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        let shared = source.join("libshared.so");
        let options = [&*format!("-L{}", source.path().display()), "-lshared", "-Wl,-rpath,$ORIGIN"];
        library(&shared, "int shared;", &[]);
        library(&source.join("a.so"), NOTE, &options);
        library(&source.join("b.so"), NOTE, &options);
        let first = copy_plugin(&source.join("a.so"), generation.path(), soon()).unwrap();
        let second = copy_plugin(&source.join("b.so"), generation.path(), soon()).unwrap();
        assert_eq!(first.neighbours, second.neighbours);
        assert_eq!(first.neighbours.len(), 1);
        library(&shared, "int shared, changed;", &[]);
        let sentence = refused(&source.join("b.so"), &generation, soon());
        assert!(
            sentence.starts_with(&format!("the library {} that it needs", shared.display())),
            "{sentence}"
        );
        assert!(sentence.contains("it changed while"), "{sentence}");
    }

    #[test]
    fn a_slow_writer_is_waited_for() {
        if compiler_is_missing("a_slow_writer_is_waited_for") {
            return;
        }
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        let file = source.join("app.so");
        library(&source.join("whole.so"), NOTE, &[]);
        let bytes = fs::read(source.join("whole.so")).unwrap();
        let mut written = fs::File::create(&file).unwrap();
        let pieces = bytes.clone();
        let writer = thread::spawn(move || {
            for piece in pieces.chunks(pieces.len() / 5 + 1) {
                thread::sleep(Duration::from_millis(80));
                written.write_all(piece).unwrap();
            }
        });
        let image = copy_plugin(&file, generation.path(), soon()).unwrap();
        writer.join().unwrap();
        assert_eq!(fs::read(&image.copy).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_is_replaced_between_two_looks_is_taken_as_it_is_then() {
        if compiler_is_missing("a_file_that_is_replaced_between_two_looks_is_taken_as_it_is_then") {
            return;
        }
        // On a busy machine the replacement may come too late for the second look; then all is tried again.
        let in_time = (0..20).any(|_| is_replaced_between_two_looks());
        assert!(in_time, "never was the file replaced within {:?} after the first look", stable::BETWEEN);
    }

    /// Whether it was replaced in time; if so, it must have been taken.
    fn is_replaced_between_two_looks() -> bool {
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        library(&source.join("old.so"), "int old;", &[]);
        library(&source.join("new.so"), "int new;", &[]);
        make_old(&source.join("new.so"));
        let (file, link) = (source.join("app.so"), source.join("link"));
        symlink(source.join("old.so"), &file).unwrap();
        symlink(source.join("new.so"), &link).unwrap();
        // The compiler may have taken so long over the second one that the first is not young any more.
        let old = fs::File::options().append(true).open(source.join("old.so")).unwrap();
        old.set_modified(std::time::SystemTime::now()).unwrap();
        let looks = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        looks.add_watch(&source.join("old.so"), AddWatchFlags::IN_CLOSE_NOWRITE).unwrap();
        let replaced = file.clone();
        let replacer = thread::spawn(move || {
            // The end of the first look.
            looks.read_events().unwrap();
            fs::rename(link, replaced).unwrap();
            Instant::now()
        });
        let start = Instant::now();
        let image = copy_plugin(&file, generation.path(), soon()).unwrap();
        let took = start.elapsed();
        assert!(took >= stable::BETWEEN, "there was no second look: {took:?}");
        if replacer.join().unwrap() > start + stable::BETWEEN {
            return false;
        }
        let taken = fs::read(&image.copy).unwrap();
        assert!(taken == fs::read(source.join("new.so")).unwrap(), "the old one was taken");
        true
    }

    #[test]
    fn a_part_that_nobody_completes_is_refused() {
        if compiler_is_missing("a_part_that_nobody_completes_is_refused") {
            return;
        }
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        library(&source.join("whole.so"), NOTE, &[]);
        let bytes = fs::read(source.join("whole.so")).unwrap();
        let file = source.join("app.so");
        for (part, verdict) in [(&bytes[..bytes.len() / 2], "it is truncated ("), (&[], "it is empty;")] {
            fs::write(&file, part).unwrap();
            let sentence = refused(&file, &generation, Instant::now() + Duration::from_millis(200));
            assert!(sentence.starts_with("it is still being written"), "{sentence}");
            let start = Instant::now();
            fs::write(&file, part).unwrap();
            let sentence = refused(&file, &generation, soon());
            assert!(sentence.starts_with(verdict), "{sentence}");
            assert!(start.elapsed() > Duration::from_millis(900), "given up after {:?}", start.elapsed());
            make_old(&file);
            assert!(refused(&file, &generation, Instant::now()).starts_with(verdict));
            // A clock that was set back must not make us wait for ever.
            let hence = std::time::SystemTime::now() + Duration::from_secs(3600);
            fs::File::options().append(true).open(&file).unwrap().set_modified(hence).unwrap();
            assert!(refused(&file, &generation, soon()).starts_with(verdict));
        }
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let (source, generation) = (TempDir::new("image"), TempDir::new("image-gen"));
        let sentence = |file: &Path| refused(file, &generation, Instant::now());
        assert!(sentence(&source.join("no")).starts_with("it does not exist"));
        assert!(sentence(source.path()).starts_with("it is a directory"));
        assert!(sentence(Path::new("/dev/null")).starts_with("it is a device"));
        let fifo = source.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(sentence(&fifo).starts_with("it is a FIFO"));
        let socket = source.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(sentence(&socket).starts_with("it is a socket"));
        symlink(source.join("loop"), source.join("loop")).unwrap();
        assert!(sentence(&source.join("loop")).starts_with("its path is a loop"));
        fs::write(source.join("text"), "hello\n").unwrap();
        assert!(sentence(&source.join("text")).contains("begins with text \"hello\""));
        if !nix::unistd::geteuid().is_root() {
            fs::set_permissions(source.join("text"), Permissions::from_mode(0o000)).unwrap();
            assert!(sentence(&source.join("text")).starts_with("it cannot be read: Permission denied"));
        }
        assert_eq!(fs::read_dir(generation.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_are_normalised_by_name() {
        let copy = copy_path(Path::new("/srv/app/./../lib/x.so"), Path::new("/run/g"));
        assert_eq!(copy, Path::new("/run/g/srv/lib/x.so"));
        assert_eq!(copy_path(Path::new("/../../x.so"), Path::new("/run/g")), Path::new("/run/g/x.so"));
    }
}
